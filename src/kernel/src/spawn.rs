//! Starting a program in a process of its own, in new namespaces, without
//! copying the caller's memory.
//!
//! Like posix_spawn (`CLONE_VM | CLONE_VFORK`: the cost does not grow with the
//! caller's size), plus what posix_spawn cannot: namespaces, a pidfd and an exact
//! set of descriptors. Used by the launch code for the shim and by the fetcher for its helper; not
//! for commands.

use std::ffi::{CStr, c_char, c_void};
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use crate::arch::{self, CloneArgs};
use crate::pidfd::Pidfd;

/// Lets the kernel send `signal` to the child when the thread that starts it ends:
/// for children of a command that may be killed. A child whose parent is gone
/// already does not start.
pub fn die_with_parent(command: &mut std::process::Command, signal: i32) {
    use std::os::unix::process::CommandExt;
    let parent = std::process::id();
    let arrange = move || {
        // SAFETY: integers only; both calls are async-signal-safe.
        let gone = unsafe {
            libc::prctl(libc::PR_SET_PDEATHSIG, signal) != 0 || libc::getppid() as u32 != parent
        };
        if gone { Err(io::Error::from_raw_os_error(libc::ESRCH)) } else { Ok(()) }
    };
    // SAFETY: the closure allocates nothing and takes no lock.
    unsafe { command.pre_exec(arrange) };
}

/// Most descriptors that [`spawn`] passes on.
pub const MAX_FDS: usize = 8;
const STACK: usize = 16 * 1024;

/// A started process.
#[derive(Debug)]
pub struct Child {
    /// Its pid as the caller sees it.
    pub pid: u32,
    /// Its descriptor.
    pub pidfd: Pidfd,
}

struct Request {
    image: RawFd,
    argv: *const *const c_char,
    envp: *const *const c_char,
    fds: [RawFd; MAX_FDS],
    count: usize,
    errno: i32,
}

#[repr(C, align(16))]
struct Stack([MaybeUninit<u8>; STACK]);

/// Executes the program in `image` with one argument; else as [`spawn_with`].
///
/// # Errors
/// As `clone3` and `execveat`.
///
/// # Panics
/// With more than [`MAX_FDS`] descriptors.
pub fn spawn(
    image: BorrowedFd<'_>,
    name: &CStr,
    namespaces: u64,
    fds: &[BorrowedFd<'_>],
) -> io::Result<Child> {
    spawn_with(image, &[name], namespaces, fds)
}

/// Executes the program in `image` with these arguments, an empty environment,
/// descriptors `0..fds.len()` copied from `fds` and all others closed, all
/// signals blocked, in new namespaces of the `CLONE_NEW*` kinds in `namespaces`.
/// Returns when the program has been executed.
///
/// # Errors
/// As `clone3` and `execveat`.
///
/// # Panics
/// With more than [`MAX_FDS`] descriptors.
pub fn spawn_with(
    image: BorrowedFd<'_>,
    arguments: &[&CStr],
    namespaces: u64,
    fds: &[BorrowedFd<'_>],
) -> io::Result<Child> {
    assert!(fds.len() <= MAX_FDS, "at most {MAX_FDS} descriptors");
    let mut argv: Vec<*const c_char> = arguments.iter().map(|text| text.as_ptr()).collect();
    argv.push(std::ptr::null());
    let envp = [std::ptr::null()];
    let mut request = Request {
        image: image.as_raw_fd(),
        argv: argv.as_ptr(),
        envp: envp.as_ptr(),
        fds: [-1; MAX_FDS],
        count: fds.len(),
        errno: 0,
    };
    for (slot, fd) in request.fds.iter_mut().zip(fds) {
        *slot = fd.as_raw_fd();
    }
    // Not initialised: the child touches one page of it.
    let mut stack = Box::<Stack>::new_uninit();
    let mut pidfd: RawFd = -1;
    let args = CloneArgs {
        flags: namespaces
            | libc::CLONE_VM as u64
            | libc::CLONE_VFORK as u64
            | libc::CLONE_PIDFD as u64,
        pidfd: &raw mut pidfd as u64,
        exit_signal: libc::SIGCHLD as u64,
        stack: stack.as_mut_ptr() as u64,
        stack_size: STACK as u64,
        ..CloneArgs::default()
    };
    let blocked = BlockedSignals::new();
    // SAFETY: the stack is ours until the child has executed or ended, which is
    // when clone3 returns (CLONE_VFORK). The child runs `child`, which only makes
    // system calls and writes `request.errno`. Signals are blocked, so that no
    // handler of the caller can run in the child.
    let pid = unsafe { arch::clone3(&args, child, (&raw mut request).cast()) };
    drop(blocked);
    if pid < 0 {
        return Err(io::Error::from_raw_os_error(-pid as i32));
    }
    // SAFETY: the kernel stored a fresh descriptor there.
    let pidfd = Pidfd::from(unsafe { OwnedFd::from_raw_fd(pidfd) });
    // SAFETY: written by the child while this thread was stopped.
    let errno = unsafe { (&raw const request.errno).read_volatile() };
    if errno != 0 {
        pidfd.wait()?;
        return Err(io::Error::from_raw_os_error(errno));
    }
    Ok(Child { pid: pid as u32, pidfd })
}

/// All signals blocked in this thread until dropped.
pub(crate) struct BlockedSignals(libc::sigset_t);

impl BlockedSignals {
    pub(crate) fn new() -> BlockedSignals {
        let mut all = MaybeUninit::<libc::sigset_t>::uninit();
        let mut old = MaybeUninit::<libc::sigset_t>::uninit();
        // SAFETY: both sets are filled in before they are read.
        unsafe {
            libc::sigfillset(all.as_mut_ptr());
            libc::pthread_sigmask(libc::SIG_SETMASK, all.as_ptr(), old.as_mut_ptr());
            BlockedSignals(old.assume_init())
        }
    }
}

impl Drop for BlockedSignals {
    fn drop(&mut self) {
        // SAFETY: the set came from the kernel.
        unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, &self.0, std::ptr::null_mut()) };
    }
}

/// A system call in the child.
///
/// # Safety
/// As [`arch::syscall`].
unsafe fn call(number: libc::c_long, args: [usize; 6]) -> isize {
    // SAFETY: handed on.
    unsafe { arch::syscall(number as usize, args) }
}

/// The child: shares memory with the stopped caller, so system calls only.
///
/// # Safety
/// `argument` points to a [`Request`] that outlives the child's use of it.
unsafe extern "C" fn child(argument: *mut c_void) -> ! {
    // SAFETY: see above; nobody else touches it while the caller is stopped.
    let request = unsafe { &mut *argument.cast::<Request>() };
    // SAFETY: integers, and pointers into the caller's live frame.
    unsafe {
        let errno = arrange(request);
        request.errno = errno;
        loop {
            call(libc::SYS_exit_group, [127, 0, 0, 0, 0, 0]);
        }
    }
}

/// Moves the descriptors into place and executes; returns errno.
///
/// # Safety
/// As [`child`].
unsafe fn arrange(request: &mut Request) -> i32 {
    let count = request.count;
    // SAFETY: integers, and pointers into the caller's live frame.
    unsafe {
        // First out of the way of the targets, then into place; dup3 and F_DUPFD
        // clear close-on-exec, and everything above is closed.
        let base = count + 1;
        let image = call(
            libc::SYS_fcntl,
            [request.image as usize, libc::F_DUPFD_CLOEXEC as usize, base, 0, 0, 0],
        );
        if image < 0 {
            return -image as i32;
        }
        for fd in request.fds.iter_mut().take(count) {
            if (*fd as usize) <= count {
                let moved =
                    call(libc::SYS_fcntl, [*fd as usize, libc::F_DUPFD as usize, base, 0, 0, 0]);
                if moved < 0 {
                    return -moved as i32;
                }
                *fd = moved as RawFd;
            }
        }
        for (target, fd) in request.fds.iter().take(count).enumerate() {
            let result = call(libc::SYS_dup3, [*fd as usize, target, 0, 0, 0, 0]);
            if result < 0 {
                return -result as i32;
            }
        }
        let result =
            call(libc::SYS_dup3, [image as usize, count, libc::O_CLOEXEC as usize, 0, 0, 0]);
        if result < 0 {
            return -result as i32;
        }
        // Closing rather than marking: nothing of the caller may live on.
        call(libc::SYS_close_range, [count + 1, u32::MAX as usize, 0, 0, 0, 0]);
        let empty = c"";
        let result = call(
            libc::SYS_execveat,
            [
                count,
                empty.as_ptr() as usize,
                request.argv as usize,
                request.envp as usize,
                libc::AT_EMPTY_PATH as usize,
                0,
            ],
        );
        -result as i32
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;
    use std::io::Read;
    use std::os::fd::AsFd;

    fn wait(child: &Child) -> i32 {
        child.pidfd.wait().expect("reap").expect("a child")
    }

    #[test]
    fn passes_exactly_the_given_descriptors() {
        let image = File::open("/bin/ls").expect("ls");
        let null = File::open("/dev/null").expect("null");
        let (mut read, write) = io::pipe().expect("pipe");
        // `ls` without arguments lists the working directory into the pipe.
        let child = spawn(image.as_fd(), c"ls", 0, &[null.as_fd(), write.as_fd(), null.as_fd()])
            .expect("spawn");
        drop(write);
        let mut text = String::new();
        read.read_to_string(&mut text).expect("read");
        assert!(text.contains("Cargo.toml"));
        assert_eq!(wait(&child), 0);
    }

    #[test]
    fn reports_why_the_image_does_not_run() {
        let image = File::open("/etc/passwd").expect("passwd");
        let error = spawn(image.as_fd(), c"x", 0, &[]).expect_err("not executable");
        assert_eq!(error.raw_os_error(), Some(libc::EACCES));
    }
}
