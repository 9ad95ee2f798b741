//! One look of `network/ports` at 1,000 containers with 10,000 listening sockets.

use std::sync::Arc;
use std::time::Duration;

use crate::figures::figure;
use bulkhead::containerizer::Containerizer;
use bulkhead::containerizer::native::{Config, Native};
use isolators::api::{ContainerContext, Isolator, Known};
use isolators::cgroups::Cgroups;
use isolators::config::Launcher;
use isolators::network::ports::Ports;
use kernel::cgroup::Hierarchies;
use kernel::sched::thread_time;
use mesos::{Resource, value};

use crate::ground::{self, id, request};
use crate::support::TempDir;

const CONTAINERS: usize = 1000;
const SOCKETS: usize = 10;
const LOOKS: u32 = 20;

/// Cpu time of this thread for one look, in milliseconds: the first, and the others
/// on average.
fn looks(ports: &Ports) -> (f64, f64) {
    let start = thread_time();
    assert_eq!(ports.look(), CONTAINERS * SOCKETS, "every socket has its container");
    let first = thread_time();
    for _ in 0..LOOKS {
        let _ = ports.look();
    }
    let rest = (thread_time() - first) / LOOKS;
    ((first - start).as_secs_f64() * 1e3, rest.as_secs_f64() * 1e3)
}

/// The isolator over containers that run already. `unified`: they have cgroups of v2.
async fn watching(root: &str, unified: bool, running: &[(String, u32)]) -> Ports {
    let mut config = isolators::config::Config {
        cgroups_root: root.to_owned(),
        ..isolators::config::Config::new(
            Launcher::Linux,
            Hierarchies::detect().expect("the mount table"),
        )
    };
    config.ports.unified = unified;
    // Nothing looks but we.
    config.ports.watch_interval = Duration::from_secs(3600);
    let cgroups = Cgroups::new(Arc::new(config.clone()), Default::default());
    let layout = cgroups.expect("cgroups").expect("a tracker").layout().clone();
    let ports = Ports::new(&config, Some(layout), false).expect("the isolator");
    let every = Resource {
        name: "ports".into(),
        r#type: value::Type::Ranges as i32,
        ranges: Some(value::Ranges { range: vec![value::Range { begin: 1, end: 65535 }] }),
        ..Resource::default()
    };
    let known = |(name, pid): &(String, u32)| {
        let context = ContainerContext {
            id: id(name),
            requests: vec![every.clone()],
            command_task: true,
            ..ContainerContext::default()
        };
        Known { context: Arc::new(context), pid: Some(*pid) }
    };
    let known: Vec<Known> = running.iter().map(known).collect();
    ports.recover(&known).await.expect("recovered");
    ports
}

pub async fn scan() {
    let dir = TempDir::new("bench-ports");
    let root = format!("bulkhead-bench-{}", std::process::id());
    let config = Config {
        isolation: "filesystem/linux,network/ports".into(),
        runtime_dir: dir.path().join("runtime"),
        isolators: isolators::config::Config { cgroups_root: root.clone(), ..Default::default() },
        ..Config::default()
    };
    let native = Native::new(config).expect("a containerizer");
    native.recover(Vec::new()).await.expect("recovery of nothing");
    let own = std::env::current_exe().expect("this program");
    let probe = own.parent().and_then(|deps| deps.parent()).expect("target").join("probe");
    assert!(probe.is_file(), "{} must be built first", probe.display());
    let mut running = Vec::new();
    for number in 0..CONTAINERS {
        let name = format!("c{number}");
        // Each on an address of its own, so that all have the same ports.
        let ip = format!("127.9.{}.{}", number / 250, 1 + number % 250);
        let addresses: Vec<String> =
            (0..SOCKETS).map(|socket| format!("{ip}:{}", 20_000 + socket)).collect();
        let line = format!("exec {} listen tcp {}", probe.display(), addresses.join(" "));
        let launched = native.launch(request(&id(&name), dir.path(), &line)).await;
        running.push((name, launched.expect("launch").pid.expect("a pid")));
    }
    for number in 0..CONTAINERS {
        let output = dir.path().join(format!("c{number}/stdout"));
        let lines = || std::fs::read_to_string(&output).unwrap_or_default();
        while lines().lines().count() < SOCKETS {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        assert!(!lines().contains("errno"), "{}", lines());
    }
    println!("network/ports, {CONTAINERS} containers, {} sockets", CONTAINERS * SOCKETS);
    let unified = Hierarchies::detect().expect("the mount table").unified().is_some();
    for (name, by_cgroup) in [("by cgroup", true), ("by inode", false)] {
        if by_cgroup && !unified {
            continue;
        }
        let ports = watching(&root, by_cgroup, &running).await;
        let (first, rest) = looks(&ports);
        println!("  {name:<10} first look {first:>7.2} ms cpu, each after it {rest:>7.2} ms");
        if by_cgroup == unified {
            figure("network.ports_scan_cpu_ms", rest);
        }
    }
    for (name, _) in &running {
        native.destroy(&id(name), None).await;
        native.forget(&id(name)).await;
    }
    ground::remove_cgroups(&root);
}
