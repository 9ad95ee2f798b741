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
//! * `guests`: commands in a container. `gc` (pure), `sweep`: what is removed when.

mod config;
mod container;
mod engine;
mod exit;
mod finish;
mod frames;
mod gc;
mod guests;
mod image;
mod labels;
mod limits;
mod mapping;
mod output;
mod parameters;
mod start;
mod sweep;
mod volumes;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use kernel::chain;
use mesos::{ContainerId, ContainerStatus, Resource};
use tokio::sync::{Notify, mpsc, oneshot, watch};
use tracing::{info, warn};

pub use self::config::Config;
use self::container::{Container, Door, Phase, Start, View};
use self::engine::{Engine, EngineError, Listed};
use self::exit::Process;
pub use self::gc::Policy;
use self::guests::Guests;
use super::native::request::{self, Machine, key};
use super::native::runtime::{ContainerDir, RuntimeDir};
use super::native::sampler::Sampler;
use super::{
    Containerizer, ContainerizerError, KnownContainer, LaunchRequest, Launched, Sample, Termination,
};
use crate::fetch::Fetcher;

/// Orders to destroy that may wait for one container.
const MAILBOX: usize = 16;

/// The containerizer.
pub struct Docker {
    shared: Arc<Shared>,
}

/// What is counted.
#[derive(Debug, Default)]
struct Counters {
    kept: AtomicU64,
    removed: AtomicU64,
    remove_errors: AtomicU64,
}

struct Shared {
    config: Config,
    engine: Arc<Engine>,
    fetcher: Arc<Fetcher>,
    runtime: RuntimeDir,
    sampler: Sampler,
    machine: Machine,
    table: Mutex<BTreeMap<String, Door>>,
    guests: Guests,
    slots: AtomicU64,
    /// Engine's names of containers that are to go as soon as the engine answers.
    condemned: Mutex<BTreeSet<String>>,
    /// Engine's names of containers whose output is still being read.
    held: Mutex<BTreeSet<String>>,
    /// A container was forgotten: sweep soon.
    nudge: Notify,
    counters: Counters,
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
        #[allow(clippy::cast_precision_loss)] // a machine has few processors
        let machine = Machine {
            cpus: kernel::proctree::processors() as f64,
            memory: kernel::proctree::total_memory(),
        };
        let shared = Shared {
            engine: Arc::new(Engine::new(&config.socket)),
            fetcher,
            runtime,
            sampler: Sampler::start(config.statistics_age),
            machine,
            table: Mutex::default(),
            guests: Guests::default(),
            slots: AtomicU64::new(0),
            condemned: Mutex::default(),
            held: Mutex::default(),
            nudge: Notify::new(),
            counters: Counters::default(),
            config,
        };
        Ok(Docker { shared: Arc::new(shared) })
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
        self.shared.table().get(&key(id)).cloned()
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Entries go in and out in one step: what is inside is whole after any panic.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Shared {
    fn table(&self) -> MutexGuard<'_, BTreeMap<String, Door>> {
        locked(&self.table)
    }

    /// Drops a container that is over, with its files.
    fn forget(&self, key: &str, dir: &ContainerDir) {
        self.table().remove(key);
        self.guests.forget_all(key);
        if let Err(error) = dir.remove() {
            warn!(container = key, error = %chain(&error), "runtime directory stays");
        }
        self.nudge.notify_one();
    }

    fn condemn(&self, name: &str) {
        locked(&self.condemned).insert(name.to_owned());
    }

    fn condemned(&self) -> BTreeSet<String> {
        locked(&self.condemned).clone()
    }

    /// What the engine has no more need not be condemned any longer.
    fn absolve(&self, condemned: &BTreeSet<String>, listed: &[Listed]) {
        let gone = condemned.iter().filter(|name| listed.iter().all(|l| l.name != **name));
        let mut all = locked(&self.condemned);
        gone.for_each(|name| _ = all.remove(name));
    }

    fn hold(&self, name: &str) {
        locked(&self.held).insert(name.to_owned());
    }

    fn release(&self, name: &str) {
        locked(&self.held).remove(name);
        self.nudge.notify_one();
    }

    fn is_held(&self, name: &str) -> bool {
        locked(&self.held).contains(name)
    }

    /// Puts a container into the table and starts its task.
    fn spawn(
        self: &Arc<Self>,
        request: LaunchRequest,
        start: Start,
    ) -> Result<(), ContainerizerError> {
        let key = key(&request.id);
        let (destroy, orders) = mpsc::channel(MAILBOX);
        let view = match &start {
            Start::Launch(_) => View::new(Phase::Fetching, None),
            Start::Seek(pid) => View::new(Phase::Seeking, *pid),
        };
        let (view, seen) = watch::channel(view);
        let request = Arc::new(request);
        let slot = self.slots.fetch_add(1, Ordering::Relaxed);
        let door = Door { request: Arc::clone(&request), destroy, view: seen, slot };
        {
            let mut table = self.table();
            if table.contains_key(&key) {
                return Err(ContainerizerError::AlreadyLaunched(key));
            }
            table.insert(key.clone(), door);
        }
        let container = Container {
            shared: Arc::clone(self),
            name: mapping::name_of(&key),
            slot,
            dir: self.runtime.of(&request.id),
            key,
            request,
            view,
            asked_for: matches!(start, Start::Seek(_)),
            process: None,
            ended: watch::channel(false).0,
            reader: None,
        };
        tokio::spawn(container.run(start, orders));
        Ok(())
    }

    /// Sends a signal to init, through the engine or, if that is silent, directly.
    async fn signal(&self, door: &Door, signal: &str, number: i32) -> bool {
        let name = mapping::name_of(&door.request.id.value);
        match self.engine.kill(&name, signal).await {
            Ok(()) => true,
            Err(error) if error.is_silence() => {
                let pid = door.view.borrow().pid;
                let process = pid.and_then(|pid| Process::open(pid, &name).ok());
                process.is_some_and(|process| process.signal(number))
            }
            Err(_) => false,
        }
    }
}

#[async_trait]
impl Containerizer for Docker {
    /// Never waits for the engine: each container is looked for by its own task.
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
        for KnownContainer { request, pid } in known {
            let dir = shared.runtime.of(&request.id);
            if pid.is_none() && !container::was_started(&dir) {
                never_ran.push(request.id);
                continue;
            }
            shared.spawn(request, Start::Seek(pid))?;
        }
        tokio::spawn(sweep::run(Arc::clone(shared)));
        Ok(never_ran)
    }

    async fn launch(&self, request: LaunchRequest) -> Result<Launched, ContainerizerError> {
        if let Some(parent) = request.id.parent.clone() {
            let door = self.door(&parent).ok_or_else(|| ContainerizerError::Unknown(key(&parent)));
            return self.shared.launch_guest(request, door?).await;
        }
        mapping::check(&request)?;
        let id = key(&request.id);
        let (reply, answer) = oneshot::channel();
        self.shared.spawn(request, Start::Launch(reply))?;
        let launch = |step, message| ContainerizerError::Launch { id, step, message };
        match answer.await {
            Ok(Ok(pid)) => Ok(Launched { pid }),
            Ok(Err(failure)) => Err(launch(failure.step, failure.message)),
            Err(_) => Err(launch("launch", "the agent is shutting down".into())),
        }
    }

    async fn wait(&self, id: &ContainerId) -> Option<Termination> {
        if id.parent.is_some() {
            return self.shared.guests.wait(id).await;
        }
        let mut view = self.door(id)?.view;
        let view = view.wait_for(|view| view.end.is_some()).await.ok()?;
        view.end.clone()
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
        let mut view = door.view;
        let view = view.wait_for(|view| view.end.is_some()).await.ok()?;
        view.end.clone()
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
            .table()
            .iter()
            .map(|(key, door)| (key.clone(), door.view.borrow().phase.name().into()))
            .collect();
        let answers = self.shared.engine.answers();
        serde_json::json!({ "pending": pending,
            "docker": { "engine_answers": answers, "containers": phases } })
    }

    fn containers(&self) -> Vec<(ContainerId, Option<u32>)> {
        let mut all: Vec<(ContainerId, Option<u32>)> = {
            let table = self.shared.table();
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
