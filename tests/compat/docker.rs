//! The docker containerizer from outside, against a real engine.

#[path = "../support/cluster.rs"]
mod cluster;
#[path = "../support/dockerd.rs"]
mod dockerd;
#[path = "../support/framework.rs"]
mod framework;
#[path = "../support/mod.rs"]
mod support;

mod docker {
    //! One file per theme.
    pub mod engine;
    pub mod network;
    pub mod removal;
    pub mod scene;
    pub mod tasks;
}
