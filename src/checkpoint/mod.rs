//! What the agent writes down so that a successor can carry on.
//!
//! Owns the work directory's layout ([`WorkDir`]) and the form of the files in
//! `meta`, which is Mesos' own: a C++ agent can read what we wrote and the other
//! way round. The agent's core says *what* is to be stored ([`Record`]), one
//! storage task writes in order ([`Store`]), [`recover`] reads everything back
//! ([`Recovered`]). [`inspect`] explains a work directory to people; it and
//! [`survey`] change nothing.

mod discard;
mod files;
mod flush;
mod garbage;
pub mod inspect;
mod leftovers;
mod paths;
mod record;
mod recover;
mod recovered;
mod reserve;
mod resources;
mod store;

pub use discard::DiscardError;
pub use files::StorageError;
pub use flush::Flusher;
pub use garbage::{Garbage, Item};
pub use paths::{RunKey, WorkDir, nested_sandbox};
pub use record::Record;
pub use recover::{Mode, RecoverError, recover, survey, write_boot_id};
pub use recovered::{
    Recovered, RecoveredExecutor, RecoveredFramework, RecoveredOperation, RecoveredRun,
    RecoveredTask,
};
pub use resources::VolumeError;
pub use store::{Store, Unflushed, Written};
