//! `LAUNCH_NESTED_CONTAINER_SESSION`: a command in a running container, its output
//! as a stream of `ProcessIO` records.
//!
//! The container lives as long as the connection: a client that leaves ends it. Its
//! input comes with `ATTACH_CONTAINER_INPUT`, others may listen with
//! `ATTACH_CONTAINER_OUTPUT` (`attach`). One task per session reads the pipes; what
//! attached clients may reach of it is a [`Session`], found in [`Sessions`].

use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use mesos::agent::call::{LaunchContainer, LaunchNestedContainerSession};
use mesos::agent::{ProcessIo, process_io};
use mesos::{ContainerId, recordio};
use prost::Message as _;
use tokio::io::AsyncReadExt as _;
use tokio::net::unix::pipe::{Receiver, Sender};
use tokio::sync::{mpsc, watch};
use tokio::time::MissedTickBehavior;

use super::{Context, nested};
use crate::agent::snapshot::Snapshot;
use crate::containerizer::{Class, Output};
use crate::wire::http::media::{self, Media};
use crate::wire::http::{Response, StatusCode};

/// Records that may wait for a slow client.
const CHUNKS: usize = 16;
/// Records that may wait for a client that has attached itself; one that is further
/// behind is cut off, as nobody waits for it.
const BEHIND: usize = 1024;
/// The largest piece of output in one record.
const PIECE: usize = 16 << 10;

/// The sessions that run, by the whole id of their container.
#[derive(Debug, Default)]
pub struct Sessions(Mutex<HashMap<String, Arc<Session>>>);

impl Sessions {
    fn map(&self) -> MutexGuard<'_, HashMap<String, Arc<Session>>> {
        // Entries go in and out in one step.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The session of a container, if it is one and runs.
    pub(super) fn find(&self, id: &ContainerId) -> Option<Arc<Session>> {
        self.map().get(&nested::display(id)).cloned()
    }
}

/// Where the input of a session is.
#[derive(Debug)]
enum Input {
    /// Nobody writes.
    Free(Sender),
    /// A client writes.
    Taken,
    /// It has been ended.
    Ended,
}

/// What attached clients reach of a session.
#[derive(Debug)]
pub(super) struct Session {
    input: Mutex<Input>,
    listeners: Mutex<Vec<Listener>>,
    /// Closed when the session is over.
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
    pub(super) pipe: Option<Sender>,
}

impl Drop for Pen {
    fn drop(&mut self) {
        let input = self.pipe.take().map_or(Input::Ended, Input::Free);
        *self.session.input() = input;
    }
}

impl Session {
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
        let pipe = match std::mem::replace(&mut *self.input(), Input::Taken) {
            Input::Free(pipe) => Some(pipe),
            Input::Ended => None,
            Input::Taken => return None,
        };
        Some(Pen { session: Arc::clone(self), pipe })
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

    fn tell(&self, io: &ProcessIo) {
        self.listeners().retain(|l| l.sender.try_send(record(io, l.media)).is_ok());
    }
}

/// Starts the command and answers with its output.
pub(super) async fn launch(
    context: &Arc<Context>,
    snapshot: &Snapshot,
    call: LaunchNestedContainerSession,
    accept: media::Shape,
) -> Result<Response, Response> {
    let mut request = nested::request(
        context,
        snapshot,
        LaunchContainer {
            container_id: call.container_id,
            command: call.command,
            container: call.container,
            ..LaunchContainer::default()
        },
    )?;
    let failed = |error: std::io::Error| {
        let message = format!("Failed to create the pipes of the session: {error}");
        Response::text(StatusCode::INTERNAL_SERVER_ERROR, message)
    };
    let (input, stdin) = inward().map_err(failed)?;
    let (out, stdout) = outward().map_err(failed)?;
    let (err, stderr) = outward().map_err(failed)?;
    request.class = Class::Debug(Output::Pipes(Arc::new([stdin, stdout, stderr])));
    // A guest has no sandbox of its own: `<parent>/containers/<id>` is not made.
    if let Some(parent) = request.sandbox.parent().and_then(std::path::Path::parent) {
        request.sandbox = parent.to_owned();
    }
    let id = request.id.clone();
    nested::start(context, request).await?;
    let (over, watch) = watch::channel(());
    let session = Arc::new(Session {
        input: Mutex::new(Input::Free(input)),
        listeners: Mutex::default(),
        over: watch,
    });
    context.sessions.map().insert(nested::display(&id), Arc::clone(&session));
    let guest = Guest { context: Arc::clone(context), id, session, _over: over };
    let (sender, receiver) = mpsc::channel(CHUNKS);
    let beat = context.common.flags.duration("http_heartbeat_interval");
    let client = Client { sender, media: accept.media(), beat: beat.unwrap_or(HEARTBEAT) };
    tokio::spawn(forward(guest, [out, err], client));
    Ok(stream(accept, receiver))
}

/// Between two heartbeats where no flag says it.
const HEARTBEAT: Duration = Duration::from_secs(30);

/// The answer that goes on with records.
pub(super) fn stream(accept: media::Shape, records: mpsc::Receiver<Bytes>) -> Response {
    match accept {
        media::Shape::Single(media) => Response::stream(media.as_str(), records),
        media::Shape::Stream(media) => Response::stream(media::RECORDIO, records)
            .header(media::MESSAGE_CONTENT_TYPE, media.as_str()),
    }
}

fn inward() -> std::io::Result<(Sender, OwnedFd)> {
    let (reader, writer) = std::io::pipe()?;
    Ok((Sender::from_owned_fd(writer.into())?, reader.into()))
}

fn outward() -> std::io::Result<(Receiver, OwnedFd)> {
    let (reader, writer) = std::io::pipe()?;
    Ok((Receiver::from_owned_fd(reader.into())?, writer.into()))
}

/// The container of a session; dropping it ends the container.
struct Guest {
    context: Arc<Context>,
    id: ContainerId,
    session: Arc<Session>,
    /// Tells writers that it is over.
    _over: watch::Sender<()>,
}

impl Drop for Guest {
    fn drop(&mut self) {
        self.context.sessions.map().remove(&nested::display(&self.id));
        // Their streams end with this.
        self.session.listeners().clear();
        let (context, id) = (Arc::clone(&self.context), self.id.clone());
        // Of a container that has ended this asks nothing.
        tokio::spawn(async move { context.containerizer.destroy(&id, None).await });
    }
}

/// The client that started the session.
struct Client {
    sender: mpsc::Sender<Bytes>,
    media: Media,
    /// Between two heartbeats.
    beat: Duration,
}

/// Sends what the container writes until it has ended or nobody listens.
async fn forward(guest: Guest, [mut stdout, mut stderr]: [Receiver; 2], client: Client) {
    use process_io::data::Type::{Stderr, Stdout};
    let Client { sender, media, beat } = client;
    let ended = guest.context.containerizer.wait(&guest.id);
    let mut ended = std::pin::pin!(ended);
    let (mut a, mut b) = (vec![0; PIECE], vec![0; PIECE]);
    // A pipe whose writers are all gone reads as empty for ever, maybe before the
    // end of the container is known: it is not asked again.
    let (mut out, mut err) = (true, true);
    // The first one is not at once: the answer has just been made.
    let mut beats = tokio::time::interval_at(tokio::time::Instant::now() + beat, beat);
    beats.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let (kind, read) = tokio::select! {
            biased;
            () = sender.closed() => return,
            read = stdout.read(&mut a), if out => (Stdout, read),
            read = stderr.read(&mut b), if err => (Stderr, read),
            _ = &mut ended => break,
            _ = beats.tick() => {
                let io = heartbeat(beat);
                guest.session.tell(&io);
                if sender.send(record(&io, media)).await.is_err() {
                    return;
                }
                continue;
            }
        };
        let (open, buffer) = if kind == Stdout { (&mut out, &a) } else { (&mut err, &b) };
        match read {
            Ok(n @ 1..) => {
                let io = data(kind, &buffer[..n]);
                guest.session.tell(&io);
                if sender.send(record(&io, media)).await.is_err() {
                    return;
                }
            }
            Ok(0) | Err(_) => *open = false,
        }
    }
    for (kind, pipe) in [(Stdout, &stdout), (Stderr, &stderr)] {
        while let Ok(n @ 1..) = pipe.try_read(&mut a) {
            let io = data(kind, &a[..n]);
            guest.session.tell(&io);
            if sender.send(record(&io, media)).await.is_err() {
                return;
            }
        }
    }
}

fn data(kind: process_io::data::Type, data: &[u8]) -> ProcessIo {
    ProcessIo {
        r#type: Some(process_io::Type::Data as i32),
        data: Some(process_io::Data { r#type: Some(kind as i32), data: Some(data.to_vec()) }),
        control: None,
    }
}

fn heartbeat(interval: Duration) -> ProcessIo {
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

fn record(io: &ProcessIo, media: Media) -> Bytes {
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
    use super::*;

    fn session() -> (Arc<Session>, watch::Sender<()>, OwnedFd) {
        let (over, watch) = watch::channel(());
        let (input, stdin) = inward().expect("a pipe");
        let session = Session {
            input: Mutex::new(Input::Free(input)),
            listeners: Mutex::default(),
            over: watch,
        };
        (Arc::new(session), over, stdin)
    }

    #[tokio::test]
    async fn one_client_writes_at_a_time() {
        let (session, over, _stdin) = session();
        let first = session.write().expect("free");
        assert!(session.write().is_none(), "taken");
        drop(first);
        let mut second = session.write().expect("free again");
        assert!(second.pipe.take().is_some());
        drop(second);
        assert!(session.write().is_some_and(|pen| pen.pipe.is_none()), "ended for good");
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
