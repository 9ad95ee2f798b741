//! Walking a directory tree that belongs to somebody else, a few entries at a time.
//!
//! Made for counting what a container has written while it goes on writing, and
//! for marking trees with a project id. Everything is relative to open
//! directories: no link is followed, no mount entered (file systems and bind
//! mounts alike), `..` never trusted. What vanishes meanwhile is left out. A
//! [`Walk`] keeps few descriptors however deep the tree is, and never blocks on
//! anything but the file system: only directories are opened.

use std::collections::HashSet;
use std::ffi::{CStr, CString};
use std::fs::File;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use crate::Error;

/// Directories of one walk that are open at a time; those further up are closed
/// and found again through `..`, checked by their inode.
const OPEN: usize = 8;

/// Bytes of directory entries that are read at once.
const BUFFER: usize = 16 * 1024;

/// What a walk found out about one file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stat {
    /// Its inode.
    pub inode: u64,
    /// Device, major and minor.
    pub(crate) device: (u32, u32),
    mount: u64,
    /// Hard links.
    pub links: u32,
    /// Type and permissions.
    pub mode: u32,
    /// Bytes that it occupies: holes of sparse files do not count.
    pub bytes: u64,
}

impl Stat {
    /// Whether it is a directory.
    #[must_use]
    pub fn is_dir(&self) -> bool {
        self.mode & libc::S_IFMT == libc::S_IFDIR
    }

    /// Whether it is a regular file.
    #[must_use]
    pub fn is_file(&self) -> bool {
        self.mode & libc::S_IFMT == libc::S_IFREG
    }
}

/// What is told of every entry: its directory, its name there, and itself. The
/// top comes first, as `.` of itself.
pub type Visit<'a> = dyn FnMut(BorrowedFd<'_>, &CStr, &Stat) + 'a;

/// How far a walk came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Progress {
    /// There is more to see.
    More,
    /// Everything was seen; the sum is final.
    Done,
}

/// A directory on the way down.
#[derive(Debug)]
struct Level {
    /// `None` while it is closed.
    fd: Option<OwnedFd>,
    device: (u32, u32),
    inode: u64,
    /// Entries are still to be read.
    unread: bool,
    /// Names of directories still to be entered, each with its NUL, last first.
    below: Vec<u8>,
}

/// A walk under way.
#[derive(Debug)]
pub struct Walk {
    path: PathBuf,
    levels: Vec<Level>,
    /// Of the top: what has another one is mounted over.
    mount: u64,
    /// Directories that are not entered and not counted.
    excluded: HashSet<((u32, u32), u64)>,
    /// Files with more links that were counted.
    linked: HashSet<((u32, u32), u64)>,
    bytes: u64,
    entries: u64,
    started: bool,
    buffer: Vec<u8>,
}

impl Walk {
    /// Opens the top, following links to it; `excluded` are relative paths of
    /// directories below it that do not belong to it.
    ///
    /// # Errors
    /// The top is no directory, or cannot be opened.
    pub fn open(path: &Path, excluded: &[PathBuf]) -> Result<Walk, Error> {
        let failed = |e| Error::new("open", path.display().to_string(), e);
        let name = CString::new(path.as_os_str().as_bytes()).map_err(|e| failed(e.into()))?;
        let flags = libc::O_RDONLY | libc::O_DIRECTORY | libc::O_CLOEXEC | libc::O_NONBLOCK;
        // SAFETY: `name` is a C string.
        let fd = unsafe { libc::open(name.as_ptr(), flags) };
        let fd = own(fd).map_err(failed)?;
        let top = stat(fd.as_fd(), c"").map_err(failed)?;
        let mut out = HashSet::new();
        for path in excluded {
            let Ok(name) = CString::new(path.as_os_str().as_bytes()) else { continue };
            // What is not there needs no exclusion.
            let Ok(below) = open_below(fd.as_fd(), &name, libc::O_PATH) else { continue };
            if let Ok(stat) = stat(below.as_fd(), c"") {
                out.insert((stat.device, stat.inode));
            }
        }
        let level = Level {
            fd: Some(fd),
            device: top.device,
            inode: top.inode,
            unread: true,
            below: Vec::new(),
        };
        Ok(Walk {
            path: path.to_owned(),
            levels: vec![level],
            mount: top.mount,
            excluded: out,
            linked: HashSet::new(),
            bytes: top.bytes,
            entries: 1,
            started: false,
            buffer: Vec::new(),
        })
    }

    /// Bytes that all files seen so far occupy; files with several links once.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Files and directories seen so far.
    #[must_use]
    pub fn entries(&self) -> u64 {
        self.entries
    }

    /// Goes on for about `entries` entries (a buffer full more at most).
    ///
    /// # Errors
    /// A directory cannot be read for another reason than that it is gone.
    pub fn step(&mut self, entries: u64, visit: &mut Visit<'_>) -> Result<Progress, Error> {
        if !self.started {
            self.started = true;
            if let Some(fd) = self.levels.first().and_then(|level| level.fd.as_ref()) {
                let top = stat(fd.as_fd(), c"").map_err(|e| self.failed("look at", e))?;
                visit(fd.as_fd(), c".", &top);
            }
        }
        let until = self.entries.saturating_add(entries);
        while self.entries < until {
            let Some(level) = self.levels.last() else {
                self.linked = HashSet::new();
                return Ok(Progress::Done);
            };
            if level.unread {
                self.read(visit)?;
            } else if level.below.is_empty() {
                self.up();
            } else {
                self.down()?;
            }
        }
        Ok(Progress::More)
    }

    fn failed(&self, verb: &'static str, error: io::Error) -> Error {
        Error::new(verb, format!("a directory below {}", self.path.display()), error)
    }

    /// Reads one buffer of entries of the current directory.
    fn read(&mut self, visit: &mut Visit<'_>) -> Result<(), Error> {
        self.buffer.resize(BUFFER, 0);
        let Some(level) = self.levels.last_mut() else { return Ok(()) };
        let Some(fd) = &level.fd else { return Ok(()) };
        let read = match list(fd.as_fd(), &mut self.buffer) {
            Ok(0) => {
                level.unread = false;
                return Ok(());
            }
            Ok(read) => read,
            Err(error) => {
                level.unread = false;
                return Err(self.failed("read", error));
            }
        };
        let mut rest = &self.buffer[..read];
        while let Some((name, _, after)) = entry(rest) {
            rest = after;
            if matches!(name.to_bytes(), b"." | b"..") {
                continue;
            }
            self.entries += 1;
            let Ok(found) = stat(fd.as_fd(), name) else { continue };
            let key = (found.device, found.inode);
            if found.mount != self.mount || self.excluded.contains(&key) {
                continue;
            }
            let several = !found.is_dir() && found.links > 1;
            if several && !self.linked.insert(key) {
                continue;
            }
            self.bytes = self.bytes.saturating_add(found.bytes);
            visit(fd.as_fd(), name, &found);
            if found.is_dir() {
                level.below.extend_from_slice(name.to_bytes_with_nul());
            }
        }
        Ok(())
    }

    /// Enters the next directory; one that is gone, or no directory any more, or
    /// mounted over, is left out.
    fn down(&mut self) -> Result<(), Error> {
        self.entries += 1;
        let Some(level) = self.levels.last_mut() else { return Ok(()) };
        let end = level.below.len().saturating_sub(1);
        let start = level.below[..end].iter().rposition(|b| *b == 0).map_or(0, |at| at + 1);
        let name = CString::from_vec_with_nul(level.below.split_off(start)).unwrap_or_default();
        let Some(fd) = &level.fd else { return Ok(()) };
        let below = match open_below(fd.as_fd(), &name, libc::O_RDONLY) {
            Ok(below) => below,
            Err(error) => {
                let gone = [libc::ENOENT, libc::ENOTDIR, libc::ELOOP, libc::EXDEV, libc::EACCES];
                let is_gone = error.raw_os_error().is_some_and(|code| gone.contains(&code));
                return if is_gone { Ok(()) } else { Err(self.failed("open", error)) };
            }
        };
        let Ok(found) = stat(below.as_fd(), c"") else { return Ok(()) };
        if self.excluded.contains(&(found.device, found.inode)) {
            return Ok(());
        }
        self.levels.push(Level {
            fd: Some(below),
            device: found.device,
            inode: found.inode,
            unread: true,
            below: Vec::new(),
        });
        if let Some(far) = self.levels.len().checked_sub(OPEN + 1)
            && far > 0
        {
            // Its entries are read: nothing is lost with the position.
            self.levels[far].fd = None;
        }
        Ok(())
    }

    /// Leaves a directory; one further up that was closed is opened again.
    fn up(&mut self) {
        let Some(left) = self.levels.pop() else { return };
        let Some(level) = self.levels.last_mut() else { return };
        if level.fd.is_some() {
            return;
        }
        let again = left.fd.as_ref().and_then(|fd| parent(fd.as_fd()).ok());
        let same = |fd: &OwnedFd| {
            stat(fd.as_fd(), c"").is_ok_and(|s| (s.device, s.inode) == (level.device, level.inode))
        };
        level.fd = again.filter(same);
        if level.fd.is_none() {
            // Moved away under our feet: what it still had is not seen this time.
            level.below = Vec::new();
            let rest = self.levels.iter().rposition(|level| level.fd.is_some());
            self.levels.truncate(rest.map_or(0, |at| at + 1));
        }
    }
}

/// Reads directory entries into the buffer; how many bytes, 0 at the end or if the
/// directory was removed meanwhile.
pub(crate) fn list(dir: BorrowedFd<'_>, buffer: &mut [u8]) -> io::Result<usize> {
    // SAFETY: the buffer has that many bytes and lives through the call.
    let read = unsafe {
        libc::syscall(libc::SYS_getdents64, dir.as_raw_fd(), buffer.as_mut_ptr(), buffer.len())
    };
    match usize::try_from(read) {
        Ok(read) => Ok(read),
        Err(_) => match io::Error::last_os_error() {
            error if error.raw_os_error() == Some(libc::ENOENT) => Ok(0),
            error => Err(error),
        },
    }
}

pub(crate) fn own(fd: libc::c_int) -> io::Result<OwnedFd> {
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has just given it to us.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Opens a directory below `dir` without leaving it or its mount, and without
/// following links.
pub(crate) fn open_below(
    dir: BorrowedFd<'_>,
    name: &CStr,
    flags: libc::c_int,
) -> io::Result<OwnedFd> {
    // SAFETY: all zeroes is a valid `open_how`.
    let mut how: libc::open_how = unsafe { MaybeUninit::zeroed().assume_init() };
    how.flags = (flags | libc::O_DIRECTORY | libc::O_CLOEXEC | libc::O_NOFOLLOW) as u64;
    how.resolve = libc::RESOLVE_BENEATH | libc::RESOLVE_NO_SYMLINKS | libc::RESOLVE_NO_XDEV;
    // SAFETY: `name` is a C string, `how` has the given size; both outlive the call.
    let fd = unsafe {
        libc::syscall(
            libc::SYS_openat2,
            dir.as_raw_fd(),
            name.as_ptr(),
            &raw const how,
            size_of::<libc::open_how>(),
        )
    };
    own(fd as libc::c_int)
}

pub(crate) fn parent(dir: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    let flags = libc::O_RDONLY | libc::O_DIRECTORY | libc::O_CLOEXEC;
    // SAFETY: the name is a C string.
    own(unsafe { libc::openat(dir.as_raw_fd(), c"..".as_ptr(), flags) })
}

/// Looks at `name` in `dir`, or at `dir` itself if it is empty; links are not
/// followed, nothing is mounted by it.
pub(crate) fn stat(dir: BorrowedFd<'_>, name: &CStr) -> io::Result<Stat> {
    let mut out = MaybeUninit::<libc::statx>::zeroed();
    let flags = libc::AT_SYMLINK_NOFOLLOW
        | libc::AT_NO_AUTOMOUNT
        | libc::AT_EMPTY_PATH
        | libc::AT_STATX_DONT_SYNC;
    let mask = libc::STATX_TYPE
        | libc::STATX_MODE
        | libc::STATX_NLINK
        | libc::STATX_INO
        | libc::STATX_BLOCKS
        | libc::STATX_MNT_ID;
    // SAFETY: `name` is a C string, `out` is a whole `statx`.
    let done =
        unsafe { libc::statx(dir.as_raw_fd(), name.as_ptr(), flags, mask, out.as_mut_ptr()) };
    if done != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: zeroed at first, and written by the kernel.
    let out = unsafe { out.assume_init() };
    Ok(Stat {
        inode: out.stx_ino,
        device: (out.stx_dev_major, out.stx_dev_minor),
        mount: out.stx_mnt_id,
        links: out.stx_nlink,
        mode: u32::from(out.stx_mode),
        bytes: out.stx_blocks.saturating_mul(512),
    })
}

/// The first name of a buffer of `linux_dirent64` with its `d_type`, and what comes
/// after it.
pub(crate) fn entry(buffer: &[u8]) -> Option<(&CStr, u8, &[u8])> {
    const KIND: usize = 18;
    const NAME: usize = 19;
    let length = usize::from(u16::from_ne_bytes([*buffer.get(16)?, *buffer.get(17)?]));
    let (entry, after) = (buffer.get(..length)?, buffer.get(length..)?);
    Some((CStr::from_bytes_until_nul(entry.get(NAME..)?).ok()?, *entry.get(KIND)?, after))
}

/// Opens an entry that was visited if it still is a regular file or a directory,
/// without following links; a pipe or device that took its place is not opened
/// for use (`O_NONBLOCK`, and the caller is given only what it asked for).
///
/// # Errors
/// The kernel's; `InvalidInput` if it is neither file nor directory.
pub fn open_entry(dir: BorrowedFd<'_>, name: &CStr) -> io::Result<File> {
    let flags = libc::O_RDONLY | libc::O_NOFOLLOW | libc::O_NONBLOCK | libc::O_CLOEXEC;
    // SAFETY: `name` is a C string.
    let file = File::from(own(unsafe { libc::openat(dir.as_raw_fd(), name.as_ptr(), flags) })?);
    let kind = file.metadata()?.file_type();
    if kind.is_file() || kind.is_dir() {
        return Ok(file);
    }
    Err(io::Error::new(io::ErrorKind::InvalidInput, "neither a file nor a directory"))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{MetadataExt, symlink};
    use std::process::Command;

    use super::*;

    struct Tree(PathBuf);

    impl Tree {
        fn new(name: &str) -> Tree {
            let path = std::env::temp_dir().join(format!("walk-{name}-{}", std::process::id()));
            let _ = fs::remove_dir_all(&path);
            fs::create_dir_all(&path).expect("a directory");
            Tree(path)
        }
    }

    impl Drop for Tree {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    fn whole(path: &Path, excluded: &[PathBuf], step: u64) -> Walk {
        let mut walk = Walk::open(path, excluded).expect("open");
        while walk.step(step, &mut |_, _, _| {}).expect("step") == Progress::More {}
        walk
    }

    /// What `du` says, in bytes.
    fn du(path: &Path, more: &[&str]) -> u64 {
        let output = Command::new("du").args(["-s", "-x", "-B1"]).args(more).arg(path).output();
        let text = String::from_utf8(output.expect("du").stdout).expect("text");
        text.split('\t').next().and_then(|n| n.parse().ok()).expect("a number")
    }

    #[test]
    fn counts_what_du_counts() {
        let tree = Tree::new("du");
        let at = |name: &str| tree.0.join(name);
        fs::create_dir_all(at("a/b/c")).expect("dirs");
        for n in 0..300 {
            fs::write(at(&format!("a/file-{n}")), vec![1; 3000 + n * 7]).expect("write");
        }
        fs::write(at("a/b/c/big"), vec![1; 1 << 20]).expect("write");
        fs::hard_link(at("a/b/c/big"), at("again")).expect("link");
        fs::hard_link(at("a/b/c/big"), at("a/b/again")).expect("link");
        symlink("/usr", at("a/usr")).expect("symlink");
        symlink("big", at("a/b/c/link")).expect("symlink");
        let sparse = File::create(at("sparse")).expect("create");
        sparse.set_len(1 << 40).expect("a hole");
        for step in [1, 7, 100_000] {
            let walk = whole(&tree.0, &[], step);
            assert_eq!(walk.bytes(), du(&tree.0, &[]), "steps of {step}");
        }
        let without = whole(&tree.0, &["a/b".into(), "missing".into()], 10);
        let excluded = format!("--exclude={}", at("a/b").display());
        assert_eq!(without.bytes(), du(&tree.0, &[&excluded]));
        // The top may be a link; one below is not followed.
        symlink(&tree.0, tree.0.with_extension("link")).expect("symlink");
        let linked = whole(&tree.0.with_extension("link"), &[], 50);
        fs::remove_file(tree.0.with_extension("link")).expect("remove");
        assert_eq!(linked.bytes(), du(&tree.0, &[]));
    }

    #[test]
    fn depth_and_changes_do_not_matter() {
        let tree = Tree::new("deep");
        let mut deep = tree.0.clone();
        for n in 0..100 {
            deep = deep.join(format!("d{n}"));
            fs::create_dir(&deep).expect("dir");
            fs::write(deep.join("f"), b"x").expect("write");
            fs::create_dir(deep.join("side")).expect("dir");
        }
        let mut walk = Walk::open(&tree.0, &[]).expect("open");
        let mut most = 0;
        while walk.step(3, &mut |_, _, _| {}).expect("step") == Progress::More {
            most = most.max(walk.levels.iter().filter(|level| level.fd.is_some()).count());
        }
        assert!(most <= OPEN + 2, "{most} directories were open");
        assert_eq!(walk.bytes(), du(&tree.0, &[]));

        // Half of it moves away while we are below.
        let mut walk = Walk::open(&tree.0, &[]).expect("open");
        while walk.levels.len() < 60 {
            walk.step(1, &mut |_, _, _| {}).expect("step");
        }
        let away = tree.0.join("away");
        fs::rename(tree.0.join("d0/d1/d2"), &away).expect("rename");
        fs::remove_dir_all(away.join("d3/d4")).expect("remove");
        while walk.step(1, &mut |_, _, _| {}).expect("step") == Progress::More {}
        assert!(walk.levels.is_empty());
    }

    #[test]
    fn visits_everything_once_and_opens_only_what_is_plain() {
        let tree = Tree::new("visit");
        fs::create_dir(tree.0.join("d")).expect("dir");
        fs::write(tree.0.join("d/f"), b"x").expect("write");
        symlink("/etc/passwd", tree.0.join("d/link")).expect("symlink");
        let mut seen = Vec::new();
        let mut walk = Walk::open(&tree.0, &[]).expect("open");
        while walk
            .step(1, &mut |dir, name, found| {
                let opened = open_entry(dir, name).and_then(|f| f.metadata());
                let same = opened.is_ok_and(|m| m.ino() == found.inode);
                seen.push((name.to_string_lossy().into_owned(), same));
            })
            .expect("step")
            == Progress::More
        {}
        seen.sort();
        let wanted = [(".", true), ("d", true), ("f", true), ("link", false)];
        assert_eq!(seen, wanted.map(|(name, same)| (name.to_owned(), same)));
        assert!(Walk::open(&tree.0.join("d/f"), &[]).is_err());
        assert!(Walk::open(Path::new("/no/such/place"), &[]).is_err());
    }
}
