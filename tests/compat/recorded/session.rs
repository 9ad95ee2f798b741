//! `v1/scheduler/{json,protobuf}`: every recorded call is made again, in our
//! ids, once the events recorded before it have come. Status lines, headers,
//! events, their members, the order of members and all values are compared.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use mesos::recordio::Decoder;
use serde_json::Value;

use crate::names::Names;
use crate::raw::{Answer, Stream, exchange};
use crate::shape::{self, Rules};
use crate::{cluster, require, support};

const PATIENCE: Duration = Duration::from_secs(30);

const RULES: Rules<'static> =
    Rules { values: true, loose: &["timestamp", "executor_pid"], allowed: &[], by_id: false };

struct Step {
    name: String,
    at: f64,
    stream: bool,
    request: Vec<u8>,
    response: Vec<u8>,
}

struct Event {
    at: f64,
    value: Value,
}

fn steps(form: &str) -> Vec<Step> {
    let dir = support::golden().expect("required").join("v1/scheduler").join(form);
    let read = |name: String| std::fs::read(dir.join(&name)).expect("a recording");
    let index: Value = serde_json::from_slice(&read("index.json".into())).expect("JSON");
    let step = |entry: &Value| {
        let name = entry["file"].as_str().expect("a name").to_owned();
        Step {
            at: entry["t"].as_f64().expect("a time"),
            stream: entry["stream"] == true,
            request: read(format!("{name}.request")),
            response: read(format!("{name}.response")),
            name,
        }
    };
    index.as_array().expect("a list").iter().map(step).collect()
}

/// A message as JSON text, as it is or decoded.
fn text(form: &str, name: &str, bytes: &[u8]) -> String {
    if form != "protobuf" {
        return String::from_utf8_lossy(bytes).into_owned();
    }
    let schema = mesos::schema::find(name).expect("a known message");
    let mut text = Vec::new();
    mesos::json::write(schema, bytes, &mut text).expect("a whole message");
    String::from_utf8(text).expect("UTF-8")
}

/// The recorded events of a stream that are to come, too, in our session.
fn events(form: &str, stream: &str, begin: f64) -> VecDeque<Event> {
    let path = |end| format!("v1/scheduler/{form}/{stream}.{end}");
    let read = |end| {
        let path = support::golden().expect("required").join(path(end));
        std::fs::read(path).expect("a recording")
    };
    let times: Value = serde_json::from_slice(&read("decoded.json")).expect("JSON");
    let mut decoder = Decoder::new(16 << 20);
    decoder.feed(&read("recordio"));
    let mut events = VecDeque::new();
    for time in times.as_array().expect("a list") {
        let record = decoder.next_record().expect("well framed").expect("as many records");
        let value = text(form, "mesos.v1.scheduler.Event", &record);
        let event = Event {
            at: begin + time["t"].as_f64().expect("a time"),
            value: serde_json::from_str(&value).expect("JSON"),
        };
        if !beats(&event) {
            events.push_back(event);
        }
    }
    events
}

/// Heartbeats but the first come with time alone.
fn beats(event: &Event) -> bool {
    event.value["type"] == "HEARTBEAT" && event.at > 1.0
}

/// What tells an event from the others that may come at the same time.
fn key(event: &Value) -> (String, String, String) {
    let status = &event["update"]["status"];
    let text = |value: &Value| value.as_str().unwrap_or("").to_owned();
    (text(&event["type"]), text(&status["task_id"]["value"]), text(&status["state"]))
}

/// What later calls may name of an event: its offers, its uuid.
fn tokens(event: &Value) -> Vec<String> {
    let offers = event["offers"]["offers"].as_array().cloned().unwrap_or_default();
    let offers = offers.iter().map(|o| o["id"]["value"].clone());
    let all = offers.chain([event["update"]["status"]["uuid"].clone()]);
    all.filter_map(|v| v.as_str().map(str::to_owned)).collect()
}

struct Session {
    form: &'static str,
    address: String,
    names: Names,
    open: Vec<(Stream, VecDeque<Event>)>,
    /// Come and not yet asked for, by stream.
    kept: Vec<(usize, Value)>,
    differences: Vec<String>,
    compared: usize,
}

impl Session {
    /// The recorded request in our names.
    fn request(&self, recorded: &[u8]) -> Vec<u8> {
        let end = recorded.windows(4).position(|w| w == b"\r\n\r\n").expect("a head");
        let head = String::from_utf8_lossy(&recorded[..end]);
        let name = "mesos.v1.scheduler.Call";
        let mut body = self.names.ours(&text(self.form, name, &recorded[end + 4..])).into_bytes();
        if self.form == "protobuf" {
            let schema = mesos::schema::find(name).expect("a known message");
            body = mesos::json::parse(schema, &body).expect("our names fit");
        }
        let head = head.split("\r\n").map(|line| match line.split_once(": ") {
            Some(("Content-Length", _)) => format!("Content-Length: {}", body.len()),
            _ => self.names.ours(line),
        });
        let mut bytes = head.collect::<Vec<_>>().join("\r\n").into_bytes();
        bytes.extend_from_slice(b"\r\n\r\n");
        bytes.extend_from_slice(&body);
        bytes
    }

    fn note(&mut self, step: &str, what: impl std::fmt::Display) {
        eprintln!("{step}: {what}"); // Shown when the test fails, also by a timeout.
        self.differences.push(format!("{step}: {what}"));
    }

    fn subscribe(&mut self, step: &Step, events: VecDeque<Event>) {
        let recorded = Answer::recorded(&step.response);
        let stream = Stream::open(&self.address, &self.request(&step.request));
        let (old, new) = (recorded.header("Mesos-Stream-Id"), stream.header("Mesos-Stream-Id"));
        self.names.learn(old.expect("recorded"), new.unwrap_or("none"));
        let head = self.names.recorded(&stream.head);
        if head != recorded.head {
            self.note(&step.name, format_args!("head\n{head}\nrecorded\n{}", recorded.head));
        }
        self.open.push((stream, events));
    }

    fn call(&mut self, step: &Step) {
        let recorded = Answer::recorded(&step.response);
        let answer = exchange(&self.address, &self.request(&step.request));
        // The length of a text with a port in it may differ.
        let head = self.names.recorded(&answer.head);
        if head != recorded.head {
            self.note(&step.name, format_args!("head\n{head}\nrecorded\n{}", recorded.head));
        }
        let body = self.names.recorded(&String::from_utf8_lossy(&answer.body));
        let wanted = String::from_utf8_lossy(&recorded.body);
        if body != wanted {
            self.note(&step.name, format_args!("body {body}, recorded {wanted}"));
        }
    }

    /// What a step is an answer to: everything up to the events it names, or, if
    /// it names none, everything recorded before it.
    fn before(&self, step: &Step) -> f64 {
        let end = step.request.windows(4).position(|w| w == b"\r\n\r\n").expect("a head");
        let text = text(self.form, "mesos.v1.scheduler.Call", &step.request[end + 4..]);
        let named = |e: &&Event| {
            let mut names = tokens(&e.value).into_iter();
            names.any(|name| text.contains(&format!("\"{name}\"")))
        };
        let waiting = self.open.iter().flat_map(|(_, events)| events.iter());
        let last = waiting.filter(named).map(|e| e.at).max_by(f64::total_cmp);
        // The clock of the steps was read a little later than that of the events: what
        // came just before may be the step's own, but for one that caused nothing.
        let margin = if step.name.ends_with("-message") { 0.0 } else { 0.05 };
        last.unwrap_or(step.at - margin)
    }

    /// Waits for all events recorded until `at` and compares them.
    fn catch_up(&mut self, at: f64) {
        for stream in 0..self.open.len() {
            while self.open[stream].1.front().is_some_and(|e| e.at <= at) {
                let event = self.open[stream].1.pop_front().expect("there is one");
                match self.wait(stream, &event.value) {
                    Some(got) => self.compare(&event, &got),
                    None => {
                        let note = format!("not received: {}", event.value);
                        self.note(&format!("{:.3}", event.at), note);
                    }
                }
            }
        }
    }

    fn wait(&mut self, stream: usize, wanted: &Value) -> Option<Value> {
        let by = Instant::now() + PATIENCE;
        loop {
            let fits = |(s, event): &(usize, Value)| *s == stream && key(event) == key(wanted);
            if let Some(at) = self.kept.iter().position(fits) {
                return Some(self.kept.remove(at).1);
            }
            let left = by.saturating_duration_since(Instant::now());
            let record = self.open[stream].0.next(left)?;
            let text = text(self.form, "mesos.v1.scheduler.Event", &record);
            self.kept.push((stream, serde_json::from_str(&text).expect("JSON")));
        }
    }

    fn compare(&mut self, event: &Event, got: &Value) {
        self.compared += 1;
        let (theirs, ours) = (event.value.to_string(), got.to_string());
        for (theirs, ours) in tokens(&event.value).iter().zip(tokens(got)) {
            self.names.learn(theirs, &ours);
        }
        self.names.learn_ids(&theirs, &ours);
        let ours = serde_json::from_str(&self.names.recorded(&ours)).expect("JSON");
        let what = format!("{:.3} {:?}", event.at, key(&event.value));
        for difference in shape::compare(&ours, &event.value, &RULES) {
            self.note(&what, difference);
        }
    }
}

fn play(form: &'static str) {
    let cluster = cluster(&format!("session-{form}"), &[]);
    let mut session = Session {
        form,
        address: cluster.master.clone(),
        names: Names::default(),
        open: Vec::new(),
        kept: Vec::new(),
        differences: Vec::new(),
        compared: 0,
    };
    for (recorded, ours) in [("5050", &cluster.master), ("5051", &cluster.agent)] {
        let port = ours.rsplit(':').next().expect("a port");
        session.names.learn(&format!("127.0.0.1:{recorded}"), ours);
        session.names.learn(&format!("\"port\":{recorded}"), &format!("\"port\":{port}"));
    }
    let steps = steps(form);
    for (n, step) in steps.iter().enumerate() {
        session.catch_up(session.before(step));
        if step.stream {
            let begin = if n == 0 { 0.0 } else { step.at };
            session.subscribe(step, events(form, &step.name, begin));
        } else {
            session.call(step);
        }
    }
    session.catch_up(f64::MAX);
    for (_, event) in std::mem::take(&mut session.kept) {
        if event["type"] != "HEARTBEAT" {
            session.note("the end", format_args!("not recorded: {event}"));
        }
    }
    let Session { differences, compared, .. } = session;
    assert!(differences.is_empty(), "{}", differences.join("\n"));
    assert!(compared >= 25, "only {compared} events were compared");
}

#[test]
fn the_recorded_session_plays_in_json() {
    require!(golden, root, cgroup);
    play("json");
}

#[test]
fn the_recorded_session_plays_in_protobuf() {
    require!(golden, root, cgroup);
    play("protobuf");
}
