//! The door to the agent's owner task, for the API and the libprocess server.
//!
//! Reads take the newest [`Snapshot`]; calls that change something go through a
//! bounded mailbox. A full mailbox is [`CallError::Busy`] (HTTP 503), never memory.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use mesos::{ExecutorId, FrameworkId, TaskStatus, executor};
use thiserror::Error;
use tokio::sync::{mpsc, oneshot, watch};

use super::core::event::{CallId, Command, Event, Refusal};
use super::core::state::StreamId;
use super::inbox;
use super::snapshot::Snapshot;

/// Events waiting for the owner; beyond it callers are turned away.
pub const MAILBOX: usize = 16 * 1024;
/// Events waiting for one HTTP executor to read them; beyond it the stream ends
/// and the executor has to subscribe again.
pub const STREAM: usize = 1024;

/// What the mailbox carries.
pub(super) enum Mail {
    /// For the core.
    Event(Event),
    /// A call and who waits for it.
    Call { command: Command, reply: oneshot::Sender<Result<(), Refusal>> },
    /// A subscription: the stream's sender must be known before its first event.
    Subscribe {
        stream: StreamId,
        events: mpsc::Sender<executor::Event>,
        command: Command,
        reply: oneshot::Sender<Result<(), Refusal>>,
    },
    /// Directories in the trash that nobody knows any more: to be deleted.
    Discarded(Vec<PathBuf>),
    /// Leave; containers live on.
    Detach,
}

/// Why a call failed.
#[derive(Debug, Error)]
pub enum CallError {
    /// The mailbox is full: answer 503.
    #[error("the agent is busy")]
    Busy,
    /// The agent is going down.
    #[error("the agent is shutting down")]
    Stopped,
    /// The agent took the call and declined it.
    #[error(transparent)]
    Refused(#[from] Refusal),
}

/// An open event stream of an HTTP executor. Dropping it tells the agent that
/// the connection is gone.
#[derive(Debug)]
pub struct Subscription {
    /// Events to be encoded and written; SUBSCRIBED comes first. `None`: the
    /// agent ended the stream.
    pub events: mpsc::Receiver<executor::Event>,
    _closed: ClosedGuard,
}

/// Reports the end of a stream from `Drop`.
#[derive(Debug)]
struct ClosedGuard {
    stream: StreamId,
    mailbox: mpsc::Sender<Mail>,
}

impl Drop for ClosedGuard {
    fn drop(&mut self) {
        // A full mailbox loses this; the next event for the stream finds out.
        let _ = self.mailbox.try_send(Mail::Event(Event::StreamClosed(self.stream)));
    }
}

/// See the module's header. Cheap to clone.
#[derive(Clone)]
pub struct Handle {
    mailbox: mpsc::Sender<Mail>,
    snapshot: watch::Receiver<Arc<Snapshot>>,
    streams: Arc<AtomicU64>,
}

impl std::fmt::Debug for Handle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Handle").finish_non_exhaustive()
    }
}

impl Handle {
    pub(super) fn new(
        mailbox: mpsc::Sender<Mail>,
        snapshot: watch::Receiver<Arc<Snapshot>>,
    ) -> Self {
        Handle { mailbox, snapshot, streams: Arc::new(AtomicU64::new(1)) }
    }

    /// The newest picture of the agent.
    pub fn snapshot(&self) -> Arc<Snapshot> {
        self.snapshot.borrow().clone()
    }

    /// For readers that wait for changes.
    pub fn watch(&self) -> watch::Receiver<Arc<Snapshot>> {
        self.snapshot.clone()
    }

    /// Takes a libprocess message for `slave(1)`. Unknown names are ignored as
    /// libprocess does, malformed bodies logged and dropped; `false` only if the
    /// mailbox is full or closed and the message is lost.
    pub fn message(&self, from: &str, name: &str, body: &[u8]) -> bool {
        match inbox::decode(name, body) {
            Ok(Some(message)) => {
                let event = Event::Message { from: from.to_owned(), message };
                self.mailbox.try_send(Mail::Event(event)).is_ok()
            }
            Ok(None) => true,
            Err(error) => {
                tracing::warn!(from, name, %error, "dropping a malformed message");
                true
            }
        }
    }

    /// A linked peer's connection closed.
    pub fn peer_exited(&self, pid: &str) {
        let event = Event::PeerExited { pid: pid.to_owned() };
        let _ = self.mailbox.try_send(Mail::Event(event));
    }

    /// v1 executor SUBSCRIBE.
    pub async fn subscribe(
        &self,
        framework: FrameworkId,
        executor: ExecutorId,
        subscribe: executor::call::Subscribe,
    ) -> Result<Subscription, CallError> {
        let stream = StreamId(self.streams.fetch_add(1, Ordering::Relaxed));
        let (events, receiver) = mpsc::channel(STREAM);
        let guard = ClosedGuard { stream, mailbox: self.mailbox.clone() };
        let (reply, answer) = oneshot::channel();
        let command =
            Command::Subscribe { framework, executor, stream, subscribe: Box::new(subscribe) };
        self.post(Mail::Subscribe { stream, events, command, reply })?;
        answer.await.map_err(|_| CallError::Stopped)??;
        Ok(Subscription { events: receiver, _closed: guard })
    }

    /// v1 executor UPDATE.
    pub async fn update(
        &self,
        framework: FrameworkId,
        executor: ExecutorId,
        status: TaskStatus,
    ) -> Result<(), CallError> {
        self.call(Command::Update { framework, executor, status: Box::new(status) }).await
    }

    /// v1 executor MESSAGE.
    pub async fn executor_message(
        &self,
        framework: FrameworkId,
        executor: ExecutorId,
        data: Vec<u8>,
    ) -> Result<(), CallError> {
        self.call(Command::Message { framework, executor, data }).await
    }

    /// v1 executor HEARTBEAT.
    pub async fn heartbeat(
        &self,
        framework: FrameworkId,
        executor: ExecutorId,
    ) -> Result<(), CallError> {
        self.call(Command::Heartbeat { framework, executor }).await
    }

    /// A nested or standalone container is over; `sandbox` is relative to the work
    /// directory.
    pub async fn container_ended(&self, sandbox: PathBuf) {
        let _ = self.mailbox.send(Mail::Event(Event::ContainerEnded { sandbox })).await;
    }

    /// Unregisters the agent, ends everything on it and then the owner task.
    pub async fn leave(&self) {
        let _ = self.mailbox.send(Mail::Event(Event::Leave)).await;
    }

    /// Makes the owner task end; containers live on.
    pub async fn detach(&self) {
        let _ = self.mailbox.send(Mail::Detach).await;
    }

    async fn call(&self, command: Command) -> Result<(), CallError> {
        let (reply, answer) = oneshot::channel();
        self.post(Mail::Call { command, reply })?;
        Ok(answer.await.map_err(|_| CallError::Stopped)??)
    }

    fn post(&self, mail: Mail) -> Result<(), CallError> {
        self.mailbox.try_send(mail).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => CallError::Busy,
            mpsc::error::TrySendError::Closed(_) => CallError::Stopped,
        })
    }
}

/// Numbers calls for the core.
#[derive(Debug, Default)]
pub(super) struct CallIds(u64);

impl CallIds {
    pub(super) fn next(&mut self) -> CallId {
        self.0 += 1;
        CallId(self.0)
    }
}
