//! `LAUNCH_NESTED_CONTAINER_SESSION`: a command in a running container, its output
//! as a stream of `ProcessIO` records, with pipes or with a terminal of its own.
//!
//! The container lives as long as the connection: a client that leaves ends it. Its
//! input comes with `ATTACH_CONTAINER_INPUT`, others may listen with
//! `ATTACH_CONTAINER_OUTPUT` (`attach`). One task per session reads its output.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use mesos::ContainerId;
use mesos::agent::call::{LaunchContainer, LaunchNestedContainerSession};
use mesos::agent::process_io::data::Type;
use tokio::io::AsyncReadExt as _;
use tokio::net::unix::pipe::{Receiver, Sender};
use tokio::sync::{mpsc, watch};
use tokio::time::timeout;

use super::streams::{Session, Writer, data, heartbeat, heartbeats, record};
use super::{Context, nested};
use crate::agent::snapshot::Snapshot;
use crate::containerizer::terminal::{self, Lent, Terminal};
use crate::containerizer::{Class, ContainerizerError, Output};
use crate::wire::http::media::{self, Media};
use crate::wire::http::{Response, StatusCode};

/// Records that may wait for a slow client.
const CHUNKS: usize = 16;
/// The largest piece of output in one record.
const PIECE: usize = 16 << 10;
/// How long the last output to a terminal is waited for.
const PATIENCE: Duration = Duration::from_secs(5);

/// Starts the command and answers with its output.
pub(super) async fn launch(
    context: &Arc<Context>,
    snapshot: &Snapshot,
    call: LaunchNestedContainerSession,
    accept: media::Shape,
) -> Result<Response, Response> {
    let tty = call.container.as_ref().and_then(|info| info.tty_info);
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
    let (ours, output) = match tty {
        None => pipes().map_err(|error| {
            let message = format!("Failed to create the pipes of the session: {error}");
            Response::text(StatusCode::INTERNAL_SERVER_ERROR, message)
        })?,
        Some(info) => {
            let window = terminal::window(&info).map_err(|why| {
                let message = format!("Unable to set the window size: {why}");
                Response::text(StatusCode::BAD_REQUEST, message)
            })?;
            let lent = Lent::new(window);
            (Ours::Lent(lent.clone()), Output::Terminal(lent))
        }
    };
    request.class = Class::Debug(output);
    // A guest has no sandbox of its own: `<parent>/containers/<id>` is not made.
    if let Some(parent) = request.sandbox.parent().and_then(std::path::Path::parent) {
        request.sandbox = parent.to_owned();
    }
    let id = request.id.clone();
    nested::start(context, request).await?;
    let Some((writer, streams)) = ours.streams() else {
        context.containerizer.destroy(&id, None).await;
        let message = "Failed to attach to the terminal of the session";
        return Err(Response::text(StatusCode::INTERNAL_SERVER_ERROR, message));
    };
    let (session, over) = Session::new(writer);
    context.sessions.map().insert(id.to_string(), Arc::clone(&session));
    let guest = Guest { context: Arc::clone(context), id, session, ended: false, _over: over };
    let (sender, receiver) = mpsc::channel(CHUNKS);
    let client = Client { sender, media: accept.media() };
    tokio::spawn(forward(guest, streams, client));
    Ok(stream(accept, receiver))
}

/// The answer that goes on with records.
pub(super) fn stream(accept: media::Shape, records: mpsc::Receiver<Bytes>) -> Response {
    match accept {
        media::Shape::Single(media) => Response::stream(media.as_str(), records),
        media::Shape::Stream(media) => Response::stream(media::RECORDIO, records)
            .header(media::MESSAGE_CONTENT_TYPE, media.as_str()),
    }
}

/// Our ends of a session's streams, before it is launched.
enum Ours {
    Pipes(Sender, [Receiver; 2]),
    Lent(Lent),
}

impl Ours {
    /// The same, when it has been; `None` if nobody has made the terminal.
    fn streams(self) -> Option<(Writer, Streams)> {
        Some(match self {
            Ours::Pipes(input, outputs) => {
                let outputs = outputs.map(|pipe| (pipe, true));
                (Writer::Pipe(input), Streams::Pipes(outputs))
            }
            Ours::Lent(lent) => {
                let terminal = lent.take()?;
                (Writer::Terminal(Arc::clone(&terminal)), Streams::Terminal(terminal))
            }
        })
    }
}

fn pipes() -> io::Result<(Ours, Output)> {
    let (stdin, input) = io::pipe()?;
    let input = Sender::from_owned_fd(input.into())?;
    let ((out, stdout), (err, stderr)) = (outward()?, outward()?);
    let theirs = Output::Pipes(Arc::new([stdin.into(), stdout, stderr]));
    Ok((Ours::Pipes(input, [out, err]), theirs))
}

fn outward() -> io::Result<(Receiver, OwnedFd)> {
    let (reader, writer) = io::pipe()?;
    Ok((Receiver::from_owned_fd(reader.into())?, writer.into()))
}

/// What a session writes.
enum Streams {
    /// Output and error, and whether somebody may still write. A pipe whose writers
    /// are all gone reads as empty for ever, maybe before the end of the container is
    /// known: it is not asked again.
    Pipes([(Receiver, bool); 2]),
    Terminal(Arc<Terminal>),
}

impl Streams {
    /// The next piece; never completes once there can be none. May be dropped.
    async fn next(&mut self, buffer: &mut [u8]) -> (Type, Bytes) {
        let (first, second) = buffer.split_at_mut(PIECE);
        loop {
            let (kind, read) = match self {
                Streams::Pipes([(stdout, out), (stderr, err)]) => tokio::select! {
                    biased;
                    read = stdout.read(first), if *out => (Type::Stdout, read),
                    read = stderr.read(second), if *err => (Type::Stderr, read),
                    else => std::future::pending().await,
                },
                Streams::Terminal(terminal) => (Type::Stdout, terminal.read(first).await),
            };
            let second_kind = kind == Type::Stderr;
            if let Ok(length @ 1..) = read {
                let bytes = if second_kind { &second[..length] } else { &first[..length] };
                return (kind, Bytes::copy_from_slice(bytes));
            }
            match self {
                Streams::Pipes(pipes) => pipes[usize::from(second_kind)].1 = false,
                Streams::Terminal(_) => std::future::pending().await,
            }
        }
    }

    /// What is left when the container has ended, piece by piece.
    async fn rest(&mut self, buffer: &mut [u8]) -> Option<(Type, Bytes)> {
        let buffer = &mut buffer[..PIECE];
        let (kind, length) = match self {
            Streams::Pipes([(stdout, _), (stderr, _)]) => match stdout.try_read(buffer) {
                Ok(length @ 1..) => (Type::Stdout, length),
                _ => (Type::Stderr, stderr.try_read(buffer).ok()?),
            },
            // The kernel may still be moving bytes from one end to the other; it says when
            // it has moved the last one.
            Streams::Terminal(terminal) => {
                (Type::Stdout, timeout(PATIENCE, terminal.read(buffer)).await.ok()?.ok()?)
            }
        };
        (length > 0).then(|| (kind, Bytes::copy_from_slice(&buffer[..length])))
    }
}

/// The container of a session; dropping it ends the container.
struct Guest {
    context: Arc<Context>,
    id: ContainerId,
    session: Arc<Session>,
    /// It has: another may have its id by the time when this is dropped.
    ended: bool,
    /// Tells writers that it is over.
    _over: watch::Sender<()>,
}

impl Drop for Guest {
    fn drop(&mut self) {
        self.context.sessions.remove(&self.id.to_string(), &self.session);
        self.session.close();
        if !self.ended {
            let (context, id) = (Arc::clone(&self.context), self.id.clone());
            tokio::spawn(async move { context.containerizer.destroy(&id, None).await });
        }
    }
}

/// The client that started the session.
struct Client {
    sender: mpsc::Sender<Bytes>,
    media: Media,
}

/// Sends what the container writes until it has ended or nobody listens.
async fn forward(mut guest: Guest, mut streams: Streams, client: Client) {
    let Client { sender, media } = client;
    let (containerizer, id) = (Arc::clone(&guest.context.containerizer), guest.id.clone());
    let mut ended = std::pin::pin!(containerizer.wait(&id));
    let mut buffer = vec![0; 2 * PIECE];
    let (beat, mut beats) = heartbeats(&guest.context);
    loop {
        let io = tokio::select! {
            biased;
            () = sender.closed() => return,
            (kind, piece) = streams.next(&mut buffer) => data(kind, &piece),
            _ = &mut ended => break,
            _ = beats.tick() => heartbeat(beat),
        };
        guest.session.tell(&io);
        if sender.send(record(&io, media)).await.is_err() {
            return;
        }
    }
    guest.ended = true;
    while let Some((kind, piece)) = streams.rest(&mut buffer).await {
        let io = data(kind, &piece);
        guest.session.tell(&io);
        if sender.send(record(&io, media)).await.is_err() {
            return;
        }
    }
}

/// Answers with what a container that is no session writes from now on, if whoever runs it
/// can tell.
pub(super) async fn overhear(
    context: &Context,
    id: &ContainerId,
    accept: media::Shape,
) -> Result<Response, ContainerizerError> {
    let failed = |error: io::Error| {
        let message = format!("failed to make pipes: {error}");
        ContainerizerError::Listen { id: id.to_string(), message }
    };
    let (mut out, stdout) = outward().map_err(failed)?;
    let (mut err, stderr) = outward().map_err(failed)?;
    let listening = context.containerizer.listen(id, [stdout, stderr]).await?;
    let (beat, mut beats) = heartbeats(context);
    let (sender, receiver) = mpsc::channel(CHUNKS);
    let media = accept.media();
    tokio::spawn(async move {
        let _listening = listening;
        let (mut a, mut b) = (vec![0; PIECE], vec![0; PIECE]);
        let mut open = [true, true];
        while open.contains(&true) {
            let io = tokio::select! {
                biased;
                () = sender.closed() => return,
                read = out.read(&mut a), if open[0] => match read {
                    Ok(n @ 1..) => data(Type::Stdout, &a[..n]),
                    _ => { open[0] = false; continue }
                },
                read = err.read(&mut b), if open[1] => match read {
                    Ok(n @ 1..) => data(Type::Stderr, &b[..n]),
                    _ => { open[1] = false; continue }
                },
                _ = beats.tick() => heartbeat(beat),
            };
            if sender.send(record(&io, media)).await.is_err() {
                return;
            }
        }
    });
    Ok(stream(accept, receiver))
}
