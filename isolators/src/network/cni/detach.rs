//! Taking containers off their networks: begun by whoever asks first, gone on with in the
//! background until it is done.
//!
//! ```text
//! earlier calls are over -> DEL, the last network first -> namespace let go -> forgotten
//!          ^                        |
//!          +------- back-off -------+ a plugin failed: what is left stays written down
//! ```

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use kernel::{chain, failpoint};
use tokio::sync::watch;
use tokio::time::timeout;
use tracing::{info, warn};

use super::plugins::Place;
use super::store::Stored;
use super::{Shared, attachment, exec};

/// How long the end of a container waits for plugins.
const GRACE: Duration = Duration::from_secs(10);
/// Between the first two attempts, doubling.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
/// Between two attempts at most.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// How far it has come.
#[derive(Debug, Clone)]
enum Progress {
    Begun,
    /// It will be tried again.
    Failed(String),
    Done,
}

/// The containers that are being taken off. Its lock is held for map operations only.
#[derive(Debug, Default)]
pub(super) struct Detacher(Mutex<HashMap<String, watch::Receiver<Progress>>>);

impl Detacher {
    fn all(&self) -> MutexGuard<'_, HashMap<String, watch::Receiver<Progress>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Begins, or joins in.
fn begin(shared: &Arc<Shared>, key: &str) -> watch::Receiver<Progress> {
    let mut all = shared.detacher.all();
    if let Some(seen) = all.get(key) {
        return seen.clone();
    }
    let (progress, seen) = watch::channel(Progress::Begun);
    all.insert(key.to_owned(), seen.clone());
    drop(all);
    tokio::spawn(run(Arc::clone(shared), key.to_owned(), progress));
    seen
}

/// Until it is done.
async fn run(shared: Arc<Shared>, key: String, progress: watch::Sender<Progress>) {
    let mut pause = FIRST_PAUSE;
    for attempt in 1u32.. {
        let Err(error) = once(&shared, &key).await else { break };
        if attempt == 1 {
            warn!(container = %key, %error, "not taken off its CNI networks yet: tried again");
        }
        progress.send_replace(Progress::Failed(error));
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
    if matches!(*progress.borrow(), Progress::Failed(_)) {
        info!(container = %key, "taken off its CNI networks at last");
    }
    // First: whoever hears that it is done may begin again.
    shared.detacher.all().remove(&key);
    progress.send_replace(Progress::Done);
}

/// Takes a container off its networks; waits for that no longer than a container's end
/// should take.
pub(super) async fn detach(shared: &Arc<Shared>, key: &str) -> Result<(), String> {
    if !shared.store.knows(key) {
        return Ok(());
    }
    let mut seen = begin(shared, key);
    let first = seen.wait_for(|progress| !matches!(progress, Progress::Begun));
    match timeout(GRACE, first).await {
        Ok(Ok(progress)) => match &*progress {
            Progress::Failed(error) => Err(format!("{error}; it is tried again")),
            Progress::Begun | Progress::Done => Ok(()),
        },
        // The agent goes away.
        Ok(Err(_)) => Ok(()),
        Err(_) => Err(format!("plugins take more than {GRACE:?}; it goes on")),
    }
}

/// The same in the background.
pub(super) fn detach_later(shared: &Arc<Shared>, key: &str) {
    drop(begin(shared, key));
}

/// Waits until nothing is left of an earlier container of that name.
pub(super) async fn vanish(shared: &Arc<Shared>, key: &str) -> Result<(), String> {
    if !shared.store.knows(key) {
        return Ok(());
    }
    let mut seen = begin(shared, key);
    let done = seen.wait_for(|progress| matches!(progress, Progress::Done));
    if timeout(shared.plugins.deadline, done).await.is_err() {
        return Err("an earlier container of that name is still on its CNI networks".into());
    }
    Ok(())
}

/// One attempt.
async fn once(shared: &Arc<Shared>, key: &str) -> Result<(), String> {
    let handle = shared.store.netns(key);
    let netns = kernel::netns::is_kept(&handle).then_some(handle.as_path());
    let mut errors = Vec::new();
    for stored in shared.store.load(key).iter().rev() {
        match leave(shared, key, stored, netns).await {
            Ok(()) => {
                failpoint!("cni.deleted_one");
            }
            Err(error) => errors.push(error),
        }
    }
    let (own, name, whole) = (Arc::clone(shared), key.to_owned(), errors.is_empty());
    let let_go = move || match whole {
        true => own.store.forget(&name),
        // Its processes are gone: whatever is left to undo is outside.
        false => kernel::netns::release(&own.store.netns(&name)),
    };
    match tokio::task::spawn_blocking(let_go).await {
        Ok(Ok(())) => {
            failpoint!("cni.forgotten");
        }
        Ok(Err(error)) => errors.push(chain(&error)),
        Err(_) => errors.push("letting go of its network namespace was cut short".into()),
    }
    if errors.is_empty() { Ok(()) } else { Err(errors.join("; ")) }
}

async fn leave(
    shared: &Shared,
    key: &str,
    stored: &Stored,
    netns: Option<&std::path::Path>,
) -> Result<(), String> {
    // An agent that died may have left a plugin behind that is still adding.
    exec::quiet(&stored.log, shared.plugins.deadline).await;
    let place = Place { container: key, interface: &stored.interface, netns, log: &stored.log };
    attachment::delete(&shared.plugins, stored, place).await?;
    shared.store.leave(key, stored).map_err(|error| chain(&error))
}
