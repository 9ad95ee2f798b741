//! `make bench SCENARIO=updates`: status updates through the checkpoint.
//!
//! 1,000 tasks with a log each; 256 updates under way at a time, each written and
//! flushed before it counts, by the storage task's own parts (store, flusher,
//! batches). The floor in the same run: one file, one record, one flush after the
//! other.

#[path = "figures.rs"]
mod figures;

use std::collections::VecDeque;
use std::io::Write as _;
use std::path::Path;
use std::time::{Duration, Instant};

use bulkhead::checkpoint::{Flusher, Record, RunKey, Store, Unflushed, WorkDir};
use figures::figure;
use mesos::internal::{StatusUpdate, StatusUpdateRecord};
use mesos::{FrameworkId, TaskId, TaskState, TaskStatus};

const TASKS: usize = 1000;
const UPDATES: usize = 20_000;
const UNDER_WAY: usize = 256;
/// As the storage task's.
const FILES: usize = 128;

fn main() {
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(
        || Path::new(env!("CARGO_MANIFEST_DIR")).join("target"),
        std::path::PathBuf::from,
    );
    // On the disk that is being measured, not on a tmpfs.
    let dir = target.join(format!("bench-updates-{}", std::process::id()));
    std::fs::create_dir_all(&dir).expect("a directory");
    let (took, mut waits) = through_the_checkpoint(&dir);
    let mut floor = floor(&dir);
    std::fs::remove_dir_all(&dir).expect("clean up");

    waits.sort();
    floor.sort();
    let ms = |t: Duration| t.as_secs_f64() * 1000.0;
    let at = |all: &[Duration], share: f64| ms(all[(all.len() as f64 * share) as usize]);
    let per_s = UPDATES as f64 / took.as_secs_f64();
    let floor_per_s = floor.len() as f64 / floor.iter().sum::<Duration>().as_secs_f64();
    println!("{UPDATES} status updates of {TASKS} tasks, {UNDER_WAY} under way");
    println!(
        "  checkpoint      {per_s:>9.0}/s   p50 {:.1} ms  p99 {:.1} ms",
        at(&waits, 0.5),
        at(&waits, 0.99)
    );
    println!(
        "  append + fsync  {floor_per_s:>9.0}/s   p50 {:.1} ms  p99 {:.1} ms",
        at(&floor, 0.5),
        at(&floor, 0.99)
    );
    figure("updates.per_s", per_s);
    figure("updates.p99_ms", at(&waits, 0.99));
    figure("updates.floor_per_s", floor_per_s);
    figure("updates.floor_p99_ms", at(&floor, 0.99));
}

fn record(task: usize) -> Record {
    let task = format!("task-{task}");
    let run = RunKey {
        agent: "S0".into(),
        framework: "F".into(),
        executor: task.clone(),
        container: "c0ffee00-0000-0000-0000-000000000000".into(),
    };
    let mut status =
        TaskStatus { task_id: TaskId { value: task.clone() }, ..TaskStatus::default() };
    status.set_state(TaskState::TaskRunning);
    status.message = Some("a message of usual length, as executors write them".into());
    let update = StatusUpdate {
        framework_id: FrameworkId { value: "F".into() },
        status,
        timestamp: 1.0,
        uuid: Some(vec![7; 16]),
        ..StatusUpdate::default()
    };
    let record = StatusUpdateRecord { r#type: 0, update: Some(update), uuid: None };
    Record::Update { run, task, record: Box::new(record) }
}

/// How long all of it took, and each update from its arrival until it was durable.
fn through_the_checkpoint(dir: &Path) -> (Duration, Vec<Duration>) {
    let store = Store::new(WorkDir::new(dir), true);
    let mut flusher = Flusher::default();
    for task in 0..TASKS {
        drop(store.write(&record(task)).expect("write"));
    }
    let mut waits = Vec::with_capacity(UPDATES);
    let (mut sent, mut queue) = (0, VecDeque::new());
    let start = Instant::now();
    while waits.len() < UPDATES {
        while queue.len() < UNDER_WAY && sent < UPDATES {
            // Neighbours are of different tasks.
            queue.push_back((record(sent * 7 % TASKS), Instant::now()));
            sent += 1;
        }
        let (mut files, mut done) = (Unflushed::default(), Vec::new());
        while files.len() < FILES
            && let Some((record, arrived)) = queue.pop_front()
        {
            files.extend(store.write(&record).expect("write").unflushed);
            done.push(arrived);
        }
        flusher.flush(files).expect("flush");
        waits.extend(done.into_iter().map(|arrived| arrived.elapsed()));
    }
    (start.elapsed(), waits)
}

fn floor(dir: &Path) -> Vec<Duration> {
    let mut file = std::fs::File::create(dir.join("floor")).expect("a file");
    (0..500)
        .map(|_| {
            let start = Instant::now();
            file.write_all(&[7; 200]).and_then(|()| file.sync_data()).expect("append and flush");
            start.elapsed()
        })
        .collect()
}
