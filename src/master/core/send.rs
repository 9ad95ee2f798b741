//! What leaves the core: messages to agents and drivers, events to streams.
//!
//! A framework over HTTP gets v1 events, a driver gets the same as messages.

use std::sync::Arc;

use bytes::Bytes;
use mesos::internal;
use mesos::scheduler::{Event as SchedulerEvent, event};
use prost::Message;

use super::{Core, Effect, OperatorEvent, Process, StreamId};
use crate::master::ids::{AgentId, FrameworkId, Pid};

/// Names of the message types the master sends, as they go on the wire.
pub(super) trait Outgoing: Message {
    const NAME: &'static str;
}

macro_rules! outgoing {
    ($($name:ident),* $(,)?) => {
        $(impl Outgoing for internal::$name {
            const NAME: &'static str = concat!("mesos.internal.", stringify!($name));
        })*
    };
}

outgoing!(
    ApplyOperationMessage,
    AcknowledgeOperationStatusMessage,
    CheckpointResourcesMessage,
    ExecutorToFrameworkMessage,
    DrainSlaveMessage,
    ExitedExecutorMessage,
    FrameworkErrorMessage,
    FrameworkRegisteredMessage,
    FrameworkReregisteredMessage,
    FrameworkToExecutorMessage,
    KillTaskMessage,
    LostSlaveMessage,
    PingSlaveMessage,
    ReconcileOperationsMessage,
    RescindResourceOfferMessage,
    ResourceOffersMessage,
    RunTaskGroupMessage,
    RunTaskMessage,
    ShutdownExecutorMessage,
    ShutdownFrameworkMessage,
    ShutdownMessage,
    SlaveRegisteredMessage,
    SlaveReregisteredMessage,
    StatusUpdateAcknowledgementMessage,
    StatusUpdateMessage,
    SubmitSchedulerResponse,
    UpdateFrameworkMessage,
);

/// A scheduler event of the given type with nothing in it.
pub(super) fn event_of(kind: event::Type) -> SchedulerEvent {
    SchedulerEvent { r#type: Some(kind as i32), ..SchedulerEvent::default() }
}

impl Core {
    pub(super) fn send<M: Outgoing>(&mut self, to: &Pid, message: &M) {
        self.send_from(Process::Master, to, message);
    }

    pub(super) fn send_from<M: Outgoing>(&mut self, from: Process, to: &Pid, message: &M) {
        let body = Bytes::from(message.encode_to_vec());
        self.out.push(Effect::Send { from, to: to.clone(), name: M::NAME, body });
    }

    /// Sends to an agent if it is connected.
    pub(super) fn send_agent<M: Outgoing>(&mut self, agent: &AgentId, message: &M) {
        if let Some(pid) = self.agent(agent).map(|a| a.pid.clone()) {
            self.send(&pid, message);
        }
    }

    /// Sends to every registered agent.
    pub(super) fn broadcast<M: Outgoing>(&mut self, message: &M) {
        let body = Bytes::from(message.encode_to_vec());
        for agent in self.cluster.agents.values() {
            self.out.push(Effect::Send {
                from: Process::Master,
                to: agent.pid.clone(),
                name: M::NAME,
                body: body.clone(),
            });
        }
    }

    pub(super) fn tell_operators(&mut self, event: OperatorEvent) {
        self.out.push(Effect::Operator(event));
    }

    /// Ends a subscription attempt (or a stream) with an error.
    pub(super) fn refuse_stream(&mut self, stream: &StreamId, message: &str) {
        tracing::info!(stream = %stream, "refusing subscription: {message}");
        let mut error = event_of(event::Type::Error);
        error.error = Some(event::Error { message: message.to_owned() });
        self.out.push(Effect::Event(stream.clone(), Arc::new(error)));
        self.out.push(Effect::Close(stream.clone()));
    }

    /// Sends an ERROR to a driver.
    pub(super) fn refuse_driver(&mut self, pid: &Pid, message: &str) {
        tracing::info!(driver = %pid, "refusing: {message}");
        self.send(pid, &internal::FrameworkErrorMessage { message: message.to_owned() });
    }

    /// Sends an event to a connected framework, in the form its connection has.
    pub(super) fn notify(&mut self, framework: &FrameworkId, event: SchedulerEvent) {
        self.tally_event(framework, event.r#type());
        if let Some(stream) = self.frameworks.streams.get(framework) {
            self.out.push(Effect::Event(stream.clone(), Arc::new(event)));
        } else if let Some(pid) = self.framework(framework).and_then(|f| f.pid.clone()) {
            self.notify_driver(framework, &pid, event);
        }
    }

    fn notify_driver(&mut self, framework: &FrameworkId, pid: &Pid, event: SchedulerEvent) {
        let framework_id = framework.message();
        match event.r#type() {
            event::Type::Subscribed => {
                let master_info = self.master.clone();
                self.send(pid, &internal::FrameworkRegisteredMessage { framework_id, master_info });
            }
            event::Type::Offers => {
                let offers = event.offers.unwrap_or_default().offers;
                let pids = offers.iter().map(|o| self.pid_of(&AgentId::from(&o.slave_id)));
                let pids = pids.collect();
                self.send(pid, &internal::ResourceOffersMessage { offers, pids });
            }
            event::Type::Rescind => {
                if let Some(event::Rescind { offer_id }) = event.rescind {
                    self.send(pid, &internal::RescindResourceOfferMessage { offer_id });
                }
            }
            event::Type::Failure => {
                if let Some(failure) = event.failure {
                    self.notify_driver_of_failure(framework, pid, failure);
                }
            }
            event::Type::Message => {
                if let Some(event::Message { slave_id, executor_id, data }) = event.message {
                    self.send(
                        pid,
                        &internal::ExecutorToFrameworkMessage {
                            slave_id,
                            framework_id,
                            executor_id,
                            data,
                        },
                    );
                }
            }
            event::Type::Error => {
                let message = event.error.map(|e| e.message).unwrap_or_default();
                self.send(pid, &internal::FrameworkErrorMessage { message });
            }
            // Updates go through `forward`, which knows the agent's address.
            // Drivers know no heartbeats, inverse offers or operation updates.
            _ => {}
        }
    }

    fn notify_driver_of_failure(
        &mut self,
        framework: &FrameworkId,
        pid: &Pid,
        failure: event::Failure,
    ) {
        match (failure.slave_id, failure.executor_id) {
            (Some(slave_id), Some(executor_id)) => self.send(
                pid,
                &internal::ExitedExecutorMessage {
                    slave_id,
                    framework_id: framework.message(),
                    executor_id,
                    status: failure.status.unwrap_or(0),
                },
            ),
            (Some(slave_id), None) => self.send(pid, &internal::LostSlaveMessage { slave_id }),
            _ => {}
        }
    }

    fn pid_of(&self, agent: &AgentId) -> String {
        self.agent(agent).map_or_else(String::new, |a| a.pid.as_str().to_owned())
    }

    /// Passes a status update on to its framework, if that is connected, and
    /// remembers what was sent: the acknowledgement will be for it.
    pub(super) fn forward(&mut self, update: internal::StatusUpdate, acknowledgee: Option<&Pid>) {
        let framework = FrameworkId::from(&update.framework_id);
        let task = crate::master::ids::TaskId::from(&update.status.task_id);
        if update.uuid.is_some() {
            self.change_task(&framework, &task, |task| {
                task.status_update_state = Some(update.status.state);
                task.status_update_uuid.clone_from(&update.status.uuid);
            });
        }
        if !self.framework(&framework).is_some_and(|f| f.connected()) {
            return;
        }
        if self.frameworks.streams.contains_key(&framework) {
            let mut status = update.status;
            status.timestamp = Some(update.timestamp);
            status.slave_id = status.slave_id.or(update.slave_id);
            status.executor_id = status.executor_id.or(update.executor_id);
            status.uuid = update.uuid.filter(|_| acknowledgee.is_some());
            let mut event = event_of(event::Type::Update);
            event.update = Some(event::Update { status });
            self.notify(&framework, event);
        } else if let Some(pid) = self.framework(&framework).and_then(|f| f.pid.clone()) {
            let acknowledgee = acknowledgee.map_or(Pid::NONE, Pid::as_str).to_owned();
            self.tally_event(&framework, event::Type::Update);
            self.send(&pid, &internal::StatusUpdateMessage { update, pid: Some(acknowledgee) });
        }
    }
}
