//! Recorded messages of the real Mesos, converted both ways.
//!
//! * operator API: every `.json`/`.pb` pair, text to bytes and bytes to text;
//! * scheduler API: requests and event streams, JSON and protobuf;
//! * operator event streams;
//! * libprocess: every message body.
//!
//! "Equal" means byte for byte, with two exceptions: map entries have no order,
//! and JSON shows explicit defaults, which are then on the wire when it is read
//! back. The daemons of Mesos also write some empty lists by hand, which the
//! messages themselves do not show; `master_reads` covers those.

#[path = "../support/mod.rs"]
mod support;

use std::path::{Path, PathBuf};

use mesos::json;
use mesos::recordio::Decoder;
use mesos::schema::{self, MessageSchema};
use prost::Message;
use serde_json::Value;

/// The only map fields of Mesos' messages; their entries have no order.
const MAPS: [&str; 5] = ["guarantees", "limits", "offer_filters", "quantities", "role_constraints"];

fn root() -> PathBuf {
    support::golden().expect("required")
}

fn read(path: &Path) -> Vec<u8> {
    std::fs::read(path).unwrap_or_else(|e| panic!("read {}: {e}", path.display()))
}

fn files(dir: &Path, ending: &str) -> Vec<PathBuf> {
    let mut found: Vec<PathBuf> = std::fs::read_dir(dir)
        .unwrap_or_else(|e| panic!("list {}: {e}", dir.display()))
        .map(|entry| entry.expect("an entry").path())
        .filter(|path| path.to_string_lossy().ends_with(ending))
        .collect();
    found.sort();
    found
}

fn schema(name: &str) -> &'static MessageSchema {
    schema::find(name).unwrap_or_else(|| panic!("{name} is not defined"))
}

fn to_text(schema: &'static MessageSchema, bytes: &[u8], what: &str) -> String {
    schema::check(schema, bytes).unwrap_or_else(|e| panic!("{what}: {e}"));
    let mut out = Vec::new();
    json::write(schema, bytes, &mut out).unwrap_or_else(|e| panic!("{what}: {e}"));
    String::from_utf8(out).expect("JSON is UTF-8")
}

fn to_bytes(schema: &'static MessageSchema, text: &[u8], what: &str) -> Vec<u8> {
    json::parse(schema, text).unwrap_or_else(|e| panic!("{what}: {e}"))
}

/// Lists that the real daemons' operator APIs show even when they are empty.
const LISTS: [&str; 14] = [
    "agents",
    "recovered_agents",
    "frameworks",
    "completed_frameworks",
    "executors",
    "tasks",
    "unreachable_tasks",
    "completed_tasks",
    "operations",
    "completed_executors",
    "pending_tasks",
    "queued_tasks",
    "launched_tasks",
    "terminated_tasks",
];

/// Sorts the entries of maps and drops hand-written empty lists.
fn sort_maps(value: &mut Value) {
    match value {
        Value::Object(members) => {
            members.retain(|name, member| {
                !(LISTS.contains(&name.as_str()) && member.as_array().is_some_and(Vec::is_empty))
            });
            for (name, member) in members.iter_mut() {
                // The master prints this field of v0, which v1 does not have.
                if let ("agent_info", Value::Object(info)) = (name.as_str(), &mut *member) {
                    info.shift_remove("checkpoint");
                }
                sort_maps(member);
                if let (true, Value::Object(entries)) = (MAPS.contains(&name.as_str()), member) {
                    entries.sort_keys();
                }
            }
        }
        Value::Array(elements) => elements.iter_mut().for_each(sort_maps),
        _ => {}
    }
}

fn assert_same_text(ours: &str, theirs: &str, what: &str) {
    if ours == theirs {
        return;
    }
    let canonical = |text: &str| {
        let mut value: Value = serde_json::from_str(text).expect("JSON");
        sort_maps(&mut value);
        value.to_string()
    };
    let (ours, theirs) = (canonical(ours), canonical(theirs));
    if ours != theirs {
        let at = ours.bytes().zip(theirs.bytes()).take_while(|(a, b)| a == b).count();
        let from = at.saturating_sub(80);
        panic!(
            "{what}: differs at {at}:\n ours  ...{}\n theirs...{}",
            String::from_utf8_lossy(&ours.as_bytes()[from..(at + 120).min(ours.len())]),
            String::from_utf8_lossy(&theirs.as_bytes()[from..(at + 120).min(theirs.len())])
        );
    }
}

/// Read back, what was printed prints the same.
fn assert_reads_back(schema: &'static MessageSchema, printed: &str, what: &str) {
    let again = to_bytes(schema, printed.as_bytes(), what);
    assert_same_text(&to_text(schema, &again, what), printed, what);
}

/// Wire bytes are the same, or the same but for the order of map entries.
fn assert_same_bytes(schema: &'static MessageSchema, ours: &[u8], theirs: &[u8], what: &str) {
    if ours != theirs {
        assert_eq!(ours.len(), theirs.len(), "{what}: length on the wire");
        assert_same_text(&to_text(schema, ours, what), &to_text(schema, theirs, what), what);
    }
}

fn assert_struct_keeps<T: Message + Default>(
    schema: &'static MessageSchema,
    bytes: &[u8],
    what: &str,
) {
    let message = T::decode(bytes).unwrap_or_else(|e| panic!("{what}: {e}"));
    assert_same_bytes(schema, &message.encode_to_vec(), bytes, what);
}

/// Answers that carry times or figures of their own moment.
fn varies(call: &str) -> bool {
    call.starts_with("GET_METRICS") || call.starts_with("GET_CONTAINERS")
}

fn drop_completed_tasks(value: &mut Value) {
    if let Value::Object(members) = value {
        members.shift_remove("completed_tasks");
        members.values_mut().for_each(drop_completed_tasks);
    }
}

fn pairs<T: Message + Default>(who: &str, states: &[&str]) -> usize {
    let schema = schema(&format!("mesos.v1.{who}.Response"));
    let mut count = 0;
    for state in states {
        for pb in files(&root().join("v1").join(who).join(state), ".pb") {
            let what = pb.display().to_string();
            let call = pb.file_stem().expect("a name").to_string_lossy().into_owned();
            let bytes = read(&pb);
            let text = String::from_utf8(read(&pb.with_extension("json"))).expect("UTF-8");
            let printed = to_text(schema, &bytes, &what);
            assert_reads_back(schema, &printed, &what);
            let parsed = to_bytes(schema, text.as_bytes(), &what);
            assert_same_text(&to_text(schema, &parsed, &what), &text, &what);
            assert_struct_keeps::<T>(schema, &bytes, &what);
            if who == "master" && ["GET_STATE", "GET_TASKS"].contains(&call.as_str()) {
                // The real master leaves tasks of completed frameworks out of protobuf.
                let less = |text: &str| {
                    let mut value: Value = serde_json::from_str(text).expect("JSON");
                    drop_completed_tasks(&mut value);
                    value.to_string()
                };
                assert_same_text(&less(&printed), &less(&text), &what);
            } else if !varies(&call) {
                assert_same_text(&printed, &text, &what);
            }
            count += 1;
        }
    }
    count
}

#[test]
fn operator_api_pairs() {
    require!(golden);
    let master =
        pairs::<mesos::master::Response>("master", &["empty", "one-agent", "busy", "completed"]);
    let agent = pairs::<mesos::agent::Response>("agent", &["idle", "busy", "completed"]);
    assert!(master >= 60 && agent >= 40, "only {master} and {agent} pairs found");
}

fn records(path: &Path) -> Vec<Vec<u8>> {
    let mut decoder = Decoder::new(16 << 20);
    decoder.feed(&read(path));
    let mut all = Vec::new();
    while let Some(record) = decoder.next_record().expect("well framed") {
        all.push(record);
    }
    assert!(!decoder.is_partial(), "{}: ends within a record", path.display());
    all
}

/// Checks one recorded stream; returns how many events it has.
fn stream<T: Message + Default>(
    schema: &'static MessageSchema,
    path: &Path,
    protobuf: bool,
) -> usize {
    let decoded: Vec<Value> = serde_json::from_slice(&read(&path.with_extension("decoded.json")))
        .expect("the decoded stream");
    let records = records(path);
    for (i, record) in records.iter().enumerate() {
        let what = format!("{} record {i}", path.display());
        if protobuf {
            let printed = to_text(schema, record, &what);
            assert_reads_back(schema, &printed, &what);
            assert_struct_keeps::<T>(schema, record, &what);
        } else {
            let text = String::from_utf8(record.clone()).expect("UTF-8");
            let bytes = to_bytes(schema, text.as_bytes(), &what);
            assert_same_text(&to_text(schema, &bytes, &what), &text, &what);
            assert_struct_keeps::<T>(schema, &bytes, &what);
        }
    }
    assert_eq!(records.len(), decoded.len(), "{}: events", path.display());
    records.len()
}

#[test]
fn event_streams() {
    require!(golden);
    let scheduler = schema("mesos.v1.scheduler.Event");
    let mut events = 0;
    for session in ["json", "protobuf", "busy"] {
        let dir = root().join("v1/scheduler").join(session);
        for path in files(&dir, ".recordio") {
            events += stream::<mesos::scheduler::Event>(scheduler, &path, session == "protobuf");
        }
    }
    let operator = schema("mesos.v1.master.Event");
    for path in files(&root().join("v1/master/subscribe"), ".recordio") {
        let protobuf = path.to_string_lossy().contains("protobuf");
        events += stream::<mesos::master::Event>(operator, &path, protobuf);
    }
    assert!(events > 100, "only {events} events found");
}

/// The body of a recorded HTTP request, and whether it is protobuf.
fn body(request: &[u8]) -> (&[u8], bool) {
    let end = request.windows(4).position(|w| w == b"\r\n\r\n").expect("a header") + 4;
    let header = String::from_utf8_lossy(&request[..end]);
    (&request[end..], header.contains("Content-Type: application/x-protobuf"))
}

#[test]
fn scheduler_requests() {
    require!(golden);
    let schema = schema("mesos.v1.scheduler.Call");
    let mut calls = 0;
    for session in ["json", "protobuf", "busy"] {
        for path in files(&root().join("v1/scheduler").join(session), ".request") {
            let what = path.display().to_string();
            let request = read(&path);
            let (body, protobuf) = body(&request);
            let bytes = if protobuf { body.to_vec() } else { to_bytes(schema, body, &what) };
            let printed = to_text(schema, &bytes, &what);
            assert_reads_back(schema, &printed, &what);
            mesos::v1::scheduler_call(&bytes).unwrap_or_else(|e| panic!("{what}: {e}"));
            calls += 1;
        }
    }
    assert!(calls > 70, "only {calls} requests found");
}

/// The messages of one direction of a libprocess connection: name and body.
fn messages(mut bytes: &[u8]) -> Vec<(String, Vec<u8>)> {
    let mut found = Vec::new();
    while bytes.starts_with(b"POST ") {
        let Some(end) = bytes.windows(4).position(|w| w == b"\r\n\r\n") else { break };
        let header = String::from_utf8_lossy(&bytes[..end]).into_owned();
        bytes = &bytes[end + 4..];
        let mut body = Vec::new();
        if header.contains("Transfer-Encoding: chunked") {
            loop {
                let Some(line) = bytes.windows(2).position(|w| w == b"\r\n") else { return found };
                let size = std::str::from_utf8(&bytes[..line]).expect("a chunk size");
                let size = usize::from_str_radix(size, 16).expect("a chunk size");
                let Some(chunk) = bytes.get(line + 2..line + 2 + size) else { return found };
                body.extend_from_slice(chunk);
                bytes = &bytes[(line + 4 + size).min(bytes.len())..];
                if size == 0 {
                    break;
                }
            }
        }
        let path = header.split(' ').nth(1).expect("a request line");
        let name = path.rsplit('/').next().unwrap_or_default().to_owned();
        if header.contains("Libprocess-From: ") {
            found.push((name, body));
        }
    }
    found
}

#[test]
fn libprocess_bodies() {
    require!(golden);
    let mut names = std::collections::BTreeMap::<String, usize>::new();
    for capture in std::fs::read_dir(root().join("libprocess")).expect("captures").flatten() {
        for path in files(&capture.path(), ".bin") {
            for (name, body) in messages(&read(&path)) {
                let what = format!("{} {name}", path.display());
                let Some(schema) = schema::find(&name) else {
                    panic!("{what}: the message is not defined")
                };
                let printed = to_text(schema, &body, &what);
                assert_reads_back(schema, &printed, &what);
                *names.entry(name).or_default() += 1;
            }
        }
    }
    let all: usize = names.values().sum();
    assert!(names.len() >= 30 && all >= 200, "only {all} messages found: {names:?}");
}
