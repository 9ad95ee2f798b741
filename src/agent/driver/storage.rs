//! The storage thread: writes checkpoints in order and reports each.
//!
//! Whatever waits is written together and flushed together, so that a busy agent
//! waits for the disk once per batch and not once per record. A full disk is waited
//! for, not died of: what depends on the record stays undone until there is room,
//! so nothing is promised that could be forgotten, and running containers are not
//! touched; what is owed already overtakes it and goes to the reserve. Any other failure ends the
//! agent, as it ends Mesos'.

use std::collections::{BTreeSet, VecDeque};
use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant};

use kernel::mounts::{self, Mount};
use tokio::sync::{mpsc, oneshot};

use crate::agent::core::event::{Event, NotDiscarded, Seq};
use crate::agent::handle::Mail;
use crate::checkpoint::{
    Flusher, Garbage, Record, RunKey, StorageError, Store, Unflushed, Written,
};

/// Between two tries to write on a full disk.
const RETRY: Duration = Duration::from_millis(500);
/// Records that are written before the first of them is reported.
const BATCH: usize = 256;
/// Files that are open at once because they are yet to be flushed.
const UNFLUSHED: usize = 128;

/// For so long the mount table is taken for what it was: reading it takes time, and
/// what is mounted in garbage meanwhile is not entered all the same.
const MOUNTS: Duration = Duration::from_secs(1);

/// Something to be done in order.
enum Job {
    Write(Seq, Record),
    Discard(Garbage),
    /// Bring the reserve up to its size.
    Refill,
}

/// The driver's end of the storage thread. The queue is not bounded: the core
/// hands in a bounded number of records per piece of mail, and mail is bounded.
pub(super) struct Storage {
    queue: Option<mpsc::UnboundedSender<Job>>,
    finished: Option<oneshot::Receiver<()>>,
}

impl Storage {
    pub(super) fn start(store: Store, back: mpsc::Sender<Mail>) -> std::io::Result<Self> {
        let (queue, jobs) = mpsc::unbounded_channel::<Job>();
        let (done, finished) = oneshot::channel();
        let worker = Worker {
            store,
            back,
            jobs,
            ahead: VecDeque::new(),
            flusher: Flusher::default(),
            batch: Batch::default(),
            reserve: 0,
            mounts: None,
        };
        thread::Builder::new().name("storage".to_owned()).spawn(move || {
            worker.run();
            let _ = done.send(());
        })?;
        Ok(Storage { queue: Some(queue), finished: Some(finished) })
    }

    pub(super) fn write(&self, seq: Seq, record: Record) {
        self.hand_in(Job::Write(seq, record));
    }

    /// Moves directories away once all that was handed in before is written.
    pub(super) fn discard(&self, garbage: Garbage) {
        self.hand_in(Job::Discard(garbage));
    }

    /// Makes the reserve whole if there is room again.
    pub(super) fn refill(&self) {
        self.hand_in(Job::Refill);
    }

    fn hand_in(&self, job: Job) {
        if let Some(queue) = &self.queue {
            let _ = queue.send(job);
        }
    }

    /// Waits until everything handed in is written.
    pub(super) async fn finish(&mut self) {
        self.queue = None;
        if let Some(finished) = self.finished.take() {
            let _ = finished.await;
        }
    }
}

/// Written, and not yet reported.
#[derive(Default)]
struct Batch {
    records: Vec<Seq>,
    files: Unflushed,
}

struct Worker {
    store: Store,
    back: mpsc::Sender<Mail>,
    jobs: mpsc::UnboundedReceiver<Job>,
    /// Taken from the queue while a record waited for room.
    ahead: VecDeque<Job>,
    flusher: Flusher,
    batch: Batch,
    /// Files left in the reserve, as last told.
    reserve: u64,
    /// The mount table, and when it was read.
    mounts: Option<(Vec<Mount>, Instant)>,
}

impl Worker {
    fn run(mut self) {
        self.refill();
        while let Some(job) = self.ahead.pop_front().or_else(|| self.jobs.blocking_recv()) {
            self.work_off(job);
            while self.batch.records.len() < BATCH && self.batch.files.len() < UNFLUSHED {
                let Some(job) = self.ahead.pop_front().or_else(|| self.jobs.try_recv().ok()) else {
                    break;
                };
                self.work_off(job);
            }
            self.report();
        }
    }

    fn work_off(&mut self, job: Job) {
        match job {
            Job::Refill => self.refill(),
            Job::Discard(garbage) => self.discard(garbage),
            Job::Write(seq, record) => match self.write(&record) {
                Ok(written) => self.written(seq, written),
                Err(error) => {
                    self.report();
                    self.tell(Event::PersistFailed { seq, error: kernel::chain(&error) });
                }
            },
        }
    }

    fn written(&mut self, seq: Seq, written: Written) {
        self.batch.records.push(seq);
        self.batch.files.extend(written.unflushed);
        if !written.discarded.is_empty() {
            let _ = self.back.blocking_send(Mail::Discarded(written.discarded));
        }
    }

    /// Writes a record, however long it takes until there is room.
    fn write(&mut self, record: &Record) -> Result<Written, StorageError> {
        let mut waiting = false;
        loop {
            match self.store.write(record) {
                Ok(written) => {
                    if waiting {
                        tracing::info!("there is room for checkpoints again");
                        self.tell_room(false);
                    }
                    return Ok(written);
                }
                Err(error) if record.is_advice() => {
                    tracing::warn!(error = %kernel::chain(&error), "failed to note garbage");
                    return Ok(Written::default());
                }
                // A driver that is leaving does not wait for room.
                Err(error) if error.is_full() && !self.jobs.is_closed() => {
                    if !std::mem::replace(&mut waiting, true) {
                        tracing::error!(
                            error = %kernel::chain(&error),
                            "no space left for checkpoints: waiting"
                        );
                        self.report();
                        self.tell_room(true);
                    }
                    self.let_pass(record);
                    thread::sleep(RETRY);
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// What need not wait behind a record that finds no room: what is to be
    /// discarded, since it makes room, and what is owed, since it has the reserve.
    /// Records of one run keep their order.
    fn let_pass(&mut self, waiting: &Record) {
        let about = |job: &Job| match job {
            Job::Write(_, record) => record.run().cloned(),
            Job::Discard(_) | Job::Refill => None,
        };
        let mut held: BTreeSet<RunKey> = self.ahead.iter().filter_map(about).collect();
        held.extend(waiting.run().cloned());
        while let Ok(job) = self.jobs.try_recv() {
            match job {
                Job::Discard(garbage) => self.discard(garbage),
                Job::Write(seq, record)
                    if record.is_owed() && record.run().is_some_and(|run| !held.contains(run)) =>
                {
                    match self.store.write(&record) {
                        Ok(written) => {
                            self.written(seq, written);
                            self.report();
                        }
                        // It waits its turn and fails again there, if it has to.
                        Err(_) => {
                            held.extend(record.run().cloned());
                            self.ahead.push_back(Job::Write(seq, record));
                        }
                    }
                }
                job => {
                    held.extend(about(&job));
                    self.ahead.push_back(job);
                }
            }
        }
    }

    fn discard(&mut self, garbage: Garbage) {
        let result = self.try_discard(&garbage).map_err(NotDiscarded::Failed);
        self.tell(Event::Discarded { garbage, result });
    }

    fn try_discard(&mut self, garbage: &Garbage) -> Result<Vec<PathBuf>, String> {
        let table = match self.mounts.take() {
            Some((table, read)) if read.elapsed() < MOUNTS => (table, read),
            _ => (mounts::table().map_err(|error| kernel::chain(&error))?, Instant::now()),
        };
        let result = self.store.discard(garbage, &table.0);
        self.mounts = Some(table);
        result.map_err(|error| kernel::chain(&error))
    }

    fn refill(&mut self) {
        if let Err(error) = self.store.refill() {
            tracing::debug!(error = %kernel::chain(&error), "no reserve for checkpoints");
        }
        if self.store.reserve_left() != self.reserve {
            self.tell_room(false);
        }
    }

    fn tell_room(&mut self, waiting: bool) {
        self.reserve = self.store.reserve_left();
        self.tell(Event::DiskFull { waiting, reserve: self.reserve });
    }

    /// Flushes what was written and reports it.
    fn report(&mut self) {
        let Batch { records, files } = std::mem::take(&mut self.batch);
        if let Some(newest) = records.last().filter(|_| files.len() > 0) {
            self.tell(Event::Written(*newest));
        }
        let flushed = self.flusher.flush(files).map_err(|error| kernel::chain(&error));
        for seq in records {
            self.tell(match &flushed {
                Ok(()) => Event::Persisted(seq),
                Err(error) => Event::PersistFailed { seq, error: error.clone() },
            });
        }
    }

    fn tell(&self, event: Event) {
        // The driver may be gone already: the rest is written all the same.
        let _ = self.back.blocking_send(Mail::Event(event));
    }
}
