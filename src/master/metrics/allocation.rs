//! Figures of the allocator and of principals, worked out from a snapshot.

use std::collections::{BTreeMap, BTreeSet};

use mesos::resources::Quantities;

use super::count;
use crate::daemon::metrics::Figures;
use crate::master::api::roles;
use crate::master::core::cluster::Cluster;
use crate::master::snapshot::Snapshot;

/// `allocator/mesos/...` but for its timers.
pub fn allocator(snapshot: &Snapshot, out: &mut Figures) {
    let cluster = &snapshot.cluster;
    let mut set = |name: &str, value: f64| out.insert(format!("allocator/mesos/{name}"), value);
    #[allow(clippy::cast_precision_loss)] // JSON numbers are doubles
    set("allocation_runs", cluster.counters.allocation_runs as f64);
    set("event_queue_dispatches", 0.0);
    let (total, held) = scalars(cluster);
    for (name, amount) in total.iter() {
        set(&format!("resources/{name}/total"), amount.value());
        set(&format!("resources/{name}/offered_or_allocated"), held.get(name).value());
    }
    for (role, share) in &cluster.allocation.shares {
        set(&format!("roles/{role}/shares/dominant"), *share);
        let filters = cluster.allocation.filters.get(role).copied().unwrap_or(0);
        set(&format!("offer_filters/roles/{role}/active"), count(filters));
    }
    let mut root = Quantities::new();
    for (role, amounts) in roles::amounts(snapshot, &BTreeMap::new()) {
        let consumed = amounts.consumed.iter().filter(|(name, _)| total.has(name));
        for (name, amount) in consumed {
            set(&format!("quota/roles/{role}/resources/{name}/consumed"), amount.value());
            if !role.contains('/') {
                root.add(name.into(), amount);
            }
        }
    }
    for (name, amount) in root.iter() {
        set(&format!("quota/roles//resources/{name}/consumed"), amount.value());
    }
    out.insert("allocator/event_queue_dispatches".into(), 0.0);
}

/// What all agents have, and what of it is offered or used.
fn scalars(cluster: &Cluster) -> (Quantities, Quantities) {
    let (mut total, mut held) = (Quantities::new(), Quantities::new());
    for agent in cluster.agents.values() {
        total.add_scalars(&agent.total);
        held.add_scalars(&agent.offered);
        agent.used.values().for_each(|used| held.add_scalars(used));
    }
    (total, held)
}

/// `frameworks/PRINCIPAL/...`: of everybody who has a framework here.
pub fn principals(cluster: &Cluster, out: &mut Figures) {
    let all: BTreeSet<&str> =
        cluster.frameworks.values().filter_map(|f| f.info.principal.as_deref()).collect();
    for principal in all {
        // A message is processed when it is received.
        let messages = cluster.counters.messages_of(principal);
        #[allow(clippy::cast_precision_loss)] // JSON numbers are doubles
        for what in ["messages_received", "messages_processed"] {
            out.insert(format!("frameworks/{principal}/{what}"), messages as f64);
        }
    }
}

/// Whether a figure of these only grows.
pub fn counts(name: &str) -> bool {
    let messages = ["/messages_received", "/messages_processed"];
    name == "allocator/mesos/allocation_runs"
        || name.starts_with("frameworks/") && messages.iter().any(|end| name.ends_with(end))
}
