//! What archives are written through: paths tamed, content counted, undone on failure.

use std::fs::FileTimes;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use kernel::beneath::Root;

use super::{Limits, UnpackError, Unpacked};
use crate::fetch::uri::tame;

/// Permissions that an archive may set: none that run as somebody else.
const MODE: u32 = 0o777;
/// Things left out that are told one by one.
const TOLD: usize = 10;

/// Writes the entries of one archive.
pub(super) struct Writer<'a> {
    root: &'a Root,
    limits: Limits,
    unpacked: Unpacked,
    files: Vec<PathBuf>,
    /// Permissions that are set last: a directory may forbid writing.
    directories: Vec<(PathBuf, u32)>,
}

impl<'a> Writer<'a> {
    pub fn new(root: &'a Root, limits: Limits) -> Writer<'a> {
        let (files, directories) = (Vec::new(), Vec::new());
        Writer { root, limits, unpacked: Unpacked::default(), files, directories }
    }

    /// Counts an entry; its path below the root. Leading slashes are cut, as by tar.
    fn admit(&mut self, path: &Path) -> Result<PathBuf, UnpackError> {
        self.unpacked.entries += 1;
        if self.unpacked.entries > self.limits.entries {
            return Err(UnpackError::TooMany { limit: self.limits.entries });
        }
        tame(path).ok_or_else(|| UnpackError::Escapes { path: path.to_owned() })
    }

    /// A file with the content of `reader`.
    pub fn file(
        &mut self,
        path: &Path,
        mode: u32,
        time: Option<SystemTime>,
        reader: &mut dyn Read,
    ) -> Result<(), UnpackError> {
        let path = self.admit(path)?;
        let mut file = self.root.create(&path, mode & MODE).map_err(UnpackError::at(&path))?;
        self.files.push(path.clone());
        let mut buffer = vec![0; 128 << 10];
        loop {
            let count = match reader.read(&mut buffer) {
                Ok(0) => break,
                Ok(count) => count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(source) => return Err(UnpackError::Entry { path, source }),
            };
            self.unpacked.bytes += count as u64;
            if self.unpacked.bytes > self.limits.bytes {
                return Err(UnpackError::TooLarge { limit: self.limits.bytes });
            }
            let written = file.write_all(&buffer[..count]);
            written.map_err(|source| UnpackError::Write { path: path.clone(), source })?;
        }
        if let Some(time) = time {
            // A time that the file system cannot store is no reason to fail.
            let _ = file.set_times(FileTimes::new().set_modified(time));
        }
        Ok(())
    }

    /// A directory.
    pub fn directory(&mut self, path: &Path, mode: u32) -> Result<(), UnpackError> {
        let path = self.admit(path)?;
        if path.as_os_str().is_empty() {
            return Ok(());
        }
        self.root.directory(&path).map_err(UnpackError::at(&path))?;
        self.directories.push((path, mode & MODE));
        Ok(())
    }

    /// A symbolic link; it may lead anywhere, but nothing is unpacked through one that
    /// leaves the root.
    pub fn symlink(&mut self, path: &Path, target: &Path) -> Result<(), UnpackError> {
        let path = self.admit(path)?;
        self.root.symlink(&path, target).map_err(UnpackError::at(&path))?;
        self.files.push(path);
        Ok(())
    }

    /// Another name of an entry that came before.
    pub fn hard_link(&mut self, path: &Path, existing: &Path) -> Result<(), UnpackError> {
        let path = self.admit(path)?;
        let existing =
            tame(existing).ok_or_else(|| UnpackError::Escapes { path: existing.to_owned() })?;
        self.root.hard_link(&path, &existing).map_err(UnpackError::at(&path))?;
        self.files.push(path);
        Ok(())
    }

    /// Passes over an entry.
    pub fn leave_out(&mut self, path: &Path, what: &str) -> Result<(), UnpackError> {
        self.admit(path)?;
        self.unpacked.entries -= 1;
        if self.unpacked.left_out.len() < TOLD {
            self.unpacked.left_out.push(format!("'{}': {what}", path.display()));
        }
        Ok(())
    }

    /// Sets the permissions of directories, the innermost first.
    pub fn finish(&mut self) -> Result<(), UnpackError> {
        for (path, mode) in self.directories.drain(..).rev() {
            self.root.set_directory_mode(&path, mode).map_err(UnpackError::at(&path))?;
        }
        Ok(())
    }

    /// Removes every file again: a bomb must not keep the disk full.
    pub fn undo(&mut self) {
        for path in self.files.drain(..).rev() {
            // What cannot be removed goes with the sandbox.
            let _ = self.root.remove(&path);
        }
    }

    pub fn into_unpacked(self) -> Unpacked {
        self.unpacked
    }
}
