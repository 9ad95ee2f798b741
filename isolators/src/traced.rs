//! [`Traced`]: every call to a built-in isolator is in one book, and ends in time.
//!
//! The registry wraps each isolator once, so none contains such code: a span, a
//! duration, a count of failures, an entry among the calls under way, a deadline.
//! Plugins keep a book of their own. Statistics are read by probes, which are not
//! wrapped: the sampler has its own clock.

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use mesos::{ContainerStatus, Resource};
use tracing::{Instrument, debug_span};

use crate::api::{
    About, ContainerContext, Contribution, Isolation, Isolator, IsolatorError, Known, Limitation,
    Probe, Recovered, Watch,
};

/// The shortest deadline of a call; an agent whose cgroups may take longer to go
/// gives them longer.
pub const PATIENCE: Duration = Duration::from_secs(300);

/// What is known of one kind of call to one isolator.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Calls {
    /// Those that have ended, well or not.
    pub count: u64,
    /// Those that ended with an error, deadlines included.
    pub failures: u64,
    /// Time of all of them together.
    pub time: Duration,
    /// Time of the slowest.
    pub slowest: Duration,
}

/// A call under way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pending {
    /// Name as in `--isolation`.
    pub isolator: &'static str,
    /// `prepare`, `isolate`, `update`, `cleanup` or `recover`.
    pub call: &'static str,
    /// The container, with its parents; `None` for `recover`.
    pub container: Option<Arc<str>>,
    /// How long it has been running.
    pub age: Duration,
}

#[derive(Debug)]
struct Waiting {
    isolator: &'static str,
    call: &'static str,
    container: Option<Arc<str>>,
    since: Instant,
}

#[derive(Debug, Default)]
struct Pages {
    next: u64,
    calls: BTreeMap<(&'static str, &'static str), Calls>,
    pending: BTreeMap<u64, Waiting>,
}

/// The book of all calls. Its lock is held for map operations only.
#[derive(Debug, Default)]
pub struct Ledger(Mutex<Pages>);

impl Ledger {
    fn pages(&self) -> MutexGuard<'_, Pages> {
        // The maps are whole after any panic: entries go in and out in one step.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What has ended, by isolator and call.
    #[must_use]
    pub fn calls(&self) -> BTreeMap<(&'static str, &'static str), Calls> {
        self.pages().calls.clone()
    }

    /// What is under way, the oldest first.
    #[must_use]
    pub fn pending(&self) -> Vec<Pending> {
        let entry = |waiting: &Waiting| Pending {
            isolator: waiting.isolator,
            call: waiting.call,
            container: waiting.container.clone(),
            age: waiting.since.elapsed(),
        };
        self.pages().pending.values().map(entry).collect()
    }
}

/// A call under way; takes itself off the list, also when its future is dropped.
struct Ticket<'a> {
    ledger: &'a Ledger,
    number: u64,
}

impl Ticket<'_> {
    fn end(&self, failed: bool) {
        let mut pages = self.ledger.pages();
        let Some(waiting) = pages.pending.remove(&self.number) else { return };
        let took = waiting.since.elapsed();
        let calls = pages.calls.entry((waiting.isolator, waiting.call)).or_default();
        calls.count += 1;
        calls.failures += u64::from(failed);
        calls.time += took;
        calls.slowest = calls.slowest.max(took);
    }
}

impl Drop for Ticket<'_> {
    fn drop(&mut self) {
        self.ledger.pages().pending.remove(&self.number);
    }
}

/// What all calls of one isolator have in common.
#[derive(Debug, Clone)]
struct Desk {
    isolator: &'static str,
    ledger: Arc<Ledger>,
    patience: Duration,
}

impl Desk {
    async fn book<T>(
        &self,
        call: &'static str,
        container: Option<&Arc<str>>,
        work: impl Future<Output = Result<T, IsolatorError>> + Send,
    ) -> Result<T, IsolatorError> {
        let ticket = {
            let mut pages = self.ledger.pages();
            let number = pages.next;
            pages.next += 1;
            let since = Instant::now();
            let (isolator, container) = (self.isolator, container.cloned());
            pages.pending.insert(number, Waiting { isolator, call, container, since });
            Ticket { ledger: &self.ledger, number }
        };
        let span = debug_span!(
            "isolator",
            name = self.isolator,
            call,
            container = container.map(|id| &**id)
        );
        let ended = tokio::time::timeout(self.patience, work.instrument(span)).await;
        let ended = ended.unwrap_or_else(|_| {
            let whose = container.map_or_else(String::new, |id| format!(" of container '{id}'"));
            let object = format!("{call}{whose} within {:?}", self.patience);
            Err(IsolatorError::plain(self.isolator, "finish", object))
        });
        ticket.end(ended.is_err());
        ended
    }
}

/// An isolator, and the book that its calls are written in.
pub struct Traced {
    inner: Arc<dyn Isolator>,
    desk: Desk,
}

impl Traced {
    /// `patience`: how long a single call may take.
    #[must_use]
    pub fn new(inner: Arc<dyn Isolator>, ledger: Arc<Ledger>, patience: Duration) -> Traced {
        let desk = Desk { isolator: inner.name(), ledger, patience };
        Traced { inner, desk }
    }

    fn wrap(&self, inner: Box<dyn Isolation>, context: &ContainerContext) -> Box<dyn Isolation> {
        let container = context.id.to_string().into();
        Box::new(TracedIsolation { inner, container, desk: self.desk.clone() })
    }
}

#[async_trait]
impl Isolator for Traced {
    fn about(&self) -> About {
        self.inner.about()
    }

    fn metrics(&self) -> Vec<(String, f64)> {
        self.inner.metrics()
    }

    fn attach(&self, context: &Arc<ContainerContext>) -> Box<dyn Isolation> {
        self.wrap(self.inner.attach(context), context)
    }

    async fn recover(&self, known: &[Known]) -> Result<Recovered, IsolatorError> {
        let recovered = self.desk.book("recover", None, self.inner.recover(known)).await?;
        let handles = recovered.handles.into_iter().zip(known);
        let handles = handles.map(|(handle, known)| self.wrap(handle, &known.context)).collect();
        Ok(Recovered { handles, leftovers: recovered.leftovers })
    }
}

#[derive(Debug)]
struct TracedIsolation {
    inner: Box<dyn Isolation>,
    container: Arc<str>,
    desk: Desk,
}

#[async_trait]
impl Isolation for TracedIsolation {
    async fn prepare(&mut self) -> Result<Contribution, IsolatorError> {
        self.desk.book("prepare", Some(&self.container), self.inner.prepare()).await
    }

    async fn isolate(&mut self, pid: u32) -> Result<(), IsolatorError> {
        self.desk.book("isolate", Some(&self.container), self.inner.isolate(pid)).await
    }

    fn watch(&mut self) -> Option<Watch> {
        self.inner.watch()
    }

    async fn update(
        &mut self,
        requests: &[Resource],
        limits: &BTreeMap<String, f64>,
    ) -> Result<(), IsolatorError> {
        let work = self.inner.update(requests, limits);
        self.desk.book("update", Some(&self.container), work).await
    }

    fn probes(&mut self) -> Vec<Box<dyn Probe>> {
        self.inner.probes()
    }

    fn ended(&mut self) -> Option<Limitation> {
        self.inner.ended()
    }

    fn status(&mut self, status: &mut ContainerStatus) -> Result<(), IsolatorError> {
        self.inner.status(status)
    }

    async fn cleanup(&mut self) -> Result<(), IsolatorError> {
        self.desk.book("cleanup", Some(&self.container), self.inner.cleanup()).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::suite::context;

    /// Prepares never, cleans up with an error, does the rest.
    struct Stuck;

    #[async_trait]
    impl Isolator for Stuck {
        fn about(&self) -> About {
            About::top_level("stuck")
        }

        fn attach(&self, _context: &Arc<ContainerContext>) -> Box<dyn Isolation> {
            Box::new(StuckIsolation)
        }

        async fn recover(&self, known: &[Known]) -> Result<Recovered, IsolatorError> {
            Ok(Recovered::attached(self, known))
        }
    }

    #[derive(Debug)]
    struct StuckIsolation;

    #[async_trait]
    impl Isolation for StuckIsolation {
        async fn prepare(&mut self) -> Result<Contribution, IsolatorError> {
            std::future::pending().await
        }

        async fn cleanup(&mut self) -> Result<(), IsolatorError> {
            Err(IsolatorError::plain("stuck", "remove", "everything"))
        }
    }

    #[tokio::test]
    async fn calls_are_counted_and_seen_while_they_last() {
        let ledger = Arc::new(Ledger::default());
        let traced = Traced::new(Arc::new(Stuck), Arc::clone(&ledger), PATIENCE);
        let known = Known { context: Arc::new(context("a")), pid: None };
        let mut handle = traced.recover(&[known]).await.unwrap().handles.remove(0);
        {
            let mut prepare = std::pin::pin!(handle.prepare());
            let soon = tokio::time::timeout(Duration::from_millis(1), &mut prepare).await;
            assert!(soon.is_err());
            let pending = ledger.pending();
            assert_eq!((pending[0].isolator, pending[0].call), ("stuck", "prepare"));
            assert_eq!(pending[0].container.as_deref(), Some("a"));
        }
        assert!(ledger.pending().is_empty(), "a dropped call is not under way");
        assert!(handle.cleanup().await.is_err());
        handle.isolate(1).await.unwrap();
        let calls = ledger.calls();
        let of = |call| calls.get(&("stuck", call)).map(|calls| (calls.count, calls.failures));
        assert_eq!(of("prepare"), None, "it has not ended");
        assert_eq!((of("recover"), of("isolate")), (Some((1, 0)), Some((1, 0))));
        assert_eq!(of("cleanup"), Some((1, 1)));
    }

    #[tokio::test]
    async fn a_call_without_an_end_is_given_up_by_name() {
        let ledger = Arc::new(Ledger::default());
        let traced = Traced::new(Arc::new(Stuck), Arc::clone(&ledger), Duration::from_millis(5));
        let error = traced.attach(&Arc::new(context("a"))).prepare().await.unwrap_err();
        let wanted = "stuck: failed to finish prepare of container 'a' within 5ms";
        assert_eq!(error.to_string(), wanted);
        assert_eq!(ledger.calls()[&("stuck", "prepare")].failures, 1);
    }
}
