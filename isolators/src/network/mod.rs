//! `network/*`: whose ports are whose, and networks of containers' own.
//!
//! * [`ports`]: what listens in a container must be a port that it asked for.

pub mod ports;
