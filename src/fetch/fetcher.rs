//! The agent's fetcher: checks URIs, asks the cache, runs helpers, counts.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use kernel::chain;
use mesos::command_info::Uri;
use thiserror::Error;

use super::cache::{Cache, Key, Landing, Order};
use super::log;
use super::message::{Amount, Job, Placement, Report, Task, User, VERSION};
use super::process::Program;
use super::uri;

/// The helper program of this package.
const HELPER: &str = "bulkhead-helper";

/// What the agent's flags say.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The helper program; else it is looked for beside this program.
    pub helper: Option<PathBuf>,
    /// `--fetcher_cache_dir`
    pub cache_dir: PathBuf,
    /// `--fetcher_cache_size` in bytes; 0: no cache.
    pub cache_size: u64,
    /// `--fetcher_stall_timeout`; zero: never.
    pub stall_timeout: Duration,
    /// `--fetcher_size_limit` in bytes, ours: largest download and archive content.
    pub size_limit: u64,
    /// `--frameworks_home`: where relative URIs are looked up.
    pub frameworks_home: Option<PathBuf>,
    /// `--hadoop_home`
    pub hadoop_home: Option<PathBuf>,
}

impl Default for Settings {
    fn default() -> Settings {
        Settings {
            helper: None,
            cache_dir: "/tmp/mesos/fetch".into(),
            cache_size: 2 << 30,
            stall_timeout: Duration::from_secs(60),
            size_limit: 64 << 30,
            frameworks_home: None,
            hadoop_home: None,
        }
    }
}

/// Why not everything was fetched; the message says which URI.
#[derive(Debug, Error)]
#[allow(missing_docs)]
pub enum FetchError {
    #[error("URI '{uri}': {what}")]
    Invalid { uri: String, what: String },
    #[error("failed to fetch '{uri}': {cause}")]
    Failed { uri: String, cause: String },
    #[error("failed to open '{}'", path.display())]
    Open { path: PathBuf, source: io::Error },
    #[error("failed to look up user '{user}': {cause}")]
    User { user: String, cause: String },
}

/// What a container needs.
#[derive(Debug, Clone, Copy)]
pub struct Wanted<'a> {
    /// In this order.
    pub uris: &'a [Uri],
    /// Where to; its `stderr` gets the log.
    pub sandbox: &'a Path,
    /// The task's user; `None`: the agent's.
    pub user: Option<&'a str>,
}

/// How far the URIs of a container are.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Progress {
    /// All of them.
    pub uris: usize,
    /// Those that are there.
    pub uris_done: usize,
    /// The next one by its name in the sandbox: the URI itself may hold a password.
    pub name: String,
    /// Its bytes, if that is known.
    pub bytes: Option<u64>,
    /// Those of its bytes that are there.
    pub bytes_done: u64,
}

/// Hears how far URIs are, a few times a second; must not block.
pub type Watcher<'a> = &'a (dyn Fn(Progress) + Sync);

/// Figures for `/metrics`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Figures {
    /// Containers whose URIs were all fetched, those without URIs included.
    pub succeeded: u64,
    /// Containers that did not get theirs.
    pub failed: u64,
    /// Bytes used or reserved in the cache.
    pub cache_used: u64,
    /// Bytes there are for it.
    pub cache_total: u64,
}

/// The fetcher of one agent.
#[derive(Debug)]
pub struct Fetcher {
    settings: Settings,
    program: Arc<Program>,
    environment: BTreeMap<String, String>,
    cache: Cache,
    succeeded: AtomicU64,
    failed: AtomicU64,
}

/// What is the same for all URIs of a container.
struct Scene<'a> {
    wanted: Wanted<'a>,
    sandbox: OwnedFd,
    log: File,
    user: Option<User>,
}

impl Fetcher {
    /// Opens the cache that an earlier agent left. A helper program that is missing is
    /// an error of each fetch.
    #[must_use]
    pub fn new(settings: Settings) -> Fetcher {
        let beside = || {
            let own = std::env::current_exe().and_then(|own| own.canonicalize());
            own.unwrap_or_default().with_file_name(HELPER)
        };
        let program = settings.helper.clone().unwrap_or_else(beside);
        let mut environment: BTreeMap<String, String> =
            std::env::vars().filter(|(name, _)| is_for_others(name)).collect();
        if let Some(home) = &settings.hadoop_home {
            environment.insert("HADOOP_HOME".into(), home.display().to_string());
        }
        Fetcher {
            program: Arc::new(Program::new(&program)),
            environment,
            cache: Cache::new(&settings.cache_dir, settings.cache_size),
            succeeded: AtomicU64::new(0),
            failed: AtomicU64::new(0),
            settings,
        }
    }

    /// What was counted.
    #[must_use]
    pub fn figures(&self) -> Figures {
        let (cache_used, cache_total) = self.cache.sizes();
        Figures {
            succeeded: self.succeeded.load(Ordering::Relaxed),
            failed: self.failed.load(Ordering::Relaxed),
            cache_used,
            cache_total,
        }
    }

    /// Fetches all URIs, one after the other. Dropping the future ends what runs.
    ///
    /// # Errors
    /// [`FetchError`] of the first that fails; none is tried after it.
    pub async fn fetch(&self, wanted: Wanted<'_>, watcher: Watcher<'_>) -> Result<(), FetchError> {
        let result = self.all(wanted, watcher).await;
        let counter = if result.is_ok() { &self.succeeded } else { &self.failed };
        counter.fetch_add(1, Ordering::Relaxed);
        result
    }

    async fn all(&self, wanted: Wanted<'_>, watcher: Watcher<'_>) -> Result<(), FetchError> {
        let home = self.settings.frameworks_home.as_deref();
        let outputs: Result<Vec<PathBuf>, FetchError> = wanted
            .uris
            .iter()
            .map(|uri| {
                uri::check(uri, home)
                    .map_err(|what| FetchError::Invalid { uri: uri.value.clone(), what })
            })
            .collect();
        let outputs = outputs?;
        if wanted.uris.is_empty() {
            return Ok(());
        }
        let mut scene = scene(wanted)?;
        for (done, (uri, output)) in wanted.uris.iter().zip(outputs).enumerate() {
            let name = output.display().to_string();
            let far =
                Progress { uris: wanted.uris.len(), uris_done: done, name, ..Default::default() };
            let tell = |amount: Amount| {
                let (bytes, bytes_done) = (amount.of, amount.done);
                watcher(Progress { bytes, bytes_done, ..far.clone() });
            };
            tell(Amount::default());
            let fetched = self.one(&mut scene, uri, output, &tell).await;
            fetched.map_err(|cause| FetchError::Failed { uri: uri.value.clone(), cause })?;
        }
        let sandbox = wanted.sandbox.display();
        let text = format!("Successfully fetched all URIs into '{sandbox}'");
        log::write_to(&mut scene.log, 'I', &text);
        Ok(())
    }

    async fn one(
        &self,
        scene: &mut Scene<'_>,
        uri: &Uri,
        output: PathBuf,
        tell: &(dyn Fn(Amount) + Sync),
    ) -> Result<(), String> {
        let mut lease = None;
        if uri.cache.unwrap_or(false) {
            match self.cache.obtain(self.key(scene, uri), self.order(scene, uri)?, tell).await {
                Landing::Ready(ready) => lease = Some(ready),
                Landing::Failed(cause) => return Err(cause),
                Landing::Bypass(why) => {
                    let text = format!("Bypassing the cache for '{}': {why}", uri.value);
                    log::write_to(&mut scene.log, 'W', &text);
                }
                Landing::Flying(_) => return Err("its download did not end".into()),
            }
        }
        let cached = lease.as_ref().map(|lease| lease.open()).transpose()?;
        let task = Task::Place(Placement {
            output,
            executable: uri.executable.unwrap_or(false),
            extract: uri.extract.unwrap_or(true),
            cached: cached.is_some(),
            mode: lease.as_ref().and_then(|lease| lease.mode),
        });
        let job = self.job(scene, uri, task);
        let mut more = vec![scene.log.as_fd(), scene.sandbox.as_fd()];
        more.extend(cached.as_ref().map(AsFd::as_fd));
        let started = self.program.start(c"fetch", &job, &more).await;
        let mut helper = started.map_err(|error| chain(&error))?;
        let mut amount = Amount::default();
        loop {
            match helper.next().await.map_err(|error| chain(&error))? {
                Report::Done { .. } => return Ok(()),
                Report::Failed { message, .. } => return Err(message),
                report => amount.hear(&report),
            }
            tell(amount);
        }
    }

    fn key(&self, scene: &Scene<'_>, uri: &Uri) -> Key {
        Key { user: scene.wanted.user.map(str::to_owned), uri: uri.value.trim_start().to_owned() }
    }

    fn order(&self, scene: &Scene<'_>, uri: &Uri) -> Result<Order, String> {
        let copied = |error: io::Error| format!("failed to copy a descriptor: {error}");
        Ok(Order {
            program: Arc::clone(&self.program),
            job: self.job(scene, uri, Task::Fill { known: None }),
            log: scene.log.try_clone().map_err(copied)?,
            sandbox: scene.sandbox.try_clone().map_err(copied)?,
        })
    }

    fn job(&self, scene: &Scene<'_>, uri: &Uri, task: Task) -> Job {
        Job {
            version: VERSION,
            uri: uri.value.trim_start().to_owned(),
            task,
            user: scene.user.clone(),
            sandbox: scene.wanted.sandbox.to_owned(),
            frameworks_home: self.settings.frameworks_home.clone(),
            environment: self.environment.clone(),
            stall_secs: self.settings.stall_timeout.as_secs_f64().ceil() as u64,
            size_limit: self.settings.size_limit,
        }
    }
}

/// Settings of the agent itself are not for other programs.
fn is_for_others(name: &str) -> bool {
    !["LIBPROCESS_", "MESOS_", "BULKHEAD_"].iter().any(|prefix| name.starts_with(prefix))
}

fn scene(wanted: Wanted<'_>) -> Result<Scene<'_>, FetchError> {
    let user = wanted.user.map(user_of).transpose()?.flatten();
    let failed = |path: &Path| {
        let path = path.to_owned();
        move |source| FetchError::Open { path, source }
    };
    let sandbox = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_PATH | libc::O_DIRECTORY)
        .open(wanted.sandbox)
        .map_err(failed(wanted.sandbox))?;
    let path = wanted.sandbox.join("stderr");
    // A link planted there by an earlier task must not lead anywhere.
    let log = OpenOptions::new()
        .append(true)
        .create(true)
        .mode(0o644)
        .custom_flags(libc::O_NOFOLLOW)
        .open(&path)
        .map_err(failed(&path))?;
    if let Some(user) = &user {
        std::os::unix::fs::fchown(&log, Some(user.uid), Some(user.gid)).map_err(failed(&path))?;
    }
    Ok(Scene { wanted, sandbox: sandbox.into(), log, user })
}

/// Who a helper becomes. An agent that is not root can only stay what it is.
fn user_of(name: &str) -> Result<Option<User>, FetchError> {
    let failed = |cause: String| FetchError::User { user: name.to_owned(), cause };
    let user = kernel::users::by_name(name).map_err(|error| failed(chain(&error)))?;
    let user = user.ok_or_else(|| failed("it does not exist".into()))?;
    if !kernel::proctree::is_root() {
        return Ok(None);
    }
    let groups = kernel::users::groups(&user).map_err(|error| failed(chain(&error)))?;
    Ok(Some(User { uid: user.uid, gid: user.gid, groups }))
}
