//! Docker tasks on networks of `network/cni`: beside native ones, over deaths of the
//! agent and of the engine. The test's own network namespace plays the host.

use std::process::Command;

use serde_json::{Value, json};

use super::dying::dies_at;
use super::host::{Host, addresses, bridge, ip, output, statistics, task};
use super::scene::{container, deaf, docker_task, eventually};
use crate::cluster::{Cluster, Options};
use crate::dockerd::{Dockerd, Network};
use crate::framework::Framework;
use crate::podman::Podman;
use crate::require;

/// A docker task on networks, which serves a page.
fn page(name: &str, networks: &[&str]) -> Value {
    let line = "busybox mkdir -p /www && echo page > /www/index.html && cat /etc/hosts \
                /etc/resolv.conf && echo up && exec httpd -f -p 80 -h /www";
    let mut task = deaf(docker_task(name, line));
    let infos: Vec<Value> = networks.iter().map(|name| json!({ "name": name })).collect();
    task["container"]["network_infos"] = infos.into();
    task["container"]["docker"]["network"] = "USER".into();
    task
}

/// The page, as the host gets it.
fn read(address: &str) -> String {
    let url = match address.contains(':') && !address.contains('.') {
        true => format!("http://[{address}]/"),
        false => format!("http://{address}/"),
    };
    let wget = Command::new("timeout").args(["5", "busybox", "wget", "-qO-", &url]).output();
    String::from_utf8_lossy(&wget.expect("run timeout").stdout).into_owned()
}

/// What the engine has of holders.
fn holders(engine: &Dockerd) -> Vec<String> {
    let names = engine.containers().into_iter().map(|(name, _)| name);
    names.filter(|name| name.ends_with(".network")).collect()
}

/// A cluster whose agent uses the engine and the host's networks.
async fn cluster(host: &Host, flags: &[String], name: &str) -> (Cluster, Framework) {
    let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
    let options: Options = host.options(&flags);
    let cluster = Cluster::start(name, options);
    let framework = Framework::subscribe(&cluster.master, name).await;
    (cluster, framework)
}

/// Two bridges, one with a way in from outside, and a network that merely keeps a book, in
/// the newest version.
fn configure(host: &Host) {
    let mut dns = bridge(host, "web", 3);
    dns["dns"] = json!({ "nameservers": ["10.77.3.1"], "search": ["web.test"] });
    host.configure(
        "web.conflist",
        &json!({ "cniVersion": "1.0.0", "name": "web", "plugins": [
        dns, { "type": "bulkhead-port-mapper", "capabilities": { "portMappings": true } }] }),
    );
    host.configure("back.conf", &bridge(host, "back", 4));
    let result = r#"{"cniVersion":"1.1.0","ips":[{"address":"10.0.0.9/24"}]}"#;
    host.plugin("book", &format!("if [ $CNI_COMMAND = ADD ]; then echo '{result}'; fi"));
    host.configure(
        "book.conf",
        &json!({ "cniVersions": ["1.0.0", "1.1.0"], "name": "book", "type": "book" }),
    );
}

/// A page on all three, with everything that a docker task may say of its network.
fn web() -> Value {
    let mut web = page("web", &["web", "back", "book"]);
    web["container"]["hostname"] = "webserver".into();
    web["container"]["docker"]["port_mappings"] =
        json!([{ "host_port": 31_080, "container_port": 80, "protocol": "tcp" }]);
    web["container"]["docker"]["parameters"] =
        json!([{ "key": "add-host", "value": "db:10.0.0.9" }]);
    web["resources"].as_array_mut().expect("a list").push(json!({ "name": "ports",
        "type": "RANGES", "ranges": { "range": [{ "begin": 31_080, "end": 31_080 }] } }));
    web["health_check"] = json!({ "type": "HTTP", "interval_seconds": 0.2, "delay_seconds": 0.0,
        "grace_period_seconds": 60.0, "http": { "port": 80, "path": "/" } });
    web
}

/// What cannot be is said, and leaves nothing.
async fn refusals(cluster: &Cluster, framework: &mut Framework) {
    let both = page("both", &["web", "blue"]);
    let mut mac = page("mac", &["web"]);
    mac["container"]["docker"]["parameters"] =
        json!([{ "key": "mac-address", "value": "02:00:00:00:00:01" }]);
    let mut image = page("image", &["web"]);
    image["container"]["docker"]["image"] = "localhost:1/no/such:image".into();
    for (task, words) in [
        (both, "'web' is a CNI network and 'blue' is none"),
        (mac, "use the label 'cni.mac'"),
        (image, "failed to pull image"),
        (page("nowhere", &["blue"]), "network blue not found; not found, either: the CNI network"),
    ] {
        let end = framework.run(task, 60).await;
        let message = end["message"].as_str().unwrap_or_default();
        assert!(message.contains(words), "{message}");
    }
    // As ever where somebody says how.
    let mut none = docker_task("none", "busybox ip link | busybox grep -c eth; true");
    none["container"]["network_infos"] = json!([{ "name": "web" }]);
    none["container"]["docker"]["network"] = "NONE".into();
    let end = framework.run(none, 60).await;
    assert_eq!(end["state"], "TASK_FINISHED", "{end}");
    assert_eq!(output(cluster, "none", "\n"), "0\n");
}

#[tokio::test]
async fn docker_tasks_are_on_the_networks_of_native_ones() {
    require!(root, cgroup, busybox, docker, cni_plugins, nft);
    let host = Host::new("docker-cni");
    let mut engine = Dockerd::start("cni", Network::Host);
    configure(&host);
    let (mut cluster, mut framework) = cluster(&host, &engine.flags(), "docker-cni").await;

    framework.start(web()).await;
    let said = output(&cluster, "web", "up\n");
    let told = addresses(&framework, "web");
    assert_eq!(told.iter().map(Vec::len).collect::<Vec<_>>(), [2, 2, 1], "{told:?}");
    for wanted in
        [format!("{} webserver\n", told[0][0]), "10.0.0.9 db\n".into(), "search web.test\n".into()]
    {
        assert!(said.contains(&wanted), "{wanted:?} is not in {said}");
    }
    for address in told[..2].iter().flatten() {
        eventually("the page", || read(address) == "page\n").await;
    }
    assert_eq!(read("198.51.100.1:31080"), "page\n", "the published port");
    let running = framework.statuses["web"].iter().find(|s| s["state"] == "TASK_RUNNING");
    let label = &running.expect("it ran")["labels"]["labels"][0];
    assert_eq!(label["value"], told[0][0].as_str(), "Docker.NetworkSettings.IPAddress");
    let healthy = |f: &Framework| f.statuses["web"].iter().any(|s| s["healthy"] == true);
    framework.until("health", 60, healthy).await;
    // A native container reaches it, and it counts what came.
    let line = format!("timeout 20 busybox wget -qO- http://{}/", told[0][0]);
    let end = framework.run(task("native", &line, &["web"]), 60).await;
    assert_eq!(end["state"], "TASK_FINISHED", "{end}");
    eventually("figures", || {
        statistics(&cluster, "web")["net_rx_bytes"].as_f64().is_some_and(|bytes| bytes > 0.0)
    })
    .await;

    // The next agent knows where it is, and says so to plugins.
    let before = host.calls().len();
    cluster.kill_agent();
    cluster.start_agent();
    let since = |kind: &str| {
        let calls = host.calls().into_iter().skip(before);
        calls.filter(|(command, ..)| command == kind).map(|(.., conf)| conf).next()
    };
    eventually("CHECK", || since("CHECK").is_some()).await;
    let name = container(&cluster, "web");
    let id = name.strip_prefix("mesos-").expect("a prefix");
    let valid = json!([{ "containerID": id, "ifname": "eth2" }]);
    assert_eq!(since("GC").expect("a call")["cni.dev/valid-attachments"], valid);
    assert_eq!(since("DEL"), None);
    assert_eq!((read(&told[1][0]), read("198.51.100.1:31080")), ("page\n".into(), "page\n".into()));
    let before = framework.statuses["web"].len();
    let sick = json!({ "task_id": { "value": "web" } });
    framework.call("RECONCILE", json!({ "tasks": [sick] })).await;
    framework.until("news", 60, |f| f.statuses["web"].len() > before).await;
    assert_eq!(addresses(&framework, "web"), told);
    assert_eq!(holders(&engine).len(), 1, "{:?}", engine.containers());

    // The engine dies, and ends what it finds when it is back.
    framework.start(page("doomed", &["back"])).await;
    assert_eq!(host.leases("back").len(), 4);
    engine.kill();
    engine.run();
    for name in ["web", "doomed"] {
        framework.until("the end", 90, |f| f.end(name).is_some()).await;
    }
    eventually("the holders to go", || holders(&engine).is_empty()).await;
    host.wait_clean(&cluster, &mut framework).await;
    assert!(!host_rules().contains("bulkhead"), "{}", host_rules());

    refusals(&cluster, &mut framework).await;
    eventually("the holders to go", || holders(&engine).is_empty()).await;
    host.wait_clean(&cluster, &mut framework).await;
}

fn host_rules() -> String {
    super::host::run("nft list tables")
}

/// Name servers of this machine that a container elsewhere may reach, too.
fn name_servers() -> Vec<String> {
    let text = std::fs::read_to_string("/etc/resolv.conf").unwrap_or_default();
    let lines = text.lines().filter_map(|line| line.strip_prefix("nameserver "));
    let told = lines.filter_map(|line| line.trim().parse::<std::net::Ipv4Addr>().ok());
    told.filter(|ip| !ip.is_loopback()).map(|ip| format!("nameserver {ip}\n")).collect()
}

/// Podman is given the namespace itself, so there is no holder.
#[tokio::test]
async fn podmans_containers_are_on_the_networks_of_native_ones() {
    require!(root, cgroup, busybox, program_podman, cni_plugins, nft);
    let host = Host::new("podman-cni");
    let podman = Podman::start("cni");
    configure(&host);
    let (mut cluster, mut framework) = cluster(&host, &podman.flags(), "podman-cni").await;

    framework.start(Podman::of(web())).await;
    let said = output(&cluster, "web", "up\n");
    let told = addresses(&framework, "web");
    assert_eq!(told.iter().map(Vec::len).collect::<Vec<_>>(), [2, 2, 1], "{told:?}");
    let name = format!("{} webserver\n", told[0][0]);
    for wanted in [&name, "10.0.0.9 db\n", "search web.test\n", "nameserver 10.77.3.1\n"] {
        assert!(said.contains(wanted), "{wanted:?} is not in {said}");
    }
    for address in told[..2].iter().flatten() {
        eventually("the page", || read(address) == "page\n").await;
    }
    assert_eq!(read("198.51.100.1:31080"), "page\n", "the published port");
    let healthy = |f: &Framework| f.statuses["web"].iter().any(|s| s["healthy"] == true);
    framework.until("health", 60, healthy).await;
    // A native container reaches it, and one of Podman's.
    let line = format!("timeout 20 busybox wget -qO- http://{}/", told[1][0]);
    let mut asks = page("asks", &["back"]);
    asks["command"]["value"] = format!("hostname && exec {line}").into();
    asks["container"]["hostname"] = "asker".into();
    for (task, said) in [(task("native", &line, &["back"]), "page\n"), (asks, "asker\npage\n")] {
        let name = task["task_id"]["value"].as_str().expect("a name").to_owned();
        let task = if name == "asks" { Podman::of(task) } else { task };
        let end = framework.run(task, 60).await;
        assert_eq!(end["state"], "TASK_FINISHED", "{end}");
        assert_eq!(output(&cluster, &name, said), said);
    }

    // Where no network has name servers, it has the engine's, or what its task says.
    framework.start(Podman::of(page("plain", &["back"]))).await;
    let said = output(&cluster, "plain", "up\n");
    assert!(said.contains("nameserver "), "{said}");
    for server in name_servers() {
        assert!(said.contains(&server), "{server:?} is not in {said}");
    }
    let mut own = page("own", &["web"]);
    own["container"]["docker"]["parameters"] = json!([{ "key": "dns", "value": "10.9.9.9" },
        { "key": "dns-search", "value": "own.test" }]);
    framework.start(Podman::of(own)).await;
    let said = output(&cluster, "own", "up\n");
    assert!(said.contains("search own.test\n") && said.contains("nameserver 10.9.9.9\n"), "{said}");
    assert!(!said.contains("10.77.3.1"), "{said}");

    // The next agent knows where they are.
    cluster.kill_agent();
    cluster.start_agent();
    let before = framework.statuses["web"].len();
    let web = json!({ "task_id": { "value": "web" } });
    framework.call("RECONCILE", json!({ "tasks": [web] })).await;
    framework.until("news", 60, |f| f.statuses["web"].len() > before).await;
    assert_eq!(addresses(&framework, "web"), told);
    assert_eq!((read(&told[1][0]), read("198.51.100.1:31080")), ("page\n".into(), "page\n".into()));
    assert!(podman.containers().iter().all(|name| !name.ends_with(".network")));
    for name in ["web", "plain", "own"] {
        framework.call("KILL", json!({ "task_id": { "value": name } })).await;
        framework.until("the kill", 60, |f| f.end(name).is_some()).await;
    }
    host.wait_clean(&cluster, &mut framework).await;
    assert!(!host_rules().contains("bulkhead"), "{}", host_rules());

    // Nor does an agent leave anything that dies on the way.
    for point in ["cni.namespace", "docker.created", "docker.departed"] {
        let task = Podman::of(page(point, &["web", "back"]));
        dies_at(point, task, (&mut cluster, &mut framework), async |framework| {
            if framework.end(point).is_none() {
                let told = addresses(framework, point);
                eventually("the page", || read(&told[1][0]) == "page\n").await;
            }
        })
        .await;
        host.wait_clean(&cluster, &mut framework).await;
    }
}

#[tokio::test]
async fn an_agent_that_dies_on_the_way_leaves_no_network_behind() {
    require!(root, cgroup, busybox, docker, cni_plugins);
    let host = Host::new("docker-cni-deaths");
    let engine = Dockerd::start("cni-deaths", Network::Host);
    host.configure("one.conf", &bridge(&host, "one", 3));
    let mut own = bridge(&host, "two", 4);
    own["type"] = "bulkhead-bridge".into();
    host.configure("two.conf", &own);
    let (mut cluster, mut framework) = cluster(&host, &engine.flags(), "docker-cni-deaths").await;
    let of_docker = kernel::failpoint::ALL.iter().filter(|point| point.starts_with("docker."));
    let points = of_docker.chain(&["cni.namespace", "cni.added_one"]);
    for (index, point) in points.enumerate() {
        let name = format!("t{index}");
        let task = page(&name, &["one", "two"]);
        dies_at(point, task, (&mut cluster, &mut framework), async |framework| {
            if framework.end(&name).is_some() {
                // Made, and maybe started: nobody may start it twice.
                assert_eq!(*point, "docker.created", "{:?}", framework.statuses[&name]);
                return;
            }
            // Launched again, or found running.
            let told = addresses(framework, &name);
            assert_eq!(told.len(), 2, "{point}: {told:?}");
            eventually("the page", || read(&told[1][0]) == "page\n").await;
            assert_eq!(host.leases("one").len(), 2, "{point}");
        })
        .await;
        eventually("the holders to go", || holders(&engine).is_empty()).await;
        host.wait_clean(&cluster, &mut framework).await;
    }
    assert!(ip("-o link").contains("br3"), "the bridge is everybody's");
}
