//! The core on its own: scenarios as events and effects, and a random walk.

mod agents;
mod frameworks;
mod model;
mod work;

use std::time::Duration;

use mesos::internal as m;
use mesos::scheduler::{self, Call, call, event};
use prost::Message;

use super::config::Config;
use super::*;
use crate::master::Resources;

/// A core with a clock that tests turn.
pub(super) struct World {
    pub core: Core,
    pub now: Duration,
    /// Everything it did, in order.
    pub done: Vec<Effect>,
    replies: u64,
}

pub(super) const AGENT: &str = "slave(1)@10.0.0.1:5051";
const WALL: Duration = Duration::from_secs(1_000_000);

pub(super) fn parse(text: &str) -> Resources {
    Resources::parse(text, "*").expect("resources")
}

impl World {
    pub fn new() -> World {
        World::with(Config::default(), &Registry::default())
    }

    pub fn with(config: Config, registry: &Registry) -> World {
        let mut config = config;
        config.allocator.interval = config.allocation_interval;
        config.allocator.min_allocatable =
            vec![[("cpus".to_owned(), 0.01)].into(), [("mem".to_owned(), 32.0)].into()];
        let master =
            mesos::MasterInfo { id: "M".into(), ip: 1, port: 5050, ..mesos::MasterInfo::default() };
        let now = Now { mono: Duration::ZERO, wall: WALL };
        let core = Core::new(config, master, registry, now);
        let mut world = World { core, now: Duration::ZERO, done: Vec::new(), replies: 0 };
        world.event(Event::Tick);
        world
    }

    /// Hands an event over; whatever wants to be stored is stored at once.
    pub fn event(&mut self, event: Event) {
        let mut next = Some(event);
        while let Some(event) = next.take() {
            let now = Now { mono: self.now, wall: WALL + self.now };
            let effects = self.core.handle(now, event);
            let stored = effects.iter().rev().find_map(|e| match e {
                Effect::Store(seq, _) => Some(*seq),
                _ => None,
            });
            self.done.extend(effects);
            next = stored.map(Event::Stored);
        }
    }

    pub fn message<M: Message + prost::Name>(&mut self, from: &str, message: &M) {
        self.message_to("master", from, message);
    }

    pub fn message_to<M: Message + prost::Name>(&mut self, to: &str, from: &str, message: &M) {
        self.event(Event::Message {
            from: from.into(),
            to: to.into(),
            name: M::full_name(),
            body: message.encode_to_vec().into(),
        });
    }

    /// Lets time pass, with all timers that fall due on the way.
    pub fn wait(&mut self, time: Duration) {
        let until = self.now + time;
        while let Some(at) = self.core.next_deadline().filter(|at| *at <= until) {
            self.now = self.now.max(at);
            self.event(Event::Tick);
        }
        self.now = until;
        self.event(Event::Tick);
    }

    pub fn register(&mut self, pid: &str, resources: &str) -> String {
        let message = registration(resources);
        self.message(pid, &message);
        let sent = self.sent::<m::SlaveRegisteredMessage>("SlaveRegisteredMessage");
        sent.last().expect("registered").slave_id.value.clone()
    }

    /// Bodies of the messages of that type sent so far.
    pub fn sent<M: Message + Default>(&self, name: &str) -> Vec<M> {
        let of = |effect: &Effect| match effect {
            Effect::Send { name: n, body, .. } if n.ends_with(name) => {
                Some(M::decode(body.as_ref()).expect("our own message"))
            }
            _ => None,
        };
        self.done.iter().filter_map(of).collect()
    }

    /// Events put on a stream so far, heartbeats left out.
    pub fn events(&self, stream: &str) -> Vec<scheduler::Event> {
        let of = |effect: &Effect| match effect {
            Effect::Event(id, event) if id.as_str() == stream => Some((**event).clone()),
            _ => None,
        };
        let heartbeat = event::Type::Heartbeat;
        self.done.iter().filter_map(of).filter(|e| e.r#type() != heartbeat).collect()
    }

    pub fn updates(&self, stream: &str) -> Vec<mesos::TaskStatus> {
        self.events(stream).into_iter().filter_map(|e| e.update.map(|u| u.status)).collect()
    }

    pub fn offers(&self, stream: &str) -> Vec<mesos::Offer> {
        self.events(stream).into_iter().filter_map(|e| e.offers).flat_map(|o| o.offers).collect()
    }

    pub fn subscribe(&mut self, stream: &str, info: mesos::FrameworkInfo) -> String {
        let subscribe = call::Subscribe { framework_info: info, ..Default::default() };
        let subscribe = Box::new(subscribe);
        self.event(Event::Subscribe { stream: stream.into(), subscribe });
        self.wait(Duration::ZERO);
        let subscribed = self.events(stream).into_iter().find_map(|e| e.subscribed);
        subscribed.map(|s| s.framework_id.value).unwrap_or_default()
    }

    pub fn call(&mut self, stream: &str, framework: &str, call: Call) -> Result<(), Refusal> {
        self.replies += 1;
        let reply = ReplyId(self.replies);
        let framework_id = Some(mesos::FrameworkId { value: framework.into() });
        let call = Box::new(Call { framework_id, ..call });
        self.event(Event::Call { call, stream: Some(stream.to_owned()), reply });
        self.answer(reply)
    }

    pub fn command(&mut self, command: Command) -> Result<(), Refusal> {
        self.replies += 1;
        let reply = ReplyId(self.replies);
        self.event(Event::Operator { command, reply });
        self.answer(reply)
    }

    fn answer(&self, reply: ReplyId) -> Result<(), Refusal> {
        let of = |effect: &Effect| match effect {
            Effect::Reply(id, answer) if *id == reply => Some(answer.clone()),
            _ => None,
        };
        self.done.iter().find_map(of).expect("an answer")
    }

    /// Launches command tasks on the newest offer of the stream.
    pub fn launch(&mut self, stream: &str, framework: &str, tasks: &[&str]) -> mesos::Offer {
        let offer = self.offers(stream).pop().expect("an offer");
        let tasks = tasks.iter().map(|id| task(id, &offer)).collect();
        self.call(stream, framework, accept(&offer, vec![launch(tasks)])).expect("accepted");
        offer
    }

    /// The agent reports a state with the given uuid byte.
    pub fn report(&mut self, run: &m::RunTaskMessage, state: TaskState, uuid: u8) {
        let update = m::StatusUpdate {
            framework_id: run.framework.id.clone().unwrap_or_default(),
            executor_id: None,
            slave_id: Some(run.task.slave_id.clone()),
            status: mesos::TaskStatus {
                task_id: run.task.task_id.clone(),
                state: state as i32,
                uuid: Some(vec![uuid; 16]),
                ..mesos::TaskStatus::default()
            },
            timestamp: 1.0,
            uuid: Some(vec![uuid; 16]),
            latest_state: None,
        };
        let message = m::StatusUpdateMessage { update, pid: Some(AGENT.into()) };
        self.message(AGENT, &message);
    }

    pub fn acknowledge(&mut self, stream: &str, run: &m::RunTaskMessage, uuid: u8) {
        let framework = run.framework.id.clone().unwrap_or_default().value;
        let acknowledge = call::Acknowledge {
            slave_id: run.task.slave_id.clone(),
            task_id: run.task.task_id.clone(),
            uuid: vec![uuid; 16],
        };
        let call = Call {
            r#type: Some(call::Type::Acknowledge as i32),
            acknowledge: Some(acknowledge),
            ..Call::default()
        };
        self.call(stream, &framework, call).expect("taken");
    }
}

use mesos::TaskState;

pub(super) fn registration(resources: &str) -> m::RegisterSlaveMessage {
    m::RegisterSlaveMessage {
        slave: mesos::SlaveInfo {
            hostname: "agent1".into(),
            resources: parse(resources).to_protos(),
            checkpoint: Some(true),
            ..mesos::SlaveInfo::default()
        },
        version: Some("1.12.0".into()),
        agent_capabilities: (1..=8)
            .map(|c| mesos::slave_info::Capability { r#type: Some(c) })
            .collect(),
        resource_version_uuid: Some(mesos::Uuid { value: vec![1; 16] }),
        ..m::RegisterSlaveMessage::default()
    }
}

/// A framework with one role; partition-aware, task-killing, multi-role.
pub(super) fn info(name: &str, role: &str) -> mesos::FrameworkInfo {
    mesos::FrameworkInfo {
        user: "root".into(),
        name: name.into(),
        roles: vec![role.into()],
        failover_timeout: Some(60.0),
        checkpoint: Some(true),
        capabilities: [2, 5, 6, 7]
            .map(|c| mesos::framework_info::Capability { r#type: Some(c) })
            .to_vec(),
        ..mesos::FrameworkInfo::default()
    }
}

pub(super) fn task(id: &str, offer: &mesos::Offer) -> mesos::TaskInfo {
    mesos::TaskInfo {
        name: id.into(),
        task_id: mesos::TaskId { value: id.into() },
        slave_id: offer.slave_id.clone(),
        resources: parse("cpus:0.5;mem:64").to_protos(),
        command: Some(mesos::CommandInfo { value: Some("true".into()), ..Default::default() }),
        ..mesos::TaskInfo::default()
    }
}

pub(super) fn launch(task_infos: Vec<mesos::TaskInfo>) -> mesos::offer::Operation {
    mesos::offer::Operation {
        r#type: Some(mesos::offer::operation::Type::Launch as i32),
        launch: Some(mesos::offer::operation::Launch { task_infos }),
        ..Default::default()
    }
}

pub(super) fn accept(offer: &mesos::Offer, operations: Vec<mesos::offer::Operation>) -> Call {
    Call {
        r#type: Some(call::Type::Accept as i32),
        accept: Some(call::Accept {
            offer_ids: vec![offer.id.clone()],
            operations,
            filters: Some(mesos::Filters { refuse_seconds: Some(0.0) }),
        }),
        ..Call::default()
    }
}

pub(super) fn bare(kind: call::Type) -> Call {
    Call { r#type: Some(kind as i32), ..Call::default() }
}
