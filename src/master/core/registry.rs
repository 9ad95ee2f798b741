//! The registry: which agents are admitted, unreachable, gone; weights.
//!
//! Registry first, memory second: a change is stored, and only when that is
//! done does the core act on it. `apply` is the same change on the whole
//! registry message; the stores and the tests use it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use mesos::internal::{RegisterSlaveMessage, Registry, ReregisterSlaveMessage, registry};

use super::cluster::Standing;
use super::timers::Timer;
use super::{Change, Core, Effect, ReplyId, time_info};
use crate::master::ids::{AgentId, Pid};

/// What is to be done when a change is stored.
pub(super) enum Pending {
    Nothing,
    Register { pid: Pid, message: Box<RegisterSlaveMessage> },
    Reregister { pid: Pid, message: Box<ReregisterSlaveMessage>, reachable: bool },
    Unreachable { agent: AgentId, at: Duration, cause: &'static str },
    Gone { agent: AgentId, at: Duration, reply: Option<ReplyId> },
    Standing { agent: AgentId, standing: Standing, reply: Option<ReplyId> },
    Remove { agent: AgentId, cause: &'static str, reason: &'static str },
    Pruned(Vec<AgentId>),
    Weights { infos: Vec<mesos::WeightInfo>, reply: ReplyId },
}

impl Core {
    pub(super) fn store(&mut self, change: Change, then: Pending) {
        self.next.store += 1;
        self.pending.insert(self.next.store, then);
        self.out.push(Effect::Store(self.next.store, change));
    }

    pub(super) fn stored(&mut self, through: u64) {
        while let Some(first) = self.pending.first_entry() {
            if *first.key() > through {
                break;
            }
            match first.remove() {
                Pending::Nothing => {}
                Pending::Register { pid, message } => self.registered(&pid, *message),
                Pending::Reregister { pid, message, reachable } => {
                    self.reregistered(&pid, *message, reachable);
                }
                Pending::Unreachable { agent, at, cause } => self.unreachable(&agent, at, cause),
                Pending::Gone { agent, at, reply } => self.gone(&agent, at, reply),
                Pending::Remove { agent, cause, reason } => self.removed(&agent, cause, reason),
                Pending::Standing { agent, standing, reply } => {
                    self.standing_stored(&agent, standing, reply);
                }
                Pending::Pruned(agents) => self.pruned(&agents),
                Pending::Weights { infos, reply } => self.weights_stored(&infos, reply),
            }
        }
    }

    /// Takes over what an earlier master stored.
    pub(super) fn recover(&mut self, registry: &Registry) {
        let wall =
            |t: &mesos::TimeInfo| Duration::from_nanos(u64::try_from(t.nanoseconds).unwrap_or(0));
        let slaves = registry.slaves.iter().flat_map(|s| &s.slaves);
        let recovered: BTreeMap<_, _> = slaves
            .filter_map(|s| Some((AgentId::from(s.info.id.as_ref()?), Arc::new(s.info.clone()))))
            .collect();
        let unreachable = registry.unreachable.iter().flat_map(|u| &u.slaves);
        let gone = registry.gone.iter().flat_map(|g| &g.slaves);
        self.cluster.unreachable =
            Arc::new(unreachable.map(|u| (AgentId::from(&u.id), wall(&u.timestamp))).collect());
        self.cluster.gone =
            Arc::new(gone.map(|g| (AgentId::from(&g.id), wall(&g.timestamp))).collect());
        let admitted = registry.slaves.iter().flat_map(|s| &s.slaves).filter_map(|s| {
            Some((AgentId::from(s.info.id.as_ref()?), standing(s.drain_info, s.deactivated)))
        });
        let lost = registry.unreachable.iter().flat_map(|u| &u.slaves);
        let lost = lost.map(|u| (AgentId::from(&u.id), standing(u.drain_info, u.deactivated)));
        let standings = admitted.chain(lost).filter(|(_, s)| *s != Standing::default());
        self.cluster.standings = Arc::new(standings.collect());
        let weights: BTreeMap<String, f64> =
            registry.weights.iter().map(|w| (w.info.role().to_owned(), w.info.weight)).collect();
        self.allocator.set_weights(&weights);
        self.cluster.weights = Arc::new(weights);
        if !recovered.is_empty() {
            tracing::info!("recovered {} agents from the registry", recovered.len());
            self.set_timer(self.config.reregister_timeout, Timer::Recovered);
        }
        self.cluster.recovered = Arc::new(recovered);
        self.store(Change::Master(Box::new(self.master.clone())), Pending::Nothing);
    }

    /// Forgets unreachable and gone agents that are too old or too many.
    pub(super) fn prune_due(&mut self) {
        self.set_timer(self.config.registry_gc_interval, Timer::Prune);
        let mut old = Vec::new();
        for list in [&self.cluster.unreachable, &self.cluster.gone] {
            let mut by_age: Vec<_> = list.iter().collect();
            by_age.sort_by_key(|(_, since)| **since);
            let surplus = by_age.len().saturating_sub(self.config.registry_max_count);
            for (n, (agent, since)) in by_age.into_iter().enumerate() {
                let age = self.now.wall.saturating_sub(*since);
                if n < surplus || age > self.config.registry_max_age {
                    old.push(agent.clone());
                }
            }
        }
        old.retain(|agent| !self.agents.busy.contains_key(agent));
        if !old.is_empty() {
            self.store(Change::Prune(old.clone()), Pending::Pruned(old));
        }
    }

    fn pruned(&mut self, agents: &[AgentId]) {
        for agent in agents {
            Arc::make_mut(&mut self.cluster.unreachable).remove(agent);
            Arc::make_mut(&mut self.cluster.gone).remove(agent);
            self.agents.unreachable_tasks.remove(agent);
        }
    }
}

fn standing(drain: Option<mesos::DrainInfo>, deactivated: Option<bool>) -> Standing {
    Standing { deactivated: deactivated.unwrap_or(false), drain, drain_start: None }
}

/// What the registry says of an agent's standing, for its next entry.
fn standing_of(registry: &Registry, agent: &AgentId) -> Standing {
    let mut slaves = registry.slaves.iter().flat_map(|s| &s.slaves);
    let mut lost = registry.unreachable.iter().flat_map(|u| &u.slaves);
    let admitted = slaves.find(|s| s.info.id.as_ref().is_some_and(|id| id.value == agent.as_str()));
    let lost = lost.find(|s| s.id.value == agent.as_str());
    match (admitted, lost) {
        (Some(s), _) => standing(s.drain_info, s.deactivated),
        (None, Some(s)) => standing(s.drain_info, s.deactivated),
        (None, None) => Standing::default(),
    }
}

/// Applies a change to the registry as one message.
pub fn apply(registry: &mut Registry, change: &Change) {
    match change {
        Change::Master(info) => {
            registry.master = Some(registry::Master { info: (**info).clone() });
        }
        Change::Admit(info) => {
            let Some(id) = info.id.as_ref().map(AgentId::from) else { return };
            let kept = standing_of(registry, &id);
            forget(registry, &id);
            let entry = slave_entry(info, &kept);
            registry.slaves.get_or_insert_default().slaves.push(entry);
        }
        Change::Remove(agent) => forget(registry, agent),
        Change::Unreachable(agent, at) => {
            let kept = standing_of(registry, agent);
            forget(registry, agent);
            let entry = unreachable_entry(agent, *at, &kept);
            registry.unreachable.get_or_insert_default().slaves.push(entry);
        }
        Change::Gone(agent, at) => {
            forget(registry, agent);
            registry
                .gone
                .get_or_insert_default()
                .slaves
                .push(registry::GoneSlave { id: agent.message(), timestamp: time_info(*at) });
        }
        Change::Standing(agent, standing) => {
            for entry in registry.slaves.iter_mut().flat_map(|s| &mut s.slaves) {
                if entry.info.id.as_ref().is_some_and(|id| id.value == agent.as_str()) {
                    *entry = slave_entry(&entry.info, standing);
                }
            }
            for entry in registry.unreachable.iter_mut().flat_map(|u| &mut u.slaves) {
                if entry.id.value == agent.as_str() {
                    entry.drain_info = standing.drain;
                    entry.deactivated = standing.deactivated.then_some(true);
                }
            }
        }
        Change::Prune(agents) => {
            for agent in agents {
                if let Some(list) = &mut registry.unreachable {
                    list.slaves.retain(|s| s.id.value != agent.as_str());
                }
                if let Some(list) = &mut registry.gone {
                    list.slaves.retain(|s| s.id.value != agent.as_str());
                }
            }
        }
        Change::Weights(infos) => {
            for info in infos {
                registry.weights.retain(|w| w.info.role() != info.role());
                registry.weights.push(registry::Weight { info: info.clone() });
            }
        }
    }
}

/// A registered agent as the registry keeps it.
pub fn slave_entry(info: &mesos::SlaveInfo, standing: &Standing) -> registry::Slave {
    registry::Slave {
        info: info.clone(),
        drain_info: standing.drain,
        deactivated: standing.deactivated.then_some(true),
    }
}

/// An unreachable agent as the registry keeps it.
pub fn unreachable_entry(
    agent: &AgentId,
    at: Duration,
    standing: &Standing,
) -> registry::UnreachableSlave {
    registry::UnreachableSlave {
        id: agent.message(),
        timestamp: time_info(at),
        drain_info: standing.drain,
        deactivated: standing.deactivated.then_some(true),
    }
}

fn forget(registry: &mut Registry, agent: &AgentId) {
    if let Some(list) = &mut registry.slaves {
        list.slaves.retain(|s| s.info.id.as_ref().is_none_or(|id| id.value != agent.as_str()));
    }
    if let Some(list) = &mut registry.unreachable {
        list.slaves.retain(|s| s.id.value != agent.as_str());
    }
    if let Some(list) = &mut registry.gone {
        list.slaves.retain(|s| s.id.value != agent.as_str());
    }
}
