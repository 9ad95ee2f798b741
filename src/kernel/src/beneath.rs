//! Opening files below a directory whose content belongs to somebody else.
//!
//! Called for every path a client may look at in a sandbox. Symbolic links and
//! `..` are followed as long as they stay below the root; a path that leaves it,
//! or is changed to leave it while we look, is refused. Files are first opened
//! without touching them (`O_PATH`), so a named pipe cannot block us and a device
//! is never opened.

use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Component, Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, openat, openat2};
use nix::sys::stat::{FileStat, Mode, SFlag, fstat};
use thiserror::Error;

pub mod layer;
mod root;

pub use root::Root;

/// Why a path below a root cannot be opened.
#[derive(Debug, Error)]
pub enum BeneathError {
    /// It leaves the root.
    #[error("path leaves {root}")]
    Escapes {
        /// The root.
        root: PathBuf,
    },
    /// Nothing is there.
    #[error("no such file below {root}")]
    NotFound {
        /// The root.
        root: PathBuf,
    },
    /// The system refused.
    #[error("failed to open {path}")]
    Open {
        /// Root and relative path.
        path: PathBuf,
        /// The system's words.
        source: io::Error,
    },
}

/// Makes the directory `relative` below `root`, with the missing ones above it, and
/// gives what it makes to `owner`. An existing one is left alone.
///
/// # Errors
/// [`BeneathError`]
pub fn make_directory(
    root: &Path,
    relative: &Path,
    owner: Option<(u32, u32)>,
) -> Result<(), BeneathError> {
    made(root, relative, owner).map(|_| ()).map_err(|source| failed_at(root, relative, source))
}

/// Makes an empty file `relative` below `root`, with the missing directories above
/// it, and gives what it makes to `owner`. An existing file is left alone.
///
/// # Errors
/// [`BeneathError`]
pub fn make_file(
    root: &Path,
    relative: &Path,
    owner: Option<(u32, u32)>,
) -> Result<(), BeneathError> {
    let failed = |source| failed_at(root, relative, source);
    let (dir, name) = split(relative).ok_or_else(|| failed(Errno::EINVAL))?;
    let dir = made(root, dir, owner).map_err(failed)?;
    let flags = OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    match openat(&dir, name, flags | OFlag::O_WRONLY, Mode::from_bits_truncate(0o644)) {
        Err(Errno::EEXIST) => Ok(()),
        Err(source) => Err(failed(source)),
        Ok(file) => give(&file, owner).map_err(failed),
    }
}

/// Makes a symbolic link `relative` below `root` to `target`, with the missing
/// directories above it.
///
/// # Errors
/// [`BeneathError`], also if the name is taken.
pub fn make_link(root: &Path, relative: &Path, target: &Path) -> Result<(), BeneathError> {
    let failed = |source| failed_at(root, relative, source);
    let (dir, name) = split(relative).ok_or_else(|| failed(Errno::EINVAL))?;
    let dir = made(root, dir, None).map_err(failed)?;
    nix::unistd::symlinkat(target, &dir, name).map_err(failed)
}

fn failed_at(root: &Path, relative: &Path, source: Errno) -> BeneathError {
    match source {
        Errno::EXDEV | Errno::ELOOP => BeneathError::Escapes { root: root.to_owned() },
        source => BeneathError::Open { path: root.join(relative), source: source.into() },
    }
}

fn split(relative: &Path) -> Option<(&Path, &std::ffi::OsStr)> {
    Some((relative.parent()?, relative.file_name()?))
}

/// Goes down, making what is missing. What it made is entered by its own
/// descriptor, so nobody can put something else in its place.
fn made(root: &Path, relative: &Path, owner: Option<(u32, u32)>) -> Result<OwnedFd, Errno> {
    let base = nix::fcntl::open(root, path_only() | OFlag::O_DIRECTORY, Mode::empty())?;
    made_at(&base, relative, owner)
}

fn made_at(base: &OwnedFd, relative: &Path, owner: Option<(u32, u32)>) -> Result<OwnedFd, Errno> {
    let directory = path_only() | OFlag::O_DIRECTORY;
    let mut at = base.try_clone().map_err(|_| Errno::EMFILE)?;
    let (mut walked, mut fresh) = (PathBuf::new(), false);
    for component in relative.components() {
        let name = match component {
            Component::CurDir => continue,
            Component::Normal(name) => name,
            _ => return Err(Errno::EXDEV),
        };
        walked.push(name);
        if !fresh {
            match resolve(base, &walked, ResolveFlag::RESOLVE_BENEATH) {
                Ok(next) => {
                    at = next;
                    continue;
                }
                Err(Errno::ENOENT) => {}
                Err(other) => return Err(other),
            }
        }
        match nix::sys::stat::mkdirat(&at, name, Mode::from_bits_truncate(0o755)) {
            // Somebody else was here since, or a link leads nowhere.
            Err(Errno::EEXIST) if fresh => return Err(Errno::ELOOP),
            Err(Errno::EEXIST) | Ok(()) => {}
            Err(other) => return Err(other),
        }
        at = openat(&at, name, directory | OFlag::O_NOFOLLOW, Mode::empty())
            .map_err(|error| if error == Errno::ENOTDIR { Errno::ELOOP } else { error })?;
        give(&at, owner)?;
        fresh = true;
    }
    Ok(at)
}

fn give(file: &OwnedFd, owner: Option<(u32, u32)>) -> Result<(), Errno> {
    let Some((uid, gid)) = owner else { return Ok(()) };
    let (uid, gid) = (nix::unistd::Uid::from_raw(uid), nix::unistd::Gid::from_raw(gid));
    nix::unistd::fchownat(file, "", Some(uid), Some(gid), nix::fcntl::AtFlags::AT_EMPTY_PATH)
}

/// Something that exists below a root, not yet opened for reading.
#[derive(Debug)]
pub struct Node {
    fd: OwnedFd,
    stat: FileStat,
}

/// Finds `relative` below the directory `root`. `root` itself must be ours: it
/// is opened by name.
///
/// # Errors
/// [`BeneathError`]
pub fn find(root: &Path, relative: &Path) -> Result<Node, BeneathError> {
    let path = || root.join(relative);
    let failed = |source: Errno| match source {
        Errno::ENOENT | Errno::ENOTDIR | Errno::EINVAL | Errno::ENAMETOOLONG => {
            BeneathError::NotFound { root: root.to_owned() }
        }
        Errno::EXDEV | Errno::ELOOP => BeneathError::Escapes { root: root.to_owned() },
        source => BeneathError::Open { path: path(), source: source.into() },
    };
    let base = nix::fcntl::open(root, path_only(), Mode::empty()).map_err(failed)?;
    let relative = if relative.as_os_str().is_empty() { Path::new(".") } else { relative };
    let fd = match resolve(&base, relative, ResolveFlag::RESOLVE_BENEATH) {
        // An absolute link may still point below the root: take the long way.
        Err(Errno::EXDEV | Errno::ENOSYS) => {
            let inside = canonical(root, relative)?;
            match resolve(&base, &inside, ResolveFlag::RESOLVE_NO_SYMLINKS) {
                Err(Errno::ENOSYS) => walk(base, &inside),
                other => other,
            }
        }
        other => other,
    };
    Node::of(fd.map_err(failed)?).map_err(failed)
}

/// As [`find`] in a directory that is the root of a system of its own: absolute links and
/// `..` lead to it, never out of it (`RESOLVE_IN_ROOT`).
///
/// # Errors
/// [`BeneathError`]
pub fn find_inside(root: &Path, relative: &Path) -> Result<Node, BeneathError> {
    let failed = |source: Errno| match source {
        Errno::ENOENT | Errno::ENOTDIR | Errno::EINVAL | Errno::ENAMETOOLONG => {
            BeneathError::NotFound { root: root.to_owned() }
        }
        Errno::EXDEV | Errno::ELOOP => BeneathError::Escapes { root: root.to_owned() },
        source => BeneathError::Open { path: root.join(relative), source: source.into() },
    };
    let base = nix::fcntl::open(root, path_only(), Mode::empty()).map_err(failed)?;
    let how = OpenHow::new()
        .flags(path_only())
        .resolve(ResolveFlag::RESOLVE_IN_ROOT | ResolveFlag::RESOLVE_NO_MAGICLINKS);
    match openat2(&base, relative, how) {
        // Before 5.6.
        Err(Errno::ENOSYS) => find(root, relative),
        other => Node::of(other.map_err(failed)?).map_err(failed),
    }
}

impl Node {
    fn of(fd: OwnedFd) -> Result<Node, Errno> {
        let stat = fstat(fd.as_fd())?;
        Ok(Node { fd, stat })
    }

    /// Size, times, owner and mode.
    #[must_use]
    pub fn stat(&self) -> &FileStat {
        &self.stat
    }

    fn has_type(&self, wanted: SFlag) -> bool {
        SFlag::from_bits_truncate(self.stat.st_mode) & SFlag::S_IFMT == wanted
    }

    /// Whether this is a directory.
    #[must_use]
    pub fn is_dir(&self) -> bool {
        self.has_type(SFlag::S_IFDIR)
    }

    /// Whether this is a regular file.
    #[must_use]
    pub fn is_file(&self) -> bool {
        self.has_type(SFlag::S_IFREG)
    }

    fn reachable(&self) -> PathBuf {
        PathBuf::from(format!("/proc/self/fd/{}", self.fd.as_raw_fd()))
    }

    /// Opens the found file itself for reading, wherever its name points by now.
    ///
    /// # Errors
    /// The system's; `InvalidInput` for anything but a regular file.
    pub fn open(&self) -> io::Result<File> {
        if !self.is_file() {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file"));
        }
        File::open(self.reachable())
    }

    /// Names in the found directory, sorted.
    ///
    /// # Errors
    /// The system's, also if this is not a directory.
    pub fn names(&self) -> io::Result<Vec<OsString>> {
        let mut names = std::fs::read_dir(self.reachable())?
            .map(|entry| entry.map(|e| e.file_name()))
            .collect::<io::Result<Vec<_>>>()?;
        names.sort();
        Ok(names)
    }

    /// An entry of the found directory as it is: links are not followed.
    ///
    /// # Errors
    /// The system's.
    pub fn entry(&self, name: &std::ffi::OsStr) -> io::Result<Node> {
        let fd = openat(&self.fd, name, path_only() | OFlag::O_NOFOLLOW, Mode::empty())?;
        Ok(Node::of(fd)?)
    }

    /// Whether this is a symbolic link; only [`Node::entry`] finds those.
    #[must_use]
    pub fn is_link(&self) -> bool {
        self.has_type(SFlag::S_IFLNK)
    }
}

fn path_only() -> OFlag {
    OFlag::O_PATH | OFlag::O_CLOEXEC
}

fn resolve(base: &OwnedFd, path: &Path, how: ResolveFlag) -> Result<OwnedFd, Errno> {
    let how = OpenHow::new()
        .flags(path_only())
        .resolve(how | ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_MAGICLINKS);
    // EAGAIN: something below was renamed while the kernel looked at a `..`.
    let mut attempt = openat2(base, path, how);
    for _ in 0..8 {
        if !matches!(attempt, Err(Errno::EAGAIN)) {
            break;
        }
        attempt = openat2(base, path, how);
    }
    attempt
}

/// Where `relative` leads by name, as a path below `root` without links.
fn canonical(root: &Path, relative: &Path) -> Result<PathBuf, BeneathError> {
    let escapes = || BeneathError::Escapes { root: root.to_owned() };
    // What cannot be resolved is refused alike, so nobody learns what exists outside.
    let full = root.join(relative).canonicalize().map_err(|_| escapes())?;
    let root = root.canonicalize().map_err(|_| escapes())?;
    let inside = full.strip_prefix(&root).map_err(|_| escapes())?;
    Ok(if inside.as_os_str().is_empty() { PathBuf::from(".") } else { inside.to_owned() })
}

/// `RESOLVE_NO_SYMLINKS` for kernels before 5.6, one component at a time.
fn walk(base: OwnedFd, path: &Path) -> Result<OwnedFd, Errno> {
    let mut at = base;
    for component in path.components() {
        match component {
            Component::CurDir => {}
            Component::Normal(name) => {
                let next = openat(&at, name, path_only() | OFlag::O_NOFOLLOW, Mode::empty())?;
                if Node::of(next.try_clone().map_err(|_| Errno::EMFILE)?)?.is_link() {
                    return Err(Errno::ELOOP);
                }
                at = next;
            }
            _ => return Err(Errno::EXDEV),
        }
    }
    Ok(at)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn absolute_links_of_a_root_of_its_own_stay_in_it() {
        let temp = Temp::new("own-root");
        symlink("/sub/file", temp.root().join("link")).expect("link");
        symlink("/../../secret", temp.root().join("trap")).expect("link");
        let read = |name: &str| {
            let node = find_inside(&temp.root(), Path::new(name))?;
            Ok::<String, BeneathError>(
                std::io::read_to_string(node.open().expect("open")).expect("read"),
            )
        };
        assert_eq!(read("link").expect("found"), "inside");
        assert!(matches!(read("trap"), Err(BeneathError::NotFound { .. })));
    }

    struct Temp(PathBuf);

    impl Temp {
        fn new(name: &str) -> Temp {
            let dir =
                std::env::temp_dir().join(format!("kernel-beneath-{name}-{}", std::process::id()));
            std::fs::create_dir_all(dir.join("root/sub")).expect("temp dir");
            std::fs::write(dir.join("root/sub/file"), "inside").expect("temp file");
            std::fs::write(dir.join("secret"), "outside").expect("temp file");
            Temp(dir.canonicalize().expect("exists"))
        }

        fn root(&self) -> PathBuf {
            self.0.join("root")
        }
    }

    impl Drop for Temp {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }

    fn content(root: &Path, relative: &str) -> String {
        match find(root, Path::new(relative)) {
            Ok(node) => match node.open() {
                Ok(file) => io::read_to_string(file).expect("readable"),
                Err(error) => error.to_string(),
            },
            Err(BeneathError::Escapes { .. }) => "escapes".to_owned(),
            Err(BeneathError::NotFound { .. }) => "not found".to_owned(),
            Err(error) => error.to_string(),
        }
    }

    #[test]
    fn links_stay_below_the_root_or_are_refused() {
        let temp = Temp::new("links");
        let root = temp.root();
        symlink("sub/file", root.join("relative")).expect("link");
        symlink(root.join("sub/file"), root.join("absolute")).expect("link");
        symlink("../secret", root.join("climbs")).expect("link");
        symlink(temp.0.join("secret"), root.join("leaves")).expect("link");
        symlink("/no/such/file", root.join("nowhere")).expect("link");
        symlink("dangling-target", root.join("dangling")).expect("link");
        symlink("loop", root.join("loop")).expect("link");
        symlink("..", root.join("sub/up")).expect("link");
        for (path, expected) in [
            ("sub/file", "inside"),
            ("sub/../sub/file", "inside"),
            ("sub/up/sub/file", "inside"),
            ("relative", "inside"),
            ("absolute", "inside"),
            ("climbs", "escapes"),
            ("leaves", "escapes"),
            ("nowhere", "escapes"),
            ("../secret", "escapes"),
            ("../root/sub/file", "inside"),
            ("/etc/passwd", "escapes"),
            ("dangling", "not found"),
            ("loop", "escapes"),
            ("none", "not found"),
            ("sub/file/x", "not found"),
            ("", "not a regular file"),
            ("sub", "not a regular file"),
        ] {
            assert_eq!(content(&root, path), expected, "{path}");
        }
    }

    #[test]
    fn the_slow_walk_refuses_links_too() {
        let temp = Temp::new("walk");
        let root = temp.root();
        symlink("sub", root.join("link")).expect("link");
        let base = || OwnedFd::from(File::open(&root).expect("a directory"));
        assert!(walk(base(), Path::new("sub/file")).is_ok());
        assert_eq!(walk(base(), Path::new("link/file")).err(), Some(Errno::ELOOP));
        assert_eq!(walk(base(), Path::new("../secret")).err(), Some(Errno::EXDEV));
    }

    #[test]
    fn what_is_made_stays_below() {
        let temp = Temp::new("make");
        let root = temp.root();
        symlink("sub", root.join("inside")).expect("link");
        symlink("..", root.join("out")).expect("link");
        symlink("/nowhere", root.join("dangling")).expect("link");
        let dir = |path: &str| make_directory(&root, Path::new(path), None);
        for path in ["a/b/c", "inside/d", "sub", "."] {
            dir(path).expect(path);
        }
        assert!(root.join("a/b/c").is_dir() && root.join("sub/d").is_dir());
        for path in ["out/x", "dangling", "dangling/x", "../x", "/etc/x"] {
            dir(path).expect_err(path);
        }
        make_file(&root, Path::new("a/file"), None).expect("made");
        make_file(&root, Path::new("sub/file"), None).expect("there");
        assert_eq!(std::fs::read(root.join("sub/file")).expect("kept"), b"inside");
        make_file(&root, Path::new("out/file"), None).expect_err("out");
        make_link(&root, Path::new("a/link"), Path::new("/x")).expect("made");
        make_link(&root, Path::new("a/link"), Path::new("/x")).expect_err("taken");
        assert!(!temp.0.join("x").exists() && !temp.0.join("file").exists());
    }

    /// A directory and a link out of the root take turns under one name while
    /// another thread makes things below that name.
    #[test]
    fn a_racing_link_leads_nowhere() {
        let temp = Temp::new("race");
        let root = temp.root();
        std::fs::create_dir(root.join("x")).expect("mkdir");
        std::fs::create_dir(temp.0.join("out")).expect("mkdir");
        symlink(temp.0.join("out"), root.join("y")).expect("link");
        let done = std::sync::atomic::AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let (x, y) = (root.join("x"), root.join("y"));
                while !done.load(std::sync::atomic::Ordering::Relaxed) {
                    let flags = nix::fcntl::RenameFlags::RENAME_EXCHANGE;
                    let at = nix::fcntl::AT_FDCWD;
                    nix::fcntl::renameat2(at, &x, at, &y, flags).expect("exchange");
                }
            });
            let mut inside = 0;
            for i in 0..3000 {
                let path = PathBuf::from(format!("x/{i}"));
                inside += u32::from(make_directory(&root, &path, None).is_ok());
                let _ = make_file(&root, &PathBuf::from(format!("x/{i}/file")), None);
            }
            done.store(true, std::sync::atomic::Ordering::Relaxed);
            assert!(inside > 0, "some hit the directory");
        });
        assert_eq!(std::fs::read_dir(temp.0.join("out")).expect("a directory").count(), 0);
    }

    #[test]
    fn pipes_do_not_block_and_directories_list() {
        let temp = Temp::new("pipes");
        let root = temp.root();
        nix::unistd::mkfifo(&root.join("pipe"), Mode::S_IRWXU).expect("mkfifo");
        symlink("pipe", root.join("link")).expect("link");
        assert_eq!(content(&root, "pipe"), "not a regular file");
        let dir = find(&root, Path::new("")).expect("there");
        assert!(dir.is_dir());
        assert_eq!(dir.names().expect("a directory"), ["link", "pipe", "sub"]);
        assert!(dir.entry("link".as_ref()).expect("there").is_link());
        assert!(find(&root, Path::new("pipe")).expect("there").names().is_err());
    }
}
