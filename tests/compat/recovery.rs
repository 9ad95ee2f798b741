//! Nothing lost, nothing leaked: the built master and agent, with the agent, its
//! shims, executors and containers killed, frozen and forgotten in every way.
//!
//! * `failpoints`: the agent dies at every point there is; the end is the same.
//! * `kills`: shims and executors die, tasks that defend themselves.
//! * `stuck`: what cannot be killed is seen and waited for.
//! * `leftovers`: what nobody knows is removed, what is not ours is not touched.
//! * `flags`: what the flags of recovery do.
//! * `drain`: draining, deactivating, leaving.
//! * `operations`: reservations and volumes, and deaths while they change.
//! * `soak`: many short containers under random deaths.
//! * `v0`: an executor of the old kind, played by the test.

#[path = "../support/cluster.rs"]
mod cluster;
#[path = "../support/disk.rs"]
mod disk;
#[path = "../support/framework.rs"]
mod framework;
#[path = "../support/mod.rs"]
mod support;
#[cfg(debug_assertions)]
#[path = "../support/volumes.rs"]
mod volumes;

#[path = "recovery/drain.rs"]
mod drain;
#[cfg(debug_assertions)]
#[path = "recovery/failpoints.rs"]
mod failpoints;
#[path = "recovery/flags.rs"]
mod flags;
#[path = "recovery/kills.rs"]
mod kills;
#[path = "recovery/leftovers.rs"]
mod leftovers;
#[cfg(debug_assertions)]
#[path = "recovery/operations.rs"]
mod operations;
#[path = "recovery/soak.rs"]
mod soak;
#[path = "recovery/stuck.rs"]
mod stuck;
#[path = "recovery/v0.rs"]
mod v0;
