//! `network/*`: networks of containers, and CNI plugins of our own.

pub mod cni;
pub mod groups;
mod nft;
mod plugin;
pub mod port_mapper;
