//! `LAUNCH_NESTED_CONTAINER_SESSION`: a command in a running container, its output
//! as a stream of `ProcessIO` records.
//!
//! The container lives as long as the connection: a client that leaves ends it.
//! Input and terminals come with `ATTACH_CONTAINER_INPUT`, later.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use bytes::Bytes;
use mesos::agent::call::{LaunchContainer, LaunchNestedContainerSession};
use mesos::agent::{ProcessIo, process_io};
use mesos::{ContainerId, recordio};
use prost::Message as _;
use tokio::io::AsyncReadExt as _;
use tokio::net::unix::pipe::Receiver;
use tokio::sync::mpsc;

use super::{Context, nested};
use crate::agent::snapshot::Snapshot;
use crate::containerizer::{Class, Output};
use crate::wire::http::media::{self, Media};
use crate::wire::http::{Response, StatusCode};

/// Records that may wait for a slow client.
const CHUNKS: usize = 16;
/// The largest piece of output in one record.
const PIECE: usize = 16 << 10;

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
    let (stdout, out) = pipe().map_err(failed)?;
    let (stderr, err) = pipe().map_err(failed)?;
    request.class = Class::Debug(Output::Pipes(Arc::new([out, err])));
    // A guest has no sandbox of its own: `<parent>/containers/<id>` is not made.
    if let Some(parent) = request.sandbox.parent().and_then(std::path::Path::parent) {
        request.sandbox = parent.to_owned();
    }
    let guest = Guest { context: Arc::clone(context), id: request.id.clone() };
    nested::start(context, request).await?;
    let (sender, receiver) = mpsc::channel(CHUNKS);
    tokio::spawn(forward(guest, [stdout, stderr], sender, accept.media()));
    Ok(match accept {
        media::Shape::Single(media) => Response::stream(media.as_str(), receiver),
        media::Shape::Stream(media) => Response::stream(media::RECORDIO, receiver)
            .header(media::MESSAGE_CONTENT_TYPE, media.as_str()),
    })
}

fn pipe() -> std::io::Result<(Receiver, OwnedFd)> {
    let (reader, writer) = std::io::pipe()?;
    Ok((Receiver::from_owned_fd(reader.into())?, writer.into()))
}

/// The container of a session; dropping it ends the container.
struct Guest {
    context: Arc<Context>,
    id: ContainerId,
}

impl Drop for Guest {
    fn drop(&mut self) {
        let (context, id) = (Arc::clone(&self.context), self.id.clone());
        // Of a container that has ended this asks nothing.
        tokio::spawn(async move { context.containerizer.destroy(&id, None).await });
    }
}

/// Sends what the container writes until it has ended or nobody listens.
async fn forward(
    guest: Guest,
    [mut stdout, mut stderr]: [Receiver; 2],
    sender: mpsc::Sender<Bytes>,
    media: Media,
) {
    use process_io::data::Type::{Stderr, Stdout};
    let ended = guest.context.containerizer.wait(&guest.id);
    let mut ended = std::pin::pin!(ended);
    let (mut a, mut b) = (vec![0; PIECE], vec![0; PIECE]);
    // A pipe whose writers are all gone reads as empty for ever, maybe before the
    // end of the container is known: it is not asked again.
    let (mut out, mut err) = (true, true);
    loop {
        let (kind, read) = tokio::select! {
            biased;
            () = sender.closed() => return,
            read = stdout.read(&mut a), if out => (Stdout, read),
            read = stderr.read(&mut b), if err => (Stderr, read),
            _ = &mut ended => break,
        };
        let (open, buffer) = if kind == Stdout { (&mut out, &a) } else { (&mut err, &b) };
        match read {
            Ok(n @ 1..) => {
                if sender.send(record(kind, &buffer[..n], media)).await.is_err() {
                    return;
                }
            }
            Ok(0) | Err(_) => *open = false,
        }
    }
    for (kind, pipe) in [(Stdout, &stdout), (Stderr, &stderr)] {
        while let Ok(n @ 1..) = pipe.try_read(&mut a) {
            if sender.send(record(kind, &a[..n], media)).await.is_err() {
                return;
            }
        }
    }
}

fn record(kind: process_io::data::Type, data: &[u8], media: Media) -> Bytes {
    let io = ProcessIo {
        r#type: Some(process_io::Type::Data as i32),
        data: Some(process_io::Data { r#type: Some(kind as i32), data: Some(data.to_vec()) }),
        control: None,
    };
    let record = match media {
        Media::Protobuf => io.encode_to_vec(),
        Media::Json => mesos::v1::to_json("mesos.v1.agent.ProcessIO", &io)
            .expect("a v0 record has the wire form of its v1 twin"),
    };
    let mut framed = Vec::with_capacity(record.len() + 8);
    recordio::encode(&record, &mut framed);
    framed.into()
}
