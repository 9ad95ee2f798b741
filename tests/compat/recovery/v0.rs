//! A V0 executor, played by the test: its container holds a process that sleeps.
//! It finishes each task at once, repeats what the agent has not acknowledged, and
//! comes back when the agent asks.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use bulkhead::wire::libprocess::{Post, Upid};
use mesos::internal as m;
use mesos::{ExecutorId, FrameworkId, SlaveId, TaskInfo, TaskState, TaskStatus};
use prost::Message;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

/// Name of a message and its body.
type Said = (String, Vec<u8>);

struct Executor {
    post: Post,
    agent: Upid,
    framework: FrameworkId,
    executor: ExecutorId,
    slave: SlaveId,
    tasks: BTreeMap<String, TaskInfo>,
    unacknowledged: Vec<m::StatusUpdate>,
    registered: bool,
    finishes: bool,
}

/// Starts it; it lives as long as the test's runtime.
pub async fn start(agent: &str, framework: &str, executor: &str) {
    play(agent, framework, executor, true).await;
}

/// One whose tasks never end, until it is aborted.
pub async fn start_slow(agent: &str, framework: &str, executor: &str) -> JoinHandle<()> {
    play(agent, framework, executor, false).await
}

async fn play(agent: &str, framework: &str, executor: &str, finishes: bool) -> JoinHandle<()> {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let own = listener.local_addr().expect("bound");
    let (exits, mut exited) = mpsc::unbounded_channel();
    tokio::spawn(async move { while exited.recv().await.is_some() {} });
    let (sender, mut inbox) = mpsc::unbounded_channel();
    tokio::spawn(listen(listener, sender));
    let agent: SocketAddr = agent.parse().expect("an address");
    let mut it = Executor {
        post: Post::new(own, exits),
        agent: Upid::new("slave(1)", agent),
        framework: FrameworkId { value: framework.to_owned() },
        executor: ExecutorId { value: executor.to_owned() },
        slave: SlaveId::default(),
        tasks: BTreeMap::new(),
        unacknowledged: Vec::new(),
        registered: false,
        finishes,
    };
    tokio::spawn(async move {
        let mut again = tokio::time::interval(Duration::from_millis(100));
        loop {
            tokio::select! {
                said = inbox.recv() => match said {
                    Some((name, body)) => it.hear(&name, &body),
                    None => return,
                },
                // The agent refuses whom it does not expect yet.
                _ = again.tick(), if !it.registered => {
                    it.say(&m::RegisterExecutorMessage {
                        framework_id: it.framework.clone(),
                        executor_id: it.executor.clone(),
                    });
                }
            }
        }
    })
}

impl Executor {
    fn say<M: Message + prost::Name>(&self, message: &M) {
        self.post.send_message("executor(1)", &self.agent, message);
    }

    fn hear(&mut self, name: &str, body: &[u8]) {
        match name.trim_start_matches("mesos.internal.") {
            "ExecutorRegisteredMessage" => {
                let it = m::ExecutorRegisteredMessage::decode(body).expect("a message");
                (self.registered, self.slave) = (true, it.slave_id);
            }
            "RunTaskMessage" => {
                let task = m::RunTaskMessage::decode(body).expect("a message").task;
                self.update(&task, TaskState::TaskRunning);
                if self.finishes {
                    self.update(&task, TaskState::TaskFinished);
                }
                self.tasks.insert(task.task_id.value.clone(), task);
            }
            "ReconnectExecutorMessage" => self.say(&m::ReregisterExecutorMessage {
                executor_id: self.executor.clone(),
                framework_id: self.framework.clone(),
                tasks: self.tasks.values().cloned().collect(),
                updates: self.unacknowledged.clone(),
            }),
            "StatusUpdateAcknowledgementMessage" => {
                let it = m::StatusUpdateAcknowledgementMessage::decode(body).expect("a message");
                self.unacknowledged.retain(|u| u.uuid.as_ref() != Some(&it.uuid));
                if !self.unacknowledged.iter().any(|u| u.status.task_id == it.task_id) {
                    self.tasks.remove(&it.task_id.value);
                }
            }
            _ => {}
        }
    }

    fn update(&mut self, task: &TaskInfo, state: TaskState) {
        let uuid = Some(uuid::Uuid::new_v4().as_bytes().to_vec());
        let update = m::StatusUpdate {
            framework_id: self.framework.clone(),
            executor_id: Some(self.executor.clone()),
            slave_id: Some(self.slave.clone()),
            timestamp: 0.0,
            uuid: uuid.clone(),
            latest_state: None,
            status: TaskStatus {
                task_id: task.task_id.clone(),
                state: state as i32,
                slave_id: Some(self.slave.clone()),
                uuid,
                ..TaskStatus::default()
            },
        };
        self.unacknowledged.push(update.clone());
        let pid = Some(Upid::new("executor(1)", self.post.own()).to_string());
        self.say(&m::StatusUpdateMessage { update, pid });
    }
}

async fn listen(listener: TcpListener, sender: mpsc::UnboundedSender<Said>) {
    while let Ok((mut stream, _)) = listener.accept().await {
        let sender = sender.clone();
        tokio::spawn(async move {
            let (mut bytes, mut part) = (Vec::new(), [0; 4096]);
            while let Ok(n @ 1..) = stream.read(&mut part).await {
                bytes.extend_from_slice(&part[..n]);
                while let Some((said, length)) = take(&bytes) {
                    let _ = sender.send(said);
                    bytes.drain(..length);
                    let answer = b"HTTP/1.1 202 Accepted\r\nContent-Length: 0\r\n\r\n";
                    let _ = stream.write_all(answer).await;
                }
            }
        });
    }
}

/// The first whole message and its length; the body is one chunk.
fn take(bytes: &[u8]) -> Option<(Said, usize)> {
    let head = bytes.windows(4).position(|w| w == b"\r\n\r\n")?;
    let text = String::from_utf8_lossy(&bytes[..head]).into_owned();
    let name = text.split(' ').nth(1)?.rsplit('/').next()?.to_owned();
    let (mut at, mut body) = (head + 4, Vec::new());
    if !text.to_lowercase().contains("transfer-encoding: chunked") {
        return Some(((name, body), at));
    }
    loop {
        let line = bytes[at..].windows(2).position(|w| w == b"\r\n")?;
        let size = std::str::from_utf8(&bytes[at..at + line]).ok()?;
        let size = usize::from_str_radix(size.trim(), 16).ok()?;
        at += line + 2;
        body.extend_from_slice(bytes.get(at..at + size)?);
        bytes.get(at + size..at + size + 2)?;
        at += size + 2;
        if size == 0 {
            return Some(((name, body), at));
        }
    }
}
