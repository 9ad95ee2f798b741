//! Docker's networks: a web server behind a mapped port, refusals by name, and a
//! custom executor.

use std::process::Command;

use serde_json::{Value, json};

use super::scene::{cluster, docker_task, eventually};
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
        let mut task = docker_task(name, &line.replace("mkdir", "busybox mkdir"));
        task["container"]["docker"]["network"] = network.into();
        task["container"]["docker"]["port_mappings"] =
            json!([{ "host_port": host_port, "container_port": 80, "protocol": "tcp" }]);
        task["resources"].as_array_mut().expect("a list").push(ports(offered));
        task
    };
    let mut web = task("web", "BRIDGE", 31_005, 31_005);
    web["container"]["hostname"] = "webserver".into();
    framework.start(web).await;
    eventually("the page", || page(&engine, "http://127.0.0.1:31005/") == "page\n").await;
    let status = framework.statuses["web"].last().expect("a status").clone();
    let network = &status["container_status"]["network_infos"][0];
    let address = network["ip_addresses"][0]["ip_address"].as_str().unwrap_or_default();
    assert_eq!(page(&engine, &format!("http://{address}/")), "page\n", "{status}");
    framework.call("KILL", json!({ "task_id": { "value": "web" } })).await;
    framework.until("the kill", 60, |f| f.end("web").is_some()).await;
    assert_eq!(framework.state("web"), Some("TASK_KILLED"));
    assert_eq!(page(&engine, "http://127.0.0.1:31005/"), "");

    for (task, words) in [
        (task("other", "BRIDGE", 31_006, 31_007), "port 31006 is not among the task's resources"),
        (task("host", "HOST", 31_008, 31_008), "'port_mappings' need a BRIDGE or USER network"),
        (task("user", "USER", 31_009, 31_009), "network USER needs one entry in 'network_infos'"),
    ] {
        let end = framework.run(task, 60).await;
        let message = end["message"].as_str().unwrap_or_default();
        assert!(message.contains(words), "{message}");
    }
}
