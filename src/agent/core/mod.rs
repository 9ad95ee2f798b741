//! The agent's decisions, free of I/O and clocks.
//!
//! Owns what the agent knows: frameworks, executors, tasks, status-update
//! streams, the garbage schedule. The driver calls [`Core::handle`] with one
//! [`Event`] at a time and runs the returned [`Effect`]s in order. Time and
//! randomness come in from outside, so a run can be repeated in a test.
//!
//! ```text
//! Recovering --recovered--> Disconnected --registered--> Running
//!                                ^                          |
//!                                +--- master lost, no pings -+
//! any of them --shutdown--> Terminating --nothing left--> exit
//! ```
//!
//! What must be durable before it has an effect is queued behind its checkpoint:
//! see [`Then`].

pub mod event;
pub mod state;

mod checks;
pub mod drain;
mod executors;
mod garbage;
mod launch;
mod messages;
pub(in crate::agent) mod names;
mod operations;
mod played;
mod progress;
mod random;
pub mod recovery;
mod registration;
mod status;
mod tasks;
mod termination;
mod wire;

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use mesos::{MasterInfo, SlaveInfo};

use self::event::{CallId, Command, Effect, Event, Inbound, Seq, Timer, WireMessage};
use self::random::Random;
use self::registration::Registration;
use self::state::{Executor, Framework, MAX_COMPLETED_FRAMEWORKS};
use super::config::Config;
use super::snapshot::{AgentState, Counters, Snapshot};
use super::updates::{Key, Updates};
use crate::checkpoint::{Garbage, Record, RunKey};

/// Seconds since the epoch.
pub type Time = f64;

/// What waits for a checkpoint.
#[derive(Debug)]
enum Then {
    /// These can happen now.
    Effects(Vec<Effect>),
    /// The update may be forwarded and its sender answered.
    UpdateStored { key: Key, uuid: Vec<u8>, origin: status::Origin },
    /// The next update of the stream may go.
    AcknowledgementStored(Key),
    /// Tasks may be killed.
    DrainStored,
    /// The update of this operation may be sent.
    OperationStored(Vec<u8>),
}

/// How far the storage is, and what waits for it to be further.
#[derive(Default)]
struct Waiting {
    reached: Seq,
    then: BTreeMap<Seq, Vec<Then>>,
}

impl Waiting {
    /// Keeps `then` until `seq` is reached; it comes back if it is.
    fn after(&mut self, seq: Seq, then: Then) -> Option<Then> {
        if self.reached >= seq {
            return Some(then);
        }
        self.then.entry(seq).or_default().push(then);
        None
    }

    /// What waited for `seq` or an earlier one, in order.
    fn reach(&mut self, seq: Seq) -> Vec<Then> {
        self.reached = self.reached.max(seq);
        let later = self.then.split_off(&(seq + 1));
        std::mem::replace(&mut self.then, later).into_values().flatten().collect()
    }

    /// What waited for `seq` never happens.
    fn forget(&mut self, seq: Seq) {
        self.then.remove(&seq);
    }
}

/// See the module's header.
pub struct Core {
    config: Config,
    state: AgentState,
    info: Arc<SlaveInfo>,
    master: Option<Arc<MasterInfo>>,
    registration: Registration,
    frameworks: BTreeMap<String, Arc<Framework>>,
    completed: VecDeque<Arc<Framework>>,
    /// Live runs: container to (framework, executor).
    containers: BTreeMap<String, (String, String)>,
    updates: Updates,
    operations: operations::Operations,
    garbage: garbage::Collection,
    counters: Counters,
    drain: Option<drain::Drain>,
    /// What is stored of the agent is not what it is now.
    info_changed: bool,
    /// The machine was restarted since the last agent.
    rebooted: bool,
    recovery_started: Time,
    recovery_secs: Option<f64>,
    random: Random,
    now: Time,
    seq: Seq,
    /// Checkpoints that survive the agent.
    written: Waiting,
    /// Checkpoints that survive the machine.
    stored: Waiting,
    /// Counts kills and streams, see [`Timer`].
    generation: u64,
    publications: u64,
    out: Vec<Effect>,
}

impl Core {
    /// An agent that has yet to recover. `seed` makes its ids; it must be
    /// unpredictable outside of tests.
    pub fn new(config: Config, seed: [u64; 2], now: Time) -> Self {
        let mut random = Random::new(seed);
        let registration = Registration::new(random.uuid());
        Core {
            operations: operations::Operations::new(&config.info.resources),
            info: Arc::new(config.info.clone()),
            config,
            state: AgentState::Recovering,
            master: None,
            registration,
            frameworks: BTreeMap::new(),
            completed: VecDeque::new(),
            containers: BTreeMap::new(),
            updates: Updates::default(),
            garbage: garbage::Collection::default(),
            counters: Counters::default(),
            drain: None,
            info_changed: false,
            rebooted: false,
            recovery_started: now,
            recovery_secs: None,
            random,
            now,
            seq: 0,
            written: Waiting::default(),
            stored: Waiting::default(),
            generation: 0,
            publications: 0,
            out: Vec::new(),
        }
    }

    /// Takes one event and says what is to be done, in order.
    pub fn handle(&mut self, now: Time, event: Event) -> Vec<Effect> {
        self.now = now;
        match event {
            Event::MasterDetected(master) => self.master_detected(master),
            Event::Message { from, message } => self.message(&from, message),
            Event::PeerExited { pid } => self.peer_exited(&pid),
            Event::Leave => self.leave(),
            Event::Call { id, command } => self.call(id, command),
            Event::StreamClosed(stream) => self.stream_closed(stream),
            Event::Written(seq) => self.written(seq),
            Event::Persisted(seq) => self.persisted(seq),
            Event::PersistFailed { seq, error } => self.persist_failed(seq, &error),
            Event::Launched { container, result } => self.launched(&container, result),
            Event::Progress { container, progress } => self.progress(&container, progress),
            Event::Updated { container, tasks, result } => {
                self.updated(&container, &tasks, result);
            }
            Event::Terminated { container, termination } => {
                self.terminated(&container, termination.as_ref());
            }
            Event::Checked { container, event } => self.checked(&container, event),
            Event::Timer(timer) => self.timer(timer),
            Event::DiskMeasured(disk) => self.disk_measured(disk),
            Event::DiskFull { waiting, reserve } => self.disk_full(waiting, reserve),
            Event::Discarded { garbage, result } => self.discarded(garbage, result),
            Event::Removed { garbage, result } => self.removed(garbage, result),
            Event::Weighed { garbage, bytes } => self.weighed(garbage, bytes),
            Event::ContainerEnded { sandbox } => self.sandbox_ended(sandbox),
            Event::ClockSet { by } => self.clock_set(by),
        }
        std::mem::take(&mut self.out)
    }

    /// A picture for readers.
    pub fn snapshot(&mut self) -> Snapshot {
        self.publications += 1;
        let mut counters = self.counters.clone();
        self.garbage.count(&mut counters, self.now);
        Snapshot {
            generation: self.publications,
            state: self.state,
            info: self.info.clone(),
            master: self.master.clone(),
            resources: self.operations.total.clone(),
            operations: self.operations.known.values().cloned().collect(),
            frameworks: self.frameworks.clone(),
            completed_frameworks: self.completed.clone(),
            counters,
            recovery_secs: self.recovery_secs,
            max_sandbox_age_secs: self.garbage.max_age_secs,
            drain: self.drain,
        }
    }

    fn message(&mut self, from: &str, message: Inbound) {
        match message {
            Inbound::RegisterExecutor(m) => self.register_executor(from, &m),
            Inbound::ReregisterExecutor(m) => self.reregister_executor(from, *m),
            Inbound::StatusUpdate(m) => self.v0_status_update(*m),
            Inbound::ExecutorToFramework(m) => self.executor_to_framework(m),
            // V0 drivers send these straight to the agent.
            Inbound::FrameworkToExecutor(m) => self.framework_to_executor(m),
            Inbound::Acknowledgement(m) => self.acknowledgement(&m),
            Inbound::Ping(m) => self.ping(from, &m),
            from_master if self.is_master(from) => self.master_message(from_master),
            other => {
                let kind = names::inbound(&other);
                tracing::warn!(
                    from,
                    kind,
                    "ignoring a message from somebody who is not the detected master"
                );
            }
        }
    }

    fn master_message(&mut self, message: Inbound) {
        match message {
            Inbound::SlaveRegistered(m) => self.registered(m),
            Inbound::SlaveReregistered(m) => self.reregistered(m),
            Inbound::Drain(m) => self.drain(m.config),
            Inbound::Shutdown(m) => self.shutdown(m.message.as_deref()),
            Inbound::RunTask(m) => self.run_task(*m),
            Inbound::RunTaskGroup(m) => self.run_task_group(*m),
            Inbound::KillTask(m) => self.kill_task(&m),
            Inbound::ShutdownExecutor(m) => self.shutdown_executor_message(&m),
            Inbound::ShutdownFramework(m) => self.shutdown_framework(&m.framework_id.value),
            Inbound::UpdateFramework(m) => self.update_framework(*m),
            Inbound::ApplyOperation(m) => self.apply_operation(*m),
            Inbound::AcknowledgeOperation(m) => self.operation_acknowledged(&m),
            Inbound::ReconcileOperations(m) => self.reconcile_operations(&m),
            Inbound::CheckpointResources(m) => self.checkpoint_resources(m),
            other => tracing::debug!(kind = names::inbound(&other), "ignored"),
        }
    }

    fn call(&mut self, id: CallId, command: Command) {
        let result = match command {
            Command::Subscribe { framework, executor, stream, subscribe } => {
                return self.subscribe(id, (&framework.value, &executor.value), stream, *subscribe);
            }
            Command::Update { framework, executor, status } => {
                self.http_status_update(&framework.value, &executor.value, *status)
            }
            Command::Message { framework, executor, data } => {
                self.http_message(&framework.value, &executor.value, data)
            }
            Command::Heartbeat { framework, executor } => {
                self.subscribed(&framework.value, &executor.value).map(|_| ())
            }
        };
        self.out.push(Effect::Reply { call: id, result });
    }

    fn timer(&mut self, timer: Timer) {
        match timer {
            Timer::Register { generation, backoff } => self.try_registration(generation, backoff),
            Timer::PingTimeout { generation } => self.ping_timeout(generation),
            Timer::ExecutorRegistration { container } => self.registration_timeout(&container),
            Timer::ExecutorReregistration => self.reregistration_timeout(),
            Timer::ExecutorReconnect => self.reconnect_executors(),
            Timer::Progress { container } => self.progress_due(&container),
            Timer::ExecutorShutdown { container } => self.shutdown_timeout(&container),
            Timer::KillGrace { container, generation } => {
                self.kill_grace_over(&container, generation)
            }
            Timer::MaxCompletion { container } => self.out_of_time(&container),
            Timer::Check { container, kind, round } => {
                self.checked(&container, crate::checks::Event::Due(kind, round));
            }
            Timer::UpdateRetry { framework, task, generation } => {
                let actions = self.updates.timeout(&Key { framework, task }, generation);
                self.act(actions);
            }
            Timer::OperationRetry { operation, generation, after } => {
                self.retry_operation(&operation, generation, after);
            }
            Timer::DiskWatch { generation } => self.disk_watch(generation),
            Timer::StreamHeartbeat(stream) => self.stream_heartbeat(stream),
        }
    }

    // Storage.

    fn persist(&mut self, record: Record) {
        self.seq += 1;
        self.out.push(Effect::Persist { seq: self.seq, record });
    }

    /// Stores `record`; `then` happens once it is durable.
    fn persist_then(&mut self, record: Record, then: Then) {
        self.persist(record);
        self.when_stored(then);
    }

    /// `then` happens once everything handed in so far is durable.
    fn when_stored(&mut self, then: Then) {
        if let Some(then) = self.stored.after(self.seq, then) {
            self.then(then);
        }
    }

    /// These happen once everything handed in so far survives the agent: enough for
    /// what ends with the machine, as containers do. Nobody is told of it before what
    /// is told is durable, and so is then what was handed in earlier.
    fn when_written(&mut self, effects: Vec<Effect>) {
        if let Some(then) = self.written.after(self.seq, Then::Effects(effects)) {
            self.then(then);
        }
    }

    fn written(&mut self, seq: Seq) {
        for then in self.written.reach(seq) {
            self.then(then);
        }
    }

    fn persisted(&mut self, seq: Seq) {
        self.written(seq);
        for then in self.stored.reach(seq) {
            self.then(then);
        }
    }

    fn then(&mut self, then: Then) {
        match then {
            Then::Effects(effects) => self.out.extend(effects),
            Then::UpdateStored { key, uuid, origin } => self.update_stored(&key, &uuid, &origin),
            Then::DrainStored => self.drain_tasks(),
            Then::OperationStored(uuid) => self.operation_stored(&uuid),
            Then::AcknowledgementStored(key) => {
                let actions = self.updates.next(&key);
                self.act(actions);
            }
        }
    }

    /// Mesos aborts as well: an agent that cannot remember must not promise.
    fn persist_failed(&mut self, seq: Seq, error: &str) {
        self.written.forget(seq);
        self.stored.forget(seq);
        self.out
            .push(Effect::Exit { message: format!("failed to checkpoint: {error}"), ok: false });
    }

    // Lookups.

    fn is_master(&self, from: &str) -> bool {
        self.master_pid().is_some_and(|pid| pid == from)
    }

    fn master_pid(&self) -> Option<&str> {
        self.master.as_ref().and_then(|m| m.pid.as_deref())
    }

    /// The agent's id; empty before the first registration.
    fn agent_id(&self) -> &str {
        self.info.id.as_ref().map_or("", |id| id.value.as_str())
    }

    fn framework_mut(&mut self, id: &str) -> Option<&mut Framework> {
        self.frameworks.get_mut(id).map(Arc::make_mut)
    }

    fn executor(&self, framework: &str, executor: &str) -> Option<&Executor> {
        self.frameworks.get(framework)?.executors.get(executor).map(|e| &**e)
    }

    fn executor_mut(&mut self, framework: &str, executor: &str) -> Option<&mut Executor> {
        self.framework_mut(framework)?.executors.get_mut(executor).map(Arc::make_mut)
    }

    /// The live run in a container.
    fn run_in(&mut self, container: &str) -> Option<&mut Executor> {
        let (framework, executor) = self.containers.get(container)?.clone();
        self.executor_mut(&framework, &executor)
    }

    /// The executor that has this task in any state.
    fn executor_of_task(&self, framework: &str, task: &str) -> Option<&Executor> {
        let framework = self.frameworks.get(framework)?;
        framework.executors.values().map(|e| &**e).find(|e| e.knows(task))
    }

    fn send(&mut self, to: &str, message: WireMessage) {
        self.out.push(Effect::Send { to: to.to_owned(), message });
    }

    fn send_to_master(&mut self, message: WireMessage) {
        if let Some(to) = self.master_pid().map(str::to_owned) {
            self.out.push(Effect::Send { to, message });
        }
    }

    // The end of things.

    fn retire_framework(&mut self, id: &str) {
        let Some(framework) = self.frameworks.get(id) else { return };
        if !framework.executors.is_empty() {
            return;
        }
        let Some(framework) = self.frameworks.remove(id) else { return };
        self.updates.remove_framework(id);
        let agent = self.agent_id().to_owned();
        self.discard_later(Garbage::Framework { agent, framework: id.to_owned() }, "");
        self.completed.retain(|f| f.id() != id);
        if self.completed.len() == MAX_COMPLETED_FRAMEWORKS {
            self.completed.pop_front();
        }
        self.completed.push_back(framework);
        self.drain_progress();
        self.exit_if_empty();
    }

    fn exit_if_empty(&mut self) {
        if self.state == AgentState::Terminating && self.frameworks.is_empty() {
            // After what is to be stored and forgotten.
            let exit = Effect::Exit { message: "agent shut down".to_owned(), ok: true };
            self.when_stored(Then::Effects(vec![exit]));
        }
    }

    fn next_generation(&mut self) -> u64 {
        self.generation += 1;
        self.generation
    }

    fn run_key(&self, framework: &str, executor: &str, container: &str) -> RunKey {
        RunKey {
            agent: self.agent_id().to_owned(),
            framework: framework.to_owned(),
            executor: executor.to_owned(),
            container: container.to_owned(),
        }
    }
}
