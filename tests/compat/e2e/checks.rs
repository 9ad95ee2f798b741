//! Checks and health checks of command tasks, by the agent.

use std::sync::atomic::Ordering;

use serde_json::{Value, json};

use crate::cluster::{Cluster, Options, get};
use crate::door::Door;
use crate::framework::{Framework, command};
use crate::require;

const HEALTH: &str = "REASON_TASK_HEALTH_CHECK_STATUS_UPDATED";
const CHECK: &str = "REASON_TASK_CHECK_STATUS_UPDATED";

/// A health check that starts at once, asks often and has no patience.
fn impatient(kind: &str, mut check: Value) -> Value {
    check["type"] = kind.into();
    for (name, value) in [
        ("delay_seconds", 0.0),
        ("interval_seconds", 0.1),
        ("timeout_seconds", 2.0),
        ("grace_period_seconds", 0.0),
    ] {
        if check[name].is_null() {
            check[name] = value.into();
        }
    }
    check
}

fn shell(line: &str) -> Value {
    json!({ "shell": true, "value": line })
}

/// Whether some status of the task says this of its health.
fn said(framework: &Framework, task: &str, healthy: bool) -> bool {
    let all = framework.statuses.get(task);
    all.is_some_and(|all| all.iter().any(|s| s["healthy"] == healthy && s["reason"] == HEALTH))
}

/// How often the task was said to be healthy.
fn times(framework: &Framework, task: &str) -> usize {
    let all = framework.statuses.get(task).into_iter().flatten();
    all.filter(|s| s["healthy"] == true && s["reason"] == HEALTH).count()
}

#[tokio::test]
async fn an_http_server_that_fails_has_its_task_killed() {
    require!(root, cgroup);
    let cluster = Cluster::start("check-http", Options::default());
    let mut framework = Framework::subscribe(&cluster.master, "check-http").await;
    let door = Door::open();
    let mut task = command("web", "sleep 1000", 32.0);
    task["health_check"] = impatient(
        "HTTP",
        json!({ "http": { "port": door.port, "path": "/health", "scheme": "http" },
                "consecutive_failures": 2 }),
    );
    framework.launch(vec![task]).await;
    framework.until("health", 30, |f| said(f, "web", true)).await;
    door.status.store(500, Ordering::Relaxed);
    framework.until("the kill", 30, |f| f.end("web").is_some()).await;
    let end = framework.end("web").expect("it ended").clone();
    assert_eq!((&end["state"], &end["healthy"]), (&json!("TASK_KILLED"), &json!(false)), "{end}");
    let sick: Vec<&Value> =
        framework.statuses["web"].iter().filter(|s| s["healthy"] == false).collect();
    assert_eq!(sick[0]["state"], "TASK_RUNNING");
    let message = sick[1]["message"].as_str().expect("a message");
    assert_eq!(message, "HTTP health check failed 2 times: unexpected HTTP response code 500");
    let visits = door.visits.load(Ordering::Relaxed);
    tokio::time::sleep(std::time::Duration::from_millis(400)).await;
    assert_eq!(door.visits.load(Ordering::Relaxed), visits, "a dead task is not asked");
}

#[tokio::test]
async fn a_port_that_closes_and_opens_is_told_by_changes_only() {
    require!(root, cgroup);
    let mut cluster = Cluster::start("check-tcp", Options::default());
    let mut framework = Framework::subscribe(&cluster.master, "check-tcp").await;
    let door = Door::open();
    let mut task = command("t", "sleep 1000", 32.0);
    task["health_check"] =
        impatient("TCP", json!({ "tcp": { "port": door.port }, "consecutive_failures": 1000 }));
    let (port, visits) = (door.port, door.visits.clone());
    framework.launch(vec![task]).await;
    framework.until("health", 30, |f| said(f, "t", true)).await;
    while visits.load(Ordering::Relaxed) < 4 {
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    drop(door);
    framework.until("the failure", 30, |f| said(f, "t", false)).await;
    assert_eq!(times(&framework, "t"), 1, "one update for many successes");
    // The next agent goes on, and hears of the task's recovery.
    cluster.kill_agent();
    let again = std::net::TcpListener::bind(("127.0.0.1", port)).expect("the same port");
    cluster.start_agent();
    framework.until("health again", 30, |f| times(f, "t") == 2).await;
    drop(again);
    assert!(framework.end("t").is_none(), "{:?}", framework.end("t"));
}

#[tokio::test]
async fn a_command_check_runs_in_the_tasks_container() {
    require!(root, cgroup);
    let cluster = Cluster::start("check-command", Options::default());
    let mut framework = Framework::subscribe(&cluster.master, "check-command").await;
    let line = "for n in pid mnt ipc; do readlink /proc/self/ns/$n; done > spaces; \
                touch ready; sleep 1000";
    let mut task = command("t", line, 32.0);
    task["command"]["environment"] = json!({ "variables": [{ "name": "OF_TASK", "value": "1" }] });
    // 0: everything is the task's; else the number of what is not.
    let check = "test -f ready || exit 9; test \"$OF_TASK\" = 1 || exit 2; \
        for n in pid mnt ipc; do readlink /proc/self/ns/$n; done | cmp -s - spaces || exit 3; \
        grep -q \"$(basename $PWD)\" /proc/self/cgroup || exit 4; \
        test \"$ASKED\" = yes || exit 5; echo checked; exit 0";
    let mut check = shell(check);
    check["environment"] = json!({ "variables": [{ "name": "ASKED", "value": "yes" }] });
    task["check"] = json!({ "type": "COMMAND", "command": { "command": check },
        "delay_seconds": 0.0, "interval_seconds": 0.1, "timeout_seconds": 5.0 });
    framework.launch(vec![task]).await;
    let code = |s: &Value| s["check_status"]["command"]["exit_code"].clone();
    framework
        .until("a result", 30, |f| {
            f.statuses
                .get("t")
                .is_some_and(|all| all.iter().any(|s| s["reason"] == CHECK && code(s) != json!(9)))
        })
        .await;
    let statuses = framework.statuses["t"].clone();
    assert_eq!(code(statuses.last().expect("a status")), json!(0), "{statuses:?}");
    // Every status says which kind of check the task has.
    assert!(statuses.iter().all(|s| s["check_status"]["type"] == "COMMAND"), "{statuses:?}");
    let told = statuses.len();
    let state: Value =
        serde_json::from_str(&get(&cluster.agent, "/state").expect("/state")).expect("JSON");
    let sandbox = state["frameworks"][0]["executors"][0]["directory"].as_str().expect("a path");
    let stderr = std::fs::read_to_string(format!("{sandbox}/stderr")).expect("stderr");
    assert!(stderr.contains("checked\n"), "{stderr}");
    framework.call("KILL", json!({ "task_id": { "value": "t" } })).await;
    framework.until("the end", 30, |f| f.end("t").is_some()).await;
    assert!(framework.statuses["t"].len() <= told + 1, "no update without a change");
}

#[tokio::test]
async fn a_command_that_hangs_is_ended_and_counts_as_a_failure() {
    require!(root, cgroup);
    let cluster = Cluster::start("check-hang", Options::default());
    let mut framework = Framework::subscribe(&cluster.master, "check-hang").await;
    let mut task = command("t", "sleep 1000", 32.0);
    task["health_check"] = impatient(
        "COMMAND",
        json!({ "command": shell("sleep 600"),
                "timeout_seconds": 0.5, "consecutive_failures": 1 }),
    );
    framework.launch(vec![task]).await;
    framework.until("the end", 30, |f| f.end("t").is_some()).await;
    assert_eq!(framework.end("t").expect("ended")["state"], "TASK_KILLED");
    let why = framework.statuses["t"].iter().find_map(|s| {
        (s["healthy"] == false).then(|| s["message"].as_str().unwrap_or_default().to_owned())
    });
    let wanted = "COMMAND health check failed once: the command did not end within 0.5 s";
    assert_eq!(why.as_deref(), Some(wanted));
}

#[tokio::test]
async fn bad_checks_are_refused_by_name() {
    require!(root, cgroup);
    let cluster = Cluster::start("check-bad", Options::default());
    let mut framework = Framework::subscribe(&cluster.master, "check-bad").await;
    let http = |port: Value| json!({ "type": "HTTP", "http": { "port": port } });
    let rows = [
        ("check", json!({ "type": "TCP" }), "Expecting 'tcp' to be set for TCP check"),
        ("check", json!({ "type": "UNKNOWN" }), "'UNKNOWN' is not a valid check type"),
        (
            "check",
            json!({ "type": "TCP", "tcp": { "port": 1 }, "delay_seconds": -1.0 }),
            "Expecting 'delay_seconds' to be non-negative",
        ),
        ("health_check", http(70_000.into()), "There is no port 70000, expecting 1 to 65535"),
        (
            "health_check",
            json!({ "type": "COMMAND", "command": { "shell": true } }),
            "Command health check must contain 'shell command'",
        ),
        (
            "health_check",
            json!({ "type": "HTTP", "http": { "port": 1, "path": "x" } }),
            "The path 'x' of HTTP health check must start with '/'",
        ),
    ];
    for (at, (field, check, wanted)) in rows.into_iter().enumerate() {
        let mut task = command(&format!("bad-{at}"), "sleep 1000", 32.0);
        task[field] = check;
        let end = framework.run(task, 30).await;
        assert_eq!(end["state"], "TASK_ERROR", "{end}");
        let message = end["message"].as_str().unwrap_or_default();
        assert!(message.contains(wanted), "{message} ~ {wanted}");
    }
    // A required field is missed before there is a task.
    let mut task = command("no-port", "sleep 1000", 32.0);
    task["health_check"] = json!({ "type": "HTTP", "http": {} });
    let offer = framework.offer().await;
    let reply = framework.accept(&offer, vec![task]).await;
    assert_eq!(reply.status.as_u16(), 400);
    assert!(reply.text().contains("port"), "{}", reply.text());
}
