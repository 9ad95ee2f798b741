//! `LIST_FILES`, `READ_FILE`, `GET_METRICS` and `GET_LOGGING_LEVEL`: the reads of
//! the operator API that the common services answer.

use std::sync::Arc;
use std::time::Instant;

use mesos::agent::{Call, Response as Answer, call, response};

use super::Context;
use super::attachments::Attachments;
use crate::agent::snapshot::Snapshot;
use crate::daemon::files::FilesError;
use crate::wire::http::{Response, StatusCode};

/// `None`: not one of these calls.
pub(super) async fn answer(
    context: &Context,
    attachments: &Arc<Attachments>,
    snapshot: &Arc<Snapshot>,
    call: &Call,
) -> Result<Option<Answer>, Response> {
    let mut answer = Answer::default();
    let kind = match call.r#type() {
        call::Type::GetMetrics => {
            let all = context.common.metrics.snapshot(Instant::now()).into_iter();
            let metrics = all.map(|(name, value)| mesos::Metric { name, value: Some(value) });
            answer.get_metrics = Some(response::GetMetrics { metrics: metrics.collect() });
            response::Type::GetMetrics
        }
        call::Type::GetLoggingLevel => {
            let level = u32::try_from(context.common.logging.verbosity()).unwrap_or(u32::MAX);
            answer.get_logging_level = Some(response::GetLoggingLevel { level });
            response::Type::GetLoggingLevel
        }
        call::Type::ListFiles => {
            Attachments::update(attachments, snapshot.clone()).await;
            let path = call.list_files.clone().unwrap_or_default().path;
            let files = context.common.files.clone();
            let file_infos = off_thread(move || files.browse(&path)).await?;
            answer.list_files = Some(response::ListFiles { file_infos });
            response::Type::ListFiles
        }
        call::Type::ReadFile => {
            Attachments::update(attachments, snapshot.clone()).await;
            let wanted = call.read_file.clone().unwrap_or_default();
            let files = context.common.files.clone();
            let read = move || files.read(&wanted.path, Some(wanted.offset), wanted.length);
            let piece = off_thread(read).await?;
            let size = piece.size;
            answer.read_file = Some(response::ReadFile { size, data: piece.data });
            response::Type::ReadFile
        }
        _ => return Ok(None),
    };
    answer.set_type(kind);
    Ok(Some(answer))
}

/// Disks may be slow.
async fn off_thread<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, FilesError> + Send + 'static,
) -> Result<T, Response> {
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(|_| Response::empty(StatusCode::INTERNAL_SERVER_ERROR))?.map_err(|e| match e {
        // compat: a missing file is a 404 without a body.
        FilesError::NotFound => Response::text(StatusCode::NOT_FOUND, ""),
        FilesError::Invalid(message) => Response::text(StatusCode::BAD_REQUEST, message),
        FilesError::Unknown(message) => Response::text(StatusCode::INTERNAL_SERVER_ERROR, message),
    })
}
