//! Fetching: what a command's URIs name comes into the sandbox before it starts.
//!
//! ```text
//! Fetcher (agent) --Job on a pipe--> bulkhead-helper fetch, as the task's user
//!    |                                  |  <-- pipe: Report lines
//!    +-- Cache: one download for all    +-- network, files, archives, sandbox
//! ```
//!
//! The agent decides and keeps books; whatever touches the network, a stranger's file
//! or an archive happens in a helper process, one for each URI, that has the rights
//! of the task's user and dies with the agent.
//!
//! * `log`: lines for people in the sandbox.
//! * `uri`: what a URI asks for (pure). `message`: what agent and helper say.
//! * `fetcher`, `process`: the agent's side. `cache`: downloads kept for the next.
//! * `speech`: a helper's side. `wanted`: work that several wait for.
//! * `helper`: body of `bulkhead-helper fetch`. `unpack`: archives.

mod cache;
mod fetcher;
mod helper;
mod log;
mod message;
mod process;
mod speech;
mod unpack;
mod uri;
mod wanted;

pub use fetcher::{FetchError, Fetcher, Figures, Progress, Settings, Wanted, Watcher};
pub use helper::main;
pub(crate) use process::Program;
pub(crate) use speech::{read_job, tell};
pub(crate) use unpack::Frames;
pub(crate) use wanted::Flights;
