//! The agent dies while containers join and leave networks. The next one puts everything
//! in order.

use std::time::{Duration, Instant};

use serde_json::json;

use super::host::{Host, addresses, bridge, task};
use crate::require;

#[tokio::test]
async fn at_every_step() {
    require!(root, cgroup, cni_plugins);
    let host = Host::new("net-deaths");
    host.configure("one.conf", &bridge(&host, "one", 3));
    let mut own = bridge(&host, "two", 4);
    own["type"] = "bulkhead-bridge".into();
    host.configure("two.conf", &own);
    let (mut cluster, mut framework) = host.cluster("net-deaths", &[]).await;
    let points = kernel::failpoint::ALL.iter().filter(|point| point.starts_with("cni."));
    for (index, point) in points.enumerate() {
        cluster.kill_agent();
        cluster.failpoint = Some(point);
        cluster.start_agent();
        let name = format!("t{index}");
        framework.launch(vec![task(&name, "sleep 1000", &["one", "two"])]).await;
        let kill = json!({ "task_id": { "value": name } });
        let leaves = ["cni.bridge_removed", "cni.deleted_one", "cni.forgotten"].contains(point);
        if leaves {
            framework.until("it runs", 60, |f| f.state(&name) == Some("TASK_RUNNING")).await;
            framework.call("KILL", kill.clone()).await;
        }
        let by = Instant::now() + Duration::from_secs(60);
        while cluster.agent_ended().is_none() {
            assert!(Instant::now() < by, "{point} is not reached\n{}", cluster.logs());
            framework.next((Instant::now() + Duration::from_millis(50)).into()).await;
        }
        cluster.kill_agent();
        cluster.failpoint = None;
        cluster.start_agent();
        if !leaves {
            // Launched again, or found running.
            framework
                .until("it runs", 60, |f| {
                    f.state(&name) == Some("TASK_RUNNING") || f.end(&name).is_some()
                })
                .await;
            assert!(framework.end(&name).is_none(), "{point}: {:?}", framework.statuses[&name]);
            assert_eq!(addresses(&framework, &name).len(), 2, "{point}");
            assert_eq!(host.leases("one").len(), 2, "{point}");
            framework.call("KILL", kill).await;
        }
        framework.until("the end", 60, |f| f.end(&name).is_some()).await;
        host.wait_clean(&cluster, &mut framework).await;
    }
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
