//! `network/port_mapping`: throughput beside a plain pair of interfaces. The host is a
//! network namespace of the bench.

use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use bulkhead::containerizer::Containerizer;
use bulkhead::containerizer::native::{Config, Native};
use mesos::resources::Ranges;
use mesos::{Resource, value};

use crate::ground::{self, figure, id, request};
use crate::support::TempDir;

const INSIDE: &str = "BULKHEAD_BENCH_NETWORK";
const PORT: u16 = 31_000;
const ROUNDS: usize = 5;
const SECONDS: &str = "2";

fn sh(line: &str) -> String {
    let output = Command::new("sh").args(["-c", line]).output().expect("sh");
    assert!(output.status.success(), "{line}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// A process, gone with the value.
struct Process(Child);

impl Process {
    fn start(command: &mut Command) -> Process {
        Process(command.stdin(Stdio::null()).stdout(Stdio::null()).spawn().expect("a process"))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Starts this program again in a network of its own, for this part only.
pub fn start() {
    let status = Command::new("unshare")
        .args(["--net", "--"])
        .arg(std::env::current_exe().expect("this program"))
        .env(INSIDE, "1")
        .status();
    assert!(status.expect("unshare").success(), "the part in a network of its own failed");
}

/// Whether this is that part.
pub fn is_inside() -> bool {
    std::env::var_os(INSIDE).is_some()
}

/// A process in a network of its own.
fn elsewhere() -> Process {
    let process = Process::start(Command::new("unshare").args(["--net", "sleep", "10000"]));
    let start = Instant::now();
    let kind = kernel::namespaces::Namespace::Network;
    while kind.shared_with(process.0.id()).unwrap_or(true) {
        assert!(start.elapsed() < Duration::from_secs(60), "it has a network of its own");
    }
    process
}

/// Bits per second from the network of `client` to `address`; with `back` the other
/// way.
fn throughput(client: u32, address: &str, back: &str) -> f64 {
    let line =
        format!("nsenter -t {client} -n iperf3 -J -c {address} -p {PORT} -t {SECONDS} {back}");
    let report: serde_json::Value = serde_json::from_str(&sh(&line)).expect("a report");
    report["end"]["sum_received"]["bits_per_second"].as_f64().expect("a figure")
}

/// Waits until somebody answers there.
fn wait_for(client: u32, address: &str) {
    let line =
        format!("nsenter -t {client} -n iperf3 -c {address} -p {PORT} -n 1K >/dev/null 2>&1");
    let start = Instant::now();
    while !Command::new("sh").args(["-c", &line]).status().expect("sh").success() {
        assert!(start.elapsed() < Duration::from_secs(60), "nobody answers at {address}:{PORT}");
        std::thread::sleep(Duration::from_millis(100));
    }
}

pub async fn inside() {
    sh("ip link set lo up; echo 50000 60000 > /proc/sys/net/ipv4/ip_local_port_range");
    sh("echo 0 > /proc/sys/net/ipv4/conf/all/rp_filter");
    let (outside, plain) = (elsewhere(), elsewhere());
    let (out, far) = (outside.0.id(), plain.0.id());
    sh(&format!("ip link add eth0 type veth peer name out netns {out}"));
    sh(
        "ip addr add 10.78.0.2/24 dev eth0; ip link set eth0 up; ip route add default via 10.78.0.1",
    );
    // Every step must work: `sh` knows of the last one only.
    for line in [
        "ip addr add 10.78.0.1/24 dev out",
        "ip link set out up",
        &format!("ip link add name near type veth peer name far netns {far}"),
        "ip addr add 10.79.0.1/24 dev near",
        "ip link set near up",
    ] {
        sh(&format!("nsenter -t {out} -n {line}"));
    }
    for line in ["addr add 10.79.0.2/24 dev far", "link set far up", "link set lo up"] {
        sh(&format!("nsenter -t {far} -n ip {line}"));
    }
    let dir = TempDir::new("bench-mapping");
    let root = format!("bulkhead-bench-{}", std::process::id());
    let mut config = Config {
        isolation: "filesystem/linux,network/port_mapping".into(),
        runtime_dir: dir.path().join("runtime"),
        isolators: isolators::config::Config { cgroups_root: root.clone(), ..Default::default() },
        ..Config::default()
    };
    config.isolators.port_mapping.ports = Ranges::new([(31_000, 31_999)]);
    config.isolators.port_mapping.ephemeral = Ranges::new([(32_768, 33_791)]);
    let native = Native::new(config).expect("a containerizer");
    native.recover(Vec::new()).await.expect("recovery of nothing");
    let mut server = request(&id("server"), dir.path(), &format!("exec iperf3 -s -p {PORT}"));
    server.requests.push(Resource {
        name: "ports".into(),
        r#type: value::Type::Ranges as i32,
        ranges: Some(value::Ranges {
            range: vec![value::Range { begin: PORT.into(), end: PORT.into() }],
        }),
        ..Resource::default()
    });
    native.launch(server).await.expect("launch");
    let far = far.to_string();
    let _server = Process::start(Command::new("nsenter").args([
        "-t",
        &far,
        "-n",
        "iperf3",
        "-s",
        "-p",
        &PORT.to_string(),
    ]));
    for address in ["10.78.0.2", "10.79.0.2"] {
        wait_for(out, address);
    }
    let mut worst: f64 = 0.0;
    for (what, back) in [("to a container", ""), ("from a container", "-R")] {
        // In turns, so that a change of the machine's speed meets both; and the best of
        // each, since others who run meanwhile only take away.
        let (mut pair, mut ours): (f64, f64) = (0.0, 0.0);
        for _ in 0..ROUNDS {
            ours = ours.max(throughput(out, "10.78.0.2", back) / 1e9);
            pair = pair.max(throughput(out, "10.79.0.2", back) / 1e9);
        }
        println!("  {what:<17} a plain pair {pair:>6.2} Gbit/s, port mapping {ours:>6.2}");
        worst = worst.max(pair / ours);
    }
    figure("network.veth_throughput_over_ours", worst);
    native.destroy(&id("server"), None).await;
    ground::remove_cgroups(&root);
}
