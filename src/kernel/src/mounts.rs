//! The mount table, for recovery only: reading it grows with the number of
//! mounts, so nothing on a launch path calls this.

pub mod options;

use std::ffi::OsString;
use std::fs;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use crate::Error;

/// One line of `/proc/<pid>/mountinfo`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mount {
    /// Mount id.
    pub id: u64,
    /// Id of the mount that it is mounted on.
    pub parent: u64,
    /// Directory of the file system that is the root of this mount.
    pub root: PathBuf,
    /// Mount point.
    pub target: PathBuf,
    /// File system type.
    pub kind: String,
    /// Source, as the file system prints it.
    pub source: String,
    /// Per-mount and per-superblock options.
    pub options: Vec<String>,
    /// Peer group, if the mount is shared.
    pub shared: Option<u64>,
}

/// The caller's mounts in mount order.
///
/// # Errors
/// If `/proc/self/mountinfo` cannot be read. Lines that cannot be understood
/// are left out.
pub fn table() -> Result<Vec<Mount>, Error> {
    const PATH: &str = "/proc/self/mountinfo";
    let bytes = fs::read(PATH).map_err(|e| Error::new("read", PATH, e))?;
    Ok(bytes.split(|b| *b == b'\n').filter_map(parse).collect())
}

/// Whether the machine runs from its initial ramfs: that root cannot be pivoted away.
#[must_use]
pub fn root_is_initial(mounts: &[Mount]) -> bool {
    let root = mounts.iter().rev().find(|mount| mount.target == Path::new("/"));
    root.is_some_and(|mount| mount.kind == "rootfs")
}

/// The one of `mounts` that the canonical `path` is on.
#[must_use]
pub fn holding<'a>(mounts: &'a [Mount], path: &Path) -> Option<&'a Mount> {
    let holds = |mount: &&Mount| path.starts_with(&mount.target);
    // Of several at one place the last one is on top.
    mounts.iter().filter(holds).max_by_key(|mount| mount.target.as_os_str().len())
}

/// Those of `mounts` at or below `directory`, deepest first: the order in which
/// they can be unmounted.
#[must_use]
pub fn below<'a>(mounts: &'a [Mount], directory: &Path) -> Vec<&'a Mount> {
    mounts.iter().rev().filter(|mount| mount.target.starts_with(directory)).collect()
}

/// Takes a mount and all below it out of the tree (`MNT_DETACH`); what is busy
/// goes when it is let go of. One that is gone already is fine.
///
/// # Errors
/// As `umount2`.
pub fn detach(target: &Path) -> Result<(), Error> {
    use nix::mount::{MntFlags, umount2};
    match umount2(target, MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW) {
        Ok(()) | Err(nix::errno::Errno::EINVAL | nix::errno::Errno::ENOENT) => Ok(()),
        Err(error) => Err(Error::new("unmount", target.display().to_string(), error.into())),
    }
}

/// Makes a directory a mount of its own, whose changes reach the copies that other mount
/// namespaces have of it. One that is already is left as it is.
///
/// # Errors
/// As `mount`.
pub fn share(directory: &Path) -> Result<(), Error> {
    use nix::mount::{MsFlags, mount};
    let failed = |verb, error: nix::errno::Errno| {
        Error::new(verb, directory.display().to_string(), error.into())
    };
    if is_mounted(directory)? {
        return Ok(());
    }
    let none = None::<&str>;
    mount(Some(directory), directory, none, MsFlags::MS_BIND, none)
        .map_err(|error| failed("mount", error))?;
    // Private first: not a peer of what it was bound from.
    for flags in [MsFlags::MS_PRIVATE, MsFlags::MS_SHARED] {
        mount(none, directory, none, flags, none).map_err(|error| failed("share", error))?;
    }
    Ok(())
}

/// Undoes [`share`].
///
/// # Errors
/// As `umount`.
pub fn unshare(directory: &Path) -> Result<(), Error> {
    while is_mounted(directory)? {
        detach(directory)?;
    }
    Ok(())
}

/// Whether a directory is a mount point itself.
fn is_mounted(directory: &Path) -> Result<bool, Error> {
    let Ok(directory) = directory.canonicalize() else { return Ok(false) };
    Ok(table()?.iter().any(|mount| mount.target == directory))
}

fn parse(line: &[u8]) -> Option<Mount> {
    let mut fields = line.split(|b| *b == b' ');
    let mut number = || std::str::from_utf8(fields.next()?).ok()?.parse().ok();
    let (id, parent) = (number()?, number()?);
    let _device = fields.next()?;
    let root = path(fields.next()?);
    let target = path(fields.next()?);
    let mut options = list(fields.next()?);
    let mut shared = None;
    loop {
        match fields.next()? {
            b"-" => break,
            tag => {
                let tag = std::str::from_utf8(tag).ok()?;
                shared = tag.strip_prefix("shared:").and_then(|n| n.parse().ok()).or(shared);
            }
        }
    }
    let kind = path(fields.next()?).to_string_lossy().into_owned();
    let source = path(fields.next()?).to_string_lossy().into_owned();
    options.extend(list(fields.next()?));
    Some(Mount { id, parent, root, target, kind, source, options, shared })
}

fn list(field: &[u8]) -> Vec<String> {
    String::from_utf8_lossy(field).split(',').map(str::to_owned).collect()
}

/// Undoes the kernel's octal escapes (`\040`).
fn path(field: &[u8]) -> PathBuf {
    let mut out = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((first, after)) = rest.split_first() {
        let digits = (*first == b'\\').then(|| after.get(..3)).flatten();
        match digits.filter(|d| d.iter().all(|b| (b'0'..b'8').contains(b))) {
            Some(d) => {
                let value = d.iter().fold(0u32, |sum, b| sum * 8 + u32::from(b - b'0'));
                out.push(value as u8);
                rest = &after[3..];
            }
            None => {
                out.push(*first);
                rest = after;
            }
        }
    }
    PathBuf::from(OsString::from_vec(out))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_a_line() {
        let line = br"36 35 98:0 /mnt1 /a\040b rw,noatime shared:7 master:1 - ext3 /dev/root rw,errors=continue";
        let mount = parse(line).expect("a mount");
        assert_eq!((mount.id, mount.parent, mount.shared), (36, 35, Some(7)));
        assert_eq!(mount.target, Path::new("/a b"));
        assert_eq!(mount.root, Path::new("/mnt1"));
        assert_eq!((mount.kind.as_str(), mount.source.as_str()), ("ext3", "/dev/root"));
        assert_eq!(mount.options, ["rw", "noatime", "rw", "errors=continue"]);
    }

    #[test]
    fn rejects_what_is_not_a_line() {
        for line in [&b""[..], b"36", b"36 35 98:0 / /a rw shared:1", b"x y z / / rw - a b c"] {
            assert_eq!(parse(line), None);
        }
    }

    #[test]
    fn the_initial_root_is_told_from_one_on_top() {
        let first = parse(b"1 1 0:2 / / rw - rootfs rootfs rw").expect("a mount");
        let second = parse(b"20 1 8:1 / / rw - ext4 /dev/sda1 rw").expect("a mount");
        assert!(root_is_initial(std::slice::from_ref(&first)));
        assert!(!root_is_initial(&[first, second]));
        assert!(!root_is_initial(&[]));
    }

    #[test]
    fn the_root_is_mounted_and_everything_is_below_it() {
        let mounts = table().expect("table");
        assert!(mounts.iter().any(|mount| mount.target == Path::new("/")));
        let holder = |path: &str| holding(&mounts, Path::new(path)).map(|m| m.target.clone());
        assert_eq!(holder("/proc/1/ns").as_deref(), Some(Path::new("/proc")));
        assert!(holder("/nonexistent").is_some());
        let below = below(&mounts, Path::new("/proc"));
        assert!(below.iter().all(|mount| mount.target.starts_with("/proc")));
    }
}
