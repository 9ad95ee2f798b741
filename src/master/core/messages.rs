//! What arrives over libprocess: read, checked for required fields, dispatched.
//!
//! Old drivers and pure-language clients send single messages; they mean the
//! same as calls and are treated as such, if the sender is who it must be.

use mesos::internal as m;
use mesos::scheduler::{Call, call};
use mesos::{offer, schema};

use super::Core;
use crate::master::ids::{AgentId, FrameworkId, Pid};

/// Reads a message; incomplete and malformed ones are logged and dropped.
fn read<M: prost::Message + prost::Name + Default>(from: &Pid, body: &[u8]) -> Option<M> {
    match schema::decode::<M>(body) {
        Ok(message) => Some(message),
        Err(error) => {
            tracing::warn!(from = %from, message = M::NAME, "dropping a message: {error}");
            None
        }
    }
}

/// A call of the given type with nothing in it.
fn call_of(kind: call::Type, framework: &mesos::FrameworkId) -> Call {
    Call { framework_id: Some(framework.clone()), r#type: Some(kind as i32), ..Call::default() }
}

impl Core {
    pub(super) fn message(&mut self, from: &Pid, to: &str, name: &str, body: &[u8]) {
        if let Some(number) = to.strip_prefix("slave-observer(").and_then(|n| n.strip_suffix(')')) {
            if name == "mesos.internal.PongSlaveMessage"
                && let Ok(number) = number.parse()
            {
                self.pong(number);
            }
            return;
        }
        self.count_message(from);
        let kind = name.strip_prefix("mesos.internal.").unwrap_or(name);
        if self.agent_message(from, kind, body).is_some() {
            return;
        }
        if self.driver_message(from, kind, body).is_none() {
            self.count("dropped_messages");
        }
    }

    /// Counts a message of a known driver for its principal.
    fn count_message(&mut self, from: &Pid) {
        let framework = self.frameworks.by_pid.get(from).and_then(|id| self.framework(id));
        if let Some(principal) = framework.and_then(|f| f.info.principal.clone()) {
            self.counters().add_message(&principal);
        }
    }

    /// `None` if it is no message of an agent, or unreadable.
    fn agent_message(&mut self, from: &Pid, kind: &str, body: &[u8]) -> Option<()> {
        match kind {
            "RegisterSlaveMessage" => {
                let message = read(from, body)?;
                self.register_agent(from, message);
            }
            "ReregisterSlaveMessage" => {
                let message = read(from, body)?;
                self.reregister_agent(from, message);
            }
            "UnregisterSlaveMessage" => {
                let message: m::UnregisterSlaveMessage = read(from, body)?;
                self.unregister_agent(from, &AgentId::from(&message.slave_id));
            }
            "UpdateSlaveMessage" => {
                let message = read(from, body)?;
                self.update_agent(&message);
            }
            "StatusUpdateMessage" => {
                let message = read(from, body)?;
                self.status_update(from, message);
            }
            "ExitedExecutorMessage" => {
                let message = read(from, body)?;
                self.exited_executor(&message);
            }
            "ExecutorToFrameworkMessage" => {
                let message = read(from, body)?;
                self.executor_message(message);
            }
            "UpdateOperationStatusMessage" => {
                let message = read(from, body)?;
                self.update_operation(&message);
            }
            _ => return None,
        }
        Some(())
    }

    fn driver_message(&mut self, from: &Pid, kind: &str, body: &[u8]) -> Option<()> {
        match kind {
            "mesos.scheduler.Call" => {
                let call: Call = read(from, body)?;
                self.driver_call(from, call);
            }
            "RegisterFrameworkMessage" => {
                let message: m::RegisterFrameworkMessage = read(from, body)?;
                self.subscribe_driver(from, subscribe(message.framework, false));
            }
            "ReregisterFrameworkMessage" => {
                let message: m::ReregisterFrameworkMessage = read(from, body)?;
                if message.framework.id.as_ref().is_none_or(|id| id.value.is_empty()) {
                    self.refuse_driver(from, "Framework reregistering without a framework id");
                    return Some(());
                }
                self.subscribe_driver(from, subscribe(message.framework, message.failover));
            }
            "UnregisterFrameworkMessage" => {
                let message: m::UnregisterFrameworkMessage = read(from, body)?;
                self.driver_call(from, call_of(call::Type::Teardown, &message.framework_id));
            }
            "DeactivateFrameworkMessage" => {
                let message: m::DeactivateFrameworkMessage = read(from, body)?;
                self.count("messages_deactivate_framework");
                let id = FrameworkId::from(&message.framework_id);
                if self.frameworks.by_pid.get(from) == Some(&id) {
                    self.deactivate_framework(&id);
                }
            }
            "SubmitSchedulerRequest" => {
                self.send(from, &m::SubmitSchedulerResponse { okay: false });
            }
            _ => {
                let call = old_call(from, kind, body)?;
                self.driver_call(from, call);
            }
        }
        Some(())
    }
}

fn subscribe(framework_info: mesos::FrameworkInfo, force: bool) -> call::Subscribe {
    call::Subscribe {
        framework_info,
        force: Some(force),
        suppressed_roles: Vec::new(),
        offer_constraints: None,
    }
}

/// The call that a message of an old driver stands for.
fn old_call(from: &Pid, kind: &str, body: &[u8]) -> Option<Call> {
    Some(match kind {
        "LaunchTasksMessage" => launch_tasks(read(from, body)?),
        "ResourceRequestMessage" => {
            let old: m::ResourceRequestMessage = read(from, body)?;
            let mut call = call_of(call::Type::Request, &old.framework_id);
            call.request = Some(call::Request { requests: old.requests });
            call
        }
        "ReviveOffersMessage" => {
            let old: m::ReviveOffersMessage = read(from, body)?;
            let mut call = call_of(call::Type::Revive, &old.framework_id);
            call.revive = Some(call::Revive { roles: old.roles });
            call
        }
        "KillTaskMessage" => {
            let old: m::KillTaskMessage = read(from, body)?;
            let mut call = call_of(call::Type::Kill, &old.framework_id);
            call.kill =
                Some(call::Kill { task_id: old.task_id, slave_id: None, kill_policy: None });
            call
        }
        "StatusUpdateAcknowledgementMessage" => {
            let old: m::StatusUpdateAcknowledgementMessage = read(from, body)?;
            let mut call = call_of(call::Type::Acknowledge, &old.framework_id);
            call.acknowledge = Some(call::Acknowledge {
                slave_id: old.slave_id,
                task_id: old.task_id,
                uuid: old.uuid,
            });
            call
        }
        "FrameworkToExecutorMessage" => {
            let old: m::FrameworkToExecutorMessage = read(from, body)?;
            let mut call = call_of(call::Type::Message, &old.framework_id);
            call.message = Some(call::Message {
                slave_id: old.slave_id,
                executor_id: old.executor_id,
                data: old.data,
            });
            call
        }
        "ReconcileTasksMessage" => {
            let old: m::ReconcileTasksMessage = read(from, body)?;
            let mut call = call_of(call::Type::Reconcile, &old.framework_id);
            let tasks = old.statuses.into_iter().map(|status| call::reconcile::Task {
                task_id: status.task_id,
                slave_id: status.slave_id,
            });
            call.reconcile = Some(call::Reconcile { tasks: tasks.collect() });
            call
        }
        _ => return None,
    })
}

fn launch_tasks(old: m::LaunchTasksMessage) -> Call {
    let filters = Some(old.filters);
    if old.tasks.is_empty() {
        let mut call = call_of(call::Type::Decline, &old.framework_id);
        call.decline = Some(call::Decline { offer_ids: old.offer_ids, filters });
        return call;
    }
    let launch = offer::Operation {
        r#type: Some(offer::operation::Type::Launch as i32),
        launch: Some(offer::operation::Launch { task_infos: old.tasks }),
        ..offer::Operation::default()
    };
    let mut call = call_of(call::Type::Accept, &old.framework_id);
    call.accept =
        Some(call::Accept { offer_ids: old.offer_ids, operations: vec![launch], filters });
    call
}
