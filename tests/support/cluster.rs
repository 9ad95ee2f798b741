//! A master and an agent of the built programs, for tests from outside.
//!
//! Each cluster has its own directory, ports and cgroup root; dropping it ends
//! both daemons and every container and removes all of that.

#![allow(dead_code, reason = "every test program uses its own part")]

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use kernel::cgroup::{Cgroup, Hierarchies};

use crate::support::TempDir;
pub use crate::support::free_port;

/// How a cluster is started.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// More flags of the master; later ones win.
    pub master: Vec<String>,
    /// More flags of the agent; later ones win.
    pub agent: Vec<String>,
    /// Work dir of the agent, if not in the cluster's directory.
    pub agent_work_dir: Option<PathBuf>,
    /// Whether the master keeps its registry on disk.
    pub durable: bool,
}

impl Options {
    /// With more agent flags.
    #[must_use]
    pub fn agent(mut self, flags: &[&str]) -> Self {
        self.agent.extend(flags.iter().map(|f| (*f).to_owned()));
        self
    }

    /// With more master flags.
    #[must_use]
    pub fn master(mut self, flags: &[&str]) -> Self {
        self.master.extend(flags.iter().map(|f| (*f).to_owned()));
        self
    }
}

/// A running cluster.
#[derive(Debug)]
pub struct Cluster {
    /// Everything it writes.
    pub dir: TempDir,
    /// `127.0.0.1:port` of the master.
    pub master: String,
    /// `127.0.0.1:port` of the agent.
    pub agent: String,
    /// Name of the agent's cgroup below each hierarchy.
    pub cgroups_root: String,
    /// The failpoint that the next agent dies at.
    pub failpoint: Option<&'static str>,
    options: Options,
    master_child: Option<Child>,
    agent_child: Option<Child>,
}

/// How long a daemon may take to be ready.
const READY: Duration = Duration::from_secs(60);

impl Cluster {
    /// Starts both and waits until the agent is registered.
    ///
    /// # Panics
    /// When they do not start; the message carries their logs.
    #[must_use]
    pub fn start(name: &str, options: Options) -> Self {
        let mut cluster = Self::master_only(name, options);
        cluster.start_agent();
        cluster
    }

    /// Starts only the master.
    ///
    /// # Panics
    /// When it does not start.
    #[must_use]
    pub fn master_only(name: &str, options: Options) -> Self {
        let dir = TempDir::new(name);
        let cgroups_root = format!("bulkhead-{name}-{}", std::process::id());
        let mut cluster = Self {
            dir,
            master: format!("127.0.0.1:{}", free_port()),
            agent: format!("127.0.0.1:{}", free_port()),
            cgroups_root,
            failpoint: None,
            options,
            master_child: None,
            agent_child: None,
        };
        cluster.start_master();
        cluster
    }

    /// Starts the master again, on the same port and directory.
    ///
    /// # Panics
    /// When it does not start.
    pub fn start_master(&mut self) {
        let mut flags = vec![
            "--ip=127.0.0.1".to_owned(),
            "--hostname=127.0.0.1".to_owned(),
            format!("--port={}", port_of(&self.master)),
            format!("--work_dir={}", self.dir.path().join("master").display()),
        ];
        if !self.options.durable {
            flags.push("--registry=in_memory".to_owned());
        }
        replace(&mut flags, &self.options.master);
        self.master_child = Some(self.spawn("bulkhead-master", &flags, None));
        self.wait("the master", |c| get(&c.master, "/health").is_some());
    }

    /// Starts the agent (again) and waits until it is registered.
    ///
    /// # Panics
    /// When it does not register.
    pub fn start_agent(&mut self) {
        self.spawn_agent();
        self.wait("the agent", Self::registered);
    }

    /// Whether the agent answers, and the master has one.
    #[must_use]
    pub fn registered(&self) -> bool {
        get(&self.agent, "/health").is_some()
            && get(&self.master, "/slaves").is_some_and(|s| s.contains("\"active\":true"))
    }

    /// Starts the agent and does not wait.
    pub fn spawn_agent(&mut self) {
        let dir = self.dir.path();
        let work = self.options.agent_work_dir.clone().unwrap_or_else(|| dir.join("agent"));
        let mut flags = vec![
            format!("--master={}", self.master),
            "--ip=127.0.0.1".to_owned(),
            "--hostname=127.0.0.1".to_owned(),
            format!("--port={}", port_of(&self.agent)),
            format!("--work_dir={}", work.display()),
            format!("--runtime_dir={}", dir.join("run").display()),
            format!("--fetcher_cache_dir={}", dir.join("fetch").display()),
            "--launcher=linux".to_owned(),
            "--isolation=cgroups/cpu,cgroups/mem,cgroups/pids,namespaces/pid,filesystem/linux"
                .to_owned(),
            format!("--cgroups_root={}", self.cgroups_root),
            "--resources=cpus:64;mem:16384;disk:16384;ports:[31000-32000]".to_owned(),
            // The disk of whoever runs the tests may be nearly full.
            "--gc_disk_headroom=0".to_owned(),
        ];
        replace(&mut flags, &self.options.agent);
        self.agent_child = Some(self.spawn("bulkhead-agent", &flags, self.failpoint));
    }

    fn spawn(&self, program: &str, flags: &[String], failpoint: Option<&str>) -> Child {
        let log = std::fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(self.log(program))
            .expect("open the log");
        Command::new(binary(program))
            .args(flags)
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("RUST_BACKTRACE", "1")
            .envs(failpoint.map(|point| ("BULKHEAD_FAILPOINT", point)))
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("copy a descriptor"))
            .stderr(log)
            .spawn()
            .unwrap_or_else(|e| panic!("failed to start {program}: {e}"))
    }

    fn log(&self, program: &str) -> PathBuf {
        self.dir.path().join(format!("{program}.log"))
    }

    /// Where a command task runs; also while the agent is away.
    #[must_use]
    pub fn sandbox(&self, task: &str) -> PathBuf {
        let mut dirs = vec![self.dir.path().join("agent/slaves")];
        while let Some(dir) = dirs.pop() {
            if dir.ends_with(format!("executors/{task}")) {
                return dir.join("runs/latest");
            }
            let entries = std::fs::read_dir(&dir).into_iter().flatten().flatten();
            dirs.extend(
                entries.filter(|e| e.file_type().is_ok_and(|t| t.is_dir())).map(|e| e.path()),
            );
        }
        panic!("task {task} has no sandbox");
    }

    /// The end of both logs.
    #[must_use]
    pub fn logs(&self) -> String {
        ["bulkhead-master", "bulkhead-agent"]
            .iter()
            .map(|program| {
                let text = std::fs::read(self.log(program)).unwrap_or_default();
                let text = String::from_utf8_lossy(&text[text.len().saturating_sub(6000)..]);
                format!("-- {program}\n{text}\n")
            })
            .collect()
    }

    fn wait(&mut self, what: &str, ready: impl Fn(&Self) -> bool) {
        let by = Instant::now() + READY;
        while !ready(self) {
            let ended = |child: &mut Option<Child>| {
                child.as_mut().and_then(|c| c.try_wait().ok().flatten()).is_some()
            };
            let dead = ended(&mut self.master_child) || ended(&mut self.agent_child);
            assert!(!dead && Instant::now() < by, "{what} did not become ready\n{}", self.logs());
            std::thread::sleep(Duration::from_millis(30));
        }
    }

    /// The first process of an executor's container, once `/containers` tells it.
    #[must_use]
    pub fn executor_pid(&self, executor: &str) -> Option<u32> {
        let list: serde_json::Value =
            serde_json::from_str(&get(&self.agent, "/containers")?).ok()?;
        let own = list.as_array()?.iter().find(|c| c["executor_id"] == executor)?;
        u32::try_from(own["status"]["executor_pid"].as_u64()?).ok()
    }

    /// Whether both daemons still run.
    #[must_use]
    pub fn alive(&mut self) -> bool {
        let runs = |child: &mut Option<Child>| {
            child.as_mut().is_none_or(|c| c.try_wait().is_ok_and(|s| s.is_none()))
        };
        runs(&mut self.master_child) && runs(&mut self.agent_child)
    }

    /// How the agent ended, if it has.
    pub fn agent_ended(&mut self) -> Option<std::process::ExitStatus> {
        self.agent_child.as_mut().and_then(|child| child.try_wait().ok().flatten())
    }

    /// Other flags for the next agent; later ones win.
    pub fn agent_flags(&mut self, flags: &[&str]) {
        let flags: Vec<String> = flags.iter().map(|f| (*f).to_owned()).collect();
        replace(&mut self.options.agent, &flags);
    }

    /// What an agent leaves behind that has no container: cgroups, mounts,
    /// processes and files of the runtime directory.
    #[must_use]
    pub fn leftovers(&self) -> Vec<String> {
        let mut left = Vec::new();
        for group in self.cgroups() {
            let inner = group.tree().into_iter().filter(|g| g.path() != group.path());
            left.extend(inner.map(|g| format!("cgroup {}", g.path().display())));
        }
        let dir = self.dir.path();
        let mounts = kernel::mounts::table().expect("the mount table");
        let below = kernel::mounts::below(&mounts, dir);
        left.extend(below.iter().map(|m| format!("mount {}", m.target.display())));
        let daemons = [self.agent_pid(), self.master_pid()];
        for entry in std::fs::read_dir("/proc").expect("/proc").flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            let Ok(pid) = name.parse::<u32>() else { continue };
            let inside =
                |link: PathBuf| std::fs::read_link(link).is_ok_and(|to| to.starts_with(dir));
            let open = std::fs::read_dir(entry.path().join("fd")).into_iter().flatten().flatten();
            let ours =
                inside(entry.path().join("cwd")) || open.into_iter().any(|fd| inside(fd.path()));
            if ours && !daemons.contains(&pid) && pid != std::process::id() {
                let line = std::fs::read_to_string(entry.path().join("stat")).unwrap_or_default();
                left.push(format!("process {line}"));
            }
        }
        let runtime = std::fs::read_dir(dir.join("run/containers")).into_iter().flatten().flatten();
        left.extend(runtime.map(|entry| format!("file {}", entry.path().display())));
        left
    }

    /// Waits until nothing is left of any container.
    ///
    /// # Panics
    /// When something stays.
    pub fn wait_clean(&self) {
        let by = Instant::now() + READY;
        loop {
            let left = self.leftovers();
            if left.is_empty() {
                return;
            }
            assert!(Instant::now() < by, "left behind: {left:#?}\n{}", self.logs());
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Daemons that are started from now on get these options.
    pub fn change(&mut self, options: Options) {
        self.options = options;
    }

    /// Starts the agent again, waits until it has ended by itself and returns the
    /// end of the logs.
    ///
    /// # Panics
    /// When it does not end.
    pub fn failing_agent(&mut self) -> String {
        self.spawn_agent();
        self.agent_ends()
    }

    /// Waits until the agent has ended by itself; returns the end of the logs.
    ///
    /// # Panics
    /// When it does not end.
    pub fn agent_ends(&mut self) -> String {
        let by = Instant::now() + READY;
        while self.agent_child.as_mut().is_some_and(|c| c.try_wait().is_ok_and(|s| s.is_none())) {
            assert!(Instant::now() < by, "the agent goes on\n{}", self.logs());
            std::thread::sleep(Duration::from_millis(30));
        }
        self.agent_child = None;
        self.logs()
    }

    /// Pid of the agent.
    #[must_use]
    pub fn agent_pid(&self) -> u32 {
        self.agent_child.as_ref().map_or(0, Child::id)
    }

    /// Pid of the master.
    #[must_use]
    pub fn master_pid(&self) -> u32 {
        self.master_child.as_ref().map_or(0, Child::id)
    }

    /// `kill -9` of the agent.
    pub fn kill_agent(&mut self) {
        if let Some(mut child) = self.agent_child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// `kill -9` of the master.
    pub fn kill_master(&mut self) {
        if let Some(mut child) = self.master_child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// The agent's cgroup directories, in every hierarchy that has one.
    #[must_use]
    pub fn cgroups(&self) -> Vec<Cgroup> {
        let Ok(hierarchies) = Hierarchies::detect() else { return Vec::new() };
        hierarchies
            .all()
            .iter()
            .map(|h| Cgroup::new(h.version, h.mount.join(&self.cgroups_root)))
            .filter(Cgroup::exists)
            .collect()
    }

    /// Ends daemons and containers; returns what had to be swept away.
    pub fn stop(&mut self) -> Vec<String> {
        if let Some(child) = self.agent_child.take() {
            end(child, "-USR1");
        }
        if let Some(child) = self.master_child.take() {
            end(child, "-TERM");
        }
        let mut left = Vec::new();
        for group in self.cgroups() {
            for inner in group.tree() {
                if inner.path() != group.path() {
                    left.push(inner.path().display().to_string());
                }
            }
            let limit = Duration::from_secs(10);
            let _ = group.kill(limit).and_then(|()| group.remove(limit));
        }
        left
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{}", self.logs());
        }
        self.stop();
        let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap_or_default();
        let dir = self.dir.path().display().to_string();
        for point in mounts.lines().rev().filter_map(|l| l.split(' ').nth(1)) {
            if Path::new(point).starts_with(&dir) {
                let _ = Command::new("umount").args(["-l", point]).status();
            }
        }
    }
}

/// Adds flags; one of the same name makes room.
fn replace(flags: &mut Vec<String>, more: &[String]) {
    for flag in more {
        let name = flag.split('=').next().unwrap_or(flag);
        flags.retain(|f| f.split('=').next() != Some(name));
        flags.push(flag.clone());
    }
}

fn end(mut child: Child, signal: &str) {
    let _ = Command::new("kill").args([signal, &child.id().to_string()]).status();
    let by = Instant::now() + Duration::from_secs(20);
    while child.try_wait().is_ok_and(|s| s.is_none()) && Instant::now() < by {
        std::thread::sleep(Duration::from_millis(20));
    }
    let _ = child.kill();
    let _ = child.wait();
}

/// A program of this build: beside the directory of the test programs.
///
/// # Panics
/// When the test program's own path is unknown.
#[must_use]
pub fn binary(program: &str) -> PathBuf {
    let own = std::env::current_exe().expect("own path");
    let dir = own.parent().and_then(Path::parent).expect("target/PROFILE/deps/program");
    dir.join(program)
}

fn port_of(address: &str) -> &str {
    address.rsplit(':').next().unwrap_or("")
}

/// Body of a successful GET, over a connection of its own.
#[must_use]
pub fn get(address: &str, path: &str) -> Option<String> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().ok()?;
    let path = path.to_owned();
    let address = address.to_owned();
    // A thread of its own: callers may be inside a runtime.
    std::thread::spawn(move || {
        runtime.block_on(async {
            let client = bulkhead::wire::client::Client::new(address);
            let client = client.timeout(Duration::from_secs(10));
            let reply = client.call(bulkhead::wire::client::Call::get(&path)).await.ok()?;
            reply.status.is_success().then(|| reply.text())
        })
    })
    .join()
    .ok()?
}
