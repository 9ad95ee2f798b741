//! Notices that the wall clock was set: it and the monotonic clock part ways.

use std::time::Instant;

use super::now;

/// A smaller difference is the slow correction that a time service makes.
const TOLERATED: f64 = 5.0;

pub(super) struct Clock {
    wall: f64,
    steady: Instant,
}

impl Clock {
    pub(super) fn new() -> Self {
        Clock { wall: now(), steady: Instant::now() }
    }

    /// By how many seconds the clock was set since the last call, if it was. Slow
    /// corrections are taken over silently.
    pub(super) fn set(&mut self) -> Option<f64> {
        self.compare(now(), Instant::now())
    }

    fn compare(&mut self, wall: f64, steady: Instant) -> Option<f64> {
        let passed = steady.saturating_duration_since(self.steady).as_secs_f64();
        let by = wall - self.wall - passed;
        (self.wall, self.steady) = (wall, steady);
        (by.abs() > TOLERATED).then_some(by)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn jumps_are_told_and_slow_corrections_are_not() {
        let start = Instant::now();
        let mut clock = Clock { wall: 1000.0, steady: start };
        let at = |seconds| start + Duration::from_secs(seconds);
        assert_eq!(clock.compare(1010.0, at(10)), None);
        assert_eq!(clock.compare(1021.0, at(20)), None);
        assert_eq!(clock.compare(4631.0, at(30)), Some(3600.0));
        assert_eq!(clock.compare(4641.0, at(40)), None);
        assert_eq!(clock.compare(641.0, at(40)), Some(-4000.0));
    }
}
