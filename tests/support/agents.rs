//! Simulated agents: they register, answer pings and play tasks, over the real
//! wire. Many share one listening port, as several agents of one process do.

#![allow(dead_code, reason = "every test program uses its own part")]

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use bulkhead::wire::http::{Limits, Request, Response, Service, serve};
use bulkhead::wire::libprocess::{Message, Post, Upid};
use bytes::Bytes;
use mesos::internal as m;
use mesos::{TaskState, TaskStatus};
use prost::Message as _;
use tokio::net::TcpListener;

/// What simulated agents do with a task.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Play {
    /// Run until killed.
    Run,
    /// Run and finish.
    Finish,
}

/// Agents behind one port.
pub struct Fleet {
    post: Post,
    master: Upid,
    play: Play,
    registered: AtomicUsize,
    ids: Mutex<HashMap<String, mesos::SlaveId>>,
    seen: Mutex<Vec<(String, Bytes)>>,
    keep: bool,
}

/// Capabilities of a modern agent, by number.
const CAPABILITIES: std::ops::RangeInclusive<i32> = 1..=8;

fn locked<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Fleet {
    /// Starts `count` agents behind a port of their own and registers them.
    ///
    /// # Panics
    /// When no port is free.
    pub async fn start(master: SocketAddr, count: usize, play: Play, keep: bool) -> Arc<Fleet> {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let own = listener.local_addr().expect("bound");
        let (exits, mut exited) = tokio::sync::mpsc::unbounded_channel();
        tokio::spawn(async move { while exited.recv().await.is_some() {} });
        let fleet = Arc::new(Fleet {
            post: Post::new(own, exits),
            master: Upid::new("master", master),
            play,
            registered: AtomicUsize::new(0),
            ids: Mutex::default(),
            seen: Mutex::default(),
            keep,
        });
        fleet.post.link(&fleet.master);
        let door = Arc::new(Door(fleet.clone()));
        tokio::spawn(serve(listener, door, Limits::default(), std::future::pending()));
        for n in 1..=count {
            fleet.register(n);
        }
        fleet
    }

    fn register(&self, n: usize) {
        let resources = "cpus:8;mem:16384;disk:100000;ports:[31000-32000]";
        let resources = mesos::resources::Resources::parse(resources, "*").expect("resources");
        let message = m::RegisterSlaveMessage {
            slave: mesos::SlaveInfo {
                hostname: format!("agent{n}.example"),
                port: Some(i32::from(self.post.own().port())),
                resources: resources.to_protos(),
                checkpoint: Some(true),
                ..mesos::SlaveInfo::default()
            },
            version: Some("1.12.0".into()),
            agent_capabilities: CAPABILITIES
                .map(|c| mesos::slave_info::Capability { r#type: Some(c) })
                .collect(),
            resource_version_uuid: Some(mesos::Uuid { value: vec![7; 16] }),
            ..m::RegisterSlaveMessage::default()
        };
        self.post.send_message(&format!("slave({n})"), &self.master, &message);
    }

    /// How many have been registered.
    pub fn registered(&self) -> usize {
        self.registered.load(Ordering::Relaxed)
    }

    /// Names and bodies of the messages that agents got, if they are kept.
    pub fn seen(&self) -> Vec<(String, Bytes)> {
        locked(&self.seen).clone()
    }

    /// Waits for a message of that name and returns its body.
    ///
    /// # Panics
    /// When none comes within ten seconds.
    pub async fn wait_for(&self, name: &str) -> Bytes {
        for _ in 0..1000 {
            if let Some((_, body)) = locked(&self.seen).iter().find(|(n, _)| n.ends_with(name)) {
                return body.clone();
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("no {name} within ten seconds, only {:?}", locked(&self.seen));
    }

    fn got(&self, message: &Message) {
        if self.keep {
            locked(&self.seen).push((message.name.clone(), message.body.clone()));
        }
        let us = message.to.as_str();
        match message.name.as_str() {
            "mesos.internal.SlaveRegisteredMessage" => self.is_registered(us, &message.body),
            "mesos.internal.PingSlaveMessage" => {
                self.post.send_message(us, &message.from, &m::PongSlaveMessage {});
            }
            "mesos.internal.RunTaskMessage" => {
                let Ok(run) = m::RunTaskMessage::decode(&*message.body) else { return };
                self.update(us, &run.framework, &run.task.task_id, TaskState::TaskRunning);
                if self.play == Play::Finish {
                    self.update(us, &run.framework, &run.task.task_id, TaskState::TaskFinished);
                }
            }
            "mesos.internal.KillTaskMessage" => {
                let Ok(kill) = m::KillTaskMessage::decode(&*message.body) else { return };
                let id = Some(kill.framework_id.clone());
                let framework = mesos::FrameworkInfo { id, ..Default::default() };
                self.update(us, &framework, &kill.task_id, TaskState::TaskKilled);
            }
            _ => {}
        }
    }

    fn is_registered(&self, us: &str, body: &[u8]) {
        let Ok(message) = m::SlaveRegisteredMessage::decode(body) else { return };
        if locked(&self.ids).insert(us.to_owned(), message.slave_id.clone()).is_some() {
            return;
        }
        self.registered.fetch_add(1, Ordering::Relaxed);
        let update = m::UpdateSlaveMessage {
            slave_id: message.slave_id,
            update_oversubscribed_resources: Some(false),
            operations: Some(m::update_slave_message::Operations::default()),
            resource_version_uuid: Some(mesos::Uuid { value: vec![7; 16] }),
            resource_providers: Some(m::update_slave_message::ResourceProviders::default()),
            ..m::UpdateSlaveMessage::default()
        };
        self.post.send_message(us, &self.master, &update);
    }

    fn update(
        &self,
        us: &str,
        framework: &mesos::FrameworkInfo,
        task: &mesos::TaskId,
        state: TaskState,
    ) {
        let agent = locked(&self.ids).get(us).cloned();
        let uuid = uuid::Uuid::new_v4().as_bytes().to_vec();
        let status = TaskStatus {
            task_id: task.clone(),
            state: state as i32,
            source: Some(mesos::task_status::Source::Executor as i32),
            slave_id: agent.clone(),
            uuid: Some(uuid.clone()),
            timestamp: Some(1.0),
            ..TaskStatus::default()
        };
        let update = m::StatusUpdate {
            framework_id: framework.id.clone().unwrap_or_default(),
            slave_id: agent,
            status,
            timestamp: 1.0,
            uuid: Some(uuid),
            latest_state: Some(state as i32),
            executor_id: None,
        };
        let pid = Some(format!("{us}@{}", self.post.own()));
        self.post.send_message(us, &self.master, &m::StatusUpdateMessage { update, pid });
    }
}

struct Door(Arc<Fleet>);

#[async_trait]
impl Service for Door {
    async fn call(&self, _: Request) -> Response {
        Response::not_found()
    }

    fn message(&self, message: Message) -> bool {
        self.0.got(&message);
        true
    }
}
