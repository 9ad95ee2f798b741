//! One pull, for all who wait for it.

use std::os::fd::AsFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::SystemTime;

use kernel::chain;
use serde_json::Value;
use tokio::sync::watch;
use tracing::{info, warn};

use super::files::{self, ReferenceRecord};
use super::{Inner, Lease, hold};
use crate::provisioner::message::{Job, Progress, Report, VERSION};
use crate::provisioner::pull;
use crate::provisioner::reference::{Digest, Reference};

/// What a pull is for. Whoever has other credentials does not share it.
#[derive(Clone, PartialEq, Eq, Hash)]
pub(super) struct Key {
    reference: Reference,
    credentials: Option<Value>,
}

impl std::fmt::Debug for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.reference)
    }
}

impl Key {
    /// `None`: the credentials are no JSON object.
    pub fn new(reference: &Reference, credentials: Option<&[u8]>) -> Option<Key> {
        let parse = |bytes| serde_json::from_slice::<Value>(bytes).ok().filter(Value::is_object);
        let credentials = match credentials {
            Some(bytes) => Some(parse(bytes)?),
            None => None,
        };
        Some(Key { reference: reference.clone(), credentials })
    }
}

/// How it goes.
#[derive(Debug, Clone)]
pub(super) enum Landing {
    Pulling(Progress),
    Ready(Lease),
    Failed(String),
}

/// Waits for the pull that is under way, or for a new one.
pub(super) fn join(inner: &Arc<Inner>, key: Key) -> watch::Receiver<Landing> {
    let (landing, begun) = inner.flights.join(&key, Landing::Pulling(Progress::default()));
    if let Some(waiting) = begun {
        inner.lock().pulls += 1;
        tokio::spawn(fly(Working(Arc::clone(inner)), key, waiting));
    }
    landing
}

/// Counts as a pull at work; dropped, it does not.
struct Working(Arc<Inner>);

impl Drop for Working {
    fn drop(&mut self) {
        self.0.lock().pulls -= 1;
    }
}

/// Pulls, unless all who wait lose interest.
async fn fly(working: Working, key: Key, waiting: Arc<watch::Sender<Landing>>) {
    let inner = Arc::clone(&working.0);
    let work = pull(&inner, &key, &waiting);
    let Some(landing) = inner.flights.while_wanted(&key, &waiting, work).await else {
        info!(image = %key.reference, "gave up a pull that nobody waits for");
        return;
    };
    let ready = match &landing {
        Landing::Ready(lease) => Some(lease.id),
        Landing::Failed(message) => {
            warn!(image = %key.reference, %message, "failed to pull an image");
            None
        }
        Landing::Pulling(_) => None,
    };
    // It is entered in the book: whoever hears of it may prune.
    drop(working);
    waiting.send_replace(landing);
    // Its lease must not outlive those who wait.
    drop(waiting);
    if let Some(id) = ready {
        flush(inner, id).await;
    }
}

/// Writes what was pulled to the disk, while it is in use already.
async fn flush(inner: Arc<Inner>, id: Digest) {
    let layers = inner.lock().book.layers_of(id);
    let flushed = tokio::task::spawn_blocking(move || inner.files.flush(&layers)).await;
    if let Ok(Err(failed)) = flushed {
        let (path, error) = (failed.path.display(), &failed.source);
        warn!(%path, %error, "an image may have to be pulled again after a power failure");
    }
}

/// A directory of a pull; dropped, it is gone.
struct Staging(PathBuf);

impl Drop for Staging {
    fn drop(&mut self) {
        let path = std::mem::take(&mut self.0);
        // Blocking, for long; the helper may still be ending, and what it makes in
        // between is swept when the agent starts.
        match tokio::runtime::Handle::try_current() {
            Ok(runtime) => drop(runtime.spawn_blocking(move || files::remove(&path))),
            Err(_) => files::remove(&path),
        }
    }
}

async fn pull(inner: &Arc<Inner>, key: &Key, waiting: &watch::Sender<Landing>) -> Landing {
    // A second time if what was there when it began is gone when it ends.
    for _ in 0..2 {
        match once(inner, key, waiting).await {
            Ok(Some(lease)) => return Landing::Ready(lease),
            Ok(None) => {}
            Err(message) => return Landing::Failed(message),
        }
    }
    Landing::Failed("a layer went away while others were pulled".into())
}

/// One pull; `None`: a layer is missing.
async fn once(
    inner: &Arc<Inner>,
    key: &Key,
    waiting: &watch::Sender<Landing>,
) -> Result<Option<Lease>, String> {
    let told = |failed: files::Failed| {
        format!("failed to {} '{}': {}", failed.verb, failed.path.display(), failed.source)
    };
    let settings = &inner.settings;
    let staging = Staging(inner.files.stage().map_err(told)?);
    let job = Job {
        version: VERSION,
        reference: key.reference.clone(),
        source: settings.source(&key.reference),
        store: inner.files.dir.clone(),
        staging: staging.0.clone(),
        credentials: key.credentials.iter().chain(&settings.credentials).cloned().collect(),
        environment: pull::environment(),
        stall_secs: settings.stall.as_secs(),
        size_limit: settings.size_limit,
    };
    let started = inner.program.start(c"pull", &job, &[std::io::stderr().as_fd()]).await;
    let mut helper = started.map_err(|error| chain(&error))?;
    let (id, manifest) = loop {
        match helper.next().await.map_err(|error| chain(&error))? {
            Report::Progress(progress) => {
                waiting.send_replace(Landing::Pulling(progress));
            }
            Report::Done { id, manifest } => break (id, manifest),
            Report::Failed { message } => return Err(message),
        }
    };
    let used = SystemTime::now();
    let record = ReferenceRecord { reference: key.reference.clone(), id, manifest, used };
    let mut state = inner.lock();
    let parsed = inner.files.commit_image(&staging.0, id).map_err(told)?;
    if !state.book.enter(&inner.files.dir, parsed, record.clone()) {
        return Ok(None);
    }
    inner.files.commit_reference(&staging.0, &record).map_err(told)?;
    let image = state.book.find(&inner.files.dir, &key.reference);
    Ok(image.map(|image| hold(inner, &mut state, image)))
}
