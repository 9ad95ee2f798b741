//! Shims and executors die under the agent, tasks defend themselves against theirs:
//! each ends with the right state and reason, and leaves nothing.

use std::time::Duration;

use serde_json::{Value, json};

use crate::cluster::{Cluster, Options, binary, get};
use crate::framework::{Framework, command, scalar};
use crate::require;

/// The shim of a container: the parent of its first process.
fn shim_of(cluster: &Cluster, container: &str) -> u32 {
    let file = cluster.dir.path().join(format!("run/containers/{container}/pid"));
    let pid = std::fs::read_to_string(file).expect("a pid").trim().parse().expect("a number");
    kernel::proctree::ProcessStat::read(pid).expect("it runs").parent
}

fn kill(pid: u32) {
    kernel::proctree::signal(&[pid], 9);
}

async fn ended(framework: &mut Framework, task: &str) -> Value {
    framework.until(&format!("the end of {task}"), 90, |f| f.end(task).is_some()).await;
    framework.end(task).cloned().expect("ended")
}

const POSIX: &str = "cgroups/cpu,cgroups/mem,cgroups/pids,filesystem/linux";

#[tokio::test]
async fn a_killed_shim_takes_its_container_along() {
    require!(root, cgroup);
    for (name, isolation) in [("shim", None), ("shim-posix", Some(POSIX))] {
        let options = match isolation {
            Some(names) => Options::default().agent(&[&format!("--isolation={names}")]),
            None => Options::default(),
        };
        let mut cluster = Cluster::start(name, options);
        let mut framework = Framework::subscribe(&cluster.master, name).await;
        let forks = "sleep 1000 & setsid sleep 1000 & sleep 1000";
        let container = framework.start(command("here", forks, 32.0)).await;
        kill(shim_of(&cluster, &container));
        let end = ended(&mut framework, "here").await;
        assert_eq!(end["state"], "TASK_FAILED", "{end}");
        assert!(end["message"].as_str().is_some_and(|m| m.contains("Killed")), "{end}");
        // While the agent is away.
        let container = framework.start(command("away", forks, 32.0)).await;
        let shim = shim_of(&cluster, &container);
        cluster.kill_agent();
        kill(shim);
        std::thread::sleep(Duration::from_millis(100));
        cluster.start_agent();
        let end = ended(&mut framework, "away").await;
        assert_eq!(end["state"], "TASK_FAILED", "{end}");
        cluster.wait_clean();
    }
}

#[tokio::test]
async fn a_memory_limit_hit_while_the_agent_is_away_is_seen() {
    require!(root, cgroup);
    let mut cluster = Cluster::start("oom-away", Options::default());
    let mut framework = Framework::subscribe(&cluster.master, "oom-away").await;
    // The shell itself is not killed: its end alone would say that all is well.
    let hog = "echo -1000 >/proc/self/oom_score_adj; until [ -e go ]; do sleep 0.05; done; \
        (echo 0 >/proc/self/oom_score_adj; head -c 64m /dev/zero | tail | wc -c); touch hit";
    framework.start(command("over", hog, 16.0)).await;
    framework.start(command("runs", &format!("{hog}; sleep 1000"), 16.0)).await;
    cluster.kill_agent();
    for task in ["over", "runs"] {
        let sandbox = cluster.sandbox(task);
        std::fs::write(sandbox.join("go"), "").expect("written");
        let by = std::time::Instant::now() + Duration::from_secs(60);
        while !sandbox.join("hit").exists() {
            assert!(std::time::Instant::now() < by, "{task} goes on\n{}", cluster.logs());
            std::thread::sleep(Duration::from_millis(20));
        }
    }
    // The exit of the first one is recorded.
    std::thread::sleep(Duration::from_millis(300));
    cluster.start_agent();
    for task in ["over", "runs"] {
        let end = ended(&mut framework, task).await;
        assert_eq!(end["state"], "TASK_FAILED", "{end}");
        assert_eq!(end["reason"], "REASON_CONTAINER_LIMITATION_MEMORY", "{end}");
    }
    cluster.wait_clean();
}

#[tokio::test]
async fn a_killed_executor_fails_its_tasks() {
    require!(root, cgroup);
    let mut cluster = Cluster::start("executor", Options::default());
    let mut framework = Framework::subscribe(&cluster.master, "executor").await;
    for away in [false, true] {
        let (pod, task) = (format!("pod-{away}"), format!("task-{away}"));
        let offer = framework.offer().await;
        let mut info = command(&task, "sleep 1000", 32.0);
        info["agent_id"] = offer["agent_id"].clone();
        let group = json!({ "type": "LAUNCH_GROUP", "launch_group": {
            "executor": { "type": "DEFAULT", "executor_id": { "value": pod },
                "framework_id": { "value": framework.id },
                "resources": [scalar("cpus", 0.1), scalar("mem", 32.0), scalar("disk", 32.0)] },
            "task_group": { "tasks": [info] } } });
        let body = json!({ "offer_ids": [offer["id"]], "operations": [group],
                           "filters": { "refuse_seconds": 0.1 } });
        assert_eq!(framework.call("ACCEPT", body).await.status.as_u16(), 202);
        let running = |f: &Framework| f.state(&task) == Some("TASK_RUNNING");
        framework.until("the task to run", 60, running).await;
        let list: Value =
            serde_json::from_str(&get(&cluster.agent, "/containers").expect("a list"))
                .expect("JSON");
        let own = list.as_array().into_iter().flatten().find(|c| c["executor_id"] == pod.as_str());
        let pid = own.and_then(|c| c["status"]["executor_pid"].as_u64()).expect("a pid");
        if away {
            cluster.kill_agent();
        }
        kill(u32::try_from(pid).expect("a pid"));
        if away {
            std::thread::sleep(Duration::from_millis(100));
            cluster.start_agent();
        }
        let end = ended(&mut framework, &task).await;
        assert_eq!(end["state"], "TASK_FAILED", "{end}");
        assert_eq!(end["reason"], "REASON_EXECUTOR_TERMINATED", "{end}");
    }
    cluster.wait_clean();
}

/// An executor that never registers, and one that does not hear of shutdowns.
#[tokio::test]
async fn an_executor_that_ignores_everything_is_ended() {
    require!(root, cgroup);
    let options = Options::default().agent(&[
        "--executor_registration_timeout=2secs",
        "--executor_shutdown_grace_period=500ms",
    ]);
    let cluster = Cluster::start("deaf", options);
    let mut framework = Framework::subscribe(&cluster.master, "deaf").await;
    let mut task = command("deaf", "", 32.0);
    task.as_object_mut().expect("an object").remove("command");
    task["executor"] = json!({ "type": "CUSTOM", "executor_id": { "value": "deaf" },
        "framework_id": { "value": framework.id },
        "command": { "value": "trap '' TERM INT HUP; while :; do sleep 0.1; done" },
        "resources": [scalar("cpus", 0.1), scalar("mem", 32.0)] });
    let end = framework.run(task, 90).await;
    assert_eq!(end["state"], "TASK_FAILED", "{end}");
    assert_eq!(end["reason"], "REASON_EXECUTOR_REGISTRATION_TIMEOUT", "{end}");
    assert_eq!(end["message"], "Executor did not register within 2secs", "{end}");
    cluster.wait_clean();
}

#[tokio::test]
async fn zombies_and_ten_thousand_processes_go_with_their_container() {
    require!(root, cgroup);
    let probe = binary("probe");
    if !probe.is_file() {
        return crate::support::skip("zombies_and_ten", "the probe (cargo build -p probe)");
    }
    // Without a pid namespace only the cgroup knows who belongs to the container.
    for (name, isolation) in [
        ("storm", "cgroups/cpu,cgroups/mem,cgroups/pids,namespaces/pid,filesystem/linux"),
        ("storm-posix", POSIX),
    ] {
        let flags = [format!("--isolation={isolation}"), "--cgroups_pids_limit=10000".into()];
        let options = Options::default().agent(&flags.each_ref().map(String::as_str));
        let cluster = Cluster::start(name, options);
        let mut framework = Framework::subscribe(&cluster.master, name).await;
        // A parent that never waits, and one that forks until it may not.
        for (task, what) in [("zombies", "zombies 2000"), ("many", "forkbomb")] {
            let mut info = command(task, &format!("exec {} {what}", probe.display()), 8192.0);
            info["kill_policy"] = json!({ "grace_period": { "nanoseconds": 100_000_000 } });
            framework.start(info).await;
            let status = framework.statuses[task].last().expect("a status").clone();
            let stdout = cluster.dir.path().join(format!(
                "agent/slaves/{}/frameworks/{}/executors/{task}/runs/latest/stdout",
                status["agent_id"]["value"].as_str().expect("an agent"),
                framework.id
            ));
            let full = || std::fs::read_to_string(&stdout).is_ok_and(|text| text.contains('\n'));
            framework.until("it to be full", 120, |f| full() || f.end(task).is_some()).await;
            assert!(framework.end(task).is_none(), "{:?}", framework.end(task));
            framework.call("KILL", json!({ "task_id": { "value": task } })).await;
            let end = ended(&mut framework, task).await;
            assert_eq!(end["state"], "TASK_KILLED", "{end}");
        }
        cluster.wait_clean();
    }
}
