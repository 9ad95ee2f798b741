//! The master: which agents there are, which frameworks want them, who is
//! offered what, and where every task stands.
//!
//! * [`core`] decides: pure, `handle(now, event) -> effects`.
//! * [`allocator`] shares agents out: pure, called only by the core.
//! * [`snapshot`] is what readers see; they never enter the mailbox.
//!
//! Used by `src/bin/master.rs` and by `bulkhead local`. Knows nothing of the
//! agent's code: they meet on the wire only.

pub mod allocator;
pub mod api;
pub mod app;
pub mod core;
pub mod driver;
pub mod election;
pub mod ids;
pub mod metrics;
pub mod registrar;
pub mod shared;
pub mod snapshot;

pub use mesos::resources::Resources;
