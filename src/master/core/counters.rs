//! What the core counts, under Mesos' metric names without `master/`.
//!
//! Gauges (how many agents, how much memory) are no counters: they are
//! computed from a snapshot when somebody asks.

use std::collections::BTreeMap;
use std::time::Duration;

use mesos::OperationState;
use mesos::offer::operation;

/// Counters that are printed even while they are zero.
const ALWAYS: &[&str] = &[
    "dropped_messages",
    "invalid_executor_to_framework_messages",
    "invalid_framework_to_executor_messages",
    "invalid_operation_status_update_acknowledgements",
    "invalid_operation_status_updates",
    "invalid_status_update_acknowledgements",
    "invalid_status_updates",
    "messages_authenticate",
    "messages_deactivate_framework",
    "messages_decline_offers",
    "messages_executor_to_framework",
    "messages_exited_executor",
    "messages_framework_to_executor",
    "messages_kill_task",
    "messages_launch_tasks",
    "messages_operation_status_update",
    "messages_operation_status_update_acknowledgement",
    "messages_reconcile_operations",
    "messages_reconcile_tasks",
    "messages_register_framework",
    "messages_register_slave",
    "messages_reregister_framework",
    "messages_reregister_slave",
    "messages_resource_request",
    "messages_revive_offers",
    "messages_status_update",
    "messages_status_update_acknowledgement",
    "messages_suppress_offers",
    "messages_unregister_framework",
    "messages_unregister_slave",
    "messages_update_slave",
    "recovery_slave_removals",
    "slave_registrations",
    "slave_removals",
    "slave_removals/reason_registered",
    "slave_removals/reason_unhealthy",
    "slave_removals/reason_unregistered",
    "slave_reregistrations",
    "slave_shutdowns_canceled",
    "slave_shutdowns_completed",
    "slave_shutdowns_scheduled",
    "slave_unreachable_canceled",
    "slave_unreachable_completed",
    "slave_unreachable_scheduled",
    "tasks_dropped",
    "tasks_error",
    "tasks_failed",
    "tasks_finished",
    "tasks_gone",
    "tasks_gone_by_operator",
    "tasks_killed",
    "tasks_lost",
    "valid_executor_to_framework_messages",
    "valid_framework_to_executor_messages",
    "valid_operation_status_update_acknowledgements",
    "valid_operation_status_updates",
    "valid_status_update_acknowledgements",
    "valid_status_updates",
];

/// Counters by name.
#[derive(Debug, Clone)]
pub struct Counters {
    fixed: BTreeMap<&'static str, u64>,
    named: BTreeMap<String, u64>,
    /// Operations that ended, by type and how.
    pub operations: BTreeMap<(operation::Type, OperationState), u64>,
    /// Allocation cycles run.
    pub allocation_runs: u64,
    /// How long the latest of them was due before it ran.
    pub allocation_latency: Duration,
    /// Messages of drivers, by the principal of their framework.
    messages: BTreeMap<String, u64>,
}

impl Default for Counters {
    fn default() -> Self {
        Counters {
            fixed: ALWAYS.iter().map(|name| (*name, 0)).collect(),
            named: BTreeMap::new(),
            operations: BTreeMap::new(),
            allocation_runs: 0,
            allocation_latency: Duration::ZERO,
            messages: BTreeMap::new(),
        }
    }
}

impl Counters {
    /// Counts one more of `name`.
    pub fn add(&mut self, name: &'static str) {
        *self.fixed.entry(name).or_default() += 1;
    }

    /// Counts one more under a name that is made up as needed.
    pub fn add_named(&mut self, name: String) {
        *self.named.entry(name).or_default() += 1;
    }

    /// Counts one more operation that ended.
    pub fn add_operation(&mut self, kind: operation::Type, end: OperationState) {
        *self.operations.entry((kind, end)).or_default() += 1;
    }

    /// Counts one more message of a framework of `principal`.
    pub fn add_message(&mut self, principal: &str) {
        match self.messages.get_mut(principal) {
            Some(count) => *count += 1,
            None => {
                self.messages.insert(principal.to_owned(), 1);
            }
        }
    }

    /// Messages of frameworks of `principal`, while it has some.
    #[must_use]
    pub fn messages_of(&self, principal: &str) -> u64 {
        self.messages.get(principal).copied().unwrap_or(0)
    }

    /// The last framework of `principal` is gone.
    pub fn forget_messages(&mut self, principal: &str) {
        self.messages.remove(principal);
    }

    /// How many of `name` there were.
    #[must_use]
    pub fn get(&self, name: &str) -> u64 {
        self.fixed.get(name).or_else(|| self.named.get(name)).copied().unwrap_or(0)
    }

    /// Whether something is counted under `name`.
    #[must_use]
    pub fn contains(&self, name: &str) -> bool {
        self.fixed.contains_key(name) || self.named.contains_key(name)
    }

    /// All counters; names are relative to `master/`.
    pub fn iter(&self) -> impl Iterator<Item = (&str, u64)> {
        self.fixed
            .iter()
            .map(|(name, count)| (*name, *count))
            .chain(self.named.iter().map(|(name, count)| (name.as_str(), *count)))
    }
}
