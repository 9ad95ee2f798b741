//! What master and agent have in common besides the wire: flags, the `/files`
//! service, metrics, versions, logging and signals, and the endpoints over them.
//!
//! Both daemons and their programs in `src/bin` call this; it knows neither.

pub mod api;
pub mod files;
pub mod flags;
pub mod listen;
pub mod logging;
pub mod metrics;
pub mod prometheus;
pub mod signals;
pub mod units;
pub mod version;
