//! The one task that owns a container, from launch to end.
//!
//! ```text
//! PROVISIONING -> PREPARING -> FETCHING -> ISOLATING -> RUNNING
//!       |             |            |           |           |
//!       +-------------+------------+-----------+-----------+--> DESTROYING -> (ended)
//! ```
//!
//! Mesos fetches after it isolates, because there the process exists and waits;
//! here everything that can fail comes before the process. A container is born
//! with all its isolators' handles and dies only through `finish`, whatever it was
//! doing. What it does at birth is in `start`, its end in `finish`.

use std::collections::BTreeMap;
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use isolators::api::{ContainerContext, Isolation, Limitation, Watch};
use isolators::runtime::users::Identity;
use mesos::{ContainerId, ContainerInfo, ContainerStatus, Resource};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;
use tokio::time::{Sleep, sleep};
use tracing::{info, warn};

use super::Shared;
use super::image::Home;
use super::logs::Kept;
use crate::containerizer::request;
use crate::containerizer::runtime::ContainerDir;
use crate::containerizer::table::Failure;
use crate::containerizer::terminal::Terminal;
use crate::containerizer::{LaunchRequest, Progress, Termination, Trouble};
use crate::launch::{End, Running};

/// Mesos' container states.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    Provisioning,
    Preparing,
    Fetching,
    Isolating,
    Running,
    Destroying,
}

/// How long a container that is launched has the machine to itself before roots for the
/// next ones are made, which takes as long as the launch.
const SETTLING: Duration = Duration::from_millis(2);

/// What everybody may see of a container.
#[derive(Debug, Clone)]
pub(super) struct View {
    pub(super) phase: Phase,
    pub(super) pid: Option<u32>,
    /// What holds up its destruction, for as long as it does.
    pub(super) trouble: Option<Arc<Trouble>>,
    /// How far what it is launched with is.
    pub(super) progress: Option<Progress>,
    /// Who it is in its image, if the image says so.
    pub(super) identity: Option<Identity>,
    /// Its terminal, while it runs; not that of a guest.
    pub(super) terminal: Option<Arc<Terminal>>,
    /// Set once, last.
    pub(super) end: Option<Termination>,
}

impl View {
    pub(super) fn new(phase: Phase) -> View {
        View {
            phase,
            pid: None,
            trouble: None,
            progress: None,
            identity: None,
            terminal: None,
            end: None,
        }
    }
}

/// What a container may be told.
#[derive(Debug)]
pub(super) enum Command {
    Update {
        requests: Vec<Resource>,
        limits: BTreeMap<String, f64>,
        reply: oneshot::Sender<Result<(), String>>,
    },
    Status {
        reply: oneshot::Sender<ContainerStatus>,
    },
    Kill {
        signal: i32,
        /// Descendants too.
        all: bool,
        reply: oneshot::Sender<bool>,
    },
    Destroy(Option<Termination>),
}

/// Others' way to a container.
#[derive(Debug, Clone)]
pub(super) struct Door {
    pub(super) id: ContainerId,
    pub(super) commands: mpsc::Sender<Command>,
    pub(super) view: watch::Receiver<View>,
    /// What was asked of it, for guests.
    pub(super) info: Option<ContainerInfo>,
    /// Host path of its sandbox, for nested containers.
    pub(super) sandbox: std::path::PathBuf,
    /// It shares the agent's pid namespace.
    pub(super) host_pid_namespace: bool,
}

/// How the task begins.
#[derive(Debug)]
pub(super) enum Start {
    /// A new container.
    Launch(oneshot::Sender<Result<u32, Failure>>),
    /// Found running by recovery.
    Adopt(Running),
    /// Found ended by recovery, or to be destroyed; with what is known of it.
    Bury(Option<Running>, Cause),
}

/// Why a container ends.
#[derive(Debug)]
pub(super) enum Cause {
    /// By itself.
    Exited(Option<End>),
    /// It hit a limit.
    Limited(Limitation),
    /// It was told to.
    Destroyed(Option<Termination>),
    /// It could not be launched.
    Failed(Failure),
    /// The agent died before its command was executed: it may be launched again.
    NeverRan,
}

/// One isolator's handle.
#[derive(Debug)]
pub(super) struct Handle {
    pub(super) isolator: &'static str,
    pub(super) isolation: Box<dyn Isolation>,
}

/// The container.
pub(super) struct Container {
    pub(super) shared: Arc<Shared>,
    pub(super) key: String,
    /// Names it in the sampler.
    pub(super) slot: u64,
    pub(super) request: LaunchRequest,
    pub(super) context: Arc<ContainerContext>,
    pub(super) dir: ContainerDir,
    /// In table order.
    pub(super) handles: Vec<Handle>,
    /// If its root is an image's.
    pub(super) home: Option<Home>,
    /// Who its parent is in its image, if this is a guest.
    pub(super) host: Option<Identity>,
    pub(super) watches: Vec<Watch>,
    pub(super) running: Option<Running>,
    /// If its output goes through the logger.
    pub(super) pipes: Option<Kept>,
    /// Copies what is written to its terminal.
    pub(super) copying: Option<JoinHandle<()>>,
    pub(super) view: watch::Sender<View>,
    /// Until roots for others like it are to be made, if they are.
    pub(super) settling: Option<Pin<Box<Sleep>>>,
}

impl Container {
    /// The whole life.
    pub(super) async fn run(mut self, start: Start, mut commands: mpsc::Receiver<Command>) {
        match start {
            Start::Launch(reply) => self.live(reply, &mut commands).await,
            Start::Adopt(running) => {
                self.adopt_pipes();
                self.adopt_terminal(&running);
                self.adopt(running);
                let cause = self.serve(&mut commands).await;
                self.bury(cause, &mut commands).await;
            }
            Start::Bury(running, cause) => {
                self.adopt_pipes();
                if let Some(running) = &running {
                    self.adopt_terminal(running);
                }
                self.running = running;
                self.bury(cause, &mut commands).await;
            }
        }
    }

    async fn live(
        &mut self,
        reply: oneshot::Sender<Result<u32, Failure>>,
        commands: &mut mpsc::Receiver<Command>,
    ) {
        let mut early = Vec::new();
        let launching = self.shared.config.provisioner.as_ref().map(|all| all.launching());
        let launched = tokio::select! {
            launched = self.start() => launched,
            termination = destroyed(commands, &mut early) => {
                let message = termination
                    .and_then(|t| t.message)
                    .unwrap_or_else(|| "the container was destroyed while it was launched".into());
                Err(Failure { step: "launch", message })
            }
        };
        match launched {
            Ok(pid) => {
                let _ = reply.send(Ok(pid));
                drop(launching);
                self.settling = self.home.as_ref().map(|_| Box::pin(sleep(SETTLING)));
                for command in early {
                    self.obey(command).await;
                }
                let cause = self.serve(commands).await;
                if self.settling.take().is_some() {
                    self.restock();
                }
                self.bury(cause, commands).await;
            }
            Err(failure) => {
                info!(container = %self.key, step = failure.step, message = %failure.message,
                      "launch failed");
                let end = self.finish(Cause::Failed(failure.clone()), commands).await;
                // Nobody is told to forget a container that never was.
                self.shared.forget(&self.key, &self.dir);
                let _ = reply.send(Err(failure));
                self.view.send_modify(|view| view.end = Some(end));
            }
        }
    }

    /// Serves a running container until there is a cause to end it.
    async fn serve(&mut self, commands: &mut mpsc::Receiver<Command>) -> Cause {
        loop {
            let running = self.running.as_ref().expect("a served container runs");
            let (watches, settling) = (&mut self.watches, &mut self.settling);
            tokio::select! {
                end = running.wait() => return Cause::Exited(end.ok()),
                limitation = limited(watches) => return Cause::Limited(limitation),
                command = commands.recv() => match command {
                    Some(Command::Destroy(termination)) => return Cause::Destroyed(termination),
                    Some(command) => self.obey(command).await,
                    // The agent goes away; the container stays.
                    None => std::future::pending().await,
                },
                () = settled(settling) => self.restock(),
            }
        }
    }

    async fn obey(&mut self, command: Command) {
        match command {
            Command::Update { requests, limits, reply } => {
                let _ = reply.send(self.update(requests, limits).await);
            }
            Command::Status { reply } => {
                let _ = reply.send(self.status());
            }
            Command::Kill { signal, all, reply } => {
                let sent = if all { self.signal_all(signal) } else { self.signal(signal) };
                let _ = reply.send(sent);
            }
            Command::Destroy(_) => unreachable!("destroy is a cause, not a command to obey"),
        }
    }

    async fn update(
        &mut self,
        requests: Vec<Resource>,
        limits: BTreeMap<String, f64>,
    ) -> Result<(), String> {
        let mut errors = Vec::new();
        for handle in &mut self.handles {
            if let Err(error) = handle.isolation.update(&requests, &limits).await {
                errors.push(error.chain());
            }
        }
        if !errors.is_empty() {
            return Err(errors.join("; "));
        }
        (self.request.requests, self.request.limits) = (requests, limits);
        self.shared.sampler.allot(self.slot, self.allotted());
        Ok(())
    }

    pub(super) fn allotted(&self) -> mesos::ResourceStatistics {
        let shared = &self.shared;
        let cfs = shared.config.isolators.cgroups_enable_cfs;
        request::allotted(&self.request.requests, &self.request.limits, cfs, shared.machine)
    }

    fn status(&mut self) -> ContainerStatus {
        let mut status = ContainerStatus {
            container_id: Some(self.request.id.clone()),
            executor_pid: self.running.as_ref().map(Running::pid),
            ..ContainerStatus::default()
        };
        for handle in &mut self.handles {
            if let Err(error) = handle.isolation.status(&mut status) {
                warn!(container = %self.key, error = %error.chain(), "status is incomplete");
            }
        }
        status
    }

    fn signal(&self, signal: i32) -> bool {
        self.running.as_ref().is_some_and(|running| running.signal(signal).unwrap_or(false))
    }

    /// The task's own process comes first: a shell whose child has died of the
    /// signal would report that as an exit status of its own.
    fn signal_all(&self, signal: i32) -> bool {
        let Some(running) = &self.running else { return false };
        let home = self.home.as_ref().filter(|_| signal == libc::SIGTERM);
        if let Some(own) = home.and_then(Home::stop_signal) {
            // As docker has it, nobody else knows what that signal means here.
            return self.signal(own);
        }
        let mut others = match self.tracker() {
            Some(tracker) => tracker.all_processes(),
            None => kernel::proctree::tree(running.pid()).iter().map(|p| p.pid).collect(),
        };
        others.retain(|pid| *pid != running.pid());
        let first = running.signal(signal).unwrap_or(false);
        kernel::proctree::signal(&others, signal);
        first || !others.is_empty()
    }

    /// The cgroup that no process of the container can leave.
    pub(super) fn tracker(&self) -> Option<kernel::cgroup::Cgroup> {
        let layout = self.shared.isolators.layout.as_ref()?;
        Some(layout.tracker(&self.context.id.lineage()))
    }

    pub(super) fn enter(&self, phase: Phase) {
        self.view.send_modify(|view| (view.phase, view.progress) = (phase, None));
    }

    pub(super) fn is_at(&self, progress: Progress) {
        self.view.send_modify(|view| view.progress = Some(progress));
    }

    /// Takes over a container that runs: from launch or from recovery.
    pub(super) fn adopt(&mut self, running: Running) {
        let pid = running.pid();
        self.running = Some(running);
        self.watches.extend(self.handles.iter_mut().filter_map(|h| h.isolation.watch()));
        self.observe(pid);
    }

    /// It runs: statistics may be taken.
    pub(super) fn observe(&mut self, pid: u32) {
        let probes: Vec<_> = self.handles.iter_mut().flat_map(|h| h.isolation.probes()).collect();
        // A nested container without figures of its own is part of its parent.
        if self.request.id.parent.is_none() || !probes.is_empty() {
            self.shared.sampler.add(self.slot, self.request.id.clone(), self.allotted(), probes);
        }
        self.view.send_modify(|view| (view.phase, view.pid) = (Phase::Running, Some(pid)));
    }
}

/// Waits for the command to destroy; others are kept for later.
async fn destroyed(
    commands: &mut mpsc::Receiver<Command>,
    early: &mut Vec<Command>,
) -> Option<Termination> {
    loop {
        match commands.recv().await {
            Some(Command::Destroy(termination)) => return termination,
            Some(command) => early.push(command),
            None => std::future::pending().await,
        }
    }
}

/// Waits until a container has settled, once.
async fn settled(settling: &mut Option<Pin<Box<Sleep>>>) {
    match settling {
        Some(sleep) => sleep.await,
        None => std::future::pending().await,
    }
    *settling = None;
}

/// Waits for the first limit that is hit; a watch that broke is dropped.
async fn limited(watches: &mut Vec<Watch>) -> Limitation {
    poll_fn(|context| {
        let mut index = 0;
        while let Some(watch) = watches.get_mut(index) {
            match Pin::new(watch).poll(context) {
                Poll::Ready(Ok(limitation)) => return Poll::Ready(limitation),
                Poll::Ready(Err(_)) => {
                    warn!("a limit can no longer be watched");
                    watches.remove(index);
                }
                Poll::Pending => index += 1,
            }
        }
        Poll::Pending
    })
    .await
}
