//! `network/*`: whose ports are whose, and networks of containers' own.
//!
//! * [`port_mapping`]: all have the host's address, each its own ports.
//! * [`ports`]: what listens in a container must be a port that it asked for.

pub mod port_mapping;
pub mod ports;
