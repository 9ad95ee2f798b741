//! What can be checkpointed, as values. The core of the agent emits them, the
//! storage task (`super::store`) writes them. No I/O here.

use mesos::internal::slave::ResourceState;
use mesos::internal::{StatusUpdateRecord, UpdateOperationStatusRecord};
use mesos::{DrainConfig, ExecutorInfo, FrameworkInfo, SlaveInfo, Task, TaskInfo};

use super::{Garbage, Item, RunKey};

/// One durable fact. Writing the same record twice is harmless, except for
/// [`Record::Update`], of which recovery drops the repetition.
#[derive(Debug, Clone, PartialEq)]
pub enum Record {
    /// The agent's id and description; also points `latest` at it.
    Agent(Box<SlaveInfo>),
    /// A framework; its id is in the info.
    Framework {
        /// The agent it runs on.
        agent: String,
        /// The framework.
        info: Box<FrameworkInfo>,
        /// The scheduler's libprocess address, `@0.0.0.0:0` if it has none.
        pid: String,
    },
    /// An executor and the directory of its newest run.
    Executor {
        /// The run.
        run: RunKey,
        /// As launched, without the tasks' resources.
        info: Box<ExecutorInfo>,
        /// Made up by the agent for a command task.
        generated: bool,
    },
    /// Init's pid.
    ForkedPid {
        /// The run.
        run: RunKey,
        /// In the host's pid namespace.
        pid: u32,
    },
    /// The executor registered over libprocess.
    LibprocessPid {
        /// The run.
        run: RunKey,
        /// Its address.
        pid: String,
    },
    /// The executor subscribed over HTTP.
    HttpMarker {
        /// The run.
        run: RunKey,
    },
    /// A task handed to the run.
    Task {
        /// The run.
        run: RunKey,
        /// The task as it is shown.
        task: Box<Task>,
        /// What the agent needs to play the executor of a command task.
        launch: Option<Box<TaskInfo>>,
    },
    /// The task of a played executor is being killed (`task.kill`, ours).
    Kill {
        /// The run.
        run: RunKey,
        /// The task.
        task: String,
    },
    /// A status update, or the acknowledgement of one.
    Update {
        /// The run.
        run: RunKey,
        /// The task.
        task: String,
        /// Appended to `task.updates`.
        record: Box<StatusUpdateRecord>,
    },
    /// The run is over: its container is gone and all updates are acknowledged.
    Sentinel {
        /// The run.
        run: RunKey,
    },
    /// The agent is draining, or (`None`) no more.
    Drain {
        /// The agent's id.
        agent: String,
        /// What it was told.
        config: Option<DrainConfig>,
    },
    /// All that is reserved and created here, and the operations of which somebody
    /// is yet to hear. Directories of volumes are made and removed with it.
    Resources(Box<ResourceState>),
    /// An update of an operation, or the acknowledgement of one.
    OperationUpdate {
        /// The agent's id.
        agent: String,
        /// The operation's uuid, as text.
        operation: String,
        /// Appended to `operation.updates`.
        record: Box<UpdateOperationStatusRecord>,
    },
    /// Everybody has heard of the operation.
    ForgetOperation {
        /// The agent's id.
        agent: String,
        /// The operation's uuid, as text.
        operation: String,
    },
    /// The agent must come back under a new id.
    ForgetAgent,
    /// A directory waits for its deletion from now on, or what is known of it
    /// changed.
    Scheduled {
        /// Which.
        garbage: Garbage,
        /// Since when, and more.
        item: Item,
    },
    /// It is gone, or used again.
    Unscheduled(Garbage),
    /// All that waits: takes the place of what was said before.
    Schedule(Vec<(Garbage, Item)>),
}

impl Record {
    /// Whether a full disk must not hold this back: it keeps a promise that was
    /// made before. New work can wait.
    #[must_use]
    pub fn is_owed(&self) -> bool {
        match self {
            Record::Agent(_)
            | Record::ForkedPid { .. }
            | Record::LibprocessPid { .. }
            | Record::HttpMarker { .. }
            | Record::Kill { .. }
            | Record::Update { .. }
            | Record::Sentinel { .. }
            | Record::Drain { .. }
            | Record::OperationUpdate { .. }
            | Record::ForgetOperation { .. }
            | Record::ForgetAgent => true,
            Record::Framework { .. }
            | Record::Executor { .. }
            | Record::Task { .. }
            | Record::Resources(_)
            | Record::Scheduled { .. }
            | Record::Unscheduled(_)
            | Record::Schedule(_) => false,
        }
    }

    /// The run that it is about, if it is about one.
    #[must_use]
    pub fn run(&self) -> Option<&RunKey> {
        match self {
            Record::Executor { run, .. }
            | Record::ForkedPid { run, .. }
            | Record::LibprocessPid { run, .. }
            | Record::HttpMarker { run }
            | Record::Task { run, .. }
            | Record::Kill { run, .. }
            | Record::Update { run, .. }
            | Record::Sentinel { run } => Some(run),
            Record::Agent(_)
            | Record::Framework { .. }
            | Record::Drain { .. }
            | Record::Resources(_)
            | Record::OperationUpdate { .. }
            | Record::ForgetOperation { .. }
            | Record::ForgetAgent
            | Record::Scheduled { .. }
            | Record::Unscheduled(_)
            | Record::Schedule(_) => None,
        }
    }

    /// Whether the agent can do without: it finds out again by looking.
    #[must_use]
    pub fn is_advice(&self) -> bool {
        matches!(self, Record::Scheduled { .. } | Record::Unscheduled(_) | Record::Schedule(_))
    }
}

impl Record {
    /// Its kind, for logs and tests.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Record::Agent(_) => "agent",
            Record::Framework { .. } => "framework",
            Record::Executor { .. } => "executor",
            Record::ForkedPid { .. } => "forked_pid",
            Record::LibprocessPid { .. } => "libprocess_pid",
            Record::HttpMarker { .. } => "http_marker",
            Record::Task { .. } => "task",
            Record::Kill { .. } => "kill",
            Record::Update { record, .. } if record.update.is_none() => "ack",
            Record::Update { .. } => "update",
            Record::Sentinel { .. } => "sentinel",
            Record::Drain { config: Some(_), .. } => "drain",
            Record::Drain { config: None, .. } => "drained",
            Record::Resources(_) => "resources",
            Record::OperationUpdate { record, .. } if record.update.is_none() => "operation_ack",
            Record::OperationUpdate { .. } => "operation_update",
            Record::ForgetOperation { .. } => "forget_operation",
            Record::ForgetAgent => "forget_agent",
            Record::Scheduled { .. } => "scheduled",
            Record::Unscheduled(_) => "unscheduled",
            Record::Schedule(_) => "schedule",
        }
    }
}
