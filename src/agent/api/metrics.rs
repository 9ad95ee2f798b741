//! The agent's part of `/metrics/snapshot`, from a [`Snapshot`]. Pure.
//!
//! Names are Mesos'. What this agent does not have (provisioner,
//! resource providers) is there with its resting value: dashboards and alerts
//! that divide by it must find it.

use mesos::TaskState;
use mesos::resources::Resources;

use super::state::allocated_to;
use crate::agent::core::state::ExecutorState;
use crate::agent::snapshot::{AgentState, Snapshot};
use crate::fetch::Figures;

/// Figures that are not the agent owner's.
#[derive(Debug, Clone, Copy, Default)]
pub struct Surroundings {
    /// Seconds since the process started.
    pub uptime_secs: f64,
    /// Of the fetcher.
    pub fetched: Figures,
    /// Containers that could not be destroyed.
    pub destroy_errors: u64,
    /// Containers with a root file system of an image.
    pub roots: u64,
    /// Root file systems that could not be removed.
    pub root_errors: u64,
}

/// Every metric of the agent by name, unsorted.
#[must_use]
pub fn of(snapshot: &Snapshot, around: &Surroundings) -> Vec<(String, f64)> {
    let mut all = Vec::with_capacity(80);
    let mut put = |name: &str, value: f64| all.push((name.to_owned(), value));
    let counters = &snapshot.counters;
    put("slave/uptime_secs", around.uptime_secs);
    put("slave/registered", if snapshot.state == AgentState::Running { 1.0 } else { 0.0 });
    if let Some(secs) = snapshot.recovery_secs {
        put("slave/recovery_time_secs", secs);
    }
    put("slave/frameworks_active", snapshot.frameworks.len() as f64);
    put("slave/executor_directory_max_allowed_age_secs", snapshot.max_sandbox_age_secs);
    for (name, value) in [
        ("slave/recovery_errors", counters.recovery_errors),
        ("slave/tasks_finished", counters.tasks_finished),
        ("slave/tasks_failed", counters.tasks_failed),
        ("slave/tasks_killed", counters.tasks_killed),
        ("slave/tasks_lost", counters.tasks_lost),
        ("slave/tasks_gone", counters.tasks_gone),
        ("slave/executors_terminated", counters.executors_terminated),
        ("slave/executors_preempted", counters.executors_preempted),
        ("slave/valid_status_updates", counters.valid_status_updates),
        ("slave/invalid_status_updates", counters.invalid_status_updates),
        ("slave/valid_framework_messages", counters.valid_framework_messages),
        ("slave/invalid_framework_messages", counters.invalid_framework_messages),
        ("slave/container_launch_errors", counters.container_launch_errors),
        ("gc/path_removals_succeeded", counters.gc_path_removals_succeeded),
        ("gc/path_removals_failed", counters.gc_path_removals_failed),
        ("gc/path_removals_pending", counters.gc_path_removals_pending),
        ("containerizer/mesos/container_destroy_errors", around.destroy_errors),
        ("containerizer/mesos/filesystem/containers_new_rootfs", around.roots),
        ("containerizer/mesos/provisioner/remove_container_errors", around.root_errors),
        ("containerizer/fetcher/cache_size_used_bytes", around.fetched.cache_used),
        ("containerizer/fetcher/task_fetches_failed", around.fetched.failed),
        ("containerizer/fetcher/task_fetches_succeeded", around.fetched.succeeded),
        ("containerizer/fetcher/cache_size_total_bytes", around.fetched.cache_total),
    ] {
        put(name, value as f64);
    }
    for name in RESTING {
        put(name, 0.0);
    }
    all.extend(running(snapshot));
    all.extend(amounts(snapshot));
    all
}

/// What Mesos does not count: garbage by size, and checkpoints on a full disk.
#[must_use]
pub fn ours(snapshot: &Snapshot) -> Vec<(String, f64)> {
    let counters = &snapshot.counters;
    [
        ("gc/bytes_pending", counters.gc_bytes_pending as f64),
        ("gc/bytes_removed", counters.gc_bytes_removed as f64),
        ("gc/files_removed", counters.gc_files_removed as f64),
        ("gc/removals_postponed", counters.gc_removals_postponed as f64),
        ("gc/oldest_secs", counters.gc_oldest_secs),
        ("slave/checkpoints_waiting", f64::from(u8::from(counters.checkpoints_waiting))),
        ("slave/checkpoint_reserve_files", counters.checkpoint_reserve as f64),
    ]
    .map(|(name, value)| (name.to_owned(), value))
    .into()
}

/// Whether a metric of the agent only grows.
#[must_use]
pub fn is_counter(name: &str) -> bool {
    const COUNTERS: [&str; 17] = [
        "slave/recovery_errors",
        "slave/tasks_finished",
        "slave/tasks_failed",
        "slave/tasks_killed",
        "slave/tasks_lost",
        "slave/tasks_gone",
        "slave/executors_terminated",
        "slave/executors_preempted",
        "slave/container_launch_errors",
        "containerizer/mesos/container_destroy_errors",
        "containerizer/fetcher/task_fetches_failed",
        "containerizer/fetcher/task_fetches_succeeded",
        "gc/path_removals_succeeded",
        "gc/path_removals_failed",
        "gc/bytes_removed",
        "gc/files_removed",
        "gc/removals_postponed",
    ];
    let prefixes = ["slave/valid_", "slave/invalid_", "resource_provider_manager/events/"];
    COUNTERS.contains(&name)
        || name.ends_with("_errors")
        || prefixes.iter().any(|prefix| name.starts_with(prefix))
}

/// Parts of Mesos that are not here yet or have nothing to count.
const RESTING: [&str; 4] = [
    "containerizer/mesos/provisioner/bind/remove_rootfs_errors",
    "resource_provider_manager/events/disconnect",
    "resource_provider_manager/events/subscribe",
    "resource_provider_manager/subscribed",
];

/// Tasks and executors by state.
fn running(snapshot: &Snapshot) -> Vec<(String, f64)> {
    let (mut staging, mut starting, mut running, mut killing) = (0u32, 0u32, 0u32, 0u32);
    let (mut registering, mut alive, mut terminating) = (0u32, 0u32, 0u32);
    for (_, executor) in snapshot.executors() {
        match executor.state {
            ExecutorState::Registering => registering += 1,
            ExecutorState::Running => alive += 1,
            ExecutorState::Terminating => terminating += 1,
            ExecutorState::Terminated => {}
        }
        staging += u32::try_from(executor.queued.len()).unwrap_or(u32::MAX);
        for task in executor.launched.values() {
            match task.state() {
                TaskState::TaskStaging => staging += 1,
                TaskState::TaskStarting => starting += 1,
                TaskState::TaskRunning => running += 1,
                TaskState::TaskKilling => killing += 1,
                _ => {}
            }
        }
    }
    [
        ("slave/tasks_staging", staging),
        ("slave/tasks_starting", starting),
        ("slave/tasks_running", running),
        ("slave/tasks_killing", killing),
        ("slave/executors_registering", registering),
        ("slave/executors_running", alive),
        ("slave/executors_terminating", terminating),
    ]
    .map(|(name, value)| (name.to_owned(), f64::from(value)))
    .into()
}

/// Total, used and used share of each resource, revocable ones apart.
fn amounts(snapshot: &Snapshot) -> Vec<(String, f64)> {
    let total = snapshot.resources.clone();
    let mut used = Resources::default();
    for (_, executor) in snapshot.executors() {
        used += &allocated_to(executor);
    }
    let mut all = Vec::new();
    for name in ["cpus", "gpus", "mem", "disk"] {
        for (suffix, total, used) in [
            ("", total.non_revocable(), used.non_revocable()),
            ("revocable_", total.revocable(), used.revocable()),
        ] {
            let amount = |r: &Resources| r.scalar(name).map_or(0.0, |s| s.value());
            let (total, used) = (amount(&total), amount(&used));
            all.push((format!("slave/{name}_{suffix}total"), total));
            all.push((format!("slave/{name}_{suffix}used"), used));
            let share = if total > 0.0 { used / total } else { 0.0 };
            all.push((format!("slave/{name}_{suffix}percent"), share));
        }
    }
    all
}
