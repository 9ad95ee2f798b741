//! Files of one open directory whose owner may change it under our feet.
//!
//! Every name is looked up below the descriptor and never through a link; a file
//! that has another name elsewhere is not ours to write to.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use nix::fcntl::{AtFlags, OFlag, openat, renameat};
use nix::sys::stat::Mode;
use nix::unistd::{Gid, Uid, UnlinkatFlags, unlinkat};

/// An open directory.
#[derive(Debug)]
pub struct Directory(OwnedFd);

impl Directory {
    /// Opens `path`; its last part must not be a link.
    ///
    /// # Errors
    /// The system's.
    pub fn open(path: &Path) -> io::Result<Directory> {
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        Ok(Directory(nix::fcntl::open(path, flags, Mode::empty())?))
    }

    /// Opens the file `name` for writing and makes it if it is missing. Whatever else
    /// bears the name, a link, a pipe, a file with a second name, is removed first.
    ///
    /// # Errors
    /// The system's; a directory is in the way.
    pub fn file(&self, name: &str, owner: Option<(u32, u32)>) -> io::Result<File> {
        // Waits for nobody, should the name be a pipe's.
        let flags = OFlag::O_WRONLY | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC;
        if let Ok(file) = openat(&self.0, name, flags, Mode::empty()) {
            let file = File::from(file);
            let metadata = file.metadata()?;
            if metadata.is_file() && metadata.nlink() == 1 {
                return Ok(file);
            }
        }
        self.replace(name, owner)
    }

    /// Makes the file `name` anew; what bore the name is gone.
    ///
    /// # Errors
    /// The system's; a directory is in the way.
    pub fn replace(&self, name: &str, owner: Option<(u32, u32)>) -> io::Result<File> {
        let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_CLOEXEC;
        let mut last = io::ErrorKind::AlreadyExists.into();
        // Its owner may make one at the same time, but not for ever.
        for _ in 0..16 {
            self.remove(name)?;
            match openat(&self.0, name, flags, Mode::from_bits_truncate(0o644)) {
                Ok(file) => {
                    if let Some((uid, gid)) = owner {
                        let (uid, gid) = (Uid::from_raw(uid), Gid::from_raw(gid));
                        let empty = AtFlags::AT_EMPTY_PATH;
                        nix::unistd::fchownat(file.as_fd(), "", Some(uid), Some(gid), empty)?;
                    }
                    return Ok(file.into());
                }
                Err(nix::errno::Errno::EEXIST) => {}
                Err(error) => last = error.into(),
            }
        }
        Err(last)
    }

    /// Whether something bears the name.
    #[must_use]
    pub fn exists(&self, name: &str) -> bool {
        nix::sys::stat::fstatat(&self.0, name, AtFlags::AT_SYMLINK_NOFOLLOW).is_ok()
    }

    /// Gives a file another name in this directory; what bore it is gone.
    ///
    /// # Errors
    /// The system's.
    pub fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        Ok(renameat(&self.0, from, &self.0, to)?)
    }

    /// Removes a file; one that is missing is fine.
    ///
    /// # Errors
    /// The system's; it is a directory.
    pub fn remove(&self, name: &str) -> io::Result<()> {
        match unlinkat(&self.0, name, UnlinkatFlags::NoRemoveDir) {
            Ok(()) | Err(nix::errno::Errno::ENOENT) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn only_plain_files_with_one_name_are_written() {
        let path = std::env::temp_dir().join(format!("directory-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&path);
        std::fs::create_dir_all(path.join("in")).expect("create");
        std::fs::write(path.join("secret"), "kept").expect("write");
        let directory = Directory::open(&path.join("in")).expect("open");
        let write = |name: &str| directory.file(name, None).and_then(|mut f| f.write_all(b"x"));
        write("plain").expect("a new file");
        symlink(path.join("secret"), path.join("in/link")).expect("link");
        std::fs::hard_link(path.join("secret"), path.join("in/hard")).expect("link");
        crate::pipe::make(&path.join("in/pipe"), None).expect("mkfifo");
        for name in ["plain", "link", "hard", "pipe"] {
            write(name).expect(name);
            assert_eq!(std::fs::read(path.join("in").join(name)).expect(name), b"x");
        }
        assert_eq!(std::fs::read(path.join("secret")).expect("read"), b"kept");
        std::fs::create_dir(path.join("in/dir")).expect("create");
        assert!(write("dir").is_err());
        directory.rename("plain", "plain.1").expect("rename");
        directory.remove("plain").expect("gone is fine");
        assert!(directory.exists("plain.1") && !directory.exists("plain"));
        assert!(Directory::open(&path.join("in/link")).is_err());
        std::fs::remove_dir_all(&path).expect("remove");
    }
}
