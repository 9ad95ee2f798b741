//! Timers of the core: one heap, one sleep.

use std::cmp::{Ordering, Reverse};
use std::collections::BinaryHeap;
use std::time::Duration;

use tokio::time::{Instant, sleep_until};

use crate::agent::core::event::Timer;

/// Waiting timers, the next one first; equal times fire in order of addition.
#[derive(Debug, Default)]
pub(super) struct Timers {
    heap: BinaryHeap<Reverse<Entry>>,
    added: u64,
}

#[derive(Debug)]
struct Entry {
    at: Instant,
    order: u64,
    timer: Timer,
}

impl PartialEq for Entry {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Entry {}

impl PartialOrd for Entry {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Entry {
    fn cmp(&self, other: &Self) -> Ordering {
        (self.at, self.order).cmp(&(other.at, other.order))
    }
}

impl Timers {
    pub(super) fn add(&mut self, after: Duration, timer: Timer) {
        self.added += 1;
        // A timer in 30 years is as good as one that never fires.
        let after = after.min(Duration::from_secs(30 * 365 * 24 * 3600));
        self.heap.push(Reverse(Entry { at: Instant::now() + after, order: self.added, timer }));
    }

    /// The next timer when its time has come. Dropping the future loses nothing.
    pub(super) async fn next(&mut self) -> Timer {
        match self.heap.peek() {
            Some(Reverse(entry)) => sleep_until(entry.at).await,
            None => std::future::pending().await,
        }
        match self.heap.pop() {
            Some(Reverse(entry)) => entry.timer,
            None => std::future::pending().await,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn timers_fire_in_order_of_time_then_of_addition() {
        let mut timers = Timers::default();
        let ping = |generation| Timer::PingTimeout { generation };
        timers.add(Duration::from_secs(2), ping(3));
        timers.add(Duration::from_secs(1), ping(1));
        timers.add(Duration::from_secs(1), ping(2));
        for generation in 1..=3 {
            assert_eq!(timers.next().await, ping(generation));
        }
    }
}
