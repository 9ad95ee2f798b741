//! A copy of all layers, one over the other.
//!
//! The layers were packed by strangers: a directory of one may be a link in another.
//! So everything is done relative to open directories and no link is ever followed.
//! Owners, modes, times, extended attributes, hard links and holes are kept; what a
//! layer removes (`0/0` devices, opaque directories) is removed.

use std::collections::HashMap;
use std::ffi::{CStr, OsStr};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use nix::dir::Dir;
use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, open, openat, readlinkat};
use nix::sys::stat::{
    FileStat, Mode, SFlag, UtimensatFlags, fstat, fstatat, mkdirat, mknodat, utimensat,
};
use nix::sys::time::TimeSpec;
use nix::unistd::{Gid, Uid, UnlinkatFlags, fchownat, linkat, symlinkat, unlinkat};

use super::OPAQUE;
use crate::{Error, xattr};

/// Bytes that are copied at once where the kernel does not.
const BUFFER: usize = 1 << 20;

/// Puts a copy of `layer` over what is in the directory `root`. `go_on` is asked before
/// every entry.
///
/// # Errors
/// What could not be copied; [`io::ErrorKind::Interrupted`] if `go_on` said no.
pub fn add(layer: &Path, root: &Path, go_on: &mut dyn FnMut() -> bool) -> Result<(), Error> {
    let both = directory(layer).and_then(|from| Ok((from, directory(root)?)));
    let (from, to) = both.map_err(|e| failed("open", layer)(e.into()))?;
    let (links, at) = (HashMap::new(), layer.to_path_buf());
    Copy { links, layer, root: &to, go_on, at }.inside(from, &to)?;
    attributes(layer, root)
}

fn failed(verb: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Error {
    let object = format!("'{}'", path.display());
    move |source| Error::new(verb, object, source)
}

/// Gives directory `to` the owner, mode and times of `from`.
///
/// # Errors
/// The system's.
pub fn attributes(from: &Path, to: &Path) -> Result<(), Error> {
    let kept = directory(from)
        .and_then(|from| Ok((from, directory(to)?)))
        .map_err(io::Error::from)
        .and_then(|(from, to)| keep(&from, &to, &fstat(&from)?));
    kept.map_err(failed("set the attributes of", to))
}

/// Gives an open file or directory all that `from` has but its content. The owner comes
/// first: a new one takes capabilities and set-id bits away.
fn keep(from: &impl AsFd, to: &impl AsFd, stat: &FileStat) -> io::Result<()> {
    own(to.as_fd(), c"", stat, AtFlags::AT_EMPTY_PATH)?;
    extended(from, to)?;
    nix::sys::stat::fchmod(to, mode(stat))?;
    nix::sys::stat::futimens(to, &accessed(stat), &modified(stat))?;
    Ok(())
}

fn directory(path: &Path) -> nix::Result<OwnedFd> {
    open(path, OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC, Mode::empty())
}

struct Copy<'a> {
    /// Where files with several names were put, by device and inode.
    links: HashMap<(u64, u64), PathBuf>,
    layer: &'a Path,
    root: &'a OwnedFd,
    go_on: &'a mut dyn FnMut() -> bool,
    /// For messages.
    at: PathBuf,
}

impl Copy<'_> {
    fn error(&self, source: Errno) -> Error {
        failed("copy", &self.at)(source.into())
    }

    fn inside(&mut self, from: OwnedFd, to: &OwnedFd) -> Result<(), Error> {
        let here = from.try_clone().map_err(failed("open", &self.at))?;
        let mut dir = Dir::from_fd(here).map_err(|e| self.error(e))?;
        for entry in dir.iter() {
            let entry = entry.map_err(|e| self.error(e))?;
            let name = entry.file_name();
            if name == c"." || name == c".." {
                continue;
            }
            if !(self.go_on)() {
                return Err(failed("copy", &self.at)(io::ErrorKind::Interrupted.into()));
            }
            self.at.push(OsStr::from_bytes(name.to_bytes()));
            self.entry(&from, to, name)?;
            self.at.pop();
        }
        Ok(())
    }

    fn entry(&mut self, from: &OwnedFd, to: &OwnedFd, name: &CStr) -> Result<(), Error> {
        let stat = fstatat(from, name, AtFlags::AT_SYMLINK_NOFOLLOW).map_err(|e| self.error(e))?;
        let kind = SFlag::from_bits_truncate(stat.st_mode) & SFlag::S_IFMT;
        if kind == SFlag::S_IFCHR && stat.st_rdev == 0 {
            return self.remove(to, name);
        }
        if kind == SFlag::S_IFDIR {
            return self.below(from, to, name, &stat);
        }
        self.remove(to, name)?;
        if stat.st_nlink > 1 {
            if let Some(first) = self.links.get(&(stat.st_dev, stat.st_ino)) {
                // This layer's own directories are above it: nothing was put between.
                let linked = linkat(self.root, first.as_path(), to, name, AtFlags::empty());
                return linked.map_err(|e| self.error(e));
            }
            let place = self.at.strip_prefix(self.layer).unwrap_or(&self.at).to_path_buf();
            self.links.insert((stat.st_dev, stat.st_ino), place);
        }
        let made = match kind {
            SFlag::S_IFREG => file(from, to, name, &stat),
            SFlag::S_IFLNK => readlinkat(from, name)
                .and_then(|target| symlinkat(target.as_os_str(), to, name))
                .map_err(io::Error::from),
            _ => mknodat(to, name, kind, mode(&stat), stat.st_rdev).map_err(io::Error::from),
        };
        let done = made.and_then(|()| finish(to, name, &stat, kind));
        done.map_err(failed("copy", &self.at))
    }

    fn below(
        &mut self,
        from: &OwnedFd,
        to: &OwnedFd,
        name: &CStr,
        stat: &FileStat,
    ) -> Result<(), Error> {
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let source = openat(from, name, flags, Mode::empty()).map_err(|e| self.error(e))?;
        let there = fstatat(to, name, AtFlags::AT_SYMLINK_NOFOLLOW).ok();
        let is_dir = there.is_some_and(|there| {
            SFlag::from_bits_truncate(there.st_mode) & SFlag::S_IFMT == SFlag::S_IFDIR
        });
        if !is_dir || is_opaque(&source) {
            self.remove(to, name)?;
            mkdirat(to, name, Mode::S_IRWXU).map_err(|e| self.error(e))?;
        }
        let target = openat(to, name, flags, Mode::empty()).map_err(|e| self.error(e))?;
        let copied = source.try_clone().map_err(failed("open", &self.at))?;
        self.inside(copied, &target)?;
        keep(&source, &target, stat).map_err(failed("copy", &self.at))
    }

    /// Removes what an earlier layer put there.
    fn remove(&mut self, to: &OwnedFd, name: &CStr) -> Result<(), Error> {
        match unlinkat(to, name, UnlinkatFlags::NoRemoveDir) {
            Ok(()) | Err(Errno::ENOENT) => return Ok(()),
            Err(Errno::EISDIR | Errno::EPERM) => {}
            Err(error) => return Err(failed("remove", &self.at)(error.into())),
        }
        let path = format!("/proc/self/fd/{}", to.as_raw_fd());
        let path = Path::new(&path).join(OsStr::from_bytes(name.to_bytes()));
        std::fs::remove_dir_all(&path).map_err(failed("remove", &self.at))
    }
}

fn mode(stat: &FileStat) -> Mode {
    Mode::from_bits_truncate(stat.st_mode)
}

fn accessed(stat: &FileStat) -> TimeSpec {
    TimeSpec::new(stat.st_atime, stat.st_atime_nsec)
}

fn modified(stat: &FileStat) -> TimeSpec {
    TimeSpec::new(stat.st_mtime, stat.st_mtime_nsec)
}

fn own(to: BorrowedFd<'_>, name: &CStr, stat: &FileStat, flags: AtFlags) -> nix::Result<()> {
    let (uid, gid) = (Uid::from_raw(stat.st_uid), Gid::from_raw(stat.st_gid));
    fchownat(to, name, Some(uid), Some(gid), flags)
}

/// Owner and times of what is not a directory; of a file all is done by [`file`].
fn finish(to: &OwnedFd, name: &CStr, stat: &FileStat, kind: SFlag) -> io::Result<()> {
    if kind == SFlag::S_IFREG {
        return Ok(());
    }
    own(to.as_fd(), name, stat, AtFlags::AT_SYMLINK_NOFOLLOW)?;
    let flags = UtimensatFlags::NoFollowSymlink;
    utimensat(to, name, &accessed(stat), &modified(stat), flags)?;
    Ok(())
}

fn file(from: &OwnedFd, to: &OwnedFd, name: &CStr, stat: &FileStat) -> io::Result<()> {
    let flags = OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let source = File::from(openat(from, name, flags | OFlag::O_RDONLY, Mode::empty())?);
    let create = flags | OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL;
    let target = File::from(openat(to, name, create, Mode::S_IRUSR | Mode::S_IWUSR)?);
    content(&source, &target, stat)?;
    keep(&source, &target, stat)
}

/// Copies data, leaves holes.
fn content(source: &File, target: &File, stat: &FileStat) -> io::Result<()> {
    use nix::unistd::{Whence, lseek};
    let size = stat.st_size;
    nix::unistd::ftruncate(target, size)?;
    let mut at = 0;
    while at < size {
        let begin = match lseek(source, at, Whence::SeekData) {
            Ok(begin) => begin,
            Err(Errno::ENXIO) => break,
            Err(_) => at,
        };
        let end = lseek(source, begin, Whence::SeekHole).unwrap_or(size);
        stretch(source, target, begin, end)?;
        at = end.max(begin + 1);
    }
    Ok(())
}

fn stretch(source: &File, target: &File, begin: i64, end: i64) -> io::Result<()> {
    use std::os::unix::fs::FileExt;
    let (mut read, mut written) = (begin, begin);
    while read < end {
        let left = usize::try_from(end - read).unwrap_or(usize::MAX);
        let (from, to) = (source.as_raw_fd(), target.as_raw_fd());
        // SAFETY: two open files and two offsets that outlive the call.
        let copied = unsafe { libc::copy_file_range(from, &mut read, to, &mut written, left, 0) };
        match Errno::result(copied) {
            Ok(0) => return Ok(()),
            Ok(_) => {}
            Err(Errno::EXDEV | Errno::EINVAL | Errno::ENOSYS | Errno::EOPNOTSUPP) => break,
            Err(error) => return Err(error.into()),
        }
    }
    let mut buffer = vec![0; BUFFER];
    while read < end {
        let left = usize::try_from(end - read).unwrap_or(BUFFER).min(BUFFER);
        let at = u64::try_from(read).unwrap_or_default();
        let length = source.read_at(&mut buffer[..left], at)?;
        if length == 0 {
            return Ok(());
        }
        target.write_all_at(&buffer[..length], at)?;
        read += length as i64;
    }
    Ok(())
}

fn is_opaque(dir: &OwnedFd) -> bool {
    xattr::get(dir, OPAQUE).is_ok_and(|value| value.as_deref() == Some(b"y"))
}

/// Copies extended attributes, but for overlay's own.
fn extended(from: &impl AsFd, to: &impl AsFd) -> io::Result<()> {
    for name in xattr::list(from)? {
        if name.starts_with("trusted.overlay.") {
            continue;
        }
        if let Some(value) = xattr::get(from, &name)? {
            xattr::set(to, &name, &value)?;
        }
    }
    Ok(())
}
