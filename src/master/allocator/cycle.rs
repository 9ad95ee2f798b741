//! One allocation cycle: quota guarantees first, then everything else by fair
//! share. An agent goes whole to the first framework that takes it in a role.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use mesos::resources::{Item, Quantities, Resources, Scalar};

use super::sorter::ClientId;
use super::state::{Agent, Allocator, Framework};
use super::{Allocation, Quota, Rng, Scope};
use crate::master::ids::FrameworkId;

/// What is known only while a cycle runs.
struct Cycle<'a> {
    now: Duration,
    rng: &'a mut Rng,
    /// Per top-level role with quota: reserved to it, or held unreserved.
    consumed: BTreeMap<String, Quantities>,
    /// Guarantees that are not met yet.
    required: Quantities,
    /// Unreserved, non-revocable amounts left in the cluster.
    headroom: Quantities,
    /// Shared resources offered in this cycle, per agent slot: once is enough.
    shared: HashMap<usize, Resources>,
    given: Vec<Allocation>,
    /// Where in `given` the first stage put something.
    place: HashMap<(FrameworkId, Arc<str>, usize), usize>,
}

/// Counted against quota: unreserved, non-revocable scalars.
fn is_quota_relevant(item: &Item) -> bool {
    item.as_scalar().is_some() && item.reservation_role().is_none() && !item.is_revocable()
}

impl Allocator {
    /// Gives available resources to the frameworks that want them. What it
    /// returns is booked as held.
    pub fn allocate(&mut self, now: Duration, scope: Scope, rng: &mut Rng) -> Vec<Allocation> {
        self.filters.expire(now);
        let mut slots: Vec<usize> = match scope {
            Scope::All => (0..self.agents.len()).collect(),
            Scope::Agents(ids) => ids.iter().filter_map(|id| self.slot(id)).collect(),
        };
        slots.retain(|slot| self.agents[*slot].as_ref().is_some_and(|a| self.is_candidate(a)));
        let mut cycle = Cycle {
            now,
            rng,
            consumed: BTreeMap::new(),
            required: Quantities::new(),
            headroom: Quantities::new(),
            shared: HashMap::new(),
            given: Vec::new(),
            place: HashMap::new(),
        };
        if !self.quotas.is_empty() {
            self.measure(&mut cycle);
            cycle.rng.shuffle(&mut slots);
            for slot in &slots {
                self.visit(&mut cycle, *slot, true);
            }
        }
        cycle.rng.shuffle(&mut slots);
        for slot in &slots {
            self.visit(&mut cycle, *slot, false);
        }
        cycle.given
    }

    fn is_candidate(&self, agent: &Agent) -> bool {
        agent.active
            && !agent.available.is_empty()
            && self.whitelist.as_ref().is_none_or(|w| w.contains(&agent.info.hostname))
    }

    /// Where quota stands before the cycle.
    fn measure(&self, cycle: &mut Cycle<'_>) {
        for role in self.quotas.keys() {
            cycle.consumed.insert(role.clone(), Quantities::new());
        }
        let mut consume = |role: Option<&str>, item: &Item| {
            let top = role.map(mesos::roles::top_level);
            if let Some(sum) = top.and_then(|t| cycle.consumed.get_mut(t)) {
                sum.add_item(item);
            }
        };
        for agent in self.agents.iter().flatten() {
            for item in agent.total.iter().filter(|i| i.reservation_role().is_some()) {
                consume(item.reservation_role(), item);
            }
            for item in agent.used.values().flat_map(Resources::iter) {
                if is_quota_relevant(item) {
                    consume(item.allocation_role(), item);
                }
            }
            for item in agent.available.iter().filter(|i| is_quota_relevant(i)) {
                cycle.headroom.add_item(item);
            }
        }
        for (role, quota) in &self.quotas {
            let mut missing = quota.guarantees.clone();
            missing -= &cycle.consumed[role];
            cycle.required += &missing;
        }
    }

    /// Offers one agent around. `guaranteed` is the first stage.
    fn visit(&mut self, cycle: &mut Cycle<'_>, slot: usize, guaranteed: bool) {
        let mut roles: Vec<ClientId> = Vec::new();
        self.roles.order(cycle.rng, &mut roles);
        let mut clients: Vec<ClientId> = Vec::new();
        for role in roles {
            if self.agents[slot].as_ref().is_none_or(|a| a.available.is_empty()) {
                return;
            }
            let role = self.roles.name(role).clone();
            if guaranteed && self.unmet(cycle, &role).is_none() {
                continue;
            }
            let Some(sorter) = self.by_role.get_mut(&role) else { continue };
            sorter.order(cycle.rng, &mut clients);
            for client in clients.drain(..) {
                let name = self.by_role[&role].name(client).clone();
                let framework = FrameworkId::from(&*name);
                match self.portion(cycle, slot, &role, &framework, guaranteed) {
                    Portion::RoleDone => break,
                    Portion::Nothing => {}
                    Portion::Some(resources) => self.give(cycle, slot, &role, framework, resources),
                }
            }
        }
    }

    /// The part of a role's guarantee that is not met yet.
    fn unmet(&self, cycle: &Cycle<'_>, role: &str) -> Option<Quantities> {
        let mut missing = self.quotas.get(role)?.guarantees.clone();
        missing -= cycle.consumed.get(role)?;
        (!missing.is_empty()).then_some(missing)
    }

    /// What the framework would be offered of the agent in this role.
    fn portion(
        &self,
        cycle: &mut Cycle<'_>,
        slot: usize,
        role: &str,
        id: &FrameworkId,
        guaranteed: bool,
    ) -> Portion {
        let (Some(agent), Some(framework)) = (&self.agents[slot], self.frameworks.get(id)) else {
            return Portion::Nothing;
        };
        let offered = cycle.shared.get(&slot);
        let fresh =
            |item: &Item| !(item.is_shared() && offered.is_some_and(|o| o.contains_item(item)));
        if !agent.available.iter().any(|i| i.is_allocatable_to(role) && fresh(i)) {
            return Portion::RoleDone;
        }
        if framework.constraints.exclude(role, &agent.info) || !self.may_see(framework, agent) {
            return Portion::Nothing;
        }
        let usable = |item: &Item| {
            item.is_allocatable_to(role)
                && fresh(item)
                && (framework.shared || !item.is_shared())
                && (framework.revocable || !item.is_revocable())
                && (framework.refined || !item.is_refined())
        };
        let scalars = agent.available.filter(|i| usable(i) && is_quota_relevant(i));
        let quota = self.quotas.get(role);
        let offer = if guaranteed {
            let Some(missing) = self.unmet(cycle, role) else { return Portion::RoleDone };
            let owed = scalars.shrunk(&missing);
            if owed.is_empty() {
                return Portion::Nothing;
            }
            let mut offer = owed.clone();
            offer += &agent.available.filter(|i| {
                usable(i) && !is_quota_relevant(i) && i.reservation_role().is_none_or(|r| r == role)
            });
            offer += self.beyond(cycle, &scalars - &owed, role, quota, &owed.quantities());
            offer
        } else {
            let mut offer = agent.available.filter(|i| usable(i) && !is_quota_relevant(i));
            offer += self.beyond(cycle, scalars, role, quota, &Quantities::new());
            offer
        };
        if !self.is_allocatable(&offer, role, framework)
            || self.filters.refused(cycle.now, id, role, &agent.id, &offer)
        {
            return Portion::Nothing;
        }
        Portion::Some(offer)
    }

    /// Cuts unreserved scalars to what quota leaves: the role's own limit, and
    /// the headroom that other roles' guarantees need.
    fn beyond(
        &self,
        cycle: &Cycle<'_>,
        scalars: Resources,
        role: &str,
        quota: Option<&Quota>,
        owed: &Quantities,
    ) -> Resources {
        if self.quotas.is_empty() || scalars.is_empty() {
            return scalars;
        }
        let mut scalars = scalars;
        if let Some(quota) = quota.filter(|q| !q.limits.is_empty()) {
            let mut left = scalars.quantities();
            for (name, limit) in &quota.limits {
                let taken =
                    cycle.consumed.get(role).map_or(Scalar::ZERO, |c| c.get(name)) + owed.get(name);
                let have = left.get(name);
                left.subtract(name, have);
                left.add(name.as_str().into(), have.min(*limit - taken).max(Scalar::ZERO));
            }
            scalars = scalars.shrunk(&left);
        }
        if !cycle.required.is_empty() {
            let mut surplus = cycle.headroom.clone();
            surplus -= &cycle.required;
            scalars = scalars.shrunk(&surplus);
        }
        scalars
    }

    fn may_see(&self, framework: &Framework, agent: &Agent) -> bool {
        let local = match (&self.options.region, agent.region()) {
            (Some(own), Some(region)) => own == region,
            _ => true,
        };
        (framework.gpus || !agent.gpus || !self.options.filter_gpu) && (framework.remote || local)
    }

    fn is_allocatable(&self, offer: &Resources, role: &str, framework: &Framework) -> bool {
        let sets = framework.min_allocatable.get(role).unwrap_or(&self.min_allocatable);
        !offer.is_empty() && (sets.is_empty() || sets.iter().any(|s| offer.contains_quantities(s)))
    }

    /// Books an offer.
    fn give(
        &mut self,
        cycle: &mut Cycle<'_>,
        slot: usize,
        role: &Arc<str>,
        framework: FrameworkId,
        resources: Resources,
    ) {
        let Some(agent) = &mut self.agents[slot] else { return };
        if !self.quotas.is_empty() {
            let spent = resources.filter(is_quota_relevant).quantities();
            // What counts towards a guarantee needs no headroom any more.
            if let Some(missing) = self.quotas.get(&**role).map(|q| {
                let mut missing = q.guarantees.clone();
                missing -= &cycle.consumed[&**role];
                missing
            }) {
                for (name, amount) in missing.iter() {
                    cycle.required.subtract(name, amount.min(spent.get(name)));
                }
            }
            if let Some(consumed) = cycle.consumed.get_mut(mesos::roles::top_level(role)) {
                *consumed += &spent;
            }
            cycle.headroom -= &spent;
        }
        let shared = resources.shared();
        if !shared.is_empty() {
            *cycle.shared.entry(slot).or_default() += shared;
        }
        let resources = resources.allocated(role);
        agent.take(&framework, &resources);
        let id = agent.id.clone();
        self.count(&framework, &id, &resources);
        if self.quotas.is_empty() {
            let role = role.to_string();
            cycle.given.push(Allocation { framework, role, agent: id, resources });
            return;
        }
        let key = (framework.clone(), role.clone(), slot);
        if let Some(at) = cycle.place.get(&key) {
            cycle.given[*at].resources += resources;
        } else {
            cycle.place.insert(key, cycle.given.len());
            let role = role.to_string();
            cycle.given.push(Allocation { framework, role, agent: id, resources });
        }
    }
}

/// The answer to "what of this agent for this framework?".
enum Portion {
    /// Nothing is left for anybody in this role.
    RoleDone,
    /// Nothing for this framework.
    Nothing,
    Some(Resources),
}
