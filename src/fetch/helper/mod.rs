//! `bulkhead-helper fetch`: fetches one URI, as the task's user, and ends.
//!
//! Started by the agent with an empty environment and the descriptors that `message`
//! names. One thread. It dies with the agent ([`kernel::leash`]), whatever it is doing;
//! then what it had begun in the sandbox goes with the sandbox, and the cache holds
//! nothing before the agent says so.

mod http;
mod local;
mod place;
mod program;
mod sink;

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::process::ExitCode;

use kernel::leash::{self, inherited};
use kernel::{chain, users};
use thiserror::Error;

use self::http::HttpError;
use self::sink::Sink;
use super::log;
use super::message::{CACHE_FD, Job, Report, SANDBOX_FD, Task, Trouble, VERSION, Validators};
use super::speech::{read_job, tell};
use super::unpack::UnpackError;
use super::uri::{self, Source};

/// Why a URI was not fetched. The message names the URI where it is printed.
#[derive(Debug, Error)]
enum FetchFailure {
    #[error("{0}")]
    Uri(String),
    #[error("failed to open '{path}'")]
    Open { path: String, source: io::Error },
    #[error("'{path}' is not a regular file")]
    NotAFile { path: String },
    #[error("failed to read it")]
    Read { source: io::Error },
    #[error("failed to write what came")]
    Write { source: io::Error },
    #[error("it is larger than the limit of {limit} bytes (--fetcher_size_limit)")]
    TooLarge { limit: u64 },
    #[error("its SHA-256 is {found}, not {wanted}")]
    Checksum { wanted: String, found: String },
    #[error("error downloading resource")]
    Http(#[from] HttpError),
    #[error("{0}")]
    Program(#[from] program::ProgramError),
    #[error("failed to write '{path}' in the sandbox")]
    Sandbox { path: String, source: kernel::beneath::BeneathError },
    #[error("failed to extract archive '{path}'")]
    Extract { path: String, source: UnpackError },
}

impl FetchFailure {
    fn trouble(&self) -> Trouble {
        match self {
            FetchFailure::Http(error) if error.is_gone() => Trouble::Gone,
            FetchFailure::Open { source, .. } if source.kind() == io::ErrorKind::NotFound => {
                Trouble::Gone
            }
            FetchFailure::Write { .. } => Trouble::Disk,
            _ => Trouble::Other,
        }
    }
}

/// Runs one job.
#[must_use]
pub fn main() -> ExitCode {
    let job = match prepare() {
        Ok(job) => job,
        Err(text) => {
            tell(&Report::Failed { message: text.clone(), trouble: Trouble::Other });
            eprintln!("bulkhead-helper: {text}");
            return ExitCode::FAILURE;
        }
    };
    match run(&job) {
        Ok(report) => {
            tell(&report);
            ExitCode::SUCCESS
        }
        Err(failure) => {
            let message = chain(&failure);
            log::error(&format!("Failed to fetch '{}': {message}", job.uri));
            tell(&Report::Failed { message, trouble: failure.trouble() });
            ExitCode::FAILURE
        }
    }
}

/// Reads the job and becomes who it says.
fn prepare() -> Result<Job, String> {
    let job: Job = read_job(VERSION, |job: &Job| job.version)
        .map_err(|error| format!("failed to read the job: {error}"))?;
    if let Some(user) = &job.user {
        users::become_user(user.uid, user.gid, &user.groups).map_err(|e| chain(&e))?;
    }
    // After that: the kernel kills in the name of who asked for it.
    leash::die_with_writer(io::stdin().as_fd()).map_err(|e| chain(&e))?;
    leash::close_on_exec(&[SANDBOX_FD, CACHE_FD]).map_err(|e| chain(&e))?;
    leash::limit_file_size(job.size_limit).map_err(|e| chain(&e))?;
    Ok(job)
}

fn run(job: &Job) -> Result<Report, FetchFailure> {
    log::info(&format!("Fetching URI '{}'", job.uri));
    match &job.task {
        Task::Place(placement) => place::place(job, placement),
        Task::Fill { known } => fill(job, known.as_ref()),
    }
}

/// A descriptor that the agent gave us.
fn taken(fd: i32) -> Result<OwnedFd, FetchFailure> {
    inherited(fd).map_err(|source| FetchFailure::Open { path: format!("descriptor {fd}"), source })
}

/// What a source said.
enum Outcome {
    Unchanged,
    Complete(Validators),
}

fn fill(job: &Job, known: Option<&Validators>) -> Result<Report, FetchFailure> {
    log::info(&format!("Fetching '{}' into the cache", job.uri));
    let mut sink = Sink::new(taken(CACHE_FD)?.into(), job.size_limit, hashed(job)?);
    let validators = match obtain(job, &mut sink, known)? {
        Outcome::Unchanged => {
            log::info(&format!("The cached copy of '{}' is up to date", job.uri));
            return Ok(Report::Unchanged);
        }
        Outcome::Complete(validators) => validators,
    };
    // The cache outlives this machine's power supply.
    sink.file.sync_data().map_err(|source| FetchFailure::Write { source })?;
    Ok(Report::Done { validators })
}

/// Whether the content is to be checked.
fn hashed(job: &Job) -> Result<bool, FetchFailure> {
    uri::checksum(&job.uri).map(|sum| sum.is_some()).map_err(FetchFailure::Uri)
}

/// Gets the content of the URI into `sink`, and checks it.
fn obtain(job: &Job, sink: &mut Sink, known: Option<&Validators>) -> Result<Outcome, FetchFailure> {
    let address = uri::address(&job.uri);
    let source = uri::source(&job.uri, job.frameworks_home.as_deref());
    let outcome = match source.map_err(FetchFailure::Uri)? {
        Source::Local(path) => local::copy(&path, sink, known)?,
        Source::Http => {
            log::info(&format!("Downloading resource from '{address}'"));
            match http::download(job, address, sink, known)? {
                http::Outcome::Unchanged => Outcome::Unchanged,
                http::Outcome::Complete(validators) => Outcome::Complete(validators),
            }
        }
        Source::Ftp => program::curl(job, address, sink)?,
        Source::Hadoop => program::hadoop(job, address, sink)?,
    };
    if let Some(wanted) = uri::checksum(&job.uri).map_err(FetchFailure::Uri)?
        && matches!(outcome, Outcome::Complete(_))
        && let Some(found) = sink.digest()
        && found != wanted
    {
        return Err(FetchFailure::Checksum { wanted, found });
    }
    Ok(outcome)
}
