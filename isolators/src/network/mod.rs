//! `network/*`: networks of containers.

pub mod cni;
