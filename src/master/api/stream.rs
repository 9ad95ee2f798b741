//! Event streams: one task per stream turns events into RecordIO.
//!
//! The owner only queues; encoding and waiting for slow clients happen here.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use mesos::master::{self, event};
use mesos::{recordio, scheduler};
use prost::Message;
use tokio::sync::mpsc;

use super::{lists, views};
use crate::master::core::{OperatorEvent, StreamId};
use crate::master::driver::Handle;
use crate::master::snapshot::Snapshot;
use crate::wire::http::Response;
use crate::wire::http::media::Media;

/// Records that may wait for the connection.
const CHUNKS: usize = 16;
/// Between two heartbeats of an operator stream.
const HEARTBEAT: Duration = Duration::from_secs(15);

/// One message in the wanted form; `name` is its v1 name.
pub fn encode(name: &str, message: &impl Message, media: Media) -> Vec<u8> {
    match media {
        Media::Protobuf => message.encode_to_vec(),
        Media::Json => mesos::v1::to_json(name, message)
            .expect("our own messages have the shape of their v1 names"),
    }
}

fn record(name: &str, message: &impl Message, media: Media) -> Bytes {
    framed(&encode(name, message, media))
}

fn framed(record: &[u8]) -> Bytes {
    let mut out = Vec::new();
    recordio::encode(record, &mut out);
    out.into()
}

/// The answer to a scheduler's SUBSCRIBE.
pub fn scheduler(
    mut events: mpsc::Receiver<Arc<scheduler::Event>>,
    stream: StreamId,
    media: Media,
    handle: Handle,
) -> Response {
    let (chunks, body) = mpsc::channel(CHUNKS);
    let response =
        Response::stream(media.as_str(), body).header("mesos-stream-id", stream.as_str());
    tokio::spawn(async move {
        loop {
            tokio::select! {
                event = events.recv() => {
                    let Some(event) = event else { break };
                    let chunk = record("mesos.v1.scheduler.Event", &*event, media);
                    if chunks.send(chunk).await.is_err() {
                        break;
                    }
                }
                () = chunks.closed() => break,
            }
        }
        drop(chunks);
        handle.closed(stream).await;
    });
    response
}

/// The answer to an operator's SUBSCRIBE.
pub fn operator(
    snapshot: Arc<Snapshot>,
    mut events: mpsc::Receiver<OperatorEvent>,
    media: Media,
) -> Response {
    let (chunks, body) = mpsc::channel(CHUNKS);
    tokio::spawn(async move {
        let first = tokio::task::spawn_blocking(move || {
            let subscribed = event::Subscribed {
                get_state: Some(views::state(&snapshot)),
                heartbeat_interval_seconds: Some(HEARTBEAT.as_secs_f64()),
            };
            let bytes = match media {
                Media::Json => lists::subscribed(&subscribed),
                Media::Protobuf => {
                    let event = master::Event {
                        r#type: Some(event::Type::Subscribed as i32),
                        subscribed: Some(subscribed),
                        ..master::Event::default()
                    };
                    event.encode_to_vec()
                }
            };
            framed(&bytes)
        });
        let Ok(first) = first.await else { return };
        if chunks.send(first).await.is_err() {
            return;
        }
        // The first tick is at once.
        let mut heartbeat = tokio::time::interval(HEARTBEAT);
        loop {
            let event = tokio::select! {
                event = events.recv() => match event {
                    Some(event) => operator_event(event),
                    None => return,
                },
                _ = heartbeat.tick() => master::Event {
                    r#type: Some(event::Type::Heartbeat as i32),
                    ..master::Event::default()
                },
                () = chunks.closed() => return,
            };
            if chunks.send(record("mesos.v1.master.Event", &event, media)).await.is_err() {
                return;
            }
        }
    });
    Response::stream(media.as_str(), body)
}

fn operator_event(event: OperatorEvent) -> master::Event {
    use event::Type;
    let mut out = master::Event::default();
    let mut kind = |kind: Type| out.r#type = Some(kind as i32);
    match event {
        OperatorEvent::TaskAdded(task) => {
            kind(Type::TaskAdded);
            out.task_added = Some(event::TaskAdded { task: (*task).clone() });
        }
        OperatorEvent::TaskUpdated { framework, status, state } => {
            kind(Type::TaskUpdated);
            out.task_updated = Some(event::TaskUpdated {
                framework_id: framework.message(),
                status: (*status).clone(),
                state: state as i32,
            });
        }
        OperatorEvent::AgentAdded(agent) => {
            kind(Type::AgentAdded);
            out.agent_added = Some(event::AgentAdded { agent: views::agent(&agent) });
        }
        OperatorEvent::AgentRemoved(agent) => {
            kind(Type::AgentRemoved);
            out.agent_removed = Some(event::AgentRemoved { agent_id: agent.message() });
        }
        OperatorEvent::FrameworkAdded(framework) => {
            kind(Type::FrameworkAdded);
            let framework = views::framework_told(&framework);
            out.framework_added = Some(event::FrameworkAdded { framework });
        }
        OperatorEvent::FrameworkUpdated(framework) => {
            kind(Type::FrameworkUpdated);
            let framework = views::framework_told(&framework);
            out.framework_updated = Some(event::FrameworkUpdated { framework });
        }
        OperatorEvent::FrameworkRemoved(info) => {
            kind(Type::FrameworkRemoved);
            out.framework_removed =
                Some(event::FrameworkRemoved { framework_info: (*info).clone() });
        }
    }
    out
}
