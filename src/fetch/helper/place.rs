//! Into the sandbox: copied or unpacked, from the cache or straight from its source.

use std::fs::{File, Permissions};
use std::io::{Seek, SeekFrom};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use kernel::beneath::{BeneathError, Root};
use kernel::leash;

use super::sink::Sink;
use super::{FetchFailure, log, obtain, taken};
use crate::fetch::message::{CACHE_FD, Job, Report, SANDBOX_FD, Task, Validators};
use crate::fetch::unpack::{self, Limits};
use crate::fetch::uri;

/// Address space while archives are unpacked: what a hostile one makes us allocate ends
/// this process, not others.
const MEMORY: u64 = 4 << 30;
/// Entries of one archive.
const ENTRIES: u64 = 2_000_000;

fn sandbox(path: &Path) -> impl Fn(BeneathError) -> FetchFailure {
    let path = path.display().to_string();
    move |source| FetchFailure::Sandbox { path: path.clone(), source }
}

/// Does a [`Task::Place`].
pub(super) fn place(job: &Job) -> Result<Report, FetchFailure> {
    let Task::Place { output, executable, extract, cached } = &job.task else {
        return Err(FetchFailure::Uri("the job is not to place anything".into()));
    };
    let root = Root::of(taken(SANDBOX_FD)?, job.sandbox.clone());
    let name = output.file_name().unwrap_or_default().to_string_lossy().into_owned();
    // Mesos looks at the name in the sandbox, and from the cache at that of the URI.
    let by_uri = uri::basename(&job.uri).unwrap_or_default().to_owned();
    let named = if *cached { &by_uri } else { &name };
    let kind = unpack::kind(named).or_else(|| unpack::kind(&name));
    let kind = kind.filter(|_| *extract && !*executable);
    if *extract && !*executable && kind.is_none() {
        log::warning(&format!(
            "Copying instead of extracting resource from URI with 'extract' flag, because it \
             does not seem to be an archive: {}",
            job.uri
        ));
    }
    // Only what Mesos extracts as well is not also left as it came.
    let copied = !*cached || kind.is_none_or(|(_, in_mesos)| !in_mesos);
    let (mut file, bytes) = if *cached {
        log::info(&format!("Fetching URI '{}' from cache", job.uri));
        let file = File::from(taken(CACHE_FD)?);
        if copied { copy_from_cache(job, &root, output, file)? } else { (file, 0) }
    } else {
        log::info(&format!("Fetching '{}' directly into the sandbox directory", job.uri));
        download(job, &root, output)?
    };
    if *executable {
        let mode = Permissions::from_mode(0o755);
        file.set_permissions(mode).map_err(|source| FetchFailure::Write { source })?;
    }
    if let Some((kind, _)) = kind {
        let archive = if unpack::kind(&name).is_some() { &name } else { named };
        leash::limit_memory(MEMORY).map_err(|error| FetchFailure::Read { source: error.source })?;
        file.seek(SeekFrom::Start(0)).map_err(|source| FetchFailure::Read { source })?;
        let limits = Limits { bytes: job.size_limit, entries: ENTRIES };
        let unpacked = unpack::unpack(kind, file, archive, &root, limits);
        let unpacked =
            unpacked.map_err(|source| FetchFailure::Extract { path: archive.clone(), source })?;
        for what in &unpacked.left_out {
            log::warning(&format!("Left out of '{archive}': {what}"));
        }
        let (entries, bytes) = (unpacked.entries, unpacked.bytes);
        log::info(&format!(
            "Extracted '{archive}' into '{}': {entries} entries, {bytes} bytes",
            job.sandbox.display()
        ));
    }
    let to = if copied { job.sandbox.join(output) } else { job.sandbox.clone() };
    log::info(&format!("Fetched '{}' to '{}'", job.uri, to.display()));
    Ok(Report::Done { bytes, sha256: None, validators: Validators::default() })
}

/// A name for what is not complete yet; in the same directory, so that renaming it
/// never crosses a mount.
fn unfinished(output: &Path) -> PathBuf {
    output.with_file_name(format!(".fetching-{}", std::process::id()))
}

/// Fills a file of the sandbox by `fill`; it has its name when it is complete.
fn fill(
    root: &Root,
    output: &Path,
    fill: impl FnOnce(File) -> Result<(File, u64), FetchFailure>,
) -> Result<(File, u64), FetchFailure> {
    let part = unfinished(output);
    let file = root.create(&part, 0o644).map_err(sandbox(output))?;
    let filled = fill(file).and_then(|filled| {
        root.rename(&part, output).map_err(sandbox(output))?;
        Ok(filled)
    });
    if filled.is_err() {
        // What cannot be removed goes with the sandbox.
        let _ = root.remove(&part);
    }
    filled
}

fn download(job: &Job, root: &Root, output: &Path) -> Result<(File, u64), FetchFailure> {
    let hashed = uri::checksum(&job.uri).map_err(FetchFailure::Uri)?.is_some();
    fill(root, output, |file| {
        let mut sink = Sink::new(file, job.size_limit, hashed);
        obtain(job, &mut sink, None)?;
        let bytes = sink.written();
        Ok((sink.file, bytes))
    })
}

fn copy_from_cache(
    job: &Job,
    root: &Root,
    output: &Path,
    mut cached: File,
) -> Result<(File, u64), FetchFailure> {
    fill(root, output, |file| {
        let mut sink = Sink::new(file, job.size_limit, false);
        sink.copy(&mut cached)?;
        let bytes = sink.written();
        Ok((sink.file, bytes))
    })
}
