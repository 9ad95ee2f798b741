//! A master that is a script: it receives and sends real libprocess bytes on the
//! loopback, and the agent under test in a runtime of its own, so that it can
//! die at once.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bulkhead::agent::api::metrics::Surroundings;
use bulkhead::agent::api::streams::Sessions;
use bulkhead::agent::api::{About, Api, Context};
use bulkhead::agent::{Config, Handle, Outcome, PostOutbox};
use bulkhead::containerizer::{Containerizer, native};
use bulkhead::daemon::api::Common;
use bulkhead::daemon::files::Files;
use bulkhead::daemon::flags::{Flags, agent::FLAGS};
use bulkhead::daemon::logging::Logging;
use bulkhead::daemon::metrics::Metrics;
use bulkhead::gc::Policy;
use bulkhead::launch::Engine;
use bulkhead::wire::http::{Limits, Request, Response, Service, StatusCode, serve};
use bulkhead::wire::libprocess::{Message, Post, Upid};
use mesos::SlaveInfo;
use tokio::net::TcpListener;
use tokio::runtime::Runtime;
use tokio::sync::{mpsc, watch};

/// Long enough for a loaded machine, short enough to notice a hang.
const PATIENCE: Duration = Duration::from_secs(20);

struct Inbox(mpsc::UnboundedSender<Message>);

#[async_trait]
impl Service for Inbox {
    async fn call(&self, _request: Request) -> Response {
        Response::text(StatusCode::NOT_FOUND, "a script")
    }

    fn message(&self, message: Message) -> bool {
        self.0.send(message).is_ok()
    }
}

/// The scripted master.
pub struct Master {
    pub address: SocketAddr,
    post: Post,
    messages: mpsc::UnboundedReceiver<Message>,
    /// Received and not yet asked for.
    kept: VecDeque<Message>,
    agent: Option<Upid>,
}

impl Master {
    pub async fn start() -> Master {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind");
        let address = listener.local_addr().expect("address");
        let (sender, messages) = mpsc::unbounded_channel();
        let (exited, _) = mpsc::unbounded_channel();
        let service = Arc::new(Inbox(sender));
        tokio::spawn(serve(listener, service, Limits::default(), std::future::pending()));
        let post = Post::new(address, exited);
        Master { address, post, messages, kept: VecDeque::new(), agent: None }
    }

    /// The next message of this type; others wait for their turn.
    pub async fn expect<M: prost::Message + prost::Name + Default>(&mut self) -> M {
        self.expect_where(|_: &M| true).await
    }

    /// The next message of this type that `wanted` picks.
    pub async fn expect_where<M: prost::Message + prost::Name + Default>(
        &mut self,
        wanted: impl Fn(&M) -> bool,
    ) -> M {
        let name = M::full_name();
        let decode = |m: &Message| {
            (m.name == name).then(|| M::decode(m.body.clone()).expect("a whole message"))
        };
        let kept = self.kept.iter().position(|m| decode(m).is_some_and(|m| wanted(&m)));
        if let Some(at) = kept {
            let message = self.kept.remove(at).expect("it is there");
            return decode(&message).expect("decoded before");
        }
        loop {
            let next = tokio::time::timeout(PATIENCE, self.messages.recv()).await;
            let Ok(Some(message)) = next else {
                let kept: Vec<_> = self.kept.iter().map(|m| m.name.clone()).collect();
                panic!("no {name} came; waiting: {kept:?}");
            };
            self.agent = Some(message.from.clone());
            match decode(&message).filter(|m| wanted(m)) {
                Some(found) => return found,
                None => self.kept.push_back(message),
            }
        }
    }

    /// Sends bytes to the agent that was heard of last.
    pub fn send_bytes(&self, from: &str, name: &str, body: Vec<u8>) {
        let agent = self.agent.as_ref().expect("the agent spoke before");
        self.post.send(from, agent, name, body.into());
    }

    /// Sends as the master.
    pub fn send<M: prost::Message + prost::Name>(&self, message: &M) {
        self.send_bytes("master", &M::full_name(), message.encode_to_vec());
    }
}

/// The agent's whole door.
fn api(config: &Config, handle: Handle, containerizer: Arc<native::Native>) -> Api {
    let arguments = ["--work_dir=/none".to_owned(), "--master=127.0.0.1:1".to_owned()];
    let flags = Flags::parse(FLAGS, arguments, []).expect("known flags");
    let context = Context {
        handle,
        containerizer,
        about: About {
            version: mesos::VersionInfo::default(),
            start_time: 0.0,
            pid: config.pid.clone(),
            capabilities: config.capabilities.clone(),
            flags: Vec::new(),
        },
        work_dir: config.work_dir.clone(),
        switch_user: config.switch_user,
        excluded_images: Vec::new(),
        collection: Policy { delay: config.gc_delay, headroom: config.gc_disk_headroom },
        common: Common {
            files: Files::new(),
            metrics: Metrics::new(),
            logging: Logging::silent(),
            flags: Arc::new(flags),
        },
        sessions: Sessions::default(),
    };
    Api::new(context, Surroundings::default)
}

/// A program that does nothing, in place of the default executor: the test plays it.
fn quiet_executor(dir: &Path) -> PathBuf {
    let path = dir.join("executor");
    std::fs::write(&path, "#!/bin/sh\nexec sleep 1000\n").expect("write a script");
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(&path, mode).expect("make it executable");
    path
}

/// An agent in a runtime of its own.
pub struct Agent {
    /// Where it listens.
    pub address: SocketAddr,
    runtime: Option<Runtime>,
    _handle: Handle,
    containers: Arc<native::Native>,
    /// Whether it shut down in good order, once it has ended.
    ended: watch::Receiver<Option<bool>>,
}

/// The agent of the recordings, with nothing isolated.
pub fn info() -> SlaveInfo {
    let text = "cpus:4;mem:4096;disk:10240;ports:[31000-32000]";
    let resources = mesos::resources::parse_list(text, "*").expect("resources");
    SlaveInfo {
        hostname: "agent1.example".into(),
        port: Some(5051),
        resources,
        checkpoint: Some(true),
        ..SlaveInfo::default()
    }
}

impl Agent {
    /// Starts an agent that keeps everything below `dir`.
    pub fn start(dir: &Path, master: SocketAddr) -> Agent {
        // RUST_LOG=bulkhead=debug shows what the agent does.
        let filter = tracing_subscriber::EnvFilter::from_default_env();
        let _ = tracing_subscriber::fmt().with_env_filter(filter).with_test_writer().try_init();
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .expect("a runtime");
        let (work, run) = (dir.join("work"), dir.join("run"));
        let executor = quiet_executor(dir);
        let start = async move {
            let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind");
            let address = listener.local_addr().expect("address");
            let (exited, _) = mpsc::unbounded_channel();
            let post = Post::new(address, exited);
            let native = native::Config {
                isolation: "posix/cpu,posix/mem,filesystem/posix".into(),
                launcher: Engine::Posix,
                runtime_dir: run,
                ..native::Config::default()
            };
            let native = Arc::new(native::Native::new(native).expect("a containerizer"));
            let pid = format!("slave(1)@{address}");
            let mut config = Config::new(info(), &pid, &master.to_string(), work);
            config.version = "1.12.0".into();
            config.registration_backoff = Duration::from_millis(20);
            config.switch_user = false;
            config.default_executor = executor;
            let outbox = Arc::new(PostOutbox::new(post, "slave(1)"));
            let started = bulkhead::agent::start(config.clone(), Arc::clone(&native) as _, outbox);
            let (handle, done) = started;
            let (end, ended) = watch::channel(None);
            tokio::spawn(async move {
                let done = done.await;
                end.send_replace(Some(matches!(done, Ok(Ok(Outcome::ShutDown)))));
                if let Ok(Err(error)) = done {
                    eprintln!("the agent ended: {error}");
                }
            });
            let door = Arc::new(api(&config, handle.clone(), Arc::clone(&native)));
            tokio::spawn(serve(listener, door, Limits::default(), std::future::pending()));
            (handle, address, native, ended)
        };
        // A thread of its own, since the test runs on a runtime already.
        let handle = runtime.handle().clone();
        let started = std::thread::spawn(move || handle.block_on(start)).join();
        let (handle, address, containers, ended) = started.expect("the agent starts");
        Agent { address, runtime: Some(runtime), _handle: handle, containers, ended }
    }

    /// Waits for its end; whether it shut down in good order.
    pub async fn has_shut_down(&mut self) -> bool {
        let ended = self.ended.wait_for(Option::is_some);
        let ended = tokio::time::timeout(Duration::from_secs(60), ended).await;
        ended.expect("an end in time").is_ok_and(|ended| *ended == Some(true))
    }

    /// Waits until a container runs.
    pub async fn has_container(&self) {
        let runs = async {
            loop {
                for (id, _) in self.containers.containers() {
                    if self.containers.status(&id).await.is_some() {
                        return;
                    }
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(60), runs).await.expect("a container in time");
    }
}

impl Drop for Agent {
    /// Stops every task where it is, as a crash would.
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

/// A recorded message.
#[derive(Debug, Clone)]
pub struct Recorded {
    pub name: String,
    pub body: Vec<u8>,
}

/// All libprocess messages in a recorded direction of a connection.
pub fn recorded(bytes: &[u8]) -> Vec<Recorded> {
    let mut found = Vec::new();
    let mut rest = bytes;
    while let Some(end) = rest.windows(4).position(|w| w == b"\r\n\r\n") {
        let head = String::from_utf8_lossy(&rest[..end]).into_owned();
        rest = &rest[end + 4..];
        let path = head.split(' ').nth(1).unwrap_or("").to_owned();
        let mut body = Vec::new();
        if head.contains("Transfer-Encoding: chunked") {
            loop {
                let Some(line) = rest.windows(2).position(|w| w == b"\r\n") else { return found };
                let size = String::from_utf8_lossy(&rest[..line]).into_owned();
                let size = usize::from_str_radix(&size, 16).expect("a chunk size");
                let Some(data) = rest.get(line + 2..line + 2 + size) else { return found };
                body.extend_from_slice(data);
                rest = rest.get(line + 2 + size + 2..).unwrap_or_default();
                if size == 0 {
                    break;
                }
            }
        }
        let name = path.rsplit('/').next().unwrap_or("").to_owned();
        found.push(Recorded { name, body });
    }
    found
}
