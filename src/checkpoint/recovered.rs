//! What recovery finds in `meta`, as values.

use mesos::internal::slave::ResourceState;
use mesos::internal::{StatusUpdate, UpdateOperationStatusMessage};
use mesos::{DrainConfig, ExecutorInfo, FrameworkInfo, SlaveInfo, Task, TaskInfo};

use super::{Garbage, Item, RunKey};

/// Everything of the newest agent id.
#[derive(Debug, Default)]
pub struct Recovered {
    /// The agent with its id; `None`: nothing to recover.
    pub agent: Option<SlaveInfo>,
    /// The machine was restarted since: pids mean nothing.
    pub rebooted: bool,
    /// It was draining.
    pub drain: Option<DrainConfig>,
    /// What is reserved and created here, and operations. Not of the agent's id: it
    /// stays when the agent comes back under a new one.
    pub resources: ResourceState,
    /// The updates of operations.
    pub operations: Vec<RecoveredOperation>,
    /// Frameworks that checkpoint.
    pub frameworks: Vec<RecoveredFramework>,
    /// What nobody needs any more.
    pub garbage: Vec<(Garbage, Item)>,
    /// What could not be read (only without `--strict`).
    pub errors: Vec<String>,
}

/// What is on the disk of the updates of an operation.
#[derive(Debug)]
pub struct RecoveredOperation {
    /// Its uuid, as its directory is named.
    pub uuid: String,
    /// Updates in order.
    pub updates: Vec<UpdateOperationStatusMessage>,
    /// Uuids of acknowledged updates.
    pub acknowledged: Vec<Vec<u8>>,
}

/// A framework.
#[derive(Debug)]
pub struct RecoveredFramework {
    /// Its description.
    pub info: FrameworkInfo,
    /// Its scheduler's address, if it is a V0 one.
    pub pid: Option<String>,
    /// Its executors.
    pub executors: Vec<RecoveredExecutor>,
}

/// An executor.
#[derive(Debug)]
pub struct RecoveredExecutor {
    /// Its description.
    pub info: ExecutorInfo,
    /// Made up for a command task.
    pub generated: bool,
    /// Its newest run; `None` if it never got that far.
    pub run: Option<RecoveredRun>,
}

impl RecoveredExecutor {
    /// Its newest run, if that ever had something to do. A command task's executor
    /// without the task: the agent died in between, nothing was launched.
    #[must_use]
    pub fn begun(&self) -> Option<&RecoveredRun> {
        self.run.as_ref().filter(|run| !(self.generated && run.tasks.is_empty()))
    }

    /// Whether it may still be running, or owes an update.
    #[must_use]
    pub fn is_live(&self) -> bool {
        self.begun().is_some_and(|run| !run.completed)
    }
}

/// The newest run of an executor.
#[derive(Debug)]
pub struct RecoveredRun {
    /// The ids.
    pub key: RunKey,
    /// It is over and acknowledged.
    pub completed: bool,
    /// Init's pid.
    pub forked_pid: Option<u32>,
    /// The address of a V0 executor that registered.
    pub libprocess_pid: Option<String>,
    /// A v1 executor subscribed.
    pub http: bool,
    /// Its tasks.
    pub tasks: Vec<RecoveredTask>,
}

/// A task.
#[derive(Debug)]
pub struct RecoveredTask {
    /// As it was handed over.
    pub task: Task,
    /// As the played executor of a command task needs it.
    pub launch: Option<TaskInfo>,
    /// A kill had begun.
    pub killed: bool,
    /// Updates in order.
    pub updates: Vec<StatusUpdate>,
    /// Uuids of acknowledged updates.
    pub acknowledged: Vec<Vec<u8>>,
}
