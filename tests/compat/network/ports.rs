//! Published ports: Mesos' port mapper in ours, and CNI's own.

use serde_json::{Value, json};

use super::host::{Beyond, Host, bridge, ip, output, run, sh, sink, source, task};
use crate::require;

fn published(task: &mut Value, host: u16, container: u16) {
    task["container"]["network_infos"][0]["port_mappings"] =
        json!([{ "host_port": host, "container_port": container, "protocol": "tcp" }]);
}

#[tokio::test]
async fn ports_lead_to_containers() {
    require!(root, cgroup, program_python3, cni_plugins, nft);
    let host = Host::new("net-ports");
    ip("address add fd51::1/64 dev uplink nodad");
    std::fs::write("/proc/sys/net/ipv4/ip_forward", "1").expect("write");
    std::fs::write("/proc/sys/net/ipv6/conf/all/forwarding", "1").expect("write");
    let beyond = Beyond::new();
    // Somebody else's rules.
    let theirs = "table inet theirs { chain c { type filter hook forward priority 0; policy accept; \
                  counter comment \"x\"; tcp dport 9 drop; } ; set s { type ipv4_addr; elements = { 10.9.9.9 }; }; }";
    assert!(sh(&format!("echo '{theirs}' | nft -f -")));
    let listed = || run("nft -s list table inet theirs");
    let before = listed();
    let mut delegate = bridge(&host, "web", 5);
    delegate.as_object_mut().expect("an object").remove("name");
    host.configure(
        "web.conf",
        &json!({ "cniVersion": "0.4.0", "name": "web",
        "type": "mesos-cni-port-mapper", "chain": "MESOS-TEST-PORT-MAPPER", "delegate": delegate }),
    );
    host.configure("cni.conflist", &json!({ "cniVersion": "1.0.0", "name": "cni", "plugins": [
        bridge(&host, "cni", 6), { "type": "portmap", "capabilities": { "portMappings": true } }] }));
    let (mut cluster, mut framework) = host.cluster("net-ports", &[]).await;
    let mut server = task("server", &sink(80), &["web"]);
    published(&mut server, 8080, 80);
    framework.start(server).await;
    output(&cluster, "server", "ready");
    let from_beyond = |address: &str, bytes| {
        sh(&format!("ip netns exec {} {}", beyond.0, source(address, 8080, bytes)))
    };
    assert!(from_beyond("198.51.100.1", 11));
    assert!(from_beyond("fd51::1", 12));
    // The host itself, and a container: the very one that serves, too.
    assert!(sh(&source("198.51.100.1", 8080, 13)));
    let hairpin = source("198.51.100.1", 8080, 14);
    let end = framework.run(task("neighbour", &hairpin, &["web"]), 60).await;
    assert_eq!(end["state"], "TASK_FINISHED", "{end}");
    let said = output(&cluster, "server", "got 14");
    assert!(said.ends_with("got 11\ngot 12\ngot 13\ngot 14\n"), "{said}");

    // The port is taken; the next agent finds all as it was.
    let mut other = task("other", &sink(80), &["web"]);
    published(&mut other, 8080, 80);
    let end = framework.run(other, 60).await;
    let message = end["message"].as_str().unwrap_or_default();
    assert!(message.contains("the host's port tcp 8080 leads to container "), "{message}");
    cluster.kill_agent();
    cluster.start_agent();
    assert!(from_beyond("198.51.100.1", 15));
    output(&cluster, "server", "got 15");

    // By CNI's own plugin.
    let mut plain = task("plain", &sink(80), &["cni"]);
    published(&mut plain, 8081, 80);
    framework.start(plain).await;
    output(&cluster, "plain", "ready");
    assert!(sh(&format!("ip netns exec {} {}", beyond.0, source("198.51.100.1", 8081, 16))));
    output(&cluster, "plain", "got 16");
    for name in ["server", "plain"] {
        framework.call("KILL", json!({ "task_id": { "value": name } })).await;
        framework.until("the end", 60, |f| f.end(name).is_some()).await;
    }
    host.wait_clean(&cluster, &mut framework).await;
    assert!(!run("nft list tables").contains("bulkhead"), "{}", run("nft list ruleset"));
    assert_eq!(listed(), before);
}
