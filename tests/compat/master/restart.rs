//! `libprocess/2-tasks-kill-restart`: a framework over HTTP runs command tasks and a
//! group on an agent, which dies, comes back and registers again; reconciliation,
//! kills and the teardown around it. The agent and the framework are played, in the
//! recorded order; what the master says to both is compared with its values.

use std::collections::BTreeMap;
use std::time::Duration;

use mesos::recordio::Decoder;
use serde_json::Value;

use crate::conversation::{Exchange, Said, Stage, conversation, exchanges, time_of};
use crate::raw::{Answer, Stream, exchange};
use crate::shape::{self, Rules};
use crate::{require, start};

const AGENT: &str = "127.0.0.1:5051";
const MASTER: &str = "127.0.0.1:5050";
const CAPTURE: &str = "2-tasks-kill-restart";
const PATIENCE: Duration = Duration::from_secs(60);
/// When the agent is killed, in seconds.
const DEATH: f64 = 2.946;

/// What happens, in the recorded order.
enum Happening {
    /// Between agent and master.
    Message(Said),
    /// A request of the framework, and its answer.
    Call { request: Vec<u8>, response: Vec<u8> },
    /// An event of the framework's stream.
    Event(Value),
    /// The end of the agent.
    Death,
}

/// The events of a streamed answer with their times.
fn events(response: &[u8], index: &Value) -> Vec<(f64, Value)> {
    let head = response.windows(4).position(|w| w == b"\r\n\r\n").expect("a head") + 4;
    let (mut decoder, mut found, mut rest) = (Decoder::new(1 << 20), Vec::new(), head);
    while let Some((chunk, used)) = crate::raw::chunk(&response[rest..]) {
        decoder.feed(&chunk);
        while let Some(record) = decoder.next_record().expect("RecordIO") {
            let event = serde_json::from_slice(&record).expect("JSON");
            found.push((time_of(index, rest), event));
        }
        rest += used;
    }
    found
}

fn pings(said: &Said) -> bool {
    said.name().contains("Ping") || said.name().contains("Pong")
}

fn happenings() -> Vec<Happening> {
    let mut all: Vec<(f64, Happening)> = vec![(DEATH, Happening::Death)];
    for Exchange { at, request, response, index } in exchanges(CAPTURE, "/api/v1/scheduler") {
        if !response.windows(16).any(|w| w == b"Content-Length: ") {
            let events = events(&response, &index).into_iter();
            all.extend(events.map(|(at, event)| (at, Happening::Event(event))));
        }
        all.push((at, Happening::Call { request, response }));
    }
    let between = conversation(CAPTURE).into_iter().filter(|s| {
        let ends = [s.from().1, s.to().1];
        !pings(s) && ends.contains(&AGENT) && ends.contains(&MASTER)
    });
    all.extend(between.map(|said| (said.at, Happening::Message(said))));
    all.sort_by(|a, b| a.0.total_cmp(&b.0));
    all.into_iter().map(|(_, happening)| happening).collect()
}

struct Framework {
    address: String,
    stream: Option<Stream>,
    /// Come and not yet asked for.
    kept: Vec<Value>,
    compared: BTreeMap<String, usize>,
}

/// What tells an event from others.
fn key(event: &Value) -> (String, String, String) {
    let status = &event["update"]["status"];
    let text = |value: &Value| value.as_str().unwrap_or("").to_owned();
    (text(&event["type"]), text(&status["task_id"]["value"]), text(&status["state"]))
}

impl Framework {
    fn call(&mut self, stage: &mut Stage, request: &[u8], response: &[u8]) {
        let recorded = Answer::recorded(response);
        let ours = stage.request(request);
        let head = if recorded.header("Mesos-Stream-Id").is_some() {
            let stream = Stream::open(&self.address, &ours);
            let id = recorded.header("Mesos-Stream-Id").expect("just seen");
            stage.names.learn(id, stream.header("Mesos-Stream-Id").unwrap_or("none"));
            let head = stage.names.recorded(&stream.head);
            self.stream = Some(stream);
            head
        } else {
            let answer = exchange(&self.address, &ours);
            assert_eq!(answer.body, recorded.body);
            stage.names.recorded(&answer.head)
        };
        *self.compared.entry("CALL".into()).or_default() += 1;
        if head != recorded.head {
            stage.differences.push(format!("{head}\nrecorded\n{}", recorded.head));
        }
    }

    fn event(&mut self, stage: &mut Stage, recorded: &Value) {
        let stream = self.stream.as_ref().expect("subscribed");
        let got = loop {
            if let Some(at) = self.kept.iter().position(|e| key(e) == key(recorded)) {
                break self.kept.remove(at);
            }
            let Some(record) = stream.next(PATIENCE) else {
                panic!("no {recorded}, only {:?}; {:?}", self.kept, stage.differences);
            };
            self.kept.push(serde_json::from_slice(&record).expect("JSON"));
        };
        let offers = |event: &Value| event["offers"]["offers"].as_array().cloned();
        let (a, b) = (offers(recorded).unwrap_or_default(), offers(&got).unwrap_or_default());
        for (theirs, ours) in a.iter().zip(&b) {
            let id = |offer: &Value| offer["id"]["value"].as_str().unwrap_or("").to_owned();
            stage.names.learn(&id(theirs), &id(ours));
        }
        let (theirs, ours) = (recorded.to_string(), got.to_string());
        stage.names.learn_ids(&theirs, &ours);
        let ours = serde_json::from_str(&stage.names.recorded(&ours)).expect("JSON");
        // The master's own answers have the time of now.
        let by_master = recorded["update"]["status"]["source"] == "SOURCE_MASTER";
        let loose: &[&str] = if by_master { &["timestamp"] } else { &[] };
        let rules = Rules { values: true, loose, ..Rules::default() };
        let found = shape::compare(&ours, recorded, &rules);
        stage.differences.extend(found.into_iter().map(|d| format!("{:?}: {d}", key(recorded))));
        *self.compared.entry(key(recorded).0).or_default() += 1;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_recorded_death_of_an_agent_plays_against_our_master() {
    require!(golden);
    // Slow pings: the agent is not played as answering them.
    let loose = &["resource_version_uuids.uuid.value", "connection.total_ping_timeout_seconds"];
    let rules = Rules { values: true, loose, ..Rules::default() };
    let mut stage = Stage::new(MASTER, &[AGENT], rules).await;
    let master = start(&["--agent_ping_timeout=60secs", "--allocation_interval=1secs"]).await;
    stage.tested_at(master);
    // The agent was registered before this capture began.
    let mut before = conversation("1-registration-ping");
    before.truncate(6);
    before.retain(|s| !pings(s));
    let id = |text: &str| text.split('"').nth(5).unwrap_or("")[..36].to_owned();
    stage.play(&before).await;
    let registered = before.iter().find(|s| s.name().ends_with("SlaveRegisteredMessage"));
    let ours = stage.names.ours(&id(&registered.expect("recorded").text()));
    let all = happenings();
    let first = all.iter().find_map(|h| match h {
        Happening::Event(event) if event["type"] == "SUBSCRIBED" => Some(event.to_string()),
        _ => None,
    });
    let first: Value = serde_json::from_str(&first.expect("recorded")).expect("JSON");
    let recorded = first["subscribed"]["master_info"]["id"].as_str().expect("an id");
    stage.names.learn(recorded, &ours);

    let mut framework = Framework {
        address: master.to_string(),
        stream: None,
        kept: Vec::new(),
        compared: BTreeMap::new(),
    };
    for happening in all {
        match happening {
            Happening::Message(said) => drop(stage.play(&[said]).await),
            Happening::Death => stage.die(AGENT),
            Happening::Call { request, response } => {
                tokio::task::block_in_place(|| framework.call(&mut stage, &request, &response));
            }
            Happening::Event(event) => {
                tokio::task::block_in_place(|| framework.event(&mut stage, &event));
            }
        }
    }
    framework.kept.retain(|event| event["type"] != "HEARTBEAT");
    assert!(framework.kept.is_empty(), "not recorded: {:?}", framework.kept);
    assert!(stage.differences.is_empty(), "{}", stage.differences.join("\n"));
    let compared = |what: &str| framework.compared.get(what).copied().unwrap_or(0);
    assert_eq!((compared("UPDATE"), compared("OFFERS"), compared("RESCIND")), (14, 3, 1));
    assert!(compared("CALL") >= 15, "{:?}", framework.compared);
    assert!(stage.heard() >= 20, "only {} messages were compared", stage.heard());
}
