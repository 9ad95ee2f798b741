//! What an operator may know of a plugin: counts, times, and what is under way.
//!
//! Written by [`crate::remote`] and the supervisor, read for `/metrics`,
//! `/containerizer/debug` and the log. Never waits for a plugin.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Counters of one plugin.
#[derive(Debug, Default)]
pub(crate) struct Ledger {
    calls: AtomicU64,
    failures: AtomicU64,
    refusals: AtomicU64,
    skipped: AtomicU64,
    restarts: AtomicU64,
    ignored_events: AtomicU64,
    micros: AtomicU64,
    slowest: AtomicU64,
    tickets: AtomicU64,
    pending: Mutex<BTreeMap<u64, Waiting>>,
    last_error: Mutex<Option<String>>,
}

#[derive(Debug, Clone)]
struct Waiting {
    call: &'static str,
    container: Option<String>,
    since: Instant,
}

/// A call that is under way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pending {
    /// Type of the call.
    pub call: &'static str,
    /// The container that it is about.
    pub container: Option<String>,
    /// How long it has been waiting.
    pub age: Duration,
}

/// One plugin, for people and for metrics.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// As in `--isolation`.
    pub name: &'static str,
    /// Its version, once it has said it.
    pub version: Option<String>,
    /// The socket.
    pub socket: String,
    /// `fail` or `ignore`.
    pub policy: &'static str,
    /// `starting`, `ready` or `down`.
    pub state: &'static str,
    /// Why it is down; else the last error.
    pub reason: Option<String>,
    /// Its process, if the agent started it.
    pub pid: Option<u32>,
    /// Containers that it has something to do with.
    pub containers: usize,
    /// Containers whose cleanup it still owes, because it was away.
    pub owed: usize,
    /// Calls that were made.
    pub calls: u64,
    /// Calls without a usable answer.
    pub failures: u64,
    /// Calls that it answered with an error.
    pub refusals: u64,
    /// Launches that went on without it (policy `ignore`).
    pub skipped: u64,
    /// Times that it was started or connected to again.
    pub restarts: u64,
    /// Limitations of containers that it has nothing to do with.
    pub ignored_events: u64,
    /// Time of all calls together.
    pub time: Duration,
    /// Time of the slowest call.
    pub slowest: Duration,
    /// What is under way.
    pub pending: Vec<Pending>,
}

/// Takes the call off the list, also when its future is dropped.
#[derive(Debug)]
pub(crate) struct Ticket<'a> {
    ledger: &'a Ledger,
    number: u64,
    start: Instant,
}

impl Drop for Ticket<'_> {
    fn drop(&mut self) {
        let micros = u64::try_from(self.start.elapsed().as_micros()).unwrap_or(u64::MAX);
        self.ledger.micros.fetch_add(micros, Ordering::Relaxed);
        self.ledger.slowest.fetch_max(micros, Ordering::Relaxed);
        lock(&self.ledger.pending).remove(&self.number);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn add(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

impl Ledger {
    /// A call begins.
    pub(crate) fn begin(&self, call: &'static str, container: Option<String>) -> Ticket<'_> {
        let number = self.tickets.fetch_add(1, Ordering::Relaxed);
        let start = Instant::now();
        add(&self.calls);
        lock(&self.pending).insert(number, Waiting { call, container, since: start });
        Ticket { ledger: self, number, start }
    }

    /// A call had no usable answer.
    pub(crate) fn failed(&self, error: String) {
        add(&self.failures);
        *lock(&self.last_error) = Some(error);
    }

    /// A call was answered with an error.
    pub(crate) fn refused(&self, error: String) {
        add(&self.refusals);
        *lock(&self.last_error) = Some(error);
    }

    /// A launch goes on without the plugin.
    pub(crate) fn skip(&self) {
        add(&self.skipped);
    }

    /// It is started or connected to once more.
    pub(crate) fn restart(&self) {
        add(&self.restarts);
    }

    /// It spoke of a container that is not its own.
    pub(crate) fn ignore_event(&self) {
        add(&self.ignored_events);
    }

    /// Fills in everything that is counted here.
    pub(crate) fn fill(&self, report: &mut Report) {
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        report.calls = get(&self.calls);
        report.failures = get(&self.failures);
        report.refusals = get(&self.refusals);
        report.skipped = get(&self.skipped);
        report.restarts = get(&self.restarts);
        report.ignored_events = get(&self.ignored_events);
        report.time = Duration::from_micros(get(&self.micros));
        report.slowest = Duration::from_micros(get(&self.slowest));
        report.reason = report.reason.take().or_else(|| lock(&self.last_error).clone());
        report.pending = lock(&self.pending)
            .values()
            .map(|waiting| Pending {
                call: waiting.call,
                container: waiting.container.clone(),
                age: waiting.since.elapsed(),
            })
            .collect();
    }
}

impl Report {
    /// The figures for metrics: a suffix and a value each.
    #[must_use]
    #[allow(clippy::cast_precision_loss)] // figures for people
    pub fn figures(&self) -> [(&'static str, f64); 9] {
        let ready = if self.state == "ready" { 1.0 } else { 0.0 };
        [
            ("ready", ready),
            ("calls", self.calls as f64),
            ("failures", self.failures as f64),
            ("refusals", self.refusals as f64),
            ("skipped", self.skipped as f64),
            ("restarts", self.restarts as f64),
            ("pending", self.pending.len() as f64),
            ("call_secs_total", self.time.as_secs_f64()),
            ("call_secs_max", self.slowest.as_secs_f64()),
        ]
    }

    /// As an object of `/containerizer/debug`.
    #[must_use]
    pub fn json(&self) -> serde_json::Value {
        let pending: Vec<_> = self
            .pending
            .iter()
            .map(|call| {
                serde_json::json!({"call": call.call, "container_id": call.container,
                                   "age_secs": call.age.as_secs_f64()})
            })
            .collect();
        serde_json::json!({
            "name": self.name, "version": self.version, "socket": self.socket,
            "policy": self.policy, "state": self.state, "reason": self.reason, "pid": self.pid,
            "containers": self.containers, "owed_cleanups": self.owed, "calls": self.calls,
            "failures": self.failures, "refusals": self.refusals, "skipped": self.skipped,
            "restarts": self.restarts, "ignored_events": self.ignored_events,
            "call_secs_total": self.time.as_secs_f64(),
            "call_secs_max": self.slowest.as_secs_f64(), "pending": pending,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dropped_call_is_not_pending() {
        let ledger = Ledger::default();
        let ticket = ledger.begin("PREPARE", Some("c".into()));
        let pending = lock(&ledger.pending).len();
        drop(ticket);
        assert_eq!((pending, lock(&ledger.pending).len()), (1, 0));
        assert_eq!(ledger.calls.load(Ordering::Relaxed), 1);
    }
}
