//! `cgroups/perf_event`: counts of hardware and kernel events per container.
//!
//! Every `--perf_interval` the `--perf_events` of each container are counted for
//! `--perf_duration`, in this process; real Mesos runs the `perf` program. The last
//! sample is served until the next is taken. Between samples nothing is counted
//! and no descriptor is open.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use kernel::cgroup::Cgroup;
use kernel::perf::{self, Counters, Event, Kind};
use mesos::{PerfStatistics, ResourceStatistics};
use tokio::task::JoinHandle;
use tracing::warn;

use super::control::Control;
use crate::api::{ContainerContext, IsolatorError, Probe};

/// As in `--isolation`.
pub const NAME: &str = "cgroups/perf_event";

type Set = fn(&mut PerfStatistics, u64);

/// A row of [`EVENTS`].
#[derive(Debug, Clone, Copy)]
struct Known {
    name: &'static str,
    event: Event,
    set: Set,
}

/// Rows `name kind config field`; the field is Mesos' for the name.
macro_rules! events {
    ($($name:literal $kind:ident $config:expr, $field:ident;)*) => {
        &[$(Known {
            name: $name,
            event: Event { kind: Kind::$kind, config: $config },
            set: |statistics, count| statistics.$field = Some(count),
        }),*]
    };
}

const fn cache(unit: u64, operation: u64, result: u64) -> u64 {
    unit | operation << 8 | result << 16
}

/// Names as in `perf list`; aliases have rows of their own.
#[rustfmt::skip] // one line per event
const EVENTS: &[Known] = events! {
    "cycles" Hardware 0, cycles;
    "cpu-cycles" Hardware 0, cycles;
    "instructions" Hardware 1, instructions;
    "cache-references" Hardware 2, cache_references;
    "cache-misses" Hardware 3, cache_misses;
    "branches" Hardware 4, branches;
    "branch-instructions" Hardware 4, branches;
    "branch-misses" Hardware 5, branch_misses;
    "bus-cycles" Hardware 6, bus_cycles;
    "stalled-cycles-frontend" Hardware 7, stalled_cycles_frontend;
    "idle-cycles-frontend" Hardware 7, stalled_cycles_frontend;
    "stalled-cycles-backend" Hardware 8, stalled_cycles_backend;
    "idle-cycles-backend" Hardware 8, stalled_cycles_backend;
    "ref-cycles" Hardware 9, ref_cycles;
    "page-faults" Software 2, page_faults;
    "faults" Software 2, page_faults;
    "context-switches" Software 3, context_switches;
    "cs" Software 3, context_switches;
    "cpu-migrations" Software 4, cpu_migrations;
    "migrations" Software 4, cpu_migrations;
    "minor-faults" Software 5, minor_faults;
    "major-faults" Software 6, major_faults;
    "alignment-faults" Software 7, alignment_faults;
    "emulation-faults" Software 8, emulation_faults;
    "l1-dcache-loads" Cache cache(0, 0, 0), l1_dcache_loads;
    "l1-dcache-load-misses" Cache cache(0, 0, 1), l1_dcache_load_misses;
    "l1-dcache-stores" Cache cache(0, 1, 0), l1_dcache_stores;
    "l1-dcache-store-misses" Cache cache(0, 1, 1), l1_dcache_store_misses;
    "l1-dcache-prefetches" Cache cache(0, 2, 0), l1_dcache_prefetches;
    "l1-dcache-prefetch-misses" Cache cache(0, 2, 1), l1_dcache_prefetch_misses;
    "l1-icache-loads" Cache cache(1, 0, 0), l1_icache_loads;
    "l1-icache-load-misses" Cache cache(1, 0, 1), l1_icache_load_misses;
    "l1-icache-prefetches" Cache cache(1, 2, 0), l1_icache_prefetches;
    "l1-icache-prefetch-misses" Cache cache(1, 2, 1), l1_icache_prefetch_misses;
    "llc-loads" Cache cache(2, 0, 0), llc_loads;
    "llc-load-misses" Cache cache(2, 0, 1), llc_load_misses;
    "llc-stores" Cache cache(2, 1, 0), llc_stores;
    "llc-store-misses" Cache cache(2, 1, 1), llc_store_misses;
    "llc-prefetches" Cache cache(2, 2, 0), llc_prefetches;
    "llc-prefetch-misses" Cache cache(2, 2, 1), llc_prefetch_misses;
    "dtlb-loads" Cache cache(3, 0, 0), dtlb_loads;
    "dtlb-load-misses" Cache cache(3, 0, 1), dtlb_load_misses;
    "dtlb-stores" Cache cache(3, 1, 0), dtlb_stores;
    "dtlb-store-misses" Cache cache(3, 1, 1), dtlb_store_misses;
    "dtlb-prefetches" Cache cache(3, 2, 0), dtlb_prefetches;
    "dtlb-prefetch-misses" Cache cache(3, 2, 1), dtlb_prefetch_misses;
    "itlb-loads" Cache cache(4, 0, 0), itlb_loads;
    "itlb-load-misses" Cache cache(4, 0, 1), itlb_load_misses;
    "branch-loads" Cache cache(5, 0, 0), branch_loads;
    "branch-load-misses" Cache cache(5, 0, 1), branch_load_misses;
    "node-loads" Cache cache(6, 0, 0), node_loads;
    "node-load-misses" Cache cache(6, 0, 1), node_load_misses;
    "node-stores" Cache cache(6, 1, 0), node_stores;
    "node-store-misses" Cache cache(6, 1, 1), node_store_misses;
    "node-prefetches" Cache cache(6, 2, 0), node_prefetches;
    "node-prefetch-misses" Cache cache(6, 2, 1), node_prefetch_misses;
};

/// The two clocks are milliseconds with a fraction.
#[allow(clippy::cast_precision_loss)]
const CLOCKS: [Known; 2] = [
    Known {
        name: "cpu-clock",
        event: Event { kind: Kind::Software, config: 0 },
        set: |statistics, count| statistics.cpu_clock = Some(count as f64 / 1e6),
    },
    Known {
        name: "task-clock",
        event: Event { kind: Kind::Software, config: 1 },
        set: |statistics, count| statistics.task_clock = Some(count as f64 / 1e6),
    },
];

/// What is sampled, and when.
#[derive(Debug, Clone)]
pub struct Plan {
    events: Vec<Known>,
    interval: Duration,
    duration: Duration,
}

impl Plan {
    /// From the three flags; `events` is a list separated by commas.
    ///
    /// # Errors
    /// An unknown event, or samples longer than their interval; for people.
    pub fn new(events: &str, interval: Duration, duration: Duration) -> Result<Plan, String> {
        if duration > interval {
            return Err(format!(
                "the perf duration {duration:?} is longer than the interval {interval:?}"
            ));
        }
        let find = |name: &str| {
            let plain = name.to_ascii_lowercase().replace('_', "-");
            let found = EVENTS.iter().chain(&CLOCKS).find(|known| known.name == plain);
            found.copied().ok_or_else(|| format!("'{name}' is no perf event that can be reported"))
        };
        let names = events.split(',').map(str::trim).filter(|name| !name.is_empty());
        let events = names.map(find).collect::<Result<Vec<_>, _>>()?;
        if events.is_empty() {
            return Err("no perf event is named".to_owned());
        }
        Ok(Plan { events, interval, duration })
    }

    /// Asks the kernel for each event, before a container does.
    pub(super) fn check(&self) -> Result<(), IsolatorError> {
        for known in &self.events {
            perf::check(known.event).map_err(|e| {
                let object =
                    format!("'{}' of --perf_events: this machine does not have it", known.name);
                IsolatorError::new(NAME, "count", object, e)
            })?;
        }
        Ok(())
    }
}

/// One container's sampler.
#[derive(Debug)]
pub(super) struct PerfEvent {
    plan: Arc<Plan>,
    group: Cgroup,
    latest: Arc<Mutex<PerfStatistics>>,
    task: Option<JoinHandle<()>>,
}

impl PerfEvent {
    pub(super) fn new(plan: Arc<Plan>, group: Cgroup) -> PerfEvent {
        // As in Mesos there is a first, empty sample.
        let latest =
            PerfStatistics { timestamp: now(), duration: 0.0, ..PerfStatistics::default() };
        PerfEvent { plan, group, latest: Arc::new(Mutex::new(latest)), task: None }
    }
}

impl Control for PerfEvent {
    fn prepare(&mut self, _context: &ContainerContext) -> Result<(), IsolatorError> {
        Ok(())
    }

    fn start(&mut self) {
        let work = sample(
            Arc::clone(&self.plan),
            self.group.path().to_path_buf(),
            Arc::clone(&self.latest),
        );
        self.task = Some(tokio::spawn(work));
    }

    fn probes(&self) -> Vec<Box<dyn Probe>> {
        vec![Box::new(Latest(Arc::clone(&self.latest)))]
    }

    fn cleanup(&mut self) {
        if let Some(task) = self.task.take() {
            task.abort();
        }
    }
}

impl Drop for PerfEvent {
    fn drop(&mut self) {
        self.cleanup();
    }
}

fn now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64()
}

async fn sample(plan: Arc<Plan>, group: PathBuf, latest: Arc<Mutex<PerfStatistics>>) {
    let events: Vec<Event> = plan.events.iter().map(|known| known.event).collect();
    let cpus = kernel::cpus::topology(Path::new("/sys/devices/system"));
    let cpus: Vec<u32> = cpus.unwrap_or_default().into_keys().collect();
    let mut complained = false;
    loop {
        let start = now();
        match Counters::start(&group, &events, cpus.iter().copied()) {
            Ok(mut counters) => {
                tokio::time::sleep(plan.duration).await;
                if let Ok(counts) = counters.read() {
                    let statistics = statistics(&plan.events, &counts, start, now() - start);
                    *latest.lock().unwrap_or_else(PoisonError::into_inner) = statistics;
                }
            }
            // Out of descriptors, or the container has just ended.
            Err(error) => {
                if !complained && group.exists() {
                    warn!(%error, "a container's perf events are not counted");
                    complained = true;
                }
                tokio::time::sleep(plan.duration).await;
            }
        }
        tokio::time::sleep(plan.interval.saturating_sub(plan.duration)).await;
    }
}

fn statistics(events: &[Known], counts: &[u64], timestamp: f64, duration: f64) -> PerfStatistics {
    let mut statistics = PerfStatistics { timestamp, duration, ..PerfStatistics::default() };
    for (known, count) in events.iter().zip(counts) {
        (known.set)(&mut statistics, *count);
    }
    statistics
}

/// Serves the last sample.
#[derive(Debug)]
struct Latest(Arc<Mutex<PerfStatistics>>);

impl Probe for Latest {
    fn source(&self) -> &'static str {
        "perf"
    }

    fn sample(
        &mut self,
        _buffer: &mut Vec<u8>,
        statistics: &mut ResourceStatistics,
    ) -> Result<(), IsolatorError> {
        let latest = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        statistics.perf = Some(*latest);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn names_are_known_in_every_spelling() {
        for name in ["cycles", "L1-dcache-load-misses", "l1_dcache_load_misses", "LLC-loads", "cs"]
        {
            assert!(Plan::new(name, SECOND, SECOND).is_ok(), "{name}");
        }
        assert_eq!(Plan::new("cycles, task-clock,", SECOND, SECOND).unwrap().events.len(), 2);
        for (bad, words) in [("cycle", "'cycle' is no perf event"), ("", "no perf event is named")]
        {
            assert!(Plan::new(bad, SECOND, SECOND).unwrap_err().contains(words), "{bad}");
        }
        let error = Plan::new("cycles", SECOND, 2 * SECOND).unwrap_err();
        assert!(error.contains("longer than the interval"), "{error}");
    }

    #[test]
    fn every_name_is_once_in_the_table() {
        let names: std::collections::BTreeSet<_> = EVENTS.iter().map(|known| known.name).collect();
        assert_eq!(names.len(), EVENTS.len());
    }

    #[test]
    fn counts_reach_their_fields() {
        let plan = Plan::new("page-faults,task-clock,node-stores", SECOND, SECOND).unwrap();
        let s = statistics(&plan.events, &[7, 2_500_000, 9], 1.0, 2.0);
        assert_eq!((s.page_faults, s.task_clock, s.node_stores), (Some(7), Some(2.5), Some(9)));
        assert_eq!((s.timestamp, s.duration, s.cycles), (1.0, 2.0, None));
    }
}
