//! Launches that take their time: what the framework hears of them, and what follows.

use mesos::internal as m;
use mesos::{DrainConfig, TaskState as S, task_status};

use super::world::{MASTER, World, command_task, executor_task, fetching_task};
use crate::agent::core::event::{Event, Inbound, Timer};

/// An agent that is busy launching a task, which was told once.
fn told_once() -> World {
    let mut world = World::registered();
    world.slow = true;
    world.run_task(fetching_task("t"), true);
    world.settle();
    assert!(world.states_of("t").is_empty());
    look(&mut world, 1);
    assert_eq!(world.states_of("t"), [S::TaskStarting]);
    world
}

/// Time passes, and so many megabytes are there.
fn look(world: &mut World, megabytes: u64) {
    world.fetched = megabytes << 20;
    assert!(world.timers.iter().any(|timer| matches!(timer, Timer::Progress { .. })));
    world.fire_if(|timer| matches!(timer, Timer::Progress { .. }));
    world.settle();
}

fn messages(world: &World) -> Vec<&str> {
    world.seen.iter().map(|(.., status)| status.message()).collect()
}

#[test]
fn a_long_launch_is_told_until_the_task_runs() {
    let mut world = told_once();
    let (.., status) = world.seen.last().unwrap();
    assert_eq!(status.source(), task_status::Source::Executor);
    assert!(status.container_status.is_none(), "there is no container yet");
    look(&mut world, 2);
    // Nothing came meanwhile: there is nothing to tell.
    look(&mut world, 2);
    assert_eq!(messages(&world), ["Fetching 'data': 1.0 MB", "Fetching 'data': 2.0 MB"]);
    world.slow = false;
    world.settle();
    world.fire_if(|timer| matches!(timer, Timer::Progress { .. }));
    world.settle();
    assert_eq!(world.states_of("t"), [S::TaskStarting, S::TaskStarting, S::TaskRunning]);
    let looks = world.timers.iter().any(|timer| matches!(timer, Timer::Progress { .. }));
    assert!(!looks, "nobody looks at what runs");
    let id = world.running().pop().unwrap();
    world.exit_container(&id, 0);
    world.settle();
    assert_eq!(world.states_of("t").last(), Some(&S::TaskFinished));
    assert!(world.core.snapshot().frameworks.is_empty());
}

#[test]
fn a_framework_that_does_not_answer_is_told_once() {
    let mut world = World::registered();
    world.slow = true;
    world.answers = false;
    world.run_task(fetching_task("t"), true);
    world.settle();
    (1..4).for_each(|megabytes| look(&mut world, megabytes));
    let sent = world.sent_to::<m::StatusUpdateMessage>(MASTER);
    assert_eq!(sent.len(), 1);
    world.answers = true;
    world.fire_if(|timer| matches!(timer, Timer::UpdateRetry { .. }));
    world.settle();
    look(&mut world, 4);
    assert_eq!(messages(&world), ["Fetching 'data': 1.0 MB", "Fetching 'data': 4.0 MB"]);
}

#[test]
fn a_kill_undoes_a_launch_that_was_told() {
    let mut world = told_once();
    world.kill_task("t");
    world.settle();
    let container = world.core.snapshot().executors().next().unwrap().1.container_id.value.clone();
    world.kill_task("t");
    world.handle(Event::Launched { container, result: Err("destroyed".into()) });
    world.settle();
    assert_eq!(world.states_of("t"), [S::TaskStarting, S::TaskKilled]);
    let (.., last) = world.seen.last().unwrap();
    assert_eq!(last.reason(), task_status::Reason::TaskKilledDuringLaunch);
    assert!(world.core.snapshot().frameworks.is_empty());
}

#[test]
fn a_drain_undoes_a_launch_that_was_told() {
    let mut world = told_once();
    let config = DrainConfig::default();
    world.tell_agent(Inbound::Drain(m::DrainSlaveMessage { config }));
    world.settle();
    assert_eq!(world.states_of("t"), [S::TaskStarting, S::TaskKilled]);
    let (.., last) = world.seen.last().unwrap();
    assert_eq!(last.reason(), task_status::Reason::SlaveDraining);
    let container = world.core.snapshot().executors().next().unwrap().1.container_id.value.clone();
    world.handle(Event::Launched { container, result: Err("destroyed".into()) });
    world.settle();
    assert!(world.core.snapshot().drain.is_none(), "drained");
}

#[test]
fn a_launch_that_was_told_may_fail() {
    let mut world = told_once();
    let container = world.core.snapshot().executors().next().unwrap().1.container_id.value.clone();
    world.handle(Event::Launched { container, result: Err("no such host".into()) });
    world.settle();
    assert_eq!(world.states_of("t"), [S::TaskStarting, S::TaskFailed]);
    let (.., last) = world.seen.last().unwrap();
    assert_eq!(last.message(), "Failed to launch container: no such host");
}

#[test]
fn the_next_agent_launches_again_and_goes_on_telling() {
    let mut world = told_once();
    world.crash();
    world.settle();
    let reregistered = world.sent_to::<m::ReregisterSlaveMessage>(MASTER);
    let tasks = &reregistered.last().unwrap().tasks;
    assert_eq!(tasks.iter().map(|task| task.state()).collect::<Vec<_>>(), [S::TaskStarting]);
    look(&mut world, 3);
    world.slow = false;
    world.settle();
    assert_eq!(world.states_of("t"), [S::TaskStarting, S::TaskStarting, S::TaskRunning]);
}

#[test]
fn only_launches_of_command_tasks_that_may_take_long_are_looked_at() {
    let mut executor = executor_task("e", "E");
    let command = executor.executor.as_mut().unwrap().command.as_mut().unwrap();
    command.uris = fetching_task("x").command.unwrap().uris;
    let mut image = command_task("image");
    let container = mesos::ContainerInfo {
        r#type: mesos::container_info::Type::Mesos as i32,
        mesos: Some(mesos::container_info::MesosInfo { image: Some(Default::default()) }),
        ..Default::default()
    };
    image.container = Some(container);
    for (task, looked_at) in
        [(command_task("t"), false), (executor, false), (fetching_task("t"), true), (image, true)]
    {
        let mut world = World::registered();
        world.slow = true;
        world.run_task(task, true);
        world.settle();
        let found = world.timers.iter().any(|timer| matches!(timer, Timer::Progress { .. }));
        assert_eq!(found, looked_at, "{:?}", world.tasks);
    }
}
