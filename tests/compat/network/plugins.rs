//! The real plugins: addresses, reachability, names, figures.

use serde_json::{Value, json};

use super::host::{
    Host, addresses, bridge, group, ip, links, output, run, sh, sink, source, statistics, task,
};
use crate::cluster::get;
use crate::require;

#[tokio::test]
async fn containers_on_a_bridge_reach_each_other_and_the_host() {
    require!(root, cgroup, program_python3, cni_plugins);
    let host = Host::new("net-bridge");
    host.configure("10-web.conf", &bridge(&host, "web", 1));
    let (cluster, mut framework) = host.cluster("net-bridge", &[]).await;
    let mut server = task("server", &sink(80), &["web"]);
    server["container"]["hostname"] = "srv".into();
    server["container"]["network_infos"][0]["labels"] =
        json!({ "labels": [{ "key": "tier", "value": "front" }] });
    let container = framework.start(server).await;
    let said = addresses(&framework, "server");
    assert_eq!(said.len(), 1, "{said:?}");
    let [v4, v6] = said[0].as_slice() else { panic!("{said:?}") };
    assert!(v4.starts_with("10.77.1.") && v6.starts_with("fd77:1::"), "{said:?}");
    output(&cluster, "server", "ready");

    // From the host, by either kind.
    const SENT: usize = 3_000_000;
    assert!(sh(&source(v4, 80, SENT)) && sh(&source(v6, 80, 5)));
    output(&cluster, "server", &format!("got {SENT}\ngot 5\n"));
    // From another container, which sees nothing but its own interface.
    let line = format!(
        "{} && cat /proc/net/dev /etc/hosts /etc/hostname && hostname && sleep 1000",
        source(v4, 80, 7)
    );
    framework.start(task("client", &line, &["web"])).await;
    output(&cluster, "server", "got 7\n");
    let id =
        framework.statuses["client"].last().expect("a status")["container_status"]["container_id"]
            ["value"]
            .as_str()
            .expect("an id")
            .to_owned();
    let seen = output(&cluster, "client", &format!("{id}\n{id}\n"));
    assert!(seen.contains("eth0:") && !seen.contains("uplink"), "{seen}");
    let own = &addresses(&framework, "client")[0];
    for address in own {
        assert!(seen.contains(&format!("{address} {id}\n")), "{seen}");
    }

    // What was really sent, and a little for packets' headers.
    let figures = statistics(&cluster, "server");
    let received = figures["net_rx_bytes"].as_u64().expect("a number") as usize;
    assert!((SENT..SENT + SENT / 10).contains(&received), "{figures}");
    assert_eq!(figures["net_rx_dropped"], 0, "{figures}");
    let state = get(&cluster.master, "/state").expect("/state");
    assert!(state.contains(v4.as_str()), "{state}");
    let containers = get(&cluster.agent, "/containers").expect("/containers");
    let containers: Value = serde_json::from_str(&containers).expect("JSON");
    let entry = containers
        .as_array()
        .into_iter()
        .flatten()
        .find(|c| c["container_id"] == container.as_str());
    let status = &entry.expect("the server")["status"];
    assert_eq!(
        status["network_infos"][0]["ip_addresses"][0]["ip_address"],
        v4.as_str(),
        "{status}"
    );
    assert_eq!(status["network_infos"][0]["name"], "web");
    assert_eq!(host.leases("web").len(), 4);

    for name in ["server", "client"] {
        framework.call("KILL", json!({ "task_id": { "value": name } })).await;
        framework.until("the end", 60, |f| f.end(name).is_some()).await;
    }
    host.wait_clean(&cluster, &mut framework).await;
}

#[tokio::test]
async fn several_networks_of_every_kind() {
    require!(root, cgroup, cni_plugins);
    let host = Host::new("net-kinds");
    ip("link add wire0 type veth peer name wire1");
    ip("link set wire0 up");
    ip("link set wire1 up");
    let ipam = |number: u8| {
        json!({ "type": "host-local", "dataDir": host.path("leases").display().to_string(),
                "ranges": [[{ "subnet": format!("10.78.{number}.0/24") }]] })
    };
    host.configure(
        "ptp.conflist",
        &json!({ "cniVersion": "0.4.0", "name": "ptp", "plugins": [
        { "type": "ptp", "ipam": ipam(1) },
        { "type": "tuning", "sysctl": { "net.ipv4.conf.all.accept_redirects": "0" } },
        { "type": "bandwidth", "capabilities": { "bandwidth": true } },
    ] }),
    );
    host.configure(
        "macvlan.conf",
        &json!({ "cniVersion": "0.3.1", "name": "macvlan",
        "type": "macvlan", "master": "wire0", "mode": "bridge", "ipam": ipam(2) }),
    );
    // As of before there were versions, and with addresses that are given.
    host.configure(
        "static.conf",
        &json!({ "name": "old", "type": "bridge", "bridge": "brold",
        "ipam": { "type": "static", "addresses": [{ "address": "10.78.3.9/24" }] } }),
    );
    host.configure(
        "mac.conflist",
        &json!({ "cniVersion": "1.0.0", "name": "mac", "plugins": [
        { "type": "bridge", "bridge": "brmac", "ipam": ipam(4), "capabilities": { "ips": true } },
        { "type": "tuning", "capabilities": { "mac": true } },
        { "type": "firewall", "backend": "iptables" },
    ] }),
    );
    let (cluster, mut framework) = host.cluster("net-kinds", &[]).await;
    let redirects = "/proc/sys/net/ipv4/conf/all/accept_redirects";
    // As plugins want it: a host that begins to forward takes redirects no more.
    std::fs::write("/proc/sys/net/ipv4/ip_forward", "1").expect("write");
    std::fs::write(redirects, "1").expect("write");
    let line = "ip -o address; echo redirects $(cat /proc/sys/net/ipv4/conf/all/accept_redirects); \
                ip -o link show eth3; tc qdisc show dev eth0; echo done; sleep 1000";
    let mut all = task("all", line, &["ptp", "macvlan", "old", "mac"]);
    let labels = |rows: &[(&str, &str)]| {
        let rows: Vec<Value> =
            rows.iter().map(|(key, value)| json!({ "key": key, "value": value })).collect();
        json!({ "labels": rows })
    };
    let infos = &mut all["container"]["network_infos"];
    infos[0]["labels"] = labels(&[
        ("cni.ingress_rate", "8000000"),
        ("cni.ingress_burst", "80000"),
        ("cni.egress_rate", "8000000"),
        ("cni.egress_burst", "80000"),
    ]);
    infos[3]["labels"] = labels(&[("cni.mac", "c2:11:22:33:44:55")]);
    infos[3]["ip_addresses"] = json!([{ "ip_address": "10.78.4.44" }]);
    framework.start(all).await;
    let said = output(&cluster, "all", "done\n");
    let told: Vec<String> = addresses(&framework, "all").concat();
    assert_eq!(told.len(), 4, "{told:?}\n{said}");
    for (index, address) in told.iter().enumerate() {
        let line = said.lines().find(|line| line.contains(&format!(" {address}/")));
        assert!(line.is_some_and(|line| line.contains(&format!("eth{index}"))), "{told:?}\n{said}");
    }
    assert_eq!(told[2..], ["10.78.3.9", "10.78.4.44"]);
    assert!(said.contains("c2:11:22:33:44:55"), "{said}");
    // Inside, and nowhere else.
    assert!(said.contains("redirects 0\n"), "{said}");
    assert_eq!(std::fs::read_to_string(redirects).expect("readable"), "1\n");
    assert!(links().iter().any(|link| link.starts_with("bwp")), "{:?}", links());
    framework.call("KILL", json!({ "task_id": { "value": "all" } })).await;
    framework.until("the end", 60, |f| f.end("all").is_some()).await;
    host.wait_clean(&cluster, &mut framework).await;
    assert!(!links().iter().any(|link| link.starts_with("bwp")), "{:?}", links());
    let rules = run("iptables-save");
    assert!(!rules.contains("10.78.4.44"), "{rules}");
}

#[tokio::test]
async fn nested_and_host_containers() {
    require!(root, cgroup, cni_plugins);
    let host = Host::new("net-nested");
    host.configure("web.conf", &bridge(&host, "web", 2));
    // Executors talk to the agent: where containers can reach it.
    let reachable = ["--ip=0.0.0.0", "--advertise_ip=198.51.100.1"];
    let (cluster, mut framework) = host.cluster("net-nested", &reachable).await;
    let seen = "ip -o link; hostname; echo done; sleep 1000";
    group(&mut framework, "pair", &["web"], &[("one", seen), ("two", seen)]).await;
    framework
        .until("both", 60, |f| {
            ["one", "two"].iter().all(|task| f.state(task) == Some("TASK_RUNNING"))
        })
        .await;
    let [one, two] = ["one", "two"].map(|task| addresses(&framework, task).concat());
    assert_eq!((one.len(), &one), (2, &two));
    framework.start(task("plain", "ip -o link; hostname; echo done; sleep 1000", &[])).await;
    let plain = output(&cluster, "plain", "done");
    assert!(plain.contains("uplink"), "{plain}");
    for name in ["one", "two", "plain"] {
        framework.call("KILL", json!({ "task_id": { "value": name } })).await;
    }
    framework
        .until("the end", 60, |f| ["one", "two", "plain"].iter().all(|name| f.end(name).is_some()))
        .await;
    host.wait_clean(&cluster, &mut framework).await;
}

#[tokio::test]
async fn without_a_process_on_the_same_network() {
    require!(root, cgroup, program_python3, cni_plugins);
    let host = Host::new("net-own");
    let theirs = bridge(&host, "web", 9);
    let mut ours = theirs.clone();
    ours["type"] = "bulkhead-bridge".into();
    let (mut cluster, mut framework) = host.cluster("net-own", &[]).await;
    let mut all = Vec::new();
    for (index, conf) in [&ours, &theirs, &ours].into_iter().enumerate() {
        host.configure("web.conf", conf);
        let name = format!("t{index}");
        framework.start(task(&name, &sink(80), &["web"])).await;
        output(&cluster, &name, "ready");
        let told = addresses(&framework, &name).concat();
        assert_eq!(told, [format!("10.77.9.{}", index + 2), format!("fd77:9::{}", index + 2)]);
        all.push((name, told));
    }
    assert_eq!(host.leases("web").len(), 6);
    for (bytes, (name, told)) in all.iter().enumerate() {
        assert!(sh(&source(&told[0], 80, 10 + bytes)) && sh(&source(&told[1], 80, 20 + bytes)));
        output(&cluster, name, &format!("got {}\ngot {}\n", 10 + bytes, 20 + bytes));
    }
    // From one to itself and to the others, by either kind.
    let targets: Vec<&str> = all.iter().flat_map(|(_, told)| told).map(String::as_str).collect();
    let line: Vec<String> = targets.iter().map(|ip| source(ip, 80, 3)).collect();
    let end = framework.run(task("client", &line.join(" && "), &["web"]), 60).await;
    assert_eq!(end["state"], "TASK_FINISHED", "{end}");
    // Found as it should be, by the next agent.
    cluster.kill_agent();
    cluster.start_agent();
    for (name, _) in &all {
        framework.call("KILL", json!({ "task_id": { "value": name } })).await;
        framework.until("the end", 60, |f| f.end(name).is_some()).await;
    }
    host.wait_clean(&cluster, &mut framework).await;
    let logs = cluster.logs();
    assert!(!logs.contains("not as its CNI network"), "{logs}");
}
