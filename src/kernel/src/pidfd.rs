//! Processes by descriptor: no pid can be reused under our feet.

use std::io;
use std::mem::{self, MaybeUninit};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

/// A process, also after its end; readable (`poll`) once it has ended.
#[derive(Debug)]
pub struct Pidfd(OwnedFd);

/// `_IOWR(0xFF, 11, struct pidfd_info)` with its first published size (6.13).
const PIDFD_GET_INFO: libc::c_ulong = 0xC040_FF0B;
const PIDFD_INFO_EXIT: u64 = 1 << 3;

/// `struct pidfd_info`, first 64 bytes.
#[repr(C)]
#[derive(Default)]
struct Info {
    mask: u64,
    cgroupid: u64,
    pid: u32,
    tgid: u32,
    ppid: u32,
    ids: [u32; 8],
    exit_code: i32,
}

impl Pidfd {
    /// Opens the process `pid` (`pidfd_open`).
    ///
    /// # Errors
    /// `ESRCH` if there is no such process.
    pub fn open(pid: u32) -> io::Result<Pidfd> {
        // SAFETY: no pointers.
        let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: a fresh descriptor that nobody else owns.
        Ok(Pidfd(unsafe { OwnedFd::from_raw_fd(fd as RawFd) }))
    }

    /// Sends `signal`; `false` if the process has been reaped.
    ///
    /// # Errors
    /// As `pidfd_send_signal`, except `ESRCH`.
    pub fn signal(&self, signal: i32) -> io::Result<bool> {
        let none: *const libc::siginfo_t = std::ptr::null();
        // SAFETY: a null siginfo means "as kill(2)".
        let result = unsafe {
            libc::syscall(libc::SYS_pidfd_send_signal, self.0.as_raw_fd(), signal, none, 0)
        };
        if result == 0 {
            return Ok(true);
        }
        match io::Error::last_os_error() {
            e if e.raw_os_error() == Some(libc::ESRCH) => Ok(false),
            e => Err(e),
        }
    }

    /// Whether the process has ended (it may still be a zombie).
    ///
    /// # Errors
    /// As `poll`.
    pub fn ended(&self) -> io::Result<bool> {
        let mut poll = libc::pollfd { fd: self.0.as_raw_fd(), events: libc::POLLIN, revents: 0 };
        // SAFETY: one pollfd that lives through the call.
        match unsafe { libc::poll(&mut poll, 1, 0) } {
            -1 => Err(io::Error::last_os_error()),
            n => Ok(n > 0),
        }
    }

    /// Reaps an own child that has ended and returns its wait status; `None` if
    /// it is not our child, was reaped already, or still runs.
    ///
    /// # Errors
    /// As `waitid`, except `ECHILD`.
    pub fn reap(&self) -> io::Result<Option<i32>> {
        self.collect(libc::WEXITED | libc::WNOHANG)
    }

    /// As [`Pidfd::reap`], and waits for the end of one that still runs. Blocks.
    ///
    /// # Errors
    /// As there.
    pub fn wait(&self) -> io::Result<Option<i32>> {
        loop {
            match self.collect(libc::WEXITED) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                other => return other,
            }
        }
    }

    fn collect(&self, options: libc::c_int) -> io::Result<Option<i32>> {
        let mut info = MaybeUninit::<libc::siginfo_t>::zeroed();
        let id = self.0.as_raw_fd() as libc::id_t;
        // SAFETY: `info` has room for the answer.
        let result = unsafe { libc::waitid(libc::P_PIDFD, id, info.as_mut_ptr(), options) };
        if result != 0 {
            return match io::Error::last_os_error() {
                e if e.raw_os_error() == Some(libc::ECHILD) => Ok(None),
                e => Err(e),
            };
        }
        // SAFETY: zeroed, and filled in by the kernel.
        let (info, pid, status) = unsafe {
            let info = info.assume_init();
            (info, info.si_pid(), info.si_status())
        };
        if pid == 0 {
            return Ok(None);
        }
        Ok(Some(match info.si_code {
            libc::CLD_EXITED => status << 8,
            libc::CLD_DUMPED => status | 0x80,
            _ => status,
        }))
    }

    /// A copy of the process' descriptor `fd`: the same open file (`pidfd_getfd`).
    ///
    /// # Errors
    /// `ESRCH` if it has ended, `EBADF` if it has none with that number, `EPERM` for
    /// who may not trace it.
    pub fn descriptor(&self, fd: RawFd) -> io::Result<OwnedFd> {
        // SAFETY: no pointers.
        let copy = unsafe { libc::syscall(libc::SYS_pidfd_getfd, self.0.as_raw_fd(), fd, 0) };
        if copy < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: a fresh descriptor that nobody else owns.
        Ok(unsafe { OwnedFd::from_raw_fd(copy as RawFd) })
    }

    /// The wait status of an ended process, even if it is not our child and was
    /// reaped long ago (Linux 6.15). `None` if the kernel does not know or say.
    #[must_use]
    pub fn exit_status(&self) -> Option<i32> {
        let mut info = Info { mask: PIDFD_INFO_EXIT, ..Info::default() };
        const { assert!(mem::size_of::<Info>() == 64) };
        // SAFETY: the kernel writes at most the 64 bytes that the number encodes.
        let result = unsafe { libc::ioctl(self.0.as_raw_fd(), PIDFD_GET_INFO, &mut info) };
        (result == 0 && info.mask & PIDFD_INFO_EXIT != 0).then_some(info.exit_code)
    }
}

impl From<OwnedFd> for Pidfd {
    fn from(fd: OwnedFd) -> Pidfd {
        Pidfd(fd)
    }
}

impl AsFd for Pidfd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl AsRawFd for Pidfd {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::process::Command;

    #[test]
    #[expect(clippy::zombie_processes, reason = "reaped through the pidfd, which is the point")]
    fn signals_reaps_and_tells_the_status() {
        let child = Command::new("sleep").arg("1000").spawn().expect("spawn");
        let pidfd = Pidfd::open(child.id()).expect("open");
        assert!(!pidfd.ended().expect("poll"));
        assert_eq!(pidfd.reap().expect("running"), None);
        assert!(pidfd.signal(libc::SIGKILL).expect("signal"));
        while !pidfd.ended().expect("poll") {
            std::thread::yield_now();
        }
        assert_eq!(pidfd.reap().expect("reap"), Some(libc::SIGKILL));
        assert_eq!(pidfd.reap().expect("second"), None);
        assert!(!pidfd.signal(libc::SIGKILL).expect("gone"));
        // The second source exists from 6.15 on; where it does it must agree.
        assert!(matches!(pidfd.exit_status(), None | Some(libc::SIGKILL)));
    }

    #[test]
    fn descriptors_are_copied() {
        let own = Pidfd::open(std::process::id()).expect("open");
        let (mut reader, writer) = io::pipe().expect("a pipe");
        let copy = own.descriptor(writer.as_raw_fd()).expect("a copy");
        drop(writer);
        std::fs::File::from(copy).write_all(b"x").expect("write");
        let mut read = String::new();
        reader.read_to_string(&mut read).expect("the end");
        assert_eq!(read, "x");
        assert_eq!(own.descriptor(-1).expect_err("none").raw_os_error(), Some(libc::EBADF));
    }

    #[test]
    fn nobody_has_pid_zero() {
        assert!(Pidfd::open(0).is_err());
    }
}
