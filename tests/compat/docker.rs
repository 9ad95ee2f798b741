//! The docker containerizer from outside, against a real engine.

#[path = "../support/cluster.rs"]
mod cluster;
#[path = "../support/dockerd.rs"]
mod dockerd;
#[path = "../support/framework.rs"]
mod framework;
#[path = "../support/input.rs"]
mod input;
#[path = "../support/nginx.rs"]
mod nginx;
#[path = "../support/podman.rs"]
mod podman;
#[path = "../support/mod.rs"]
mod support;
#[path = "recovery/v0.rs"]
#[allow(dead_code, reason = "every test program uses its own part")]
mod v0;

mod docker {
    //! One file per theme.
    pub mod attach;
    pub mod cni;
    #[path = "../network/dying.rs"]
    pub mod dying;
    pub mod engine;
    pub mod executors;
    pub mod hooks;
    #[path = "../network/host.rs"]
    #[allow(dead_code, reason = "every test program uses its own part")]
    pub mod host;
    pub mod images;
    pub mod logs;
    pub mod network;
    pub mod podman;
    pub mod removal;
    pub mod scene;
    pub mod tasks;
    pub mod volumes;
    pub mod walkthrough;
}
