//! The networks of docs/operating/networking.md, as they are written there.

use serde_json::{Value, json};

use super::host::{Host, addresses, example, ip, output, program, run, sh, sink, source, task};
use crate::require;

#[tokio::test]
async fn the_documented_networks_work() {
    require!(root, cgroup, program_python3, cni_plugins, nft, program_iptables);
    let host = Host::new("net-docs");
    let kept = |ipam: &mut Value| {
        // Not among the machine's own.
        ipam["dataDir"] = host.path("leases").display().to_string().into();
    };
    let mut web = example("\"bridge\": \"web0\"");
    kept(&mut web["plugins"][0]["ipam"]);
    host.configure("web.conflist", &web);
    let mut lan = example("\"name\": \"lan\"");
    lan["master"] = "uplink".into();
    kept(&mut lan["ipam"]);
    host.configure("lan.conf", &lan);
    let mut cluster_wide = example("\"type\": \"shared-addresses\"");
    let share = host.path("share");
    std::fs::create_dir_all(&share).expect("a directory");
    cluster_wide["master"] = "uplink".into();
    cluster_wide["ipam"]["share"] = share.display().to_string().into();
    host.configure("all.conf", &cluster_wide);
    host.program("shared-addresses", &program("#!/usr/bin/python3"));
    let (mut cluster, mut framework) = host.cluster("net-docs", &[]).await;
    let names = ["web", "lan", "all"].map(|name| (name, format!("{name}-server")));
    for (network, server) in &names {
        let mut task = task(server, &sink(80), &[network]);
        if *network == "web" {
            let info = &mut task["container"]["network_infos"][0];
            info["port_mappings"] = json!([{ "host_port": 8080, "container_port": 80 }]);
            info["groups"] = json!(["red"]);
        }
        framework.start(task).await;
        output(&cluster, server, "ready");
        let told = addresses(&framework, server).concat();
        for (number, address) in told.iter().enumerate() {
            let bytes = 10 + number;
            let mut client = task_of(network, &source(address, 80, bytes), number);
            if *network == "web" {
                client["container"]["network_infos"][0]["groups"] = json!(["red", "green"]);
            }
            let end = framework.run(client, 60).await;
            assert_eq!(end["state"], "TASK_FINISHED", "{network}: {end}");
            output(&cluster, server, &format!("got {bytes}\n"));
        }
    }
    assert!(sh(&source("198.51.100.1", 8080, 33)));
    output(&cluster, "web-server", "got 33\n");
    // One address each, with its owner, and none of those that are gone.
    let all = addresses(&framework, "all-server").concat();
    let shared = || run(&format!("ls -A {}", share.display()));
    assert_eq!(shared(), format!("{}\n", all[0]));
    cluster.kill_agent();
    cluster.start_agent();
    for (_, server) in &names {
        framework.call("KILL", json!({ "task_id": { "value": server } })).await;
        framework.until("the end", 60, |f| f.end(server).is_some()).await;
    }
    host.wait_clean(&cluster, &mut framework).await;
    assert_eq!(shared(), "");
    assert!(!run("nft list tables").contains("bulkhead"), "{}", run("nft list ruleset"));
    assert!(ip("-o link").contains("web0"));
}

fn task_of(network: &str, line: &str, number: usize) -> Value {
    task(&format!("{network}-client-{number}"), line, &[network])
}
