//! An engine that is away, hangs or dies: native tasks do not notice, docker tasks
//! are told of, and all goes on when it is back.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::scene::{cluster, container, docker_task, eventually, file};
use crate::cluster::{Cluster, Options, get};
use crate::dockerd::{Dockerd, Network};
use crate::framework::{Framework, command};
use crate::require;

/// How long the engine hangs.
const HANG: Duration = Duration::from_secs(60);
/// Any call to a hung engine takes longer than this: what takes less waited for none.
const UNTOUCHED: Duration = Duration::from_secs(15);

/// Native tasks run to their end and are killed as ever.
async fn native_tasks_come_and_go(framework: &mut Framework, round: &str) {
    let begun = Instant::now();
    let (ends, stays) = (format!("ends-{round}"), format!("stays-{round}"));
    let end = framework.run(command(&ends, "exit 0", 32.0), 60).await;
    assert_eq!(end["state"], "TASK_FINISHED", "{end}");
    framework.start(command(&stays, "exec sleep 1000", 32.0)).await;
    framework.call("KILL", json!({ "task_id": { "value": stays } })).await;
    framework.until("the kill", 60, |f| f.end(&stays).is_some()).await;
    assert_eq!(framework.state(&stays), Some("TASK_KILLED"), "{:?}", framework.end(&stays));
    assert!(begun.elapsed() < UNTOUCHED, "{round} took {:?}", begun.elapsed());
}

/// A member of the agent's /metrics/snapshot.
fn metric(cluster: &Cluster, name: &str) -> f64 {
    let metrics = get(&cluster.agent, "/metrics/snapshot").expect("metrics");
    let metrics: Value = serde_json::from_str(&metrics).expect("JSON");
    metrics[name].as_f64().unwrap_or_else(|| panic!("no {name} in {metrics}"))
}

#[tokio::test]
async fn a_hung_engine_delays_nobody_else() {
    const ANSWERS: &str = "containerizer/docker/engine_answers";
    const MARK: &str = "echo ran >>/mnt/mesos/sandbox/ran";
    require!(root, cgroup, busybox, docker);
    let engine = Dockerd::start("hung", Network::Host);
    let mut cluster = cluster("docker-hung", &engine, &[]);
    let mut framework = Framework::subscribe(&cluster.master, "docker-hung").await;
    let wait = "while [ ! -e /mnt/mesos/sandbox/go ]; do sleep 0.1; done; echo out; exit 4";
    framework.start(docker_task("resumes", wait)).await;
    let talk = "trap '' TERM; while [ ! -e /mnt/mesos/sandbox/go ]; do sleep 0.1; done; \
                echo word; echo done >/mnt/mesos/sandbox/said; while :; do sleep 1; done";
    framework.start(docker_task("killed", talk)).await;
    let go = |cluster: &Cluster, name: &str| {
        let go = format!("{}/go", super::scene::sandbox(cluster, name));
        std::fs::write(go, "").expect("let it go on");
    };
    let begun = Instant::now();
    engine.signal("-STOP");

    // Native tasks come and go as ever, also under a new agent.
    native_tasks_come_and_go(&mut framework, "before").await;
    cluster.kill_agent();
    cluster.start_agent();
    native_tasks_come_and_go(&mut framework, "after").await;

    // A kill is carried out without the engine.
    go(&cluster, "killed");
    eventually("its word", || file(&cluster, "killed", "said") == "done\n").await;
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
    framework.launch(vec![docker_task("late", MARK)]).await;
    native_tasks_come_and_go(&mut framework, "beside").await;
    framework.until("the launch to fail", 90, |f| f.end("late").is_some()).await;
    let end = framework.end("late").expect("it ended");
    assert_eq!(end["reason"], "REASON_CONTAINER_LAUNCH_FAILED");
    let message = end["message"].as_str().unwrap_or_default();
    assert!(message.contains("docker does not answer"), "{message}");
    assert!(metric(&cluster, ANSWERS) == 0.0);
    assert_eq!(framework.state("resumes"), Some("TASK_RUNNING"));

    // One that need not wait too long is launched when it is back, and what ended
    // meanwhile is told then.
    let rest = HANG.saturating_sub(begun.elapsed());
    tokio::time::sleep(rest.saturating_sub(Duration::from_secs(4))).await;
    framework.launch(vec![docker_task("waits", MARK)]).await;
    native_tasks_come_and_go(&mut framework, "still").await;
    go(&cluster, "resumes");
    tokio::time::sleep(HANG.saturating_sub(begun.elapsed())).await;
    assert!(metric(&cluster, ANSWERS) == 0.0);
    engine.signal("-CONT");
    framework.until("the end", 90, |f| f.end("resumes").is_some()).await;
    let end = framework.end("resumes").expect("it ended");
    assert_eq!(end["message"], "Command exited with status 4", "{end}");
    assert_eq!(file(&cluster, "resumes", "stdout"), "out\n");
    framework.until("the other end", 90, |f| f.end("waits").is_some()).await;
    let end = framework.end("waits").expect("it ended").clone();
    let told = end["message"].as_str().unwrap_or_default();
    let finished = end["state"] == "TASK_FINISHED";
    assert!(finished || told.contains("docker does not answer"), "{end}");
    let end = framework.run(docker_task("again", "exit 0"), 60).await;
    assert_eq!(end["state"], "TASK_FINISHED");
    eventually("it to answer", || metric(&cluster, ANSWERS) > 0.0).await;
    native_tasks_come_and_go(&mut framework, "at last").await;

    // Nothing ran twice, or after it was given up; what the engine made of orders that
    // nobody waits for is removed.
    let ran = |name: &str| file(&cluster, name, "ran");
    assert_eq!((ran("late").as_str(), ran("waits").matches("ran").count()), ("", finished.into()));
    let names = ["resumes", "killed", "waits", "again"].map(|name| container(&cluster, name));
    eventually("the rest to go", || {
        let found = engine.containers();
        found.iter().all(|(name, state)| names.contains(name) && state == "exited")
    })
    .await;
    eventually("the last word", || !file(&cluster, "killed", "stdout").is_empty()).await;
    assert_eq!(file(&cluster, "killed", "stdout"), "word\n");
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
