//! Which ended containers go. Pure.
//!
//! Ended containers are kept for people who look for what went wrong, but not for
//! ever: each for a time, and of each framework only the last few. Those that
//! failed are worth more than those that finished.

use std::collections::BTreeMap;
use std::time::Duration;

/// An ended container of ours that the agent has no use for any more.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Ended {
    pub(super) name: String,
    pub(super) framework: String,
    /// Seconds since 1970.
    pub(super) finished: f64,
    /// It ended by a signal or with a status other than 0.
    pub(super) failed: bool,
}

/// How long and how many.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Policy {
    /// `--docker_remove_delay`: none is kept longer.
    pub delay: Duration,
    /// `--docker_keep_exited`: of each framework no more are kept.
    pub keep: usize,
}

impl Default for Policy {
    fn default() -> Policy {
        Policy { delay: Duration::from_secs(6 * 3600), keep: 50 }
    }
}

/// When the disk is nearly full, failed ones are still kept for this long.
const DEBUG_TIME: f64 = 600.0;

/// The names of those to be removed. `full`: the disk they are on needs room.
pub(super) fn expired(now: f64, ended: &[Ended], policy: Policy, full: bool) -> Vec<String> {
    let mut expired = Vec::new();
    let mut kept: BTreeMap<&str, Vec<&Ended>> = BTreeMap::new();
    for container in ended {
        let age = now - container.finished;
        let pressed = full && (!container.failed || age >= DEBUG_TIME);
        if pressed || age >= policy.delay.as_secs_f64() {
            expired.push(container.name.clone());
        } else {
            kept.entry(container.framework.as_str()).or_default().push(container);
        }
    }
    for mut of_framework in kept.into_values() {
        // Finished ones before failed ones, then the oldest first.
        of_framework
            .sort_by(|a, b| a.failed.cmp(&b.failed).then(a.finished.total_cmp(&b.finished)));
        let surplus = of_framework.len().saturating_sub(policy.keep);
        expired.extend(of_framework.into_iter().take(surplus).map(|c| c.name.clone()));
    }
    expired
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ended(name: &str, framework: &str, finished: f64, failed: bool) -> Ended {
        Ended { name: name.into(), framework: framework.into(), finished, failed }
    }

    #[test]
    fn age_count_and_pressure() {
        let policy = Policy { delay: Duration::from_secs(100), keep: 2 };
        let one = [ended("old", "F", 0.0, true), ended("new", "F", 50.0, false)];
        assert_eq!(expired(100.0, &one, policy, false), ["old"]);
        assert_eq!(expired(99.0, &one, policy, false), [""; 0]);

        let crowd = [
            ended("failed-1", "F", 10.0, true),
            ended("fine-1", "F", 20.0, false),
            ended("failed-2", "F", 30.0, true),
            ended("other", "G", 5.0, false),
        ];
        // Of each framework its own, and the one that finished goes first.
        assert_eq!(expired(40.0, &crowd, policy, false), ["fine-1"]);
        let none = Policy { keep: 0, ..policy };
        assert_eq!(expired(40.0, &crowd, none, false).len(), 4);

        // A full disk: finished ones at once, failed ones after ten minutes.
        let long = Policy { delay: Duration::from_secs(10_000), keep: 10 };
        assert_eq!(expired(40.0, &crowd, long, true), ["fine-1", "other"]);
        assert_eq!(expired(615.0, &crowd, long, true), ["failed-1", "fine-1", "other"]);
    }

    #[test]
    fn a_crash_loop_leaves_a_bounded_number() {
        let policy = Policy { delay: Duration::from_secs(6 * 3600), keep: 50 };
        let loop_: Vec<Ended> =
            (0..1000).map(|i| ended(&i.to_string(), "F", f64::from(i), true)).collect();
        let gone = expired(1000.0, &loop_, policy, false);
        assert_eq!((gone.len(), gone[0].as_str(), gone[949].as_str()), (950, "0", "949"));
    }
}
