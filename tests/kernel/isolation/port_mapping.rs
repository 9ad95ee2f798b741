//! `network/port_mapping` between a host, its containers and somebody outside.
//!
//! The host is a network namespace of the test: the test starts itself again in one,
//! with a pair as its public interface, the other end of which is outside.

#[path = "port_mapping/many.rs"]
mod many;
#[path = "port_mapping/shaping.rs"]
mod shaping;

use std::process::{Child, Command};
use std::time::{Duration, Instant};

use bulkhead::containerizer::native::Native;
use bulkhead::containerizer::{Containerizer, LaunchRequest};
use kernel::namespaces::Namespace;
use mesos::resources::Ranges;
use mesos::{Resource, value};

use crate::recovery::{in_a_life, known};
use crate::{PATIENCE, Place, have_probe, labelled, require, resources, top};

const ISOLATION: &str = "cgroups/mem,filesystem/linux,network/port_mapping";
const INSIDE: &str = "BULKHEAD_TEST_NETWORK";
const HOST: [&str; 2] = ["10.77.0.2", "[fd77::2]"];
const OUTSIDE: [&str; 2] = ["10.77.0.1", "[fd77::1]"];
/// Given to containers in blocks of 64.
const EPHEMERAL: (u64, u64) = (32_768, 33_023);

fn run(line: &str) -> bool {
    Command::new("sh").args(["-c", line]).status().is_ok_and(|status| status.success())
}

fn must(line: &str) {
    assert!(run(line), "failed: {line}");
}

/// Runs the test of that name in a network of its own; whether we are there already.
fn in_a_network(test: &str) -> bool {
    if std::env::var_os(INSIDE).is_some() {
        return true;
    }
    require_tools(test);
    let own = std::env::current_exe().expect("this program");
    // Its own summary is no result of this run.
    let ended = Command::new("unshare")
        .args(["--net", "--"])
        .arg(own)
        .args(["--exact", test, "--nocapture", "--test-threads=1"])
        .env(INSIDE, "1")
        .output()
        .expect("unshare");
    let said = [ended.stdout, ended.stderr].map(|said| String::from_utf8_lossy(&said).into_owned());
    assert!(ended.status.success(), "{test} failed in its network: {}", said.join("\n"));
    false
}

fn require_tools(test: &str) {
    for tool in ["ip", "unshare", "nsenter"] {
        assert!(run(&format!("command -v {tool} >/dev/null")), "{test} needs {tool}");
    }
}

/// Somebody outside: a process in a network that the host reaches over its public
/// interface.
struct Outside(Child);

impl Outside {
    /// Makes the host's interfaces as well.
    fn start() -> Outside {
        let child = Command::new("unshare").args(["--net", "sleep", "1000"]).spawn();
        let outside = Outside(child.expect("unshare"));
        let pid = outside.0.id();
        let start = Instant::now();
        while Namespace::Network.shared_with(pid).unwrap_or(true) {
            assert!(start.elapsed() < PATIENCE, "it has a network of its own");
            std::thread::sleep(Duration::from_millis(5));
        }
        must("ip link set lo up");
        must("echo 50000 60000 > /proc/sys/net/ipv4/ip_local_port_range");
        must("echo 0 > /proc/sys/net/ipv4/conf/all/rp_filter");
        must(&format!("ip link add eth0 type veth peer name out netns {pid}"));
        for line in [
            "addr add 10.77.0.2/24 dev eth0",
            "addr add fd77::2/64 dev eth0 nodad",
            "link set eth0 up",
        ] {
            must(&format!("ip {line}"));
        }
        for line in ["link set lo up", "addr add 10.77.0.1/24 dev out", "link set out up"] {
            must(&format!("nsenter -t {pid} -n ip {line}"));
        }
        must(&format!("nsenter -t {pid} -n ip addr add fd77::1/64 dev out nodad"));
        must("ip route add default via 10.77.0.1");
        must("ip -6 route add default via fd77::1");
        outside
    }

    /// Runs the probe outside; what it says.
    fn probe(&self, arguments: &[&str]) -> String {
        let pid = self.0.id().to_string();
        let mut command = Command::new("nsenter");
        command.args(["-t", &pid, "-n"]).arg(crate::probe()).args(arguments);
        String::from_utf8_lossy(&command.output().expect("the probe").stdout).trim().to_owned()
    }

    /// Answers there for as long as the value lives.
    fn answers(&self, protocol: &str, address: &str) -> Answering {
        let pid = self.0.id().to_string();
        let mut command = Command::new("nsenter");
        command.args(["-t", &pid, "-n"]).arg(crate::probe()).args(["echo", protocol, address]);
        Answering::start(&mut command)
    }
}

impl Drop for Outside {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A program that answers.
struct Answering(Child);

impl Answering {
    fn start(command: &mut Command) -> Answering {
        use std::io::BufRead;
        let child = command.stdout(std::process::Stdio::piped()).spawn();
        let mut answering = Answering(child.expect("the probe"));
        let mut line = String::new();
        let out = answering.0.stdout.take().expect("its output");
        std::io::BufReader::new(out).read_line(&mut line).expect("a line");
        assert_eq!(line.trim(), "ready");
        answering
    }

    fn on_the_host(protocol: &str, address: &str) -> Answering {
        Answering::start(Command::new(crate::probe()).args(["echo", protocol, address]))
    }
}

impl Drop for Answering {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn here(arguments: &[&str]) -> String {
    let output = Command::new(crate::probe()).args(arguments).output().expect("the probe");
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

fn place(name: &str) -> Place {
    let mut place = Place::new(name, ISOLATION);
    let mapping = &mut place.config.isolators.port_mapping;
    mapping.ports = Ranges::new([(31_000, 31_999)]);
    mapping.ephemeral = Ranges::new([EPHEMERAL]);
    mapping.per_container = 64;
    place
}

/// A container with these ports that runs the probe.
fn container(place: &Place, id: &str, ports: &[u64], arguments: &[&str]) -> LaunchRequest {
    let mut request = place.probe(id, arguments);
    let range = ports.iter().map(|port| value::Range { begin: *port, end: *port });
    let ports = Resource {
        name: "ports".into(),
        r#type: value::Type::Ranges as i32,
        ranges: Some(value::Ranges { range: range.collect() }),
        ..Resource::default()
    };
    request.requests = resources(0.1, 64.0).into_iter().chain([ports]).collect();
    request
}

/// Asks from a container of its own; what it hears.
async fn from_a_container(native: &Native, place: &Place, id: &str, ask: [&str; 2]) -> String {
    let request = container(place, id, &[], &["connect", ask[0], ask[1]]);
    native.launch(request).await.expect("launch");
    tokio::time::timeout(PATIENCE, native.wait(&top(id))).await.expect("it ends");
    native.forget(&top(id)).await;
    place.output(id).trim().to_owned()
}

fn port_of(answer: &str) -> u64 {
    answer.rsplit(' ').next().and_then(|port| port.parse().ok()).unwrap_or(0)
}

fn interfaces() -> Vec<String> {
    let text = Command::new("ip").args(["-o", "link"]).output().expect("ip").stdout;
    let text = String::from_utf8_lossy(&text).into_owned();
    let name = |line: &str| line.split(':').nth(1).map(|name| name.trim().to_owned());
    let names = text.lines().filter_map(name);
    names.filter(|name| name.starts_with("mesos")).collect()
}

#[test]
fn everybody_has_the_hosts_address_and_ports_of_their_own() {
    require!(root, cgroup);
    let test = "port_mapping::everybody_has_the_hosts_address_and_ports_of_their_own";
    if !have_probe(test) || !in_a_network(test) {
        return;
    }
    let outside = Outside::start();
    let mut place = place("mapping");
    place.config.isolators.port_mapping.per_container = 16;
    in_a_life(async {
        let native = place.start();
        native.recover(Vec::new()).await.expect("recovery of nothing");
        for (id, protocol, ip, port) in [
            ("tcp4", "tcp", "0.0.0.0", 31_000),
            ("udp4", "udp", "0.0.0.0", 31_001),
            ("tcp6", "tcp", "[::]", 31_002),
            ("udp6", "udp", "[::]", 31_003),
            // Not its port: nobody hears of it.
            ("foreign", "tcp", "0.0.0.0", 31_900),
        ] {
            let ports = if id == "foreign" { vec![] } else { vec![port] };
            let address = format!("{ip}:{port}");
            native
                .launch(container(&place, id, &ports, &["echo", protocol, &address]))
                .await
                .expect("launch");
            place.wait_output(id, "ready").await;
        }
        let rows = [("tcp", 0, 31_000), ("udp", 0, 31_001), ("tcp", 1, 31_002), ("udp", 1, 31_003)];
        for (protocol, version, port) in rows {
            let there = format!("{}:{port}", HOST[version]);
            let ask = ["connect", protocol, there.as_str()];
            let heard = outside.probe(&ask);
            assert!(heard.starts_with("answer hello"), "outside, {there} {protocol}: {heard}");
            let heard = here(&ask);
            assert!(heard.starts_with("answer hello"), "the host, {there} {protocol}: {heard}");
            let id = format!("ask-{protocol}-{version}");
            let heard = from_a_container(&native, &place, &id, [protocol, &there]).await;
            assert!(heard.starts_with("answer hello"), "a container, {there} {protocol}: {heard}");
        }
        let heard = here(&["connect", "tcp", "127.0.0.1:31000"]);
        assert!(heard.starts_with("answer hello"), "over the loopback address: {heard}");
        for ask in [
            outside.probe(&["connect", "tcp", "10.77.0.2:31900"]),
            here(&["connect", "tcp", "10.77.0.2:31900"]),
        ] {
            assert!(ask.starts_with("failed"), "{ask}");
        }

        // All that answered was counted.
        let statistics = native.statistics().await;
        let of = |id: &str| statistics.iter().find(|(has, _)| has.value == id).map(|(_, s)| s);
        let tcp4 = of("tcp4").expect("figures");
        assert!(tcp4.net_rx_packets > Some(5) && tcp4.net_tx_bytes > Some(100), "{tcp4:?}");
        let block = tcp4.net_ephemeral_ports.as_ref().expect("a block");
        assert_eq!(block.end - block.begin + 1, 16);

        native.destroy(&top("udp4"), None).await.expect("destroyed");
        let heard = outside.probe(&["connect", "udp", "10.77.0.2:31001"]);
        assert!(heard.starts_with("failed"), "its port is nobody's: {heard}");
        for (id, _) in native.containers() {
            native.destroy(&id, None).await.expect("destroyed");
        }
    });
    assert_eq!(interfaces(), Vec::<String>::new());
}

#[test]
fn containers_reach_others_from_ports_of_their_block() {
    require!(root, cgroup);
    let test = "port_mapping::containers_reach_others_from_ports_of_their_block";
    if !have_probe(test) || !in_a_network(test) {
        return;
    }
    let outside = Outside::start();
    let place = place("mapping-out");
    in_a_life(async {
        let native = place.start();
        native.recover(Vec::new()).await.expect("recovery of nothing");
        let _answering: Vec<Answering> = ["tcp", "udp"]
            .iter()
            .flat_map(|protocol| {
                [0, 1]
                    .map(|version| outside.answers(protocol, &format!("{}:7000", OUTSIDE[version])))
            })
            .collect();
        let _host = Answering::on_the_host("tcp", "0.0.0.0:7001");
        for (id, protocol, there) in [
            ("out-tcp4", "tcp", "10.77.0.1:7000"),
            ("out-udp4", "udp", "10.77.0.1:7000"),
            ("out-tcp6", "tcp", "[fd77::1]:7000"),
            ("out-udp6", "udp", "[fd77::1]:7000"),
            ("host", "tcp", "10.77.0.2:7001"),
            ("loopback", "tcp", "127.0.0.1:7001"),
        ] {
            let heard = from_a_container(&native, &place, id, [protocol, there]).await;
            assert!(heard.starts_with("answer hello"), "{id}: {heard}");
            let port = port_of(&heard);
            assert!((EPHEMERAL.0..=EPHEMERAL.1).contains(&port), "{id}: {heard}");
        }
        if run("command -v ping >/dev/null") {
            let mut ping = place.shell("ping", "ping -c 1 -w 5 10.77.0.1");
            ping.requests = container(&place, "x", &[], &["ids"]).requests;
            native.launch(ping).await.expect("launch");
            let end = tokio::time::timeout(PATIENCE, native.wait(&top("ping"))).await;
            let end = end.expect("in time").expect("known");
            assert_eq!(end.status, Some(0), "{}", place.output("ping"));
        }
        for (id, _) in native.containers() {
            native.destroy(&id, None).await.expect("destroyed");
        }
    });
    assert_eq!(interfaces(), Vec::<String>::new());
}

#[test]
fn the_agent_may_die_and_ports_stay_where_they_are() {
    require!(root, cgroup);
    let test = "port_mapping::the_agent_may_die_and_ports_stay_where_they_are";
    if !have_probe(test) || !in_a_network(test) {
        return;
    }
    let outside = Outside::start();
    let place = place("mapping-again");
    let ask = ["connect", "tcp", "10.77.0.2:31000"];
    let kept = container(&place, "kept", &[31_000], &["echo", "tcp", "0.0.0.0:31000"]);
    let gone = container(&place, "gone", &[31_001], &["echo", "tcp", "0.0.0.0:31001"]);
    let pid = in_a_life(async {
        let native = place.start();
        native.recover(Vec::new()).await.expect("recovery of nothing");
        let pid = native.launch(kept.clone()).await.expect("launch").pid;
        native.launch(gone.clone()).await.expect("launch");
        place.wait_output("kept", "ready").await;
        place.wait_output("gone", "ready").await;
        pid
    });
    assert!(outside.probe(&ask).starts_with("answer"), "without an agent");
    // A mark without a container, as of an agent that died while it made one.
    must("ip link add mesos1 type veth peer name mesos2");
    must(&format!(
        "ip link set mesos1 alias 'bulkhead {} stray 32896-32959'",
        place.config.isolators.cgroups_root
    ));
    must("ip link add mesos9 type veth peer name other9");
    in_a_life(async {
        let native = place.start();
        native.recover(vec![known(&kept, pid)]).await.expect("recover");
        native.status(&top("kept")).await.expect("it runs");
        assert!(outside.probe(&ask).starts_with("answer"), "with the next agent");
        // What the next agent does not want is destroyed, with its interface.
        tokio::time::timeout(PATIENCE, native.wait(&top("gone"))).await.expect("in time");
        let left = interfaces();
        assert_eq!(left.len(), 2, "{left:?}");
        assert!(left.iter().any(|name| name.starts_with("mesos9")), "a stranger's: {left:?}");
        let heard = outside.probe(&["connect", "tcp", "10.77.0.2:31001"]);
        assert!(heard.starts_with("failed"), "{heard}");
        // Blocks are not given twice.
        for id in ["a", "b", "c"] {
            native.launch(container(&place, id, &[], &["sleep", "100"])).await.expect("launch");
        }
        let four = native.launch(container(&place, "d", &[], &["sleep", "100"])).await;
        let error = four.expect_err("there are four blocks").to_string();
        assert!(error.contains("network/port_mapping") && error.contains("ephemeral"), "{error}");
        // Ports that are given later, and ports that the agent does not have.
        let more = container(&place, "kept", &[31_000, 31_005], &["ids"]).requests;
        native.update(&top("kept"), more, Default::default()).await.expect("update");
        let wrong = container(&place, "kept", &[80], &["ids"]).requests;
        let error = native.update(&top("kept"), wrong, Default::default()).await;
        assert!(error.expect_err("refused").to_string().contains("[80-80]"));
        for (id, _) in native.containers() {
            native.destroy(&id, None).await.expect("destroyed");
        }
    });
    assert_eq!(interfaces().len(), 1, "only the stranger's");
}

#[test]
fn containers_have_kernel_settings_as_the_host_is_tuned() {
    require!(root, cgroup);
    let test = "port_mapping::containers_have_kernel_settings_as_the_host_is_tuned";
    if !in_a_network(test) {
        return;
    }
    let _outside = Outside::start();
    let set = |name: &str, value: &str| {
        let path = format!("/proc/sys/net/{name}");
        std::fs::write(&path, value).unwrap_or_else(|error| panic!("{path}: {error}"));
    };
    set("core/somaxconn", "777");
    set("ipv4/tcp_ecn", "1");
    set("ipv4/tcp_keepalive_time", "77");
    let mut place = place("mapping-tuned");
    place.config.isolation = format!("{ISOLATION},linux/sysctl");
    in_a_life(async {
        let native = place.start();
        native.recover(Vec::new()).await.expect("recovery of nothing");
        let line = "cd /proc/sys/net; cat core/somaxconn ipv4/tcp_ecn ipv4/tcp_keepalive_time; \
                    echo done; exec sleep 1000";
        for (id, label, wanted) in [
            ("tuned", None, "777\n1\n77\ndone\n"),
            // Who asks for another has it.
            ("own", Some("net.core.somaxconn=99"), "99\n1\n77\ndone\n"),
        ] {
            let mut request = place.shell(id, line);
            request.requests = container(&place, id, &[], &["ids"]).requests;
            if let Some(text) = label {
                request.task = labelled("sysctls", text);
            }
            native.launch(request).await.expect("launch");
            place.wait_output(id, "done").await;
            assert_eq!(place.output(id), wanted, "{id}");
            native.destroy(&top(id), None).await.expect("destroyed");
        }
    });
}

#[test]
fn containers_of_an_agent_without_the_isolator_stay_on_the_hosts_network() {
    require!(root, cgroup);
    let test =
        "port_mapping::containers_of_an_agent_without_the_isolator_stay_on_the_hosts_network";
    if !have_probe(test) || !in_a_network(test) {
        return;
    }
    let outside = Outside::start();
    let mut place = place("mapping-old");
    place.config.isolation = "cgroups/mem,filesystem/linux".into();
    let old = container(&place, "old", &[31_000], &["echo", "tcp", "0.0.0.0:31000"]);
    let pid = in_a_life(async {
        let native = place.start();
        native.recover(Vec::new()).await.expect("recovery of nothing");
        let pid = native.launch(old.clone()).await.expect("launch").pid;
        place.wait_output("old", "ready").await;
        pid
    });
    place.config.isolation = ISOLATION.into();
    in_a_life(async {
        let native = place.start();
        native.recover(vec![known(&old, pid)]).await.expect("recover");
        let more = container(&place, "old", &[31_000, 31_001], &["ids"]).requests;
        native.update(&top("old"), more, Default::default()).await.expect("update");
        native
            .launch(container(&place, "new", &[31_002], &["echo", "tcp", "0.0.0.0:31002"]))
            .await
            .expect("launch");
        place.wait_output("new", "ready").await;
        for port in [31_000, 31_002] {
            let heard = outside.probe(&["connect", "tcp", &format!("10.77.0.2:{port}")]);
            assert!(heard.starts_with("answer"), "{port}: {heard}");
        }
        for id in ["old", "new"] {
            native.destroy(&top(id), None).await.expect("destroyed");
        }
    });
    assert_eq!(interfaces(), Vec::<String>::new());
}

/// Kernel settings of the host's interfaces, those of containers left out.
fn host_settings() -> Vec<String> {
    let mut all = Vec::new();
    for (kind, interface) in
        ["ipv4", "ipv6"].iter().flat_map(|kind| ["all", "default", "lo", "eth0"].map(|i| (kind, i)))
    {
        let dir = format!("/proc/sys/net/{kind}/conf/{interface}");
        for file in std::fs::read_dir(dir).into_iter().flatten().flatten() {
            let value = std::fs::read_to_string(file.path()).unwrap_or_default();
            all.push(format!("{} {value}", file.path().display()));
        }
    }
    all.sort();
    all
}

#[test]
fn settings_of_the_host_stay_as_they_are() {
    require!(root, cgroup);
    let test = "port_mapping::settings_of_the_host_stay_as_they_are";
    if !have_probe(test) || !in_a_network(test) {
        return;
    }
    let _outside = Outside::start();
    let place = place("mapping-host");
    let before = host_settings();
    assert!(before.len() > 50, "{before:?}");
    in_a_life(async {
        let native = place.start();
        native.recover(Vec::new()).await.expect("recovery of nothing");
        native.launch(container(&place, "a", &[31_000], &["sleep", "100"])).await.expect("launch");
        assert_eq!(host_settings(), before);
        native.destroy(&top("a"), None).await.expect("destroyed");
    });
    assert_eq!(host_settings(), before);
    // One that cannot work is said instead.
    must("echo 1 > /proc/sys/net/ipv4/conf/all/rp_filter");
    in_a_life(async {
        let error = Native::new(place.config.clone()).err().expect("refused");
        let error = kernel::chain(&error);
        assert!(error.contains("net.ipv4.conf.all.rp_filter=1"), "{error}");
    });
}

/// Where a life of its own finds what the test has.
const LIFE: &str = "BULKHEAD_TEST_LIFE";

#[test]
fn a_death_at_each_step_leaves_nothing() {
    require!(root, cgroup);
    let test = "port_mapping::a_death_at_each_step_leaves_nothing";
    if !have_probe(test) || !in_a_network(test) {
        return;
    }
    let mut place = place("mapping-death");
    if let Some(runtime) = std::env::var_os(LIFE) {
        // The life that ends early: it dies where the failpoint is.
        place.config.runtime_dir = runtime.into();
        place.config.isolators.cgroups_root = std::env::var("BULKHEAD_TEST_ROOT").expect("a root");
        return in_a_life(async {
            let native = place.start();
            native.recover(Vec::new()).await.expect("recovery of nothing");
            let request = container(&place, "early", &[31_000], &["sleep", "100"]);
            let launched = native.launch(request).await;
            panic!("it lived on: {launched:?}");
        });
    }
    let _outside = Outside::start();
    for point in
        ["launch.waiting", "port_mapping.made", "port_mapping.furnished", "launch.isolated"]
    {
        let own = std::env::current_exe().expect("this program");
        let life = Command::new(own)
            .args(["--exact", test, "--nocapture", "--test-threads=1"])
            .env(LIFE, &place.config.runtime_dir)
            .env("BULKHEAD_TEST_ROOT", &place.config.isolators.cgroups_root)
            .env("BULKHEAD_FAILPOINT", point)
            .output()
            .expect("a life");
        let said = String::from_utf8_lossy(&life.stderr);
        assert!(life.status.code().is_none(), "it was to be killed at {point}: {said}");
        in_a_life(async {
            let native = place.start();
            native.recover(Vec::new()).await.expect("recover");
            let start = Instant::now();
            while !(native.containers().is_empty() && interfaces().is_empty()) {
                assert!(start.elapsed() < PATIENCE, "{point}: {:?} are left", interfaces());
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            // All four blocks are free.
            for id in ["a", "b", "c", "d"] {
                let id = format!("{id}-{}", point.replace('.', "-"));
                let request = container(&place, &id, &[31_000], &["sleep", "100"]);
                native.launch(request).await.expect("launch");
            }
            for (id, _) in native.containers() {
                native.destroy(&id, None).await.expect("destroyed");
                native.forget(&id).await;
            }
        });
    }
}
