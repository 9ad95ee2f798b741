//! The cache on disk, kept over restarts of the agent.
//!
//! ```text
//! <fetcher_cache_dir>/        0700, ours
//!     .lock                   one agent at a time
//!     c3-tool.tgz             a download of tasks without a user
//!     c3-tool.tgz.entry       JSON: what it is; its time is that of the last use
//!     <user>/c4-...
//! ```
//!
//! A download counts once its `.entry` is there, which is written last and as a whole;
//! anything else with our names is swept when the cache is opened. Files belong to the
//! agent and are handed to helpers as open descriptors, so no task can change what
//! another one gets. Blocking.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::core::Key;
use crate::fetch::message::Validators;
use crate::fetch::uri;

const LOCK: &str = ".lock";
const ENTRY: &str = ".entry";
/// Version of the `.entry` files.
const VERSION: u32 = 1;

/// Why the cache cannot be used.
#[derive(Debug, Error)]
pub(super) enum FilesError {
    #[error("failed to {verb} '{}'", path.display())]
    System { verb: &'static str, path: PathBuf, source: io::Error },
    #[error("'{}' belongs to somebody else or can be written by others", path.display())]
    NotOurs { path: PathBuf },
    #[error(
        "another agent uses '{}'; give each its own --fetcher_cache_dir", path.display()
    )]
    Taken { path: PathBuf },
    #[error("'{0}' cannot be the name of a directory")]
    User(String),
}

/// What is known of a download.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Stored {
    version: u32,
    pub uri: String,
    pub size: u64,
    pub validators: Validators,
}

/// The directory.
#[derive(Debug)]
pub(super) struct Files {
    dir: PathBuf,
    serial: u64,
    _lock: File,
}

/// A download found at start.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Found {
    pub key: Key,
    pub file: String,
    pub stored: Stored,
    used: SystemTime,
}

fn failed(verb: &'static str, path: &Path) -> impl FnOnce(io::Error) -> FilesError {
    let path = path.to_owned();
    move |source| FilesError::System { verb, path, source }
}

impl Files {
    /// Makes the directory if it is missing, takes it, and sweeps it; what it holds,
    /// least recently used first.
    pub fn open(dir: &Path) -> Result<(Files, Vec<Found>), FilesError> {
        make_dir(dir)?;
        let path = dir.join(LOCK);
        let options = || {
            let mut options = OpenOptions::new();
            options.read(true).write(true).create(true).truncate(false).mode(0o600);
            options.custom_flags(libc::O_NOFOLLOW).open(&path)
        };
        let lock = options().map_err(failed("open", &path))?;
        if !kernel::lock::try_lock(&lock).map_err(failed("lock", &path))? {
            return Err(FilesError::Taken { path: dir.to_owned() });
        }
        let mut files = Files { dir: dir.to_owned(), serial: 0, _lock: lock };
        let mut found = files.sweep(None)?;
        for entry in fs::read_dir(dir).map_err(failed("list", dir))?.flatten() {
            if entry.file_type().is_ok_and(|kind| kind.is_dir())
                && let Ok(user) = entry.file_name().into_string()
            {
                found.extend(files.sweep(Some(user))?);
            }
        }
        found.sort_by_key(|found| found.used);
        Ok((files, found))
    }

    /// Keeps what is whole in one user's directory and removes the rest of ours.
    fn sweep(&mut self, user: Option<String>) -> Result<Vec<Found>, FilesError> {
        let dir = self.dir_of(user.as_deref());
        let mut found = Vec::new();
        for entry in fs::read_dir(&dir).map_err(failed("list", &dir))?.flatten() {
            let Ok(name) = entry.file_name().into_string() else { continue };
            let Some(serial) = serial_of(&name) else { continue };
            self.serial = self.serial.max(serial);
            if name.ends_with(ENTRY) && dir.join(name.trim_end_matches(ENTRY)).exists() {
                continue;
            }
            match stored(&dir, &name) {
                Some((stored, used)) => {
                    let key = Key { user: user.clone(), uri: stored.uri.clone() };
                    found.push(Found { key, file: name, stored, used });
                }
                None => remove(&dir, &name)?,
            }
        }
        Ok(found)
    }

    fn dir_of(&self, user: Option<&str>) -> PathBuf {
        user.map_or_else(|| self.dir.clone(), |user| self.dir.join(user))
    }

    /// A new file for a download of `uri`; it does not count yet.
    pub fn begin(&mut self, key: &Key) -> Result<(String, File), FilesError> {
        if let Some(user) = &key.user {
            if user.contains('/') || user.starts_with('.') || user.is_empty() {
                return Err(FilesError::User(user.clone()));
            }
            make_dir(&self.dir_of(Some(user)))?;
        }
        self.serial += 1;
        let name = format!("c{}-{}", self.serial, short(&key.uri));
        let path = self.dir_of(key.user.as_deref()).join(&name);
        let mut options = OpenOptions::new();
        options.read(true).write(true).create_new(true).mode(0o600);
        let file = options.open(&path).map_err(failed("create", &path))?;
        Ok((name, file))
    }

    /// Makes a download count.
    pub fn commit(
        &self,
        key: &Key,
        name: &str,
        size: u64,
        validators: &Validators,
    ) -> Result<(), FilesError> {
        let dir = self.dir_of(key.user.as_deref());
        let stored =
            Stored { version: VERSION, uri: key.uri.clone(), size, validators: validators.clone() };
        let text = serde_json::to_vec_pretty(&stored).unwrap_or_default();
        let (path, temp) = (dir.join(format!("{name}{ENTRY}")), dir.join(format!("{name}.new")));
        let write = || {
            let mut options = OpenOptions::new();
            options.write(true).create(true).truncate(true).mode(0o600);
            let mut file = options.open(&temp)?;
            file.write_all(&text)?;
            file.sync_data()?;
            fs::rename(&temp, &path)
        };
        write().map_err(failed("write", &path))
    }

    /// Opens a download for a reader.
    pub fn open_file(&self, key: &Key, name: &str) -> Result<File, FilesError> {
        let path = self.dir_of(key.user.as_deref()).join(name);
        File::open(&path).map_err(failed("open", &path))
    }

    /// Remembers that a download was used now, for the next agent.
    pub fn touch(&self, key: &Key, name: &str) {
        let path = self.dir_of(key.user.as_deref()).join(format!("{name}{ENTRY}"));
        // Only the order of removal is at stake.
        let _ = OpenOptions::new()
            .write(true)
            .open(path)
            .and_then(|file| file.set_modified(SystemTime::now()));
    }

    /// Removes a download, whole or not.
    pub fn remove(&self, key: &Key, name: &str) -> Result<(), FilesError> {
        remove(&self.dir_of(key.user.as_deref()), name)
    }
}

fn make_dir(dir: &Path) -> Result<(), FilesError> {
    let made = DirBuilder::new().recursive(true).mode(0o700).create(dir);
    made.map_err(failed("create", dir))?;
    let data = fs::symlink_metadata(dir).map_err(failed("look at", dir))?;
    let (own, _, _) = kernel::proctree::own_ids();
    if !data.is_dir() || data.uid() != own || data.mode() & 0o022 != 0 {
        return Err(FilesError::NotOurs { path: dir.to_owned() });
    }
    Ok(())
}

/// Removes the entry first: a file without one is swept, never used.
fn remove(dir: &Path, name: &str) -> Result<(), FilesError> {
    for name in [format!("{name}{ENTRY}"), name.to_owned()] {
        let path = dir.join(name);
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(failed("remove", &path)(error));
            }
            _ => {}
        }
    }
    Ok(())
}

/// The entry of the file `name`, if both are whole.
fn stored(dir: &Path, name: &str) -> Option<(Stored, SystemTime)> {
    let path = dir.join(format!("{name}{ENTRY}"));
    let used = fs::metadata(&path).ok()?.modified().ok()?;
    let stored: Stored = serde_json::from_slice(&fs::read(&path).ok()?).ok()?;
    let data = fs::symlink_metadata(dir.join(name)).ok()?;
    let whole = data.is_file() && data.len() == stored.size && stored.version == VERSION;
    whole.then_some((stored, used))
}

/// `c<serial>-...` is ours.
fn serial_of(name: &str) -> Option<u64> {
    name.strip_prefix('c')?.split_once('-')?.0.parse().ok()
}

/// The last part of the URI, for people, shortened as Mesos does.
fn short(value: &str) -> String {
    let name: Vec<char> = uri::basename(value).unwrap_or("download").chars().collect();
    if name.len() <= 20 {
        return name.into_iter().collect();
    }
    let (head, tail) = (&name[..10], &name[name.len() - 10..]);
    head.iter().chain(&['_']).chain(tail).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(user: Option<&str>, uri: &str) -> Key {
        Key { user: user.map(str::to_owned), uri: uri.to_owned() }
    }

    #[test]
    fn what_is_whole_is_found_again_and_the_rest_is_swept() {
        let dir = std::env::temp_dir().join(format!("fetch-cache-{}", std::process::id()));
        let _ = fs::remove_dir_all(&dir);
        let (mut files, found) = Files::open(&dir).unwrap();
        assert_eq!(found, []);
        assert!(matches!(Files::open(&dir), Err(FilesError::Taken { .. })));
        let validators =
            Validators { etag: Some("\"x\"".into()), modified: None, mode: Some(0o755) };
        let mut put = |key: &Key, text: &str| {
            let (name, mut file) = files.begin(key).unwrap();
            file.write_all(text.as_bytes()).unwrap();
            (name, text.len() as u64)
        };
        let (tool, other) = (key(None, "http://x/tool"), key(Some("me"), "http://x/tool"));
        let (first, size) = put(&tool, "whole");
        let (second, _) = put(&other, "mine");
        let (half, _) = put(&tool, "half");
        let (short, _) = put(&tool, "shorter than it was");
        files.commit(&tool, &first, size, &validators).unwrap();
        files.commit(&other, &second, 4, &Validators::default()).unwrap();
        files.commit(&tool, &short, 100, &validators).unwrap();
        fs::write(dir.join("c9-orphan.entry"), "{}").unwrap();
        fs::write(dir.join("notes.txt"), "not ours").unwrap();
        let old = SystemTime::now() - std::time::Duration::from_secs(1000);
        let file = OpenOptions::new().write(true).open(dir.join(format!("me/{second}.entry")));
        file.unwrap().set_modified(old).unwrap();
        drop(files);

        let (mut files, found) = Files::open(&dir).unwrap();
        let names: Vec<_> = found.iter().map(|f| (f.key.clone(), f.file.as_str())).collect();
        assert_eq!(names, [(other, second.as_str()), (tool.clone(), first.as_str())]);
        assert_eq!(found[1].stored.validators, validators);
        assert!(!dir.join(&half).exists() && !dir.join(&short).exists());
        assert!(!dir.join("c9-orphan.entry").exists() && dir.join("notes.txt").exists());
        let (next, _) = files.begin(&tool).unwrap();
        assert_eq!(next, "c10-tool", "numbers are not used twice");
        assert!(files.begin(&key(Some("../x"), "http://x/y")).is_err());
        files.remove(&tool, &first).unwrap();
        assert!(files.open_file(&tool, &first).is_err());
        fs::remove_dir_all(&dir).unwrap();
    }

    #[test]
    fn directories_of_others_are_not_used() {
        let dir = std::env::temp_dir().join(format!("fetch-foreign-{}", std::process::id()));
        fs::create_dir_all(&dir).unwrap();
        fs::set_permissions(&dir, std::os::unix::fs::PermissionsExt::from_mode(0o777)).unwrap();
        let error = Files::open(&dir).unwrap_err().to_string();
        assert!(error.contains("can be written by others"), "{error}");
        fs::remove_dir_all(&dir).unwrap();
    }

    #[test]
    fn names_are_for_people() {
        assert_eq!(short("http://x/tool.tgz"), "tool.tgz");
        assert_eq!(short("http://x/abcdefghijklmnopqrstuvwxyz.tar.gz"), "abcdefghij_xyz.tar.gz");
        assert_eq!(serial_of("c12-x"), Some(12));
        assert_eq!((serial_of("c-x"), serial_of("notes"), serial_of("c1")), (None, None, None));
    }
}
