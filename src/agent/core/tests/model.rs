//! The promise: whatever order things happen in and wherever the agent dies,
//! each task gets exactly one terminal state, and it is the right one.

use std::collections::BTreeMap;

use mesos::TaskState as S;
use proptest::prelude::*;

use super::walk::{Step, step, walks};
use super::world::{Container, World, command_task, fetching_task};
use crate::agent::core::state::is_terminal;

#[derive(Debug, Clone)]
enum Own {
    Run,
    Kill(u8),
    Exit(u8, bool),
}

fn own() -> impl Strategy<Value = Own> {
    prop_oneof![
        2 => Just(Own::Run),
        1 => any::<u8>().prop_map(Own::Kill),
        2 => (any::<u8>(), any::<bool>()).prop_map(|(c, ok)| Own::Exit(c, ok)),
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

fn take(world: &mut World, fates: &mut BTreeMap<String, Fate>, step: &Step<Own>) {
    match world.take(step) {
        None => {}
        Some(Own::Run) => {
            let id = format!("t{}", fates.len());
            let fetches = fates.len() % 2 == 1;
            let task = if fetches { fetching_task(&id) } else { command_task(&id) };
            world.run_task(task, true);
            fates.insert(id, Fate::default());
        }
        Some(Own::Kill(_)) if fates.is_empty() => {}
        Some(Own::Kill(which)) => {
            let at = usize::from(*which) % fates.len();
            let (id, fate) = fates.iter_mut().nth(at).unwrap();
            // A master does not ask for the end of what it knows has ended.
            if !world.tasks.get(id).is_some_and(|state| is_terminal(*state)) {
                fate.killed = true;
                world.kill_task(id);
            }
        }
        Some(Own::Exit(which, ok)) => {
            let running = world.running();
            if running.is_empty() {
                return;
            }
            let container = &running[usize::from(*which) % running.len()];
            exit(world, fates, container, if *ok { 0 } else { 3 << 8 });
        }
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

/// Whatever runs exits.
fn end(world: &mut World, fates: &mut BTreeMap<String, Fate>) {
    learn(world, fates);
    for container in world.running() {
        exit(world, fates, &container, 0);
    }
}

/// A container ends by itself.
fn exit(world: &mut World, fates: &mut BTreeMap<String, Fate>, container: &str, status: i32) {
    let of = |fate: &&mut Fate| fate.container.as_deref() == Some(container);
    if let Some(fate) = fates.values_mut().find(of) {
        fate.exit = Some(status);
    }
    world.exit_container(container, status);
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
    #![proptest_config(walks(120))]

    #[test]
    fn each_task_ends_once_and_rightly(steps in prop::collection::vec(step(5, own()), 1..120)) {
        let mut world = World::registered();
        let mut fates = BTreeMap::new();
        for step in &steps {
            take(&mut world, &mut fates, step);
        }
        world.finish(|world| end(world, &mut fates));
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
