//! `disk/xfs`: the kernel counts and limits what a container has on disk.
//!
//! Every sandbox, and every persistent volume, is a project of its file system:
//! XFS, or ext4 with project quotas. The kernel knows at once what is used, so
//! nothing is walked. Without `--enforce_container_disk_quota` it only counts;
//! with it writes fail (`EDQUOT`; XFS says `ENOSPC`), or, with `--xfs_kill_containers`, the
//! container is ended. Only top-level containers have a handle: what is made in
//! the sandbox of a nested one inherits the project.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use kernel::quota::{self, Quotas};
use mesos::{Resource, ResourceStatistics};
use tokio::sync::oneshot;
use tracing::{info, warn};

use super::projects::Projects;
use super::{Account, Config, accounts};
use crate::api::{
    About, ContainerContext, Contribution, Isolation, Isolator, IsolatorError, Known, Limitation,
    Probe, Recovered, Watch,
};

const NAME: &str = "disk/xfs";

fn failed(verb: &'static str, error: kernel::Error) -> IsolatorError {
    let object = error.object.clone();
    IsolatorError::new(NAME, verb, object, error)
}

/// What happens to those who want more than their quota.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Policy {
    /// They are counted.
    Account,
    /// Their writes fail.
    Refuse,
    /// They are ended; room for so many bytes more until that is noticed.
    End(u64),
}

impl Policy {
    /// Soft and hard limit in bytes; 0 is none.
    fn limits(self, quota: u64) -> (u64, u64) {
        match self {
            Policy::Account => (0, 0),
            Policy::Refuse => (quota, quota),
            Policy::End(headroom) => (quota, quota.saturating_add(headroom)),
        }
    }
}

/// The isolator.
#[derive(Debug)]
pub struct DiskXfs {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    config: Config,
    policy: Policy,
    /// Of the file system with the sandboxes.
    quotas: Arc<Quotas>,
    projects: Mutex<Projects>,
}

impl DiskXfs {
    /// Looks whether the work directory's file system has project quotas.
    ///
    /// # Errors
    /// It has not; says which one it is and how to mount it. Or a flag is wrong.
    pub fn new(config: Config, root: bool) -> Result<DiskXfs, IsolatorError> {
        if !root {
            return Err(IsolatorError::plain(NAME, "use", "quotas: the agent must run as root"));
        }
        let projects = Projects::parse(&config.xfs_project_range).map_err(|text| {
            IsolatorError::plain(NAME, "read", format!("--xfs_project_range: {text}"))
        })?;
        let policy = match (config.enforce, config.xfs_kill_containers) {
            (false, _) => Policy::Account,
            (true, false) => Policy::Refuse,
            (true, true) => Policy::End(config.xfs_quota_headroom),
        };
        let quotas = probe(&config.work_dir, policy)?;
        info!(
            kind = %quotas.kind,
            directory = %config.work_dir.display(),
            ids = projects.total(),
            ?policy,
            "disk/xfs uses project quotas"
        );
        let (quotas, projects) = (Arc::new(quotas), Mutex::new(projects));
        Ok(DiskXfs { shared: Arc::new(Shared { config, policy, quotas, projects }) })
    }

    fn handle(&self, context: &Arc<ContainerContext>) -> Handle {
        Handle {
            shared: Arc::clone(&self.shared),
            context: Arc::clone(context),
            project: None,
            entries: Arc::default(),
        }
    }

    /// Ids of the range whose files nobody here knows: of sandboxes that wait for
    /// their removal, of volumes that nobody uses.
    fn reserve_leftovers(&self) -> Result<(), IsolatorError> {
        let shared = &self.shared;
        let (mut next, last) = shared.projects().bounds();
        while let Some((id, usage)) =
            shared.quotas.next(next).map_err(|error| failed("recover projects of", error))?
        {
            if id > last || id < next {
                break;
            }
            let mut projects = shared.projects();
            if projects.contains(id) && usage.inodes > 0 {
                projects.reserve(id);
                projects.release(id);
            }
            drop(projects);
            let Some(after) = id.checked_add(1) else { break };
            next = after;
        }
        Ok(())
    }
}

/// The quotas of a directory's file system, if it does what `policy` needs.
fn probe(directory: &Path, policy: Policy) -> Result<Quotas, IsolatorError> {
    let quotas = Quotas::open(directory).map_err(|error| failed("open", error))?;
    let advice = |kind: &str| {
        let (path, fs) = (directory.display(), if kind.is_empty() { "unknown" } else { kind });
        format!(
            "project quotas of {path}: its file system is {fs}; XFS or ext4 is needed, mounted \
             with the option 'prjquota'"
        )
    };
    let state = match quotas.state() {
        Ok(state) => state,
        Err(error) => return Err(IsolatorError::new(NAME, "use", advice(&quotas.kind), error)),
    };
    if !state.accounting {
        return Err(IsolatorError::plain(NAME, "use", advice(&quotas.kind)));
    }
    if policy != Policy::Account && !state.enforcing {
        quotas.enforce().map_err(|error| failed("enforce project quotas of", error))?;
    }
    Ok(quotas)
}

impl Shared {
    fn projects(&self) -> MutexGuard<'_, Projects> {
        // An id is taken or freed in one step.
        self.projects.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A free project id. When all are taken, those that no file carries any more
    /// are freed first.
    fn take(&self) -> Result<u32, IsolatorError> {
        let mut projects = self.projects();
        if let Some(id) = projects.take() {
            return Ok(id);
        }
        for id in projects.idle() {
            if self.quotas.usage(id).is_ok_and(|usage| usage.inodes == 0) {
                if let Err(error) = self.quotas.limit(id, 0, 0) {
                    warn!(%error, id, "an old quota stays");
                    continue;
                }
                projects.free(id);
            }
        }
        projects.take().ok_or_else(|| {
            let (total, range) = (projects.total(), &self.config.xfs_project_range);
            let object = format!(
                "a project id: all {total} of --xfs_project_range={range} are used by containers, \
                 volumes or sandboxes that are not removed yet"
            );
            IsolatorError::plain(NAME, "find", object)
        })
    }
}

#[async_trait]
impl Isolator for DiskXfs {
    fn about(&self) -> About {
        About::top_level(NAME)
    }

    fn attach(&self, context: &Arc<ContainerContext>) -> Box<dyn Isolation> {
        Box::new(self.handle(context))
    }

    async fn recover(&self, known: &[Known]) -> Result<Recovered, IsolatorError> {
        self.reserve_leftovers()?;
        let mut handles: Vec<Box<dyn Isolation>> = Vec::new();
        for container in known {
            let mut handle = self.handle(&container.context);
            // A sandbox may be gone together with its container.
            if let Ok(id) = quota::project_of(&container.context.sandbox)
                && id != 0
            {
                self.shared.projects().reserve(id);
                handle.project = Some(id);
            }
            if container.pid.is_some() {
                let applied = match handle.project {
                    Some(_) => handle.apply(&container.context.requests),
                    // It was launched without this isolator.
                    None => handle.begin(),
                };
                if let Err(error) = applied {
                    warn!(error = %error.chain(), "a recovered container has no disk quota");
                }
            }
            handles.push(Box::new(handle));
        }
        Ok(Recovered { handles, leftovers: Vec::new() })
    }
}

/// One project of a container.
#[derive(Debug, Clone)]
struct Entry {
    /// `None` for a disk of its own.
    project: Option<u32>,
    path: PathBuf,
    account: Account,
    quotas: Arc<Quotas>,
}

impl Entry {
    fn used(&self) -> Result<u64, kernel::Error> {
        match self.project {
            Some(id) => self.quotas.usage(id).map(|usage| usage.bytes),
            None => quota::occupied(&self.path),
        }
    }
}

/// The sandbox first if it has a quota, then the volumes.
type Entries = Arc<Mutex<Vec<Entry>>>;

fn open(entries: &Mutex<Vec<Entry>>) -> MutexGuard<'_, Vec<Entry>> {
    // The list is replaced in one step.
    entries.lock().unwrap_or_else(PoisonError::into_inner)
}

/// One container.
#[derive(Debug)]
struct Handle {
    shared: Arc<Shared>,
    context: Arc<ContainerContext>,
    project: Option<u32>,
    entries: Entries,
}

impl Handle {
    /// Makes the sandbox a project.
    fn begin(&mut self) -> Result<(), IsolatorError> {
        let id = self.shared.take()?;
        self.project = Some(id);
        // Who had it before may have left its limits.
        self.shared.quotas.limit(id, 0, 0).map_err(|error| failed("reset", error))?;
        for path in [&self.context.sandbox].into_iter().chain(&self.context.ephemeral_volumes) {
            quota::assign(path, id).map_err(|error| failed("mark", error))?;
        }
        let context = Arc::clone(&self.context);
        self.apply(&context.requests)
    }

    /// Sets all quotas as `requests` say.
    fn apply(&mut self, requests: &[Resource]) -> Result<(), IsolatorError> {
        let mut entries = Vec::new();
        for account in accounts(requests) {
            let entry = match account.volume {
                None => Entry {
                    project: self.project,
                    path: self.context.sandbox.clone(),
                    account,
                    quotas: Arc::clone(&self.shared.quotas),
                },
                Some(_) => match self.volume(account)? {
                    Some(entry) => entry,
                    None => continue,
                },
            };
            if let Some(id) = entry.project {
                let (soft, hard) = self.shared.policy.limits(entry.account.quota());
                let set = entry.quotas.limit(id, soft, hard);
                set.map_err(|error| failed("limit", error))?;
            }
            entries.push(entry);
        }
        *open(&self.entries) = entries;
        Ok(())
    }

    /// The project of a volume, made if it has none; `None` for what is no
    /// persistent volume.
    fn volume(&self, account: Account) -> Result<Option<Entry>, IsolatorError> {
        let config = &self.shared.config;
        let resource = account.resources.first();
        let Some(path) = resource.and_then(|r| (config.volume)(&config.work_dir, r)) else {
            return Ok(None);
        };
        if account.is_mount() {
            let quotas = Arc::clone(&self.shared.quotas);
            return Ok(Some(Entry { project: None, path, account, quotas }));
        }
        let quotas = Arc::new(probe(&path, self.shared.policy)?);
        let id = match quota::project_of(&path).map_err(|error| failed("look at", error))? {
            0 => {
                let id = self.shared.take()?;
                quota::assign(&path, id).map_err(|error| failed("mark", error))?;
                id
            }
            id => {
                self.shared.projects().reserve(id);
                id
            }
        };
        Ok(Some(Entry { project: Some(id), path, account, quotas }))
    }
}

#[async_trait]
impl Isolation for Handle {
    async fn prepare(&mut self) -> Result<Contribution, IsolatorError> {
        self.begin()?;
        Ok(Contribution::default())
    }

    fn watch(&mut self) -> Option<Watch> {
        let Policy::End(_) = self.shared.policy else { return None };
        let (sender, watch) = oneshot::channel();
        tokio::spawn(look(Arc::clone(&self.entries), self.shared.config.watch_interval, sender));
        Some(watch)
    }

    async fn update(
        &mut self,
        requests: &[Resource],
        _limits: &BTreeMap<String, f64>,
    ) -> Result<(), IsolatorError> {
        self.apply(requests)
    }

    fn probes(&mut self) -> Vec<Box<dyn Probe>> {
        let (entries, quotas) = (Arc::clone(&self.entries), Arc::clone(&self.shared.quotas));
        vec![Box::new(Figures { project: self.project, entries, quotas })]
    }

    fn ended(&mut self) -> Option<Limitation> {
        match self.shared.policy {
            Policy::End(_) => exceeded(&open(&self.entries)),
            Policy::Account | Policy::Refuse => None,
        }
    }

    async fn cleanup(&mut self) -> Result<(), IsolatorError> {
        let entries = std::mem::take(&mut *open(&self.entries));
        let volumes = entries.iter().filter_map(|entry| entry.project);
        let mut projects = self.shared.projects();
        // The files keep the id, and the quota holds for them, until they are gone.
        for id in volumes.chain(self.project.take()) {
            projects.release(id);
        }
        Ok(())
    }
}

/// The first quota that is exceeded.
fn exceeded(entries: &[Entry]) -> Option<Limitation> {
    entries.iter().filter(|entry| entry.project.is_some()).find_map(|entry| {
        let used = entry.used().ok()?;
        (used > entry.account.quota()).then(|| entry.account.exceeded(used))
    })
}

/// Looks at the quotas again and again until one is exceeded or nobody cares.
async fn look(
    entries: Entries,
    interval: std::time::Duration,
    mut sender: oneshot::Sender<Limitation>,
) {
    loop {
        tokio::select! {
            () = sender.closed() => return,
            () = tokio::time::sleep(interval) => {}
        }
        // Reading a quota does not wait for the disk.
        let found = exceeded(&open(&entries));
        if let Some(limitation) = found {
            let _ = sender.send(limitation);
            return;
        }
    }
}

#[derive(Debug)]
struct Figures {
    project: Option<u32>,
    entries: Entries,
    quotas: Arc<Quotas>,
}

impl Probe for Figures {
    fn source(&self) -> &'static str {
        NAME
    }

    fn sample(
        &mut self,
        _buffer: &mut Vec<u8>,
        statistics: &mut ResourceStatistics,
    ) -> Result<(), IsolatorError> {
        if let Some(id) = self.project {
            let usage = self.quotas.usage(id).map_err(|error| failed("sample", error))?;
            statistics.disk_used_bytes = Some(usage.bytes);
        }
        for entry in open(&self.entries).iter() {
            if entry.account.volume.is_none() {
                statistics.disk_limit_bytes = Some(entry.account.quota());
                continue;
            }
            let used = entry.used().map_err(|error| failed("sample", error))?;
            statistics.disk_statistics.push(entry.account.statistics(Some(used)));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_by_policy() {
        assert_eq!(Policy::Account.limits(100), (0, 0));
        assert_eq!(Policy::Refuse.limits(100), (100, 100));
        assert_eq!(Policy::End(10).limits(100), (100, 110));
        assert_eq!(Policy::End(10).limits(u64::MAX), (u64::MAX, u64::MAX));
    }

    #[test]
    fn what_cannot_work_is_said_at_start() {
        let config = Config { work_dir: "/proc".into(), ..Config::default() };
        let error = DiskXfs::new(config.clone(), true).expect_err("no quotas").chain();
        for words in ["project quotas of /proc", "is proc", "'prjquota'"] {
            assert!(error.contains(words), "{error}");
        }
        let error = DiskXfs::new(config.clone(), false).expect_err("not root").chain();
        assert!(error.contains("must run as root"), "{error}");
        let config = Config { xfs_project_range: "[9-1]".into(), ..config };
        let error = DiskXfs::new(config, true).expect_err("a range").chain();
        assert!(error.contains("--xfs_project_range: '[9-1]'"), "{error}");
    }
}
