//! The table of a containerizer's containers, and what is said over their doors.
//!
//! Behind each door is the one task that owns a container; the table is the only
//! thing that those tasks share. Its lock is never held across an await.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use mesos::ContainerId;
use tokio::sync::{oneshot, watch};

use super::{ContainerizerError, Termination};

/// Orders that may wait for one container.
pub(super) const MAILBOX: usize = 16;

/// Doors by the containers' keys.
#[derive(Debug)]
pub(super) struct Table<D> {
    doors: Mutex<BTreeMap<String, D>>,
    slots: AtomicU64,
}

impl<D> Default for Table<D> {
    fn default() -> Table<D> {
        Table { doors: Mutex::default(), slots: AtomicU64::new(0) }
    }
}

impl<D> Table<D> {
    pub(super) fn lock(&self) -> MutexGuard<'_, BTreeMap<String, D>> {
        // The map is whole after any panic: entries go in and out in one step.
        self.doors.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn get(&self, id: &ContainerId) -> Option<D>
    where
        D: Clone,
    {
        self.lock().get(&id.to_string()).cloned()
    }

    /// Adds the door of a new container.
    ///
    /// # Errors
    /// There is one of that key.
    pub(super) fn add(&self, key: &str, door: D) -> Result<(), ContainerizerError> {
        let mut doors = self.lock();
        if doors.contains_key(key) {
            return Err(ContainerizerError::AlreadyLaunched(key.to_owned()));
        }
        doors.insert(key.to_owned(), door);
        Ok(())
    }

    /// Takes out a container, and those nested in it.
    pub(super) fn remove(&self, key: &str) {
        let prefix = format!("{key}.");
        self.lock().retain(|known, _| known != key && !known.starts_with(&prefix));
    }

    /// A number that no other container of the table has had.
    pub(super) fn slot(&self) -> u64 {
        self.slots.fetch_add(1, Ordering::Relaxed)
    }
}

/// A launch that did not work out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Failure {
    pub(super) step: &'static str,
    pub(super) message: String,
}

impl Failure {
    /// As the agent hears of it.
    pub(super) fn of(self, id: &str) -> ContainerizerError {
        let Failure { step, message } = self;
        ContainerizerError::Launch { id: id.to_owned(), step, message }
    }
}

/// What a container's task answers to its launch.
///
/// # Errors
/// The launch failed, or the agent ends.
pub(super) async fn launched<T>(
    id: &str,
    answer: oneshot::Receiver<Result<T, Failure>>,
) -> Result<T, ContainerizerError> {
    let away = |_| Failure { step: "launch", message: "the agent is shutting down".into() };
    answer.await.map_err(away).and_then(|done| done).map_err(|failure| failure.of(id))
}

/// Waits until what is seen of a container has an end in it.
pub(super) async fn ended<V>(
    mut view: watch::Receiver<V>,
    end: impl Fn(&V) -> Option<&Termination>,
) -> Option<Termination> {
    let seen = view.wait_for(|view| end(view).is_some()).await.ok()?;
    end(&seen).cloned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nested_ones_go_with_their_parent() {
        let table = Table::default();
        for key in ["a", "a.b", "a.b.c", "ab"] {
            table.add(key, ()).expect("it is new");
        }
        let error = table.add("a", ()).expect_err("it is there");
        assert!(matches!(error, ContainerizerError::AlreadyLaunched(key) if key == "a"));
        table.remove("a");
        assert_eq!(table.lock().keys().collect::<Vec<_>>(), ["ab"]);
        assert_ne!(table.slot(), table.slot());
    }

    #[tokio::test]
    async fn a_task_that_is_gone_has_not_launched() {
        let (reply, answer) = oneshot::channel::<Result<u32, Failure>>();
        drop(reply);
        let error = launched("c", answer).await.expect_err("nobody answers").to_string();
        assert_eq!(error, "failed to launch container c: launch: the agent is shutting down");
    }
}
