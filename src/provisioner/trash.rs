//! Removing roots behind everybody's back: moved away at once, removed when there is time.
//!
//! ```text
//! <work_dir>/provisioner/gone/<uuid>    what was the directory of a container
//! ```
//!
//! Removing a directory may take long: on ext4 mounted with `discard` each one waits for
//! the disk, 4 ms measured, and a root has a dozen. Nobody waits for that at the end of a
//! container, unless so many ended that those behind do not keep up. What a dead agent
//! left here the next one removes. Everything blocks.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::backend::{BackendError, failed};

/// Directories that may wait; beyond, their owners do.
const CROWD: usize = 16;

/// The directory of what is on its way out.
#[derive(Debug)]
pub(super) struct Trash {
    dir: PathBuf,
    /// What this process removes or is about to.
    under_way: Mutex<BTreeSet<PathBuf>>,
    /// Held by who removes behind: one at a time disturbs launches least.
    turn: Mutex<()>,
    errors: AtomicU64,
}

/// Something that was moved here; it is to be removed.
#[derive(Debug)]
#[must_use]
pub(super) struct Discarded {
    path: PathBuf,
    trash: Arc<Trash>,
}

impl Trash {
    pub fn new(dir: PathBuf) -> Trash {
        Trash {
            dir,
            under_way: Mutex::default(),
            turn: Mutex::default(),
            errors: AtomicU64::new(0),
        }
    }

    fn under_way(&self) -> MutexGuard<'_, BTreeSet<PathBuf>> {
        self.under_way.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How often something could not be removed.
    pub fn errors(&self) -> u64 {
        self.errors.load(Ordering::Relaxed)
    }

    /// Whether whoever brings more should remove it and wait.
    pub fn is_crowded(&self) -> bool {
        self.under_way().len() > CROWD
    }

    /// Moves a directory here; `None` if there is none.
    ///
    /// # Errors
    /// It is where it was.
    pub fn take(self: &Arc<Trash>, from: &Path) -> Result<Option<Discarded>, BackendError> {
        let path = self.dir.join(uuid::Uuid::new_v4().to_string());
        // Noted first: a sweep never takes what somebody is about to remove.
        self.under_way().insert(path.clone());
        let discarded = Discarded { path, trash: Arc::clone(self) };
        let moved = match fs::rename(from, &discarded.path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound && from.exists() => {
                fs::create_dir_all(&self.dir).and_then(|()| fs::rename(from, &discarded.path))
            }
            other => other,
        };
        match moved {
            Ok(()) => Ok(Some(discarded)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(failed("move", from)(error)),
        }
    }

    /// Removes what others left, now and before.
    pub fn sweep(&self) {
        for entry in fs::read_dir(&self.dir).into_iter().flatten().flatten() {
            let path = entry.path();
            if !self.under_way().contains(&path) {
                let _turn = self.turn();
                self.remove(&path);
            }
        }
    }

    fn turn(&self) -> MutexGuard<'_, ()> {
        self.turn.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn remove(&self, path: &Path) {
        if let Err(error) = kernel::remove::tree(path, &mut |_| true) {
            self.errors.fetch_add(1, Ordering::Relaxed);
            tracing::warn!(error = %kernel::chain(&error), "a root file system stays for now");
        }
    }
}

impl Discarded {
    /// Removes it when it is its turn; what could not be removed is left to the next sweep.
    pub fn remove(self) {
        let _turn = self.trash.turn();
        self.trash.remove(&self.path);
    }

    /// The same beside whatever else is removed: one may be large.
    pub fn remove_now(self) {
        self.trash.remove(&self.path);
    }
}

impl Drop for Discarded {
    fn drop(&mut self) {
        self.trash.under_way().remove(&self.path);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_taken_is_gone_at_once_and_what_was_left_goes_with_a_sweep() {
        let dir = std::env::temp_dir().join(format!("gone-{}", std::process::id()));
        let trash = Arc::new(Trash::new(dir.join("gone")));
        let (one, two) = (dir.join("one"), dir.join("two"));
        for path in [&one, &two] {
            fs::create_dir_all(path.join("a/b")).unwrap();
        }
        let count = || fs::read_dir(dir.join("gone")).unwrap().count();
        let first = trash.take(&one).unwrap().expect("it was there");
        assert!(!one.exists());
        assert!(trash.take(&one).unwrap().is_none());
        trash.sweep();
        assert_eq!(count(), 1, "somebody is about to remove it");
        // Whoever was to remove this one never did.
        drop(trash.take(&two).unwrap());
        assert_eq!(count(), 2);
        trash.sweep();
        assert_eq!(count(), 1);
        assert!(!trash.is_crowded());
        first.remove();
        assert_eq!((count(), trash.errors()), (0, 0));
        fs::remove_dir_all(&dir).unwrap();
    }
}
