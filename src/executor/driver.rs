//! Runs the default executor: one task owns the [`Core`], short tasks do its
//! effects and report back through one channel. Called by `bulkhead-executor`.

#![allow(deprecated)] // the older names of container calls are what executors use

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use http::StatusCode;
use mesos::agent::{self, response::WaitNestedContainer};
use mesos::{ContainerId, executor, schema};
use prost::Message as _;
use tokio::sync::mpsc;

use super::core::{Core, Effect, Event, RETRY, Waited};
use super::settings::Settings;
use crate::checks::{self, Attempt, Probe, network};
use crate::wire::client::{Call, Client, ClientError, Reply};

/// Between two `HEARTBEAT` calls (Mesos' number).
const HEARTBEAT: Duration = Duration::from_secs(30 * 60);
/// Before the first attempt to subscribe again at most, doubling up to
/// `MESOS_SUBSCRIPTION_BACKOFF_MAX`: an agent that is only restarted waits for us.
const FIRST_BACKOFF: Duration = Duration::from_millis(100);
/// Longest event the agent may send.
const MAX_EVENT: usize = 64 << 20;
/// A wait is answered when its container ends.
pub(super) const NO_LIMIT: Duration = Duration::from_secs(10 * 365 * 24 * 3600);

enum Mail {
    Core(Event),
    /// The event stream ended, or could not be opened.
    StreamEnded(String),
    Subscribe,
}

/// The agent as the executor's tasks see it.
#[derive(Clone)]
pub(super) struct Agent(Arc<AgentDoor>);

struct AgentDoor {
    settings: Settings,
    mailbox: mpsc::UnboundedSender<Mail>,
}

/// Runs until the last task is reported, or the agent is given up.
pub async fn run(settings: Settings) {
    let (mailbox, mut mails) = mpsc::unbounded_channel();
    let agent = Agent(Arc::new(AgentDoor { settings: settings.clone(), mailbox }));
    let (outbox, calls) = mpsc::unbounded_channel();
    tokio::spawn(send_in_order(agent.clone(), calls));
    let longest = settings.subscription_backoff;
    let mut backoff = FIRST_BACKOFF.min(longest);
    let mut core = Core::new(settings, uuid::Uuid::new_v4);
    let mut heartbeat = tokio::time::interval(HEARTBEAT);
    heartbeat.tick().await;
    tokio::spawn(agent.clone().listen(core.subscribe()));
    loop {
        let mail = tokio::select! {
            _ = heartbeat.tick() => {
                let _ = outbox.send(core.heartbeat());
                continue;
            }
            mail = mails.recv() => mail.expect("the agent door holds a sender"),
        };
        let event = match mail {
            Mail::Core(event) => {
                if matches!(event, Event::Agent(_)) {
                    backoff = FIRST_BACKOFF.min(longest);
                }
                event
            }
            Mail::Subscribe => {
                tokio::spawn(agent.clone().listen(core.subscribe()));
                continue;
            }
            Mail::StreamEnded(why) => {
                tracing::warn!("event stream of the agent: {why}");
                agent.later(jitter(backoff), Mail::Subscribe);
                backoff = (backoff * 2).min(longest);
                Event::Disconnected
            }
        };
        for effect in core.handle(now(), event) {
            if matches!(effect, Effect::Exit) {
                return;
            }
            agent.perform(effect, &outbox);
        }
    }
}

impl Agent {
    fn perform(&self, effect: Effect, outbox: &mpsc::UnboundedSender<executor::Call>) {
        match effect {
            Effect::Send(call) => {
                let _ = outbox.send(*call);
            }
            Effect::Launch(call) => {
                tokio::spawn(self.clone().launch(*call));
            }
            Effect::Wait(container, generation) => {
                tokio::spawn(self.clone().wait(container, generation));
            }
            Effect::Kill(container, signal) => {
                tokio::spawn(self.clone().kill(container, signal));
            }
            Effect::Probe(container, attempt) => {
                tokio::spawn(self.clone().probe(container, *attempt));
            }
            Effect::Link { task, container } => link(&self.0.settings.sandbox, &task, &container),
            Effect::Schedule(after, timer) => self.later(after, Mail::Core(Event::Timer(timer))),
            Effect::Log(message) => tracing::info!("{message}"),
            Effect::Exit => {}
        }
    }

    fn tell(&self, event: Event) {
        let _ = self.0.mailbox.send(Mail::Core(event));
    }

    fn later(&self, after: Duration, mail: Mail) {
        let agent = self.clone();
        tokio::spawn(async move {
            tokio::time::sleep(after).await;
            let _ = agent.0.mailbox.send(mail);
        });
    }

    pub(super) fn address(&self) -> SocketAddr {
        self.0.settings.agent
    }

    /// The operator API's path.
    pub(super) fn operator_path(&self) -> String {
        format!("/{}/api/v1", self.0.settings.agent_id)
    }

    pub(super) fn authorization(&self) -> Option<String> {
        self.0.settings.token.as_ref().map(|token| format!("Bearer {token}"))
    }

    /// Keeps one event stream open and passes its events on.
    async fn listen(self, call: executor::Call) {
        let why = match self.events(call).await {
            Ok(()) => "ended".to_owned(),
            Err(error) => error,
        };
        let _ = self.0.mailbox.send(Mail::StreamEnded(why));
    }

    async fn events(&self, call: executor::Call) -> Result<(), String> {
        let path = format!("/{}/api/v1/executor", self.0.settings.agent_id);
        let client = Client::to(self.0.settings.agent);
        let authorization = self.authorization();
        let call = post(&path, authorization.as_deref(), call.encode_to_vec().into());
        let stream = client.stream(call).await.map_err(|e| e.to_string())?;
        if stream.status != StatusCode::OK {
            let status = stream.status;
            let body = stream.rest().await.unwrap_or_default();
            return Err(format!("{status}: {}", String::from_utf8_lossy(&body)));
        }
        let mut events = stream.events(MAX_EVENT);
        while let Some(record) = events.next().await.map_err(|e| e.to_string())? {
            let event = schema::decode(&record).map_err(|e| e.to_string())?;
            self.tell(Event::Agent(Box::new(event)));
        }
        Ok(())
    }

    /// One call of the operator API on a connection of its own.
    pub(super) async fn call(
        &self,
        call: agent::Call,
        limit: Duration,
    ) -> Result<Reply, ClientError> {
        let path = self.operator_path();
        let authorization = self.authorization();
        let call = post(&path, authorization.as_deref(), call.encode_to_vec().into());
        Client::to(self.0.settings.agent).timeout(limit).call(call).await
    }

    async fn launch(self, launch: agent::call::LaunchContainer) {
        let container = launch.container_id.clone();
        let call = agent::Call {
            r#type: Some(agent::call::Type::LaunchContainer as i32),
            launch_container: Some(launch),
            ..Default::default()
        };
        // Fetching an image or files may take long; the agent ends it in time.
        self.tell(match self.call(call, NO_LIMIT).await {
            Ok(reply) if reply.status == StatusCode::OK => Event::Launched(container, Ok(())),
            Ok(reply) => Event::Launched(container, Err(reply.text())),
            Err(error) => {
                tracing::error!("launch of container {}: {error}", container.value);
                Event::LaunchLost(container)
            }
        });
    }

    async fn probe(self, container: ContainerId, attempt: Attempt) {
        let outcome = match &attempt.probe {
            Probe::Command(command) => self.run_check(&container, command, attempt.limit).await,
            // Tasks of a group are in the executor's network.
            Probe::Http { .. } | Probe::Tcp { .. } => network::perform(&attempt, None).await,
        };
        let event = checks::Event::Done(attempt.kind, attempt.round, outcome);
        self.tell(Event::Checked(container, event));
    }

    async fn wait(self, container: ContainerId, generation: u64) {
        let call = agent::Call {
            r#type: Some(agent::call::Type::WaitNestedContainer as i32),
            wait_nested_container: Some(agent::call::WaitNestedContainer {
                container_id: container.clone(),
            }),
            ..Default::default()
        };
        let outcome = match self.call(call, NO_LIMIT).await {
            Err(_) => Waited::Interrupted,
            Ok(reply) => match reply.status {
                StatusCode::OK => ended(&reply.body),
                StatusCode::NOT_FOUND => Waited::Unknown,
                StatusCode::SERVICE_UNAVAILABLE => Waited::Interrupted,
                _ => Waited::Refused(reply.text()),
            },
        };
        self.tell(Event::Waited { container, generation, outcome });
    }

    async fn kill(self, container: ContainerId, signal: i32) {
        let call = agent::Call {
            r#type: Some(agent::call::Type::KillNestedContainer as i32),
            kill_nested_container: Some(agent::call::KillNestedContainer {
                container_id: container.clone(),
                signal: Some(signal),
            }),
            ..Default::default()
        };
        match self.call(call, Duration::from_secs(30)).await {
            Ok(reply) if matches!(reply.status, StatusCode::OK | StatusCode::NOT_FOUND) => {}
            Ok(reply) => {
                tracing::warn!("signal {signal} to {}: {}", container.value, reply.text());
                self.tell(Event::KillFailed(container, signal));
            }
            Err(error) => {
                tracing::warn!("signal {signal} to {}: {error}", container.value);
                self.tell(Event::KillFailed(container, signal));
            }
        }
    }
}

/// A call in protobuf, with the executor's token if it has one.
pub(super) fn post<'a>(path: &'a str, authorization: Option<&'a str>, body: Bytes) -> Call<'a> {
    let accept = "application/x-protobuf";
    authorized(Call::post(path, accept, body).header("accept", accept), authorization)
}

pub(super) fn authorized<'a>(call: Call<'a>, authorization: Option<&'a str>) -> Call<'a> {
    match authorization {
        Some(value) => call.header("authorization", value),
        None => call,
    }
}

pub(super) fn ended(body: &[u8]) -> Waited {
    match schema::decode::<agent::Response>(body) {
        Ok(response) => {
            let answer: Option<WaitNestedContainer> = response.wait_nested_container;
            Waited::Ended(Box::new(answer.unwrap_or_default()))
        }
        Err(error) => Waited::Refused(error.to_string()),
    }
}

/// Delivers updates one after the other, each until the agent takes it: their
/// order is the task's history. An agent that hears one twice knows it by its id.
async fn send_in_order(agent: Agent, mut calls: mpsc::UnboundedReceiver<executor::Call>) {
    let path = format!("/{}/api/v1/executor", agent.0.settings.agent_id);
    let client = Client::to(agent.0.settings.agent);
    let authorization = agent.authorization();
    while let Some(call) = calls.recv().await {
        let heartbeat = call.r#type() == executor::call::Type::Heartbeat;
        let body = Bytes::from(call.encode_to_vec());
        loop {
            match client.call(post(&path, authorization.as_deref(), body.clone())).await {
                Ok(reply) if reply.status == StatusCode::SERVICE_UNAVAILABLE => {}
                Ok(reply) => {
                    if !reply.status.is_success() {
                        tracing::error!("the agent refuses a call: {}", reply.text());
                    }
                    break;
                }
                Err(error) => tracing::warn!("{error}"),
            }
            if heartbeat {
                break;
            }
            tokio::time::sleep(RETRY).await;
        }
    }
}

/// Makes `tasks/<task>` lead to the task's sandbox, for people and web pages.
fn link(sandbox: &Path, task: &str, container: &ContainerId) {
    if task.is_empty() || task == "." || task == ".." || task.contains('/') {
        tracing::warn!("no link to the sandbox of task '{task}': not a file name");
        return;
    }
    let tasks = sandbox.join("tasks");
    let target = sandbox.join("containers").join(&container.value);
    let made = std::fs::create_dir_all(&tasks)
        .and_then(|()| std::os::unix::fs::symlink(&target, tasks.join(task)));
    if let Err(error) = made {
        tracing::warn!(
            "failed to link {} to {}: {error}",
            tasks.join(task).display(),
            target.display()
        );
    }
}

fn now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |d| d.as_secs_f64())
}

/// Some time up to `most`, so that the executors of a restarted agent do not all
/// come at once.
fn jitter(most: Duration) -> Duration {
    let random = u32::from(uuid::Uuid::new_v4().as_bytes()[0]);
    most.saturating_mul(random) / 256
}
