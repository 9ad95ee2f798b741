//! The `oci` engine: plans run by libcontainer, in a helper process.
//!
//! ```text
//! LaunchPlan --translate--> bundle --shim--> bulkhead-helper oci run BUNDLE
//!                              |                |  libcontainer: create, start
//!                              |                v
//!                         exit record <--- container's first process, shim's child
//! ```
//!
//! The shim is the parent and reaper as for the `linux` engine, so exit records,
//! waiting, signals and recovery are the same (docs/decisions/0012). With a new pid
//! namespace the shim is its init and the helper runs inside: whatever dies early,
//! nothing outlives the shim. Namespaces to join are entered by the shim; those to
//! make, mounts, root, identity and privileges are libcontainer's work; cgroups are
//! our isolators', libcontainer only joins them.
//!
//! The bundle lies beside the exit record: enough to find the container again and
//! to remove what it leaves. libcontainer is compiled with the feature `oci` only
//! and never runs in the agent: it must not share a process with other threads.

mod bundle;
#[cfg(feature = "oci")]
mod finish;
#[cfg(feature = "oci")]
mod helper;
mod message;
#[cfg(feature = "oci")]
mod mount;
mod translate;
#[cfg(feature = "oci")]
mod workload;

pub(super) use bundle::{Oci, failure_of, of_record, sweep};
#[cfg(feature = "oci")]
pub use helper::main;
