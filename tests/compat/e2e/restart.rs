//! `kill -9` of the agent: tasks live on, and each ends once at the framework.

use std::collections::BTreeSet;
use std::time::Duration;

use serde_json::{Value, json};

use crate::cluster::{Cluster, Options};
use crate::framework::{Framework, command, is_terminal};
use crate::require;

const TASKS: usize = 200;

fn names() -> Vec<String> {
    (0..TASKS).map(|i| format!("t{i}")).collect()
}

/// Launches all tasks and waits until every one runs.
async fn launch(framework: &mut Framework, tasks: Vec<Value>) {
    let names: Vec<String> =
        tasks.iter().map(|t| t["task_id"]["value"].as_str().unwrap_or("").to_owned()).collect();
    framework.launch(tasks).await;
    framework
        .until("all tasks to run", 120, |f| {
            names.iter().all(|n| {
                f.statuses.get(n).is_some_and(|s| s.iter().any(|s| s["state"] == "TASK_RUNNING"))
            })
        })
        .await;
}

/// Every task has one terminal state (an update sent twice counts once), the
/// right one.
fn check_ends(framework: &Framework, right: impl Fn(usize) -> &'static str) {
    let mut wrong = Vec::new();
    for (i, name) in names().iter().enumerate() {
        let ends: BTreeSet<(String, String)> = framework.statuses[name]
            .iter()
            .filter(|s| is_terminal(s["state"].as_str().unwrap_or("")))
            .map(|s| (s["state"].to_string(), s["uuid"].to_string()))
            .collect();
        let states: Vec<&str> = ends.iter().map(|(s, _)| s.trim_matches('"')).collect();
        if states != [right(i)] {
            wrong.push(format!("{name}: {states:?}, not {}", right(i)));
        }
    }
    assert!(wrong.is_empty(), "{} wrong: {:?}", wrong.len(), &wrong[..wrong.len().min(10)]);
}

#[tokio::test]
async fn agent_killed_while_200_tasks_run() {
    require!(root, cgroup);
    let mut cluster = Cluster::start("killrun", Options::default());
    let mut framework = Framework::subscribe(&cluster.master, "killrun").await;
    // Every second task ends while the agent is away.
    let task = |i: usize| {
        let line = if i.is_multiple_of(2) {
            "sleep 1000".to_owned()
        } else {
            format!("sleep 20; exit {}", i % 3)
        };
        command(&format!("t{i}"), &line, 8.0)
    };
    let started = std::time::Instant::now();
    launch(&mut framework, (0..TASKS).map(task).collect()).await;
    cluster.kill_agent();
    let away = Duration::from_secs(22).saturating_sub(started.elapsed());
    tokio::time::sleep(away.max(Duration::from_secs(1))).await;
    cluster.start_agent();

    let half = |even: bool| {
        names().into_iter().enumerate().filter(move |(i, _)| i.is_multiple_of(2) == even)
    };
    framework
        .until("the tasks that ended", 60, |f| half(false).all(|(_, n)| f.end(&n).is_some()))
        .await;
    for (_, name) in half(true) {
        assert_eq!(framework.state(&name), Some("TASK_RUNNING"), "{name}");
        framework.call("KILL", json!({ "task_id": { "value": name } })).await;
    }
    framework.until("the kills", 60, |f| names().iter().all(|n| f.end(n).is_some())).await;
    check_ends(&framework, |i| match i {
        i if i.is_multiple_of(2) => "TASK_KILLED",
        i if i.is_multiple_of(3) => "TASK_FINISHED",
        _ => "TASK_FAILED",
    });
}

#[tokio::test]
async fn agent_killed_while_200_tasks_finish() {
    require!(root, cgroup);
    let mut cluster = Cluster::start("killend", Options::default());
    let mut framework = Framework::subscribe(&cluster.master, "killend").await;
    let task = |i: usize| {
        let line = format!("sleep {}; exit {}", 12.0 + i as f64 / 50.0, i % 2);
        command(&format!("t{i}"), &line, 8.0)
    };
    launch(&mut framework, (0..TASKS).map(task).collect()).await;
    framework
        .until("a quarter to end", 60, |f| {
            names().iter().filter(|n| f.end(n).is_some()).count() >= TASKS / 4
        })
        .await;
    cluster.kill_agent();
    cluster.start_agent();
    framework.until("all ends", 90, |f| names().iter().all(|n| f.end(n).is_some())).await;
    check_ends(&framework, |i| if i.is_multiple_of(2) { "TASK_FINISHED" } else { "TASK_FAILED" });
}

#[tokio::test]
async fn master_restarts_and_knows_its_agent() {
    require!(root, cgroup);
    // An agent with a fixed master looks for it again when pings stay away.
    let options = Options { durable: true, ..Options::default() }
        .master(&["--agent_ping_timeout=1secs", "--max_agent_ping_timeouts=5"]);
    let mut cluster = Cluster::start("master", options);
    let mut framework = Framework::subscribe(&cluster.master, "master").await;
    framework.start(command("stay", "sleep 1000", 16.0)).await;
    let id = framework.id.clone();
    drop(framework);
    cluster.kill_master();
    cluster.start_master();
    let call = json!({
        "type": "SUBSCRIBE", "framework_id": { "value": id },
        "subscribe": { "framework_info": { "id": { "value": id }, "user": "root",
            "name": "master", "roles": ["*"], "checkpoint": true, "failover_timeout": 300.0,
            "capabilities": [{ "type": "MULTI_ROLE" }] } },
    });
    let mut framework = Framework::subscribe_with(&cluster.master, call).await;
    assert_eq!(framework.id, id);
    framework.offer().await;
    framework.call("RECONCILE", json!({ "tasks": [{ "task_id": { "value": "stay" } }] })).await;
    framework.until("reconciliation", 30, |f| f.state("stay") == Some("TASK_RUNNING")).await;
    framework.call("KILL", json!({ "task_id": { "value": "stay" } })).await;
    framework.until("the kill", 30, |f| f.end("stay").is_some()).await;
    assert_eq!(framework.state("stay"), Some("TASK_KILLED"));
}
