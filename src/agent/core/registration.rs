//! Finding a master, registering with it, noticing that it is gone.

use std::sync::Arc;
use std::time::Duration;

use mesos::internal::{
    self, PingSlaveMessage, PongSlaveMessage, RegisterSlaveMessage, ReregisterSlaveMessage,
    SlaveRegisteredMessage, SlaveReregisteredMessage, UpdateSlaveMessage,
};
use mesos::{MasterInfo, Resource, SlaveId, Task, TaskState, Uuid, slave_info, task_status};

use super::event::{Effect, Timer, WireMessage};
use super::state::{ExecutorState, task_of};
use super::status::NewStatus;
use super::{AgentState, Core, wire};
use crate::checkpoint::Record;

/// Registration attempts are never further apart (Mesos' constant).
const REGISTER_RETRY_MAX: Duration = Duration::from_secs(60);
/// Silence after which the master counts as gone, unless it says otherwise
/// (Mesos' default: 5 pings, 15 s apart).
const PING_TIMEOUT: Duration = Duration::from_secs(75);

/// Where the agent is with its master.
#[derive(Debug)]
pub(super) struct Registration {
    /// Counts detections; a timer of an older one is stale.
    detection: u64,
    /// Counts pings.
    ping: u64,
    ping_timeout: Duration,
    /// Changes when the agent's own resources change.
    pub(super) resource_version: Vec<u8>,
}

impl Registration {
    pub(super) fn new(resource_version: Vec<u8>) -> Self {
        Registration { detection: 0, ping: 0, ping_timeout: PING_TIMEOUT, resource_version }
    }
}

impl Core {
    pub(super) fn master_detected(&mut self, master: Option<Box<MasterInfo>>) {
        if matches!(self.state, AgentState::Recovering | AgentState::Terminating) {
            return;
        }
        self.state = AgentState::Disconnected;
        self.updates.pause();
        self.registration.detection += 1;
        self.master = master.map(|m| Arc::new(*m));
        let Some(pid) = self.master_pid() else {
            tracing::info!("lost the leading master");
            return;
        };
        tracing::info!(master = pid, "detected a master");
        let first = self.config.registration_backoff;
        let after = first.mul_f64(self.random.fraction());
        let generation = self.registration.detection;
        self.out.push(Effect::Schedule {
            after,
            timer: Timer::Register { generation, backoff: first * 2 },
        });
    }

    pub(super) fn try_registration(&mut self, generation: u64, backoff: Duration) {
        if generation != self.registration.detection || self.state != AgentState::Disconnected {
            return;
        }
        let Some(to) = self.master_pid().map(str::to_owned) else { return };
        self.out.push(Effect::Link { to });
        let message = if self.info.id.is_none() {
            WireMessage::of(&self.register_message())
        } else {
            WireMessage::of(&self.reregister_message())
        };
        self.send_to_master(message);
        let backoff = backoff.min(REGISTER_RETRY_MAX);
        let after = backoff.mul_f64(self.random.fraction());
        self.out.push(Effect::Schedule {
            after,
            timer: Timer::Register { generation, backoff: backoff * 2 },
        });
    }

    fn register_message(&mut self) -> RegisterSlaveMessage {
        let mut message = RegisterSlaveMessage {
            checkpointed_resources: self.operations.tell(),
            slave: (*self.info).clone(),
            version: Some(self.config.version.clone()),
            agent_capabilities: self.capabilities(),
            resource_version_uuid: Some(self.resource_version()),
        };
        wire::downgrade(
            message.slave.resources.iter_mut().chain(&mut message.checkpointed_resources),
        );
        message
    }

    fn reregister_message(&mut self) -> ReregisterSlaveMessage {
        let mut message = ReregisterSlaveMessage {
            checkpointed_resources: self.operations.tell(),
            slave: (*self.info).clone(),
            version: Some(self.config.version.clone()),
            agent_capabilities: self.capabilities(),
            resource_version_uuid: Some(self.resource_version()),
            ..ReregisterSlaveMessage::default()
        };
        for framework in self.frameworks.values() {
            message.frameworks.push(framework.info.clone());
            for executor in framework.executors.values() {
                message.tasks.extend(executor.launched.values().cloned());
                message.tasks.extend(executor.terminated.values().cloned());
                message.tasks.extend(
                    executor
                        .queued
                        .values()
                        .map(|task| task_of(task, &executor.framework_id, None)),
                );
                if !executor.generated && executor.state != ExecutorState::Terminated {
                    message.executor_infos.push(executor.info.clone());
                }
            }
        }
        message.completed_frameworks = self.completed_for_master();
        let completed = message.completed_frameworks.iter_mut().flat_map(|f| &mut f.tasks);
        wire::downgrade(
            message
                .slave
                .resources
                .iter_mut()
                .chain(&mut message.checkpointed_resources)
                .chain(resources_of(message.tasks.iter_mut().chain(completed)))
                .chain(message.executor_infos.iter_mut().flat_map(|e| &mut e.resources)),
        );
        message
    }

    fn completed_for_master(&self) -> Vec<internal::archive::Framework> {
        self.completed
            .iter()
            .map(|framework| internal::archive::Framework {
                framework_info: framework.info.clone(),
                pid: framework.pid.clone(),
                tasks: framework
                    .completed
                    .iter()
                    .flat_map(|e| {
                        e.terminated
                            .values()
                            .cloned()
                            .chain(e.completed.iter().map(|t| (**t).clone()))
                    })
                    .collect(),
            })
            .collect()
    }

    fn capabilities(&self) -> Vec<slave_info::Capability> {
        self.config
            .capabilities
            .iter()
            .map(|c| slave_info::Capability { r#type: Some(*c as i32) })
            .collect()
    }

    fn resource_version(&self) -> Uuid {
        Uuid { value: self.registration.resource_version.clone() }
    }

    pub(super) fn registered(&mut self, message: SlaveRegisteredMessage) {
        self.note_ping_timeout(message.connection.as_ref());
        match self.state {
            AgentState::Disconnected => {
                tracing::info!(id = message.slave_id.value, "registered with the master");
                self.state = AgentState::Running;
                Arc::make_mut(&mut self.info).id = Some(message.slave_id);
                self.persist(Record::Agent(Box::new((*self.info).clone())));
                let actions = self.updates.resume();
                self.act(actions);
                self.expect_ping();
                self.send_resources();
                return self.after_registration();
            }
            AgentState::Running if self.agent_id() != message.slave_id.value => {
                return self.wrong_id(&message.slave_id);
            }
            _ => {}
        }
        self.send_resources();
    }

    pub(super) fn reregistered(&mut self, message: SlaveReregisteredMessage) {
        if self.agent_id() != message.slave_id.value {
            return self.wrong_id(&message.slave_id);
        }
        self.note_ping_timeout(message.connection.as_ref());
        match self.state {
            AgentState::Disconnected => {
                tracing::info!("re-registered with the master");
                self.state = AgentState::Running;
                // The master took it as it is now: from here on it must not shrink.
                if std::mem::take(&mut self.info_changed) {
                    self.persist(Record::Agent(Box::new((*self.info).clone())));
                }
                let actions = self.updates.resume();
                self.act(actions);
                self.expect_ping();
                self.send_resources();
                self.after_registration();
            }
            AgentState::Running => self.send_resources(),
            AgentState::Recovering | AgentState::Terminating => return,
        }
        for reconcile in message.reconciliations {
            self.reconcile(&reconcile);
        }
    }

    /// The master knows of the operations by now, and may be told how they ended.
    fn after_registration(&mut self) {
        self.resume_operations();
        if self.operations.outran() {
            tracing::info!("registering again: resources changed meanwhile");
            self.out.push(Effect::Detect);
        }
    }

    /// The master knows tasks that the agent does not: report them as lost.
    fn reconcile(&mut self, message: &internal::ReconcileTasksMessage) {
        let framework = &message.framework_id.value;
        let aware = message.framework.as_ref().is_some_and(|f| {
            let aware = mesos::framework_info::capability::Type::PartitionAware as i32;
            f.capabilities.iter().any(|c| c.r#type == Some(aware))
        });
        let state = if aware { TaskState::TaskDropped } else { TaskState::TaskLost };
        for status in &message.statuses {
            let task = &status.task_id;
            if self.executor_of_task(framework, &task.value).is_none() {
                let status = NewStatus {
                    message: "Reconciliation: task unknown to the agent".to_owned(),
                    reason: Some(task_status::Reason::Reconciliation),
                    ..NewStatus::of(&task.value, state)
                };
                self.report_unowned(framework, status);
            }
        }
    }

    fn wrong_id(&mut self, id: &SlaveId) {
        let message = format!(
            "registered but got wrong id: {}; expected: {}; committing suicide",
            id.value,
            self.agent_id()
        );
        self.out.push(Effect::Exit { message, ok: false });
    }

    fn send_resources(&mut self) {
        let Some(slave_id) = self.info.id.clone() else { return };
        let message = UpdateSlaveMessage {
            slave_id,
            update_oversubscribed_resources: Some(false),
            operations: Some(internal::update_slave_message::Operations {
                operations: self.operations.known.values().map(|o| (**o).clone()).collect(),
            }),
            resource_version_uuid: Some(self.resource_version()),
            resource_providers: Some(internal::update_slave_message::ResourceProviders::default()),
            ..UpdateSlaveMessage::default()
        };
        self.send_to_master(WireMessage::of(&message));
    }

    fn note_ping_timeout(&mut self, connection: Option<&internal::MasterSlaveConnection>) {
        self.registration.ping_timeout = connection
            .and_then(|c| c.total_ping_timeout_seconds)
            .and_then(|secs| Duration::try_from_secs_f64(secs).ok())
            .unwrap_or(PING_TIMEOUT);
    }

    /// Answered whoever asks, as libprocess agents do.
    pub(super) fn ping(&mut self, from: &str, message: &PingSlaveMessage) {
        if !message.connected && self.state == AgentState::Running {
            tracing::info!("the master counts this agent as disconnected: registering again");
            self.out.push(Effect::Detect);
        }
        self.expect_ping();
        self.send(from, WireMessage::of(&PongSlaveMessage::default()));
    }

    fn expect_ping(&mut self) {
        self.registration.ping += 1;
        self.out.push(Effect::Schedule {
            after: self.registration.ping_timeout,
            timer: Timer::PingTimeout { generation: self.registration.ping },
        });
    }

    pub(super) fn ping_timeout(&mut self, generation: u64) {
        if generation == self.registration.ping
            && matches!(self.state, AgentState::Running | AgentState::Disconnected)
        {
            tracing::info!("no pings from the master: looking for one again");
            self.out.push(Effect::Detect);
        }
    }

    pub(super) fn peer_exited(&mut self, pid: &str) {
        if self.is_master(pid) && self.state == AgentState::Running {
            // Mesos waits for its detector or for 75 s without pings; a master
            // that only restarted has its agents back at once here.
            tracing::warn!("master disconnected: looking for one again");
            self.out.push(Effect::Detect);
        }
    }

    pub(super) fn shutdown(&mut self, message: Option<&str>) {
        tracing::warn!(reason = message.unwrap_or(""), "the master asked this agent to shut down");
        self.terminate();
    }

    /// Tells the master, so that it does not wait for this agent, and ends.
    pub(super) fn leave(&mut self) {
        tracing::warn!("asked to unregister and to shut down");
        if let Some(slave_id) = self.info.id.clone() {
            let message = mesos::internal::UnregisterSlaveMessage { slave_id };
            self.send_to_master(WireMessage::of(&message));
        }
        self.terminate();
    }

    /// Ends every framework, then the process.
    pub(super) fn terminate(&mut self) {
        self.state = AgentState::Terminating;
        let ids: Vec<String> = self.frameworks.keys().cloned().collect();
        for id in ids {
            self.shutdown_framework(&id);
        }
        self.exit_if_empty();
    }
}

fn resources_of<'a>(
    tasks: impl Iterator<Item = &'a mut Task>,
) -> impl Iterator<Item = &'a mut Resource> {
    tasks.flat_map(|t| &mut t.resources)
}
