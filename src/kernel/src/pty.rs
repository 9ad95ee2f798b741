//! Pseudo terminals: the two ends, and the size of the window.

use std::io;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd, RawFd};

use crate::Error;

/// A pseudo terminal of the caller's `/dev/pts`.
#[derive(Debug)]
pub struct Pty {
    /// What is written here is typed; what is read here was printed. Does not block.
    /// When it is closed the terminal's session hears `SIGHUP`.
    pub master: OwnedFd,
    /// The terminal itself, for standard streams.
    pub slave: OwnedFd,
}

/// Rows and columns of characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct Size {
    pub rows: u16,
    pub columns: u16,
}

/// Makes a pseudo terminal that no process has as its own yet.
///
/// # Errors
/// There is no `/dev/ptmx`, or there are too many.
pub fn open() -> Result<Pty, Error> {
    const PATH: &str = "/dev/ptmx";
    let flags = libc::O_RDWR | libc::O_NOCTTY | libc::O_CLOEXEC;
    // SAFETY: a C string.
    let master = unsafe { libc::open(c"/dev/ptmx".as_ptr(), flags | libc::O_NONBLOCK) };
    let master = owned(master).map_err(|e| Error::new("open", PATH, e))?;
    let unlocked: libc::c_int = 0;
    // SAFETY: an open descriptor and a pointer to an int that is only read.
    let answer = unsafe { libc::ioctl(master.as_raw_fd(), libc::TIOCSPTLCK, &raw const unlocked) };
    if answer == -1 {
        return Err(Error::last("unlock", PATH));
    }
    // By descriptor: whatever /dev/pts is here, this is the right one.
    // SAFETY: an open descriptor and an integer.
    let slave = unsafe { libc::ioctl(master.as_raw_fd(), libc::TIOCGPTPEER, flags) };
    let slave = owned(slave).map_err(|e| Error::new("open the other end of", PATH, e))?;
    Ok(Pty { master, slave })
}

fn owned(fd: RawFd) -> io::Result<OwnedFd> {
    match fd {
        -1 => Err(io::Error::last_os_error()),
        // SAFETY: a fresh descriptor that nobody else owns.
        fd => Ok(unsafe { OwnedFd::from_raw_fd(fd) }),
    }
}

/// Sets the size of the window at either end; the session hears `SIGWINCH`.
///
/// # Errors
/// It is no terminal.
pub fn resize(end: impl AsFd, size: Size) -> io::Result<()> {
    let size =
        libc::winsize { ws_row: size.rows, ws_col: size.columns, ws_xpixel: 0, ws_ypixel: 0 };
    // SAFETY: an open descriptor and a struct that is only read.
    match unsafe { libc::ioctl(end.as_fd().as_raw_fd(), libc::TIOCSWINSZ, &raw const size) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;
    use std::io::{Read, Write};

    #[test]
    fn what_is_printed_at_one_end_is_read_at_the_other() {
        let pty = open().expect("a terminal");
        resize(&pty.slave, Size { rows: 7, columns: 70 }).expect("a size");
        let mut seen = libc::winsize { ws_row: 0, ws_col: 0, ws_xpixel: 0, ws_ypixel: 0 };
        // SAFETY: an open descriptor and a struct to write to.
        let answer =
            unsafe { libc::ioctl(pty.master.as_raw_fd(), libc::TIOCGWINSZ, &raw mut seen) };
        assert_eq!((answer, seen.ws_row, seen.ws_col), (0, 7, 70));
        let (mut master, mut slave) = (File::from(pty.master), File::from(pty.slave));
        slave.write_all(b"hello\n").expect("printed");
        let mut text = [0; 16];
        let length = master.read(&mut text).expect("there");
        assert_eq!(&text[..length], b"hello\r\n");
        drop(slave);
        assert_eq!(master.read(&mut text).expect_err("over").raw_os_error(), Some(libc::EIO));
        let (null, size) = (File::open("/dev/null").expect("null"), Size { rows: 1, columns: 1 });
        resize(null, size).expect_err("no terminal");
    }
}
