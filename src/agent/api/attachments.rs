//! Which sandboxes `/files` shows, and under which paths.
//!
//! Every executor's sandbox is visible as itself, as its executor's `latest` run,
//! and as `/frameworks/<id>/executors/<id>/runs/latest`. The list follows the
//! snapshot and is brought up to date before it is read, so that a busy agent
//! pays nothing for it.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use crate::agent::core::state::Executor;
use crate::agent::snapshot::Snapshot;
use crate::daemon::files::Files;

/// The sandboxes that are attached to a [`Files`].
pub(super) struct Attachments {
    files: Files,
    known: Mutex<Known>,
}

#[derive(Default)]
struct Known {
    generation: u64,
    /// Attached sandboxes by container.
    sandboxes: HashMap<String, PathBuf>,
}

impl Attachments {
    pub(super) fn new(files: Files) -> Self {
        Attachments { files, known: Mutex::default() }
    }

    /// Brings the list up to `snapshot`. Looks at the disk, hence not on the
    /// caller's thread.
    pub(super) async fn update(this: &Arc<Self>, snapshot: Arc<Snapshot>) {
        let this = Arc::clone(this);
        let done = tokio::task::spawn_blocking(move || this.bring_to(&snapshot)).await;
        if let Err(error) = done {
            tracing::error!("failed to bring /files up to date: {error}");
        }
    }

    fn bring_to(&self, snapshot: &Snapshot) {
        // Held for the whole update: two at a time would undo each other. The map
        // is whole after any panic.
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if known.generation == snapshot.generation && !known.sandboxes.is_empty() {
            return;
        }
        known.generation = snapshot.generation;
        // What garbage collection removed; what was merely forgotten stays.
        known.sandboxes.retain(|_, path| path.exists());
        for (path, real) in self.files.attached() {
            if !real.exists() {
                self.files.detach(&path);
            }
        }
        let frameworks = snapshot.frameworks.values().chain(&snapshot.completed_frameworks);
        for executor in frameworks.flat_map(|f| f.completed.iter().chain(f.executors.values())) {
            let container = &executor.container_id.value;
            if !known.sandboxes.contains_key(container) && self.attach(executor) {
                known.sandboxes.insert(container.clone(), PathBuf::from(&executor.directory));
            }
        }
    }

    /// `false`: there is no sandbox yet.
    fn attach(&self, executor: &Executor) -> bool {
        let sandbox = Path::new(&executor.directory);
        let latest = sandbox.with_file_name("latest").to_string_lossy().into_owned();
        let short = format!(
            "/frameworks/{}/executors/{}/runs/latest",
            executor.framework_id.value,
            executor.id()
        );
        [executor.directory.clone(), latest, short]
            .iter()
            .all(|path| self.files.attach(sandbox, path).is_ok())
    }
}
