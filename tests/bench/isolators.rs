//! `make bench SCENARIO=isolators`: what isolators add to a launch and a sweep.
//!
//! One container at a time through the native containerizer, from launch to
//! forgotten, in rounds that take turns so that a change of the machine's speed
//! meets all variants. The no-op plugin is this program, started again. Needs
//! root and cgroups.

#[path = "figures.rs"]
mod figures;
#[path = "ground.rs"]
mod ground;
#[path = "../support/mod.rs"]
mod support;

use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use bulkhead::containerizer::Containerizer;
use bulkhead::containerizer::native::{Config, Native};
use figures::{figure, median};
use ground::{cpu_ms, id, request};
use isolator_plugin::{Manifest, Plugin, Policy, RemoteIsolator};
use isolators::api::{
    About, ContainerContext, Isolation, Isolator, IsolatorError, Known, Recovered,
};
use isolators::registry;
use support::TempDir;

const ROUNDS: usize = 20;
const PER_ROUND: usize = 10;
const CONTAINERS: usize = 1000;
const SWEEPS: u32 = 20;

/// A container that is one: its own root of the namespaces, no limits.
const BARE: &str = "filesystem/linux,namespaces/pid";

/// What an agent on Linux should have on; what this build lacks is left out.
const SET: [&str; 10] = [
    "cgroups/cpu",
    "cgroups/mem",
    "cgroups/pids",
    "cgroups/devices",
    "namespaces/ipc",
    "posix/rlimits",
    "linux/nnp",
    "linux/capabilities",
    "linux/seccomp",
    "disk/du",
];

/// Does nothing, as an isolator behind a socket.
struct Noop;

#[derive(Debug)]
struct Nothing;

#[async_trait]
impl Isolator for Noop {
    fn about(&self) -> About {
        About::top_level("bench/noop")
    }

    fn attach(&self, _context: &Arc<ContainerContext>) -> Box<dyn Isolation> {
        Box::new(Nothing)
    }

    async fn recover(&self, known: &[Known]) -> Result<Recovered, IsolatorError> {
        let handles = known.iter().map(|_| Box::new(Nothing) as _).collect();
        Ok(Recovered { handles, leftovers: Vec::new() })
    }
}

impl Isolation for Nothing {}

fn main() {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("a runtime");
    if std::env::var_os(isolator_plugin::serve::SOCKET).is_some() {
        let served = runtime.block_on(Plugin::of(Noop, "1").run());
        return served.expect("the agent's socket");
    }
    require!(root, cgroup);
    runtime.block_on(async {
        launches().await;
        sweep().await;
    });
}

/// Those of the names that this build has and this machine can have.
fn available(names: &[&str]) -> Vec<String> {
    let has = |name: &str| registry::TABLE.iter().any(|(known, has)| *known == name && *has);
    let works = |name: &str| {
        let dir = TempDir::new("bench-probe");
        let made = Native::new(config(&dir, &format!("{BARE},{name}")));
        made.map_err(|error| eprintln!("left out: {error}")).is_ok()
    };
    names.iter().filter(|name| has(name) && works(name)).map(|name| (*name).to_owned()).collect()
}

fn config(dir: &TempDir, isolation: &str) -> Config {
    Config {
        isolation: isolation.into(),
        runtime_dir: dir.path().join("runtime"),
        isolators: isolators::config::Config {
            cgroups_root: format!("bulkhead-bench-{}", std::process::id()),
            ..Default::default()
        },
        statistics_age: Duration::ZERO,
        ..Config::default()
    }
}

/// One way to launch.
struct Variant {
    name: &'static str,
    isolation: String,
    dir: TempDir,
    native: Native,
    times: Vec<f64>,
}

impl Variant {
    async fn new(name: &'static str, isolation: String, plugin: bool) -> Variant {
        let dir = TempDir::new("bench-isolators");
        let mut config = config(&dir, &isolation);
        if plugin {
            config.isolation.push_str(",bench/noop");
            let own = std::env::current_exe().expect("this program");
            config.plugins = vec![RemoteIsolator::new(Manifest {
                name: "bench/noop".into(),
                socket: dir.path().join("noop.sock"),
                command: vec![own.display().to_string()],
                deadline: Duration::from_secs(5),
                policy: Policy::Fail,
                protobuf: false,
                config: serde_json::json!({}),
            })];
        }
        let native = Native::new(config).expect("a containerizer");
        native.recover(Vec::new()).await.expect("recovery of nothing");
        Variant { name, isolation, dir, native, times: Vec::new() }
    }

    async fn round(&mut self, round: usize) {
        for number in 0..PER_ROUND {
            let id = id(&format!("{}-{round}-{number}", self.name));
            let request = request(&id, self.dir.path(), "exit 0");
            let start = Instant::now();
            self.native.launch(request).await.expect("launch");
            self.native.wait(&id).await.expect("it ends");
            self.native.forget(&id).await;
            self.times.push(start.elapsed().as_secs_f64() * 1e3);
        }
    }
}

async fn launches() {
    let set = available(&SET);
    let locks = available(&["linux/capabilities", "linux/seccomp"]);
    let with = |more: &[String]| {
        std::iter::once(BARE).chain(more.iter().map(String::as_str)).collect::<Vec<_>>().join(",")
    };
    let mut variants = vec![
        Variant::new("bare", with(&[]), false).await,
        Variant::new("default", with(&set), false).await,
        Variant::new("plugin", with(&[]), true).await,
        Variant::new("locks", with(&locks), false).await,
    ];
    for round in 0..ROUNDS {
        for variant in &mut variants {
            variant.round(round).await;
        }
    }
    println!("isolators, one container at a time, {} launches each", ROUNDS * PER_ROUND);
    let medians: Vec<f64> = variants.iter_mut().map(|one| median(&mut one.times)).collect();
    for (variant, median) in variants.iter().zip(&medians) {
        println!("  {:<8} {median:>8.2} ms  {}", variant.name, variant.isolation);
    }
    figure("isolators.default_over_bare", medians[1] / medians[0]);
    figure("isolators.plugin_ms", medians[2] - medians[0]);
    if !locks.is_empty() {
        figure("isolators.seccomp_caps_ms", medians[3] - medians[0]);
    }
    let plugins = variants.iter().flat_map(|variant| variant.native.plugins());
    for report in plugins {
        assert_eq!(report.failures, 0, "{report:?}");
        let mean = report.time.as_secs_f64() * 1e3 / report.calls as f64;
        println!("  plugin: {} calls, {mean:.3} ms each on average", report.calls);
    }
    drop(variants);
    ground::remove_cgroups(&format!("bulkhead-bench-{}", std::process::id()));
}

/// Cpu time of one pass over many containers with every accounting isolator on.
async fn sweep() {
    let accounting = [
        "cgroups/cpu",
        "cgroups/mem",
        "cgroups/pids",
        "cgroups/blkio",
        "cgroups/cpuset",
        "cgroups/hugetlb",
        "cgroups/perf_event",
        "disk/du",
    ];
    let isolation = format!("{BARE},{}", available(&accounting).join(","));
    let dir = TempDir::new("bench-sweep");
    let native = Native::new(config(&dir, &isolation)).expect("a containerizer");
    let ids: Vec<_> = (0..CONTAINERS).map(|number| id(&format!("c{number}"))).collect();
    for id in &ids {
        native.launch(request(id, dir.path(), "exec sleep 100000")).await.expect("launch");
    }
    // The first pass opens the files.
    assert_eq!(native.statistics().await.len(), CONTAINERS);
    let before = cpu_ms();
    for _ in 0..SWEEPS {
        native.statistics().await;
    }
    let cost = (cpu_ms() - before) / f64::from(SWEEPS);
    for id in &ids {
        native.destroy(id, None).await;
        native.forget(id).await;
    }
    println!("  sweep of {CONTAINERS} containers {cost:.2} ms cpu  {isolation}");
    figure("isolators.sweep_cpu_ms", cost);
    ground::remove_cgroups(&format!("bulkhead-bench-{}", std::process::id()));
}
