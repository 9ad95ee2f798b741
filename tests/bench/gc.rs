//! `make bench SCENARIO=gc`: deleting 1,000 sandboxes of 1,000 files.
//!
//! A real agent collects them while a framework goes on launching tasks; the floor
//! in the same run is `rm -rf` of as many, one per processor at a time. Launch
//! latencies are those from ACCEPT to TASK_RUNNING, with and without the collection.

#[path = "../support/cluster.rs"]
mod cluster;
#[path = "figures.rs"]
mod figures;
#[path = "../support/framework.rs"]
mod framework;
#[path = "../support/mod.rs"]
mod support;

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use cluster::{Cluster, Options};
use figures::figure;
use framework::{Framework, command};
use serde_json::Value;

const SANDBOXES: usize = 1000;
const FILES: usize = 1000;
/// That make them.
const THREADS: usize = 4;

#[tokio::main(flavor = "current_thread")]
async fn main() {
    require!(root, cgroup);
    let target = std::env::var_os("CARGO_TARGET_DIR")
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("target"), PathBuf::from);
    // On the disk that is being measured, not on a tmpfs.
    let dir = target.join(format!("bench-gc-{}", std::process::id()));
    let work = dir.join("work");

    let floor = dir.join("floor");
    fill(&floor);
    let rm = remove(&floor);

    // Sandboxes of a framework that does not checkpoint: garbage for the next agent.
    let options = Options {
        agent_work_dir: Some(work.clone()),
        ..Options::default().agent(&["--gc_delay=1weeks"])
    };
    let mut cluster = Cluster::start("bench-gc", options.clone());
    let mut framework = Framework::subscribe(&cluster.master, "bench").await;
    framework.start(command("stays", "sleep 100000", 32.0)).await;
    let idle = launches(&mut framework, "idle", 100, None).await;
    cluster.kill_agent();
    let id = std::fs::read_link(work.join("meta/slaves/latest")).expect("the agent's id");
    let id = id.file_name().expect("an id").to_owned();
    let sandboxes = work.join("slaves").join(id).join("frameworks/gone/executors");
    fill(&sandboxes);
    settle();
    cluster.change(Options {
        agent: vec!["--gc_delay=0secs".to_owned(), "--disk_watch_interval=500ms".to_owned()],
        ..options
    });
    cluster.start_agent();
    let trash = work.join("trash");
    let begun = Instant::now();
    while sandboxes.exists() {
        assert!(begun.elapsed() < Duration::from_secs(120), "nothing is collected");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    let start = Instant::now();
    let deleting = || std::fs::read_dir(&trash).is_ok_and(|mut entries| entries.next().is_some());
    let busy = launches(&mut framework, "busy", 20_000, Some(&deleting)).await;
    let gc = start.elapsed();

    let left = cluster.stop();
    assert!(left.is_empty(), "left behind: {left:?}");
    std::fs::remove_dir_all(&dir).expect("clean up");
    report(rm, gc, idle, busy);
}

fn report(rm: Duration, gc: Duration, idle: Vec<Duration>, busy: Vec<Duration>) {
    let p99 = |mut all: Vec<Duration>| {
        all.sort();
        all.get(all.len().saturating_sub(1) * 99 / 100).map_or(0.0, |t| t.as_secs_f64() * 1000.0)
    };
    let launched = busy.len();
    let (idle, busy) = (p99(idle), p99(busy));
    println!("{SANDBOXES} sandboxes of {FILES} files");
    println!("  rm -rf, one per processor  {:>7.2} s", rm.as_secs_f64());
    println!("  agent                      {:>7.2} s", gc.as_secs_f64());
    println!("  launch p99 before          {idle:>7.1} ms");
    println!("  launch p99 meanwhile       {busy:>7.1} ms  ({launched} launches)");
    figure("gc.over_rm", gc.as_secs_f64() / rm.as_secs_f64());
    figure("gc.launch_p99_ratio", busy / idle);
    figure("gc.files_per_s", (SANDBOXES * FILES) as f64 / gc.as_secs_f64());
}

/// Makes the sandboxes below `dir`.
fn fill(dir: &Path) {
    let part = |first: usize| {
        for n in (first..SANDBOXES).step_by(THREADS) {
            let sandbox = dir.join(format!("e{n}/runs/c{n}"));
            std::fs::create_dir_all(&sandbox).expect("a sandbox");
            for file in 0..FILES {
                std::fs::write(sandbox.join(file.to_string()), "x").expect("a file");
            }
        }
    };
    std::thread::scope(|scope| {
        for first in 0..THREADS {
            scope.spawn(move || part(first));
        }
    });
    settle();
}

/// What was written before is not written meanwhile.
fn settle() {
    let _ = Command::new("sync").status();
}

fn remove(dir: &Path) -> Duration {
    let cpus = std::thread::available_parallelism().map_or(1, usize::from);
    let start = Instant::now();
    let script = format!("ls -d {}/* | xargs -P {cpus} -n 20 rm -rf", dir.display());
    let done = Command::new("sh").args(["-c", &script]).stdin(Stdio::null()).status();
    assert!(done.expect("run rm").success());
    start.elapsed()
}

/// Launches tasks one after the other, at most `most` and while `going`, if given;
/// how long each took until it ran.
async fn launches(
    framework: &mut Framework,
    name: &str,
    most: usize,
    going: Option<&dyn Fn() -> bool>,
) -> Vec<Duration> {
    let mut all = Vec::new();
    while all.len() < most && going.is_none_or(|going| going()) {
        let id = format!("{name}-{}", all.len());
        let task: Value = command(&id, "true", 16.0);
        let offer = framework.offer().await;
        let start = Instant::now();
        let reply = framework.accept(&offer, vec![task]).await;
        assert!(reply.status.is_success(), "{}", reply.text());
        let runs = |f: &Framework| {
            f.statuses.get(&id).is_some_and(|s| s.iter().any(|s| s["state"] == "TASK_RUNNING"))
        };
        framework.until("the task to run", 60, runs).await;
        all.push(start.elapsed());
    }
    all
}
