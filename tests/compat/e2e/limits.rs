//! Limits hold: cpu, memory, processes. What is measured is read from the
//! kernel, not from our own statistics; those are compared with it.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::cluster::{Cluster, Options, get};
use crate::framework::{Framework, command};
use crate::require;

/// A cgroup file of the container, from whichever hierarchy has it.
fn knob(cluster: &Cluster, container: &str, names: &[&str]) -> Option<String> {
    cluster.cgroups().iter().find_map(|root| {
        let dir = root.path().join(container);
        names.iter().find_map(|name| std::fs::read_to_string(dir.join(name)).ok())
    })
}

/// CPU seconds of the container as the kernel counts them.
fn cpu_seconds(cluster: &Cluster, container: &str) -> f64 {
    if let Some(nanoseconds) = knob(cluster, container, &["cpuacct.usage"]) {
        return nanoseconds.trim().parse::<f64>().expect("a number") / 1e9;
    }
    let text = knob(cluster, container, &["cpu.stat"]).expect("cpu accounting of the container");
    let line = text.lines().find_map(|l| l.strip_prefix("usage_usec ")).expect("usage_usec");
    line.parse::<f64>().expect("a number") / 1e6
}

fn statistics(cluster: &Cluster, executor: &str) -> Value {
    let text = get(&cluster.agent, "/monitor/statistics").expect("statistics");
    let all: Value = serde_json::from_str(&text).expect("JSON");
    let mine = all.as_array().into_iter().flatten().find(|e| e["executor_id"] == executor);
    mine.expect("an entry of the executor")["statistics"].clone()
}

#[tokio::test]
async fn half_a_cpu_is_half_a_cpu() {
    require!(root, cgroup);
    // Mesos shows throttling only with this flag; the limit holds without it.
    let options = Options::default().agent(&["--cgroups_enable_cfs"]);
    let cluster = Cluster::start("cpu", options);
    // The quota is under test, not who else is busy on this machine.
    for root in cluster.cgroups() {
        for (knob, most) in [("cpu.shares", "262144"), ("cpu.weight", "10000")] {
            if root.path().join(knob).exists() {
                std::fs::write(root.path().join(knob), most).expect("a weight");
            }
        }
    }
    let mut framework = Framework::subscribe(&cluster.master, "cpu").await;
    let mut task = command("burn", "while :; do :; done", 32.0);
    task["limits"] = json!({ "cpus": { "value": 0.5 } });
    let container = framework.start(task).await;
    tokio::time::sleep(Duration::from_secs(1)).await;

    let (start, used, before) =
        (Instant::now(), cpu_seconds(&cluster, &container), statistics(&cluster, "burn"));
    tokio::time::sleep(Duration::from_secs(10)).await;
    let rate = (cpu_seconds(&cluster, &container) - used) / start.elapsed().as_secs_f64();
    let after = statistics(&cluster, "burn");
    assert!((0.475..=0.525).contains(&rate), "used {rate:.3} cpus of 0.5");

    let figure = |s: &Value, name: &str| s[name].as_f64().unwrap_or(0.0);
    let cpu = |s: &Value| figure(s, "cpus_user_time_secs") + figure(s, "cpus_system_time_secs");
    let time = figure(&after, "timestamp") - figure(&before, "timestamp");
    let told = (cpu(&after) - cpu(&before)) / time;
    assert!((told - rate).abs() < 0.08, "statistics say {told:.3}, the kernel {rate:.3}");
    assert!(figure(&after, "cpus_nr_throttled") > 0.0, "{after}");
    framework.call("TEARDOWN", Value::Null).await;
}

#[tokio::test]
async fn a_64_mb_task_dies_at_64_mb() {
    require!(root, cgroup);
    let cluster = Cluster::start("oom", Options::default());
    let mut framework = Framework::subscribe(&cluster.master, "oom").await;

    let below =
        framework.run(command("below", "head -c 30m /dev/zero | tail >/dev/null", 64.0), 60);
    assert_eq!(below.await["state"], "TASK_FINISHED");

    let end = framework.run(command("above", "head -c 200m /dev/zero | tail >/dev/null", 64.0), 60);
    let end = end.await;
    assert_eq!(end["state"], "TASK_FAILED", "{end}");
    assert_eq!(end["reason"], "REASON_CONTAINER_LIMITATION_MEMORY", "{end}");
    let message = end["message"].as_str().unwrap_or("");
    assert!(message.contains("Memory limit exceeded") && message.contains("64"), "{message}");
    let limited = &end["limitation"]["resources"][0]["name"];
    assert_eq!(limited, "mem", "{end}");
}

#[tokio::test]
async fn a_fork_bomb_stops_at_its_limit() {
    require!(root, cgroup);
    let options = Options::default().agent(&["--cgroups_pids_limit=64"]);
    let cluster = Cluster::start("pids", options);
    let mut framework = Framework::subscribe(&cluster.master, "pids").await;
    // Bounded, so that a limit that does not hold fails the test and not the machine.
    let bomb = "(for i in $(seq 300); do sleep 60 & done) 2>/dev/null; exec sleep 60";
    let container = framework.start(command("bomb", bomb, 64.0)).await;
    // The kernel counts the forks it refused; none is refused below the limit.
    let by = Instant::now() + Duration::from_secs(20);
    let (mut most, mut refused) = (0, 0);
    while Instant::now() < by && refused == 0 {
        let text = knob(&cluster, &container, &["pids.current"]).unwrap_or_default();
        most = most.max(text.trim().parse::<u64>().unwrap_or(0));
        let events = knob(&cluster, &container, &["pids.events"]).unwrap_or_default();
        refused = events
            .lines()
            .find_map(|l| l.strip_prefix("max ")?.trim().parse::<u64>().ok())
            .unwrap_or(0);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let limit = knob(&cluster, &container, &["pids.max"]).unwrap_or_default();
    assert_eq!(limit.trim(), "64", "pids.max");
    assert!(refused > 0, "no fork was refused; most processes seen: {most}");
    assert!(most <= 64, "{most} processes, limit 64");
    framework.call("KILL", json!({ "task_id": { "value": "bomb" } })).await;
    framework.until("the kill", 30, |f| f.end("bomb").is_some()).await;
    assert_eq!(framework.state("bomb"), Some("TASK_KILLED"));
}

#[tokio::test]
async fn nothing_is_left_behind() {
    require!(root, cgroup);
    let mut cluster = Cluster::start("left", Options::default());
    let mounts = || std::fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    let before = mounts();
    let mut framework = Framework::subscribe(&cluster.master, "left").await;
    for name in ["a", "b", "c"] {
        let end = framework.run(command(name, "sleep 300 & echo done", 32.0), 30).await;
        assert_eq!(end["state"], "TASK_FINISHED", "{end}");
    }
    let by = Instant::now() + Duration::from_secs(10);
    let children = |c: &Cluster| {
        c.cgroups().iter().map(|g| g.children().map_or(0, |l| l.len())).sum::<usize>()
    };
    while children(&cluster) > 0 && Instant::now() < by {
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert_eq!(children(&cluster), 0, "cgroups of ended containers");
    assert_eq!(mounts(), before, "mounts in the host's namespace");
    framework.call("TEARDOWN", Value::Null).await;
    assert_eq!(cluster.stop(), Vec::<String>::new());
}
