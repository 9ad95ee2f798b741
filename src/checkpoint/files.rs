//! Files that are either old or new, and an append log that ends cleanly.
//!
//! * [`replace`]: temp file in the same directory, then rename.
//! * [`append`]: one record at the end of a log; [`records`] reads them back and
//!   cuts off what a dying agent left half written.
//!
//! A protobuf message is written as Mesos does: its size in four bytes of the
//! machine's order, then its bytes. Blocking; the storage task and start-up call
//! it.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufReader, Read, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

use mesos::schema;
use prost::{Message, Name};
use thiserror::Error;

use super::resources::VolumeError;

/// No record of an agent is larger; more is a sign of a damaged size.
const MAX_RECORD: usize = 64 * 1024 * 1024;

/// A file that could not be written or read.
#[derive(Debug, Error)]
#[allow(missing_docs)] // fields: the path and the cause
pub enum StorageError {
    #[error("failed to create directory '{path}'")]
    CreateDir { path: PathBuf, source: io::Error },
    #[error("failed to write '{path}'")]
    Write { path: PathBuf, source: io::Error },
    #[error("failed to rename to '{path}'")]
    Rename { path: PathBuf, source: io::Error },
    #[error("failed to link '{path}'")]
    Link { path: PathBuf, source: io::Error },
    #[error("failed to append to '{path}'")]
    Append { path: PathBuf, source: io::Error },
    #[error("failed to flush '{path}'")]
    Flush { path: PathBuf, source: io::Error },
    #[error("failed to read '{path}'")]
    Read { path: PathBuf, source: io::Error },
    #[error("failed to truncate '{path}'")]
    Truncate { path: PathBuf, source: io::Error },
    #[error("failed to remove '{path}'")]
    Remove { path: PathBuf, source: io::Error },
    #[error("failed to delete the persistent volume at '{path}'")]
    Volume { path: PathBuf, source: VolumeError },
    #[error("'{path}' is damaged at byte {at}: {message}")]
    Damaged { path: PathBuf, at: u64, message: String },
}

impl StorageError {
    /// Whether it failed for want of space (or of quota).
    #[must_use]
    pub fn is_full(&self) -> bool {
        std::error::Error::source(self)
            .and_then(|source| source.downcast_ref::<io::Error>())
            .is_some_and(|e| {
                matches!(e.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
            })
    }
}

type Result<T> = std::result::Result<T, StorageError>;

/// Makes a directory and its parents.
pub(super) fn create_dir(path: &Path) -> Result<()> {
    fs::create_dir_all(path)
        .map_err(|source| StorageError::CreateDir { path: path.to_owned(), source })
}

/// Size and bytes of a message.
pub(super) fn framed<M: Message>(message: &M) -> Vec<u8> {
    let size = message.encoded_len();
    let mut bytes = Vec::with_capacity(size + 4);
    bytes.extend_from_slice(&u32::try_from(size).unwrap_or(u32::MAX).to_ne_bytes());
    bytes.extend_from_slice(&message.encode_to_vec());
    bytes
}

/// Writes a file as a whole or not at all (mode 0600, as Mesos' temporary files).
/// With `sync` an older one is only replaced once the new one is on the disk. The
/// file is given back so that it can be flushed.
pub(super) fn replace(path: &Path, bytes: &[u8], sync: bool) -> Result<File> {
    let dir = path.parent().unwrap_or(Path::new("."));
    create_dir(dir)?;
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    // One storage task writes here, so a fixed name cannot clash; what a dead
    // agent left under it is overwritten.
    let temp = dir.join(format!(".{name}.new"));
    let write = || -> io::Result<File> {
        let mut file =
            OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&temp)?;
        file.write_all(bytes)?;
        if sync && path.exists() {
            file.sync_data()?;
        }
        Ok(file)
    };
    let file = write().map_err(|source| {
        let _ = fs::remove_file(&temp);
        StorageError::Write { path: path.to_owned(), source }
    })?;
    kernel::failpoint!("checkpoint.replace.half");
    fs::rename(&temp, path)
        .map_err(|source| StorageError::Rename { path: path.to_owned(), source })?;
    Ok(file)
}

/// Makes an empty file.
pub(super) fn touch(path: &Path) -> Result<()> {
    if let Some(dir) = path.parent() {
        create_dir(dir)?;
    }
    OpenOptions::new()
        .append(true)
        .create(true)
        .open(path)
        .map(drop)
        .map_err(|source| StorageError::Write { path: path.to_owned(), source })
}

/// Points a link somewhere else, atomically.
pub(super) fn link(path: &Path, target: &Path) -> Result<()> {
    if fs::read_link(path).is_ok_and(|old| old == target) {
        return Ok(());
    }
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let temp = path.with_file_name(format!(".{name}.new"));
    let _ = fs::remove_file(&temp);
    std::os::unix::fs::symlink(target, &temp)
        .and_then(|()| fs::rename(&temp, path))
        .map_err(|source| StorageError::Link { path: path.to_owned(), source })
}

/// Adds one record to a log. A failed append is undone as far as possible, so
/// that the log stays readable. The file is given back so that it can be flushed.
pub(super) fn append(path: &Path, bytes: &[u8]) -> Result<File> {
    if let Some(dir) = path.parent() {
        create_dir(dir)?;
    }
    let failed = |source| StorageError::Append { path: path.to_owned(), source };
    let mut file = OpenOptions::new().append(true).create(true).open(path).map_err(failed)?;
    let length = file.metadata().map_err(failed)?.len();
    #[cfg(debug_assertions)]
    if kernel::failpoint::strikes("checkpoint.append.half") {
        let _ = file.write_all(&bytes[..bytes.len() / 2]);
        kernel::failpoint::die("checkpoint.append.half");
    }
    if let Err(source) = file.write_all(bytes) {
        let _ = file.set_len(length);
        return Err(failed(source));
    }
    Ok(file)
}

/// The bytes of a file; `None` if there is none.
pub(super) fn read(path: &Path) -> Result<Option<Vec<u8>>> {
    match fs::read(path) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(StorageError::Read { path: path.to_owned(), source }),
    }
}

/// The message in a file; `None` if the file is missing or empty (Mesos leaves
/// empty files behind when it dies while writing).
pub(super) fn message<M: Message + Name + Default>(path: &Path) -> Result<Option<M>> {
    let Some(bytes) = read(path)?.filter(|b| !b.is_empty()) else { return Ok(None) };
    let damaged =
        |at: u64, message: String| StorageError::Damaged { path: path.to_owned(), at, message };
    let (size, rest) =
        split(&bytes).ok_or_else(|| damaged(0, "the size is cut off or too large".to_owned()))?;
    let body = rest.get(..size).ok_or_else(|| {
        damaged(bytes.len() as u64, format!("the message of {size} bytes is cut off"))
    })?;
    schema::decode(body).map(Some).map_err(|e| damaged(4, e.to_string()))
}

/// What a log holds.
#[derive(Debug)]
pub(super) struct Records<M> {
    /// Its whole records.
    pub records: Vec<M>,
    /// Where they end, in bytes: where the log is torn.
    pub good: u64,
    /// Bytes behind them, which an agent left that died while writing.
    pub torn: u64,
}

/// All whole records of a log. What follows the last whole one, left by an agent
/// that died while writing, is cut off the file if `repair` says so.
pub(super) fn records<M: Message + Name + Default>(
    path: &Path,
    repair: bool,
) -> Result<Records<M>> {
    let failed = |source| StorageError::Read { path: path.to_owned(), source };
    let file = match File::open(path) {
        Ok(file) => file,
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            return Ok(Records { records: Vec::new(), good: 0, torn: 0 });
        }
        Err(source) => return Err(failed(source)),
    };
    let length = file.metadata().map_err(failed)?.len();
    let mut reader = BufReader::new(file);
    let (records, good) = parse(&mut reader, length).map_err(|error| match error {
        ParseError::Read(source) => failed(source),
        ParseError::Damaged(at, message) => {
            StorageError::Damaged { path: path.to_owned(), at, message }
        }
    })?;
    let torn = length.saturating_sub(good);
    if torn > 0 && repair {
        tracing::warn!(path = %path.display(), bytes = torn, "cutting off a torn record");
        OpenOptions::new()
            .write(true)
            .open(path)
            .and_then(|f| f.set_len(good))
            .map_err(|source| StorageError::Truncate { path: path.to_owned(), source })?;
    }
    Ok(Records { records, good, torn })
}

#[derive(Debug)]
enum ParseError {
    Read(io::Error),
    Damaged(u64, String),
}

/// Whole records and the length of the good part, one record in memory at a time.
/// A record that is whole but does not decode is damage, not a torn tail, unless it
/// is the last one.
fn parse<M: Message + Name + Default>(
    input: &mut impl Read,
    length: u64,
) -> std::result::Result<(Vec<M>, u64), ParseError> {
    let mut records = Vec::new();
    let mut good = 0;
    let mut body = Vec::new();
    while length - good >= 4 {
        let mut size = [0; 4];
        input.read_exact(&mut size).map_err(ParseError::Read)?;
        let size = u32::from_ne_bytes(size) as usize;
        let end = good + 4 + size as u64;
        if size > MAX_RECORD || end > length {
            break;
        }
        body.resize(size, 0);
        input.read_exact(&mut body).map_err(ParseError::Read)?;
        match schema::decode(&body) {
            Ok(record) => records.push(record),
            Err(_) if end == length => break,
            Err(error) => {
                return Err(ParseError::Damaged(good, error.to_string()));
            }
        }
        good = end;
    }
    Ok((records, good))
}

fn split(bytes: &[u8]) -> Option<(usize, &[u8])> {
    let (size, rest) = bytes.split_first_chunk::<4>()?;
    let size = u32::from_ne_bytes(*size) as usize;
    (size <= MAX_RECORD).then_some((size, rest))
}

/// Names of the directories (no links) in `path`; none if there is no `path`.
pub(super) fn subdirs(path: &Path) -> Result<Vec<String>> {
    let failed = |source| StorageError::Read { path: path.to_owned(), source };
    let entries = match fs::read_dir(path) {
        Ok(entries) => entries,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(source) => return Err(failed(source)),
    };
    let mut names = Vec::new();
    for entry in entries {
        let entry = entry.map_err(failed)?;
        if entry.file_type().map_err(failed)?.is_dir() {
            names.push(entry.file_name().to_string_lossy().into_owned());
        }
    }
    names.sort();
    Ok(names)
}

/// Seconds since the epoch; 0 if there is no such file.
pub(super) fn modified(path: &Path) -> f64 {
    fs::metadata(path)
        .and_then(|m| m.modified())
        .ok()
        .and_then(|t| t.duration_since(UNIX_EPOCH).ok())
        .map_or(0.0, |d| d.as_secs_f64())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use mesos::internal::StatusUpdateRecord;
    use proptest::prelude::*;

    use super::*;

    fn record(n: u8) -> StatusUpdateRecord {
        StatusUpdateRecord { r#type: 1, update: None, uuid: Some(vec![n; 16]) }
    }

    fn parse_all(bytes: &[u8]) -> std::result::Result<(Vec<StatusUpdateRecord>, u64), ParseError> {
        parse(&mut &*bytes, bytes.len() as u64)
    }

    fn dir(name: &str) -> PathBuf {
        let dir =
            std::env::temp_dir().join(format!("bulkhead-files-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&dir);
        fs::create_dir_all(&dir).unwrap();
        dir
    }

    #[test]
    fn a_file_is_replaced_as_a_whole_and_leaves_no_temporary_file() {
        let dir = dir("replace");
        let path = dir.join("deep").join("slave.info");
        replace(&path, b"one", false).unwrap();
        replace(&path, b"two", true).unwrap();
        assert_eq!(read(&path).unwrap().unwrap(), b"two");
        assert_eq!(fs::read_dir(dir.join("deep")).unwrap().count(), 1);
        fs::remove_dir_all(dir).unwrap();
    }

    #[test]
    fn a_missing_or_empty_message_is_none_and_a_torn_one_an_error() {
        let dir = dir("message");
        let path = dir.join("x");
        assert!(message::<StatusUpdateRecord>(&path).unwrap().is_none());
        fs::write(&path, b"").unwrap();
        assert!(message::<StatusUpdateRecord>(&path).unwrap().is_none());
        let whole = framed(&record(1));
        fs::write(&path, &whole).unwrap();
        assert_eq!(message(&path).unwrap(), Some(record(1)));
        fs::write(&path, &whole[..whole.len() - 1]).unwrap();
        let error = message::<StatusUpdateRecord>(&path).unwrap_err().to_string();
        assert!(
            error.contains("is damaged at byte 23: the message of 20 bytes is cut off"),
            "{error}"
        );
        fs::remove_dir_all(dir).unwrap();
    }

    #[test]
    fn damage_in_the_middle_of_a_log_is_not_silently_cut() {
        let mut bytes = framed(&record(1));
        bytes[4] = 0xff; // a field number that makes no sense
        bytes.extend(framed(&record(2)));
        assert!(parse_all(&bytes).is_err());
    }

    proptest! {
        #[test]
        fn a_log_cut_anywhere_gives_its_whole_records(count in 0u8..6, cut in 0usize..200) {
            let mut bytes = Vec::new();
            let mut ends = vec![0];
            for n in 0..count {
                bytes.extend(framed(&record(n)));
                ends.push(bytes.len());
            }
            let cut = cut.min(bytes.len());
            let (records, good) = parse_all(&bytes[..cut]).unwrap();
            let whole = ends.iter().filter(|e| **e <= cut).count() - 1;
            prop_assert_eq!(records.len(), whole);
            prop_assert_eq!(good, ends[whole] as u64);
        }

        #[test]
        fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let _ = parse_all(&bytes);
        }
    }
}
