//! The logger process: `bulkhead-helper logger RUNTIME_DIR`, one per agent.
//!
//! ```text
//! <runtime_dir>/logger/
//!     lock       held while it runs: there is one
//!     socket     where the agent asks; one request a line, one answer a line
//!     log        what went wrong
//! ```
//!
//! Finds the orders of all containers by itself when it starts, and hears of new ones
//! from the agent. Ends when no agent is connected and no stream is left. One thread;
//! a stream is a task. All that it knows is in pipes, files and orders.

mod journal;
mod sink;
mod stream;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use kernel::pipe::Peek;
use kernel::{lock, pipe};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::watch;
use tokio::time::{Instant, sleep};

use super::order::{self, Order};
use crate::daemon::version;
use stream::Stream;

/// How long the first agent may take to connect, and another logger to end.
const PATIENCE: Duration = Duration::from_secs(10);
/// Time between two looks whether there is still something to do.
const LOOK: Duration = Duration::from_millis(500);

/// The logger's directory below the agent's `--runtime_dir`.
#[must_use]
pub fn directory(runtime: &Path) -> PathBuf {
    runtime.join("logger")
}

/// The socket in it.
#[must_use]
pub fn socket(runtime: &Path) -> PathBuf {
    directory(runtime).join("socket")
}

/// What all streams share.
#[derive(Debug)]
pub(crate) struct Tools {
    peek: Peek,
    null: File,
}

impl Tools {
    fn new() -> io::Result<Tools> {
        let null = File::options().write(true).open("/dev/null")?;
        Ok(Tools { peek: Peek::new()?, null })
    }

    /// Takes bytes out of a pipe; how many there were.
    fn discard(&self, pipe: BorrowedFd<'_>, count: u64) -> io::Result<u64> {
        match pipe::splice(pipe, self.null.as_fd(), None, count) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(0),
            other => other,
        }
    }
}

/// The logger's state: which containers it serves, and how many of their streams are
/// still open.
struct Logger {
    tools: Arc<Tools>,
    open: Mutex<BTreeMap<PathBuf, watch::Receiver<usize>>>,
    agents: AtomicUsize,
}

/// Runs the logger for the runtime directory in the arguments.
#[must_use]
pub fn main(arguments: &[OsString]) -> ExitCode {
    let [runtime] = arguments else {
        eprintln!("usage: bulkhead-helper logger RUNTIME_DIR");
        return ExitCode::from(2);
    };
    let built = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let ended = built.and_then(|tokio| tokio.block_on(serve(Path::new(runtime))));
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("the container logger cannot run: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn serve(runtime: &Path) -> io::Result<()> {
    kernel::machine::raise_open_files();
    let Some(_lock) = alone(&directory(runtime).join("lock")).await? else { return Ok(()) };
    let path = socket(runtime);
    if let Err(error) = fs::remove_file(&path)
        && error.kind() != io::ErrorKind::NotFound
    {
        return Err(error);
    }
    let logger = Logger {
        tools: Arc::new(Tools::new()?),
        open: Mutex::new(BTreeMap::new()),
        agents: AtomicUsize::new(0),
    };
    let logger = Arc::new(logger);
    for container in order::scan(&runtime.join("containers")) {
        if let Err(text) = logger.watch(&container) {
            eprintln!("{text}");
        }
    }
    let listener = UnixListener::bind(&path)?;
    let mut idle_since = Instant::now() + PATIENCE;
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                let (connection, _) = accepted?;
                idle_since = Instant::now() + LOOK;
                tokio::spawn(Arc::clone(&logger).answer(connection));
            }
            () = sleep(LOOK) => {
                if logger.busy() {
                    idle_since = Instant::now() + LOOK;
                } else if Instant::now() > idle_since {
                    return Ok(());
                }
            }
        }
    }
}

/// The lock of the only logger; `None` if another one stays.
async fn alone(path: &Path) -> io::Result<Option<File>> {
    let file = File::options().read(true).write(true).create(true).truncate(false).open(path)?;
    let by = Instant::now() + PATIENCE;
    while !lock::try_lock(&file)? {
        if Instant::now() > by {
            return Ok(None);
        }
        sleep(Duration::from_millis(20)).await;
    }
    Ok(Some(file))
}

impl Logger {
    fn open(&self) -> MutexGuard<'_, BTreeMap<PathBuf, watch::Receiver<usize>>> {
        // The map is whole after any panic: entries go in and out in one step.
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn busy(&self) -> bool {
        self.agents.load(Ordering::Relaxed) > 0 || !self.open().is_empty()
    }

    /// Serves the container in this runtime directory, if it does not already.
    fn watch(self: &Arc<Self>, container: &Path) -> Result<(), String> {
        if self.open().contains_key(container) {
            return Ok(());
        }
        let order = Order::read(container).map_err(|error| kernel::chain(&error))?;
        let streams: io::Result<Vec<Stream>> = (0..order::STREAMS.len())
            .map(|index| Stream::open(container, &order, index, Arc::clone(&self.tools)))
            .collect();
        let streams = streams.map_err(|error| {
            format!("failed to open the pipes in '{}': {error}", container.display())
        })?;
        let (left, seen) = watch::channel(streams.len());
        let left = Arc::new(left);
        self.open().insert(container.to_owned(), seen);
        for stream in streams {
            let (logger, left, path) = (Arc::clone(self), Arc::clone(&left), container.to_owned());
            tokio::spawn(async move {
                if let Err(error) = stream.run().await {
                    eprintln!("failed to read a pipe in '{}': {error}", path.display());
                }
                left.send_modify(|left| *left -= 1);
                if *left.borrow() == 0 {
                    logger.open().remove(&path);
                }
            });
        }
        Ok(())
    }

    /// Returns when both streams of the container have ended.
    async fn drained(&self, container: &Path) {
        let seen = self.open().get(container).cloned();
        if let Some(mut seen) = seen {
            let _ = seen.wait_for(|left| *left == 0).await;
        }
    }

    /// Answers one agent's requests until it hangs up.
    async fn answer(self: Arc<Self>, connection: UnixStream) {
        self.agents.fetch_add(1, Ordering::Relaxed);
        let (reader, mut writer) = connection.into_split();
        let mut lines = BufReader::new(reader).lines();
        while let Ok(Some(line)) = lines.next_line().await {
            let answer = match line.split_once(' ').unwrap_or((&line, "")) {
                ("hello", _) => format!("ok {}", version::BULKHEAD),
                ("watch", path) => match self.watch(Path::new(path)) {
                    Ok(()) => "ok".to_owned(),
                    Err(text) => format!("error {}", text.replace('\n', " ")),
                },
                ("drained", path) => {
                    self.drained(Path::new(path)).await;
                    "ok".to_owned()
                }
                // All that is not written yet is in pipes, for whoever comes next.
                ("retire", _) => std::process::exit(0),
                _ => format!("error unknown request '{line}'"),
            };
            if writer.write_all(format!("{answer}\n").as_bytes()).await.is_err() {
                break;
            }
        }
        self.agents.fetch_sub(1, Ordering::Relaxed);
    }
}
