//! Bind mounts in the mount namespace of a running process.
//!
//! A copy of the mount is taken here and put down there, on a thread that enters the
//! other namespace and ends in it. The place is found without following a link,
//! since whoever runs there may plant one. Blocking.

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;

use nix::fcntl::{OFlag, OpenHow, ResolveFlag, open, openat2};
use nix::sys::stat::Mode;

use crate::namespaces::Namespace;
use crate::{Error, tree};

/// Where a mount is to be seen by a process.
#[derive(Debug, Clone, Copy)]
pub struct Place<'a> {
    /// The process, in the caller's pid namespace.
    pub pid: u32,
    /// A directory, as the process sees it.
    pub root: &'a Path,
    /// Below it.
    pub path: &'a Path,
}

impl Place<'_> {
    fn show(&self) -> String {
        format!("{} for process {}", self.root.join(self.path).display(), self.pid)
    }

    /// A directory below the root; in the namespace of the process.
    fn open(&self, path: &Path) -> io::Result<OwnedFd> {
        let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let root = open(self.root, flags, Mode::empty())?;
        let how = OpenHow::new().flags(flags).resolve(
            ResolveFlag::RESOLVE_BENEATH
                | ResolveFlag::RESOLVE_NO_SYMLINKS
                | ResolveFlag::RESOLVE_NO_MAGICLINKS,
        );
        Ok(openat2(&root, path, how)?)
    }
}

/// Binds the directory `source` of this namespace to `place`, which must exist.
///
/// # Errors
/// The process is gone, the place is not there or behind a link, or as `mount`.
pub fn bind(source: &Path, place: Place<'_>, read_only: bool) -> Result<(), Error> {
    let failed = |verb, e| Error::new(verb, source.display().to_string(), e);
    let tree = tree::copy(source).map_err(|e| failed("copy the mount at", e))?;
    if read_only {
        tree::forbid_writing(&tree).map_err(|e| failed("make read-only", e))?;
    }
    within(place.pid, move || {
        let target = place.open(place.path)?;
        // SAFETY: open descriptors and empty C strings that outlive the call.
        let answer = unsafe {
            libc::syscall(
                libc::SYS_move_mount,
                tree.as_raw_fd(),
                c"".as_ptr(),
                target.as_raw_fd(),
                c"".as_ptr(),
                libc::MOVE_MOUNT_F_EMPTY_PATH | libc::MOVE_MOUNT_T_EMPTY_PATH,
            )
        };
        if answer == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    })
    .map_err(|e| Error::new("mount a volume at", place.show(), e))
}

/// Takes what is mounted at `place` away from the process; what is in use there goes
/// when it is let go of. Nothing mounted is fine.
///
/// # Errors
/// As `umount2`.
pub fn unbind(place: Place<'_>) -> Result<(), Error> {
    within(place.pid, move || {
        let (Some(above), Some(name)) = (place.path.parent(), place.path.file_name()) else {
            return Err(io::ErrorKind::InvalidInput.into());
        };
        let above = match place.open(above) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            above => above?,
        };
        // By its name in a directory that is held: nobody can put a link in between.
        // SAFETY: an open descriptor; this thread shares its directory with nobody.
        if unsafe { libc::fchdir(above.as_raw_fd()) } != 0 {
            return Err(io::Error::last_os_error());
        }
        crate::mounts::detach(Path::new(name)).map_err(|error| error.source)
    })
    .map_err(|e| Error::new("unmount the volume at", place.show(), e))
}

/// Does `work` in the mount namespace of a process, on a thread of its own.
fn within<T: Send>(pid: u32, work: impl FnOnce() -> io::Result<T> + Send) -> io::Result<T> {
    let namespace = File::open(Namespace::Mount.of(pid))?;
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().name("volume".into());
        let entered = thread.spawn_scoped(scope, move || {
            // A thread that shares its root with others may not enter.
            // SAFETY: integers and an open descriptor; both change this thread only.
            let done = unsafe {
                libc::unshare(libc::CLONE_FS) == 0
                    && libc::setns(namespace.as_raw_fd(), libc::CLONE_NEWNS) == 0
            };
            if !done {
                return Err(io::Error::last_os_error());
            }
            work()
        })?;
        entered.join().unwrap_or_else(|_| Err(io::Error::other("the work was cut short")))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A process in a mount namespace of its own, killed at the end.
    struct Other(std::process::Child);

    impl Drop for Other {
        fn drop(&mut self) {
            let _ = self.0.kill();
            let _ = self.0.wait();
        }
    }

    #[test]
    fn a_volume_comes_and_goes_in_another_namespace_only() {
        // SAFETY: no arguments.
        if unsafe { libc::geteuid() } != 0 {
            eprintln!("SKIPPED: needs root");
            return;
        }
        let dir = std::env::temp_dir().join(format!("kernel-volume-{}", std::process::id()));
        let (source, root) = (dir.join("source"), dir.join("root"));
        std::fs::create_dir_all(&source).unwrap();
        std::fs::create_dir_all(root.join("data")).unwrap();
        std::os::unix::fs::symlink("/etc", root.join("link")).unwrap();
        std::fs::write(source.join("f"), "x").unwrap();
        let mut other = Other(
            std::process::Command::new("unshare")
                .args(["--mount", "sleep", "1000"])
                .spawn()
                .unwrap(),
        );
        let pid = other.0.id();
        let by = std::time::Instant::now() + std::time::Duration::from_secs(60);
        while Namespace::Mount.of(pid).read_link().unwrap()
            == Path::new("/proc/self/ns/mnt").read_link().unwrap()
        {
            assert!(std::time::Instant::now() < by && other.0.try_wait().unwrap().is_none());
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
        let seen = Path::new("/proc").join(pid.to_string()).join("root");
        let seen = seen.join(root.strip_prefix("/").unwrap()).join("data/f");
        let place = Place { pid, root: &root, path: Path::new("data") };
        bind(&source, place, true).unwrap();
        assert!(seen.exists() && !root.join("data/f").exists());
        assert!(std::fs::write(&seen, "y").is_err(), "read-only");
        unbind(place).unwrap();
        unbind(place).unwrap();
        assert!(!seen.exists());
        let link = Place { path: Path::new("link"), ..place };
        assert!(bind(&source, link, false).is_err(), "through a link");
        drop(other);
        std::fs::remove_dir_all(&dir).unwrap();
    }
}
