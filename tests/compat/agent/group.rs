//! `libprocess/2-tasks-kill-restart`: the recorded default executor, which speaks the
//! v1 executor API and launches its task with container calls, is played against our
//! agent: every answer, event and forwarded update as recorded.

use std::time::Duration;

use mesos::recordio::Decoder;
use serde_json::Value;

use super::master::Agent;
use super::played::value_after;
use crate::conversation::{Said, Stage, conversation};
use crate::raw::{Answer, Stream, chunk, exchange};
use crate::require;
use crate::shape::{self, Rules};
use crate::support::{self, TempDir};

const AGENT: &str = "127.0.0.1:5051";
const MASTER: &str = "127.0.0.1:5050";
const CAPTURE: &str = "2-tasks-kill-restart";
const PATIENCE: Duration = Duration::from_secs(60);

const RULES: Rules<'static> = Rules {
    values: true,
    loose: &["resource_version_uuid.value", "executor_pid"],
    allowed: &[
        // In this capture they are missing while the container is launched, in another
        // (`v1/scheduler/busy`) they are there; we tell them always.
        ("container_status.network_infos", "a race in Mesos"),
    ],
    by_id: false,
};

/// The whole messages of one direction of a recorded connection.
fn messages(file: &str) -> Vec<Vec<u8>> {
    let dir = support::golden().expect("required").join("libprocess").join(CAPTURE);
    let bytes = std::fs::read(dir.join(file)).expect("a recording");
    let (mut rest, mut found) = (bytes.as_slice(), Vec::new());
    while let Some(head) = rest.windows(4).position(|w| w == b"\r\n\r\n") {
        let text = String::from_utf8_lossy(&rest[..head]).into_owned();
        let length = text.split("\r\n").find_map(|l| l.strip_prefix("Content-Length: "));
        // A stream takes all that follows.
        let end = length.map_or(rest.len(), |l| head + 4 + l.parse::<usize>().expect("a length"));
        found.push(rest[..end].to_vec());
        rest = &rest[end..];
    }
    found
}

/// The events of a recorded stream.
fn events(file: &str) -> Vec<Value> {
    let stream = messages(file).remove(0);
    let mut at = stream.windows(4).position(|w| w == b"\r\n\r\n").expect("a head") + 4;
    let (mut decoder, mut found) = (Decoder::new(1 << 20), Vec::new());
    while let Some((data, used)) = chunk(&stream[at..]) {
        decoder.feed(&data);
        at += used;
    }
    while let Some(record) = decoder.next_record().expect("RecordIO") {
        found.push(json("mesos.v1.executor.Event", &record));
    }
    found
}

fn json(name: &str, bytes: &[u8]) -> Value {
    let schema = mesos::schema::find(name).expect("a known message");
    let mut text = Vec::new();
    mesos::json::write(schema, bytes, &mut text).expect("a whole message");
    serde_json::from_slice(&text).expect("JSON")
}

/// A recorded request in our names.
fn request(stage: &Stage, recorded: &[u8]) -> Vec<u8> {
    let end = recorded.windows(4).position(|w| w == b"\r\n\r\n").expect("a head") + 4;
    let head = String::from_utf8_lossy(&recorded[..end]).into_owned();
    let executor = head.starts_with("POST /slave(1)/api/v1/executor ");
    let name = if executor { "mesos.v1.executor.Call" } else { "mesos.v1.agent.Call" };
    let text = stage.names.ours(&json(name, &recorded[end..]).to_string());
    let schema = mesos::schema::find(name).expect("a known message");
    let body = mesos::json::parse(schema, text.as_bytes()).expect("our names fit");
    let lines = head.trim_end().split("\r\n").map(|line| match line.split_once(": ") {
        Some(("Content-Length", _)) => format!("Content-Length: {}", body.len()),
        _ => stage.names.ours(line),
    });
    let mut bytes = lines.collect::<Vec<_>>().join("\r\n").into_bytes();
    bytes.extend_from_slice(b"\r\n\r\n");
    bytes.extend_from_slice(&body);
    bytes
}

struct Executor {
    stage: Stage,
    address: String,
}

impl Executor {
    fn differ(&mut self, what: &str, ours: &str, theirs: &str) {
        if ours != theirs {
            self.stage.differences.push(format!("{what}: {ours}\nrecorded\n{theirs}"));
        }
    }

    /// Makes a recorded call and compares the answer.
    fn call(&mut self, what: &str, recorded: &[u8], response: &[u8]) {
        let mut answer = exchange(&self.address, &request(&self.stage, recorded));
        let recorded = Answer::recorded(response);
        // We say so when we close a connection as we were asked to.
        answer.head = answer.head.replace("\r\nConnection: close", "");
        self.differ(what, &answer.head, &recorded.head);
        let text = |answer: &Answer| String::from_utf8_lossy(&answer.body).into_owned();
        self.differ(what, &text(&answer), &text(&recorded));
    }

    /// Waits for the next event and compares it.
    fn event(&mut self, stream: &Stream, recorded: &Value) {
        let Some(record) = stream.next(PATIENCE) else {
            panic!("no {recorded}; {}", self.stage.differences.join("\n"));
        };
        let (theirs, ours) =
            (recorded.to_string(), json("mesos.v1.executor.Event", &record).to_string());
        self.stage.names.learn_ids(&theirs, &ours);
        let ours = serde_json::from_str(&self.stage.names.recorded(&ours)).expect("JSON");
        let found = shape::compare(&ours, recorded, &RULES);
        let what = recorded["type"].clone();
        self.stage.differences.extend(found.into_iter().map(|d| format!("{what}: {d}")));
    }
}

/// Registers, and learns what is called differently here.
async fn register(stage: &mut Stage, second: &[Said]) {
    let mut first = conversation("1-registration-ping");
    first.truncate(6);
    let id = |said: &Said| value_after(&said.text(), "slave_id")[..36].to_owned();
    let of = |all: &[Said], end: &str| {
        let found = all.iter().find(|s| s.name().ends_with(end));
        found.expect("recorded").clone()
    };
    let given = id(&of(&first, "SlaveRegisteredMessage"));
    let said = stage.play_first(&first).await;
    stage.names.learn(&id(&of(second, "StatusUpdateAcknowledgementMessage")), &given);
    let run = of(second, "RunTaskGroupMessage").text();
    let theirs = value_after(&run, "resource_version_uuids").to_owned();
    stage.names.learn(&theirs, value_after(&said, "resource_version_uuid"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_recorded_v1_executor_runs_under_our_agent() {
    require!(golden, root);
    let mut stage = Stage::new(AGENT, &[MASTER], RULES).await;
    let dir = TempDir::new("agent-v1-executor");
    let agent = Agent::start(dir.path(), stage.address(MASTER));
    stage.tested_at(agent.address);
    let second = conversation(CAPTURE);
    register(&mut stage, &second).await;
    let group = second.iter().find(|s| s.name().ends_with("RunTaskGroupMessage"));
    stage.play(&[group.expect("recorded").clone()]).await;
    agent.has_container().await;
    // Between the two, in order: update, acknowledgement, update, acknowledgement.
    let of_task: Vec<Said> = second
        .iter()
        .filter(|s| [s.from().1, s.to().1].iter().all(|a| [AGENT, MASTER].contains(a)))
        .filter(|s| s.name().contains("StatusUpdate") && s.text().contains("\"g1\""))
        .cloned()
        .collect();

    let mut us = Executor { stage, address: agent.address.to_string() };
    let subscribe = messages("016.33126-5051.c2s.bin").remove(0);
    let recorded = events("016.33126-5051.s2c.bin");
    let stream = tokio::task::block_in_place(|| {
        let stream = Stream::open(&us.address, &request(&us.stage, &subscribe));
        let head = Answer::recorded(&messages("016.33126-5051.s2c.bin")[0]).head;
        us.differ("SUBSCRIBE", &stream.head, &head);
        recorded[..2].iter().for_each(|event| us.event(&stream, event));
        stream
    });
    let (updates, accepted) =
        (messages("017.33138-5051.c2s.bin"), messages("017.33138-5051.s2c.bin"));
    let step = |us: &mut Executor, n: usize| {
        tokio::task::block_in_place(|| {
            us.call("UPDATE", &updates[n], &accepted[n]);
            us.event(&stream, &recorded[2 + n]);
        });
    };
    step(&mut us, 0);
    us.stage.play(&of_task[..2]).await;
    let (launch, launched) =
        (messages("018.33148-5051.c2s.bin"), messages("018.33148-5051.s2c.bin"));
    tokio::task::block_in_place(|| us.call("LAUNCH_CONTAINER", &launch[0], &launched[0]));
    let wait = request(&us.stage, &messages("020.33158-5051.c2s.bin")[0]);
    let address = us.address.clone();
    let waiting = std::thread::spawn(move || exchange(&address, &wait));
    step(&mut us, 1);
    us.stage.play(&of_task[2..4]).await;

    // Its end, as recorded after the agent had been started again.
    let shutdown = second.iter().find(|s| s.name().ends_with("ShutdownFrameworkMessage"));
    us.stage.play(&[shutdown.expect("recorded").clone()]).await;
    let last = events("039.32982-5051.s2c.bin").pop().expect("events");
    let (ends, accepted) = (messages("040.32984-5051.c2s.bin"), messages("040.32984-5051.s2c.bin"));
    let (kill, killed) = (messages("052.34564-5051.c2s.bin"), messages("052.34564-5051.s2c.bin"));
    tokio::task::block_in_place(|| {
        us.event(&stream, &last);
        us.call("UPDATE", &ends[0], &accepted[0]);
        us.call("KILL_NESTED_CONTAINER", &kill[0], &killed[0]);
        let answer = waiting.join().expect("no panic");
        let recorded = Answer::recorded(&messages("043.33006-5051.s2c.bin")[0]);
        us.differ("WAIT_NESTED_CONTAINER", &answer.head, &recorded.head);
        let text = |answer: &Answer| json("mesos.v1.agent.Response", &answer.body).to_string();
        us.differ("WAIT_NESTED_CONTAINER", &text(&answer), &text(&recorded));
        us.call("UPDATE", &ends[1], &accepted[1]);
    });
    let differences = us.stage.differences;
    assert!(differences.is_empty(), "{}", differences.join("\n"));
}
