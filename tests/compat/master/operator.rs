//! `v1/master/subscribe`: the operator's event stream, event by event, in JSON and in
//! protobuf at once. An agent that says what was recorded of it, two frameworks that
//! launch what was recorded, their ends; every event with all its values.

use std::time::Duration;

use mesos::internal as m;
use mesos::recordio::Decoder;
use serde_json::{Value, json};

use crate::conversation::{Said, Stage};
use crate::raw::{Answer, Stream, exchange};
use crate::shape::{self, Rules};
use crate::{Scheduler, require, start, support};

const AGENT: &str = "127.0.0.1:5051";
const MASTER: &str = "127.0.0.1:5050";
const PATIENCE: Duration = Duration::from_secs(60);
const EVENT: &str = "mesos.v1.master.Event";
const RECORDED: [(&str, bool); 2] = [("01-subscribe-json", false), ("02-subscribe-protobuf", true)];

fn read(name: &str) -> Vec<u8> {
    let dir = support::golden().expect("required");
    std::fs::read(dir.join(name)).expect("a recording")
}

/// A message as JSON.
fn json_of(bytes: &[u8], protobuf: bool) -> Value {
    if !protobuf {
        return serde_json::from_slice(bytes).expect("JSON");
    }
    let schema = mesos::schema::find(EVENT).expect("a known message");
    let mut text = Vec::new();
    mesos::json::write(schema, bytes, &mut text).expect("a whole message");
    serde_json::from_slice(&text).expect("JSON")
}

/// A v1 message as its v0 twin.
fn message<M: prost::Message + Default>(name: &str, value: &Value) -> M {
    let bytes = mesos::v1::from_json(name, value.to_string().as_bytes()).expect("as recorded");
    M::decode(bytes.as_slice()).expect("the same wire form")
}

/// What tells an event from others that may come at the same time.
fn key(event: &Value) -> (String, String, String) {
    let text = |value: &Value| value.as_str().unwrap_or("").to_owned();
    let (update, task) = (&event["task_updated"]["status"], &event["task_added"]["task"]);
    let id = if update.is_null() { &task["task_id"]["value"] } else { &update["task_id"]["value"] };
    (text(&event["type"]), text(id), text(&update["state"]))
}

/// One of the two streams.
struct Watch {
    protobuf: bool,
    stream: Stream,
    recorded: Vec<Value>,
    kept: Vec<Value>,
}

impl Watch {
    fn open(name: &str, protobuf: bool, master: &str, stage: &mut Stage) -> Watch {
        let path = |end: &str| format!("v1/master/subscribe/{name}.{end}");
        let mut decoder = Decoder::new(1 << 20);
        decoder.feed(&read(&path("recordio")));
        let mut recorded = Vec::new();
        while let Some(record) = decoder.next_record().expect("RecordIO") {
            recorded.push(json_of(&record, protobuf));
        }
        // Later beats come with time alone.
        let mut beats = 0;
        recorded.retain(|event| {
            beats += usize::from(event["type"] == "HEARTBEAT");
            event["type"] != "HEARTBEAT" || beats == 1
        });
        let stream = Stream::open(master, &read(&path("request")));
        let wanted = Answer::recorded(&read(&path("response"))).head;
        if stream.head != wanted {
            stage.differences.push(format!("{name}: {}\nrecorded\n{wanted}", stream.head));
        }
        Watch { protobuf, stream, recorded, kept: Vec::new() }
    }

    /// Waits for a recorded event and compares it.
    fn expect(&mut self, stage: &mut Stage, at: usize) -> Value {
        let recorded = self.recorded[at].clone();
        let got = loop {
            if let Some(at) = self.kept.iter().position(|e| key(e) == key(&recorded)) {
                break self.kept.remove(at);
            }
            let Some(record) = self.stream.next(PATIENCE) else {
                panic!("no {recorded}, only {:?}; {:?}", self.kept, stage.differences);
            };
            self.kept.push(json_of(&record, self.protobuf));
        };
        let (theirs, ours) = (recorded.to_string(), got.to_string());
        stage.names.learn_ids(&theirs, &ours);
        let ours = serde_json::from_str(&stage.names.recorded(&ours)).expect("JSON");
        let by_master = recorded["task_updated"]["status"]["source"] == "SOURCE_MASTER";
        let mut loose = vec!["registered_time.nanoseconds", "reregistered_time.nanoseconds"];
        if by_master {
            loose.push("timestamp");
        }
        let allowed: &[_] = &[("task.limits", "a map, in any order")];
        let rules = Rules { values: true, loose: &loose, allowed, by_id: false };
        let what =
            format!("{} {:?}", if self.protobuf { "protobuf" } else { "JSON" }, key(&recorded));
        let found = shape::compare(&ours, &recorded, &rules);
        stage.differences.extend(found.into_iter().map(|d| format!("{what}: {d}")));
        got
    }
}

struct Play {
    stage: Stage,
    master: std::net::SocketAddr,
    frameworks: Vec<Scheduler>,
    agent: Value,
}

impl Play {
    fn say(&self, message: &impl crate::conversation::Speech) -> Said {
        Said::new("slave(1)", AGENT, "master", MASTER, message)
    }

    async fn register(&mut self, agent: &Value) {
        let mut info = agent["agent_info"].clone();
        info.as_object_mut().expect("an object").remove("id");
        let capabilities = agent["capabilities"].as_array().expect("a list");
        let register = m::RegisterSlaveMessage {
            slave: message("mesos.v1.AgentInfo", &info),
            version: agent["version"].as_str().map(str::to_owned),
            agent_capabilities: capabilities
                .iter()
                .map(|c| message("mesos.v1.AgentInfo.Capability", c))
                .collect(),
            resource_version_uuid: Some(mesos::Uuid { value: vec![7; 16] }),
            ..m::RegisterSlaveMessage::default()
        };
        let register = self.say(&register);
        self.stage.play(&[register]).await;
    }

    /// The framework that owns what an event is about: they are numbered.
    fn framework(&mut self, id: &Value) -> &mut Scheduler {
        let id = id["value"].as_str().expect("an id");
        let number: usize = id.rsplit('-').next().expect("a number").parse().expect("a number");
        &mut self.frameworks[number]
    }

    /// Accepts an offer with the operations that launched what was recorded.
    async fn launch(&mut self, tasks: &[Value]) {
        let role = tasks[0]["resources"][0]["allocation_info"]["role"].clone();
        let name = tasks[0]["task_id"]["value"].as_str().expect("an id");
        let recorded = match name {
            "t-run" => Some("02-accept-many"),
            "g-run" => Some("32-accept-group"),
            _ => None,
        };
        let mut operations = match recorded {
            Some(name) => {
                let request = read(&format!("v1/scheduler/busy/{name}.request"));
                let text = String::from_utf8(request).expect("UTF-8");
                let text = self.stage.names.ours(text.split_once("\r\n\r\n").expect("a head").1);
                let call: Value = serde_json::from_str(&text).expect("JSON");
                call["accept"]["operations"].clone()
            }
            None => json!([{ "type": "LAUNCH", "launch": { "task_infos":
                tasks.iter().map(|task| {
                    let mut task = task.clone();
                    task.as_object_mut().expect("an object").remove("state");
                    task["executor"] = json!({ "executor_id": task["executor_id"],
                        "command": { "value": "./test-executor" } });
                    task
                }).collect::<Vec<_>>() } }]),
        };
        let ours = self.stage.names.ours(&operations.to_string());
        operations = serde_json::from_str(&ours).expect("JSON");
        let framework = self.framework(&tasks[0]["framework_id"]);
        let mut offer = framework.offer().await;
        while offer["allocation_info"]["role"] != role {
            let back = json!({ "type": "DECLINE", "decline": { "offer_ids": [offer["id"]],
                "filters": { "refuse_seconds": 1.0 } } });
            assert_eq!(framework.call(back).await, 202);
            offer = framework.offer().await;
        }
        let accept = json!({ "type": "ACCEPT", "accept": { "offer_ids": [offer["id"]],
            "operations": operations, "filters": { "refuse_seconds": 0.1 } } });
        assert_eq!(framework.call(accept).await, 202);
    }

    /// The agent says what became of a task.
    async fn update(&mut self, updated: &Value) {
        let status: mesos::TaskStatus = message("mesos.v1.TaskStatus", &updated["status"]);
        let latest: mesos::TaskStatus = message(
            "mesos.v1.TaskStatus",
            &json!({ "task_id": { "value": "t" }, "state": updated["state"] }),
        );
        let update = m::StatusUpdate {
            framework_id: message("mesos.v1.FrameworkID", &updated["framework_id"]),
            slave_id: status.slave_id.clone(),
            executor_id: status.executor_id.clone(),
            timestamp: status.timestamp(),
            uuid: status.uuid.clone(),
            latest_state: Some(latest.state),
            status,
        };
        let pid = Some(format!("slave(1)@{AGENT}"));
        let update = self.say(&m::StatusUpdateMessage { update, pid });
        self.stage.play(&[update]).await;
    }

    async fn acknowledge(&mut self, updated: &Value) {
        let status = &updated["status"];
        let acknowledge = json!({ "type": "ACKNOWLEDGE", "acknowledge": {
            "agent_id": self.agent, "task_id": status["task_id"], "uuid": status["uuid"] } });
        let framework = self.framework(&updated["framework_id"]);
        assert_eq!(framework.call(acknowledge).await, 202);
    }

    /// Does what led to the event at `at`.
    async fn act(&mut self, events: &[Value], at: usize) {
        let event = &events[at];
        match event["type"].as_str().expect("a type") {
            "AGENT_ADDED" => self.register(&event["agent_added"]["agent"]).await,
            "FRAMEWORK_ADDED" => {
                let mut info = event["framework_added"]["framework"]["framework_info"].clone();
                info.as_object_mut().expect("an object").remove("id");
                self.frameworks.push(Scheduler::subscribe(self.master, info).await);
            }
            // All of one launch come together.
            "TASK_ADDED" if events[at - 1]["type"] != "TASK_ADDED" => {
                let tasks = events[at..].iter().take_while(|e| e["type"] == "TASK_ADDED");
                let tasks: Vec<Value> = tasks.map(|e| e["task_added"]["task"].clone()).collect();
                self.launch(&tasks).await;
            }
            "TASK_UPDATED" => {
                let updated = &event["task_updated"];
                if updated["status"]["source"] != "SOURCE_MASTER" {
                    self.update(updated).await;
                } else if events[at - 1]["task_updated"]["status"]["source"] != "SOURCE_MASTER" {
                    let teardown = json!({ "type": "TEARDOWN" });
                    let framework = self.framework(&updated["framework_id"]);
                    assert_eq!(framework.call(teardown).await, 202);
                }
            }
            _ => {}
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_recorded_operator_events_play_in_json_and_protobuf() {
    require!(golden);
    let mut stage = Stage::new(MASTER, &[AGENT], Rules::default()).await;
    let arguments = ["--agent_ping_timeout=60secs", "--allocation_interval=100ms"];
    let master = start(&arguments).await;
    stage.tested_at(master);
    let mut watches = RECORDED.map(|(name, protobuf)| {
        tokio::task::block_in_place(|| Watch::open(name, protobuf, &master.to_string(), &mut stage))
    });
    let events = watches[0].recorded.clone();
    assert_eq!((events.len(), watches[1].recorded.len()), (66, 66), "recorded");
    let mut play = Play { stage, master, frameworks: Vec::new(), agent: Value::Null };
    for at in 0..events.len() {
        play.act(&events, at).await;
        for watch in &mut watches {
            let stage = &mut play.stage;
            let got = tokio::task::block_in_place(|| watch.expect(stage, at));
            if got["type"] == "AGENT_ADDED" {
                play.agent = got["agent_added"]["agent"]["agent_info"]["id"].clone();
            }
        }
        let updated = &events[at]["task_updated"];
        // The first framework went away before it acknowledged the end of task 4.
        if updated["status"]["uuid"].is_string() && updated["status"]["task_id"]["value"] != "4" {
            play.acknowledge(updated).await;
        }
    }
    // Plain answers name their type before their length.
    let health = r#"{"type":"GET_HEALTH"}"#;
    for kind in ["application/json", "application/x-protobuf"] {
        let request = format!(
            "POST /api/v1 HTTP/1.1\r\nHost: {master}\r\nContent-Type: application/json\r\n\
             Accept: {kind}\r\nContent-Length: {}\r\n\r\n{health}",
            health.len()
        );
        let address = master.to_string();
        let answer = tokio::task::block_in_place(|| exchange(&address, request.as_bytes()));
        let length = answer.body.len();
        let head = format!("HTTP/1.1 200 OK\r\nContent-Type: {kind}\r\nContent-Length: {length}");
        assert_eq!(answer.head, head);
    }
    for watch in &mut watches {
        watch.kept.retain(|event| event["type"] != "HEARTBEAT");
        assert!(watch.kept.is_empty(), "not recorded: {:?}", watch.kept);
    }
    assert!(play.stage.differences.is_empty(), "{}", play.stage.differences.join("\n"));
}
