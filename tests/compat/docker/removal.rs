//! What is kept of ended containers, what is removed, and what is left alone.

use serde_json::json;

use super::scene::{cluster, container, docker_task, eventually};
use crate::cluster::get;
use crate::dockerd::{Dockerd, IMAGE, Network};
use crate::framework::Framework;
use crate::require;

const KEEP: usize = 5;
/// Tasks that crash, before and after the engine and the agent were killed.
const CRASHES: usize = 12;

async fn crash(framework: &mut Framework, round: usize) {
    let names: Vec<String> = (0..CRASHES).map(|i| format!("crash-{round}-{i}")).collect();
    let line = "echo last words; exit 9";
    framework.launch(names.iter().map(|name| docker_task(name, line)).collect()).await;
    framework.until("the crashes", 120, |f| names.iter().all(|name| f.end(name).is_some())).await;
}

#[tokio::test]
async fn a_crash_loop_leaves_the_last_few_and_others_are_left_alone() {
    require!(root, cgroup, busybox, docker);
    let mut engine = Dockerd::start("crash", Network::Host);
    // Somebody else's: by hand, and by Mesos' own agent.
    let body = json!({ "Image": IMAGE, "Cmd": ["true"], "HostConfig": { "NetworkMode": "none" } });
    for name in ["by-hand", "mesos-11111111-2222-3333-4444-555555555555"] {
        let (status, answer) =
            engine.api("POST", &format!("/containers/create?name={name}"), Some(&body));
        assert_eq!(status, 201, "{answer}");
    }
    let mut cluster = cluster("docker-crash", &engine, &[&format!("--docker_keep_exited={KEEP}")]);
    let mut framework = Framework::subscribe(&cluster.master, "docker-crash").await;
    crash(&mut framework, 0).await;
    eventually("the first to be removed", || engine.containers().len() == KEEP + 2).await;

    // The engine dies and comes back; a task that ran may end of it, others follow.
    framework.start(docker_task("runs", "sleep 1000")).await;
    engine.kill();
    engine.run();
    crash(&mut framework, 1).await;
    eventually("the count to hold", || engine.containers().len() <= KEEP + 3).await;

    // The agent dies, and what runs meanwhile becomes an orphan of nobody.
    let orphan = json!({ "Image": IMAGE, "Cmd": ["sleep", "1000"],
        "Labels": { "bulkhead.owner": cluster.dir.path().join("agent").canonicalize().expect("a path") },
        "HostConfig": { "NetworkMode": "none" } });
    cluster.kill_agent();
    let (status, answer) =
        engine.api("POST", "/containers/create?name=mesos-orphan", Some(&orphan));
    assert_eq!(status, 201, "{answer}");
    let (status, answer) = engine.api("POST", "/containers/mesos-orphan/start", None);
    assert_eq!(status, 204, "{answer}");
    cluster.start_agent();
    eventually("the orphan to go", || {
        engine.containers().iter().all(|(name, _)| name != "mesos-orphan")
    })
    .await;
    crash(&mut framework, 2).await;
    // In whatever order they ended.
    let last: Vec<String> =
        (0..CRASHES).map(|i| container(&cluster, &format!("crash-2-{i}"))).collect();
    let kept = || engine.containers().iter().filter(|(name, _)| last.contains(name)).count();
    eventually("the count to hold", || engine.containers().len() == KEEP + 2).await;
    assert_eq!(kept(), KEEP, "the last ones are kept: {:?}", engine.containers());
    let all = engine.containers();
    for name in ["by-hand", "mesos-11111111-2222-3333-4444-555555555555"] {
        assert!(all.contains(&(name.to_owned(), "created".to_owned())), "{all:?}");
    }
    let metrics = get(&cluster.agent, "/metrics/snapshot").expect("metrics");
    assert!(metrics.contains("\"containerizer/docker/removed_containers\""), "{metrics}");
}

#[tokio::test]
async fn what_ended_goes_after_its_time() {
    require!(root, cgroup, busybox, docker);
    let engine = Dockerd::start("delay", Network::Host);
    let cluster = cluster("docker-delay", &engine, &["--docker_remove_delay=1secs"]);
    let mut framework = Framework::subscribe(&cluster.master, "docker-delay").await;
    let end = framework.run(docker_task("short", "exit 1"), 60).await;
    assert_eq!(end["state"], "TASK_FAILED");
    let end = framework.run(docker_task("next", "exit 0"), 60).await;
    assert_eq!(end["state"], "TASK_FINISHED");
    eventually("both to be removed", || engine.containers().is_empty()).await;
}
