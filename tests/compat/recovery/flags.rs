//! The flags of recovery: what an agent takes over, what it refuses, what it ends.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::cluster::{Cluster, Options, get};
use crate::framework::{Framework, command, scalar};
use crate::{require, v0};

fn latest(cluster: &Cluster) -> PathBuf {
    let link = cluster.dir.path().join("agent/meta/slaves/latest");
    std::fs::read_link(link).expect("the agent's link")
}

fn wait_exit(cluster: &mut Cluster) -> Option<i32> {
    let by = Instant::now() + Duration::from_secs(60);
    loop {
        if let Some(status) = cluster.agent_ended() {
            return status.code();
        }
        assert!(Instant::now() < by, "the agent goes on\n{}", cluster.logs());
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[tokio::test]
async fn cleanup_ends_everything_and_exits() {
    require!(root, cgroup);
    let mut cluster = Cluster::start("cleanup", Options::default());
    let mut framework = Framework::subscribe(&cluster.master, "cleanup").await;
    framework.start(command("a", "sleep 1000", 32.0)).await;
    framework.start(command("b", "trap '' TERM; while :; do sleep 0.1; done", 32.0)).await;
    cluster.kill_agent();
    cluster.agent_flags(&["--recover=cleanup"]);
    cluster.spawn_agent();
    assert_eq!(wait_exit(&mut cluster), Some(0), "{}", cluster.logs());
    cluster.wait_clean();
}

#[tokio::test]
async fn damaged_checkpoints_stop_a_strict_agent_only() {
    require!(root, cgroup);
    let mut cluster = Cluster::start("strict", Options::default());
    let mut framework = Framework::subscribe(&cluster.master, "strict").await;
    framework.start(command("fine", "sleep 1000", 32.0)).await;
    framework.start(command("torn", "sleep 1000", 32.0)).await;
    cluster.kill_agent();
    let executor = latest(&cluster).join(format!("frameworks/{}/executors/torn", framework.id));
    let run = executor.join("runs/latest/tasks/torn/task.info");
    std::fs::write(&run, [9, 0, 0, 0, 1]).expect("damage");
    cluster.spawn_agent();
    assert_eq!(wait_exit(&mut cluster), Some(1));
    let logs = cluster.logs();
    assert!(logs.contains("task.info' is damaged") && logs.contains("--no-strict"), "{logs}");

    cluster.agent_flags(&["--no-strict"]);
    cluster.start_agent();
    framework.until("the end of the torn one", 60, |f| f.end("torn").is_some()).await;
    assert_eq!(framework.state("fine"), Some("TASK_RUNNING"));
    let metrics: Value =
        serde_json::from_str(&get(&cluster.agent, "/metrics/snapshot").expect("metrics"))
            .expect("JSON");
    assert_eq!(metrics["slave/recovery_errors"].as_f64(), Some(1.0));
}

#[tokio::test]
async fn what_the_agent_is_may_change_as_the_policy_says() {
    require!(root, cgroup);
    let mut cluster = Cluster::start("policy", Options::default());
    let mut framework = Framework::subscribe(&cluster.master, "policy").await;
    framework.start(command("stay", "sleep 1000", 32.0)).await;
    let id = latest(&cluster);
    cluster.kill_agent();
    let more = "--resources=cpus:128;mem:16384;disk:16384;ports:[31000-33000]";
    cluster.agent_flags(&[more]);
    cluster.spawn_agent();
    assert_eq!(wait_exit(&mut cluster), Some(1));
    let logs = cluster.logs();
    assert!(logs.contains("incompatible agent info detected"), "{logs}");
    assert!(logs.contains("meta/slaves/latest"), "it says what to do: {logs}");

    let info = || std::fs::read(id.join("slave.info")).expect("slave.info");
    let before = info();
    cluster.agent_flags(&[more, "--reconfiguration_policy=additive"]);
    cluster.start_agent();
    assert_eq!(latest(&cluster), id);
    // The master knows it first, and only what is written down outlives the agent.
    let by = Instant::now() + Duration::from_secs(60);
    while info() == before {
        assert!(Instant::now() < by, "it is not written\n{}", cluster.logs());
        std::thread::sleep(Duration::from_millis(20));
    }
    let slaves: Value =
        serde_json::from_str(&get(&cluster.master, "/slaves").expect("/slaves")).expect("JSON");
    assert_eq!(slaves["slaves"][0]["resources"]["cpus"].as_f64(), Some(128.0), "{slaves}");
    assert_eq!(framework.state("stay"), Some("TASK_RUNNING"));

    cluster.kill_agent();
    cluster.agent_flags(&["--resources=cpus:64;mem:16384;disk:16384;ports:[31000-33000]"]);
    cluster.spawn_agent();
    assert_eq!(wait_exit(&mut cluster), Some(1), "less is refused");
    assert!(cluster.logs().contains("there is less of resource 'cpus'"), "{}", cluster.logs());
    cluster.agent_flags(&[more]);
    cluster.start_agent();
}

/// After a reboot an agent that changed too much is a new one, wherever it dies
/// while it forgets its old self; what ran under the old id is gone.
#[cfg(debug_assertions)]
#[tokio::test]
async fn after_a_reboot_a_changed_agent_is_a_new_one() {
    require!(root, cgroup);
    let mut cluster = Cluster::start("reboot", Options::default());
    let mut framework = Framework::subscribe(&cluster.master, "reboot").await;
    framework.start(command("old", "sleep 1000", 32.0)).await;
    let old = latest(&cluster);
    cluster.kill_agent();
    let boot_id = cluster.dir.path().join("agent/meta/boot_id");
    cluster.agent_flags(&["--attributes=rack:other"]);
    for point in kernel::failpoint::of("checkpoint.forget_agent.") {
        std::fs::write(&boot_id, "another").expect("the boot id");
        cluster.failpoint = Some(point);
        cluster.spawn_agent();
        wait_exit(&mut cluster);
    }
    cluster.failpoint = None;
    std::fs::write(&boot_id, "another").expect("the boot id");
    cluster.start_agent();
    let by = Instant::now() + Duration::from_secs(60);
    while !cluster.dir.path().join("agent/meta/slaves/latest").exists() || latest(&cluster) == old {
        assert!(Instant::now() < by, "no new id\n{}", cluster.logs());
        std::thread::sleep(Duration::from_millis(20));
    }
    framework.until("the end of the old task", 60, |f| f.end("old").is_some()).await;
    assert_eq!(framework.state("old"), Some("TASK_LOST"), "{:?}", framework.end("old"));
    cluster.wait_clean();
}

#[tokio::test]
async fn an_executor_that_does_not_come_back_is_ended() {
    require!(root, cgroup);
    let options = Options::default().agent(&["--executor_reregistration_timeout=2secs"]);
    let mut cluster = Cluster::start("silent", options);
    let mut framework = Framework::subscribe(&cluster.master, "silent").await;
    let player = v0::start_slow(&cluster.agent, &framework.id, "silent").await;
    let mut task = command("t", "", 32.0);
    task.as_object_mut().expect("an object").remove("command");
    task["executor"] = json!({ "type": "CUSTOM", "executor_id": { "value": "silent" },
        "framework_id": { "value": framework.id }, "command": { "value": "sleep 1000" },
        "resources": [scalar("cpus", 0.1), scalar("mem", 32.0)] });
    framework.start(task).await;
    // The player is no part of the container, which may be yet to start.
    let command = |pid: u32| std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let by = Instant::now() + Duration::from_secs(60);
    while !cluster.executor_pid("silent").is_some_and(|pid| command(pid).ends_with(b"1000\0")) {
        assert!(Instant::now() < by, "the container does not start\n{}", cluster.logs());
        std::thread::sleep(Duration::from_millis(20));
    }
    player.abort();
    cluster.kill_agent();
    cluster.start_agent();
    framework.until("the end", 60, |f| f.end("t").is_some()).await;
    let end = framework.end("t").expect("ended");
    assert_eq!(end["state"], "TASK_GONE", "{end}");
    assert_eq!(end["reason"], "REASON_EXECUTOR_REREGISTRATION_TIMEOUT", "{end}");
    let message = end["message"].as_str().unwrap_or_default();
    assert!(message.starts_with("Executor did not reregister within 2secs"), "{message}");
    cluster.wait_clean();
}
