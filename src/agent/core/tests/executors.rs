//! The promise for tasks of executors: V0 and v1 executors that outlive the agent,
//! repeat what it has not acknowledged, and come back; the agent dies at any effect.
//! Each task ends once; what an executor has said of its end is not lost.

use std::collections::{BTreeMap, VecDeque};

use mesos::internal as m;
use mesos::{
    ExecutorId, FrameworkId, SlaveId, TaskId, TaskInfo, TaskState as S, TaskStatus, executor,
};
use proptest::prelude::*;
use prost::Message;

use super::walk::{Step, step, walks};
use super::world::{AGENT_ID, World, executor_task};
use crate::agent::core::event::{CallId, Command, Event};
use crate::agent::core::state::{StreamId, is_terminal};

/// What the agent tells an executor, in both languages.
#[derive(Debug)]
enum Told {
    Registered,
    Run(Box<TaskInfo>),
    Acknowledged(Vec<u8>),
    Reconnect,
    Shutdown,
}

/// An executor process. It knows nothing of the agent's deaths but closed streams.
#[derive(Debug, Default)]
struct Player {
    http: bool,
    container: Option<String>,
    registered: bool,
    stream: Option<StreamId>,
    tasks: BTreeMap<String, TaskInfo>,
    unacknowledged: Vec<TaskStatus>,
    mail: VecDeque<Told>,
    /// Tasks that it said have finished.
    finished: Vec<String>,
    dead: bool,
}

#[derive(Debug, Default)]
struct Stage {
    players: BTreeMap<String, Player>,
    /// Messages and events of the world that were passed on.
    heard: (usize, usize),
    streams: u64,
    crashes: usize,
    uuids: u8,
}

fn pid(executor: &str) -> String {
    format!("executor(1)@127.0.0.1:{}", 4000 + executor[1..].parse::<u16>().unwrap())
}

fn ids(executor: &str) -> (FrameworkId, ExecutorId) {
    (FrameworkId { value: "F".into() }, ExecutorId { value: executor.into() })
}

impl Stage {
    /// Passes on what the agent said, and notices deaths and births.
    fn sync(&mut self, world: &mut World) {
        if world.crashes > self.crashes {
            self.crashes = world.crashes;
            for player in self.players.values_mut().filter(|p| p.http) {
                (player.stream, player.registered) = (None, false);
            }
        }
        for (to, name, body) in &world.sent[self.heard.0..] {
            let told = match name.trim_start_matches("mesos.internal.") {
                "ExecutorRegisteredMessage" | "ExecutorReregisteredMessage" => Told::Registered,
                "RunTaskMessage" => {
                    Told::Run(Box::new(m::RunTaskMessage::decode(&body[..]).unwrap().task))
                }
                "StatusUpdateAcknowledgementMessage" => {
                    let it = m::StatusUpdateAcknowledgementMessage::decode(&body[..]).unwrap();
                    Told::Acknowledged(it.uuid)
                }
                "ReconnectExecutorMessage" => Told::Reconnect,
                "ShutdownExecutorMessage" => Told::Shutdown,
                _ => continue,
            };
            let player = self.players.iter_mut().find(|(id, _)| pid(id) == *to);
            if let Some((_, player)) = player {
                player.mail.push_back(told);
            }
        }
        for (stream, event) in &world.streams[self.heard.1..] {
            let player = self.players.values_mut().find(|p| p.stream == Some(*stream));
            let Some(player) = player else { continue };
            let told = match event.r#type() {
                executor::event::Type::Subscribed => Told::Registered,
                executor::event::Type::Launch => {
                    Told::Run(Box::new(event.launch.clone().unwrap().task))
                }
                executor::event::Type::Acknowledged => {
                    Told::Acknowledged(event.acknowledged.clone().unwrap().uuid)
                }
                executor::event::Type::Shutdown => Told::Shutdown,
                _ => continue,
            };
            player.mail.push_back(told);
        }
        self.heard = (world.sent.len(), world.streams.len());
        let snapshot = world.core.snapshot();
        for (_, executor) in snapshot.executors() {
            if let Some(player) = self.players.get_mut(executor.id()) {
                player.container.get_or_insert(executor.container_id.value.clone());
            }
        }
        let running = world.running();
        for player in self.players.values_mut() {
            let gone = |id: &String| world.started.contains(id) && !running.contains(id);
            player.dead |= player.container.as_ref().is_some_and(gone);
        }
    }

    /// One executor does the next thing it has to do.
    fn act(&mut self, world: &mut World, at: usize) -> bool {
        let running = world.running();
        for turn in 0..self.players.len() {
            let at = (at + turn) % self.players.len();
            let (id, player) = self.players.iter_mut().nth(at).unwrap();
            let lives = player.container.as_ref().is_some_and(|c| running.contains(c));
            if player.dead || !lives {
                continue;
            }
            let id = id.clone();
            if let Some(told) = player.mail.pop_front() {
                self.take(world, &id, told);
                return true;
            }
            if player.http && player.stream.is_none() {
                self.subscribe(world, &id);
                return true;
            }
            if !player.http && !player.registered {
                let (framework_id, executor_id) = ids(&id);
                let message = m::RegisterExecutorMessage { framework_id, executor_id };
                player.registered = true;
                world.tell_as_executor(&pid(&id), &message);
                return true;
            }
            let open = player.tasks.keys().find(|t| !player.finished.contains(t)).cloned();
            if let Some(task) = open.filter(|_| player.registered) {
                player.finished.push(task.clone());
                self.say(world, &id, &task, S::TaskFinished);
                return true;
            }
        }
        false
    }

    fn take(&mut self, world: &mut World, id: &str, told: Told) {
        let player = self.players.get_mut(id).unwrap();
        match told {
            Told::Registered => player.registered = true,
            Told::Run(task) => {
                let name = task.task_id.value.clone();
                player.tasks.insert(name.clone(), *task);
                self.say(world, id, &name, S::TaskRunning);
            }
            Told::Acknowledged(uuid) => {
                player.unacknowledged.retain(|s| s.uuid.as_ref() != Some(&uuid));
            }
            Told::Reconnect => {
                let (framework_id, executor_id) = ids(id);
                let updates = player.unacknowledged.iter().map(|s| update(id, s)).collect();
                let tasks = player.open_tasks();
                let message =
                    m::ReregisterExecutorMessage { executor_id, framework_id, tasks, updates };
                world.tell_as_executor(&pid(id), &message);
            }
            Told::Shutdown => {
                player.dead = true;
                let container = player.container.clone().unwrap();
                world.exit_container(&container, 0);
            }
        }
    }

    fn subscribe(&mut self, world: &mut World, id: &str) {
        self.streams += 1;
        let stream = StreamId(self.streams);
        let player = self.players.get_mut(id).unwrap();
        player.stream = Some(stream);
        let (framework, executor) = ids(id);
        let update = |status: &TaskStatus| executor::call::Update { status: status.clone() };
        let subscribe = executor::call::Subscribe {
            unacknowledged_tasks: player.open_tasks(),
            unacknowledged_updates: player.unacknowledged.iter().map(update).collect(),
        };
        let subscribe = Box::new(subscribe);
        let command = Command::Subscribe { framework, executor, stream, subscribe };
        world.handle(Event::Call { id: CallId(self.streams), command });
    }

    fn say(&mut self, world: &mut World, id: &str, task: &str, state: S) {
        self.uuids += 1;
        let player = self.players.get_mut(id).unwrap();
        let status = TaskStatus {
            task_id: TaskId { value: task.into() },
            state: state as i32,
            slave_id: Some(SlaveId { value: AGENT_ID.into() }),
            executor_id: Some(ExecutorId { value: id.into() }),
            source: Some(mesos::task_status::Source::Executor as i32),
            uuid: Some(vec![self.uuids; 16]),
            ..TaskStatus::default()
        };
        player.unacknowledged.push(status.clone());
        if !player.http {
            let message =
                m::StatusUpdateMessage { update: update(id, &status), pid: Some(pid(id)) };
            return world.tell_as_executor(&pid(id), &message);
        }
        if player.registered {
            let (framework, executor) = ids(id);
            let command = Command::Update { framework, executor, status: Box::new(status) };
            world.handle(Event::Call { id: CallId(0), command });
        }
    }
}

impl Player {
    /// What it has to tell when it comes back: tasks whose end is not acknowledged.
    fn open_tasks(&self) -> Vec<TaskInfo> {
        let said = |t: &TaskInfo| self.unacknowledged.iter().any(|s| s.task_id == t.task_id);
        let open = |t: &&TaskInfo| !self.finished.contains(&t.task_id.value) || said(t);
        self.tasks.values().filter(open).cloned().collect()
    }
}

fn update(id: &str, status: &TaskStatus) -> m::StatusUpdate {
    let (framework_id, executor_id) = ids(id);
    m::StatusUpdate {
        framework_id,
        executor_id: Some(executor_id),
        slave_id: status.slave_id.clone(),
        status: status.clone(),
        timestamp: 1.0,
        uuid: status.uuid.clone(),
        latest_state: None,
    }
}

#[derive(Debug, Clone)]
enum Own {
    Run(bool),
    Act(u8),
}

fn own() -> impl Strategy<Value = Own> {
    prop_oneof![
        2 => any::<bool>().prop_map(Own::Run),
        8 => any::<u8>().prop_map(Own::Act),
    ]
}

fn play(world: &mut World, stage: &mut Stage, step: &Step<Own>) {
    match world.take(step) {
        Some(Own::Run(http)) if stage.players.len() < 12 => {
            let number = stage.players.len();
            let id = format!("E{number}");
            world.run_task(executor_task(&format!("t{number}"), &id), true);
            stage.players.insert(id, Player { http: *http, ..Player::default() });
        }
        Some(Own::Act(at)) => drop(stage.act(world, usize::from(*at))),
        Some(Own::Run(_)) | None => {}
    }
    stage.sync(world);
}

/// Everybody does all that there is to do.
fn end(world: &mut World, stage: &mut Stage) {
    stage.sync(world);
    for _ in 0..1000 {
        if !stage.act(world, 0) {
            return;
        }
        stage.sync(world);
        world.settle();
        stage.sync(world);
    }
}

proptest! {
    #![proptest_config(walks(120))]

    #[test]
    fn executors_and_their_tasks_survive_the_agent(
        steps in prop::collection::vec(step(10, own()), 1..150)
    ) {
        let mut world = World::registered();
        let mut stage = Stage::default();
        for step in &steps {
            play(&mut world, &mut stage, step);
        }
        world.finish(|world| end(world, &mut stage));
        stage.sync(&mut world);
        for (id, player) in &stage.players {
            let task = format!("t{}", &id[1..]);
            let states = world.states_of(&task);
            let ends: Vec<S> = states.iter().copied().filter(|s| is_terminal(*s)).collect();
            prop_assert_eq!(ends.len(), 1, "{}: {:?} {:?}", task, states, player);
            let finished = player.finished.contains(&task);
            match ends[0] {
                S::TaskFinished => prop_assert!(finished, "{task}: {states:?}"),
                // Lost on its way, or its executor was too late or gone.
                S::TaskDropped => prop_assert!(world.crashes > 0, "{task}: {states:?}"),
                // Its executor ended, or was never started.
                S::TaskGone | S::TaskFailed => {
                    let ran = player.container.as_ref().is_some_and(|c| world.started.contains(c));
                    prop_assert!(player.dead || !ran, "{task}: {states:?} {player:?}");
                }
                other => prop_assert!(false, "{}: {:?}", task, other),
            }
        }
    }
}
