//! From a launch plan to a running container.
//!
//! ```text
//! LaunchPlan --compile--> program --spawn--> shim --clone--> first process
//!                                              |
//!                                         exit record (outlives the agent)
//! ```
//!
//! [`Launcher::launch`] compiles the plan into a flat program, creates the exit
//! record and starts the shim in the container's new namespaces; the shim makes
//! the mounts, starts the first process, reaps it and records its end. Called by
//! the containerizer only. Decides nothing about cgroups, sandboxes or policy and
//! knows no Mesos message.
//!
//! ```text
//! launch() -> Launching --release()--> Running --wait()--> End
//!                                         ^
//! recover() ------------------------------+
//! ```

mod capabilities;
mod compile;
mod error;
mod ids;
pub mod oci;
mod park;
mod program;
mod record;
mod recover;
mod running;

use std::cell::Cell;
use std::fmt;
use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::str::FromStr;

use isolators::plan::LaunchPlan;
use kernel::boot::BootId;
use kernel::parked::Parked;
use kernel::spawn::Child;
use kernel::{memfd, sched, spawn};

pub use error::{LaunchError, Step};
use ids::{Ids, Outputs};
pub use record::Exited;
pub use recover::{Recovered, recover};
use running::Told;
pub use running::{End, Launching, Running, Terminal};

/// The helper program of [`Engine::Oci`].
const HELPER: &str = "bulkhead-helper";
/// The shim, built by the build script (docs/decisions/0003-shim.md). With an argument it
/// waits until it is killed.
pub(crate) static SHIM: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/bulkhead-shim"));

/// How plans are run (`--launcher`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Engine {
    /// As `Linux`, by libcontainer in a helper process; needs a build with `oci`.
    Oci,
    /// Namespaces, mounts and cgroups: the default, needs root.
    Linux,
    /// Plain processes; a plan that asks for namespaces is refused.
    Posix,
}

impl Engine {
    /// Name as in `--launcher`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Engine::Linux => "linux",
            Engine::Posix => "posix",
            Engine::Oci => "oci",
        }
    }
}

impl fmt::Display for Engine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Engine {
    type Err = String;

    fn from_str(name: &str) -> Result<Engine, String> {
        match name {
            "linux" => Ok(Engine::Linux),
            "posix" => Ok(Engine::Posix),
            "oci" => Ok(Engine::Oci),
            other => Err(format!("unknown launcher '{other}', use 'linux', 'posix' or 'oci'")),
        }
    }
}

/// Starts containers; one value per agent.
#[derive(Debug)]
pub struct Launcher {
    engine: Engine,
    shim: OwnedFd,
    boot: BootId,
    /// For [`Engine::Oci`].
    oci: Option<oci::Oci>,
}

impl Launcher {
    /// Prepares the shim's image.
    ///
    /// # Errors
    /// If the kernel has no executable memory files or no boot id; with
    /// [`Engine::Oci`] if the helper is not beside this program.
    pub fn new(engine: Engine) -> Result<Launcher, LaunchError> {
        let beside = || {
            let own = std::env::current_exe().and_then(|own| own.canonicalize());
            own.map(|own| own.with_file_name(HELPER)).map_err(|source| LaunchError::Prepare {
                verb: "find",
                object: "this program".to_owned(),
                source,
            })
        };
        match engine {
            Engine::Oci => Launcher::with_helper(&beside()?),
            Engine::Linux | Engine::Posix => Launcher::make(engine, None),
        }
    }

    /// The engine [`Engine::Oci`], with the helper program at `helper`.
    ///
    /// # Errors
    /// As [`Launcher::new`]; if `helper` cannot be run, is of another version or was
    /// built without the feature `oci`.
    pub fn with_helper(helper: &Path) -> Result<Launcher, LaunchError> {
        Launcher::make(Engine::Oci, Some(oci::Oci::new(helper.to_path_buf())?))
    }

    fn make(engine: Engine, oci: Option<oci::Oci>) -> Result<Launcher, LaunchError> {
        let shim = memfd::executable(c"bulkhead-shim", SHIM)?;
        Ok(Launcher { engine, shim, boot: BootId::read()?, oci })
    }

    /// The engine that this launcher uses.
    #[must_use]
    pub fn engine(&self) -> Engine {
        self.engine
    }

    /// Starts the container. Returns when its first process executes the command
    /// or, if the plan has `wait_for` or a terminal, when it waits for
    /// [`Launching::release`].
    /// Dropping the future or the result kills the container.
    ///
    /// `record` must not exist; it is left behind on success and on failure, and
    /// belongs to the caller. It should be on a tmpfs: it is meaningless after a
    /// reboot. Must be called on a tokio runtime.
    ///
    /// # Errors
    /// See [`LaunchError`]; nothing of the container is left running.
    pub async fn launch(&self, plan: &LaunchPlan, record: &Path) -> Result<Launching, LaunchError> {
        short_slice();
        let user = Ids::of(plan)?;
        let parked = plan.ready.as_ref().and_then(|ready| ready.take_shim());
        let compile = |parked| compile::compile(plan, self.engine, user.as_ref(), parked);
        let mut compiled = match &self.oci {
            Some(oci) => oci.prepare(plan, record)?,
            None => compile(parked.is_some())?,
        };
        let parked = parked.filter(|_| compiled.parked);
        let bundle = self.oci.as_ref().map(|_| oci::of_record(record));
        let file = record::create(record, self.boot, compiled.own_pids)?;
        // Ours to read, without the lock: that is the shim's alone.
        let reader = record::open(record).map_err(|source| LaunchError::Prepare {
            verb: "open",
            object: record.display().to_string(),
            source,
        })?;
        let outputs = Outputs::of(plan, user.as_ref());
        let stdio = [plan.stdio.stdin.as_fd(), outputs.stdout(), outputs.stderr()];
        let mut woken = None;
        if let Some(parked) = parked {
            match wake(parked, &compiled.bytes, stdio, &file) {
                Ok(both) => woken = Some(both),
                Err(error) => {
                    tracing::debug!(%error, "a shim that was started ahead is gone");
                    compiled = compile(false)?;
                }
            }
        }
        let (child, ours) = match woken {
            Some(woken) => woken,
            None => {
                let ready = plan.ready.as_ref().filter(|_| compiled.ready);
                let ready = ready.map(|ready| ready.namespace.as_fd());
                kernel::failpoint!("launch.before_fork");
                self.begin((&compiled.bytes, compiled.namespaces), stdio, &file, ready)?
            }
        };
        kernel::failpoint!("launch.after_fork");
        drop((file, outputs));
        let told = Told { steps: compiled.steps, bundle };
        let launching = Launching::begin(child, ours, reader, told).await;
        // The shim has opened it by now.
        drop(user);
        launching
    }
}

impl Launcher {
    /// Starts a shim in new namespaces (`CLONE_NEW*`); with it, our end of its socket.
    fn begin(
        &self,
        (program, namespaces): (&[u8], u64),
        [stdin, stdout, stderr]: [BorrowedFd<'_>; 3],
        record: &File,
        ready: Option<BorrowedFd<'_>>,
    ) -> Result<(Child, UnixStream), LaunchError> {
        let failed = |verb, object: &str| {
            let object = object.to_owned();
            move |source| LaunchError::Prepare { verb, object, source }
        };
        let program = memfd::sealed(c"bulkhead-program", program)?;
        let (ours, theirs) = UnixStream::pair().map_err(failed("create", "the launch socket"))?;
        let (program, record, socket) = (program.as_fd(), record.as_fd(), theirs.as_fd());
        let mut fds = vec![stdin, stdout, stderr, program, record, socket];
        fds.extend(ready);
        let child = spawn::spawn(self.shim.as_fd(), c"bulkhead-shim", namespaces, &fds)
            .map_err(failed("start", "the shim"))?;
        Ok((child, ours))
    }
}

/// Tells a shim that is there what to run.
fn wake(
    parked: Parked,
    program: &[u8],
    [stdin, stdout, stderr]: [BorrowedFd<'_>; 3],
    record: &File,
) -> Result<(Child, UnixStream), LaunchError> {
    let program = memfd::sealed(c"bulkhead-program", program)?;
    kernel::failpoint!("launch.before_fork");
    parked.wake(&[stdin, stdout, stderr, program.as_fd(), record.as_fd()]).map_err(|source| {
        LaunchError::Prepare { verb: "wake", object: "the shim".to_owned(), source }
    })
}

/// Asks for a short scheduler slice for this thread, once: on a busy node it
/// halves the time from a shim's word to its reader.
fn short_slice() {
    thread_local!(static ASKED: Cell<bool> = const { Cell::new(false) });
    if !ASKED.replace(true) {
        // Only latency is at stake, so a refusal is not worth a word.
        let _ = sched::set_slice(sched::SHORT_SLICE_NS);
    }
}

impl From<kernel::Error> for LaunchError {
    fn from(error: kernel::Error) -> LaunchError {
        LaunchError::Prepare { verb: error.verb, object: error.object, source: error.source }
    }
}
