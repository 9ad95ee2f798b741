//! What the tests share: a cluster with an engine, tasks in it, their sandboxes.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::cluster::{Cluster, Options, get};
use crate::dockerd::{Dockerd, IMAGE};
use crate::framework::command;

/// A cluster whose agent uses the engine, with more flags.
pub fn cluster(name: &str, engine: &Dockerd, more: &[&str]) -> Cluster {
    let flags = engine.flags();
    let all: Vec<&str> = flags.iter().map(String::as_str).chain(more.iter().copied()).collect();
    Cluster::start(name, Options::default().agent(&all))
}

/// A shell command in a container of Docker, on the host's network.
pub fn docker_task(name: &str, line: &str) -> Value {
    let mut task = command(name, line, 32.0);
    task["container"] = json!({ "type": "DOCKER", "docker": { "image": IMAGE } });
    task
}

/// A task whose first process hears no signal that it did not ask for, so that there is
/// nothing to wait for when it is killed.
pub fn deaf(mut task: Value) -> Value {
    task["kill_policy"] = json!({ "grace_period": { "nanoseconds": 100_000_000 } });
    task
}

/// A member of an executor in the agent's /state.
fn executor(cluster: &Cluster, task: &str, member: &str) -> String {
    let state = get(&cluster.agent, "/state").expect("/state");
    let state: Value = serde_json::from_str(&state).expect("JSON");
    let frameworks = ["frameworks", "completed_frameworks"].map(|list| state[list].as_array());
    frameworks
        .into_iter()
        .flatten()
        .flatten()
        .flat_map(|f| [&f["executors"], &f["completed_executors"]])
        .filter_map(Value::as_array)
        .flatten()
        .find(|e| e["id"] == task)
        .and_then(|e| e[member].as_str())
        .unwrap_or_else(|| panic!("no {member} of {task}: {state:#}"))
        .to_owned()
}

/// The host's path of a task's sandbox.
pub fn sandbox(cluster: &Cluster, task: &str) -> String {
    executor(cluster, task, "directory")
}

/// The engine's name of a task's container.
pub fn container(cluster: &Cluster, task: &str) -> String {
    format!("mesos-{}", executor(cluster, task, "container"))
}

/// A file of a task's sandbox.
pub fn file(cluster: &Cluster, task: &str, name: &str) -> String {
    let path = format!("{}/{name}", sandbox(cluster, task));
    std::fs::read_to_string(&path).unwrap_or_default()
}

/// Waits until something holds.
pub async fn eventually(what: &str, holds: impl Fn() -> bool) {
    let by = Instant::now() + Duration::from_secs(60);
    while !holds() {
        assert!(Instant::now() < by, "waited 60 s for {what}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}
