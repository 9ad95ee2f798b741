//! Scheduler calls: who may call, and the calls that need few words.
//!
//! Shape (type and sub-message present) is checked by [`validate::call`], which
//! the HTTP door calls first; a driver's call is checked here.

use mesos::internal::{
    ExecutorToFrameworkMessage, FrameworkToExecutorMessage, KillTaskMessage,
    ShutdownExecutorMessage,
};
use mesos::roles;
use mesos::scheduler::{Call, call, event};

use super::send::event_of;
use super::{Core, Refusal, Scope, validate};
use crate::master::ids::{AgentId, FrameworkId, OfferId, Pid, TaskId};

impl Core {
    /// A call over HTTP, not SUBSCRIBE.
    pub(super) fn http_call(&mut self, call: Call, stream: Option<&str>) -> Result<(), Refusal> {
        let id = call.framework_id.as_ref().map(FrameworkId::from);
        let Some((id, framework)) = id.and_then(|id| Some((id.clone(), self.framework(&id)?)))
        else {
            return Err(Refusal::Invalid("Framework cannot be found".into()));
        };
        if !framework.connected() {
            return Err(Refusal::NotSubscribed("Framework is not subscribed"));
        }
        let Some(current) = self.frameworks.streams.get(&id) else {
            return Err(Refusal::NotSubscribed("Framework is not connected via HTTP"));
        };
        let Some(given) = stream else {
            return Err(Refusal::Invalid(
                "All non-subscribe calls should include the 'Mesos-Stream-Id' header".into(),
            ));
        };
        if given != current.as_str() {
            return Err(Refusal::Invalid(format!(
                "The stream ID '{given}' included in this request didn't match the stream ID \
                 currently associated with framework ID {id}"
            )));
        }
        self.tally_call(&id, call.r#type());
        if call.r#type() == call::Type::UpdateFramework {
            return match call.update_framework {
                Some(update) => self.update_framework_call(&id, update),
                None => Ok(()),
            };
        }
        self.call(&id, call);
        Ok(())
    }

    /// A call of a driver; the sender must be the framework's own process.
    pub(super) fn driver_call(&mut self, from: &Pid, call: Call) {
        if let Err(why) = validate::call::shape(&call) {
            return tracing::warn!(driver = %from, "dropping a call: {why}");
        }
        if call.r#type() == call::Type::Subscribe {
            if let Some(subscribe) = call.subscribe {
                self.subscribe_driver(from, subscribe);
            }
            return;
        }
        let Some(id) = call.framework_id.as_ref().map(FrameworkId::from) else { return };
        let Some(framework) = self.framework(&id) else {
            return tracing::warn!(driver = %from, framework = %id, "dropping a call: unknown framework");
        };
        if framework.pid.as_ref() != Some(from) {
            return tracing::warn!(driver = %from, framework = %id, "dropping a call: not from there");
        }
        if !framework.connected() {
            return self.tell_disconnected(from);
        }
        self.tally_call(&id, call.r#type());
        match call.r#type() {
            call::Type::UpdateFramework => {
                let update = call.update_framework.map(|u| self.update_framework_call(&id, u));
                if let Some(Err(why)) = update {
                    self.refuse_driver(from, &why.to_string());
                }
            }
            call::Type::AcknowledgeOperationStatus | call::Type::ReconcileOperations => {
                let text = "Operation feedback is not supported for the SchedulerDriver API";
                self.refuse_driver(from, text);
            }
            _ => self.call(&id, call),
        }
    }

    fn call(&mut self, id: &FrameworkId, call: Call) {
        match call.r#type() {
            call::Type::Teardown => {
                self.count("messages_unregister_framework");
                self.remove_framework(id);
            }
            call::Type::Accept => self.accept(id, call.accept.unwrap_or_default()),
            call::Type::Decline => self.decline(id, &call.decline.unwrap_or_default()),
            call::Type::Revive => self.revive(id, &call.revive.unwrap_or_default().roles),
            call::Type::Suppress => self.suppress(id, &call.suppress.unwrap_or_default().roles),
            call::Type::Kill => self.kill(id, call.kill.unwrap_or_default()),
            call::Type::Shutdown => self.shutdown(id, call.shutdown.unwrap_or_default()),
            call::Type::Acknowledge => self.acknowledge(id, call.acknowledge.unwrap_or_default()),
            call::Type::AcknowledgeOperationStatus => {
                self.acknowledge_operation(
                    id,
                    call.acknowledge_operation_status.unwrap_or_default(),
                );
            }
            call::Type::Reconcile => self.reconcile(id, &call.reconcile.unwrap_or_default()),
            call::Type::ReconcileOperations => {
                self.reconcile_operations(id, &call.reconcile_operations.unwrap_or_default());
            }
            call::Type::Message => self.framework_message(id, call.message.unwrap_or_default()),
            // Mesos' allocator ignores requests, too.
            call::Type::Request => self.count("messages_resource_request"),
            // There are no inverse offers without maintenance.
            call::Type::AcceptInverseOffers | call::Type::DeclineInverseOffers => {}
            call::Type::Unknown | call::Type::Subscribe | call::Type::UpdateFramework => {}
        }
    }

    fn decline(&mut self, id: &FrameworkId, call: &call::Decline) {
        self.count("messages_decline_offers");
        for offer in call.offer_ids.iter().map(OfferId::from) {
            if self.offers.get(&offer).is_some_and(|o| o.framework == *id) {
                self.discard(&offer, Some(call.filters.as_ref()));
                self.tally(id, |t| t.offers_declined += 1);
            }
        }
    }

    /// The roles a REVIVE or SUPPRESS is for; `None` if the call is to be dropped.
    fn called_roles(&self, id: &FrameworkId, named: &[String]) -> Option<Vec<String>> {
        let framework = self.framework(id)?;
        for role in named {
            if roles::validate(role).is_err() || !framework.roles.contains(role) {
                tracing::warn!(framework = %id, role, "dropping a call: not a role of the framework");
                return None;
            }
        }
        Some(named.to_vec())
    }

    fn revive(&mut self, id: &FrameworkId, named: &[String]) {
        self.count("messages_revive_offers");
        let Some(named) = self.called_roles(id, named) else { return };
        self.allocator.revive(id, &named);
        self.change_suppressed(id, |suppressed, _| {
            suppressed.retain(|role| !named.is_empty() && !named.contains(role));
        });
        self.trigger(Scope::All);
    }

    fn suppress(&mut self, id: &FrameworkId, named: &[String]) {
        self.count("messages_suppress_offers");
        let Some(named) = self.called_roles(id, named) else { return };
        self.allocator.suppress(id, &named);
        self.change_suppressed(id, |suppressed, roles| {
            let all = named.is_empty();
            suppressed.extend(roles.iter().filter(|r| all || named.contains(r)).cloned());
        });
    }

    fn change_suppressed(
        &mut self,
        id: &FrameworkId,
        change: impl FnOnce(
            &mut std::collections::BTreeSet<String>,
            &std::collections::BTreeSet<String>,
        ),
    ) {
        if let Some(framework) = self.framework_mut(id) {
            let roles = framework.roles.clone();
            change(std::sync::Arc::make_mut(&mut framework.suppressed), &roles);
        }
    }

    fn kill(&mut self, id: &FrameworkId, call: call::Kill) {
        self.count("messages_kill_task");
        let task_id = TaskId::from(&call.task_id);
        let Some(task) = self.task(id, &task_id) else {
            // The framework hears what is known of it: nothing.
            let task = call::reconcile::Task { task_id: call.task_id, slave_id: call.slave_id };
            return self.reconcile(id, &call::Reconcile { tasks: vec![task] });
        };
        if call.slave_id.as_ref().is_some_and(|agent| *agent != task.slave_id) {
            return tracing::warn!(framework = %id, task = %task_id, "not killing: other agent");
        }
        let agent = AgentId::from(&task.slave_id);
        self.agents.killed.entry(agent.clone()).or_default().insert((id.clone(), task_id));
        if self.agent(&agent).is_some_and(|a| a.connected) {
            let message = KillTaskMessage {
                framework_id: id.message(),
                task_id: call.task_id,
                kill_policy: call.kill_policy,
            };
            self.send_agent(&agent, &message);
        }
    }

    fn shutdown(&mut self, id: &FrameworkId, call: call::Shutdown) {
        let agent = AgentId::from(&call.slave_id);
        self.send_agent(
            &agent,
            &ShutdownExecutorMessage {
                executor_id: Some(call.executor_id),
                framework_id: Some(id.message()),
            },
        );
    }

    fn framework_message(&mut self, id: &FrameworkId, call: call::Message) {
        self.count("messages_framework_to_executor");
        let agent = AgentId::from(&call.slave_id);
        if !self.agent(&agent).is_some_and(|a| a.connected) {
            return self.count("invalid_framework_to_executor_messages");
        }
        self.count("valid_framework_to_executor_messages");
        self.send_agent(
            &agent,
            &FrameworkToExecutorMessage {
                slave_id: call.slave_id,
                framework_id: id.message(),
                executor_id: call.executor_id,
                data: call.data,
            },
        );
    }

    /// An executor's message for its framework, by way of its agent.
    pub(super) fn executor_message(&mut self, message: ExecutorToFrameworkMessage) {
        self.count("messages_executor_to_framework");
        let framework = FrameworkId::from(&message.framework_id);
        let known = self.agent(&AgentId::from(&message.slave_id)).is_some();
        if !known || !self.framework(&framework).is_some_and(|f| f.connected()) {
            return self.count("invalid_executor_to_framework_messages");
        }
        self.count("valid_executor_to_framework_messages");
        let mut event = event_of(event::Type::Message);
        event.message = Some(event::Message {
            slave_id: message.slave_id,
            executor_id: message.executor_id,
            data: message.data,
        });
        self.notify(&framework, event);
    }
}
