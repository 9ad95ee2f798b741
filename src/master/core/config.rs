//! What the flags say, in the core's own terms.

use std::collections::BTreeSet;
use std::time::Duration;

use crate::master::allocator;

/// Least value of `--agent_reregister_timeout`, as in Mesos.
pub const MIN_AGENT_REREGISTER_TIMEOUT: Duration = Duration::from_secs(600);
/// How often a scheduler's stream hears a heartbeat.
pub const HEARTBEAT_INTERVAL: Duration = Duration::from_secs(15);
/// Filters last at most this long.
pub const MAX_REFUSE: Duration = Duration::from_secs(365 * 24 * 3600);
/// Default of `Filters.refuse_seconds`.
pub const DEFAULT_REFUSE: Duration = Duration::from_secs(5);

/// The core's settings. Defaults are those of Mesos.
#[derive(Debug, Clone)]
pub struct Config {
    /// `--agent_ping_timeout`.
    pub ping_timeout: Duration,
    /// `--max_agent_ping_timeouts`.
    pub max_ping_timeouts: u32,
    /// `--agent_reregister_timeout`.
    pub reregister_timeout: Duration,
    /// `--offer_timeout`; offers are never taken back by time if unset.
    pub offer_timeout: Option<Duration>,
    /// `--allocation_interval`.
    pub allocation_interval: Duration,
    /// `--max_completed_frameworks`.
    pub max_completed_frameworks: usize,
    /// `--max_completed_tasks_per_framework`.
    pub max_completed_tasks: usize,
    /// `--max_unreachable_tasks_per_framework`.
    pub max_unreachable_tasks: usize,
    /// `--root_submissions`.
    pub root_submissions: bool,
    /// `--roles`.
    pub roles: Option<BTreeSet<String>>,
    /// `--require_agent_domain`.
    pub require_agent_domain: bool,
    /// `--registry_gc_interval`.
    pub registry_gc_interval: Duration,
    /// `--registry_max_agent_age`.
    pub registry_max_age: Duration,
    /// `--registry_max_agent_count`.
    pub registry_max_count: usize,
    /// The allocator's settings.
    pub allocator: allocator::Options,
    /// Seed of the order in which agents are offered.
    pub seed: u64,
}

impl Default for Config {
    fn default() -> Self {
        Config {
            ping_timeout: Duration::from_secs(15),
            max_ping_timeouts: 5,
            reregister_timeout: MIN_AGENT_REREGISTER_TIMEOUT,
            offer_timeout: None,
            allocation_interval: Duration::from_secs(1),
            max_completed_frameworks: 50,
            max_completed_tasks: 1000,
            max_unreachable_tasks: 1000,
            root_submissions: true,
            roles: None,
            require_agent_domain: false,
            registry_gc_interval: Duration::from_secs(15 * 60),
            registry_max_age: Duration::from_secs(14 * 24 * 3600),
            registry_max_count: 102_400,
            allocator: allocator::Options::default(),
            seed: 0,
        }
    }
}
