//! Registration, command tasks, kills and restarts, byte for byte where real
//! bytes were recorded.

use std::path::PathBuf;

use mesos::internal as m;
use mesos::{ContainerStatus, TaskState, TaskStatus};

use super::master::{Agent, Master, Recorded, recorded};
use crate::require;
use crate::support::{self, TempDir};

fn capture(name: &str) -> Vec<Recorded> {
    let path: PathBuf = support::golden().expect("required").join("libprocess").join(name);
    recorded(&std::fs::read(path).expect("recording"))
}

/// The recorded messages of one type.
fn all<M: prost::Message + prost::Name + Default>(recorded: &[Recorded]) -> Vec<M> {
    recorded
        .iter()
        .filter(|r| r.name == M::full_name())
        .map(|r| M::decode(&r.body[..]).expect("recorded whole"))
        .collect()
}

/// Sends recorded bytes as they are.
fn play(master: &Master, from: &str, recorded: &[Recorded], name: &str) {
    let found = recorded.iter().find(|r| r.name == name).expect("recorded");
    master.send_bytes(from, name, found.body.clone());
}

/// What differs from run to run, taken out.
fn normal(mut update: m::StatusUpdateMessage) -> m::StatusUpdateMessage {
    update.pid = update.pid.map(|_| "pid".into());
    update.update.timestamp = 0.0;
    update.update.uuid = update.update.uuid.map(|_| vec![1]);
    let status = &mut update.update.status;
    status.timestamp = status.timestamp.map(|_| 0.0);
    status.uuid = status.uuid.take().map(|_| vec![1]);
    if let Some(ContainerStatus { container_id, executor_pid, .. }) = &mut status.container_status {
        *executor_pid = executor_pid.map(|_| 1);
        if let Some(id) = container_id {
            id.value = "container".into();
        }
    }
    update
}

async fn acknowledge(master: &Master, update: &m::StatusUpdate) {
    master.send(&m::StatusUpdateAcknowledgementMessage {
        slave_id: update.slave_id.clone().expect("agent"),
        framework_id: update.framework_id.clone(),
        task_id: update.status.task_id.clone(),
        uuid: update.uuid.clone().expect("uuid"),
    });
}

/// Takes and acknowledges updates of a task up to `state`.
async fn follow(master: &mut Master, task: &str, state: TaskState) -> Vec<m::StatusUpdateMessage> {
    let mut updates: Vec<m::StatusUpdateMessage> = Vec::new();
    loop {
        let next: m::StatusUpdateMessage = master
            .expect_where(|u: &m::StatusUpdateMessage| u.update.status.task_id.value == task)
            .await;
        acknowledge(master, &next.update).await;
        let reached = next.update.status.state() == state;
        if !updates.iter().any(|u| u.update.uuid == next.update.uuid) {
            updates.push(next);
        }
        if reached {
            return updates;
        }
    }
}

/// Registers an agent the way it was recorded; returns its resource version.
async fn register(master: &mut Master) -> Vec<u8> {
    let from_agent = capture("1-registration-ping/000.43180-5050.c2s.bin");
    let from_master = capture("1-registration-ping/001.57342-5051.c2s.bin");
    let mut ours: m::RegisterSlaveMessage = master.expect().await;
    let mut theirs = all::<m::RegisterSlaveMessage>(&from_agent).remove(0);
    let version = ours.resource_version_uuid.take().expect("version").value;
    theirs.resource_version_uuid = None;
    assert_eq!(ours, theirs, "RegisterSlaveMessage");

    play(master, "master", &from_master, "mesos.internal.SlaveRegisteredMessage");
    let mut ours: m::UpdateSlaveMessage = master.expect().await;
    let mut theirs = all::<m::UpdateSlaveMessage>(&from_agent).remove(0);
    assert_eq!(ours.resource_version_uuid.take().expect("version").value, version);
    theirs.resource_version_uuid = None;
    assert_eq!(ours, theirs, "UpdateSlaveMessage");

    play(master, "slave-observer(1)", &from_master, "mesos.internal.PingSlaveMessage");
    let _: m::PongSlaveMessage = master.expect().await;
    version
}

/// The recorded RunTask messages, made valid for this agent.
fn runs(version: &[u8]) -> Vec<m::RunTaskMessage> {
    let recorded = capture("2-tasks-kill-restart/000.57342-5051.c2s.bin");
    let mut runs = all::<m::RunTaskMessage>(&recorded);
    for run in &mut runs {
        for uuid in &mut run.resource_version_uuids {
            uuid.uuid.value = version.to_vec();
        }
    }
    runs
}

#[tokio::test(flavor = "multi_thread")]
async fn the_recorded_conversation_plays_against_our_agent() {
    require!(golden, root);
    let dir = TempDir::new("agent-recorded");
    let mut master = Master::start().await;
    let agent = Agent::start(dir.path(), master.address);
    let version = register(&mut master).await;
    for run in runs(&version) {
        master.send(&run);
    }
    let recorded = capture("2-tasks-kill-restart/001.43180-5050.c2s.bin");
    let theirs = all::<m::StatusUpdateMessage>(&recorded);
    let of_task = |task: &str| {
        theirs
            .iter()
            .filter(|u| u.update.status.task_id.value == task)
            .cloned()
            .map(normal)
            .collect()
    };

    // latest_state may already be the next one when an update goes out.
    let plain = |updates: Vec<m::StatusUpdateMessage>| -> Vec<TaskStatus> {
        updates.into_iter().map(|u| u.update.status).collect()
    };
    // A task that ends by itself: every update as recorded.
    let ours = follow(&mut master, "fin", TaskState::TaskFinished).await;
    let ours: Vec<_> = ours.into_iter().map(normal).collect();
    let expected: Vec<m::StatusUpdateMessage> = of_task("fin");
    assert!(ours.iter().all(|u| u.update.latest_state.is_some()));
    assert_eq!(plain(ours), plain(expected));

    // A task that is killed.
    follow(&mut master, "stay", TaskState::TaskRunning).await;
    let mut ours = follow(&mut master, "kill", TaskState::TaskRunning).await;
    let from_master = capture("2-tasks-kill-restart/000.57342-5051.c2s.bin");
    play(&master, "master", &from_master, "mesos.internal.KillTaskMessage");
    ours.extend(follow(&mut master, "kill", TaskState::TaskKilled).await);
    let ours: Vec<_> = ours.into_iter().map(normal).collect();
    let expected: Vec<m::StatusUpdateMessage> = of_task("kill");
    assert_eq!(plain(ours), plain(expected));

    // The agent dies; its successor re-registers with the task that goes on.
    drop(agent);
    let agent = Agent::start(dir.path(), master.address);
    let again: m::ReregisterSlaveMessage = master.expect().await;
    assert_eq!(
        again.slave.id.as_ref().expect("id").value,
        "b9e1cd67-74c8-49da-9b35-82761232d89f-S0"
    );
    let stay: Vec<_> = again.tasks.iter().filter(|t| t.task_id.value == "stay").collect();
    let recorded = capture("2-tasks-kill-restart/046.58450-5050.c2s.bin");
    let theirs = all::<m::ReregisterSlaveMessage>(&recorded).remove(0);
    let theirs = theirs.tasks.into_iter().find(|t| t.task_id.value == "stay").expect("recorded");
    assert_eq!(stay.len(), 1);
    assert_eq!(stay[0].state, theirs.state);
    assert_eq!(stay[0].resources, theirs.resources);
    assert_eq!(stay[0].statuses.len(), theirs.statuses.len());
    assert_eq!(again.frameworks.len(), 1);
    assert!(again.executor_infos.is_empty());
    let reregistered = capture("2-tasks-kill-restart/047.33024-5051.c2s.bin");
    play(&master, "master", &reregistered, "mesos.internal.SlaveReregisteredMessage");
    let _: m::UpdateSlaveMessage = master.expect().await;

    // And it still ends rightly.
    let kill = capture("2-tasks-kill-restart/047.33024-5051.c2s.bin");
    play(&master, "master", &kill, "mesos.internal.KillTaskMessage");
    let last = follow(&mut master, "stay", TaskState::TaskKilled).await;
    let states: Vec<_> = last.iter().map(|u| u.update.status.state()).collect();
    assert_eq!(states, [TaskState::TaskKilling, TaskState::TaskKilled]);
    drop(agent);
}

/// Tasks of all fates while the agent dies: each ends once, rightly.
#[tokio::test(flavor = "multi_thread")]
async fn ends_that_happen_while_the_agent_is_away_are_not_lost() {
    require!(golden, root);
    const TASKS: usize = 40;
    let dir = TempDir::new("agent-away");
    let mut master = Master::start().await;
    let agent = Agent::start(dir.path(), master.address);
    let version = register(&mut master).await;
    let template = runs(&version).remove(0);
    for i in 0..TASKS {
        let mut run = template.clone();
        run.task.task_id.value = format!("t{i}");
        run.task.command.as_mut().expect("command").value = Some(match i % 4 {
            0 => "sleep 1000".into(),
            n => format!("sleep {n}; exit {}", i % 2),
        });
        master.send(&run);
    }
    for i in 0..TASKS {
        follow(&mut master, &format!("t{i}"), TaskState::TaskRunning).await;
    }
    drop(agent);
    tokio::time::sleep(std::time::Duration::from_secs(4)).await;
    let _agent = Agent::start(dir.path(), master.address);
    let again: m::ReregisterSlaveMessage = master.expect().await;
    let mut known: Vec<&str> = again.tasks.iter().map(|t| t.task_id.value.as_str()).collect();
    known.sort_unstable();
    known.dedup();
    let reregistered = capture("2-tasks-kill-restart/047.33024-5051.c2s.bin");
    play(&master, "master", &reregistered, "mesos.internal.SlaveReregisteredMessage");
    for i in 0..TASKS {
        let task = format!("t{i}");
        let (state, message) = match (i % 4, i % 2) {
            (0, _) => continue,
            (_, 0) => (TaskState::TaskFinished, "Command exited with status 0"),
            _ => (TaskState::TaskFailed, "Command exited with status 1"),
        };
        let last = follow(&mut master, &task, state).await;
        // An older update may come again whose acknowledgement was not stored.
        let ends: Vec<_> = last.iter().filter(|u| u.update.status.state() == state).collect();
        assert_eq!(ends.len(), 1, "{task}");
        assert_eq!(ends[0].update.status.message(), message);
    }
    for i in (0..TASKS).step_by(4) {
        let mut kill =
            all::<m::KillTaskMessage>(&capture("2-tasks-kill-restart/000.57342-5051.c2s.bin"))
                .remove(0);
        kill.task_id.value = format!("t{i}");
        master.send(&kill);
        follow(&mut master, &format!("t{i}"), TaskState::TaskKilled).await;
    }
}
