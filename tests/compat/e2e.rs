//! The built master and agent from outside: limits, checks, agent death, bad input.

#[path = "../support/cluster.rs"]
mod cluster;
#[path = "../support/door.rs"]
mod door;
#[path = "../support/framework.rs"]
mod framework;
#[path = "../support/mod.rs"]
mod support;
#[path = "../support/volumes.rs"]
mod volumes;

mod e2e {
    //! One file per theme.
    pub mod bad_input;
    pub mod checks;
    pub mod collection;
    pub mod devices;
    pub mod disk;
    pub mod limits;
    pub mod logs;
    pub mod metrics;
    pub mod ports;
    pub mod restart;
    pub mod tasks;
    pub mod volumes;
    pub mod workdir;
}
