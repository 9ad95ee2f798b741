//! Containers on networks of their own: with nothing but a loopback, on a bridge that is
//! made without a process, and on the same by CNI's reference plugins. In a network
//! namespace that plays the host. What the agent keeps of running containers is in
//! memory, as `/run` is.

use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use crate::figures::{figure, median, quantile};
use bulkhead::containerizer::Containerizer;
use bulkhead::containerizer::native::{Config, Native};
use isolators::api::{ContainerContext, Isolation, Isolator, Known, Probe};
use isolators::network::cni::Settings;
use isolators::registry;
use kernel::netlink::{Family, Socket, link};
use kernel::sched::thread_time;
use mesos::{ContainerInfo, NetworkInfo, ResourceStatistics, container_info};
use serde_json::json;

use crate::ground::{self, Memory, cpu_ms, id, request};
use crate::support::TempDir;

const ROUNDS: usize = 20;
const PER_ROUND: usize = 10;
const AT_ONCE: usize = 16;
const MANY: usize = 400;
const CONTAINERS: usize = 1000;
const SWEEPS: usize = 40;
/// Threads that share a sweep, as the agent's do.
const THREADS: usize = 2;
const NETWORK: Option<&str> = Some("bulkhead-bridge");
const APART: Duration = Duration::from_millis(300);
/// So long may it take until the interfaces have been at rest during so many sweeps.
const REST: Duration = Duration::from_secs(240);

/// Leaves the machine's network. Before there are other threads.
pub fn enter_host() {
    nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).expect("a network namespace");
    let up = Command::new("ip").args(["link", "set", "lo", "up"]).status();
    assert!(up.expect("ip").success());
}

fn networks(dir: &TempDir, root: PathBuf) -> Settings {
    let conf = dir.path().join("conf");
    std::fs::create_dir_all(&conf).expect("a directory");
    let bridge = |kind: &str, number: u8| {
        json!({ "cniVersion": "1.0.0", "name": kind, "type": kind, "bridge": format!("br{number}"),
            "isGateway": true, "ipam": { "type": "host-local",
                "dataDir": dir.path().join("leases").display().to_string(),
                "subnet": format!("10.{number}.0.0/16"), "routes": [{ "dst": "0.0.0.0/0" }] } })
    };
    let loopback = json!({ "cniVersion": "1.0.0", "name": "none", "type": "bulkhead-loopback" });
    for (name, text) in
        [("a", bridge("bulkhead-bridge", 201)), ("b", bridge("bridge", 202)), ("c", loopback)]
    {
        std::fs::write(conf.join(format!("{name}.conf")), text.to_string()).expect("write");
    }
    Settings {
        plugins_dirs: vec!["/usr/lib/cni".into()],
        config_dir: Some(conf),
        root,
        ..Settings::default()
    }
}

fn on(network: &str) -> ContainerInfo {
    let info = NetworkInfo { name: Some(network.into()), ..NetworkInfo::default() };
    ContainerInfo {
        r#type: container_info::Type::Mesos as i32,
        network_infos: vec![info],
        ..ContainerInfo::default()
    }
}

struct Ground {
    name: String,
    dir: TempDir,
    memory: Memory,
    native: Arc<Native>,
}

impl Ground {
    async fn new(name: &str) -> Ground {
        let (dir, memory) = (TempDir::new("bench-cni"), Memory::new(&format!("cni-{name}")));
        let config = Config {
            isolation: "filesystem/linux,namespaces/pid,network/cni".into(),
            runtime_dir: memory.path().join("runtime"),
            isolators: isolators::config::Config {
                cgroups_root: cgroups(name),
                cni: networks(&dir, memory.path().join("cni")),
                ..Default::default()
            },
            statistics_age: Duration::ZERO,
            ..Config::default()
        };
        let native = Native::new(config).expect("a containerizer");
        native.recover(Vec::new()).await.expect("recovery of nothing");
        Ground { name: name.to_owned(), dir, memory, native: Arc::new(native) }
    }

    async fn launch(&self, name: &str, network: Option<&str>) -> f64 {
        let start = Instant::now();
        self.run(name, network).await;
        start.elapsed().as_secs_f64() * 1e3
    }

    /// A container that runs; its pid.
    async fn run(&self, name: &str, network: Option<&str>) -> u32 {
        let mut request = request(&id(name), self.dir.path(), "exec sleep 100000");
        request.container = network.map(on);
        self.native.launch(request).await.expect("launch").pid.expect("a pid")
    }

    /// The isolator alone, with what it keeps below `root`.
    fn isolator(&self, root: &str) -> Arc<dyn Isolator> {
        let config = isolators::config::Config {
            cgroups_root: cgroups(&self.name),
            cni: networks(&self.dir, self.memory.path().join(root)),
            ..isolators::config::Config::new(
                isolators::config::Launcher::Linux,
                kernel::cgroup::Hierarchies::detect().expect("the mount table"),
            )
        };
        let made = registry::create("network/cni", Arc::new(config)).expect("isolators");
        let cni = made.all.iter().find(|isolator| isolator.name() == "network/cni");
        Arc::clone(cni.expect("there"))
    }

    async fn end(&self, name: &str) {
        self.native.destroy(&id(name), None).await;
        self.native.forget(&id(name)).await;
    }

    /// Does `each` for that many numbers, so many at once; how many per second.
    async fn rate<F>(&self, count: usize, each: impl Fn(usize) -> F + Clone + Send + 'static) -> f64
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let next = Arc::new(AtomicUsize::new(0));
        let start = Instant::now();
        let workers: Vec<_> = (0..AT_ONCE)
            .map(|_| {
                let (next, each) = (Arc::clone(&next), each.clone());
                tokio::spawn(async move {
                    loop {
                        let number = next.fetch_add(1, Ordering::Relaxed);
                        if number >= count {
                            return;
                        }
                        each(number).await;
                    }
                })
            })
            .collect();
        for worker in workers {
            worker.await.expect("a worker");
        }
        count as f64 / start.elapsed().as_secs_f64()
    }
}

impl Drop for Ground {
    fn drop(&mut self) {
        ground::remove_cgroups(&cgroups(&self.name));
    }
}

fn cgroups(name: &str) -> String {
    format!("bulkhead-bench-{}-{name}", std::process::id())
}

pub async fn run() {
    let ground = Arc::new(Ground::new("launches").await);
    alone(&ground).await;
    many(&ground).await;
    side_by_side(&ground).await;
    drop(ground);
    interfaces().await;
}

/// One container at a time, on the host's network and with a loopback of its own.
async fn alone(ground: &Ground) {
    let (mut none, mut own) = (Vec::new(), Vec::new());
    for round in 0..ROUNDS {
        for (network, times) in [(None, &mut none), (Some("none"), &mut own)] {
            for number in 0..PER_ROUND {
                let name = format!("a{round}-{number}-{}", network.is_some());
                times.push(ground.launch(&name, network).await);
                ground.end(&name).await;
            }
        }
    }
    let (none, own) = (median(&mut none), median(&mut own));
    println!("network/cni, launches one at a time: {none:.2} ms, own namespace {own:.2} ms");
    figure("network.netns_over_none", own / none);
}

/// Many at once, on a bridge.
async fn many(ground: &Arc<Ground>) {
    let other = Arc::clone(ground);
    let launched = ground
        .rate(MANY, move |number| {
            let ground = Arc::clone(&other);
            async move {
                ground.launch(&format!("m{number}"), NETWORK).await;
            }
        })
        .await;
    let other = Arc::clone(ground);
    let ended = ground
        .rate(MANY, move |number| {
            let ground = Arc::clone(&other);
            async move { ground.end(&format!("m{number}")).await }
        })
        .await;
    println!("  on a bridge, {AT_ONCE} at once: {launched:.0} launches/s, {ended:.0} ends/s");
    figure("network.veth_per_s_16", launched);
}

/// What the isolator does for one container, by our bridge and by CNI's.
async fn side_by_side(ground: &Ground) {
    let cni = ground.isolator("side");
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for round in 0..ROUNDS {
        for (network, times) in [("bulkhead-bridge", &mut ours), ("bridge", &mut theirs)] {
            for number in 0..PER_ROUND / 2 {
                let context = ContainerContext {
                    id: id(&format!("s{round}-{number}-{network}")),
                    info: Some(on(network)),
                    ..ContainerContext::default()
                };
                let mut handle = Isolator::attach(&*cni, &Arc::new(context));
                let start = Instant::now();
                handle.prepare().await.expect("prepared");
                handle.cleanup().await.expect("cleaned up");
                times.push(start.elapsed().as_secs_f64() * 1e3);
            }
        }
    }
    let (ours, theirs) = (median(&mut ours), median(&mut theirs));
    println!("  joined and left: bulkhead-bridge {ours:.2} ms, CNI's bridge {theirs:.2} ms");
    figure("network.cni_bridge_over_ours", theirs / ours);
}

/// Cpu time of one look at the interfaces of many containers, by the probes that the agent
/// has: by themselves, since they are a small part of a sweep.
async fn interfaces() {
    let ground = Arc::new(Ground::new("interfaces").await);
    let pids: Arc<Mutex<Vec<(String, u32)>>> = Arc::default();
    let (other, found) = (Arc::clone(&ground), Arc::clone(&pids));
    let launch = move |number| {
        let (ground, found) = (Arc::clone(&other), Arc::clone(&found));
        async move {
            let name = format!("w{number}");
            let pid = ground.run(&name, NETWORK).await;
            found.lock().expect("whole").push((name, pid));
        }
    };
    ground.rate(CONTAINERS, launch).await;
    let running = std::mem::take(&mut *pids.lock().expect("whole"));
    let mut handles = recovered(&ground, &running).await;
    let mut probes: Vec<Box<dyn Probe>> = handles.iter_mut().flat_map(|one| one.probes()).collect();
    assert_eq!(probes.len(), CONTAINERS, "every container has its figures");
    let (mut all, mut own) = (Vec::new(), Vec::new());
    let start = Instant::now();
    look(&mut probes);
    ground.native.statistics().await;
    // New interfaces look for routers and neighbours for a while, and every port of the
    // bridge has a copy. What the kernel does of that in our time is no part of a look.
    while own.len() < SWEEPS {
        assert!(start.elapsed() < REST, "the interfaces come to no rest: {} looks", own.len());
        let before = packets();
        // One reading serves those who ask at once: it is not to serve two sweeps.
        tokio::time::sleep(APART).await;
        let looked = look(&mut probes);
        let began = cpu_ms();
        assert_eq!(ground.native.statistics().await.len(), CONTAINERS);
        let swept = cpu_ms() - began;
        if packets() == before {
            own.push(looked);
            all.push(swept);
        }
    }
    let (all, middle) = (median(&mut all), median(&mut own));
    let (low, high) = (quantile(&mut own, 0.25), quantile(&mut own, 0.75));
    println!(
        "  a sweep of {CONTAINERS} containers: {all:.2} ms cpu; their interfaces alone \
         {middle:.2} ms (quartiles {low:.2} and {high:.2})"
    );
    figure("network.stats_cpu_ms", middle);
    let other = Arc::clone(&ground);
    let end = move |number| {
        let ground = Arc::clone(&other);
        async move { ground.end(&format!("w{number}")).await }
    };
    ground.rate(CONTAINERS, end).await;
}

/// The isolator's part of containers that run already.
async fn recovered(ground: &Ground, running: &[(String, u32)]) -> Vec<Box<dyn Isolation>> {
    let known = |(name, pid): &(String, u32)| {
        let context = ContainerContext {
            id: id(name),
            info: NETWORK.map(on),
            command_task: true,
            ..ContainerContext::default()
        };
        Known { context: Arc::new(context), pid: Some(*pid) }
    };
    let known: Vec<Known> = running.iter().map(known).collect();
    let recovered = ground.isolator("cni").recover(&known).await.expect("recovered");
    assert_eq!(recovered.leftovers, [""; 0], "nothing is taken off");
    recovered.handles
}

/// Asks all probes, on as many threads as the agent does; their cpu time in milliseconds.
fn look(probes: &mut [Box<dyn Probe>]) -> f64 {
    let share = probes.len().div_ceil(THREADS);
    let ask = |probes: &mut [Box<dyn Probe>]| {
        let (mut buffer, mut found) = (Vec::new(), vec![ResourceStatistics::default(); share]);
        let start = thread_time();
        for (probe, statistics) in probes.iter_mut().zip(&mut found) {
            probe.sample(&mut buffer, statistics).expect("figures");
        }
        let took = thread_time() - start;
        let known = found.iter().filter(|found| found.net_rx_bytes.is_some()).count();
        assert_eq!(known, probes.len(), "every interface has been found");
        took.as_secs_f64() * 1e3
    };
    std::thread::scope(|scope| {
        let all: Vec<_> =
            probes.chunks_mut(share).map(|part| scope.spawn(move || ask(part))).collect();
        all.into_iter().map(|one| one.join().expect("a look")).sum()
    })
}

/// How many packets have gone through all interfaces so far.
fn packets() -> u64 {
    let mut socket = Socket::open(Family::Route).expect("a socket");
    let all = link::all_counters(&mut socket).expect("counters");
    all.iter().map(|(_, counters)| counters.rx_packets + counters.tx_packets).sum()
}
