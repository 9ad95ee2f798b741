//! Writing below a directory that somebody else may change meanwhile.
//!
//! For whoever unpacks what strangers packed: every path is resolved by the kernel
//! below the root (`openat2`), the last part is never followed, and what stands in
//! the way of a file is removed, not written through.

use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, ResolveFlag, openat};
use nix::sys::stat::{Mode, SFlag, fstat};
use nix::unistd::{UnlinkatFlags, linkat, symlinkat, unlinkat};

use super::{BeneathError, made_at, path_only, resolve, split};

/// A directory, open, to write below.
#[derive(Debug)]
pub struct Root {
    fd: OwnedFd,
    name: PathBuf,
}

impl Root {
    /// The directory `path`, which is ours: it is opened by name.
    ///
    /// # Errors
    /// [`BeneathError::Open`]
    pub fn open(path: &Path) -> Result<Root, BeneathError> {
        let opened = nix::fcntl::open(path, path_only() | OFlag::O_DIRECTORY, Mode::empty());
        let fd = opened.map_err(|source| BeneathError::Open {
            path: path.to_owned(),
            source: source.into(),
        })?;
        Ok(Root { fd, name: path.to_owned() })
    }

    /// A directory that was opened elsewhere; `name` is for messages.
    #[must_use]
    pub fn of(fd: OwnedFd, name: PathBuf) -> Root {
        Root { fd, name }
    }

    fn failed(&self, relative: &Path) -> impl Fn(Errno) -> BeneathError {
        let (root, path) = (self.name.clone(), self.name.join(relative));
        move |source| match source {
            Errno::EXDEV | Errno::ELOOP => BeneathError::Escapes { root: root.clone() },
            source => BeneathError::Open { path: path.clone(), source: source.into() },
        }
    }

    /// The open directory above `relative`, made if it is missing, and its last part.
    fn above<'a>(&self, relative: &'a Path) -> Result<(OwnedFd, &'a OsStr), Errno> {
        let (dir, name) = split(relative).ok_or(Errno::EINVAL)?;
        Ok((made_at(&self.fd, dir, None)?, name))
    }

    /// Makes a directory and the missing ones above it; one that exists is fine.
    ///
    /// # Errors
    /// [`BeneathError`], also if a file of that name exists.
    pub fn directory(&self, relative: &Path) -> Result<(), BeneathError> {
        made_at(&self.fd, relative, None).map(drop).map_err(self.failed(relative))
    }

    /// A new empty file, with the missing directories above it. A file or link of
    /// that name makes room; a directory does not.
    ///
    /// # Errors
    /// [`BeneathError`]
    pub fn create(&self, relative: &Path, mode: u32) -> Result<File, BeneathError> {
        let failed = self.failed(relative);
        let (dir, name) = self.above(relative).map_err(&failed)?;
        vacate(&dir, name).map_err(&failed)?;
        let flags = OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let file = openat(&dir, name, flags | OFlag::O_RDWR, Mode::from_bits_truncate(mode));
        file.map(File::from).map_err(&failed)
    }

    /// A symbolic link to `target`, wherever that leads.
    ///
    /// # Errors
    /// [`BeneathError`]
    pub fn symlink(&self, relative: &Path, target: &Path) -> Result<(), BeneathError> {
        let failed = self.failed(relative);
        let (dir, name) = self.above(relative).map_err(&failed)?;
        vacate(&dir, name).map_err(&failed)?;
        symlinkat(target, &dir, name).map_err(&failed)
    }

    /// Another name of the plain file `existing`, which is below the root as well.
    ///
    /// # Errors
    /// [`BeneathError`]
    pub fn hard_link(&self, relative: &Path, existing: &Path) -> Result<(), BeneathError> {
        let (failed, lost) = (self.failed(relative), self.failed(existing));
        let (from, old) = self.existing(existing).map_err(&lost)?;
        let (dir, name) = self.above(relative).map_err(&failed)?;
        if relative == existing {
            return Ok(());
        }
        vacate(&dir, name).map_err(&failed)?;
        linkat(&from, old, &dir, name, AtFlags::empty()).map_err(&failed)
    }

    /// The directory of something that exists, and its last part.
    fn existing<'a>(&self, relative: &'a Path) -> Result<(OwnedFd, &'a OsStr), Errno> {
        let (dir, name) = split(relative).ok_or(Errno::EINVAL)?;
        let dir = if dir.as_os_str().is_empty() { Path::new(".") } else { dir };
        Ok((resolve(&self.fd, dir, ResolveFlag::RESOLVE_BENEATH)?, name))
    }

    /// Gives a file another name, with the missing directories above it; a file or
    /// link of that name is replaced.
    ///
    /// # Errors
    /// [`BeneathError`]
    pub fn rename(&self, from: &Path, to: &Path) -> Result<(), BeneathError> {
        let (old_dir, old) = self.existing(from).map_err(self.failed(from))?;
        let failed = self.failed(to);
        let (dir, name) = self.above(to).map_err(&failed)?;
        nix::fcntl::renameat(&old_dir, old, &dir, name).map_err(&failed)
    }

    /// Removes a file or link; none is fine.
    ///
    /// # Errors
    /// [`BeneathError`]
    pub fn remove(&self, relative: &Path) -> Result<(), BeneathError> {
        let failed = self.failed(relative);
        match self.existing(relative) {
            Err(Errno::ENOENT) => Ok(()),
            Err(error) => Err(failed(error)),
            Ok((dir, name)) => vacate(&dir, name).map_err(&failed),
        }
    }

    /// Opens a plain file for reading, itself and not what a link of its name leads to.
    ///
    /// # Errors
    /// [`BeneathError`]
    pub fn open_file(&self, relative: &Path) -> Result<File, BeneathError> {
        let failed = self.failed(relative);
        let (dir, name) = self.existing(relative).map_err(&failed)?;
        // A pipe of that name must not block.
        let flags = OFlag::O_RDONLY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC | OFlag::O_NONBLOCK;
        let file = openat(&dir, name, flags, Mode::empty()).map_err(&failed)?;
        let kind = SFlag::from_bits_truncate(fstat(&file).map_err(&failed)?.st_mode);
        if kind & SFlag::S_IFMT != SFlag::S_IFREG {
            return Err(failed(Errno::EINVAL));
        }
        Ok(file.into())
    }

    /// Sets the permissions of a directory.
    ///
    /// # Errors
    /// [`BeneathError`]
    pub fn set_directory_mode(&self, relative: &Path, mode: u32) -> Result<(), BeneathError> {
        let failed = self.failed(relative);
        let found = resolve(&self.fd, relative, ResolveFlag::RESOLVE_BENEATH).map_err(&failed)?;
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let dir = openat(&found, ".", flags, Mode::empty()).map_err(&failed)?;
        nix::sys::stat::fchmod(&dir, Mode::from_bits_truncate(mode)).map_err(&failed)
    }
}

impl AsFd for Root {
    fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// Removes a file or link of that name, if there is one.
fn vacate(dir: &OwnedFd, name: &OsStr) -> Result<(), Errno> {
    match unlinkat(dir, name, UnlinkatFlags::NoRemoveDir) {
        Ok(()) | Err(Errno::ENOENT) => Ok(()),
        Err(other) => Err(other),
    }
}

impl BeneathError {
    /// The system's answer, if the path was not refused by us.
    #[must_use]
    pub fn system(&self) -> Option<&io::Error> {
        match self {
            BeneathError::Open { source, .. } => Some(source),
            BeneathError::Escapes { .. } | BeneathError::NotFound { .. } => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    #[test]
    fn what_is_written_stays_below_and_links_are_replaced() {
        let base = std::env::temp_dir().join(format!("kernel-root-{}", std::process::id()));
        std::fs::create_dir_all(base.join("in")).expect("temp dir");
        let base = base.canonicalize().expect("exists");
        std::fs::write(base.join("secret"), "outside").expect("write");
        let root = Root::open(&base.join("in")).expect("open");
        let p = Path::new;

        let mut file = root.create(p("a/b/file"), 0o640).expect("created");
        file.write_all(b"one").expect("write");
        symlink(base.join("secret"), base.join("in/link")).expect("link");
        root.create(p("link"), 0o600).expect("replaced").write_all(b"two").expect("write");
        assert_eq!(std::fs::read(base.join("secret")).expect("kept"), b"outside");

        root.symlink(p("out"), p("..")).expect("a link may lead anywhere");
        root.create(p("out/evil"), 0o600).expect_err("not through it");
        root.create(p("../evil"), 0o600).expect_err("nor up");
        root.hard_link(p("stolen"), p("out/secret")).expect_err("nor from there");
        assert!(!base.join("evil").exists() && !base.join("in/stolen").exists());

        root.hard_link(p("c/same"), p("a/b/file")).expect("linked");
        root.rename(p("c/same"), p("d/moved")).expect("renamed");
        let mut text = String::new();
        root.open_file(p("d/moved")).expect("open").read_to_string(&mut text).expect("read");
        assert_eq!(text, "one");
        root.open_file(p("out")).expect_err("a link is not a file");
        root.set_directory_mode(p("a/b"), 0o500).expect("mode");
        let mode = std::fs::metadata(base.join("in/a/b")).expect("there").permissions().mode();
        assert_eq!(mode & 0o777, 0o500);
        root.remove(p("d/moved")).expect("removed");
        root.remove(p("d/moved")).expect("gone is fine");
        root.create(p("a"), 0o600).expect_err("a directory stays");
        root.directory(p("a/b")).expect("there");
        std::fs::remove_dir_all(&base).expect("remove");
    }
}
