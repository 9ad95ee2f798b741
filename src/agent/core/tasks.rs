//! Tasks coming in and being killed.

use std::sync::Arc;
use std::time::Duration;

use mesos::internal::{
    KillTaskMessage, ResourceVersionUuid, RunTaskGroupMessage, RunTaskMessage,
    UpdateFrameworkMessage,
};
use mesos::{
    ExecutorInfo, FrameworkInfo, TaskGroupInfo, TaskInfo, TaskState, executor_info, task_status,
};

use super::state::{ExecutorState, Framework, FrameworkState};
use super::status::NewStatus;
use super::{AgentState, Core, wire};
use crate::checkpoint::Record;

/// One `RunTask` or `RunTaskGroup`, in one form.
struct Run {
    tasks: Vec<TaskInfo>,
    /// Delivered as a whole.
    group: bool,
    /// `None`: a command task whose executor the agent plays.
    executor: Option<ExecutorInfo>,
    /// What the master thinks about the executor's existence.
    launch_executor: Option<bool>,
    versions: Vec<ResourceVersionUuid>,
}

impl Run {
    fn executor_id(&self) -> String {
        match &self.executor {
            Some(executor) => executor.executor_id.value.clone(),
            None => self.tasks.first().map(|t| t.task_id.value.clone()).unwrap_or_default(),
        }
    }
}

/// Why a task is not run.
struct Refused {
    reason: task_status::Reason,
    message: &'static str,
}

impl Core {
    pub(super) fn run_task(&mut self, message: RunTaskMessage) {
        let RunTaskMessage {
            framework,
            mut task,
            resource_version_uuids,
            pid,
            launch_executor,
            ..
        } = message;
        normalize(&mut task);
        let executor = task.executor.clone();
        let run = Run {
            tasks: vec![task],
            group: false,
            executor,
            launch_executor,
            versions: resource_version_uuids,
        };
        self.run(framework, pid.as_deref(), run);
    }

    pub(super) fn run_task_group(&mut self, message: RunTaskGroupMessage) {
        let TaskGroupInfo { mut tasks } = message.task_group;
        tasks.iter_mut().for_each(normalize);
        let mut executor = message.executor;
        wire::upgrade(&mut executor.resources);
        let run = Run {
            tasks,
            group: true,
            executor: Some(executor),
            launch_executor: message.launch_executor,
            versions: message.resource_version_uuids,
        };
        self.run(message.framework, None, run);
    }

    fn run(&mut self, info: FrameworkInfo, pid: Option<&str>, run: Run) {
        if !matches!(self.state, AgentState::Running | AgentState::Disconnected) {
            tracing::warn!(state = ?self.state, "ignoring a task: the agent is not ready");
            return;
        }
        let Some(framework) = info.id.as_ref().map(|id| id.value.clone()) else {
            tracing::warn!("ignoring a task of a framework without an id");
            return;
        };
        if run.tasks.is_empty() || run.tasks.iter().any(|t| t.slave_id.value != self.agent_id()) {
            tracing::warn!(framework, "ignoring a task meant for another agent");
            return;
        }
        self.ensure_framework(&framework, info, pid);
        let executor = run.executor_id();
        if self.frameworks[&framework].state == FrameworkState::Terminating {
            tracing::warn!(framework, "ignoring a task of a terminating framework");
            self.not_launched(&framework, &executor, run.launch_executor);
            return;
        }
        if let Err(refused) = self.check_run(&framework, &executor, &run) {
            self.refuse(&framework, &executor, &run, &refused);
            return;
        }
        self.unschedule(&framework, &executor);
        self.accept(&framework, &executor, run);
    }

    fn ensure_framework(&mut self, id: &str, info: FrameworkInfo, pid: Option<&str>) {
        if self.frameworks.contains_key(id) {
            return;
        }
        // Keep what is known of executors that ended before.
        let completed = match self.completed.iter().position(|f| f.id() == id) {
            Some(at) => self.completed.remove(at).map(|f| f.completed.clone()).unwrap_or_default(),
            None => Default::default(),
        };
        let framework = Framework {
            info,
            pid: pid.filter(|p| is_address(p)).map(str::to_owned),
            state: FrameworkState::Running,
            executors: Default::default(),
            completed,
        };
        self.checkpoint_framework(&framework);
        self.frameworks.insert(id.to_owned(), Arc::new(framework));
    }

    fn checkpoint_framework(&mut self, framework: &Framework) {
        if framework.checkpoint() {
            self.persist(Record::Framework {
                agent: self.agent_id().to_owned(),
                info: Box::new(framework.info.clone()),
                pid: framework.pid.clone().unwrap_or_else(|| "@0.0.0.0:0".to_owned()),
            });
        }
    }

    fn check_run(&self, framework: &str, executor: &str, run: &Run) -> Result<(), Refused> {
        use task_status::Reason as R;
        let refused = |reason, message| Err(Refused { reason, message });
        if self.drain.is_some() {
            let message = "Task was received while agent was already draining";
            return refused(R::SlaveDraining, message);
        }
        let outdated = run.versions.iter().any(|v| {
            v.resource_provider_id.is_none() && v.uuid.value != self.registration.resource_version
        });
        if outdated {
            return refused(R::InvalidOffers, "Task assumes outdated resource state");
        }
        if run.tasks.iter().any(|task| self.operations.missing(&task.resources)) {
            return refused(
                R::ResourcesUnknown,
                "The checkpointed resources being used by the task or task group are unknown to the agent",
            );
        }
        if run.executor.as_ref().is_some_and(|e| self.operations.missing(&e.resources)) {
            return refused(
                R::ResourcesUnknown,
                "The checkpointed resources being used by the executor are unknown to the agent",
            );
        }
        let existing = self.executor(framework, executor);
        if run.executor.is_none() {
            return match existing {
                Some(_) => refused(
                    R::TaskInvalid,
                    "Cannot reuse an already existing executor for a command task",
                ),
                None => Ok(()),
            };
        }
        match (run.launch_executor, existing) {
            (Some(true), Some(_)) => refused(
                R::ExecutorTerminated,
                "Master wants to launch executor, but one already exists",
            ),
            (Some(false), None) => refused(
                R::ExecutorTerminated,
                "No executor is expected to launch and there is none running",
            ),
            (_, Some(e)) if e.state == ExecutorState::Terminating => {
                refused(R::ExecutorTerminated, "Executor terminating")
            }
            (_, Some(e)) if e.state == ExecutorState::Terminated => {
                refused(R::ExecutorTerminated, "Executor terminated")
            }
            _ => Ok(()),
        }
    }

    fn refuse(&mut self, framework: &str, executor: &str, run: &Run, refused: &Refused) {
        let state = self.frameworks[framework].dropped();
        for task in &run.tasks {
            let status = NewStatus {
                message: refused.message.to_owned(),
                reason: Some(refused.reason),
                executor: Some(executor.to_owned()),
                ..NewStatus::of(&task.task_id.value, state)
            };
            self.report_unowned(framework, status);
        }
        match self.executor(framework, executor).map(|e| e.state) {
            None => self.not_launched(framework, executor, run.launch_executor),
            Some(ExecutorState::Terminated) if run.launch_executor == Some(true) => {
                self.send_exited(framework, executor, None);
            }
            // compat: Mesos gives up an executor that the master does not know of.
            Some(ExecutorState::Registering | ExecutorState::Running)
                if run.launch_executor == Some(true) && run.executor.is_some() =>
            {
                self.shut_down_executor(framework, executor);
            }
            Some(_) => {}
        }
    }

    /// The executor the master counts on does not exist.
    fn not_launched(&mut self, framework: &str, executor: &str, launch: Option<bool>) {
        if launch == Some(true) {
            self.send_exited(framework, executor, None);
        }
        // Streams of dropped tasks stay until they are acknowledged.
        let streams = self.updates.has_framework(framework);
        if !streams {
            self.retire_framework(framework);
        }
    }

    fn accept(&mut self, framework: &str, executor: &str, run: Run) {
        let fresh = self.executor(framework, executor).is_none();
        if fresh {
            self.add_executor(framework, run.executor.clone(), &run.tasks[0]);
        }
        let ids: Vec<String> = run.tasks.iter().map(|t| t.task_id.value.clone()).collect();
        for task in &run.tasks {
            self.checkpoint_task(framework, executor, task);
        }
        let Some(e) = self.executor_mut(framework, executor) else { return };
        for task in run.tasks {
            e.queued.insert(task.task_id.value.clone(), task);
        }
        if run.group {
            e.groups.push(ids.clone());
        }
        let state = e.state;
        if fresh {
            self.launch(framework, executor);
        } else if state == ExecutorState::Running {
            self.resize(framework, executor, ids);
        }
    }

    pub(super) fn kill_task(&mut self, message: &KillTaskMessage) {
        if !matches!(self.state, AgentState::Running | AgentState::Disconnected) {
            return;
        }
        let framework = &message.framework_id.value;
        let task = &message.task_id.value;
        let Some(f) = self.frameworks.get(framework) else {
            tracing::warn!(framework, task, "cannot kill a task of an unknown framework");
            return;
        };
        if f.state == FrameworkState::Terminating {
            return;
        }
        let dropped = f.dropped();
        let Some(executor) = self.executor_of_task(framework, task) else {
            let status = NewStatus {
                message: "Cannot find executor".to_owned(),
                reason: Some(task_status::Reason::ExecutorTerminated),
                ..NewStatus::of(task, dropped)
            };
            self.report_unowned(framework, status);
            return;
        };
        let (id, container) = (executor.id().to_owned(), executor.container_id.value.clone());
        match executor.state {
            ExecutorState::Terminated => {}
            _ if executor.is_played() => {
                let grace = message
                    .kill_policy
                    .as_ref()
                    .and_then(|p| p.grace_period.as_ref())
                    .map(|g| Duration::from_nanos(u64::try_from(g.nanoseconds).unwrap_or(0)));
                self.kill_played(&container, grace);
            }
            ExecutorState::Terminating => {}
            _ if executor.queued.contains_key(task) => self.kill_queued(framework, &id, task),
            ExecutorState::Registering | ExecutorState::Running => {
                self.send_kill(framework, &id, message);
            }
        }
    }

    /// A task that its executor has not seen: it and its group end here.
    pub(super) fn kill_queued(&mut self, framework: &str, executor: &str, task: &str) {
        let Some(e) = self.executor(framework, executor) else { return };
        let registering = e.state == ExecutorState::Registering;
        let group = e.groups.iter().find(|g| g.iter().any(|id| id == task)).cloned();
        let message = match &group {
            Some(_) if registering => {
                "A task within the task group was killed before delivery to the executor"
            }
            _ => "Killed before delivery to the executor",
        };
        for id in group.unwrap_or_else(|| vec![task.to_owned()]) {
            let status = NewStatus {
                message: message.to_owned(),
                reason: Some(task_status::Reason::TaskKilledDuringLaunch),
                executor: Some(executor.to_owned()),
                ..NewStatus::of(&id, TaskState::TaskKilled)
            };
            self.report(framework, executor, status);
        }
        if let Some(e) = self.executor(framework, executor)
            && e.state == ExecutorState::Running
            && e.queued.is_empty()
            && !e.ever_sent_task()
        {
            self.shut_down_executor(framework, executor);
        }
    }

    pub(super) fn update_framework(&mut self, message: UpdateFrameworkMessage) {
        let Some(framework) = self.framework_mut(&message.framework_id.value) else { return };
        if framework.state == FrameworkState::Terminating {
            return;
        }
        if let Some(mut info) = message.framework_info {
            info.id = Some(message.framework_id);
            framework.info = info;
        }
        framework.pid = message.pid.filter(|p| is_address(p));
        let framework = framework.clone();
        self.checkpoint_framework(&framework);
        let actions = self.updates.resend(framework.id());
        self.act(actions);
    }
}

/// The empty address `@0.0.0.0:0` stands for an HTTP scheduler.
fn is_address(pid: &str) -> bool {
    !pid.is_empty() && !pid.starts_with('@')
}

fn normalize(task: &mut TaskInfo) {
    wire::upgrade(&mut task.resources);
    if let Some(executor) = &mut task.executor {
        wire::upgrade(&mut executor.resources);
    }
}

/// Whether the built-in executor for task groups runs this.
pub(super) fn is_default_executor(info: &ExecutorInfo) -> bool {
    info.r#type() == executor_info::Type::Default
}
