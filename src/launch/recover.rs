//! What became of a container while no agent watched.
//!
//! Reads the record, its lock and the boot id. Whoever holds the lock is the
//! shim, so a pid in a locked record is never a stranger's.

use std::io;
use std::path::Path;
use std::time::Duration;

use kernel::boot::BootId;
use kernel::lock;
use kernel::pidfd::Pidfd;
use kernel::proctree::{ProcessStat, ticks_per_second};

use super::error::LaunchError;
use super::oci;
use super::program::Steps;
use super::record::Exited;
use super::record::{self, Record, state};
use super::running::Running;

/// A container found by its record.
#[derive(Debug)]
pub enum Recovered {
    /// It runs; the shim watches it.
    Running(Running),
    /// It ended; this is how.
    Exited(Exited),
    /// It never executed its command.
    Failed(LaunchError),
    /// The shim was killed or the machine restarted: no status. `pid` is the first
    /// process if it lives on, which takes a container without a pid namespace.
    Lost {
        /// Its pid, to be killed with all that descends from it.
        pid: Option<u32>,
    },
}

/// How long a launch that was under way may take to come to a result.
const PATIENCE: Duration = Duration::from_secs(10);

/// Finds out what the record at `path` says. A launch that is still under way is
/// waited for; one that waits for a release was told by the socket's end to fail.
///
/// # Errors
/// If the record cannot be opened or is not one, or /proc cannot be read.
pub async fn recover(path: &Path) -> io::Result<Recovered> {
    let bundle = Some(oci::of_record(path)).filter(|bundle| bundle.exists());
    let file = record::open(path)?;
    let boot = BootId::read().map_err(|e| io::Error::new(e.source.kind(), e))?;
    let deadline = tokio::time::Instant::now() + PATIENCE;
    loop {
        let record = match record::read(&file) {
            // Made and not yet written: the shim is started later.
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                return Ok(Recovered::Failed(LaunchError::Lost(None)));
            }
            read => read?,
        };
        if record.boot != boot {
            return Ok(Recovered::Lost { pid: None });
        }
        if !lock::is_locked(&file)? {
            if let Some(bundle) = &bundle {
                // A directory that stays costs little; the container is gone.
                let _ = oci::sweep(bundle);
            }
            return Ok(gone(&record::read(&file)?, bundle.as_deref()));
        }
        let record = record::read(&file)?;
        let late = tokio::time::Instant::now() > deadline;
        if late || !matches!(record.state, state::CREATED | state::PUBLISHED) {
            // Opened while the lock is held, so it is the shim.
            if let Ok(shim) = Pidfd::open(record.shim)
                && lock::is_locked(&file)?
            {
                return Ok(Recovered::Running(Running::new(shim, file, &record, bundle)?));
            }
            if late {
                return Err(io::ErrorKind::TimedOut.into());
            }
        }
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

/// The end of a container whose shim is gone.
fn gone(record: &Record, bundle: Option<&Path>) -> Recovered {
    match record.state {
        state::EXITED => Recovered::Exited(record.exited.clone()),
        state::FAILED if let Some(text) = bundle.and_then(oci::failure_of) => {
            Recovered::Failed(LaunchError::Runtime(text))
        }
        // The pid is published before the command is executed.
        state::CREATED => Recovered::Failed(LaunchError::Lost(None)),
        state::FAILED => Recovered::Failed(Steps::default().error(record.failed)),
        _ if record.own_pids => Recovered::Lost { pid: None },
        _ => Recovered::Lost { pid: survivor(record) },
    }
}

/// The first process, if the pid is still its own: it started before its pid was
/// published, and not long before.
fn survivor(record: &Record) -> Option<u32> {
    if record.pid == 0 {
        return None;
    }
    let published = record.started_boot.as_secs_f64();
    let own = |found: &ProcessStat| {
        let started = found.start_ticks as f64 / ticks_per_second();
        (published - 60.0..=published + 0.1).contains(&started) && found.state != 'Z'
    };
    ProcessStat::read(record.pid).filter(own).map(|found| found.pid)
}
