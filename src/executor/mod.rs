//! The default executor: task groups as nested containers.
//!
//! One small process per executor, started by the agent in the executor's own
//! container (`bulkhead-executor`, also installed as `mesos-default-executor`).
//! It speaks the v1 executor API to the agent and starts, waits for and kills
//! the tasks' containers over the agent's v1 operator API, so it works against
//! an agent of either make.
//!
//! * [`core`]: what to do when, a pure state machine.
//! * `check`: a command check, run in the task's container.
//! * [`verdict`]: the state and words with which a task ends.
//! * [`settings`]: the environment the agent gives to an executor.
//! * [`driver`]: the one task that runs it all.
//!
//! Command tasks do not pass through here: the agent runs them itself.

mod check;
pub mod core;
pub mod driver;
pub mod settings;
pub mod verdict;
