//! The one task that owns the agent's core.
//!
//! Mail comes in, goes through [`Core::handle`], the new [`Snapshot`] is
//! published, the effects run. No effect is awaited here: those that take time
//! run in tasks of their own and report back by mail, so the mailbox never
//! stalls. Checkpoints are written by the storage thread, strictly in order.
//!
//! Ends on [`Handle::detach`] (containers live on), or when the core asks to.

mod checks;
mod clock;
mod collector;
mod containers;
mod environment;
mod outbox;
mod sandbox;
mod start;
mod storage;
mod timers;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use mesos::executor;
use thiserror::Error;
use tokio::sync::{mpsc, oneshot, watch};

use self::clock::Clock;
use self::collector::Collector;
use self::containers::Containers;
use self::storage::Storage;
use self::timers::Timers;
use super::core::event::{CallId, Effect, Event, Refusal};
use super::core::recovery::RecoveryError;
use super::core::state::StreamId;
use super::core::{Core, Time};
use super::handle::{CallIds, Mail};
use super::snapshot::Snapshot;
use crate::checkpoint::RecoverError;
use crate::containerizer::ContainerizerError;

pub use self::outbox::{Outbox, PostOutbox};
pub use self::start::start;

/// Why the agent ended before its time.
#[derive(Debug, Error)]
#[allow(missing_docs)]
pub enum AgentError {
    #[error("failed to read the checkpoints")]
    Checkpoints(#[from] RecoverError),
    #[error("failed to recover")]
    Recovery(#[from] RecoveryError),
    #[error("failed to recover the containers")]
    Containers(#[from] ContainerizerError),
    #[error("{0}")]
    Fatal(String),
}

/// How the agent ended in good order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// It left its containers running.
    Detached,
    /// Everything was shut down.
    ShutDown,
}

/// Seconds since the epoch.
fn now() -> Time {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |d| d.as_secs_f64())
}

struct Driver {
    core: Core,
    mailbox: mpsc::Receiver<Mail>,
    /// For tasks that report back.
    back: mpsc::Sender<Mail>,
    snapshots: watch::Sender<Arc<Snapshot>>,
    storage: Storage,
    collector: Collector,
    clock: Clock,
    timers: Timers,
    containers: Containers,
    outbox: Arc<dyn Outbox>,
    master: String,
    calls: HashMap<CallId, oneshot::Sender<Result<(), Refusal>>>,
    ids: CallIds,
    streams: HashMap<StreamId, mpsc::Sender<executor::Event>>,
    /// Events that effects caused at once, to be handled next.
    local: Vec<Event>,
    ended: Option<Result<Outcome, AgentError>>,
}

/// The message whose sending tests interrupt.
const UPDATE: &str = "mesos.internal.StatusUpdateMessage";

/// The point before an effect, where it has one.
#[cfg(debug_assertions)]
fn failpoint_of(effect: &Effect) -> Option<&'static str> {
    Some(match effect {
        Effect::Launch(_) => "effect.launch",
        Effect::Watch { .. } => "effect.watch",
        Effect::Update { .. } => "effect.update",
        Effect::Signal { .. } => "effect.signal",
        Effect::Destroy { .. } => "effect.destroy",
        Effect::Forget { .. } => "effect.forget",
        Effect::Send { message, .. } => match message.name.as_str() {
            UPDATE => "send.update.before",
            "mesos.internal.UpdateOperationStatusMessage" => "send.operation.before",
            "mesos.internal.RegisterSlaveMessage" => "effect.register",
            "mesos.internal.ReregisterSlaveMessage" => "effect.reregister",
            _ => return None,
        },
        _ => return None,
    })
}

/// Mail handled before the snapshot is published.
const BATCH: usize = 256;

impl Driver {
    async fn run(mut self) -> Result<Outcome, AgentError> {
        let mut batch = Vec::with_capacity(BATCH);
        loop {
            tokio::select! {
                biased;
                count = self.mailbox.recv_many(&mut batch, BATCH) => {
                    if count == 0 {
                        break;
                    }
                }
                timer = self.timers.next() => {
                    batch.push(Mail::Event(Event::Timer(timer)));
                }
            }
            let mut effects = Vec::new();
            if let Some(by) = self.clock.set() {
                effects.extend(self.core.handle(now(), Event::ClockSet { by }));
            }
            for mail in batch.drain(..) {
                self.take(mail, &mut effects);
            }
            self.publish();
            self.apply(effects);
            if let Some(ended) = self.ended.take() {
                self.storage.finish().await;
                self.containers.finish().await;
                return ended;
            }
        }
        Ok(Outcome::Detached)
    }

    fn take(&mut self, mail: Mail, effects: &mut Vec<Effect>) {
        let event = match mail {
            Mail::Event(event) => event,
            Mail::Call { command, reply } => {
                let id = self.ids.next();
                self.calls.insert(id, reply);
                Event::Call { id, command }
            }
            Mail::Subscribe { stream, events, command, reply } => {
                let id = self.ids.next();
                self.calls.insert(id, reply);
                self.streams.insert(stream, events);
                Event::Call { id, command }
            }
            Mail::Discarded(paths) => {
                self.collector.remove(None, paths);
                return;
            }
            Mail::Detach => {
                self.ended = Some(Ok(Outcome::Detached));
                return;
            }
        };
        if let Event::StreamClosed(stream) = &event {
            self.streams.remove(stream);
        }
        effects.extend(self.core.handle(now(), event));
    }

    fn publish(&mut self) {
        let snapshot = Arc::new(self.core.snapshot());
        self.snapshots.send_replace(snapshot);
    }

    /// Runs effects, and those of the events they cause at once.
    fn apply(&mut self, effects: Vec<Effect>) {
        let mut effects = effects;
        loop {
            for effect in effects.drain(..) {
                self.run_effect(effect);
            }
            if self.local.is_empty() {
                return;
            }
            for event in std::mem::take(&mut self.local) {
                effects.extend(self.core.handle(now(), event));
            }
            self.publish();
        }
    }

    fn run_effect(&mut self, effect: Effect) {
        #[cfg(debug_assertions)]
        if let Some(name) = failpoint_of(&effect) {
            kernel::failpoint!(name);
        }
        match effect {
            Effect::Detect => start::detect(self.master.clone(), self.back.clone()),
            Effect::Link { to } => self.outbox.link(&to),
            Effect::Send { to, message } => {
                let update = message.name == UPDATE;
                self.outbox.send(&to, message);
                if update {
                    kernel::failpoint!(soon "send.update.after");
                }
            }
            Effect::Stream { stream, event } => self.write(stream, *event),
            Effect::CloseStream(stream) => {
                self.streams.remove(&stream);
            }
            Effect::Reply { call, result } => {
                if let Some(reply) = self.calls.remove(&call) {
                    let _ = reply.send(result); // The caller may have gone.
                }
            }
            Effect::Persist { seq, record } => self.storage.write(seq, record),
            Effect::Launch(spec) => self.containers.launch(*spec),
            Effect::AskProgress { container } => self.containers.ask_progress(container),
            Effect::Watch { container } => self.containers.watch(container),
            Effect::Update { container, requests, limits, tasks } => {
                self.containers.update(container, requests, limits, tasks);
            }
            Effect::Signal { container, signal } => self.containers.signal(container, signal),
            Effect::Destroy { container, termination } => {
                self.containers.destroy(container, termination);
            }
            Effect::Probe { container, pid, directory, user, attempt } => {
                let target = checks::Target { container, pid, directory, user };
                self.containers.probe(target, *attempt);
            }
            Effect::Forget { container } => self.containers.forget(container),
            Effect::Schedule { after, timer } => self.timers.add(after, timer),
            Effect::MeasureDisk => {
                self.storage.refill();
                self.collector.measure_disk();
            }
            Effect::Discard { garbage, urgent } if !urgent && self.collector.is_read(&garbage) => {
                self.local.push(self.collector.in_use(garbage));
            }
            Effect::Discard { garbage, .. } => self.storage.discard(garbage),
            Effect::Remove { garbage, paths } => self.collector.remove(Some(garbage), paths),
            Effect::Weigh(garbage) => self.collector.weigh(garbage),
            Effect::Exit { message, ok } => {
                let result = if ok {
                    tracing::info!("{message}");
                    Ok(Outcome::ShutDown)
                } else {
                    Err(AgentError::Fatal(message))
                };
                self.ended.get_or_insert(result);
            }
        }
    }

    fn write(&mut self, stream: StreamId, event: executor::Event) {
        let Some(sender) = self.streams.get(&stream) else { return };
        if sender.try_send(event).is_err() {
            // Gone, or too slow to be told everything: it must subscribe again.
            tracing::warn!(?stream, "closing the event stream of an executor that does not read");
            self.streams.remove(&stream);
            self.local.push(Event::StreamClosed(stream));
        }
    }
}
