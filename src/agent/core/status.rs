//! Status updates: made, taken, stored, forwarded, acknowledged.
//!
//! The order is the promise: note in memory, store, then answer the executor and
//! forward to the master.

use mesos::internal::{
    StatusUpdate, StatusUpdateAcknowledgementMessage, StatusUpdateMessage, StatusUpdateRecord,
    status_update_record,
};
use mesos::{
    CheckStatusInfo, ContainerStatus, ExecutorId, FrameworkId, Labels, NetworkInfo, Resource,
    TaskId, TaskResourceLimitation, TaskState, TaskStatus, network_info, task_status,
};

use super::event::{Effect, Refusal, Timer, WireMessage};
use super::state::{Executor, ExecutorSink, ExecutorState, FrameworkState, is_terminal};
use super::{AgentState, Core, Then};
use crate::agent::updates::{Acknowledged, Action, Key, Received};
use crate::checkpoint::Record;
use crate::containerizer::Details;

/// Who made a status update.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Origin {
    /// The agent, about a task.
    Agent,
    /// The agent, playing a command task's executor.
    Played,
    /// An executor, which waits for the acknowledgement.
    Executor(ExecutorSink),
}

/// A status that the agent makes.
#[derive(Debug, Clone)]
pub(super) struct NewStatus {
    pub task: String,
    pub state: TaskState,
    pub message: String,
    pub reason: Option<task_status::Reason>,
    pub executor: Option<String>,
    pub limited: Vec<Resource>,
    /// What the task's health check says.
    pub healthy: Option<bool>,
    /// What the task's check says.
    pub check: Option<CheckStatusInfo>,
    /// What the containerizer says of the container.
    pub details: Option<Details>,
}

impl NewStatus {
    pub fn of(task: &str, state: TaskState) -> Self {
        NewStatus {
            task: task.to_owned(),
            state,
            message: String::new(),
            reason: None,
            executor: None,
            limited: Vec::new(),
            healthy: None,
            check: None,
            details: None,
        }
    }
}

impl Core {
    // Making.

    fn make(&mut self, framework: &str, status: NewStatus) -> StatusUpdate {
        let uuid = self.random.uuid();
        let executor_id = status.executor.map(|value| ExecutorId { value });
        let limited = (!status.limited.is_empty())
            .then_some(TaskResourceLimitation { resources: status.limited });
        let (data, labels) = match status.details {
            Some(Details { data, labels }) => (Some(data), labels),
            None => (None, Vec::new()),
        };
        StatusUpdate {
            framework_id: FrameworkId { value: framework.to_owned() },
            executor_id: executor_id.clone(),
            slave_id: self.info.id.clone(),
            timestamp: self.now,
            uuid: Some(uuid.clone()),
            latest_state: None,
            status: TaskStatus {
                task_id: TaskId { value: status.task },
                state: status.state as i32,
                message: Some(status.message).filter(|m| !m.is_empty()),
                reason: status.reason.map(|r| r as i32),
                slave_id: self.info.id.clone(),
                executor_id,
                timestamp: Some(self.now),
                uuid: Some(uuid),
                limitation: limited,
                healthy: status.healthy,
                check_status: status.check,
                data,
                labels: (!labels.is_empty()).then_some(Labels { labels }),
                ..TaskStatus::default()
            },
        }
    }

    /// The agent's word on a task of an executor.
    pub(super) fn report(&mut self, framework: &str, executor: &str, status: NewStatus) {
        let status = NewStatus { executor: Some(executor.to_owned()), ..status };
        let update = self.make(framework, status);
        self.status_update(update, Origin::Agent);
    }

    /// The agent's word on a task that no executor here has: never stored.
    pub(super) fn report_unowned(&mut self, framework: &str, status: NewStatus) {
        let mut update = self.make(framework, status);
        update.status.source = Some(task_status::Source::Slave as i32);
        self.counters.valid_status_updates += 1;
        self.count(update.status.state());
        self.stream_update(update, None, &Origin::Agent);
    }

    /// The agent's word as the executor of a command task.
    pub(super) fn report_played(&mut self, framework: &str, executor: &str, status: NewStatus) {
        let check = self.executor(framework, executor).and_then(|e| check_status(e, &status));
        let status = NewStatus { executor: Some(executor.to_owned()), check, ..status };
        let update = self.make(framework, status);
        self.status_update(update, Origin::Played);
    }

    /// A v1 executor's status as an update.
    pub(super) fn update_of(&self, framework: &str, mut status: TaskStatus) -> StatusUpdate {
        status.slave_id = self.info.id.clone();
        StatusUpdate {
            framework_id: FrameworkId { value: framework.to_owned() },
            executor_id: status.executor_id.clone(),
            slave_id: self.info.id.clone(),
            timestamp: status.timestamp.unwrap_or(self.now),
            uuid: status.uuid.clone(),
            latest_state: None,
            status,
        }
    }

    // Taking.

    pub(super) fn v0_status_update(&mut self, message: StatusUpdateMessage) {
        match message.pid.filter(|pid| !pid.starts_with('@')) {
            Some(pid) => {
                self.status_update(message.update, Origin::Executor(ExecutorSink::Pid(pid)));
            }
            None => self.counters.invalid_status_updates += 1,
        }
    }

    pub(super) fn http_status_update(
        &mut self,
        framework: &str,
        executor: &str,
        mut status: TaskStatus,
    ) -> Result<(), Refusal> {
        let sink = self.subscribed(framework, executor)?;
        status.executor_id.get_or_insert_with(|| ExecutorId { value: executor.to_owned() });
        let update = self.update_of(framework, status);
        self.status_update(update, Origin::Executor(sink));
        Ok(())
    }

    pub(super) fn status_update(&mut self, mut update: StatusUpdate, origin: Origin) {
        let framework = update.framework_id.value.clone();
        let known =
            self.frameworks.get(&framework).is_some_and(|f| f.state == FrameworkState::Running);
        let ours = update.slave_id == self.info.id
            && update.status.slave_id.as_ref().is_none_or(|id| Some(id) == self.info.id.as_ref());
        let Some(uuid) = update.uuid.clone().filter(|_| known && ours) else {
            tracing::warn!(
                framework,
                task = update.status.task_id.value,
                "ignoring an invalid status update"
            );
            self.counters.invalid_status_updates += 1;
            return;
        };
        update.status.uuid = Some(uuid.clone());
        update.status.slave_id = self.info.id.clone();
        update.status.source = Some(match origin {
            Origin::Agent => task_status::Source::Slave as i32,
            Origin::Played | Origin::Executor(_) => task_status::Source::Executor as i32,
        });
        self.mark_drained(&framework, &mut update.status);
        if update.executor_id.is_some() {
            update.status.executor_id = update.executor_id.clone();
        }
        self.counters.valid_status_updates += 1;
        let task = update.status.task_id.value.clone();
        let Some(executor) = self.executor_of_task(&framework, &task).map(|e| e.id().to_owned())
        else {
            return self.stream_update(update, None, &origin);
        };
        let state = update.status.state();
        let from_executor = matches!(origin, Origin::Executor(_));
        if from_executor && state == TaskState::TaskStaging {
            // compat: no executor may move its task back to the start.
            return self.shut_down_executor(&framework, &executor);
        }
        self.decorate(&mut update, &executor, &origin);
        self.apply(&framework, &executor, update, &origin);
    }

    /// Adds what the agent knows of the container.
    fn decorate(&self, update: &mut StatusUpdate, executor: &str, origin: &Origin) {
        let task = &update.status.task_id.value;
        let Some(e) = self.executor(&update.framework_id.value, executor) else { return };
        if e.pid.is_none() || (*origin == Origin::Agent && e.state == ExecutorState::Terminated) {
            return;
        }
        if e.queued.contains_key(task) {
            return;
        }
        let given = update.status.container_status.take().unwrap_or_default();
        let nested = given.container_id.as_ref().is_some_and(|id| id.parent.is_some());
        let mut status = if nested {
            given // The root container's facts would be wrong for a nested one.
        } else {
            let mut known = e.container_status.clone().unwrap_or_default();
            known.container_id = Some(e.container_id.clone());
            known.executor_pid = known.executor_pid.or(e.pid);
            merge(given, known)
        };
        // A nested container that ended has no network of which to speak.
        let gone = nested && is_terminal(update.status.state());
        if status.network_infos.is_empty() && !gone {
            status.network_infos.push(self.own_network());
        }
        update.status.container_status = Some(status);
    }

    fn own_network(&self) -> NetworkInfo {
        let address = self.config.pid.rsplit('@').next().unwrap_or("");
        let ip = address.rsplit_once(':').map_or(address, |(ip, _)| ip);
        NetworkInfo {
            ip_addresses: vec![network_info::IpAddress {
                ip_address: Some(ip.to_owned()),
                ..network_info::IpAddress::default()
            }],
            ..NetworkInfo::default()
        }
    }

    fn apply(&mut self, framework: &str, executor: &str, update: StatusUpdate, origin: &Origin) {
        let task = update.status.task_id.value.clone();
        let state = update.status.state();
        let Some(e) = self.executor_mut(framework, executor) else { return };
        let over = e.terminated.contains_key(&task)
            || (e.task(&task).is_some() && !e.launched.contains_key(&task));
        let uuid = update.uuid.clone().unwrap_or_default();
        if over && !self.updates.knows(&Key::of(&update), &uuid) {
            // compat: nothing follows a terminal state; the sender is content.
            tracing::warn!(framework, task, "ignoring a status update after a terminal one");
            return self.answer(&Key::of(&update), &uuid, origin);
        }
        if !over {
            if is_terminal(state) {
                self.count(state);
            }
            let Some(e) = self.executor_mut(framework, executor) else { return };
            e.unqueue(&task);
            e.note(&update.status);
        }
        let Some(e) = self.executor(framework, executor) else { return };
        let run = e.checkpoint.then(|| e.run.clone());
        let resize =
            is_terminal(state) && !over && !e.is_played() && e.state == ExecutorState::Running;
        if resize {
            self.resize(framework, executor, Vec::new());
        }
        self.stream_update(update, run, origin);
    }

    fn count(&mut self, state: TaskState) {
        let counters = &mut self.counters;
        match state {
            TaskState::TaskFinished => counters.tasks_finished += 1,
            TaskState::TaskFailed => counters.tasks_failed += 1,
            TaskState::TaskKilled => counters.tasks_killed += 1,
            TaskState::TaskLost => counters.tasks_lost += 1,
            TaskState::TaskGone => counters.tasks_gone += 1,
            _ => {}
        }
    }

    // Storing and forwarding.

    fn stream_update(
        &mut self,
        update: StatusUpdate,
        run: Option<crate::checkpoint::RunKey>,
        origin: &Origin,
    ) {
        let key = Key::of(&update);
        let uuid = update.uuid.clone().unwrap_or_default();
        match self.updates.receive(update.clone(), run) {
            Received::New(Some(run)) => {
                let record = Record::Update {
                    run,
                    task: key.task.clone(),
                    record: Box::new(StatusUpdateRecord {
                        r#type: status_update_record::Type::Update as i32,
                        update: Some(update),
                        uuid: None,
                    }),
                };
                let origin = origin.clone();
                self.persist_then(record, Then::UpdateStored { key, uuid, origin });
            }
            Received::New(None) => self.update_stored(&key, &uuid, origin),
            Received::Duplicate { stored: true } => self.answer(&key, &uuid, origin),
            // The first copy's sender is answered when it is stored.
            Received::Duplicate { stored: false } => {}
        }
    }

    pub(super) fn update_stored(&mut self, key: &Key, uuid: &[u8], origin: &Origin) {
        let actions = self.updates.stored(key, uuid);
        self.act(actions);
        self.answer(key, uuid, origin);
    }

    fn answer(&mut self, key: &Key, uuid: &[u8], origin: &Origin) {
        if let Origin::Executor(sink) = origin {
            self.acknowledge_executor(sink, &key.framework, &key.task, uuid);
        }
    }

    pub(super) fn act(&mut self, actions: Vec<Action>) {
        for action in actions {
            match action {
                Action::Forward(update) => self.forward(*update),
                Action::Retry { key, generation, after } => {
                    let timer =
                        Timer::UpdateRetry { framework: key.framework, task: key.task, generation };
                    self.out.push(Effect::Schedule { after, timer });
                }
            }
        }
    }

    fn forward(&mut self, mut update: StatusUpdate) {
        let framework = update.framework_id.value.clone();
        let task = update.status.task_id.value.clone();
        update.status.uuid = update.uuid.clone();
        let executor = self.executor_of_task(&framework, &task).map(|e| e.id().to_owned());
        if let Some(executor) = executor
            && let Some(e) = self.executor_mut(&framework, &executor)
            && let Some(task) = e.launched.get_mut(&task).or_else(|| e.terminated.get_mut(&task))
        {
            task.status_update_state = Some(update.status.state);
            task.status_update_uuid = update.uuid.clone();
            update.latest_state = Some(task.state);
        }
        let message = StatusUpdateMessage { update, pid: Some(self.config.pid.clone()) };
        self.send_to_master(WireMessage::of(&message));
    }

    // Acknowledged.

    pub(super) fn acknowledgement(&mut self, message: &StatusUpdateAcknowledgementMessage) {
        if self.state == AgentState::Recovering {
            return;
        }
        let framework = &message.framework_id.value;
        let key = Key { framework: framework.clone(), task: message.task_id.value.clone() };
        let Acknowledged::Done { run, ended, .. } = self.updates.acknowledge(&key, &message.uuid)
        else {
            tracing::debug!(framework, task = key.task, "unexpected acknowledgement");
            return;
        };
        match run {
            Some(run) => {
                let record = Record::Update {
                    run,
                    task: key.task.clone(),
                    record: Box::new(StatusUpdateRecord {
                        r#type: status_update_record::Type::Ack as i32,
                        update: None,
                        uuid: Some(message.uuid.clone()),
                    }),
                };
                self.persist_then(record, Then::AcknowledgementStored(key.clone()));
            }
            None => {
                let actions = self.updates.next(&key);
                self.act(actions);
            }
        }
        if ended {
            self.task_done(&key);
        }
    }

    /// The last update of a task is acknowledged.
    fn task_done(&mut self, key: &Key) {
        let executor = self
            .frameworks
            .get(&key.framework)
            .and_then(|f| f.executors.values().find(|e| e.terminated.contains_key(&key.task)))
            .map(|e| e.id().to_owned());
        if let Some(executor) = executor
            && let Some(e) = self.executor_mut(&key.framework, &executor)
        {
            e.complete(&key.task);
            if e.state == ExecutorState::Terminated && !e.is_incomplete() {
                self.remove_executor(&key.framework, &executor);
            }
        }
        if !self.updates.has_framework(&key.framework) {
            self.retire_framework(&key.framework);
        }
    }
}

/// What every status of a task with a check says of it.
fn check_status(e: &Executor, status: &NewStatus) -> Option<CheckStatusInfo> {
    let played = e.played.as_ref()?;
    status.check.or_else(|| crate::checks::core::empty_status(&played.task))
}

/// What the executor said wins over what the containerizer said.
fn merge(given: ContainerStatus, known: ContainerStatus) -> ContainerStatus {
    ContainerStatus {
        container_id: given.container_id.or(known.container_id),
        network_infos: if given.network_infos.is_empty() {
            known.network_infos
        } else {
            given.network_infos
        },
        cgroup_info: given.cgroup_info.or(known.cgroup_info),
        executor_pid: given.executor_pid.or(known.executor_pid),
    }
}
