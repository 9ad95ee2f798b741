//! What to delete when: the schedule of sandbox garbage collection.
//!
//! Pure: the core owns one [`Schedule`], times are arguments, the deletion is an
//! effect. Mesos' rule: a directory goes when it is older than
//! `gc_delay * max(0, 1 - gc_disk_headroom - disk usage)`.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::checkpoint::RunKey;

/// A directory (with its twin under `meta`) to be deleted some day.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Garbage {
    /// The sandbox of one run.
    Run(RunKey),
    /// Everything of an executor id.
    Executor {
        /// The agent's id.
        agent: String,
        /// The framework's id.
        framework: String,
        /// The executor's id.
        executor: String,
    },
    /// Everything of a framework.
    Framework {
        /// The agent's id.
        agent: String,
        /// The framework's id.
        framework: String,
    },
    /// Everything of an agent id that is no longer ours.
    Agent(String),
}

/// Directories waiting for their deletion.
#[derive(Debug, Default)]
pub struct Schedule {
    /// When each became garbage, in seconds since the epoch.
    since: BTreeMap<Garbage, f64>,
}

/// `gc_delay * max(0, 1 - headroom - used)`.
pub fn max_allowed_age(delay: Duration, headroom: f64, used: f64) -> Duration {
    delay.mul_f64((1.0 - headroom - used).clamp(0.0, 1.0))
}

impl Schedule {
    /// Adds a directory that is garbage since `since`.
    pub fn add(&mut self, garbage: Garbage, since: f64) {
        self.since.insert(garbage, since);
    }

    /// Takes a directory back that is used again.
    pub fn remove(&mut self, garbage: &Garbage) -> bool {
        self.since.remove(garbage).is_some()
    }

    /// How many wait.
    pub fn len(&self) -> usize {
        self.since.len()
    }

    /// Whether none waits.
    pub fn is_empty(&self) -> bool {
        self.since.is_empty()
    }

    /// Takes out everything at least `max_age` old at `now`.
    pub fn due(&mut self, now: f64, max_age: Duration) -> Vec<Garbage> {
        let limit = max_age.as_secs_f64();
        let due: Vec<Garbage> = self
            .since
            .iter()
            .filter(|(_, since)| now - **since >= limit)
            .map(|(garbage, _)| garbage.clone())
            .collect();
        for garbage in &due {
            self.since.remove(garbage);
        }
        due
    }
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
    fn only_what_is_old_enough_is_due_and_only_once() {
        let mut schedule = Schedule::default();
        schedule.add(Garbage::Agent("old".into()), 0.0);
        schedule.add(Garbage::Agent("new".into()), 90.0);
        schedule.add(Garbage::Agent("used again".into()), 0.0);
        assert!(schedule.remove(&Garbage::Agent("used again".into())));
        let age = Duration::from_secs(50);
        assert_eq!(schedule.due(100.0, age), vec![Garbage::Agent("old".into())]);
        assert!(schedule.due(100.0, age).is_empty());
        assert_eq!(schedule.len(), 1);
        assert_eq!(schedule.due(100.0, Duration::ZERO), vec![Garbage::Agent("new".into())]);
        assert!(schedule.is_empty());
    }
}
