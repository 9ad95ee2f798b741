//! `make bench SCENARIO=memory`: what the daemons and each task cost.
//!
//! Idle resident set of both daemons, and the cost of one running command task
//! beyond the task itself: growth of the agent plus the proportional set size of
//! every process that stands between the agent and the task's own program.

#[path = "../support/cluster.rs"]
mod cluster;
#[path = "figures.rs"]
mod figures;
#[path = "../support/framework.rs"]
mod framework;
#[path = "../support/mod.rs"]
mod support;

use std::time::Duration;

use cluster::{Cluster, Options};
use figures::figure;
use framework::{Framework, command};
use serde_json::Value;

const TASKS: usize = 300;

#[tokio::main(flavor = "current_thread")]
async fn main() {
    require!(root, cgroup);
    let options = Options::default()
        .agent(&["--resources=cpus:1000;mem:1000000;disk:10000;ports:[31000-32000]"]);
    let mut cluster = Cluster::start("bench-memory", options);
    tokio::time::sleep(Duration::from_secs(2)).await;
    let (agent, master) = (cluster.agent_pid(), cluster.master_pid());
    let idle_agent = kb(agent, "status", "VmRSS:");
    let idle_master = kb(master, "status", "VmRSS:");

    let mut framework = Framework::subscribe(&cluster.master, "bench").await;
    let names: Vec<String> = (0..TASKS).map(|i| format!("t{i}")).collect();
    let tasks = names.iter().map(|n| command(n, "exec sleep 100000", 32.0)).collect();
    framework.launch(tasks).await;
    framework
        .until("all tasks to run", 120, |f| {
            names.iter().all(|n| f.state(n) == Some("TASK_RUNNING"))
        })
        .await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    let busy_agent = kb(agent, "status", "VmRSS:");
    let helpers: Vec<f64> = descendants(agent)
        .into_iter()
        .filter(|pid| {
            let name = std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
            !["sleep", "sh"].contains(&name.trim())
        })
        .map(|pid| kb(pid, "smaps_rollup", "Pss:"))
        .collect();
    let sum: f64 = helpers.iter().sum();
    let per_task = (busy_agent - idle_agent + sum) / TASKS as f64 / 1024.0;
    println!("memory, {TASKS} command tasks");
    println!("  agent   idle {:>6.1} MB", idle_agent / 1024.0);
    println!("  agent   busy {:>6.1} MB", busy_agent / 1024.0);
    println!("  master  idle {:>6.1} MB", idle_master / 1024.0);
    println!("  per task     {per_task:>6.3} MB ({} helper processes)", helpers.len());
    figure("memory.agent_idle_rss_mb", idle_agent / 1024.0);
    figure("memory.master_idle_rss_mb", idle_master / 1024.0);
    figure("memory.per_task_mb", per_task);
    figure("memory.shim_pss_kb", sum / helpers.len().max(1) as f64);
    framework.call("TEARDOWN", Value::Null).await;
    cluster.stop();
}

/// A `kB` figure of `/proc/<pid>/<file>`; zero when the process is gone.
fn kb(pid: u32, file: &str, field: &str) -> f64 {
    let text = std::fs::read_to_string(format!("/proc/{pid}/{file}")).unwrap_or_default();
    text.lines()
        .find_map(|l| l.strip_prefix(field))
        .and_then(|v| v.trim().trim_end_matches("kB").trim().parse().ok())
        .unwrap_or(0.0)
}

/// All descendants of `root`, by parent pid.
fn descendants(root: u32) -> Vec<u32> {
    let mut parents = Vec::new();
    for entry in std::fs::read_dir("/proc").expect("/proc is mounted").flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|n| n.parse::<u32>().ok()) else {
            continue;
        };
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        let Some((_, rest)) = stat.rsplit_once(')') else { continue };
        let parent: u32 = rest.split_whitespace().nth(1).and_then(|p| p.parse().ok()).unwrap_or(0);
        parents.push((pid, parent));
    }
    let mut found = vec![root];
    let mut i = 0;
    while i < found.len() {
        let parent = found[i];
        found.extend(parents.iter().filter(|(_, p)| *p == parent).map(|(pid, _)| *pid));
        i += 1;
    }
    found.split_off(1)
}
