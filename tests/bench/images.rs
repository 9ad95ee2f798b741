//! `make bench SCENARIO=images`: launches in images, and pulls.
//!
//! One containerizer launches a task on the host's files and in a cached image of ten
//! layers, in turns; `docker run` starts the same image with an engine of its own. Then
//! an image of 500 MB comes from a registry on loopback, once into our store and once
//! into the engine's (overlay, as engines are). The smallest of `ROUNDS` counts for pulls.
//! `IMAGES_MB` makes it smaller. Without the engine or the registry those figures are
//! left out.

#[path = "../support/dockerd.rs"]
mod dockerd;
#[path = "ground.rs"]
mod ground;
#[path = "../support/image.rs"]
mod image;
#[path = "../support/mod.rs"]
mod support;

use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bulkhead::containerizer::Containerizer;
use bulkhead::containerizer::native::{Config, Native};
use bulkhead::provisioner::{
    Backend, Location, Options, Point, Provisioner, Reference, Settings, Store,
};
use dockerd::{Dockerd, Network};
use ground::{figure, id, request};
use mesos::container_info::{MesosInfo, Type};
use mesos::{ContainerInfo, Image};
use serde_json::json;
use support::TempDir;

const ROUNDS: usize = 20;
const PER_ROUND: usize = 10;
/// Of `docker run`, which is slow.
const DOCKER_RUNS: usize = 10;
const PULLS: usize = 3;
const LAYERS: usize = 10;

fn main() {
    require!(root, cgroup, busybox, overlay);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("a runtime");
    runtime.block_on(async {
        launches().await;
        pulls().await;
    });
}

/// A directory on the disk, not on a tmpfs.
fn place(name: &str) -> PathBuf {
    let target = std::env::var_os("CARGO_TARGET_DIR")
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("target"), PathBuf::from);
    let dir = target.join(format!("bench-images-{name}-{}", std::process::id()));
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
    let dir = place("launch");
    let mut layers = vec![image::base(&dir)];
    layers.extend((1..LAYERS).map(|n| image::script(&dir, &format!("layer{n}"), "true")));
    let archive = image::save(&dir, "ten:1", &layers, &json!({ "Cmd": ["/bin/true"] }));
    let store = store(dir.join("store"), &dir.display().to_string());
    let scratch = dir.join("provisioner/containers");
    let backend = Backend::choose(None, &dir.join("store"), &dir).expect("a backend");
    let points = isolators::filesystem::mount_points(Path::new("/mnt/mesos/sandbox"));
    let points = points.into_iter().map(|(path, is_dir)| Point { path, is_dir }).collect();
    let provisioner = Provisioner::new(store, backend, scratch, Default::default(), points);
    let config = Config {
        isolation: "filesystem/linux,namespaces/pid,cgroups/cpu,cgroups/mem,docker/runtime".into(),
        runtime_dir: TempDir::new("bench-images").path().join("run"),
        cgroups_root: format!("bulkhead-bench-images-{}", std::process::id()),
        provisioner: Some(Arc::new(provisioner)),
        statistics_age: Duration::ZERO,
        ..Config::default()
    };
    let cgroups = config.cgroups_root.clone();
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
    let (host, inside) = (median(host), median(inside));
    println!("launch, p50, with backend {backend}");
    println!("  on the host's files        {host:>8.2} ms");
    println!("  in an image of {LAYERS} layers   {inside:>8.2} ms");
    figure("images.launch_over_host", inside / host);
    if support::have("docker") {
        let docker = median(docker_runs(&archive));
        println!("  docker run                 {docker:>8.2} ms");
        figure("images.docker_run_over_ours", docker / inside);
    }
    std::fs::remove_dir_all(&dir).expect("clean up");
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

async fn pulls() {
    if !support::have("program_docker-registry") || !support::have("docker") {
        return println!("no pulls: they need docker and docker-registry");
    }
    let size: usize =
        std::env::var("IMAGES_MB").ok().and_then(|text| text.parse().ok()).unwrap_or(500);
    let dir = place("pull");
    let registry = Registry::start(&dir);
    let layers = big(&dir, size);
    let archive = image::save(&dir, "big:1", &layers, &json!({ "Cmd": ["/bin/true"] }));
    let name = format!("{}/big:1", registry.host);
    let engine = Dockerd::start_with("bench-pull", Network::Host, "overlay2");
    engine.load(&archive);
    engine.docker(&["tag", "big:1", &name]);
    engine.docker(&["push", "--quiet", &name]);
    engine.docker(&["rmi", "big:1", &name]);
    let (mut ours, mut dockers, mut largest) = (Vec::new(), Vec::new(), 0);
    for round in 0..PULLS {
        let store = store(dir.join(format!("store{round}")), "https://registry-1.docker.io");
        let reference = Reference::parse(&name).expect("a name");
        settle();
        let watch = Watch::start();
        let start = Instant::now();
        let lease = store.get(&reference, Options::default()).await.expect("a pull");
        ours.push(start.elapsed().as_secs_f64());
        largest = largest.max(watch.stop());
        drop(lease);
        store.prune(&[]).await.expect("room");
        settle();
        let start = Instant::now();
        engine.docker(&["pull", "--quiet", &name]);
        dockers.push(start.elapsed().as_secs_f64());
        engine.docker(&["rmi", &name]);
    }
    let least = |all: &[f64]| all.iter().copied().fold(f64::INFINITY, f64::min);
    let (ours, dockers) = (least(&ours), least(&dockers));
    let megabytes = largest as f64 / (1 << 20) as f64;
    println!("an image of {size} MB from loopback, best of {PULLS}");
    println!("  ours                       {ours:>8.2} s, {megabytes:.1} MB of memory");
    println!("  docker pull                {dockers:>8.2} s");
    figure("images.docker_pull_over_ours", dockers / ours);
    figure("images.pull_rss_mb", megabytes);
    std::fs::remove_dir_all(&dir).expect("clean up");
}

/// A registry on loopback, of one run.
struct Registry {
    host: String,
    child: Child,
}

impl Registry {
    fn start(dir: &Path) -> Registry {
        let port =
            TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("it").port();
        let host = format!("127.0.0.1:{port}");
        let config = format!(
            "version: 0.1\nlog:\n  level: error\nstorage:\n  filesystem:\n    rootdirectory: {}\n\
             http:\n  addr: {host}\n",
            dir.join("registry").display()
        );
        let file = dir.join("registry.yml");
        std::fs::write(&file, config).expect("write");
        let mut command = Command::new("docker-registry");
        command.arg("serve").arg(&file).env("OTEL_TRACES_EXPORTER", "none");
        command.stdout(Stdio::null()).stderr(Stdio::null());
        let child = command.spawn().expect("run docker-registry");
        let by = Instant::now() + Duration::from_secs(60);
        while TcpStream::connect(&host).is_err() {
            assert!(Instant::now() < by, "the registry does not answer");
            std::thread::sleep(Duration::from_millis(20));
        }
        Registry { host, child }
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Layers that are `size` MB of files together, as compressible as programs are.
fn big(dir: &Path, size: usize) -> Vec<PathBuf> {
    let mut layers = vec![image::base(dir)];
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    for layer in 0..5 {
        let root = dir.join(format!("big{layer}"));
        for file in 0..size / 5 {
            let path = root.join(format!("d{}/f{file}", file % 16));
            std::fs::create_dir_all(path.parent().expect("a parent")).expect("a directory");
            let mut bytes = Vec::with_capacity(1 << 20);
            while bytes.len() < 1 << 20 {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                // Half noise, half repeated.
                bytes.extend_from_slice(&state.to_le_bytes());
                bytes.extend_from_slice(b"abcdefgh");
            }
            std::fs::write(path, bytes).expect("write");
        }
        layers.push(root);
    }
    layers
}

fn settle() {
    let _ = Command::new("sync").status();
}

/// Watches the resident memory of helpers that this process has started.
struct Watch {
    going: Arc<AtomicBool>,
    largest: Arc<AtomicU64>,
    thread: std::thread::JoinHandle<()>,
}

impl Watch {
    fn start() -> Watch {
        let (going, largest) = (Arc::new(AtomicBool::new(true)), Arc::new(AtomicU64::new(0)));
        let (run, most) = (Arc::clone(&going), Arc::clone(&largest));
        let thread = std::thread::spawn(move || {
            while run.load(Ordering::Relaxed) {
                most.fetch_max(helpers_memory(), Ordering::Relaxed);
                std::thread::sleep(Duration::from_millis(5));
            }
        });
        Watch { going, largest, thread }
    }

    /// In bytes.
    fn stop(self) -> u64 {
        self.going.store(false, Ordering::Relaxed);
        self.thread.join().expect("the watcher");
        self.largest.load(Ordering::Relaxed)
    }
}

fn helpers_memory() -> u64 {
    let own = std::process::id();
    let children = kernel::proctree::tree(own).into_iter().filter(|process| process.pid != own);
    children
        .map(|process| {
            let path = format!("/proc/{}/status", process.pid);
            let status = std::fs::read_to_string(path).unwrap_or_default();
            let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
            let kilobytes = line.and_then(|line| line.split_whitespace().next()?.parse().ok());
            kilobytes.unwrap_or(0_u64) << 10
        })
        .max()
        .unwrap_or(0)
}

fn median(mut all: Vec<f64>) -> f64 {
    all.sort_by(f64::total_cmp);
    all.get(all.len() / 2).copied().unwrap_or(f64::NAN)
}
