//! What the agent writes down so that a successor can carry on.
//!
//! Owns the work directory's layout ([`WorkDir`]) and the form of the files in
//! `meta`, which is Mesos' own: a C++ agent can read what we wrote and the other
//! way round. The agent's core says *what* is to be stored ([`Record`]), one
//! storage task writes in order ([`Store`]), [`recover`] reads everything back
//! ([`Recovered`]).

mod files;
mod paths;
mod record;
mod recover;
mod recovered;
mod store;

pub use files::StorageError;
pub use paths::{RunKey, WorkDir, nested_sandbox};
pub use record::Record;
pub use recover::{RecoverError, recover, write_boot_id};
pub use recovered::{
    Recovered, RecoveredExecutor, RecoveredFramework, RecoveredRun, RecoveredTask,
};
pub use store::Store;
