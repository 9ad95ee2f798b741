//! Roots made ahead of their containers: a mount namespace that has nothing but one file
//! system, and in it what every container has.
//!
//! A container that enters it has neither to copy the machine's mounts nor to leave them,
//! and what takes long to look up in a new file system has been looked up. Blocking.

use std::fs::{self, File};
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};
use nix::sys::stat::{Mode, SFlag, makedev, mknod, umask};
use nix::unistd::{chdir, chroot, pivot_root};

use crate::Error;

/// Something in a root. Paths are absolute, as the root has them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fixture {
    /// A file system of the kernel's, on a directory that is made if it is missing.
    FileSystem {
        /// Its type, and what it says it is made of.
        kind: String,
        /// Where.
        target: PathBuf,
        /// `MS_*`.
        flags: u64,
        /// Options of its own.
        data: String,
    },
    /// A character device.
    Device {
        /// Where.
        path: PathBuf,
        /// Which.
        number: (u64, u64),
        /// Permissions.
        mode: u32,
    },
    /// A symbolic link.
    Link {
        /// What it says.
        target: PathBuf,
        /// Where.
        link: PathBuf,
    },
    /// A directory that is not to be seen, if there is one: it is empty and stays so.
    Hidden(PathBuf),
}

/// A new mount namespace, whose root is what `fill` mounts on the directory `root`, with
/// `fixtures` made in it in their order. Paths in `known` are looked up in it, there or not.
/// The namespace goes with the descriptor, unless a process has entered it.
///
/// # Errors
/// Those of `fill`, and the kernel's.
pub fn furnish(
    root: &Path,
    fill: impl FnOnce() -> Result<(), Error> + Send,
    fixtures: &[Fixture],
    known: &[PathBuf],
) -> Result<OwnedFd, Error> {
    let failed = |error| Error::new("make a root at", root.display().to_string(), error);
    // A thread of its own, which is never used for anything else.
    let made = std::thread::scope(|scope| {
        let work = || {
            let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
            let none = None::<&Path>;
            unshare(CloneFlags::CLONE_NEWNS)
                .and_then(|()| mount(none, "/", none, private, none))
                .map_err(|e| failed(e.into()))?;
            let namespace = File::open("/proc/thread-self/ns/mnt").map_err(failed)?;
            fill()?;
            // From here on every path is the root's, wherever its links lead.
            enter(root).map_err(|e| failed(e.into()))?;
            umask(Mode::empty());
            for fixture in fixtures {
                make(fixture)?;
            }
            for path in known {
                let _ = fs::metadata(path);
            }
            Ok(OwnedFd::from(namespace))
        };
        scope.spawn(work).join()
    });
    made.unwrap_or_else(|_| Err(failed(io::Error::other("the thread that makes it panicked"))))
}

/// Makes `root` the root of this thread's mount namespace.
fn enter(root: &Path) -> nix::Result<()> {
    chdir(root)?;
    match pivot_root(".", ".") {
        // The initial ramfs cannot be pivoted away.
        Err(Errno::EINVAL) => {
            mount(Some("."), "/", None::<&str>, MsFlags::MS_MOVE, None::<&str>)?;
            chroot(".")?;
        }
        other => {
            other?;
            // The old one was mounted on top.
            umount2(".", MntFlags::MNT_DETACH)?;
        }
    }
    chdir("/")
}

fn make(fixture: &Fixture) -> Result<(), Error> {
    let refused = |verb, path: &Path, error| Error::new(verb, path.display().to_string(), error);
    match fixture {
        Fixture::FileSystem { kind, target, flags, data } => {
            fs::create_dir_all(target).map_err(|e| refused("create", target, e))?;
            let (kind, flags) = (Some(kind.as_str()), MsFlags::from_bits_truncate(*flags));
            mount(kind, target, kind, flags, Some(data.as_str()))
                .map_err(|e| refused("mount", target, e.into()))
        }
        Fixture::Device { path, number: (major, minor), mode } => {
            let mode = Mode::from_bits_truncate(*mode);
            there_is(mknod(path, SFlag::S_IFCHR, mode, makedev(*major, *minor)))
                .map_err(|e| refused("create", path, e.into()))
        }
        Fixture::Link { target, link } => {
            there_is(nix::unistd::symlinkat(target, nix::fcntl::AT_FDCWD, link))
                .map_err(|e| refused("create", link, e.into()))
        }
        Fixture::Hidden(path) if !path.is_dir() => Ok(()),
        Fixture::Hidden(path) => {
            let kind = Some("tmpfs");
            mount(kind, path, kind, MsFlags::MS_RDONLY, None::<&str>)
                .map_err(|e| refused("hide", path, e.into()))
        }
    }
}

fn there_is(made: nix::Result<()>) -> nix::Result<()> {
    match made {
        Err(Errno::EEXIST) => Ok(()),
        other => other,
    }
}
