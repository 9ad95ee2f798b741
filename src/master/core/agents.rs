//! Agents: first registration, updates of what they have, connection lost.
//!
//! Refusals are silent, as in Mesos: the agent keeps trying. Only an agent that
//! must not run at all is told to shut down.

use std::collections::BTreeMap;
use std::sync::Arc;

use mesos::SlaveInfo;
use mesos::internal::{
    MasterSlaveConnection, RegisterSlaveMessage, SlaveRegisteredMessage, UpdateSlaveMessage,
};
use mesos::slave_info::capability::Type as Capability;

use super::cluster::{Agent, Standing};
use super::registry::Pending;
use super::tasks::Verdict;
use super::timers::Timer;
use super::{Busy, Change, Core, Effect, OperatorEvent, Scope, validate};
use crate::master::Resources;
use crate::master::allocator::AgentOptions;
use crate::master::ids::{AgentId, FrameworkId, OfferId, Pid, TaskId};

/// Splits `1.12.0-dev` into numbers; versions of agents must be one.
fn version_of(text: &str) -> Option<(u64, u64, u64)> {
    let core = text.split(['-', '+']).next().unwrap_or(text);
    let mut parts = core.split('.').map(|p| p.parse().ok());
    let version =
        (parts.next()??, parts.next().flatten().unwrap_or(0), parts.next().flatten().unwrap_or(0));
    Some(version)
}

/// The agent as the master will keep it.
pub(super) struct NewAgent<'a> {
    pub pid: &'a Pid,
    pub info: SlaveInfo,
    pub version: String,
    pub capabilities: &'a [mesos::slave_info::Capability],
    pub checkpointed: &'a [mesos::Resource],
    pub resource_version: Option<mesos::Uuid>,
}

impl Core {
    pub(super) fn connection(&self) -> MasterSlaveConnection {
        let total = self.config.ping_timeout * self.config.max_ping_timeouts;
        MasterSlaveConnection { total_ping_timeout_seconds: Some(total.as_secs_f64()) }
    }

    /// What first and later registrations check alike; the reason is for the log.
    pub(super) fn admissible(&self, info: &SlaveInfo, version: Option<&str>) -> Result<(), String> {
        let version = version.unwrap_or_default();
        match version_of(version) {
            None => return Err(format!("version '{version}' is no version")),
            Some(v) if v < (1, 0, 0) => {
                return Err(format!("version {version} is older than 1.0.0"));
            }
            Some(_) => {}
        }
        if info.domain.is_some() && self.master.domain.is_none() {
            return Err("it has a fault domain but the master has none".into());
        }
        if self.config.require_agent_domain && info.domain.is_none() {
            return Err("it has no fault domain but one is required".into());
        }
        Ok(())
    }

    pub(super) fn register_agent(&mut self, pid: &Pid, message: RegisterSlaveMessage) {
        self.count("messages_register_slave");
        let version = message.version.as_deref();
        let checked = validate::agent::registration(&message)
            .and_then(|()| self.admissible(&message.slave, version));
        if let Err(why) = checked {
            tracing::warn!(agent = %pid, "refusing registration: {why}");
            return;
        }
        if self.agents.registering.contains(pid) {
            return; // A retry of what is being stored.
        }
        if let Some(id) = self.agents.by_pid.get(pid).cloned() {
            if self.agent(&id).is_some_and(|a| a.connected) {
                let connection = Some(self.connection());
                let answer = SlaveRegisteredMessage { slave_id: id.message(), connection };
                return self.send(pid, &answer);
            }
            // A new agent at the address of one that is gone for all we know.
            self.remove_agent(
                &id,
                "a new agent registered at the same address",
                "slave_removals/reason_registered",
            );
        }
        let id = AgentId::from(format!("{}-S{}", self.master.id, self.next.agent).as_str());
        self.next.agent += 1;
        let mut message = message;
        message.slave.id = Some(id.message());
        mesos::resources::upgrade_all(&mut message.slave.resources);
        self.agents.registering.insert(pid.clone());
        let change = Change::Admit(Arc::new(message.slave.clone()));
        self.store(change, Pending::Register { pid: pid.clone(), message: Box::new(message) });
    }

    pub(super) fn registered(&mut self, pid: &Pid, message: RegisterSlaveMessage) {
        self.agents.registering.remove(pid);
        let new = NewAgent {
            pid,
            info: message.slave,
            version: message.version.unwrap_or_default(),
            capabilities: &message.agent_capabilities,
            checkpointed: &message.checkpointed_resources,
            resource_version: message.resource_version_uuid,
        };
        let Some(agent) = self.new_agent(new) else { return };
        let id = agent.id.clone();
        tracing::info!(agent = %id, pid = %pid, "registered agent with {}", agent.total);
        self.count("slave_registrations");
        self.install(agent, BTreeMap::new());
        let connection = Some(self.connection());
        self.send(pid, &SlaveRegisteredMessage { slave_id: id.message(), connection });
        self.observe(&id);
        self.announce(&id);
    }

    pub(super) fn announce(&mut self, id: &AgentId) {
        if let Some(agent) = self.agent(id).cloned() {
            self.tell_operators(OperatorEvent::AgentAdded(agent));
        }
    }

    pub(super) fn new_agent(&self, new: NewAgent<'_>) -> Option<Agent> {
        let id = new.info.id.as_ref().map(AgentId::from)?;
        let resources = Resources::from_valid(&new.info.resources);
        let checkpointed = Resources::from_valid(new.checkpointed);
        let total = resources.with_checkpointed(&checkpointed).unwrap_or_else(|| {
            tracing::warn!(agent = %id, "{checkpointed} does not fit into {resources}");
            resources.clone()
        });
        Some(Agent {
            id,
            info: Arc::new(new.info),
            pid: new.pid.clone(),
            version: new.version.into(),
            capabilities: new
                .capabilities
                .iter()
                .map(mesos::slave_info::Capability::r#type)
                .collect(),
            registered: self.now.wall,
            reregistered: None,
            connected: true,
            active: true,
            standing: Standing::default(),
            total,
            checkpointed,
            used: BTreeMap::new(),
            offered: Resources::new(),
            tasks: crate::master::shared::SharedMap::new(),
            executors: Arc::default(),
            resource_version: new.resource_version,
            operations: Arc::default(),
        })
    }

    /// Puts an agent into the books, the allocator and on the wire.
    pub(super) fn install(&mut self, agent: Agent, used: BTreeMap<FrameworkId, Resources>) {
        let id = agent.id.clone();
        self.agents.by_pid.insert(agent.pid.clone(), id.clone());
        self.out.push(Effect::Link(agent.pid.clone()));
        let options = AgentOptions { info: agent.info.clone(), total: agent.total.clone() };
        self.cluster.agents.insert(id.clone(), Arc::new(agent));
        self.allocator.add_agent(&id, options, &used);
        self.trigger(Scope::Agents([id].into()));
    }

    /// UpdateSlaveMessage: oversubscribed resources, the resource version, operations.
    pub(super) fn update_agent(&mut self, message: &UpdateSlaveMessage) {
        self.count("messages_update_slave");
        let id = AgentId::from(&message.slave_id);
        let Some(agent) = self.agent(&id).cloned() else {
            tracing::warn!(agent = %id, "ignoring update of an unknown agent");
            return;
        };
        if let Some(reported) = &message.operations {
            self.compare_operations(&id, &reported.operations);
        }
        let mut total = agent.total.clone();
        let by_agent = !agent.can(Capability::ResourceProvider);
        let oversubscribed = message.update_oversubscribed_resources.unwrap_or(by_agent);
        if oversubscribed {
            if let Err(error) = mesos::resources::validate_all(&message.oversubscribed_resources) {
                tracing::warn!(agent = %id, "ignoring update: {error}");
                return;
            }
            total = total.non_revocable();
            total += Resources::from_valid(&message.oversubscribed_resources).revocable();
        }
        let version = message.resource_version_uuid.clone().or(agent.resource_version.clone());
        let changed = total != agent.total;
        if !changed && version == agent.resource_version {
            return;
        }
        if let Some(agent) = self.agent_mut(&id) {
            agent.resource_version = version;
            agent.total = total.clone();
        }
        if !changed {
            return;
        }
        // What was offered of the old revocable resources may be gone.
        for offer in self.offers_of_agent(&id) {
            if self.offers.get(&offer).is_some_and(|o| !o.resources.revocable().is_empty()) {
                self.rescind(&offer);
            }
        }
        let options = AgentOptions { info: agent.info.clone(), total };
        if self.allocator.update_agent(&id, options) {
            self.trigger(Scope::Agents([id].into()));
        }
    }

    pub(super) fn offers_of_agent(&self, agent: &AgentId) -> Vec<OfferId> {
        self.agents.offers.get(agent).into_iter().flatten().cloned().collect()
    }

    pub(super) fn tasks_of_agent(&self, agent: &AgentId) -> Vec<(FrameworkId, TaskId)> {
        self.agent(agent).into_iter().flat_map(|a| a.tasks.keys().cloned()).collect()
    }

    /// No more offers of this agent.
    pub(super) fn deactivate_agent(&mut self, id: &AgentId) {
        if let Some(agent) = self.agent_mut(id) {
            agent.active = false;
        }
        self.allocator.deactivate_agent(id);
        for offer in self.offers_of_agent(id) {
            self.rescind(&offer);
        }
    }

    pub(super) fn activate_agent(&mut self, id: &AgentId) {
        if let Some(agent) = self.agent_mut(id) {
            agent.active = true;
        }
        self.allocator.activate_agent(id);
        self.trigger(Scope::Agents([id.clone()].into()));
    }

    /// The link to an agent or a driver broke.
    pub(super) fn exited(&mut self, pid: &Pid) {
        if let Some(framework) = self.frameworks.by_pid.get(pid).cloned() {
            self.refuse_driver(pid, "Framework disconnected");
            return self.disconnect_framework(&framework);
        }
        let Some(id) = self.agents.by_pid.get(pid).cloned() else { return };
        if !self.agent(&id).is_some_and(|a| a.connected) {
            return;
        }
        tracing::warn!(agent = %id, pid = %pid, "agent disconnected");
        if let Some(agent) = self.agent_mut(&id) {
            agent.connected = false;
        }
        self.deactivate_agent(&id);
        self.lose_uncheckpointed(&id);
        let timer = self.set_timer(self.config.reregister_timeout, Timer::Reregister(id.clone()));
        self.agents.reregister_timer.insert(id, timer);
    }

    /// Tasks of frameworks that do not checkpoint die with their agent's process.
    fn lose_uncheckpointed(&mut self, id: &AgentId) {
        let Some(agent) = self.agent(id).cloned() else { return };
        let keeps =
            |core: &Self, f: &FrameworkId| core.framework(f).is_none_or(|f| f.info.checkpoint());
        for (framework, task) in self.tasks_of_agent(id) {
            if !keeps(self, &framework) {
                let verdict = Verdict {
                    state: mesos::TaskState::TaskLost,
                    reason: mesos::task_status::Reason::SlaveDisconnected,
                    message: format!("Agent {} disconnected", agent.info.hostname),
                };
                self.end_task(&framework, &task, &verdict, None);
            }
        }
        for (framework, executor) in agent.executors.keys() {
            if !keeps(self, framework) {
                self.remove_executor(id, framework, executor);
            }
        }
    }

    /// The agent says goodbye, or another took its address.
    pub(super) fn unregister_agent(&mut self, from: &Pid, id: &AgentId) {
        self.count("messages_unregister_slave");
        if self.agent(id).is_some_and(|a| a.pid == *from) {
            self.remove_agent(id, "the agent unregistered", "slave_removals/reason_unregistered");
        }
    }

    fn remove_agent(&mut self, id: &AgentId, cause: &'static str, reason: &'static str) {
        if self.agents.busy.contains_key(id) {
            return;
        }
        self.agents.busy.insert(id.clone(), Busy::Removing);
        let then = Pending::Remove { agent: id.clone(), cause, reason };
        self.store(Change::Remove(id.clone()), then);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions() {
        assert_eq!(version_of("1.12.0-dev"), Some((1, 12, 0)));
        assert_eq!(version_of("0.28"), Some((0, 28, 0)));
        assert_eq!(version_of(""), None);
        assert_eq!(version_of("x.1"), None);
    }
}
