//! Every version of the specification: CNI's own plugins, and scripts that mind what they
//! are told.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::host::{Host, addresses, bridge, output, statistics, task};
use crate::require;

/// The oldest first; the last one is newer than Debian's plugins.
const VERSIONS: [&str; 7] = ["0.1.0", "0.2.0", "0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"];
/// From this one on, plugins hear what was answered when they check or undo.
const REMEMBERS: usize = 4;

/// A network of one script, `s0` in the first version, that speaks that version only.
fn script(host: &Host, number: usize) {
    let (name, version) = (format!("s{number}"), VERSIONS[number]);
    let ip = |version: &str, address: String| match number {
        2..=4 => json!({ "version": version, "address": address }),
        _ => json!({ "address": address }),
    };
    let (four, six) = (format!("10.0.{number}.9/24"), format!("fd00:1{number}::9/64"));
    let result = match number {
        0 | 1 => json!({ "cniVersion": version, "ip4": { "ip": four }, "ip6": { "ip": six } }),
        _ => json!({ "cniVersion": version, "ips": [ip("4", four), ip("6", six)] }),
    };
    host.program(
        &name,
        &format!(
            "#!/bin/sh\nconf=$(cat)\ncase $CNI_COMMAND in\n\
             VERSION) echo '{{\"cniVersion\":\"{version}\",\"supportedVersions\":[\"{version}\"]}}'; exit;;\n\
             ADD) echo '{result}';;\nesac\n\
             echo \"$CNI_COMMAND $CNI_CONTAINERID $CNI_IFNAME $conf\" >>{}\n",
            host.path("calls").display()
        ),
    );
    let all = ["portMappings", "bandwidth", "ips", "mac", "dns", "aliases"];
    let all: Value = all.iter().map(|name| ((*name).to_owned(), json!(true))).collect();
    host.configure(
        &format!("{name}.conf"),
        &json!({ "cniVersion": version, "name": name, "type": name, "capabilities": all }),
    );
}

/// A task on all networks of scripts, which asks the last one for all that there is.
fn told() -> Value {
    let names: Vec<String> = (0..VERSIONS.len()).map(|number| format!("s{number}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let mut told = task("told", "sleep 1000", &names);
    let info = &mut told["container"]["network_infos"][VERSIONS.len() - 1];
    let label = |(key, value): (&str, &str)| json!({ "key": key, "value": value });
    let labels = [
        ("cni.mac", "C2:11:22:33:44:55"),
        ("cni.aliases", "web, db"),
        ("cni.ingress_rate", "8000"),
    ];
    info["labels"] = json!({ "labels": labels.map(label) });
    info["ip_addresses"] = json!([{ "ip_address": "10.0.6.9" }]);
    info["port_mappings"] = json!([{ "host_port": 8080, "container_port": 80 }]);
    told
}

#[tokio::test]
async fn every_version_is_spoken_as_it_is_specified() {
    require!(root, cgroup, cni_plugins);
    let host = Host::new("net-versions");
    let dns = r#"{"mesos":[{"network_mode":"CNI","dns":{"nameservers":["9.9.9.9"]}}]}"#;
    let flag = format!("--default_container_dns={dns}");
    let flags = [flag.as_str(), "--no-network_cni_metrics"];
    let (mut cluster, mut framework) = host.cluster("net-versions", &flags).await;
    // The agent runs already: networks come without a restart.
    let real: Vec<String> = (0..6).map(|number| format!("r{number}")).collect();
    for (number, name) in (0..).zip(&real) {
        let mut conf = bridge(&host, name, 10 + number);
        conf["cniVersion"] = VERSIONS[usize::from(number)].into();
        host.configure(&format!("{name}.conf"), &conf);
    }
    (0..VERSIONS.len()).for_each(|number| script(&host, number));
    let names: Vec<&str> = real.iter().map(String::as_str).collect();
    framework.start(task("real", "ip -o address; echo done; sleep 1000", &names)).await;
    let seen = output(&cluster, "real", "done");
    for (number, of_one) in addresses(&framework, "real").iter().enumerate() {
        let [four, six] = of_one.as_slice() else { panic!("{number}: {of_one:?}") };
        for address in [four, six] {
            let line = seen.lines().find(|line| line.contains(&format!(" {address}/")));
            let right = line.is_some_and(|line| line.contains(&format!(" eth{number} ")));
            assert!(right, "{number}: {of_one:?}\n{seen}");
        }
    }
    let by = Instant::now() + Duration::from_secs(60);
    let mut figures = statistics(&cluster, "real");
    while !figures["timestamp"].is_number() {
        assert!(Instant::now() < by, "{figures}");
        tokio::time::sleep(Duration::from_millis(50)).await;
        figures = statistics(&cluster, "real");
    }
    assert!(figures["net_rx_bytes"].is_null(), "nobody wants them: {figures}");
    framework.start(told()).await;
    let wanted = (0..VERSIONS.len()).map(|n| [format!("10.0.{n}.9"), format!("fd00:1{n}::9")]);
    assert_eq!(addresses(&framework, "told"), wanted.collect::<Vec<_>>());

    cluster.kill_agent();
    cluster.start_agent();
    let called = |name: &str, kind: &str| {
        let calls = host.calls().into_iter();
        let of = calls.filter(|(command, _, _, conf)| command == kind && conf["name"] == name);
        of.map(|(.., conf)| conf).next()
    };
    let by = Instant::now() + Duration::from_secs(60);
    // The last of its networks that is asked after.
    while called("s6", "CHECK").is_none() || called("s6", "STATUS").is_none() {
        assert!(Instant::now() < by, "{:?}\n{}", host.calls(), cluster.logs());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    for name in ["real", "told"] {
        framework.call("KILL", json!({ "task_id": { "value": name } })).await;
        framework.until("the end", 60, |f| f.end(name).is_some()).await;
    }
    host.wait_clean(&cluster, &mut framework).await;
    for (number, version) in VERSIONS.into_iter().enumerate() {
        let name = format!("s{number}");
        let add = called(&name, "ADD").expect("an ADD");
        let del = called(&name, "DEL").expect("a DEL");
        assert_eq!((&add["cniVersion"], &del["cniVersion"]), (&json!(version), &json!(version)));
        let remembers = number >= REMEMBERS;
        assert_eq!(del.get("prevResult").is_some(), remembers, "{version}: {del}");
        let check = called(&name, "CHECK");
        assert_eq!(check.is_some(), remembers, "{version}: {check:?}");
        for kind in ["GC", "STATUS"] {
            assert_eq!(called(&name, kind).is_some(), number == 6, "{kind} of {version}");
        }
    }
    let asked = called("s6", "ADD").expect("an ADD");
    let wanted = json!({
        "portMappings": [{ "hostPort": 8080, "containerPort": 80, "protocol": "tcp" }],
        "bandwidth": { "ingressRate": 8000 },
        "ips": ["10.0.6.9"],
        "mac": "c2:11:22:33:44:55",
        "dns": { "servers": ["9.9.9.9"], "searches": [], "options": [] },
        "aliases": ["web", "db"],
    });
    assert_eq!(asked["runtimeConfig"], wanted);
    let plain = called("s5", "ADD").expect("an ADD");
    assert_eq!(plain["runtimeConfig"], json!({ "dns": wanted["dns"] }), "the others asked nothing");
}
