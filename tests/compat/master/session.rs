//! `v1/scheduler/`: the recorded session, step by step, in both media types.
//!
//! Ids, times and container details differ; the events of each step and their
//! fields must not.

use bulkhead::wire::client::{Call, Client};
use mesos::scheduler;
use prost::Message as _;
use serde_json::{Value, json};

use crate::agents::{Fleet, Play};
use crate::{Scheduler, require, start, support};

fn framework() -> Value {
    json!({"user": "root", "name": "session-json", "roles": ["web"], "checkpoint": true,
        "failover_timeout": 600.0, "hostname": "sched1.example", "principal": "p1",
        "capabilities": [{"type": "MULTI_ROLE"}, {"type": "RESERVATION_REFINEMENT"},
            {"type": "PARTITION_AWARE"}, {"type": "TASK_KILLING_STATE"}]})
}

/// Names of all fields of an event, nested ones with their path; lists by their
/// first element.
fn fields(value: &Value, path: &str, out: &mut Vec<String>) {
    match value {
        Value::Object(map) => {
            for (name, inner) in map {
                out.push(format!("{path}.{name}"));
                fields(inner, &format!("{path}.{name}"), out);
            }
        }
        Value::Array(list) => {
            if let Some(first) = list.first() {
                fields(first, &format!("{path}[]"), out);
            }
        }
        _ => {}
    }
}

fn shape(event: &Value) -> Vec<String> {
    let mut out = Vec::new();
    fields(event, "", &mut out);
    // What runs in a container is the agent's business, and this one has no executor.
    out.retain(|f| !f.contains("container_status") && !f.contains("executor_id"));
    out.sort();
    out
}

fn recorded(name: &str) -> Option<Vec<Value>> {
    let path = support::golden()?.join("v1/scheduler/json").join(name);
    let list: Value = serde_json::from_slice(&std::fs::read(path).ok()?).ok()?;
    Some(list.as_array()?.iter().map(|e| e["event"].clone()).collect())
}

fn find<'a>(events: &'a [Value], kind: &str, has: &str) -> &'a Value {
    let found = events.iter().find(|e| e["type"] == kind && e.to_string().contains(has));
    found.unwrap_or_else(|| panic!("no recorded {kind} with {has}"))
}

#[tokio::test]
async fn events_have_the_recorded_fields() {
    require!(golden);
    let old = recorded("01-subscribe.decoded.json").expect("required");
    let address = start(&[]).await;
    let fleet = Fleet::start(address, 1, Play::Run, true).await;
    fleet.wait_for("SlaveRegisteredMessage").await;
    let mut us = Scheduler::subscribe(address, framework()).await;
    let offers = us.next_of("OFFERS").await;
    assert_eq!(shape(&offers), shape(find(&old, "OFFERS", "-O0")));
    let offer = &offers["offers"]["offers"][0];
    let task = json!({"name": "long", "task_id": {"value": "long"}, "agent_id": offer["agent_id"],
        "resources": [
            {"name": "cpus", "type": "SCALAR", "scalar": {"value": 0.1}, "allocation_info": {"role": "web"}},
            {"name": "mem", "type": "SCALAR", "scalar": {"value": 32}, "allocation_info": {"role": "web"}}],
        "command": {"value": "sleep 1000"}});
    let accept = json!({"type": "ACCEPT", "accept": {"offer_ids": [offer["id"]],
        "operations": [{"type": "LAUNCH", "launch": {"task_infos": [task]}}],
        "filters": {"refuse_seconds": 0.5}}});
    assert_eq!(us.call(accept).await, 202);
    let running = us.next_of("UPDATE").await;
    assert_eq!(shape(&running), shape(find(&old, "UPDATE", "TASK_RUNNING")));
    assert_eq!(us.call(json!({"type": "RECONCILE", "reconcile": {"tasks": []}})).await, 202);
    let known = us.next_of("UPDATE").await;
    assert_eq!(shape(&known), shape(find(&old, "UPDATE", "Latest task state")));
    let ask = json!([{"task_id": {"value": "a"}},
        {"task_id": {"value": "b"}, "agent_id": offer["agent_id"]},
        {"task_id": {"value": "c"}, "agent_id": {"value": "00000000-0000-0000-0000-000000000000-S9"}}]);
    assert_eq!(us.call(json!({"type": "RECONCILE", "reconcile": {"tasks": ask}})).await, 202);
    for (state, words) in [
        ("TASK_UNKNOWN", "unknown-task"),
        ("TASK_GONE", "unknown-on-agent"),
        ("TASK_UNKNOWN", "unknown-agent"),
    ] {
        let got = us.next_of("UPDATE").await;
        let old = find(&old, "UPDATE", words);
        assert_eq!(got["update"]["status"]["state"], state);
        assert_eq!(got["update"]["status"]["message"], old["update"]["status"]["message"]);
        assert_eq!(shape(&got), shape(old));
    }
    let update = json!({"type": "UPDATE_FRAMEWORK", "update_framework": {"framework_info":
        {"user": "root", "name": "renamed", "roles": ["web", "extra"], "checkpoint": true,
        "failover_timeout": 600.0, "hostname": "sched1.example", "principal": "p1",
        "capabilities": framework()["capabilities"], "id": {"value": us.framework}}}});
    assert_eq!(us.call(update).await, 200);
    failover(address, &mut us, &old).await;
}

async fn failover(address: std::net::SocketAddr, us: &mut Scheduler, old: &[Value]) {
    let mut info = framework();
    info["id"] = json!({"value": us.framework});
    let body = json!({"type": "SUBSCRIBE", "subscribe": {"framework_info": info},
        "framework_id": {"value": us.framework}});
    let call = Call::post("/api/v1/scheduler", "application/json", body.to_string());
    let second = Client::to(address).stream(call).await.expect("a stream");
    let stream = second.header("mesos-stream-id").expect("an id").to_owned();
    let error = us.next_of("ERROR").await;
    assert_eq!(&error, find(old, "ERROR", "failed over"));
    assert_eq!(us.call(json!({"type": "REVIVE"})).await, 400);
    us.stream = stream;
    assert_eq!(us.call(json!({"type": "TEARDOWN"})).await, 202);
    assert_eq!(us.call(json!({"type": "REVIVE"})).await, 400);
}

#[tokio::test]
async fn protobuf_says_the_same() {
    let address = start(&[]).await;
    let capability = |c| mesos::framework_info::Capability { r#type: Some(c) };
    let info = mesos::FrameworkInfo {
        user: "root".into(),
        name: "session-protobuf".into(),
        roles: vec!["web".into()],
        capabilities: vec![capability(6)],
        ..mesos::FrameworkInfo::default()
    };
    let call = scheduler::Call {
        r#type: Some(scheduler::call::Type::Subscribe as i32),
        subscribe: Some(scheduler::call::Subscribe { framework_info: info, ..Default::default() }),
        ..scheduler::Call::default()
    };
    let kind = "application/x-protobuf";
    let call = Call::post("/api/v1/scheduler", kind, call.encode_to_vec()).header("accept", kind);
    let stream = Client::to(address).stream(call).await.expect("a stream");
    assert_eq!(stream.header("content-type"), Some(kind));
    let mut events = stream.events(1 << 20);
    let first = events.next().await.expect("a record").expect("no end");
    let first = scheduler::Event::decode(first.as_slice()).expect("an event");
    assert_eq!(first.r#type(), scheduler::event::Type::Subscribed);
    let subscribed = first.subscribed.expect("subscribed");
    assert_eq!(subscribed.heartbeat_interval_seconds, Some(15.0));
    assert!(subscribed.master_info.is_some_and(|m| m.capabilities.len() == 3));
    let second = events.next().await.expect("a record").expect("no end");
    assert_eq!(
        scheduler::Event::decode(second.as_slice()).expect("an event").r#type(),
        scheduler::event::Type::Heartbeat
    );
}
