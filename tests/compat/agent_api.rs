//! The agent's HTTP door and its default executor against the real Mesos.
//!
//! * `golden`: endpoints rendered from a recorded agent state equal the recorded
//!   bodies: fields, order, types and values.
//! * `errors`: recorded bad and odd requests get the recorded answers.
//! * `executor`: the default executor against an agent played by the test.
//! * `group`: a task group through the built master, agent and executor.
//! * `group_checks`: checks of a group's tasks, and sessions in them.
//! * `sessions`: commands in a task's container, their streams, and who attaches.
//! * `terminals`: sessions and tasks with a terminal.
//! * `shape`: how JSON documents are compared where values differ by nature.

#[path = "../support/cluster.rs"]
mod cluster;
#[path = "../support/door.rs"]
mod door;
#[path = "../support/framework.rs"]
mod framework;
#[path = "../support/input.rs"]
mod input;
#[path = "../support/shape.rs"]
mod shape;
#[path = "../support/mod.rs"]
mod support;

#[path = "agent_api/errors.rs"]
mod errors;
#[path = "agent_api/executor.rs"]
mod executor;
#[path = "agent_api/golden.rs"]
mod golden;
#[path = "agent_api/group.rs"]
mod group;
#[path = "agent_api/group_checks.rs"]
mod group_checks;
#[path = "agent_api/sessions.rs"]
mod sessions;
#[path = "agent_api/terminals.rs"]
mod terminals;
