//! `make bench SCENARIO=recovery`: how long an agent is away that is killed and
//! started again among 1,000 running containers, until the master has it back, and
//! how much memory that takes beside what it takes in peace.

#[path = "../support/cluster.rs"]
mod cluster;
#[path = "figures.rs"]
mod figures;
#[path = "../support/framework.rs"]
mod framework;
#[path = "../support/mod.rs"]
mod support;

use std::time::{Duration, Instant};

use cluster::{Cluster, Options, get};
use figures::{figure, median, quantile};
use framework::{Framework, command};

const TASKS: usize = 1000;
/// Restarts; the median counts.
const RUNS: usize = 5;

#[tokio::main(flavor = "current_thread")]
async fn main() {
    require!(root, cgroup);
    let options = Options::default().agent(&[
        "--resources=cpus:1000;mem:1000000;disk:10000;ports:[31000-32000]",
        "--registration_backoff_factor=10ms",
    ]);
    let mut cluster = Cluster::start("bench-recovery", options);
    let mut framework = Framework::subscribe(&cluster.master, "bench").await;
    let names: Vec<String> = (0..TASKS).map(|i| format!("t{i}")).collect();
    for names in names.chunks(100) {
        let tasks = names.iter().map(|n| command(n, "exec sleep 100000", 32.0)).collect();
        framework.launch(tasks).await;
        let runs = |f: &Framework| names.iter().all(|n| f.state(n) == Some("TASK_RUNNING"));
        framework.until("the tasks to run", 120, runs).await;
    }
    tokio::time::sleep(Duration::from_secs(3)).await;
    let steady = kb(cluster.agent_pid(), "VmRSS:");
    let mut times = Vec::new();
    let (mut peak, mut after) = (0.0f64, 0.0f64);
    for _ in 0..RUNS {
        cluster.kill_agent();
        let active = |c: &Cluster| {
            get(&c.master, "/state-summary").is_some_and(|s| s.contains("\"active\":true,\"deact"))
        };
        while active(&cluster) {
            std::thread::sleep(Duration::from_millis(5));
        }
        let start = Instant::now();
        cluster.spawn_agent();
        while registrations(&cluster) == 0 {
            std::thread::sleep(Duration::from_millis(5));
        }
        times.push(start.elapsed().as_secs_f64());
        peak = peak.max(kb(cluster.agent_pid(), "VmHWM:"));
        tokio::time::sleep(Duration::from_secs(3)).await;
        after = after.max(kb(cluster.agent_pid(), "VmRSS:"));
    }
    let (middle, slowest) = (median(&mut times), quantile(&mut times, 1.0));
    let ratio = peak / steady;
    println!("recovery, {TASKS} running containers, {RUNS} restarts");
    println!("  until re-registered   {middle:>6.2} s (slowest {slowest:.2} s)");
    println!("  memory in peace       {:>6.1} MB", steady / 1024.0);
    println!("  peak of the recovery  {:>6.1} MB", peak / 1024.0);
    println!("  afterwards            {:>6.1} MB", after / 1024.0);
    figure("recovery.s_1000", middle);
    figure("recovery.rss_ratio", ratio);
    cluster.stop();
}

/// 1 once the new agent is registered.
fn registrations(cluster: &Cluster) -> u64 {
    let metrics = get(&cluster.agent, "/metrics/snapshot").unwrap_or_default();
    u64::from(metrics.contains("\"slave/registered\":1.0"))
}

fn kb(pid: u32, field: &str) -> f64 {
    let text = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix(field));
    line.and_then(|l| l.split_whitespace().next()?.parse().ok()).unwrap_or(0.0)
}
