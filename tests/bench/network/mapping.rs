//! `network/port_mapping`: throughput beside a plain pair of interfaces. The host is a
//! network namespace of the bench.

use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::figures::{figure, quantile};
use bulkhead::containerizer::Containerizer;
use bulkhead::containerizer::native::{Config, Native};
use mesos::resources::Ranges;
use mesos::{Resource, value};

use crate::ground::{self, id, request};
use crate::support::TempDir;

const INSIDE: &str = "BULKHEAD_BENCH_NETWORK";
const PORT: u16 = 31_000;
const ROUNDS: usize = 12;
/// So many if the machine was not calm.
const MOST_ROUNDS: usize = 36;
/// A calm machine: the plain pair is as far from itself in half of all rounds, at most.
const CALM: f64 = 0.05;
/// A run on a busy machine may be cut short.
const TRIES: usize = 5;
const SECONDS: &str = "1";
const PLAIN: &str = "10.79.0.2";
const OURS: &str = "10.78.0.2";

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

/// Gigabits per second from the network of `client` to `address`; with `back` the other
/// way. Client and server have a processor each, if there are two: where the scheduler puts
/// them decides more than what is between them.
fn throughput(client: u32, address: &str, back: &str) -> f64 {
    let several = std::thread::available_parallelism().is_ok_and(|all| all.get() > 1);
    let places = if several { "-A 0,1" } else { "" };
    let line = format!(
        "nsenter -t {client} -n iperf3 -J -c {address} -p {PORT} -t {SECONDS} {places} {back}"
    );
    let run = || {
        let output = Command::new("sh").args(["-c", &line]).output().expect("sh").stdout;
        let report: serde_json::Value = serde_json::from_slice(&output).ok()?;
        Some(report["end"]["sum_received"]["bits_per_second"].as_f64()? / 1e9)
    };
    let found = (0..TRIES).find_map(|_| run().filter(|rate| *rate > 0.0));
    found.unwrap_or_else(|| panic!("no figure of {TRIES} runs of {line}"))
}

/// The quartiles: low, middle, high.
fn quartiles(figures: &mut [f64]) -> [f64; 3] {
    [0.25, 0.5, 0.75].map(|share| quantile(figures, share))
}

/// The plain pair over ours and over itself, in rounds of four short runs: a change of the
/// machine's speed that lasts meets both, and one that does not is an outlier of one round.
fn compare(client: u32, what: &str, back: &str) -> f64 {
    let (mut pair, mut ours, mut over_ours, mut over_itself) = (vec![], vec![], vec![], vec![]);
    let mut rounds = 0;
    let calm = |far: &mut [f64]| {
        let [low, _, high] = quartiles(far);
        low >= 1.0 - CALM && high <= 1.0 + CALM
    };
    while rounds < ROUNDS || rounds < MOST_ROUNDS && !calm(&mut over_itself) {
        rounds += 1;
        let [a, b, c, d] = [PLAIN, OURS, OURS, PLAIN].map(|to| throughput(client, to, back));
        over_ours.push((a + d) / (b + c));
        over_itself.push(a / d);
        pair.extend([a, d]);
        ours.extend([b, c]);
    }
    let [_, pair, _] = quartiles(&mut pair);
    let [_, ours, _] = quartiles(&mut ours);
    let [low, middle, high] = quartiles(&mut over_ours);
    let [least, _, most] = quartiles(&mut over_itself);
    println!(
        "  {what:<17} a plain pair {pair:>6.2} Gbit/s, port mapping {ours:>6.2}; {rounds} rounds, \
         ratio {middle:.3} (quartiles {low:.3} and {high:.3}; of the pair over itself {least:.3} and \
         {most:.3})"
    );
    middle
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
    // In a session of its own as the container is: where others work, the scheduler gives
    // each session its share.
    let _server = Process::start(Command::new("setsid").args([
        "nsenter",
        "-t",
        &far,
        "-n",
        "iperf3",
        "-s",
        "-p",
        &PORT.to_string(),
    ]));
    for address in [OURS, PLAIN] {
        wait_for(out, address);
    }
    let to = compare(out, "to a container", "");
    let worst = compare(out, "from a container", "-R").max(to);
    figure("network.veth_throughput_over_ours", worst);
    native.destroy(&id("server"), None).await;
    ground::remove_cgroups(&root);
}
