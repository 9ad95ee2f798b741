//! Work that several wait for, and that ends when nobody does.

use std::collections::HashMap;
use std::future::Future;
use std::hash::Hash;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use tokio::sync::watch;

/// Work under way by its key. Whoever wants some first begins it, others wait for the
/// same. `L` says where it stands.
#[derive(Debug)]
pub struct Flights<K, L>(Mutex<HashMap<K, Weak<watch::Sender<L>>>>);

impl<K, L> Default for Flights<K, L> {
    fn default() -> Flights<K, L> {
        Flights(Mutex::default())
    }
}

impl<K: Eq + Hash + Clone, L> Flights<K, L> {
    fn lock(&self) -> MutexGuard<'_, HashMap<K, Weak<watch::Sender<L>>>> {
        // The map is whole after any panic: entries go in and out in one step.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Where the work stands. If none is under way it stands at `start`, and it is for
    /// the caller to do it [`while_wanted`](Self::while_wanted) and to send its end.
    pub fn join(&self, key: &K, start: L) -> (watch::Receiver<L>, Option<Arc<watch::Sender<L>>>) {
        let mut flights = self.lock();
        // Of work whose task is gone nothing more will be heard.
        if let Some(waiting) = flights.get(key).and_then(Weak::upgrade) {
            return (waiting.subscribe(), None);
        }
        let (sender, receiver) = watch::channel(start);
        let sender = Arc::new(sender);
        flights.insert(key.clone(), Arc::downgrade(&sender));
        (receiver, Some(sender))
    }

    /// Does `work` as long as somebody waits; whoever comes after its end begins anew.
    /// `None`: nobody waits any more, and it is dropped.
    pub async fn while_wanted<T>(
        &self,
        key: &K,
        waiting: &watch::Sender<L>,
        work: impl Future<Output = T>,
    ) -> Option<T> {
        tokio::pin!(work);
        loop {
            tokio::select! {
                done = &mut work => {
                    self.lock().remove(key);
                    return Some(done);
                }
                () = waiting.closed() => {
                    let mut flights = self.lock();
                    // Somebody may have come meanwhile.
                    if waiting.receiver_count() == 0 {
                        flights.remove(key);
                        return None;
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn one_works_for_all_as_long_as_somebody_waits() {
        let flights: Flights<&str, u32> = Flights::default();
        let (mut first, begun) = flights.join(&"a", 0);
        let begun = begun.expect("it is the first");
        let (second, none) = flights.join(&"a", 0);
        assert!(none.is_none() && flights.join(&"b", 0).1.is_some());
        let done = flights.while_wanted(&"a", &begun, async { 7 }).await;
        begun.send_replace(done.expect("somebody waits"));
        assert_eq!((*first.borrow_and_update(), *second.borrow()), (7, 7));
        // What comes after the end is new, and nobody waits for it in the end.
        let (third, again) = flights.join(&"a", 0);
        let again = again.expect("it is the first again");
        drop(third);
        let given_up = flights.while_wanted(&"a", &again, std::future::pending::<()>()).await;
        assert!(given_up.is_none());
        // A task that is gone keeps nobody waiting.
        let lost = flights.join(&"a", 0).1.expect("it is the first once more");
        drop(lost);
        assert!(flights.join(&"a", 0).1.is_some());
    }
}
