//! The master's figures for `/metrics/snapshot`, worked out from a snapshot.
//!
//! Counters come from the core as they are; gauges are computed here when
//! somebody asks. Names are those of Mesos.

use std::time::SystemTime;

use mesos::TaskState;

use super::core::cluster::Cluster;
use super::driver::Handle;
use super::snapshot::Snapshot;
use crate::daemon::metrics::{Figures, Metrics};

/// Adds the master's figures to `metrics`.
pub fn attach(metrics: &Metrics, handle: Handle) {
    let counters = handle.clone();
    metrics.counting(move |name| {
        let name = match name.strip_prefix("master/") {
            Some(name) => name,
            None => return name == "allocator/mesos/allocation_runs",
        };
        counters.snapshot().cluster.counters.contains(name)
    });
    metrics.source(move |out| figures(&handle.snapshot(), out));
    metrics.source(crate::daemon::metrics::system);
}

fn count(n: usize) -> f64 {
    f64::from(u32::try_from(n).unwrap_or(u32::MAX))
}

/// All figures of one snapshot.
pub fn figures(snapshot: &Snapshot, out: &mut Figures) {
    let cluster = &snapshot.cluster;
    for (name, value) in cluster.counters.iter() {
        #[allow(clippy::cast_precision_loss)] // JSON numbers are doubles
        out.insert(format!("master/{name}"), value as f64);
    }
    let mut set = |name: &str, value: f64| out.insert(format!("master/{name}"), value);
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    set("uptime_secs", (now.as_secs_f64() - snapshot.master.start_time).max(0.0));
    set("elected", f64::from(u8::from(snapshot.master.elected_time.is_some())));
    set("outstanding_offers", count(cluster.offers.len()));
    for name in ["event_queue_messages", "event_queue_dispatches", "event_queue_http_requests"] {
        set(name, 0.0);
    }
    set("http_cache_hits", 0.0);
    let agents = |keep: fn(&super::core::cluster::Agent) -> bool| {
        count(cluster.agents.values().filter(|a| keep(a)).count())
    };
    set("slaves_connected", agents(|a| a.connected));
    set("slaves_disconnected", agents(|a| !a.connected));
    set("slaves_active", agents(|a| a.active));
    set("slaves_inactive", agents(|a| !a.active));
    set("slaves_unreachable", count(cluster.unreachable.len()));
    let frameworks = |keep: fn(&super::core::cluster::Framework) -> bool| {
        count(cluster.frameworks.values().filter(|f| keep(f)).count())
    };
    set("frameworks_connected", frameworks(super::core::cluster::Framework::connected));
    set("frameworks_disconnected", frameworks(|f| !f.connected()));
    set("frameworks_active", frameworks(super::core::cluster::Framework::active));
    set("frameworks_inactive", frameworks(|f| !f.active()));
    tasks(cluster, out);
    resources(cluster, out);
    #[allow(clippy::cast_precision_loss)]
    out.insert("allocator/mesos/allocation_runs".into(), cluster.counters.allocation_runs as f64);
    out.insert("allocator/mesos/event_queue_dispatches".into(), 0.0);
    out.insert("allocator/event_queue_dispatches".into(), 0.0);
}

fn tasks(cluster: &Cluster, out: &mut Figures) {
    let mut states = [0_usize; 5];
    for framework in cluster.frameworks.values() {
        for task in framework.tasks.values() {
            match task.state() {
                TaskState::TaskStaging => states[0] += 1,
                TaskState::TaskStarting => states[1] += 1,
                TaskState::TaskRunning => states[2] += 1,
                TaskState::TaskKilling => states[3] += 1,
                _ => {}
            }
        }
        states[4] += framework.unreachable_tasks.len();
    }
    let names = ["staging", "starting", "running", "killing", "unreachable"];
    for (name, n) in names.into_iter().zip(states) {
        out.insert(format!("master/tasks_{name}"), count(n));
    }
}

fn resources(cluster: &Cluster, out: &mut Figures) {
    for name in ["cpus", "gpus", "mem", "disk"] {
        for (suffix, revocable) in [("", false), ("_revocable", true)] {
            let (mut total, mut used) = (0.0, 0.0);
            for agent in cluster.agents.values() {
                let pick = |all: &super::Resources| {
                    all.iter()
                        .filter(|i| i.name() == name && i.is_revocable() == revocable)
                        .filter_map(mesos::resources::Item::as_scalar)
                        .map(mesos::resources::Scalar::value)
                        .sum::<f64>()
                };
                total += pick(&agent.total);
                used += agent.used.values().map(pick).sum::<f64>();
            }
            let percent = if total > 0.0 { used / total } else { 0.0 };
            out.insert(format!("master/{name}{suffix}_total"), total);
            out.insert(format!("master/{name}{suffix}_used"), used);
            out.insert(format!("master/{name}{suffix}_percent"), percent);
        }
    }
}
