//! `bulkhead local`: a master and an agent on this machine, gone afterwards.
//!
//! Starts the two programs as children with flags an operator could have typed,
//! waits until the agent is registered, and on Ctrl-C (or SIGTERM) stops them:
//! the agent with SIGUSR1, so that it ends its tasks, then the master. When this command
//! is itself killed, the kernel sends them the same signals. Whatever
//! is left of its own cgroup root, mounts and directories is removed.

use std::fs::File;
use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{ExitCode, Stdio};
use std::time::Duration;

use clap::Args;
use kernel::cgroup::{Cgroup, Hierarchies};
use kernel::pidfd::Pidfd;
use serde_json::json;
use tokio::process::{Child, Command};
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::{Instant, sleep, timeout};

use super::api::Api;
use super::error::CliError;
use super::output::Output;
use super::task;

/// Arguments of `bulkhead local`.
#[derive(Debug, Args)]
pub struct LocalArgs {
    /// Port of the master [default: 5050, or a free one]
    #[arg(long)]
    port: Option<u16>,
    /// Port of the agent [default: 5051, or a free one]
    #[arg(long)]
    agent_port: Option<u16>,
    /// Directory to keep everything in [default: a temporary one, removed at the end]
    #[arg(long)]
    work_dir: Option<PathBuf>,
    /// What the agent offers, e.g. `cpus:2;mem:1024` [default: what the machine has]
    #[arg(long)]
    resources: Option<String>,
    /// More flags for the master, e.g. --master-flag=--offer_timeout=10secs
    #[arg(long, value_name = "FLAG", allow_hyphen_values = true)]
    master_flag: Vec<String>,
    /// More flags for the agent, e.g. --agent-flag=--isolation=posix/cpu
    #[arg(long, value_name = "FLAG", allow_hyphen_values = true)]
    agent_flag: Vec<String>,
}

/// What a root user's agent uses; others get the posix launcher.
const ISOLATION: &str =
    "cgroups/cpu,cgroups/mem,cgroups/pids,namespaces/pid,namespaces/ipc,filesystem/linux";

/// Tells the agent to end its tasks and itself.
const SIGUSR1: i32 = 10;
const SIGTERM: i32 = 15;

/// How long a daemon may take to answer.
const START: u64 = 30;
/// How long the agent may take to end its tasks.
const STOP: Duration = Duration::from_secs(15);

/// Runs until told to stop.
pub async fn local(args: &LocalArgs, output: Output) -> Result<ExitCode, CliError> {
    let mut interrupt = stop_signal(SignalKind::interrupt())?;
    let mut terminate = stop_signal(SignalKind::terminate())?;
    let mut cluster = Cluster::plan(args)?;
    let started = tokio::select! {
        started = cluster.start(args) => started,
        _ = interrupt.recv() => Ok(false),
        _ = terminate.recv() => Ok(false),
    };
    let result = match started {
        Ok(true) => {
            cluster.announce(output);
            tokio::select! {
                _ = interrupt.recv() => Ok(()),
                _ = terminate.recv() => Ok(()),
                ended = cluster.ended() => Err(ended),
            }
        }
        Ok(false) => Ok(()),
        Err(error) => Err(error),
    };
    output.progress("stopping");
    // A log that an error points to must outlive the cluster.
    let cleaned = cluster.stop(result.is_err()).await;
    result.and(cleaned).map(|()| ExitCode::SUCCESS)
}

fn stop_signal(kind: SignalKind) -> Result<tokio::signal::unix::Signal, CliError> {
    signal(kind).map_err(|source| CliError::Io {
        verb: "watch",
        path: PathBuf::from("signals"),
        source,
    })
}

/// A daemon that was started.
#[derive(Debug)]
struct Daemon {
    program: &'static str,
    child: Child,
    log: PathBuf,
}

/// Everything this command makes.
#[derive(Debug)]
struct Cluster {
    dir: PathBuf,
    temporary: bool,
    cgroups_root: String,
    /// What was mounted before: an agent mounts v1 controllers that it misses.
    hierarchies: Hierarchies,
    master_port: u16,
    agent_port: u16,
    master: Option<Daemon>,
    agent: Option<Daemon>,
}

impl Cluster {
    fn plan(args: &LocalArgs) -> Result<Cluster, CliError> {
        let name = format!("bulkhead-local-{}", std::process::id());
        let temporary = args.work_dir.is_none();
        let dir = args.work_dir.clone().unwrap_or_else(|| std::env::temp_dir().join(&name));
        std::fs::create_dir_all(&dir).map_err(|e| io("create", &dir, e))?;
        let dir = dir.canonicalize().map_err(|e| io("find", &dir, e))?;
        let master_port = port(args.port, 5050)?;
        let agent_port = port(args.agent_port, 5051)?;
        Ok(Cluster {
            dir,
            temporary,
            cgroups_root: name,
            hierarchies: Hierarchies::detect().unwrap_or_default(),
            master_port,
            agent_port,
            master: None,
            agent: None,
        })
    }

    async fn start(&mut self, args: &LocalArgs) -> Result<bool, CliError> {
        let mut flags = vec![
            "--ip=127.0.0.1".to_owned(),
            "--hostname=127.0.0.1".to_owned(),
            format!("--port={}", self.master_port),
            format!("--work_dir={}", self.dir.join("master").display()),
        ];
        if self.temporary {
            flags.push("--registry=in_memory".to_owned());
        }
        flags.extend(args.master_flag.iter().cloned());
        self.master = Some(spawn("bulkhead-master", &flags, &self.dir, SIGTERM)?);
        let master = Api::new("master", &self.master_address());
        ready(self.master.as_mut(), async || master.get("/health").await.is_ok()).await?;

        let mut flags = vec![
            format!("--master={}", self.master_address()),
            "--ip=127.0.0.1".to_owned(),
            "--hostname=127.0.0.1".to_owned(),
            format!("--port={}", self.agent_port),
            format!("--work_dir={}", self.dir.join("agent").display()),
            format!("--runtime_dir={}", self.dir.join("run").display()),
            format!("--fetcher_cache_dir={}", self.dir.join("fetch").display()),
        ];
        if is_root() {
            flags.push("--launcher=linux".to_owned());
            flags.push(format!("--isolation={ISOLATION}"));
            flags.push(format!("--cgroups_root={}", self.cgroups_root));
        } else {
            flags.push("--launcher=posix".to_owned());
            flags.push("--isolation=posix/cpu,posix/mem".to_owned());
            flags.push("--no-switch_user".to_owned());
        }
        flags.extend(args.resources.iter().map(|r| format!("--resources={r}")));
        flags.extend(args.agent_flag.iter().cloned());
        self.agent = Some(spawn("bulkhead-agent", &flags, &self.dir, SIGUSR1)?);
        let registered = async || task::agents(&master).await.is_ok_and(|a| !a.is_empty());
        ready(self.agent.as_mut(), registered).await?;
        Ok(true)
    }

    fn master_address(&self) -> String {
        format!("127.0.0.1:{}", self.master_port)
    }

    fn announce(&self, output: Output) {
        let (master, agent) = (self.master_address(), format!("127.0.0.1:{}", self.agent_port));
        let pid = |d: &Option<Daemon>| d.as_ref().and_then(|d| d.child.id());
        let option =
            if self.master_port == 5050 { String::new() } else { format!(" --master={master}") };
        output.result(
            &json!({
                "master": master, "agent": agent, "dir": self.dir,
                "cgroups_root": self.cgroups_root,
                "master_pid": pid(&self.master), "agent_pid": pid(&self.agent),
            }),
            &format!(
                "master  http://{master}\nagent   http://{agent}\nfiles   {}\n\n\
                 Try     bulkhead run{option} -- echo hello\n\
                 Stop    Ctrl-C: ends all tasks{}",
                self.dir.display(),
                if self.temporary { " and removes the files" } else { "" },
            ),
        );
    }

    /// A daemon that ends on its own is an error.
    async fn ended(&mut self) -> CliError {
        let (Some(master), Some(agent)) = (&mut self.master, &mut self.agent) else {
            return CliError::Cleanup("nothing was started".to_owned());
        };
        let (program, status, log) = tokio::select! {
            status = master.child.wait() => (master.program, status, &master.log),
            status = agent.child.wait() => (agent.program, status, &agent.log),
        };
        let status = status.map_or_else(|e| e.to_string(), |s| s.to_string());
        CliError::Ended { program, status, log: log.clone() }
    }

    /// Stops both and removes what is ours; `keep_dir` keeps the logs.
    async fn stop(mut self, keep_dir: bool) -> Result<(), CliError> {
        let mut problems = Vec::new();
        if let Some(agent) = self.agent.take() {
            end(agent, SIGUSR1).await;
        }
        if let Some(master) = self.master.take() {
            end(master, SIGTERM).await;
        }
        let (root, before) = (self.cgroups_root.clone(), std::mem::take(&mut self.hierarchies));
        let swept = tokio::task::spawn_blocking(move || sweep_cgroups(&root, &before)).await;
        problems.extend(swept.unwrap_or_else(|e| vec![e.to_string()]));
        if self.temporary
            && !keep_dir
            && let Err(error) = std::fs::remove_dir_all(&self.dir)
        {
            problems.push(format!("failed to remove {}: {error}", self.dir.display()));
        }
        if problems.is_empty() { Ok(()) } else { Err(CliError::Cleanup(problems.join("; "))) }
    }
}

fn io(verb: &'static str, path: &Path, source: std::io::Error) -> CliError {
    CliError::Io { verb, path: path.to_owned(), source }
}

/// The given port, else the usual one, else a free one.
fn port(given: Option<u16>, usual: u16) -> Result<u16, CliError> {
    let bind = |port| TcpListener::bind((Ipv4Addr::LOCALHOST, port));
    if let Some(port) = given {
        let path = PathBuf::from(format!("127.0.0.1:{port}"));
        return bind(port).map(|_| port).map_err(|e| io("listen on", &path, e));
    }
    let listener = bind(usual).or_else(|_| bind(0));
    listener
        .and_then(|l| l.local_addr())
        .map(|address| address.port())
        .map_err(|e| io("listen on", Path::new("127.0.0.1"), e))
}

fn is_root() -> bool {
    std::fs::metadata("/proc/self").is_ok_and(|m| std::os::unix::fs::MetadataExt::uid(&m) == 0)
}

/// Starts a program that stands beside this one, else in PATH; its log is a file.
fn spawn(
    program: &'static str,
    flags: &[String],
    dir: &Path,
    orphaned: i32,
) -> Result<Daemon, CliError> {
    let beside = std::env::current_exe()
        .ok()
        .and_then(|exe| Some(exe.parent()?.join(program)))
        .filter(|path| path.is_file());
    let path = beside.unwrap_or_else(|| PathBuf::from(program));
    let log = dir.join(format!("{program}.log"));
    let file = File::create(&log).map_err(|e| io("create", &log, e))?;
    let copy = file.try_clone().map_err(|e| io("create", &log, e))?;
    let mut command = std::process::Command::new(&path);
    // If we are killed, too: the agent ends its tasks then, the master just ends.
    kernel::spawn::die_with_parent(&mut command, orphaned);
    let child = Command::from(command)
        .args(flags)
        .stdin(Stdio::null())
        .stdout(file)
        .stderr(copy)
        // Ctrl-C is for us: we stop them in order.
        .process_group(0)
        .kill_on_drop(true)
        .spawn()
        .map_err(|e| io("start", &path, e))?;
    Ok(Daemon { program, child, log })
}

/// Waits until `check` holds; fails when the program ends or time is up.
async fn ready(daemon: Option<&mut Daemon>, check: impl AsyncFn() -> bool) -> Result<(), CliError> {
    let Some(daemon) = daemon else { return Ok(()) };
    let by = Instant::now() + Duration::from_secs(START);
    let (program, log) = (daemon.program, daemon.log.clone());
    while !check().await {
        if let Ok(Some(status)) = daemon.child.try_wait() {
            return Err(CliError::Ended { program, status: status.to_string(), log });
        }
        if Instant::now() > by {
            return Err(CliError::NotReady { program, seconds: START, log });
        }
        sleep(Duration::from_millis(50)).await;
    }
    Ok(())
}

/// Asks a daemon to end, then insists.
async fn end(mut daemon: Daemon, with: i32) {
    if let Some(pid) = daemon.child.id()
        && let Ok(process) = Pidfd::open(pid)
    {
        // It may have ended already.
        let _ = process.signal(with);
    }
    if timeout(STOP, daemon.child.wait()).await.is_err() {
        let _ = daemon.child.kill().await;
    }
}

/// Kills and removes everything below our cgroup root, in every hierarchy, and
/// unmounts those that our agent has mounted.
fn sweep_cgroups(root: &str, before: &Hierarchies) -> Vec<String> {
    let limit = Duration::from_secs(5);
    let Ok(hierarchies) = Hierarchies::detect() else { return Vec::new() };
    let mut problems = Vec::new();
    for hierarchy in hierarchies.all() {
        let group = Cgroup::new(hierarchy.version, hierarchy.mount.join(root));
        if !group.exists() {
            continue;
        }
        if let Err(error) = group.kill(limit).and_then(|()| group.remove(limit)) {
            problems.push(error.to_string());
        }
    }
    problems.extend(hierarchies.unmount_new(before).iter().map(ToString::to_string));
    problems
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_taken_port_is_an_error_only_when_asked_for() {
        let taken = TcpListener::bind("127.0.0.1:0").unwrap();
        let number = taken.local_addr().unwrap().port();
        assert!(port(Some(number), 1).is_err());
        assert_ne!(port(None, number).unwrap(), number);
    }
}
