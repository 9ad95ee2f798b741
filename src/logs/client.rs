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
use tokio::process::{Child, Command};
use tokio::time::{Instant, sleep};
use tracing::{info, warn};

use super::helper;
use crate::daemon::version;

/// The program that is the logger, beside the agent's own.
pub const PROGRAM: &str = "bulkhead-helper";
/// How long it may take until there is a logger that answers.
const PATIENCE: Duration = Duration::from_secs(30);
/// Time between two attempts to reach it.
const PAUSE: Duration = Duration::from_millis(20);
/// A logger that lives shorter than this is started again with a pause, at most this
/// long.
const STEADY: Duration = Duration::from_secs(1);

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
    /// It is not within that time, or there is no logger.
    pub async fn drained(&self, directory: &Path, patience: Duration) -> Result<(), LoggerError> {
        self.ask("drained", directory, patience).await
    }

    /// Asks until there is an answer, which may take `patience` from the question on.
    async fn ask(&self, verb: &str, path: &Path, patience: Duration) -> Result<(), LoggerError> {
        let socket = helper::socket(&self.runtime);
        let by = Instant::now() + PATIENCE;
        loop {
            let question = format!("{verb} {}\n", path.display());
            let asked = tokio::time::timeout(patience, exchange(&socket, &question)).await;
            let late = asked.is_err() || Instant::now() >= by;
            let source = match asked.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())) {
                Ok(answer) if answer.starts_with("ok") => return Ok(()),
                Ok(answer) => {
                    let message = answer.strip_prefix("error ").unwrap_or(&answer).to_owned();
                    return Err(LoggerError::Refused { directory: path.to_owned(), message });
                }
                Err(error) => error,
            };
            if late {
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
            Ok(held) if held > STEADY => pause = PAUSE,
            _ => {
                sleep(pause).await;
                pause = (pause * 2).min(STEADY);
            }
        }
        match start(&program, &runtime) {
            Ok(child) => settle(child, &helper::socket(&runtime)).await,
            Err(error) => {
                let program = program.display();
                warn!(%program, %error, "failed to start the container logger");
            }
        }
    }
}

/// Waits until the new logger can be reached, or has ended: there may be another one.
async fn settle(mut child: Child, socket: &Path) {
    let by = Instant::now() + PATIENCE;
    while Instant::now() < by && UnixStream::connect(socket).await.is_err() {
        tokio::select! {
            _ = child.wait() => return,
            () = sleep(PAUSE) => {}
        }
    }
    // It lives on without us; its end is heard of on the connection.
    tokio::spawn(async move { child.wait().await });
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

/// Starts the program.
fn start(program: &Path, runtime: &Path) -> io::Result<Child> {
    let directory = helper::directory(runtime);
    fs::create_dir_all(&directory)?;
    let log = OpenOptions::new().append(true).create(true).open(directory.join("log"))?;
    let mut command = Command::new(program);
    command.arg("logger").arg(runtime);
    command.env_clear().env("PATH", std::env::var_os("PATH").unwrap_or_default());
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
    // Not stopped by what is typed at the agent's terminal.
    command.process_group(0).current_dir("/");
    command.spawn()
}

#[cfg(test)]
mod tests {
    use tokio::net::UnixListener;

    use super::*;

    fn runtime(name: &str) -> PathBuf {
        let runtime = std::env::temp_dir().join(format!("logger-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&runtime);
        fs::create_dir_all(helper::directory(&runtime)).expect("a directory");
        runtime
    }

    /// What one connection is told, which is answered with `answer`.
    async fn hear(listener: &UnixListener, answer: &str) -> Vec<String> {
        let (connection, _) = listener.accept().await.expect("a connection");
        let (reader, mut writer) = connection.into_split();
        let mut lines = BufReader::new(reader).lines();
        let first = lines.next_line().await.expect("a line").expect("a line");
        writer.write_all(answer.as_bytes()).await.expect("an answer");
        let second = tokio::time::timeout(Duration::from_millis(200), lines.next_line()).await;
        let second = second.ok().and_then(Result::ok).flatten();
        [Some(first), second].into_iter().flatten().collect()
    }

    #[tokio::test]
    async fn a_logger_of_another_version_is_asked_to_leave() {
        let runtime = runtime("version");
        let listener = UnixListener::bind(helper::socket(&runtime)).expect("bind");
        let (held, heard) = tokio::join!(hold(&runtime), hear(&listener, "ok bulkhead-0\n"));
        held.expect("a connection");
        assert_eq!(heard, ["hello", "retire"]);
        let same = format!("ok {}\n", version::BULKHEAD);
        let (held, heard) = tokio::join!(hold(&runtime), hear(&listener, &same));
        held.expect("a connection");
        assert_eq!(heard, ["hello"]);
        fs::remove_dir_all(&runtime).expect("remove");
    }

    #[tokio::test]
    async fn refusals_and_stuck_streams_are_told() {
        let runtime = runtime("refusal");
        let listener = UnixListener::bind(helper::socket(&runtime)).expect("bind");
        let logger = Logger::new("/nonexistent".into(), &runtime);
        let container = runtime.join("containers/c");
        let refused = logger.watch(&container);
        let (refused, heard) = tokio::join!(refused, hear(&listener, "error no pipe\n"));
        let text = refused.expect_err("refused").to_string();
        assert!(text.ends_with("c': no pipe"), "{text}");
        assert_eq!(heard, [format!("watch {}", container.display())]);
        // Somebody holds the pipe open: no answer.
        let stuck = logger.drained(&container, Duration::from_millis(50)).await;
        assert!(matches!(stuck, Err(LoggerError::Silent { .. })));
        fs::remove_dir_all(&runtime).expect("remove");
    }
}
