//! The agent's end: a plugin as an [`Isolator`], and its handle on a container.
//!
//! Keeps the table of the containers that the plugin has to do with. A plugin that
//! gives no usable answer is met by its policy; one that answers with an error has
//! answered. Nothing here touches a running container but through the plugin's own
//! limitations.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use isolators::api::{
    About, ContainerContext, Contribution, Isolation, Isolator, IsolatorError, Known, Limitation,
    Probe, Recovered, Watch,
};
use mesos::bulkhead::plugin::{Call, Container, call};
use mesos::{ContainerId, ContainerStatus, Resource, ResourceStatistics};
use prost::Message;
use tokio::sync::oneshot;
use tracing::warn;

use crate::ledger::Report;
use crate::manifest::{Manifest, Policy};
use crate::messages;
use crate::shared::{Entry, Inner, START, State, lock};
use crate::wire::{CallError, bare};

/// A plugin of this agent: isolator, hook, and what is reported of it.
#[derive(Debug, Clone)]
pub struct RemoteIsolator(pub(crate) Arc<Inner>);

impl RemoteIsolator {
    /// Nothing is started or connected to yet. The name lives as long as the
    /// program: plugins are made once, at its start.
    #[must_use]
    pub fn new(manifest: Manifest) -> RemoteIsolator {
        RemoteIsolator(Arc::new(Inner::new(manifest)))
    }

    /// Starts to look after the plugin, on the current runtime. Calls can be made
    /// after [`Isolator::recover`], or at once if it is no isolator of this agent.
    pub fn start(&self, isolator: bool) {
        if !isolator {
            self.0.told.send_replace(true);
        }
        let task = tokio::spawn(crate::supervisor::run(Arc::clone(&self.0)));
        *lock(&self.0.supervisor) = Some(task);
    }

    /// Ends the supervision, and the plugin if it was started here.
    pub fn stop(&self) {
        if let Some(task) = lock(&self.0.supervisor).take() {
            task.abort();
        }
        self.0.state.send_replace(State::Down("it was stopped".into()));
    }

    /// For people and for metrics.
    #[must_use]
    pub fn report(&self) -> Report {
        let inner = &self.0;
        let (state, version, reason) = match &*inner.state.borrow() {
            State::Starting => ("starting", None, None),
            State::Ready(about) => ("ready", Some(about.version.clone()), None),
            State::Down(reason) => ("down", None, Some(reason.clone())),
        };
        let (containers, owed) = {
            let table = lock(&inner.table);
            (table.len(), table.values().filter(|entry| entry.owed).count())
        };
        let policy = match inner.manifest.policy {
            Policy::Fail => "fail",
            Policy::Ignore => "ignore",
        };
        let mut report = Report {
            name: inner.name,
            version,
            socket: inner.manifest.socket.display().to_string(),
            policy,
            state,
            reason,
            pid: *lock(&inner.pid),
            containers,
            owed,
            calls: 0,
            failures: 0,
            refusals: 0,
            skipped: 0,
            restarts: 0,
            ignored_events: 0,
            time: Duration::ZERO,
            slowest: Duration::ZERO,
            pending: Vec::new(),
        };
        inner.ledger.fill(&mut report);
        report
    }

    /// Waits for the end of the first handshake; whether it went well.
    async fn first_state(&self, patience: Duration) -> bool {
        let mut state = self.0.state.subscribe();
        let settled = state.wait_for(|state| !matches!(state, State::Starting));
        let settled = tokio::time::timeout(patience, settled).await;
        matches!(settled.ok().and_then(Result::ok).as_deref(), Some(State::Ready(_)))
    }

    /// Waits until the plugin is ready, however often it is started meanwhile.
    pub async fn settle(&self, patience: Duration) -> bool {
        let mut state = self.0.state.subscribe();
        let ready = state.wait_for(|state| matches!(state, State::Ready(_)));
        matches!(tokio::time::timeout(patience, ready).await, Ok(Ok(_)))
    }
}

#[async_trait]
impl Isolator for RemoteIsolator {
    fn about(&self) -> About {
        // Whether it serves nested ones is known once it answers; until then a handle
        // that turns out to be of no use is better than one that is missing.
        About::everywhere(self.0.name)
    }

    fn attach(&self, context: &Arc<ContainerContext>) -> Box<dyn Isolation> {
        let container = messages::container(context);
        Box::new(RemoteIsolation { inner: Arc::clone(&self.0), container })
    }

    async fn recover(&self, known: &[Known]) -> Result<Recovered, IsolatorError> {
        let mut handles: Vec<Box<dyn Isolation>> = Vec::with_capacity(known.len());
        for known in known {
            let container = messages::container(&known.context);
            let mut entry = Entry::new(container.clone(), true);
            entry.container.pid = known.pid;
            lock(&self.0.table).insert(container.container_id.to_string(), entry);
            handles.push(Box::new(RemoteIsolation { inner: Arc::clone(&self.0), container }));
        }
        let first = !self.0.told.send_replace(true);
        if let Some(about) = self.0.about().filter(|_| !first) {
            // Once more: the conformance suite does that, an agent does not.
            let told = crate::supervisor::recover(&self.0, &about).await;
            told.map_err(|error| IsolatorError::new(self.0.name, "recover", "containers", error))?;
        } else if !self.first_state(START.max(self.0.manifest.deadline)).await {
            let report = self.report();
            warn!(plugin = self.0.name, reason = ?report.reason, policy = report.policy,
                  "the plugin is not ready; containers that run are left alone");
        }
        // The plugin itself reports its leftovers, to the supervisor.
        Ok(Recovered { handles, leftovers: Vec::new() })
    }
}

/// The handle: asks the plugin, and remembers for it.
#[derive(Debug)]
struct RemoteIsolation {
    inner: Arc<Inner>,
    container: Container,
}

impl RemoteIsolation {
    fn id(&self) -> &ContainerId {
        &self.container.container_id
    }

    fn key(&self) -> String {
        self.id().to_string()
    }

    /// What is known of the container, if the plugin has to do with it.
    fn entry<T>(&self, act: impl FnOnce(&mut Entry) -> T) -> Option<T> {
        lock(&self.inner.table).get_mut(&self.key()).map(act)
    }

    fn involved(&self) -> bool {
        self.entry(|entry| entry.prepared && !entry.owed).unwrap_or(false)
    }

    async fn prepared(&self) -> Result<Contribution, CallError> {
        let inner = &self.inner;
        let about = inner.ready().await?;
        if self.id().parent.is_some() && !about.nesting {
            return Ok(Contribution::default());
        }
        // Before the call: one that is cut off must be cleaned up.
        lock(&inner.table).insert(self.key(), Entry::new(self.container.clone(), false));
        let prepare = call::Prepare { container: self.container.clone() };
        let call = Call { prepare: Some(prepare), ..bare(call::Type::Prepare) };
        let response = inner.call(&call, Some(self.id())).await?;
        let garbage = |message| CallError::Garbage { call: "PREPARE", message };
        let part = response.prepare.and_then(|prepare| prepare.contribution).unwrap_or_default();
        let part = messages::contributed(part).map_err(|error| {
            inner.ledger.failed(error.to_string());
            garbage(error.to_string())
        })?;
        let same = inner.about().is_some_and(|now| now.generation == about.generation);
        let marked = self.entry(|entry| entry.prepared = same).is_some();
        match same && marked {
            true => Ok(part),
            false => Err(CallError::Away { reason: "it was restarted meanwhile".into() }),
        }
    }

    /// Reads the newest status for the next who asks.
    fn refresh_status(&self) {
        let (inner, container_id) = (Arc::clone(&self.inner), self.id().clone());
        let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
        runtime.spawn(async move {
            let status = call::Status { container_id: container_id.clone() };
            let call = Call { status: Some(status), ..bare(call::Type::Status) };
            let Ok(response) = inner.call(&call, Some(&container_id)).await else { return };
            let Some(mut status) = response.status.and_then(|s| s.container_status) else { return };
            // What the containerizer alone knows.
            (status.container_id, status.executor_pid) = (None, None);
            if let Some(entry) = lock(&inner.table).get_mut(&container_id.to_string()) {
                entry.status = Some(status);
            }
        });
    }
}

#[async_trait]
impl Isolation for RemoteIsolation {
    async fn prepare(&mut self) -> Result<Contribution, IsolatorError> {
        match self.prepared().await {
            Ok(part) => Ok(part),
            Err(error) if error.is_silence() && self.inner.manifest.policy == Policy::Ignore => {
                self.inner.ledger.skip();
                warn!(plugin = self.inner.name, container = %self.key(), error = %error.chain(),
                      "launching without the plugin");
                Ok(Contribution::default())
            }
            Err(error) => Err(self.inner.error("prepare", self.id(), error)),
        }
    }

    async fn isolate(&mut self, pid: u32) -> Result<(), IsolatorError> {
        if !self.involved() {
            return Ok(());
        }
        self.entry(|entry| entry.container.pid = Some(pid));
        let about = match self.inner.ready().await {
            Ok(about) => about,
            Err(_) if self.inner.manifest.policy == Policy::Ignore => return Ok(()),
            Err(error) => return Err(self.inner.error("isolate", self.id(), error)),
        };
        if about.does(call::Type::Isolate) {
            let isolate = call::Isolate { container_id: self.id().clone(), pid };
            let call = Call { isolate: Some(isolate), ..bare(call::Type::Isolate) };
            match self.inner.call(&call, Some(self.id())).await {
                Err(e) if e.is_silence() && self.inner.manifest.policy == Policy::Ignore => {
                    warn!(plugin = self.inner.name, container = %self.key(), error = %e.chain(),
                          "the plugin did not see the process");
                }
                Err(error) => return Err(self.inner.error("isolate", self.id(), error)),
                Ok(_) => {}
            }
        }
        if about.does(call::Type::Status) {
            self.refresh_status();
        }
        Ok(())
    }

    fn watch(&mut self) -> Option<Watch> {
        let watches = self.inner.about().is_none_or(|about| about.does(call::Type::Watch));
        if !watches || !self.involved() {
            return None;
        }
        let (ear, watch) = oneshot::channel();
        self.entry(|entry| match &entry.hit {
            Some(hit) => drop(ear.send(hit.clone())),
            None => entry.ear = Some(ear),
        })?;
        Some(watch)
    }

    async fn update(
        &mut self,
        requests: &[Resource],
        limits: &BTreeMap<String, f64>,
    ) -> Result<(), IsolatorError> {
        if !self.involved() {
            return Ok(());
        }
        // Told at the next handshake, if it cannot be told now.
        self.entry(|entry| {
            entry.container.requests = requests.to_vec();
            entry.container.limits = limits.clone();
        });
        let answer = match self.inner.ready().await {
            Ok(about) if !about.does(call::Type::Update) => return Ok(()),
            Ok(_) => {
                let update = call::Update {
                    container_id: self.id().clone(),
                    requests: requests.to_vec(),
                    limits: limits.clone(),
                };
                let call = Call { update: Some(update), ..bare(call::Type::Update) };
                self.inner.call(&call, Some(self.id())).await.map(drop)
            }
            Err(error) => Err(error),
        };
        match answer {
            Err(error) if error.is_silence() && self.inner.manifest.policy == Policy::Ignore => {
                warn!(plugin = self.inner.name, container = %self.key(), error = %error.chain(),
                      "the plugin did not see an update");
                Ok(())
            }
            answer => answer.map_err(|error| self.inner.error("update", self.id(), error)),
        }
    }

    fn probes(&mut self) -> Vec<Box<dyn Probe>> {
        let uses = self.inner.about().is_none_or(|about| about.does(call::Type::Usage));
        if !uses || !self.involved() {
            return Vec::new();
        }
        vec![Box::new(RemoteProbe { inner: Arc::clone(&self.inner), key: self.key() })]
    }

    fn ended(&mut self) -> Option<Limitation> {
        self.entry(|entry| entry.hit.clone()).flatten()
    }

    fn status(&mut self, status: &mut ContainerStatus) -> Result<(), IsolatorError> {
        if !self.involved() || self.inner.about().is_none_or(|a| !a.does(call::Type::Status)) {
            return Ok(());
        }
        if let Some(known) = self.entry(|entry| entry.status.clone()).flatten() {
            under(status, known);
        }
        self.refresh_status();
        Ok(())
    }

    async fn cleanup(&mut self) -> Result<(), IsolatorError> {
        let inner = &self.inner;
        if self.entry(|_| ()).is_none() {
            return Ok(());
        }
        let answer = match inner.about() {
            None => Err(CallError::Away { reason: "it will be told when it is back".into() }),
            Some(_) => {
                let cleanup = call::Cleanup { container_id: self.id().clone() };
                let call = Call { cleanup: Some(cleanup), ..bare(call::Type::Cleanup) };
                inner.call(&call, Some(self.id())).await
            }
        };
        match answer {
            Ok(_) => {
                lock(&inner.table).remove(&self.key());
                Ok(())
            }
            // The container is gone all the same; the plugin hears of it as an orphan.
            Err(error) if error.is_silence() => {
                self.entry(|entry| entry.owed = true);
                inner.suspicion.notify_one();
                warn!(plugin = inner.name, container = %self.key(), error = %error.chain(),
                      "the plugin owes the cleanup of a container");
                Ok(())
            }
            Err(error) => {
                self.entry(|entry| entry.owed = true);
                Err(inner.error("clean up", self.id(), error))
            }
        }
    }
}

/// Puts `plugin`'s fields below what is there already: who lies about a field
/// that a built-in isolator has filled in is not heard.
fn under<T: Message + Default>(mine: &mut T, mut plugin: T) {
    let bytes = mine.encode_to_vec();
    if plugin.merge(bytes.as_slice()).is_ok() {
        *mine = plugin;
    }
}

/// The last figures that the plugin gave; reading them makes it be asked again.
#[derive(Debug)]
struct RemoteProbe {
    inner: Arc<Inner>,
    key: String,
}

impl Probe for RemoteProbe {
    fn source(&self) -> &'static str {
        self.inner.name
    }

    fn sample(
        &mut self,
        _buffer: &mut Vec<u8>,
        statistics: &mut ResourceStatistics,
    ) -> Result<(), IsolatorError> {
        self.inner.thirst.notify_one();
        let newest = lock(&self.inner.table).get(&self.key).and_then(|entry| entry.usage.clone());
        if let Some(newest) = newest {
            under(statistics, newest.as_ref().clone());
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn built_in_figures_win_over_a_plugins() {
        let mut mine = ResourceStatistics {
            timestamp: 5.0,
            mem_rss_bytes: Some(7),
            ..ResourceStatistics::default()
        };
        let lies = ResourceStatistics {
            timestamp: 1.0,
            mem_rss_bytes: Some(1),
            net_rx_bytes: Some(9),
            ..ResourceStatistics::default()
        };
        under(&mut mine, lies);
        let figures = (mine.timestamp, mine.mem_rss_bytes, mine.net_rx_bytes);
        assert_eq!(figures, (5.0, Some(7), Some(9)));
    }
}
