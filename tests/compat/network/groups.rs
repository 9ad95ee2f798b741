//! Containers of different groups on one bridge.

use serde_json::json;

use super::host::{Host, addresses, bridge, output, run, sh, sink, source, task};
use crate::require;

#[tokio::test]
async fn groups_do_not_reach_each_other() {
    require!(root, cgroup, program_python3, cni_plugins, nft);
    let host = Host::new("net-groups");
    host.configure(
        "web.conflist",
        &json!({ "cniVersion": "1.0.0", "name": "web",
        "plugins": [bridge(&host, "web", 7), { "type": "bulkhead-groups" }] }),
    );
    // Routed from one bridge to the other.
    host.configure(
        "far.conflist",
        &json!({ "cniVersion": "1.0.0", "name": "far",
        "plugins": [bridge(&host, "far", 8), { "type": "bulkhead-groups", "label": "team" }] }),
    );
    std::fs::write("/proc/sys/net/ipv4/ip_forward", "1").expect("write");
    std::fs::write("/proc/sys/net/ipv6/conf/all/forwarding", "1").expect("write");
    let (mut cluster, mut framework) = host.cluster("net-groups", &[]).await;
    let member = |name: &str, line: &str, groups: &[&str]| {
        let mut task = task(name, line, &["web"]);
        task["container"]["network_infos"][0]["groups"] = json!(groups);
        task
    };
    framework.start(member("server", &sink(80), &["red", "green"])).await;
    output(&cluster, "server", "ready");
    let [v4, v6] = addresses(&framework, "server").concat().try_into().expect("two addresses");
    cluster.kill_agent();
    cluster.start_agent();
    let mut said = String::from("ready\n");
    // name, groups, may it?
    let rows: [(&str, &[&str], bool); 4] = [
        ("green", &["green"], true),
        ("both", &["blue", "red"], true),
        ("blue", &["blue"], false),
        ("none", &[], true),
    ];
    for (index, (name, groups, may)) in rows.iter().enumerate() {
        let bytes = index + 1;
        for (kind, address) in [("4", &v4), ("6", &v6)] {
            let line = source(address, 80, bytes).replace(", 20)", ", 2)");
            let end = framework.run(member(&format!("{name}{kind}"), &line, groups), 60).await;
            let wanted = if *may { "TASK_FINISHED" } else { "TASK_FAILED" };
            assert_eq!(end["state"], wanted, "{name} over IPv{kind}: {}", run("nft list ruleset"));
            if *may {
                said.push_str(&format!("got {bytes}\n"));
            }
        }
    }
    for (team, may) in [("red", true), ("blue", false)] {
        for (kind, address) in [("4", &v4), ("6", &v6)] {
            let line = source(address, 80, 9).replace(", 20)", ", 2)");
            let mut far = task(&format!("far-{team}{kind}"), &line, &["far"]);
            far["container"]["network_infos"][0]["labels"] =
                json!({ "labels": [{ "key": "team", "value": team }] });
            let end = framework.run(far, 60).await;
            let wanted = if may { "TASK_FINISHED" } else { "TASK_FAILED" };
            assert_eq!(end["state"], wanted, "{team}, IPv{kind}: {}", run("nft list ruleset"));
            if may {
                said.push_str("got 9\n");
            }
        }
    }
    assert!(sh(&source(&v4, 80, 10)));
    said.push_str("got 10\n");
    assert_eq!(output(&cluster, "server", "got 10\n"), said);
    framework.call("KILL", json!({ "task_id": { "value": "server" } })).await;
    framework.until("the end", 60, |f| f.end("server").is_some()).await;
    host.wait_clean(&cluster, &mut framework).await;
    assert_eq!(run("nft list tables"), "");
}
