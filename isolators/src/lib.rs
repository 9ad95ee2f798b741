//! Every isolator of the native containerizer, behind one contract.
//!
//! * [`api`]: the contract: [`api::Isolator`], [`api::Isolation`], `Contribution`,
//!   `Limitation`, `Usage`.
//! * [`plan`]: what the merged contributions say: the [`plan::LaunchPlan`].
//!
//! Knows the kernel (through the `kernel` crate) and the Mesos messages; never
//! the agent, HTTP, or the paths of the work dir.

#![forbid(unsafe_code)]

pub mod api;
pub mod plan;
