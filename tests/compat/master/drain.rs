//! `libprocess/4-operations-drain-gone`: an operator reserves and makes a volume, drains
//! an agent, takes it back and marks it gone. The operator and the agent are played; what
//! the master answers and what it tells the agent is compared with the recorded values.

use serde_json::Value;

use crate::conversation::{Exchange, Stage, conversation, exchanges};
use crate::raw::{Answer, exchange};
use crate::shape::{self, Rules};
use crate::{require, start};

const AGENT: &str = "127.0.0.1:5051";
const MASTER: &str = "127.0.0.1:5050";
const CAPTURE: &str = "4-operations-drain-gone";
/// What our master does not do for operators yet.
const NOT_YET: [&str; 5] = [
    "RESERVE_RESOURCES",
    "CREATE_VOLUMES",
    "GROW_VOLUME",
    "DESTROY_VOLUMES",
    "UNRESERVE_RESOURCES",
];

/// The type of a recorded call.
fn kind(request: &[u8]) -> String {
    let body = Answer::recorded(request).body;
    let call: Value = serde_json::from_slice(&body).expect("JSON");
    call["type"].as_str().expect("a type").to_owned()
}

/// Asks the master and compares what it answers; the type of the call, if it was one that
/// our master knows.
fn ask(stage: &mut Stage, address: &str, recorded: &Exchange) -> Option<String> {
    let kind = kind(&recorded.request);
    let answer = exchange(address, &stage.request(&recorded.request));
    if NOT_YET.contains(&kind.as_str()) {
        assert!(answer.head.starts_with("HTTP/1.1 501 "), "{kind} is done: {}", answer.head);
        return None;
    }
    let expected = Answer::recorded(&recorded.response);
    let json = |body: &[u8]| serde_json::from_slice::<Value>(body).ok();
    let ours = stage.names.recorded(&String::from_utf8_lossy(&answer.body));
    match (json(ours.as_bytes()), json(&expected.body)) {
        (Some(ours), Some(theirs)) => {
            let loose = &["registered_time.nanoseconds"];
            let found =
                shape::compare(&ours, &theirs, &Rules { values: true, loose, ..Rules::default() });
            stage.differences.extend(found.into_iter().map(|d| format!("{kind}: {d}")));
        }
        _ if answer.body == expected.body && answer.head == expected.head => {}
        _ => stage.differences.push(format!("{kind}: {answer:?}\nrecorded\n{expected:?}")),
    }
    Some(kind)
}

#[tokio::test(flavor = "multi_thread")]
async fn the_recorded_drain_and_end_of_an_agent_play_against_our_master() {
    require!(golden);
    // Slow pings: the agent is not played as answering them.
    let loose = &["resource_version_uuids.uuid.value", "connection.total_ping_timeout_seconds"];
    let rules = Rules { values: true, loose, ..Rules::default() };
    let mut stage = Stage::new(MASTER, &[AGENT], rules).await;
    let master = start(&["--agent_ping_timeout=60secs"]).await;
    stage.tested_at(master);
    // The agent was registered before this capture began.
    let mut before = conversation("1-registration-ping");
    before.truncate(6);
    before.retain(|s| !s.name().contains("Ping") && !s.name().contains("Pong"));
    stage.play(&before).await;
    let id = |text: &str| text.split('"').nth(5).unwrap_or("")[..36].to_owned();
    let registered = before.iter().find(|s| s.name().ends_with("SlaveRegisteredMessage"));
    let ours = stage.names.ours(&id(&registered.expect("recorded").text()));
    let between = conversation(CAPTURE);
    let exited = between.iter().find(|s| s.name().ends_with("ExitedExecutorMessage"));
    stage.names.learn(&id(&exited.expect("recorded").text()), &ours);

    let mut told = between.into_iter().filter(|s| {
        ["DrainSlaveMessage", "ShutdownMessage"].iter().any(|name| s.name().ends_with(name))
    });
    let (address, mut done) = (master.to_string(), Vec::new());
    for recorded in exchanges(CAPTURE, "/api/v1") {
        let kind = tokio::task::block_in_place(|| ask(&mut stage, &address, &recorded));
        if let Some("DRAIN_AGENT" | "MARK_AGENT_GONE") = kind.as_deref() {
            let told = told.next().expect("the agent was told");
            stage.play(&[told]).await;
        }
        done.extend(kind);
    }
    assert!(stage.differences.is_empty(), "{}", stage.differences.join("\n"));
    let expected = [
        "GET_AGENTS",
        "DEACTIVATE_AGENT",
        "REACTIVATE_AGENT",
        "DRAIN_AGENT",
        "REACTIVATE_AGENT",
        "MARK_AGENT_GONE",
    ];
    assert_eq!(done, expected);
    assert!(told.next().is_none());
}
