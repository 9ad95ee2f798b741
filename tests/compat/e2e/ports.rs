//! `network/ports` of a real agent: tasks on their own ports run, on others end with
//! Mesos' reason, or are refused by the kernel.

use std::net::TcpListener;
use std::time::{Duration, Instant};

use bulkhead::wire::client::{Call, Client};
use kernel::cgroup::Hierarchies;
use serde_json::{Value, json};

use crate::cluster::{Cluster, Options, binary, get};
use crate::framework::{Framework, command};
use crate::{require, support};

const ISOLATION: &str = "--isolation=cgroups/mem,namespaces/pid,filesystem/linux,network/ports";

/// A task that listens on `port` and has `own`; `kind` is `tcp` or `udp`.
fn listener(name: &str, kind: &str, port: u16, own: u16) -> Value {
    let line = format!("exec {} listen {kind} 0.0.0.0:{port}", binary("probe").display());
    let mut task = command(name, &line, 32.0);
    let ports = json!({
        "name": "ports", "type": "RANGES",
        "ranges": { "range": [{ "begin": own, "end": own }] },
    });
    task["resources"].as_array_mut().expect("a list").push(ports);
    task
}

/// Free ports among the agent's default ones, from the upper end.
fn free_ports<const N: usize>() -> [u16; N] {
    let mut free = (31_500..32_000).filter(|port| TcpListener::bind(("0.0.0.0", *port)).is_ok());
    std::array::from_fn(|_| free.next().expect("a free port"))
}

fn have_probe(test: &str) -> bool {
    let built = binary("probe").is_file();
    if !built {
        support::skip(test, "the probe (cargo build -p probe)");
    }
    built
}

#[tokio::test]
async fn tasks_on_foreign_ports_end_with_the_reason() {
    require!(root, cgroup);
    if !have_probe("tasks_on_foreign_ports_end_with_the_reason") {
        return;
    }
    let options = Options::default().agent(&[
        ISOLATION,
        "--enforce_container_ports",
        "--container_ports_watch_interval=200ms",
    ]);
    let cluster = Cluster::start("ports", options);
    let mut framework = Framework::subscribe(&cluster.master, "ports").await;
    let [own, other, foreign] = free_ports();
    framework.start(listener("good", "tcp", own, own)).await;
    for kind in ["tcp", "udp"] {
        let name = format!("bad-{kind}");
        let end = framework.run(listener(&name, kind, foreign, other), 60).await;
        assert_eq!(end["state"], "TASK_FAILED", "{end}");
        assert_eq!(end["reason"], "REASON_CONTAINER_LIMITATION", "{end}");
        let message = end["message"].as_str().unwrap_or("");
        let wanted = format!("is listening on unallocated port(s): [{foreign}-{foreign}]");
        assert!(message.starts_with("Container ") && message.ends_with(&wanted), "{message}");
        let limited = &end["limitation"]["resources"][0];
        assert_eq!(limited["name"], "ports", "{end}");
        assert_eq!(limited["ranges"]["range"][0]["begin"], foreign, "{end}");
    }
    assert_eq!(framework.state("good"), Some("TASK_RUNNING"));
    framework.call("TEARDOWN", Value::Null).await;
}

#[test]
fn offered_ports_that_others_may_have_are_said_at_start() {
    require!(root, cgroup);
    let [taken, free] = free_ports();
    let _holder = TcpListener::bind(("127.0.0.1", taken)).expect("a free port");
    let (first, last) = kernel::netlink::diag::ephemeral_ports().expect("the kernel's range");
    // The last of the kernel's own, and some that are nobody's.
    let offered = format!("cpus:1;mem:64;ports:[{free}-{free},{taken}-{taken},{last}-{last}]");
    let options = Options::default().agent(&[ISOLATION, &format!("--resources={offered}")]);
    let cluster = Cluster::start("ports-start", options);
    let logs = cluster.logs();
    let both = format!("the ports [{last}-{last}] of --resources are also given to outgoing");
    let range = format!("net.ipv4.ip_local_port_range is {first}-{last}");
    assert!(logs.contains(&both) && logs.contains(&range), "{logs}");
    let used = format!("ports of --resources are in use by others: tcp 127.0.0.1:{taken}");
    assert!(logs.contains(&used), "{logs}");
}

#[tokio::test]
async fn foreign_ports_are_refused_and_the_task_hears_of_it() {
    require!(root, cgroup);
    let name = "foreign_ports_are_refused_and_the_task_hears_of_it";
    if Hierarchies::detect().expect("the mount table").unified().is_none() {
        return support::skip(name, "a cgroup2 mount");
    }
    if !have_probe(name) {
        return;
    }
    let options = Options::default().agent(&[ISOLATION, "--container_ports_bind=ephemeral"]);
    let cluster = Cluster::start("ports-bind", options);
    let mut framework = Framework::subscribe(&cluster.master, "ports").await;
    let [own, other, foreign] = free_ports();
    for (name, own, port, wanted) in [
        ("good", own, own, format!("listening {own}")),
        ("bad", other, foreign, "errno 1".to_owned()),
    ] {
        let mut task = listener(name, "tcp", port, own);
        let line = task["command"]["value"].as_str().unwrap_or("").replace("exec ", "timeout 5 ");
        let line = format!("{line} | grep -qx '{wanted}'");
        task["command"]["value"] = line.into();
        let end = framework.run(task, 60).await;
        assert_eq!(end["state"], "TASK_FINISHED", "{end}");
    }
    framework.call("TEARDOWN", Value::Null).await;
}

#[tokio::test]
async fn statistics_tell_where_tasks_listen() {
    require!(root, cgroup);
    if !have_probe("statistics_tell_where_tasks_listen") {
        return;
    }
    let options = Options::default().agent(&[ISOLATION, "--container_ports_watch_interval=200ms"]);
    let cluster = Cluster::start("ports-told", options);
    let mut framework = Framework::subscribe(&cluster.master, "ports").await;
    let [tcp, udp] = free_ports();
    framework.start(listener("tcp", "tcp", tcp, tcp)).await;
    framework.start(listener("udp", "udp", udp, udp)).await;
    let wanted = |name: &str, port: u16| json!({ name: [{ "begin": port, "end": port }] });
    let told = |path: &str, task: &str| {
        let all: Value = serde_json::from_str(&get(&cluster.agent, path).expect(path)).expect(path);
        let entry = all.as_array().into_iter().flatten().find(|e| e["executor_id"] == task);
        entry.map(|entry| entry["statistics"]["net_listening_ports"].clone()).unwrap_or_default()
    };
    for path in ["/monitor/statistics", "/containers"] {
        for (task, port) in [("tcp", tcp), ("udp", udp)] {
            let by = Instant::now() + Duration::from_secs(60);
            while told(path, task) != wanted(task, port) {
                assert!(Instant::now() < by, "{path}, {task}: {}", told(path, task));
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }
    // What has a schema is Mesos' own.
    let list = json!({ "type": "GET_CONTAINERS", "get_containers": {} }).to_string();
    let call = Call::post("/api/v1", "application/json", list);
    let client = Client::new(cluster.agent.clone());
    let call = call.header("accept", "application/json");
    let answer = client.call(call).await.expect("an answer").text();
    assert!(
        answer.contains("resource_statistics") && !answer.contains("net_listening_ports"),
        "{answer}"
    );
    framework.call("TEARDOWN", Value::Null).await;
}
