//! The sweep: what of ours the engine has and nobody needs is removed.
//!
//! One pass asks for all containers with our mark and compares them with the table:
//! what runs and is nobody's is an orphan, what never ran is a leftover of a launch,
//! what has ended is kept as long as [`super::gc`] says. So it does not matter who
//! failed to remove something, or whether the agent was restarted meanwhile. Runs in
//! a task of its own; nothing waits for it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tracing::{debug, info, warn};

use super::engine::{EngineError, Listed};
use super::gc::{Ended, expired};
use super::images::Disk;
use super::shared::Shared;
use super::{exit, labels};

/// Between two passes, unless a container was forgotten.
const INTERVAL: Duration = Duration::from_secs(30);
/// Containers that end together are swept together.
const GATHER: Duration = Duration::from_secs(1);

/// What is remembered from pass to pass.
#[derive(Default)]
struct Memory {
    /// Ended containers by the engine's id, so that each is inspected once.
    ended: BTreeMap<String, Ended>,
    /// Orphans that are left alone, to be told once.
    spared: BTreeSet<String>,
}

/// Sweeps for ever.
pub(super) async fn run(shared: Arc<Shared>) {
    let mut memory = Memory::default();
    loop {
        if let Err(error) = pass(&shared, &mut memory).await {
            // The engine has told of its silence already.
            debug!(error = %kernel::chain(&error), "nothing was swept");
        }
        tokio::select! {
            () = tokio::time::sleep(INTERVAL) => {}
            () = shared.nudge.notified() => tokio::time::sleep(GATHER).await,
        }
    }
}

async fn pass(shared: &Arc<Shared>, memory: &mut Memory) -> Result<(), EngineError> {
    // Known before or after the list was made: what it says of those may be old.
    let before: BTreeSet<String> = shared.table.lock().keys().cloned().collect();
    let owner = &shared.config.owner;
    let listed = shared.engine.list(labels::OWNER, owner).await?;
    let running = listed.iter().filter(|entry| is_running(entry));
    shared.images.touch(running.map(|entry| entry.image.as_str()));
    let condemned = shared.condemned();
    let nobodys: Vec<&Listed> = listed
        .iter()
        .filter(|entry| {
            let id = labels::id_of(&entry.name, &entry.labels, owner);
            id.is_some_and(|id| !before.contains(id) && !shared.table.lock().contains_key(id))
        })
        .collect();
    for entry in &listed {
        let of = labels::network_of(&entry.labels, owner);
        let nobodys = |id: &str| !before.contains(id) && !shared.table.lock().contains_key(id);
        if of.is_some_and(nobodys) {
            // By its id: there may be another one of that name by now.
            remove(shared, &entry.id, "nobody uses the network that it holds").await;
        }
    }
    memory.ended.retain(|id, _| nobodys.iter().any(|entry| entry.id == *id));
    for entry in nobodys {
        let runs = is_running(entry);
        let unborn = entry.status == "created";
        if condemned.contains(&entry.name) || unborn {
            remove(shared, &entry.name, "it never ran").await;
        } else if shared.is_held(&entry.name) {
            // Its last words are being read. An engine that hung may still say that it runs.
        } else if runs && shared.config.kill_orphans {
            remove(shared, &entry.name, "it is an orphan").await;
        } else if runs {
            if memory.spared.insert(entry.id.clone()) {
                warn!(container = entry.name, "an orphan runs (--docker_kill_orphans is off)");
            }
        } else if !memory.ended.contains_key(&entry.id)
            && let Some(ended) = look(shared, entry).await?
        {
            memory.ended.insert(entry.id.clone(), ended);
        }
    }
    shared.absolve(&condemned, &listed);
    let ended: Vec<Ended> = memory.ended.values().cloned().collect();
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64();
    let full = !ended.is_empty()
        && match Disk::of(&shared.engine, shared.config.headroom).await? {
            Some(disk) => disk.is_full().await,
            None => false,
        };
    let gone = expired(now, &ended, shared.config.policy, full);
    for name in &gone {
        remove(shared, name, "it ended").await;
    }
    let kept = ended.len().saturating_sub(gone.len()) as u64;
    shared.counters.kept.store(kept, Ordering::Relaxed);
    Ok(())
}

fn is_running(entry: &Listed) -> bool {
    ["running", "paused", "restarting"].contains(&entry.status.as_str())
}

async fn look(shared: &Shared, entry: &Listed) -> Result<Option<Ended>, EngineError> {
    let inspected = match shared.engine.inspect(&entry.name).await {
        Ok(inspected) => inspected,
        Err(error) if error.is_missing() => return Ok(None),
        Err(error) => return Err(error),
    };
    #[allow(clippy::cast_precision_loss)] // a second is exact enough
    let finished = inspected.finished.unwrap_or_default() as f64 / 1e9;
    Ok(Some(Ended {
        name: entry.name.clone(),
        framework: entry.labels.get(labels::FRAMEWORK).cloned().unwrap_or_default(),
        task: entry.labels.get(labels::NAME).cloned().unwrap_or_default(),
        finished,
        failed: exit::is_failure(&inspected),
    }))
}

async fn remove(shared: &Shared, name: &str, why: &str) {
    match shared.engine.remove(name).await {
        Ok(()) => {
            info!(container = name, why, "removed a docker container");
            shared.counters.removed.fetch_add(1, Ordering::Relaxed);
        }
        Err(error) => {
            warn!(container = name, error = %kernel::chain(&error), "failed to remove it");
            shared.counters.remove_errors.fetch_add(1, Ordering::Relaxed);
        }
    }
}
