//! A container between launch and end.
//!
//! [`Launching`] kills the container when it is dropped; [`Running`] leaves it
//! alone: an agent that stops leaves its containers running.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream as StdStream;
use std::path::{Path, PathBuf};

use kernel::pidfd::Pidfd;
use kernel::spawn::Child;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::net::UnixStream;

use super::error::LaunchError;
use super::program::{self, Steps};
use super::record::{self, Exited, Record, state};

/// What is known of a container that is gone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum End {
    /// The shim reaped the first process and recorded this.
    Exited(Exited),
    /// The shim was killed, and the first process with it; the status is lost.
    Lost,
}

impl End {
    /// The wait status, if it is known.
    #[must_use]
    pub fn status(&self) -> Option<i32> {
        match self {
            End::Exited(exited) => Some(exited.status),
            End::Lost => None,
        }
    }
}

/// A running container.
#[derive(Debug)]
pub struct Running {
    pid: u32,
    shim_pid: u32,
    shim: AsyncFd<Pidfd>,
    record: File,
    /// What the `oci` engine left on disk.
    bundle: Option<PathBuf>,
}

impl Running {
    pub(super) fn new(
        shim: Pidfd,
        record: File,
        content: &Record,
        bundle: Option<PathBuf>,
    ) -> io::Result<Running> {
        // SAFETY: a `Pidfd` keeps its one descriptor until it is dropped.
        let shim = unsafe { AsyncFd::register_with_interest(shim, Interest::READABLE) }?;
        Ok(Running { pid: content.pid, shim_pid: content.shim, shim, record, bundle })
    }

    /// The first process' pid in the host's pid namespace.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// The shim's pid in the host's pid namespace. With a pid namespace the shim
    /// is the container's init; killing it kills every process of the container.
    #[must_use]
    pub fn shim_pid(&self) -> u32 {
        self.shim_pid
    }

    /// Completes when the container is gone: the shim has ended and, with a pid
    /// namespace, every process in it. May be called again and from several tasks.
    ///
    /// # Errors
    /// If the record cannot be read any more.
    pub async fn wait(&self) -> io::Result<End> {
        ended(&self.shim).await?;
        sweep(self.bundle.as_deref()).await;
        let record = record::read(&self.record)?;
        Ok(match record.state {
            state::EXITED => End::Exited(record.exited),
            _ => End::Lost,
        })
    }

    /// The terminal of a container that has one. Its shim keeps it, so that any agent
    /// may ask, and more than once.
    ///
    /// # Errors
    /// The shim has ended, or may not be looked into; the container has ended, and the
    /// shim reads the rest itself.
    pub fn terminal(&self) -> io::Result<Terminal> {
        let copy = |fd| self.shim.get_ref().descriptor(fd);
        // First: a shim that reads the rest itself has closed it.
        let hold = copy(program::HOLD_FD)?;
        let (master, output) = (copy(program::TERMINAL_FD)?, copy(program::OUTPUT_FD)?);
        Ok(Terminal { master, output, hold })
    }

    /// Sends `signal` to the first process; `false` if it has ended.
    ///
    /// # Errors
    /// As `pidfd_send_signal`.
    pub fn signal(&self, signal: i32) -> io::Result<bool> {
        let Ok(first) = Pidfd::open(self.pid) else { return Ok(false) };
        // The shim says so before it gives the pid back to the kernel; read after
        // the open, it proves that the descriptor is the container's process.
        match record::read(&self.record)?.state {
            state::PUBLISHED | state::RUNNING if !self.shim.get_ref().ended()? => {
                first.signal(signal)
            }
            _ => Ok(false),
        }
    }

    /// Kills the shim: with a pid namespace every process of the container dies,
    /// else its first process. Its exit status is lost, so this is the last resort;
    /// `signal(SIGKILL)` keeps it.
    ///
    /// # Errors
    /// As `pidfd_send_signal`.
    pub fn kill_shim(&self) -> io::Result<bool> {
        self.shim.get_ref().signal(libc::SIGKILL)
    }
}

/// A container's terminal, as its shim keeps it.
#[derive(Debug)]
pub struct Terminal {
    /// The master end; it does not block.
    pub master: OwnedFd,
    /// The plan's standard output: where what the container writes is to go.
    pub output: OwnedFd,
    /// To be kept until all has been read: as long the shim leaves the rest to us.
    pub hold: OwnedFd,
}

/// Waits for the shim's end and reaps it, if it is our child.
async fn ended(shim: &AsyncFd<Pidfd>) -> io::Result<()> {
    while !shim.get_ref().ended()? {
        shim.readable().await?.clear_ready();
    }
    shim.get_ref().reap()?;
    Ok(())
}

/// Removes what the `oci` engine made beside our own cgroups. Not an error of the
/// container: a directory that stays is swept again by the next recovery.
async fn sweep(bundle: Option<&Path>) {
    let Some(bundle) = bundle.map(Path::to_path_buf) else { return };
    let swept = tokio::task::spawn_blocking(move || super::oci::sweep(&bundle)).await;
    if let Ok(Err(error)) = swept {
        tracing::warn!(%error, "the oci engine left something behind");
    }
}

/// What the launch code knows of a launch that is under way.
#[derive(Debug)]
pub(super) struct Told {
    /// Names of the program's operations.
    pub steps: Steps,
    /// Of the `oci` engine.
    pub bundle: Option<PathBuf>,
}

/// A container whose first process exists. Dropping this kills it.
#[derive(Debug)]
pub struct Launching {
    /// Present until `release` succeeds.
    running: Option<Running>,
    socket: UnixStream,
    steps: Steps,
    waits: bool,
}

impl Launching {
    /// Waits for the shim's first word.
    pub(super) async fn begin(
        child: Child,
        socket: StdStream,
        record: File,
        told: Told,
    ) -> Result<Launching, LaunchError> {
        let failed =
            |source| LaunchError::Prepare { verb: "watch", object: "the shim".to_owned(), source };
        let mut content = record::read(&record).map_err(failed)?;
        (content.shim, content.pid) = (child.pid, 0);
        let running = Running::new(child.pidfd, record, &content, told.bundle).map_err(failed)?;
        socket.set_nonblocking(true).map_err(failed)?;
        let socket = UnixStream::from_std(socket).map_err(failed)?;
        let mut launching =
            Launching { running: Some(running), socket, steps: told.steps, waits: false };
        launching.waits = launching.word().await? == program::SAYS_WAITING;
        if let Some(running) = &mut launching.running {
            running.pid = record::read(&running.record).map_err(failed)?.pid;
        }
        Ok(launching)
    }

    fn current(&self) -> &Running {
        self.running.as_ref().expect("present until release succeeds")
    }

    /// The first process' pid in the host's pid namespace.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.current().pid
    }

    /// The shim's pid in the host's pid namespace.
    #[must_use]
    pub fn shim_pid(&self) -> u32 {
        self.current().shim_pid
    }

    /// As [`Running::terminal`]: before anything is written to it.
    ///
    /// # Errors
    /// As there.
    pub fn terminal(&self) -> io::Result<Terminal> {
        self.current().terminal()
    }

    /// Whether the first process waits for [`Launching::release`]; else it
    /// executes its command already.
    #[must_use]
    pub fn waits(&self) -> bool {
        self.waits
    }

    /// Lets the first process execute, if it waits, and returns when it does.
    ///
    /// # Errors
    /// As [`super::Launcher::launch`].
    pub async fn release(mut self) -> Result<Running, LaunchError> {
        if self.waits {
            // A refused write means that the shim is gone; the next read says how.
            let _ = self.socket.try_write(&[program::SAYS_RUNNING]);
            if self.word().await? != program::SAYS_RUNNING {
                return Err(LaunchError::Lost(None));
            }
        }
        Ok(self.running.take().expect("present until release succeeds"))
    }

    /// The next word of the shim; a failure, reported or not, is the error.
    async fn word(&mut self) -> Result<u8, LaunchError> {
        let mut word = [0u8; 1];
        loop {
            let lost = |_| LaunchError::Lost(None);
            self.socket.readable().await.map_err(lost)?;
            match self.socket.try_read(&mut word) {
                Ok(1) if word[0] != program::SAYS_FAILED => return Ok(word[0]),
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
                _ => break,
            }
        }
        Err(self.failure().await)
    }

    /// What the record says of a launch that failed, once the shim is gone.
    async fn failure(&mut self) -> LaunchError {
        let running = self.running.take().expect("present until release succeeds");
        let _ = running.kill_shim();
        if let Err(source) = ended(&running.shim).await {
            return LaunchError::Prepare { verb: "reap", object: "the shim".to_owned(), source };
        }
        let bundle = running.bundle.as_deref();
        sweep(bundle).await;
        if let Some(text) = bundle.and_then(super::oci::failure_of) {
            return LaunchError::Runtime(text);
        }
        match record::read(&running.record) {
            Ok(record) if record.state == state::FAILED => self.steps.error(record.failed),
            Ok(record) if record.state == state::EXITED => {
                LaunchError::Lost(Some(record.exited.status))
            }
            _ => LaunchError::Lost(None),
        }
    }
}

impl Drop for Launching {
    fn drop(&mut self) {
        let Some(running) = self.running.take() else { return };
        let _ = running.kill_shim();
        // Somebody must reap it; without a runtime the process is about to end.
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(async move {
                let _ = ended(&running.shim).await;
                sweep(running.bundle.as_deref()).await;
            });
        }
    }
}
