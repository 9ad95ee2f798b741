//! Running containers for the agent: the [`Containerizer`] trait.
//!
//! The agent decides what runs; a containerizer makes it run, watches it and
//! cleans it up. Implementations: `native` (isolators and launch engines) and
//! `docker`; `composing` tries several in order. Every container is owned
//! by one task inside its containerizer; this trait is the door to it.
//!
//! What both share: `request`, what is asked; `runtime`, what is kept of a container
//! while the machine is up; `table`, doors to the containers' tasks; `sampler`,
//! statistics; `streams`, files for output; `terminal`, terminals; `hooks` of plugins;
//! `uris`, what comes into sandboxes; `progress`, how far launches are.

pub mod composing;
pub mod docker;
pub mod hooks;
pub mod images;
pub mod native;
mod progress;
mod request;
mod runtime;
mod sampler;
mod streams;
mod table;
pub mod terminal;
mod uris;

use std::collections::BTreeMap;
use std::fmt;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::SystemTime;

use async_trait::async_trait;
use isolators::gpu::Figure as Gpu;
use isolators::network::ports::listening::OpenPorts;
use isolators::traced::Calls;
use kernel::hung::Hung;
use mesos::{
    CommandInfo, ContainerId, ContainerInfo, ContainerStatus, ExecutorInfo, FrameworkId, Resource,
    ResourceStatistics, TaskInfo, TaskState, task_status,
};
use thiserror::Error;

pub use self::progress::Progress;
use self::terminal::{Lent, Terminal};

/// What to run and where. The sandbox exists and belongs to the user.
#[derive(Debug, Clone, Default)]
pub struct LaunchRequest {
    /// The container; with parents if it is nested.
    pub id: ContainerId,
    /// What runs: the executor's command, or the task's own for a command task.
    pub command: CommandInfo,
    /// Image, volumes, rlimits, networks.
    pub container: Option<ContainerInfo>,
    /// Requested resources.
    pub requests: Vec<Resource>,
    /// Limits by name; may be infinite.
    pub limits: BTreeMap<String, f64>,
    /// Host path of the sandbox; standard streams are its `stdout`, `stderr`.
    pub sandbox: PathBuf,
    /// User to run as, `None` to stay what the agent is.
    pub user: Option<String>,
    /// Environment from the agent, below what the command sets.
    pub environment: BTreeMap<String, String>,
    /// The framework, `None` for standalone containers.
    pub framework_id: Option<FrameworkId>,
    /// The executor running in the container; made up for command tasks.
    pub executor: Option<ExecutorInfo>,
    /// The task, if the container runs a command task itself.
    pub task: Option<TaskInfo>,
    /// A container of its own, or a guest in its parent.
    pub class: Class,
}

/// What a container is for: Mesos' `ContainerClass`.
#[derive(Debug, Clone, Default)]
pub enum Class {
    /// A container with all that the isolators give.
    #[default]
    Default,
    /// A process in its parent (checks, debugging): the same namespaces, limits,
    /// environment and working directory. Not taken over by the next agent.
    Debug(Output),
}

/// The standard streams of a guest.
#[derive(Debug, Clone)]
pub enum Output {
    /// Nothing to read, both outputs to the end of the parent's `stderr`.
    ParentsStderr,
    /// Input, output and error are these descriptors. They stay open until the
    /// container is forgotten: readers stop when the container has ended, not at the
    /// end of file, and writers do not hear that nobody reads.
    Pipes(Arc<[OwnedFd; 3]>),
    /// A terminal of its own, to be taken once the container is launched.
    Terminal(Lent),
}

/// A launched container.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Launched {
    /// Init's pid in the host's pid namespace; `None` if it has ended already.
    pub pid: Option<u32>,
    /// What the framework is told with the first TASK_RUNNING.
    pub details: Option<Details>,
}

/// Members of a status that say more of a container.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Details {
    /// `TaskStatus.data`.
    pub data: Vec<u8>,
    /// `TaskStatus.labels`.
    pub labels: Vec<mesos::Label>,
}

/// How a container ended.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Termination {
    /// Wait status of init as `waitpid` gives it; `None` if it never ran.
    pub status: Option<i32>,
    /// State that a limitation or a failed launch asks for.
    pub state: Option<TaskState>,
    /// Reasons, the first one found first.
    pub reasons: Vec<task_status::Reason>,
    /// For people.
    pub message: Option<String>,
    /// The resources whose limit was hit.
    pub limited_resources: Vec<Resource>,
}

/// The newest sample of each container; every reader gets the same one.
pub type Sample = Arc<Vec<(ContainerId, ResourceStatistics)>>;

/// Why a container is still being destroyed.
#[derive(Debug, Clone, PartialEq)]
pub struct Trouble {
    /// When the first attempt began.
    pub since: SystemTime,
    /// Attempts so far.
    pub attempts: u32,
    /// Which steps failed.
    pub reasons: Vec<String>,
    /// Processes that do not die, some of them if they are many.
    pub processes: Vec<Hung>,
}

impl Trouble {
    pub(crate) fn new(
        since: SystemTime,
        attempts: u32,
        reasons: Vec<String>,
        processes: Vec<Hung>,
    ) -> Trouble {
        Trouble { since, attempts, reasons, processes }
    }

    /// For `/containerizer/debug` and `/containers`.
    #[must_use]
    pub fn to_json(&self) -> serde_json::Value {
        let processes: Vec<_> = self
            .processes
            .iter()
            .map(|hung| {
                serde_json::json!({
                    "pid": hung.pid, "name": hung.name, "state": hung.state.to_string(),
                    "wchan": hung.wchan, "stack": hung.stack, "frozen_by": hung.frozen,
                })
            })
            .collect();
        serde_json::json!({
            "seconds": self.since.elapsed().unwrap_or_default().as_secs(),
            "attempts": self.attempts,
            "reason": self.to_string(),
            "processes": processes,
        })
    }
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let processes = self.processes.iter().map(ToString::to_string);
        let all: Vec<String> = processes.chain(self.reasons.iter().cloned()).collect();
        f.write_str(&all.join("; "))
    }
}

/// Why a container did not start, or not live.
#[derive(Debug, Error)]
#[allow(missing_docs)]
pub enum ContainerizerError {
    /// Flags contradict each other or the machine; says what to do.
    #[error("failed to create the containerizer: {0}")]
    Start(String),
    /// This containerizer does not run this kind of container; ask the next.
    #[error("not supported: {0}")]
    NotSupported(String),
    #[error("container {0} is already launched")]
    AlreadyLaunched(String),
    #[error("container {0} is not known")]
    Unknown(String),
    /// The launch failed at `step`; everything is cleaned up.
    #[error("failed to launch container {id}: {step}: {message}")]
    Launch { id: String, step: &'static str, message: String },
    #[error("failed to update container {id}: {message}")]
    Update { id: String, message: String },
    #[error("failed to listen to container {id}: {message}")]
    Listen { id: String, message: String },
    #[error("failed to destroy container {id}: {message}")]
    Destroy { id: String, message: String },
    #[error("failed to recover: {0}")]
    Recover(String),
}

/// What the agent's checkpoints know of a container.
#[derive(Debug, Clone)]
pub struct KnownContainer {
    /// As at launch.
    pub request: LaunchRequest,
    /// The checkpointed pid of init; `None` if the agent died between the launch
    /// and its checkpoint: the containerizer's own records then decide whether
    /// the container lives.
    pub pid: Option<u32>,
}

/// Somebody hears what a container says, until this is dropped.
#[derive(Debug)]
pub struct Listening(tokio::task::AbortHandle);

impl Drop for Listening {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// A door to the containers of one kind. All methods may be called at any time
/// from any task; calls about one container are served in order by its owner.
#[async_trait]
pub trait Containerizer: Send + Sync {
    /// Adopts what still runs; called once, before everything else. Containers
    /// that ended meanwhile are adopted too: their `wait` answers at once with
    /// the recorded exit. What carries our marks and is not in `known` is
    /// destroyed in the background.
    ///
    /// Returns those of `known` without a pid that never executed anything: the
    /// last agent died before or while it launched them. Nothing of them is left;
    /// they are not known here and may be launched.
    async fn recover(
        &self,
        known: Vec<KnownContainer>,
    ) -> Result<Vec<ContainerId>, ContainerizerError>;

    /// Starts a container; returns when its process executes the command. A
    /// command that cannot be executed is a `Launch` error that says why.
    async fn launch(&self, request: LaunchRequest) -> Result<Launched, ContainerizerError>;

    /// Completes when the container is gone and cleaned up. `None`: not known.
    /// The record of the end outlives the agent until [`Containerizer::forget`].
    async fn wait(&self, id: &ContainerId) -> Option<Termination>;

    /// The agent has stored how a top-level container ended: its exit record may
    /// go. Before that call a restarted agent must get the same `wait` answer,
    /// or an end that happened while the agent was away would be lost.
    async fn forget(&self, id: &ContainerId);

    /// Applies new requests and limits.
    async fn update(
        &self,
        id: &ContainerId,
        requests: Vec<Resource>,
        limits: BTreeMap<String, f64>,
    ) -> Result<(), ContainerizerError>;

    /// The newest sample of every running top-level container; never waits for
    /// the kernel longer than one sampling pass.
    async fn statistics(&self) -> Sample;

    /// What isolators know of the running container (addresses, classids, pid).
    async fn status(&self, id: &ContainerId) -> Option<ContainerStatus>;

    /// Sends a signal to init only. `false`: not known or already gone.
    async fn kill(&self, id: &ContainerId, signal: i32) -> bool;

    /// Sends a signal to init and all its descendants in the container. This is
    /// the first step of the kill policy of command tasks. `false`: not known.
    async fn kill_all(&self, id: &ContainerId, signal: i32) -> bool;

    /// Kills and cleans up; returns how it ended. `None`: not known. Repeated
    /// calls wait for the same end. `termination` overrides state, reason and
    /// message (an exit status that was already recorded is kept).
    async fn destroy(
        &self,
        id: &ContainerId,
        termination: Option<Termination>,
    ) -> Option<Termination>;

    /// Copies what the container's first process says from now on to the two descriptors,
    /// for its output and its errors, until it ends, nobody reads there, or the answer is
    /// dropped. Its files get it as well. `NotSupported`: nobody but its sandbox hears it.
    async fn listen(
        &self,
        _id: &ContainerId,
        _to: [OwnedFd; 2],
    ) -> Result<Listening, ContainerizerError> {
        Err(ContainerizerError::NotSupported("listening to a container's output".into()))
    }

    /// The body of `/containerizer/debug`: calls that are under way.
    fn debug(&self) -> serde_json::Value {
        serde_json::json!({"pending": []})
    }

    /// Calls to isolators that have ended, by isolator and call.
    fn isolator_calls(&self) -> BTreeMap<(&'static str, &'static str), Calls> {
        BTreeMap::new()
    }

    /// The GPUs that are handed out; asks the driver and may block.
    fn gpus(&self) -> Vec<Gpu> {
        Vec::new()
    }

    /// What listens in top-level containers, those that were looked at for that.
    fn listening(&self) -> Vec<(String, OpenPorts)> {
        Vec::new()
    }

    /// The images it has at hand, if it has any to do with images.
    fn images(&self) -> Vec<images::NamedStore> {
        Vec::new()
    }

    /// Containers that are being launched and wait for something that may take long.
    fn progress(&self) -> Vec<(ContainerId, Progress)> {
        Vec::new()
    }

    /// Containers whose destruction takes longer than it should, and why.
    fn troubles(&self) -> Vec<(ContainerId, Arc<Trouble>)> {
        Vec::new()
    }

    /// Every container, with init's pid once it has one.
    fn containers(&self) -> Vec<(ContainerId, Option<u32>)>;

    /// The terminal of a running container that asked for one, but for sessions: theirs
    /// is lent to who started them.
    fn terminal(&self, _id: &ContainerId) -> Option<Arc<Terminal>> {
        None
    }

    /// Whether a call about this container would find it: one that ended is known
    /// until it is forgotten.
    fn knows(&self, id: &ContainerId) -> bool {
        self.containers().iter().any(|(known, _)| known == id)
    }
}
