//! The `/files` service: virtual paths that lead to files and directories.
//!
//! The daemons attach their log and every sandbox; clients list, read and
//! download below what is attached, never outside. Answers are values; the
//! endpoints are in `daemon::api`, the `LIST_FILES` and `READ_FILE` calls of the
//! operator APIs use the same methods. All methods touch the disk: call them
//! where blocking is allowed.
//!
//! The maps of attached paths and of readers are behind locks held for map
//! operations only.

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::{Duration, Instant, UNIX_EPOCH};

use kernel::beneath::{self, BeneathError, Node};
use kernel::owners;
use mesos::{FileInfo, TimeInfo};
use thiserror::Error;

/// Most bytes of one read: sixteen pages, as Mesos reads.
pub const MAX_READ: u64 = 16 * 4096;

/// Why there is no answer, in Mesos' words.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum FilesError {
    /// The path exists but is not for this; the message ends with a newline.
    #[error("{0}")]
    Invalid(String),
    /// Nothing is attached there, or the file does not exist.
    #[error("no such file")]
    NotFound,
    /// The system refused; the message ends with a newline.
    #[error("{0}")]
    Unknown(String),
}

/// A piece of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Piece {
    /// Size of the whole file in bytes.
    pub size: u64,
    /// What was read; shorter than asked for at the end of the file.
    pub data: Vec<u8>,
    /// Tells the file from every other one that had its name before or will have it.
    pub identity: String,
}

/// Header with the identity of the file that was read.
pub const FILE_IDENTITY: &str = "bulkhead-file";

/// A file to be sent whole.
#[derive(Debug)]
pub struct Download {
    /// Opened for reading.
    pub file: File,
    /// Size in bytes when it was opened.
    pub size: u64,
    /// Its name without directories.
    pub name: String,
}

/// Who has read below which attached directory, and when last; clones share it.
#[derive(Debug, Clone, Default)]
pub struct Readers(Arc<Mutex<HashMap<PathBuf, Instant>>>);

impl Readers {
    /// How many directories are remembered before old ones are forgotten.
    const MANY: usize = 1024;

    fn note(&self, root: &Path) {
        let now = Instant::now();
        let mut read = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if read.len() > Self::MANY {
            read.retain(|_, at| now.duration_since(*at).as_secs() < 3600);
        }
        read.insert(root.to_owned(), now);
    }

    /// Whether something at or below `path` was read within that time.
    #[must_use]
    pub fn is_read(&self, path: &Path, within: Duration) -> bool {
        let read = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if read.is_empty() {
            return false;
        }
        let real = path.canonicalize().unwrap_or_else(|_| path.to_owned());
        read.iter().any(|(root, at)| at.elapsed() < within && root.starts_with(&real))
    }
}

/// The attached paths; clones share them.
#[derive(Debug, Clone, Default)]
pub struct Files {
    attached: Arc<RwLock<BTreeMap<String, PathBuf>>>,
    readers: Readers,
}

/// What a virtual path leads to.
struct Found {
    node: Node,
    real: PathBuf,
}

impl Files {
    /// Nothing is attached yet.
    #[must_use]
    pub fn new() -> Files {
        Files::default()
    }

    /// Makes `real`, a file or directory, visible as `virtual_path`. Links in
    /// `real` are resolved now, not when it is read.
    ///
    /// # Errors
    /// [`FilesError::Unknown`] if it does not exist.
    pub fn attach(&self, real: &Path, virtual_path: &str) -> Result<(), FilesError> {
        let resolved = real.canonicalize().map_err(|error| {
            FilesError::Unknown(format!("Failed to get realpath of '{}': {error}", real.display()))
        })?;
        let mut attached = self.attached.write().unwrap_or_else(PoisonError::into_inner);
        attached.insert(normal(virtual_path), resolved);
        Ok(())
    }

    /// Who reads what.
    #[must_use]
    pub fn readers(&self) -> Readers {
        self.readers.clone()
    }

    /// Makes it invisible again.
    pub fn detach(&self, virtual_path: &str) {
        let mut attached = self.attached.write().unwrap_or_else(PoisonError::into_inner);
        attached.remove(&normal(virtual_path));
    }

    /// Every attached path and where it leads, sorted.
    #[must_use]
    pub fn attached(&self) -> Vec<(String, PathBuf)> {
        let attached = self.attached.read().unwrap_or_else(PoisonError::into_inner);
        attached.iter().map(|(path, real)| (path.clone(), real.clone())).collect()
    }

    /// The content of a directory, sorted by name; empty for a file.
    ///
    /// # Errors
    /// [`FilesError`]
    pub fn browse(&self, path: &str) -> Result<Vec<FileInfo>, FilesError> {
        let found = self.find(path)?;
        if !found.node.is_dir() {
            return Ok(Vec::new());
        }
        let names = found.node.names().map_err(|error| {
            FilesError::Unknown(format!("Failed to list '{}': {error}.\n", found.real.display()))
        })?;
        let mut owners = Owners::default();
        let mut listing = Vec::with_capacity(names.len());
        for name in names {
            // Gone since it was listed.
            let Ok(entry) = found.node.entry(&name) else { continue };
            let entry = if entry.is_link() {
                match beneath::find(&found.real, Path::new(&name)) {
                    Ok(target) => target,
                    // It leads out of the listed directory: only the link is shown.
                    Err(BeneathError::Escapes { .. }) => entry,
                    Err(_) => continue,
                }
            } else {
                entry
            };
            let path = format!("{}/{}", path.trim_end_matches('/'), name.to_string_lossy());
            listing.push(info(path, &entry, &mut owners));
        }
        Ok(listing)
    }

    /// At most [`MAX_READ`] and at most `length` bytes from `offset` on. Without
    /// an offset nothing is read: the answer is the size.
    ///
    /// # Errors
    /// [`FilesError`]
    pub fn read(
        &self,
        path: &str,
        offset: Option<u64>,
        length: Option<u64>,
    ) -> Result<Piece, FilesError> {
        let found = self.find(path)?;
        if found.node.is_dir() {
            return Err(FilesError::Invalid("Cannot read a directory.\n".to_owned()));
        }
        let (file, size) = found.open()?;
        let identity = identity(&file);
        let Some(offset) = offset else {
            return Ok(Piece { size, data: Vec::new(), identity });
        };
        let wanted = size.saturating_sub(offset).min(length.unwrap_or(u64::MAX)).min(MAX_READ);
        let mut data = vec![0; usize::try_from(wanted).expect("at most MAX_READ")];
        let mut filled = 0;
        while filled < data.len() {
            match file.read_at(&mut data[filled..], offset + filled as u64) {
                Ok(0) => break,
                Ok(n) => filled += n,
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(error) => {
                    return Err(FilesError::Unknown(format!(
                        "Failed to read file at '{}': {error}.\n",
                        found.real.display()
                    )));
                }
            }
        }
        data.truncate(filled);
        Ok(Piece { size, data, identity })
    }

    /// A file to be sent as it is.
    ///
    /// # Errors
    /// [`FilesError`]
    pub fn download(&self, path: &str) -> Result<Download, FilesError> {
        let found = self.find(path)?;
        if found.node.is_dir() {
            return Err(FilesError::Invalid("Cannot download a directory.\n".to_owned()));
        }
        let (file, size) = found.open()?;
        let name = found.real.file_name().unwrap_or_default().to_string_lossy().into_owned();
        Ok(Download { file, size, name })
    }

    /// The longest attached prefix decides; what is left is looked up below it.
    fn find(&self, path: &str) -> Result<Found, FilesError> {
        let segments: Vec<&str> = path.split('/').filter(|s| !s.is_empty()).collect();
        let (root, rest) = {
            let attached = self.attached.read().unwrap_or_else(PoisonError::into_inner);
            (0..=segments.len())
                .rev()
                .find_map(|n| {
                    let root = attached.get(&joined(&segments[..n], path.starts_with('/')))?;
                    Some((root.clone(), segments[n..].join("/")))
                })
                .ok_or(FilesError::NotFound)?
        };
        if rest.contains('\0') {
            return Err(FilesError::NotFound);
        }
        let real = if rest.is_empty() { root.clone() } else { root.join(&rest) };
        let found = if root.is_dir() {
            beneath::find(&root, Path::new(&rest))
        } else if rest.is_empty() {
            let parent = root.parent().unwrap_or(Path::new("/"));
            beneath::find(parent, Path::new(root.file_name().unwrap_or_default()))
        } else {
            return Err(FilesError::NotFound);
        };
        let node = found.map_err(|error| match error {
            BeneathError::NotFound { .. } => FilesError::NotFound,
            BeneathError::Escapes { .. } => {
                FilesError::Invalid(format!("'{}' is inaccessible.\n", real.display()))
            }
            BeneathError::Open { source, .. } => FilesError::Invalid(format!(
                "Failed to determine canonical path of '{}': {source}.\n",
                real.display()
            )),
        })?;
        self.readers.note(&root);
        Ok(Found { node, real })
    }
}

impl Found {
    fn open(&self) -> Result<(File, u64), FilesError> {
        let failed = |error: std::io::Error| {
            let path = self.real.display();
            FilesError::Unknown(format!("Failed to open file at '{path}': {error}.\n"))
        };
        let file = self.node.open().map_err(failed)?;
        let size = file.metadata().map_err(failed)?.len();
        Ok((file, size))
    }
}

/// Device, number and, as numbers are given again, time of birth.
fn identity(file: &File) -> String {
    let Ok(metadata) = file.metadata() else { return String::new() };
    let born = metadata.created().ok().and_then(|time| time.duration_since(UNIX_EPOCH).ok());
    let born = born.unwrap_or_default().as_nanos();
    format!("{:x}-{:x}-{born:x}", metadata.dev(), metadata.ino())
}

/// With one slash between segments and none at the end.
fn normal(path: &str) -> String {
    let segments: Vec<&str> = path.split('/').filter(|s| !s.is_empty()).collect();
    joined(&segments, path.starts_with('/'))
}

fn joined(segments: &[&str], absolute: bool) -> String {
    format!("{}{}", if absolute { "/" } else { "" }, segments.join("/"))
}

/// Names already asked for.
#[derive(Default)]
struct Owners {
    users: HashMap<u32, String>,
    groups: HashMap<u32, String>,
}

fn info(path: String, node: &Node, owners: &mut Owners) -> FileInfo {
    let stat = node.stat();
    let user = owners.users.entry(stat.st_uid).or_insert_with_key(|uid| owners::user_name(*uid));
    let group = owners.groups.entry(stat.st_gid).or_insert_with_key(|gid| owners::group_name(*gid));
    FileInfo {
        path,
        nlink: i32::try_from(stat.st_nlink).ok(),
        size: u64::try_from(stat.st_size).ok(),
        mtime: Some(TimeInfo { nanoseconds: stat.st_mtime.saturating_mul(1_000_000_000) }),
        mode: Some(stat.st_mode),
        uid: Some(user.clone()),
        gid: Some(group.clone()),
    }
}
