//! The agent dies while containers join and leave networks. The next one puts everything
//! in order.

use std::fs::File;
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::dying::dies_at;
use super::host::{Host, addresses, bridge, ip, links, run, sh, task, text};
use crate::cluster::binary;
use crate::require;

/// What somebody else has on this host.
const THEIRS: &str = "ip link add theirs type bridge && ip link set theirs up && \
    ip link add theirs0 type veth peer name theirs1 && ip link set theirs0 master theirs && \
    ip link set theirs0 up && ip address add 203.0.113.1/24 dev theirs && \
    ip route add 203.0.113.128/25 via 203.0.113.2 && \
    nft add table inet theirs && nft add set inet theirs s '{ type ipv4_addr; elements = { 10.9.9.9 }; }' && \
    nft add chain inet theirs c '{ type filter hook forward priority 5; policy accept; }' && \
    nft add rule inet theirs c ip saddr @s tcp dport 9 counter drop comment theirs && \
    nft add table bridge theirs && \
    iptables -A FORWARD -s 203.0.113.9 -j DROP && ip6tables -t nat -A POSTROUTING -s fd99::/64 -j MASQUERADE";

/// All that this host's network is made of, as text that stays the same while nothing is
/// changed. The two bridges are left out but for their names: that they are there is
/// right, and what the kernel says of them follows the ports that they have.
fn everything() -> String {
    let timers = "s/[a-z_]*timer +[0-9.]+//g; s/expires [0-9]+sec//; s/ tentative//; s/^#.*//";
    let theirs = |line: &str| text(&format!("{line} | grep -v 'br[34]' | sed -E '{timers}'"));
    let mut links = links();
    links.sort();
    [
        run("nft -j -s list ruleset"),
        links.join(" "),
        theirs("ip -o -d link"),
        theirs("ip -o address"),
        theirs("ip -o rule"),
        theirs("ip -4 route show table all"),
        theirs("ip -6 route show table all"),
        theirs("iptables-save"),
        theirs("ip6tables-save"),
    ]
    .join("\n")
}

/// Waits until all is as it was: the kernel lets go of interfaces and routes by and by.
fn unchanged(before: &str, point: &str) {
    let by = Instant::now() + Duration::from_secs(60);
    loop {
        let after = everything();
        if after == before {
            return;
        }
        let new: Vec<&str> = after.lines().filter(|line| !before.contains(line)).collect();
        let gone: Vec<&str> = before.lines().filter(|line| !after.contains(line)).collect();
        assert!(Instant::now() < by, "{point}: new {new:#?}, gone {gone:#?}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// A task with a published port, in a group.
fn member(name: &str) -> Value {
    let mut task = task(name, "sleep 1000", &["one", "two"]);
    let info = &mut task["container"]["network_infos"][0];
    info["port_mappings"] = json!([{ "host_port": 8080, "container_port": 80 }]);
    info["groups"] = json!(["red"]);
    task
}

/// Points after the first passage: one for each further plugin of a chain, in the order
/// in which they are passed.
const FURTHER: [&str; 5] = [
    "cni.plugin_added@2",
    "cni.plugin_added@3",
    "cni.plugin_deleted@2",
    "cni.plugin_deleted@3",
    "cni.plugin_deleted@4",
];

#[tokio::test]
async fn at_every_step() {
    require!(root, cgroup, cni_plugins, nft, program_iptables);
    let host = Host::new("net-deaths");
    let [mut one, mut two] = [bridge(&host, "one", 3), bridge(&host, "two", 4)];
    one.as_object_mut().expect("an object").remove("name");
    host.configure(
        "one.conflist",
        &json!({ "cniVersion": "1.0.0", "name": "one", "plugins": [one,
            { "type": "bulkhead-port-mapper", "capabilities": { "portMappings": true } },
            { "type": "bulkhead-groups" }] }),
    );
    two["type"] = "bulkhead-bridge".into();
    host.configure("two.conf", &two);
    assert!(sh(THEIRS));
    let (mut cluster, mut framework) = host.cluster("net-deaths", &[]).await;
    // The bridges are made once, and stay.
    framework.start(member("first")).await;
    framework.call("KILL", json!({ "task_id": { "value": "first" } })).await;
    framework.until("the end", 60, |f| f.end("first").is_some()).await;
    host.wait_clean(&cluster, &mut framework).await;
    let before = everything();
    let points = kernel::failpoint::ALL.iter().filter(|point| point.starts_with("cni."));
    for (index, point) in points.chain(&FURTHER).enumerate() {
        let name = format!("t{index}");
        dies_at(point, member(&name), (&mut cluster, &mut framework), async |framework| {
            // Launched again, or found running.
            assert!(framework.end(&name).is_none(), "{point}: {:?}", framework.statuses[&name]);
            assert_eq!(addresses(framework, &name).len(), 2, "{point}");
            assert_eq!(host.leases("one").len(), 2, "{point}");
            let ports = run("nft list table inet bulkhead_ports");
            assert_eq!(ports.matches("tcp . 8080").count(), 2, "{point}: {ports}");
        })
        .await;
        host.wait_clean(&cluster, &mut framework).await;
        unchanged(&before, point);
    }
}

/// Adds a container that no agent knows of, by our own plugins as programs.
fn stray(host: &Host, conf: &Value) -> String {
    let name = format!("stray-{}", std::process::id());
    ip(&format!("netns add {name}"));
    let mut previous = Value::Null;
    for plugin in conf["plugins"].as_array().into_iter().flatten() {
        let mut told = plugin.clone();
        told["name"] = conf["name"].clone();
        told["cniVersion"] = conf["cniVersion"].clone();
        told["runtimeConfig"] = json!({ "portMappings": [{ "hostPort": 8081, "containerPort": 80, "protocol": "tcp" }] });
        told["args"] = json!({ "org.apache.mesos": { "network_info": { "groups": ["blue"] } } });
        told["prevResult"] = previous;
        std::fs::write(host.path("told"), told.to_string()).expect("write");
        let kind = plugin["type"].as_str().expect("a type");
        let called = Command::new(binary("bulkhead-helper"))
            .arg0(kind)
            .env("CNI_COMMAND", "ADD")
            .env("CNI_CONTAINERID", &name)
            .env("CNI_IFNAME", "eth0")
            .env("CNI_NETNS", format!("/run/netns/{name}"))
            .stdin(File::open(host.path("told")).expect("readable"))
            .output()
            .expect("the helper");
        assert!(called.status.success(), "{kind}: {called:?}");
        previous = serde_json::from_slice(&called.stdout).expect("JSON");
    }
    ip(&format!("netns del {name}"));
    name
}

#[tokio::test]
async fn what_nobody_has_is_collected_at_start() {
    require!(root, cgroup, nft);
    let host = Host::new("net-collect");
    let mut conf = bridge(&host, "web", 5);
    conf["type"] = "bulkhead-bridge".into();
    let conf = json!({ "cniVersion": "1.1.0", "name": "web", "plugins": [conf,
        { "type": "bulkhead-port-mapper", "capabilities": { "portMappings": true } },
        { "type": "bulkhead-groups" }] });
    host.configure("web.conflist", &conf);
    let (mut cluster, mut framework) = host.cluster("net-collect", &[]).await;
    let mut own = task("own", "sleep 1000", &["web"]);
    let info = &mut own["container"]["network_infos"][0];
    info["port_mappings"] = json!([{ "host_port": 8080, "container_port": 80 }]);
    info["groups"] = json!(["red"]);
    framework.start(own).await;
    let rules = || run("nft -s list ruleset");
    let (leases, before) = (host.leases("web"), rules());
    let name = stray(&host, &conf);
    assert_eq!((host.leases("web").len(), leases.len()), (4, 2));
    assert!(rules().contains(&name) && rules().contains("8081"), "{}", rules());
    cluster.kill_agent();
    cluster.start_agent();
    // Done before the agent takes anything on.
    assert_eq!((host.leases("web"), rules()), (leases, before));
    framework.call("KILL", json!({ "task_id": { "value": "own" } })).await;
    framework.until("the end", 60, |f| f.end("own").is_some()).await;
    host.wait_clean(&cluster, &mut framework).await;
    assert_eq!(run("nft list tables"), "");
}

#[tokio::test]
async fn while_a_plugin_works_and_while_containers_run() {
    require!(root, cgroup);
    let host = Host::new("net-gc");
    let result = r#"{"cniVersion":"1.1.0","ips":[{"address":"10.0.0.9/24"}]}"#;
    let log = host.path("calls").display().to_string();
    let slow = format!(
        "if [ $CNI_COMMAND = ADD ]; then\n  [ -e {} ] || sleep 2\n  echo \"ADDED $CNI_CONTAINERID eth0 {{}}\" >>{log}\n  echo '{result}'\nfi",
        host.path("fast").display()
    );
    host.plugin("slow", &slow);
    host.configure(
        "slow.conf",
        &json!({ "cniVersions": ["1.0.0", "1.1.0"], "name": "slow",
        "type": "slow" }),
    );
    let (mut cluster, mut framework) = host.cluster("net-gc", &[]).await;
    framework.launch(vec![task("a", "sleep 1000", &["slow"])]).await;
    let by = Instant::now() + Duration::from_secs(60);
    while !host.calls().iter().any(|(command, ..)| command == "ADD") {
        assert!(Instant::now() < by, "no ADD\n{}", cluster.logs());
        framework.next((Instant::now() + Duration::from_millis(20)).into()).await;
    }
    cluster.kill_agent();
    std::fs::write(host.path("fast"), "").expect("write");
    cluster.start_agent();
    framework.until("it runs", 60, |f| f.state("a") == Some("TASK_RUNNING")).await;
    // The plugin of the dead agent went on; it was undone when it was through.
    let calls = host.calls();
    let of_tasks: Vec<&str> = calls
        .iter()
        .map(|(command, ..)| command.as_str())
        .filter(|command| ["ADD", "ADDED", "DEL"].contains(command))
        .collect();
    assert_eq!(of_tasks, ["ADD", "ADDED", "DEL", "ADD", "ADDED"], "{calls:?}");

    let told = addresses(&framework, "a");
    let before = host.calls().len();
    cluster.kill_agent();
    cluster.start_agent();
    let checked = || host.calls()[before..].iter().any(|(command, ..)| command == "CHECK");
    let by = Instant::now() + Duration::from_secs(60);
    while !checked() {
        assert!(Instant::now() < by, "no CHECK\n{}", cluster.logs());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let calls = host.calls()[before..].to_vec();
    let of =
        |kind: &str| calls.iter().find(|(command, ..)| command == kind).expect("a call").3.clone();
    let container = &framework.statuses["a"].last().expect("a status")["container_status"]["container_id"]
        ["value"];
    assert_eq!(
        of("GC")["cni.dev/valid-attachments"],
        json!([{ "containerID": container, "ifname": "eth0" }])
    );
    assert_eq!(of("STATUS")["cniVersion"], "1.1.0");
    assert_eq!(of("CHECK")["prevResult"]["ips"][0]["address"], "10.0.0.9/24");
    // It is still told where it is.
    framework.call("RECONCILE", json!({ "tasks": [{ "task_id": { "value": "a" } }] })).await;
    framework.call("KILL", json!({ "task_id": { "value": "a" } })).await;
    framework.until("the end", 60, |f| f.end("a").is_some()).await;
    assert_eq!(told, [["10.0.0.9"]]);
    host.wait_clean(&cluster, &mut framework).await;
}

#[tokio::test]
async fn a_reboot_gives_addresses_back_that_are_kept_in_the_work_directory() {
    require!(root, cgroup);
    let host = Host::new("net-boot");
    let mut conf = bridge(&host, "web", 6);
    conf["type"] = "bulkhead-bridge".into();
    host.configure("web.conf", &conf);
    let persist = ["--network_cni_root_dir_persist"];
    let (mut cluster, mut framework) = host.cluster("net-boot", &persist).await;
    framework.start(task("before", "sleep 1000", &["web"])).await;
    let work = cluster.dir.path().join("agent");
    let kept = || {
        let entries = std::fs::read_dir(work.join("isolators/network/cni"));
        entries.into_iter().flatten().count()
    };
    assert_eq!((kept(), host.leases("web").len()), (1, 2));
    assert!(!cluster.dir.path().join("run/isolators/network/cni").exists());
    cluster.kill_agent();
    // What a reboot leaves: no process, no cgroup, no mount, no runtime directory.
    for group in cluster.cgroups() {
        let limit = Duration::from_secs(60);
        group.kill(limit).and_then(|()| group.remove(limit)).expect("end the containers");
    }
    let mounts = kernel::mounts::table().expect("the mount table");
    for mount in kernel::mounts::below(&mounts, cluster.dir.path()) {
        kernel::mounts::detach(&mount.target).expect("unmounted");
    }
    let runtime = cluster.dir.path().join("run");
    std::fs::remove_dir_all(runtime).expect("remove the runtime directory");
    std::fs::write(work.join("meta/boot_id"), "another").expect("write");
    assert_eq!((kept(), host.leases("web").len()), (1, 2));
    cluster.start_agent();
    framework.until("the end of the task", 60, |f| f.end("before").is_some()).await;
    host.wait_clean(&cluster, &mut framework).await;
    assert_eq!(kept(), 0);
    let end = framework.run(task("after", "ip -o address show eth0", &["web"]), 60).await;
    assert_eq!(end["state"], "TASK_FINISHED", "{end}");
    host.wait_clean(&cluster, &mut framework).await;
}
