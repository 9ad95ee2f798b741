//! An engine that is away, hangs or dies: native tasks do not notice, docker tasks
//! are told of, and all goes on when it is back.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::scene::{cluster, container, docker_task, eventually, file};
use crate::cluster::{Cluster, Options, get};
use crate::dockerd::{Dockerd, Network};
use crate::framework::{Framework, command};
use crate::require;

#[tokio::test]
async fn a_hung_engine_delays_nobody_else() {
    require!(root, cgroup, busybox, docker);
    let engine = Dockerd::start("hung", Network::Host);
    let mut cluster = cluster("docker-hung", &engine, &[]);
    let mut framework = Framework::subscribe(&cluster.master, "docker-hung").await;
    let wait = "while [ ! -e /mnt/mesos/sandbox/go ]; do sleep 0.1; done; echo out; exit 4";
    framework.start(docker_task("resumes", wait)).await;
    framework.start(docker_task("killed", "trap '' TERM; while :; do sleep 1; done")).await;
    engine.signal("-STOP");

    // Native tasks come and go as ever, also under a new agent.
    let begun = Instant::now();
    let end = framework.run(command("native", "exit 0", 32.0), 30).await;
    assert_eq!(end["state"], "TASK_FINISHED");
    cluster.kill_agent();
    cluster.start_agent();
    let end = framework.run(command("native-2", "exit 0", 32.0), 30).await;
    assert_eq!(end["state"], "TASK_FINISHED");

    // A kill is carried out without the engine.
    framework.call("KILL", json!({ "task_id": { "value": "killed" } })).await;
    // What happens is to be seen.
    let debug = || -> Value {
        let text = get(&cluster.agent, "/containerizer/debug").expect("it answers");
        serde_json::from_str(&text).expect("JSON")
    };
    eventually("the pending call", || debug()["pending"].to_string().contains("docker::")).await;
    framework.until("the kill", 90, |f| f.end("killed").is_some()).await;
    assert_eq!(framework.state("killed"), Some("TASK_KILLED"), "{:?}", framework.end("killed"));

    // A launch is given up with a clear word.
    let end = framework.run(docker_task("late", "true"), 90).await;
    assert_eq!(end["reason"], "REASON_CONTAINER_LAUNCH_FAILED");
    let message = end["message"].as_str().unwrap_or_default();
    assert!(message.contains("docker does not answer"), "{message}");
    let metrics = get(&cluster.agent, "/metrics/snapshot").expect("metrics");
    assert!(metrics.contains("\"containerizer/docker/engine_answers\":0"), "{metrics}");
    assert!(begun.elapsed() > Duration::from_secs(15), "its calls have deadlines");

    // What ended meanwhile is told when it is back.
    let go = format!("{}/go", super::scene::sandbox(&cluster, "resumes"));
    std::fs::write(go, "").expect("let it end");
    engine.signal("-CONT");
    framework.until("the end", 90, |f| f.end("resumes").is_some()).await;
    let end = framework.end("resumes").expect("it ended");
    assert_eq!(end["message"], "Command exited with status 4", "{end}");
    assert_eq!(file(&cluster, "resumes", "stdout"), "out\n");
    let end = framework.run(docker_task("again", "exit 0"), 60).await;
    assert_eq!(end["state"], "TASK_FINISHED");
}

#[tokio::test]
async fn without_an_engine_native_tasks_run_and_docker_tasks_say_why() {
    require!(root, cgroup);
    let flags = ["--containerizers=docker,mesos", "--docker_socket=/nonexistent/docker.sock"];
    let cluster = Cluster::start("docker-none", Options::default().agent(&flags));
    let mut framework = Framework::subscribe(&cluster.master, "docker-none").await;
    let end = framework.run(command("native", "exit 0", 32.0), 30).await;
    assert_eq!(end["state"], "TASK_FINISHED");
    let end = framework.run(docker_task("docker", "exit 0"), 30).await;
    assert_eq!(end["reason"], "REASON_CONTAINER_LAUNCH_FAILED");
    let message = end["message"].as_str().unwrap_or_default();
    assert!(message.contains("failed to connect to /nonexistent/docker.sock"), "{message}");
}

/// As when the engine is upgraded: nobody is told, and its output goes on.
#[tokio::test]
async fn an_engine_that_lets_containers_live_is_replaced_under_them() {
    require!(root, cgroup, busybox, docker);
    let mut engine = Dockerd::start_restoring("restoring");
    let cluster = cluster("docker-restoring", &engine, &[]);
    let mut framework = Framework::subscribe(&cluster.master, "docker-restoring").await;
    let line = "i=0; while [ ! -e /mnt/mesos/sandbox/go ]; do i=$((i+1)); echo $i; sleep 0.05; \
                done; echo last; exit 4";
    framework.start(docker_task("stays", line)).await;
    let before = framework.statuses["stays"].len();
    let lines = || file(&cluster, "stays", "stdout").lines().count();
    for _ in 0..2 {
        let seen = lines();
        eventually("output", || lines() > seen + 10).await;
        engine.kill();
        engine.run();
    }
    let seen = lines();
    eventually("output", || lines() > seen + 10).await;
    assert_eq!(framework.statuses["stays"].len(), before, "{:?}", framework.statuses["stays"]);
    let go = format!("{}/go", super::scene::sandbox(&cluster, "stays"));
    std::fs::write(go, "").expect("let it end");
    framework.until("the end", 90, |f| f.end("stays").is_some()).await;
    let end = framework.end("stays").expect("it ended");
    assert_eq!(end["message"], "Command exited with status 4", "{end}");
    // Exactly what the engine has of it, which may have died with a line in its hands.
    let path = format!("/containers/{}/json", container(&cluster, "stays"));
    let (_, inspected) = engine.api("GET", &path, None);
    let log = std::fs::read_to_string(inspected["LogPath"].as_str().expect("a path"));
    let entry = |line: &str| -> Value { serde_json::from_str(line).expect("JSON") };
    let logged = log.expect("the engine's log").lines().map(entry).collect::<Vec<_>>();
    let logged: String = logged.iter().filter_map(|entry| entry["log"].as_str()).collect();
    assert_eq!(file(&cluster, "stays", "stdout"), logged);
    assert!(logged.ends_with("\nlast\n"), "{logged}");
}
