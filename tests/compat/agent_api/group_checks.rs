//! Checks of the tasks of a group, by the default executor, and the sessions that
//! it runs commands in.

use std::sync::atomic::Ordering;
use std::time::Duration;

use bulkhead::wire::client::{Call, Client};
use serde_json::{Value, json};
use tokio::time::timeout;

use crate::cluster::{Cluster, Options};
use crate::door::Door;
use crate::framework::{Framework, command};
use crate::group::launch;
use crate::require;

/// Longest wait for anything of a session.
const PATIENCE: Duration = Duration::from_secs(60);

#[tokio::test]
async fn a_sick_task_of_a_group_is_killed() {
    require!(root, cgroup);
    let cluster = Cluster::start("group-sick", Options::default());
    let mut framework = Framework::subscribe(&cluster.master, "group-sick").await;
    let door = Door::open();
    let mut web = command("web", "sleep 1000", 32.0);
    web["health_check"] = json!({ "type": "HTTP", "http": { "port": door.port, "path": "/" },
        "delay_seconds": 0.0, "interval_seconds": 0.1, "grace_period_seconds": 0.0,
        "consecutive_failures": 2 });
    launch(&mut framework, "pod", vec![web, command("side", "sleep 1000", 32.0)]).await;
    framework
        .until("health", 60, |f| {
            f.statuses.get("web").is_some_and(|all| all.iter().any(|s| s["healthy"] == true))
        })
        .await;
    door.status.store(503, Ordering::Relaxed);
    framework
        .until("the end of both", 60, |f| f.end("web").is_some() && f.end("side").is_some())
        .await;
    let end = framework.end("web").expect("ended");
    assert_eq!((&end["state"], &end["healthy"]), (&json!("TASK_KILLED"), &json!(false)), "{end}");
    assert_eq!(framework.end("side").expect("ended")["state"], "TASK_KILLED");
}

#[tokio::test]
async fn a_command_check_sees_what_its_task_sees() {
    require!(root, cgroup);
    let cluster = Cluster::start("group-check", Options::default());
    let mut framework = Framework::subscribe(&cluster.master, "group-check").await;
    let mut task = command("t", "readlink /proc/self/ns/mnt > space; sleep 1000", 32.0);
    let line = "test -f space || exit 9; readlink /proc/self/ns/mnt | cmp -s - space || exit 3; \
                test -f stop && exit 7; exit 0";
    task["check"] = json!({ "type": "COMMAND",
        "command": { "command": { "shell": true, "value": line } },
        "delay_seconds": 0.0, "interval_seconds": 0.2, "timeout_seconds": 10.0 });
    launch(&mut framework, "pod", vec![task]).await;
    let code = |f: &Framework| {
        let last = f.statuses.get("t").and_then(|all| all.last()).cloned().unwrap_or_default();
        last["check_status"]["command"]["exit_code"].as_i64()
    };
    framework.until("the first result", 60, |f| code(f).is_some_and(|c| c != 9)).await;
    assert_eq!(code(&framework), Some(0), "{:?}", framework.statuses["t"]);

    // A session in the task's container, as `curl` would open one.
    let container =
        framework.statuses["t"].last().expect("a status")["container_status"]["container_id"]
            .clone();
    let call = |line: &str, id: &str| {
        json!({ "type": "LAUNCH_NESTED_CONTAINER_SESSION", "launch_nested_container_session": {
            "container_id": { "value": id, "parent": container },
            "command": { "shell": true, "value": line } } })
        .to_string()
    };
    let client = Client::new(&cluster.agent).timeout(PATIENCE);
    let session = call("touch stop; echo out; echo err >&2; exit 3", "session");
    let session = Call::post("/api/v1", "application/json", session)
        .header("accept", "application/recordio")
        .header("message-accept", "application/json");
    let stream = client.stream(session).await.expect("an answer");
    assert_eq!(stream.status.as_u16(), 200);
    assert_eq!(stream.header("message-content-type"), Some("application/json"));
    let (mut events, mut records) = (stream.events(1 << 20), Vec::new());
    loop {
        let next = timeout(PATIENCE, events.next()).await.expect("a record or the end in time");
        let Some(record) = next.expect("a whole stream") else { break };
        let record: Value = serde_json::from_slice(&record).expect("JSON");
        let data = &record["data"];
        if record["type"] == "DATA" {
            records.push((data["type"].clone(), data["data"].clone()));
        }
    }
    records.sort_by_key(|(kind, _)| kind.to_string());
    // Bytes are base64: "err\n", "out\n".
    let wanted = [(json!("STDERR"), json!("ZXJyCg==")), (json!("STDOUT"), json!("b3V0Cg=="))];
    assert_eq!(records, wanted);
    framework.until("the check to see it", 60, |f| code(f) == Some(7)).await;
    let wait = json!({ "type": "WAIT_NESTED_CONTAINER", "wait_nested_container": {
        "container_id": { "value": "session", "parent": container } } });
    let wait = Call::post("/api/v1", "application/json", wait.to_string());
    let reply = client.call(wait.header("accept", "application/json")).await.expect("an answer");
    let answer: Value = serde_json::from_slice(&reply.body).expect("JSON");
    assert_eq!(answer["wait_nested_container"]["exit_status"], 768, "{answer}");

    // Who leaves ends the session.
    let session = call("sleep 1000", "left");
    let session =
        Call::post("/api/v1", "application/json", session).header("accept", "application/json");
    let stream = client.stream(session).await.expect("an answer");
    drop(stream);
    let wait = json!({ "type": "WAIT_NESTED_CONTAINER", "wait_nested_container": {
        "container_id": { "value": "left", "parent": container } } });
    let wait = Call::post("/api/v1", "application/json", wait.to_string());
    let reply = client.call(wait.header("accept", "application/json")).await.expect("an answer");
    let answer: Value = serde_json::from_slice(&reply.body).expect("JSON");
    assert_eq!(answer["wait_nested_container"]["exit_status"], 9, "{answer}");
}
