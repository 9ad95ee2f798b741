//! Files of this machine, read with the rights of the task's user.

use std::fs::OpenOptions;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;

use super::sink::Sink;
use super::{FetchFailure, Outcome};
use crate::fetch::message::{Report, Validators};

/// What of a file's mode comes along: as `cp` does for Mesos.
const PERMISSIONS: u32 = 0o755;

/// Copies a file, unless it is what `known` tells.
pub(super) fn copy(
    path: &Path,
    sink: &mut Sink,
    known: Option<&Validators>,
) -> Result<Outcome, FetchFailure> {
    let shown = || path.display().to_string();
    // A named pipe without a writer would block.
    let opened = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path);
    let mut file = opened.map_err(|source| FetchFailure::Open { path: shown(), source })?;
    let data = file.metadata().map_err(|source| FetchFailure::Read { source })?;
    if !data.is_file() {
        return Err(FetchFailure::NotAFile { path: shown() });
    }
    let tag = format!("{}-{}-{}.{:09}", data.len(), data.ino(), data.mtime(), data.mtime_nsec());
    let mode = data.mode() & PERMISSIONS;
    let validators = Validators { etag: Some(tag), modified: None, mode: Some(mode) };
    if known == Some(&validators) {
        return Ok(Outcome::Unchanged);
    }
    sink.begin(Some(data.len()))?;
    sink.copy(&mut file)?;
    super::tell(&Report::Progress { bytes: sink.written() });
    Ok(Outcome::Complete(validators))
}
