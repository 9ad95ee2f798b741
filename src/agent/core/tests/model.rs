//! The promise: whatever order things happen in and wherever the agent dies,
//! each task gets exactly one terminal state, and it is the right one.

use std::collections::BTreeMap;

use mesos::TaskState as S;
use proptest::prelude::*;

use super::world::{Container, World, command_task, fetching_task};
use crate::agent::core::event::Timer;
use crate::agent::core::state::is_terminal;

#[derive(Debug, Clone)]
enum Step {
    Run,
    Kill(u8),
    Exit(u8, bool),
    Inbox,
    Storage,
    Flush,
    Pending(u8),
    Timer(u8),
    /// The agent dies after this many more effects.
    Fuse(u8),
    Crash,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        2 => Just(Step::Run),
        1 => any::<u8>().prop_map(Step::Kill),
        2 => (any::<u8>(), any::<bool>()).prop_map(|(c, ok)| Step::Exit(c, ok)),
        8 => Just(Step::Inbox),
        8 => Just(Step::Storage),
        8 => Just(Step::Flush),
        6 => any::<u8>().prop_map(Step::Pending),
        2 => any::<u8>().prop_map(Step::Timer),
        1 => (0u8..12).prop_map(Step::Fuse),
        1 => Just(Step::Crash),
    ]
}

/// What is known of a task from outside.
#[derive(Debug, Default)]
struct Fate {
    container: Option<String>,
    /// The exit that the container had by itself.
    exit: Option<i32>,
    killed: bool,
}

fn take(world: &mut World, fates: &mut BTreeMap<String, Fate>, step: &Step) {
    match step {
        Step::Run => {
            let id = format!("t{}", fates.len());
            let fetches = fates.len() % 2 == 1;
            let task = if fetches { fetching_task(&id) } else { command_task(&id) };
            world.run_task(task, true);
            fates.insert(id, Fate::default());
        }
        Step::Kill(which) if !fates.is_empty() => {
            let at = usize::from(*which) % fates.len();
            let (id, fate) = fates.iter_mut().nth(at).unwrap();
            // A master does not ask for the end of what it knows has ended.
            if !world.tasks.get(id).is_some_and(|state| is_terminal(*state)) {
                fate.killed = true;
                world.kill_task(id);
            }
        }
        Step::Exit(which, ok) => {
            let running = world.running();
            if running.is_empty() {
                return;
            }
            let container = &running[usize::from(*which) % running.len()];
            let status = if *ok { 0 } else { 3 << 8 };
            if let Some(fate) = fates.values_mut().find(|f| f.container.as_ref() == Some(container))
            {
                fate.exit = Some(status);
            }
            world.exit_container(container, status);
        }
        Step::Inbox => drop(world.step_inbox()),
        Step::Storage => drop(world.step_storage()),
        Step::Flush => drop(world.step_flush()),
        Step::Pending(at) => drop(world.step_pending(usize::from(*at))),
        Step::Timer(at) => {
            world.fetched += 1;
            world.fire(usize::from(*at));
        }
        Step::Fuse(effects) => world.fuse = Some(usize::from(*effects)),
        Step::Crash => world.crash(),
        Step::Kill(_) => {}
    }
    learn(world, fates);
}

/// Notes which container belongs to which task.
fn learn(world: &mut World, fates: &mut BTreeMap<String, Fate>) {
    let snapshot = world.core.snapshot();
    for (_, executor) in snapshot.executors() {
        if let Some(fate) = fates.get_mut(executor.id()) {
            fate.container.get_or_insert(executor.container_id.value.clone());
        }
    }
}

/// Lets everything end.
fn finish(world: &mut World, fates: &mut BTreeMap<String, Fate>) {
    world.fuse = None;
    for _ in 0..50 {
        world.settle();
        learn(world, fates);
        for container in world.running() {
            if let Some(fate) =
                fates.values_mut().find(|f| f.container.as_ref() == Some(&container))
            {
                fate.exit = Some(0);
            }
            world.exit_container(&container, 0);
        }
        world.fire_if(|t| {
            matches!(
                t,
                Timer::UpdateRetry { .. } | Timer::KillGrace { .. } | Timer::PingTimeout { .. }
            )
        });
        world.settle();
        let open = |id: &String| !world.states_of(id).last().is_some_and(|s| is_terminal(*s));
        if !fates.keys().any(open) {
            return;
        }
        // What the agent never heard of is told at the next registration.
        world.crash();
    }
}

/// No task goes back.
fn stage(state: S) -> u8 {
    match state {
        S::TaskStarting => 0,
        S::TaskRunning => 1,
        S::TaskKilling => 2,
        _ => 3,
    }
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: if cfg!(debug_assertions) { 120 } else { 600 },
        ..ProptestConfig::default()
    })]

    #[test]
    fn each_task_ends_once_and_rightly(steps in prop::collection::vec(step(), 1..120)) {
        let mut world = World::registered();
        let mut fates = BTreeMap::new();
        for step in &steps {
            take(&mut world, &mut fates, step);
        }
        finish(&mut world, &mut fates);
        for (task, fate) in &fates {
            let states = world.states_of(task);
            let ends: Vec<_> = states.iter().filter(|s| is_terminal(**s)).collect();
            let told: Vec<_> = world
                .seen
                .iter()
                .filter(|(t, ..)| t == task)
                .map(|(_, state, _, status)| (state, status.message.clone()))
                .collect();
            prop_assert_eq!(ends.len(), 1, "{}: {:?} {:?}", task, told, fate);
            prop_assert!(is_terminal(*states.last().unwrap()), "{}: {:?}", task, states);
            prop_assert!(states.is_sorted_by_key(|state| stage(*state)), "{}: {:?}", task, told);
            let ran = states.contains(&S::TaskRunning);
            match (ends[0], fate.exit) {
                (S::TaskFinished, Some(0)) | (S::TaskFailed, Some(768)) => {}
                (S::TaskKilled, _) => prop_assert!(fate.killed),
                (S::TaskFinished, exit) => prop_assert!(false, "finished with {:?}", exit),
                (S::TaskDropped, _) => {
                    // Only a task that was not stored before a crash: one that was
                    // is launched again.
                    prop_assert!(world.crashes > 0 && !ran, "{}: {:?} {:?}", task, told, fate);
                }
                other => prop_assert!(false, "{task}: {other:?} {fate:?}"),
            }
        }
        let exited = world.containers.values().filter(|c| matches!(c, Container::Exited(_)));
        prop_assert_eq!(exited.count(), 0, "every exit record is released");
    }
}
