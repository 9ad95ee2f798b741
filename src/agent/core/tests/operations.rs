//! Reservations and volumes: stories, and a walk with crashes at any effect.

use mesos::internal as m;
use mesos::offer::Operation;
use mesos::resources::Resources;
use mesos::{FrameworkId, OperationState as O, Resource, TaskState as S, Uuid};
use proptest::prelude::*;

use super::walk::{step, walks};
use super::world::{MASTER, World, command_task};
use crate::agent::AgentState;
use crate::agent::core::event::{Inbound, Timer};
use crate::agent::core::operations::tests::{
    create, destroy, reserve, reserved, unreserve, volume,
};
use crate::checkpoint::{Mode, WorkDir, recover};

/// As checkpointed, in the core and on the disk, which must agree with the volumes'
/// directories.
fn checkpointed(world: &World, volumes: &[&str]) -> Resources {
    let work = WorkDir::new(&world.dir);
    let kept = world.core.operations.checkpointed.clone();
    let stored = recover(&work, Mode::STRICT).unwrap().resources;
    assert_eq!(Resources::from_valid(&stored.resources), kept);
    for id in volumes {
        let held = kept.iter().any(|item| item.persistence_id() == Some(id));
        let place = work.volume(&volume(id, 1.0)).unwrap();
        assert_eq!(place.is_dir(), held, "{}", place.display());
    }
    kept
}

fn one(resource: &Resource) -> Resources {
    Resources::from_valid(std::slice::from_ref(resource))
}

fn states(world: &World) -> Vec<O> {
    world.operations.iter().map(|(_, status)| status.state()).collect()
}

#[test]
fn a_volume_is_made_used_and_destroyed() {
    let mut world = World::registered();
    let (disk, v) = (reserved("disk", 64.0), volume("v", 64.0));
    world.operate(1, reserve(&disk));
    world.operate(2, create(&v));
    let mut task = command_task("t");
    task.resources.push(v.clone());
    world.run_task(task, true);
    world.settle();
    assert_eq!(states(&world), [O::OperationFinished, O::OperationFinished]);
    assert_eq!(world.states_of("t"), [S::TaskStarting, S::TaskRunning]);
    assert_eq!(checkpointed(&world, &["v"]), one(&v));
    assert!(world.core.operations.known.is_empty(), "acknowledged");
    let container = world.running().remove(0);
    world.operate(3, destroy(&v));
    world.settle();
    assert_eq!(states(&world)[2], O::OperationFailed, "it is in use");
    assert!(world.operations[2].1.message().contains("'v' is in use"));
    world.exit_container(&container, 0);
    world.settle();
    world.operate(4, destroy(&v));
    world.operate(5, unreserve(&disk));
    world.settle();
    assert_eq!(states(&world)[3..], [O::OperationFinished, O::OperationFinished]);
    assert!(checkpointed(&world, &["v"]).is_empty());
}

#[test]
fn nothing_is_launched_before_its_volume_is_there() {
    let mut world = World::registered();
    let v = volume("v", 64.0);
    world.operate(1, reserve(&reserved("disk", 64.0)));
    world.operate(2, create(&v));
    let mut task = command_task("t");
    task.resources.push(v);
    // Not even where nothing of the task itself is stored.
    world.run_task(task, false);
    while world.step_inbox() {}
    while world.step_pending(0) {}
    assert!(world.started.is_empty());
    world.settle();
    assert_eq!(world.started.len(), 1);
}

#[test]
fn tasks_on_unknown_volumes_are_dropped() {
    let mut world = World::registered();
    let mut task = command_task("t");
    task.resources.push(volume("v", 64.0));
    world.run_task(task, true);
    world.settle();
    assert_eq!(world.states_of("t"), [S::TaskDropped]);
    let status = &world.seen[0].3;
    assert_eq!(status.reason(), mesos::task_status::Reason::ResourcesUnknown);
}

#[test]
fn updates_are_repeated_until_they_are_acknowledged() {
    let mut world = World::registered();
    world.answers = false;
    let uuid = world.operate(1, reserve(&reserved("disk", 64.0)));
    world.settle();
    let sent = |world: &World| world.sent_to::<m::UpdateOperationStatusMessage>(MASTER);
    let retry = |t: &Timer| matches!(t, Timer::OperationRetry { .. });
    assert_eq!(sent(&world).len(), 1);
    world.fire_if(retry);
    world.fire_if(retry);
    assert_eq!(sent(&world).len(), 3, "one timer each time");
    assert!(sent(&world).windows(2).all(|two| two[0] == two[1]));
    world.crash();
    world.settle();
    let update = world.sent_to::<m::UpdateSlaveMessage>(MASTER).pop().unwrap();
    assert_eq!(update.operations.unwrap().operations[0].uuid.value, uuid);
    assert_eq!(sent(&world).len(), 4, "again after a restart");
    // The acknowledgement of something else changes nothing.
    world.tell_agent(Inbound::AcknowledgeOperation(m::AcknowledgeOperationStatusMessage {
        status_uuid: Uuid { value: vec![9; 16] },
        operation_uuid: Uuid { value: uuid.clone() },
        resource_provider_id: None,
    }));
    world.settle();
    assert_eq!(world.core.operations.known.len(), 1);
    world.answers = true;
    world.fire_if(retry);
    world.settle();
    assert!(world.core.operations.known.is_empty());
    world.crash();
    world.settle();
    assert_eq!(world.operations.len(), 1);
    let logs = WorkDir::new(&world.dir).meta_operations(super::world::AGENT_ID);
    assert_eq!(std::fs::read_dir(logs).unwrap().count(), 0, "its log is gone");
}

#[test]
fn what_does_not_fit_is_told_and_the_master_corrected() {
    let mut world = World::registered();
    let before = world.sent_to::<m::ReregisterSlaveMessage>(MASTER).len();
    world.operate(1, reserve(&reserved("disk", 1e6)));
    world.settle();
    assert_eq!(states(&world), [O::OperationFailed]);
    let again = world.sent_to::<m::ReregisterSlaveMessage>(MASTER);
    assert_eq!(again.len(), before + 1);
    assert!(again.last().unwrap().checkpointed_resources.is_empty());
    assert_eq!(world.core.snapshot().state, AgentState::Running);
}

#[test]
fn a_registration_that_was_outrun_is_repeated() {
    let mut world = World::registered();
    world.crash();
    while world.step_pending(0) || world.step_storage() || world.step_flush() {}
    world.fire_if(|t| matches!(t, Timer::Register { .. }));
    // The master's answer is on its way, and an operation before it.
    let answer = world.inbox.pop_back().unwrap();
    world.operate(1, reserve(&reserved("disk", 64.0)));
    world.inbox.push_back(answer);
    world.settle();
    let told = world.sent_to::<m::ReregisterSlaveMessage>(MASTER).pop().unwrap();
    assert_eq!(told.checkpointed_resources.len(), 1);
}

#[test]
fn questions_about_operations_are_answered() {
    let mut world = World::registered();
    world.answers = false;
    let uuid = world.operate(1, reserve(&reserved("disk", 64.0)));
    world.settle();
    let ask = |world: &mut World, uuid: &[u8], framework: Option<&str>| {
        let before = world.sent_to::<m::UpdateOperationStatusMessage>(MASTER).len();
        let asked = m::reconcile_operations_message::Operation {
            operation_uuid: Some(Uuid { value: uuid.to_vec() }),
            ..Default::default()
        };
        world.tell_agent(Inbound::ReconcileOperations(m::ReconcileOperationsMessage {
            operations: vec![asked],
            framework_id: framework.map(|id| FrameworkId { value: id.into() }),
        }));
        world.settle();
        let all = world.sent_to::<m::UpdateOperationStatusMessage>(MASTER);
        let told = all[before..].iter().map(|u| (u.status.state(), u.status.uuid.is_some()));
        told.collect::<Vec<_>>()
    };
    assert_eq!(ask(&mut world, &uuid, None), []);
    assert_eq!(ask(&mut world, &uuid, Some("F")), [(O::OperationFinished, false)]);
    assert_eq!(ask(&mut world, &[7; 16], None), [(O::OperationDropped, false)]);
    assert_eq!(ask(&mut world, &[7; 16], Some("F")), [(O::OperationUnknown, false)]);
}

#[test]
fn a_master_may_say_what_is_checkpointed() {
    let mut world = World::registered();
    let v = volume("v", 64.0);
    let say = |world: &mut World, resources: Vec<Resource>| {
        let message = m::CheckpointResourcesMessage { resources };
        world.tell_agent(Inbound::CheckpointResources(message));
        world.settle();
    };
    say(&mut world, vec![v.clone()]);
    assert_eq!(checkpointed(&world, &["v"]), one(&v));
    say(&mut world, vec![volume("much", 1e6)]);
    assert_eq!(checkpointed(&world, &["v", "much"]), one(&v), "it does not fit");
    world.crash();
    world.settle();
    let told = world.sent_to::<m::ReregisterSlaveMessage>(MASTER).pop().unwrap();
    assert_eq!(told.checkpointed_resources.len(), 1);
    say(&mut world, Vec::new());
    assert!(checkpointed(&world, &["v"]).is_empty());
}

#[test]
fn reservations_need_room_in_the_flag() {
    let mut world = World::registered();
    world.operate(1, reserve(&reserved("disk", 512.0)));
    world.settle();
    let mut config = world.core.config.clone();
    config.info.resources.iter_mut().filter(|r| r.name == "disk").for_each(|r| {
        r.scalar = Some(mesos::value::Scalar { value: 256.0 });
    });
    let mut next = crate::agent::core::Core::new(config, [7, 7], world.now);
    let recovered = recover(&WorkDir::new(&world.dir), Mode::STRICT).unwrap();
    let error = next.recover(recovered).unwrap_err().to_string();
    assert!(
        error.contains("512") && error.contains("incompatible with agent resources"),
        "{error}"
    );
}

#[test]
fn an_agent_is_drained_once_its_operations_are_told() {
    let mut world = World::registered();
    world.answers = false;
    world.operate(1, reserve(&reserved("disk", 64.0)));
    world.settle();
    world.tell_agent(Inbound::Drain(m::DrainSlaveMessage::default()));
    world.settle();
    assert!(world.core.snapshot().drain.is_some());
    world.answers = true;
    world.fire_if(|t| matches!(t, Timer::OperationRetry { .. }));
    world.settle();
    assert!(world.core.snapshot().drain.is_none());
}

/// One of those that there are.
fn pick(which: u8) -> Operation {
    let id = if which & 4 == 0 { "a" } else { "b" };
    match which % 4 {
        0 => reserve(&reserved("disk", 8.0)),
        1 => create(&volume(id, 8.0)),
        2 => destroy(&volume(id, 8.0)),
        _ => unreserve(&reserved("disk", 8.0)),
    }
}

proptest! {
    #![proptest_config(walks(80))]

    /// Whatever was told as done is done, nothing else is, and each operation ends
    /// once.
    #[test]
    fn what_is_told_is_what_is_there(
        steps in prop::collection::vec(step(7, any::<u8>().prop_map(pick)), 1..100)
    ) {
        let mut world = World::registered();
        let start = world.core.operations.total.clone();
        let mut asked: Vec<(Vec<u8>, Operation)> = Vec::new();
        for step in &steps {
            if let Some(operation) = world.take(step) {
                let uuid = world.operate(asked.len() as u8, operation.clone());
                asked.push((uuid, operation.clone()));
            }
        }
        world.finish(|_| ());
        prop_assert!(world.core.operations.known.is_empty());
        let mut total = (*start).clone();
        for (uuid, operation) in &asked {
            let told = world.operations.iter().find(|(told, _)| told == uuid);
            if told.is_some_and(|(_, status)| status.state() == O::OperationFinished) {
                total = total.apply(operation).expect("what is told in order applies");
            }
        }
        prop_assert_eq!(total.to_checkpoint(), checkpointed(&world, &["a", "b"]));
        prop_assert_eq!(&total, &*world.core.operations.total);
    }
}
