//! The master's figures for `/metrics/snapshot`, worked out from a snapshot.
//!
//! Counters come from the core as they are; gauges are computed here when
//! somebody asks. Names are those of Mesos.

mod allocation;

use std::time::SystemTime;

use mesos::offer::operation;
use mesos::scheduler::{call, event};
use mesos::{OperationState, TaskState};

use super::core::cluster::{Cluster, Framework};
use super::driver::Handle;
use super::snapshot::Snapshot;
use crate::daemon::metrics::{Figures, Metrics};

/// Adds the master's figures to `metrics`; those of each framework if `each`.
pub fn attach(metrics: &Metrics, handle: Handle, each: bool) {
    let counters = handle.clone();
    metrics.counting(move |name| {
        let name = match name.strip_prefix("master/") {
            Some(name) => name,
            None => return allocation::counts(name),
        };
        counters.snapshot().cluster.counters.contains(name)
    });
    metrics.source(move |out| {
        let snapshot = handle.snapshot();
        figures(&snapshot, out);
        allocation::allocator(&snapshot, out);
        allocation::principals(&snapshot.cluster, out);
        if each {
            let cluster = &snapshot.cluster;
            let completed = cluster.completed_frameworks.iter();
            completed.chain(cluster.frameworks.values()).for_each(|f| framework(f, out));
        }
    });
    metrics.source(crate::daemon::metrics::system);
}

fn count(n: usize) -> f64 {
    f64::from(u32::try_from(n).unwrap_or(u32::MAX))
}

/// The figures of `master/` of one snapshot.
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
    operations(cluster, out);
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

#[allow(clippy::cast_precision_loss)] // JSON numbers are doubles
fn sum<'a>(counts: impl IntoIterator<Item = &'a u64>) -> f64 {
    counts.into_iter().sum::<u64>() as f64
}

/// Every value of an enumeration that has a name, but the first, which is the
/// one for "unknown".
fn all<T: TryFrom<i32>>() -> impl Iterator<Item = T> {
    (1..32).filter_map(|number| T::try_from(number).ok())
}

const OPERATION_STATES: [OperationState; 8] = [
    OperationState::OperationDropped,
    OperationState::OperationError,
    OperationState::OperationFailed,
    OperationState::OperationFinished,
    OperationState::OperationGoneByOperator,
    OperationState::OperationPending,
    OperationState::OperationRecovering,
    OperationState::OperationUnreachable,
];

/// Operations by type and state, launches excepted: the ended ones were counted,
/// the others are looked up.
fn operations(cluster: &Cluster, out: &mut Figures) {
    let mut counts = cluster.counters.operations.clone();
    let open = cluster.agents.values().flat_map(|a| a.operations.iter());
    for operation in open {
        let key = (operation.info.r#type(), operation.latest_status.state());
        // Ended and not yet acknowledged ones are counted already.
        if matches!(
            key.1,
            OperationState::OperationPending
                | OperationState::OperationRecovering
                | OperationState::OperationUnreachable
        ) {
            *counts.entry(key).or_default() += 1;
        }
    }
    let launches = |kind: &operation::Type| {
        matches!(kind, operation::Type::Launch | operation::Type::LaunchGroup)
    };
    let kinds = all::<operation::Type>().filter(|k| !launches(k)).map(Some);
    for kind in kinds.chain([None]) {
        let prefix = kind.map_or_else(String::new, |k| k.as_str_name().to_lowercase() + "/");
        let prefix = format!("master/operations/{prefix}");
        let of_kind = |k: &operation::Type| kind.map_or(!launches(k), |kind| kind == *k);
        let mine = || counts.iter().filter(|((k, _), _)| of_kind(k));
        out.insert(format!("{prefix}total"), sum(mine().map(|(_, n)| n)));
        for state in OPERATION_STATES {
            let name = state.as_str_name().trim_start_matches("OPERATION_").to_lowercase();
            let n = sum(mine().filter(|((_, s), _)| *s == state).map(|(_, n)| n));
            out.insert(format!("{prefix}{name}"), n);
        }
    }
}

const ACTIVE: [TaskState; 6] = [
    TaskState::TaskKilling,
    TaskState::TaskRunning,
    TaskState::TaskStaging,
    TaskState::TaskStarting,
    TaskState::TaskUnknown,
    TaskState::TaskUnreachable,
];

const ENDS: [TaskState; 8] = [
    TaskState::TaskDropped,
    TaskState::TaskError,
    TaskState::TaskFailed,
    TaskState::TaskFinished,
    TaskState::TaskGone,
    TaskState::TaskGoneByOperator,
    TaskState::TaskKilled,
    TaskState::TaskLost,
];

/// The figures of one framework, below its encoded name and its id.
pub fn framework(framework: &Framework, out: &mut Figures) {
    let prefix = format!("master/frameworks/{}/{}", encode(&framework.info.name), framework.id);
    let mut set = |name: &str, value: f64| out.insert(format!("{prefix}/{name}"), value);
    let tally = &*framework.tally;
    set("subscribed", f64::from(u8::from(framework.connected())));
    set("calls", sum(tally.calls.values()));
    for kind in all::<call::Type>() {
        let name = kind.as_str_name().to_lowercase();
        set(&format!("calls/{name}"), sum(tally.calls.get(&kind)));
    }
    set("events", sum(tally.events.values()));
    for kind in all::<event::Type>() {
        let name = kind.as_str_name().to_lowercase();
        set(&format!("events/{name}"), sum(tally.events.get(&kind)));
    }
    set("operations", sum(tally.operations.values()));
    for kind in all::<operation::Type>() {
        let name = kind.as_str_name().to_lowercase();
        set(&format!("operations/{name}"), sum(tally.operations.get(&kind)));
    }
    set("offers/sent", sum([&tally.offers_sent]));
    set("offers/accepted", sum([&tally.offers_accepted]));
    set("offers/declined", sum([&tally.offers_declined]));
    set("offers/rescinded", sum([&tally.offers_rescinded]));
    for role in framework.roles.iter() {
        let suppressed = framework.suppressed.contains(role);
        set(&format!("roles/{role}/suppressed"), f64::from(u8::from(suppressed)));
    }
    let states = framework.tasks.values().map(|t| t.state());
    let states: Vec<TaskState> = states.collect();
    for state in ACTIVE {
        let now = states.iter().filter(|s| **s == state).count();
        let lost =
            if state == TaskState::TaskUnreachable { framework.unreachable_tasks.len() } else { 0 };
        set(&format!("tasks/active/{}", state.as_str_name().to_lowercase()), count(now + lost));
    }
    for state in ENDS {
        let n = sum(tally.ends.get(&state));
        set(&format!("tasks/terminal/{}", state.as_str_name().to_lowercase()), n);
    }
}

/// A name as a part of a metric's name, as Mesos' URL encoding makes it.
fn encode(name: &str) -> String {
    use std::fmt::Write as _;
    let mut out = String::with_capacity(name.len());
    for byte in name.bytes() {
        if byte.is_ascii_graphic() && !b"$&+,/:;=?@\"<>#%{}|\\^~[]`".contains(&byte) {
            out.push(char::from(byte));
        } else {
            let _ = write!(out, "%{byte:02X}");
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_encoded() {
        assert_eq!(encode("Test Framework (C++)"), "Test%20Framework%20(C%2B%2B)");
        assert_eq!(encode("a-b_c.d"), "a-b_c.d");
        assert_eq!(encode("\u{e9}/"), "%C3%A9%2F");
    }
}
