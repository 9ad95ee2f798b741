//! `/api/v1/scheduler`: calls of HTTP schedulers.

use mesos::scheduler::{Call, call};

use super::refusal;
use super::stream;
use crate::master::core::{StreamId, validate};
use crate::master::driver::Handle;
use crate::wire::http::media::response_media;
use crate::wire::http::{Method, Request, Response, StatusCode};

const STREAM_ID: &str = "mesos-stream-id";

/// Answers one call.
pub async fn answer(handle: &Handle, mut request: Request) -> Response {
    match serve(handle, &mut request).await {
        Ok(response) | Err(response) => response,
    }
}

async fn serve(handle: &Handle, request: &mut Request) -> Result<Response, Response> {
    if request.method != Method::POST {
        return Err(Response::method_not_allowed(&["POST"], &request.method));
    }
    let call = read(request).await?;
    validate::call::shape(&call)
        .map_err(|e| bad(format!("Failed to validate scheduler::Call: {e}")))?;
    let given = request.header(STREAM_ID).map(str::to_owned);
    match call.r#type() {
        call::Type::Subscribe => subscribe(handle, request, call, given),
        call::Type::Unknown => Err(super::not_implemented()),
        kind => {
            if kind == call::Type::ReconcileOperations {
                response_media(&request.headers)?;
            }
            let done = handle.call(call, given).await.map_err(super::overloaded)?;
            done.map_err(|why| refusal(&why))?;
            // compat: only this call is done, the others are taken.
            let done = kind == call::Type::UpdateFramework;
            Ok(Response::empty(if done { StatusCode::OK } else { StatusCode::ACCEPTED }))
        }
    }
}

fn bad(text: impl Into<String>) -> Response {
    Response::text(StatusCode::BAD_REQUEST, text)
}

async fn read(request: &mut Request) -> Result<Call, Response> {
    let bytes = super::call_bytes("mesos.v1.scheduler.Call", request).await?;
    mesos::v1::scheduler_call(&bytes).map_err(|_| bad("Failed to parse body into Call protobuf"))
}

fn subscribe(
    handle: &Handle,
    request: &Request,
    call: Call,
    given: Option<String>,
) -> Result<Response, Response> {
    let media = response_media(&request.headers)?;
    if given.is_some() {
        return Err(bad("Subscribe calls should not include the 'Mesos-Stream-Id' header"));
    }
    let id = uuid::Uuid::new_v4().to_string();
    let stream = StreamId::from(id.as_str());
    let subscribe = call.subscribe.unwrap_or_default();
    let events = handle.subscribe(stream.clone(), subscribe).map_err(super::overloaded)?;
    Ok(stream::scheduler(events, stream, media, handle.clone()))
}
