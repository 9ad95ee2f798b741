//! Frameworks, executors and tasks as the agent sees them.
//!
//! These values *are* the snapshot that readers get: the core shares them
//! through `Arc` and copies on write, so publishing costs one pointer per
//! executor. Nothing here acts.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

pub use mesos::model::is_terminal;
use mesos::secrets::Secretive;
use mesos::{
    ContainerId, ContainerStatus, ExecutorInfo, FrameworkId, FrameworkInfo, Task, TaskInfo,
    TaskState, TaskStatus, framework_info,
};

use crate::checkpoint::RunKey;
use crate::checks::Checks;
use crate::containerizer::{Details, Termination};

/// Completed tasks kept per executor (Mesos' constant).
pub const MAX_COMPLETED_TASKS: usize = 200;
/// Completed frameworks kept (Mesos' constant).
pub const MAX_COMPLETED_FRAMEWORKS: usize = 50;

/// Where a framework is in its life on this agent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FrameworkState {
    /// Normal.
    Running,
    /// Its executors are shutting down and nothing new is started.
    Terminating,
}

/// A framework with something on this agent.
#[derive(Debug, Clone)]
pub struct Framework {
    /// Its description; `id` is set.
    pub info: FrameworkInfo,
    /// The scheduler's libprocess address, `None` for HTTP schedulers.
    pub pid: Option<String>,
    /// Running or terminating.
    pub state: FrameworkState,
    /// Live executors by id.
    pub executors: BTreeMap<String, Arc<Executor>>,
    /// Executors that are gone, oldest first.
    pub completed: VecDeque<Arc<Executor>>,
}

impl Framework {
    /// The framework's id.
    pub fn id(&self) -> &str {
        self.info.id.as_ref().map_or("", |id| id.value.as_str())
    }

    /// Whether it announced `capability`.
    pub fn has(&self, capability: framework_info::capability::Type) -> bool {
        self.info.capabilities.iter().any(|c| c.r#type == Some(capability as i32))
    }

    /// Whether its tasks and executors are checkpointed.
    pub fn checkpoint(&self) -> bool {
        self.info.checkpoint()
    }

    /// The state for a task that never ran: `TASK_LOST` for schedulers that do
    /// not know `TASK_DROPPED`.
    pub fn dropped(&self) -> TaskState {
        if self.has(framework_info::capability::Type::PartitionAware) {
            TaskState::TaskDropped
        } else {
            TaskState::TaskLost
        }
    }

    /// The state for a task that is gone: `TASK_LOST` for schedulers that do not
    /// know `TASK_GONE`.
    pub fn gone(&self) -> TaskState {
        if self.has(framework_info::capability::Type::PartitionAware) {
            TaskState::TaskGone
        } else {
            TaskState::TaskLost
        }
    }
}

/// Where an executor is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExecutorState {
    /// Launched (or being launched), not yet heard of.
    Registering,
    /// Registered or subscribed; for played executors: the task runs.
    Running,
    /// Asked to shut down, or being destroyed.
    Terminating,
    /// Its container is gone; updates may still be unacknowledged.
    Terminated,
}

/// Names one HTTP event stream of an executor within this agent's process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct StreamId(pub u64);

/// How messages reach an executor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ExecutorSink {
    /// The v1 API: an open event stream.
    Http(StreamId),
    /// V0: a libprocess address such as `executor(1)@10.0.0.1:41234`.
    Pid(String),
}

/// What the agent remembers while it plays the executor of a command task.
#[derive(Debug, Clone, PartialEq)]
pub struct Played {
    /// The task, with its command, kill policy and time limit.
    pub task: TaskInfo,
    /// Its container is being launched: the command has not been executed yet.
    pub launching: bool,
    /// Set once a kill has begun.
    pub kill: Option<KillProgress>,
    /// The time limit struck: the task fails instead of being killed.
    pub out_of_time: bool,
    /// Its checks.
    pub checks: Checks,
    /// Its health check had it killed.
    pub unhealthy: bool,
    /// When it first ran, in seconds since the epoch.
    pub running_since: Option<f64>,
}

impl Played {
    /// A task whose container is there, or was.
    #[must_use]
    pub fn new(task: TaskInfo) -> Self {
        Played {
            checks: Checks::of(&task),
            task,
            launching: false,
            kill: None,
            out_of_time: false,
            unhealthy: false,
            running_since: None,
        }
    }
}

/// A kill that has begun.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KillProgress {
    /// Distinguishes the newest grace timer from older ones.
    pub generation: u64,
}

/// One executor, and one run of it: an id that comes back gets a new value.
#[derive(Debug, Clone)]
pub struct Executor {
    /// As the framework or the agent made it; no task resources in it.
    pub info: ExecutorInfo,
    /// Its framework.
    pub framework_id: FrameworkId,
    /// The ids its paths are made of.
    pub run: RunKey,
    /// Its container.
    pub container_id: ContainerId,
    /// The sandbox on the host.
    pub directory: String,
    /// The user it runs as, if it was switched.
    pub user: Option<String>,
    /// Whether it is checkpointed.
    pub checkpoint: bool,
    /// Registering, running, terminating or terminated.
    pub state: ExecutorState,
    /// How to reach it, once it has registered.
    pub sink: Option<ExecutorSink>,
    /// Made up by an agent for a command task.
    pub generated: bool,
    /// Present if the agent plays the executor: the task's command runs in the
    /// container itself. Absent for a command executor process that a C++ agent
    /// left behind.
    pub played: Option<Played>,
    /// Init's pid in the host's pid namespace, once launched.
    pub pid: Option<u32>,
    /// What the containerizer said of the container after the launch.
    pub container_status: Option<ContainerStatus>,
    /// What the first TASK_RUNNING of a task that the agent runs says besides.
    pub details: Option<Details>,
    /// Tasks that wait for the executor to register or the container to be resized.
    pub queued: BTreeMap<String, TaskInfo>,
    /// The groups among `queued`, each by its tasks' ids: delivered as a whole.
    pub groups: Vec<Vec<String>>,
    /// Tasks handed to the executor and not terminal.
    pub launched: BTreeMap<String, Task>,
    /// Terminal tasks with unacknowledged updates.
    pub terminated: BTreeMap<String, Task>,
    /// Terminal and acknowledged, oldest first.
    pub completed: VecDeque<Arc<Task>>,
    /// Why the agent destroys the container, kept for its tasks' last updates.
    pub pending_termination: Option<Termination>,
}

impl Executor {
    /// One that is yet to be launched, or to be heard of after a restart.
    pub fn new(run: RunKey, info: ExecutorInfo, directory: String, played: Option<Played>) -> Self {
        Executor {
            framework_id: FrameworkId { value: run.framework.clone() },
            container_id: ContainerId { value: run.container.clone(), parent: None },
            run,
            info,
            directory,
            user: None,
            checkpoint: false,
            state: ExecutorState::Registering,
            sink: None,
            generated: false,
            played,
            pid: None,
            container_status: None,
            details: None,
            queued: BTreeMap::new(),
            groups: Vec::new(),
            launched: BTreeMap::new(),
            terminated: BTreeMap::new(),
            completed: VecDeque::new(),
            pending_termination: None,
        }
    }

    /// The executor's id.
    pub fn id(&self) -> &str {
        &self.info.executor_id.value
    }

    /// Whether the agent plays this executor: there is no executor process.
    pub fn is_played(&self) -> bool {
        self.played.is_some()
    }

    /// Whether the agent is launching the container of a task that it plays.
    pub fn is_launching(&self) -> bool {
        self.played.as_ref().is_some_and(|played| played.launching)
    }

    /// Whether a task still has something to happen or to be acknowledged.
    pub fn is_incomplete(&self) -> bool {
        !self.queued.is_empty() || !self.launched.is_empty() || !self.terminated.is_empty()
    }

    /// A task that was handed over, whatever became of it since.
    pub fn task(&self, id: &str) -> Option<&Task> {
        self.launched
            .get(id)
            .or_else(|| self.terminated.get(id))
            .or_else(|| self.completed.iter().rev().find(|t| t.task_id.value == id).map(|t| &**t))
    }

    /// Whether the task is known here in any state.
    pub fn knows(&self, task: &str) -> bool {
        self.queued.contains_key(task) || self.task(task).is_some()
    }

    /// Whether the executor ever had a task: one is under way, or it spoke of one
    /// that is over. What the agent itself ended it may never have seen.
    pub fn ever_sent_task(&self) -> bool {
        let executor = Some(mesos::task_status::Source::Executor as i32);
        let heard = |task: &Task| task.statuses.iter().any(|status| status.source == executor);
        !self.launched.is_empty()
            || self.terminated.values().any(heard)
            || self.completed.iter().any(|task| heard(task))
    }

    /// Takes a task from the queue to the launched ones; `None` if it is not queued.
    pub fn hand_over(&mut self, task: &str) -> Option<TaskInfo> {
        let info = self.queued.remove(task)?;
        self.launched.insert(task.to_owned(), task_of(&info, &self.framework_id, None));
        Some(info)
    }

    /// A queued task that ends without having been handed over.
    pub fn unqueue(&mut self, task: &str) {
        if self.hand_over(task).is_some() {
            for group in &mut self.groups {
                group.retain(|id| id != task);
            }
            self.groups.retain(|g| !g.is_empty());
        }
    }

    /// Notes a status in the task's history and moves the task if it ended.
    /// Successive statuses of one state replace each other, as in Mesos.
    pub fn note(&mut self, status: &TaskStatus) {
        let id = &status.task_id.value;
        let terminal = is_terminal(status.state());
        let Some(task) = self.launched.get_mut(id).or_else(|| self.terminated.get_mut(id)) else {
            return;
        };
        if task.statuses.last().is_some_and(|last| last.state == status.state) {
            task.statuses.pop();
        }
        let mut kept = status.clone();
        kept.data = None; // compat: Mesos drops the payload from its history
        task.statuses.push(kept);
        task.state = status.state;
        if terminal && let Some(task) = self.launched.remove(id) {
            self.terminated.insert(id.clone(), task);
        }
    }

    /// Moves an acknowledged terminal task to the completed ones.
    pub fn complete(&mut self, task: &str) {
        if let Some(task) = self.terminated.remove(task) {
            if self.completed.len() == MAX_COMPLETED_TASKS {
                self.completed.pop_front();
            }
            self.completed.push_back(Arc::new(task));
        }
    }
}

/// The view of a task that Mesos shows, checkpoints and re-registers.
pub fn task_of(info: &TaskInfo, framework: &FrameworkId, user: Option<&str>) -> Task {
    Task {
        name: info.name.clone(),
        task_id: info.task_id.clone(),
        framework_id: framework.clone(),
        executor_id: info.executor.as_ref().map(|e| e.executor_id.clone()),
        slave_id: info.slave_id.clone(),
        state: TaskState::TaskStaging as i32,
        resources: info.resources.clone(),
        labels: info.labels.clone(),
        discovery: info.discovery.clone(),
        // Shown to everybody, and never used to run it.
        container: info.container.without_secrets(),
        health_check: info.health_check.without_secrets(),
        kill_policy: info.kill_policy,
        user: user.map(str::to_owned),
        limits: info.limits.clone(),
        ..Task::default()
    }
}
