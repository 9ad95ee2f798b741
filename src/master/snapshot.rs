//! What readers see of the master: an immutable copy of the core's visible
//! state, published by the driver after every batch of events.
//!
//! `/state` and its siblings, the operator API's reads and the metrics render
//! from it. It is shared by pointer; taking one blocks nobody.

use std::sync::Arc;

use super::core::cluster::Cluster;

/// One frozen moment of the master.
#[derive(Debug, Clone)]
pub struct Snapshot {
    /// Counts publications; two snapshots with the same number are the same.
    pub generation: u64,
    /// Who this master is. The same for its whole life, but for the leader.
    pub master: Arc<Identity>,
    /// Agents, frameworks, tasks, offers, weights, counters.
    pub cluster: Cluster,
}

/// Who this master is and how it was started.
#[derive(Debug, Clone, Default)]
pub struct Identity {
    /// As registered with the election and sent to frameworks.
    pub info: mesos::MasterInfo,
    /// Seconds since the epoch.
    pub start_time: f64,
    /// Seconds since the epoch, once elected.
    pub elected_time: Option<f64>,
    /// The leading master, if one is known; itself when standalone.
    pub leader: Option<mesos::MasterInfo>,
    /// Set flags as `(name, value)`, sorted by name, for `/flags` and `/state`.
    pub flags: Vec<(String, String)>,
}

impl Identity {
    /// The value of the flag called `name`, if it was set or has a default.
    #[must_use]
    pub fn flag(&self, name: &str) -> Option<&str> {
        self.flags.iter().find(|(n, _)| n == name).map(|(_, value)| value.as_str())
    }
}
