//! The agent as a whole, in this process, against a master that is a script.
//!
//! * `meta`: checkpoints of the real Mesos are read, and written the same.
//! * `master`: the scripted master, speaking real bytes on the loopback.
//! * `conversation`: a recorded V0 executor and its tasks.
//! * `drain`: recorded operations, a drain and the end of an agent.
//! * `group`: a recorded v1 executor with a task group.
//! * `flow`: registration, command tasks and restarts over the wire.

#[path = "../support/conversation.rs"]
mod conversation;
#[path = "../support/names.rs"]
mod names;
#[path = "../support/raw.rs"]
mod raw;
#[path = "../support/shape.rs"]
mod shape;
#[path = "../support/mod.rs"]
mod support;

#[path = "agent/drain.rs"]
mod drain;
#[path = "agent/flow.rs"]
mod flow;
#[path = "agent/group.rs"]
mod group;
#[path = "agent/master.rs"]
mod master;
#[path = "agent/meta.rs"]
mod meta;
#[path = "agent/conversation.rs"]
mod played;
