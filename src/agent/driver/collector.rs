//! Deleting and measuring garbage, on threads that give way to everybody else.
//!
//! The threads start when there is something to do, one per processor. They run at
//! the lowest priority (nice 19, idle I/O class): on an idle machine they are as
//! fast as the disk, on a busy one they wait for the tasks. Deleting goes before
//! measuring. They end with the process, wherever they are; what is half deleted
//! is in `trash` for the next agent. The lock is for the queue only.

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use kernel::remove;
use kernel::walk::{Progress, Walk};
use tokio::sync::mpsc;

use crate::agent::config::Config;
use crate::agent::core::event::{Event, NotDiscarded};
use crate::agent::handle::Mail;
use crate::checkpoint::{Garbage, WorkDir};
use crate::daemon::files::Readers;
use crate::gc::Disk;

/// Threads at most.
const THREADS: usize = 8;
/// A sandbox counts as read for so long after the last request.
const READ: Duration = Duration::from_secs(60);
/// Entries that are measured between two looks at the queue.
const STEP: u64 = 4096;

enum Job {
    /// Find the parts of something that is to be deleted.
    Split(Option<Garbage>, Vec<PathBuf>),
    /// Delete a part; the last one deletes the rest as well.
    Part(PathBuf, Arc<Removal>),
    Weigh(Garbage),
}

/// Something that is being deleted by several threads.
struct Removal {
    garbage: Option<Garbage>,
    /// What holds the parts.
    paths: Vec<PathBuf>,
    state: Mutex<Progressed>,
}

#[derive(Default)]
struct Progressed {
    parts: usize,
    entries: u64,
    /// The first thing that did not go.
    failed: Option<String>,
}

#[derive(Default)]
struct Jobs {
    /// In this order: parts are put in front of what is yet to be split.
    removals: VecDeque<Job>,
    weighings: VecDeque<Garbage>,
    threads: usize,
    idle: usize,
}

struct Queue {
    jobs: Mutex<Jobs>,
    ready: Condvar,
}

impl Queue {
    fn lock(&self) -> MutexGuard<'_, Jobs> {
        self.jobs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn next(&self) -> Job {
        let mut jobs = self.lock();
        loop {
            if let Some(job) = jobs.removals.pop_front() {
                return job;
            }
            if let Some(garbage) = jobs.weighings.pop_front() {
                return Job::Weigh(garbage);
            }
            jobs.idle += 1;
            jobs = self.ready.wait(jobs).unwrap_or_else(PoisonError::into_inner);
            jobs.idle -= 1;
        }
    }
}

pub(super) struct Collector {
    queue: Arc<Queue>,
    work: WorkDir,
    readers: Readers,
    back: mpsc::Sender<Mail>,
    most: usize,
}

impl Collector {
    pub(super) fn new(config: &Config, back: mpsc::Sender<Mail>) -> Self {
        let cpus = thread::available_parallelism().map_or(1, usize::from);
        Collector {
            queue: Arc::new(Queue { jobs: Mutex::default(), ready: Condvar::new() }),
            work: config.work_dir.clone(),
            readers: config.readers.clone(),
            back,
            most: cpus.min(THREADS),
        }
    }

    /// Whether somebody reads something in it.
    pub(super) fn is_read(&self, garbage: &Garbage) -> bool {
        self.work.garbage(garbage).first().is_some_and(|path| self.readers.is_read(path, READ))
    }

    /// Says that `garbage` is not discarded now.
    pub(super) fn in_use(&self, garbage: Garbage) -> Event {
        Event::Discarded { garbage, result: Err(NotDiscarded::InUse) }
    }

    /// Deletes what was discarded; `None`: by an earlier agent.
    pub(super) fn remove(&self, garbage: Option<Garbage>, paths: Vec<PathBuf>) {
        self.worker().add(|jobs| jobs.removals.push_back(Job::Split(garbage, paths)));
    }

    pub(super) fn weigh(&self, garbage: Garbage) {
        self.worker().add(|jobs| jobs.weighings.push_back(garbage));
    }

    fn worker(&self) -> Worker {
        Worker {
            queue: self.queue.clone(),
            work: self.work.clone(),
            back: self.back.clone(),
            most: self.most,
        }
    }

    pub(super) fn measure_disk(&self) {
        let (back, root) = (self.back.clone(), self.work.root().to_owned());
        tokio::spawn(async move {
            let space = tokio::task::spawn_blocking(move || kernel::machine::space(&root)).await;
            let disk = match space {
                Ok(Ok(space)) => Disk { used: space.used(), total: space.total },
                Ok(Err(error)) => {
                    tracing::warn!(%error, "failed to measure the work directory's file system");
                    Disk::default()
                }
                Err(_) => Disk::default(),
            };
            let _ = back.send(Mail::Event(Event::DiskMeasured(disk))).await;
        });
    }
}

#[derive(Clone)]
struct Worker {
    queue: Arc<Queue>,
    work: WorkDir,
    back: mpsc::Sender<Mail>,
    /// Threads at most.
    most: usize,
}

impl Worker {
    /// Adds work and, where there are too few threads for it, one more.
    fn add(&self, push: impl FnOnce(&mut Jobs)) {
        let mut jobs = self.queue.lock();
        push(&mut jobs);
        let waiting = jobs.removals.len() + jobs.weighings.len();
        if waiting > jobs.idle && jobs.threads < self.most {
            let worker = self.clone();
            let started = thread::Builder::new().name("gc".to_owned()).spawn(move || worker.run());
            match started {
                Ok(_) => jobs.threads += 1,
                Err(error) => tracing::error!(%error, "failed to start a thread for collecting"),
            }
        }
        drop(jobs);
        self.queue.ready.notify_one();
    }

    fn run(self) {
        kernel::sched::background();
        loop {
            let event = match self.queue.next() {
                Job::Split(garbage, paths) => {
                    self.split(garbage, paths);
                    continue;
                }
                Job::Part(path, removal) => match self.part(&path, &removal) {
                    Some(event) => event,
                    None => continue,
                },
                Job::Weigh(garbage) => {
                    let paths = self.work.garbage(&garbage);
                    let bytes = paths.first().and_then(|path| weigh(path));
                    Event::Weighed { garbage, bytes }
                }
            };
            if self.back.blocking_send(Mail::Event(event)).is_err() {
                return; // The driver is gone.
            }
        }
    }

    fn split(&self, garbage: Option<Garbage>, mut paths: Vec<PathBuf>) {
        let mut parts: Vec<PathBuf> =
            paths.iter().flat_map(|path| runs_in(path, garbage.as_ref())).collect();
        if parts.is_empty() {
            parts = std::mem::take(&mut paths);
        }
        let state = Mutex::new(Progressed { parts: parts.len(), ..Progressed::default() });
        let removal = Arc::new(Removal { garbage, paths, state });
        for path in parts {
            let job = Job::Part(path, removal.clone());
            self.add(|jobs| jobs.removals.push_front(job));
        }
    }

    /// Deletes a part. The last one tells how all of it went.
    fn part(&self, path: &Path, removal: &Removal) -> Option<Event> {
        let done = remove::tree(path, &mut |_| true);
        let locked = || removal.state.lock().unwrap_or_else(PoisonError::into_inner);
        locked().note(done);
        {
            let mut state = locked();
            state.parts -= 1;
            if state.parts > 0 {
                return None;
            }
        }
        for path in &removal.paths {
            let done = remove::tree(path, &mut |_| true);
            locked().note(done);
        }
        let state = std::mem::take(&mut *locked());
        let result = state.failed.map_or(Ok(state.entries), Err);
        Some(Event::Removed { garbage: removal.garbage.clone(), result })
    }
}

impl Progressed {
    fn note(&mut self, done: Result<remove::Removed, remove::RemoveError>) {
        match done {
            Ok(removed) => self.entries += removed.entries,
            Err(error) => {
                self.failed.get_or_insert(kernel::chain(&error));
            }
        }
    }
}

/// The runs in what is to be deleted: what holds most of the files and can be
/// deleted side by side. Never looks into a sandbox.
fn runs_in(path: &Path, garbage: Option<&Garbage>) -> Vec<PathBuf> {
    // By frameworks/F/executors/E/runs/C.
    let levels = match garbage {
        Some(Garbage::Agent(_)) => 6,
        Some(Garbage::Framework { .. }) => 4,
        Some(Garbage::Executor { .. }) => 2,
        Some(Garbage::Run(_) | Garbage::Sandbox(_)) | None => return Vec::new(),
    };
    let mut level = vec![path.to_owned()];
    for _ in 0..levels {
        let below = level.iter().flat_map(|dir| std::fs::read_dir(dir).into_iter().flatten());
        level = below
            .flatten()
            .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
            .map(|entry| entry.path())
            .collect();
    }
    level
}

/// What the files below `path` occupy, in bytes.
fn weigh(path: &Path) -> Option<u64> {
    let mut walk = Walk::open(path, &[]).ok()?;
    while walk.step(STEP, &mut |_, _, _| {}).ok()? == Progress::More {}
    Some(walk.bytes())
}
