//! What recovery finds in `meta`, as values.

use mesos::internal::StatusUpdate;
use mesos::{DrainConfig, ExecutorInfo, FrameworkInfo, SlaveInfo, Task, TaskInfo};

use super::RunKey;

/// Everything of the newest agent id.
#[derive(Debug, Default)]
pub struct Recovered {
    /// The agent with its id; `None`: nothing to recover.
    pub agent: Option<SlaveInfo>,
    /// The machine was restarted since: pids mean nothing.
    pub rebooted: bool,
    /// It was draining.
    pub drain: Option<DrainConfig>,
    /// Frameworks that checkpoint.
    pub frameworks: Vec<RecoveredFramework>,
    /// Other agent ids with directories here, to be collected.
    pub other_agents: Vec<(String, f64)>,
    /// What could not be read (only without `--strict`).
    pub errors: Vec<String>,
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
    /// When its directory was changed last, seconds since the epoch.
    pub modified: f64,
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
    /// Older runs (container id, when changed last), to be collected.
    pub old_runs: Vec<(RunKey, f64)>,
}

/// The newest run of an executor.
#[derive(Debug)]
pub struct RecoveredRun {
    /// The ids.
    pub key: RunKey,
    /// It is over and acknowledged.
    pub completed: bool,
    /// When its directory was changed last, seconds since the epoch.
    pub modified: f64,
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
