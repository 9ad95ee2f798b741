//! Checks and health checks of tasks.
//!
//! [`core`] decides when a task is asked and what follows from the answer;
//! [`network`] asks over HTTP and TCP. Commands are run by whoever owns the
//! task's container. Used by the agent, which checks command tasks itself, and by
//! the default executor, which checks the tasks of its groups.

pub mod core;
pub mod network;
mod redirect;

pub use self::core::{Attempt, Checks, Effect, Event, Kind, Outcome, Probe};
