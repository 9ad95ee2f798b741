//! Plugins and configurations that are no good: the task says why, nothing is left, and
//! nobody is held up.

use std::time::{Duration, Instant};

use serde_json::json;

use super::host::{Host, task};
use crate::cluster::Cluster;
use crate::framework::Framework;
use crate::require;

/// Why a task on `networks` does not come up.
async fn refused(framework: &mut Framework, name: &str, networks: &[&str]) -> String {
    let end = framework.run(task(name, "sleep 1000", networks), 60).await;
    assert_eq!(end["state"], "TASK_FAILED", "{end}");
    assert_eq!(end["reason"], "REASON_CONTAINER_LAUNCH_FAILED", "{end}");
    end["message"].as_str().unwrap_or_default().to_owned()
}

fn network(name: &str) -> serde_json::Value {
    json!({ "cniVersion": "1.0.0", "name": name, "type": name })
}

const RESULT: &str =
    r#"{"cniVersion":"1.0.0","ips":[{"address":"10.0.0.9/24"}],"dns":{"nameservers":["9.9.9.9"]}}"#;

#[tokio::test]
async fn what_is_wrong_is_said_and_undone() {
    require!(root, cgroup);
    let host = Host::new("net-faults");
    host.plugin("hang", "[ $CNI_COMMAND != ADD ] || sleep 1000");
    host.plugin("garbage", "echo 'Hello, world'");
    host.plugin("no", r#"[ $CNI_COMMAND = DEL ] || { echo '{"code":11,"msg":"busy"}'; exit 1; }"#);
    host.plugin("crash", "[ $CNI_COMMAND = DEL ] || { echo 'no route' >&2; exit 3; }");
    host.plugin("mixed", r#"echo '{"cniVersion":"0.3.1"}'"#);
    host.plugin("good", &format!("echo '{RESULT}'"));
    for name in ["hang", "garbage", "no", "crash", "mixed", "good", "missing"] {
        host.configure(&format!("{name}.conf"), &network(name));
    }
    let mut new = network("new");
    new["cniVersion"] = "2.0.0".into();
    new["type"] = "good".into();
    host.configure("new.conf", &new);
    host.configure(
        "chain.conflist",
        &json!({ "cniVersion": "1.0.0", "name": "chain",
        "plugins": [{ "type": "good" }, { "type": "no" }] }),
    );
    std::fs::write(host.path("conf/bad.conf"), "{\n  \"name\": \"bad\",\n  \"type\": bridge\n}")
        .expect("write");
    let (cluster, mut framework) =
        host.cluster("net-faults", &["--network_cni_timeout=2secs"]).await;
    let rows: [(&[&str], &[&str]); 11] = [
        (&["missing"], &["failed to find the CNI plugin 'missing' in '"]),
        (
            &["nowhere"],
            &[
                "failed to find the CNI network 'nowhere'",
                "chain, crash,",
                "bad.conf:3: expected value",
            ],
        ),
        (&["hang"], &["the CNI network 'hang'", "did not finish ADD within 2s and was killed"]),
        (&["garbage"], &["it answered Hello, world, which is no JSON"]),
        (&["no"], &["failed ADD: busy (code 11)"]),
        (&["crash"], &["failed ADD with exit status: 3 and said no route"]),
        (&["mixed"], &["it answered in cniVersion 0.3.1, asked in 1.0.0"]),
        (&["new"], &["the configuration is in cniVersion 2.0.0, the plugin 'good' speaks 0.3.1"]),
        (&["good", "good"], &["the CNI network 'good' twice"]),
        (&["chain"], &["failed ADD: busy (code 11)"]),
        (&["good", "no"], &["the CNI network 'no'"]),
    ];
    for (index, (networks, wanted)) in rows.iter().enumerate() {
        let message = refused(&mut framework, &format!("t{index}"), networks).await;
        for part in *wanted {
            assert!(message.contains(part), "{networks:?}: {message}");
        }
        host.wait_clean(&cluster, &mut framework).await;
    }
    // Whatever was added, or may have been, was taken off again, the last one first.
    let calls = host.calls();
    let of = |kind: &str| calls.iter().filter(|(command, ..)| command == kind).count();
    assert_eq!((of("ADD"), of("DEL")), (9, 9), "{calls:?}");
    let chain: Vec<_> = calls
        .iter()
        .filter(|(.., conf)| conf["name"] == "chain")
        .map(|(command, _, _, conf)| (command.as_str(), conf["type"].as_str().unwrap_or("")))
        .collect();
    assert_eq!(chain, [("ADD", "good"), ("ADD", "no"), ("DEL", "no"), ("DEL", "good")]);
    let ip = json!([{ "name": "good", "ip_addresses": [{ "ip_address": "10.0.0.8" }] }]);
    let mut other = task("address", "sleep 1000", &["good"]);
    other["container"]["network_infos"] = ip;
    let end = framework.run(other, 60).await;
    let message = end["message"].as_str().unwrap_or_default();
    assert!(message.ends_with("its plugins did not give the address 10.0.0.8"), "{message}");
}

#[tokio::test]
async fn a_plugin_that_cannot_clean_up_holds_nobody_up() {
    require!(root, cgroup);
    let host = Host::new("net-del");
    let broken =
        format!("case $CNI_COMMAND in ADD) echo '{RESULT}';; DEL) echo gone >&2; exit 1;; esac");
    host.plugin("stuck", &broken);
    host.configure("stuck.conf", &network("stuck"));
    let (mut cluster, mut framework) = host.cluster("net-del", &[]).await;
    let end = framework.run(task("first", "cat /etc/resolv.conf", &["stuck"]), 60).await;
    assert_eq!(end["state"], "TASK_FINISHED", "{end}");
    let kept = |cluster: &Cluster| {
        let root = cluster.dir.path().join("run/isolators/network/cni");
        std::fs::read_dir(root).into_iter().flatten().count()
    };
    // It is tried again, by the next agent as well.
    assert_eq!(kept(&cluster), 1);
    cluster.kill_agent();
    cluster.start_agent();
    assert_eq!(kept(&cluster), 1);
    let before = host.calls().len();
    let by = Instant::now() + Duration::from_secs(60);
    while host.calls().len() < before + 2 {
        assert!(Instant::now() < by, "it is not tried again\n{}", cluster.logs());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    host.plugin("stuck", &format!("[ $CNI_COMMAND = DEL ] || echo '{RESULT}'"));
    host.wait_clean(&cluster, &mut framework).await;
    let calls = host.calls();
    let (command, _, interface, conf) = calls.last().expect("calls");
    assert_eq!((command.as_str(), interface.as_str()), ("DEL", "eth0"));
    assert_eq!(conf["prevResult"]["ips"][0]["address"], "10.0.0.9/24", "{conf}");
}
