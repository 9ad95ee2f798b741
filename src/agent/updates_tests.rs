//! Tests of the update streams: examples, and a model of a lossy master.

#![allow(clippy::unwrap_used)]

use mesos::{FrameworkId, TaskId, TaskState, TaskStatus};
use proptest::prelude::*;

use super::*;

fn update(uuid: u8, state: TaskState) -> StatusUpdate {
    StatusUpdate {
        framework_id: FrameworkId { value: "f".into() },
        status: TaskStatus {
            task_id: TaskId { value: "t".into() },
            state: state as i32,
            ..TaskStatus::default()
        },
        uuid: Some(vec![uuid; 16]),
        ..StatusUpdate::default()
    }
}

fn key() -> Key {
    Key { framework: "f".into(), task: "t".into() }
}

fn run() -> RunKey {
    RunKey { agent: "a".into(), framework: "f".into(), executor: "e".into(), container: "c".into() }
}

fn forwarded(actions: &[Action]) -> Vec<u8> {
    actions
        .iter()
        .filter_map(|a| match a {
            Action::Forward(u) => Some(u.uuid.as_ref().unwrap()[0]),
            Action::Retry { .. } => None,
        })
        .collect()
}

fn retry(actions: &[Action]) -> (u64, u64) {
    actions
        .iter()
        .find_map(|a| match a {
            Action::Retry { generation, after, .. } => Some((*generation, after.as_secs())),
            Action::Forward(_) => None,
        })
        .unwrap()
}

#[test]
fn nothing_goes_out_before_it_is_stored() {
    let mut updates = Updates::default();
    updates.resume();
    assert_eq!(
        updates.receive(update(1, TaskState::TaskRunning), Some(run())),
        Received::New(Some(run()))
    );
    assert!(updates.next(&key()).is_empty());
    assert_eq!(updates.acknowledge(&key(), &[1; 16]), Acknowledged::Unexpected);
    assert_eq!(forwarded(&updates.stored(&key(), &[1; 16])), [1]);
}

#[test]
fn one_update_is_in_flight_at_a_time() {
    let mut updates = Updates::default();
    updates.resume();
    updates.receive(update(1, TaskState::TaskRunning), None);
    updates.receive(update(2, TaskState::TaskFinished), None);
    assert_eq!(forwarded(&updates.stored(&key(), &[1; 16])), [1]);
    assert!(updates.stored(&key(), &[2; 16]).is_empty());
    assert_eq!(updates.acknowledge(&key(), &[2; 16]), Acknowledged::Unexpected);
    assert!(matches!(
        updates.acknowledge(&key(), &[1; 16]),
        Acknowledged::Done { ended: false, .. }
    ));
    assert_eq!(forwarded(&updates.next(&key())), [2]);
    assert!(matches!(
        updates.acknowledge(&key(), &[2; 16]),
        Acknowledged::Done { ended: true, .. }
    ));
    assert!(updates.is_empty());
    assert_eq!(updates.acknowledge(&key(), &[2; 16]), Acknowledged::Unexpected);
}

#[test]
fn retries_double_from_ten_seconds_to_ten_minutes() {
    let mut updates = Updates::default();
    updates.resume();
    updates.receive(update(1, TaskState::TaskRunning), None);
    let mut actions = updates.stored(&key(), &[1; 16]);
    let mut delays = Vec::new();
    for _ in 0..9 {
        let (generation, after) = retry(&actions);
        delays.push(after);
        assert!(updates.timeout(&key(), generation - 1).is_empty(), "stale timers do nothing");
        actions = updates.timeout(&key(), generation);
        assert_eq!(forwarded(&actions), [1]);
    }
    assert_eq!(delays, [10, 20, 40, 80, 160, 320, 600, 600, 600]);
}

#[test]
fn a_pause_holds_everything_and_resume_sends_the_front_again() {
    let mut updates = Updates::default();
    updates.resume();
    updates.receive(update(1, TaskState::TaskRunning), None);
    let (generation, _) = retry(&updates.stored(&key(), &[1; 16]));
    updates.pause();
    assert!(updates.timeout(&key(), generation).is_empty());
    updates.receive(update(2, TaskState::TaskFinished), None);
    assert!(updates.stored(&key(), &[2; 16]).is_empty());
    assert_eq!(forwarded(&updates.resume()), [1]);
}

#[test]
fn an_acknowledgement_counts_while_paused() {
    let mut updates = Updates::default();
    updates.resume();
    updates.receive(update(1, TaskState::TaskFinished), None);
    updates.stored(&key(), &[1; 16]);
    updates.pause();
    assert!(matches!(
        updates.acknowledge(&key(), &[1; 16]),
        Acknowledged::Done { ended: true, .. }
    ));
    assert!(updates.resume().is_empty());
}

#[test]
fn duplicates_are_told_apart_by_whether_they_are_stored() {
    let mut updates = Updates::default();
    let it = update(1, TaskState::TaskRunning);
    updates.receive(it.clone(), None);
    assert_eq!(updates.receive(it.clone(), None), Received::Duplicate { stored: false });
    updates.stored(&key(), &[1; 16]);
    assert_eq!(updates.receive(it.clone(), None), Received::Duplicate { stored: true });
    updates.acknowledge(&key(), &[1; 16]);
    assert_eq!(updates.receive(it, None), Received::Duplicate { stored: true });
}

#[test]
fn recovery_continues_where_the_log_ends() {
    let log = [
        update(1, TaskState::TaskStarting),
        update(2, TaskState::TaskRunning),
        update(2, TaskState::TaskRunning),
        update(3, TaskState::TaskFinished),
    ];
    let mut updates = Updates::default();
    assert!(!updates.recover(key(), run(), &log, &[vec![1; 16]]));
    assert_eq!(forwarded(&updates.resume()), [2]);
    let mut ended = Updates::default();
    assert!(ended.recover(key(), run(), &log, &[vec![1; 16], vec![2; 16], vec![3; 16]]));
    assert!(ended.is_empty());
}

#[derive(Debug, Clone)]
enum Step {
    Receive,
    Store,
    /// The master acknowledges what it saw last.
    Acknowledge,
    /// A late acknowledgement of something older.
    StaleAcknowledge,
    Timeout,
    Pause,
    Resume,
    /// The agent dies; a new one reads the log.
    Crash,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => Just(Step::Receive),
        4 => Just(Step::Store),
        4 => Just(Step::Acknowledge),
        1 => Just(Step::StaleAcknowledge),
        1 => Just(Step::Timeout),
        1 => Just(Step::Pause),
        2 => Just(Step::Resume),
        1 => Just(Step::Crash),
    ]
}

/// A disk, a master that remembers what it saw, and the streams in between.
#[derive(Default)]
struct World {
    updates: Updates,
    next: u8,
    /// Handed in and not yet written; lost in a crash, then sent again.
    unwritten: VecDeque<StatusUpdate>,
    log: Vec<StatusUpdate>,
    acks: Vec<Vec<u8>>,
    /// What the master saw, in order, repetitions left out.
    seen: Vec<u8>,
    timer: u64,
}

impl World {
    fn act(&mut self, actions: &[Action]) {
        for action in actions {
            match action {
                Action::Forward(update) => {
                    let id = update.uuid.as_ref().unwrap()[0];
                    assert!(self.log.iter().any(|u| u.uuid == update.uuid), "{id} not on disk");
                    if !self.seen.contains(&id) {
                        self.seen.push(id);
                    }
                }
                Action::Retry { generation, .. } => self.timer = *generation,
            }
        }
    }

    fn take(&mut self, step: &Step) {
        match step {
            Step::Receive => {
                self.next += 1;
                let it = update(self.next, TaskState::TaskRunning);
                self.updates.receive(it.clone(), Some(run()));
                self.unwritten.push_back(it);
            }
            Step::Store => {
                if let Some(it) = self.unwritten.pop_front() {
                    self.log.push(it.clone());
                    let actions = self.updates.stored(&key(), it.uuid.as_ref().unwrap());
                    self.act(&actions);
                }
            }
            Step::Acknowledge | Step::StaleAcknowledge => {
                let id = match step {
                    Step::Acknowledge => self.seen.last(),
                    _ => self.seen.first(),
                };
                let Some(&id) = id else { return };
                if let Acknowledged::Done { update, .. } =
                    self.updates.acknowledge(&key(), &[id; 16])
                {
                    assert_eq!(update.uuid.unwrap()[0], id);
                    self.acks.push(vec![id; 16]);
                    let actions = self.updates.next(&key());
                    self.act(&actions);
                }
            }
            Step::Timeout => {
                let actions = self.updates.timeout(&key(), self.timer);
                self.act(&actions);
            }
            Step::Pause => self.updates.pause(),
            Step::Resume => {
                let actions = self.updates.resume();
                self.act(&actions);
            }
            Step::Crash => {
                self.updates = Updates::default();
                self.updates.recover(key(), run(), &self.log, &self.acks);
                // The executor was not answered for these: it sends them again.
                for it in &self.unwritten {
                    self.updates.receive(it.clone(), Some(run()));
                }
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, ..ProptestConfig::default() })]

    #[test]
    fn no_update_is_lost_repeated_or_reordered(steps in prop::collection::vec(step(), 1..60)) {
        let mut world = World::default();
        for step in &steps {
            world.take(step);
        }
        // In the end everything arrives.
        world.take(&Step::Resume);
        while !world.unwritten.is_empty() {
            world.take(&Step::Store);
        }
        for _ in 0..=world.next {
            world.take(&Step::Acknowledge);
        }
        prop_assert_eq!(&world.seen, &(1..=world.next).collect::<Vec<u8>>());
        prop_assert_eq!(world.acks.len(), usize::from(world.next));
    }
}
