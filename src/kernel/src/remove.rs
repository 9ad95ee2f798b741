//! Removing a directory tree whose content belongs to somebody else.
//!
//! Everything is done relative to open directories: no link is followed, no mount
//! entered (file systems and bind mounts alike), `..` never trusted. What cannot be
//! removed is left and counted, the rest goes. Few descriptors are open however
//! deep the tree is. Blocking; the caller's `pace` is asked every few hundred
//! entries whether to go on, and may take its time to answer.

use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use thiserror::Error;

use crate::walk::{entry, list, open_below, own, parent, stat};

/// Directories that are open at a time; those further up are closed and found
/// again through `..`, checked by their inode.
const OPEN: usize = 16;
/// Bytes of directory entries that are read at once.
const BUFFER: usize = 32 * 1024;
/// Entries between two questions to `pace`.
const STRIDE: u64 = 256;
/// How often a directory is read again that got new entries meanwhile.
const AGAIN: u8 = 3;

/// What became of a tree.
#[derive(Debug, Default)]
pub struct Removed {
    /// Files and directories that are gone.
    pub entries: u64,
    /// What could not be removed, directories above it not counted.
    pub kept: u64,
}

/// Why a tree is still there, at least in part.
#[derive(Debug, Error)]
pub enum RemoveError {
    /// The first thing that could not be removed, of several perhaps.
    #[error("failed to remove '{path}' ({kept} entries are left)")]
    Entry {
        /// The file or directory.
        path: PathBuf,
        /// How many could not be removed.
        kept: u64,
        /// The system's words.
        source: io::Error,
    },
    /// A directory was moved out of the tree while it was removed.
    #[error("'{path}' was changed while it was removed")]
    Moved {
        /// The top of the tree.
        path: PathBuf,
    },
    /// `pace` said no.
    #[error("removing '{path}' was interrupted")]
    Interrupted {
        /// The top of the tree.
        path: PathBuf,
    },
}

/// A directory on the way down.
struct Level {
    /// `None` while it is closed.
    fd: Option<OwnedFd>,
    device: (u32, u32),
    inode: u64,
    /// Its name in the level above.
    name: CString,
    /// Entries are still to be read.
    unread: bool,
    /// How often it may still be read again.
    again: u8,
    /// Names of directories still to be entered, each with its NUL, last first.
    below: Vec<u8>,
}

struct Removal<'a> {
    top: &'a Path,
    base: OwnedFd,
    levels: Vec<Level>,
    done: Removed,
    first: Option<(PathBuf, io::Error)>,
    asked: u64,
    pace: &'a mut dyn FnMut(u64) -> bool,
}

/// Removes the file or the whole directory tree at `path`; one that is not there is
/// fine. A symbolic link at `path` is removed itself. The directory that holds
/// `path` must be ours: it is opened by name.
///
/// # Errors
/// [`RemoveError`]; what could be removed is gone all the same.
pub fn tree(path: &Path, pace: &mut dyn FnMut(u64) -> bool) -> Result<Removed, RemoveError> {
    let failed = |source: io::Error| RemoveError::Entry { path: path.to_owned(), kept: 1, source };
    let (Some(dir), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(failed(io::Error::from(io::ErrorKind::InvalidInput)));
    };
    let name = CString::new(name.as_bytes()).map_err(|e| failed(e.into()))?;
    let base = match open_by_name(dir) {
        Ok(base) => base,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Removed::default()),
        Err(error) => return Err(failed(error)),
    };
    let mut removal = Removal {
        top: path,
        base,
        levels: Vec::new(),
        done: Removed::default(),
        first: None,
        asked: 0,
        pace,
    };
    removal.start(name)?;
    removal.run()?;
    match removal.first {
        None => Ok(removal.done),
        Some((path, source)) => Err(RemoveError::Entry { path, kept: removal.done.kept, source }),
    }
}

impl Removal<'_> {
    fn start(&mut self, name: CString) -> Result<(), RemoveError> {
        match unlink(self.base.as_fd(), &name, 0) {
            Ok(()) => self.done.entries += 1,
            Err(error) if is(&error, &[libc::EISDIR, libc::EPERM]) => {
                let base = self.base.try_clone();
                match base.and_then(|base| level(base.as_fd(), name)) {
                    Ok(level) => self.levels.push(level),
                    Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                    Err(error) => self.keep(None, error),
                }
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => self.keep(None, error),
        }
        Ok(())
    }

    fn run(&mut self) -> Result<(), RemoveError> {
        let mut buffer = vec![0; BUFFER];
        while let Some(level) = self.levels.last() {
            if level.unread {
                self.empty(&mut buffer)?;
            } else if level.below.is_empty() {
                self.up()?;
            } else {
                self.down();
            }
        }
        Ok(())
    }

    /// Notes what stays.
    fn keep(&mut self, name: Option<&CStr>, error: io::Error) {
        self.done.kept += 1;
        if self.first.is_none() {
            let mut path = self.top.to_owned();
            let inner = self.levels.iter().skip(1).map(|level| level.name.as_c_str());
            for part in inner.chain(name) {
                path.push(std::ffi::OsStr::from_bytes(part.to_bytes()));
            }
            self.first = Some((path, error));
        }
    }

    /// Reads one buffer of the current directory and removes what is no directory.
    fn empty(&mut self, buffer: &mut [u8]) -> Result<(), RemoveError> {
        let Some(level) = self.levels.last_mut() else { return Ok(()) };
        let Some(fd) = level.fd.as_ref().and_then(|fd| fd.try_clone().ok()) else {
            return Err(RemoveError::Moved { path: self.top.to_owned() });
        };
        let read = match list(fd.as_fd(), buffer) {
            Ok(read) => read,
            Err(error) => {
                level.unread = false;
                self.keep(None, error);
                return Ok(());
            }
        };
        level.unread = read > 0;
        let mut rest = &buffer[..read];
        while let Some((name, kind, after)) = entry(rest) {
            rest = after;
            if matches!(name.to_bytes(), b"." | b"..") {
                continue;
            }
            let is_dir = kind == libc::DT_DIR || {
                match unlink(fd.as_fd(), name, 0) {
                    Ok(()) => {
                        self.done.entries += 1;
                        false
                    }
                    Err(error) if error.kind() == io::ErrorKind::NotFound => false,
                    Err(error) if is(&error, &[libc::EISDIR]) => true,
                    Err(error) => {
                        self.keep(Some(name), error);
                        false
                    }
                }
            };
            if is_dir && let Some(level) = self.levels.last_mut() {
                level.below.extend_from_slice(name.to_bytes_with_nul());
            }
        }
        self.ask()
    }

    fn ask(&mut self) -> Result<(), RemoveError> {
        if self.done.entries < self.asked + STRIDE {
            return Ok(());
        }
        let since = self.done.entries - self.asked;
        self.asked = self.done.entries;
        if (self.pace)(since) {
            return Ok(());
        }
        Err(RemoveError::Interrupted { path: self.top.to_owned() })
    }

    /// Enters the next directory. One that is mounted over stays.
    fn down(&mut self) {
        let Some(last) = self.levels.last_mut() else { return };
        let end = last.below.len().saturating_sub(1);
        let start = last.below[..end].iter().rposition(|b| *b == 0).map_or(0, |at| at + 1);
        let name = CString::from_vec_with_nul(last.below.split_off(start)).unwrap_or_default();
        let Some(fd) = &last.fd else { return };
        match level(fd.as_fd(), name.clone()) {
            Ok(next) => {
                self.levels.push(next);
                if let Some(far) = self.levels.len().checked_sub(OPEN + 1)
                    && far > 0
                {
                    // Its entries are read: nothing is lost with the position.
                    self.levels[far].fd = None;
                }
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => self.keep(Some(&name), error),
        }
    }

    /// Leaves a directory and removes it.
    fn up(&mut self) -> Result<(), RemoveError> {
        let moved = || RemoveError::Moved { path: self.top.to_owned() };
        let Some(left) = self.levels.pop() else { return Ok(()) };
        if let Some(above) = self.levels.last_mut()
            && above.fd.is_none()
        {
            let again = left.fd.as_ref().and_then(|fd| parent(fd.as_fd()).ok());
            let same = |fd: &OwnedFd| {
                stat(fd.as_fd(), c"")
                    .is_ok_and(|s| (s.device, s.inode) == (above.device, above.inode))
            };
            above.fd = again.filter(same);
            if above.fd.is_none() {
                return Err(moved());
            }
        }
        let above = self.levels.last().map_or(Some(&self.base), |level| level.fd.as_ref());
        let Some(above) = above else { return Err(moved()) };
        match unlink(above.as_fd(), &left.name, libc::AT_REMOVEDIR) {
            Ok(()) => self.done.entries += 1,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) if is(&error, &[libc::ENOTEMPTY, libc::EEXIST]) && left.again > 0 => {
                // Somebody goes on writing, or something in it had to stay.
                if self.done.kept == 0 && rewind(&left) {
                    let again = left.again - 1;
                    self.levels.push(Level { unread: true, again, ..left });
                }
            }
            // What is in it was counted already.
            Err(error) if is(&error, &[libc::ENOTEMPTY, libc::EEXIST]) && self.done.kept > 0 => {}
            Err(error) => {
                let name = left.name.clone();
                self.keep((!self.levels.is_empty()).then_some(&*name), error);
            }
        }
        self.ask()
    }
}

fn level(dir: BorrowedFd<'_>, name: CString) -> io::Result<Level> {
    let fd = open_below(dir, &name, libc::O_RDONLY | libc::O_NONBLOCK)?;
    let found = stat(fd.as_fd(), c"")?;
    Ok(Level {
        fd: Some(fd),
        device: found.device,
        inode: found.inode,
        name,
        unread: true,
        again: AGAIN,
        below: Vec::new(),
    })
}

fn is(error: &io::Error, codes: &[i32]) -> bool {
    error.raw_os_error().is_some_and(|code| codes.contains(&code))
}

fn open_by_name(path: &Path) -> io::Result<OwnedFd> {
    let name = CString::new(path.as_os_str().as_bytes())?;
    let flags = libc::O_PATH | libc::O_DIRECTORY | libc::O_CLOEXEC;
    // SAFETY: `name` is a C string.
    own(unsafe { libc::open(name.as_ptr(), flags) })
}

fn unlink(dir: BorrowedFd<'_>, name: &CStr, flags: libc::c_int) -> io::Result<()> {
    // SAFETY: `name` is a C string.
    if unsafe { libc::unlinkat(dir.as_raw_fd(), name.as_ptr(), flags) } == 0 {
        return Ok(());
    }
    Err(io::Error::last_os_error())
}

fn rewind(level: &Level) -> bool {
    let Some(fd) = &level.fd else { return false };
    // SAFETY: a plain call on a descriptor that is ours.
    unsafe { libc::lseek(fd.as_raw_fd(), 0, libc::SEEK_SET) == 0 }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    struct Temp(PathBuf);

    impl Temp {
        fn new(name: &str) -> Temp {
            let path = std::env::temp_dir().join(format!("remove-{name}-{}", std::process::id()));
            let _ = fs::remove_dir_all(&path);
            fs::create_dir_all(path.join("tree/a/b")).expect("directories");
            Temp(path)
        }

        fn tree(&self) -> PathBuf {
            self.0.join("tree")
        }
    }

    impl Drop for Temp {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    fn all(path: &Path) -> Result<Removed, RemoveError> {
        tree(path, &mut |_| true)
    }

    #[test]
    fn everything_below_goes_and_links_lead_nowhere() {
        let temp = Temp::new("all");
        let (top, outside) = (temp.tree(), temp.0.join("outside"));
        fs::create_dir(&outside).expect("directory");
        fs::write(outside.join("kept"), "kept").expect("file");
        symlink(&outside, top.join("a/b/link")).expect("link");
        symlink("nowhere", top.join("dangling")).expect("link");
        for n in 0..2000 {
            fs::write(top.join(format!("a/{n}")), "").expect("file");
        }
        nix::unistd::mkfifo(&top.join("pipe"), nix::sys::stat::Mode::S_IRUSR).expect("a pipe");
        assert_eq!(all(&top).expect("removed").entries, 2006);
        assert!(!top.exists() && outside.join("kept").exists());
        assert_eq!(all(&top).expect("nothing there").entries, 0);
        assert_eq!(all(&temp.0.join("no/such")).expect("nothing there").entries, 0);
    }

    #[test]
    fn a_link_at_the_top_is_removed_itself() {
        let temp = Temp::new("link");
        let link = temp.0.join("link");
        symlink(temp.tree(), &link).expect("link");
        assert_eq!(all(&link).expect("removed").entries, 1);
        assert!(temp.tree().join("a/b").is_dir());
    }

    #[test]
    fn deep_trees_need_few_descriptors() {
        let temp = Temp::new("deep");
        let mut at = temp.tree();
        for _ in 0..300 {
            at.push("d");
        }
        fs::create_dir_all(&at).expect("directories");
        fs::write(at.join("file"), "").expect("file");
        assert_eq!(all(&temp.tree()).expect("removed").entries, 304);
        assert!(!temp.tree().exists());
    }

    #[test]
    fn a_pace_that_says_no_stops_it_and_it_can_go_on_later() {
        let temp = Temp::new("pace");
        for n in 0..5000 {
            fs::write(temp.tree().join(n.to_string()), "").expect("file");
        }
        let mut asked = 0;
        let error = tree(&temp.tree(), &mut |n| {
            asked += n;
            false
        });
        assert!(matches!(error, Err(RemoveError::Interrupted { .. })), "{error:?}");
        assert!((STRIDE..5000).contains(&asked), "{asked}");
        all(&temp.tree()).expect("the rest");
        assert!(!temp.tree().exists());
    }
}
