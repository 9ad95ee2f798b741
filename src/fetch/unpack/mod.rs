//! Archives and compressed files, unpacked in this process, below one directory.
//!
//! What strangers packed is not trusted: paths stay below the root, whatever links
//! they make ([`kernel::beneath::Root`]); devices, pipes and owners are left out and
//! special permission bits dropped; content and entries are counted ([`Limits`]).
//!
//! Whether something is unpacked is said by its name, as in Mesos; how, by its
//! content, as libarchive does there.

mod stream;
mod tar;
mod writer;
mod zip;

use std::fs::File;
use std::io::{self, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use kernel::beneath::{BeneathError, Root};
use thiserror::Error;

use self::stream::Filter;
pub(crate) use self::stream::Frames;
use self::writer::Writer;

/// Names that Mesos unpacks as archives.
const ARCHIVES: [&str; 8] =
    [".tar", ".tgz", ".tar.gz", ".tbz2", ".tar.bz2", ".txz", ".tar.xz", ".zip"];
/// Names that we do as well.
const MORE_ARCHIVES: [&str; 3] = [".tzst", ".tar.zst", ".tbz"];
/// Single files; only `.gz` is Mesos'.
const SINGLES: [&str; 4] = [".gz", ".bz2", ".xz", ".zst"];

/// What a name promises.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// Many files.
    Archive,
    /// One file, compressed; the suffix that is cut off.
    Single(&'static str),
}

/// What is unpacked under this name, if anything, and whether Mesos does it too.
pub(super) fn kind(name: &str) -> Option<(Kind, bool)> {
    let ends = |suffix: &&&'static str| name.ends_with(**suffix);
    if ARCHIVES.iter().any(|suffix| ends(&suffix)) {
        return Some((Kind::Archive, true));
    }
    if MORE_ARCHIVES.iter().any(|suffix| ends(&suffix)) {
        return Some((Kind::Archive, false));
    }
    let suffix = SINGLES.iter().find(ends)?;
    Some((Kind::Single(suffix), *suffix == ".gz"))
}

/// How much an archive may hold.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    /// Sum of all files in bytes.
    pub bytes: u64,
    /// Files, links and directories.
    pub entries: u64,
}

/// Why an archive cannot be unpacked.
#[derive(Debug, Error)]
pub(super) enum UnpackError {
    #[error("failed to read the archive")]
    Read(#[source] io::Error),
    #[error("'{}' cannot be unpacked", path.display())]
    Entry { path: PathBuf, source: io::Error },
    #[error("'{}' would leave the sandbox", path.display())]
    Escapes { path: PathBuf },
    #[error("failed to write '{}'", path.display())]
    Write { path: PathBuf, source: io::Error },
    #[error("its content is larger than the limit of {limit} bytes (--fetcher_size_limit)")]
    TooLarge { limit: u64 },
    #[error("it has more than {limit} entries")]
    TooMany { limit: u64 },
    #[error("it is not compressed as its name says")]
    NotCompressed,
    #[error("'{}' is encrypted", path.display())]
    Encrypted { path: PathBuf },
}

impl UnpackError {
    fn at(path: &Path) -> impl Fn(BeneathError) -> UnpackError {
        let path = path.to_owned();
        move |error| match error {
            BeneathError::Open { source, .. } => UnpackError::Write { path: path.clone(), source },
            BeneathError::Escapes { .. } | BeneathError::NotFound { .. } => {
                UnpackError::Escapes { path: path.clone() }
            }
        }
    }
}

/// What came of an archive.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Unpacked {
    /// Files, links and directories made.
    pub entries: u64,
    /// Bytes written.
    pub bytes: u64,
    /// What was left out and why; the first of them.
    pub left_out: Vec<String>,
}

/// Unpacks `file`, whose name is `name`, below `root`. After a failure no file of it
/// is left; directories may be.
///
/// # Errors
/// [`UnpackError`]
pub(super) fn unpack(
    kind: Kind,
    mut file: File,
    name: &str,
    root: &Root,
    limits: Limits,
) -> Result<Unpacked, UnpackError> {
    let mut magic = [0; 6];
    let filter = stream::sniff(&mut file, &mut magic).map_err(UnpackError::Read)?;
    file.seek(SeekFrom::Start(0)).map_err(UnpackError::Read)?;
    let mut writer = Writer::new(root, limits);
    let done = match (kind, filter) {
        (Kind::Archive, None) if magic.starts_with(b"PK") => zip::unpack(file, &mut writer),
        (Kind::Archive, None) => tar::unpack(io::BufReader::new(file), &mut writer),
        (Kind::Archive, Some(filter)) => {
            stream::open(file, filter).and_then(|reader| tar::unpack(reader, &mut writer))
        }
        (Kind::Single(_), None) => Err(UnpackError::NotCompressed),
        (Kind::Single(suffix), Some(filter)) => {
            single(file, filter, &name[..name.len() - suffix.len()], &mut writer)
        }
    };
    match done.and_then(|()| writer.finish()) {
        Ok(()) => Ok(writer.into_unpacked()),
        Err(error) => {
            writer.undo();
            Err(error)
        }
    }
}

fn single(
    file: File,
    filter: Filter,
    name: &str,
    writer: &mut Writer<'_>,
) -> Result<(), UnpackError> {
    let mut reader = stream::open(file, filter)?;
    writer.file(Path::new(name), 0o644, None, &mut reader)
}

#[cfg(test)]
mod tests;
