//! Writing the tree of an image's layer: a stranger's files with all that belongs to
//! them, and the marks by which overlay knows what is gone.
//!
//! Every path is resolved by the kernel below the directory (`openat2`): links that stay
//! below are followed on the way, but not the last part, and none that leaves. What is
//! in the way of a file is replaced, as when layers are laid upon each other. Removed
//! files are character devices 0/0, directories that hide what is below them have
//! `trusted.overlay.opaque=y` (`Documentation/filesystems/overlayfs.rst`).

use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Component, Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, OpenHow, ResolveFlag, openat, openat2};
use nix::sys::stat::{
    Mode, SFlag, UtimensatFlags, fchmod, fchmodat, fstatat, futimens, makedev, mkdirat, mknodat,
    utimensat,
};
use nix::sys::time::TimeSpec;
use nix::unistd::{Gid, Uid, UnlinkatFlags, fchown, fchownat, linkat, symlinkat, unlinkat};

use super::{BeneathError, path_only, split};

/// Mark of a directory that hides what is below it.
const OPAQUE: &str = "trusted.overlay.opaque";

/// What belongs to a file besides its content.
#[derive(Debug, Clone, Copy)]
pub struct Attributes<'a> {
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Permissions, with set-user-id and the like.
    pub mode: u32,
    /// Seconds since 1970 and nanoseconds.
    pub time: (i64, u32),
    /// Extended attributes, names and values.
    pub xattrs: &'a [(Vec<u8>, Vec<u8>)],
}

/// A layer that is being written.
#[derive(Debug)]
pub struct Layer {
    root: OwnedFd,
    name: PathBuf,
    /// The directory that was written to last: files come directory by directory.
    last: Option<(PathBuf, OwnedFd)>,
    /// Times of directories: set last, since writing to a directory changes its own.
    times: Vec<(PathBuf, (i64, u32))>,
}

impl Layer {
    /// The directory `path`, which is ours: it is opened by name.
    ///
    /// # Errors
    /// [`BeneathError::Open`]
    pub fn open(path: &Path) -> Result<Layer, BeneathError> {
        let opened = nix::fcntl::open(path, path_only() | OFlag::O_DIRECTORY, Mode::empty());
        let root = opened.map_err(|source| BeneathError::Open {
            path: path.to_owned(),
            source: source.into(),
        })?;
        Ok(Layer { root, name: path.to_owned(), last: None, times: Vec::new() })
    }

    /// A directory; one that exists gets these attributes.
    ///
    /// # Errors
    /// [`BeneathError`]
    pub fn directory(&mut self, path: &Path, with: &Attributes<'_>) -> Result<(), BeneathError> {
        let failed = self.failed(path);
        let made = self.enter(path, true).and_then(|dir| {
            let dir = openat(dir, ".", readable(), Mode::empty())?;
            fchown(&dir, Some(Uid::from_raw(with.uid)), Some(Gid::from_raw(with.gid)))?;
            fchmod(&dir, Mode::from_bits_truncate(with.mode))?;
            set_xattrs(dir.as_fd(), with.xattrs)
        });
        made.map_err(failed)?;
        self.times.push((path.to_owned(), with.time));
        Ok(())
    }

    /// A new empty file; its attributes come with [`Layer::finish_file`].
    ///
    /// # Errors
    /// [`BeneathError`]
    pub fn file(&mut self, path: &Path) -> Result<File, BeneathError> {
        let failed = self.failed(path);
        let flags = OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        self.place(path, |dir, name| {
            openat(dir, name, flags | OFlag::O_RDWR, Mode::from_bits_truncate(0o600))
        })
        .map(File::from)
        .map_err(failed)
    }

    /// Gives a file what belongs to it; `path` is for messages.
    ///
    /// # Errors
    /// [`BeneathError::Open`]
    pub fn finish_file(
        &self,
        path: &Path,
        file: &File,
        with: &Attributes<'_>,
    ) -> Result<(), BeneathError> {
        // A change of the owner takes away set-user-id and capabilities.
        fchown(file, Some(Uid::from_raw(with.uid)), Some(Gid::from_raw(with.gid)))
            .and_then(|()| fchmod(file, Mode::from_bits_truncate(with.mode)))
            .and_then(|()| set_xattrs(file.as_fd(), with.xattrs))
            .and_then(|()| {
                let time = timespec(with.time);
                futimens(file, &time, &time)
            })
            .map_err(self.failed(path))
    }

    /// A symbolic link to `target`, wherever that leads.
    ///
    /// # Errors
    /// [`BeneathError`]
    pub fn symlink(
        &mut self,
        path: &Path,
        target: &Path,
        with: &Attributes<'_>,
    ) -> Result<(), BeneathError> {
        let failed = self.failed(path);
        self.place(path, |dir, name| {
            symlinkat(target, dir, name)?;
            adorn(dir, name, with)
        })
        .map_err(failed)
    }

    /// A named pipe.
    ///
    /// # Errors
    /// [`BeneathError`]
    pub fn pipe(&mut self, path: &Path, with: &Attributes<'_>) -> Result<(), BeneathError> {
        let failed = self.failed(path);
        self.place(path, |dir, name| {
            mknodat(dir, name, SFlag::S_IFIFO, Mode::from_bits_truncate(0o600), 0)?;
            let mode = Mode::from_bits_truncate(with.mode);
            adorn(dir, name, with)?;
            fchmodat(dir, name, mode, nix::sys::stat::FchmodatFlags::FollowSymlink)
        })
        .map_err(failed)
    }

    /// Another name of the file `existing` of this layer.
    ///
    /// # Errors
    /// [`BeneathError`]
    pub fn hard_link(&mut self, path: &Path, existing: &Path) -> Result<(), BeneathError> {
        if path == existing {
            return Ok(());
        }
        let (failed, lost) = (self.failed(path), self.failed(existing));
        let (dir, old) = split(existing).ok_or_else(|| lost(Errno::EINVAL))?;
        let from = self.resolve(dir).map_err(&lost)?;
        let stat = fstatat(&from, old, AtFlags::AT_SYMLINK_NOFOLLOW).map_err(&lost)?;
        if stat.st_mode & SFlag::S_IFMT.bits() == SFlag::S_IFDIR.bits() {
            return Err(lost(Errno::EISDIR));
        }
        self.place(path, |dir, name| linkat(&from, old, dir, name, AtFlags::empty()))
            .map_err(failed)
    }

    /// Marks a name of the layers below as gone. What this layer has under that name
    /// stays, and hides it all.
    ///
    /// # Errors
    /// [`BeneathError`]
    pub fn whiteout(&mut self, path: &Path) -> Result<(), BeneathError> {
        let failed = self.failed(path);
        let (dir, name) = split(path).ok_or_else(|| failed(Errno::EINVAL))?;
        let parent = self.enter(dir, false).map_err(&failed)?;
        match fstatat(parent, name, AtFlags::AT_SYMLINK_NOFOLLOW) {
            Ok(stat) if is(stat.st_mode, SFlag::S_IFDIR) => self.opaque(path),
            Ok(_) => Ok(()),
            Err(Errno::ENOENT) => {
                let none = Mode::empty();
                mknodat(parent, name, SFlag::S_IFCHR, none, makedev(0, 0)).map_err(failed)
            }
            Err(error) => Err(failed(error)),
        }
    }

    /// Marks a directory as hiding what the layers below have of it.
    ///
    /// # Errors
    /// [`BeneathError`]
    pub fn opaque(&mut self, path: &Path) -> Result<(), BeneathError> {
        let failed = self.failed(path);
        let marked = self.enter(path, false).and_then(mark);
        marked.map_err(failed)
    }

    /// Sets the times of directories. The layer is whole then.
    ///
    /// # Errors
    /// [`BeneathError`]
    pub fn finish(mut self) -> Result<(), BeneathError> {
        self.last = None;
        for (path, time) in std::mem::take(&mut self.times) {
            let time = timespec(time);
            let set = match self.resolve(&path) {
                Ok(dir) => openat(&dir, ".", readable(), Mode::empty())
                    .and_then(|dir| futimens(&dir, &time, &time)),
                // Something else took its place since.
                Err(Errno::ENOENT | Errno::ENOTDIR) => Ok(()),
                Err(error) => Err(error),
            };
            set.map_err(self.failed(&path))?;
        }
        Ok(())
    }

    fn failed(&self, path: &Path) -> impl Fn(Errno) -> BeneathError + use<> {
        let (root, path) = (self.name.clone(), self.name.join(path));
        move |source| match source {
            Errno::EXDEV | Errno::ELOOP => BeneathError::Escapes { root: root.clone() },
            source => BeneathError::Open { path: path.clone(), source: source.into() },
        }
    }

    /// Finds a directory that exists.
    fn resolve(&self, dir: &Path) -> Result<OwnedFd, Errno> {
        let dir = if dir.as_os_str().is_empty() { Path::new(".") } else { dir };
        let how = OpenHow::new()
            .flags(path_only() | OFlag::O_DIRECTORY)
            .resolve(ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_MAGICLINKS);
        openat2(&self.root, dir, how)
    }

    /// The directory `dir`, made if it is missing, with those above it. `replace`: what
    /// bears its name and is none makes room, links included.
    fn enter(&mut self, dir: &Path, replace: bool) -> Result<BorrowedFd<'_>, Errno> {
        // The way to what was written to last may lead over a link that is to be replaced.
        if replace || self.last.as_ref().is_none_or(|(path, _)| path != dir) {
            let made = match if replace { Err(Errno::ENOENT) } else { self.resolve(dir) } {
                Err(Errno::ENOENT | Errno::ENOTDIR) => self.make(dir, replace)?,
                other => other?,
            };
            self.last = Some((dir.to_owned(), made));
        }
        let (_, fd) = self.last.as_ref().expect("set above");
        Ok(fd.as_fd())
    }

    /// Goes down part by part, making what is missing.
    fn make(&mut self, dir: &Path, replace: bool) -> Result<OwnedFd, Errno> {
        let mut at = self.root.try_clone().map_err(|_| Errno::EMFILE)?;
        let mut walked = PathBuf::new();
        for component in dir.components() {
            let Component::Normal(name) = component else {
                if component == Component::CurDir {
                    continue;
                }
                return Err(Errno::EXDEV);
            };
            walked.push(name);
            let last = replace && walked == dir;
            at = match if last { below(&at, name) } else { self.resolve(&walked) } {
                Ok(next) => next,
                Err(error @ (Errno::ENOENT | Errno::ENOTDIR | Errno::ELOOP)) => {
                    let hides = match error {
                        Errno::ENOENT => false,
                        // A name that was marked as gone is used again.
                        _ if is_whiteout(&at, name) => true,
                        _ if last => false,
                        other => return Err(other),
                    };
                    if error != Errno::ENOENT {
                        unlinkat(&at, name, UnlinkatFlags::NoRemoveDir)?;
                    }
                    match mkdirat(&at, name, Mode::from_bits_truncate(0o755)) {
                        // A link that leads nowhere.
                        Err(Errno::EEXIST) => return Err(Errno::ELOOP),
                        other => other?,
                    }
                    let next = below(&at, name)?;
                    if hides {
                        mark(next.as_fd())?;
                    }
                    next
                }
                Err(error) => return Err(error),
            };
        }
        Ok(at)
    }

    /// Makes something that is no directory under a name that is vacated for it.
    fn place<T>(
        &mut self,
        path: &Path,
        make: impl Fn(BorrowedFd<'_>, &OsStr) -> Result<T, Errno>,
    ) -> Result<T, Errno> {
        let (dir, name) = split(path).ok_or(Errno::EINVAL)?;
        let parent = self.enter(dir, false)?;
        match make(parent, name) {
            Err(Errno::EEXIST) => {}
            other => return other,
        }
        match unlinkat(parent, name, UnlinkatFlags::NoRemoveDir) {
            Err(Errno::EISDIR) => unlinkat(parent, name, UnlinkatFlags::RemoveDir)?,
            other => other?,
        }
        let made = make(parent, name);
        // A link that led to the directory may be what was replaced.
        self.last = None;
        made
    }
}

fn readable() -> OFlag {
    OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC
}

/// Enters a directory of that name, not a link to one.
fn below(at: &OwnedFd, name: &OsStr) -> Result<OwnedFd, Errno> {
    openat(at, name, path_only() | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW, Mode::empty())
}

fn is(mode: u32, kind: SFlag) -> bool {
    mode & SFlag::S_IFMT.bits() == kind.bits()
}

fn is_whiteout(at: &OwnedFd, name: &OsStr) -> bool {
    fstatat(at, name, AtFlags::AT_SYMLINK_NOFOLLOW)
        .is_ok_and(|stat| is(stat.st_mode, SFlag::S_IFCHR) && stat.st_rdev == makedev(0, 0))
}

fn timespec((seconds, nanoseconds): (i64, u32)) -> TimeSpec {
    TimeSpec::new(seconds, nanoseconds.into())
}

/// Owner and time of what cannot be opened.
fn adorn(dir: BorrowedFd<'_>, name: &OsStr, with: &Attributes<'_>) -> Result<(), Errno> {
    let (uid, gid) = (Uid::from_raw(with.uid), Gid::from_raw(with.gid));
    fchownat(dir, name, Some(uid), Some(gid), AtFlags::AT_SYMLINK_NOFOLLOW)?;
    let time = timespec(with.time);
    utimensat(dir, name, &time, &time, UtimensatFlags::NoFollowSymlink)
}

/// Marks a directory, which is open to look at only, as opaque.
fn mark(dir: BorrowedFd<'_>) -> Result<(), Errno> {
    let dir = openat(dir, ".", readable(), Mode::empty())?;
    set_xattr(dir.as_fd(), OPAQUE, b"y")
}

/// Sets extended attributes. Those for users are left out where the file system has
/// none; what gives rights must not be lost.
fn set_xattrs(file: BorrowedFd<'_>, xattrs: &[(Vec<u8>, Vec<u8>)]) -> Result<(), Errno> {
    for (name, value) in xattrs {
        let text = std::str::from_utf8(name).map_err(|_| Errno::EINVAL)?;
        match set_xattr(file, text, value) {
            Err(Errno::EOPNOTSUPP) if name.starts_with(b"user.") => {}
            other => other?,
        }
    }
    Ok(())
}

fn set_xattr(file: BorrowedFd<'_>, name: &str, value: &[u8]) -> Result<(), Errno> {
    let set = crate::xattr::set(&file, name, value);
    set.map_err(|error| error.raw_os_error().map_or(Errno::EINVAL, Errno::from_raw))
}

/// Writes all of the file system that `directory` is on to its disk. Blocking.
///
/// # Errors
/// As `syncfs(2)`.
pub fn flush(directory: &Path) -> io::Result<()> {
    Ok(nix::unistd::syncfs(File::open(directory)?)?)
}

#[cfg(test)]
mod tests;
