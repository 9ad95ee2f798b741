//! Docker's networks: a web server behind a mapped port and in a network that a user
//! made, checked from inside; refusals by name.

use std::process::Command;

use base64::Engine as _;
use serde_json::{Value, json};

use super::scene::{cluster, deaf, docker_task, eventually};
use crate::dockerd::{Dockerd, Network};
use crate::framework::Framework;
use crate::require;

/// A page from the engine's own network.
fn page(engine: &Dockerd, url: &str) -> String {
    let output = Command::new("nsenter")
        .args(["--net", "-t", &engine.pid().to_string(), "busybox", "wget", "-qO-", url])
        .output()
        .expect("run nsenter");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn ports(port: u16) -> Value {
    json!({ "name": "ports", "type": "RANGES",
            "ranges": { "range": [{ "begin": port, "end": port }] } })
}

#[tokio::test]
async fn a_page_is_served_behind_a_mapped_port() {
    require!(root, cgroup, busybox, docker, nsenter);
    let engine = Dockerd::start("bridge", Network::Own);
    let cluster = cluster("docker-bridge", &engine, &[]);
    let mut framework = Framework::subscribe(&cluster.master, "docker-bridge").await;
    let line = "mkdir -p /www && echo page > /www/index.html && exec httpd -f -p 80 -h /www";
    let task = |name: &str, network: &str, host_port: u16, offered: u16| {
        let mut task = deaf(docker_task(name, &line.replace("mkdir", "busybox mkdir")));
        task["container"]["docker"]["network"] = network.into();
        task["container"]["docker"]["port_mappings"] =
            json!([{ "host_port": host_port, "container_port": 80, "protocol": "tcp" }]);
        task["resources"].as_array_mut().expect("a list").push(ports(offered));
        task
    };
    let mut web = task("web", "BRIDGE", 31_005, 31_005);
    web["container"]["hostname"] = "webserver".into();
    // Answers only in the container's own network.
    web["health_check"] = json!({ "type": "HTTP", "interval_seconds": 0.2, "delay_seconds": 0.0,
        "grace_period_seconds": 60.0, "http": { "port": 80, "path": "/" } });
    framework.start(web).await;
    eventually("the page", || page(&engine, "http://127.0.0.1:31005/") == "page\n").await;
    let status = framework.statuses["web"].last().expect("a status").clone();
    let network = &status["container_status"]["network_infos"][0];
    let address = network["ip_addresses"][0]["ip_address"].as_str().unwrap_or_default();
    assert_eq!(page(&engine, &format!("http://{address}/")), "page\n", "{status}");
    // What Mesos' docker executor says of a running container.
    let running = framework.statuses["web"].iter().find(|s| s["state"] == "TASK_RUNNING");
    let running = running.expect("it ran").clone();
    let label = &running["labels"]["labels"][0];
    assert_eq!(label["key"], "Docker.NetworkSettings.IPAddress", "{running}");
    assert_eq!(label["value"], address);
    let data = base64::engine::general_purpose::STANDARD
        .decode(running["data"].as_str().unwrap_or_default())
        .expect("base64");
    let data: Value = serde_json::from_slice(&data).expect("JSON");
    assert_eq!(data[0]["State"]["Running"], true, "{data}");
    framework
        .until("health", 60, |f| f.statuses["web"].iter().any(|status| status["healthy"] == true))
        .await;
    framework.call("KILL", json!({ "task_id": { "value": "web" } })).await;
    framework.until("the kill", 60, |f| f.end("web").is_some()).await;
    assert_eq!(framework.state("web"), Some("TASK_KILLED"));
    assert_eq!(page(&engine, "http://127.0.0.1:31005/"), "");

    // A network that somebody made, and a task that is found in it by its address.
    let (status, answer) = engine.api("POST", "/networks/create", Some(&json!({ "Name": "blue" })));
    assert_eq!(status, 201, "{answer}");
    let mut blue = task("blue", "USER", 31_010, 31_010);
    blue["container"]["network_infos"] = json!([{ "name": "blue" }]);
    blue["check"] = json!({ "type": "TCP", "interval_seconds": 0.2, "delay_seconds": 0.0,
        "tcp": { "port": 80 } });
    framework.start(blue).await;
    let connects = |f: &Framework| {
        let succeeded = |s: &Value| s["check_status"]["tcp"]["succeeded"] == true;
        f.statuses["blue"].iter().any(succeeded)
    };
    framework.until("the check", 60, connects).await;
    let status = framework.statuses["blue"].last().expect("a status").clone();
    let network = &status["container_status"]["network_infos"][0];
    assert_eq!(network["name"], "blue", "{status}");
    let address = network["ip_addresses"][0]["ip_address"].as_str().unwrap_or_default();
    assert_eq!(page(&engine, &format!("http://{address}/")), "page\n", "{status}");
    assert_eq!(page(&engine, "http://127.0.0.1:31010/"), "page\n");
    let (_, known) = engine.api("GET", "/networks/blue", None);
    assert!(known["Containers"].to_string().contains(&format!("{address}/")), "{known}");
    let mut nowhere = task("nowhere", "USER", 31_011, 31_011);
    nowhere["container"]["network_infos"] = json!([{ "name": "green" }]);

    for (task, words) in [
        (nowhere, "network green not found"),
        (task("other", "BRIDGE", 31_006, 31_007), "port 31006 is not among the task's resources"),
        (task("host", "HOST", 31_008, 31_008), "'port_mappings' need a BRIDGE or USER network"),
        (task("user", "USER", 31_009, 31_009), "network USER needs one entry in 'network_infos'"),
    ] {
        let end = framework.run(task, 60).await;
        let message = end["message"].as_str().unwrap_or_default();
        assert!(message.contains(words), "{message}");
    }
}
