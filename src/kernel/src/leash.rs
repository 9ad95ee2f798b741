//! A process that does not outlive whoever holds the other end of a pipe, and is
//! held within limits. For helpers that work for a daemon which may be killed.
//!
//! The kernel does it (`F_SETSIG`): no thread has to watch, and no system call of
//! the helper can be so slow that the end of the daemon goes unseen.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use nix::sys::resource::{Resource, getrlimit, setrlimit};

use crate::Error;

/// `F_SETSIG` of `fcntl(2)`, not in every `libc`.
const F_SETSIG: libc::c_int = 10;

/// Makes this process the leader of a process group of its own, and lets the kernel
/// kill the group when the last writer of the pipe behind `pipe` is gone, at once if it
/// is gone already. Everything that is to be read must have been read: more bytes
/// kill, too.
///
/// # Errors
/// If the kernel refuses.
pub fn die_with_writer(pipe: BorrowedFd<'_>) -> Result<(), Error> {
    let failed = |verb: &'static str| Error::last(verb, "the pipe to the daemon");
    let fd = pipe.as_raw_fd();
    // A session leader, which has no other group, leads its group already.
    // SAFETY: integers only.
    if unsafe { libc::setpgid(0, 0) } != 0 && unsafe { libc::getpgrp() } != own_pid() {
        return Err(Error::last("lead", "a process group"));
    }
    // SAFETY: plain fcntl on an open descriptor.
    let armed = unsafe {
        libc::fcntl(fd, F_SETSIG, libc::SIGKILL) == 0
            && libc::fcntl(fd, libc::F_SETOWN, -own_pid()) == 0
    };
    if !armed {
        return Err(failed("watch"));
    }
    // SAFETY: as above.
    let flags = unsafe { libc::fcntl(fd, libc::F_GETFL) };
    // SAFETY: as above.
    if flags < 0 || unsafe { libc::fcntl(fd, libc::F_SETFL, flags | libc::O_ASYNC) } != 0 {
        return Err(failed("watch"));
    }
    if hung_up(fd).map_err(|e| Error::new("look at", "the pipe to the daemon", e))? {
        // SAFETY: integers; the group is our own.
        unsafe { libc::kill(-own_pid(), libc::SIGKILL) };
    }
    Ok(())
}

fn own_pid() -> libc::pid_t {
    // SAFETY: no arguments.
    unsafe { libc::getpid() }
}

fn hung_up(fd: libc::c_int) -> io::Result<bool> {
    let mut poll = libc::pollfd { fd, events: 0, revents: 0 };
    // SAFETY: one pollfd that lives through the call.
    if unsafe { libc::poll(&mut poll, 1, 0) } < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(poll.revents & (libc::POLLHUP | libc::POLLERR) != 0)
}

/// A copy of a descriptor that was inherited under a known number, for this process
/// alone.
///
/// # Errors
/// There is none of that number.
pub fn inherited(fd: i32) -> io::Result<OwnedFd> {
    // SAFETY: plain fcntl; a wrong number is EBADF.
    let copy = unsafe { libc::fcntl(fd, libc::F_DUPFD_CLOEXEC, 3) };
    if copy < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: a fresh descriptor that nobody else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(copy) })
}

/// Keeps these descriptors from programs that this process executes; those that are
/// not open are fine.
///
/// # Errors
/// If the kernel refuses.
pub fn close_on_exec(fds: &[i32]) -> Result<(), Error> {
    for fd in fds {
        // SAFETY: plain fcntl; a number that is not open is EBADF.
        let marked = unsafe { libc::fcntl(*fd, libc::F_SETFD, libc::FD_CLOEXEC) } == 0;
        if !marked && io::Error::last_os_error().raw_os_error() != Some(libc::EBADF) {
            return Err(Error::last("mark", "a descriptor of the daemon"));
        }
    }
    Ok(())
}

/// Largest file that this process and its children may write, in bytes; a longer one
/// is `EFBIG` where `SIGXFSZ` is blocked.
///
/// # Errors
/// If the kernel refuses.
pub fn limit_file_size(bytes: u64) -> Result<(), Error> {
    limit(Resource::RLIMIT_FSIZE, bytes, "limit the size of files to")
}

/// Largest address space of this process in bytes: beyond, allocations fail.
///
/// # Errors
/// If the kernel refuses.
pub fn limit_memory(bytes: u64) -> Result<(), Error> {
    limit(Resource::RLIMIT_AS, bytes, "limit memory to")
}

fn limit(resource: Resource, bytes: u64, verb: &'static str) -> Result<(), Error> {
    let failed = |e: nix::Error| Error::new(verb, format!("{bytes} bytes"), e.into());
    let (soft, hard) = getrlimit(resource).map_err(failed)?;
    setrlimit(resource, soft.min(bytes), hard).map_err(failed)
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;
    use std::os::unix::process::{CommandExt, ExitStatusExt};
    use std::process::{Command, Stdio};

    use super::*;

    /// A child on a leash, with a child of its own in its group.
    fn child(reader: io::PipeReader) -> std::process::Child {
        let mut command = Command::new("sh");
        command.args(["-c", "sleep 1000 & echo $!; wait"]).stdout(Stdio::piped());
        let arm = move || {
            die_with_writer(reader.as_fd()).map_err(|error| error.source)?;
            // The description stays armed as long as somebody holds it.
            // SAFETY: plain fcntl.
            unsafe { libc::fcntl(reader.as_raw_fd(), libc::F_SETFD, 0) };
            Ok(())
        };
        // SAFETY: integers and system calls only, unless something fails.
        unsafe { command.pre_exec(arm) };
        command.spawn().expect("spawn")
    }

    #[test]
    fn the_group_dies_with_the_last_writer() {
        let (reader, writer) = io::pipe().expect("pipe");
        let mut leashed = child(reader);
        let mut line = String::new();
        let mut output = io::BufReader::new(leashed.stdout.take().expect("piped"));
        io::BufRead::read_line(&mut output, &mut line).expect("a pid");
        assert!(leashed.try_wait().expect("wait").is_none());
        drop(writer);
        assert_eq!(leashed.wait().expect("wait").signal(), Some(libc::SIGKILL));
        // The grandchild held the other end of the output.
        assert_eq!(io::Read::read(&mut output, &mut [0]).expect("read"), 0);
    }

    #[test]
    fn who_comes_too_late_dies_at_once() {
        let (reader, writer) = io::pipe().expect("pipe");
        drop(writer);
        let mut command = Command::new("true");
        let arm = move || die_with_writer(reader.as_fd()).map_err(|error| error.source);
        // SAFETY: as above.
        unsafe { command.pre_exec(arm) };
        // It dies before it executes, which spawn may see as its success.
        if let Ok(mut child) = command.spawn() {
            assert_eq!(child.wait().expect("wait").signal(), Some(libc::SIGKILL));
        }
    }
}
