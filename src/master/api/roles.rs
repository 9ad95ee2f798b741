//! `/roles`: what each known role may have, has and is offered.
//!
//! A role is known by its frameworks, reservations, weight or quota, or because
//! one below it is. Amounts include those of the roles below.

use std::collections::{BTreeMap, BTreeSet};

use mesos::json::Writer;
use mesos::model;
use mesos::resources::{Item, Quantities, Resources};

use crate::master::snapshot::Snapshot;

/// Quota of one role, as `/roles` shows it.
#[derive(Debug, Clone, Default)]
pub struct RoleQuota {
    /// Guaranteed amounts.
    pub guarantee: Quantities,
    /// Limits; a name without an entry has none.
    pub limit: Quantities,
}

/// Amounts of one role and those below it.
#[derive(Debug, Clone, Default)]
pub struct Amounts {
    /// Used by tasks and executors.
    pub allocated: Quantities,
    /// In outstanding offers.
    pub offered: Quantities,
    /// Reserved, used or not.
    pub reserved: Quantities,
    /// What counts against quota: used, and reserved though not used.
    pub consumed: Quantities,
    /// Subscribed frameworks, and those that still hold something.
    pub frameworks: BTreeSet<String>,
}

/// The amounts of every known role.
#[must_use]
pub fn amounts(
    snapshot: &Snapshot,
    quotas: &BTreeMap<String, RoleQuota>,
) -> BTreeMap<String, Amounts> {
    let mut sums = Sums::default();
    let cluster = &snapshot.cluster;
    for framework in cluster.frameworks.values() {
        let id = framework.id.as_str();
        for role in framework.roles.iter() {
            sums.own(role).frameworks.insert(id.to_owned());
        }
        for (held, add) in [
            (&framework.total_used, Sums::allocated as fn(&mut Amounts, &Quantities)),
            (&framework.total_offered, Sums::offered),
        ] {
            for (role, held) in held.allocations() {
                sums.own(&role).frameworks.insert(id.to_owned());
                sums.add(&role, &Quantities::of(&held), add);
            }
        }
    }
    for agent in cluster.agents.values() {
        let reserved = agent.total.reservations();
        if reserved.is_empty() {
            continue;
        }
        let mut used: BTreeMap<String, Resources> = BTreeMap::new();
        let reserved_and_used = |i: &&Item| i.reservation_role().is_some();
        for item in agent.used.values().flat_map(Resources::iter).filter(reserved_and_used) {
            let role = item.reservation_role().unwrap_or_default().to_owned();
            used.entry(role).or_default().add_item(item.clone());
        }
        for (role, reserved) in reserved {
            let amount = Quantities::of(&reserved);
            sums.add(&role, &amount, Sums::reserved);
            let mut unused = amount;
            unused -= &used.get(&role).map(Quantities::of).unwrap_or_default();
            sums.add(&role, &unused, Sums::unused);
        }
    }
    for role in cluster.weights.keys().chain(quotas.keys()) {
        sums.own(role);
    }
    let mut all = sums.0;
    if let Some(whitelist) = &cluster.role_whitelist {
        let known: BTreeSet<&str> =
            whitelist.iter().flat_map(|r| mesos::roles::ancestors(r).chain([r.as_str()])).collect();
        all.retain(|role, _| known.contains(role.as_str()));
        for role in known {
            all.entry(role.to_owned()).or_default();
        }
    }
    all
}

#[derive(Default)]
struct Sums(BTreeMap<String, Amounts>);

impl Sums {
    /// The entry of a role, made along with its ancestors if there is none.
    fn own(&mut self, role: &str) -> &mut Amounts {
        if !self.0.contains_key(role) {
            for ancestor in mesos::roles::ancestors(role) {
                self.0.entry(ancestor.to_owned()).or_default();
            }
        }
        self.0.entry(role.to_owned()).or_default()
    }

    /// Adds to a role and all above it.
    fn add(&mut self, role: &str, amount: &Quantities, add: fn(&mut Amounts, &Quantities)) {
        add(self.own(role), amount);
        for ancestor in mesos::roles::ancestors(role) {
            add(self.own(ancestor), amount);
        }
    }

    fn allocated(a: &mut Amounts, amount: &Quantities) {
        a.allocated += amount;
        a.consumed += amount;
    }

    fn offered(a: &mut Amounts, amount: &Quantities) {
        a.offered += amount;
    }

    fn reserved(a: &mut Amounts, amount: &Quantities) {
        a.reserved += amount;
    }

    fn unused(a: &mut Amounts, amount: &Quantities) {
        a.consumed += amount;
    }
}

/// The body of `/roles`.
#[must_use]
pub fn roles(snapshot: &Snapshot, quotas: &BTreeMap<String, RoleQuota>) -> Vec<u8> {
    let mut w = Writer::new();
    let no_quota = RoleQuota::default();
    w.object(|w| {
        w.key("roles").array(|w| {
            for (role, amounts) in amounts(snapshot, quotas) {
                let weight = snapshot.cluster.weights.get(&role).copied().unwrap_or(1.0);
                let quota = quotas.get(&role).unwrap_or(&no_quota);
                w.object(|w| write_role(w, &role, weight, quota, &amounts));
            }
        });
    });
    w.into_bytes()
}

fn write_role(w: &mut Writer, role: &str, weight: f64, quota: &RoleQuota, amounts: &Amounts) {
    w.key("name").string(role);
    w.key("weight").double(weight);
    w.key("quota").object(|w| {
        w.key("role").string(role);
        model::quantities(w.key("guarantee"), &quota.guarantee);
        model::quantities(w.key("limit"), &quota.limit);
        model::quantities(w.key("consumed"), &amounts.consumed);
    });
    let mut resources = amounts.allocated.clone();
    resources += &amounts.offered;
    model::quantities(w.key("resources"), &resources);
    model::quantities(w.key("allocated"), &amounts.allocated);
    model::quantities(w.key("offered"), &amounts.offered);
    model::quantities(w.key("reserved"), &amounts.reserved);
    model::strings(w.key("frameworks"), amounts.frameworks.iter().map(String::as_str));
}
