//! Taking a directory out of the work directory's tree, at once and in order with
//! the other records: it is renamed into `trash` and deleted there later.
//!
//! So a framework or executor that comes back meanwhile finds a clean place, and an
//! agent that dies while it deletes goes on with what is in `trash`. A directory
//! with something mounted below is left where it is.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use kernel::mounts::{self, Mount};
use thiserror::Error;

use super::{Garbage, StorageError, WorkDir};

/// Why a directory stays.
#[derive(Debug, Error)]
pub enum DiscardError {
    /// Deleting it would delete what is mounted.
    #[error("'{mount}' is still mounted below '{path}'")]
    Mounted {
        /// The mount point.
        mount: PathBuf,
        /// The directory.
        path: PathBuf,
    },
    /// It cannot be moved.
    #[error("failed to discard '{path}'")]
    Move {
        /// The directory.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// `trash` cannot be made.
    #[error("failed to make room for what is discarded")]
    Trash(#[source] StorageError),
}

/// Moves the directories of `garbage` away, unless one of `table` is mounted below.
/// What is to be deleted now: usually below `trash`, or where it was if that is on
/// another file system.
pub(super) fn discard(
    work: &WorkDir,
    garbage: &Garbage,
    table: &[Mount],
) -> Result<Vec<PathBuf>, DiscardError> {
    let paths = work.garbage(garbage);
    for path in &paths {
        if let Some(mount) = mounts::below(table, path).first() {
            let mount = mount.target.clone();
            return Err(DiscardError::Mounted { mount, path: path.clone() });
        }
    }
    let trash = work.trash();
    super::files::create_dir(&trash).map_err(DiscardError::Trash)?;
    let mut moved = Vec::new();
    for path in paths {
        let place = trash.join(uuid::Uuid::new_v4().to_string());
        match fs::rename(&path, &place) {
            Ok(()) => moved.push(place),
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            // Another file system, or no room for a name: it is deleted where it is.
            Err(e) if in_place(e.kind()) => moved.push(path),
            Err(source) => return Err(DiscardError::Move { path, source }),
        }
    }
    Ok(moved)
}

/// Whether what cannot be moved for this reason is deleted where it is.
pub(super) fn in_place(kind: io::ErrorKind) -> bool {
    matches!(
        kind,
        io::ErrorKind::CrossesDevices | io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded
    )
}

/// What an agent that died has left in `trash`.
pub(super) fn left(trash: &Path) -> Vec<PathBuf> {
    fs::read_dir(trash)
        .map(|entries| entries.flatten().map(|entry| entry.path()).collect())
        .unwrap_or_default()
}
