//! Refusals: resources of an agent that a framework does not want for a while.
//!
//! A refusal keeps back whatever is part of the refused resources, so a larger
//! offer passes. Time is an argument; owned by the allocator.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use mesos::resources::Resources;

use crate::master::ids::{AgentId, FrameworkId};

#[derive(Debug)]
struct Refusal {
    resources: Resources,
    until: Duration,
}

/// Refusals of one framework by role.
type OfFramework = HashMap<Arc<str>, HashMap<AgentId, Vec<Refusal>>>;

/// When to look, and under which framework, role and agent.
type Expiry = (Duration, FrameworkId, Arc<str>, AgentId);

/// All refusals in force.
#[derive(Debug, Default)]
pub(super) struct Filters {
    all: HashMap<FrameworkId, OfFramework>,
    /// Soonest first; entries whose refusal is gone already do no harm.
    expiry: BinaryHeap<Reverse<Expiry>>,
}

impl Filters {
    pub fn refuse(
        &mut self,
        framework: &FrameworkId,
        role: &Arc<str>,
        agent: &AgentId,
        resources: Resources,
        until: Duration,
    ) {
        let of_role = self.all.entry(framework.clone()).or_default().entry(role.clone());
        let of_agent = of_role.or_default().entry(agent.clone()).or_default();
        of_agent.push(Refusal { resources, until });
        self.expiry.push(Reverse((until, framework.clone(), role.clone(), agent.clone())));
    }

    /// Whether `resources` are refused at `now`.
    pub fn refused(
        &self,
        now: Duration,
        framework: &FrameworkId,
        role: &str,
        agent: &AgentId,
        resources: &Resources,
    ) -> bool {
        let of_role = self.all.get(framework).and_then(|f| f.get(role));
        of_role.and_then(|r| r.get(agent)).is_some_and(|refusals| {
            refusals.iter().any(|r| now < r.until && r.resources.contains(resources))
        })
    }

    pub fn forget_framework(&mut self, framework: &FrameworkId) {
        self.all.remove(framework);
    }

    pub fn forget_role(&mut self, framework: &FrameworkId, role: &str) {
        if let Some(roles) = self.all.get_mut(framework) {
            roles.remove(role);
        }
    }

    pub fn forget_agent(&mut self, agent: &AgentId) {
        for of_role in self.all.values_mut().flat_map(HashMap::values_mut) {
            of_role.remove(agent);
        }
    }

    /// When the next refusal ends.
    pub fn next_expiry(&self) -> Option<Duration> {
        self.expiry.peek().map(|Reverse((until, ..))| *until)
    }

    /// Drops what has ended.
    pub fn expire(&mut self, now: Duration) {
        while let Some(Reverse((until, ..))) = self.expiry.peek() {
            if *until > now {
                return;
            }
            let Some(Reverse((_, framework, role, agent))) = self.expiry.pop() else { return };
            let of_role = self.all.get_mut(&framework).and_then(|f| f.get_mut(&role));
            let Some(of_role) = of_role else { continue };
            if let Some(refusals) = of_role.get_mut(&agent) {
                refusals.retain(|r| r.until > now);
                if refusals.is_empty() {
                    of_role.remove(&agent);
                }
            }
        }
    }

    /// How many refusals there are per role.
    pub fn count(&self) -> BTreeMap<String, usize> {
        let mut counts = BTreeMap::new();
        for (role, agents) in self.all.values().flatten() {
            *counts.entry(role.to_string()).or_default() +=
                agents.values().map(Vec::len).sum::<usize>();
        }
        counts
    }
}
