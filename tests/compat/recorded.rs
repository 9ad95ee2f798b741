//! Recorded sessions with the real Mesos, played against a running master and
//! agent of ours, with real containers.
//!
//! * `session`: the scheduler session, step by step, in JSON and in protobuf.
//! * `busy`: what all endpoints show while tasks run and after they ended.

#[path = "../support/cluster.rs"]
mod cluster;
#[path = "../support/framework.rs"]
mod framework;
#[path = "../support/names.rs"]
mod names;
#[path = "../support/raw.rs"]
mod raw;
#[path = "../support/shape.rs"]
mod shape;
#[path = "../support/mod.rs"]
mod support;

#[path = "recorded/busy.rs"]
mod busy;
#[path = "recorded/session.rs"]
mod session;

use cluster::{Cluster, Options};

/// A cluster like the recorded one.
fn cluster(name: &str, more: &[&str]) -> Cluster {
    let agent =
        ["--hostname=agent1.example", "--resources=cpus:4;mem:4096;disk:10240;ports:[31000-32000]"];
    let options = Options::default().master(&["--hostname=master1.example"]);
    Cluster::start(name, options.agent(&agent).agent(more))
}
