//! The agent's decisions, free of I/O and clocks.

pub mod event;
pub mod state;
