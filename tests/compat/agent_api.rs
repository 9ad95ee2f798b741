//! The agent's HTTP door against recordings of the real Mesos.
//!
//! * `golden`: endpoints rendered from a recorded agent state equal the recorded
//!   bodies: fields, order, types and values.
//! * `shape`: how JSON documents are compared where values differ by nature.

#[path = "../support/mod.rs"]
mod support;

#[path = "agent_api/golden.rs"]
mod golden;
#[path = "agent_api/shape.rs"]
mod shape;
