//! User namespaces with given ids, and whether a file system can map ids by them.
//!
//! A user namespace is made by a process in it and filled by one outside. Here the
//! one inside is a process that does nothing and is killed at once: what stays is a
//! descriptor. It is used for id-mapped mounts and entered by containers.

use std::ffi::{CString, c_void};
use std::fs::{self, File};
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crate::arch::{self, CloneArgs};
use crate::pidfd::Pidfd;
use crate::spawn::BlockedSignals;
use crate::{Error, tree};

/// Consecutive ids.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Extent {
    /// The first, as the namespace calls it.
    pub inside: u32,
    /// The first, as the host calls it.
    pub outside: u32,
    /// How many.
    pub count: u32,
}

impl Extent {
    /// Whether the namespace calls one of these ids `id`.
    #[must_use]
    pub fn holds(&self, id: u32) -> bool {
        id.checked_sub(self.inside).is_some_and(|distance| distance < self.count)
    }
}

/// The users of the user namespace of a process, as the caller's namespace sees them.
///
/// # Errors
/// The process is gone.
pub fn users_of(pid: u32) -> io::Result<Vec<Extent>> {
    fs::read_to_string(format!("/proc/{pid}/uid_map")).map(|text| parse(&text))
}

/// As [`users_of`], the groups.
///
/// # Errors
/// The process is gone.
pub fn groups_of(pid: u32) -> io::Result<Vec<Extent>> {
    fs::read_to_string(format!("/proc/{pid}/gid_map")).map(|text| parse(&text))
}

fn parse(text: &str) -> Vec<Extent> {
    let line = |line: &str| {
        let mut numbers = line.split_whitespace().map(str::parse);
        let mut next = || numbers.next()?.ok();
        Some(Extent { inside: next()?, outside: next()?, count: next()? })
    };
    text.lines().filter_map(line).collect()
}

fn print(map: &[Extent]) -> String {
    map.iter().map(|e| format!("{} {} {}\n", e.inside, e.outside, e.count)).collect()
}

const STACK: usize = 8192;

#[repr(C, align(16))]
struct Stack([MaybeUninit<u8>; STACK]);

/// The process inside; killed and reaped when dropped, before its stack goes.
struct Idle {
    pid: u32,
    process: Pidfd,
    _stack: Box<MaybeUninit<Stack>>,
}

impl Idle {
    fn start() -> io::Result<Idle> {
        let mut stack = Box::<Stack>::new_uninit();
        let mut pidfd: RawFd = -1;
        let args = CloneArgs {
            flags: (libc::CLONE_NEWUSER | libc::CLONE_VM | libc::CLONE_PIDFD) as u64,
            pidfd: &raw mut pidfd as u64,
            exit_signal: libc::SIGCHLD as u64,
            stack: stack.as_mut_ptr() as u64,
            stack_size: STACK as u64,
            ..CloneArgs::default()
        };
        let parent = std::process::id() as usize;
        let blocked = BlockedSignals::new();
        // SAFETY: the stack lives until the process is reaped (`drop`). The process
        // shares our memory but only makes system calls, with integers; signals are
        // blocked, so that no handler of ours runs in it.
        let pid = unsafe { arch::clone3(&args, idle, parent as *mut c_void) };
        drop(blocked);
        if pid < 0 {
            return Err(io::Error::from_raw_os_error(-pid as i32));
        }
        // SAFETY: the kernel stored a fresh descriptor there.
        let process = Pidfd::from(unsafe { OwnedFd::from_raw_fd(pidfd) });
        Ok(Idle { pid: pid as u32, process, _stack: stack })
    }
}

impl Drop for Idle {
    fn drop(&mut self) {
        let _ = self.process.signal(libc::SIGKILL);
        let _ = self.process.wait();
    }
}

/// Waits to be killed, by us or because we are gone.
///
/// # Safety
/// Makes system calls only; never returns.
unsafe extern "C" fn idle(parent: *mut c_void) -> ! {
    // SAFETY: integers only.
    unsafe {
        let call = |number: libc::c_long, a, b| arch::syscall(number as usize, [a, b, 0, 0, 0, 0]);
        call(libc::SYS_prctl, libc::PR_SET_PDEATHSIG as usize, libc::SIGKILL as usize);
        // A parent that ended before that call sends nothing.
        while call(libc::SYS_getppid, 0, 0) as usize == parent as usize {
            arch::syscall(libc::SYS_ppoll as usize, [0, 0, 0, 0, 0, 0]);
        }
        loop {
            call(libc::SYS_exit_group, 0, 0);
        }
    }
}

/// Makes a user namespace with these users and groups. It lives as long as the
/// descriptor, what is mapped by it, and processes in it.
///
/// # Errors
/// The kernel has none, or allows no more; a map is none.
pub fn user_namespace(users: &[Extent], groups: &[Extent]) -> Result<OwnedFd, Error> {
    let idle = Idle::start().map_err(|e| Error::new("make", "a user namespace", e))?;
    for (name, map) in [("uid_map", users), ("gid_map", groups)] {
        let path = format!("/proc/{}/{name}", idle.pid);
        fs::write(&path, print(map)).map_err(|e| Error::new("write", &path, e))?;
    }
    let path = format!("/proc/{}/ns/user", idle.pid);
    File::open(&path).map(OwnedFd::from).map_err(|e| Error::new("open", &path, e))
}

/// Finds out whether mounts of the file system at `path` can map ids by `namespace`.
///
/// # Errors
/// They cannot, or mounts cannot be made.
pub fn can_map(path: &Path, namespace: &OwnedFd) -> Result<(), Error> {
    mapped(path, namespace).map(drop)
}

/// Opens the file behind `file` again, such that its owners are mapped by `namespace`:
/// so can those in the namespace, by name (`/dev/stdout`). `None` if it is no
/// file with a name, or its name means another one by now.
///
/// # Errors
/// Its file system cannot map ids, or it may not be opened.
pub fn reopen(file: &OwnedFd, namespace: &OwnedFd) -> Result<Option<OwnedFd>, Error> {
    let known = fs::File::from(file.try_clone().map_err(|e| Error::new("copy", "a file", e))?);
    let failed = |verb, path: &Path| {
        let object = path.display().to_string();
        move |e| Error::new(verb, object, e)
    };
    let path = PathBuf::from(format!("/proc/self/fd/{}", file.as_raw_fd()));
    let path = fs::read_link(&path).map_err(failed("read", &path))?;
    let data = known.metadata().map_err(failed("look at", &path))?;
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else { return Ok(None) };
    if !data.is_file() || !parent.is_dir() {
        return Ok(None);
    }
    let name = CString::new(name.as_bytes()).expect("names of files have no NUL");
    let tree = mapped(parent, namespace)?;
    // SAFETY: an open descriptor and integers.
    let flags = unsafe { libc::fcntl(file.as_raw_fd(), libc::F_GETFL) };
    let flags = flags & (libc::O_ACCMODE | libc::O_APPEND) | libc::O_CLOEXEC | libc::O_NOFOLLOW;
    // SAFETY: a C string that outlives the call.
    let again = unsafe { libc::openat(tree.as_raw_fd(), name.as_ptr(), flags) };
    if again < 0 {
        return match io::Error::last_os_error() {
            gone if gone.kind() == io::ErrorKind::NotFound => Ok(None),
            error => Err(failed("open again", &path)(error)),
        };
    }
    // SAFETY: a fresh descriptor that nobody else owns.
    let again = File::from(unsafe { OwnedFd::from_raw_fd(again) });
    let found = again.metadata().map_err(failed("look at", &path))?;
    let same = (found.dev(), found.ino()) == (data.dev(), data.ino());
    Ok(same.then(|| again.into()))
}

/// A copy of the mount at `path`, attached nowhere, its ids mapped by `namespace`.
fn mapped(path: &Path, namespace: &OwnedFd) -> Result<OwnedFd, Error> {
    let failed = |verb| move |e| Error::new(verb, path.display().to_string(), e);
    let tree = tree::copy(path).map_err(failed("clone the mount at"))?;
    tree::map_ids(&tree, namespace).map_err(failed("map the ids of"))?;
    Ok(tree)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn maps_are_read_as_they_are_printed() {
        let map = [
            Extent { inside: 0, outside: 100_000, count: 65535 },
            Extent { inside: 70_000, outside: 165_535, count: 1 },
        ];
        assert_eq!(parse(&print(&map)), map);
        assert_eq!(parse("         0          0 4294967295\n").len(), 1);
        assert_eq!(parse("x y z\n1 2\n"), []);
        let holds: Vec<bool> =
            [69_999, 70_000, 70_001].iter().map(|id| map[1].holds(*id)).collect();
        assert_eq!(holds, [false, true, false]);
    }

    #[test]
    fn a_namespace_outlives_its_maker() {
        // SAFETY: no arguments.
        if unsafe { libc::geteuid() } != 0 {
            eprintln!("SKIPPED: needs root");
            return;
        }
        let map = [Extent { inside: 0, outside: 100_000, count: 65536 }];
        let namespace = user_namespace(&map, &map).expect("a namespace");
        let own = fs::read_link("/proc/self/ns/user").expect("a link");
        let link = fs::read_link(format!("/proc/self/fd/{}", namespace.as_raw_fd()));
        let link = link.expect("a link");
        assert!(link.to_string_lossy().starts_with("user:") && link != own, "{link:?}");
        let twice = [map[0], map[0]];
        let bad = user_namespace(&twice, &map).expect_err("ids with two meanings");
        assert!(bad.object.ends_with("uid_map"), "{bad}");
        // Whatever this machine's /proc is, it has no owners to map.
        can_map(Path::new("/proc"), &namespace).expect_err("procfs cannot");
    }
}
