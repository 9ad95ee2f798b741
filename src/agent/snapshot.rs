//! What readers see: an immutable picture of the agent.
//!
//! The driver publishes one after every batch of events, before the batch's
//! effects run; so whoever saw an effect also sees the state behind it. `/state`,
//! `/containers`, metrics and the `GET_*` calls render from it and never enter
//! the agent's mailbox.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use mesos::resources::Resources;
use mesos::{ContainerId, MasterInfo, Operation, SlaveInfo};

use super::core::drain::Drain;
use super::core::state::{Executor, Framework};

/// Where the agent is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AgentState {
    /// Reading checkpoints and waiting for executors to come back.
    Recovering,
    /// Not registered with a master.
    Disconnected,
    /// Registered.
    Running,
    /// Shutting everything down.
    Terminating,
}

/// Monotonic counters behind `/metrics/snapshot` (names without `slave/`).
#[derive(Debug, Clone, Default, PartialEq)]
#[allow(missing_docs)] // the names are Mesos' metric names
pub struct Counters {
    pub valid_status_updates: u64,
    pub invalid_status_updates: u64,
    pub valid_framework_messages: u64,
    pub invalid_framework_messages: u64,
    pub tasks_finished: u64,
    pub tasks_failed: u64,
    pub tasks_killed: u64,
    pub tasks_lost: u64,
    pub tasks_gone: u64,
    pub executors_terminated: u64,
    pub executors_preempted: u64,
    pub container_launch_errors: u64,
    pub recovery_errors: u64,
    pub gc_path_removals_succeeded: u64,
    pub gc_path_removals_failed: u64,
    /// Paths waiting for their removal.
    pub gc_path_removals_pending: u64,
    /// Known bytes in them.
    pub gc_bytes_pending: u64,
    /// How long the oldest has waited, in seconds.
    pub gc_oldest_secs: f64,
    /// Removals that waited for a reader.
    pub gc_removals_postponed: u64,
    /// Files and directories that were deleted.
    pub gc_files_removed: u64,
    /// Known bytes in them.
    pub gc_bytes_removed: u64,
    /// Whether a checkpoint waits for room on the disk.
    pub checkpoints_waiting: bool,
    /// Files left in the reserve for a full disk.
    pub checkpoint_reserve: u64,
}

/// The agent at one moment.
#[derive(Debug, Clone)]
pub struct Snapshot {
    /// Counts publications.
    pub generation: u64,
    /// Life cycle.
    pub state: AgentState,
    /// The agent's description; `id` is set once registered (or recovered).
    pub info: Arc<SlaveInfo>,
    /// The detected master, registered with it or not.
    pub master: Option<Arc<MasterInfo>>,
    /// All that the agent has, reservations and volumes included.
    pub resources: Arc<Resources>,
    /// Operations of which somebody is yet to hear, by uuid.
    pub operations: Vec<Arc<Operation>>,
    /// Frameworks by id.
    pub frameworks: BTreeMap<String, Arc<Framework>>,
    /// Frameworks that have nothing left here, oldest first.
    pub completed_frameworks: VecDeque<Arc<Framework>>,
    /// Counters for metrics.
    pub counters: Counters,
    /// How long recovery took in seconds; `None` while recovering.
    pub recovery_secs: Option<f64>,
    /// How old a removed executor's sandbox may get in seconds, by the newest
    /// look at the disk.
    pub max_sandbox_age_secs: f64,
    /// The drain that is under way.
    pub drain: Option<Drain>,
}

impl Snapshot {
    /// Every executor that is not completed.
    pub fn executors(&self) -> impl Iterator<Item = (&Arc<Framework>, &Arc<Executor>)> {
        self.frameworks.values().flat_map(|f| f.executors.values().map(move |e| (f, e)))
    }

    /// The live executor that runs in the top-level container of `id`.
    pub fn executor_of(&self, id: &ContainerId) -> Option<&Arc<Executor>> {
        let root = id.root();
        self.executors().map(|(_, e)| e).find(|e| e.container_id.value == root.value)
    }
}
