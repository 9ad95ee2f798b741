//! A small file system in memory whose pages never go to a disk: for secrets.
//!
//! `tmpfs` may be swapped out unless it is mounted with `noswap` (Linux 6.4);
//! where the kernel does not know that word it is a `ramfs`, which is never
//! swapped but cannot be limited in size.

use std::path::Path;

use nix::errno::Errno;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::statfs::{FsType, TMPFS_MAGIC, statfs};

use crate::Error;

/// `RAMFS_MAGIC` of linux/magic.h.
#[allow(clippy::unreadable_literal)] // as the kernel writes it
const RAMFS: FsType = FsType(0x858458f6);

/// Mounts one on the directory `target`, for its owner only, of at most `size`
/// bytes.
///
/// # Errors
/// The kernel refuses.
pub fn mount_on(target: &Path, size: u64) -> Result<(), Error> {
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    let attempt =
        |kind: &str, options: &str| mount(Some(kind), target, Some(kind), flags, Some(options));
    let limited = format!("mode=0700,size={size},noswap");
    let mounted = match attempt("tmpfs", &limited) {
        Err(Errno::EINVAL) => attempt("ramfs", "mode=0700"),
        other => other,
    };
    mounted.map_err(|e| Error::new("mount a file system in memory on", show(target), e.into()))
}

/// Whether `target` is one, or lies in one.
///
/// # Errors
/// It does not exist.
pub fn is_on(target: &Path) -> Result<bool, Error> {
    let found = statfs(target)
        .map_err(|e| Error::new("look at the file system of", show(target), e.into()))?
        .filesystem_type();
    Ok(found == TMPFS_MAGIC || found == RAMFS)
}

/// Takes away everything that is mounted on `target`; nothing mounted is fine.
///
/// # Errors
/// The kernel refuses.
pub fn unmount(target: &Path) -> Result<(), Error> {
    loop {
        match umount2(target, MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW) {
            Ok(()) => {}
            // Not mounted, or not there.
            Err(Errno::EINVAL | Errno::ENOENT) => return Ok(()),
            Err(error) => return Err(Error::new("unmount", show(target), error.into())),
        }
    }
}

fn show(path: &Path) -> String {
    format!("'{}'", path.display())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_in_memory_are_told_from_others() {
        assert!(!is_on(Path::new("/proc")).expect("proc"));
        assert!(is_on(Path::new("/nonexistent")).is_err());
        unmount(Path::new("/nonexistent")).expect("nothing there");
    }
}
