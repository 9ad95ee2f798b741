//! The allocator's books: frameworks, agents, who holds what.
//!
//! Everything but the cycle itself, which is in `cycle.rs`. The invariant: what
//! an agent has available is its total less what is offered or used, and every
//! sorter counts exactly what its clients hold on known agents.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use mesos::framework_info::capability::Type as Capability;
use mesos::resources::{Quantities, Resources};

use super::constraints::Constraints;
use super::filters::Filters;
use super::sorter::Sorter;
use super::{AgentOptions, FrameworkOptions, Options, Quota, SorterKind};
use crate::master::ids::{AgentId, FrameworkId};

/// A framework, as far as allocation goes.
#[derive(Debug, Default)]
pub(super) struct Framework {
    pub active: bool,
    pub roles: BTreeSet<String>,
    pub suppressed: BTreeSet<String>,
    pub gpus: bool,
    pub revocable: bool,
    pub shared: bool,
    pub refined: bool,
    pub remote: bool,
    /// Own thresholds per role, instead of the master's.
    pub min_allocatable: BTreeMap<String, Vec<Quantities>>,
    pub constraints: Constraints,
}

impl Framework {
    fn new(options: &FrameworkOptions, active: bool) -> Self {
        let info = &options.info;
        let has = |c: Capability| info.capabilities.iter().any(|own| own.r#type() == c);
        #[allow(deprecated)]
        let roles = if has(Capability::MultiRole) {
            info.roles.iter().cloned().collect()
        } else {
            BTreeSet::from([info.role().to_owned()])
        };
        let min_allocatable = info.offer_filters.iter().filter_map(|(role, filters)| {
            let sets = &filters.min_allocatable_resources.as_ref()?.quantities;
            Some((role.clone(), sets.iter().map(|s| quantities(&s.quantities)).collect()))
        });
        Framework {
            active,
            roles,
            suppressed: options.suppressed.clone(),
            gpus: has(Capability::GpuResources),
            revocable: has(Capability::RevocableResources),
            shared: has(Capability::SharedResources),
            refined: has(Capability::ReservationRefinement),
            remote: has(Capability::RegionAware),
            min_allocatable: min_allocatable.collect(),
            // The master checked them before it let them in.
            constraints: options
                .constraints
                .as_ref()
                .and_then(|c| Constraints::new(c).ok())
                .unwrap_or_default(),
        }
    }

    fn wants(&self, role: &str) -> bool {
        self.active && self.roles.contains(role) && !self.suppressed.contains(role)
    }
}

fn quantities(amounts: &BTreeMap<String, mesos::value::Scalar>) -> Quantities {
    let mut sum = Quantities::new();
    for (name, amount) in amounts {
        sum.add(name.as_str().into(), mesos::resources::Scalar::saturating(amount.value));
    }
    sum
}

/// An agent, as far as allocation goes.
#[derive(Debug)]
pub(super) struct Agent {
    pub id: AgentId,
    pub info: Arc<mesos::SlaveInfo>,
    pub active: bool,
    pub gpus: bool,
    pub total: Resources,
    /// Offered and used, by framework, with allocation roles.
    pub used: BTreeMap<FrameworkId, Resources>,
    /// The sum of `used` without shared resources and allocation roles.
    used_sum: Resources,
    /// What can be offered: shared resources always can.
    pub available: Resources,
}

impl Agent {
    fn set_total(&mut self, total: Resources) {
        self.gpus = total.gpus().is_some();
        self.total = total;
        self.refresh();
    }

    /// From the total each time: so offers list resources in the agent's order.
    fn refresh(&mut self) {
        self.available.clone_from(&self.total);
        self.available -= &self.used_sum;
    }

    pub fn take(&mut self, framework: &FrameworkId, resources: &Resources) {
        *self.used.entry(framework.clone()).or_default() += resources;
        self.used_sum += resources.clone().unallocated().non_shared();
        self.refresh();
    }

    fn give_back(&mut self, framework: &FrameworkId, resources: &Resources) {
        if let Some(used) = self.used.get_mut(framework) {
            *used -= resources;
            if used.is_empty() {
                self.used.remove(framework);
            }
        }
        self.used_sum -= &resources.clone().unallocated().non_shared();
        self.refresh();
    }

    pub fn region(&self) -> Option<&str> {
        let fault = self.info.domain.as_ref()?.fault_domain.as_ref()?;
        Some(&fault.region.name)
    }
}

/// Shares agents out among roles and frameworks.
#[derive(Debug)]
pub struct Allocator {
    pub(super) options: Options,
    pub(super) min_allocatable: Vec<Quantities>,
    framework_kind: SorterKind,
    excluded: Arc<BTreeSet<String>>,
    pub(super) frameworks: HashMap<FrameworkId, Framework>,
    index: HashMap<AgentId, usize>,
    pub(super) agents: Vec<Option<Agent>>,
    free: Vec<usize>,
    /// All scalars of all agents.
    total: Quantities,
    pub(super) roles: Sorter,
    /// Frameworks of each role that has some.
    pub(super) by_role: HashMap<Arc<str>, Sorter>,
    pub(super) filters: Filters,
    pub(super) quotas: BTreeMap<String, Quota>,
    pub(super) whitelist: Option<BTreeSet<String>>,
}

impl Allocator {
    /// An allocator that knows nobody, with DRF sorters.
    #[must_use]
    pub fn new(options: Options) -> Self {
        Self::with_sorters(options, SorterKind::Drf, SorterKind::Drf)
    }

    /// `--role_sorter` and `--framework_sorter`.
    #[must_use]
    pub fn with_sorters(options: Options, roles: SorterKind, frameworks: SorterKind) -> Self {
        let excluded = Arc::new(options.excluded.clone());
        let sets = options.min_allocatable.iter().map(|set| {
            let mut sum = Quantities::new();
            for (name, amount) in set {
                sum.add(name.as_str().into(), mesos::resources::Scalar::saturating(*amount));
            }
            sum
        });
        Allocator {
            min_allocatable: sets.collect(),
            framework_kind: frameworks,
            frameworks: HashMap::new(),
            index: HashMap::new(),
            agents: Vec::new(),
            free: Vec::new(),
            total: Quantities::new(),
            roles: Sorter::new(roles, false, excluded.clone()),
            by_role: HashMap::new(),
            filters: Filters::default(),
            quotas: BTreeMap::new(),
            whitelist: None,
            excluded,
            options,
        }
    }

    /// Adds a framework, with what it holds on known agents.
    pub fn add_framework(&mut self, id: &FrameworkId, options: FrameworkOptions, active: bool) {
        if self.frameworks.contains_key(id) {
            self.remove_framework(id);
        }
        let framework = Framework::new(&options, active);
        for role in framework.roles.clone() {
            self.track(id, &role);
            self.sorter(&role).set_active(id.as_str(), framework.wants(&role));
        }
        self.frameworks.insert(id.clone(), framework);
        let held: Vec<(AgentId, Resources)> = self
            .agents
            .iter()
            .flatten()
            .filter_map(|a| Some((a.id.clone(), a.used.get(id)?.clone())))
            .collect();
        for (agent, held) in held {
            self.count(id, &agent, &held);
        }
    }

    /// New roles, capabilities, filters or constraints.
    pub fn update_framework(&mut self, id: &FrameworkId, options: FrameworkOptions) {
        let Some(old) = self.frameworks.get(id) else { return };
        let new = Framework::new(&options, old.active);
        let gone: Vec<String> = old.roles.difference(&new.roles).cloned().collect();
        for role in &new.roles {
            let wants = new.wants(role);
            self.track(id, role);
            self.sorter(role).set_active(id.as_str(), wants);
        }
        self.frameworks.insert(id.clone(), new);
        for role in gone {
            self.filters.forget_role(id, &role);
            self.sorter(&role).set_active(id.as_str(), false);
            self.untrack_if_unused(id, &role);
        }
    }

    /// It is connected (again).
    pub fn activate_framework(&mut self, id: &FrameworkId) {
        self.set_active(id, true);
    }

    /// It is not connected. Its refusals are forgotten.
    pub fn deactivate_framework(&mut self, id: &FrameworkId) {
        self.set_active(id, false);
        self.filters.forget_framework(id);
    }

    fn set_active(&mut self, id: &FrameworkId, active: bool) {
        let Some(framework) = self.frameworks.get_mut(id) else { return };
        framework.active = active;
        let wanted: Vec<(String, bool)> =
            framework.roles.iter().map(|r| (r.clone(), framework.wants(r))).collect();
        for (role, wants) in wanted {
            self.sorter(&role).set_active(id.as_str(), wants);
        }
    }

    /// It is gone for good, with all it holds.
    pub fn remove_framework(&mut self, id: &FrameworkId) {
        for slot in 0..self.agents.len() {
            let Some(agent) = &mut self.agents[slot] else { continue };
            if let Some(held) = agent.used.get(id).cloned() {
                agent.give_back(id, &held);
                let agent = agent.id.clone();
                self.uncount(id, &agent, &held);
            }
        }
        let roles: Vec<Arc<str>> = self.by_role.keys().cloned().collect();
        self.frameworks.remove(id);
        self.filters.forget_framework(id);
        for role in roles {
            self.untrack(id, &role);
        }
    }

    /// Adds an agent, active, with what frameworks hold on it.
    pub fn add_agent(
        &mut self,
        id: &AgentId,
        options: AgentOptions,
        used: &BTreeMap<FrameworkId, Resources>,
    ) {
        if self.index.contains_key(id) {
            self.remove_agent(id);
        }
        let mut agent = Agent {
            id: id.clone(),
            info: options.info,
            active: true,
            gpus: false,
            total: Resources::new(),
            used: BTreeMap::new(),
            used_sum: Resources::new(),
            available: Resources::new(),
        };
        agent.set_total(options.total);
        self.change_total(&Quantities::new(), &agent.total.quantities());
        for (framework, held) in used {
            agent.take(framework, held);
        }
        if let Some(slot) = self.free.pop() {
            self.agents[slot] = Some(agent);
            self.index.insert(id.clone(), slot);
        } else {
            self.index.insert(id.clone(), self.agents.len());
            self.agents.push(Some(agent));
        }
        for (framework, held) in used {
            self.count(framework, id, held);
        }
    }

    /// New attributes or another total; says whether anything changed.
    pub fn update_agent(&mut self, id: &AgentId, options: AgentOptions) -> bool {
        let Some(agent) = self.agent_mut(id) else { return false };
        let attributes = agent.info.attributes != options.info.attributes;
        let changed = attributes
            || agent.total != options.total
            || agent.info.domain != options.info.domain
            || agent.info.hostname != options.info.hostname;
        agent.info = options.info;
        let old = agent.total.quantities();
        agent.set_total(options.total);
        let new = agent.total.quantities();
        self.change_total(&old, &new);
        if attributes {
            // What was refused may be welcome now.
            self.filters.forget_agent(id);
        }
        changed
    }

    /// It may get offers again.
    pub fn activate_agent(&mut self, id: &AgentId) {
        if let Some(agent) = self.agent_mut(id) {
            agent.active = true;
        }
    }

    /// No offers from it any more; what is held on it stays held.
    pub fn deactivate_agent(&mut self, id: &AgentId) {
        if let Some(agent) = self.agent_mut(id) {
            agent.active = false;
        }
    }

    /// It is gone, and all that is held on it.
    pub fn remove_agent(&mut self, id: &AgentId) {
        let Some(slot) = self.index.remove(id) else { return };
        let Some(agent) = self.agents[slot].take() else { return };
        self.free.push(slot);
        for (framework, held) in &agent.used {
            self.uncount(framework, id, held);
        }
        self.change_total(&agent.total.quantities(), &Quantities::new());
        self.filters.forget_agent(id);
    }

    /// An operation turned `from`, held by the framework, into `to`.
    pub fn update_allocation(
        &mut self,
        framework: &FrameworkId,
        agent: &AgentId,
        from: &Resources,
        to: &Resources,
    ) {
        let Some(entry) = self.agent_mut(agent) else { return };
        let old = entry.total.quantities();
        let mut total = entry.total.clone();
        total -= &from.clone().unallocated();
        total += to.clone().unallocated();
        entry.total = total;
        entry.give_back(framework, from);
        entry.take(framework, to);
        let new = entry.total.quantities();
        self.change_total(&old, &new);
        for (role, from) in from.allocations() {
            let to = to.allocations().remove(&role).unwrap_or_default();
            self.roles.updated(&role, agent, &from, &to);
            self.sorter(&role).updated(framework.as_str(), agent, &from, &to);
        }
    }

    /// An operator's operation on resources that nobody holds: the agent's total
    /// becomes `total`.
    pub fn update_total(&mut self, agent: &AgentId, total: Resources) {
        if let Some(entry) = self.agent_mut(agent) {
            let info = entry.info.clone();
            self.update_agent(agent, AgentOptions { info, total });
        }
    }

    /// Offered or used resources come back, refused for `refuse` if given.
    pub fn recover(
        &mut self,
        now: Duration,
        framework: &FrameworkId,
        agent: &AgentId,
        resources: &Resources,
        refuse: Option<Duration>,
    ) {
        let Some(entry) = self.agent_mut(agent) else { return };
        entry.give_back(framework, resources);
        self.uncount(framework, agent, resources);
        if !self.frameworks.contains_key(framework) {
            return;
        }
        for (role, of_role) in resources.allocations() {
            if let Some(refuse) = refuse.filter(|d| !d.is_zero()) {
                let until = now.saturating_add(refuse.max(self.options.interval));
                let refused = of_role.unallocated();
                self.filters.refuse(framework, &role, agent, refused, until);
            }
            self.untrack_if_unused(framework, &role);
        }
    }

    /// No offers in these roles, or in none if there are none given.
    pub fn suppress(&mut self, framework: &FrameworkId, roles: &[String]) {
        self.set_suppressed(framework, roles, true);
    }

    /// Offers in these roles again (all if none are given), refusals forgotten.
    pub fn revive(&mut self, framework: &FrameworkId, roles: &[String]) {
        self.set_suppressed(framework, roles, false);
    }

    fn set_suppressed(&mut self, id: &FrameworkId, roles: &[String], suppressed: bool) {
        let Some(framework) = self.frameworks.get_mut(id) else { return };
        let roles: Vec<String> = if roles.is_empty() {
            framework.roles.iter().cloned().collect()
        } else {
            roles.iter().filter(|r| framework.roles.contains(*r)).cloned().collect()
        };
        for role in roles {
            let Some(framework) = self.frameworks.get_mut(id) else { return };
            if suppressed {
                framework.suppressed.insert(role.clone());
            } else {
                framework.suppressed.remove(&role);
                self.filters.forget_role(id, &role);
            }
            let wants = framework.wants(&role);
            self.sorter(&role).set_active(id.as_str(), wants);
        }
    }

    /// Weights of roles; the others weigh 1.
    pub fn set_weights(&mut self, weights: &BTreeMap<String, f64>) {
        self.roles.set_weights(weights);
    }

    /// Quotas of top-level roles; the others have none.
    pub fn set_quotas(&mut self, quotas: BTreeMap<String, Quota>) {
        self.quotas = quotas;
    }

    /// Only agents with these host names get offers; `None` is every agent.
    pub fn set_whitelist(&mut self, hostnames: Option<BTreeSet<String>>) {
        self.whitelist = hostnames;
    }

    /// Offered and used resources of an agent.
    #[must_use]
    pub fn allocated(&self, agent: &AgentId) -> Resources {
        let mut sum = Resources::new();
        for held in self.agent(agent).iter().flat_map(|a| a.used.values()) {
            sum += held;
        }
        sum
    }

    /// What an agent has left to offer.
    #[must_use]
    pub fn available(&self, agent: &AgentId) -> Resources {
        self.agent(agent).map(|a| a.available.clone()).unwrap_or_default()
    }

    /// All scalars of all agents.
    #[must_use]
    pub fn total(&self) -> &Quantities {
        &self.total
    }

    /// Dominant share per role, weight included.
    #[must_use]
    pub fn dominant_shares(&self) -> Vec<(String, f64)> {
        let mut shares: Vec<(String, f64)> = self
            .by_role
            .keys()
            .filter_map(|role| Some((role.to_string(), self.roles.share_of(role)?)))
            .collect();
        shares.sort_by(|a, b| a.0.cmp(&b.0));
        shares
    }

    /// Refusals in force per role.
    #[must_use]
    pub fn active_filters(&self) -> BTreeMap<String, usize> {
        self.filters.count()
    }

    /// When the next refusal ends.
    #[must_use]
    pub fn next_expiry(&self) -> Option<Duration> {
        self.filters.next_expiry()
    }

    pub(super) fn slot(&self, id: &AgentId) -> Option<usize> {
        self.index.get(id).copied()
    }

    fn agent(&self, id: &AgentId) -> Option<&Agent> {
        self.agents[self.slot(id)?].as_ref()
    }

    fn agent_mut(&mut self, id: &AgentId) -> Option<&mut Agent> {
        let slot = self.slot(id)?;
        self.agents[slot].as_mut()
    }

    fn change_total(&mut self, less: &Quantities, more: &Quantities) {
        self.total -= less;
        self.total += more;
        self.roles.change_total(less, more);
        for sorter in self.by_role.values_mut() {
            sorter.change_total(less, more);
        }
    }

    /// The sorter of a role, made if there is none.
    fn sorter(&mut self, role: &str) -> &mut Sorter {
        if !self.by_role.contains_key(role) {
            let mut sorter = Sorter::new(self.framework_kind, true, self.excluded.clone());
            sorter.change_total(&Quantities::new(), &self.total);
            self.by_role.insert(role.into(), sorter);
            self.roles.add(role);
            self.roles.set_active(role, true);
        }
        self.by_role.get_mut(role).expect("it was just made if it was missing")
    }

    fn track(&mut self, framework: &FrameworkId, role: &str) {
        self.sorter(role).add(framework.as_str());
    }

    fn untrack(&mut self, framework: &FrameworkId, role: &str) {
        let Some(sorter) = self.by_role.get_mut(role) else { return };
        sorter.remove(framework.as_str());
        if sorter.is_empty() {
            self.by_role.remove(role);
            self.roles.remove(role);
        }
    }

    /// A framework stays under a role that it left while it holds something.
    fn untrack_if_unused(&mut self, framework: &FrameworkId, role: &str) {
        if self.frameworks.get(framework).is_some_and(|f| f.roles.contains(role)) {
            return;
        }
        let holds = self
            .agents
            .iter()
            .flatten()
            .filter_map(|a| a.used.get(framework))
            .any(|held| held.iter().any(|item| item.allocation_role() == Some(role)));
        if !holds {
            self.untrack(framework, role);
        }
    }

    /// Enters what a known framework holds into the sorters.
    pub(super) fn count(&mut self, framework: &FrameworkId, agent: &AgentId, held: &Resources) {
        if !self.frameworks.contains_key(framework) {
            return;
        }
        for (role, held) in held.allocations() {
            self.track(framework, &role);
            self.roles.allocated(&role, agent, &held);
            self.sorter(&role).allocated(framework.as_str(), agent, &held);
        }
    }

    fn uncount(&mut self, framework: &FrameworkId, agent: &AgentId, held: &Resources) {
        for (role, held) in held.allocations() {
            if let Some(sorter) = self.by_role.get_mut(&role)
                && sorter.contains(framework.as_str())
            {
                sorter.unallocated(framework.as_str(), agent, &held);
                self.roles.unallocated(&role, agent, &held);
            }
        }
    }
}
