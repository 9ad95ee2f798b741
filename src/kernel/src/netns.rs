//! Network namespaces that are kept by a file: made before there is a process in them,
//! there as long as the file is.

use std::ffi::CStr;
use std::fs::{self, File};
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::path::Path;

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, setns, unshare};

use crate::{Error, failpoint, mounts};

/// Of the file system whose files are namespaces (`NSFS_MAGIC`).
const NSFS: i64 = 0x6e73_6673;

/// Makes a network namespace with its loopback up, kept by a mount on the file
/// `handle`, which is made. `settings` are files below `/proc/sys/net` and what is
/// written to them in the new namespace.
///
/// # Errors
/// If the kernel refuses; the file may be left, and nothing else.
pub fn create(handle: &Path, settings: &[(&str, &str)]) -> Result<(), Error> {
    let object = || handle.display().to_string();
    File::create(handle).map_err(|e| Error::new("create", object(), e))?;
    failpoint!("cni.namespace_half");
    apart(|| {
        unshare(CloneFlags::CLONE_NEWNET)
            .map_err(|e| Error::new("make", "a network namespace", e.into()))?;
        up(c"lo")?;
        set(settings)?;
        let own = "/proc/thread-self/ns/net";
        mount(Some(own), handle, None::<&str>, MsFlags::MS_BIND, None::<&str>)
            .map_err(|e| Error::new("keep a network namespace at", object(), e.into()))
    })
}

/// Keeps the network namespace of the process `pid` by a mount on the file `handle`, which
/// is made. `settings` as for [`create`].
///
/// # Errors
/// If the kernel refuses; the file may be left, and what it keeps.
pub fn keep(handle: &Path, pid: u32, settings: &[(&str, &str)]) -> Result<(), Error> {
    let object = || handle.display().to_string();
    File::create(handle).map_err(|e| Error::new("create", object(), e))?;
    let theirs = format!("/proc/{pid}/ns/net");
    mount(Some(theirs.as_str()), handle, None::<&str>, MsFlags::MS_BIND, None::<&str>)
        .map_err(|e| Error::new("keep a network namespace at", object(), e.into()))?;
    match settings {
        [] => Ok(()),
        _ => inside(handle, || set(settings)),
    }
}

/// Writes to files below `/proc/sys/net` of this thread's namespace.
fn set(settings: &[(&str, &str)]) -> Result<(), Error> {
    for (file, value) in settings {
        let path = Path::new("/proc/sys/net").join(file);
        fs::write(&path, value).map_err(|e| Error::new("write", path.display().to_string(), e))?;
    }
    Ok(())
}

/// Whether a namespace is kept at `handle`.
#[must_use]
pub fn is_kept(handle: &Path) -> bool {
    nix::sys::statfs::statfs(handle).is_ok_and(|found| found.filesystem_type().0 == NSFS)
}

/// Lets go of the namespace at `handle`, and removes the file. It is gone when the
/// last process in it is. One that is gone already is fine.
///
/// # Errors
/// If the kernel refuses.
pub fn release(handle: &Path) -> Result<(), Error> {
    while is_kept(handle) {
        mounts::detach(handle)?;
    }
    match fs::remove_file(handle) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(Error::new("remove", handle.display().to_string(), error))
        }
        _ => Ok(()),
    }
}

/// Does `work` in the network namespace at `handle`, on a thread of its own that is
/// never used for anything else.
///
/// # Errors
/// There is no such namespace, or it may not be entered.
pub fn inside<T: Send>(
    handle: &Path,
    work: impl FnOnce() -> Result<T, Error> + Send,
) -> Result<T, Error> {
    let object = || handle.display().to_string();
    let file = File::open(handle).map_err(|e| Error::new("open", object(), e))?;
    apart(|| {
        setns(&file, CloneFlags::CLONE_NEWNET)
            .map_err(|e| Error::new("enter the network namespace", object(), e.into()))?;
        work()
    })
}

/// Does `work` in a new network namespace, which ends with it.
///
/// # Errors
/// If the kernel refuses.
pub fn anew<T: Send>(work: impl FnOnce() -> Result<T, Error> + Send) -> Result<T, Error> {
    apart(|| {
        unshare(CloneFlags::CLONE_NEWNET)
            .map_err(|e| Error::new("make", "a network namespace", e.into()))?;
        work()
    })
}

/// Does `work` on a thread of its own.
fn apart<T: Send>(work: impl FnOnce() -> Result<T, Error> + Send) -> Result<T, Error> {
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().name("network".into());
        let failed = |e| Error::new("start", "a thread", e);
        let started = thread.spawn_scoped(scope, work).map_err(failed)?;
        started.join().unwrap_or_else(|_| Err(failed(io::Error::other("it was cut short"))))
    })
}

/// Brings an interface of this thread's namespace up.
///
/// # Errors
/// There is none of that name.
fn up(name: &CStr) -> Result<(), Error> {
    let failed = |verb| Error::last(verb, format!("the interface {}", name.to_string_lossy()));
    // SAFETY: integers only.
    let fd = unsafe { libc::socket(libc::AF_INET, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0) };
    if fd < 0 {
        return Err(failed("look at"));
    }
    // SAFETY: a fresh descriptor that nobody else owns.
    let socket = unsafe { OwnedFd::from_raw_fd(fd) };
    // SAFETY: all zeros is a valid ifreq.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    // The last byte stays NUL.
    let room = request.ifr_name.len() - 1;
    for (to, from) in request.ifr_name.iter_mut().zip(name.to_bytes().iter().take(room)) {
        *to = *from as libc::c_char;
    }
    // SAFETY: an open socket and an ifreq that lives through the call.
    if unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCGIFFLAGS, &raw mut request) } != 0 {
        return Err(failed("look at"));
    }
    // SAFETY: the call above has filled in the flags.
    let flags = unsafe { request.ifr_ifru.ifru_flags };
    request.ifr_ifru.ifru_flags = flags | libc::IFF_UP as libc::c_short;
    // SAFETY: as above.
    if unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS, &raw const request) } != 0 {
        return Err(failed("bring up"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_namespace_is_made_entered_and_let_go() {
        // SAFETY: no arguments.
        if unsafe { libc::geteuid() } != 0 {
            eprintln!("SKIPPED: needs root");
            return;
        }
        let handle = std::env::temp_dir().join(format!("netns-{}", std::process::id()));
        let setting = ("ipv4/ip_unprivileged_port_start", "7");
        create(&handle, &[setting]).expect("made");
        assert!(is_kept(&handle));
        let there = inside(&handle, || {
            let read = |path: &str| fs::read_to_string(path).expect("readable");
            Ok((
                fs::read_link("/proc/thread-self/ns/net").expect("a link"),
                read("/proc/thread-self/net/dev"),
                read("/proc/sys/net/ipv4/ip_unprivileged_port_start"),
                read("/proc/thread-self/net/fib_trie"),
            ))
        });
        let (link, devices, setting, routes) = there.expect("entered");
        assert_ne!(link, fs::read_link("/proc/self/ns/net").expect("a link"));
        assert!(devices.contains("lo:") && !devices.contains("eth"), "{devices}");
        assert_eq!(setting, "7\n");
        // Only a loopback that is up has an address.
        assert!(routes.contains("127.0.0.1"), "{routes}");
        let copy = handle.with_extension("copy");
        keep(&copy, std::process::id(), &[]).expect("kept");
        let kept = inside(&copy, || Ok(fs::read_link("/proc/thread-self/ns/net").expect("a link")));
        assert_eq!(kept.expect("entered"), fs::read_link("/proc/self/ns/net").expect("a link"));
        release(&copy).expect("let go");
        release(&handle).expect("let go");
        release(&handle).expect("twice");
        assert!(!handle.exists());
        assert!(inside(&handle, || Ok(())).is_err());
        let new = anew(|| Ok(fs::read_to_string("/proc/thread-self/net/dev").expect("readable")));
        assert!(!new.expect("a new one").contains("eth"));
    }
}
