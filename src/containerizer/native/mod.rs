//! The native containerizer: isolators, launch plan, engine, and the shim.
//!
//! [`Native`] is the door; behind it one task per container ([`container`]) owns
//! that container's handles and state. The table of doors is the only thing they
//! share; its lock is never held across an await. Called by the agent through
//! [`Containerizer`]; knows nothing of frameworks, tasks' states or HTTP.
//!
//! * `config`: flags. `request`: what is asked, in the isolators' words (pure).
//! * `container`, `start`, `finish`: a container's life. `debug`: guests in another.
//!   `image`: root file systems of images.
//! * `recover`: after a restart of the agent. `sweep`: leftovers.
//! * `logs`: a container's side of the logger. `terminal`: of its terminal.
//! * `plugins`: hooks and reports of plugins.

mod config;
mod container;
mod debug;
mod finish;
mod image;
mod logs;
mod plugins;
mod recover;
mod request;
mod start;
mod sweep;
mod terminal;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, MutexGuard};

use async_trait::async_trait;
use isolators::api::{ContainerContext, Isolator, Parent};
use isolators::network::ports::Listeners;
use isolators::network::ports::listening::OpenPorts;
use isolators::registry::Isolators;
use isolators::runtime::users::Identity;
use isolators::traced::Calls;
use kernel::chain;
use mesos::{ContainerId, ContainerStatus, Resource};
use tokio::sync::{mpsc, oneshot, watch};
use tracing::warn;

pub use self::config::Config;
use self::container::{Command, Container, Door, Handle, Phase, Start, View};
use self::plugins::Plugins;
use self::request::Refusal;
use super::hooks::Hooks;
use super::images::{ImageStore, NamedStore};
use super::request::{Machine, ids_of, key};
use super::runtime::{ContainerDir, RuntimeDir};
use super::sampler::Sampler;
use super::table::{MAILBOX, Table, ended, launched};
use super::terminal::Terminal;
use super::{
    Containerizer, ContainerizerError, KnownContainer, LaunchRequest, Launched, Progress, Sample,
    Termination, Trouble,
};
use crate::fetch::Fetcher;
use crate::launch::Launcher;
use crate::logs::client::Logger;

/// The containerizer.
pub struct Native {
    shared: Arc<Shared>,
}

struct Shared {
    config: Config,
    isolators: Isolators,
    plugins: Plugins,
    fetcher: Arc<Fetcher>,
    launcher: Arc<Launcher>,
    logger: Logger,
    runtime: RuntimeDir,
    sampler: Sampler,
    machine: Machine,
    table: Table<Door>,
    destroy_errors: AtomicU64,
    sweeper: sweep::Sweeper,
}

impl Native {
    /// Makes isolators, engine and runtime directory. Must be called on a tokio
    /// runtime.
    ///
    /// # Errors
    /// The flags contradict each other or the machine; says what to do.
    pub fn new(config: Config) -> Result<Native, ContainerizerError> {
        let start = |text: String| ContainerizerError::Start(text);
        let isolators = config.isolators()?;
        for name in &isolators.isolation.deprecated {
            warn!("isolator '{name}' in --isolation is an old name; it still works");
        }
        let launcher = Launcher::new(config.launcher).map_err(|e| start(chain(&e)))?;
        let runtime = RuntimeDir::new(&config.runtime_dir);
        runtime.create().map_err(|e| start(chain(&e)))?;
        let names = &isolators.isolation.names;
        let plugins = Plugins::start(&config.plugins, names, &config.hooks)?;
        let logger = Logger::new(config.helper()?, &config.runtime_dir);
        if config.logs.is_some() {
            logger.ensure();
        }
        let shared = Shared {
            plugins,
            logger,
            fetcher: Arc::new(Fetcher::new(config.fetcher.clone())),
            isolators,
            launcher: Arc::new(launcher),
            runtime,
            sampler: Sampler::start(config.statistics_age),
            machine: Machine::this(),
            table: Table::default(),
            destroy_errors: AtomicU64::new(0),
            sweeper: sweep::Sweeper::default(),
            config,
        };
        Ok(Native { shared: Arc::new(shared) })
    }

    /// Names of the enabled isolators, in order.
    #[must_use]
    pub fn isolation(&self) -> &[&'static str] {
        &self.shared.isolators.isolation.names
    }

    /// Destroys that left something behind: a metric.
    #[must_use]
    pub fn destroy_errors(&self) -> u64 {
        self.shared.destroy_errors.load(Ordering::Relaxed)
    }

    /// Containers with root file systems of images, and those of which some stay: metrics.
    #[must_use]
    pub fn roots(&self) -> (u64, u64) {
        let provisioner = self.shared.config.provisioner.as_ref();
        provisioner.map(|provisioner| provisioner.figures()).unwrap_or_default()
    }

    /// What was found in the kernel that belonged to no container: metrics.
    #[must_use]
    pub fn leftovers(&self) -> [(&'static str, u64); 7] {
        self.shared.sweeper.figures()
    }

    /// Figures of the isolators themselves: metrics.
    #[must_use]
    pub fn isolator_figures(&self) -> Vec<(String, f64)> {
        self.shared.isolators.all.iter().flat_map(|isolator| isolator.metrics()).collect()
    }

    /// The fetcher: its cache has one owner, whoever else fetches.
    #[must_use]
    pub fn fetcher(&self) -> Arc<Fetcher> {
        Arc::clone(&self.shared.fetcher)
    }

    /// The hooks of its plugins, whoever else calls them.
    #[must_use]
    pub fn hooks(&self) -> Hooks {
        self.shared.plugins.hooks.clone()
    }

    /// One report for each plugin that runs.
    #[must_use]
    pub fn plugins(&self) -> Vec<isolator_plugin::Report> {
        self.shared.plugins.reports()
    }

    fn door(&self, id: &ContainerId) -> Option<Door> {
        self.shared.table.get(id)
    }
}

impl Shared {
    fn table(&self) -> MutexGuard<'_, BTreeMap<String, Door>> {
        self.table.lock()
    }

    /// The containers nested directly in `id`.
    fn children(&self, id: &ContainerId) -> Vec<Door> {
        let nested = |door: &&Door| door.id.parent.as_deref() == Some(id);
        self.table().values().filter(nested).cloned().collect()
    }

    /// Drops a container that is over, and those nested in it, with their files.
    fn forget(&self, key: &str, dir: &ContainerDir) {
        kernel::failpoint!("forget.before");
        self.table.remove(key);
        if let Err(error) = dir.remove() {
            warn!(container = key, error = %chain(&error), "runtime directory stays");
        }
        kernel::failpoint!("forget.after");
    }

    /// Isolators that get a handle on such a container.
    fn isolators_for(&self, request: &LaunchRequest) -> impl Iterator<Item = &Arc<dyn Isolator>> {
        let (nested, guest) = (request.id.parent.is_some(), debug::is_guest(request));
        self.isolators.all.iter().filter(move |isolator| {
            (!nested || isolator.about().nesting) && (!guest || debug::concerns(&***isolator))
        })
    }

    /// Whether the container sees the agent's processes.
    fn shares_pids(&self, request: &LaunchRequest, parent: Option<&Door>) -> bool {
        if !self.isolators.isolation.names.contains(&"namespaces/pid") {
            return true;
        }
        if debug::is_guest(request) {
            return parent.is_none_or(|door| door.host_pid_namespace);
        }
        let linux = request.container.as_ref().and_then(|info| info.linux_info.as_ref());
        let share = linux.and_then(|linux| linux.share_pid_namespace).unwrap_or(false);
        share && parent.is_none_or(|door| door.host_pid_namespace)
    }

    /// Puts a container into the table and starts its task.
    fn spawn(
        self: &Arc<Self>,
        birth: Birth,
        start: Start,
        pid: Option<u32>,
    ) -> Result<watch::Receiver<View>, ContainerizerError> {
        let Birth { request, context, handles, host_pid_namespace, home, host } = birth;
        let key = key(&request.id);
        let (commands, mailbox) = mpsc::channel(MAILBOX);
        let identity = home.as_ref().and_then(|home| home.identity.clone());
        // What was found running runs, whoever asks before its task has looked around:
        // containers may be nested in it at once.
        let phase = match &start {
            Start::Adopt(_) => Phase::Running,
            Start::Launch(_) | Start::Bury(..) => Phase::Provisioning,
        };
        let view = View { identity, pid, ..View::new(phase) };
        let (view, seen) = watch::channel(view);
        let door = Door {
            id: request.id.clone(),
            commands,
            view: seen.clone(),
            info: request.container.clone(),
            sandbox: request.sandbox.clone(),
            host_pid_namespace,
        };
        self.table.add(&key, door)?;
        let container = Container {
            shared: Arc::clone(self),
            key,
            slot: self.table.slot(),
            dir: self.runtime.of(&request.id),
            request,
            context,
            handles,
            home,
            host,
            watches: Vec::new(),
            running: None,
            pipes: None,
            copying: None,
            settling: None,
            view,
        };
        tokio::spawn(container.run(start, mailbox));
        Ok(seen)
    }
}

/// What a container is born with.
struct Birth {
    request: LaunchRequest,
    context: Arc<ContainerContext>,
    handles: Vec<Handle>,
    host_pid_namespace: bool,
    /// Of a container that was found.
    home: Option<image::Home>,
    /// Who the parent of a guest is in its image.
    host: Option<Identity>,
}

impl Native {
    fn birth(&self, mut request: LaunchRequest) -> Result<Birth, ContainerizerError> {
        let name = key(&request.id);
        let failed = |step, message| ContainerizerError::Launch { id: name.clone(), step, message };
        let images = request::Images {
            provided: self.shared.config.provisioner.is_some(),
            heeded: self.shared.heeds_images(),
        };
        request::check(&request, &self.shared.config.isolators.secrets, images).map_err(
            |refusal| match refusal {
                Refusal::NotSupported(what) => ContainerizerError::NotSupported(what),
                Refusal::Bad(what) => failed("check", what),
            },
        )?;
        if !debug::is_guest(&request) {
            let isolation = &self.shared.isolators.isolation.names;
            request::networks(request.container.as_ref(), isolation)
                .map_err(|text| failed("check", text))?;
        }
        let parent = match &request.id.parent {
            None => None,
            Some(id) => {
                let door = self.door(id).ok_or_else(|| ContainerizerError::Unknown(key(id)))?;
                let view = door.view.borrow().clone();
                match (view.phase, view.pid) {
                    (Phase::Running, Some(pid)) => Some((door, pid)),
                    _ => return Err(failed("check", "its parent container does not run".into())),
                }
            }
        };
        let ids = ids_of(request.user.as_deref()).map_err(|text| failed("check", text))?;
        let mut host = None;
        if let Some((door, _)) = parent.as_ref().filter(|_| debug::is_guest(&request)) {
            request.container = debug::info(door.info.as_ref());
            host = door.view.borrow().identity.clone();
        }
        let shared = &self.shared;
        let host_pid_namespace =
            shared.shares_pids(&request, parent.as_ref().map(|(door, _)| door));
        let parent = parent.map(|(door, pid)| Parent {
            pid,
            sandbox: door.sandbox.clone(),
            runtime: shared.runtime.of(&door.id).path,
            host_pid_namespace: door.host_pid_namespace,
        });
        let runtime = shared.runtime.of(&request.id).path;
        let context = Arc::new(request::context(&request, runtime, ids, parent));
        let handles = shared
            .isolators_for(&request)
            .map(|isolator| Handle {
                isolator: isolator.name(),
                isolation: isolator.attach(&context),
            })
            .collect();
        Ok(Birth { request, context, handles, host_pid_namespace, home: None, host })
    }

    async fn ask<T>(
        &self,
        id: &ContainerId,
        command: impl FnOnce(oneshot::Sender<T>) -> Command,
    ) -> Option<T> {
        let door = self.door(id)?;
        let (reply, answer) = oneshot::channel();
        door.commands.send(command(reply)).await.ok()?;
        answer.await.ok()
    }
}

#[async_trait]
impl Containerizer for Native {
    async fn recover(
        &self,
        known: Vec<KnownContainer>,
    ) -> Result<Vec<ContainerId>, ContainerizerError> {
        let fresh = recover::recover(&self.shared, known).await?;
        sweep::start(&self.shared);
        let config = &self.shared.config;
        // Not before it is known which images are used.
        if let (Some(provisioner), Some(gc)) = (&config.provisioner, &config.image_gc) {
            tokio::spawn(gc.clone().watch(provisioner.store().clone()));
        }
        Ok(fresh)
    }

    async fn launch(&self, mut request: LaunchRequest) -> Result<Launched, ContainerizerError> {
        let id = key(&request.id);
        // Hooks hear of a container from the one who takes it.
        if let Some(what) = self::request::others(request.container.as_ref()) {
            return Err(ContainerizerError::NotSupported(what));
        }
        let variables = self.shared.plugins.hooks.decorate(&mut request).await;
        request.environment.extend(variables.map_err(|failure| failure.of(&id))?);
        let birth = self.birth(request)?;
        let (reply, answer) = oneshot::channel();
        self.shared.spawn(birth, Start::Launch(reply), None)?;
        let pid = launched(&id, answer).await?;
        Ok(Launched { pid: Some(pid), details: None })
    }

    async fn wait(&self, id: &ContainerId) -> Option<Termination> {
        ended(self.door(id)?.view, |view| view.end.as_ref()).await
    }

    async fn forget(&self, id: &ContainerId) {
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
        let command = |reply| Command::Update { requests, limits, reply };
        match self.ask(id, command).await {
            Some(Ok(())) => Ok(()),
            Some(Err(message)) => Err(ContainerizerError::Update { id: key(id), message }),
            None => Err(ContainerizerError::Unknown(key(id))),
        }
    }

    async fn statistics(&self) -> Sample {
        self.shared.sampler.sample().await
    }

    async fn status(&self, id: &ContainerId) -> Option<ContainerStatus> {
        if self.door(id)?.view.borrow().progress.is_some() {
            // A pull may take long.
            let container_id = Some(id.clone());
            return Some(ContainerStatus { container_id, ..ContainerStatus::default() });
        }
        self.ask(id, |reply| Command::Status { reply }).await
    }

    async fn kill(&self, id: &ContainerId, signal: i32) -> bool {
        let command = |reply| Command::Kill { signal, all: false, reply };
        self.ask(id, command).await.unwrap_or(false)
    }

    async fn kill_all(&self, id: &ContainerId, signal: i32) -> bool {
        let command = |reply| Command::Kill { signal, all: true, reply };
        self.ask(id, command).await.unwrap_or(false)
    }

    async fn destroy(
        &self,
        id: &ContainerId,
        termination: Option<Termination>,
    ) -> Option<Termination> {
        let door = self.door(id)?;
        // Refused only by a container that is already over.
        let _ = door.commands.send(Command::Destroy(termination)).await;
        ended(door.view, |view| view.end.as_ref()).await
    }

    fn debug(&self) -> serde_json::Value {
        let mut body = self.shared.plugins.debug();
        let calls = self.shared.isolators.ledger.pending();
        let destroying = self.troubles().into_iter().map(|(id, trouble)| {
            let mut args = trouble.to_json();
            args["containerId"] = key(&id).into();
            serde_json::json!({ "operation": "destroy", "args": args })
        });
        if let Some(list) = body["pending"].as_array_mut() {
            list.extend(calls.iter().map(plugins::pending_call));
            list.extend(destroying);
        }
        body
    }

    fn images(&self) -> Vec<NamedStore> {
        let store = |provisioner| Arc::new(image::Images(provisioner)) as Arc<dyn ImageStore>;
        let provisioner = self.shared.config.provisioner.clone();
        provisioner.into_iter().map(|provisioner| ("mesos", store(provisioner))).collect()
    }

    fn progress(&self) -> Vec<(ContainerId, Progress)> {
        let table = self.shared.table();
        let busy = |door: &Door| Some((door.id.clone(), door.view.borrow().progress.clone()?));
        table.values().filter_map(busy).collect()
    }

    fn gpus(&self) -> Vec<isolators::gpu::Figure> {
        self.shared.isolators.gpus.as_ref().map(|gpus| gpus.read()).unwrap_or_default()
    }

    fn listening(&self) -> Vec<(String, OpenPorts)> {
        let listeners = self.shared.isolators.listeners.as_ref();
        listeners.map(Listeners::read).unwrap_or_default()
    }

    fn isolator_calls(&self) -> BTreeMap<(&'static str, &'static str), Calls> {
        self.shared.isolators.ledger.calls()
    }

    fn troubles(&self) -> Vec<(ContainerId, Arc<Trouble>)> {
        let table = self.shared.table();
        let trouble = |door: &Door| Some((door.id.clone(), door.view.borrow().trouble.clone()?));
        table.values().filter_map(trouble).collect()
    }

    fn containers(&self) -> Vec<(ContainerId, Option<u32>)> {
        let table = self.shared.table();
        let open = |door: &&Door| door.view.borrow().end.is_none();
        table.values().filter(open).map(|door| (door.id.clone(), door.view.borrow().pid)).collect()
    }

    fn terminal(&self, id: &ContainerId) -> Option<Arc<Terminal>> {
        self.door(id)?.view.borrow().terminal.clone()
    }

    fn knows(&self, id: &ContainerId) -> bool {
        self.door(id).is_some()
    }
}
