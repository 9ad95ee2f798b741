//! Leftovers: what carries our marks in the kernel and belongs to no container.
//!
//! | what | mark | what is done |
//! |---|---|---|
//! | shim | runs our shim, holds a record below `<runtime_dir>/containers` | killed, and its container with it |
//! | cgroup | below `--cgroups_root`, named as containers are | killed and removed |
//! | mount | in the runtime directory or the sandbox of a container that is gone | unmounted |
//! | directory | in `<runtime_dir>/containers`, with what we write first | removed |
//! | root file system | below `<work_dir>/provisioner` | unmounted and removed |
//!
//! Run after recovery and then every [`Config::sweep_interval`]. Whatever has no
//! mark is counted, named once in the log, and not touched. What is found is listed
//! before the table of containers is read: one that is being made is in the table
//! before it is in the kernel, so it is never taken for a leftover.
//!
//! [`Config::sweep_interval`]: super::Config::sweep_interval

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs;
use std::path::{Component, Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use isolators::cgroups::is_container_name;
use kernel::cgroup::Cgroup;
use kernel::mounts;
use kernel::pidfd::Pidfd;
use mesos::ContainerId;
use tracing::{info, warn};

use super::{Shared, chain};
use crate::containerizer::request::key;
use crate::containerizer::runtime;

/// What the link `/proc/<pid>/exe` of a shim says: it was started from memory.
const SHIM: &str = "/memfd:bulkhead-shim (deleted)";
/// What the kernel appends to the path of a file that is gone.
const DELETED: &str = " (deleted)";

/// What was found so far: metrics.
#[derive(Debug, Default)]
pub(super) struct Sweeper {
    cgroups: AtomicU64,
    mounts: AtomicU64,
    shims: AtomicU64,
    directories: AtomicU64,
    roots: AtomicU64,
    errors: AtomicU64,
    /// What looks like ours and is not; named in the log already.
    strangers: Mutex<BTreeSet<PathBuf>>,
}

/// Leftovers of one pass.
#[derive(Debug, Default)]
struct Found {
    shims: Vec<(u32, String)>,
    cgroups: Vec<Cgroup>,
    mounts: Vec<(PathBuf, String)>,
    directories: Vec<ContainerId>,
    roots: Vec<ContainerId>,
    strangers: Vec<PathBuf>,
}

impl Sweeper {
    /// Names and values, for `/metrics/snapshot`.
    pub(super) fn figures(&self) -> [(&'static str, u64); 7] {
        let value = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let strangers = self.strangers.lock().unwrap_or_else(PoisonError::into_inner).len();
        [
            ("containerizer/leftovers/cgroups_removed", value(&self.cgroups)),
            ("containerizer/leftovers/mounts_removed", value(&self.mounts)),
            ("containerizer/leftovers/shims_killed", value(&self.shims)),
            ("containerizer/leftovers/directories_removed", value(&self.directories)),
            ("containerizer/leftovers/roots_removed", value(&self.roots)),
            ("containerizer/leftovers/errors", value(&self.errors)),
            ("containerizer/leftovers/strangers", strangers as u64),
        ]
    }

    fn done(&self, counter: &AtomicU64, what: &str, result: Result<(), String>) {
        match result {
            Ok(()) => {
                counter.fetch_add(1, Ordering::Relaxed);
                info!("removed a leftover: {what}");
            }
            Err(error) => {
                self.errors.fetch_add(1, Ordering::Relaxed);
                warn!(error, "a leftover stays: {what}");
            }
        }
    }

    /// Replaces what is known of strangers; new ones are named.
    fn meet(&self, strangers: Vec<PathBuf>) {
        let mut known = self.strangers.lock().unwrap_or_else(PoisonError::into_inner);
        let now: BTreeSet<PathBuf> = strangers.into_iter().collect();
        for path in now.difference(&known) {
            warn!("'{}' is not a container's and is left alone", path.display());
        }
        *known = now;
    }
}

/// Sweeps now and then for as long as the containerizer lives.
pub(super) fn start(shared: &Arc<Shared>) {
    let (shared, interval) = (Arc::downgrade(shared), shared.config.sweep_interval);
    tokio::spawn(async move {
        while sweep(&shared).await {
            tokio::time::sleep(interval).await;
        }
    });
}

/// One pass; `false` if the containerizer is gone.
async fn sweep(shared: &Weak<Shared>) -> bool {
    let Some(shared) = shared.upgrade() else { return false };
    let pass = tokio::task::spawn_blocking(move || {
        let found = look(&shared);
        remove(&shared, found);
    });
    pass.await.is_ok()
}

/// Lists what is there, then takes out what belongs to a container. **Blocks.**
fn look(shared: &Shared) -> Found {
    let containers = shared.runtime.path();
    let mut found = Found { shims: shims(containers), ..Found::default() };
    for root in shared.isolators.layout.iter().flat_map(isolators::cgroups::Layout::roots) {
        for name in root.children().unwrap_or_default() {
            // These belong to agents of either make.
            if name != "agent" && name != "slave" {
                found.cgroups.push(root.child(name));
            }
        }
    }
    let work_dir = shared.config.work_dir.as_deref();
    for mount in mounts::table().unwrap_or_default().into_iter().rev() {
        if let Some(owner) = owner_of(&mount.target, containers, work_dir) {
            found.mounts.push((mount.target, owner));
        }
    }
    found.directories = shared.runtime.scan();
    let provisioner = shared.config.provisioner.as_ref();
    found.roots = provisioner.map(|provisioner| provisioner.scan()).unwrap_or_default();
    // From here on: who of them is known?
    let table = shared.table();
    let root = |name: &str| table.contains_key(name);
    found.shims.retain(|(_, key)| !table.contains_key(key));
    found.mounts.retain(|(_, owner)| !root(owner));
    found.directories.retain(|id| !table.contains_key(&key(id)));
    found.roots.retain(|id| !table.contains_key(&key(id)));
    let claimed = |group: &Cgroup| name_of(group.path()).is_some_and(root);
    let (unclaimed, strangers): (Vec<_>, Vec<_>) = std::mem::take(&mut found.cgroups)
        .into_iter()
        .filter(|group| !claimed(group))
        .partition(|group| name_of(group.path()).is_some_and(is_container_name));
    drop(table);
    found.cgroups = unclaimed;
    found.strangers = strangers.into_iter().map(|group| group.path().to_path_buf()).collect();
    let (ours, strange) =
        found.directories.into_iter().partition(|id| runtime::is_ours(&shared.runtime.of(id).path));
    found.directories = ours;
    let strange: Vec<ContainerId> = strange;
    found.strangers.extend(strange.iter().map(|id| shared.runtime.of(id).path));
    found
}

/// Removes what was found, processes first. **Blocks.**
fn remove(shared: &Shared, found: Found) {
    let (sweeper, patience) = (&shared.sweeper, shared.config.isolators.cgroups_destroy_timeout);
    for (pid, container) in found.shims {
        let what = format!("the shim {pid} of container {container}");
        sweeper.done(&sweeper.shims, &what, kill_shim(pid, shared.runtime.path()));
    }
    for group in found.cgroups {
        let gone = group.kill(patience).and_then(|()| group.remove(patience));
        let what = format!("the cgroup '{}'", group.path().display());
        sweeper.done(&sweeper.cgroups, &what, gone.map_err(|e| chain(&e)));
    }
    for (target, _) in found.mounts {
        let what = format!("the mount at '{}'", target.display());
        let gone = mounts::detach(&target).map_err(|e| chain(&e));
        sweeper.done(&sweeper.mounts, &what, gone);
    }
    for id in found.directories {
        let dir = shared.runtime.of(&id);
        let what = format!("the runtime directory '{}'", dir.path.display());
        sweeper.done(&sweeper.directories, &what, dir.remove().map_err(|e| chain(&e)));
    }
    for (id, provisioner) in found.roots.iter().zip(shared.config.provisioner.iter().cycle()) {
        let what = format!("the root file systems of container {}", key(id));
        sweeper.done(&sweeper.roots, &what, provisioner.sweep(id).map_err(|e| chain(&e)));
    }
    if let Some(provisioner) = &shared.config.provisioner {
        provisioner.tidy();
    }
    sweeper.meet(found.strangers);
}

fn name_of(path: &Path) -> Option<&str> {
    path.file_name().and_then(OsStr::to_str)
}

/// Every shim with a record below `containers`, and the container it is of.
fn shims(containers: &Path) -> Vec<(u32, String)> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    pids.filter_map(|pid| Some((pid, container_of(pid, containers)?))).collect()
}

/// The container of a shim of ours; `None` for every other process.
fn container_of(pid: u32, containers: &Path) -> Option<String> {
    let exe = fs::read_link(format!("/proc/{pid}/exe")).ok()?;
    if exe != Path::new(SHIM) {
        return None;
    }
    let open = fs::read_dir(format!("/proc/{pid}/fd")).ok()?.flatten();
    open.filter_map(|fd| fs::read_link(fd.path()).ok())
        .find_map(|path| container_of_record(&path, containers))
}

/// `<containers>/a/containers/b/record` is the record of `a.b`.
fn container_of_record(path: &Path, containers: &Path) -> Option<String> {
    let text = path.to_str()?;
    let path = Path::new(text.strip_suffix(DELETED).unwrap_or(text));
    let inner = path.strip_prefix(containers).ok()?;
    if inner.file_name()? != "record" {
        return None;
    }
    let names = inner.parent()?.components().step_by(2);
    let names: Option<Vec<&str>> = names.map(|name| name.as_os_str().to_str()).collect();
    Some(names?.join(".")).filter(|key| !key.is_empty())
}

/// Kills a shim if it still is what it was when it was found.
fn kill_shim(pid: u32, containers: &Path) -> Result<(), String> {
    let Ok(shim) = Pidfd::open(pid) else { return Ok(()) };
    if container_of(pid, containers).is_none() {
        return Ok(());
    }
    shim.signal(libc::SIGKILL).map(drop).map_err(|e| format!("failed to kill it: {e}"))
}

/// The top-level container in whose runtime directory or sandbox a mount is.
fn owner_of(target: &Path, containers: &Path, work_dir: Option<&Path>) -> Option<String> {
    let text = |part: Component<'_>| part.as_os_str().to_str().map(str::to_owned);
    if let Ok(inner) = target.strip_prefix(containers) {
        return inner.components().next().and_then(text);
    }
    let inner = target.strip_prefix(work_dir?).ok()?;
    let parts: Option<Vec<String>> = inner.components().map(text).collect();
    let parts = parts?;
    // Sandboxes of executors, and of containers without one.
    let sandbox = parts.windows(2).find(|pair| pair[0] == "runs" && is_container_name(&pair[1]));
    sandbox.map(|pair| pair[1].clone())
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "0b4e2f6c-6d0e-4a5e-9d3c-1f2a3b4c5d6e";

    #[test]
    fn records_name_their_container() {
        let containers = Path::new("/run/m/containers");
        for (path, wanted) in [
            ("/run/m/containers/a/record", Some("a")),
            ("/run/m/containers/a/record (deleted)", Some("a")),
            ("/run/m/containers/a/containers/b/record", Some("a.b")),
            ("/run/m/containers/a/config", None),
            ("/run/m/containers/record", None),
            ("/run/other/containers/a/record", None),
        ] {
            assert_eq!(container_of_record(path.as_ref(), containers).as_deref(), wanted, "{path}");
        }
    }

    #[test]
    fn mounts_have_owners_only_in_our_directories() {
        let (containers, work) = (Path::new("/run/m/containers"), Path::new("/w"));
        for (target, wanted) in [
            ("/run/m/containers/a/mnt".to_owned(), Some("a")),
            (format!("/w/slaves/S/frameworks/F/executors/E/runs/{ID}/volume"), Some(ID)),
            ("/w/slaves/S/frameworks/F/executors/E/runs/latest/x".to_owned(), None),
            (format!("/elsewhere/runs/{ID}/volume"), None),
            ("/w/volumes/roles/r/v".to_owned(), None),
            ("/run/m".to_owned(), None),
        ] {
            let owner = owner_of(target.as_ref(), containers, Some(work));
            assert_eq!(owner.as_deref(), wanted, "{target}");
        }
        assert_eq!(owner_of("/w/runs/x".as_ref(), containers, None), None);
    }
}
