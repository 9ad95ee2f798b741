//! `make bench SCENARIO=statistics`: what figures of 1,000 containers cost.
//!
//! The sweep by itself: cpu time of one pass over all containers, in this process.
//! The endpoint: how long `/monitor/statistics` of a real agent takes, with the
//! reader coming both faster and slower than samples are renewed.

#[path = "../support/cluster.rs"]
mod cluster;
#[path = "figures.rs"]
mod figures;
#[path = "../support/framework.rs"]
mod framework;
#[path = "ground.rs"]
mod ground;
#[path = "../support/mod.rs"]
mod support;

use std::time::{Duration, Instant};

use bulkhead::containerizer::Containerizer;
use bulkhead::containerizer::native::{Config, Native};
use cluster::{Cluster, Options};
use figures::{figure, quantile};
use framework::{Framework, command};
use ground::{cpu_ms, id, request};
use mesos::ContainerId;
use serde_json::Value;
use support::TempDir;

const CONTAINERS: usize = 1000;
const SWEEPS: u32 = 20;
const READS: usize = 200;
const ISOLATION: &str = "cgroups/cpu,cgroups/mem,cgroups/pids,namespaces/pid,filesystem/linux";

fn main() {
    require!(root, cgroup);
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    runtime.block_on(async {
        sweep().await;
        endpoint().await;
    });
}

async fn sweep() {
    let dir = TempDir::new("bench-sweep");
    let root = format!("bulkhead-bench-{}", std::process::id());
    let native = Native::new(Config {
        isolation: ISOLATION.into(),
        runtime_dir: dir.path().join("runtime"),
        isolators: isolators::config::Config { cgroups_root: root.clone(), ..Default::default() },
        statistics_age: Duration::ZERO,
        ..Config::default()
    })
    .expect("a containerizer");
    let ids: Vec<ContainerId> = (0..CONTAINERS).map(|n| id(&format!("c{n}"))).collect();
    let start = Instant::now();
    for id in &ids {
        native.launch(request(id, dir.path(), "exec sleep 100000")).await.expect("launch");
    }
    let launched = start.elapsed();
    // The first pass opens the files.
    assert_eq!(native.statistics().await.len(), CONTAINERS);
    let before = cpu_ms();
    for _ in 0..SWEEPS {
        native.statistics().await;
    }
    let cost = (cpu_ms() - before) / f64::from(SWEEPS);
    let start = Instant::now();
    for id in &ids {
        native.destroy(id, None).await;
        native.forget(id).await;
    }
    println!("statistics, {CONTAINERS} containers");
    println!("  launched, one by one   {:>8.2} s", launched.as_secs_f64());
    println!("  cpu of one sweep       {cost:>8.2} ms");
    println!("  destroyed, one by one  {:>8.2} s", start.elapsed().as_secs_f64());
    figure("statistics.sweep_cpu_ms", cost);
    ground::remove_cgroups(&root);
}

async fn endpoint() {
    let isolation = format!("--isolation={ISOLATION}");
    let options = Options::default()
        .agent(&["--resources=cpus:1000;mem:1000000;disk:10000;ports:[31000-32000]", &isolation]);
    let mut cluster = Cluster::start("bench-statistics", options);
    let mut framework = Framework::subscribe(&cluster.master, "bench").await;
    let names: Vec<String> = (0..CONTAINERS).map(|n| format!("t{n}")).collect();
    let tasks = names.iter().map(|n| command(n, "exec sleep 100000", 32.0)).collect();
    framework.launch(tasks).await;
    framework
        .until("all tasks to run", 300, |f| {
            names.iter().all(|n| f.state(n) == Some("TASK_RUNNING"))
        })
        .await;
    let mut taken = Vec::with_capacity(READS);
    for read in 0..READS {
        let start = Instant::now();
        let body = cluster::get(&cluster.agent, "/monitor/statistics").expect("an answer");
        taken.push(start.elapsed().as_secs_f64() * 1000.0);
        assert!(body.contains("mem_rss_bytes"));
        // Every fourth waits until the sample is too old.
        let pause = if read % 4 == 3 { 1100 } else { 20 };
        tokio::time::sleep(Duration::from_millis(pause)).await;
    }
    let mut at = |share| quantile(&mut taken, share);
    println!(
        "  /monitor/statistics    p50 {:.1} ms, p90 {:.1} ms, p99 {:.1} ms",
        at(0.5),
        at(0.9),
        at(0.99)
    );
    figure("statistics.p99_ms", at(0.99));
    framework.call("TEARDOWN", Value::Null).await;
    cluster.stop();
}
