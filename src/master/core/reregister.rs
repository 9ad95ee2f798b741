//! Agents that come back: after their own restart, after ours, after a partition.
//!
//! What the agent reports is the truth about what runs on it; what the master
//! knows beyond it is sent along for the agent to deny.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use mesos::internal::{
    CheckpointResourcesMessage, KillTaskMessage, ReconcileTasksMessage, ReregisterSlaveMessage,
    ShutdownFrameworkMessage, ShutdownMessage, SlaveReregisteredMessage, UpdateFrameworkMessage,
};
use mesos::slave_info::capability::Type as Capability;
use mesos::task_status::{Reason, Source};
use mesos::{FrameworkInfo, Resource, TaskState, TaskStatus};

use super::agents::NewAgent;
use super::cluster::roles_of;
use super::registry::Pending;
use super::tasks::{Verdict, holds_nothing, is_terminal};
use super::{Busy, Change, Core, Effect, validate};
use crate::master::Resources;
use crate::master::allocator::AgentOptions;
use crate::master::ids::{AgentId, FrameworkId, Pid, TaskId};

impl Core {
    pub(super) fn reregister_agent(&mut self, pid: &Pid, mut message: ReregisterSlaveMessage) {
        self.count("messages_reregister_slave");
        let checked = validate::agent::reregistration(&message)
            .and_then(|()| self.admissible(&message.slave, message.version.as_deref()));
        if let Err(why) = checked {
            tracing::warn!(agent = %pid, "refusing re-registration: {why}");
            return;
        }
        let Some(id) = message.slave.id.as_ref().map(AgentId::from) else { return };
        if self.agents.busy.contains_key(&id) || self.refuse_gone(pid, &id) {
            return;
        }
        if let Some(known) = self.agent(&id) {
            let moved = known.info.hostname != message.slave.hostname || known.pid.ip() != pid.ip();
            if moved {
                let text = "Agent re-registered with a different IP or hostname";
                tracing::warn!(agent = %id, "{text}");
                return self.send(pid, &ShutdownMessage { message: Some(text.into()) });
            }
        }
        upgrade(&mut message);
        let known = self.agent(&id).map(|a| a.info.clone());
        let recovered = self.cluster.recovered.get(&id).cloned();
        let reachable = known.is_none() && recovered.is_none();
        let same = known.or(recovered).is_some_and(|info| *info == message.slave);
        if same {
            return self.reregistered(pid, message, false);
        }
        self.agents.busy.insert(id, Busy::Reregistering);
        let change = Change::Admit(Arc::new(message.slave.clone()));
        let then = Pending::Reregister { pid: pid.clone(), message: Box::new(message), reachable };
        self.store(change, then);
    }

    /// The registry has it: `reachable` if it was neither registered nor
    /// recovered before.
    pub(super) fn reregistered(
        &mut self,
        pid: &Pid,
        message: ReregisterSlaveMessage,
        reachable: bool,
    ) {
        let Some(id) = message.slave.id.as_ref().map(AgentId::from) else { return };
        self.agents.busy.remove(&id);
        if self.refuse_gone(pid, &id) {
            return;
        }
        self.count("slave_reregistrations");
        for info in &message.frameworks {
            self.recover_framework(info);
        }
        if self.agent(&id).is_some() {
            self.reconcile_known(&id, pid, &message);
        } else {
            self.readmit(&id, pid, &message, reachable);
        }
        self.update_frameworks_on(&id, &message.frameworks);
    }

    /// An agent that was unknown, unreachable or recovered.
    fn readmit(
        &mut self,
        id: &AgentId,
        pid: &Pid,
        message: &ReregisterSlaveMessage,
        reachable: bool,
    ) {
        let new = NewAgent {
            pid,
            info: message.slave.clone(),
            version: message.version.clone().unwrap_or_default(),
            capabilities: &message.agent_capabilities,
            checkpointed: &message.checkpointed_resources,
            resource_version: message.resource_version_uuid.clone(),
        };
        let Some(mut agent) = self.new_agent(new) else { return };
        agent.reregistered = Some(self.now.wall);
        tracing::info!(agent = %id, pid = %pid, "re-registered agent with {}", agent.total);
        let was_unreachable = self.cluster.unreachable.contains_key(id);
        Arc::make_mut(&mut self.cluster.recovered).remove(id);
        Arc::make_mut(&mut self.cluster.unreachable).remove(id);
        self.forget_lost_tasks(id, message);
        let used = used_resources(message, |f| self.frameworks.completed.contains(f));
        self.install(agent, used);
        for executor in &message.executor_infos {
            let framework = executor.framework_id.as_ref().map(FrameworkId::from);
            if let Some(framework) = framework.filter(|f| !self.frameworks.completed.contains(f)) {
                self.add_executor(id, &framework, executor);
            }
        }
        for task in &message.tasks {
            let framework = FrameworkId::from(&task.framework_id);
            if self.frameworks.completed.contains(&framework) {
                continue;
            }
            self.add_task(id, task.clone());
            if reachable {
                self.tell_still_there(id, &framework, task, was_unreachable);
            }
        }
        let connection = Some(self.connection());
        let answer = SlaveReregisteredMessage {
            slave_id: id.message(),
            connection,
            reconciliations: Vec::new(),
        };
        self.send(pid, &answer);
        self.shut_down_completed(id, &message.frameworks);
        self.observe(id);
        self.announce(id);
        self.apply_standing(id);
    }

    /// Tasks that came back are neither unreachable nor completed any more.
    fn forget_lost_tasks(&mut self, id: &AgentId, message: &ReregisterSlaveMessage) {
        let lost = self.agents.unreachable_tasks.remove(id).unwrap_or_default();
        let back = message
            .tasks
            .iter()
            .map(|t| (FrameworkId::from(&t.framework_id), TaskId::from(&t.task_id)));
        for (framework, task) in lost.into_iter().chain(back) {
            if let Some(framework) = self.framework_mut(&framework) {
                let other = |t: &Arc<mesos::Task>| t.task_id.value != task.as_str();
                if !framework.unreachable_tasks.iter().all(other) {
                    Arc::make_mut(&mut framework.unreachable_tasks).retain(other);
                }
                if !framework.completed_tasks.iter().all(other) {
                    Arc::make_mut(&mut framework.completed_tasks).retain(other);
                }
            }
        }
    }

    fn tell_still_there(
        &mut self,
        agent: &AgentId,
        framework: &FrameworkId,
        task: &mesos::Task,
        was_unreachable: bool,
    ) {
        let verdict = Verdict {
            state: task.state(),
            reason: Reason::SlaveReregistered,
            message: if was_unreachable {
                "Unreachable agent re-reregistered".into()
            } else {
                "Unknown agent reregistered".into()
            },
        };
        let id = TaskId::from(&task.task_id);
        let mut update = self.own_update(framework, Some(agent), &id, &verdict);
        if let Some(last) = task.statuses.last() {
            update.status.healthy = last.healthy;
            update.status.check_status.clone_from(&last.check_status);
            update.status.container_status.clone_from(&last.container_status);
        }
        self.forward(update, None);
    }

    /// An agent we have in memory: compare notes.
    fn reconcile_known(&mut self, id: &AgentId, pid: &Pid, message: &ReregisterSlaveMessage) {
        if !self.replace_agent(id, pid, message) {
            return;
        }
        let reported: BTreeSet<_> = message
            .tasks
            .iter()
            .map(|t| (FrameworkId::from(&t.framework_id), TaskId::from(&t.task_id)))
            .collect();
        let reconciliations = self.missing_tasks(id, &reported);
        let connection = Some(self.connection());
        let answer =
            SlaveReregisteredMessage { slave_id: id.message(), reconciliations, connection };
        self.send(pid, &answer);
        let executors: BTreeSet<_> = message
            .executor_infos
            .iter()
            .filter_map(|e| {
                Some((e.framework_id.as_ref()?.value.clone(), e.executor_id.value.clone()))
            })
            .collect();
        let ours = self.agent(id).map(|a| a.executors.clone()).unwrap_or_default();
        for (framework, executor) in ours.keys() {
            let key = (framework.as_str().to_owned(), executor.as_str().to_owned());
            if !executors.contains(&key) {
                self.remove_executor(id, framework, executor);
            }
        }
        self.kill_again(id, message);
        self.shut_down_completed(id, &message.frameworks);
        self.reconnect(id);
        self.apply_standing(id);
        if !self.agent(id).is_some_and(|a| a.can(Capability::ResourceProvider)) {
            let resources = self.agent(id).map(|a| a.checkpointed.to_protos()).unwrap_or_default();
            self.send(pid, &CheckpointResourcesMessage { resources });
        }
    }

    /// Takes over what the agent says of itself. False if it must shut down.
    fn replace_agent(&mut self, id: &AgentId, pid: &Pid, message: &ReregisterSlaveMessage) -> bool {
        let Some(old) = self.agent(id).cloned() else { return false };
        let provider = old.can(Capability::ResourceProvider);
        let checkpointed = if provider {
            Resources::from_valid(&message.checkpointed_resources)
        } else {
            old.checkpointed.clone()
        };
        let resources = Resources::from_valid(&message.slave.resources);
        let Some(mut total) = resources.with_checkpointed(&checkpointed) else {
            let text = format!("{checkpointed} does not fit into {resources}");
            tracing::warn!(agent = %id, "refusing re-registration: {text}");
            self.send(pid, &ShutdownMessage { message: Some(text) });
            return false;
        };
        total += old.total.revocable();
        if old.pid != *pid {
            self.agents.by_pid.remove(&old.pid);
            self.agents.by_pid.insert(pid.clone(), id.clone());
            self.out.push(Effect::Unlink(old.pid.clone()));
        }
        self.out.push(Effect::Link(pid.clone()));
        let info = Arc::new(message.slave.clone());
        let wall = self.now.wall;
        if let Some(agent) = self.agent_mut(id) {
            agent.pid = pid.clone();
            agent.info = info.clone();
            agent.version = message.version.clone().unwrap_or_default().into();
            agent.capabilities = message
                .agent_capabilities
                .iter()
                .map(mesos::slave_info::Capability::r#type)
                .collect();
            agent.checkpointed = checkpointed;
            agent.total = total.clone();
            agent.resource_version.clone_from(&message.resource_version_uuid);
            agent.reregistered = Some(wall);
        }
        if total != old.total {
            for offer in self.offers_of_agent(id) {
                self.rescind(&offer);
            }
        }
        self.allocator.update_agent(id, AgentOptions { info, total });
        true
    }

    /// Tasks the agent did not mention, for it to deny.
    fn missing_tasks(
        &self,
        id: &AgentId,
        reported: &BTreeSet<(FrameworkId, TaskId)>,
    ) -> Vec<ReconcileTasksMessage> {
        let mut missing: BTreeMap<FrameworkId, Vec<TaskStatus>> = BTreeMap::new();
        for key in self.tasks_of_agent(id) {
            if reported.contains(&key) {
                continue;
            }
            let (framework, task) = key;
            let Some(task) = self.task(&framework, &task) else { continue };
            missing.entry(framework).or_default().push(TaskStatus {
                task_id: task.task_id.clone(),
                state: task.status_update_state.unwrap_or(task.state),
                message: Some("Reconciliation request".into()),
                source: Some(Source::Master as i32),
                reason: Some(Reason::Reconciliation as i32),
                slave_id: Some(id.message()),
                timestamp: Some(self.now.seconds()),
                ..TaskStatus::default()
            });
        }
        missing
            .into_iter()
            .map(|(framework, statuses)| ReconcileTasksMessage {
                framework_id: framework.message(),
                statuses,
                framework: self.framework(&framework).map(|f| (*f.info).clone()),
            })
            .collect()
    }

    /// Kills that the agent may have missed.
    fn kill_again(&mut self, id: &AgentId, message: &ReregisterSlaveMessage) {
        let killed = self.agents.killed.get(id).cloned().unwrap_or_default();
        for task in &message.tasks {
            let key = (FrameworkId::from(&task.framework_id), TaskId::from(&task.task_id));
            if !is_terminal(task.state()) && killed.contains(&key) {
                let kill = KillTaskMessage {
                    framework_id: task.framework_id.clone(),
                    task_id: task.task_id.clone(),
                    kill_policy: None,
                };
                self.send_agent(id, &kill);
            }
        }
    }

    fn reconnect(&mut self, id: &AgentId) {
        if let Some(timer) = self.agents.reregister_timer.remove(id) {
            self.timers.cancel(timer);
        }
        let Some(agent) = self.agent_mut(id).filter(|a| !a.connected) else { return };
        agent.connected = true;
        if !agent.standing.deactivated {
            self.activate_agent(id);
        }
    }

    fn shut_down_completed(&mut self, id: &AgentId, frameworks: &[FrameworkInfo]) {
        for framework_id in frameworks.iter().filter_map(|f| f.id.clone()) {
            if self.frameworks.completed.contains(&FrameworkId::from(&framework_id)) {
                self.send_agent(id, &ShutdownFrameworkMessage { framework_id });
            }
        }
    }

    fn update_frameworks_on(&mut self, id: &AgentId, frameworks: &[FrameworkInfo]) {
        for framework in frameworks.iter().filter_map(|f| f.id.as_ref()) {
            let Some(known) = self.framework(&FrameworkId::from(framework)).cloned() else {
                continue;
            };
            if known.recovered() {
                continue; // The agent knows as much as we do.
            }
            let pid = known.pid.as_ref().map_or(Pid::NONE, Pid::as_str).to_owned();
            self.send_agent(
                id,
                &UpdateFrameworkMessage {
                    framework_id: framework.clone(),
                    pid: Some(pid),
                    framework_info: Some((*known.info).clone()),
                },
            );
        }
    }
}

/// What each framework uses on the agent, by its own account.
fn used_resources(
    message: &ReregisterSlaveMessage,
    completed: impl Fn(&FrameworkId) -> bool,
) -> BTreeMap<FrameworkId, Resources> {
    let mut used: BTreeMap<FrameworkId, Resources> = BTreeMap::new();
    for executor in &message.executor_infos {
        if let Some(framework) = &executor.framework_id {
            *used.entry(FrameworkId::from(framework)).or_default() +=
                &Resources::from_valid(&executor.resources);
        }
    }
    for task in message.tasks.iter().filter(|t| !holds_nothing(t.state())) {
        *used.entry(FrameworkId::from(&task.framework_id)).or_default() +=
            &Resources::from_valid(&task.resources);
    }
    used.retain(|framework, _| !completed(framework));
    used
}

/// Brings all resources into our format, with the role they are allocated to.
fn upgrade(message: &mut ReregisterSlaveMessage) {
    mesos::resources::upgrade_all(&mut message.slave.resources);
    let roles: BTreeMap<String, Option<String>> = message
        .frameworks
        .iter()
        .filter_map(|f| Some((f.id.as_ref()?.value.clone(), roles_of(f).into_iter().next())))
        .collect();
    let inject = |resources: &mut Vec<Resource>, framework: &str| {
        mesos::resources::upgrade_all(resources);
        let Some(Some(role)) = roles.get(framework) else { return };
        for resource in resources {
            resource.allocation_info.get_or_insert_with(|| mesos::resource::AllocationInfo {
                role: Some(role.clone()),
            });
        }
    };
    for task in &mut message.tasks {
        inject(&mut task.resources, &task.framework_id.value);
        if task.state() == TaskState::TaskUnknown {
            task.state = TaskState::TaskStaging as i32;
        }
    }
    for executor in &mut message.executor_infos {
        let framework = executor.framework_id.clone().unwrap_or_default();
        inject(&mut executor.resources, &framework.value);
    }
}
