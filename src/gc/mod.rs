//! What to delete when: the schedule of sandbox garbage collection.
//!
//! Pure: the agent's core owns one [`Schedule`], times are arguments, the deletion
//! is an effect; `bulkhead agent gc --dry-run` asks the same code. Three rules, in
//! this order:
//!
//! * **age** (Mesos'): what is older than
//!   `gc_delay * max(0, 1 - gc_disk_headroom - disk usage)` goes.
//! * **repeats**: when less than twice the headroom is free, of each family (a task
//!   that crashes again and again) all but the newest five go, however young.
//! * **pressure**: when less than the headroom is free, everything may go, repeats
//!   first, then by size times age, until the headroom is free again. (Mesos
//!   deletes all of it at once, in any order.)

mod report;
mod schedule;

use std::time::Duration;

pub use report::{json, text};
pub use schedule::{Decision, Schedule, Verdict, Why};

/// What the operator wants.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Policy {
    /// `--gc_delay`: the longest that anything is kept.
    pub delay: Duration,
    /// `--gc_disk_headroom`: the fraction of the disk to be kept free.
    pub headroom: f64,
}

/// The file system of the work directory.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Disk {
    /// The used fraction, 0 to 1, of bytes or inodes, whichever is more.
    pub used: f64,
    /// Its size in bytes.
    pub total: u64,
}

impl Policy {
    /// How old garbage may get on such a disk.
    #[must_use]
    pub fn max_age(&self, disk: &Disk) -> Duration {
        max_allowed_age(self.delay, self.headroom, disk.used)
    }

    /// Whether the headroom is used up.
    #[must_use]
    pub fn is_hard(&self, disk: &Disk) -> bool {
        disk.used >= 1.0 - self.headroom
    }

    /// Whether less than twice the headroom is free.
    #[must_use]
    pub fn is_soft(&self, disk: &Disk) -> bool {
        disk.used >= 1.0 - 2.0 * self.headroom
    }

    /// Bytes to be freed for the sake of `why`: until the headroom is free again,
    /// or twice the headroom where only repeats go.
    #[must_use]
    pub fn excess(&self, disk: &Disk, why: Why) -> u64 {
        let share = match why {
            Why::Repeated => 2.0 * self.headroom,
            Why::Old | Why::Pressure => self.headroom,
        };
        ((disk.used - (1.0 - share)).max(0.0) * disk.total as f64) as u64
    }

    /// When to look at the disk again: sooner than `interval` if it fills so fast
    /// that the headroom would be used up before, or is. `before` is the last look
    /// and how many seconds ago it was.
    #[must_use]
    pub fn next_look(
        &self,
        interval: Duration,
        before: Option<(Disk, f64)>,
        disk: &Disk,
    ) -> Duration {
        let soonest = Duration::from_secs(1).min(interval);
        if self.is_hard(disk) {
            return (interval / 10).max(soonest);
        }
        let Some((before, seconds)) = before.filter(|(_, seconds)| *seconds > 0.0) else {
            return interval;
        };
        let rate = (disk.used - before.used) / seconds;
        if rate <= 0.0 {
            return interval;
        }
        let left = (1.0 - self.headroom - disk.used) / rate;
        Duration::try_from_secs_f64(left / 2.0).unwrap_or(interval).clamp(soonest, interval)
    }
}

/// `gc_delay * max(0, 1 - headroom - used)`.
#[must_use]
pub fn max_allowed_age(delay: Duration, headroom: f64, used: f64) -> Duration {
    delay.mul_f64((1.0 - headroom - used).clamp(0.0, 1.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    const WEEK: Duration = Duration::from_secs(7 * 24 * 3600);

    #[test]
    fn age_follows_mesos_formula() {
        for (used, share) in [(0.0, 0.9), (0.5, 0.4), (0.9, 0.0), (0.95, 0.0)] {
            let age = max_allowed_age(WEEK, 0.1, used).as_secs_f64();
            assert!((age - WEEK.as_secs_f64() * share).abs() < 1.0, "{used}: {age}");
        }
    }

    #[test]
    fn a_disk_that_fills_fast_is_looked_at_often() {
        let policy = Policy { delay: WEEK, headroom: 0.1 };
        let disk = |used| Disk { used, total: 1000 };
        let minute = Duration::from_secs(60);
        for (before, now, seconds) in [
            (None, 0.5, 60.0),
            (Some(0.5), 0.5, 60.0),
            (Some(0.6), 0.5, 60.0),
            (Some(0.5), 0.501, 60.0),
            // 10 % in a minute: 40 s are left of the last 6.7 %.
            (Some(0.733), 0.833, 20.1),
            (Some(0.1), 0.89, 1.0),
            (Some(0.5), 0.95, 6.0),
        ] {
            let before = before.map(|used| (disk(used), 60.0));
            let next = policy.next_look(minute, before, &disk(now)).as_secs_f64();
            assert!((next - seconds).abs() < 0.2, "{before:?} {now}: {next}");
        }
        let quick = Duration::from_millis(100);
        assert_eq!(policy.next_look(quick, None, &disk(0.95)), quick);
    }

    #[test]
    fn what_is_too_much_is_told_in_bytes() {
        let policy = Policy { delay: WEEK, headroom: 0.1 };
        for (used, soft, hard) in [(0.5, 0, 0), (0.9, 100, 0), (0.95, 150, 50)] {
            let disk = Disk { used, total: 1000 };
            assert!(policy.excess(&disk, Why::Repeated).abs_diff(soft) <= 1, "{used}");
            assert!(policy.excess(&disk, Why::Pressure).abs_diff(hard) <= 1, "{used}");
        }
    }
}
