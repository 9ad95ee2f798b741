//! RESERVE, UNRESERVE, CREATE, DESTROY and volume resizing.
//!
//! They are speculative: the master converts the resources at once and tells
//! the agent. Agents with resource providers (all modern ones) get the operation
//! and report on it; others get the full list of what they must keep.

use std::sync::Arc;
use std::time::Duration;

use mesos::internal::{
    AcknowledgeOperationStatusMessage, ApplyOperationMessage, CheckpointResourcesMessage,
    ReconcileOperationsMessage, ResourceVersionUuid, UpdateOperationStatusMessage,
    reconcile_operations_message,
};
use mesos::model::is_terminal_operation;
use mesos::offer::Operation;
use mesos::offer::operation::Type as Kind;
use mesos::resources::conversions;
use mesos::scheduler::{call, event};
use mesos::slave_info::capability::Type as Capability;
use mesos::{OperationState, OperationStatus};

use super::accept::Accepting;
use super::cluster::Agent;
use super::send::event_of;
use super::validate::task::Scene;
use super::{Core, validate};
use crate::master::Resources;
use crate::master::ids::{AgentId, FrameworkId};

/// How long after an agent's return the operations of unknown frameworks are kept
/// (Mesos' constant).
const ORPHANED_AFTER: Duration = Duration::from_secs(600);

impl Agent {
    /// What launches and operations must echo.
    pub(super) fn versions(&self) -> Vec<ResourceVersionUuid> {
        let own = self.resource_version.clone();
        own.map(|uuid| ResourceVersionUuid { resource_provider_id: None, uuid })
            .into_iter()
            .collect()
    }
}

impl Core {
    /// An operation is not done; its framework hears of it if it gave an id.
    pub(super) fn drop_operation(
        &mut self,
        framework: &FrameworkId,
        operation: &Operation,
        message: &str,
    ) {
        let kind = operation.r#type().as_str_name();
        tracing::warn!(framework = %framework, "dropping {kind} operation: {message}");
        self.counters().add_operation(operation.r#type(), OperationState::OperationError);
        let Some(id) = operation.id.clone() else { return };
        let mut event = event_of(event::Type::UpdateOperationStatus);
        event.update_operation_status = Some(event::UpdateOperationStatus {
            status: OperationStatus {
                operation_id: Some(id),
                state: OperationState::OperationError as i32,
                message: Some(message.to_owned()),
                ..OperationStatus::default()
            },
        });
        self.notify(framework, event);
    }

    /// An operation of an ACCEPT that is no launch.
    pub(super) fn operation(&mut self, work: &mut Accepting, operation: Operation) {
        if let Err(why) = self.try_operation(work, &operation) {
            self.drop_operation(&work.framework, &operation, &why);
        }
    }

    fn try_operation(&mut self, work: &mut Accepting, operation: &Operation) -> Result<(), String> {
        let Some((framework, agent)) = self.scene(work) else {
            return Err("the agent is gone".into());
        };
        let scene = Scene { framework: &framework, agent: &agent };
        if operation.id.is_some() {
            self.may_have_id(&framework.id, &agent)?;
        }
        let on_agent = |e: String| format!("{e}; on agent {}", agent.id);
        match operation.r#type() {
            Kind::Reserve => {
                let reserve = operation.reserve.clone().unwrap_or_default();
                if !reserve.source.is_empty() {
                    return Err("Reservation updates are not yet implemented for the scheduler \
                                API."
                        .into());
                }
                validate::operation::reserve(&reserve, scene).map_err(on_agent)?;
            }
            Kind::Unreserve => {
                let unreserve = operation.unreserve.clone().unwrap_or_default();
                validate::operation::unreserve(&unreserve).map_err(on_agent)?;
            }
            Kind::Create => {
                let create = operation.create.clone().unwrap_or_default();
                validate::operation::create(&create, scene).map_err(on_agent)?;
            }
            Kind::Destroy => {
                let destroy = operation.destroy.clone().unwrap_or_default();
                validate::operation::destroy(&destroy, scene).map_err(on_agent)?;
            }
            kind => return Err(format!("{} is not supported yet", kind.as_str_name())),
        }
        self.apply_operation(work, &agent, operation)
    }

    fn may_have_id(&self, framework: &FrameworkId, agent: &Agent) -> Result<(), String> {
        if !self.frameworks.streams.contains_key(framework) {
            return Err("The 'id' field was set in an offer operation, but operation feedback is \
                        not supported for the SchedulerDriver API"
                .into());
        }
        let able = agent.can(Capability::ResourceProvider)
            && agent.can(Capability::AgentOperationFeedback);
        if able {
            Ok(())
        } else {
            Err(format!(
                "Operation on agent default resources requested feedback, but agent {} does not \
                 have the required AGENT_OPERATION_FEEDBACK and RESOURCE_PROVIDER capabilities",
                agent.id
            ))
        }
    }

    fn apply_operation(
        &mut self,
        work: &mut Accepting,
        agent: &Agent,
        operation: &Operation,
    ) -> Result<(), String> {
        let steps = conversions(operation).map_err(|e| e.to_string())?;
        let mut remaining = work.remaining.clone();
        let mut total = agent.total.clone();
        let (mut from, mut to) = (Resources::new(), Resources::new());
        for step in &steps {
            remaining = remaining.convert(step).map_err(|e| e.to_string())?;
            total -= &step.consumed.clone().unallocated();
            total += &step.converted.clone().unallocated();
            from += &step.consumed;
            to += &step.converted;
        }
        work.remaining = remaining;
        self.allocator.update_allocation(&work.framework, &work.agent, &from, &to);
        let checkpointed = total.to_checkpoint();
        if let Some(agent) = self.agent_mut(&work.agent) {
            agent.total = total;
            agent.checkpointed = checkpointed.clone();
        }
        if agent.can(Capability::ResourceProvider) {
            self.send_operation(work, agent, operation);
        } else {
            let resources = checkpointed.to_protos();
            self.send(&agent.pid, &CheckpointResourcesMessage { resources });
        }
        Ok(())
    }

    fn send_operation(&mut self, work: &Accepting, agent: &Agent, operation: &Operation) {
        let uuid = self.new_uuid();
        let pending = OperationStatus {
            operation_id: operation.id.clone(),
            state: OperationState::OperationPending as i32,
            slave_id: Some(work.agent.message()),
            ..OperationStatus::default()
        };
        let kept = mesos::Operation {
            framework_id: Some(work.framework.message()),
            slave_id: Some(work.agent.message()),
            info: operation.clone(),
            latest_status: pending.clone(),
            statuses: vec![pending],
            uuid: uuid.clone(),
        };
        if let Some(agent) = self.agent_mut(&work.agent) {
            Arc::make_mut(&mut agent.operations).push(Arc::new(kept));
        }
        let version = agent.resource_version.clone().unwrap_or_default();
        self.send(
            &agent.pid,
            &ApplyOperationMessage {
                framework_id: Some(work.framework.message()),
                operation_info: operation.clone(),
                operation_uuid: uuid,
                resource_version_uuid: ResourceVersionUuid {
                    resource_provider_id: None,
                    uuid: version,
                },
            },
        );
    }

    fn new_uuid(&mut self) -> mesos::Uuid {
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&self.rng.next_u64().to_be_bytes());
        bytes[8..].copy_from_slice(&self.rng.next_u64().to_be_bytes());
        bytes[6] = bytes[6] & 0x0f | 0x40; // Version 4,
        bytes[8] = bytes[8] & 0x3f | 0x80; // variant 1.
        mesos::Uuid { value: bytes.to_vec() }
    }

    /// An agent reports on an operation.
    pub(super) fn update_operation(&mut self, message: &UpdateOperationStatusMessage) {
        self.count("messages_operation_status_update");
        let agent = message.slave_id.as_ref().map(AgentId::from);
        let (Some(agent), Some(uuid)) = (agent, message.operation_uuid.clone()) else {
            return self.count("invalid_operation_status_updates");
        };
        if self.agent(&agent).is_none() {
            return self.count("invalid_operation_status_updates");
        }
        let known = self.change_operation(&agent, &uuid, |operation| {
            let latest = message.latest_status.as_ref().unwrap_or(&message.status);
            let ends = !is_terminal_operation(operation.latest_status.state())
                && is_terminal_operation(latest.state());
            operation.latest_status = latest.clone();
            operation.statuses.push(message.status.clone());
            let end = ends.then(|| (operation.info.r#type(), latest.state()));
            (operation.info.id.clone(), operation.framework_id.clone(), end)
        });
        if let Some((_, _, Some((kind, state)))) = known {
            self.counters().add_operation(kind, state);
        }
        self.count("valid_operation_status_updates");
        let framework = known.as_ref().and_then(|(_, f, _)| f.as_ref()).map(FrameworkId::from);
        let name = known.as_ref().and_then(|(id, ..)| id.clone());
        match framework.filter(|_| name.is_some()) {
            // The agent tells it again.
            Some(framework) if self.may_yet_come(&framework, &agent) => {}
            Some(framework) if self.framework(&framework).is_some() => {
                let mut event = event_of(event::Type::UpdateOperationStatus);
                // Agents do not know the name of what never reached them.
                let status = OperationStatus { operation_id: name, ..message.status.clone() };
                event.update_operation_status = Some(event::UpdateOperationStatus { status });
                self.notify(&framework, event);
                // Nobody acknowledges what has no uuid: this was the last word.
                if message.status.uuid.is_none() && is_terminal_operation(message.status.state()) {
                    self.forget_operation(&agent, &uuid);
                }
            }
            _ => self.acknowledge_for_nobody(&agent, &uuid, &message.status),
        }
    }

    /// Whether a framework that is unknown to this master may have had no time to
    /// subscribe.
    fn may_yet_come(&self, framework: &FrameworkId, agent: &AgentId) -> bool {
        let since = self.agent(agent).and_then(|agent| agent.reregistered);
        self.framework(framework).is_none()
            && !self.frameworks.completed.contains(framework)
            && since.is_some_and(|since| self.now.wall.saturating_sub(since) < ORPHANED_AFTER)
    }

    /// An agent says of which operations it knows: those of an earlier master are
    /// learnt, and it is asked about those it does not mention.
    pub(super) fn compare_operations(&mut self, id: &AgentId, reported: &[mesos::Operation]) {
        let Some(agent) = self.agent_mut(id) else { return };
        let operations = Arc::make_mut(&mut agent.operations);
        let lost: Vec<_> = operations
            .iter()
            .filter(|o| !is_terminal_operation(o.latest_status.state()))
            .filter(|o| reported.iter().all(|other| other.uuid != o.uuid))
            .map(|o| reconcile_operations_message::Operation {
                operation_uuid: Some(o.uuid.clone()),
                ..Default::default()
            })
            .collect();
        for operation in reported {
            if operations.iter().all(|known| known.uuid != operation.uuid) {
                operations.push(Arc::new(operation.clone()));
            }
        }
        if !lost.is_empty() {
            let message = ReconcileOperationsMessage { operations: lost, framework_id: None };
            self.send_agent(id, &message);
        }
    }

    /// Nobody waits for news of this operation: the master acknowledges them.
    fn acknowledge_for_nobody(
        &mut self,
        agent: &AgentId,
        uuid: &mesos::Uuid,
        status: &OperationStatus,
    ) {
        if let Some(status_uuid) = status.uuid.clone() {
            let message = AcknowledgeOperationStatusMessage {
                status_uuid,
                operation_uuid: uuid.clone(),
                resource_provider_id: status.resource_provider_id.clone(),
            };
            self.send_agent(agent, &message);
        }
        if is_terminal_operation(status.state()) {
            self.forget_operation(agent, uuid);
        }
    }

    fn change_operation<R>(
        &mut self,
        agent: &AgentId,
        uuid: &mesos::Uuid,
        change: impl FnOnce(&mut mesos::Operation) -> R,
    ) -> Option<R> {
        let agent = self.agent_mut(agent)?;
        let operations = Arc::make_mut(&mut agent.operations);
        let operation = operations.iter_mut().find(|o| o.uuid == *uuid)?;
        Some(change(Arc::make_mut(operation)))
    }

    fn forget_operation(&mut self, agent_id: &AgentId, uuid: &mesos::Uuid) {
        if let Some(agent) = self.agent_mut(agent_id) {
            Arc::make_mut(&mut agent.operations).retain(|o| o.uuid != *uuid);
        }
        self.check_drained(agent_id);
    }

    /// ACKNOWLEDGE_OPERATION_STATUS.
    pub(super) fn acknowledge_operation(
        &mut self,
        framework: &FrameworkId,
        call: call::AcknowledgeOperationStatus,
    ) {
        self.count("messages_operation_status_update_acknowledgement");
        let agent = call.slave_id.as_ref().map(AgentId::from);
        let found = agent.and_then(|id| {
            let state = self.agent(&id)?;
            let mine = framework.message();
            let operation = state.operations.iter().find(|o| {
                o.info.id.as_ref() == Some(&call.operation_id)
                    && o.framework_id.as_ref() == Some(&mine)
            })?;
            let terminal = is_terminal_operation(operation.latest_status.state());
            Some((id, operation.uuid.clone(), terminal))
        });
        let Some((agent, uuid, terminal)) = found else {
            return self.count("invalid_operation_status_update_acknowledgements");
        };
        self.count("valid_operation_status_update_acknowledgements");
        let message = AcknowledgeOperationStatusMessage {
            status_uuid: mesos::Uuid { value: call.uuid },
            operation_uuid: uuid.clone(),
            resource_provider_id: call.resource_provider_id,
        };
        self.send_agent(&agent, &message);
        if terminal {
            self.forget_operation(&agent, &uuid);
        }
    }

    /// RECONCILE_OPERATIONS: one status for each operation asked about.
    pub(super) fn reconcile_operations(
        &mut self,
        framework: &FrameworkId,
        call: &call::ReconcileOperations,
    ) {
        self.count("messages_reconcile_operations");
        for asked in &call.operations {
            let agent = asked.slave_id.as_ref().map(AgentId::from);
            let status = self.operation_status(framework, asked, agent.as_ref());
            let mut event = event_of(event::Type::UpdateOperationStatus);
            event.update_operation_status = Some(event::UpdateOperationStatus { status });
            self.notify(framework, event);
        }
    }

    fn operation_status(
        &self,
        framework: &FrameworkId,
        asked: &call::reconcile_operations::Operation,
        agent: Option<&AgentId>,
    ) -> OperationStatus {
        let mine = framework.message();
        let known = self.cluster.agents.values().flat_map(|a| a.operations.iter()).find(|o| {
            o.info.id.as_ref() == Some(&asked.operation_id)
                && o.framework_id.as_ref() == Some(&mine)
        });
        if let Some(known) = known {
            return OperationStatus { uuid: None, ..known.latest_status.clone() };
        }
        let (state, message) = match agent {
            Some(a) if self.cluster.recovered.contains_key(a) => (
                OperationState::OperationRecovering,
                "Reconciliation: Agent is recovered but has not re-registered",
            ),
            Some(a) if self.agent(a).is_some() => {
                (OperationState::OperationUnknown, "Reconciliation: Operation is unknown")
            }
            Some(a) if self.cluster.unreachable.contains_key(a) => {
                (OperationState::OperationUnreachable, "Reconciliation: Agent is unreachable")
            }
            Some(a) if self.cluster.gone.contains_key(a) => (
                OperationState::OperationGoneByOperator,
                "Reconciliation: Agent marked gone by operator",
            ),
            Some(_) => (
                OperationState::OperationUnknown,
                "Reconciliation: Both operation and agent are unknown",
            ),
            None => (
                OperationState::OperationUnknown,
                "Reconciliation: Operation is unknown and no 'agent_id' was provided",
            ),
        };
        OperationStatus {
            operation_id: Some(asked.operation_id.clone()),
            state: state as i32,
            message: Some(message.into()),
            slave_id: asked.slave_id.clone(),
            resource_provider_id: asked.resource_provider_id.clone(),
            ..OperationStatus::default()
        }
    }
}
