//! Terminals: their window, and raw mode for who passes keys on.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, BorrowedFd};

/// Size of a terminal in characters.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Window {
    /// Lines.
    pub rows: u16,
    /// Characters in a line.
    pub columns: u16,
}

/// The size of a terminal (`TIOCGWINSZ`).
///
/// # Errors
/// `ENOTTY` if it is none.
pub fn window(terminal: BorrowedFd<'_>) -> io::Result<Window> {
    let mut size = libc::winsize { ws_row: 0, ws_col: 0, ws_xpixel: 0, ws_ypixel: 0 };
    // SAFETY: the kernel writes one `winsize`.
    match unsafe { libc::ioctl(terminal.as_raw_fd(), libc::TIOCGWINSZ, &raw mut size) } {
        0 => Ok(Window { rows: size.ws_row, columns: size.ws_col }),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Changes the size of a terminal; its foreground processes get `SIGWINCH`
/// (`TIOCSWINSZ`).
///
/// # Errors
/// `ENOTTY` if it is none.
pub fn set_window(terminal: BorrowedFd<'_>, window: Window) -> io::Result<()> {
    let Window { rows, columns } = window;
    let size = libc::winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
    // SAFETY: the kernel reads one `winsize`.
    match unsafe { libc::ioctl(terminal.as_raw_fd(), libc::TIOCSWINSZ, &raw const size) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// How a terminal treats what goes through it.
#[derive(Clone, Copy)]
pub struct Modes(libc::termios);

impl Modes {
    /// As they are now (`tcgetattr`).
    ///
    /// # Errors
    /// `ENOTTY` if it is no terminal.
    pub fn of(terminal: BorrowedFd<'_>) -> io::Result<Modes> {
        let mut modes = MaybeUninit::uninit();
        // SAFETY: `modes` has room for the answer.
        match unsafe { libc::tcgetattr(terminal.as_raw_fd(), modes.as_mut_ptr()) } {
            // SAFETY: filled in by the call.
            0 => Ok(Modes(unsafe { modes.assume_init() })),
            _ => Err(io::Error::last_os_error()),
        }
    }

    /// The same, but every byte goes through at once and unchanged.
    #[must_use]
    pub fn raw(mut self) -> Modes {
        // SAFETY: changes flags in a value of our own.
        unsafe { libc::cfmakeraw(&raw mut self.0) };
        self
    }

    /// Makes them those of `terminal` at once: what waits to be written may wait for
    /// ever (`tcsetattr`).
    ///
    /// # Errors
    /// `ENOTTY` if it is none.
    pub fn apply(&self, terminal: BorrowedFd<'_>) -> io::Result<()> {
        // SAFETY: the call reads one `termios`.
        match unsafe { libc::tcsetattr(terminal.as_raw_fd(), libc::TCSANOW, &raw const self.0) } {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    }
}

impl std::fmt::Debug for Modes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Modes").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::os::fd::AsFd;

    use nix::pty::openpty;

    use super::*;

    #[test]
    fn windows_and_modes_of_a_terminal() {
        let pair = openpty(None, None).expect("a pair");
        let size = Window { rows: 12, columns: 345 };
        set_window(pair.master.as_fd(), size).expect("set");
        assert_eq!(window(pair.slave.as_fd()).expect("get"), size);

        let before = Modes::of(pair.slave.as_fd()).expect("get");
        assert_ne!(before.0.c_lflag & libc::ECHO, 0);
        before.raw().apply(pair.slave.as_fd()).expect("set");
        let raw = Modes::of(pair.slave.as_fd()).expect("get");
        assert_eq!(raw.0.c_lflag & (libc::ECHO | libc::ICANON | libc::ISIG), 0);
        before.apply(pair.slave.as_fd()).expect("set");
        let again = Modes::of(pair.slave.as_fd()).expect("get");
        assert_eq!(again.0.c_lflag, before.0.c_lflag);
    }

    #[test]
    fn what_is_no_terminal_has_neither() {
        let null = File::open("/dev/null").expect("open");
        assert_eq!(window(null.as_fd()).expect_err("none").raw_os_error(), Some(libc::ENOTTY));
        assert!(set_window(null.as_fd(), Window::default()).is_err());
        assert!(Modes::of(null.as_fd()).is_err());
    }
}
