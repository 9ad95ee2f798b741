//! When which directory is walked. Pure: time comes in as an argument.
//!
//! One scheduler for the whole agent. Every directory rests for an interval after
//! it was measured; those that are due are walked a slice at a time, in turn, so
//! that a huge one holds nobody up. After each slice comes a pause in proportion
//! to the processor time it took: all walking together never uses more than
//! [`SHARE`] of one processor, however many directories and files there are.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::{Duration, Instant};

/// Share of one processor that all walks together may use.
pub const SHARE: f64 = 0.04;

/// Walks that are under way at a time; each has a few open descriptors.
const WALKS: usize = 32;

/// Names a directory that is measured.
pub type Key = u64;

/// What has happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// Nothing but time has passed.
    Tick,
    /// A directory is to be measured, from now on and as soon as possible.
    Watch(Key),
    /// It is not any more.
    Forget(Key),
    /// A slice of its walk is done.
    Worked {
        /// The directory.
        key: Key,
        /// Processor time that the slice took.
        took: Duration,
        /// It was the last slice, or the walk has failed.
        over: bool,
    },
}

/// What is to be done now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Walk a slice of this directory, from the beginning or further.
    Work(Key),
    /// Nothing for so long; `None`: until something happens.
    Wait(Option<Duration>),
}

/// The scheduler.
#[derive(Debug)]
pub struct Scheduler {
    interval: Duration,
    /// When each directory that rests is due.
    resting: BTreeSet<(Instant, Key)>,
    due: BTreeMap<Key, Instant>,
    /// Walks under way; the first one is next.
    open: VecDeque<Key>,
    /// Before that the share is used up.
    pause: Option<Instant>,
}

impl Scheduler {
    /// Nothing to measure yet. `interval`: rest between two measurements.
    #[must_use]
    pub fn new(interval: Duration) -> Scheduler {
        Scheduler {
            interval,
            resting: BTreeSet::new(),
            due: BTreeMap::new(),
            open: VecDeque::new(),
            pause: None,
        }
    }

    /// Takes note of an event and says what to do next.
    pub fn handle(&mut self, now: Instant, event: Event) -> Action {
        match event {
            Event::Tick => {}
            Event::Watch(key) => {
                self.forget(key);
                self.rest(key, now);
            }
            Event::Forget(key) => self.forget(key),
            Event::Worked { key, took, over } => {
                self.pause = Some(now + took.mul_f64(1.0 / SHARE - 1.0));
                // Not known any more: forgotten while it was walked.
                if self.open.front() == Some(&key) {
                    self.open.pop_front();
                    match over {
                        true => self.rest(key, now + self.interval),
                        false => self.open.push_back(key),
                    }
                }
            }
        }
        self.next(now)
    }

    fn rest(&mut self, key: Key, until: Instant) {
        self.resting.insert((until, key));
        self.due.insert(key, until);
    }

    fn forget(&mut self, key: Key) {
        if let Some(due) = self.due.remove(&key) {
            self.resting.remove(&(due, key));
        }
        self.open.retain(|open| *open != key);
    }

    fn next(&mut self, now: Instant) -> Action {
        if let Some(pause) = self.pause.filter(|pause| *pause > now) {
            return Action::Wait(Some(pause - now));
        }
        while self.open.len() < WALKS
            && let Some((due, key)) = self.resting.first().copied()
            && due <= now
        {
            self.resting.pop_first();
            self.due.remove(&key);
            self.open.push_back(key);
        }
        match (self.open.front(), self.resting.first()) {
            (Some(key), _) => Action::Work(*key),
            (None, Some((due, _))) => Action::Wait(Some(*due - now)),
            (None, None) => Action::Wait(None),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const INTERVAL: Duration = Duration::from_secs(15);

    fn ms(n: u64) -> Duration {
        Duration::from_millis(n)
    }

    fn worked(key: Key, over: bool) -> Event {
        Event::Worked { key, took: ms(1), over }
    }

    #[test]
    fn rows() {
        let start = Instant::now();
        let mut scheduler = Scheduler::new(INTERVAL);
        let wait = |n| Action::Wait(Some(ms(n)));
        // One millisecond of work asks for a pause of 24.
        let rows = [
            (0, Event::Tick, Action::Wait(None)),
            (0, Event::Watch(1), Action::Work(1)),
            (1, worked(1, false), wait(24)),
            // A new one does not jump over the pause, but over the rest of 1.
            (2, Event::Watch(2), wait(23)),
            (25, Event::Tick, Action::Work(1)),
            (26, worked(1, false), wait(24)),
            (50, Event::Tick, Action::Work(2)),
            (51, worked(2, true), wait(24)),
            (75, Event::Tick, Action::Work(1)),
            (76, Event::Forget(1), Action::Wait(Some(ms(15_051 - 76)))),
            // It ends after it was forgotten: only its time counts.
            (77, worked(1, false), wait(24)),
            (101, Event::Tick, wait(15_051 - 101)),
            (15_051, Event::Tick, Action::Work(2)),
            (15_052, worked(2, true), wait(24)),
            (15_076, Event::Forget(2), Action::Wait(None)),
        ];
        for (at, event, wanted) in rows {
            assert_eq!(scheduler.handle(start + ms(at), event), wanted, "at {at}: {event:?}");
        }
    }

    #[test]
    fn never_more_than_its_share_and_nobody_starves() {
        let start = Instant::now();
        let mut scheduler = Scheduler::new(INTERVAL);
        let (mut now, mut used) = (start, Duration::ZERO);
        let mut action = Action::Wait(None);
        for key in 0..1000 {
            action = scheduler.handle(now, Event::Watch(key));
        }
        let mut slices = vec![0_u32; 1000];
        let mut measured = vec![0_u32; 1000];
        // Ten giants that never end, the others take three slices.
        while now < start + Duration::from_secs(600) {
            action = match action {
                Action::Work(key) => {
                    let at = usize::try_from(key).expect("small");
                    slices[at] += 1;
                    let over = key >= 10 && slices[at].is_multiple_of(3);
                    measured[at] += u32::from(over);
                    now += ms(3);
                    used += ms(3);
                    scheduler.handle(now, Event::Worked { key, took: ms(3), over })
                }
                Action::Wait(Some(time)) => {
                    now += time;
                    scheduler.handle(now, Event::Tick)
                }
                Action::Wait(None) => unreachable!("there is always something"),
            };
            assert!(scheduler.open.len() <= WALKS);
        }
        let share = used.as_secs_f64() / (now - start).as_secs_f64();
        assert!(share <= SHARE + 1e-6, "{share}");
        assert!(measured[10..].iter().all(|n| *n >= 1), "all were measured");
        let few = measured[10..].iter().min();
        let many = measured[10..].iter().max();
        assert!(many.zip(few).is_some_and(|(many, few)| many - few <= 1), "in turn");
    }
}
