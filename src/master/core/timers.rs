//! The core's own timers: data, not tasks, so that a run can be replayed.
//!
//! The driver sleeps until [`Timers::next`] and then sends `Event::Tick`.

use std::collections::BTreeMap;
use std::time::Duration;

use super::event::StreamId;
use crate::master::ids::{AgentId, FrameworkId, OfferId};

/// What is to be done when a timer is due.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Timer {
    /// Run the periodic allocation cycle.
    Cycle,
    /// Run the allocation that an event asked for.
    Triggered,
    /// See whether the agent answered, and ping it again.
    Ping(AgentId),
    /// The agent's connection broke and it did not come back.
    Reregister(AgentId),
    /// The framework did not come back.
    Failover(FrameworkId),
    /// The offer was not answered.
    Offer(OfferId),
    /// The stream must hear something.
    Heartbeat(FrameworkId, StreamId),
    /// Recovered agents that have not come back are unreachable.
    Recovered,
    /// Forget old entries of the registry.
    Prune,
}

/// Names a timer, to cancel it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct TimerId(Duration, u64);

/// Timers by due time; equal times in the order they were set.
#[derive(Debug, Default)]
pub struct Timers {
    due: BTreeMap<(Duration, u64), Timer>,
    count: u64,
}

impl Timers {
    /// Sets a timer for the monotonic time `at`.
    pub fn set(&mut self, at: Duration, timer: Timer) -> TimerId {
        self.count += 1;
        self.due.insert((at, self.count), timer);
        TimerId(at, self.count)
    }

    /// Takes a timer back; nothing happens if it is gone already.
    pub fn cancel(&mut self, id: TimerId) {
        self.due.remove(&(id.0, id.1));
    }

    /// When the next timer is due.
    #[must_use]
    pub fn next(&self) -> Option<Duration> {
        self.due.keys().next().map(|(at, _)| *at)
    }

    /// Takes out the next timer that is due at `now`.
    pub fn pop(&mut self, now: Duration) -> Option<Timer> {
        let first = self.due.first_entry()?;
        (first.key().0 <= now).then(|| first.remove())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn in_order_and_cancelled() {
        let mut timers = Timers::default();
        let at = Duration::from_secs;
        timers.set(at(2), Timer::Prune);
        let cancelled = timers.set(at(1), Timer::Recovered);
        timers.set(at(1), Timer::Cycle);
        timers.cancel(cancelled);
        assert_eq!(timers.next(), Some(at(1)));
        assert_eq!(timers.pop(at(0)), None);
        assert_eq!(timers.pop(at(5)), Some(Timer::Cycle));
        assert_eq!(timers.pop(at(5)), Some(Timer::Prune));
        assert_eq!(timers.pop(at(5)), None);
    }
}
