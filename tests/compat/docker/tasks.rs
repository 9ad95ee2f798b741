//! Command tasks in Docker: output, results, kills, checks, statistics, beside tasks
//! of the native containerizer; and the agent's death.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bulkhead::containerizer::docker::{Config, Docker};
use bulkhead::containerizer::{Containerizer, LaunchRequest};
use serde_json::{Value, json};

use super::scene::{cluster, container, deaf, docker_task, eventually, file, sandbox};
use crate::cluster::{Cluster, binary, get};
use crate::dockerd::{Dockerd, IMAGE, Network};
use crate::framework::{Framework, command};
use crate::require;
use crate::support::TempDir;

/// Lines that a task says before it dies.
const LINES: usize = 20_000;

fn lines() -> String {
    (1..=LINES).map(|n| format!("{n}\n")).collect()
}

#[tokio::test]
async fn command_tasks_need_no_executor_and_lose_no_output() {
    require!(root, cgroup, busybox, docker);
    let engine = Dockerd::start("tasks", Network::Host);
    let cluster = cluster("docker-tasks", &engine, &[]);
    let mut framework = Framework::subscribe(&cluster.master, "docker-tasks").await;

    let line = "cd $MESOS_SANDBOX; env; echo err >&2; cat data/hostname; echo hi > file";
    let mut hello = docker_task("hello", line);
    hello["command"]["environment"] = json!({ "variables": [{ "name": "A", "value": "b c" }] });
    hello["container"]["volumes"] =
        json!([{ "mode": "RO", "container_path": "data", "host_path": "/etc" }]);
    hello["container"]["docker"]["network"] = "NONE".into();
    let end = framework.run(hello, 60).await;
    assert_eq!(end["state"], "TASK_FINISHED", "{end}");
    let stdout = file(&cluster, "hello", "stdout");
    for wanted in ["A=b c\n", "MESOS_SANDBOX=/mnt/mesos/sandbox\n", "MESOS_CONTAINER_NAME=mesos-"] {
        assert!(stdout.contains(wanted), "{wanted:?} is not in {stdout}");
    }
    assert!(!stdout.contains("LIBPROCESS"), "{stdout}");
    let name = std::fs::read_to_string("/etc/hostname").unwrap_or_default();
    assert!(stdout.contains(name.trim()), "{stdout}");
    assert_eq!(file(&cluster, "hello", "stderr"), "err\n");
    assert_eq!(file(&cluster, "hello", "file"), "hi\n");

    // An abnormal end: all output is there, and what the engine knew of it.
    let end = framework.run(docker_task("loud", &format!("seq 1 {LINES}; exit 3")), 60).await;
    assert_eq!(end["state"], "TASK_FAILED");
    assert_eq!(end["message"], "Command exited with status 3");
    assert!(file(&cluster, "loud", "stdout") == lines(), "output was lost or repeated");
    let evidence: Value =
        serde_json::from_str(&file(&cluster, "loud", "docker-inspect.json")).expect("JSON");
    assert_eq!(evidence["State"]["ExitCode"], 3);

    let end =
        framework.run(docker_task("greedy", "dd if=/dev/zero of=/dev/null bs=200M"), 60).await;
    assert_eq!(end["state"], "TASK_FAILED", "{end}");
    assert_eq!(end["reason"], "REASON_CONTAINER_LIMITATION_MEMORY", "{end}");

    // What cannot be started says why.
    let mut missing = docker_task("missing", "true");
    missing["container"]["docker"]["image"] = "localhost:1/no/such:image".into();
    let mut unknown = docker_task("unknown", "true");
    unknown["command"] = json!({ "shell": false, "value": "no-such-program" });
    let mut terminal = docker_task("terminal", "true");
    terminal["container"]["docker"]["parameters"] = json!([{ "key": "tty", "value": "true" }]);
    let mut widget = docker_task("widget", "true");
    widget["container"]["docker"]["parameters"] =
        json!([{ "key": "device", "value": "acme.com/widget=w0" }]);
    for (task, words) in [
        // This engine is too old to know it, and says so.
        (widget, "cdi"),
        (missing, "failed to pull image 'localhost:1/no/such:image'"),
        (unknown, "executable file not found"),
        (terminal, "docker parameter 'tty=true'"),
    ] {
        let end = framework.run(task, 60).await;
        assert_eq!(end["reason"], "REASON_CONTAINER_LAUNCH_FAILED", "{end}");
        let message = end["message"].as_str().unwrap_or_default();
        assert!(message.contains(words), "{message}");
    }
    // What never ran is not kept.
    eventually("leftovers to go", || engine.containers().len() == 3).await;
}

/// Input of a session goes in, and its end too.
fn input_goes_in(cluster: &Cluster) {
    let mut upper = std::process::Command::new(binary("bulkhead"))
        .args(["exec", "--master", &cluster.master, "stubborn", "--", "sh", "-c"])
        .arg("while read line; do echo got $line; done; echo end")
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .expect("run bulkhead");
    let text: String = (0..2000).map(|n| format!("{n}\n")).collect();
    let mut input = upper.stdin.take().expect("its input");
    let writing =
        std::thread::spawn(move || std::io::Write::write_all(&mut input, text.as_bytes()));
    let answer = upper.wait_with_output().expect("it ends");
    writing.join().expect("no panic").expect("it reads");
    let wanted: String = (0..2000).map(|n| format!("got {n}\n")).collect();
    assert_eq!(String::from_utf8_lossy(&answer.stdout), wanted + "end\n");
}

/// A session with a terminal has the engine's, as large as ours.
fn a_terminal_is_there(cluster: &Cluster) {
    let size = nix::pty::Winsize { ws_row: 21, ws_col: 43, ws_xpixel: 0, ws_ypixel: 0 };
    let pair = nix::pty::openpty(Some(&size), None).expect("a terminal");
    let answer = std::process::Command::new(binary("bulkhead"))
        .args(["exec", "--tty", "--master", &cluster.master, "stubborn", "--", "sh", "-c"])
        .arg(
            "tty; until [ \"$(stty size)\" = '21 43' ]; do sleep 0.1; done; echo sized >&2; exit 6",
        )
        .stdin(std::process::Stdio::from(pair.slave))
        .output()
        .expect("it ends");
    let said = String::from_utf8_lossy(&answer.stdout).into_owned();
    assert!(said.starts_with("/dev/pts/") && said.ends_with("\r\nsized\r\n"), "{answer:?}");
    assert_eq!(answer.status.code(), Some(6), "{answer:?}");
}

#[tokio::test]
async fn both_containerizers_work_side_by_side() {
    require!(root, cgroup, busybox, docker);
    let engine = Dockerd::start("both", Network::Host);
    let cluster = cluster("docker-both", &engine, &[]);
    let mut framework = Framework::subscribe(&cluster.master, "docker-both").await;
    framework.start(command("native", "sleep 1000", 32.0)).await;
    let busy = "trap 'echo asked; exit 0' TERM; echo ready; while :; do :; done";
    framework.start(docker_task("polite", busy)).await;
    let mut stubborn =
        docker_task("stubborn", "trap '' TERM; echo ready; while :; do sleep 1; done");
    stubborn["kill_policy"] = json!({ "grace_period": { "nanoseconds": 700_000_000 } });
    stubborn["health_check"] = json!({ "type": "COMMAND", "interval_seconds": 0.2,
        "delay_seconds": 0.0, "grace_period_seconds": 0.0,
        "command": { "shell": true, "value": "echo checked; hostname" } });
    framework.start(stubborn).await;

    let statistics = || -> Value {
        let text = get(&cluster.agent, "/monitor/statistics").expect("statistics");
        serde_json::from_str(&text).expect("JSON")
    };
    let of = |all: &Value, task: &str| {
        let all = all.as_array().into_iter().flatten();
        all.clone().find(|e| e["executor_id"] == task).map(|e| e["statistics"].clone())
    };
    eventually("all figures", || {
        let all = statistics();
        let polite = of(&all, "polite").unwrap_or_default();
        of(&all, "native").is_some()
            && polite["cpus_user_time_secs"].as_f64().is_some_and(|secs| secs > 0.0)
            && polite["mem_total_bytes"].as_u64().is_some_and(|bytes| bytes > 0)
            && polite["mem_limit_bytes"] == 32 << 20
    })
    .await;
    framework
        .until("health", 60, |f| {
            f.statuses["stubborn"].iter().any(|status| status["healthy"] == true)
        })
        .await;
    assert!(file(&cluster, "stubborn", "checks").contains("checked\n"));

    let inside = std::process::Command::new(binary("bulkhead"))
        .args(["exec", "--no-stdin", "--master", &cluster.master, "stubborn", "--"])
        .args(["sh", "-c", "echo $MESOS_CONTAINER_NAME; exit 5"])
        .output()
        .expect("run bulkhead");
    let name = container(&cluster, "stubborn");
    assert_eq!(String::from_utf8_lossy(&inside.stdout).trim(), name, "{inside:?}");
    assert_eq!(inside.status.code(), Some(5), "{inside:?}");
    input_goes_in(&cluster);
    a_terminal_is_there(&cluster);

    // The figures are the engine's.
    let engines = || {
        let path = format!("/containers/{}/stats?stream=0", container(&cluster, "polite"));
        engine.api("GET", &path, None).1
    };
    let cpu = |stats: &Value| {
        stats["cpu_stats"]["cpu_usage"]["total_usage"].as_f64().unwrap_or_default() / 1e9
    };
    let before = engines();
    // Longer than a sample is served.
    tokio::time::sleep(Duration::from_millis(1100)).await;
    let ours = of(&statistics(), "polite").expect("it runs");
    let after = engines();
    let number = |name: &str| ours[name].as_f64().unwrap_or_default();
    let seconds = number("cpus_user_time_secs") + number("cpus_system_time_secs");
    // The kernel counts user and system in ticks.
    assert!(seconds >= cpu(&before) - 0.1, "{seconds} {before}");
    assert!(seconds <= cpu(&after) + 0.1, "{seconds} {after}");
    let memory = after["memory_stats"]["usage"].as_f64().unwrap_or_default();
    assert!((number("mem_total_bytes") - memory).abs() < f64::from(4 << 20), "{ours} {after}");
    assert_eq!(number("mem_limit_bytes"), after["memory_stats"]["limit"].as_f64().unwrap_or(-1.0));

    for task in ["polite", "stubborn", "native"] {
        let ready = || task == "native" || file(&cluster, task, "stdout").contains("ready");
        eventually("the task to be ready", ready).await;
        framework.call("KILL", json!({ "task_id": { "value": task } })).await;
        framework.until("the kill", 60, |f| f.end(task).is_some()).await;
        assert_eq!(framework.state(task), Some("TASK_KILLED"), "{:?}", framework.end(task));
    }
    assert!(file(&cluster, "polite", "stdout").contains("asked"));
}

#[tokio::test]
async fn docker_tasks_survive_the_agents_death() {
    require!(root, cgroup, busybox, docker);
    let engine = Dockerd::start("survive", Network::Host);
    let mut cluster = cluster("docker-survive", &engine, &[]);
    let mut framework = Framework::subscribe(&cluster.master, "docker-survive").await;
    let talk = "i=0; while [ $i -lt 400 ]; do i=$((i+1)); echo $i; sleep 0.01; done";
    framework.start(docker_task("ends", &format!("{talk}; exit 7"))).await;
    framework.start(deaf(docker_task("stays", &format!("{talk}; sleep 1000")))).await;
    let sandboxes = ["ends", "stays"].map(|task| sandbox(&cluster, task));
    let gone = container(&cluster, "ends");
    for _ in 0..3 {
        tokio::time::sleep(Duration::from_millis(500)).await;
        cluster.kill_agent();
        cluster.start_agent();
    }
    cluster.kill_agent();
    eventually("the task to end", || {
        engine.containers().contains(&(gone.clone(), "exited".to_owned()))
    })
    .await;
    cluster.start_agent();
    framework.until("the end", 60, |f| f.end("ends").is_some()).await;
    let end = framework.end("ends").expect("it ended");
    assert_eq!(end["message"], "Command exited with status 7", "{end}");
    let wanted: String = (1..=400).map(|n| format!("{n}\n")).collect();
    for sandbox in &sandboxes {
        let path = format!("{sandbox}/stdout");
        let read = || std::fs::read_to_string(&path).unwrap_or_default();
        eventually("the output", || read().len() >= wanted.len()).await;
        assert!(read() == wanted, "lost or repeated in {path}");
    }
    framework.call("KILL", json!({ "task_id": { "value": "stays" } })).await;
    framework.until("the kill", 60, |f| f.end("stays").is_some()).await;
    assert_eq!(framework.state("stays"), Some("TASK_KILLED"));
}

#[tokio::test]
async fn a_running_container_is_resized() {
    require!(root, cgroup, busybox, docker);
    let engine = Dockerd::start("resize", Network::Host);
    let dir = TempDir::new("docker-resize");
    let config = Config {
        socket: engine.socket(),
        runtime_dir: dir.path().join("run"),
        owner: dir.path().display().to_string(),
        ..Config::default()
    };
    let fetcher = Arc::new(bulkhead::fetch::Fetcher::new(bulkhead::fetch::Settings {
        cache_dir: dir.path().join("fetch"),
        ..bulkhead::fetch::Settings::default()
    }));
    let docker = Docker::new(config, fetcher).expect("a containerizer");
    docker.recover(Vec::new()).await.expect("nothing to recover");
    let sandbox = dir.path().join("sandbox");
    std::fs::create_dir(&sandbox).expect("make the sandbox");
    let requests = |cpus: f64, mem: f64| {
        vec![isolators::quantity::scalar("cpus", cpus), isolators::quantity::scalar("mem", mem)]
    };
    let info: mesos::ContainerInfo = mesos::ContainerInfo {
        r#type: mesos::container_info::Type::Docker as i32,
        docker: Some(mesos::container_info::DockerInfo {
            image: IMAGE.into(),
            ..mesos::container_info::DockerInfo::default()
        }),
        ..mesos::ContainerInfo::default()
    };
    let id = mesos::ContainerId { value: "resized".into(), parent: None };
    let request = LaunchRequest {
        id: id.clone(),
        command: mesos::CommandInfo { value: Some("sleep 1000".into()), ..Default::default() },
        container: Some(info),
        requests: requests(0.5, 64.0),
        sandbox,
        ..LaunchRequest::default()
    };
    let launched = docker.launch(request).await.expect("it runs");
    assert!(launched.pid.is_some());
    let host = || engine.api("GET", "/containers/mesos-resized/json", None).1["HostConfig"].clone();
    assert_eq!((&host()["CpuShares"], &host()["Memory"]), (&json!(512), &json!(64 << 20)));
    for (cpus, mem) in [(2.0, 256.0), (0.25, 48.0)] {
        docker.update(&id, requests(cpus, mem), BTreeMap::new()).await.expect("it fits");
        let host = host();
        assert_eq!(host["CpuShares"].as_f64(), Some(1024.0 * cpus), "{host}");
        assert_eq!(host["Memory"].as_f64(), Some(mem * 1024.0 * 1024.0), "{host}");
    }
    let limits = BTreeMap::from([("cpus".to_owned(), 1.5), ("mem".to_owned(), 128.0)]);
    docker.update(&id, requests(0.5, 48.0), limits).await.expect("it fits");
    assert_eq!(host()["CpuQuota"], 150_000);
    let end = docker.destroy(&id, None).await.expect("it is known");
    assert_eq!(end.status, Some(137 << 8));
    docker.forget(&id).await;
    assert!(!docker.knows(&id));
}
