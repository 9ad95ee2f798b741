//! `make bench SCENARIO=images`: launches in images.
//!
//! One containerizer launches a task on the host's files and in a cached image of ten
//! layers, in turns; `docker run` starts the same image with an engine of its own. Pulls
//! are in the scenario `pull`. Images and sandboxes are on an ext4 as Debian makes it,
//! what the agent keeps of running containers is in memory, as `/run` is.

#[path = "../support/disk.rs"]
mod disk;
#[path = "../support/dockerd.rs"]
mod dockerd;
#[path = "figures.rs"]
mod figures;
#[path = "ground.rs"]
mod ground;
#[path = "../support/image.rs"]
mod image;
#[path = "../support/mod.rs"]
mod support;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bulkhead::containerizer::Containerizer;
use bulkhead::containerizer::native::{Config, Native};
use bulkhead::provisioner::{Backend, Location, Point, Provisioner, Settings, Store};
use disk::Disk;
use dockerd::{Dockerd, Network};
use figures::{figure, median};
use ground::{Memory, id, request};
use mesos::container_info::{MesosInfo, Type};
use mesos::{ContainerInfo, Image};
use serde_json::json;

const ROUNDS: usize = 20;
const PER_ROUND: usize = 10;
/// Of `docker run`, which is slow.
const DOCKER_RUNS: usize = 10;
const LAYERS: usize = 10;
const ISOLATION: &str = "filesystem/linux,namespaces/pid,cgroups/cpu,cgroups/mem,docker/runtime";

fn main() {
    require!(root, cgroup, busybox, overlay, mkfs_ext4);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("a runtime");
    // On a thread of its own, as the agent's tasks.
    runtime.block_on(runtime.spawn(launches())).expect("it ends");
}

/// A directory on the disk, not on a tmpfs.
fn place() -> PathBuf {
    let target = std::env::var_os("CARGO_TARGET_DIR")
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("target"), PathBuf::from);
    let dir = target.join(format!("bench-images-{}", std::process::id()));
    std::fs::create_dir_all(&dir).expect("a directory");
    dir
}

fn store(dir: PathBuf, registry: &str) -> Store {
    let own = std::env::current_exe().expect("own path");
    let release = own.parent().and_then(Path::parent).expect("target/release/deps/program");
    let settings = Settings {
        dir,
        registry: Location::parse(registry).expect("a registry"),
        credentials: None,
        helper: release.join("bulkhead-helper"),
        insecure: Vec::new(),
        mirrors: std::collections::BTreeMap::new(),
        certificates: "/nonexistent".into(),
        size_limit: 8 << 30,
        stall: Duration::from_secs(60),
    };
    Store::open(settings).expect("a store")
}

async fn launches() {
    let outer = place();
    let disk = Disk::new(&outer, 4 << 30);
    let dir = disk.path().to_owned();
    let memory = Memory::new("images");
    let mut layers = vec![image::base(&dir)];
    layers.extend((1..LAYERS).map(|n| image::script(&dir, &format!("layer{n}"), "true")));
    let archive = image::save(&dir, "ten:1", &layers, &json!({ "Cmd": ["/bin/true"] }));
    let store = store(dir.join("store"), &dir.display().to_string());
    let scratch = dir.join("provisioner/containers");
    let backend = Backend::choose(None, &dir.join("store"), &dir).expect("a backend");
    let points = isolators::filesystem::mount_points(Path::new("/mnt/mesos/sandbox"));
    let points = points.into_iter().map(|(path, is_dir)| Point { path, is_dir }).collect();
    let (secrets, fixtures) = (Default::default(), isolators::filesystem::fixtures(ISOLATION));
    let provisioner = Provisioner::new(store, backend, scratch, secrets, points, fixtures);
    let config = Config {
        isolation: ISOLATION.into(),
        runtime_dir: memory.path().to_owned(),
        isolators: isolators::config::Config {
            cgroups_root: format!("bulkhead-bench-images-{}", std::process::id()),
            ..Default::default()
        },
        provisioner: Some(Arc::new(provisioner)),
        statistics_age: Duration::ZERO,
        ..Config::default()
    };
    let cgroups = config.isolators.cgroups_root.clone();
    let native = Native::new(config).expect("a containerizer");
    native.recover(Vec::new()).await.expect("recovery of nothing");

    let (mut host, mut inside) = (Vec::new(), Vec::new());
    for round in 0..=ROUNDS {
        for (name, times) in [("host", &mut host), ("image", &mut inside)] {
            for number in 0..PER_ROUND {
                let id = id(&format!("{name}-{round}-{number}"));
                let mut request = request(&id, &dir.join("sandboxes"), "exit 0");
                if name == "image" {
                    request.container = Some(of_image("ten:1"));
                }
                let start = Instant::now();
                native.launch(request).await.expect("launch");
                let launched = start.elapsed();
                native.wait(&id).await.expect("it ends");
                native.forget(&id).await;
                // The first round pulls and warms up.
                if round > 0 {
                    times.push(launched.as_secs_f64() * 1e3);
                }
            }
        }
    }
    drop(native);
    ground::remove_cgroups(&cgroups);
    let (host, inside) = (median(&mut host), median(&mut inside));
    println!("launch, p50, with backend {backend}");
    println!("  on the host's files        {host:>8.2} ms");
    println!("  in an image of {LAYERS} layers   {inside:>8.2} ms");
    figure("images.launch_over_host", inside / host);
    if support::have("docker") {
        let docker = median(&mut docker_runs(&archive));
        println!("  docker run                 {docker:>8.2} ms");
        figure("images.docker_run_over_ours", docker / inside);
    }
    drop(disk);
    std::fs::remove_dir_all(&outer).expect("clean up");
}

fn of_image(name: &str) -> ContainerInfo {
    let docker = mesos::image::Docker { name: name.into(), ..Default::default() };
    let image = Image {
        r#type: mesos::image::Type::Docker as i32,
        docker: Some(docker),
        ..Image::default()
    };
    ContainerInfo {
        r#type: Type::Mesos as i32,
        mesos: Some(MesosInfo { image: Some(image) }),
        ..ContainerInfo::default()
    }
}

/// From the command to its end: all that it tells of its start.
fn docker_runs(archive: &Path) -> Vec<f64> {
    let engine = Dockerd::start_with("bench-run", Network::Host, "overlay2");
    engine.load(archive);
    let run = || {
        let start = Instant::now();
        engine.docker(&["run", "--rm", "--network=none", "ten:1", "/bin/sh", "-c", "exit 0"]);
        start.elapsed().as_secs_f64() * 1e3
    };
    run();
    (0..DOCKER_RUNS).map(|_| run()).collect()
}
