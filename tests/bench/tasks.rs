//! `make bench SCENARIO=tasks`: command tasks per second through master and agent.
//!
//! 1,000 tasks on one agent: from ACCEPT until every TASK_RUNNING is
//! acknowledged, and from TEARDOWN until no cgroup of a container is left.
//! The floor in the same run: as many spawns of the same command by one process.

#[path = "../support/cluster.rs"]
mod cluster;
#[path = "figures.rs"]
mod figures;
#[path = "../support/framework.rs"]
mod framework;
#[path = "../support/mod.rs"]
mod support;

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use cluster::{Cluster, Options};
use figures::figure;
use framework::{Framework, command};
use serde_json::Value;

const TASKS: usize = 1000;
const COMMAND: &str = "exec sleep 100000";

#[tokio::main(flavor = "current_thread")]
async fn main() {
    require!(root, cgroup);
    let options = Options::default()
        .agent(&["--resources=cpus:1000;mem:1000000;disk:10000;ports:[31000-32000]"]);
    let mut cluster = Cluster::start("bench-tasks", options);
    let mut framework = Framework::subscribe(&cluster.master, "bench").await;
    let tasks: Vec<Value> = (0..TASKS).map(|i| command(&format!("t{i}"), COMMAND, 32.0)).collect();
    let offer = framework.offer().await;

    let start = Instant::now();
    let reply = framework.accept(&offer, tasks).await;
    assert!(reply.status.is_success(), "{}", reply.text());
    let mut running = 0;
    let by = tokio::time::Instant::now() + Duration::from_secs(300);
    while running < TASKS {
        let event = framework.next(by).await.expect("all tasks run within 300 s");
        let status = &event["update"]["status"];
        match status["state"].as_str() {
            Some("TASK_RUNNING") => running += 1,
            Some("TASK_STARTING") | None => {}
            Some(_) => panic!("a task does not run: {status}"),
        }
    }
    let launch = start.elapsed();

    let start = Instant::now();
    framework.call("TEARDOWN", Value::Null).await;
    while cluster.cgroups().iter().any(|root| root.tree().len() > 1) {
        assert!(start.elapsed() < Duration::from_secs(120), "containers are left");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let destroy = start.elapsed();
    let left = cluster.stop();
    assert!(left.is_empty(), "left behind: {left:?}");
    let floor = floor();

    let per_s = |t: Duration| TASKS as f64 / t.as_secs_f64();
    println!("{TASKS} command tasks on one agent");
    println!("  launch   {:>8.1}/s   (bare spawn {:.1}/s)", per_s(launch), per_s(floor));
    println!("  destroy  {:>8.1}/s", per_s(destroy));
    figure("tasks.launch_per_s", per_s(launch));
    figure("tasks.destroy_per_s", per_s(destroy));
    figure("tasks.spawn_floor_per_s", per_s(floor));
}

/// Spawns the same command as often, one after the other.
fn floor() -> Duration {
    let start = Instant::now();
    let mut children: Vec<_> = (0..TASKS)
        .map(|_| {
            let mut shell = Command::new("/bin/sh");
            shell.args(["-c", COMMAND]).stdin(Stdio::null());
            shell.spawn().expect("spawn a shell")
        })
        .collect();
    let elapsed = start.elapsed();
    for child in &mut children {
        let _ = child.kill();
        let _ = child.wait();
    }
    elapsed
}
