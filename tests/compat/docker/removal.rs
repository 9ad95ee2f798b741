//! What is kept of ended containers, what is removed, and what is left alone.

use std::path::Path;

use serde_json::{Value, json};

use super::scene::{cluster, container, docker_task, eventually, file};
use crate::cluster::{Cluster, get};
use crate::dockerd::{Dockerd, IMAGE, Network};
use crate::framework::{Framework, offered};
use crate::require;

const KEEP: usize = 8;
const KEEP_PER_TASK: usize = 5;
/// Tasks that run at once.
const BATCH: usize = 15;

/// Abnormal ends in all; `make soak` has 1,000.
fn crashes() -> usize {
    let given = std::env::var("BULKHEAD_CRASHES").ok();
    given.and_then(|text| text.parse().ok()).unwrap_or(150)
}

/// One task name, as of a scheduler that tries again, and a new id each time.
fn crashing(id: &str) -> Value {
    let mut task = docker_task(id, "seq 1 200; echo last words of $MESOS_CONTAINER_NAME; exit 9");
    task["name"] = "crashes".into();
    task
}

/// Lets that many tasks crash, in batches; the ids of the last batch.
async fn crash(framework: &mut Framework, round: &str, count: usize) -> Vec<String> {
    let ids: Vec<String> = (0..count).map(|i| format!("{round}-{i}")).collect();
    for ids in ids.chunks(BATCH) {
        launch(framework, ids).await;
        framework.until("the crashes", 120, |f| ids.iter().all(|id| f.end(id).is_some())).await;
        for id in ids {
            let end = framework.end(id).expect("it ended");
            assert_eq!(end["message"], "Command exited with status 9", "{id}: {end}");
        }
    }
    ids.chunks(BATCH).last().map(<[String]>::to_vec).unwrap_or_default()
}

/// Launches them on one offer that has room for all.
async fn launch(framework: &mut Framework, ids: &[String]) {
    loop {
        let offer = framework.offer().await;
        if offered(&offer, "cpus") < 2.0 {
            framework.decline(&offer).await;
            continue;
        }
        let reply = framework.accept(&offer, ids.iter().map(|id| crashing(id)).collect()).await;
        assert_eq!(reply.status.as_u16(), 202, "{}", reply.text());
        return;
    }
}

/// Bytes below a directory.
fn bytes(path: &Path) -> u64 {
    let entries = std::fs::read_dir(path).into_iter().flatten().flatten();
    let size = |entry: std::fs::DirEntry| match entry.file_type() {
        Ok(kind) if kind.is_dir() => bytes(&entry.path()),
        _ => entry.metadata().map_or(0, |metadata| metadata.len()),
    };
    entries.map(size).sum()
}

/// A running container of the agent's that it knows nothing of.
fn orphan(engine: &Dockerd, cluster: &Cluster) {
    let owner = cluster.dir.path().join("agent").canonicalize().expect("a path");
    let body = json!({ "Image": IMAGE, "Cmd": ["sleep", "1000"],
        "Labels": { "bulkhead.owner": owner }, "HostConfig": { "NetworkMode": "none" } });
    let path = "/containers/create?name=mesos-orphan";
    let (status, answer) = engine.api("POST", path, Some(&body));
    assert_eq!(status, 201, "{answer}");
    let (status, answer) = engine.api("POST", "/containers/mesos-orphan/start", None);
    assert_eq!(status, 204, "{answer}");
}

#[tokio::test]
async fn a_crash_loop_leaves_the_last_few_and_others_are_left_alone() {
    require!(root, cgroup, busybox, docker);
    let mut engine = Dockerd::start("crash", Network::Host);
    let count = crashes();
    // Somebody else's: by hand, and by Mesos' own agent.
    let body = json!({ "Image": IMAGE, "Cmd": ["true"], "HostConfig": { "NetworkMode": "none" } });
    let foreign = ["by-hand", "mesos-11111111-2222-3333-4444-555555555555"];
    for name in foreign {
        let (status, answer) =
            engine.api("POST", &format!("/containers/create?name={name}"), Some(&body));
        assert_eq!(status, 201, "{answer}");
    }
    // An engine that is restarted writes some of what is empty in another way.
    engine.kill();
    engine.run();
    let theirs = |engine: &Dockerd| -> Vec<Value> {
        let paths = foreign.map(|name| format!("/containers/{name}/json"));
        let image = format!("/images/{IMAGE}/json");
        paths.iter().chain([&image]).map(|path| engine.api("GET", path, None).1).collect()
    };
    let before = theirs(&engine);
    let flags = [
        &format!("--docker_keep_exited={KEEP}"),
        &format!("--docker_keep_exited_per_task={KEEP_PER_TASK}"),
    ];
    let mut cluster = cluster("docker-crash", &engine, &flags.map(String::as_str));
    let mut framework = Framework::subscribe(&cluster.master, "docker-crash").await;
    // The end of another task is not displaced.
    framework.run(docker_task("other", "echo other; exit 1"), 60).await;
    let other = container(&cluster, "other");
    crash(&mut framework, "first", count / 3).await;
    let settled = foreign.len() + 1 + KEEP_PER_TASK;
    eventually("the first to be removed", || engine.containers().len() == settled).await;
    let room = bytes(&engine.data());

    // The engine dies among them and comes back: what ends of it ends, others follow.
    let dying: Vec<String> = (0..BATCH).map(|i| format!("dying-{i}")).collect();
    launch(&mut framework, &dying).await;
    framework.until("the first of them", 60, |f| f.end(&dying[0]).is_some()).await;
    engine.kill();
    engine.run();
    framework.until("the rest", 120, |f| dying.iter().all(|id| f.end(id).is_some())).await;
    crash(&mut framework, "second", count / 3).await;
    eventually("the count to hold", || engine.containers().len() == settled).await;

    // The agent dies among them, and what runs meanwhile becomes an orphan of nobody.
    let dying: Vec<String> = (0..BATCH).map(|i| format!("orphaned-{i}")).collect();
    launch(&mut framework, &dying).await;
    framework.until("the first of them", 60, |f| f.end(&dying[0]).is_some()).await;
    cluster.kill_agent();
    orphan(&engine, &cluster);
    cluster.start_agent();
    framework.until("the rest", 120, |f| dying.iter().all(|id| f.end(id).is_some())).await;
    let last = crash(&mut framework, "third", count - count / 3 * 2).await;
    eventually("the count to hold", || engine.containers().len() == settled).await;

    // Bounded, and of those that are kept and of those that are not there is a record.
    let now = bytes(&engine.data());
    assert!(now < room + (16 << 20), "{room} bytes grew to {now}");
    let kept: Vec<String> = engine.containers().into_iter().map(|(name, _)| name).collect();
    assert!(kept.contains(&other), "{kept:?}");
    let mut of_last = 0;
    for id in &last {
        let name = container(&cluster, id);
        let said = file(&cluster, id, "stdout");
        assert!(said.ends_with(&format!("200\nlast words of {name}\n")), "{id}: {said}");
        let evidence: Value =
            serde_json::from_str(&file(&cluster, id, "docker-inspect.json")).expect("JSON");
        assert_eq!(evidence["State"]["ExitCode"], 9);
        of_last += usize::from(kept.contains(&name));
    }
    // In whatever order they ended.
    let expected = KEEP_PER_TASK.min(last.len());
    assert_eq!(of_last, expected, "the last ones are kept: {kept:?}");
    assert_eq!(theirs(&engine), before, "what is others' is as it was");
    let metrics = get(&cluster.agent, "/metrics/snapshot").expect("metrics");
    assert!(metrics.contains("\"containerizer/docker/removed_containers\""), "{metrics}");

    // When nothing is to be kept, nothing of ours is left anywhere.
    cluster.kill_agent();
    cluster.agent_flags(&["--docker_keep_exited=0"]);
    cluster.start_agent();
    eventually("ours to go", || engine.containers().len() == foreign.len()).await;
    let runtime = cluster.dir.path().join("run/docker/containers");
    let left = || std::fs::read_dir(&runtime).into_iter().flatten().flatten().count();
    eventually("the runtime directories to go", || left() == 0).await;
    assert_eq!(theirs(&engine), before, "what is others' is as it was");
}

#[tokio::test]
async fn what_ended_goes_after_its_time() {
    require!(root, cgroup, busybox, docker);
    let engine = Dockerd::start("delay", Network::Host);
    engine.import("with-volume", "latest", "VOLUME /data");
    let cluster = cluster("docker-delay", &engine, &["--docker_remove_delay=1secs"]);
    let mut framework = Framework::subscribe(&cluster.master, "docker-delay").await;
    let end = framework.run(docker_task("short", "exit 1"), 60).await;
    assert_eq!(end["state"], "TASK_FAILED");
    let end = framework.run(docker_task("next", "exit 0"), 60).await;
    assert_eq!(end["state"], "TASK_FINISHED");
    let mut writes = docker_task("writes", "echo x >/data/x; exit 1");
    writes["container"]["docker"]["image"] = "with-volume".into();
    let end = framework.run(writes, 60).await;
    assert_eq!(end["state"], "TASK_FAILED");
    eventually("all to be removed", || engine.containers().is_empty()).await;
    let (_, left) = engine.api("GET", "/volumes", None);
    assert!(left["Volumes"].as_array().is_none_or(Vec::is_empty), "{left}");
}

/// On a full disk those that finished go at once; those that failed stay for whoever
/// looks for the fault.
#[tokio::test]
async fn a_full_disk_of_the_engine_takes_what_finished_first() {
    require!(root, cgroup, busybox, docker);
    let engine = Dockerd::start_small("pressure", 256);
    let cluster = cluster("docker-pressure", &engine, &[]);
    let mut framework = Framework::subscribe(&cluster.master, "docker-pressure").await;
    let wait = "while [ ! -e /mnt/mesos/sandbox/go ]; do sleep 0.1; done; exit 2";
    framework.start(docker_task("waits", wait)).await;
    for (task, line, state) in
        [("fine", "exit 0", "TASK_FINISHED"), ("failed", "exit 1", "TASK_FAILED")]
    {
        let end = framework.run(docker_task(task, line), 60).await;
        assert_eq!(end["state"], state, "{end}");
    }
    let names = ["waits", "fine", "failed"].map(|task| container(&cluster, task));
    let there = |engine: &Dockerd| -> Vec<bool> {
        let all: Vec<String> = engine.containers().into_iter().map(|(name, _)| name).collect();
        names.iter().map(|name| all.contains(name)).collect()
    };
    assert_eq!(there(&engine), [true; 3]);
    // All but a twentieth, by somebody else.
    let space = kernel::machine::space(&engine.data()).expect("its disk");
    let size = space.available - space.total / 20;
    let zeros = vec![0; usize::try_from(size).expect("it fits")];
    std::fs::write(engine.data().join("others"), zeros).expect("fill the disk");
    let go = format!("{}/go", super::scene::sandbox(&cluster, "waits"));
    std::fs::write(go, "").expect("let it end");
    framework.until("the end", 60, |f| f.end("waits").is_some()).await;
    eventually("the finished one to go", || there(&engine) == [true, false, true]).await;
}
