//! What everybody tries first: nginx of Debian from a registry, on the host's network and
//! behind a mapped port, asked for its page, watched, and stopped; then the same image
//! without an engine. The test's own network namespace plays the host.

use std::process::Command;

use serde_json::{Value, json};

use super::host::{Host, statistics};
use super::images::Registry;
use super::scene::{docker_task, eventually, file};
use crate::cluster::{Cluster, Options};
use crate::dockerd::{Dockerd, Network};
use crate::framework::Framework;
use crate::{nginx, require, support};

/// How the image is run, as nginx' own is; it says what it is told to do.
const LINES: [&str; 2] =
    [r#"CMD ["nginx", "-g", "daemon off; error_log stderr notice;"]"#, "EXPOSE 80"];
/// Time to end, in seconds. Longer than the test waits for it: what has ended by then was
/// not killed.
const GRACE: u64 = 300;
/// Pulling, unpacking and copying the image may take that long, in seconds.
const PULL: u64 = 180;

/// What a browser would get.
fn page(url: &str) -> String {
    let curl = Command::new("curl").args(["-sS", "--max-time", "10", url]).output();
    String::from_utf8_lossy(&curl.expect("run curl").stdout).into_owned()
}

async fn serves(url: &str) {
    eventually("the page", || page(url).contains("Welcome to nginx!")).await;
}

/// The image's own command.
fn web(name: &str, container: Value) -> Value {
    let mut web = docker_task(name, "");
    web["command"] = json!({ "shell": false });
    web["container"] = container;
    web["kill_policy"] = json!({ "grace_period": { "nanoseconds": GRACE * 1_000_000_000 } });
    web["resources"][1]["scalar"]["value"] = 128.0.into();
    web
}

async fn start(framework: &mut Framework, task: Value) {
    let name = task["task_id"]["value"].as_str().expect("a name").to_owned();
    framework.launch(vec![task]).await;
    let known = |f: &Framework| f.end(&name).is_some() || f.state(&name) == Some("TASK_RUNNING");
    framework.until("it to run", PULL, known).await;
    assert_eq!(framework.state(&name), Some("TASK_RUNNING"), "{:?}", framework.statuses[&name]);
}

/// Ends a task; it must have heard the signal.
async fn stop(cluster: &Cluster, framework: &mut Framework, name: &str, signal: &str) {
    framework.call("KILL", json!({ "task_id": { "value": name } })).await;
    framework.until("the kill", 120, |f| f.end(name).is_some()).await;
    assert_eq!(framework.state(name), Some("TASK_KILLED"), "{:?}", framework.end(name));
    let said = file(cluster, name, "stderr");
    assert!(said.contains(&format!("{signal} received")), "{name}: {said}");
}

/// Figures that grow with what it does: the kernel counts hundredths of a second, which
/// starting alone may not take.
async fn is_watched(cluster: &Cluster, name: &str, url: &str) {
    let number = |figures: &Value, name: &str| figures[name].as_f64().unwrap_or_default();
    eventually("figures", || {
        page(url);
        let figures = statistics(cluster, name);
        number(&figures, "cpus_user_time_secs") + number(&figures, "cpus_system_time_secs") > 0.0
            && number(&figures, "mem_total_bytes") > 0.0
            && number(&figures, "mem_limit_bytes") == f64::from(128 << 20)
    })
    .await;
}

#[tokio::test]
async fn nginx_serves_its_page_on_every_network_and_ends_when_asked() {
    require!(root, cgroup, overlay, busybox, docker, program_docker_registry, curl);
    if !nginx::can_be_had() {
        return support::skip("docker::walkthrough", "debootstrap and a mirror of Debian");
    }
    let files = std::fs::read(nginx::archive()).expect("read the archive");
    let host = Host::new("docker-nginx");
    let engine = Dockerd::start("nginx", Network::Here);
    let registry = Registry::start(false);
    let name = format!("{}/nginx", registry.host);
    engine.import_files(&name, "1", files, &LINES);
    let answer = engine.push(&name, "1", "me", "secret");
    assert!(answer.contains("digest: sha256:"), "{answer}");
    let image = format!("{name}:1");
    assert_eq!(engine.api("DELETE", &format!("/images/{image}"), None).0, 200);

    let mut flags = engine.flags();
    flags.push("--image_providers=docker".into());
    flags.push(format!("--docker_store_dir={}", host.path("store").display()));
    flags.push("--docker_keep_exited=0".into());
    flags.push(
        "--isolation=cgroups/cpu,cgroups/mem,cgroups/pids,namespaces/pid,filesystem/linux,\
         docker/runtime"
            .into(),
    );
    let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
    let cluster = Cluster::start("docker-nginx", Options::default().agent(&flags));
    let mut framework = Framework::subscribe(&cluster.master, "docker-nginx").await;

    let docker = |network: &str| json!({ "type": "DOCKER", "docker": { "image": image, "network": network } });
    let mut on_host = web("host", docker("HOST"));
    // That of nginx' own image: what is being served is served to its end.
    on_host["container"]["docker"]["parameters"] =
        json!([{ "key": "stop-signal", "value": "SIGQUIT" }]);
    start(&mut framework, on_host).await;
    let mut bridged = web("bridge", docker("BRIDGE"));
    let of_docker = &mut bridged["container"]["docker"];
    of_docker["port_mappings"] = json!([{ "host_port": 31_080, "container_port": 80 }]);
    bridged["resources"].as_array_mut().expect("a list").push(json!({ "name": "ports",
        "type": "RANGES", "ranges": { "range": [{ "begin": 31_080, "end": 31_080 }] } }));
    start(&mut framework, bridged).await;
    let status = framework.statuses["bridge"].last().expect("a status");
    let address = &status["container_status"]["network_infos"][0]["ip_addresses"][0];
    let address = address["ip_address"].as_str().unwrap_or_default();
    for url in ["127.0.0.1:80", "127.0.0.1:31080", "198.51.100.1:31080", address] {
        serves(&format!("http://{url}/")).await;
    }
    for (name, port) in [("host", 80), ("bridge", 31_080)] {
        is_watched(&cluster, name, &format!("http://127.0.0.1:{port}/")).await;
    }
    stop(&cluster, &mut framework, "host", "signal 3 (SIGQUIT)").await;
    stop(&cluster, &mut framework, "bridge", "signal 15 (SIGTERM)").await;
    for url in ["127.0.0.1:80", "127.0.0.1:31080"] {
        assert_eq!(page(&format!("http://{url}/")), "");
    }
    eventually("the ended ones to go", || engine.containers().is_empty()).await;

    // The same without an engine.
    let of_image = json!({ "type": "DOCKER", "docker": { "name": image } });
    let native = json!({ "type": "MESOS", "mesos": { "image": of_image } });
    start(&mut framework, web("native", native)).await;
    serves("http://127.0.0.1:80/").await;
    is_watched(&cluster, "native", "http://127.0.0.1:80/").await;
    stop(&cluster, &mut framework, "native", "signal 15 (SIGTERM)").await;
    cluster.wait_clean();
}
