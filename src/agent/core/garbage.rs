//! Garbage: what becomes it, what is used again, what goes when.
//!
//! Owns the [`Schedule`]; `crate::gc` has the rules. Everything scheduled is also
//! told to the storage task, so that the next agent knows since when it waits.
//! Deleting takes two steps: [`Effect::Discard`] moves a directory out of the way,
//! in order with the checkpoints, so that one that is used again is never the one
//! that is deleted; [`Effect::Remove`] deletes it whenever there is time.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::time::Duration;

use super::event::{Effect, NotDiscarded, Timer};
use super::state::Executor;
use super::{Core, Time};
use crate::agent::snapshot::Counters;
use crate::checkpoint::{Garbage, Item, Record};
use crate::gc::{Decision, Disk, Policy, Schedule, Why};

/// What is being read waits for this long more.
const READING: Duration = Duration::from_secs(60);

/// What the core knows of garbage.
#[derive(Debug, Default)]
pub(super) struct Collection {
    schedule: Schedule,
    /// Discarded, but not all of it could be deleted.
    remains: BTreeMap<Garbage, Vec<PathBuf>>,
    /// Lines of the log beyond those needed.
    spare_lines: usize,
    /// The newest look at the disk, and when.
    disk: Option<(Disk, Time)>,
    measuring: bool,
    /// Of the newest timer for a look at the disk.
    generation: u64,
    /// How old garbage may get in seconds, by the newest look.
    pub(super) max_age_secs: f64,
    bytes: u64,
    oldest: Option<Time>,
    waiting: bool,
    reserve: u64,
}

impl Collection {
    /// Figures for the metrics; sums are those of the newest look at the disk.
    pub(super) fn count(&self, counters: &mut Counters, now: Time) {
        counters.gc_path_removals_pending = self.schedule.len() as u64;
        counters.gc_bytes_pending = self.bytes;
        counters.gc_oldest_secs = self.oldest.map_or(0.0, |since| (now - since).max(0.0));
        counters.checkpoints_waiting = self.waiting;
        counters.checkpoint_reserve = self.reserve;
    }
}

impl Core {
    fn policy(&self) -> Policy {
        Policy { delay: self.config.gc_delay, headroom: self.config.gc_disk_headroom }
    }

    /// Takes over what recovery found, but for what is in use.
    pub(super) fn recover_garbage(&mut self, found: Vec<(Garbage, Item)>) {
        let mut used = BTreeSet::new();
        for executor in self.frameworks.values().flat_map(|f| f.executors.values()) {
            let run = executor.run.clone();
            let (agent, framework) = (run.agent.clone(), run.framework.clone());
            used.insert(Garbage::Agent(agent.clone()));
            used.insert(Garbage::Framework { agent: agent.clone(), framework: framework.clone() });
            used.insert(Garbage::Executor { agent, framework, executor: run.executor.clone() });
            used.insert(Garbage::Run(run));
        }
        for (garbage, item) in found.into_iter().filter(|(garbage, _)| !used.contains(garbage)) {
            self.weigh(&garbage, &item);
            self.garbage.schedule.add(garbage, item);
        }
        self.store_schedule();
    }

    fn store_schedule(&mut self) {
        self.garbage.spare_lines = 0;
        let all = self.garbage.schedule.items();
        let all = all.map(|(garbage, item)| (garbage.clone(), item.clone())).collect();
        self.persist(Record::Schedule(all));
    }

    /// Says something in the log; one that says mostly what was is written anew.
    fn note_garbage(&mut self, record: Record) {
        self.garbage.spare_lines += 1;
        if self.garbage.spare_lines > 256 + 4 * self.garbage.schedule.len() {
            self.store_schedule();
        } else {
            self.persist(record);
        }
    }

    fn weigh(&mut self, garbage: &Garbage, item: &Item) {
        let holds_files =
            matches!(garbage, Garbage::Run(_) | Garbage::Sandbox(_) | Garbage::Agent(_));
        if holds_files && item.bytes.is_none() {
            self.out.push(Effect::Weigh(garbage.clone()));
        }
    }

    /// Something is not needed any more. `family` is what it has in common with
    /// others of its kind.
    pub(super) fn discard_later(&mut self, garbage: Garbage, family: &str) {
        let item = Item { family: family.to_owned(), ..Item::since(self.now) };
        self.weigh(&garbage, &item);
        self.garbage.schedule.add(garbage.clone(), item.clone());
        self.note_garbage(Record::Scheduled { garbage, item });
    }

    /// The directories of an executor that is over.
    pub(super) fn executor_ended(&mut self, executor: &Executor) {
        let name = match &executor.played {
            Some(played) => played.task.name.as_str(),
            None => executor.info.name.as_deref().unwrap_or_else(|| executor.id()),
        };
        let run = executor.run.clone();
        let family = format!("{}/{name}", run.framework);
        self.discard_later(Garbage::Run(run.clone()), &family);
        let (agent, framework, executor) = (run.agent, run.framework, run.executor);
        self.discard_later(Garbage::Executor { agent, framework, executor }, "");
    }

    /// A framework and an executor are used again.
    pub(super) fn unschedule(&mut self, framework: &str, executor: &str) {
        let agent = self.agent_id().to_owned();
        let framework = framework.to_owned();
        for garbage in [
            Garbage::Framework { agent: agent.clone(), framework: framework.clone() },
            Garbage::Executor { agent, framework, executor: executor.to_owned() },
        ] {
            if self.garbage.schedule.remove(&garbage) {
                self.note_garbage(Record::Unscheduled(garbage));
            }
        }
    }

    /// A nested or standalone container is over. compat: its sandbox stays until
    /// somebody removes it, unless a flag says otherwise.
    pub(super) fn sandbox_ended(&mut self, sandbox: PathBuf) {
        if self.config.gc_non_executor_sandboxes {
            self.discard_later(Garbage::Sandbox(sandbox), "");
        }
    }

    // The disk.

    pub(super) fn watch_disk(&mut self, after: Duration) {
        self.garbage.generation += 1;
        let timer = Timer::DiskWatch { generation: self.garbage.generation };
        self.out.push(Effect::Schedule { after, timer });
    }

    pub(super) fn disk_watch(&mut self, generation: u64) {
        if generation == self.garbage.generation {
            self.measure();
        }
    }

    fn measure(&mut self) {
        if !std::mem::replace(&mut self.garbage.measuring, true) {
            self.out.push(Effect::MeasureDisk);
        }
    }

    pub(super) fn disk_full(&mut self, waiting: bool, reserve: u64) {
        self.garbage.waiting = waiting;
        self.garbage.reserve = reserve;
        if waiting {
            self.measure();
        }
    }

    pub(super) fn disk_measured(&mut self, disk: Disk) {
        let policy = self.policy();
        self.garbage.measuring = false;
        self.garbage.max_age_secs = policy.max_age(&disk).as_secs_f64();
        let now = self.now;
        for verdict in self.garbage.schedule.take(now, &policy, &disk) {
            let urgent = verdict.decision != Decision::Go(Why::Old);
            self.out.push(Effect::Discard { garbage: verdict.garbage, urgent });
        }
        self.garbage.bytes = self.garbage.schedule.bytes();
        self.garbage.oldest = self.garbage.schedule.oldest();
        let before = self.garbage.disk.replace((disk, now));
        let before = before.map(|(disk, then)| (disk, now - then));
        let next = policy.next_look(self.config.disk_watch_interval, before, &disk);
        self.watch_disk(next);
    }

    pub(super) fn discarded(
        &mut self,
        garbage: Garbage,
        result: Result<Vec<PathBuf>, NotDiscarded>,
    ) {
        match result {
            Ok(mut paths) => {
                paths.extend(self.garbage.remains.remove(&garbage).unwrap_or_default());
                if paths.is_empty() {
                    return self.removed(Some(garbage), Ok(0));
                }
                self.garbage.remains.insert(garbage.clone(), paths.clone());
                self.out.push(Effect::Remove { garbage, paths });
            }
            Err(NotDiscarded::InUse) => {
                self.counters.gc_removals_postponed += 1;
                self.garbage.schedule.postponed(&garbage, self.now, READING);
            }
            Err(NotDiscarded::Failed(error)) => self.removed(Some(garbage), Err(error)),
        }
    }

    pub(super) fn removed(&mut self, garbage: Option<Garbage>, result: Result<u64, String>) {
        match &result {
            Ok(entries) => {
                self.counters.gc_path_removals_succeeded += 1;
                self.counters.gc_files_removed += entries;
            }
            Err(error) => {
                self.counters.gc_path_removals_failed += 1;
                tracing::warn!(?garbage, error, "failed to collect a directory");
            }
        }
        let Some(garbage) = garbage else { return };
        match result {
            Ok(_) => {
                self.garbage.remains.remove(&garbage);
                let item = self.garbage.schedule.done(&garbage);
                let bytes = item.and_then(|item| item.bytes).unwrap_or(0);
                self.counters.gc_bytes_removed += bytes;
                tracing::info!(?garbage, bytes, "collected a directory");
                self.note_garbage(Record::Unscheduled(garbage));
            }
            Err(_) => {
                let first = self.config.disk_watch_interval;
                self.garbage.schedule.failed(&garbage, self.now, first);
            }
        }
        // Under pressure what went may have been enough, or not.
        let policy = self.policy();
        let pressed = self.garbage.disk.as_ref().is_some_and(|(disk, _)| policy.is_soft(disk));
        if pressed && self.garbage.schedule.is_idle() {
            self.measure();
        }
    }

    pub(super) fn weighed(&mut self, garbage: Garbage, bytes: Option<u64>) {
        if let Some(item) = bytes.and_then(|b| self.garbage.schedule.weighed(&garbage, b)) {
            self.note_garbage(Record::Scheduled { garbage, item });
        }
    }

    /// Ages are counted by a clock that nobody sets.
    pub(super) fn clock_set(&mut self, by: f64) {
        tracing::warn!(seconds = by, "the clock was set: ages of sandboxes stay what they were");
        self.garbage.schedule.shift(by);
        if let Some((_, then)) = &mut self.garbage.disk {
            *then += by;
        }
        self.store_schedule();
    }
}
