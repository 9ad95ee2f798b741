//! `make bench SCENARIO=docker`: what the agent adds to a container of Docker.
//!
//! From the ACCEPT of a task until its container runs, and from bare create and start of
//! the same body by the same engine until that one does, both by the engine's own clock;
//! one of each in turn, so that both see the same machine. The medians' difference is
//! ours. How long until the framework has heard of it is shown beside.

#[path = "../support/cluster.rs"]
mod cluster;
#[path = "../support/dockerd.rs"]
mod dockerd;
#[path = "figures.rs"]
mod figures;
#[path = "../support/framework.rs"]
mod framework;
#[path = "../support/mod.rs"]
mod support;

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use cluster::{Cluster, Options};
use dockerd::{Dockerd, IMAGE, Network};
use figures::{figure, median};
use framework::{Framework, command};
use serde_json::{Value, json};

const ROUNDS: usize = 25;
const COMMAND: &str = "exec sleep 100000";

#[tokio::main(flavor = "current_thread")]
async fn main() {
    require!(root, cgroup, busybox, docker);
    let engine = Dockerd::start("bench", Network::Host);
    let flags = engine.flags();
    let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
    let cluster = Cluster::start("bench-docker", Options::default().agent(&flags));
    let mut framework = Framework::subscribe(&cluster.master, "bench").await;
    let (mut ours, mut told, mut bare) = (Vec::new(), Vec::new(), Vec::new());
    // The first of each warms up.
    for round in 0..=ROUNDS {
        let (launched, heard, body) = launch(&mut framework, &engine, round).await;
        let started = start(&engine, &body, round);
        if round > 0 {
            ours.push(launched);
            told.push(heard);
            bare.push(started);
        }
    }
    let (ours, told, bare) = (middle(&ours), middle(&told), middle(&bare));
    let overhead = ours - bare;
    println!("{ROUNDS} containers of Docker, medians");
    println!("  a task, ACCEPT until it runs       {ours:>8.1} ms");
    println!("  the same until TASK_RUNNING comes  {told:>8.1} ms");
    println!("  bare create and start              {bare:>8.1} ms");
    println!("  ours                               {overhead:>8.1} ms");
    figure("docker.launch_ms", ours);
    figure("docker.task_running_ms", told);
    figure("docker.bare_ms", bare);
    figure("docker.overhead_ms", overhead);
}

/// The engine's own time at which a container ran, since another time.
fn ran(body: &Value, since: SystemTime) -> Duration {
    let text = body["State"]["StartedAt"].as_str().expect("it ran").trim_end_matches('Z');
    let (_, clock) = text.split_once('T').expect("a date and a time");
    let mut parts = clock.split(':').map(|part| part.parse::<f64>().expect("a number"));
    let mut next = || parts.next().expect("hours, minutes, seconds");
    let at = next() * 3600.0 + next() * 60.0 + next();
    let day = 86_400.0;
    let since = since.duration_since(UNIX_EPOCH).expect("after 1970").as_secs_f64() % day;
    Duration::from_secs_f64((at - since).rem_euclid(day))
}

/// Launches a task, and ends it again; how long until it ran, until that was heard, and
/// its container.
async fn launch(
    framework: &mut Framework,
    engine: &Dockerd,
    round: usize,
) -> (Duration, Duration, Value) {
    let name = format!("task-{round}");
    let mut task = command(&name, COMMAND, 32.0);
    task["container"] = json!({ "type": "DOCKER", "docker": { "image": IMAGE } });
    let offer = framework.offer().await;
    let before = SystemTime::now();
    let reply = framework.accept(&offer, vec![task]).await;
    assert!(reply.status.is_success(), "{}", reply.text());
    framework.until("the task", 60, |f| f.state(&name) == Some("TASK_RUNNING")).await;
    let heard = before.elapsed().expect("time goes on");
    let running = engine.containers().into_iter().find(|(_, state)| state == "running");
    let (container, _) = running.expect("it runs");
    let (_, body) = engine.api("GET", &format!("/containers/{container}/json"), None);
    framework.call("KILL", json!({ "task_id": { "value": name } })).await;
    framework.until("its end", 60, |f| f.end(&name).is_some()).await;
    (ran(&body, before), heard, body)
}

/// Makes and starts a container like that one, and removes it; how long until it ran.
fn start(engine: &Dockerd, like: &Value, round: usize) -> Duration {
    let mut body = like["Config"].clone();
    body["HostConfig"] = like["HostConfig"].clone();
    let name = format!("bare-{round}");
    let before = SystemTime::now();
    let (status, answer) =
        engine.api("POST", &format!("/containers/create?name={name}"), Some(&body));
    assert_eq!(status, 201, "{answer}");
    let (status, answer) = engine.api("POST", &format!("/containers/{name}/start"), None);
    assert_eq!(status, 204, "{answer}");
    let (_, body) = engine.api("GET", &format!("/containers/{name}/json"), None);
    let (status, answer) = engine.api("DELETE", &format!("/containers/{name}?force=1"), None);
    assert_eq!(status, 204, "{answer}");
    ran(&body, before)
}

/// In milliseconds.
fn middle(all: &[Duration]) -> f64 {
    median(&mut all.iter().map(|time| time.as_secs_f64() * 1e3).collect::<Vec<_>>())
}
