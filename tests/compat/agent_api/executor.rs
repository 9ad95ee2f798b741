//! The default executor's process body against an agent that the test plays:
//! streams, calls, acknowledgements, and an agent that goes away and comes back.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use bulkhead::executor::driver;
use bulkhead::executor::settings::Settings;
use bulkhead::wire::http::{Limits, Request, Response, Service, StatusCode, serve};
use bytes::Bytes;
use mesos::executor::{Event, call, event};
use mesos::{
    ContainerId, ExecutorId, FrameworkId, FrameworkInfo, TaskGroupInfo, TaskId, TaskInfo, agent,
    recordio, schema,
};
use prost::Message as _;
use tokio::net::TcpListener;
use tokio::sync::{mpsc, oneshot, watch};

use crate::support::TempDir;

/// What the played agent saw and how its containers end.
#[derive(Default)]
struct Seen {
    /// Task and state of every update, in order.
    updates: Vec<(String, String)>,
    subscriptions: usize,
    kills: Vec<i32>,
    /// Container of each launch, in order.
    launches: Vec<String>,
}

struct Played {
    seen: Mutex<Seen>,
    stream: Mutex<Option<mpsc::Sender<Bytes>>>,
    tasks: Vec<TaskInfo>,
    /// Wait status of ended containers by their launch's number.
    ends: watch::Receiver<BTreeMap<usize, i32>>,
}

fn framed(event: &Event) -> Bytes {
    let mut out = Vec::new();
    recordio::encode(&event.encode_to_vec(), &mut out);
    out.into()
}

impl Played {
    fn seen(&self) -> std::sync::MutexGuard<'_, Seen> {
        self.seen.lock().expect("no test panics while looking")
    }

    async fn executor_call(&self, body: &[u8]) -> Response {
        let call: mesos::executor::Call = schema::decode(body).expect("a whole call");
        match call.r#type() {
            call::Type::Subscribe => {
                let first = {
                    let mut seen = self.seen();
                    seen.subscriptions += 1;
                    seen.subscriptions == 1
                };
                let (sender, receiver) = mpsc::channel(16);
                sender.send(framed(&subscribed())).await.expect("room");
                if first {
                    let group = TaskGroupInfo { tasks: self.tasks.clone() };
                    let launch = Event {
                        r#type: Some(event::Type::LaunchGroup as i32),
                        launch_group: Some(event::LaunchGroup { task_group: group }),
                        ..Default::default()
                    };
                    sender.send(framed(&launch)).await.expect("room");
                }
                *self.stream.lock().expect("no test panics here") = Some(sender);
                Response::stream("application/x-protobuf", receiver)
            }
            call::Type::Update => {
                let status = call.update.expect("an update").status;
                let seen = (status.task_id.value.clone(), status.state().as_str_name().to_owned());
                self.seen().updates.push(seen);
                let acknowledged = Event {
                    r#type: Some(event::Type::Acknowledged as i32),
                    acknowledged: Some(event::Acknowledged {
                        task_id: status.task_id,
                        uuid: status.uuid.expect("an id"),
                    }),
                    ..Default::default()
                };
                let stream = self.stream.lock().expect("no test panics here").clone();
                if let Some(stream) = stream {
                    let _ = stream.send(framed(&acknowledged)).await;
                }
                Response::empty(StatusCode::ACCEPTED)
            }
            _ => Response::empty(StatusCode::ACCEPTED),
        }
    }

    async fn agent_call(&self, body: &[u8]) -> Response {
        let call: agent::Call = schema::decode(body).expect("a whole call");
        #[allow(deprecated)] // the executor uses the older names
        if let Some(launch) = call.launch_container {
            self.seen().launches.push(launch.container_id.value);
            Response::empty(StatusCode::OK)
        } else if let Some(kill) = call.kill_nested_container {
            self.seen().kills.push(kill.signal());
            Response::empty(StatusCode::OK)
        } else {
            let wait = call.wait_nested_container.expect("launch, kill or wait");
            self.ended(&wait.container_id.value).await
        }
    }

    async fn ended(&self, container: &str) -> Response {
        let launches = self.seen().launches.clone();
        let number = launches.iter().position(|c| c == container).expect("launched here");
        let mut ends = self.ends.clone();
        let ends = ends.wait_for(|ends| ends.contains_key(&number)).await.expect("it ends");
        let wait = agent::response::WaitNestedContainer {
            exit_status: ends.get(&number).copied(),
            ..Default::default()
        };
        #[allow(deprecated)] // as above
        let answer = agent::Response {
            r#type: Some(agent::response::Type::WaitNestedContainer as i32),
            wait_nested_container: Some(wait),
            ..Default::default()
        };
        Response::bytes("application/x-protobuf", answer.encode_to_vec())
    }
}

#[async_trait]
impl Service for Played {
    async fn call(&self, mut request: Request) -> Response {
        let body = request.bytes().await.expect("a body");
        match request.path.as_str() {
            "/slave(1)/api/v1/executor" => self.executor_call(&body).await,
            "/slave(1)/api/v1" => self.agent_call(&body).await,
            other => panic!("unexpected path {other}"),
        }
    }
}

fn subscribed() -> Event {
    Event {
        r#type: Some(event::Type::Subscribed as i32),
        subscribed: Some(event::Subscribed {
            framework_info: FrameworkInfo::default(),
            container_id: Some(ContainerId { value: "parent".into(), parent: None }),
            ..Default::default()
        }),
        ..Default::default()
    }
}

fn task(name: &str) -> TaskInfo {
    TaskInfo {
        name: name.into(),
        task_id: TaskId { value: name.into() },
        command: Some(mesos::CommandInfo { value: Some("true".into()), ..Default::default() }),
        ..Default::default()
    }
}

fn settings(address: SocketAddr, dir: &TempDir) -> Settings {
    Settings {
        framework_id: FrameworkId { value: "f".into() },
        executor_id: ExecutorId { value: "e".into() },
        agent: address,
        agent_id: "slave(1)".into(),
        sandbox: dir.path().to_owned(),
        container_ip: "127.0.0.1".into(),
        recovery_timeout: Some(Duration::from_secs(60)),
        subscription_backoff: Duration::from_millis(50),
        shutdown_grace: Duration::from_secs(5),
        token: None,
    }
}

async fn listen(played: &Arc<Played>, address: &str) -> (SocketAddr, oneshot::Sender<()>) {
    let listener = TcpListener::bind(address).await.expect("a port");
    let address = listener.local_addr().expect("bound");
    let (stop, stopped) = oneshot::channel();
    let limits = Limits { drain: Duration::ZERO, ..Limits::default() };
    let service = played.clone();
    tokio::spawn(serve(listener, service, limits, async {
        let _ = stopped.await;
    }));
    (address, stop)
}

async fn until(what: &str, holds: impl Fn() -> bool) {
    for _ in 0..1000 {
        if holds() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("waited 10 s for {what}");
}

#[tokio::test]
async fn a_failed_task_takes_its_group_along_and_everything_is_reported() {
    let dir = TempDir::new("default-executor");
    let (end, ends) = watch::channel(BTreeMap::new());
    let played = Arc::new(Played {
        seen: Mutex::default(),
        stream: Mutex::default(),
        tasks: vec![task("a"), task("b")],
        ends,
    });
    let (address, _stop) = listen(&played, "127.0.0.1:0").await;
    let executor = tokio::spawn(driver::run(settings(address, &dir)));
    until("both to run", || {
        played.seen().updates.iter().filter(|(_, s)| s == "TASK_RUNNING").count() == 2
    })
    .await;
    assert!(dir.path().join("tasks/a").is_symlink(), "the link for people");
    end.send_modify(|ends| {
        ends.insert(0, 3 << 8);
    });
    until("the kill of the other", || played.seen().kills == [15]).await;
    end.send_modify(|ends| {
        ends.insert(1, 15);
    });
    tokio::time::timeout(Duration::from_secs(10), executor).await.expect("it ends").expect("well");
    let updates = played.seen().updates.clone();
    let ends: Vec<&str> = updates.iter().skip(4).map(|(_, state)| state.as_str()).collect();
    assert_eq!(ends, ["TASK_FAILED", "TASK_KILLED"], "{updates:?}");
}

#[tokio::test]
async fn an_agent_that_restarts_hears_the_end_of_the_task() {
    let dir = TempDir::new("default-executor-restart");
    let (end, ends) = watch::channel(BTreeMap::new());
    let played = Arc::new(Played {
        seen: Mutex::default(),
        stream: Mutex::default(),
        tasks: vec![task("a")],
        ends,
    });
    let (address, stop) = listen(&played, "127.0.0.1:0").await;
    let executor = tokio::spawn(driver::run(settings(address, &dir)));
    until("it to run", || played.seen().updates.len() == 2).await;
    drop(stop);
    *played.stream.lock().expect("no test panics here") = None;
    end.send_modify(|ends| {
        ends.insert(0, 0);
    });
    tokio::time::sleep(Duration::from_millis(100)).await;
    let (_, _stop) = listen(&played, &address.to_string()).await;
    tokio::time::timeout(Duration::from_secs(20), executor).await.expect("it ends").expect("well");
    let seen = played.seen();
    assert_eq!(seen.subscriptions, 2);
    assert_eq!(seen.updates.last(), Some(&("a".to_owned(), "TASK_FINISHED".to_owned())));
}
