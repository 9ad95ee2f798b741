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

use isolators::network::cni::Lodger;
use tokio::sync::{mpsc, oneshot, watch};
use tracing::{info, warn};

use super::door::{Door, Phase, View};
use super::exit::{Cause, Process};
use super::mapping;
use super::shared::Shared;
use crate::containerizer::runtime::ContainerDir;
use crate::containerizer::table::{Failure, MAILBOX};
use crate::containerizer::{
    ContainerizerError, LaunchRequest, Launched, Progress, Termination, request,
};

/// Whether the engine may have been told to start the container: what is written
/// before that is there.
pub(super) fn was_started(dir: &ContainerDir) -> bool {
    marks(dir).exists() || dir.read_end().is_some()
}

/// How far its output has been read.
pub(super) fn marks(dir: &ContainerDir) -> std::path::PathBuf {
    dir.path.join("output")
}

/// How the task begins.
#[derive(Debug)]
pub(super) enum Start {
    /// A new container.
    Launch(oneshot::Sender<Result<Launched, Failure>>),
    /// The agent knew it before its restart, with this pid.
    Seek(Option<u32>),
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
    /// Its place on networks that are not the engine's.
    pub(super) lodger: Option<Lodger>,
    /// Its first process, once it is known.
    pub(super) process: Option<Process>,
    /// Told that the container has ended.
    pub(super) ended: watch::Sender<bool>,
    /// Reads the output until then.
    pub(super) reader: Option<tokio::task::JoinHandle<()>>,
}

/// Puts a container into the table and starts its task.
///
/// # Errors
/// It is there already.
pub(super) fn spawn(
    shared: &Arc<Shared>,
    request: LaunchRequest,
    start: Start,
) -> Result<(), ContainerizerError> {
    let key = request::key(&request.id);
    let (destroy, orders) = mpsc::channel(MAILBOX);
    let networks = shared.config.networks.as_ref().filter(|_| matches!(start, Start::Seek(_)));
    let lodger = networks.and_then(|networks| networks.lodged(&key, request.container.as_ref()));
    let view = match &start {
        Start::Launch(_) => View::new(Phase::Fetching, None),
        Start::Seek(pid) => View::new(Phase::Seeking, *pid),
    };
    let known = networks_of(lodger.as_ref());
    let (view, seen) = watch::channel(View { networks: known, ..view });
    let request = Arc::new(request);
    let slot = shared.table.slot();
    shared.table.add(&key, Door { request: Arc::clone(&request), destroy, view: seen, slot })?;
    let container = Container {
        shared: Arc::clone(shared),
        name: mapping::name_of(&key),
        slot,
        dir: shared.runtime.of(&request.id),
        key,
        request,
        view,
        asked_for: matches!(start, Start::Seek(_)),
        lodger,
        process: None,
        ended: watch::channel(false).0,
        reader: None,
    };
    tokio::spawn(container.run(start, orders));
    Ok(())
}

/// What others see of its networks.
pub(super) fn networks_of(lodger: Option<&Lodger>) -> Vec<mesos::NetworkInfo> {
    lodger.map(|lodger| lodger.networks().to_vec()).unwrap_or_default()
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
        reply: oneshot::Sender<Result<Launched, Failure>>,
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
            Ok(launched) => {
                let _ = reply.send(Ok(launched));
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
        self.view.send_modify(|view| (view.phase, view.progress) = (phase, None));
    }

    pub(super) fn is_at(&self, progress: Progress) {
        self.view.send_modify(|view| view.progress = Some(progress));
    }

    /// What the statistics say without asking the kernel.
    pub(super) fn allotted(&self) -> mesos::ResourceStatistics {
        let shared = &self.shared;
        let (requests, limits) = (&self.request.requests, &self.request.limits);
        request::allotted(requests, limits, shared.config.enable_cfs, shared.machine)
    }
}
