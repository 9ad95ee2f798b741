//! The agent's side of the logger: starts it, watches over it, asks it.
//!
//! One task holds a connection for as long as the agent lives. When it breaks, the
//! logger has died, and a new one goes on where it was.

use std::fs::{self, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use thiserror::Error;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;
use tokio::process::Command;
use tokio::time::{Instant, sleep};
use tracing::{info, warn};

use super::helper;
use crate::daemon::version;

/// The program that is the logger, beside the agent's own.
pub const PROGRAM: &str = "bulkhead-helper";
/// How long a logger that just starts may take to answer.
const PATIENCE: Duration = Duration::from_secs(20);
/// Time between two attempts to reach it.
const PAUSE: Duration = Duration::from_millis(20);
/// Longest time between two starts of a logger that does not stay.
const BACKOFF: Duration = Duration::from_secs(5);

/// Why the logger does not serve a container.
#[derive(Debug, Error)]
#[allow(missing_docs)]
pub enum LoggerError {
    #[error("the container logger refuses '{}': {message}", directory.display())]
    Refused { directory: PathBuf, message: String },
    #[error("the container logger does not answer at '{}'", socket.display())]
    Silent { socket: PathBuf, source: io::Error },
}

/// The agent's door to its logger.
#[derive(Debug)]
pub struct Logger {
    program: PathBuf,
    runtime: PathBuf,
    started: AtomicBool,
}

impl Logger {
    /// A logger for the containers below `runtime`; it is not started yet.
    #[must_use]
    pub fn new(program: PathBuf, runtime: &Path) -> Logger {
        Logger { program, runtime: runtime.to_owned(), started: AtomicBool::new(false) }
    }

    /// Starts it, or takes over the one that runs, and sees to it that there is one
    /// from now on. Must be called on a tokio runtime.
    pub fn ensure(&self) {
        if !self.started.swap(true, Ordering::Relaxed) {
            let (program, runtime) = (self.program.clone(), self.runtime.clone());
            tokio::spawn(supervise(program, runtime));
        }
    }

    /// Has the container in this runtime directory served: its order is written, its
    /// pipes are open.
    ///
    /// # Errors
    /// The logger cannot, or is not there.
    pub async fn watch(&self, directory: &Path) -> Result<(), LoggerError> {
        self.ask("watch", directory, PATIENCE).await
    }

    /// Waits until all output of the container is where it belongs. Its processes have
    /// ended; should one live on elsewhere with the pipe open, this ends after
    /// `patience` all the same.
    ///
    /// # Errors
    /// It is not within that time.
    pub async fn drained(&self, directory: &Path, patience: Duration) -> Result<(), LoggerError> {
        self.ask("drained", directory, patience).await
    }

    async fn ask(&self, verb: &str, path: &Path, patience: Duration) -> Result<(), LoggerError> {
        let socket = helper::socket(&self.runtime);
        let by = Instant::now() + patience;
        loop {
            let question = format!("{verb} {}\n", path.display());
            let asked = tokio::time::timeout_at(by, exchange(&socket, &question)).await;
            let source = match asked.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())) {
                Ok(answer) if answer.starts_with("ok") => return Ok(()),
                Ok(answer) => {
                    let message = answer.strip_prefix("error ").unwrap_or(&answer).to_owned();
                    return Err(LoggerError::Refused { directory: path.to_owned(), message });
                }
                Err(error) => error,
            };
            if Instant::now() >= by {
                return Err(LoggerError::Silent { socket, source });
            }
            // It may be starting, again.
            sleep(PAUSE).await;
        }
    }
}

/// One request on a connection of its own, and its answer.
async fn exchange(socket: &Path, question: &str) -> io::Result<String> {
    let mut connection = UnixStream::connect(socket).await?;
    say(&mut connection, question).await
}

async fn say(connection: &mut UnixStream, question: &str) -> io::Result<String> {
    connection.write_all(question.as_bytes()).await?;
    let mut answer = String::new();
    BufReader::new(connection).read_line(&mut answer).await?;
    match answer.strip_suffix('\n') {
        Some(answer) => Ok(answer.to_owned()),
        None => Err(io::ErrorKind::UnexpectedEof.into()),
    }
}

/// Sees to it that a logger runs, for ever.
async fn supervise(program: PathBuf, runtime: PathBuf) {
    let mut pause = PAUSE;
    loop {
        match hold(&runtime).await {
            Ok(held) if held > BACKOFF => pause = PAUSE,
            Ok(_) => {}
            Err(error) => tracing::debug!(%error, "no container logger yet"),
        }
        match start(&program, &runtime) {
            Ok(()) => {}
            Err(error) => warn!(program = %program.display(), %error,
                                "failed to start the container logger"),
        }
        let by = Instant::now() + PATIENCE;
        while Instant::now() < by && UnixStream::connect(helper::socket(&runtime)).await.is_err() {
            sleep(pause).await;
        }
        pause = (pause * 2).min(BACKOFF);
    }
}

/// Holds a connection until it breaks; how long that was. A logger of another
/// version makes room for ours.
async fn hold(runtime: &Path) -> io::Result<Duration> {
    let mut connection = UnixStream::connect(helper::socket(runtime)).await?;
    let since = Instant::now();
    let answer = say(&mut connection, "hello\n").await?;
    if answer == format!("ok {}", version::BULKHEAD) {
        info!("the container logger runs");
    } else {
        info!("replacing a container logger of another version: {answer}");
        connection.write_all(b"retire\n").await?;
    }
    // It says nothing unasked: this returns when it is gone.
    let _ = connection.read(&mut [0; 1]).await;
    if answer == format!("ok {}", version::BULKHEAD) {
        warn!("the container logger is gone; starting another one");
    }
    Ok(since.elapsed())
}

/// Starts the program. It lives on without us.
fn start(program: &Path, runtime: &Path) -> io::Result<()> {
    let directory = helper::directory(runtime);
    fs::create_dir_all(&directory)?;
    let log = OpenOptions::new().append(true).create(true).open(directory.join("log"))?;
    let mut command = Command::new(program);
    command.arg("logger").arg(runtime);
    command.env_clear().env("PATH", std::env::var_os("PATH").unwrap_or_default());
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
    // Not stopped by what is typed at the agent's terminal.
    command.process_group(0).current_dir("/");
    let mut child = command.spawn()?;
    tokio::spawn(async move {
        let _ = child.wait().await;
    });
    Ok(())
}
