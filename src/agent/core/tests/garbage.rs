//! Garbage in the core: what becomes it, what goes when, what the next agent knows.

use std::path::PathBuf;

use mesos::TaskState as S;

use super::world::{World, command_task};
use crate::agent::core::event::{Effect, Event, NotDiscarded, Timer};
use crate::checkpoint::{Garbage, RunKey, WorkDir};
use crate::gc::Disk;

const WEEK: f64 = 7.0 * 86_400.0;

fn disk(used: f64) -> Event {
    Event::DiskMeasured(Disk { used, total: 1_000_000 })
}

/// Runs a task to its end and gives its run back; its sandbox is made as the driver
/// would.
fn ended(world: &mut World, task: &str) -> RunKey {
    world.run_task(command_task(task), true);
    world.settle();
    let container = world.running().pop().expect("it runs");
    let run = RunKey {
        agent: super::world::AGENT_ID.into(),
        framework: "F".into(),
        executor: task.into(),
        container: container.clone(),
    };
    std::fs::create_dir_all(WorkDir::new(&world.dir).sandbox(&run)).unwrap();
    world.exit_container(&container, 0);
    world.settle();
    assert_eq!(world.states_of(task).last(), Some(&S::TaskFinished));
    run
}

fn paths(world: &World, run: &RunKey) -> Vec<PathBuf> {
    WorkDir::new(&world.dir).garbage(&Garbage::Run(run.clone()))
}

#[test]
fn sandboxes_go_when_they_are_old_enough() {
    let mut world = World::registered();
    let run = ended(&mut world, "t");
    world.now += WEEK / 2.0;
    world.handle(disk(0.3));
    world.settle();
    assert!(paths(&world, &run).iter().all(|p| p.exists()), "60 % of a week are allowed");
    world.now += WEEK * 0.11;
    world.handle(disk(0.3));
    world.settle();
    assert!(paths(&world, &run).iter().all(|p| !p.exists()));
    let counters = world.core.snapshot().counters;
    assert_eq!(counters.gc_path_removals_pending, 0);
    assert_eq!(counters.gc_path_removals_succeeded, 1, "the framework's directory as a whole");
}

#[test]
fn the_next_agent_knows_since_when_something_waits() {
    let mut world = World::registered();
    let run = ended(&mut world, "t");
    world.weights.insert(Garbage::Run(run.clone()), 4711);
    world.handle(Event::Weighed { garbage: Garbage::Run(run.clone()), bytes: Some(4711) });
    world.settle();
    world.now += WEEK / 2.0;
    world.crash();
    world.settle();
    world.handle(disk(0.0));
    world.settle();
    assert_eq!(world.core.snapshot().counters.gc_bytes_pending, 4711);
    assert!(paths(&world, &run).iter().all(|p| p.exists()));
    // By the time stamps of the files it would be years younger.
    world.now += WEEK / 2.0;
    world.handle(disk(0.0));
    world.settle();
    assert!(paths(&world, &run).iter().all(|p| !p.exists()));
}

#[test]
fn a_framework_that_comes_back_keeps_its_directories() {
    let mut world = World::registered();
    let run = ended(&mut world, "t");
    world.now += WEEK;
    world.run_task(command_task("u"), true);
    world.settle();
    world.handle(disk(0.0));
    world.settle();
    let work = WorkDir::new(&world.dir);
    assert!(work.meta_framework(&run.agent, "F").exists());
    assert!(paths(&world, &run).iter().all(|p| !p.exists()));
    let container = world.running().pop().expect("u runs");
    world.crash();
    world.settle();
    assert_eq!(world.running(), [container], "and is recovered");
}

#[test]
fn what_is_read_waits_and_what_cannot_be_moved_is_tried_again() {
    let mut world = World::registered();
    let run = ended(&mut world, "t");
    let framework = Garbage::Framework { agent: run.agent.clone(), framework: "F".into() };
    let take = |world: &mut World| {
        let effects = world.core.handle(world.now, disk(0.0));
        effects.into_iter().find_map(|effect| match effect {
            Effect::Discard { garbage, urgent } => Some((garbage, urgent)),
            _ => None,
        })
    };
    world.now += WEEK;
    assert_eq!(take(&mut world), Some((framework.clone(), false)));
    let reply = |result| Event::Discarded { garbage: framework.clone(), result };
    world.handle(reply(Err(NotDiscarded::InUse)));
    assert_eq!(take(&mut world), None);
    world.now += 60.0;
    assert_eq!(take(&mut world), Some((framework.clone(), false)));
    world.handle(reply(Err(NotDiscarded::Failed("something is mounted".into()))));
    assert_eq!(take(&mut world), None);
    world.now += 60.0;
    assert_eq!(take(&mut world), Some((framework.clone(), false)));
    let counters = world.core.snapshot().counters;
    assert_eq!((counters.gc_removals_postponed, counters.gc_path_removals_failed), (1, 1));
}

#[test]
fn a_full_disk_is_looked_at_at_once_and_crash_loops_go_first() {
    let mut world = World::registered();
    let mut runs = Vec::new();
    for n in 0..8 {
        let id = format!("crash-{n}");
        world.run_task(mesos::TaskInfo { name: "web".into(), ..command_task(&id) }, true);
        world.settle();
        let container = world.running().pop().expect("it runs");
        runs.push(container.clone());
        world.exit_container(&container, 256);
        world.now += 1.0;
        world.settle();
    }
    let effects = world.core.handle(world.now, Event::DiskFull { waiting: true, reserve: 3 });
    assert!(matches!(effects[..], [Effect::MeasureDisk]), "{effects:?}");
    let again = world.core.handle(world.now, Event::DiskFull { waiting: true, reserve: 3 });
    assert!(again.is_empty(), "one look at a time");
    world.handle(Event::DiskMeasured(Disk { used: 0.85, total: 1_000_000 }));
    let (first, urgent) = world.collected.first().cloned().expect("something goes");
    assert!(urgent && matches!(&first, Garbage::Run(run) if run.container == runs[0]), "{first:?}");
    assert!(world.core.snapshot().counters.checkpoints_waiting);
}

#[test]
fn a_clock_set_a_year_ahead_collects_nothing() {
    let mut world = World::registered();
    let run = ended(&mut world, "t");
    let year = 365.0 * 86_400.0;
    world.now += year;
    world.handle(Event::ClockSet { by: year });
    world.handle(disk(0.0));
    world.settle();
    world.crash();
    world.settle();
    world.handle(disk(0.0));
    world.settle();
    assert!(paths(&world, &run).iter().all(|p| p.exists()));
    world.now += WEEK;
    world.handle(disk(0.0));
    world.settle();
    assert!(paths(&world, &run).iter().all(|p| !p.exists()));
}

#[test]
fn sandboxes_of_frameworks_without_checkpoints_are_found_again() {
    let mut world = World::registered();
    world.run_task(command_task("t"), false);
    world.settle();
    let container = world.running().pop().expect("it runs");
    let run = RunKey {
        agent: super::world::AGENT_ID.into(),
        framework: "F".into(),
        executor: "t".into(),
        container,
    };
    let sandbox = WorkDir::new(&world.dir).sandbox(&run);
    std::fs::create_dir_all(&sandbox).unwrap();
    world.crash();
    world.settle();
    assert!(world.core.snapshot().counters.gc_path_removals_pending > 0);
    // Its age is that of its files, which are made by another clock than ours.
    world.handle(disk(0.95));
    world.settle();
    assert!(!sandbox.exists());
}

#[test]
fn the_disk_is_looked_at_by_one_timer() {
    let mut world = World::registered();
    let watches = |world: &World| {
        world.timers.iter().filter(|t| matches!(t, Timer::DiskWatch { .. })).count()
    };
    for _ in 0..3 {
        world.handle(Event::DiskFull { waiting: true, reserve: 0 });
        world.handle(disk(0.5));
    }
    assert!(watches(&world) >= 3);
    let mut looks = 0;
    for timer in std::mem::take(&mut world.timers) {
        if matches!(timer, Timer::DiskWatch { .. }) {
            let effects = world.core.handle(world.now, Event::Timer(timer));
            looks += effects.iter().filter(|e| matches!(e, Effect::MeasureDisk)).count();
        }
    }
    assert_eq!(looks, 1, "the newest counts");
    assert_eq!(world.core.handle(world.now, disk(0.5)).len(), 1, "and sets the next one");
}
