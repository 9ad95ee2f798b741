//! `network/*`: whose ports are whose, and networks of containers' own.
//!
//! * [`cni`]: containers on networks of their own, by plugins.
//! * [`bridge`], [`port_mapper`], [`groups`]: CNI plugins of our own.
//! * [`port_mapping`]: all have the host's address, each its own ports.
//! * [`ports`]: what listens in a container must be a port that it asked for.
//! * `ends`: the counters of host's ends as containers see them.
//! * `sorted`: lists of the kernel that are read once for all containers.

pub mod bridge;
pub mod cni;
mod ends;
pub mod groups;
mod nft;
mod plugin;
pub mod port_mapper;
pub mod port_mapping;
pub mod ports;
mod sorted;
