//! Shares agents out among roles and frameworks: hierarchical DRF.
//!
//! Owned and called by the core only. Pure: time and randomness are arguments,
//! no I/O, no clock. It never talks to frameworks; it answers `allocate`.
//!
//! The interface the core codes against (all `&mut self`, times are the
//! master's monotonic clock, a [`Duration`] since its start):
//!
//! ```text
//! Allocator::new(Options) -> Self
//! add_framework(&FrameworkId, FrameworkOptions, active: bool)   // what it holds comes from add_agent
//! update_framework(&FrameworkId, FrameworkOptions)    // roles, suppressed, capabilities, filters, constraints
//! activate_framework(&FrameworkId)                     // connected again
//! deactivate_framework(&FrameworkId)                   // forgets its refusal filters
//! remove_framework(&FrameworkId)                       // forgets what it uses
//! add_agent(&AgentId, AgentOptions, used: &BTreeMap<FrameworkId, Resources>)
//! update_agent(&AgentId, AgentOptions) -> bool         // changed?
//! activate_agent(&AgentId), deactivate_agent(&AgentId), remove_agent(&AgentId)
//! update_allocation(&FrameworkId, &AgentId, from: &Resources, to: &Resources)
//!         // RESERVE, CREATE ...: `from` (allocated to it) became `to`; the agent's total changes likewise
//! recover(now, &FrameworkId, &AgentId, &Resources, refuse: Option<Duration>)
//!         // offered or used resources come back; with a filter if `refuse` is given (already clamped
//!         // to [0, 365 d]; 0 = none; the allocator raises it to the allocation interval)
//! suppress(&FrameworkId, roles: &[String]), revive(&FrameworkId, roles: &[String])   // empty = all
//! set_weights(&BTreeMap<String, f64>)
//! allocate(now, Scope, &mut Rng) -> Vec<Allocation>    // the allocations are already booked as used
//! allocated(&AgentId) -> Resources                     // offered + used, for the conservation test
//! dominant_shares() -> Vec<(String, f64)>              // role, for the metrics
//! active_filters() -> BTreeMap<String, usize>          // role, for the metrics
//! ```
//!
//! Resources handed in and out carry `allocation_info.role`. Agents' totals do not.

pub mod constraints;
mod cycle;
mod filters;
mod sorter;
mod state;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use mesos::resources::{Quantities, Scalar};

use crate::master::Resources;
use crate::master::ids::{AgentId, FrameworkId};
pub use sorter::SorterKind;
pub use state::Allocator;

/// What the master's flags say about allocation.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// `--allocation_interval`; the least time a refusal filter lasts.
    pub interval: Duration,
    /// `--min_allocatable_resources`: any of these sets of (name, amount), each set whole.
    pub min_allocatable: Vec<BTreeMap<String, f64>>,
    /// `--fair_sharing_excluded_resource_names`.
    pub excluded: BTreeSet<String>,
    /// `--filter_gpu_resources`.
    pub filter_gpu: bool,
    /// The region of the master, if it has a fault domain.
    pub region: Option<String>,
}

/// What the allocator must know of a framework.
#[derive(Debug, Clone)]
pub struct FrameworkOptions {
    /// Roles, capabilities and `offer_filters` are read from it.
    pub info: Arc<mesos::FrameworkInfo>,
    /// Roles for which no offers are wanted.
    pub suppressed: BTreeSet<String>,
    /// Attribute constraints per role.
    pub constraints: Option<Arc<mesos::scheduler::OfferConstraints>>,
}

/// What the allocator must know of an agent.
#[derive(Debug, Clone)]
pub struct AgentOptions {
    /// Host name, attributes and fault domain are read from it.
    pub info: Arc<mesos::SlaveInfo>,
    /// Everything it has, reserved and revocable included.
    pub total: Resources,
}

/// Quota of a top-level role.
#[derive(Debug, Clone, Default)]
pub struct Quota {
    /// Kept free for the role even while it has no use for it.
    pub guarantees: Quantities,
    /// The most it may hold unreserved, by name; no entry is no limit.
    pub limits: BTreeMap<String, Scalar>,
}

/// Which agents a cycle looks at.
#[derive(Debug, Clone)]
pub enum Scope {
    /// Every agent.
    All,
    /// Only these.
    Agents(BTreeSet<AgentId>),
}

/// Resources of one agent given to one framework in one role.
#[derive(Debug, Clone, PartialEq)]
pub struct Allocation {
    /// To whom.
    pub framework: FrameworkId,
    /// In which role.
    pub role: String,
    /// Where.
    pub agent: AgentId,
    /// What; every item has `allocation_info.role` set.
    pub resources: Resources,
}

/// A small deterministic random source (splitmix64): a seed replays a run.
#[derive(Debug, Clone)]
pub struct Rng(u64);

impl Rng {
    /// A source that always gives the same numbers for the same seed.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Rng(seed)
    }

    /// The next 64 random bits.
    pub fn next_u64(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Brings `items` into random order.
    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for i in (1..items.len()).rev() {
            let bound = u64::try_from(i).unwrap_or(u64::MAX) + 1;
            let j = usize::try_from(self.next_u64() % bound).unwrap_or(0);
            items.swap(i, j);
        }
    }
}
