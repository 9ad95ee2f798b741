//! Custom executors in Docker containers: this program again, started by the agent
//! inside a container that sees the machine's libraries. One speaks V1 HTTP, one V0
//! libprocess; each has two tasks, before and after the agent's death.

use std::time::Duration;

use bulkhead::wire::client::{Call, Client};
use serde_json::{Value, json};

use super::scene::{cluster, eventually};
use crate::cluster::{Cluster, get};
use crate::dockerd::{Dockerd, IMAGE, Network};
use crate::framework::{Framework, scalar};
use crate::require;
use crate::v0;

fn env(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

/// Not a test of its own: the V1 executor.
#[tokio::test]
#[ignore = "an executor that the tests below run in a container"]
async fn speaks_v1() {
    let (Some(agent), Some(framework), Some(executor)) =
        (env("MESOS_AGENT_ENDPOINT"), env("MESOS_FRAMEWORK_ID"), env("MESOS_EXECUTOR_ID"))
    else {
        return;
    };
    let call = |kind: &str, body: Value| {
        let mut call = json!({ "type": kind, "executor_id": { "value": executor },
                               "framework_id": { "value": framework } });
        call[kind.to_lowercase()] = body;
        call.to_string()
    };
    let post = |body: String| Call::post("/api/v1/executor", "application/json", body);
    let client = Client::new(agent.clone());
    let (mut tasks, mut updates): (Vec<Value>, Vec<Value>) = Default::default();
    loop {
        let again = json!({ "unacknowledged_tasks": tasks, "unacknowledged_updates": updates });
        let subscribe = call("SUBSCRIBE", again);
        let subscribe = post(subscribe).header("accept", "application/json");
        let Ok(stream) = client.stream(subscribe).await else {
            tokio::time::sleep(Duration::from_millis(100)).await;
            continue;
        };
        let mut events = stream.events(1 << 20);
        while let Ok(Some(event)) = events.next().await {
            let event: Value = serde_json::from_slice(&event).expect("JSON");
            match event["type"].as_str().unwrap_or_default() {
                "LAUNCH" => {
                    let task = event["launch"]["task"].clone();
                    let uuid = uuid::Uuid::new_v4();
                    let uuid = base64_of(uuid.as_bytes());
                    let status = json!({ "task_id": task["task_id"], "state": "TASK_RUNNING",
                        "source": "SOURCE_EXECUTOR", "executor_id": { "value": executor },
                        "agent_id": task["agent_id"], "uuid": uuid });
                    tasks.push(task);
                    updates.push(json!({ "status": status }));
                    let _ = client.call(post(call("UPDATE", json!({ "status": status })))).await;
                }
                "ACKNOWLEDGED" => {
                    let uuid = &event["acknowledged"]["uuid"];
                    updates.retain(|update| update["status"]["uuid"] != *uuid);
                    tasks.retain(|task| task["task_id"] != event["acknowledged"]["task_id"]);
                }
                "SHUTDOWN" => return,
                _ => {}
            }
        }
    }
}

fn base64_of(bytes: &[u8]) -> String {
    use base64::Engine as _;
    base64::engine::general_purpose::STANDARD.encode(bytes)
}

/// Not a test of its own: the V0 executor.
#[tokio::test]
#[ignore = "an executor that the tests below run in a container"]
async fn speaks_v0() {
    let (Some(agent), Some(framework), Some(executor)) =
        (env("MESOS_AGENT_ENDPOINT"), env("MESOS_FRAMEWORK_ID"), env("MESOS_EXECUTOR_ID"))
    else {
        return;
    };
    let _ = v0::start_slow(&agent, &framework, &executor).await.await;
}

/// A task of an executor that is this program's test `speaks`.
fn task(name: &str, speaks: &str) -> Value {
    let own = std::env::current_exe().expect("own path");
    let mount = |path: &str| json!({ "mode": "RO", "host_path": path, "container_path": path });
    let line =
        format!("exec {} --exact docker::executors::{speaks} --ignored --nocapture", own.display());
    let directory = own.parent().expect("a directory").display().to_string();
    json!({
        "name": name, "task_id": { "value": name },
        "resources": [scalar("cpus", 0.05), scalar("mem", 32.0)],
        "executor": {
            "type": "CUSTOM", "executor_id": { "value": speaks },
            "command": { "shell": true, "value": line },
            "resources": [scalar("cpus", 0.05), scalar("mem", 64.0)],
            "container": { "type": "DOCKER", "docker": { "image": IMAGE },
                "volumes": [mount("/usr"), mount("/lib"), mount("/lib64"), mount(&directory)] },
        },
    })
}

fn pid_of_executor(cluster: &Cluster, executor: &str) -> Option<u64> {
    let all: Value = serde_json::from_str(&get(&cluster.agent, "/containers")?).ok()?;
    let ours = all.as_array()?.iter().find(|entry| entry["executor_id"] == executor)?;
    ours["status"]["executor_pid"].as_u64()
}

#[tokio::test]
async fn executors_of_both_kinds_live_in_docker_and_survive_the_agent() {
    require!(root, cgroup, busybox, docker);
    let engine = Dockerd::start("executors", Network::Host);
    // As where Mesos' agent itself is run by docker: here there is nothing to run in it.
    let mut cluster = cluster("docker-executors", &engine, &["--docker_mesos_image=mesos-agent"]);
    let mut framework = Framework::subscribe(&cluster.master, "docker-executors").await;
    let kinds = ["speaks_v1", "speaks_v0"];
    for kind in kinds {
        framework.start(task(&format!("{kind}-1"), kind)).await;
    }
    let pids = kinds.map(|kind| pid_of_executor(&cluster, kind));
    assert!(pids.iter().all(Option::is_some), "{pids:?}");
    assert_eq!(engine.containers().len(), kinds.len(), "{:?}", engine.containers());

    cluster.kill_agent();
    cluster.start_agent();
    for kind in kinds {
        framework.start(task(&format!("{kind}-2"), kind)).await;
        assert!(framework.end(&format!("{kind}-1")).is_none());
    }
    assert_eq!(kinds.map(|kind| pid_of_executor(&cluster, kind)), pids, "the same processes");
    let running = |(_, state): &(String, String)| state == "running";
    assert!(engine.containers().iter().all(running), "{:?}", engine.containers());

    for kind in kinds {
        let agent = framework.statuses[&format!("{kind}-1")][0]["agent_id"].clone();
        let body = json!({ "executor_id": { "value": kind }, "agent_id": agent });
        framework.call("SHUTDOWN", body).await;
        for number in 1..=2 {
            let name = format!("{kind}-{number}");
            framework.until("the end", 60, |f| f.end(&name).is_some()).await;
        }
    }
    eventually("both containers to end", || !engine.containers().iter().any(running)).await;
}
