//! Containers on networks of their own, with Debian's CNI plugins and with bad ones.
//! Every test has a network namespace that plays the host: nothing of the machine
//! changes.

#[path = "../support/cluster.rs"]
mod cluster;
#[path = "../support/framework.rs"]
mod framework;
#[path = "../support/mod.rs"]
mod support;

mod network {
    //! One file per theme.
    pub mod deaths;
    pub mod dying;
    pub mod examples;
    pub mod faults;
    pub mod groups;
    pub mod host;
    pub mod hosts;
    pub mod kinds;
    pub mod plugins;
    pub mod ports;
    pub mod versions;
}
