//! Which ended containers go. Pure.
//!
//! Ended containers are kept for people who look for what went wrong, but not for
//! ever: each for a time, and of each task and each framework only the last few.
//! Those that failed are worth more than those that finished.

use std::collections::BTreeMap;
use std::time::Duration;

/// An ended container of ours that the agent has no use for any more.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Ended {
    pub(super) name: String,
    pub(super) framework: String,
    /// The task's name: a scheduler that tries again takes a new id each time.
    pub(super) task: String,
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
    /// `--docker_keep_exited_per_task`: of tasks of one name no more are kept.
    pub keep_per_task: usize,
}

impl Default for Policy {
    fn default() -> Policy {
        Policy { delay: Duration::from_secs(6 * 3600), keep: 50, keep_per_task: 10 }
    }
}

/// When the disk is nearly full, failed ones are still kept for this long.
const DEBUG_TIME: f64 = 600.0;

/// The names of those to be removed. `full`: the disk they are on needs room.
pub(super) fn expired(now: f64, ended: &[Ended], policy: Policy, full: bool) -> Vec<String> {
    let mut expired = Vec::new();
    let mut kept: BTreeMap<(&str, &str), Vec<&Ended>> = BTreeMap::new();
    for container in ended {
        let age = now - container.finished;
        let pressed = full && (!container.failed || age >= DEBUG_TIME);
        if pressed || age >= policy.delay.as_secs_f64() {
            expired.push(container.name.clone());
        } else {
            let whose = (container.framework.as_str(), container.task.as_str());
            kept.entry(whose).or_default().push(container);
        }
    }
    let mut frameworks: BTreeMap<&str, Vec<&Ended>> = BTreeMap::new();
    for ((framework, _), of_task) in kept {
        let rest = last(of_task, policy.keep_per_task, &mut expired);
        frameworks.entry(framework).or_default().extend(rest);
    }
    for of_framework in frameworks.into_values() {
        last(of_framework, policy.keep, &mut expired);
    }
    expired
}

/// The last `keep` of them; the others have expired.
fn last<'a>(mut all: Vec<&'a Ended>, keep: usize, expired: &mut Vec<String>) -> Vec<&'a Ended> {
    // Finished ones before failed ones, then the oldest first.
    all.sort_by(|a, b| a.failed.cmp(&b.failed).then(a.finished.total_cmp(&b.finished)));
    let kept = all.split_off(all.len().saturating_sub(keep));
    expired.extend(all.into_iter().map(|container| container.name.clone()));
    kept
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ended(name: &str, framework: &str, finished: f64, failed: bool) -> Ended {
        let (name, framework) = (name.to_owned(), framework.to_owned());
        Ended { task: name.clone(), name, framework, finished, failed }
    }

    #[test]
    fn age_count_and_pressure() {
        let policy = Policy { delay: Duration::from_secs(100), keep: 2, keep_per_task: 2 };
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
        let long = Policy { delay: Duration::from_secs(10_000), keep: 10, keep_per_task: 10 };
        assert_eq!(expired(40.0, &crowd, long, true), ["fine-1", "other"]);
        assert_eq!(expired(615.0, &crowd, long, true), ["failed-1", "fine-1", "other"]);
    }

    #[test]
    fn a_crash_loop_leaves_a_bounded_number() {
        let policy = Policy::default();
        let mut crashes: Vec<Ended> =
            (0..1000).map(|i| ended(&i.to_string(), "F", f64::from(i), true)).collect();
        let gone = expired(1000.0, &crashes, policy, false);
        assert_eq!((gone.len(), gone[0].as_str(), gone[949].as_str()), (950, "0", "949"));
        // All of one task leave the others room, however old those are.
        crashes[10..].iter_mut().for_each(|crash| crash.task = "loops".into());
        let gone = expired(1000.0, &crashes, policy, false);
        assert_eq!((gone.len(), gone[0].as_str(), gone[979].as_str()), (980, "10", "989"));
    }
}
