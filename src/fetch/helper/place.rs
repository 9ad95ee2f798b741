//! Into the sandbox: copied or unpacked, from the cache or straight from its source.

use std::fs::{File, Permissions};
use std::io::{Seek, SeekFrom};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use kernel::beneath::{BeneathError, Root};
use kernel::leash;

use super::sink::Sink;
use super::{FetchFailure, Outcome, hashed, log, obtain, taken};
use crate::fetch::message::{CACHE_FD, Job, Placement, Report, SANDBOX_FD, Validators};
use crate::fetch::unpack::{self, Kind, Limits};
use crate::fetch::uri;

/// Address space while archives are unpacked: what a hostile one makes us allocate ends
/// this process, not others.
const MEMORY: u64 = 4 << 30;
/// Entries of one archive.
const ENTRIES: u64 = 2_000_000;

/// What becomes of a download.
#[derive(Debug, PartialEq, Eq)]
struct Plan {
    /// It is unpacked, and this is the name that says so.
    unpacked: Option<(Kind, String)>,
    /// It is in the sandbox as it came.
    copied: bool,
}

/// Decides. Mesos looks at the name in the sandbox, or from the cache at that of the
/// URI, and leaves an archive from the cache there; here an `output_file` counts from
/// the cache as well. Pure.
fn plan(uri: &str, placement: &Placement) -> Plan {
    let in_sandbox = placement.output.file_name().unwrap_or_default().to_string_lossy();
    let of_uri = if placement.cached { uri::basename(uri).unwrap_or_default() } else { "" };
    let found = [of_uri, &in_sandbox].into_iter().find_map(|name| {
        unpack::kind(name).map(|(kind, in_mesos)| (kind, name.to_owned(), in_mesos))
    });
    match found.filter(|_| placement.extract && !placement.executable) {
        None => Plan { unpacked: None, copied: true },
        // What Mesos does not extract may be expected as it came.
        Some((kind, name, in_mesos)) => {
            Plan { unpacked: Some((kind, name)), copied: !(placement.cached && in_mesos) }
        }
    }
}

/// Does a `Task::Place`.
pub(super) fn place(job: &Job, placement: &Placement) -> Result<Report, FetchFailure> {
    let Placement { output, executable, extract, cached, mode } = placement;
    let root = Root::of(taken(SANDBOX_FD)?, job.sandbox.clone());
    let plan = plan(&job.uri, placement);
    if *extract && !*executable && plan.unpacked.is_none() {
        log::warning(&format!(
            "Copying instead of extracting resource from URI with 'extract' flag, because it \
             does not seem to be an archive: {}",
            job.uri
        ));
    }
    let file = if *cached {
        log::info(&format!("Fetching URI '{}' from cache", job.uri));
        let file = File::from(taken(CACHE_FD)?);
        if plan.copied { copy(job, &root, output, file, *mode)? } else { file }
    } else {
        log::info(&format!("Fetching '{}' directly into the sandbox directory", job.uri));
        download(job, &root, output)?
    };
    if *executable {
        permit(&file, Some(0o755))?;
    }
    if let Some((kind, name)) = &plan.unpacked {
        extract_into(job, &root, *kind, name, file)?;
    }
    let to = if plan.copied { job.sandbox.join(output) } else { job.sandbox.clone() };
    log::info(&format!("Fetched '{}' to '{}'", job.uri, to.display()));
    Ok(Report::Done { validators: Validators::default() })
}

fn extract_into(
    job: &Job,
    root: &Root,
    kind: Kind,
    name: &str,
    mut file: File,
) -> Result<(), FetchFailure> {
    let read = |source| FetchFailure::Read { source };
    leash::limit_memory(MEMORY).map_err(|error| read(error.source))?;
    file.seek(SeekFrom::Start(0)).map_err(read)?;
    let limits = Limits { bytes: job.size_limit, entries: ENTRIES };
    let unpacked = unpack::unpack(kind, file, name, root, limits)
        .map_err(|source| FetchFailure::Extract { path: name.to_owned(), source })?;
    for what in &unpacked.left_out {
        log::warning(&format!("Left out of '{name}': {what}"));
    }
    let (entries, bytes, to) = (unpacked.entries, unpacked.bytes, job.sandbox.display());
    log::info(&format!("Extracted '{name}' into '{to}': {entries} entries, {bytes} bytes"));
    Ok(())
}

fn sandbox(path: &Path) -> impl Fn(BeneathError) -> FetchFailure {
    let path = path.display().to_string();
    move |source| FetchFailure::Sandbox { path: path.clone(), source }
}

/// A name for what is not complete yet; in the same directory, so that renaming it
/// never crosses a mount.
fn unfinished(output: &Path) -> PathBuf {
    output.with_file_name(format!(".fetching-{}", std::process::id()))
}

/// Fills a file of the sandbox by `fill`; it has its name when it is complete.
fn fill(
    job: &Job,
    root: &Root,
    output: &Path,
    hashed: bool,
    fill: impl FnOnce(&mut Sink) -> Result<(), FetchFailure>,
) -> Result<File, FetchFailure> {
    let part = unfinished(output);
    let file = root.create(&part, 0o644).map_err(sandbox(output))?;
    let mut sink = Sink::new(file, job.size_limit, hashed);
    let filled = fill(&mut sink).and_then(|()| root.rename(&part, output).map_err(sandbox(output)));
    if filled.is_err() {
        // What cannot be removed goes with the sandbox.
        let _ = root.remove(&part);
    }
    filled.map(|()| sink.file)
}

fn download(job: &Job, root: &Root, output: &Path) -> Result<File, FetchFailure> {
    fill(job, root, output, hashed(job)?, |sink| match obtain(job, sink, None)? {
        Outcome::Complete(Validators { mode, .. }) => permit(&sink.file, mode),
        Outcome::Unchanged => Ok(()),
    })
}

/// Gives a file the permissions that its source has, if that has some.
fn permit(file: &File, mode: Option<u32>) -> Result<(), FetchFailure> {
    let Some(mode) = mode else { return Ok(()) };
    let permitted = file.set_permissions(Permissions::from_mode(mode));
    permitted.map_err(|source| FetchFailure::Write { source })
}

/// A file of the cache, with the permissions that its source had.
fn copy(
    job: &Job,
    root: &Root,
    output: &Path,
    mut cached: File,
    mode: Option<u32>,
) -> Result<File, FetchFailure> {
    fill(job, root, output, false, |sink| {
        sink.copy(&mut cached)?;
        permit(&sink.file, mode)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_becomes_of_a_download() {
        let placement = |output: &str, cached: bool| Placement {
            output: output.into(),
            executable: false,
            extract: true,
            cached,
            mode: None,
        };
        let plan = |uri: &str, placement: Placement| {
            let plan = super::plan(uri, &placement);
            (plan.unpacked.map(|(_, name)| name), plan.copied)
        };
        let unpacked = |name: &str, copied: bool| (Some(name.to_owned()), copied);
        assert_eq!(plan("/a/x.tgz", placement("x.tgz", false)), unpacked("x.tgz", true));
        assert_eq!(plan("/a/x.tgz", placement("x.tgz", true)), unpacked("x.tgz", false));
        assert_eq!(plan("/a/x.zst", placement("x.zst", true)), unpacked("x.zst", true));
        assert_eq!(plan("/a/x.tgz", placement("y", false)), (None, true));
        assert_eq!(plan("/a/x.tgz", placement("y", true)), unpacked("x.tgz", false));
        assert_eq!(plan("http://x/y?z", placement("d/y.zip", true)), unpacked("y.zip", false));
        assert_eq!(plan("/a/x", placement("x", true)), (None, true));
        let raw = Placement { extract: false, ..placement("x.tgz", true) };
        assert_eq!(plan("/a/x.tgz", raw), (None, true));
        let executable = Placement { executable: true, ..placement("x.tgz", true) };
        assert_eq!(plan("/a/x.tgz", executable), (None, true));
    }
}
