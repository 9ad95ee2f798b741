//! The schedule itself: what waits, in which order it goes, what becomes of it.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::Duration;

use super::{Disk, Policy};
use crate::checkpoint::{Garbage, Item};

/// Ended runs of a family that are kept under soft pressure.
const KEEP: usize = 5;
/// What goes at once under pressure before the disk is looked at again.
const WAVE: usize = 256;
/// The longest time before a failed deletion is tried again, in seconds.
const RETRY_MAX: f64 = 3600.0;

/// Directories waiting for their deletion.
#[derive(Debug, Clone, Default)]
pub struct Schedule {
    waiting: BTreeMap<Garbage, Entry>,
    /// Being deleted, with what is known for another try.
    going: BTreeMap<Garbage, Entry>,
}

#[derive(Debug, Clone)]
struct Entry {
    item: Item,
    /// Deletions that failed.
    tries: u32,
    /// Not before this time, in seconds since the epoch.
    not_before: f64,
}

/// Why something goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Why {
    /// It is older than it may get.
    Old,
    /// The disk fills, and there are newer ones of its family.
    Repeated,
    /// The disk is full.
    Pressure,
}

/// What is to become of something.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Decision {
    /// It goes now.
    Go(Why),
    /// It stays for so many seconds more, if the disk stays as it is.
    Stay(f64),
    /// Its deletion failed or had to wait, and is tried again in so many seconds.
    Retry(f64),
}

/// What is decided of one piece of garbage, and why.
#[derive(Debug, Clone, PartialEq)]
pub struct Verdict {
    /// Which.
    pub garbage: Garbage,
    /// What is known of it.
    pub item: Item,
    /// Seconds since it became garbage.
    pub age: f64,
    /// What is to become of it.
    pub decision: Decision,
}

impl Schedule {
    /// Adds a directory, or says it again: then the newest word counts, but a size
    /// that was measured is kept.
    pub fn add(&mut self, garbage: Garbage, mut item: Item) {
        if let Some(old) = self.waiting.get(&garbage) {
            item.bytes = item.bytes.or(old.item.bytes);
        }
        self.waiting.insert(garbage, Entry { item, tries: 0, not_before: 0.0 });
    }

    /// Takes a directory back that is used again.
    pub fn remove(&mut self, garbage: &Garbage) -> bool {
        self.waiting.remove(garbage).is_some()
    }

    /// How many wait or are being deleted.
    #[must_use]
    pub fn len(&self) -> usize {
        self.waiting.len() + self.going.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether nothing is being deleted.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.going.is_empty()
    }

    /// What waits, for the log.
    pub fn items(&self) -> impl Iterator<Item = (&Garbage, &Item)> {
        self.waiting.iter().chain(&self.going).map(|(garbage, entry)| (garbage, &entry.item))
    }

    /// Bytes of everything that was measured.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.items().filter_map(|(_, item)| item.bytes).sum()
    }

    /// Since when the oldest waits, in seconds since the epoch.
    #[must_use]
    pub fn oldest(&self) -> Option<f64> {
        self.waiting.values().map(|entry| entry.item.since).min_by(f64::total_cmp)
    }

    /// Remembers what something occupies. What is known of it now.
    pub fn weighed(&mut self, garbage: &Garbage, bytes: u64) -> Option<Item> {
        let entry = self.waiting.get_mut(garbage)?;
        entry.item.bytes = Some(bytes);
        Some(entry.item.clone())
    }

    /// The clock was set by so many seconds: ages stay what they were.
    pub fn shift(&mut self, by: f64) {
        for entry in self.waiting.values_mut().chain(self.going.values_mut()) {
            entry.item.since += by;
            if entry.not_before > 0.0 {
                entry.not_before += by;
            }
        }
    }

    /// What is to become of everything: first what goes, in this order, then the
    /// rest by the time it is left.
    #[must_use]
    pub fn plan(&self, now: f64, policy: &Policy, disk: &Disk) -> Vec<Verdict> {
        let limit = policy.max_age(disk).as_secs_f64();
        let (soft, hard) = (policy.is_soft(disk), policy.is_hard(disk));
        let repeated = if soft { self.repeated() } else { BTreeSet::new() };
        let decide = |garbage: &Garbage, entry: &Entry| {
            // A clock that was set back makes nothing younger than new.
            let age = (now - entry.item.since).max(0.0);
            let decision = if entry.not_before > now {
                Decision::Retry(entry.not_before - now)
            } else if repeated.contains(garbage) {
                Decision::Go(Why::Repeated)
            } else if hard {
                Decision::Go(Why::Pressure)
            } else if age >= limit {
                Decision::Go(Why::Old)
            } else {
                Decision::Stay(limit - age)
            };
            Verdict { garbage: garbage.clone(), item: entry.item.clone(), age, decision }
        };
        let mut plan: Vec<Verdict> = self.waiting.iter().map(|(g, e)| decide(g, e)).collect();
        plan.sort_by(|a, b| rank(b).total_cmp(&rank(a)).then_with(|| a.garbage.cmp(&b.garbage)));
        plan
    }

    /// Runs with enough newer ones of their family.
    fn repeated(&self) -> BTreeSet<Garbage> {
        let mut families: HashMap<&str, Vec<(f64, &Garbage)>> = HashMap::new();
        for (garbage, entry) in &self.waiting {
            if matches!(garbage, Garbage::Run(_)) && !entry.item.family.is_empty() {
                families.entry(&entry.item.family).or_default().push((entry.item.since, garbage));
            }
        }
        let mut repeated = BTreeSet::new();
        for mut family in families.into_values() {
            family.sort_by(|a, b| b.0.total_cmp(&a.0));
            repeated.extend(family.into_iter().skip(KEEP).map(|(_, garbage)| garbage.clone()));
        }
        repeated
    }

    /// Takes out what is to be deleted now. Under pressure only as much as makes
    /// room, so that the disk is looked at before the rest goes.
    pub fn take(&mut self, now: f64, policy: &Policy, disk: &Disk) -> Vec<Verdict> {
        let (mut freed, mut pressed) = (0, 0);
        let mut taken: Vec<Verdict> = Vec::new();
        for verdict in self.plan(now, policy, disk) {
            let Decision::Go(why) = verdict.decision else { break };
            if why != Why::Old {
                if pressed >= WAVE || (pressed > 0 && freed >= policy.excess(disk, why)) {
                    break;
                }
                pressed += 1;
                freed += verdict.item.bytes.unwrap_or(0);
            }
            taken.push(verdict);
        }
        self.go(taken)
    }

    /// Moves them to what is going; what lies in another one goes with it.
    fn go(&mut self, taken: Vec<Verdict>) -> Vec<Verdict> {
        let above: BTreeSet<Garbage> = taken
            .iter()
            .map(|verdict| &verdict.garbage)
            .filter(|garbage| !matches!(garbage, Garbage::Run(_) | Garbage::Sandbox(_)))
            .cloned()
            .collect();
        let covered = |garbage: &Garbage| {
            above.iter().any(|outer| outer != garbage && garbage.is_within(outer))
        };
        let taken: Vec<Verdict> = taken.into_iter().filter(|v| !covered(&v.garbage)).collect();
        if !above.is_empty() {
            self.waiting.retain(|garbage, _| !covered(garbage));
        }
        for verdict in &taken {
            if let Some(entry) = self.waiting.remove(&verdict.garbage) {
                self.going.insert(verdict.garbage.clone(), entry);
            }
        }
        taken
    }

    /// It is deleted. What was known of it.
    pub fn done(&mut self, garbage: &Garbage) -> Option<Item> {
        self.going.remove(garbage).map(|entry| entry.item)
    }

    /// It could not be deleted: it waits again, `first` and then longer each time.
    pub fn failed(&mut self, garbage: &Garbage, now: f64, first: Duration) {
        let Some(entry) = self.going.remove(garbage) else { return };
        let wait = first.as_secs_f64() * 2f64.powi(entry.tries.min(16) as i32);
        let wait = wait.min(RETRY_MAX);
        let entry = Entry { tries: entry.tries + 1, not_before: now + wait, ..entry };
        // Scheduled again meanwhile: that is newer.
        self.waiting.entry(garbage.clone()).or_insert(entry);
    }

    /// It is being read: it waits for `delay` more.
    pub fn postponed(&mut self, garbage: &Garbage, now: f64, delay: Duration) {
        let Some(entry) = self.going.remove(garbage) else { return };
        let entry = Entry { not_before: now + delay.as_secs_f64(), ..entry };
        self.waiting.entry(garbage.clone()).or_insert(entry);
    }
}

/// The larger the sooner.
fn rank(verdict: &Verdict) -> f64 {
    // A directory above others frees nothing of its own and goes after them.
    let size = verdict.item.bytes.map_or(0.0, |bytes| bytes as f64 + 4096.0);
    match verdict.decision {
        Decision::Go(Why::Old) => 1e30 + verdict.age,
        Decision::Go(Why::Repeated) => 1e25 + size * (verdict.age + 60.0),
        Decision::Go(Why::Pressure) => 1.0 + size * (verdict.age + 60.0),
        Decision::Stay(left) | Decision::Retry(left) => -left - 1.0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checkpoint::RunKey;

    const POLICY: Policy = Policy { delay: Duration::from_secs(1000), headroom: 0.1 };

    fn run(container: &str) -> Garbage {
        Garbage::Run(RunKey {
            agent: "S".into(),
            framework: "F".into(),
            executor: "E".into(),
            container: container.into(),
        })
    }

    fn framework() -> Garbage {
        Garbage::Framework { agent: "S".into(), framework: "F".into() }
    }

    fn disk(used: f64) -> Disk {
        Disk { used, total: 1000 }
    }

    fn names(taken: &[Verdict]) -> Vec<String> {
        let name = |v: &Verdict| match &v.garbage {
            Garbage::Run(run) => run.container.clone(),
            other => other.kind().to_owned(),
        };
        taken.iter().map(name).collect()
    }

    fn weighed(since: f64, bytes: u64, family: &str) -> Item {
        Item { since, bytes: Some(bytes), family: family.into() }
    }

    #[test]
    fn only_what_is_old_enough_goes_and_only_once() {
        let mut schedule = Schedule::default();
        schedule.add(run("old"), Item::since(0.0));
        schedule.add(run("new"), Item::since(900.0));
        schedule.add(run("used again"), Item::since(0.0));
        assert!(schedule.remove(&run("used again")));
        // Half used: 400 s are allowed.
        assert_eq!(names(&schedule.take(1000.0, &POLICY, &disk(0.5))), ["old"]);
        assert!(schedule.take(1000.0, &POLICY, &disk(0.5)).is_empty());
        assert_eq!(schedule.len(), 2);
        assert!(schedule.done(&run("old")).is_some());
        let plan = schedule.plan(1000.0, &POLICY, &disk(0.5));
        assert_eq!(plan[0].decision, Decision::Stay(300.0));
    }

    #[test]
    fn under_pressure_the_largest_and_oldest_go_until_there_is_room() {
        let mut schedule = Schedule::default();
        schedule.add(run("small"), weighed(0.0, 10, ""));
        schedule.add(run("large"), weighed(990.0, 1_000_000, ""));
        schedule.add(run("old and large"), weighed(0.0, 900_000, ""));
        schedule.add(run("unknown"), Item::since(0.0));
        let full = Disk { used: 0.95, total: 36_000_000 };
        assert_eq!(names(&schedule.take(1000.0, &POLICY, &full)), ["old and large", "large"]);
        // Still not enough: the rest.
        assert_eq!(names(&schedule.take(1000.0, &POLICY, &full)), ["small", "unknown"]);
    }

    #[test]
    fn crash_loops_lose_their_old_sandboxes_while_others_keep_theirs() {
        let mut schedule = Schedule::default();
        for n in 0..9 {
            schedule.add(run(&format!("crash{n}")), weighed(990.0 + f64::from(n), 100, "F/web"));
        }
        schedule.add(run("other"), weighed(980.0, 100_000, "F/batch"));
        assert!(schedule.take(1000.0, &POLICY, &disk(0.7)).is_empty());
        let taken = schedule.take(1000.0, &POLICY, &disk(0.85));
        assert_eq!(names(&taken), ["crash0"], "more than the 50 bytes that are too much");
        let mut all = names(&taken);
        while let Some(more) = schedule.take(1000.0, &POLICY, &disk(0.85)).first() {
            all.extend(names(std::slice::from_ref(more)));
        }
        assert_eq!(all, ["crash0", "crash1", "crash2", "crash3"]);
    }

    #[test]
    fn what_lies_in_another_goes_with_it() {
        let mut schedule = Schedule::default();
        schedule.add(run("a"), Item::since(0.0));
        schedule.add(run("b"), Item::since(0.0));
        schedule.add(framework(), Item::since(0.0));
        assert_eq!(names(&schedule.take(1000.0, &POLICY, &disk(0.0))), ["framework"]);
        assert_eq!(schedule.len(), 1);
    }

    #[test]
    fn a_failure_is_tried_again_later_and_less_often() {
        let mut schedule = Schedule::default();
        schedule.add(run("stubborn"), Item::since(0.0));
        let mut now = 1000.0;
        for wait in [60.0, 120.0, 240.0] {
            assert_eq!(schedule.take(now, &POLICY, &disk(0.5)).len(), 1);
            schedule.failed(&run("stubborn"), now, Duration::from_secs(60));
            let plan = schedule.plan(now, &POLICY, &disk(0.99));
            assert_eq!(plan[0].decision, Decision::Retry(wait));
            now += wait;
        }
        schedule.take(now, &POLICY, &disk(0.5));
        schedule.postponed(&run("stubborn"), now, Duration::from_secs(60));
        assert!(schedule.take(now + 59.0, &POLICY, &disk(0.5)).is_empty());
        assert_eq!(schedule.take(now + 60.0, &POLICY, &disk(0.5)).len(), 1);
    }

    #[test]
    fn a_clock_that_jumps_makes_nothing_older() {
        let mut schedule = Schedule::default();
        schedule.add(run("young"), Item::since(990.0));
        let year = 365.0 * 86400.0;
        schedule.shift(year);
        assert!(schedule.take(1000.0 + year, &POLICY, &disk(0.0)).is_empty());
        // Set back while the agent was away: it is new, not from the future.
        let plan = schedule.plan(0.0, &POLICY, &disk(0.0));
        assert_eq!((plan[0].age, plan[0].decision), (0.0, Decision::Stay(900.0)));
    }

    #[test]
    fn a_clock_set_forward_while_nobody_looked_makes_older() {
        let mut schedule = Schedule::default();
        schedule.add(run("young"), Item::since(990.0));
        let plan = schedule.plan(995.0, &POLICY, &disk(0.0));
        assert_eq!((plan[0].age, plan[0].decision), (5.0, Decision::Stay(895.0)));
        // As in Mesos: nobody can tell it from time that passed.
        assert_eq!(names(&schedule.take(990.0 + 901.0, &POLICY, &disk(0.0))), ["young"]);
    }
}
