//! `libprocess/3-v0-scheduler-executor` against our agent: it launches a V0
//! executor, which is played by the test, and passes tasks, updates and
//! acknowledgements on as recorded.

use super::master::Agent;
use crate::conversation::{Said, Stage, conversation};
use crate::require;
use crate::shape::Rules;
use crate::support::TempDir;

const AGENT: &str = "127.0.0.1:5051";
const MASTER: &str = "127.0.0.1:5050";
const EXECUTOR: &str = "127.0.0.1:39813";

/// The base64 text after a name, for example of a uuid.
pub fn value_after<'a>(text: &'a str, name: &str) -> &'a str {
    let at = text.find(name).expect("a member");
    text[at..].split("\"value\":\"").nth(1).and_then(|t| t.split('"').next()).expect("a value")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_recorded_v0_executor_runs_under_our_agent() {
    require!(golden, root);
    let rules = Rules {
        values: true,
        loose: &["resource_version_uuid.value", "executor_pid", "latest_state"],
        ..Rules::default()
    };
    let mut stage = Stage::new(AGENT, &[MASTER, EXECUTOR], rules).await;
    let dir = TempDir::new("agent-v0-executor");
    let agent = Agent::start(dir.path(), stage.address(MASTER));
    stage.tested_at(agent.address);
    let program = "/usr/libexec/mesos/test-executor";
    stage.names.learn(program, "sleep 1000");

    let mut first = conversation("1-registration-ping");
    first.truncate(6);
    let mut second = conversation("3-v0-scheduler-executor");
    second.retain(|s| !s.name().contains("Ping") && !s.name().contains("Pong"));
    // The end of the executor is in the next capture.
    let end = conversation("4-operations-drain-gone").into_iter();
    second.extend(end.filter(|s| s.name().ends_with("ExitedExecutorMessage")));
    // One agent id for both captures.
    let id = |said: &Said| value_after(&said.text(), "slave_id")[..36].to_owned();
    let registered = first.iter().find(|s| s.name().ends_with("SlaveRegisteredMessage"));
    let acknowledged = second.iter().find(|s| s.name().ends_with("AcknowledgementMessage"));
    let given = id(registered.expect("recorded"));
    let said = stage.play_first(&first).await;
    stage.names.learn(&id(acknowledged.expect("recorded")), &given);
    let run = second.iter().find(|s| s.name().ends_with("RunTaskMessage")).expect("recorded");
    let theirs = value_after(&run.text(), "resource_version_uuids").to_owned();
    stage.names.learn(&theirs, value_after(&said, "resource_version_uuid"));
    // An executor speaks when its container runs, not before.
    let brought = second.iter().position(|s| s.name().ends_with("RunTaskMessage"));
    let (before, after) = second.split_at(brought.expect("recorded") + 1);
    stage.play(before).await;
    agent.has_container().await;
    stage.play(after).await;
    assert!(stage.differences.is_empty(), "{}", stage.differences.join("\n"));
    assert!(stage.heard() >= 25, "only {} messages were compared", stage.heard());
}
