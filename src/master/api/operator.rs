//! `/api/v1`: the operator API.

use std::sync::Arc;
use std::time::{Duration, Instant};

use mesos::master::{Call, Response as Answer, call, response};
use prost::Message;

use super::stream::{self, encode};
use super::{Api, refusal, views};
use crate::daemon::files::FilesError;
use crate::master::core::{Command, validate};
use crate::master::ids::{AgentId, FrameworkId};
use crate::wire::http::media::{Media, response_media};
use crate::wire::http::{Method, Request, Response, StatusCode};

/// Answers one call.
pub async fn answer(api: &Arc<Api>, mut request: Request) -> Response {
    match serve(api, &mut request).await {
        Ok(response) | Err(response) => response,
    }
}

async fn serve(api: &Arc<Api>, request: &mut Request) -> Result<Response, Response> {
    if request.method != Method::POST {
        return Err(Response::method_not_allowed(&["POST"], &request.method));
    }
    let call = read(request).await?;
    validate::call::operator(&call)
        .map_err(|e| bad(format!("Failed to validate master::Call: {e}")))?;
    let media = response_media(&request.headers)?;
    use call::Type as T;
    match call.r#type() {
        T::Unknown => Err(super::not_implemented()),
        T::Subscribe => {
            let (snapshot, events) = api.handle.watch().await.map_err(super::overloaded)?;
            Ok(stream::operator(snapshot, events, media))
        }
        T::GetState
        | T::GetAgents
        | T::GetFrameworks
        | T::GetExecutors
        | T::GetOperations
        | T::GetTasks
        | T::GetRoles
        | T::GetWeights
        | T::GetMaster => {
            let (snapshot, kind) = (api.handle.snapshot(), call.r#type());
            super::render(move || send(&read_of(kind, &snapshot), media)).await
        }
        T::GetHealth | T::GetFlags | T::GetVersion | T::GetMetrics | T::GetLoggingLevel => {
            Ok(send(&own(api, call.r#type()), media))
        }
        T::SetLoggingLevel => {
            let set = call.set_logging_level.unwrap_or_default();
            let duration = u64::try_from(set.duration.nanoseconds).unwrap_or(0);
            api.common.logging.toggle(u64::from(set.level), Duration::from_nanos(duration));
            Ok(Response::empty(StatusCode::OK))
        }
        T::ListFiles | T::ReadFile => files(api, call, media).await,
        _ => change(api, call).await,
    }
}

fn bad(text: impl Into<String>) -> Response {
    Response::text(StatusCode::BAD_REQUEST, text)
}

async fn read(request: &mut Request) -> Result<Call, Response> {
    let bytes = super::call_bytes("mesos.v1.master.Call", request).await?;
    let malformed = || bad("Failed to parse body into Call protobuf");
    if let Some(schema) = mesos::schema::find("mesos.v1.master.Call") {
        mesos::schema::check(schema, &bytes).map_err(|_| malformed())?;
    }
    let mut call = Call::decode(&bytes[..]).map_err(|_| malformed())?;
    if let Some(drain) = &mut call.drain_agent {
        drain.max_grace_period = grace_period(&bytes).map_err(|()| malformed())?;
    }
    Ok(call)
}

/// The one field whose bytes differ between v0 (`DurationInfo`) and v1
/// (`google.protobuf.Duration`): `DRAIN_AGENT`'s `max_grace_period`.
fn grace_period(call: &[u8]) -> Result<Option<mesos::DurationInfo>, ()> {
    #[derive(prost::Message)]
    struct V1Call {
        #[prost(message, optional, tag = "21")]
        drain_agent: Option<V1Drain>,
    }
    #[derive(prost::Message)]
    struct V1Drain {
        #[prost(message, optional, tag = "2")]
        max_grace_period: Option<V1Duration>,
    }
    #[derive(prost::Message)]
    struct V1Duration {
        #[prost(int64, tag = "1")]
        seconds: i64,
        #[prost(int32, tag = "2")]
        nanos: i32,
    }
    let call = V1Call::decode(call).map_err(|_| ())?;
    let Some(grace) = call.drain_agent.and_then(|drain| drain.max_grace_period) else {
        return Ok(None);
    };
    let nanoseconds = grace
        .seconds
        .checked_mul(1_000_000_000)
        .and_then(|n| n.checked_add(i64::from(grace.nanos)))
        .filter(|n| *n >= 0);
    Ok(Some(mesos::DurationInfo { nanoseconds: nanoseconds.ok_or(())? }))
}

fn send(answer: &Answer, media: Media) -> Response {
    let body = match media {
        Media::Json => super::lists::json(answer),
        Media::Protobuf => encode("mesos.v1.master.Response", answer, media),
    };
    Response::answer(media, body)
}

fn of(kind: response::Type) -> Answer {
    Answer { r#type: Some(kind as i32), ..Answer::default() }
}

fn read_of(kind: call::Type, snapshot: &crate::master::snapshot::Snapshot) -> Answer {
    use call::Type as T;
    use response::Type as R;
    match kind {
        T::GetState => Answer { get_state: Some(views::state(snapshot)), ..of(R::GetState) },
        T::GetAgents => Answer { get_agents: Some(views::agents(snapshot)), ..of(R::GetAgents) },
        T::GetFrameworks => {
            Answer { get_frameworks: Some(views::frameworks(snapshot)), ..of(R::GetFrameworks) }
        }
        T::GetExecutors => {
            Answer { get_executors: Some(views::executors(snapshot)), ..of(R::GetExecutors) }
        }
        T::GetOperations => {
            Answer { get_operations: Some(views::operations(snapshot)), ..of(R::GetOperations) }
        }
        T::GetTasks => Answer { get_tasks: Some(views::tasks(snapshot)), ..of(R::GetTasks) },
        T::GetRoles => Answer { get_roles: Some(views::roles(snapshot)), ..of(R::GetRoles) },
        T::GetWeights => {
            Answer { get_weights: Some(views::weights(snapshot)), ..of(R::GetWeights) }
        }
        _ => Answer { get_master: Some(views::master(snapshot)), ..of(R::GetMaster) },
    }
}

fn own(api: &Api, kind: call::Type) -> Answer {
    use call::Type as T;
    use response::Type as R;
    match kind {
        T::GetHealth => {
            Answer { get_health: Some(response::GetHealth { healthy: true }), ..of(R::GetHealth) }
        }
        T::GetFlags => {
            let flags = api.common.flags.shown();
            let flag = |(name, value): (&str, String)| mesos::Flag {
                name: name.to_owned(),
                value: Some(value),
            };
            let flags = flags.map(flag).collect();
            Answer { get_flags: Some(response::GetFlags { flags }), ..of(R::GetFlags) }
        }
        T::GetVersion => {
            let version_info = crate::daemon::version::info().clone();
            Answer { get_version: Some(response::GetVersion { version_info }), ..of(R::GetVersion) }
        }
        T::GetMetrics => {
            let all = api.common.metrics.snapshot(Instant::now());
            let metric = |(name, value)| mesos::Metric { name, value: Some(value) };
            let metrics = all.into_iter().map(metric).collect();
            Answer { get_metrics: Some(response::GetMetrics { metrics }), ..of(R::GetMetrics) }
        }
        _ => {
            let level = u32::try_from(api.common.logging.verbosity()).unwrap_or(u32::MAX);
            Answer {
                get_logging_level: Some(response::GetLoggingLevel { level }),
                ..of(R::GetLoggingLevel)
            }
        }
    }
}

async fn files(api: &Arc<Api>, call: Call, media: Media) -> Result<Response, Response> {
    let files = api.common.files.clone();
    let work = move || -> Result<Answer, FilesError> {
        if let Some(list) = call.list_files {
            let file_infos = files.browse(&list.path)?;
            return Ok(Answer {
                list_files: Some(response::ListFiles { file_infos }),
                ..of(response::Type::ListFiles)
            });
        }
        let read = call.read_file.unwrap_or_default();
        let piece = files.read(&read.path, Some(read.offset), read.length)?;
        Ok(Answer {
            read_file: Some(response::ReadFile { size: piece.size, data: piece.data }),
            ..of(response::Type::ReadFile)
        })
    };
    let answer = tokio::task::spawn_blocking(work).await;
    match answer {
        Ok(Ok(answer)) => Ok(send(&answer, media)),
        Ok(Err(FilesError::NotFound)) => Err(Response::text(StatusCode::NOT_FOUND, "")),
        Ok(Err(FilesError::Invalid(why))) => Err(bad(why)),
        Ok(Err(FilesError::Unknown(why))) => {
            Err(Response::text(StatusCode::INTERNAL_SERVER_ERROR, why))
        }
        Err(_) => Err(Response::empty(StatusCode::INTERNAL_SERVER_ERROR)),
    }
}

async fn change(api: &Arc<Api>, call: Call) -> Result<Response, Response> {
    let agent = |id: mesos::SlaveId| AgentId::from(&id);
    let command = match call.r#type() {
        call::Type::UpdateWeights => {
            Command::UpdateWeights(call.update_weights.unwrap_or_default().weight_infos)
        }
        call::Type::Teardown => {
            Command::Teardown(FrameworkId::from(&call.teardown.unwrap_or_default().framework_id))
        }
        call::Type::MarkAgentGone => {
            Command::MarkAgentGone(agent(call.mark_agent_gone.unwrap_or_default().slave_id))
        }
        call::Type::DrainAgent => {
            let drain = call.drain_agent.unwrap_or_default();
            let config = mesos::DrainConfig {
                max_grace_period: drain.max_grace_period,
                mark_gone: Some(drain.mark_gone()),
            };
            Command::DrainAgent(agent(drain.slave_id), config)
        }
        call::Type::DeactivateAgent => {
            Command::DeactivateAgent(agent(call.deactivate_agent.unwrap_or_default().slave_id))
        }
        call::Type::ReactivateAgent => {
            Command::ReactivateAgent(agent(call.reactivate_agent.unwrap_or_default().slave_id))
        }
        other => return Err(super::not_yet(other.as_str_name())),
    };
    super::run(&api.handle, command).await.map_err(|why| refusal(&why))?;
    Ok(Response::empty(StatusCode::OK))
}
