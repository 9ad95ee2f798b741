//! A world for the core: a master, containers and a disk, all in memory but the
//! disk, which is real files in a temporary directory. Nothing happens by itself:
//! the test picks what happens next.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};

use mesos::internal as m;
use mesos::{
    CommandInfo, ExecutorId, ExecutorInfo, FrameworkId, FrameworkInfo, MasterInfo, Resource,
    SlaveId, SlaveInfo, TaskId, TaskInfo, TaskState, framework_info, value,
};
use prost::Message;

use crate::agent::config::Config;
use crate::agent::core::Core;
use crate::agent::core::event::{
    Effect, Event, Inbound, LaunchedContainer, NotDiscarded, Seq, Timer,
};
use crate::agent::core::recovery::FoundContainers;
use crate::agent::core::state::{StreamId, is_terminal};
use crate::agent::inbox;
use crate::checkpoint::{Garbage, Mode, Record, Store, WorkDir, recover};
use crate::checks;
use crate::containerizer::{Progress, Termination};
use crate::fetch;

pub const MASTER: &str = "master@127.0.0.1:5050";
pub const AGENT_ID: &str = "M-S0";

/// A container in the simulated kernel; it outlives the agent.
#[derive(Debug, Clone, PartialEq)]
pub enum Container {
    Running(u32),
    /// Wait status; the record stays until it is forgotten.
    Exited(i32),
}

/// Something an effect started that completes when the test says so.
#[derive(Debug)]
pub enum Pending {
    Launch(String),
    Watch(String),
    Destroy(String),
    Signal(String),
    Event(Event),
}

pub struct World {
    pub dir: PathBuf,
    pub core: Core,
    pub now: f64,
    store: Store,
    seed: u64,
    pub storage: VecDeque<(Seq, Record)>,
    /// Written, and not yet flushed.
    pub unflushed: VecDeque<Seq>,
    pub pending: Vec<Pending>,
    pub timers: Vec<Timer>,
    pub containers: BTreeMap<String, Container>,
    /// Libprocess messages on their way to the agent.
    pub inbox: VecDeque<(String, Inbound)>,
    /// All messages the agent sent: (to, name, body).
    pub sent: Vec<(String, String, Vec<u8>)>,
    /// Tasks the master counts on, and the newest state it heard of each.
    pub tasks: BTreeMap<String, TaskState>,
    /// Status updates as the framework saw them, repetitions left out.
    pub seen: Vec<(String, TaskState, Vec<u8>, mesos::TaskStatus)>,
    /// All events that the agent put on executors' streams.
    pub streams: Vec<(StreamId, mesos::executor::Event)>,
    /// Containers that ever ran.
    pub started: BTreeSet<String>,
    pub exit: Option<String>,
    pub answers: bool,
    /// What probes find, one after the other; then they are not answered.
    pub answers_to_checks: VecDeque<checks::Outcome>,
    /// Launches do not come to their end.
    pub slow: bool,
    /// Bytes that every launch has fetched, if one is asked.
    pub fetched: u64,
    /// The agent dies after this many more effects.
    pub fuse: Option<usize>,
    pub forgotten: Vec<String>,
    /// What was discarded, and whether it was urgent.
    pub collected: Vec<(Garbage, bool)>,
    /// What garbage is said to occupy.
    pub weights: BTreeMap<Garbage, u64>,
    pub crashes: usize,
    /// How operations ended by what the master heard, repetitions left out.
    pub operations: Vec<(Vec<u8>, mesos::OperationStatus)>,
    resource_version: Vec<u8>,
}

static WORLDS: AtomicU64 = AtomicU64::new(0);

pub fn framework(checkpoint: bool) -> FrameworkInfo {
    use framework_info::capability::Type as C;
    FrameworkInfo {
        user: "root".into(),
        name: "test".into(),
        id: Some(FrameworkId { value: "F".into() }),
        checkpoint: Some(checkpoint),
        capabilities: [C::PartitionAware, C::TaskKillingState]
            .map(|c| framework_info::Capability { r#type: Some(c as i32) })
            .to_vec(),
        ..FrameworkInfo::default()
    }
}

pub fn scalar(name: &str, value: f64) -> Resource {
    Resource {
        name: name.into(),
        r#type: value::Type::Scalar as i32,
        scalar: Some(value::Scalar { value }),
        ..Resource::default()
    }
}

pub fn command_task(id: &str) -> TaskInfo {
    TaskInfo {
        name: id.into(),
        task_id: TaskId { value: id.into() },
        slave_id: SlaveId { value: AGENT_ID.into() },
        resources: vec![scalar("cpus", 0.1), scalar("mem", 32.0)],
        command: Some(CommandInfo { value: Some("sleep 1000".into()), ..CommandInfo::default() }),
        ..TaskInfo::default()
    }
}

/// A command task that fetches something first.
pub fn fetching_task(id: &str) -> TaskInfo {
    let mut task = command_task(id);
    let uri = mesos::command_info::Uri { value: "http://x/data".into(), ..Default::default() };
    task.command.get_or_insert_default().uris = vec![uri];
    task
}

pub fn executor_task(id: &str, executor: &str) -> TaskInfo {
    TaskInfo {
        command: None,
        executor: Some(ExecutorInfo {
            executor_id: ExecutorId { value: executor.into() },
            framework_id: Some(FrameworkId { value: "F".into() }),
            command: Some(CommandInfo { value: Some("./run".into()), ..CommandInfo::default() }),
            resources: vec![scalar("cpus", 0.1), scalar("mem", 32.0)],
            ..ExecutorInfo::default()
        }),
        ..command_task(id)
    }
}

impl World {
    pub fn new() -> World {
        let number = WORLDS.fetch_add(1, Ordering::Relaxed);
        let dir =
            std::env::temp_dir().join(format!("bulkhead-core-{}-{number}", std::process::id()));
        let _ = std::fs::remove_dir_all(&dir);
        let store = Store::new(WorkDir::new(&dir), false);
        let core = Core::new(config(&dir), [1, 2], 1000.0);
        let mut world = World {
            dir,
            core,
            now: 1000.0,
            store,
            seed: 3,
            storage: VecDeque::new(),
            unflushed: VecDeque::new(),
            pending: Vec::new(),
            answers_to_checks: VecDeque::new(),
            timers: Vec::new(),
            containers: BTreeMap::new(),
            inbox: VecDeque::new(),
            sent: Vec::new(),
            tasks: BTreeMap::new(),
            seen: Vec::new(),
            streams: Vec::new(),
            started: BTreeSet::new(),
            exit: None,
            answers: true,
            slow: false,
            fetched: 0,
            fuse: None,
            forgotten: Vec::new(),
            collected: Vec::new(),
            weights: BTreeMap::new(),
            crashes: 0,
            operations: Vec::new(),
            resource_version: Vec::new(),
        };
        world.boot();
        world
    }

    /// An agent that is registered and idle.
    pub fn registered() -> World {
        let mut world = World::new();
        world.settle();
        assert_eq!(world.core.snapshot().state, crate::agent::AgentState::Running);
        world
    }

    fn boot(&mut self) {
        let recovered = recover(&WorkDir::new(&self.dir), Mode::STRICT).unwrap();
        self.core.recover(recovered).unwrap();
        let known: Vec<String> =
            self.core.known_runs().into_iter().map(|r| r.spec.run.container).collect();
        // What the checkpoints do not know is destroyed.
        self.containers.retain(|id, _| known.contains(id));
        let never_ran = known.into_iter().filter(|id| !self.containers.contains_key(id)).collect();
        let alive = self
            .containers
            .iter()
            .map(|(id, c)| match c {
                Container::Running(pid) => (id.clone(), Some(*pid)),
                Container::Exited(_) => (id.clone(), None),
            })
            .collect();
        let effects = self
            .core
            .resume(self.now, &FoundContainers { alive, never_ran, ..FoundContainers::default() });
        self.run(effects);
    }

    /// The agent's process dies and is started again.
    pub fn crash(&mut self) {
        self.crashes += 1;
        self.seed += 1;
        self.storage.clear();
        self.unflushed.clear();
        self.pending.clear();
        self.timers.clear();
        self.inbox.clear();
        self.core = Core::new(config(&self.dir), [self.seed, self.seed * 7], self.now);
        self.fuse = None;
        self.boot();
    }

    pub fn handle(&mut self, event: Event) {
        let effects = self.core.handle(self.now, event);
        self.run(effects);
    }

    fn run(&mut self, effects: Vec<Effect>) {
        for effect in effects {
            if let Some(fuse) = &mut self.fuse {
                if *fuse == 0 {
                    return self.crash();
                }
                *fuse -= 1;
            }
            self.effect(effect);
        }
    }

    fn effect(&mut self, effect: Effect) {
        match effect {
            Effect::Detect => {
                let master = MasterInfo { pid: Some(MASTER.into()), ..MasterInfo::default() };
                self.pending.push(Pending::Event(Event::MasterDetected(Some(Box::new(master)))));
            }
            Effect::Send { to, message } => self.deliver(to, &message.name, &message.body),
            Effect::Persist { seq, record } => self.storage.push_back((seq, record)),
            Effect::Launch(spec) => self.pending.push(Pending::Launch(spec.container.value)),
            Effect::Watch { container } => self.pending.push(Pending::Watch(container.value)),
            Effect::AskProgress { container } => {
                let (name, bytes_done) = ("data".into(), self.fetched);
                let far = fetch::Progress { uris: 1, name, bytes_done, ..Default::default() };
                let (container, progress) = (container.value, Some(Progress::Fetching(far)));
                self.pending.push(Pending::Event(Event::Progress { container, progress }));
            }
            Effect::Destroy { container, .. } => {
                self.pending.push(Pending::Destroy(container.value));
            }
            Effect::Signal { container, .. } => {
                self.pending.push(Pending::Signal(container.value));
            }
            Effect::Forget { container } => {
                self.containers.remove(&container.value);
                self.forgotten.push(container.value);
            }
            Effect::Update { container, tasks, .. } => {
                let event = Event::Updated { container: container.value, tasks, result: Ok(()) };
                self.pending.push(Pending::Event(event));
            }
            Effect::Schedule { timer, .. } => self.timers.push(timer),
            Effect::Exit { message, .. } => self.exit = Some(message),
            Effect::Probe { container, attempt, .. } => {
                if let Some(outcome) = self.answers_to_checks.pop_front() {
                    let event = checks::Event::Done(attempt.kind, attempt.round, outcome);
                    let event = Event::Checked { container: container.value, event };
                    self.pending.push(Pending::Event(event));
                }
            }
            Effect::Discard { garbage, urgent } => {
                let result = self.store.discard(&garbage, &[]);
                let result = result.map_err(|e| NotDiscarded::Failed(kernel::chain(&e)));
                self.collected.push((garbage.clone(), urgent));
                self.pending.push(Pending::Event(Event::Discarded { garbage, result }));
            }
            Effect::Remove { garbage, paths } => {
                for path in &paths {
                    std::fs::remove_dir_all(path).unwrap();
                }
                let result = Ok(paths.len() as u64);
                let garbage = Some(garbage);
                self.pending.push(Pending::Event(Event::Removed { garbage, result }));
            }
            Effect::Weigh(garbage) => {
                let bytes = self.weights.get(&garbage).copied();
                self.pending.push(Pending::Event(Event::Weighed { garbage, bytes }));
            }
            Effect::Stream { stream, event } => self.streams.push((stream, *event)),
            Effect::Link { .. }
            | Effect::CloseStream(_)
            | Effect::Reply { .. }
            | Effect::MeasureDisk => {}
        }
    }

    // The master.

    fn deliver(&mut self, to: String, name: &str, body: &[u8]) {
        self.sent.push((to.clone(), name.to_owned(), body.to_vec()));
        if to != MASTER {
            return;
        }
        match name {
            "mesos.internal.RegisterSlaveMessage" => {
                let it = m::RegisterSlaveMessage::decode(body).unwrap();
                self.resource_version = it.resource_version_uuid.unwrap().value;
                let id = SlaveId { value: AGENT_ID.into() };
                self.tell_agent(Inbound::SlaveRegistered(m::SlaveRegisteredMessage {
                    slave_id: id,
                    connection: None,
                }));
            }
            "mesos.internal.ReregisterSlaveMessage" => {
                let it = m::ReregisterSlaveMessage::decode(body).unwrap();
                self.resource_version = it.resource_version_uuid.clone().unwrap().value;
                self.reregister(&it);
            }
            "mesos.internal.StatusUpdateMessage" if self.answers => {
                let it = m::StatusUpdateMessage::decode(body).unwrap();
                self.status_update(it.update);
            }
            "mesos.internal.UpdateOperationStatusMessage" if self.answers => {
                let it = m::UpdateOperationStatusMessage::decode(body).unwrap();
                self.operation_update(it);
            }
            _ => {}
        }
    }

    fn reregister(&mut self, it: &m::ReregisterSlaveMessage) {
        let omitted: Vec<mesos::TaskStatus> = self
            .tasks
            .iter()
            .filter(|(_, state)| !is_terminal(**state))
            .filter(|(id, _)| !it.tasks.iter().any(|t| t.task_id.value == **id))
            .map(|(id, state)| mesos::TaskStatus {
                task_id: TaskId { value: id.clone() },
                state: *state as i32,
                ..Default::default()
            })
            .collect();
        let reconciliations = (!omitted.is_empty())
            .then(|| m::ReconcileTasksMessage {
                framework_id: FrameworkId { value: "F".into() },
                statuses: omitted,
                framework: Some(framework(true)),
            })
            .into_iter()
            .collect();
        self.tell_agent(Inbound::SlaveReregistered(m::SlaveReregisteredMessage {
            slave_id: SlaveId { value: AGENT_ID.into() },
            reconciliations,
            connection: None,
        }));
    }

    fn status_update(&mut self, update: m::StatusUpdate) {
        let uuid = update.uuid.clone().unwrap();
        let task = update.status.task_id.value.clone();
        if !self.seen.iter().any(|(_, _, u, _)| *u == uuid) {
            let state = update.status.state();
            self.seen.push((task.clone(), state, uuid.clone(), update.status.clone()));
            self.tasks.insert(task, state);
        }
        self.tell_agent(Inbound::Acknowledgement(m::StatusUpdateAcknowledgementMessage {
            slave_id: SlaveId { value: AGENT_ID.into() },
            framework_id: update.framework_id,
            task_id: update.status.task_id,
            uuid,
        }));
    }

    fn operation_update(&mut self, update: m::UpdateOperationStatusMessage) {
        let operation = update.operation_uuid.unwrap();
        if !self.operations.iter().any(|(uuid, _)| *uuid == operation.value) {
            self.operations.push((operation.value.clone(), update.status.clone()));
        }
        let Some(status_uuid) = update.status.uuid else { return };
        self.tell_agent(Inbound::AcknowledgeOperation(m::AcknowledgeOperationStatusMessage {
            status_uuid,
            operation_uuid: operation,
            resource_provider_id: None,
        }));
    }

    /// Sends an operation; its uuid.
    pub fn operate(&mut self, number: u8, operation: mesos::offer::Operation) -> Vec<u8> {
        let uuid = vec![number; 16];
        self.tell_agent(Inbound::ApplyOperation(Box::new(m::ApplyOperationMessage {
            framework_id: Some(FrameworkId { value: "F".into() }),
            operation_info: operation,
            operation_uuid: mesos::Uuid { value: uuid.clone() },
            resource_version_uuid: m::ResourceVersionUuid::default(),
        })));
        uuid
    }

    pub fn tell_agent(&mut self, message: Inbound) {
        self.inbox.push_back((MASTER.into(), message));
    }

    pub fn run_task(&mut self, task: TaskInfo, checkpoint: bool) {
        self.tasks.insert(task.task_id.value.clone(), TaskState::TaskStaging);
        let message = m::RunTaskMessage {
            framework: framework(checkpoint),
            pid: Some("@0.0.0.0:0".into()),
            resource_version_uuids: vec![m::ResourceVersionUuid {
                uuid: mesos::Uuid { value: self.resource_version.clone() },
                ..Default::default()
            }],
            task,
            ..Default::default()
        };
        self.tell_agent(Inbound::RunTask(Box::new(message)));
    }

    pub fn kill_task(&mut self, task: &str) {
        self.tell_agent(Inbound::KillTask(m::KillTaskMessage {
            framework_id: FrameworkId { value: "F".into() },
            task_id: TaskId { value: task.into() },
            kill_policy: None,
        }));
    }

    /// A message from an executor.
    pub fn tell_as_executor<M: Message + prost::Name>(&mut self, pid: &str, message: &M) {
        let inbound = inbox::decode(&M::full_name(), &message.encode_to_vec()).unwrap().unwrap();
        self.inbox.push_back((pid.to_owned(), inbound));
    }

    // What happens next.

    pub fn step_inbox(&mut self) -> bool {
        let Some((from, message)) = self.inbox.pop_front() else { return false };
        self.handle(Event::Message { from, message });
        true
    }

    pub fn step_storage(&mut self) -> bool {
        let Some((seq, record)) = self.storage.pop_front() else { return false };
        self.store.write(&record).unwrap();
        self.unflushed.push_back(seq);
        self.handle(Event::Written(seq));
        true
    }

    /// The oldest checkpoint that is written is flushed.
    pub fn step_flush(&mut self) -> bool {
        let Some(seq) = self.unflushed.pop_front() else { return false };
        self.handle(Event::Persisted(seq));
        true
    }

    /// Completes what can be completed, starting the search at `at`.
    pub fn step_pending(&mut self, at: usize) -> bool {
        for turn in 0..self.pending.len() {
            let at = (at + turn) % self.pending.len();
            let event = match &self.pending[at] {
                Pending::Event(_) => None,
                Pending::Launch(_) if self.slow => continue,
                Pending::Launch(id) => {
                    let pid = 100 + self.containers.len() as u32;
                    self.containers.insert(id.clone(), Container::Running(pid));
                    self.started.insert(id.clone());
                    let result =
                        Ok(LaunchedContainer { pid: Some(pid), status: None, details: None });
                    Some(Event::Launched { container: id.clone(), result })
                }
                Pending::Watch(id) => match self.containers.get(id) {
                    Some(Container::Running(_)) => continue,
                    other => {
                        let termination = other.map(|c| Termination {
                            status: match c {
                                Container::Exited(status) => Some(*status),
                                Container::Running(_) => None,
                            },
                            ..Termination::default()
                        });
                        Some(Event::Terminated { container: id.clone(), termination })
                    }
                },
                Pending::Destroy(id) | Pending::Signal(id) => {
                    let signal =
                        if matches!(self.pending[at], Pending::Signal(_)) { 15 } else { 9 };
                    let id = id.clone();
                    self.exit_container(&id, signal);
                    self.pending.swap_remove(at);
                    return true;
                }
            };
            let done = self.pending.swap_remove(at);
            let event = match (event, done) {
                (Some(event), Pending::Launch(id)) => {
                    self.pending.push(Pending::Watch(id));
                    event
                }
                (Some(event), _) => event,
                (None, Pending::Event(event)) => event,
                (None, other) => panic!("{other:?} has no event"),
            };
            self.handle(event);
            return true;
        }
        false
    }

    pub fn exit_container(&mut self, id: &str, status: i32) -> bool {
        match self.containers.get_mut(id) {
            Some(c @ Container::Running(_)) => {
                *c = Container::Exited(status);
                true
            }
            _ => false,
        }
    }

    pub fn running(&self) -> Vec<String> {
        let running =
            |(id, c): (&String, &Container)| matches!(c, Container::Running(_)).then(|| id.clone());
        self.containers.iter().filter_map(running).collect()
    }

    pub fn fire(&mut self, at: usize) -> bool {
        if self.timers.is_empty() {
            return false;
        }
        let timer = self.timers.swap_remove(at % self.timers.len());
        self.handle(Event::Timer(timer));
        true
    }

    /// Fires the timers that `wanted` picks.
    pub fn fire_if(&mut self, wanted: impl Fn(&Timer) -> bool) {
        let (fire, keep) = std::mem::take(&mut self.timers).into_iter().partition(wanted);
        self.timers = keep;
        for timer in fire {
            self.handle(Event::Timer(timer));
        }
    }

    /// Lets everything happen that needs no time, and registration.
    pub fn settle(&mut self) {
        for _ in 0..10_000 {
            if self.step_storage() || self.step_flush() || self.step_inbox() || self.step_pending(0)
            {
                continue;
            }
            let unregistered = self.core.snapshot().state == crate::agent::AgentState::Disconnected;
            if unregistered && self.timers.iter().any(|t| matches!(t, Timer::Register { .. })) {
                self.fire_if(|t| matches!(t, Timer::Register { .. }));
                continue;
            }
            return;
        }
        panic!("the world does not settle");
    }

    pub fn states_of(&self, task: &str) -> Vec<TaskState> {
        self.seen.iter().filter(|(t, ..)| t == task).map(|(_, s, ..)| *s).collect()
    }

    pub fn sent_to<M: Message + prost::Name + Default>(&self, to: &str) -> Vec<M> {
        let name = M::full_name();
        self.sent
            .iter()
            .filter(|(t, n, _)| t == to && *n == name)
            .map(|(_, _, body)| M::decode(&body[..]).unwrap())
            .collect()
    }
}

impl Drop for World {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

fn config(dir: &std::path::Path) -> Config {
    let info = SlaveInfo {
        hostname: "agent1.example".into(),
        port: Some(5051),
        resources: vec![scalar("cpus", 4.0), scalar("mem", 4096.0), scalar("disk", 1024.0)],
        checkpoint: Some(true),
        ..SlaveInfo::default()
    };
    Config::new(info, "slave(1)@127.0.0.1:5051", "127.0.0.1:5050", dir)
}
