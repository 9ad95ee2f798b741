//! Tasks: how they are added, what updates do to them, where they end.
//!
//! A task stays in memory until the update that ended it is acknowledged.
//! Its resources go back to the allocator when it ends, not when it leaves.

use std::collections::VecDeque;
use std::sync::Arc;

use mesos::internal;
pub use mesos::model::is_terminal;
use mesos::secrets::Secretive;
use mesos::task_status::{Reason, Source};
use mesos::{ExecutorInfo, Task, TaskInfo, TaskState, TaskStatus};

use super::{Core, OperatorEvent};
use crate::master::Resources;
use crate::master::ids::{AgentId, ExecutorId, FrameworkId, Pid, TaskId};

/// Whether a task in this state uses none of its agent's resources.
#[must_use]
pub fn holds_nothing(state: TaskState) -> bool {
    is_terminal(state) || state == TaskState::TaskUnreachable
}

/// The name of the counter for tasks that ended like this.
fn counter_of(state: TaskState) -> Option<&'static str> {
    use TaskState as S;
    match state {
        S::TaskFinished => Some("tasks_finished"),
        S::TaskFailed => Some("tasks_failed"),
        S::TaskKilled => Some("tasks_killed"),
        S::TaskLost => Some("tasks_lost"),
        S::TaskError => Some("tasks_error"),
        S::TaskDropped => Some("tasks_dropped"),
        S::TaskGone => Some("tasks_gone"),
        S::TaskGoneByOperator => Some("tasks_gone_by_operator"),
        _ => None,
    }
}

/// What the master itself says about a task.
pub(super) struct Verdict {
    pub state: TaskState,
    pub reason: Reason,
    pub message: String,
}

/// The task that the master keeps for a launched `TaskInfo`.
pub(super) fn task_of(info: &TaskInfo, framework: &FrameworkId) -> Task {
    let executor_command = info.executor.as_ref().and_then(|e| e.command.as_ref());
    let user = info.command.as_ref().and_then(|c| c.user.clone());
    Task {
        name: info.name.clone(),
        task_id: info.task_id.clone(),
        framework_id: framework.message(),
        executor_id: info.executor.as_ref().map(|e| e.executor_id.clone()),
        slave_id: info.slave_id.clone(),
        state: TaskState::TaskStaging as i32,
        resources: info.resources.clone(),
        statuses: Vec::new(),
        status_update_state: None,
        status_update_uuid: None,
        labels: info.labels.clone(),
        discovery: info.discovery.clone(),
        // Shown to everybody, and never used to run it.
        container: info.container.without_secrets(),
        health_check: info.health_check.without_secrets(),
        kill_policy: info.kill_policy,
        user: user.or_else(|| executor_command.and_then(|c| c.user.clone())),
        limits: info.limits.clone(),
    }
}

/// Appends and forgets the oldest beyond `max`.
pub(super) fn push_bounded<T: Clone>(list: &mut Arc<VecDeque<T>>, item: T, max: usize) {
    let list = Arc::make_mut(list);
    list.push_back(item);
    while list.len() > max {
        list.pop_front();
    }
}

impl Core {
    pub(super) fn task(&self, framework: &FrameworkId, id: &TaskId) -> Option<&Arc<Task>> {
        self.framework(framework)?.tasks.get(id)
    }

    pub(super) fn change_task<R>(
        &mut self,
        framework: &FrameworkId,
        id: &TaskId,
        change: impl FnOnce(&mut Task) -> R,
    ) -> Option<R> {
        let task = self.framework_mut(framework)?.tasks.get_mut(id)?;
        Some(change(Arc::make_mut(task)))
    }

    /// A task is on its way to an agent, or an agent reported it.
    pub(super) fn add_task(&mut self, agent: &AgentId, task: Task) {
        let framework = FrameworkId::from(&task.framework_id);
        let id = TaskId::from(&task.task_id);
        let holds = !holds_nothing(task.state());
        let resources = Resources::from_valid(&task.resources);
        let task = Arc::new(task);
        if let Some(agent) = self.agent_mut(agent) {
            agent.tasks.insert((framework.clone(), id.clone()), ());
        }
        if let Some(framework) = self.framework_mut(&framework) {
            framework.tasks.insert(id, task.clone());
        }
        self.tally_end(&framework, task.state());
        if holds {
            self.charge(agent, &framework, &resources);
        }
        self.tell_operators(OperatorEvent::TaskAdded(task));
    }

    /// A status update that the master makes up itself.
    pub(super) fn own_update(
        &self,
        framework: &FrameworkId,
        agent: Option<&AgentId>,
        task: &TaskId,
        verdict: &Verdict,
    ) -> internal::StatusUpdate {
        let executor = self.task(framework, task).and_then(|t| t.executor_id.clone());
        internal::StatusUpdate {
            framework_id: framework.message(),
            executor_id: executor.clone(),
            slave_id: agent.map(AgentId::message),
            status: TaskStatus {
                task_id: task.message(),
                state: verdict.state as i32,
                message: Some(verdict.message.clone()),
                source: Some(Source::Master as i32),
                reason: Some(verdict.reason as i32),
                slave_id: agent.map(AgentId::message),
                executor_id: executor,
                timestamp: Some(self.now.seconds()),
                ..TaskStatus::default()
            },
            timestamp: self.now.seconds(),
            uuid: None,
            latest_state: None,
        }
    }

    /// Says something about a task that never was (refused, dropped).
    pub(super) fn refuse_task(
        &mut self,
        framework: &FrameworkId,
        task: &TaskInfo,
        verdict: &Verdict,
    ) {
        let agent = AgentId::from(&task.slave_id);
        let id = TaskId::from(&task.task_id);
        let mut update = self.own_update(framework, Some(&agent), &id, verdict);
        // A live task with the same id has nothing to do with it.
        update.executor_id = None;
        update.status.executor_id = None;
        tracing::info!(framework = %framework, task = %id, "task refused: {}", verdict.message);
        self.count_state(verdict.state, Some(Source::Master), Some(verdict.reason));
        self.forward(update, None);
    }

    fn count_state(&mut self, state: TaskState, source: Option<Source>, reason: Option<Reason>) {
        if let Some(name) = counter_of(state) {
            self.count(name);
        }
        if let (Some(source), Some(reason)) = (source, reason) {
            let name = format!(
                "{}/{}/{}",
                state.as_str_name(),
                source.as_str_name(),
                reason.as_str_name()
            );
            self.counters().add_named(name.to_lowercase());
        }
    }

    /// Applies an update to the task the master keeps.
    pub(super) fn update_task(
        &mut self,
        framework: &FrameworkId,
        id: &TaskId,
        update: &internal::StatusUpdate,
    ) {
        let Some(task) = self.task(framework, id) else { return };
        let agent = AgentId::from(&task.slave_id);
        let resources = Resources::from_valid(&task.resources);
        let before = task.state();
        let mut status = update.status.clone();
        status.data = None;
        let newest = update
            .latest_state
            .and_then(|s| TaskState::try_from(s).ok())
            .unwrap_or_else(|| update.status.state());
        let news = matches!(
            status.reason.and_then(|r| Reason::try_from(r).ok()),
            Some(Reason::TaskCheckStatusUpdated | Reason::TaskHealthCheckStatusUpdated)
        );
        let kept = status.clone();
        let changed = self.change_task(framework, id, |task| {
            if !is_terminal(before) {
                task.state = newest as i32;
            }
            let same = task.statuses.last().is_some_and(|last| last.state == kept.state);
            if same {
                task.statuses.pop();
            }
            task.statuses.push(kept);
            !same
        });
        if news || changed == Some(true) {
            let state = self.task(framework, id).map_or(newest, |t| t.state());
            self.tell_operators(OperatorEvent::TaskUpdated {
                framework: framework.clone(),
                status: Arc::new(status.clone()),
                state,
            });
        }
        if !holds_nothing(before) && holds_nothing(newest) {
            self.discharge(&agent, framework, &resources);
            let source = status.source.and_then(|s| Source::try_from(s).ok());
            let reason = status.reason.and_then(|r| Reason::try_from(r).ok());
            self.count_state(status.state(), source, reason);
            self.tally_end(framework, newest);
        }
    }

    /// Counts the end of a framework's task, if this is an end.
    fn tally_end(&mut self, framework: &FrameworkId, state: TaskState) {
        if is_terminal(state) {
            self.tally(framework, |t| *t.ends.entry(state).or_default() += 1);
        }
    }

    /// A task leaves: acknowledged, lost with its agent, or ended with its
    /// framework. It stays in the history of its framework.
    pub(super) fn remove_task(&mut self, framework: &FrameworkId, id: &TaskId, unreachable: bool) {
        let Some(task) = self.task(framework, id).cloned() else { return };
        let agent = AgentId::from(&task.slave_id);
        if !holds_nothing(task.state()) {
            let resources = Resources::from_valid(&task.resources);
            self.discharge(&agent, framework, &resources);
        }
        if let Some(agent) = self.agent_mut(&agent) {
            agent.tasks.remove(&(framework.clone(), id.clone()));
        }
        if let Some(killed) = self.agents.killed.get_mut(&agent) {
            killed.remove(&(framework.clone(), id.clone()));
            if killed.is_empty() {
                self.agents.killed.remove(&agent);
            }
        }
        let (completed, lost) =
            (self.config.max_completed_tasks, self.config.max_unreachable_tasks);
        if unreachable {
            let key = (framework.clone(), id.clone());
            self.agents.unreachable_tasks.entry(agent).or_default().push(key);
        }
        if let Some(framework) = self.framework_mut(framework) {
            framework.tasks.remove(id);
            if unreachable {
                push_bounded(&mut framework.unreachable_tasks, task, lost);
            } else {
                push_bounded(&mut framework.completed_tasks, task, completed);
            }
        }
    }

    /// Ends a task on the master's own verdict and tells its framework.
    pub(super) fn end_task(
        &mut self,
        framework: &FrameworkId,
        id: &TaskId,
        verdict: &Verdict,
        unreachable_since: Option<mesos::TimeInfo>,
    ) {
        let Some(agent) = self.task(framework, id).map(|t| AgentId::from(&t.slave_id)) else {
            return;
        };
        let mut update = self.own_update(framework, Some(&agent), id, verdict);
        let unreachable = unreachable_since.is_some();
        update.status.unreachable_time = unreachable_since;
        self.update_task(framework, id, &update);
        self.remove_task(framework, id, unreachable);
        self.forward(update, None);
    }

    /// An agent reports what became of a task.
    pub(super) fn status_update(&mut self, from: &Pid, message: internal::StatusUpdateMessage) {
        self.count("messages_status_update");
        let update = message.update;
        let agent = update.slave_id.as_ref().map(AgentId::from);
        let known = agent.as_ref().is_some_and(|a| self.agent(a).is_some());
        let uuid = update.uuid.as_ref().map_or(0, Vec::len);
        if !known || uuid != 16 || update.status.uuid.is_none() {
            tracing::warn!(agent = %from, "ignoring status update of an unknown agent or without uuid");
            return self.count("invalid_status_updates");
        }
        let framework = FrameworkId::from(&update.framework_id);
        let task = TaskId::from(&update.status.task_id);
        let connected = self.framework(&framework).is_some_and(|f| f.connected());
        let acknowledgee = message.pid.as_deref().map_or_else(|| from.clone(), Pid::from);
        if connected {
            self.forward(update.clone(), Some(&acknowledgee));
        }
        if self.task(&framework, &task).is_none() {
            return self.count("invalid_status_updates");
        }
        self.update_task(&framework, &task, &update);
        self.count(if connected { "valid_status_updates" } else { "invalid_status_updates" });
    }

    /// A framework has dealt with an update.
    pub(super) fn acknowledge(
        &mut self,
        framework: &FrameworkId,
        call: mesos::scheduler::call::Acknowledge,
    ) {
        self.count("messages_status_update_acknowledgement");
        let agent = AgentId::from(&call.slave_id);
        let id = TaskId::from(&call.task_id);
        if call.uuid.len() != 16 || !self.agent(&agent).is_some_and(|a| a.connected) {
            return self.count("invalid_status_update_acknowledgements");
        }
        if let Some(task) = self.task(framework, &id).filter(|t| t.slave_id == call.slave_id) {
            let Some(sent) = task.status_update_state.and_then(|s| TaskState::try_from(s).ok())
            else {
                return self.count("invalid_status_update_acknowledgements");
            };
            if is_terminal(sent) && task.status_update_uuid.as_ref() == Some(&call.uuid) {
                self.remove_task(framework, &id, false);
            }
        }
        self.send_agent(
            &agent,
            &internal::StatusUpdateAcknowledgementMessage {
                slave_id: call.slave_id,
                framework_id: framework.message(),
                task_id: call.task_id,
                uuid: call.uuid,
            },
        );
        self.check_drained(&agent);
        self.count("valid_status_update_acknowledgements");
    }

    /// An agent reports that an executor ended.
    pub(super) fn exited_executor(&mut self, message: &internal::ExitedExecutorMessage) {
        self.count("messages_exited_executor");
        let agent = AgentId::from(&message.slave_id);
        let framework = FrameworkId::from(&message.framework_id);
        let executor = ExecutorId::from(&message.executor_id);
        if !self.remove_executor(&agent, &framework, &executor) {
            return;
        }
        if self.framework(&framework).is_some_and(|f| f.connected()) {
            let mut event = super::send::event_of(mesos::scheduler::event::Type::Failure);
            event.failure = Some(mesos::scheduler::event::Failure {
                slave_id: Some(message.slave_id.clone()),
                executor_id: Some(message.executor_id.clone()),
                status: Some(message.status),
            });
            self.notify(&framework, event);
        }
    }

    /// Whether a launch must start the executor, too.
    pub(super) fn must_launch(
        &mut self,
        agent: &AgentId,
        framework: &FrameworkId,
        executor: &ExecutorInfo,
    ) -> bool {
        if self.has_executor(agent, framework, &executor.executor_id) {
            return false;
        }
        self.add_executor(agent, framework, executor);
        true
    }
}
