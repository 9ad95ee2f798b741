//! The registry behind `/metrics/snapshot` and `/metrics`: counters, gauges and timers.
//!
//! Whoever counts holds a [`Counter`], [`Gauge`] or [`Timer`], cheap to clone and
//! to change from any thread; figures that follow from a snapshot come from a
//! [`Metrics::source`]. Reading gathers all of them, sorted by name. What is
//! counted is decided by the daemons. Locks are held for map operations only.

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::prometheus::{Exposition, Kind};

/// Most samples of a timer's window, as in Mesos.
const SAMPLES: usize = 1000;

/// A count that only grows.
#[derive(Debug, Clone, Default)]
pub struct Counter(Arc<AtomicU64>);

impl Counter {
    /// One more.
    pub fn increment(&self) {
        self.add(1);
    }

    /// `n` more.
    pub fn add(&self, n: u64) {
        self.0.fetch_add(n, Ordering::Relaxed);
    }

    /// The count.
    #[must_use]
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// A value that goes up and down.
#[derive(Debug, Clone, Default)]
pub struct Gauge(Arc<AtomicU64>);

impl Gauge {
    /// Sets the value.
    pub fn set(&self, value: f64) {
        self.0.store(value.to_bits(), Ordering::Relaxed);
    }

    /// The value; zero at first.
    #[must_use]
    pub fn get(&self) -> f64 {
        f64::from_bits(self.0.load(Ordering::Relaxed))
    }
}

/// Durations of something that happens again and again.
#[derive(Debug, Clone)]
pub struct Timer(Arc<Mutex<Timed>>);

#[derive(Debug)]
struct Timed {
    window: Duration,
    samples: VecDeque<(Instant, f64)>,
    last: Option<f64>,
}

impl Timer {
    fn new(window: Duration) -> Timer {
        Timer(Arc::new(Mutex::new(Timed { window, samples: VecDeque::new(), last: None })))
    }

    /// It took this long, and ended at `now`.
    pub fn record(&self, now: Instant, took: Duration) {
        let mut timed = lock(&self.0);
        let milliseconds = took.as_secs_f64() * 1000.0;
        timed.last = Some(milliseconds);
        timed.samples.push_back((now, milliseconds));
        timed.forget(now);
    }

    fn report(&self, name: &str, now: Instant, out: &mut BTreeMap<String, f64>) {
        let mut timed = lock(&self.0);
        timed.forget(now);
        let Some(last) = timed.last else { return };
        out.insert(name.to_owned(), last);
        let mut values: Vec<f64> = timed.samples.iter().map(|(_, v)| *v).collect();
        drop(timed);
        // compat: one sample is no distribution.
        if values.len() < 2 {
            return;
        }
        values.sort_by(f64::total_cmp);
        #[allow(clippy::cast_precision_loss)] // at most SAMPLES
        out.insert(format!("{name}/count"), values.len() as f64);
        out.insert(format!("{name}/max"), values[values.len() - 1]);
        out.insert(format!("{name}/min"), values[0]);
        for (suffix, fraction) in [
            ("p50", 0.5),
            ("p90", 0.9),
            ("p95", 0.95),
            ("p99", 0.99),
            ("p999", 0.999),
            ("p9999", 0.9999),
        ] {
            out.insert(format!("{name}/{suffix}"), percentile(&values, fraction));
        }
    }
}

impl Timed {
    fn forget(&mut self, now: Instant) {
        let too_old = |at: &Instant| now.saturating_duration_since(*at) > self.window;
        let mut old = self.samples.iter().take_while(|(at, _)| too_old(at)).count();
        old = old.max(self.samples.len().saturating_sub(SAMPLES));
        self.samples.drain(..old);
    }
}

/// Linear interpolation between the neighbours; `sorted` has at least two values.
fn percentile(sorted: &[f64], fraction: f64) -> f64 {
    #[allow(clippy::cast_precision_loss)] // at most SAMPLES
    let position = fraction * (sorted.len() - 1) as f64;
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // below the length
    let index = (position.floor() as usize).min(sorted.len() - 2);
    #[allow(clippy::cast_precision_loss)] // at most SAMPLES
    let delta = position - index as f64;
    sorted[index] + (sorted[index + 1] - sorted[index]) * delta
}

/// Where a source puts its figures.
pub type Figures = BTreeMap<String, f64>;

type Source = Box<dyn Fn(&mut Figures) + Send + Sync>;

enum Entry {
    Counter(Counter),
    Gauge(Gauge),
    Timer(Timer),
}

type IsCounter = Box<dyn Fn(&str) -> bool + Send + Sync>;

#[derive(Default)]
struct Registry {
    entries: BTreeMap<String, Entry>,
    sources: Vec<Source>,
    /// Which figures of the sources are counters.
    counters: Vec<IsCounter>,
}

/// All metrics of a process; clones share them.
#[derive(Clone, Default)]
pub struct Metrics(Arc<Mutex<Registry>>);

impl Metrics {
    /// An empty registry.
    #[must_use]
    pub fn new() -> Metrics {
        Metrics::default()
    }

    /// The counter of that name, made if there is none.
    #[must_use]
    pub fn counter(&self, name: &str) -> Counter {
        let mut registry = lock(&self.0);
        if let Some(Entry::Counter(counter)) = registry.entries.get(name) {
            return counter.clone();
        }
        let counter = Counter::default();
        registry.entries.insert(name.to_owned(), Entry::Counter(counter.clone()));
        counter
    }

    /// The gauge of that name, made if there is none.
    #[must_use]
    pub fn gauge(&self, name: &str) -> Gauge {
        let mut registry = lock(&self.0);
        if let Some(Entry::Gauge(gauge)) = registry.entries.get(name) {
            return gauge.clone();
        }
        let gauge = Gauge::default();
        registry.entries.insert(name.to_owned(), Entry::Gauge(gauge.clone()));
        gauge
    }

    /// The timer of that name, made if there is none. It is reported in
    /// milliseconds as `name_ms`, with the distribution over `window` beside it.
    #[must_use]
    pub fn timer(&self, name: &str, window: Duration) -> Timer {
        let name = format!("{name}_ms");
        let mut registry = lock(&self.0);
        if let Some(Entry::Timer(timer)) = registry.entries.get(&name) {
            return timer.clone();
        }
        let timer = Timer::new(window);
        registry.entries.insert(name, Entry::Timer(timer.clone()));
        timer
    }

    /// Adds figures that are worked out when somebody asks. Must be quick.
    pub fn source(&self, source: impl Fn(&mut Figures) + Send + Sync + 'static) {
        lock(&self.0).sources.push(Box::new(source));
    }

    /// Says which of the sources' figures, by name, only grow; all others are
    /// gauges.
    pub fn counting(&self, is_counter: impl Fn(&str) -> bool + Send + Sync + 'static) {
        lock(&self.0).counters.push(Box::new(is_counter));
    }

    /// Everything in Prometheus' words.
    #[must_use]
    pub fn exposition(&self, now: Instant) -> Exposition {
        let all = self.snapshot(now);
        let registry = lock(&self.0);
        let mut out = Exposition::default();
        for (name, value) in all {
            let counts = match registry.entries.get(&name) {
                Some(entry) => matches!(entry, Entry::Counter(_)),
                None => registry.counters.iter().any(|is_counter| is_counter(&name)),
            };
            out.add_mesos(&name, if counts { Kind::Counter } else { Kind::Gauge }, value);
        }
        out
    }

    /// Forgets everything whose name begins with `prefix`, for example the
    /// metrics of a framework that is gone. Sources stay.
    pub fn remove(&self, prefix: &str) {
        lock(&self.0).entries.retain(|name, _| !name.starts_with(prefix));
    }

    /// Everything, sorted by name.
    #[must_use]
    pub fn snapshot(&self, now: Instant) -> Figures {
        let mut out = Figures::new();
        let registry = lock(&self.0);
        for (name, entry) in &registry.entries {
            match entry {
                #[allow(clippy::cast_precision_loss)] // JSON numbers are doubles
                Entry::Counter(counter) => {
                    out.insert(name.clone(), counter.get() as f64);
                }
                Entry::Gauge(gauge) => {
                    out.insert(name.clone(), gauge.get());
                }
                Entry::Timer(timer) => timer.report(name, now, &mut out),
            }
        }
        for source in &registry.sources {
            source(&mut out);
        }
        out
    }
}

/// Load, processors and memory of the machine as `system/...`; for
/// [`Metrics::source`].
#[allow(clippy::cast_precision_loss)] // bytes of memory fit
pub fn system(out: &mut Figures) {
    let mut set = |name: &str, value: f64| out.insert(format!("system/{name}"), value);
    if let Ok((one, five, fifteen)) = kernel::machine::load() {
        set("load_1min", one);
        set("load_5min", five);
        set("load_15min", fifteen);
    }
    if let Ok(cpus) = kernel::machine::cpus() {
        set("cpus_total", f64::from(cpus));
    }
    if let Ok(memory) = kernel::machine::memory() {
        set("mem_total_bytes", memory.total as f64);
        set("mem_free_bytes", memory.free as f64);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // A value is changed in one step or not at all.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_is_reported_sorted() {
        let metrics = Metrics::new();
        metrics.counter("b/count").add(2);
        metrics.counter("b/count").increment();
        metrics.gauge("a/gauge").set(1.5);
        metrics.source(|out| {
            out.insert("a/source".to_owned(), 7.0);
        });
        let snapshot = metrics.snapshot(Instant::now());
        let shown: Vec<(&str, f64)> = snapshot.iter().map(|(n, v)| (n.as_str(), *v)).collect();
        assert_eq!(shown, [("a/gauge", 1.5), ("a/source", 7.0), ("b/count", 3.0)]);
        metrics.remove("b/");
        assert!(!metrics.snapshot(Instant::now()).contains_key("b/count"));
    }

    #[test]
    fn timers_have_a_distribution_from_two_samples_on() {
        let metrics = Metrics::new();
        let hour = Duration::from_secs(3600);
        let timer = metrics.timer("run", hour);
        let start = Instant::now();
        assert!(metrics.snapshot(start).is_empty());
        timer.record(start, Duration::from_millis(10));
        assert_eq!(
            metrics.snapshot(start).into_iter().collect::<Vec<_>>(),
            [("run_ms".into(), 10.0)]
        );
        for milliseconds in [20, 30, 40, 50] {
            timer.record(start + Duration::from_secs(60), Duration::from_millis(milliseconds));
        }
        let snapshot = metrics.snapshot(start + hour);
        for (name, value) in [
            ("run_ms", 50.0),
            ("run_ms/count", 5.0),
            ("run_ms/min", 10.0),
            ("run_ms/max", 50.0),
            ("run_ms/p50", 30.0),
            ("run_ms/p90", 46.0),
        ] {
            assert!((snapshot[name] - value).abs() < 1e-9, "{name}: {}", snapshot[name]);
        }
        let later = metrics.snapshot(start + hour + Duration::from_secs(1));
        assert!((later["run_ms/min"] - 20.0).abs() < 1e-9, "the first sample left the window");
        for _ in 0..2 * SAMPLES {
            timer.record(start + hour, Duration::ZERO);
        }
        assert!((metrics.snapshot(start + hour)["run_ms/count"] - 1000.0).abs() < 1e-9);
    }
}
