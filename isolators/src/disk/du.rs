//! `disk/du`: counts what a container has on disk by walking its directories.
//!
//! One thread for the whole agent walks, in the background and slowly, in the
//! order that [`super::core`] says. What it finds goes into the [`Book`] of the
//! container, where statistics are read from; a quota that is exceeded becomes a
//! limitation if `--enforce_container_disk_quota` is set. Only top-level
//! containers have a handle: sandboxes of nested ones lie in theirs.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, TryRecvError, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use async_trait::async_trait;
use kernel::sched;
use kernel::walk::{Progress, Walk};
use mesos::{Resource, ResourceStatistics};
use tokio::sync::oneshot;
use tracing::{debug, warn};

use super::core::{Action, Event, Key, Scheduler};
use super::{Account, Config, accounts};
use crate::api::{
    About, ContainerContext, Contribution, Isolation, Isolator, IsolatorError, Known, Limitation,
    Probe, Recovered, Watch,
};

const NAME: &str = "disk/du";

/// Entries of a slice: a few milliseconds where nothing has to be read from disk.
const SLICE: u64 = 2000;

/// The isolator.
#[derive(Debug)]
pub struct DiskDu {
    config: Arc<Config>,
    walker: Walker,
}

impl DiskDu {
    /// Starts the thread that walks; it ends with the isolator and its handles.
    ///
    /// # Errors
    /// There is no room for a thread.
    pub fn new(config: Config) -> Result<DiskDu, IsolatorError> {
        let (messages, inbox) = channel();
        let scheduler = Scheduler::new(config.watch_interval);
        std::thread::Builder::new()
            .name("disk-du".into())
            .spawn(move || run(&inbox, scheduler))
            .map_err(|e| IsolatorError::new(NAME, "start", "the thread that walks", e))?;
        let walker = Walker { messages, keys: Arc::default() };
        Ok(DiskDu { config: Arc::new(config), walker })
    }

    fn handle(&self, context: &Arc<ContainerContext>) -> Handle {
        let book = Book {
            sandbox: context.sandbox.clone(),
            ephemeral: context.ephemeral_volumes.clone(),
            enforce: self.config.enforce,
            entries: Vec::new(),
            watcher: None,
            hit: None,
        };
        Handle {
            context: Arc::clone(context),
            config: Arc::clone(&self.config),
            walker: self.walker.clone(),
            book: Arc::new(Mutex::new(book)),
        }
    }
}

#[async_trait]
impl Isolator for DiskDu {
    fn about(&self) -> About {
        About { name: NAME, nesting: false, standalone: true }
    }

    fn attach(&self, context: &Arc<ContainerContext>) -> Box<dyn Isolation> {
        Box::new(self.handle(context))
    }

    async fn recover(&self, known: &[Known]) -> Result<Recovered, IsolatorError> {
        let handle = |known: &Known| -> Box<dyn Isolation> {
            let handle = self.handle(&known.context);
            if known.pid.is_some() {
                handle.apply(&known.context.requests);
            }
            Box::new(handle)
        };
        Ok(Recovered { handles: known.iter().map(handle).collect(), leftovers: Vec::new() })
    }
}

/// The door to the thread.
#[derive(Debug, Clone)]
struct Walker {
    messages: Sender<Message>,
    keys: Arc<AtomicU64>,
}

#[derive(Debug)]
enum Message {
    Watch(Key, Arc<Mutex<Book>>),
    Forget(Key),
}

impl Walker {
    fn send(&self, message: Message) {
        // Refused only when the thread has ended with the process.
        let _ = self.messages.send(message);
    }
}

/// What is known of one container's disk.
#[derive(Debug)]
struct Book {
    sandbox: PathBuf,
    /// Directories outside the sandbox that share its quota.
    ephemeral: Vec<PathBuf>,
    enforce: bool,
    entries: Vec<Entry>,
    watcher: Option<oneshot::Sender<Limitation>>,
    /// The first limit that was exceeded.
    hit: Option<Limitation>,
}

/// One directory.
#[derive(Debug)]
struct Entry {
    key: Key,
    path: PathBuf,
    account: Account,
    used: Option<u64>,
}

fn open(book: &Mutex<Book>) -> MutexGuard<'_, Book> {
    // A figure is changed in one step or not at all.
    book.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Book {
    /// Where to walk, and what to leave out.
    fn task(&self, key: Key) -> Option<(PathBuf, Vec<PathBuf>)> {
        let entry = self.entries.iter().find(|entry| entry.key == key)?;
        if entry.account.volume.is_some() {
            return Some((entry.path.clone(), Vec::new()));
        }
        let volumes = self.entries.iter().map(|entry| Path::new(entry.account.container_path()));
        let below = volumes.filter(|path| path.is_relative() && !path.as_os_str().is_empty());
        Some((entry.path.clone(), below.map(Path::to_owned).collect()))
    }

    /// Bytes of sandbox and ephemeral volumes together; `None` before the first.
    fn sandbox_used(&self) -> Option<u64> {
        let own = self.entries.iter().filter(|entry| entry.account.volume.is_none());
        own.filter_map(|entry| entry.used).reduce(u64::saturating_add)
    }

    fn measured(&mut self, key: Key, bytes: u64) {
        let Some(entry) = self.entries.iter_mut().find(|entry| entry.key == key) else { return };
        entry.used = Some(bytes);
        let account = entry.account.clone();
        let used = match account.volume {
            None => self.sandbox_used().unwrap_or(bytes),
            Some(_) => bytes,
        };
        if !self.enforce || account.is_mount() || used <= account.quota() {
            return;
        }
        let limitation = account.exceeded(used);
        if let Some(watcher) = self.watcher.take() {
            let _ = watcher.send(limitation.clone());
        }
        self.hit.get_or_insert(limitation);
    }

    fn fill(&self, statistics: &mut ResourceStatistics) {
        let volumes = self.entries.iter().filter(|entry| entry.account.volume.is_some());
        let lines = volumes.map(|entry| entry.account.statistics(entry.used));
        statistics.disk_statistics.extend(lines);
        if let Some(own) = self.entries.iter().find(|entry| entry.account.volume.is_none()) {
            // compat: zero until it was measured.
            let used = Some(self.sandbox_used().unwrap_or(0));
            statistics.disk_used_bytes = used;
            statistics.disk_limit_bytes = Some(own.account.quota());
            statistics.disk_statistics.push(own.account.statistics(used));
        }
    }
}

/// One container.
#[derive(Debug)]
struct Handle {
    context: Arc<ContainerContext>,
    config: Arc<Config>,
    walker: Walker,
    book: Arc<Mutex<Book>>,
}

impl Handle {
    /// Every directory to measure, with its quota.
    fn wanted(&self, requests: &[Resource]) -> BTreeMap<PathBuf, Account> {
        let mut all = BTreeMap::new();
        for account in accounts(requests) {
            let Some(resource) = account.resources.first() else { continue };
            if account.volume.is_none() {
                let book = open(&self.book);
                for path in book.ephemeral.iter().chain([&book.sandbox]) {
                    all.insert(path.clone(), account.clone());
                }
                continue;
            }
            let host = (self.config.volume)(&self.config.work_dir, resource);
            let seen = || self.context.sandbox.join(account.container_path());
            all.insert(host.unwrap_or_else(seen), account);
        }
        all
    }

    fn apply(&self, requests: &[Resource]) {
        let mut wanted = self.wanted(requests);
        let mut book = open(&self.book);
        book.entries.retain_mut(|entry| match wanted.remove(&entry.path) {
            Some(account) => {
                entry.account = account;
                true
            }
            None => {
                self.walker.send(Message::Forget(entry.key));
                false
            }
        });
        for (path, account) in wanted {
            let key = self.walker.keys.fetch_add(1, Ordering::Relaxed);
            book.entries.push(Entry { key, path, account, used: None });
            self.walker.send(Message::Watch(key, Arc::clone(&self.book)));
        }
    }
}

#[async_trait]
impl Isolation for Handle {
    async fn prepare(&mut self) -> Result<Contribution, IsolatorError> {
        self.apply(&self.context.requests);
        Ok(Contribution::default())
    }

    fn watch(&mut self) -> Option<Watch> {
        let mut book = open(&self.book);
        if !book.enforce {
            return None;
        }
        let (watcher, watch) = oneshot::channel();
        match book.hit.clone() {
            // Measured before anybody watched.
            Some(hit) => drop(watcher.send(hit)),
            None => book.watcher = Some(watcher),
        }
        Some(watch)
    }

    async fn update(
        &mut self,
        requests: &[Resource],
        _limits: &BTreeMap<String, f64>,
    ) -> Result<(), IsolatorError> {
        self.apply(requests);
        Ok(())
    }

    fn probes(&mut self) -> Vec<Box<dyn Probe>> {
        vec![Box::new(Figures(Arc::clone(&self.book)))]
    }

    fn ended(&mut self) -> Option<Limitation> {
        open(&self.book).hit.clone()
    }

    async fn cleanup(&mut self) -> Result<(), IsolatorError> {
        self.apply(&[]);
        Ok(())
    }
}

/// Reads the book: the walking is done elsewhere.
#[derive(Debug)]
struct Figures(Arc<Mutex<Book>>);

impl Probe for Figures {
    fn source(&self) -> &'static str {
        NAME
    }

    fn sample(
        &mut self,
        _buffer: &mut Vec<u8>,
        statistics: &mut ResourceStatistics,
    ) -> Result<(), IsolatorError> {
        open(&self.0).fill(statistics);
        Ok(())
    }
}

/// A directory as the thread sees it.
struct Job {
    book: Arc<Mutex<Book>>,
    walk: Option<Walk>,
    /// Its last walk failed, and that was said.
    complained: bool,
}

fn run(inbox: &Receiver<Message>, mut scheduler: Scheduler) {
    sched::background();
    let mut jobs: HashMap<Key, Job> = HashMap::new();
    let mut event = Event::Tick;
    let mut spent = sched::thread_time();
    loop {
        let action = scheduler.handle(Instant::now(), event);
        let message = match action {
            Action::Wait(None) => inbox.recv().map_err(|_| RecvTimeoutError::Disconnected),
            Action::Wait(Some(time)) => inbox.recv_timeout(time),
            Action::Work(_) => inbox.try_recv().map_err(|error| match error {
                TryRecvError::Empty => RecvTimeoutError::Timeout,
                TryRecvError::Disconnected => RecvTimeoutError::Disconnected,
            }),
        };
        event = match (message, action) {
            (Err(RecvTimeoutError::Disconnected), _) => return,
            (Ok(Message::Watch(key, book)), _) => {
                jobs.insert(key, Job { book, walk: None, complained: false });
                Event::Watch(key)
            }
            (Ok(Message::Forget(key)), _) => {
                jobs.remove(&key);
                Event::Forget(key)
            }
            (Err(RecvTimeoutError::Timeout), Action::Work(key)) => match jobs.get_mut(&key) {
                Some(job) => {
                    let over = work(key, job);
                    // All that this thread did since the last slice counts.
                    let total = sched::thread_time();
                    let took = total.saturating_sub(spent);
                    spent = total;
                    Event::Worked { key, took, over }
                }
                None => Event::Forget(key),
            },
            (Err(RecvTimeoutError::Timeout), Action::Wait(_)) => Event::Tick,
        };
    }
}

/// Walks a slice; whether the walk is over.
fn work(key: Key, job: &mut Job) -> bool {
    match step(key, job) {
        Ok(over) => {
            job.complained &= !over;
            over
        }
        Err(error) => {
            let source = &error.source;
            match job.complained || source.kind() == std::io::ErrorKind::NotFound {
                true => debug!(%error, %source, "disk usage is not known"),
                false => warn!(%error, %source, "disk usage is not known"),
            }
            (job.complained, job.walk) = (true, None);
            true
        }
    }
}

fn step(key: Key, job: &mut Job) -> Result<bool, kernel::Error> {
    if job.walk.is_none() {
        let Some((path, excluded)) = open(&job.book).task(key) else { return Ok(true) };
        job.walk = Some(Walk::open(&path, &excluded)?);
    }
    let Some(walk) = &mut job.walk else { return Ok(true) };
    if walk.step(SLICE, &mut |_, _, _| {})? == Progress::More {
        return Ok(false);
    }
    let bytes = walk.bytes();
    job.walk = None;
    open(&job.book).measured(key, bytes);
    Ok(true)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::time::Duration;

    use mesos::resource::disk_info::source;
    use mesos::task_status::Reason;

    use super::super::tests::volume;
    use super::*;
    use crate::quantity::scalar;
    use crate::suite::context;

    struct Sandbox(PathBuf);

    impl Sandbox {
        fn new(name: &str) -> Sandbox {
            let path = std::env::temp_dir().join(format!("du-{name}-{}", std::process::id()));
            let _ = fs::remove_dir_all(&path);
            fs::create_dir_all(&path).expect("a directory");
            Sandbox(path)
        }

        fn write(&self, name: &str, megabytes: usize) {
            let path = self.0.join(name);
            fs::create_dir_all(path.parent().expect("a parent")).expect("dirs");
            fs::write(path, vec![1; megabytes << 20]).expect("write");
        }

        fn handle(&self, enforce: bool, requests: &[Resource]) -> Handle {
            let config =
                Config { enforce, watch_interval: Duration::from_millis(5), ..Config::default() };
            let isolator = DiskDu::new(config).expect("a thread");
            let context = ContainerContext {
                sandbox: self.0.clone(),
                requests: requests.to_vec(),
                ephemeral_volumes: vec![self.0.with_extension("upper")],
                ..context("a")
            };
            isolator.handle(&Arc::new(context))
        }
    }

    impl Drop for Sandbox {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
            let _ = fs::remove_dir_all(self.0.with_extension("upper"));
        }
    }

    fn figures(handle: &mut Handle) -> ResourceStatistics {
        let mut statistics = ResourceStatistics::default();
        let mut probes = handle.probes();
        probes[0].sample(&mut Vec::new(), &mut statistics).expect("a sample");
        statistics
    }

    /// Figures as soon as everything is measured and `enough`.
    fn wait(
        handle: &mut Handle,
        enough: impl Fn(&ResourceStatistics) -> bool,
    ) -> ResourceStatistics {
        let start = Instant::now();
        loop {
            let statistics = figures(handle);
            if enough(&statistics) {
                return statistics;
            }
            assert!(start.elapsed() < Duration::from_secs(20), "{statistics:?}");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    #[tokio::test]
    async fn volumes_have_their_own_accounts() {
        let sandbox = Sandbox::new("accounts");
        sandbox.write("file", 2);
        sandbox.write("data/file", 5);
        fs::create_dir_all(sandbox.0.with_extension("upper")).expect("dir");
        fs::write(sandbox.0.with_extension("upper").join("f"), vec![1; 1 << 20]).expect("write");
        let all = [scalar("disk", 64.0), volume("v", "data", 8.0, None)];
        let mut handle = sandbox.handle(false, &all);
        handle.prepare().await.expect("prepare");
        assert!(handle.watch().is_none(), "nothing is enforced");
        let megabytes = |bytes: Option<u64>| bytes.unwrap_or(0) >> 20;
        let s = wait(&mut handle, |s| {
            megabytes(s.disk_used_bytes) == 3 && s.disk_statistics[0].used_bytes.is_some()
        });
        assert_eq!(s.disk_limit_bytes, Some(64 << 20));
        let lines: Vec<_> = s
            .disk_statistics
            .iter()
            .map(|d| (megabytes(d.limit_bytes), megabytes(d.used_bytes), d.persistence.is_some()))
            .collect();
        assert_eq!(lines, [(8, 5, true), (64, 3, false)]);
        // The volume goes: its directory is the sandbox's.
        handle.update(&all[..1], &BTreeMap::new()).await.expect("update");
        let s = wait(&mut handle, |s| megabytes(s.disk_used_bytes) == 8);
        assert_eq!(s.disk_statistics.len(), 1);
        handle.cleanup().await.expect("cleanup");
        handle.cleanup().await.expect("twice");
        assert_eq!(figures(&mut handle), ResourceStatistics::default());
    }

    #[tokio::test]
    async fn an_exceeded_quota_is_a_limitation() {
        let sandbox = Sandbox::new("quota");
        let mut handle = sandbox.handle(true, &[scalar("disk", 4.0)]);
        handle.prepare().await.expect("prepare");
        let watch = handle.watch().expect("a watch");
        sandbox.write("file", 2);
        wait(&mut handle, |s| s.disk_used_bytes > Some(2 << 20));
        assert!(handle.ended().is_none());
        sandbox.write("more", 3);
        let limitation = tokio::time::timeout(Duration::from_secs(20), watch).await;
        let limitation = limitation.expect("in time").expect("a limitation");
        assert_eq!(limitation.reason, Reason::ContainerLimitationDisk);
        // It may be seen while the second file is being written.
        assert!(limitation.message.ends_with("exceeds quota (4MB)"), "{}", limitation.message);
        assert_eq!(handle.ended(), Some(limitation));
        // Whoever watches later hears of it too.
        assert!(handle.watch().expect("a watch").await.is_ok());
    }

    #[tokio::test]
    async fn a_disk_of_its_own_limits_itself() {
        let sandbox = Sandbox::new("mount");
        sandbox.write("data/file", 3);
        let mount = volume("v", "data", 1.0, Some(source::Type::Mount));
        let mut handle = sandbox.handle(true, &[mount]);
        handle.prepare().await.expect("prepare");
        let s = wait(&mut handle, |s| s.disk_statistics[0].used_bytes > Some(3 << 20));
        assert_eq!(s.disk_used_bytes, None);
        assert!(handle.ended().is_none());
    }
}
