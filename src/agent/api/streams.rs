//! The streams of containers that have some of their own: sessions, and containers with
//! a terminal.
//!
//! What attached clients may reach of them is a [`Session`], found in [`Sessions`]. A
//! session's own client is served by `session`. A container with a terminal has no such
//! client: it gets a [`Session`] when somebody first attaches to it ([`find`]), and its
//! output goes to its sandbox, too.

use std::collections::HashMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use kernel::terminal::Window;
use mesos::agent::{ProcessIo, process_io};
use mesos::{ContainerId, recordio};
use prost::Message as _;
use tokio::io::AsyncWriteExt as _;
use tokio::net::unix::pipe::Sender;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, Interval, MissedTickBehavior};

use super::Context;
use crate::containerizer::terminal::Terminal;
use crate::wire::http::media::Media;

/// Records that may wait for a client that has attached itself; one that is further
/// behind is cut off, as nobody waits for it.
const BEHIND: usize = 1024;
/// Between two heartbeats where no flag says it.
const HEARTBEAT: Duration = Duration::from_secs(30);

/// Those that run, by the whole id of their container.
#[derive(Debug, Default)]
pub struct Sessions(Mutex<HashMap<String, Arc<Session>>>);

impl Sessions {
    pub(super) fn map(&self) -> MutexGuard<'_, HashMap<String, Arc<Session>>> {
        // Entries go in and out in one step.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Drops one that is over, unless another has its container's id by now.
    pub(super) fn remove(&self, key: &str, session: &Arc<Session>) {
        let mut map = self.map();
        if map.get(key).is_some_and(|known| Arc::ptr_eq(known, session)) {
            map.remove(key);
        }
    }
}

/// The streams of a running container, if it has any of its own.
pub(super) fn find(context: &Arc<Context>, id: &ContainerId) -> Option<Arc<Session>> {
    let key = id.to_string();
    let mut map = context.sessions.map();
    if let Some(session) = map.get(&key) {
        return Some(Arc::clone(session));
    }
    let terminal = context.containerizer.terminal(id)?;
    let pieces = terminal.listen();
    let (session, over) = Session::new(Writer::Terminal(terminal));
    map.insert(key.clone(), Arc::clone(&session));
    tokio::spawn(pass_on(Arc::clone(context), key, (Arc::clone(&session), over), pieces));
    Some(session)
}

/// Tells listeners what a container writes to its terminal, to its end.
async fn pass_on(
    context: Arc<Context>,
    key: String,
    (session, over): (Arc<Session>, watch::Sender<()>),
    mut pieces: mpsc::Receiver<Bytes>,
) {
    let (beat, mut beats) = heartbeats(&context);
    loop {
        tokio::select! {
            piece = pieces.recv() => match piece {
                Some(piece) => session.tell(&data(process_io::data::Type::Stdout, &piece)),
                None => break,
            },
            _ = beats.tick() => session.tell(&heartbeat(beat)),
        }
    }
    context.sessions.remove(&key, &session);
    session.close();
    drop(over);
}

/// Where the input of a container goes.
#[derive(Debug)]
pub(super) enum Writer {
    Pipe(Sender),
    Terminal(Arc<Terminal>),
}

/// Where the input of a session is.
#[derive(Debug)]
enum Input {
    /// Nobody writes.
    Free(Writer),
    /// A client writes.
    Taken,
    /// It has been ended.
    Ended,
}

/// What attached clients reach of a container.
#[derive(Debug)]
pub struct Session {
    input: Mutex<Input>,
    listeners: Mutex<Vec<Listener>>,
    /// Closed when it is over.
    over: watch::Receiver<()>,
}

#[derive(Debug)]
struct Listener {
    sender: mpsc::Sender<Bytes>,
    media: Media,
}

/// The right to write to a session; given back when it is dropped.
#[derive(Debug)]
pub(super) struct Pen {
    session: Arc<Session>,
    /// `None` once the input has been ended.
    writer: Option<Writer>,
}

impl Drop for Pen {
    fn drop(&mut self) {
        let input = self.writer.take().map_or(Input::Ended, Input::Free);
        *self.session.input() = input;
    }
}

impl Pen {
    /// Writes all of it.
    pub(super) async fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        match &mut self.writer {
            Some(Writer::Pipe(pipe)) => pipe.write_all(bytes).await,
            Some(Writer::Terminal(terminal)) => terminal.write_all(bytes).await,
            None => Err(io::Error::new(io::ErrorKind::InvalidInput, "it has been closed")),
        }
    }

    /// Ends the input. compat: a terminal has no end but that of its container; who
    /// wants its reader to see one types `^D`.
    pub(super) fn end(&mut self) {
        if let Some(Writer::Pipe(_)) = &self.writer {
            self.writer = None;
        }
    }

    /// Changes the size of the terminal.
    pub(super) fn resize(&self, window: Window) -> Result<(), String> {
        match &self.writer {
            Some(Writer::Terminal(terminal)) => terminal.resize(window).map_err(|e| e.to_string()),
            _ => Err("the container has no terminal".into()),
        }
    }
}

impl Session {
    /// One whose input goes to `writer`. It is over when the other half is dropped.
    pub(super) fn new(writer: Writer) -> (Arc<Session>, watch::Sender<()>) {
        let (sender, over) = watch::channel(());
        let input = Mutex::new(Input::Free(writer));
        (Arc::new(Session { input, listeners: Mutex::default(), over }), sender)
    }

    fn input(&self) -> MutexGuard<'_, Input> {
        // Replaced in one step.
        self.input.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn listeners(&self) -> MutexGuard<'_, Vec<Listener>> {
        // A listener is in it or not.
        self.listeners.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes the input, which one client may have at a time.
    pub(super) fn write(self: &Arc<Self>) -> Option<Pen> {
        let writer = match std::mem::replace(&mut *self.input(), Input::Taken) {
            Input::Free(writer) => Some(writer),
            Input::Ended => None,
            Input::Taken => return None,
        };
        Some(Pen { session: Arc::clone(self), writer })
    }

    /// Everything that the container writes from now on.
    pub(super) fn listen(&self, media: Media) -> mpsc::Receiver<Bytes> {
        let (sender, receiver) = mpsc::channel(BEHIND);
        self.listeners().push(Listener { sender, media });
        receiver
    }

    /// Completes when the session is over.
    pub(super) async fn over(&self) {
        let mut over = self.over.clone();
        // Nothing is ever sent: the sender goes away.
        while over.changed().await.is_ok() {}
    }

    /// Tells all who listen.
    pub(super) fn tell(&self, io: &ProcessIo) {
        self.listeners().retain(|l| l.sender.try_send(record(io, l.media)).is_ok());
    }

    /// Ends the streams of all who listen.
    pub(super) fn close(&self) {
        self.listeners().clear();
    }
}

/// When heartbeats are due, and the time between two of them.
pub(super) fn heartbeats(context: &Context) -> (Duration, Interval) {
    let beat = context.common.flags.duration("http_heartbeat_interval").unwrap_or(HEARTBEAT);
    // The first one is not at once: the answer has just been made.
    let mut beats = tokio::time::interval_at(Instant::now() + beat, beat);
    beats.set_missed_tick_behavior(MissedTickBehavior::Delay);
    (beat, beats)
}

pub(super) fn data(kind: process_io::data::Type, data: &[u8]) -> ProcessIo {
    ProcessIo {
        r#type: Some(process_io::Type::Data as i32),
        data: Some(process_io::Data { r#type: Some(kind as i32), data: Some(data.to_vec()) }),
        control: None,
    }
}

pub(super) fn heartbeat(interval: Duration) -> ProcessIo {
    let nanoseconds = i64::try_from(interval.as_nanos()).unwrap_or(i64::MAX);
    ProcessIo {
        r#type: Some(process_io::Type::Control as i32),
        data: None,
        control: Some(process_io::Control {
            r#type: Some(process_io::control::Type::Heartbeat as i32),
            tty_info: None,
            heartbeat: Some(process_io::control::Heartbeat {
                interval: Some(mesos::DurationInfo { nanoseconds }),
            }),
        }),
    }
}

pub(super) fn record(io: &ProcessIo, media: Media) -> Bytes {
    let record = match media {
        Media::Protobuf => io.encode_to_vec(),
        Media::Json => mesos::v1::to_json("mesos.v1.agent.ProcessIO", io)
            .expect("a v0 record has the wire form of its v1 twin"),
    };
    let mut framed = Vec::with_capacity(record.len() + 8);
    recordio::encode(&record, &mut framed);
    framed.into()
}

#[cfg(test)]
mod tests {
    use std::os::fd::OwnedFd;

    use super::*;

    fn session() -> (Arc<Session>, watch::Sender<()>, OwnedFd) {
        let (stdin, writer) = io::pipe().expect("a pipe");
        let writer = Sender::from_owned_fd(writer.into()).expect("a pipe");
        let (session, over) = Session::new(Writer::Pipe(writer));
        (session, over, stdin.into())
    }

    #[tokio::test]
    async fn one_client_writes_at_a_time() {
        let (session, over, _stdin) = session();
        let first = session.write().expect("free");
        assert!(session.write().is_none(), "taken");
        drop(first);
        let mut second = session.write().expect("free again");
        second.write(b"x").await.expect("not ended");
        let message = "the container has no terminal".to_owned();
        assert_eq!(second.resize(Window::default()), Err(message));
        second.end();
        drop(second);
        let mut third = session.write().expect("free for those who do not know");
        let error = third.write(b"x").await.expect_err("ended for good");
        assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
        drop(over);
        session.over().await;
    }

    #[tokio::test]
    async fn listeners_that_do_not_read_are_cut_off() {
        let (session, _over, _stdin) = session();
        let mut slow = session.listen(Media::Json);
        let io = data(process_io::data::Type::Stdout, b"x");
        for _ in 0..=BEHIND {
            session.tell(&io);
        }
        let mut heard = 0;
        while slow.recv().await.is_some() {
            heard += 1;
        }
        assert_eq!(heard, BEHIND);
        let mut quick = session.listen(Media::Protobuf);
        session.tell(&heartbeat(Duration::from_secs(30)));
        let record = quick.recv().await.expect("a record");
        assert!(record.starts_with(b"16\n\x08\x02"), "{record:?}");
    }
}
