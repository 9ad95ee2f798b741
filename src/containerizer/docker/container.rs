//! The one task that owns a container, from launch to end.
//!
//! ```text
//! FETCHING -> PULLING -> STARTING -> RUNNING
//!     |          |           |          |
//!     +----------+-----------+----------+--> DESTROYING -> (ended)
//!                      SEEKING --^------^         after a restart of the agent
//! ```
//!
//! What the task does itself is to wait: for the end of the container, for the order
//! to destroy it. Everything that asks the engine while the container runs is done
//! beside it, so that an engine that does not answer delays nothing else.

use std::sync::Arc;

use mesos::{ContainerStatus, NetworkInfo, network_info};
use tokio::sync::{mpsc, oneshot, watch};
use tracing::{info, warn};

use super::Shared;
use super::exit::{Exit, Process};
use super::mapping::docker_info;
use crate::containerizer::native::request;
use crate::containerizer::native::runtime::ContainerDir;
use crate::containerizer::{LaunchRequest, Termination};

/// Mesos' states of a Docker container.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    Fetching,
    Pulling,
    Starting,
    Running,
    /// The engine has not said yet what became of it.
    Seeking,
    Destroying,
}

impl Phase {
    pub(super) fn name(self) -> &'static str {
        match self {
            Phase::Fetching => "FETCHING",
            Phase::Pulling => "PULLING",
            Phase::Starting => "STARTING",
            Phase::Running => "RUNNING",
            Phase::Seeking => "SEEKING",
            Phase::Destroying => "DESTROYING",
        }
    }
}

/// Whether the engine may have been told to start the container: what is written
/// before that is there.
pub(super) fn was_started(dir: &ContainerDir) -> bool {
    marks(dir).exists() || dir.read_end().is_some()
}

/// How far its output has been read.
pub(super) fn marks(dir: &ContainerDir) -> std::path::PathBuf {
    dir.path.join("output")
}

/// What everybody may see of a container.
#[derive(Debug, Clone)]
pub(super) struct View {
    pub(super) phase: Phase,
    pub(super) pid: Option<u32>,
    /// The signal that asks it to stop.
    pub(super) stop_signal: Option<String>,
    /// Its addresses, if they are not the agent's.
    pub(super) addresses: Vec<String>,
    /// Set once, last.
    pub(super) end: Option<Termination>,
}

impl View {
    pub(super) fn new(phase: Phase, pid: Option<u32>) -> View {
        View { phase, pid, stop_signal: None, addresses: Vec::new(), end: None }
    }
}

/// Others' way to a container.
#[derive(Debug, Clone)]
pub(super) struct Door {
    pub(super) request: Arc<LaunchRequest>,
    pub(super) destroy: mpsc::Sender<Option<Termination>>,
    pub(super) view: watch::Receiver<View>,
    /// Names it in the sampler.
    pub(super) slot: u64,
}

impl Door {
    /// What the framework sees of the running container.
    pub(super) fn status(&self) -> ContainerStatus {
        let view = self.view.borrow();
        let address = |text: &String| network_info::IpAddress {
            ip_address: Some(text.clone()),
            protocol: text.contains(':').then_some(network_info::Protocol::IPv6 as i32),
        };
        let asked = docker_info(self.request.container.as_ref());
        let asked = asked.and_then(|(info, _)| info.network_infos.first().cloned());
        let network = (!view.addresses.is_empty()).then(|| NetworkInfo {
            ip_addresses: view.addresses.iter().map(address).collect(),
            ..asked.unwrap_or_default()
        });
        ContainerStatus {
            container_id: Some(self.request.id.clone()),
            executor_pid: view.pid,
            network_infos: network.into_iter().collect(),
            ..ContainerStatus::default()
        }
    }
}

/// A launch that did not work out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Failure {
    pub(super) step: &'static str,
    pub(super) message: String,
}

/// How the task begins.
#[derive(Debug)]
pub(super) enum Start {
    /// A new container.
    Launch(oneshot::Sender<Result<Option<u32>, Failure>>),
    /// The agent knew it before its restart, with this pid.
    Seek(Option<u32>),
}

/// Why a container ends.
#[derive(Debug)]
pub(super) enum Cause {
    /// By itself.
    Exited(Exit),
    /// It was told to.
    Destroyed(Option<Termination>),
    /// It never ran.
    Failed(Failure),
}

/// The container.
pub(super) struct Container {
    pub(super) shared: Arc<Shared>,
    /// The container's id.
    pub(super) key: String,
    /// The engine's name of it.
    pub(super) name: String,
    pub(super) slot: u64,
    pub(super) request: Arc<LaunchRequest>,
    pub(super) dir: ContainerDir,
    pub(super) view: watch::Sender<View>,
    /// The engine was asked to make it: there may be one.
    pub(super) asked_for: bool,
    /// Its first process, once it is known.
    pub(super) process: Option<Process>,
    /// Told that the container has ended.
    pub(super) ended: watch::Sender<bool>,
    /// Reads the output until then.
    pub(super) reader: Option<tokio::task::JoinHandle<()>>,
}

impl Container {
    /// The whole life.
    pub(super) async fn run(
        mut self,
        start: Start,
        mut orders: mpsc::Receiver<Option<Termination>>,
    ) {
        match start {
            Start::Launch(reply) => self.live(reply, &mut orders).await,
            Start::Seek(pid) => {
                if let Some(end) = self.dir.read_end() {
                    return self.view.send_modify(|view| view.end = Some(end));
                }
                let cause = tokio::select! {
                    found = self.seek(pid) => found,
                    Some(told) = orders.recv() => Some(Cause::Destroyed(told)),
                };
                let cause = match cause {
                    Some(cause) => cause,
                    None => self.serve(&mut orders).await,
                };
                self.bury(cause).await;
            }
        }
    }

    async fn live(
        &mut self,
        reply: oneshot::Sender<Result<Option<u32>, Failure>>,
        orders: &mut mpsc::Receiver<Option<Termination>>,
    ) {
        let launched = tokio::select! {
            launched = self.start() => launched,
            Some(told) = orders.recv() => {
                let message = told
                    .and_then(|told| told.message)
                    .unwrap_or_else(|| "the container was destroyed while it was launched".into());
                Err(Failure { step: "launch", message })
            }
        };
        match launched {
            Ok(pid) => {
                let _ = reply.send(Ok(pid));
                let cause = self.serve(orders).await;
                self.bury(cause).await;
            }
            Err(failure) => {
                info!(container = %self.key, step = failure.step, message = %failure.message,
                      "launch failed");
                let end = self.finish(Cause::Failed(failure.clone())).await;
                // Nobody is told to forget a container that never was.
                self.shared.forget(&self.key, &self.dir);
                let _ = reply.send(Err(failure));
                self.view.send_modify(|view| view.end = Some(end));
            }
        }
    }

    /// Waits for a cause to end the running container.
    async fn serve(&mut self, orders: &mut mpsc::Receiver<Option<Termination>>) -> Cause {
        let engine = Arc::clone(&self.shared.engine);
        let exit = super::exit::watch(&engine, &self.name, self.process.as_ref());
        let told = async {
            match orders.recv().await {
                Some(told) => told,
                // The agent goes away; the container stays.
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            exit = exit => Cause::Exited(exit),
            told = told => Cause::Destroyed(told),
        }
    }

    /// Ends a container that ran, and keeps how it ended until it is forgotten.
    async fn bury(&mut self, cause: Cause) {
        let end = self.finish(cause).await;
        if let Err(error) = self.dir.write_end(&end) {
            warn!(container = %self.key, error = %kernel::chain(&error), "the end is not recorded");
        }
        info!(container = %self.key, status = ?end.status, message = ?end.message, "container ended");
        self.view.send_modify(|view| view.end = Some(end));
    }

    pub(super) fn enter(&self, phase: Phase) {
        self.view.send_modify(|view| view.phase = phase);
    }

    /// What the statistics say without asking the kernel.
    pub(super) fn allotted(&self) -> mesos::ResourceStatistics {
        let shared = &self.shared;
        let (requests, limits) = (&self.request.requests, &self.request.limits);
        request::allotted(requests, limits, shared.config.enable_cfs, shared.machine)
    }
}
