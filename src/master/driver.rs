//! The one owner task: mailbox -> core -> publish a snapshot -> do the effects.
//!
//! Nothing is awaited while an event is handled: messages go to the post,
//! events to the streams' own tasks, registry changes to the registrar's
//! thread. The mailbox is bounded; a full one refuses ([`Overloaded`]).

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use thiserror::Error;
use tokio::sync::{mpsc, oneshot, watch};

use super::core::{
    Change, Command, Core, Effect, Event, Now, OperatorEvent, Refusal, ReplyId, StreamId,
};
use super::registrar::RegistrarError;
use super::snapshot::{Identity, Snapshot};
use crate::daemon::metrics::{Gauge, Metrics, Timer};
use crate::wire::libprocess::{Message, Post, Upid};

/// Events handled before a snapshot is published and effects are done.
const BATCH: usize = 256;

/// What may wait.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Events for the owner; more are refused.
    pub mailbox: usize,
    /// Events for one scheduler's or operator's connection; a subscriber that is
    /// further behind is cut off.
    pub stream: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Limits { mailbox: 65_536, stream: 8_192 }
    }
}

/// The mailbox is full.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("Master is overloaded")]
pub struct Overloaded;

type SchedulerEvent = Arc<mesos::scheduler::Event>;

enum Input {
    Event(Event),
    Subscribe {
        stream: StreamId,
        subscribe: Box<mesos::scheduler::call::Subscribe>,
        events: mpsc::Sender<SchedulerEvent>,
    },
    Call {
        call: Box<mesos::scheduler::Call>,
        stream: Option<String>,
        answer: oneshot::Sender<Result<(), Refusal>>,
    },
    Operator {
        command: Command,
        answer: oneshot::Sender<Result<(), Refusal>>,
    },
    Watch {
        events: mpsc::Sender<OperatorEvent>,
        from: oneshot::Sender<Arc<Snapshot>>,
    },
}

/// How the doors reach the owner. Cheap to clone.
#[derive(Clone)]
pub struct Handle {
    inputs: mpsc::Sender<Input>,
    snapshots: watch::Receiver<Arc<Snapshot>>,
    /// Events that may wait for one connection.
    stream: usize,
}

impl Handle {
    fn put(&self, input: Input) -> Result<(), Overloaded> {
        self.inputs.try_send(input).map_err(|_| Overloaded)
    }

    /// The newest snapshot.
    #[must_use]
    pub fn snapshot(&self) -> Arc<Snapshot> {
        self.snapshots.borrow().clone()
    }

    /// Hands a libprocess message over. One that finds the mailbox full is lost,
    /// as on a broken connection: senders repeat what matters.
    pub fn message(&self, message: Message) {
        let event = Event::Message {
            from: message.from.to_string().as_str().into(),
            to: message.to,
            name: message.name,
            body: message.body,
        };
        if self.put(Input::Event(event)).is_err() {
            tracing::warn!("mailbox full, message lost");
        }
    }

    /// Subscribes a scheduler; its events arrive at the receiver.
    ///
    /// # Errors
    /// [`Overloaded`]
    pub fn subscribe(
        &self,
        stream: StreamId,
        subscribe: mesos::scheduler::call::Subscribe,
    ) -> Result<mpsc::Receiver<SchedulerEvent>, Overloaded> {
        let (events, receiver) = mpsc::channel(self.stream);
        self.put(Input::Subscribe { stream, subscribe: Box::new(subscribe), events })?;
        Ok(receiver)
    }

    /// The client of this stream is gone.
    pub async fn closed(&self, stream: StreamId) {
        // This must not be lost: the framework would count as connected.
        let _ = self.inputs.send(Input::Event(Event::StreamClosed(stream))).await;
    }

    /// Any other scheduler call.
    ///
    /// # Errors
    /// [`Overloaded`]; the inner error is the core's refusal.
    pub async fn call(
        &self,
        call: mesos::scheduler::Call,
        stream: Option<String>,
    ) -> Result<Result<(), Refusal>, Overloaded> {
        let (answer, answered) = oneshot::channel();
        self.put(Input::Call { call: Box::new(call), stream, answer })?;
        answered.await.map_err(|_| Overloaded)
    }

    /// Something an operator wants changed.
    ///
    /// # Errors
    /// [`Overloaded`]; the inner error is the core's refusal.
    pub async fn operator(&self, command: Command) -> Result<Result<(), Refusal>, Overloaded> {
        let (answer, answered) = oneshot::channel();
        self.put(Input::Operator { command, answer })?;
        answered.await.map_err(|_| Overloaded)
    }

    /// Follows changes: a snapshot and every event after it.
    ///
    /// # Errors
    /// [`Overloaded`]
    pub async fn watch(
        &self,
    ) -> Result<(Arc<Snapshot>, mpsc::Receiver<OperatorEvent>), Overloaded> {
        let (events, receiver) = mpsc::channel(self.stream);
        let (from, snapshot) = oneshot::channel();
        self.put(Input::Watch { events, from })?;
        Ok((snapshot.await.map_err(|_| Overloaded)?, receiver))
    }
}

/// What the driver acts with.
pub struct Hands {
    /// Outgoing messages.
    pub post: Post,
    /// Ends of links.
    pub exited: mpsc::UnboundedReceiver<Upid>,
    /// Changes for the registrar.
    pub changes: std::sync::mpsc::Sender<(u64, Change)>,
    /// Its answers.
    pub stored: mpsc::UnboundedReceiver<Result<u64, RegistrarError>>,
    /// What only the driver can measure.
    pub meters: Meters,
    /// `--max_operator_event_stream_subscribers`.
    pub max_watchers: usize,
    /// How long queues may get.
    pub limits: Limits,
}

/// Figures that the driver keeps itself.
#[derive(Debug, Clone)]
pub struct Meters {
    /// How long allocation cycles take.
    cycles: Timer,
    /// How long they wait for their turn.
    latency: Timer,
    /// Changes of the registry that are not stored yet.
    queued: Gauge,
    /// Operators' event streams.
    watchers: Gauge,
}

impl Meters {
    /// Makes them in `metrics`, under Mesos' names.
    #[must_use]
    pub fn new(metrics: &Metrics) -> Meters {
        const HOUR: Duration = Duration::from_secs(3600);
        Meters {
            cycles: metrics.timer("allocator/mesos/allocation_run", HOUR),
            latency: metrics.timer("allocator/mesos/allocation_run_latency", HOUR),
            queued: metrics.gauge("registrar/queued_operations"),
            watchers: metrics.gauge("master/operator_event_stream_subscribers"),
        }
    }

    #[allow(clippy::cast_precision_loss)] // JSON numbers are doubles
    fn queued(&self, changes: u64) {
        self.queued.set(changes as f64);
    }

    fn watching(&self, streams: usize) {
        self.watchers.set(f64::from(u32::try_from(streams).unwrap_or(u32::MAX)));
    }
}

/// The owner of the core.
pub struct Driver {
    core: Core,
    hands: Hands,
    inputs: mpsc::Receiver<Input>,
    snapshots: watch::Sender<Arc<Snapshot>>,
    identity: Arc<Identity>,
    started: Instant,
    generation: u64,
    replies: HashMap<ReplyId, oneshot::Sender<Result<(), Refusal>>>,
    next_reply: u64,
    streams: HashMap<StreamId, mpsc::Sender<SchedulerEvent>>,
    watchers: Vec<mpsc::Sender<OperatorEvent>>,
    /// Numbers of the latest change of the registry that was sent, and stored.
    changed: u64,
    stored: u64,
}

/// The time for the core, from its own start on.
#[must_use]
pub fn now(started: Instant) -> Now {
    let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
    Now { mono: started.elapsed(), wall }
}

impl Driver {
    /// A driver for a core that was made at `started`.
    #[must_use]
    pub fn new(
        core: Core,
        started: Instant,
        identity: Arc<Identity>,
        hands: Hands,
    ) -> (Driver, Handle) {
        let snapshot =
            Snapshot { generation: 0, master: identity.clone(), cluster: core.cluster().clone() };
        let (snapshots, reader) = watch::channel(Arc::new(snapshot));
        let limits = hands.limits;
        let (sender, inputs) = mpsc::channel(limits.mailbox);
        let driver = Driver {
            core,
            hands,
            inputs,
            snapshots,
            identity,
            started,
            generation: 0,
            replies: HashMap::new(),
            next_reply: 0,
            streams: HashMap::new(),
            watchers: Vec::new(),
            changed: 0,
            stored: 0,
        };
        (driver, Handle { inputs: sender, snapshots: reader, stream: limits.stream })
    }

    /// Runs until every handle is gone.
    ///
    /// # Errors
    /// When the registry fails: the master must stop.
    pub async fn run(mut self) -> Result<(), RegistrarError> {
        let mut effects = self.tick();
        loop {
            self.publish();
            self.perform(std::mem::take(&mut effects));
            let deadline = self.core.next_deadline().unwrap_or(Duration::from_secs(3600));
            let sleep = tokio::time::sleep_until((self.started + deadline).into());
            tokio::select! {
                input = self.inputs.recv() => match input {
                    Some(input) => self.input(input, &mut effects),
                    None => return Ok(()),
                },
                Some(pid) = self.hands.exited.recv() => {
                    let event = Event::Exited(pid.to_string().as_str().into());
                    effects.extend(self.handle(event));
                }
                stored = self.hands.stored.recv() => match stored {
                    Some(Ok(through)) => {
                        self.stored = through;
                        self.hands.meters.queued(self.changed.saturating_sub(through));
                        effects.extend(self.handle(Event::Stored(through)));
                    }
                    Some(Err(error)) => return Err(error),
                    None => return Ok(()),
                },
                () = sleep => effects.extend(self.tick()),
            }
            for _ in 0..BATCH {
                let Ok(input) = self.inputs.try_recv() else { break };
                self.input(input, &mut effects);
            }
        }
    }

    fn tick(&mut self) -> Vec<Effect> {
        self.handle(Event::Tick)
    }

    fn handle(&mut self, event: Event) -> Vec<Effect> {
        let runs = self.core.cluster().counters.allocation_runs;
        let before = Instant::now();
        let effects = self.core.handle(now(self.started), event);
        if self.core.cluster().counters.allocation_runs != runs {
            let meters = &self.hands.meters;
            meters.cycles.record(before, before.elapsed());
            meters.latency.record(before, self.core.cluster().counters.allocation_latency);
        }
        effects
    }

    fn input(&mut self, input: Input, effects: &mut Vec<Effect>) {
        let event = match input {
            Input::Event(event) => event,
            Input::Subscribe { stream, subscribe, events } => {
                self.streams.insert(stream.clone(), events);
                Event::Subscribe { stream, subscribe }
            }
            Input::Call { call, stream, answer } => {
                Event::Call { call, stream, reply: self.reply_id(answer) }
            }
            Input::Operator { command, answer } => {
                Event::Operator { command, reply: self.reply_id(answer) }
            }
            Input::Watch { events, from } => {
                // Events of this batch come before the snapshot it will get.
                self.publish();
                self.perform(std::mem::take(effects));
                self.watch(events, from);
                return;
            }
        };
        effects.extend(self.handle(event));
    }

    fn reply_id(&mut self, answer: oneshot::Sender<Result<(), Refusal>>) -> ReplyId {
        self.next_reply += 1;
        let id = ReplyId(self.next_reply);
        self.replies.insert(id, answer);
        id
    }

    fn watch(&mut self, events: mpsc::Sender<OperatorEvent>, from: oneshot::Sender<Arc<Snapshot>>) {
        self.watchers.retain(|watcher| !watcher.is_closed());
        if self.watchers.len() >= self.hands.max_watchers.max(1) {
            self.watchers.remove(0); // The oldest makes room.
        }
        self.watchers.push(events);
        self.hands.meters.watching(self.watchers.len());
        let _ = from.send(self.snapshots.borrow().clone());
    }

    fn publish(&mut self) {
        self.generation += 1;
        self.snapshots.send_replace(Arc::new(Snapshot {
            generation: self.generation,
            master: self.identity.clone(),
            cluster: self.core.cluster().clone(),
        }));
    }

    fn perform(&mut self, effects: Vec<Effect>) {
        for effect in effects {
            match effect {
                Effect::Send { from, to, name, body } => {
                    if let Some(to) = upid(to.as_str()) {
                        self.hands.post.send(&from.to_string(), &to, name, body);
                    }
                }
                Effect::Link(pid) => {
                    if let Some(to) = upid(pid.as_str()) {
                        self.hands.post.link(&to);
                    }
                }
                Effect::Unlink(pid) => {
                    if let Some(to) = upid(pid.as_str()) {
                        self.hands.post.unlink(&to);
                    }
                }
                Effect::Event(stream, event) => self.stream_event(&stream, event),
                Effect::Close(stream) => {
                    self.streams.remove(&stream);
                }
                Effect::Operator(event) => self.tell_watchers(&event),
                Effect::Store(seq, change) => {
                    // A registrar that is gone has said why; `run` ends with that.
                    let _ = self.hands.changes.send((seq, change));
                    self.changed = seq;
                    self.hands.meters.queued(seq.saturating_sub(self.stored));
                }
                Effect::Reply(id, answer) => {
                    if let Some(waiting) = self.replies.remove(&id) {
                        let _ = waiting.send(answer);
                    }
                }
            }
        }
    }

    fn stream_event(&mut self, stream: &StreamId, event: SchedulerEvent) {
        let Some(sender) = self.streams.get(stream) else { return };
        if let Err(mpsc::error::TrySendError::Full(_)) = sender.try_send(event) {
            tracing::warn!(stream = %stream, "scheduler does not read its events, cutting it off");
            self.streams.remove(stream);
        }
    }

    fn tell_watchers(&mut self, event: &OperatorEvent) {
        self.watchers.retain(|watcher| watcher.try_send(event.clone()).is_ok());
        self.hands.meters.watching(self.watchers.len());
    }
}

fn upid(pid: &str) -> Option<Upid> {
    pid.parse().map_err(|error| tracing::warn!("cannot send to {pid}: {error}")).ok()
}

#[cfg(test)]
#[path = "driver_tests.rs"]
mod tests;
