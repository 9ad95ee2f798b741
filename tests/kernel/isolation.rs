//! The native containerizer with real isolators on the real kernel: limits hold,
//! ends are explained, nothing is left behind. Runs on v1, hybrid and v2 alike;
//! checks look at /proc, at cgroup files and at what the container prints.

#[path = "../support/cutter.rs"]
mod cutter;
#[path = "../support/mod.rs"]
mod support;

#[path = "isolation/cdi.rs"]
mod cdi;
#[path = "isolation/conformance.rs"]
mod conformance;
#[path = "isolation/controllers.rs"]
mod controllers;
#[path = "isolation/devices.rs"]
mod devices;
#[path = "isolation/escape.rs"]
mod escape;
#[path = "isolation/gpu.rs"]
mod gpu;
#[path = "isolation/life.rs"]
mod life;
#[path = "isolation/limits.rs"]
mod limits;
#[path = "isolation/logs.rs"]
mod logs;
#[path = "isolation/plugins.rs"]
mod plugins;
#[path = "isolation/port_mapping.rs"]
mod port_mapping;
#[path = "isolation/ports.rs"]
mod ports;
#[path = "isolation/pressure.rs"]
mod pressure;
#[path = "isolation/process.rs"]
mod process;
#[path = "isolation/recovery.rs"]
mod recovery;
#[path = "isolation/remap.rs"]
mod remap;
#[path = "isolation/secrets.rs"]
mod secrets;
#[path = "isolation/settings.rs"]
mod settings;
#[path = "isolation/views.rs"]
mod views;
#[path = "isolation/volumes.rs"]
mod volumes;

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use bulkhead::containerizer::native::{Config, Native};
use bulkhead::containerizer::{Containerizer, LaunchRequest, Termination};
use bulkhead::launch::Engine;
use mesos::{CommandInfo, ContainerId, ContainerInfo, LinuxInfo, Resource};
use support::TempDir;

/// The isolation that most tests use.
pub const ALL: &str = "cgroups/cpu,cgroups/mem,cgroups/pids,namespaces/pid,namespaces/ipc,filesystem/linux,posix/rlimits";

/// Nothing takes longer, not even in the VM.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// A test's directories and cgroups. Checks on drop that nothing is left.
pub struct Place {
    dir: TempDir,
    pub(crate) config: Config,
}

impl Place {
    pub(crate) fn new(name: &str, isolation: &str) -> Place {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let dir = TempDir::new(name);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let config = Config {
            isolation: isolation.into(),
            launcher: Engine::Linux,
            runtime_dir: dir.path().join("runtime"),
            isolators: isolators::config::Config {
                cgroups_root: format!("bulkhead-test-{name}-{}-{number}", std::process::id()),
                cgroups_destroy_timeout: Duration::from_secs(20),
                ..Default::default()
            },
            statistics_age: Duration::ZERO,
            fetcher: bulkhead::fetch::Settings {
                helper: Some(probe().with_file_name("bulkhead-helper")),
                cache_dir: dir.path().join("fetch"),
                ..bulkhead::fetch::Settings::default()
            },
            ..Config::default()
        };
        Place { dir, config }
    }

    pub(crate) fn start(&self) -> Native {
        Native::new(self.config.clone()).expect("a containerizer")
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// A request to run `command` in a shell, with a sandbox of its own.
    pub(crate) fn shell(&self, id: &str, command: &str) -> LaunchRequest {
        let command = CommandInfo { value: Some(command.into()), ..CommandInfo::default() };
        self.request(id, command)
    }

    /// A request to run the probe.
    pub(crate) fn probe(&self, id: &str, arguments: &[&str]) -> LaunchRequest {
        let program = probe().display().to_string();
        let mut all = vec![program.clone()];
        all.extend(arguments.iter().map(|a| (*a).to_owned()));
        let command = CommandInfo {
            shell: Some(false),
            value: Some(program),
            arguments: all,
            ..CommandInfo::default()
        };
        self.request(id, command)
    }

    pub(crate) fn request(&self, id: &str, command: CommandInfo) -> LaunchRequest {
        let sandbox = self.path(&format!("sandbox-{id}"));
        std::fs::create_dir_all(&sandbox).expect("a sandbox");
        LaunchRequest {
            id: top(id),
            command,
            requests: resources(0.1, 64.0),
            sandbox,
            task: Some(mesos::TaskInfo::default()),
            ..LaunchRequest::default()
        }
    }

    pub(crate) fn output(&self, id: &str) -> String {
        let file = self.path(&format!("sandbox-{id}")).join("stdout");
        std::fs::read_to_string(file).unwrap_or_default()
    }

    /// Waits until the container has printed `text`.
    pub async fn wait_output(&self, id: &str, text: &str) -> String {
        let start = Instant::now();
        loop {
            let output = self.output(id);
            if output.contains(text) {
                return output;
            }
            assert!(start.elapsed() < PATIENCE, "{id} never printed {text:?}: {output:?}");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// This test's cgroups in every mounted hierarchy, those that exist.
    pub(crate) fn cgroup_roots(&self) -> Vec<PathBuf> {
        let table = std::fs::read_to_string("/proc/self/mountinfo").expect("the mount table");
        table
            .lines()
            .filter(|line| line.contains(" - cgroup"))
            .filter_map(|line| line.split(' ').nth(4))
            .map(|mount| Path::new(mount).join(&self.config.isolators.cgroups_root))
            .filter(|path| path.is_dir())
            .collect()
    }

    /// A container's directories in all hierarchies.
    pub(crate) fn cgroups(&self, id: &str) -> Vec<PathBuf> {
        let roots = self.cgroup_roots().into_iter();
        roots.map(|root| root.join(id)).filter(|dir| dir.is_dir()).collect()
    }

    /// The content of a knob of a container, wherever it is.
    pub(crate) fn knob(&self, id: &str, name: &str) -> Option<String> {
        self.cgroups(id).iter().find_map(|dir| std::fs::read_to_string(dir.join(name)).ok())
    }

    /// Nothing of this test's containers is left: no process, cgroup, mount.
    pub(crate) fn check_clean(&self) {
        for root in self.cgroup_roots() {
            let left: Vec<_> = dirs_in(&root);
            assert!(left.is_empty(), "cgroups are left: {left:?}");
        }
        let mark = self.dir.path().display().to_string();
        let mounts = std::fs::read_to_string("/proc/self/mountinfo").expect("the mount table");
        assert!(!mounts.contains(&mark), "mounts are left: {mounts}");
        let processes = processes_in(self.dir.path());
        assert!(processes.is_empty(), "processes are left: {processes:?}");
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            self.check_clean();
        }
        for root in self.cgroup_roots() {
            let version = match root.join("cgroup.controllers").exists() {
                true => kernel::cgroup::Version::V2,
                false => kernel::cgroup::Version::V1,
            };
            let group = kernel::cgroup::Cgroup::new(version, root);
            let _ = group.kill(Duration::from_secs(5));
            let _ = group.remove(Duration::from_secs(5));
        }
    }
}

fn dirs_in(dir: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    entries.map(|entry| entry.path()).filter(|path| path.is_dir()).collect()
}

/// Processes that work below `dir`: a container's working directory is its sandbox.
fn processes_in(dir: &Path) -> Vec<String> {
    let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    entries
        .filter(|entry| {
            std::fs::read_link(entry.path().join("cwd")).is_ok_and(|cwd| cwd.starts_with(dir))
        })
        .map(|entry| std::fs::read_to_string(entry.path().join("stat")).unwrap_or_default())
        .collect()
}

/// The program under test; `cargo build -p probe` makes it.
pub(crate) fn probe() -> PathBuf {
    let exe = std::env::current_exe().expect("this program");
    exe.parent().and_then(Path::parent).expect("the target directory").join("probe")
}

/// Whether the probe is built; says so if it is not.
pub(crate) fn have_probe(test: &str) -> bool {
    let built = probe().is_file();
    if !built {
        support::skip(test, "the probe (cargo build -p probe)");
    }
    built
}

pub(crate) fn top(id: &str) -> ContainerId {
    ContainerId { value: id.into(), parent: None }
}

pub(crate) fn resources(cpus: f64, mem: f64) -> Vec<Resource> {
    vec![isolators::quantity::scalar("cpus", cpus), isolators::quantity::scalar("mem", mem)]
}

pub(crate) fn mesos_container(linux: Option<LinuxInfo>) -> ContainerInfo {
    ContainerInfo {
        r#type: mesos::container_info::Type::Mesos as i32,
        linux_info: linux,
        ..ContainerInfo::default()
    }
}

/// A task with one label.
pub(crate) fn labelled(key: &str, value: &str) -> Option<mesos::TaskInfo> {
    let label = mesos::Label { key: key.into(), value: Some(value.into()) };
    let labels = Some(mesos::Labels { labels: vec![label] });
    Some(mesos::TaskInfo { labels, ..mesos::TaskInfo::default() })
}

/// Whether a mounted hierarchy carries a controller, or v1 can mount it.
pub(crate) fn have_controller(test: &str, name: &str) -> bool {
    let found = kernel::cgroup::Hierarchies::detect().expect("the mount table");
    let in_kernel = std::fs::read_to_string("/proc/cgroups").unwrap_or_default();
    let mountable = !found.is_pure_v2() && in_kernel.lines().any(|line| line.starts_with(name));
    let has = found.carrying(name).is_some() || mountable;
    if !has {
        support::skip(test, &format!("the cgroup controller {name}"));
    }
    has
}

/// The hierarchies that a containerizer mounts for a test; gone with it.
pub(crate) struct Mounts(PathBuf);

impl Mounts {
    /// Lets the containerizers of `place` mount below its directory.
    pub(crate) fn of(place: &mut Place) -> Mounts {
        let base = place.path("cg");
        place.config.isolators.cgroups.hierarchy.clone_from(&base);
        Mounts(base)
    }
}

impl Drop for Mounts {
    fn drop(&mut self) {
        for mount in dirs_in(&self.0) {
            for root in dirs_in(&mount) {
                let group = kernel::cgroup::Cgroup::new(kernel::cgroup::Version::V1, root);
                let _ = group.kill(Duration::from_secs(5));
                let _ = group.remove(Duration::from_secs(5));
            }
            let _ = std::process::Command::new("umount").arg(&mount).status();
        }
    }
}

/// How it ended, within a time that no test needs; then it is forgotten.
pub async fn end(native: &Native, id: &str) -> Termination {
    let id = top(id);
    let end = tokio::time::timeout(PATIENCE, native.wait(&id)).await.expect("ends in time");
    let end = end.expect("a known container");
    native.forget(&id).await;
    end
}

/// Launches, waits for the end; wait status and output.
pub async fn run(place: &Place, native: &Native, request: LaunchRequest) -> (Option<i32>, String) {
    let id = request.id.value.clone();
    native.launch(request).await.expect("launch");
    let end = end(native, &id).await;
    (end.status, place.output(&id))
}
