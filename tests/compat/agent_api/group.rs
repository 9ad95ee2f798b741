//! Task groups on a real cluster: the built master, agent and default executor.

use serde_json::{Value, json};

use crate::cluster::{Cluster, Options, get};
use crate::framework::{Framework, command, scalar};
use crate::require;

fn group(executor: &str, tasks: Vec<Value>, offer: &Value) -> Value {
    let tasks: Vec<Value> = tasks
        .into_iter()
        .map(|mut task| {
            task["agent_id"] = offer["agent_id"].clone();
            task
        })
        .collect();
    json!({ "type": "LAUNCH_GROUP", "launch_group": {
        "executor": { "type": "DEFAULT", "executor_id": { "value": executor },
            "resources": [scalar("cpus", 0.1), scalar("mem", 32.0), scalar("disk", 32.0)] },
        "task_group": { "tasks": tasks } } })
}

pub async fn launch(framework: &mut Framework, executor: &str, tasks: Vec<Value>) {
    let offer = framework.offer().await;
    let mut group = group(executor, tasks, &offer);
    group["launch_group"]["executor"]["framework_id"] = json!({ "value": framework.id });
    let body = json!({ "offer_ids": [offer["id"]], "operations": [group],
                       "filters": { "refuse_seconds": 0.1 } });
    let reply = framework.call("ACCEPT", body).await;
    assert_eq!(reply.status.as_u16(), 202, "{}", reply.text());
}

#[tokio::test]
async fn a_group_runs_in_nested_containers_and_ends_as_one() {
    require!(root, cgroup);
    let cluster = Cluster::start("group", Options::default());
    let mut framework = Framework::subscribe(&cluster.master, "group").await;
    let tasks = vec![
        command("g-run", "echo from $MESOS_CONTAINER_IP; sleep 1000", 32.0),
        command("g-fin", "echo done", 32.0),
    ];
    launch(&mut framework, "pod", tasks).await;
    framework
        .until("one to run, one to finish", 60, |f| {
            f.state("g-run") == Some("TASK_RUNNING") && f.end("g-fin").is_some()
        })
        .await;
    assert_eq!(framework.end("g-fin").expect("ended")["state"], "TASK_FINISHED");
    let status = &framework.statuses["g-run"].last().expect("a status").clone();
    let container = &status["container_status"]["container_id"];
    assert!(container["parent"]["value"].is_string(), "{status}");
    let pid = status["container_status"]["executor_pid"].as_u64().expect("a pid");
    let line = std::fs::read(format!("/proc/{pid}/cmdline")).expect("the task's process");
    assert!(line.windows(5).any(|w| w == b"sleep"), "{}", String::from_utf8_lossy(&line));

    let state: Value =
        serde_json::from_str(&get(&cluster.agent, "/state").expect("/state")).expect("JSON");
    let executor = &state["frameworks"][0]["executors"][0];
    assert_eq!((&executor["id"], &executor["type"]), (&json!("pod"), &json!("DEFAULT")));
    let sandbox = executor["directory"].as_str().expect("a directory");
    let output = format!("{sandbox}/tasks/g-run/stdout");
    let output = std::fs::read_to_string(&output).expect("the task's own output");
    assert_eq!(output, "from 127.0.0.1\n");

    // A second group in the same executor; its failure is its own.
    let tasks = vec![command("h-fail", "exit 3", 32.0), command("h-run", "sleep 1000", 32.0)];
    launch(&mut framework, "pod", tasks).await;
    framework
        .until("the second group to end", 60, |f| {
            f.end("h-fail").is_some() && f.end("h-run").is_some()
        })
        .await;
    assert_eq!(framework.end("h-fail").expect("ended")["state"], "TASK_FAILED");
    assert_eq!(framework.end("h-run").expect("ended")["state"], "TASK_KILLED");
    assert_eq!(framework.state("g-run"), Some("TASK_RUNNING"));
    framework.call("KILL", json!({ "task_id": { "value": "g-run" } })).await;
    framework.until("the kill", 60, |f| f.end("g-run").is_some()).await;
    assert_eq!(framework.end("g-run").expect("ended")["state"], "TASK_KILLED");
}

#[tokio::test]
async fn a_group_lives_through_the_agents_death() {
    require!(root, cgroup);
    let mut cluster = Cluster::start("group-restart", Options::default());
    let mut framework = Framework::subscribe(&cluster.master, "group-restart").await;
    let line = "until test -e stop; do sleep 0.1; done";
    launch(&mut framework, "pod", vec![command("g", line, 32.0)]).await;
    framework.until("it to run", 60, |f| f.state("g") == Some("TASK_RUNNING")).await;
    let state: Value =
        serde_json::from_str(&get(&cluster.agent, "/state").expect("/state")).expect("JSON");
    let sandbox = state["frameworks"][0]["executors"][0]["directory"].as_str().expect("a path");
    let sandbox = sandbox.to_owned();
    cluster.kill_agent();
    std::fs::write(format!("{sandbox}/tasks/g/stop"), "").expect("the task's sandbox");
    cluster.start_agent();
    framework.until("the end", 60, |f| f.end("g").is_some()).await;
    assert_eq!(framework.end("g").expect("ended")["state"], "TASK_FINISHED");
}
