//! `/api/v1`: the operator API. Answers reads from the snapshot and passes container
//! calls on.
//!
//! Calls that belong to parts that are not there yet are 501 with a sentence
//! that names them; docs/COMPAT.md lists them.

#![allow(deprecated)] // the older names of container calls are what executors use

use std::sync::Arc;
use std::time::Duration;

use mesos::agent::{Call, Response as Answer, call, response};
use prost::Message as _;

use super::attachments::Attachments;
use super::containers::{self, Selection};
use super::executor::not_implemented;
use super::{Context, attach, decode, files, images, nested, reads, session};
use crate::agent::snapshot::{AgentState, Snapshot};
use crate::wire::http::media::{self, Media, Shape};
use crate::wire::http::{Request, Response, StatusCode};

/// Serves one call.
pub(super) async fn serve(
    context: &Arc<Context>,
    attachments: &Arc<Attachments>,
    request: Request,
) -> Response {
    let snapshot = context.handle.snapshot();
    if snapshot.state == AgentState::Recovering {
        return super::recovering();
    }
    if request.method != "POST" {
        return Response::method_not_allowed(&["POST"], &request.method);
    }
    match answer(context, attachments, &snapshot, request).await {
        Ok(response) | Err(response) => response,
    }
}

async fn answer(
    context: &Arc<Context>,
    attachments: &Arc<Attachments>,
    snapshot: &Arc<Snapshot>,
    mut request: Request,
) -> Result<Response, Response> {
    let content = media::request_shape(&request.headers)?;
    let accept = media::response_shape(&request.headers)?;
    let content = match content {
        Shape::Single(content) => content,
        Shape::Stream(media) => return attach::streamed(context, request, media, accept).await,
    };
    let body = request.bytes().await?;
    let call =
        decode::operator(content, &body).map_err(|e| Response::text(StatusCode::BAD_REQUEST, e))?;
    match (call.r#type(), accept) {
        (call::Type::LaunchNestedContainerSession, _) => {
            let session = call.launch_nested_container_session.unwrap_or_default();
            return session::launch(context, snapshot, session, accept).await;
        }
        (call::Type::AttachContainerOutput, _) => {
            let attach = call.attach_container_output.unwrap_or_default();
            return attach::output(context, &attach.container_id, accept).await;
        }
        (kind @ call::Type::AttachContainerInput, _) => {
            let (wanted, kind) = (media::RECORDIO, kind.as_str_name());
            let message = format!("Expecting 'Content-Type' to be {wanted} for {kind} call");
            return Err(Response::text(StatusCode::UNSUPPORTED_MEDIA_TYPE, message));
        }
        (kind, Shape::Stream(_)) => return Err(attach::no_stream(kind)),
        _ => {}
    }
    let accept = accept.media();
    if let Some(answer) = reads::answer(&context.about, snapshot, &call) {
        return Ok(encode(&answer, accept));
    }
    if let Some(answer) = files::answer(context, attachments, snapshot, &call).await? {
        return Ok(encode(&answer, accept));
    }
    dispatch(context, snapshot, call, accept).await
}

/// The calls that do something, wait for something or ask the containerizer.
async fn dispatch(
    context: &Arc<Context>,
    snapshot: &Snapshot,
    call: Call,
    accept: Media,
) -> Result<Response, Response> {
    use call::Type as T;
    let kind = call.r#type();
    Ok(match kind {
        T::SetLoggingLevel => {
            let wanted = call.set_logging_level.unwrap_or_default();
            let nanoseconds = u64::try_from(wanted.duration.nanoseconds).unwrap_or(0);
            let duration = Duration::from_nanos(nanoseconds);
            context.common.logging.toggle(u64::from(wanted.level), duration);
            Response::empty(StatusCode::OK)
        }
        T::GetContainers => {
            let wanted = call.get_containers.unwrap_or_default();
            let selection = Selection {
                nested: wanted.show_nested(),
                standalone: wanted.show_standalone(),
                ..Default::default()
            };
            let found = containers::collect(snapshot, &*context.containerizer, &selection).await;
            let answer = Answer {
                r#type: Some(response::Type::GetContainers as i32),
                get_containers: containers::response(found),
                ..Default::default()
            };
            encode(&answer, accept)
        }
        T::LaunchContainer => {
            nested::launch(context, snapshot, call.launch_container.unwrap_or_default()).await
        }
        T::LaunchNestedContainer => {
            let launch = call.launch_nested_container.unwrap_or_default();
            let launch = call::LaunchContainer {
                container_id: launch.container_id,
                command: launch.command,
                container: launch.container,
                ..Default::default()
            };
            nested::launch(context, snapshot, launch).await
        }
        T::WaitContainer
        | T::WaitNestedContainer
        | T::KillContainer
        | T::KillNestedContainer
        | T::RemoveContainer
        | T::RemoveNestedContainer => {
            return on_container(context, snapshot, &call, accept).await;
        }
        T::PruneImages => images::prune(context, call.prune_images.unwrap_or_default()).await,
        T::Unknown => not_implemented(),
        _ => not_yet(kind.as_str_name()),
    })
}

async fn on_container(
    context: &Context,
    snapshot: &Snapshot,
    call: &Call,
    accept: Media,
) -> Result<Response, Response> {
    if let Some(wait) = &call.wait_container {
        return Ok(encode(&nested::wait(context, &wait.container_id, false).await?, accept));
    }
    if let Some(wait) = &call.wait_nested_container {
        return Ok(encode(&nested::wait(context, &wait.container_id, true).await?, accept));
    }
    if let Some(kill) = &call.kill_container {
        return Ok(nested::kill(context, &kill.container_id, kill.signal).await);
    }
    if let Some(kill) = &call.kill_nested_container {
        return Ok(nested::kill(context, &kill.container_id, kill.signal).await);
    }
    if let Some(remove) = &call.remove_container {
        return Ok(nested::remove(context, snapshot, &remove.container_id).await);
    }
    let remove = call.remove_nested_container.clone().unwrap_or_default();
    Ok(nested::remove(context, snapshot, &remove.container_id).await)
}

fn not_yet(what: &str) -> Response {
    Response::text(StatusCode::NOT_IMPLEMENTED, format!("{what} is not supported yet"))
}

fn encode(answer: &Answer, accept: Media) -> Response {
    use response::Type as T;
    match (accept, answer.r#type()) {
        (Media::Protobuf, _) => Response::answer(accept, answer.encode_to_vec()),
        (Media::Json, T::GetState | T::GetTasks | T::GetExecutors | T::GetFrameworks) => {
            Response::answer(accept, reads::to_json(answer))
        }
        (Media::Json, _) => Response::answer(
            accept,
            mesos::v1::to_json("mesos.v1.agent.Response", answer)
                .expect("a v0 response has the wire form of its v1 twin"),
        ),
    }
}
