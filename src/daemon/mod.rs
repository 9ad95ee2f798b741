//! What master and agent have in common besides the wire: flags, the `/files`
//! service, metrics, versions, system statistics, logging and signals.
//!
//! Both daemons and their programs in `src/bin` call this; it knows neither.

pub mod flags;
pub mod units;
