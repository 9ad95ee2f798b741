//! `libprocess/4-operations-drain-gone` against our agent: it is told to reserve, to make
//! and to destroy a volume and to unreserve, to drain, and in the end to go.

use super::master::Agent;
use super::played::value_after;
use crate::conversation::{Stage, conversation};
use crate::require;
use crate::shape::Rules;
use crate::support::TempDir;

const AGENT: &str = "127.0.0.1:5051";
const MASTER: &str = "127.0.0.1:5050";

#[tokio::test(flavor = "multi_thread")]
async fn recorded_operations_a_drain_and_the_end_play_against_our_agent() {
    require!(golden, root);
    let loose = &["resource_version_uuid.value", "status.uuid.value"];
    let rules = Rules { values: true, loose, ..Rules::default() };
    let mut stage = Stage::new(AGENT, &[MASTER], rules).await;
    let dir = TempDir::new("agent-drain");
    let mut agent = Agent::start(dir.path(), stage.address(MASTER));
    stage.tested_at(agent.address);
    let mut first = conversation("1-registration-ping");
    first.truncate(6);
    let said = stage.play_first(&first).await;

    let mut second = conversation("4-operations-drain-gone");
    // It ends the capture before this one, and has the agent's id of both.
    let exited = second.remove(0);
    let id = |text: &str| value_after(text, "slave_id")[..36].to_owned();
    let registered = first.iter().find(|s| s.name().ends_with("SlaveRegisteredMessage"));
    stage.names.learn(&id(&exited.text()), &id(&registered.expect("recorded").text()));
    let apply = second.iter().find(|s| s.name().ends_with("ApplyOperationMessage"));
    let theirs = value_after(&apply.expect("recorded").text(), "resource_version_uuid").to_owned();
    stage.names.learn(&theirs, value_after(&said, "resource_version_uuid"));

    let volume = dir.path().join("work/volumes/roles/web/v1");
    let mut seen = Vec::new();
    for said in second {
        for ours in stage.play(std::slice::from_ref(&said)).await {
            if said.name().ends_with("UpdateOperationStatusMessage") {
                // It is acknowledged by its name.
                stage
                    .names
                    .learn(value_after(&said.text(), "\"uuid\""), value_after(&ours, "\"uuid\""));
                seen.push(volume.exists());
            }
        }
    }
    assert!(stage.differences.is_empty(), "{}", stage.differences.join("\n"));
    // Reserved, made, destroyed, unreserved.
    assert_eq!(seen, [false, true, false, false]);
    assert!(agent.has_shut_down().await);
}
