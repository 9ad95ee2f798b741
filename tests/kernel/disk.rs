//! `disk/*` on real file systems: what is counted is what `du` counts, quotas end
//! containers or writes, and counting stays cheap. Checks look at the files, at
//! `du`, at /proc and at what the container prints.

#[path = "../support/mod.rs"]
mod support;

#[path = "disk/du.rs"]
mod du;
#[path = "disk/quota.rs"]
mod quota;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use bulkhead::containerizer::native::{Config, Native};
use bulkhead::containerizer::{Containerizer, LaunchRequest, Termination};
use bulkhead::launch::Engine;
use isolators::quantity::scalar;
use mesos::{CommandInfo, ContainerId, ResourceStatistics};
use support::TempDir;

/// Nothing takes longer, not even in the VM.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// A test's directories, and cgroups that are removed with it.
pub(crate) struct Place {
    _dir: TempDir,
    /// Where sandboxes are made.
    pub(crate) work: PathBuf,
    pub(crate) config: Config,
}

impl Place {
    pub(crate) fn new(name: &str, isolation: &str) -> Place {
        let dir = TempDir::new(name);
        let work = dir.path().join("work");
        let config = Config {
            isolation: isolation.into(),
            launcher: Engine::Linux,
            runtime_dir: dir.path().join("runtime"),
            isolators: isolators::config::Config {
                cgroups_root: format!("bulkhead-test-{name}-{}", std::process::id()),
                disk: isolators::disk::Config {
                    watch_interval: Duration::from_millis(20),
                    work_dir: work.clone(),
                    ..isolators::disk::Config::default()
                },
                ..Default::default()
            },
            statistics_age: Duration::ZERO,
            ..Config::default()
        };
        Place { _dir: dir, work, config }
    }

    pub(crate) fn start(&self) -> Native {
        Native::new(self.config.clone()).expect("a containerizer")
    }

    pub(crate) fn sandbox(&self, id: &str) -> PathBuf {
        self.work.join(id)
    }

    /// A request to run `script`, with so many megabytes of disk.
    pub(crate) fn shell(&self, id: &str, disk: f64, script: &str) -> LaunchRequest {
        let sandbox = self.sandbox(id);
        std::fs::create_dir_all(&sandbox).expect("a sandbox");
        LaunchRequest {
            id: top(id),
            command: CommandInfo { value: Some(script.into()), ..CommandInfo::default() },
            requests: vec![scalar("cpus", 0.1), scalar("mem", 64.0), scalar("disk", disk)],
            sandbox,
            task: Some(mesos::TaskInfo::default()),
            ..LaunchRequest::default()
        }
    }

    pub(crate) fn output(&self, id: &str) -> String {
        std::fs::read_to_string(self.sandbox(id).join("stdout")).unwrap_or_default()
    }

    pub(crate) async fn wait_output(&self, id: &str, text: &str) {
        let start = Instant::now();
        while !self.output(id).contains(text) {
            let output = self.output(id);
            assert!(start.elapsed() < PATIENCE, "{id} never printed {text:?}: {output:?}");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let table = std::fs::read_to_string("/proc/self/mountinfo").expect("the mount table");
        let mounts = table.lines().filter(|line| line.contains(" - cgroup"));
        for mount in mounts.filter_map(|line| line.split(' ').nth(4)) {
            let root = Path::new(mount).join(&self.config.isolators.cgroups_root);
            if !root.is_dir() {
                continue;
            }
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

pub(crate) fn top(id: &str) -> ContainerId {
    ContainerId { value: id.into(), parent: None }
}

/// How it ended, within a time that no test needs; then it is forgotten.
pub(crate) async fn end(native: &Native, id: &str) -> Termination {
    let id = top(id);
    let end = tokio::time::timeout(PATIENCE, native.wait(&id)).await.expect("ends in time");
    let end = end.expect("a known container");
    native.forget(&id).await;
    end
}

pub(crate) async fn destroy(native: &Native, id: &str) {
    native.destroy(&top(id), None).await.expect("known");
    native.forget(&top(id)).await;
}

/// The figures of a container as soon as they are `enough`.
pub(crate) async fn figures(
    native: &Native,
    id: &str,
    enough: impl Fn(&ResourceStatistics) -> bool,
) -> ResourceStatistics {
    let start = Instant::now();
    loop {
        let sample = native.statistics().await;
        let mine = sample.iter().find(|(known, _)| *known == top(id));
        if let Some((_, statistics)) = mine.filter(|(_, s)| enough(s)) {
            return statistics.clone();
        }
        assert!(start.elapsed() < PATIENCE, "{mine:?}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}
