//! Who uses what: the only place that moves resources between totals.
//!
//! For each agent, offered + used never exceeds its total; the allocator keeps
//! the same books and hands out only what is left. The property test checks both.

use std::sync::Arc;

use super::Core;
use super::cluster::{Agent, Framework};
use crate::master::Resources;
use crate::master::ids::{AgentId, FrameworkId};

impl Agent {
    /// Sum of what all frameworks use.
    #[must_use]
    pub fn total_used(&self) -> Resources {
        let mut sum = Resources::new();
        for used in self.used.values() {
            sum += used;
        }
        sum
    }

    fn use_more(&mut self, framework: &FrameworkId, resources: &Resources) {
        *self.used.entry(framework.clone()).or_default() += resources;
    }

    fn use_less(&mut self, framework: &FrameworkId, resources: &Resources) {
        if let Some(used) = self.used.get_mut(framework) {
            *used -= resources;
            if used.is_empty() {
                self.used.remove(framework);
            }
        }
    }
}

impl Framework {
    fn use_more(&mut self, agent: &AgentId, resources: &Resources) {
        if let Some(used) = self.used.get_mut(agent) {
            *used += resources;
        } else {
            self.used.insert(agent.clone(), resources.clone());
        }
        self.total_used += resources;
    }

    fn use_less(&mut self, agent: &AgentId, resources: &Resources) {
        let Some(used) = self.used.get_mut(agent) else { return };
        *used -= resources;
        if used.is_empty() {
            self.used.remove(agent);
        }
        self.total_used -= resources;
    }
}

impl Core {
    /// A task or executor starts to use `resources`. They come out of an offer
    /// or out of what an agent reported: the allocator knows them already.
    pub(super) fn charge(
        &mut self,
        agent: &AgentId,
        framework: &FrameworkId,
        resources: &Resources,
    ) {
        if let Some(agent) = self.agent_mut(agent) {
            agent.use_more(framework, resources);
        }
        if let Some(framework) = self.framework_mut(framework) {
            framework.use_more(agent, resources);
        }
    }

    /// A task or executor ended: its resources can be offered again.
    pub(super) fn discharge(
        &mut self,
        agent: &AgentId,
        framework: &FrameworkId,
        resources: &Resources,
    ) {
        if resources.is_empty() {
            return;
        }
        if let Some(agent) = self.agent_mut(agent) {
            agent.use_less(framework, resources);
        }
        if let Some(framework) = self.framework_mut(framework) {
            framework.use_less(agent, resources);
        }
        self.allocator.recover(self.now.mono, framework, agent, resources, None);
    }

    /// Resources are in an offer now.
    pub(super) fn lend(&mut self, agent: &AgentId, framework: &FrameworkId, resources: &Resources) {
        if let Some(agent) = self.agent_mut(agent) {
            agent.offered += resources;
        }
        if let Some(framework) = self.framework_mut(framework) {
            framework.total_offered += resources;
        }
    }

    /// They are in no offer any more. The caller decides where they go.
    pub(super) fn take_back(
        &mut self,
        agent: &AgentId,
        framework: &FrameworkId,
        resources: &Resources,
    ) {
        if let Some(agent) = self.agent_mut(agent) {
            agent.offered -= resources;
        }
        if let Some(framework) = self.framework_mut(framework) {
            framework.total_offered -= resources;
        }
    }

    /// An executor starts on an agent.
    pub(super) fn add_executor(
        &mut self,
        agent: &AgentId,
        framework: &FrameworkId,
        executor: &mesos::ExecutorInfo,
    ) {
        let id = crate::master::ids::ExecutorId::from(&executor.executor_id);
        let info = Arc::new(executor.clone());
        let resources = Resources::from_valid(&executor.resources);
        if let Some(agent) = self.agent_mut(agent) {
            Arc::make_mut(&mut agent.executors)
                .insert((framework.clone(), id.clone()), info.clone());
        }
        if let Some(framework) = self.framework_mut(framework) {
            framework.executors.insert((agent.clone(), id), info);
        }
        self.charge(agent, framework, &resources);
    }

    /// An executor ended, or its agent does not know it.
    pub(super) fn remove_executor(
        &mut self,
        agent: &AgentId,
        framework: &FrameworkId,
        id: &crate::master::ids::ExecutorId,
    ) -> bool {
        let Some(state) = self.agent_mut(agent) else { return false };
        let key = (framework.clone(), id.clone());
        let Some(info) = Arc::make_mut(&mut state.executors).remove(&key) else { return false };
        if let Some(framework) = self.framework_mut(framework) {
            framework.executors.remove(&(agent.clone(), id.clone()));
        }
        let resources = Resources::from_valid(&info.resources);
        self.discharge(agent, framework, &resources);
        true
    }

    /// Whether the framework's executor runs on the agent.
    pub(super) fn has_executor(
        &self,
        agent: &AgentId,
        framework: &FrameworkId,
        id: &mesos::ExecutorId,
    ) -> bool {
        let key = (framework.clone(), crate::master::ids::ExecutorId::from(id));
        self.agent(agent).is_some_and(|agent| agent.executors.contains_key(&key))
    }
}
