//! `make bench SCENARIO=pull`: an image of 500 MB in five layers, from a registry on
//! loopback, by `docker pull` and by the image store, in turns.
//!
//! The layers hold this machine's own programs and libraries. The engine has the storage
//! driver overlay2, and both write to one ext4 as Debian makes it: without a journal ext4
//! looks at every inode that was removed lately before it takes one, so that whoever comes
//! after a removal pays for it. Memory is the largest that the pulling process ever had.

#[path = "../support/disk.rs"]
mod disk;
#[path = "figures.rs"]
mod figures;
#[path = "../support/registry.rs"]
mod registry;
#[path = "../support/mod.rs"]
mod support;

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use bulkhead::provisioner::{Location, Options, Reference, Settings, Store};
use disk::Disk;
use figures::{figure, median};
use registry::{Guard, Layer, Parcel, Registry};

const LAYERS: usize = 5;
const LAYER_BYTES: u64 = 100 << 20;
const ROUNDS: usize = 3;

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() {
    require!(root, docker, docker_registry, curl, openssl, mkfs_ext4);
    let target = std::env::var_os("CARGO_TARGET_DIR")
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("target"), PathBuf::from);
    let outer = target.join(format!("bench-pull-{}", std::process::id()));
    std::fs::create_dir_all(&outer).expect("mkdir");
    let disk = Disk::new(&outer, 16 << 30);
    let dir = disk.path();
    let parcel = Parcel::new(layers(dir));
    let registry = Registry::start(Guard::Open);
    registry.push("x", "latest", &parcel);
    let name = format!("{}/x:latest", registry.host);
    let packed: usize = parcel.layers.iter().map(|layer| layer.packed.len()).sum();
    println!(
        "{LAYERS} layers, {} MB, packed {} MB",
        (LAYERS as u64 * LAYER_BYTES) >> 20,
        packed >> 20
    );
    drop(parcel);
    let engine = Engine::start(dir);
    let (mut theirs, mut ours, mut memory) = (Vec::new(), Vec::new(), 0.0_f64);
    for round in 0..ROUNDS {
        settle();
        theirs.push(engine.pull(&name));
        settle();
        let (seconds, rss) = pull(&dir.join(format!("store-{round}")), &name).await;
        ours.push(seconds);
        memory = memory.max(rss);
        println!("docker pull {:.2} s, ours {seconds:.2} s, {rss:.1} MB", theirs[round]);
    }
    drop(engine);
    drop(disk);
    let _ = std::fs::remove_dir_all(&outer);
    figure("images.pull_s", median(&mut ours));
    figure("images.docker_pull_over_ours", median(&mut theirs) / median(&mut ours));
    figure("images.pull_rss_mb", memory);
}

/// What was written before is not to be waited for by whoever comes next.
fn settle() {
    let _ = Command::new("sync").status();
}

/// Files of this machine, until each layer is full.
fn layers(dir: &Path) -> Vec<Layer> {
    let mut lists: Vec<(Vec<PathBuf>, u64)> = vec![(Vec::new(), 0)];
    let mut dirs = vec![PathBuf::from("/usr/lib"), PathBuf::from("/usr/share"), "/usr/bin".into()];
    'all: while let Some(next) = dirs.pop() {
        let mut entries: Vec<_> =
            std::fs::read_dir(&next).into_iter().flatten().flatten().collect();
        entries.sort_by_key(std::fs::DirEntry::path);
        for entry in entries {
            let Ok(data) = entry.metadata() else { continue };
            if data.is_dir() {
                dirs.push(entry.path());
            } else if data.is_file() && data.len() < 20 << 20 {
                let (list, bytes) = lists.last_mut().expect("one at least");
                list.push(entry.path());
                *bytes += data.len();
                if *bytes >= LAYER_BYTES {
                    if lists.len() == LAYERS {
                        break 'all;
                    }
                    lists.push((Vec::new(), 0));
                }
            }
        }
    }
    let pack = |(n, (list, _)): (usize, (Vec<PathBuf>, u64))| {
        let names = dir.join(format!("list-{n}"));
        let mut file = std::fs::File::create(&names).expect("create");
        for path in list {
            writeln!(file, "{}", path.strip_prefix("/").expect("absolute").display())
                .expect("write");
        }
        let output = Command::new("tar")
            .args(["-C", "/", "--no-unquote", "--hard-dereference", "-cf", "-", "-T"])
            .arg(&names)
            .stderr(Stdio::null())
            .output();
        Layer::gzip(output.expect("run tar").stdout)
    };
    lists.into_iter().enumerate().map(pack).collect()
}

/// Pulls into a new store: seconds, and the helper's largest memory in MB.
async fn pull(dir: &Path, name: &str) -> (f64, f64) {
    let settings = Settings {
        dir: dir.to_owned(),
        registry: Location::parse("https://registry-1.docker.io").expect("a URL"),
        credentials: None,
        helper: env!("CARGO_BIN_EXE_bulkhead-helper").into(),
        insecure: Vec::new(),
        mirrors: Default::default(),
        certificates: dir.join("certs.d"),
        size_limit: 8 << 30,
        stall: Duration::from_secs(60),
    };
    let store = Store::open(settings).expect("a store");
    let reference = Reference::parse(name).expect("a name");
    let begun = Instant::now();
    let pulling = store.get(&reference, Options::default());
    tokio::pin!(pulling);
    let mut rss = 0.0_f64;
    let lease = loop {
        tokio::select! {
            lease = &mut pulling => break lease.expect("pulled"),
            () = tokio::time::sleep(Duration::from_millis(20)) => rss = rss.max(largest()),
        }
    };
    let seconds = begun.elapsed().as_secs_f64();
    drop(lease);
    store.prune(&[]).await.expect("pruned");
    (seconds, rss)
}

/// The largest memory that a helper of ours ever had, in MB.
fn largest() -> f64 {
    let own = std::process::id();
    let high = |status: String| {
        let field = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name))?;
            line.split_whitespace().next().map(str::to_owned)
        };
        let ours = field("Name:")?.starts_with("bulkhead-helper");
        let child = field("PPid:")? == own.to_string();
        field("VmHWM:")?.parse::<f64>().ok().filter(|_| ours && child)
    };
    let processes = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let statuses = processes.filter_map(|p| std::fs::read_to_string(p.path().join("status")).ok());
    statuses.filter_map(high).fold(0.0, f64::max) / 1024.0
}

/// A docker engine with overlay2 below `dir`.
struct Engine {
    socket: String,
    child: Child,
}

impl Engine {
    fn start(dir: &Path) -> Engine {
        let at = |name: &str| dir.join(name).display().to_string();
        let socket = format!("unix://{}", at("docker.sock"));
        let log = std::fs::File::create(at("dockerd.log")).expect("a log");
        std::fs::write(at("daemon.json"), "{}").expect("write");
        let child = Command::new("dockerd")
            .args(["--bridge=none", "--iptables=false", "--ip-forward=false", "--ip-masq=false"])
            .args(["--storage-driver=overlay2", "--group=root"])
            .arg(format!("--config-file={}", at("daemon.json")))
            .arg(format!("--data-root={}", at("data")))
            .arg(format!("--exec-root={}", at("exec")))
            .arg(format!("--pidfile={}", at("pid")))
            .arg(format!("--host={socket}"))
            .stdout(log.try_clone().expect("a log"))
            .stderr(log)
            .spawn()
            .expect("start dockerd");
        let engine = Engine { socket, child };
        let by = Instant::now() + Duration::from_secs(60);
        while !engine.docker(&["version"]) {
            assert!(Instant::now() < by, "dockerd is not ready");
            std::thread::sleep(Duration::from_millis(100));
        }
        engine
    }

    fn docker(&self, arguments: &[&str]) -> bool {
        let mut command = Command::new("docker");
        command.args(["-H", &self.socket]).args(arguments);
        let status = command.stdout(Stdio::null()).stderr(Stdio::null()).status();
        status.expect("run docker").success()
    }

    /// Seconds of a pull of what it does not have.
    fn pull(&self, name: &str) -> f64 {
        let begun = Instant::now();
        assert!(self.docker(&["pull", name]), "docker pull");
        let seconds = begun.elapsed().as_secs_f64();
        assert!(self.docker(&["rmi", name]), "docker rmi");
        seconds
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        let _ = Command::new("kill").arg(self.child.id().to_string()).status();
        let _ = self.child.wait();
    }
}
