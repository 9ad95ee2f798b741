//! The Mesos agent: registers with a master, runs executors and tasks in
//! containers, reports what becomes of them.
//!
//! * [`core`]: decides (pure). * [`updates`]: a pure part of it.
//! * [`driver`]: the one task that owns the core, runs its effects, publishes
//!   the [`snapshot`]. * [`handle`]: the door to it. * `api`: HTTP.
//!
//! State is owned by the driver's task alone; nothing here takes a lock.

pub mod api;
pub mod app;
pub mod config;
pub mod core;
pub mod driver;
pub mod flags;
pub mod handle;
pub mod inbox;
pub mod info;
pub mod resources;
pub mod snapshot;
pub mod updates;

pub use config::Config;
pub use driver::{AgentError, Outbox, Outcome, PostOutbox, start};
pub use handle::{CallError, Handle, Subscription};
pub use snapshot::{AgentState, Snapshot};
