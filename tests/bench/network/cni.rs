//! Containers on networks of their own: with nothing but a loopback, on a bridge that is
//! made without a process, and on the same by CNI's reference plugins. In a network
//! namespace that plays the host. What the agent keeps of running containers is in
//! memory, as `/run` is.

use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use bulkhead::containerizer::Containerizer;
use bulkhead::containerizer::native::{Config, Native};
use isolators::api::{ContainerContext, Isolator};
use isolators::network::cni::Settings;
use isolators::registry;
use mesos::{ContainerInfo, NetworkInfo, container_info};
use serde_json::json;

use crate::ground::{self, Memory, cpu_ms, figure, id, request};
use crate::support::TempDir;

const ROUNDS: usize = 20;
const PER_ROUND: usize = 10;
const AT_ONCE: usize = 16;
const MANY: usize = 400;
const CONTAINERS: usize = 1000;
const SWEEPS: u32 = 20;
const NETWORK: Option<&str> = Some("bulkhead-bridge");
const APART: Duration = Duration::from_millis(300);

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

fn median(times: &mut [f64]) -> f64 {
    times.sort_by(f64::total_cmp);
    times[times.len() / 2]
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
        let mut request = request(&id(name), self.dir.path(), "exec sleep 100000");
        request.container = network.map(on);
        let start = Instant::now();
        self.native.launch(request).await.expect("launch");
        start.elapsed().as_secs_f64() * 1e3
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
    let config = isolators::config::Config {
        cgroups_root: cgroups(&ground.name),
        cni: networks(&ground.dir, ground.memory.path().join("side")),
        ..isolators::config::Config::new(
            isolators::config::Launcher::Linux,
            kernel::cgroup::Hierarchies::detect().expect("the mount table"),
        )
    };
    let made = registry::create("network/cni", Arc::new(config)).expect("isolators");
    let cni = made.all.iter().find(|isolator| isolator.name() == "network/cni").expect("there");
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for round in 0..ROUNDS {
        for (network, times) in [("bulkhead-bridge", &mut ours), ("bridge", &mut theirs)] {
            for number in 0..PER_ROUND / 2 {
                let context = ContainerContext {
                    id: id(&format!("s{round}-{number}-{network}")),
                    info: Some(on(network)),
                    ..ContainerContext::default()
                };
                let mut handle = Isolator::attach(&**cni, &Arc::new(context));
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

/// Cpu time of one pass over the interfaces of many containers: what it is beyond that of
/// a pass over as many that have none of their own, in turns.
async fn interfaces() {
    let (without, with) = (Swept::new("without", None).await, Swept::new("with", NETWORK).await);
    let (mut base, mut beyond) = (Vec::new(), Vec::new());
    for _ in 0..SWEEPS {
        let (less, more) = (without.sweep().await, with.sweep().await);
        base.push(less);
        beyond.push(more - less);
    }
    let (base, beyond) = (median(&mut base), median(&mut beyond));
    println!("  a sweep of {CONTAINERS} containers: {base:.2} ms cpu, interfaces {beyond:.2} ms");
    figure("network.stats_cpu_ms", beyond);
    without.end().await;
    with.end().await;
}

/// Many containers on one network.
struct Swept(Arc<Ground>);

impl Swept {
    async fn new(name: &str, network: Option<&'static str>) -> Swept {
        let ground = Arc::new(Ground::new(name).await);
        let other = Arc::clone(&ground);
        let launch = move |number| {
            let ground = Arc::clone(&other);
            async move {
                ground.launch(&format!("w{number}"), network).await;
            }
        };
        ground.rate(CONTAINERS, launch).await;
        // The first pass opens the files.
        assert_eq!(ground.native.statistics().await.len(), CONTAINERS);
        Swept(ground)
    }

    async fn sweep(&self) -> f64 {
        // One reading serves those who ask at once: it is not to serve two sweeps.
        tokio::time::sleep(APART).await;
        let before = cpu_ms();
        assert_eq!(self.0.native.statistics().await.len(), CONTAINERS);
        cpu_ms() - before
    }

    async fn end(self) {
        let Swept(ground) = &self;
        let other = Arc::clone(ground);
        let end = move |number| {
            let ground = Arc::clone(&other);
            async move { ground.end(&format!("w{number}")).await }
        };
        ground.rate(CONTAINERS, end).await;
    }
}
