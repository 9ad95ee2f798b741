//! Every isolator of the native containerizer, behind one contract.
//!
//! * [`api`]: the contract: [`api::Isolator`], [`api::Isolation`], `Contribution`,
//!   `Limitation`, `Probe`.
//! * [`plan`]: what the merged contributions say: the [`plan::LaunchPlan`].
//! * [`registry`]: `--isolation`: which isolators there are, and in which order.
//! * [`mod@merge`]: contributions to one plan.
//!
//! Knows the kernel (through the `kernel` crate) and the Mesos messages; never
//! the agent, HTTP, or the paths of the work dir.

#![forbid(unsafe_code)]

pub mod api;
pub mod capability;
pub mod cdi;
pub mod cgroups;
pub mod config;
pub mod disk;
pub mod filesystem;
pub mod gpu;
pub mod hook;
pub mod ids;
pub mod image;
pub mod linux;
pub mod merge;
mod mounts;
pub mod namespaces;
pub mod network;
pub mod plan;
pub mod posix;
pub mod probe;
pub mod quantity;
pub mod registry;
pub mod runtime;
pub mod secret;
mod simple;
#[cfg(any(test, feature = "suite"))]
pub mod suite;
pub mod traced;
pub mod volume;
