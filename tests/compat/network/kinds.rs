//! CNI's plugins one by one: containers reach each other and are counted, and what a
//! plugin promises holds.

use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::host::{
    Beyond, Host, addresses, bridge, example, ip, output, run, sh, sink, source, statistics, task,
};
use crate::cluster::Cluster;
use crate::framework::Framework;
use crate::require;

/// Bytes that are sent where they are counted.
const SENT: u64 = 3_000_000;

/// Addresses of both kinds.
fn ipam(host: &Host, number: u8) -> Value {
    json!({ "type": "host-local", "dataDir": host.path("leases").display().to_string(),
            "ranges": [[{ "subnet": format!("10.79.{number}.0/24") }],
                       [{ "subnet": format!("fd79:{number}::/64") }]],
            "routes": [{ "dst": "0.0.0.0/0" }, { "dst": "::/0" }] })
}

/// Waits until a task's figure says that `bytes` went by, with a little for headers.
fn counted(cluster: &Cluster, task: &str, figure: &str, bytes: u64) {
    let by = Instant::now() + Duration::from_secs(60);
    loop {
        let figures = statistics(cluster, task);
        let seen = figures[figure].as_u64().unwrap_or(0);
        if seen >= bytes {
            assert!(seen < bytes + bytes / 10, "{task}: {figures}");
            return;
        }
        assert!(Instant::now() < by, "{task}: {figures}\n{}", cluster.logs());
        std::thread::sleep(Duration::from_millis(50));
    }
}

async fn end(framework: &mut Framework, names: &[&str]) {
    for name in names {
        framework.call("KILL", json!({ "task_id": { "value": name } })).await;
    }
    let all = |f: &Framework| names.iter().all(|name| f.end(name).is_some());
    framework.until("the end", 60, all).await;
}

#[tokio::test]
async fn containers_on_ptp_and_macvlan_reach_each_other_and_are_counted() {
    require!(root, cgroup, program_python3, cni_plugins);
    let host = Host::new("net-pairs");
    ip("link add wire0 type veth peer name wire1");
    ip("link set wire0 up");
    ip("link set wire1 up");
    host.configure(
        "ptp.conf",
        &json!({ "cniVersion": "1.0.0", "name": "ptp", "type": "ptp", "ipam": ipam(&host, 1) }),
    );
    host.configure(
        "macvlan.conf",
        &json!({ "cniVersion": "1.0.0", "name": "macvlan", "type": "macvlan", "master": "wire0",
                 "mode": "bridge", "ipam": ipam(&host, 2) }),
    );
    let (cluster, mut framework) = host.cluster("net-pairs", &[]).await;
    for network in ["ptp", "macvlan"] {
        let [server, client] = ["server", "client"].map(|role| format!("{network}-{role}"));
        framework.start(task(&server, &sink(80), &[network])).await;
        output(&cluster, &server, "ready");
        let told = addresses(&framework, &server).concat();
        let [v4, v6] = told.as_slice() else { panic!("{network}: {told:?}") };
        let send = [source(v4, 80, SENT as usize), source(v6, 80, SENT as usize)].join(" && ");
        framework
            .start(task(&client, &format!("{send} && echo sent && sleep 1000"), &[network]))
            .await;
        output(&cluster, &client, "sent");
        output(&cluster, &server, &format!("got {SENT}\ngot {SENT}\n"));
        counted(&cluster, &server, "net_rx_bytes", 2 * SENT);
        counted(&cluster, &client, "net_tx_bytes", 2 * SENT);
        if network == "ptp" {
            // With macvlan the host is left out: that is how the kernel has it.
            assert!(sh(&source(v4, 80, 5)) && sh(&source(v6, 80, 6)));
            output(&cluster, &server, "got 5\ngot 6\n");
        }
        end(&mut framework, &[&server, &client]).await;
        host.wait_clean(&cluster, &mut framework).await;
    }
}

#[tokio::test]
async fn containers_on_ipvlan_reach_each_other() {
    require!(root, cgroup, program_busybox, cni_plugins, ipvlan);
    let host = Host::new("net-ipvlan");
    // As documented, with both kinds of addresses.
    let mut conf = example("\"type\": \"ipvlan\"");
    conf["master"] = "uplink".into();
    conf["ipam"] = ipam(&host, 3);
    let network = conf["name"].as_str().expect("a name").to_owned();
    host.configure("example.conf", &conf);
    let (cluster, mut framework) = host.cluster("net-ipvlan", &[]).await;
    let serve = format!(
        "mkdir www; head -c {SENT} /dev/zero >www/page; exec busybox httpd -f -p 80 -h www"
    );
    framework.start(task("server", &serve, &[&network])).await;
    let told = addresses(&framework, "server").concat();
    let [v4, v6] = told.as_slice() else { panic!("{told:?}") };
    let get = |address: &str| {
        format!(
            "until busybox wget -q -O page http://{address}/page; do sleep 0.2; done; wc -c <page; rm page"
        )
    };
    let line = format!("{}; {}; echo done; sleep 1000", get(v4), get(&format!("[{v6}]")));
    framework.start(task("client", &line, &[&network])).await;
    assert_eq!(output(&cluster, "client", "done"), format!("{SENT}\n{SENT}\ndone\n"));
    counted(&cluster, "server", "net_tx_bytes", 2 * SENT);
    counted(&cluster, "client", "net_rx_bytes", 2 * SENT);
    end(&mut framework, &["server", "client"]).await;
    host.wait_clean(&cluster, &mut framework).await;
}

/// Bits a second that a task may get, and send.
const RATE: u64 = 8_000_000;
/// Bits that it may be ahead of its rate.
const BURST: u64 = 400_000;
/// Bytes that are sent to measure it.
const MEASURED: u64 = 3_000_000;

/// Python that serves whoever connects: takes all there is after an `i`, and sends after
/// an `o`.
fn pump() -> String {
    format!(
        "exec python3 -c 'import socket\ns = socket.create_server((\"\", 80))\nprint(\"ready\", flush=True)\n\
         while True:\n  c, _ = s.accept()\n  way = c.recv(1)\n  if way == b\"o\": c.sendall(bytes({MEASURED}))\n  \
         else:\n    while c.recv(65536): pass\n  c.close()'"
    )
}

/// Bits a second that really go to (`i`) or come from (`o`) a task with a [`pump`].
fn measured(address: &str, way: char) -> f64 {
    let line = format!(
        "import socket, time\ns = socket.create_connection((\"{address}\", 80), 60)\nt = time.monotonic()\n\
         s.sendall(b\"{way}\")\nif \"{way}\" == \"i\": s.sendall(bytes({MEASURED}))\ns.shutdown(1)\n\
         while s.recv(65536): pass\nprint(time.monotonic() - t)"
    );
    let told = Command::new("python3").args(["-c", &line]).output().expect("python3");
    let text = String::from_utf8_lossy(&told.stdout).into_owned();
    let seconds: f64 = text.trim().parse().unwrap_or_else(|_| panic!("{told:?}"));
    (MEASURED * 8 - BURST) as f64 / seconds
}

#[tokio::test]
async fn the_bandwidth_plugin_holds_its_rates() {
    require!(root, cgroup, program_python3, cni_plugins);
    let host = Host::new("net-rates");
    host.configure(
        "web.conflist",
        &json!({ "cniVersion": "1.0.0", "name": "web", "plugins": [
            bridge(&host, "web", 1),
            { "type": "bandwidth", "capabilities": { "bandwidth": true } }] }),
    );
    let (cluster, mut framework) = host.cluster("net-rates", &[]).await;
    let mut server = task("server", &pump(), &["web"]);
    let label = |key: &str, value: u64| json!({ "key": key, "value": value.to_string() });
    server["container"]["network_infos"][0]["labels"] = json!({ "labels": [
        label("cni.ingress_rate", RATE), label("cni.ingress_burst", BURST),
        label("cni.egress_rate", RATE), label("cni.egress_burst", BURST)] });
    framework.start(server).await;
    output(&cluster, "server", "ready");
    let address = addresses(&framework, "server").concat().remove(0);
    for way in ['i', 'o'] {
        let mut seen = Vec::new();
        // A busy machine may keep it from sending, and never lets it send more.
        for _ in 0..3 {
            let rate = measured(&address, way) / RATE as f64;
            seen.push(rate);
            assert!(rate < 1.1, "{way}: {seen:?} of the rate");
            if rate > 0.85 {
                break;
            }
        }
        assert!(seen.iter().any(|rate| *rate > 0.85), "{way}: {seen:?} of the rate");
    }
    end(&mut framework, &["server"]).await;
    host.wait_clean(&cluster, &mut framework).await;
}

/// A process of the test that is ended with it.
struct Server(Child);

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[tokio::test]
async fn the_firewall_plugin_opens_the_way_for_its_containers() {
    require!(root, cgroup, program_python3, cni_plugins, program_iptables);
    let host = Host::new("net-wall");
    ip("address add fd51::1/64 dev uplink nodad");
    let beyond = Beyond::new();
    for (subnet, way) in [("10.77.0.0/16", "198.51.100.1"), ("fd77::/16", "fd51::1")] {
        ip(&format!("-n {} route add {subnet} via {way}", beyond.0));
    }
    // Whoever is not let through by name stays in.
    run("iptables -P FORWARD DROP");
    run("ip6tables -P FORWARD DROP");
    let theirs = [run("iptables -S FORWARD"), run("ip6tables -S FORWARD")];
    host.configure(
        "open.conflist",
        &json!({ "cniVersion": "1.0.0", "name": "open", "plugins": [
            bridge(&host, "open", 1), { "type": "firewall", "backend": "iptables" }] }),
    );
    host.configure("closed.conf", &bridge(&host, "closed", 2));
    let (cluster, mut framework) = host.cluster("net-wall", &[]).await;
    let listening = Command::new("ip")
        .args(["netns", "exec", &beyond.0, "sh", "-c", &sink(80)])
        .stdout(Stdio::null())
        .spawn();
    let _server = Server(listening.expect("a server"));
    let reach = |address: &str| {
        let line = source(address, 80, 3);
        format!("until {line}; do sleep 0.2; done")
    };
    let both = format!("{}; {}; echo through; sleep 1000", reach("198.51.100.2"), reach("fd51::2"));
    framework.start(task("open", &both, &["open"])).await;
    output(&cluster, "open", "through");
    let told = addresses(&framework, "open").concat();
    let rules = || [run("iptables-save"), run("ip6tables-save")];
    for (address, rules) in told.iter().zip(rules()) {
        assert!(rules.contains(&format!("-s {address}/")), "{address}: {rules}");
    }
    for address in ["198.51.100.2", "fd51::2"] {
        let line = source(address, 80, 3).replace(", 20)", ", 2)");
        let name = format!("closed-{}", if address.contains(':') { 6 } else { 4 });
        let seen = framework.run(task(&name, &line, &["closed"]), 60).await;
        assert_eq!(seen["state"], "TASK_FAILED", "{seen}: {:?}", rules());
    }
    end(&mut framework, &["open"]).await;
    host.wait_clean(&cluster, &mut framework).await;
    for (address, rules) in told.iter().zip(rules()) {
        assert!(!rules.contains(address.as_str()), "{address}: {rules}");
    }
    // The way to the plugin's own chains stays, as the plugin leaves it.
    for (before, after) in
        theirs.iter().zip([run("iptables -S FORWARD"), run("ip6tables -S FORWARD")])
    {
        assert!(before.lines().all(|line| after.contains(line)), "{before}\n{after}");
    }
}
