//! Command tasks: output where Mesos puts it, results, the kill policy, and an
//! update that was not acknowledged before the agent died.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::cluster::{Cluster, Options, get};
use crate::framework::{Framework, command};
use crate::require;

/// The sandbox of an executor, from the agent's /state.
fn sandbox(cluster: &Cluster, executor: &str) -> String {
    let state: Value =
        serde_json::from_str(&get(&cluster.agent, "/state").expect("/state")).expect("JSON");
    let frameworks = state["frameworks"].as_array().into_iter().flatten();
    frameworks
        .flat_map(|f| [&f["executors"], &f["completed_executors"]])
        .filter_map(Value::as_array)
        .flatten()
        .find(|e| e["id"] == executor)
        .and_then(|e| e["directory"].as_str())
        .unwrap_or_else(|| panic!("no sandbox of {executor}: {state:#}"))
        .to_owned()
}

/// Waits until `path` contains `text`.
fn wait_for(path: &str, text: &str) -> String {
    let by = Instant::now() + Duration::from_secs(10);
    loop {
        let content = std::fs::read_to_string(path).unwrap_or_default();
        if content.contains(text) {
            return content;
        }
        assert!(Instant::now() < by, "{path} does not say {text:?}: {content:?}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[tokio::test]
async fn output_and_state_are_where_mesos_puts_them() {
    require!(root, cgroup);
    let cluster = Cluster::start("output", Options::default());
    let mut framework = Framework::subscribe(&cluster.master, "output").await;
    let mut task = command("hello", "echo say $GREETING; echo err >&2; sleep 100", 32.0);
    task["command"]["environment"] =
        json!({ "variables": [{ "name": "GREETING", "value": "hello" }] });
    let container = framework.start(task).await;
    let sandbox = sandbox(&cluster, "hello");
    assert!(sandbox.ends_with(&format!("/executors/hello/runs/{container}")), "{sandbox}");
    let latest = std::fs::read_link(format!("{sandbox}/../latest")).expect("the link `latest`");
    assert!(latest.ends_with(&container), "{}", latest.display());
    wait_for(&format!("{sandbox}/stderr"), "err\n");
    let file = get(&cluster.agent, &format!("/files/read?path={sandbox}/stdout&offset=0"));
    let file: Value = serde_json::from_str(&file.expect("the file is served")).expect("JSON");
    assert_eq!(file["data"], "say hello\n");
    let master: Value =
        serde_json::from_str(&get(&cluster.master, "/state").expect("/state")).expect("JSON");
    assert_eq!(master["frameworks"][0]["tasks"][0]["state"], "TASK_RUNNING");
}

#[tokio::test]
async fn results_are_told_apart() {
    require!(root, cgroup);
    let cluster = Cluster::start("results", Options::default());
    let mut framework = Framework::subscribe(&cluster.master, "results").await;
    let fine = framework.run(command("fine", "exit 0", 32.0), 30).await;
    assert_eq!(fine["state"], "TASK_FINISHED");
    let three = framework.run(command("three", "exit 3", 32.0), 30).await;
    assert_eq!(three["state"], "TASK_FAILED");
    assert_eq!(three["message"], "Command exited with status 3");
    let signal = framework.run(command("signal", "kill -SEGV $$", 32.0), 30).await;
    assert_eq!(signal["state"], "TASK_FAILED");
    let message = signal["message"].as_str().unwrap_or_default();
    assert!(message.starts_with("Command terminated with signal Segmentation fault"), "{message}");
}

#[tokio::test]
async fn a_kill_asks_first_and_insists_after_the_grace_period() {
    require!(root, cgroup);
    let cluster = Cluster::start("kill", Options::default());
    let mut framework = Framework::subscribe(&cluster.master, "kill").await;
    let polite = "trap 'echo asked; exit 0' TERM; echo ready; while :; do sleep 0.1; done";
    let stubborn = "trap '' TERM; echo ready; while :; do sleep 0.1; done";
    for (name, line) in [("polite", polite), ("stubborn", stubborn)] {
        let mut task = command(name, line, 32.0);
        task["kill_policy"] = json!({ "grace_period": { "nanoseconds": 700_000_000 } });
        framework.start(task).await;
        let stdout = format!("{}/stdout", sandbox(&cluster, name));
        wait_for(&stdout, "ready");
        let asked = Instant::now();
        framework.call("KILL", json!({ "task_id": { "value": name } })).await;
        framework.until("the task to end", 30, |f| f.end(name).is_some()).await;
        assert_eq!(framework.state(name), Some("TASK_KILLED"), "{:?}", framework.end(name));
        if name == "polite" {
            wait_for(&stdout, "asked");
        } else {
            let took = asked.elapsed();
            assert!(took > Duration::from_millis(650), "killed after {took:?}, grace is 700 ms");
        }
    }
}

#[tokio::test]
async fn an_update_not_acknowledged_comes_again_after_the_agents_death() {
    require!(root, cgroup);
    let mut cluster = Cluster::start("unacked", Options::default());
    let mut framework = Framework::subscribe(&cluster.master, "unacked").await;
    framework.acknowledge = false;
    framework.launch(vec![command("t", "exit 0", 32.0)]).await;
    framework.until("the first update", 30, |f| f.statuses.contains_key("t")).await;
    cluster.kill_agent();
    framework.acknowledge = true;
    cluster.start_agent();
    framework.until("the end of the task", 60, |f| f.end("t").is_some()).await;
    assert_eq!(framework.state("t"), Some("TASK_FINISHED"), "{:?}", framework.statuses["t"]);
}
