//! What the agent's end knows of one plugin, shared by its handles, its supervisor and
//! its reports: whether it can be called, and the table of the containers that it has
//! to do with.
//!
//! The table is what the handshake after a restart tells the plugin, and which cleanups
//! it still owes.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use isolators::api::{IsolatorError, Limitation};
use mesos::bulkhead::plugin::{Call, Container, Response, call, event};
use mesos::{ContainerId, ContainerStatus, ResourceStatistics};
use tokio::sync::{Notify, oneshot, watch};
use tracing::warn;

use crate::ledger::Ledger;
use crate::manifest::Manifest;
use crate::messages;
use crate::wire::{CallError, Client, Encoding, bare, name_of};

/// How long the start of the agent waits for a plugin at most.
pub(crate) const START: Duration = Duration::from_secs(10);

/// What a plugin said of itself.
#[derive(Debug, Clone, Default)]
pub(crate) struct About {
    pub(crate) version: String,
    pub(crate) nesting: bool,
    pub(crate) calls: BTreeSet<i32>,
    pub(crate) hooks: BTreeSet<i32>,
    /// Counts the handshakes: an answer from before the last one is worth nothing.
    pub(crate) generation: u64,
}

impl About {
    pub(crate) fn does(&self, kind: call::Type) -> bool {
        self.calls.contains(&(kind as i32))
    }
}

/// Whether calls can be made.
#[derive(Debug, Clone)]
pub(crate) enum State {
    Starting,
    Ready(Arc<About>),
    Down(String),
}

/// One container.
#[derive(Debug)]
pub(crate) struct Entry {
    /// As the plugin will hear of it at the next handshake.
    pub(crate) container: Container,
    /// PREPARE was answered well.
    pub(crate) prepared: bool,
    /// It is over, and the plugin could not be told.
    pub(crate) owed: bool,
    pub(crate) ear: Option<oneshot::Sender<Limitation>>,
    pub(crate) hit: Option<Limitation>,
    pub(crate) usage: Option<Arc<ResourceStatistics>>,
    pub(crate) status: Option<ContainerStatus>,
}

impl Entry {
    pub(crate) fn new(container: Container, prepared: bool) -> Entry {
        let (ear, hit, usage, status) = (None, None, None, None);
        Entry { container, prepared, owed: false, ear, hit, usage, status }
    }
}

/// A plugin, shared by its handles, its supervisor and its reports.
#[derive(Debug)]
pub(crate) struct Inner {
    pub(crate) name: &'static str,
    pub(crate) manifest: Manifest,
    pub(crate) client: Client,
    pub(crate) ledger: Ledger,
    pub(crate) state: watch::Sender<State>,
    /// The agent has said which containers there are.
    pub(crate) told: watch::Sender<bool>,
    pub(crate) table: Mutex<BTreeMap<String, Entry>>,
    pub(crate) pid: Mutex<Option<u32>>,
    /// A call had no answer: is anybody there?
    pub(crate) suspicion: Notify,
    /// Somebody reads statistics.
    pub(crate) thirst: Notify,
    pub(crate) supervisor: Mutex<Option<tokio::task::JoinHandle<()>>>,
}

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Every value is whole after any panic: they change in one step.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Inner {
    /// Nothing is started or connected to yet.
    pub(crate) fn new(manifest: Manifest) -> Inner {
        let encoding = if manifest.protobuf { Encoding::Protobuf } else { Encoding::Json };
        Inner {
            name: Box::leak(manifest.name.clone().into_boxed_str()),
            client: Client::new(&manifest.socket, encoding),
            manifest,
            ledger: Ledger::default(),
            state: watch::channel(State::Starting).0,
            told: watch::channel(false).0,
            table: Mutex::default(),
            pid: Mutex::default(),
            suspicion: Notify::new(),
            thirst: Notify::new(),
            supervisor: Mutex::default(),
        }
    }

    /// One call and its answer, counted.
    pub(crate) async fn call(
        &self,
        call: &Call,
        container: Option<&ContainerId>,
    ) -> Result<Response, CallError> {
        let ticket = self.ledger.begin(name_of(call), container.map(ContainerId::to_string));
        let answer = self.client.call(call, self.manifest.deadline).await;
        drop(ticket);
        match &answer {
            Ok(_) => {}
            Err(CallError::Refused { message }) => self.ledger.refused(message.clone()),
            Err(error) => {
                self.ledger.failed(error.chain());
                self.suspicion.notify_one();
            }
        }
        answer
    }

    /// What the plugin can do, if it can be called now. Waits for one that has
    /// just been started, no longer than a call may last.
    pub(crate) async fn ready(&self) -> Result<Arc<About>, CallError> {
        let mut state = self.state.subscribe();
        let settled = state.wait_for(|state| !matches!(state, State::Starting));
        let settled = tokio::time::timeout(self.manifest.deadline, settled).await;
        match settled.ok().and_then(Result::ok).as_deref() {
            Some(State::Ready(about)) => Ok(Arc::clone(about)),
            Some(State::Down(reason)) => Err(CallError::Away { reason: reason.clone() }),
            Some(State::Starting) | None => {
                Err(CallError::Away { reason: "it has not started yet".into() })
            }
        }
    }

    pub(crate) fn about(&self) -> Option<Arc<About>> {
        match &*self.state.borrow() {
            State::Ready(about) => Some(Arc::clone(about)),
            _ => None,
        }
    }

    /// An event of the WATCH stream.
    pub(crate) fn hear(&self, event: mesos::bulkhead::plugin::Event) {
        if event.r#type() != event::Type::Limitation {
            return;
        }
        let Some(limitation) = event.limitation else { return };
        let name = limitation.container_id.to_string();
        let mut table = lock(&self.table);
        let entry = table.get_mut(&name).filter(|entry| entry.prepared && !entry.owed);
        let Some(entry) = entry else {
            self.ledger.ignore_event();
            warn!(plugin = self.name, container = %name,
                  "ignoring a limitation of a container that is not the plugin's");
            return;
        };
        let limitation = messages::limited(limitation);
        // Kept as well: the container may end before its owner reads this.
        entry.hit = Some(limitation.clone());
        if let Some(ear) = entry.ear.take() {
            let _ = ear.send(limitation);
        }
    }

    /// Asks for the figures of every container at once.
    pub(crate) async fn drink(&self) {
        let ids: Vec<ContainerId> = lock(&self.table)
            .values()
            .filter(|entry| entry.prepared && !entry.owed)
            .map(|entry| entry.container.container_id.clone())
            .collect();
        let usage = call::Usage { container_ids: ids };
        let call = Call { usage: Some(usage), ..bare(call::Type::Usage) };
        let Ok(response) = self.call(&call, None).await else { return };
        let mut table = lock(&self.table);
        for one in response.usage.unwrap_or_default().containers {
            if let Some(entry) = table.get_mut(&one.container_id.to_string()) {
                entry.usage = Some(Arc::new(one.statistics));
            }
        }
    }

    pub(crate) fn error(
        &self,
        verb: &'static str,
        id: &ContainerId,
        error: CallError,
    ) -> IsolatorError {
        IsolatorError::new(self.name, verb, format!("container {id}"), error)
    }
}
