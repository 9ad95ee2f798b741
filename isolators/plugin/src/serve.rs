//! For authors: serves an [`Isolator`], and a [`Hook`], on a unix socket.
//!
//! [`Plugin`] says who it is and how its isolator is made; [`Plugin::run`] is a
//! whole `main`. Owns the table of handles; the agent owns the order of calls.
//! Calls about one container follow each other, those about others do not wait.

use std::collections::BTreeMap;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use isolators::api::{About, Isolation, Isolator, IsolatorError, Known, Probe};
use isolators::hook::{Hook, HookContext};
use mesos::ContainerId;
use mesos::bulkhead::plugin::{Call, Event, Response, Supports, call, event, response};
use serde_json::Value as Json;
use tokio::sync::{Mutex as AsyncMutex, mpsc};
use tokio::task::JoinHandle;

use crate::messages;
use crate::wire::{self, Answer, PROTOCOL, Service};

/// The environment variable in which the agent names the socket.
pub const SOCKET: &str = "BULKHEAD_PLUGIN_SOCKET";

/// Set by an agent that started the plugin: it ends when its standard input does.
pub const OWNED: &str = "BULKHEAD_PLUGIN_OWNED";

/// Events that may wait for the agent to read.
const EVENTS: usize = 1024;

type Made = Result<Arc<dyn Isolator>, IsolatorError>;
type Factory = Box<dyn Fn(&Json) -> Made + Send + Sync>;

/// A plugin: its name, what it supports, and how its isolator is made.
pub struct Plugin {
    name: &'static str,
    version: &'static str,
    supports: Supports,
    factory: Factory,
    hook: Option<Arc<dyn Hook>>,
}

impl std::fmt::Debug for Plugin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Plugin").field("name", &self.name).finish_non_exhaustive()
    }
}

impl Plugin {
    /// A plugin whose isolator is made of the `config` object of its file.
    pub fn new<I: Isolator + 'static>(
        name: &'static str,
        version: &'static str,
        factory: impl Fn(&Json) -> Result<I, IsolatorError> + Send + Sync + 'static,
    ) -> Plugin {
        Plugin {
            name,
            version,
            supports: Supports::default(),
            factory: Box::new(move |config| factory(config).map(|made| Arc::new(made) as _)),
            hook: None,
        }
    }

    /// A plugin of an isolator that needs no configuration.
    pub fn of<I: Isolator + 'static>(isolator: I, version: &'static str) -> Plugin {
        let isolator: Arc<dyn Isolator> = Arc::new(isolator);
        let About { name, nesting, standalone } = isolator.about();
        let supports = Supports {
            nesting: Some(nesting),
            standalone: Some(standalone),
            ..Supports::default()
        };
        let factory: Factory = Box::new(move |_| Ok(Arc::clone(&isolator)));
        Plugin { name, version, supports, factory, hook: None }
    }

    /// Nested containers get a handle too.
    #[must_use]
    pub fn nesting(mut self) -> Plugin {
        self.supports.nesting = Some(true);
        self
    }

    /// The calls that the isolator does something for, beyond PREPARE and CLEANUP;
    /// others are never made. Each saves its time on every launch.
    #[must_use]
    pub fn calls(mut self, calls: &[call::Type]) -> Plugin {
        self.supports.calls = calls.iter().map(|call| *call as i32).collect();
        self
    }

    /// All the calls there are.
    #[must_use]
    pub fn all_calls(self) -> Plugin {
        use call::Type::{Isolate, Status, Update, Usage, Watch};
        self.calls(&[Isolate, Watch, Update, Usage, Status])
    }

    /// The hooks that `hook` does something for.
    #[must_use]
    pub fn hook(mut self, hook: impl Hook + 'static, which: &[call::hook::Type]) -> Plugin {
        self.supports.hooks = which.iter().map(|hook| *hook as i32).collect();
        self.hook = Some(Arc::new(hook));
        self
    }

    /// Serves the socket that the agent named, or the first argument, until the
    /// agent that started it is gone.
    ///
    /// # Errors
    /// There is no socket to serve, or it cannot be served.
    pub async fn run(self) -> io::Result<()> {
        let path = std::env::var_os(SOCKET).or_else(|| std::env::args_os().nth(1));
        let missing = || io::Error::other(format!("give a socket as argument or in {SOCKET}"));
        let path = PathBuf::from(path.ok_or_else(missing)?);
        let (gone, agent) = tokio::sync::oneshot::channel();
        if std::env::var_os(OWNED).is_none() {
            return self.serve(&path).await;
        }
        // A thread of its own: nothing else waits for standard input.
        std::thread::spawn(move || {
            let _ = io::stdin().read_to_end(&mut Vec::new());
            let _ = gone.send(());
        });
        tokio::select! {
            served = self.serve(&path) => served,
            _ = agent => Ok(()),
        }
    }

    /// Serves the socket at `path`.
    ///
    /// # Errors
    /// It cannot be served.
    pub async fn serve(self, path: &Path) -> io::Result<()> {
        let served = Served {
            plugin: self,
            state: Mutex::new(State::default()),
            handles: Mutex::default(),
            watchers: Arc::default(),
        };
        wire::listen(path, Arc::new(Arc::new(served))).await
    }
}

/// What the handshake has made.
#[derive(Default)]
struct State {
    config: Option<String>,
    isolator: Option<Arc<dyn Isolator>>,
    recovered: bool,
}

/// One container's handle.
struct Slot {
    id: ContainerId,
    isolation: Box<dyn Isolation>,
    probes: Option<Vec<Box<dyn Probe>>>,
    watching: Option<JoinHandle<()>>,
}

impl Drop for Slot {
    fn drop(&mut self) {
        if let Some(task) = &self.watching {
            task.abort();
        }
    }
}

type Shared = Arc<AsyncMutex<Slot>>;

/// The agent's ear, and what it has not heard yet.
#[derive(Default)]
struct Watchers {
    stream: Option<mpsc::Sender<Event>>,
    unheard: Vec<Event>,
}

impl Watchers {
    fn tell(&mut self, event: Event) {
        let unheard = match &self.stream {
            None => Some(event),
            Some(stream) => stream.try_send(event).err().map(mpsc::error::TrySendError::into_inner),
        };
        self.unheard.extend(unheard);
    }
}

struct Served {
    plugin: Plugin,
    state: Mutex<State>,
    handles: Mutex<BTreeMap<String, Shared>>,
    watchers: Arc<Mutex<Watchers>>,
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    // Every value is whole after any panic: they change in one step.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Why a call is refused, in one line.
struct Refusal(String);

impl From<IsolatorError> for Refusal {
    fn from(error: IsolatorError) -> Refusal {
        Refusal(error.chain())
    }
}

impl From<messages::ConvertError> for Refusal {
    fn from(error: messages::ConvertError) -> Refusal {
        Refusal(error.to_string())
    }
}

fn refuse<T>(text: impl Into<String>) -> Result<T, Refusal> {
    Err(Refusal(text.into()))
}

fn need<T>(content: Option<T>, name: &str) -> Result<T, Refusal> {
    content.ok_or_else(|| Refusal(format!("the call lacks '{name}'")))
}

#[async_trait]
impl Service for Arc<Served> {
    async fn serve(&self, call: Call) -> Answer {
        let kind = call.r#type();
        if kind == call::Type::Watch {
            return Answer::Stream(self.watch());
        }
        let mut response = match self.respond(call).await {
            Ok(response) => response,
            Err(Refusal(message)) => {
                Response { error: Some(response::Error { message }), ..Response::default() }
            }
        };
        response.r#type = Some(kind as i32);
        Answer::Response(Box::new(response))
    }
}

impl Served {
    async fn respond(self: &Arc<Self>, call: Call) -> Result<Response, Refusal> {
        use call::Type as T;
        let mut response = Response::default();
        match call.r#type() {
            T::Unknown => return refuse("unknown or missing 'type' of the call"),
            T::Hello => response.hello = Some(self.hello(&call)?),
            T::Configure => self.configure(need(call.configure, "configure")?)?,
            T::Recover => {
                response.recover = Some(self.recover(need(call.recover, "recover")?).await?);
            }
            T::Prepare => {
                response.prepare = Some(self.prepare(need(call.prepare, "prepare")?).await?);
            }
            T::Isolate => {
                let isolate = need(call.isolate, "isolate")?;
                let slot = self.slot(&isolate.container_id)?;
                slot.lock().await.isolation.isolate(isolate.pid).await?;
            }
            T::Update => {
                let update = need(call.update, "update")?;
                let slot = self.slot(&update.container_id)?;
                slot.lock().await.isolation.update(&update.requests, &update.limits).await?;
            }
            T::Usage => {
                response.usage = Some(self.usage(need(call.usage, "usage")?).await);
            }
            T::Status => {
                let slot = self.slot(&need(call.status, "status")?.container_id)?;
                let mut status = mesos::ContainerStatus::default();
                slot.lock().await.isolation.status(&mut status)?;
                response.status = Some(response::Status { container_status: Some(status) });
            }
            T::Cleanup => self.cleanup(&need(call.cleanup, "cleanup")?.container_id).await?,
            T::Hook => response.hook = Some(self.hooked(need(call.hook, "hook")?).await?),
            T::Watch => unreachable!("answered with a stream"),
        }
        Ok(response)
    }

    fn hello(&self, call: &Call) -> Result<response::Hello, Refusal> {
        let theirs = call.hello.as_ref().map_or(PROTOCOL, |hello| hello.protocol);
        if theirs != PROTOCOL {
            return refuse(format!("this plugin speaks protocol {PROTOCOL}, not {theirs}"));
        }
        Ok(response::Hello {
            name: self.plugin.name.into(),
            version: self.plugin.version.into(),
            protocol: PROTOCOL,
            supports: Some(self.plugin.supports.clone()),
        })
    }

    /// The same configuration again, after a restart of the agent, keeps the
    /// isolator and its handles.
    fn configure(&self, configure: call::Configure) -> Result<(), Refusal> {
        let mut state = lock(&self.state);
        state.recovered = false;
        if state.isolator.is_some() && state.config.as_ref() == Some(&configure.config) {
            return Ok(());
        }
        let config: Json = serde_json::from_str(&configure.config)
            .map_err(|error| Refusal(format!("'config' is not JSON: {error}")))?;
        state.isolator = Some((self.plugin.factory)(&config)?);
        state.config = Some(configure.config);
        lock(&self.handles).clear();
        Ok(())
    }

    fn isolator(&self) -> Result<Arc<dyn Isolator>, Refusal> {
        let state = lock(&self.state);
        state.isolator.clone().ok_or_else(|| Refusal("the plugin is not configured yet".into()))
    }

    fn ready(&self) -> Result<Arc<dyn Isolator>, Refusal> {
        let isolator = self.isolator()?;
        match lock(&self.state).recovered {
            true => Ok(isolator),
            false => refuse("the plugin has not recovered yet"),
        }
    }

    fn slot(&self, id: &ContainerId) -> Result<Shared, Refusal> {
        self.ready()?;
        let found = lock(&self.handles).get(&id.to_string()).cloned();
        found.ok_or_else(|| Refusal(format!("container {id} is not known")))
    }

    /// As after a restart of everything: what is nobody's is cleaned up, and every
    /// container gets a new handle. Handles of before may know more, but what they
    /// know is not what the agent knows.
    async fn recover(self: &Arc<Self>, call: call::Recover) -> Result<response::Recover, Refusal> {
        let isolator = self.isolator()?;
        let orphans: Vec<ContainerId> =
            call.orphans.iter().map(|orphan| orphan.container_id.clone()).collect();
        let known: Vec<Known> =
            call.containers.into_iter().chain(call.orphans).map(messages::known).collect();
        let held = std::mem::take(&mut *lock(&self.handles));
        let mut leftovers = Vec::new();
        for (name, slot) in held {
            if known.iter().all(|known| known.context.id.to_string() != name) {
                slot.lock().await.isolation.cleanup().await?;
                leftovers.push(name);
            }
        }
        let recovered = isolator.recover(&known).await?;
        if recovered.handles.len() != known.len() {
            return refuse("the isolator did not recover every container");
        }
        leftovers.extend(recovered.leftovers);
        lock(&self.state).recovered = true;
        for (known, isolation) in known.iter().zip(recovered.handles) {
            let slot = self.hold(&known.context.id, isolation);
            if orphans.contains(&known.context.id) {
                self.cleanup(&known.context.id).await?;
            } else {
                self.subscribe(&slot).await;
            }
        }
        Ok(response::Recover { leftovers })
    }

    fn hold(&self, id: &ContainerId, isolation: Box<dyn Isolation>) -> Shared {
        let slot = Slot { id: id.clone(), isolation, probes: None, watching: None };
        let slot = Arc::new(AsyncMutex::new(slot));
        lock(&self.handles).insert(id.to_string(), Arc::clone(&slot));
        slot
    }

    /// Tells the agent of the limit that the container hits.
    async fn subscribe(&self, slot: &Shared) {
        let mut slot = slot.lock().await;
        if slot.watching.is_some() {
            return;
        }
        let Some(watch) = slot.isolation.watch() else { return };
        let (id, watchers) = (slot.id.clone(), Arc::clone(&self.watchers));
        slot.watching = Some(tokio::spawn(async move {
            if let Ok(hit) = watch.await {
                lock(&watchers).tell(Event {
                    r#type: Some(event::Type::Limitation as i32),
                    limitation: Some(messages::limitation(&id, hit)),
                });
            }
        }));
    }

    fn watch(&self) -> mpsc::Receiver<Event> {
        let (stream, events) = mpsc::channel(EVENTS);
        let mut watchers = lock(&self.watchers);
        watchers.stream = Some(stream);
        let mut waiting = std::mem::take(&mut watchers.unheard);
        let subscribed = event::Type::Subscribed as i32;
        waiting.insert(0, Event { r#type: Some(subscribed), limitation: None });
        waiting.into_iter().for_each(|event| watchers.tell(event));
        events
    }

    async fn prepare(&self, call: call::Prepare) -> Result<response::Prepare, Refusal> {
        let isolator = self.ready()?;
        let known = messages::known(call.container);
        let name = known.context.id.to_string();
        if lock(&self.handles).contains_key(&name) {
            return refuse(format!("container {name} is prepared already"));
        }
        // In the table first: a prepare that is cut off must be cleaned up.
        let slot = self.hold(&known.context.id, isolator.attach(&known.context));
        let part = slot.lock().await.isolation.prepare().await?;
        self.subscribe(&slot).await;
        Ok(response::Prepare { contribution: Some(messages::contribution(&part)?) })
    }

    async fn usage(&self, call: call::Usage) -> response::Usage {
        let mut containers = Vec::with_capacity(call.container_ids.len());
        let mut buffer = Vec::new();
        for container_id in call.container_ids {
            let Ok(slot) = self.slot(&container_id) else { continue };
            let mut slot = slot.lock().await;
            let Slot { isolation, probes, .. } = &mut *slot;
            let mut statistics = mesos::ResourceStatistics::default();
            for probe in probes.get_or_insert_with(|| isolation.probes()) {
                if let Err(error) = probe.sample(&mut buffer, &mut statistics) {
                    tracing::debug!(error = %error.chain(), "statistics are incomplete");
                }
            }
            containers.push(response::usage::One { container_id, statistics });
        }
        response::Usage { containers }
    }

    /// A container that is not known is clean.
    async fn cleanup(&self, id: &ContainerId) -> Result<(), Refusal> {
        let Ok(slot) = self.slot(id) else { return self.ready().map(drop) };
        let mut slot = slot.lock().await;
        if let Some(hit) = slot.isolation.ended() {
            lock(&self.watchers).tell(Event {
                r#type: Some(event::Type::Limitation as i32),
                limitation: Some(messages::limitation(id, hit)),
            });
        }
        slot.isolation.cleanup().await?;
        lock(&self.handles).remove(&id.to_string());
        Ok(())
    }

    async fn hooked(&self, call: call::Hook) -> Result<response::Hook, Refusal> {
        use call::hook::Type as T;
        let hook = self.plugin.hook.as_ref();
        let hook = hook.ok_or_else(|| Refusal("this plugin has no hooks".into()))?;
        let kind = call.r#type();
        let context = HookContext {
            id: call.container_id,
            sandbox: call.sandbox.into(),
            task: call.task_info,
            executor: call.executor_info,
            framework: call.framework_id,
            labels: call.labels,
        };
        let mut answer = response::Hook::default();
        match kind {
            T::Unknown => return refuse("unknown or missing 'type' of the hook"),
            T::Labels => answer.labels = hook.labels(&context).await?,
            T::Environment => answer.environment = hook.environment(&context).await?,
            T::PreLaunch => hook.pre_launch(&context).await?,
            T::PostFetch => hook.post_fetch(&context).await?,
            T::Remove => hook.removed(&context).await?,
        }
        Ok(answer)
    }
}
