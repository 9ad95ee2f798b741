//! Bulkhead: an Apache-Mesos-compatible agent and a lean master.
//!
//! `docs/ARCHITECTURE.md` is the map. A module here uses only those below it.

pub mod agent;
pub mod checkpoint;
pub mod checks;
pub mod cli;
pub mod containerizer;
pub mod daemon;
pub mod executor;
pub mod fetch;
pub mod gc;
pub mod launch;
pub mod logs;
pub mod master;
pub mod provisioner;
pub mod wire;
