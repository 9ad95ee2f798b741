//! The language of Mesos: messages, their JSON dialect, resources, RecordIO.
//!
//! Owns everything that both daemons, the executors and the command line say to
//! each other. No I/O, no clock, no async runtime: bytes and values only.
//!
//! * [`json`]: protobuf to and from Mesos' JSON dialect.
//! * [`schema`]: static tables of every message, v0, v1 and internal.
//! * [`recordio`]: the framing of event streams.
//! * [`resources`], [`attributes`], [`roles`]: the values that agents offer.
//! * [`secrets`]: messages without their secret values.
//!
//! The generated structs cover the v0 packages (`mesos`, `mesos.scheduler`,
//! `mesos.internal`, ...). v1 messages share their wire form and are reached
//! through the schema of the v1 name: see [`v1`].

#![forbid(unsafe_code)]

#[allow(missing_docs, clippy::all, clippy::pedantic)]
mod packages {
    include!(concat!(env!("OUT_DIR"), "/packages.rs"));
}

pub mod attributes;
mod containers;
pub mod json;
pub mod model;
pub mod recordio;
pub mod resources;
pub mod roles;
pub mod schema;
pub mod secrets;
pub mod v1;

pub use packages::mesos::*;
pub use packages::{appc, bulkhead, docker, oci};
