//! `libprocess/`: an agent registers, a V0 driver subscribes and runs five tasks
//! on it, as recorded; the master is ours.

use crate::conversation::{Said, Stage, conversation};
use crate::shape::Rules;
use crate::{require, start};

const AGENT: &str = "127.0.0.1:5051";
const MASTER: &str = "127.0.0.1:5050";
const DRIVER: &str = "127.0.0.1:42491";

/// The recorded registration, and what came after it in another run of the
/// same agent: one conversation.
fn recorded() -> (Vec<Said>, Vec<Said>) {
    let mut first = conversation("1-registration-ping");
    // Two pings are enough; the agent leaves at the end of the second capture.
    first.truncate(6);
    let mut second = conversation("3-v0-scheduler-executor");
    let between = |s: &Said| !s.name().contains("ExecutorMessage");
    second.retain(|s| !s.name().contains("Ping") && !s.name().contains("Pong") && between(s));
    (first, second)
}

#[tokio::test]
async fn the_recorded_conversation_plays_against_our_master() {
    require!(golden);
    let rules =
        Rules { values: true, loose: &["resource_version_uuids.uuid.value"], ..Rules::default() };
    let mut stage = Stage::new(MASTER, &[AGENT, DRIVER], rules).await;
    let master = start(&["--agent_ping_timeout=2secs", "--allocation_interval=1secs"]).await;
    stage.tested_at(master);
    let (first, second) = recorded();
    stage.play(&first).await;
    // The two captures have masters of different ids.
    let registered = first.iter().find(|s| s.name().ends_with("SlaveRegisteredMessage"));
    let id = |said: &Said| said.text().split('"').nth(5).unwrap_or("")[..36].to_owned();
    let old = id(registered.expect("recorded"));
    let ours = stage.names.ours(&old);
    let offers = second.iter().find(|s| s.name().ends_with("FrameworkRegisteredMessage"));
    stage.names.learn(&id(offers.expect("recorded")), &ours);
    stage.play(&second).await;
    assert!(stage.differences.is_empty(), "{}", stage.differences.join("\n"));
    assert!(stage.heard() >= 30, "only {} messages were compared", stage.heard());
}
