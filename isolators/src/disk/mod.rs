//! `disk/*`: how much a container writes to its sandbox and to its volumes.
//!
//! * [`du`]: counts, by walking the directories; works on every file system.
//! * [`xfs`]: asks the kernel, where the file system has project quotas.
//! * [`projects`]: which project ids are in use (pure).
//! * [`core`](mod@core): when which directory is walked (pure).
//!
//! This module says what the resources of a container mean: which accounts there
//! are, with which quota. Where a persistent volume lies is the agent's to say
//! ([`Config::volume`]): nothing here knows the work directory's layout.

pub mod core;
pub mod du;
pub mod projects;
pub mod xfs;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use mesos::resource::DiskInfo;
use mesos::resource::disk_info::source;
use mesos::task_status::Reason;
use mesos::{DiskStatistics, Resource};

pub use self::du::DiskDu;
pub use self::xfs::DiskXfs;
use crate::api::{Isolator, IsolatorError, Limitation};
use crate::quantity::{bytes_text, megabytes, total};

/// Flags of the disk isolators, with Mesos' names and defaults.
#[derive(Debug, Clone)]
pub struct Config {
    /// `--enforce_container_disk_quota`.
    pub enforce: bool,
    /// `--container_disk_watch_interval`: rest between two looks at a directory.
    pub watch_interval: Duration,
    /// `--xfs_project_range`.
    pub xfs_project_range: String,
    /// `--xfs_kill_containers`.
    pub xfs_kill_containers: bool,
    /// `--xfs_quota_headroom` in bytes.
    pub xfs_quota_headroom: u64,
    /// The directory below which all sandboxes lie.
    pub work_dir: PathBuf,
    /// Host path of a persistent volume, given [`Config::work_dir`].
    pub volume: fn(&Path, &Resource) -> Option<PathBuf>,
}

impl Default for Config {
    fn default() -> Config {
        Config {
            enforce: false,
            watch_interval: Duration::from_secs(15),
            xfs_project_range: "[5000-10000]".into(),
            xfs_kill_containers: false,
            xfs_quota_headroom: 10 << 20,
            work_dir: PathBuf::new(),
            volume: |_, _| None,
        }
    }
}

/// `disk/du`.
///
/// # Errors
/// There is no room for its thread.
pub fn du(config: &Config) -> Result<Arc<dyn Isolator>, IsolatorError> {
    Ok(Arc::new(DiskDu::new(config.clone())?))
}

/// `disk/xfs`.
///
/// # Errors
/// The work directory's file system has no project quotas; says what to do.
pub fn xfs(config: &Config, root: bool) -> Result<Arc<dyn Isolator>, IsolatorError> {
    Ok(Arc::new(DiskXfs::new(config.clone(), root)?))
}

/// What one quota is for.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Account {
    /// The volume; `None` for the sandbox.
    pub(crate) volume: Option<DiskInfo>,
    /// The resources that the quota is the sum of.
    pub(crate) resources: Vec<Resource>,
}

impl Account {
    /// Bytes that may be used.
    pub(crate) fn quota(&self) -> u64 {
        megabytes(total(&self.resources, "disk").unwrap_or(0.0))
    }

    /// A whole file system that limits itself: neither counted against a quota
    /// nor ever exceeded.
    pub(crate) fn is_mount(&self) -> bool {
        let source = self.volume.as_ref().and_then(|disk| disk.source.as_ref());
        source.is_some_and(|source| source.r#type() == source::Type::Mount)
    }

    /// Where the container sees it; empty for the sandbox.
    pub(crate) fn container_path(&self) -> &str {
        let volume = self.volume.as_ref().and_then(|disk| disk.volume.as_ref());
        volume.map_or("", |volume| &volume.container_path)
    }

    /// Its line of the statistics.
    pub(crate) fn statistics(&self, used: Option<u64>) -> DiskStatistics {
        let disk = self.volume.as_ref();
        DiskStatistics {
            source: disk.and_then(|disk| disk.source.clone()),
            persistence: disk.and_then(|disk| disk.persistence.clone()),
            limit_bytes: Some(self.quota()),
            used_bytes: used,
        }
    }

    /// More is used than may be.
    pub(crate) fn exceeded(&self, used: u64) -> Limitation {
        let persistence = self.volume.as_ref().and_then(|disk| disk.persistence.as_ref());
        let whose = persistence.map_or(String::new(), |p| format!(" for volume '{}'", p.id));
        let (used, quota) = (bytes_text(used), bytes_text(self.quota()));
        Limitation {
            resources: self.resources.clone(),
            message: format!("Disk usage ({used}) exceeds quota ({quota}){whose}"),
            reason: Reason::ContainerLimitationDisk,
        }
    }
}

/// The accounts of a container: its sandbox if it has any plain `disk`, and each
/// of its volumes, in the order in which they appear.
pub(crate) fn accounts(requests: &[Resource]) -> Vec<Account> {
    let mut all: Vec<Account> = Vec::new();
    for resource in requests.iter().filter(|r| r.name == "disk" && r.scalar.is_some()) {
        let volume = resource.disk.as_ref().filter(|disk| disk.volume.is_some());
        let path = |disk: &DiskInfo| disk.volume.as_ref().map(|v| v.container_path.clone());
        let same = all
            .iter_mut()
            .find(|known| known.volume.as_ref().and_then(path) == volume.and_then(path));
        match same {
            Some(known) => known.resources.push(resource.clone()),
            None => {
                all.push(Account { volume: volume.cloned(), resources: vec![resource.clone()] })
            }
        }
    }
    all
}

#[cfg(test)]
pub(crate) mod tests {
    use mesos::Volume;
    use mesos::resource::disk_info::{Persistence, Source};

    use super::*;
    use crate::quantity::scalar;

    /// A persistent volume of `size` megabytes.
    pub(crate) fn volume(id: &str, path: &str, size: f64, typ: Option<source::Type>) -> Resource {
        let mut source = typ.map(|_| Source::default());
        if let (Some(source), Some(typ)) = (&mut source, typ) {
            source.set_type(typ);
        }
        let disk = DiskInfo {
            persistence: Some(Persistence { id: id.into(), principal: None }),
            volume: Some(Volume { container_path: path.into(), ..Volume::default() }),
            source,
        };
        Resource { disk: Some(disk), ..scalar("disk", size) }
    }

    #[test]
    fn one_account_per_place() {
        let mount = volume("m", "mnt", 10.0, Some(source::Type::Mount));
        let requests = [
            scalar("cpus", 1.0),
            scalar("disk", 16.0),
            volume("v", "data", 32.0, None),
            scalar("disk", 0.5),
            mount,
        ];
        let all = accounts(&requests);
        let shown: Vec<_> =
            all.iter().map(|a| (a.container_path(), a.quota() >> 20, a.is_mount())).collect();
        assert_eq!(shown, [("", 16, false), ("data", 32, false), ("mnt", 10, true)]);
        assert!(accounts(&requests[..1]).is_empty());
        let line = all[1].statistics(Some(7));
        assert_eq!((line.limit_bytes, line.used_bytes), (Some(32 << 20), Some(7)));
        assert_eq!(line.persistence.map(|p| p.id), Some("v".to_owned()));
    }

    #[test]
    fn limitations_speak_as_mesos_does() {
        let all = accounts(&[scalar("disk", 16.0), volume("v", "data", 2048.0, None)]);
        let sandbox = all[0].exceeded(17 << 20);
        assert_eq!(sandbox.message, "Disk usage (17MB) exceeds quota (16MB)");
        assert_eq!(sandbox.reason, Reason::ContainerLimitationDisk);
        assert_eq!(sandbox.resources, [scalar("disk", 16.0)]);
        let volume = all[1].exceeded((2 << 30) + 4096);
        assert_eq!(volume.message, "Disk usage (2097156KB) exceeds quota (2GB) for volume 'v'");
    }
}
