//! The container calls of the operator API: launch, wait, kill, remove, for
//! containers inside an executor's container and for standalone ones.
//!
//! They go straight to the containerizer, whose tasks own the containers; the
//! agent's owner is not involved. A launch goes on when its client leaves.

#![allow(deprecated)] // the older names of container calls are what executors use

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use mesos::agent::call::LaunchContainer;
use mesos::agent::response::{WaitContainer, WaitNestedContainer};
use mesos::agent::{Response as Answer, response};
use mesos::{ContainerId, TaskResourceLimitation};

use super::Context;
use crate::agent::snapshot::Snapshot;
use crate::containerizer::{Class, ContainerizerError, LaunchRequest, Termination};
use crate::wire::http::{Response, StatusCode};

/// `LAUNCH_CONTAINER` and `LAUNCH_NESTED_CONTAINER`.
pub async fn launch(
    context: &Arc<Context>,
    snapshot: &Snapshot,
    call: LaunchContainer,
) -> Response {
    let request = match request(context, snapshot, call) {
        Ok(request) => request,
        Err(response) => return response,
    };
    if context.containerizer.containers().iter().any(|(id, _)| *id == request.id) {
        return Response::empty(StatusCode::ACCEPTED);
    }
    if let Err(error) = super::sandbox::create(&request.sandbox, request.user.as_deref()) {
        let message = format!("Failed to create sandbox: {error}");
        return Response::text(StatusCode::INTERNAL_SERVER_ERROR, message);
    }
    let (id, sandbox) = (request.id.clone(), request.sandbox.clone());
    let started = start(context, request).await;
    if context.common.flags.bool("gc_non_executor_container_sandboxes") {
        collect_later(context, id, &sandbox);
    }
    started.map_or_else(|response| response, |()| Response::empty(StatusCode::OK))
}

/// Tells the owner when the container is over, also if its launch failed: its
/// sandbox is there.
fn collect_later(context: &Arc<Context>, id: ContainerId, sandbox: &Path) {
    let Ok(sandbox) = sandbox.strip_prefix(context.work_dir.root()) else { return };
    let (context, sandbox) = (Arc::clone(context), sandbox.to_owned());
    tokio::spawn(async move {
        context.containerizer.wait(&id).await;
        context.handle.container_ended(sandbox).await;
    });
}

/// Starts a container whose sandbox exists.
pub(super) async fn start(context: &Arc<Context>, request: LaunchRequest) -> Result<(), Response> {
    let name = request.id.to_string();
    let context = Arc::clone(context);
    let launched = tokio::spawn(async move { context.containerizer.launch(request).await }).await;
    Err(match launched {
        Ok(Ok(_)) => return Ok(()),
        Ok(Err(ContainerizerError::AlreadyLaunched(_))) => Response::empty(StatusCode::ACCEPTED),
        Ok(Err(ContainerizerError::NotSupported(why))) => {
            bad_request(format!("The provided ContainerInfo is not supported: {why}"))
        }
        Ok(Err(error)) => bad_request(error.to_string()),
        Err(error) => {
            let message = format!("Failed to launch container {name}: {error}");
            Response::text(StatusCode::INTERNAL_SERVER_ERROR, message)
        }
    })
}

/// Where a container goes and as whom it runs.
pub(super) fn request(
    context: &Context,
    snapshot: &Snapshot,
    call: LaunchContainer,
) -> Result<LaunchRequest, Response> {
    let command = call.command.unwrap_or_default();
    let own_user = command.user.clone().filter(|_| context.switch_user);
    let executor = snapshot.executor_of(&call.container_id);
    let (sandbox, user, framework_id) = match (&call.container_id.parent, executor) {
        (None, _) => (context.work_dir.standalone(&call.container_id.value), own_user, None),
        (Some(parent), Some(executor)) => {
            require_parent(context, parent)?;
            let path = below(Path::new(&executor.directory), &call.container_id);
            let user = own_user.or_else(|| executor.user.clone());
            (path, user, Some(executor.framework_id.clone()))
        }
        (Some(parent), None) => {
            require_parent(context, parent)?;
            let root = context.work_dir.standalone(&parent.root().value);
            (below(&root, &call.container_id), own_user, None)
        }
    };
    let limits = call.limits.into_iter().map(|(name, limit)| (name, limit.value)).collect();
    let environment =
        BTreeMap::from([("MESOS_SANDBOX".to_owned(), sandbox.to_string_lossy().into_owned())]);
    Ok(LaunchRequest {
        id: call.container_id,
        command,
        container: call.container,
        requests: call.resources,
        limits,
        sandbox,
        user,
        environment,
        framework_id,
        executor: None,
        task: None,
        class: Class::Default,
    })
}

fn require_parent(context: &Context, parent: &ContainerId) -> Result<(), Response> {
    if context.containerizer.containers().iter().any(|(id, _)| id == parent) {
        return Ok(());
    }
    Err(bad_request(format!("Parent container {parent} does not exist")))
}

/// `ROOT/containers/<child>/containers/<grandchild>`.
fn below(root: &Path, id: &ContainerId) -> PathBuf {
    match &id.parent {
        Some(parent) => below(root, parent).join("containers").join(&id.value),
        None => root.to_owned(),
    }
}

/// `WAIT_CONTAINER` and `WAIT_NESTED_CONTAINER`, which differ in their answer.
pub async fn wait(
    context: &Context,
    id: &ContainerId,
    nested_answer: bool,
) -> Result<Answer, Response> {
    let termination = context.containerizer.wait(id).await.ok_or_else(|| {
        let message = format!("Container {id} cannot be found");
        Response::text(StatusCode::NOT_FOUND, message)
    })?;
    let end = ended(termination);
    Ok(if nested_answer {
        Answer {
            r#type: Some(response::Type::WaitNestedContainer as i32),
            wait_nested_container: Some(end),
            ..Default::default()
        }
    } else {
        Answer {
            r#type: Some(response::Type::WaitContainer as i32),
            wait_container: Some(WaitContainer {
                exit_status: end.exit_status,
                state: end.state,
                reason: end.reason,
                limitation: end.limitation,
                message: end.message,
            }),
            ..Default::default()
        }
    })
}

fn ended(termination: Termination) -> WaitNestedContainer {
    let limited = termination.limited_resources;
    WaitNestedContainer {
        exit_status: termination.status,
        state: termination.state.map(|s| s as i32),
        reason: termination.reasons.first().map(|r| *r as i32),
        limitation: (!limited.is_empty()).then_some(TaskResourceLimitation { resources: limited }),
        message: termination.message,
    }
}

/// `KILL_CONTAINER` and `KILL_NESTED_CONTAINER`.
pub async fn kill(context: &Context, id: &ContainerId, signal: Option<i32>) -> Response {
    const SIGKILL: i32 = 9;
    if context.containerizer.kill(id, signal.unwrap_or(SIGKILL)).await {
        return Response::empty(StatusCode::OK);
    }
    let message = format!("Container '{id}' cannot be found (or is already killed)");
    Response::text(StatusCode::NOT_FOUND, message)
}

/// `REMOVE_CONTAINER` and `REMOVE_NESTED_CONTAINER`: the record of a container
/// that has ended, and its sandbox. Of one that is not known nothing is left.
pub async fn remove(context: &Context, snapshot: &Snapshot, id: &ContainerId) -> Response {
    if context.containerizer.containers().iter().any(|(known, _)| known == id) {
        let message = format!("Container {id} has not terminated yet");
        return Response::text(StatusCode::INTERNAL_SERVER_ERROR, message);
    }
    context.containerizer.forget(id).await;
    let root = match snapshot.executor_of(id) {
        Some(_) if id.parent.is_none() => {
            return bad_request(format!("Container {id} belongs to an executor"));
        }
        Some(executor) => PathBuf::from(&executor.directory),
        None => context.work_dir.standalone(&id.root().value),
    };
    match super::sandbox::remove(&below(&root, id)) {
        Ok(()) => Response::empty(StatusCode::OK),
        Err(error) => {
            let message = format!("Failed to remove sandbox: {error}");
            Response::text(StatusCode::INTERNAL_SERVER_ERROR, message)
        }
    }
}

fn bad_request(message: String) -> Response {
    Response::text(StatusCode::BAD_REQUEST, message)
}
