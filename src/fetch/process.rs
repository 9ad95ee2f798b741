//! One helper process from the agent's side: started, heard, and reaped whatever comes.

use std::ffi::CStr;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::time::Duration;

use kernel::pidfd::Pidfd;
use kernel::spawn;
use serde::Serialize;
use serde::de::DeserializeOwned;
use thiserror::Error;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::unix::pipe;

/// Longest line of a helper in bytes: it runs as somebody else and is not trusted.
const LONGEST_LINE: u64 = 64 << 10;

/// Between two looks at a helper that is ending.
const LONGEST_PAUSE: Duration = Duration::from_millis(100);

/// A helper that could not be started or did not say how it went.
#[derive(Debug, Error)]
pub enum ProcessError {
    /// It is not there, or the system refuses.
    #[error("failed to start the helper program '{}'", path.display())]
    #[allow(missing_docs)]
    Start { path: PathBuf, source: io::Error },
    /// What it says is not understood.
    #[error("failed to talk to the helper process")]
    #[allow(missing_docs)]
    Talk { source: io::Error },
    /// It ended before it said how it went.
    #[error("the helper process {0}")]
    Ended(String),
}

/// The helper program as it was when the agent started: an upgrade in between changes
/// nothing.
#[derive(Debug)]
pub struct Program {
    path: PathBuf,
    image: io::Result<File>,
}

impl Program {
    /// The program at `path`; that there is none is an error of each start.
    #[must_use]
    pub fn new(path: &Path) -> Program {
        let image = File::options().read(true).custom_flags(libc::O_PATH).open(path);
        Program { path: path.to_owned(), image }
    }

    /// Starts `bulkhead-helper COMMAND` and tells it its job. It gets `more` from
    /// descriptor 2 on. Must be called on a tokio runtime.
    ///
    /// # Errors
    /// [`ProcessError`]
    pub async fn start(
        &self,
        command: &CStr,
        job: &impl Serialize,
        more: &[BorrowedFd<'_>],
    ) -> Result<Helper, ProcessError> {
        let failed = |source| ProcessError::Start { path: self.path.clone(), source };
        let image = match &self.image {
            Ok(image) => image.as_fd(),
            Err(error) => return Err(failed(io::Error::new(error.kind(), error.to_string()))),
        };
        let (job_end, leash) = io::pipe().map_err(failed)?;
        let (reports, report_end) = io::pipe().map_err(failed)?;
        let mut fds: Vec<BorrowedFd<'_>> = vec![job_end.as_fd(), report_end.as_fd()];
        fds.extend_from_slice(more);
        let arguments = [c"bulkhead-helper", command];
        let child = spawn::spawn_with(image, &arguments, 0, &fds).map_err(failed)?;
        drop((job_end, report_end));
        let talk = |source| ProcessError::Talk { source };
        let child = Some(child.pidfd);
        let leash = pipe::Sender::from_owned_fd(leash.into()).map_err(talk)?;
        let reports = pipe::Receiver::from_owned_fd(reports.into()).map_err(talk)?;
        let mut helper = Helper { reports: BufReader::new(reports), child, leash };
        let mut line = serde_json::to_vec(job).map_err(|e| talk(e.into()))?;
        line.push(b'\n');
        match helper.leash.write_all(&line).await {
            // It ended before it read: its last words say why.
            Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(talk(error)),
            _ => Ok(helper),
        }
    }
}

/// Reaps a child that has ended or is about to.
async fn reap(child: Pidfd) -> Option<ExitStatus> {
    let mut pause = Duration::from_millis(1);
    loop {
        match child.reap() {
            Ok(Some(status)) => return Some(ExitStatus::from_raw(status)),
            Ok(None) => tokio::time::sleep(pause).await,
            Err(_) => return None,
        }
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

/// A helper at work. Dropping it ends the process and all that it started.
#[derive(Debug)]
pub struct Helper {
    reports: BufReader<pipe::Receiver>,
    /// Until it is reaped.
    child: Option<Pidfd>,
    /// Its end is the helper's.
    leash: pipe::Sender,
}

impl Helper {
    /// The next report; the end of the process is an error that says how.
    ///
    /// # Errors
    /// [`ProcessError`]
    pub async fn next<R: DeserializeOwned>(&mut self) -> Result<R, ProcessError> {
        let talk = |source| ProcessError::Talk { source };
        let mut line = Vec::new();
        let mut limited = (&mut self.reports).take(LONGEST_LINE);
        limited.read_until(b'\n', &mut line).await.map_err(talk)?;
        if line.is_empty() {
            // It keeps its end until it ends; a program it started has none.
            let status = match self.child.take() {
                Some(child) => reap(child).await,
                None => None,
            };
            let text = status.map_or("vanished".into(), |status| format!("ended with {status}"));
            return Err(ProcessError::Ended(text));
        }
        serde_json::from_slice(&line).map_err(|error| talk(error.into()))
    }
}

impl Drop for Helper {
    fn drop(&mut self) {
        let (Some(child), Ok(runtime)) = (self.child.take(), tokio::runtime::Handle::try_current())
        else {
            return;
        };
        // The leash ends it in a moment.
        runtime.spawn(reap(child));
    }
}
