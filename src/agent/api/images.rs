//! `/images`: what containerizers have at hand, and fetching more; and `PRUNE_IMAGES`.
//!
//! GET lists. POST `{"image": NAME}` pulls, so that an image is there before a rollout;
//! the answer is RecordIO of JSON: how far it is, now and then, and at last the image or
//! an error. A client that leaves ends the pull, unless somebody else waits for it too.

use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use bytes::Bytes;
use mesos::agent::call::PruneImages;
use mesos::recordio;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::sync::{mpsc, watch};

use super::Context;
use crate::containerizer::images::{ImageRow, NamedStore, Progress, Watcher};
use crate::wire::http::{Request, Response, StatusCode};

/// Records that may wait for a slow client.
const RECORDS: usize = 4;
/// Between two words on how far it is.
const TICK: Duration = Duration::from_millis(500);
/// Records, one after the other.
const RECORD: &str = "application/recordio";

/// What is to be pulled.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Pull {
    image: String,
    /// Although it is there.
    #[serde(default)]
    force: bool,
    /// Whose; the first one that has to do with images if not given.
    #[serde(default)]
    containerizer: Option<String>,
}

/// Serves `/images`.
pub(super) async fn serve(context: &Arc<Context>, mut request: Request) -> Response {
    match request.method.as_str() {
        "GET" => list(context).await,
        "POST" => {
            let body = match request.bytes().await {
                Ok(body) => body,
                Err(response) => return response,
            };
            match serde_json::from_slice::<Pull>(&body) {
                Ok(wanted) => pull(context, wanted),
                Err(error) => {
                    let text = format!(
                        "Expecting an object of 'image', 'force' and 'containerizer': {error}"
                    );
                    Response::text(StatusCode::BAD_REQUEST, text)
                }
            }
        }
        _ => Response::method_not_allowed(&["GET", "POST"], &request.method),
    }
}

/// A store that does not answer hides only its own images.
async fn list(context: &Context) -> Response {
    let (mut all, mut errors) = (Vec::new(), Vec::new());
    for (containerizer, store) in context.containerizer.images() {
        match store.list().await {
            Ok(rows) => all.extend(rows.iter().map(|row| shown(containerizer, row))),
            Err(error) => {
                let message = kernel::chain(&error);
                errors.push(json!({ "containerizer": containerizer, "message": message }));
            }
        }
    }
    Response::json(json!({ "images": all, "errors": errors }).to_string())
}

fn shown(containerizer: &str, row: &ImageRow) -> Value {
    let used = row.last_used.and_then(|time| time.duration_since(UNIX_EPOCH).ok());
    json!({
        "name": row.name,
        "containerizer": containerizer,
        "digest": row.digest,
        "bytes": row.bytes,
        "last_used": used.map(|time| time.as_secs()),
        "in_use": row.in_use,
    })
}

/// The store that is meant.
fn choose(mut all: Vec<NamedStore>, wanted: Option<&str>) -> Result<NamedStore, String> {
    let names: Vec<&str> = all.iter().map(|(name, _)| *name).collect();
    let found = match wanted {
        Some(wanted) => names.iter().position(|name| *name == wanted),
        None => (!names.is_empty()).then_some(0),
    };
    match (found, wanted) {
        (Some(index), _) => Ok(all.swap_remove(index)),
        (None, _) if names.is_empty() => {
            Err("No containerizer of this agent has images: see --image_providers".into())
        }
        (None, wanted) => {
            let wanted = wanted.unwrap_or_default();
            Err(format!("No containerizer '{wanted}' has images; these do: {}", names.join(", ")))
        }
    }
}

fn pull(context: &Context, wanted: Pull) -> Response {
    let store = choose(context.containerizer.images(), wanted.containerizer.as_deref());
    let (containerizer, store) = match store {
        Ok(store) => store,
        Err(text) => return Response::text(StatusCode::BAD_REQUEST, text),
    };
    let (records, body) = mpsc::channel::<Bytes>(RECORDS);
    tokio::spawn(async move {
        let (progress, mut seen) = watch::channel(Progress::default());
        let watcher: Watcher = Arc::new(move |now| {
            progress.send_replace(now);
        });
        let pulling = store.pull(&wanted.image, wanted.force, watcher);
        tokio::pin!(pulling);
        let mut ticks = tokio::time::interval(TICK);
        let end = loop {
            tokio::select! {
                end = &mut pulling => break end,
                () = records.closed() => return,
                _ = ticks.tick() => {
                    let now = *seen.borrow_and_update();
                    let _ = records.try_send(record(&json!({ "progress": now.to_json() })));
                }
            }
        };
        let last = match end {
            Ok(row) => json!({ "image": shown(containerizer, &row) }),
            Err(error) => json!({ "error": kernel::chain(&error) }),
        };
        let _ = records.send(record(&last)).await;
    });
    Response::stream(RECORD, body)
}

fn record(value: &Value) -> Bytes {
    let mut out = Vec::new();
    recordio::encode(value.to_string().as_bytes(), &mut out);
    out.into()
}

/// `PRUNE_IMAGES`: images that no container uses, but for the excluded ones; without
/// any, those of `--image_gc_config`.
pub(super) async fn prune(context: &Context, call: PruneImages) -> Response {
    let mut excluded: Vec<String> =
        call.excluded_images.iter().map(isolators::image::name).collect();
    if excluded.is_empty() {
        excluded.clone_from(&context.excluded_images);
    }
    for (containerizer, store) in context.containerizer.images() {
        match store.prune(&excluded).await {
            Ok(gone) => {
                let names: Vec<&str> = gone.iter().map(|row| row.name.as_str()).collect();
                tracing::info!(containerizer, images = ?names, "pruned images");
            }
            Err(error) => {
                let text = format!("Failed to prune images: {}", kernel::chain(&error));
                return Response::text(StatusCode::INTERNAL_SERVER_ERROR, text);
            }
        }
    }
    Response::empty(StatusCode::OK)
}
