//! Listening to what a docker task says.

use std::time::Duration;

use base64::Engine as _;
use bulkhead::wire::client::{Call, Client};
use serde_json::{Value, json};

use super::scene::{cluster, container, docker_task};
use crate::dockerd::{Dockerd, Network};
use crate::framework::Framework;
use crate::require;

const PATIENCE: Duration = Duration::from_secs(60);

#[tokio::test]
async fn what_a_docker_task_says_can_be_listened_to() {
    require!(root, cgroup, busybox, docker);
    let engine = Dockerd::start("attach", Network::Host);
    let cluster = cluster("docker-attach", &engine, &[]);
    let mut framework = Framework::subscribe(&cluster.master, "docker-attach").await;
    let talk = "while :; do echo out; echo err >&2; sleep 0.2; done";
    framework.start(docker_task("talks", talk)).await;
    let name = container(&cluster, "talks");
    let id = name.strip_prefix("mesos-").expect("a prefix");
    let call = json!({ "type": "ATTACH_CONTAINER_OUTPUT",
        "attach_container_output": { "container_id": { "value": id } } });
    let call = call.to_string();
    let call = Call::post("/api/v1", "application/json", call)
        .header("accept", "application/recordio")
        .header("message-accept", "application/json");
    let stream = Client::new(&cluster.agent).timeout(PATIENCE).stream(call).await;
    let stream = stream.expect("an answer");
    assert_eq!(stream.status.as_u16(), 200);
    let mut records = stream.events(1 << 20);
    let (mut out, mut err) = (false, false);
    while !(out && err) {
        let record = tokio::time::timeout(PATIENCE, records.next()).await.expect("in time");
        let record = record.expect("it goes on").expect("it goes on");
        let record: Value = serde_json::from_slice(&record).expect("JSON");
        let text = record["data"]["data"].as_str().unwrap_or_default();
        let text = base64::engine::general_purpose::STANDARD.decode(text).expect("base64");
        match record["data"]["type"].as_str() {
            Some("STDOUT") => out |= text.starts_with(b"out\n"),
            Some("STDERR") => err |= text.starts_with(b"err\n"),
            _ => {}
        }
    }
    // It ends with the task.
    framework.call("KILL", json!({ "task_id": { "value": "talks" } })).await;
    let ended = async { while let Ok(Some(_)) = records.next().await {} };
    tokio::time::timeout(PATIENCE, ended).await.expect("the stream ends");
    framework.until("the kill", 60, |f| f.end("talks").is_some()).await;
}
