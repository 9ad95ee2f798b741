//! What the benches of the native containerizer share: requests, cpu time,
//! and removing the cgroups of a run.

#![allow(dead_code, reason = "every bench uses its own part")]

use std::path::{Path, PathBuf};
use std::time::Duration;

use bulkhead::containerizer::LaunchRequest;
use mesos::{CommandInfo, ContainerId};
use nix::sys::resource::{UsageWho, getrusage};

/// A top-level container.
pub fn id(name: &str) -> ContainerId {
    ContainerId { value: name.to_owned(), parent: None }
}

/// A shell command in a sandbox of its own below `dir`.
pub fn request(id: &ContainerId, dir: &Path, command: &str) -> LaunchRequest {
    let sandbox = dir.join(&id.value);
    std::fs::create_dir_all(&sandbox).expect("a sandbox");
    LaunchRequest {
        id: id.clone(),
        command: CommandInfo { value: Some(command.into()), ..CommandInfo::default() },
        requests: vec![
            isolators::quantity::scalar("cpus", 0.1),
            isolators::quantity::scalar("mem", 32.0),
        ],
        sandbox,
        ..LaunchRequest::default()
    }
}

/// Cpu time of this process so far.
pub fn cpu_ms() -> f64 {
    let usage = getrusage(UsageWho::RUSAGE_SELF).expect("of this process");
    let of =
        |time: nix::sys::time::TimeVal| time.tv_sec() as f64 * 1e3 + time.tv_usec() as f64 / 1e3;
    of(usage.user_time()) + of(usage.system_time())
}

/// A directory in memory, as the agent's `--runtime_dir` is; removed when dropped.
pub struct Memory(PathBuf);

impl Memory {
    pub fn new(name: &str) -> Memory {
        let own = format!("bulkhead-bench-{name}-{}", std::process::id());
        let dir = PathBuf::from("/dev/shm").join(own);
        std::fs::create_dir_all(&dir).expect("a directory");
        Memory(dir)
    }

    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Removes the cgroups of a run from every hierarchy.
pub fn remove_cgroups(root: &str) {
    for hierarchy in kernel::cgroup::Hierarchies::detect().expect("cgroups").all() {
        let group = kernel::cgroup::Cgroup::new(hierarchy.version, hierarchy.mount.join(root));
        let _ = group.remove(Duration::from_secs(1));
    }
}
