//! Are the agents alive? Pings, the unreachable, the removed, the gone.
//!
//! One observer per agent pings it every `--agent_ping_timeout`; after
//! `--max_agent_ping_timeouts` unanswered ones the agent is marked unreachable
//! in the registry, and then in memory.

use std::sync::Arc;
use std::time::Duration;

use mesos::internal::{PingSlaveMessage, ShutdownMessage};
use mesos::scheduler::event;
use mesos::task_status::Reason;
use mesos::{TaskState, framework_info};

use super::registry::Pending;
use super::send::event_of;
use super::tasks::Verdict;
use super::timers::{Timer, TimerId};
use super::{Busy, Change, Core, Effect, OperatorEvent, Process, Refusal, ReplyId, time_info};
use crate::master::ids::{AgentId, FrameworkId};

/// Pings one agent.
pub(super) struct Observer {
    number: u64,
    /// Pings in a row without an answer.
    missed: u32,
    answered: bool,
    timer: TimerId,
}

const GONE: &str = "Agent has been marked gone";

impl Core {
    /// Starts to ping an agent.
    pub(super) fn observe(&mut self, agent: &AgentId) {
        self.next.observer += 1;
        let number = self.next.observer;
        let timer = self.set_timer(self.config.ping_timeout, Timer::Ping(agent.clone()));
        let observer = Observer { number, missed: 0, answered: false, timer };
        self.agents.by_observer.insert(number, agent.clone());
        self.agents.observers.insert(agent.clone(), observer);
        self.ping(agent);
    }

    fn ping(&mut self, id: &AgentId) {
        let Some(number) = self.agents.observers.get(id).map(|o| o.number) else { return };
        let Some(agent) = self.agent(id) else { return };
        let (pid, connected) = (agent.pid.clone(), agent.connected);
        self.send_from(Process::Observer(number), &pid, &PingSlaveMessage { connected });
    }

    /// An answer to a ping.
    pub(super) fn pong(&mut self, observer: u64) {
        let Some(agent) = self.agents.by_observer.get(&observer) else { return };
        if let Some(observer) = self.agents.observers.get_mut(agent) {
            observer.answered = true;
            observer.missed = 0;
        }
    }

    pub(super) fn ping_due(&mut self, id: &AgentId) {
        let timer = self
            .timers
            .set(self.now.mono.saturating_add(self.config.ping_timeout), Timer::Ping(id.clone()));
        let Some(observer) = self.agents.observers.get_mut(id) else {
            return self.timers.cancel(timer);
        };
        observer.timer = timer;
        observer.missed = if observer.answered { 0 } else { observer.missed + 1 };
        observer.answered = false;
        if observer.missed >= self.config.max_ping_timeouts {
            self.count("slave_unreachable_scheduled");
            self.mark_unreachable(id, "health check timed out");
        }
        self.ping(id);
    }

    /// A disconnected agent did not come back in time.
    pub(super) fn reregister_due(&mut self, id: &AgentId) {
        self.agents.reregister_timer.remove(id);
        if self.agent(id).is_some_and(|a| !a.connected) {
            self.mark_unreachable(id, "agent did not reregister within --agent_reregister_timeout");
        }
    }

    /// Agents from the registry that never came back are unreachable.
    pub(super) fn recovered_due(&mut self) {
        let recovered: Vec<AgentId> = self.cluster.recovered.keys().cloned().collect();
        for agent in recovered {
            self.mark_unreachable(
                &agent,
                "agent did not reregister within --agent_reregister_timeout after master failover",
            );
        }
    }

    fn mark_unreachable(&mut self, id: &AgentId, cause: &'static str) {
        if self.agents.busy.contains_key(id) {
            return;
        }
        self.agents.busy.insert(id.clone(), Busy::Unreachable);
        let at = self.now.wall;
        let then = Pending::Unreachable { agent: id.clone(), at, cause };
        self.store(Change::Unreachable(id.clone(), at), then);
    }

    pub(super) fn unreachable(&mut self, id: &AgentId, at: Duration, cause: &'static str) {
        self.agents.busy.remove(id);
        tracing::warn!(agent = %id, "marked agent unreachable: {cause}");
        self.count("slave_removals");
        self.count("slave_removals/reason_unhealthy");
        self.count("slave_unreachable_completed");
        Arc::make_mut(&mut self.cluster.unreachable).insert(id.clone(), at);
        if Arc::make_mut(&mut self.cluster.recovered).remove(id).is_some() {
            self.count("recovery_slave_removals");
            return self.tell_lost(id);
        }
        self.drop_agent(
            id,
            |aware| Verdict {
                state: if aware { TaskState::TaskUnreachable } else { TaskState::TaskLost },
                reason: Reason::SlaveRemoved,
                message: cause.to_owned(),
            },
            Some(at),
        );
    }

    pub(super) fn gone(&mut self, id: &AgentId, at: Duration, reply: Option<ReplyId>) {
        self.agents.busy.remove(id);
        tracing::warn!(agent = %id, "agent marked gone by the operator");
        Arc::make_mut(&mut self.cluster.gone).insert(id.clone(), at);
        Arc::make_mut(&mut self.cluster.unreachable).remove(id);
        Arc::make_mut(&mut self.cluster.recovered).remove(id);
        if self.agent(id).is_some() {
            self.count("slave_removals");
            self.send_agent(id, &ShutdownMessage { message: Some(GONE.into()) });
            self.drop_agent(
                id,
                |aware| Verdict {
                    state: if aware { TaskState::TaskGoneByOperator } else { TaskState::TaskLost },
                    reason: if aware {
                        Reason::SlaveRemovedByOperator
                    } else {
                        Reason::SlaveRemoved
                    },
                    message: GONE.to_owned(),
                },
                None,
            );
        }
        self.forget_standing(id);
        if let Some(reply) = reply {
            self.out.push(Effect::Reply(reply, Ok::<(), Refusal>(())));
        }
    }

    pub(super) fn removed(&mut self, id: &AgentId, cause: &'static str, reason: &'static str) {
        self.agents.busy.remove(id);
        self.forget_standing(id);
        let Some(hostname) = self.agent(id).map(|a| a.info.hostname.clone()) else { return };
        tracing::warn!(agent = %id, "removed agent: {cause}");
        self.count("slave_removals");
        self.count(reason);
        self.drop_agent(
            id,
            |_| Verdict {
                state: TaskState::TaskLost,
                reason: Reason::SlaveRemoved,
                message: format!("Agent {hostname} removed: {cause}"),
            },
            None,
        );
        self.tell_operators(OperatorEvent::AgentRemoved(id.clone()));
    }

    /// Takes an agent out of memory with everything on it. `verdict` says what
    /// becomes of its tasks, for frameworks that know partitions and others.
    fn drop_agent(
        &mut self,
        id: &AgentId,
        verdict: impl Fn(bool) -> Verdict,
        unreachable_since: Option<Duration>,
    ) {
        let Some(agent) = self.agent(id).cloned() else { return };
        for (framework, task) in self.tasks_of_agent(id) {
            let aware = self.partition_aware(&framework);
            let since = unreachable_since.map(time_info);
            self.end_task(&framework, &task, &verdict(aware), since);
        }
        for (framework, executor) in agent.executors.keys() {
            self.remove_executor(id, framework, executor);
        }
        for offer in self.offers_of_agent(id) {
            self.rescind(&offer);
        }
        self.allocator.remove_agent(id);
        self.cluster.agents.remove(id);
        if self.agents.by_pid.get(&agent.pid) == Some(id) {
            self.agents.by_pid.remove(&agent.pid);
        }
        if let Some(observer) = self.agents.observers.remove(id) {
            self.agents.by_observer.remove(&observer.number);
            self.timers.cancel(observer.timer);
        }
        if let Some(timer) = self.agents.reregister_timer.remove(id) {
            self.timers.cancel(timer);
        }
        self.agents.killed.remove(id);
        self.out.push(Effect::Unlink(agent.pid.clone()));
        self.tell_lost(id);
    }

    pub(super) fn partition_aware(&self, framework: &FrameworkId) -> bool {
        self.framework(framework)
            .is_some_and(|f| f.can(framework_info::capability::Type::PartitionAware))
    }

    /// Every connected framework hears of a lost agent.
    fn tell_lost(&mut self, agent: &AgentId) {
        let connected: Vec<FrameworkId> = self
            .cluster
            .frameworks
            .values()
            .filter(|f| f.connected())
            .map(|f| f.id.clone())
            .collect();
        for framework in connected {
            let mut event = event_of(event::Type::Failure);
            event.failure =
                Some(event::Failure { slave_id: Some(agent.message()), ..Default::default() });
            self.notify(&framework, event);
        }
    }

    /// Whether the agent was declared gone; if so it is told to stop.
    pub(super) fn refuse_gone(&mut self, pid: &crate::master::ids::Pid, agent: &AgentId) -> bool {
        let gone = self.cluster.gone.contains_key(agent);
        if gone {
            tracing::warn!(agent = %agent, pid = %pid, "refusing an agent that is gone");
            self.send(pid, &ShutdownMessage { message: Some(GONE.into()) });
        }
        gone
    }
}
