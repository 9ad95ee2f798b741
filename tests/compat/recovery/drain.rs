//! Draining, deactivating and leaving, through the operator API and by signals.

use std::time::{Duration, Instant};

use bulkhead::wire::client::{Call, Client, Reply};
use serde_json::{Value, json};

use crate::cluster::{Cluster, Options, get};
use crate::framework::{Framework, command};
use crate::require;

async fn operator(cluster: &Cluster, kind: &str, body: Value) -> Reply {
    let mut call = json!({ "type": kind });
    call[kind.to_lowercase()] = body;
    let call = Call::post("/api/v1", "application/json", call.to_string());
    Client::new(&cluster.master).call(call).await.expect("reach the master")
}

fn slave(cluster: &Cluster) -> Value {
    let all = get(&cluster.master, "/slaves").expect("/slaves");
    let all: Value = serde_json::from_str(&all).expect("JSON");
    all["slaves"][0].clone()
}

fn agent_state(cluster: &Cluster) -> Value {
    serde_json::from_str(&get(&cluster.agent, "/state").expect("/state")).expect("JSON")
}

/// Waits until the master shows the agent so.
fn wait_slave(cluster: &Cluster, what: &str, so: impl Fn(&Value) -> bool) -> Value {
    let by = Instant::now() + Duration::from_secs(60);
    loop {
        let slave = slave(cluster);
        if so(&slave) {
            return slave;
        }
        assert!(Instant::now() < by, "{what}: {slave}\n{}", cluster.logs());
        std::thread::sleep(Duration::from_millis(30));
    }
}

/// Waits until this agent process is registered.
fn wait_registered(cluster: &Cluster) {
    let by = Instant::now() + Duration::from_secs(60);
    while !get(&cluster.agent, "/metrics/snapshot")
        .is_some_and(|metrics| metrics.contains("\"slave/registered\":1.0"))
    {
        assert!(Instant::now() < by, "the agent is not registered\n{}", cluster.logs());
        std::thread::sleep(Duration::from_millis(20));
    }
}

const DEAF: &str = "trap '' TERM; touch armed; while :; do sleep 0.1; done";

/// Starts a task that ignores `SIGTERM` and would be given a day to end.
async fn start_deaf(cluster: &Cluster, framework: &mut Framework, name: &str) {
    let mut task = command(name, DEAF, 32.0);
    task["kill_policy"] = json!({ "grace_period": { "nanoseconds": 86_400_000_000_000_i64 } });
    framework.start(task).await;
    let state = agent_state(cluster);
    let executors = state["frameworks"][0]["executors"].as_array().expect("a list");
    let own = executors.iter().find(|e| e["id"] == name).expect("the executor");
    let armed = format!("{}/armed", own["directory"].as_str().expect("a path"));
    let by = Instant::now() + Duration::from_secs(60);
    while !std::path::Path::new(&armed).exists() {
        assert!(Instant::now() < by, "{name} is not deaf yet");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[tokio::test]
async fn a_drained_agent_has_killed_all_and_waits_to_be_reactivated() {
    require!(root, cgroup);
    let mut cluster = Cluster::start("drain", Options { durable: true, ..Options::default() });
    let mut framework = Framework::subscribe(&cluster.master, "drain").await;
    start_deaf(&cluster, &mut framework, "deaf").await;
    framework.start(command("polite", "sleep 1000", 32.0)).await;
    let id = slave(&cluster)["id"].clone();
    let agent = json!({ "agent_id": { "value": id } });
    let unknown = json!({ "agent_id": { "value": "nobody" } });
    for (kind, body, words) in [
        ("DRAIN_AGENT", &unknown, "Unknown agent"),
        ("DEACTIVATE_AGENT", &unknown, "Unknown agent"),
        ("REACTIVATE_AGENT", &agent, "Agent is not deactivated"),
    ] {
        let reply = operator(&cluster, kind, body.clone()).await;
        assert_eq!((reply.status.as_u16(), reply.text().as_str()), (400, words), "{kind}");
    }

    // Long enough to see it draining.
    let grace = json!({ "seconds": 3 });
    let drain = json!({ "agent_id": { "value": id }, "max_grace_period": grace });
    let reply = operator(&cluster, "DRAIN_AGENT", drain).await;
    assert_eq!(reply.status.as_u16(), 200, "{}", reply.text());
    let shown = wait_slave(&cluster, "draining", |s| s["drain_info"]["state"] == "DRAINING");
    assert_eq!((&shown["active"], &shown["deactivated"]), (&json!(false), &json!(true)));
    assert!(shown["estimated_drain_start_time_seconds"].as_f64().is_some_and(|t| t > 1e9));
    let config = &shown["drain_info"]["config"];
    assert_eq!(config["max_grace_period"]["nanoseconds"], 3_000_000_000_i64, "{shown}");
    let by = Instant::now() + Duration::from_secs(60);
    while agent_state(&cluster)["drain_config"] != *config {
        assert!(Instant::now() < by, "the agent does not drain\n{}", cluster.logs());
        std::thread::sleep(Duration::from_millis(20));
    }
    let early = operator(&cluster, "REACTIVATE_AGENT", agent.clone()).await;
    assert_eq!(early.text(), "Agent is still in the DRAINING state");

    framework
        .until("both ends", 60, |f| f.end("deaf").is_some() && f.end("polite").is_some())
        .await;
    for task in ["deaf", "polite"] {
        let end = framework.end(task).expect("ended");
        assert_eq!(end["state"], "TASK_KILLED", "{end}");
        assert_eq!(end["reason"], "REASON_AGENT_DRAINING", "{end}");
    }
    wait_slave(&cluster, "drained", |s| s["drain_info"]["state"] == "DRAINED");
    let by = Instant::now() + Duration::from_secs(60);
    while !agent_state(&cluster)["drain_config"].is_null() {
        assert!(Instant::now() < by, "the agent still drains\n{}", cluster.logs());
        std::thread::sleep(Duration::from_millis(20));
    }

    // Neither daemon's death changes that.
    drop(framework);
    cluster.kill_master();
    cluster.kill_agent();
    cluster.start_master();
    cluster.spawn_agent();
    let again = wait_slave(&cluster, "back", |s| !s["reregistered_time"].is_null());
    assert_eq!(again["id"], id);
    assert_eq!(again["drain_info"]["state"], "DRAINED", "{again}");
    assert_eq!((&again["active"], &again["deactivated"]), (&json!(false), &json!(true)));
    let reply = operator(&cluster, "REACTIVATE_AGENT", agent).await;
    assert_eq!(reply.status.as_u16(), 200, "{}", reply.text());
    let active = wait_slave(&cluster, "active", |s| s["active"] == true);
    assert!(active["drain_info"].is_null(), "{active}");
    let mut framework = Framework::subscribe(&cluster.master, "drain-again").await;
    let end = framework.run(command("new", "exit 0", 32.0), 60).await;
    assert_eq!(end["state"], "TASK_FINISHED");
}

/// The agent dies at every step of the drain and goes on with it.
#[cfg(debug_assertions)]
#[tokio::test]
async fn a_drain_goes_on_after_the_agents_death() {
    require!(root, cgroup);
    let options = Options::default().agent(&["--registration_backoff_factor=10ms"]);
    let mut cluster = Cluster::start("drain-death", options);
    let mut framework = Framework::subscribe(&cluster.master, "drain-death").await;
    for (number, point) in kernel::failpoint::of("checkpoint.drain").enumerate() {
        cluster.kill_agent();
        cluster.failpoint = Some(point);
        cluster.start_agent();
        let name = format!("deaf-{number}");
        start_deaf(&cluster, &mut framework, &name).await;
        let agent = json!({ "value": slave(&cluster)["id"] });
        let drain = json!({ "agent_id": agent, "max_grace_period": { "seconds": 0 } });
        assert_eq!(operator(&cluster, "DRAIN_AGENT", drain).await.status.as_u16(), 200);
        let by = Instant::now() + Duration::from_secs(60);
        while cluster.agent_ended().is_none() {
            assert!(Instant::now() < by, "{point} is not reached\n{}", cluster.logs());
            framework.next(tokio::time::Instant::now() + Duration::from_millis(20)).await;
        }
        cluster.failpoint = None;
        cluster.spawn_agent();
        framework.until("the end", 60, |f| f.end(&name).is_some()).await;
        let end = framework.end(&name).expect("ended");
        assert_eq!(end["state"], "TASK_KILLED", "{point}: {end}");
        assert_eq!(end["reason"], "REASON_AGENT_DRAINING", "{point}: {end}");
        wait_registered(&cluster);
        wait_slave(&cluster, "drained", |s| s["drain_info"]["state"] == "DRAINED");
        let by = Instant::now() + Duration::from_secs(60);
        // What is not forgotten on the disk either would go on in the next agent.
        let stored = cluster.dir.path().join("agent/meta/slaves/latest/drain.config");
        while !agent_state(&cluster)["drain_config"].is_null() || stored.exists() {
            assert!(Instant::now() < by, "the agent still drains\n{}", cluster.logs());
            std::thread::sleep(Duration::from_millis(20));
        }
        let back = operator(&cluster, "REACTIVATE_AGENT", json!({ "agent_id": agent })).await;
        assert_eq!(back.status.as_u16(), 200, "{}", back.text());
    }
    cluster.wait_clean();
}

#[tokio::test]
async fn a_drained_agent_may_be_gone() {
    require!(root, cgroup);
    let mut cluster = Cluster::start("drain-gone", Options::default());
    let mut framework = Framework::subscribe(&cluster.master, "drain-gone").await;
    framework.start(command("t", "sleep 1000", 32.0)).await;
    let agent = json!({ "value": slave(&cluster)["id"] });
    let drain = json!({ "agent_id": agent, "mark_gone": true });
    assert_eq!(operator(&cluster, "DRAIN_AGENT", drain).await.status.as_u16(), 200);
    framework.until("the end", 60, |f| f.end("t").is_some()).await;
    let end = framework.end("t").expect("ended");
    assert_eq!(end["state"], "TASK_GONE_BY_OPERATOR", "{end}");
    assert_eq!(end["reason"], "REASON_AGENT_DRAINING", "{end}");
    // Gone agents are told to shut down.
    let by = Instant::now() + Duration::from_secs(60);
    while cluster.agent_ended().is_none() {
        assert!(Instant::now() < by, "the agent goes on\n{}", cluster.logs());
        std::thread::sleep(Duration::from_millis(20));
    }
    assert_eq!(cluster.agent_ended().and_then(|status| status.code()), Some(0));
    cluster.wait_clean();
}

#[tokio::test]
async fn a_deactivated_agent_keeps_its_tasks_and_gets_no_offers() {
    require!(root, cgroup);
    let mut cluster = Cluster::start("deactivate", Options::default());
    let mut framework = Framework::subscribe(&cluster.master, "deactivate").await;
    framework.start(command("stay", "sleep 1000", 32.0)).await;
    let agent = json!({ "agent_id": { "value": slave(&cluster)["id"] } });
    let reply = operator(&cluster, "DEACTIVATE_AGENT", agent.clone()).await;
    assert_eq!(reply.status.as_u16(), 200, "{}", reply.text());
    cluster.kill_agent();
    cluster.spawn_agent();
    let back = wait_slave(&cluster, "back", |s| !s["reregistered_time"].is_null());
    assert_eq!((&back["active"], &back["deactivated"]), (&json!(false), &json!(true)));
    let soon = || tokio::time::Instant::now() + Duration::from_millis(100);
    let by = Instant::now() + Duration::from_secs(3);
    while Instant::now() < by {
        framework.next(soon()).await;
    }
    assert!(!framework.has_offer(), "offers of a deactivated agent");
    assert_eq!(framework.state("stay"), Some("TASK_RUNNING"));
    let reply = operator(&cluster, "REACTIVATE_AGENT", agent).await;
    assert_eq!(reply.status.as_u16(), 200, "{}", reply.text());
    framework.until("offers", 60, Framework::has_offer).await;
    assert_eq!(framework.state("stay"), Some("TASK_RUNNING"));
}

fn signal(cluster: &Cluster, signal: i32) {
    kernel::proctree::signal(&[cluster.agent_pid()], signal);
}

#[tokio::test]
async fn sigterm_leaves_tasks_alone_and_sigusr1_ends_them() {
    require!(root, cgroup);
    let mut cluster = Cluster::start("signals", Options::default());
    let mut framework = Framework::subscribe(&cluster.master, "signals").await;
    framework.start(command("t", "sleep 1000", 32.0)).await;
    let ended = |cluster: &mut Cluster| {
        let by = Instant::now() + Duration::from_secs(60);
        while cluster.agent_ended().is_none() {
            assert!(Instant::now() < by, "the agent goes on\n{}", cluster.logs());
            std::thread::sleep(Duration::from_millis(20));
        }
        cluster.agent_ended().and_then(|status| status.code())
    };
    signal(&cluster, 15);
    assert_eq!(ended(&mut cluster), Some(0));
    assert!(!cluster.leftovers().is_empty(), "the task lives on");
    cluster.kill_agent();
    cluster.start_agent();
    assert_eq!(framework.state("t"), Some("TASK_RUNNING"));
    signal(&cluster, 10);
    assert_eq!(ended(&mut cluster), Some(0));
    framework.until("the end", 60, |f| f.end("t").is_some()).await;
    assert_eq!(framework.state("t"), Some("TASK_LOST"), "{:?}", framework.end("t"));
    let all = get(&cluster.master, "/slaves").expect("/slaves");
    assert!(all.starts_with("{\"slaves\":[]"), "it is unregistered: {all}");
    cluster.wait_clean();
}
