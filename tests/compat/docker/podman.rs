//! The same over Podman's compatible socket.

use std::process::Command;

use serde_json::{Value, json};

use super::scene::{deaf, docker_task, eventually, file};
use crate::cluster::{Cluster, Options, binary, get};
use crate::framework::Framework;
use crate::podman::Podman;
use crate::require;

fn task(name: &str, line: &str) -> Value {
    Podman::of(docker_task(name, line))
}

fn cluster(podman: &Podman, name: &str) -> Cluster {
    let mut flags = podman.flags();
    flags.push("--docker_keep_exited=0".into());
    let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
    Cluster::start(name, Options::default().agent(&flags))
}

#[tokio::test]
async fn podman_runs_tasks_too() {
    require!(root, cgroup, busybox, program_podman);
    let podman = Podman::start("tasks");
    let mut cluster = cluster(&podman, "podman");
    let mut framework = Framework::subscribe(&cluster.master, "podman").await;
    let end = framework.run(task("says", "echo out; echo err >&2; env; exit 3"), 60).await;
    assert_eq!(end["message"], "Command exited with status 3", "{end}");
    assert_eq!(file(&cluster, "says", "stderr"), "err\n");
    let said = file(&cluster, "says", "stdout");
    assert!(said.starts_with("out\n") && said.contains("MESOS_CONTAINER_NAME=mesos-"), "{said}");

    let stays = task("stays", "echo ready; trap '' TERM; while :; do sleep 1; done");
    framework.start(deaf(stays)).await;
    cluster.kill_agent();
    cluster.start_agent();
    let statistics = get(&cluster.agent, "/monitor/statistics").expect("statistics");
    assert!(statistics.contains("\"mem_limit_bytes\":33554432"), "{statistics}");
    let inside = Command::new(binary("bulkhead"))
        .args(["exec", "--no-stdin", "--master", &cluster.master, "stays", "--", "echo", "in"])
        .output()
        .expect("run bulkhead");
    assert_eq!(String::from_utf8_lossy(&inside.stdout), "in\n", "{inside:?}");
    framework.call("KILL", json!({ "task_id": { "value": "stays" } })).await;
    framework.until("the kill", 60, |f| f.end("stays").is_some()).await;
    assert_eq!(framework.state("stays"), Some("TASK_KILLED"), "{:?}", framework.end("stays"));
    eventually("the ended ones to go", || podman.containers().is_empty()).await;
}
