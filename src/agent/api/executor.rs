//! `/api/v1/executor`: what HTTP executors say, and the stream of what they are
//! told. Called by the router; everything that changes the agent goes through
//! its `Handle`.

use bytes::Bytes;
use mesos::executor::{Event, call};
use mesos::{TaskStatus, recordio};
use prost::Message as _;
use tokio::sync::mpsc;

use super::{Context, decode};
use crate::agent::core::event::Refusal;
use crate::agent::{CallError, Subscription};
use crate::containerizer::Containerizer;
use crate::wire::http::media::{self, Media};
use crate::wire::http::{Request, Response, StatusCode};

/// Encoded events waiting for the connection.
const CHUNKS: usize = 16;

/// Serves one call.
pub async fn serve(context: &Context, mut request: Request) -> Response {
    if request.method != "POST" {
        return Response::method_not_allowed(&["POST"], &request.method);
    }
    match answer(context, &mut request).await {
        Ok(response) | Err(response) => response,
    }
}

async fn answer(context: &Context, request: &mut Request) -> Result<Response, Response> {
    let handle = &context.handle;
    let content = media::request_media(&request.headers)?;
    let body = request.bytes().await?;
    let call = decode::executor(content, &body).map_err(bad_request)?;
    let (framework, executor) = (call.framework_id.clone(), call.executor_id.clone());
    let done = match call.r#type() {
        // compat: Mesos' executors send made-up ids with their heartbeats.
        call::Type::Heartbeat => Ok(()),
        call::Type::Subscribe => {
            let accept = media::response_media(&request.headers)?;
            let subscribe = call.subscribe.unwrap_or_default();
            let stream = handle.subscribe(framework, executor, subscribe).await.map_err(refused)?;
            return Ok(open(stream, accept));
        }
        call::Type::Update => {
            let mut status = call.update.unwrap_or_default().status;
            complete(&*context.containerizer, &mut status).await;
            handle.update(framework, executor, status).await
        }
        call::Type::Message => {
            let data = call.message.unwrap_or_default().data;
            handle.executor_message(framework, executor, data).await
        }
        call::Type::Unknown => return Ok(not_implemented()),
    };
    done.map_err(refused)?;
    Ok(Response::empty(StatusCode::ACCEPTED))
}

/// Adds the first process and the networks of a nested container that runs: executors do
/// not know them, and the owner knows only those of executors.
async fn complete(containerizer: &dyn Containerizer, status: &mut TaskStatus) {
    let Some(told) = &mut status.container_status else { return };
    let Some(id) = told.container_id.as_ref().filter(|id| id.parent.is_some()) else { return };
    if let Some(known) = containerizer.status(id).await {
        told.executor_pid = told.executor_pid.or(known.executor_pid);
        if told.network_infos.is_empty() {
            told.network_infos = known.network_infos;
        }
    }
}

/// The response whose body is the stream of events. It ends when the agent ends
/// the subscription or the executor hangs up.
fn open(subscription: Subscription, accept: Media) -> Response {
    let (sender, receiver) = mpsc::channel(CHUNKS);
    tokio::spawn(async move {
        // Moved as a whole: its drop is what ends the subscription.
        let mut subscription = subscription;
        loop {
            let event = tokio::select! {
                () = sender.closed() => return,
                event = subscription.events.recv() => event,
            };
            let Some(event) = event else { return };
            if sender.send(encode(&event, accept)).await.is_err() {
                return;
            }
        }
    });
    Response::stream(accept.as_str(), receiver)
}

fn encode(event: &Event, accept: Media) -> Bytes {
    let record = match accept {
        Media::Protobuf => event.encode_to_vec(),
        Media::Json => mesos::v1::to_json("mesos.v1.executor.Event", event)
            .expect("a v0 event has the wire form of its v1 twin"),
    };
    let mut framed = Vec::with_capacity(record.len() + 8);
    recordio::encode(&record, &mut framed);
    framed.into()
}

fn bad_request(message: String) -> Response {
    Response::text(StatusCode::BAD_REQUEST, message)
}

/// 501 as libprocess says it.
pub(super) fn not_implemented() -> Response {
    Response::text(StatusCode::NOT_IMPLEMENTED, "501 Not Implemented.")
}

/// The status of a call that the agent did not take.
fn refused(error: CallError) -> Response {
    let status = match &error {
        CallError::Busy | CallError::Stopped | CallError::Refused(Refusal::Recovering) => {
            StatusCode::SERVICE_UNAVAILABLE
        }
        CallError::Refused(Refusal::NotSubscribed) => StatusCode::FORBIDDEN,
        CallError::Refused(_) => StatusCode::BAD_REQUEST,
    };
    Response::text(status, error.to_string())
}
