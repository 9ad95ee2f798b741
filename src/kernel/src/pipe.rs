//! Named pipes, and moving what is in a pipe without holding it in between.
//!
//! A named pipe outlives whoever reads it: as long as one process has it open, the
//! bytes in it stay. What is spliced goes from the pipe into the file inside one
//! system call, so that `SIGKILL` finds every byte in one of the two.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::{OFlag, open};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::stat::Mode;
use nix::unistd::{Gid, Uid};

/// Makes the pipe `path`, readable and writable for its owner only. One that is
/// there already is taken over.
///
/// # Errors
/// The system's.
pub fn make(path: &Path, owner: Option<(u32, u32)>) -> io::Result<()> {
    match nix::unistd::mkfifo(path, Mode::from_bits_truncate(0o600)) {
        Ok(()) | Err(Errno::EEXIST) => {}
        Err(error) => return Err(error.into()),
    }
    if let Some((uid, gid)) = owner {
        nix::unistd::chown(path, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)))?;
    }
    Ok(())
}

/// The end for who writes. It is open for reading too: with no other reader left a
/// write waits for room instead of ending the writer with `SIGPIPE`.
///
/// # Errors
/// The system's.
pub fn writer(path: &Path) -> io::Result<OwnedFd> {
    Ok(open(path, OFlag::O_RDWR | OFlag::O_CLOEXEC, Mode::empty())?)
}

/// The end for who reads; never waits.
///
/// # Errors
/// The system's.
pub fn reader(path: &Path) -> io::Result<OwnedFd> {
    let never_waits = OFlag::O_NONBLOCK | OFlag::O_CLOEXEC;
    let reader = open(path, OFlag::O_RDONLY | never_waits, Mode::empty())?;
    // The kernel reports the end of writers only to a reader that has seen one.
    drop(open(path, OFlag::O_WRONLY | never_waits, Mode::empty())?);
    Ok(reader)
}

/// Bytes in the pipe (`FIONREAD`).
///
/// # Errors
/// The system's.
pub fn waiting(pipe: BorrowedFd<'_>) -> io::Result<u64> {
    let mut count: libc::c_int = 0;
    // SAFETY: the kernel writes one int.
    match unsafe { libc::ioctl(pipe.as_raw_fd(), libc::FIONREAD, &raw mut count) } {
        0 => Ok(u64::try_from(count).unwrap_or(0)),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Whether nobody has the pipe open for writing any more; it may still hold bytes.
///
/// # Errors
/// The system's.
pub fn closed(pipe: BorrowedFd<'_>) -> io::Result<bool> {
    let mut fds = [PollFd::new(pipe, PollFlags::POLLIN)];
    poll(&mut fds, PollTimeout::ZERO)?;
    Ok(fds[0].revents().is_some_and(|events| events.contains(PollFlags::POLLHUP)))
}

/// Moves at most `length` bytes from a pipe into a file, there to `offset`, or to
/// the file's own position; returns how many, 0 if the pipe is closed and empty.
///
/// # Errors
/// The system's; `WouldBlock` if the pipe is empty.
pub fn splice(
    pipe: BorrowedFd<'_>,
    file: BorrowedFd<'_>,
    offset: Option<u64>,
    length: u64,
) -> io::Result<u64> {
    let mut at = offset.map(|offset| libc::loff_t::try_from(offset).unwrap_or(libc::loff_t::MAX));
    let at = at.as_mut().map_or(std::ptr::null_mut(), std::ptr::from_mut);
    let length = usize::try_from(length).unwrap_or(usize::MAX);
    // SAFETY: `at` is null or points to an offset that lives through the call.
    let moved = unsafe {
        libc::splice(
            pipe.as_raw_fd(),
            std::ptr::null_mut(),
            file.as_raw_fd(),
            at,
            length,
            libc::SPLICE_F_NONBLOCK,
        )
    };
    u64::try_from(moved).map_err(|_| io::Error::last_os_error())
}

/// Looks into pipes without taking anything out.
#[derive(Debug)]
pub struct Peek {
    into: OwnedFd,
    out: File,
}

impl Peek {
    /// Makes the pipe that copies go through.
    ///
    /// # Errors
    /// The system's.
    pub fn new() -> io::Result<Peek> {
        let mut fds = [0; 2];
        // SAFETY: the kernel writes two descriptors.
        if unsafe { libc::pipe2(fds.as_mut_ptr(), libc::O_CLOEXEC | libc::O_NONBLOCK) } != 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: fresh descriptors that nobody else owns.
        let (out, into) = unsafe { (OwnedFd::from_raw_fd(fds[0]), OwnedFd::from_raw_fd(fds[1])) };
        Ok(Peek { into, out: out.into() })
    }

    /// A copy of at most `length` of the first bytes in the pipe.
    ///
    /// # Errors
    /// The system's; `WouldBlock` if the pipe is empty.
    pub fn look(&self, pipe: BorrowedFd<'_>, length: usize) -> io::Result<Vec<u8>> {
        let (from, into) = (pipe.as_raw_fd(), self.into.as_fd().as_raw_fd());
        // SAFETY: no pointers.
        let copied = unsafe { libc::tee(from, into, length, libc::SPLICE_F_NONBLOCK) };
        let copied = usize::try_from(copied).map_err(|_| io::Error::last_os_error())?;
        let mut bytes = vec![0; copied];
        (&self.out).read_exact(&mut bytes)?;
        Ok(bytes)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::path::PathBuf;

    use super::*;

    struct Pipe(PathBuf);

    impl Pipe {
        fn new(name: &str) -> Pipe {
            let path = std::env::temp_dir().join(format!("pipe-{name}-{}", std::process::id()));
            let _ = std::fs::remove_file(&path);
            make(&path, None).expect("mkfifo");
            make(&path, None).expect("the same again");
            Pipe(path)
        }
    }

    impl Drop for Pipe {
        fn drop(&mut self) {
            let _ = std::fs::remove_file(&self.0);
        }
    }

    #[test]
    fn bytes_outlive_writer_and_first_reader() {
        let pipe = Pipe::new("outlive");
        let kept = reader(&pipe.0).expect("reader");
        let mut task = File::from(writer(&pipe.0).expect("writer"));
        task.write_all(b"one\ntwo\n").expect("write");
        assert!(!closed(kept.as_fd()).expect("poll"));
        drop(task);
        // A reader that comes late finds them, and knows that no more will come.
        let late = reader(&pipe.0).expect("reader");
        drop(kept);
        assert!(closed(late.as_fd()).expect("poll"));
        assert_eq!(waiting(late.as_fd()).expect("ioctl"), 8);
        let peek = Peek::new().expect("pipe");
        assert_eq!(peek.look(late.as_fd(), 4).expect("tee"), b"one\n");
        assert_eq!(peek.look(late.as_fd(), 100).expect("tee"), b"one\ntwo\n");

        let target = pipe.0.with_extension("out");
        let file = File::create(&target).expect("create");
        assert_eq!(splice(late.as_fd(), file.as_fd(), Some(0), 4).expect("splice"), 4);
        assert_eq!(splice(late.as_fd(), file.as_fd(), Some(4), 4).expect("splice"), 4);
        assert_eq!(splice(late.as_fd(), file.as_fd(), Some(8), 4).expect("the end"), 0);
        assert_eq!(std::fs::read(&target).expect("read"), b"one\ntwo\n");
        std::fs::remove_file(&target).expect("remove");
    }

    #[test]
    fn an_empty_pipe_would_block_and_a_writer_needs_no_reader() {
        let pipe = Pipe::new("empty");
        let mut task = File::from(writer(&pipe.0).expect("writer"));
        task.write_all(b"x").expect("no SIGPIPE");
        let late = reader(&pipe.0).expect("reader");
        let peek = Peek::new().expect("pipe");
        assert_eq!(peek.look(late.as_fd(), 9).expect("tee"), b"x");
        let null = File::options().write(true).open("/dev/null").expect("open");
        assert_eq!(splice(late.as_fd(), null.as_fd(), None, 9).expect("splice"), 1);
        let empty = splice(late.as_fd(), null.as_fd(), None, 9).expect_err("empty");
        assert_eq!(empty.kind(), io::ErrorKind::WouldBlock);
        assert!(!closed(late.as_fd()).expect("poll"));
    }
}
