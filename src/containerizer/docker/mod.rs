//! The docker containerizer: containers of type DOCKER, by the Engine API.
//!
//! [`Docker`] is the door; behind it one task per container ([`container`]) owns that
//! container's state, and one task sweeps. The engine is somebody else's program: it
//! may hang, restart or be away. So every question has a deadline, none is asked
//! where something else waits for the answer, and what the kernel can tell or do
//! itself does not depend on it. Called by the agent through [`Containerizer`].
//!
//! * `config`: flags. `mapping`, `parameters`, `volumes`, `limits`, `labels`,
//!   `image`: a request in the engine's words (pure).
//! * `engine`: the API. `frames`: its streams (pure).
//! * `container`, `start`, `exit`, `finish`: a container's life. `output`: its logs.
//! * `network`, `holder` (pure): containers on networks of `network/cni`.
//! * `door`: what others see of a container. `shared`: what all of them have.
//! * `console`: terminals of containers.
//! * `guests`: commands in a container. `gc` (pure), `sweep`: what is removed when.
//! * `images`: the engine's images; `records`, `prune` (pure): which are ours to remove.

mod config;
mod console;
mod container;
mod door;
mod engine;
mod exit;
mod finish;
mod frames;
mod gc;
mod guests;
mod holder;
mod image;
mod images;
mod labels;
mod limits;
mod mapping;
mod network;
mod output;
mod parameters;
mod prune;
mod records;
mod shared;
mod start;
mod sweep;
mod volumes;

use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use kernel::chain;
use mesos::{ContainerId, ContainerStatus, Resource};
use tokio::sync::oneshot;
use tracing::info;

pub use self::config::Config;
use self::container::Start;
use self::door::Door;
use self::engine::EngineError;
pub use self::gc::Policy;
pub use self::prune::ImagePolicy;
use self::shared::Shared;
use super::images::NamedStore;
use super::request::{self, key};
use super::runtime::RuntimeDir;
use super::table::{ended, launched};
use super::terminal::Terminal;
use super::{
    Containerizer, ContainerizerError, KnownContainer, LaunchRequest, Launched, Listening,
    Progress, Sample, Termination,
};
use crate::daemon::metrics::Timer;
use crate::fetch::Fetcher;

/// How long the agent's start waits for an engine at most.
const UNSEEN: Duration = Duration::from_secs(5);

/// The containerizer.
pub struct Docker {
    shared: Arc<Shared>,
}

impl Docker {
    /// Makes the runtime directory; asks nothing of the engine. Must be called on a
    /// tokio runtime.
    ///
    /// # Errors
    /// The directory cannot be made.
    pub fn new(config: Config, fetcher: Arc<Fetcher>) -> Result<Docker, ContainerizerError> {
        let runtime = RuntimeDir::new(&config.runtime_dir.join("docker"));
        runtime.create().map_err(|e| ContainerizerError::Start(chain(&e)))?;
        if let Some(networks) = &config.networks {
            networks.check().map_err(|error| ContainerizerError::Start(error.chain()))?;
        }
        let shared = Shared::new(config, fetcher, runtime);
        Ok(Docker { shared: Arc::new(shared) })
    }

    /// Where it is told how long pulls of images take.
    pub fn time_pulls(&self, timer: Timer) {
        self.shared.images.time(timer);
    }

    /// Figures for the metrics, by name.
    #[must_use]
    pub fn figures(&self) -> [(&'static str, f64); 5] {
        let shared = &self.shared;
        #[allow(clippy::cast_precision_loss)] // a metric
        let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed) as f64;
        [
            ("engine_answers", if shared.engine.answers() { 1.0 } else { 0.0 }),
            ("engine_errors", count(&shared.engine.silences)),
            ("exited_containers", count(&shared.counters.kept)),
            ("removed_containers", count(&shared.counters.removed)),
            ("remove_container_errors", count(&shared.counters.remove_errors)),
        ]
    }

    fn door(&self, id: &ContainerId) -> Option<Door> {
        self.shared.table.get(id)
    }
}

#[async_trait]
impl Containerizer for Docker {
    /// Each container is looked for by its own task, and the engine is not waited for: but
    /// for those whose start the last agent did not live to see, and for seconds only.
    async fn recover(
        &self,
        known: Vec<KnownContainer>,
    ) -> Result<Vec<ContainerId>, ContainerizerError> {
        let shared = &self.shared;
        let wanted: BTreeSet<String> = known.iter().map(|known| key(&known.request.id)).collect();
        for id in shared.runtime.scan() {
            if !wanted.contains(&key(&id)) {
                let _ = shared.runtime.of(&id).remove();
            }
        }
        info!(containers = known.len(), "recovered docker containers");
        let mut never_ran = Vec::new();
        let mut sought = Vec::new();
        for KnownContainer { request, pid } in known {
            let dir = shared.runtime.of(&request.id);
            if pid.is_none() && !container::was_started(&dir) {
                never_ran.push(request.id);
                continue;
            }
            sought.push((request, pid));
        }
        if let Some(networks) = &shared.config.networks {
            let known = sought.iter().map(|(request, _)| key(&request.id)).collect();
            networks.recover_lodgers(&known).await;
        }
        let mut unseen = Vec::new();
        for (request, pid) in sought {
            let id = request.id.clone();
            container::spawn(shared, request, Start::Seek(pid))?;
            unseen.extend(self.door(&id).filter(|_| pid.is_none()));
        }
        // Only with a pid the agent believes, and says, that they run.
        let found = async {
            for mut door in unseen {
                let _ = door.view.wait_for(|view| view.end.is_some() || view.pid.is_some()).await;
            }
        };
        let _ = tokio::time::timeout(UNSEEN, found).await;
        tokio::spawn(sweep::run(Arc::clone(shared)));
        let policy = shared.config.image_policy.clone();
        tokio::spawn(images::run(Arc::clone(&shared.images), policy));
        Ok(never_ran)
    }

    async fn launch(&self, request: LaunchRequest) -> Result<Launched, ContainerizerError> {
        if let Some(parent) = request.id.parent.clone() {
            let door = self.door(&parent).ok_or_else(|| ContainerizerError::Unknown(key(&parent)));
            return self.shared.guests.launch(request, door?).await;
        }
        mapping::check(&request)?;
        let id = key(&request.id);
        let (reply, answer) = oneshot::channel();
        container::spawn(&self.shared, request, Start::Launch(reply))?;
        launched(&id, answer).await
    }

    async fn wait(&self, id: &ContainerId) -> Option<Termination> {
        if id.parent.is_some() {
            return self.shared.guests.wait(id).await;
        }
        ended(self.door(id)?.view, |view| view.end.as_ref()).await
    }

    async fn forget(&self, id: &ContainerId) {
        if id.parent.is_some() {
            return self.shared.guests.forget(id);
        }
        let ended = self.door(id).is_some_and(|door| door.view.borrow().end.is_some());
        if ended {
            self.shared.forget(&key(id), &self.shared.runtime.of(id));
        }
    }

    async fn update(
        &self,
        id: &ContainerId,
        requests: Vec<Resource>,
        limits: BTreeMap<String, f64>,
    ) -> Result<(), ContainerizerError> {
        let door = self.door(id).ok_or_else(|| ContainerizerError::Unknown(key(id)))?;
        let (shared, name) = (&self.shared, mapping::name_of(&id.value));
        let failed =
            |error: EngineError| ContainerizerError::Update { id: key(id), message: chain(&error) };
        let (cfs, machine) = (shared.config.enable_cfs, shared.machine);
        let inspected = shared.engine.inspect(&name).await.map_err(failed)?;
        let swap = inspected.raw["HostConfig"]["MemorySwap"].as_i64().is_some_and(|swap| swap > 0);
        let body = limits::at_update(&requests, &limits, cfs, machine.memory, swap);
        shared.engine.update(&name, &serde_json::Value::Object(body)).await.map_err(failed)?;
        let allotted = request::allotted(&requests, &limits, cfs, machine);
        shared.sampler.allot(door.slot, allotted);
        Ok(())
    }

    async fn statistics(&self) -> Sample {
        self.shared.sampler.sample().await
    }

    async fn status(&self, id: &ContainerId) -> Option<ContainerStatus> {
        self.door(id).map(|door| door.status())
    }

    async fn kill(&self, id: &ContainerId, signal: i32) -> bool {
        if id.parent.is_some() {
            return self.shared.guests.signal(id, signal);
        }
        let Some(door) = self.door(id) else { return false };
        self.shared.signal(&door, &signal.to_string(), signal).await
    }

    /// Only to init, as `docker stop` does; being asked to end is the image's own
    /// signal.
    async fn kill_all(&self, id: &ContainerId, signal: i32) -> bool {
        let Some(door) = self.door(id).filter(|_| id.parent.is_none()) else {
            return self.kill(id, signal).await;
        };
        let own = door.view.borrow().stop_signal.clone();
        let word = own.filter(|_| signal == libc::SIGTERM).unwrap_or_else(|| signal.to_string());
        self.shared.signal(&door, &word, signal).await
    }

    async fn listen(
        &self,
        id: &ContainerId,
        to: [OwnedFd; 2],
    ) -> Result<Listening, ContainerizerError> {
        if id.parent.is_some() || self.door(id).is_none() {
            return Err(ContainerizerError::Unknown(key(id)));
        }
        let failed =
            |error: EngineError| ContainerizerError::Listen { id: key(id), message: chain(&error) };
        let name = mapping::name_of(&id.value);
        let source = self.shared.engine.news(&name).await.map_err(failed)?;
        let tty = self.door(id).is_some_and(|door| console::is_wanted(&door.request));
        Ok(Listening(tokio::spawn(guests::copy(source, to, tty)).abort_handle()))
    }

    async fn destroy(
        &self,
        id: &ContainerId,
        termination: Option<Termination>,
    ) -> Option<Termination> {
        if id.parent.is_some() {
            self.shared.guests.signal(id, libc::SIGKILL);
            return self.shared.guests.wait(id).await;
        }
        let door = self.door(id)?;
        // Refused only by a container that is already over.
        let _ = door.destroy.send(termination).await;
        ended(door.view, |view| view.end.as_ref()).await
    }

    fn terminal(&self, id: &ContainerId) -> Option<Arc<Terminal>> {
        let door = self.door(id).filter(|_| id.parent.is_none())?;
        door.view.borrow().terminal.clone()
    }

    fn images(&self) -> Vec<NamedStore> {
        vec![("docker", Arc::clone(&self.shared.images) as _)]
    }

    fn debug(&self) -> serde_json::Value {
        let pending = self.shared.engine.under_way().into_iter();
        let pending: Vec<serde_json::Value> = pending
            .map(|(operation, object, age)| {
                serde_json::json!({ "operation": format!("docker::{operation}"),
                    "args": { "object": object, "age_secs": age.as_secs_f64() } })
            })
            .collect();
        let phases: serde_json::Map<String, serde_json::Value> = self
            .shared
            .table
            .lock()
            .iter()
            .map(|(key, door)| (key.clone(), door.view.borrow().phase.name().into()))
            .collect();
        let answers = self.shared.engine.answers();
        serde_json::json!({ "pending": pending,
            "docker": { "engine_answers": answers, "containers": phases } })
    }

    fn progress(&self) -> Vec<(ContainerId, Progress)> {
        let table = self.shared.table.lock();
        let id = |door: &Door| door.request.id.clone();
        let busy = |door: &Door| Some((id(door), door.view.borrow().progress.clone()?));
        table.values().filter_map(busy).collect()
    }

    fn containers(&self) -> Vec<(ContainerId, Option<u32>)> {
        let mut all: Vec<(ContainerId, Option<u32>)> = {
            let table = self.shared.table.lock();
            let open = |door: &&Door| door.view.borrow().end.is_none();
            let entry = |door: &Door| (door.request.id.clone(), door.view.borrow().pid);
            table.values().filter(open).map(entry).collect()
        };
        all.extend(self.shared.guests.running());
        all
    }

    fn knows(&self, id: &ContainerId) -> bool {
        self.door(id).is_some() || self.shared.guests.knows(id)
    }
}
