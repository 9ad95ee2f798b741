//! `cgroups/cpu`: weights from requests, quotas from limits.

use kernel::cgroup::{Cgroup, Version, parse};
use mesos::{Resource, ResourceStatistics};

use super::control::{Demand, failed};
use crate::api::{IsolatorError, Probe};
use crate::config::Config;
use crate::probe::FileProbe;
use crate::quantity;

pub(super) const NAME: &str = "cgroups/cpu";

/// Length of a quota's period, microseconds.
const PERIOD_US: u64 = 100_000;
/// The kernel's smallest quota, microseconds.
const MIN_QUOTA_US: u64 = 1_000;

/// `cpu.shares` (v1): 1024 a cpu, at least 2; 10 a cpu at low priority.
#[must_use]
#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // the cast saturates
pub fn shares(cpus: f64, low_priority: bool) -> u64 {
    let per_cpu = if low_priority { 10.0 } else { 1024.0 };
    ((per_cpu * cpus) as u64).clamp(2, 262_144)
}

/// `cpu.weight` (v2): 100 a cpu, 1 at low priority; the kernel takes 1 to 10000.
#[must_use]
#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // the cast saturates
pub fn weight(cpus: f64, low_priority: bool) -> u64 {
    let per_cpu = if low_priority { 1.0 } else { 100.0 };
    ((per_cpu * cpus) as u64).clamp(1, 10_000)
}

/// What bounds the container's cpu time per period.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Quota {
    /// Nothing.
    Unlimited,
    /// Microseconds per 100 ms.
    Micros(u64),
}

/// The quota for a request and a limit: the limit if there is one, the request
/// with `--cgroups_enable_cfs`, else none.
#[must_use]
#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::cast_precision_loss)]
pub fn quota(request: f64, limit: Option<f64>, enable_cfs: bool) -> Quota {
    match limit.or(enable_cfs.then_some(request)) {
        Some(cpus) if cpus.is_finite() => {
            Quota::Micros(((cpus * PERIOD_US as f64).round() as u64).max(MIN_QUOTA_US))
        }
        _ => Quota::Unlimited,
    }
}

/// The controller of one container.
#[derive(Debug)]
pub(super) struct Cpu {
    /// Has the knobs.
    group: Cgroup,
    /// Has the times; the same as `group` on v2.
    accounting: Cgroup,
    /// What the kernel has, if known.
    written: Option<Quota>,
    enable_cfs: bool,
    revocable_is_low: bool,
    count: bool,
}

impl Cpu {
    pub(super) fn new(config: &Config, group: Cgroup, accounting: Cgroup, fresh: bool) -> Cpu {
        Cpu {
            group,
            accounting,
            written: fresh.then_some(Quota::Unlimited),
            enable_cfs: config.cgroups_enable_cfs,
            revocable_is_low: config.revocable_cpu_low_priority,
            count: config.cgroups_count_processes,
        }
    }

    pub(super) fn update(&mut self, demand: Demand<'_>) -> Result<(), IsolatorError> {
        // An executor without resources of its own gets the least there is.
        let cpus = quantity::total(demand.requests, "cpus").unwrap_or(0.0);
        let low = self.revocable_is_low && is_revocable(demand.requests);
        let write = |knob: &str, value: String| {
            self.group.write(knob, &value).map_err(|e| failed(NAME, "set", &self.group, knob, e))
        };
        let quota = quota(cpus, demand.limit("cpus"), self.enable_cfs);
        match self.group.version() {
            Version::V1 => {
                write("cpu.shares", shares(cpus, low).to_string())?;
                if self.written != Some(quota) {
                    write("cpu.cfs_period_us", PERIOD_US.to_string())?;
                    let value = match quota {
                        Quota::Unlimited => "-1".to_owned(),
                        Quota::Micros(micros) => micros.to_string(),
                    };
                    write("cpu.cfs_quota_us", value)?;
                }
            }
            Version::V2 => {
                write("cpu.weight", weight(cpus, low).to_string())?;
                if self.written != Some(quota) {
                    let value = match quota {
                        Quota::Unlimited => format!("max {PERIOD_US}"),
                        Quota::Micros(micros) => format!("{micros} {PERIOD_US}"),
                    };
                    write("cpu.max", value)?;
                }
            }
        }
        self.written = Some(quota);
        Ok(())
    }

    pub(super) fn probes(&self) -> Vec<Box<dyn Probe>> {
        let file = |group: &Cgroup, name: &'static str, fill| {
            FileProbe::boxed(NAME, name, group.file(name), fill)
        };
        let mut probes = Vec::new();
        match self.group.version() {
            Version::V1 => {
                probes.push(file(&self.accounting, "cpuacct.stat", fill_cpuacct));
                if self.enable_cfs {
                    probes.push(file(&self.group, "cpu.stat", fill_throttling_v1));
                }
                if self.count {
                    probes.push(file(&self.accounting, "cgroup.procs", fill_processes));
                    probes.push(file(&self.accounting, "tasks", fill_threads));
                }
            }
            Version::V2 => {
                probes.push(file(&self.group, "cpu.stat", fill_cpu_stat_v2));
                if self.count {
                    let leaf = self.group.child("leaf");
                    probes.push(file(&leaf, "cgroup.procs", fill_processes));
                    probes.push(file(&leaf, "cgroup.threads", fill_threads));
                }
            }
        }
        probes
    }
}

fn is_revocable(requests: &[Resource]) -> bool {
    quantity::has_revocable(requests, "cpus")
}

#[allow(clippy::cast_precision_loss)] // seconds with six decimals lose nothing here
fn seconds(count: Option<u64>, per_second: f64) -> Option<f64> {
    count.map(|count| count as f64 / per_second)
}

/// The figures of cgroups that are not ours: v1's of the controllers `cpu` and
/// `cpuacct`, or v2's. `throttling`: how often they were held back, which v1 says apart.
/// `processes`: how many there are.
pub(super) fn foreign_probes(
    group: &Cgroup,
    accounting: &Cgroup,
    throttling: bool,
    processes: bool,
) -> Vec<Box<dyn Probe>> {
    let file = |group: &Cgroup, name: &'static str, fill| {
        FileProbe::boxed(NAME, name, group.file(name), fill)
    };
    let (mut all, threads) = match group.version() {
        Version::V1 => (vec![file(accounting, "cpuacct.stat", fill_cpuacct)], "tasks"),
        Version::V2 => (vec![file(group, "cpu.stat", fill_cpu_stat_v2)], "cgroup.threads"),
    };
    if throttling && group.version() == Version::V1 {
        all.push(file(group, "cpu.stat", fill_throttling_v1));
    }
    if processes {
        all.push(file(accounting, "cgroup.procs", fill_processes));
        all.push(file(accounting, threads, fill_threads));
    }
    all
}

fn fill_cpuacct(text: &[u8], statistics: &mut ResourceStatistics) {
    let ticks = kernel::proctree::ticks_per_second();
    statistics.cpus_user_time_secs = seconds(parse::value(text, "user"), ticks);
    statistics.cpus_system_time_secs = seconds(parse::value(text, "system"), ticks);
}

fn fill_throttling_v1(text: &[u8], statistics: &mut ResourceStatistics) {
    let count = |key| parse::value(text, key);
    statistics.cpus_nr_periods = count("nr_periods").map(saturate);
    statistics.cpus_nr_throttled = count("nr_throttled").map(saturate);
    statistics.cpus_throttled_time_secs = seconds(count("throttled_time"), 1e9);
}

fn fill_cpu_stat_v2(text: &[u8], statistics: &mut ResourceStatistics) {
    let count = |key| parse::value(text, key);
    statistics.cpus_user_time_secs = seconds(count("user_usec"), 1e6);
    statistics.cpus_system_time_secs = seconds(count("system_usec"), 1e6);
    statistics.cpus_nr_periods = count("nr_periods").map(saturate);
    statistics.cpus_nr_throttled = count("nr_throttled").map(saturate);
    statistics.cpus_throttled_time_secs = seconds(count("throttled_usec"), 1e6);
}

fn fill_processes(text: &[u8], statistics: &mut ResourceStatistics) {
    statistics.processes = u32::try_from(parse::pids(text).len()).ok();
}

fn fill_threads(text: &[u8], statistics: &mut ResourceStatistics) {
    statistics.threads = u32::try_from(parse::pids(text).len()).ok();
}

fn saturate(count: u64) -> u32 {
    u32::try_from(count).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weights() {
        // cpus, low priority, shares, weight
        let rows = [
            (0.0, false, 2, 1),
            (0.001, false, 2, 1),
            (0.2, false, 204, 20),
            (0.3, false, 307, 30),
            (1.0, false, 1024, 100),
            (24.0, false, 24_576, 2_400),
            (24.0, true, 240, 24),
            (0.1, true, 2, 1),
            (1000.0, false, 262_144, 10_000),
        ];
        for (cpus, low, v1, v2) in rows {
            assert_eq!(shares(cpus, low), v1, "{cpus}");
            assert_eq!(weight(cpus, low), v2, "{cpus}");
        }
    }

    #[test]
    fn quotas() {
        let inf = Some(f64::INFINITY);
        let rows = [
            (0.5, None, false, Quota::Unlimited),
            (0.5, None, true, Quota::Micros(50_000)),
            (0.5, Some(0.6), false, Quota::Micros(60_000)),
            (0.5, Some(0.7), true, Quota::Micros(70_000)),
            (0.5, inf, true, Quota::Unlimited),
            (0.001, None, true, Quota::Micros(1_000)),
            (8.0, None, true, Quota::Micros(800_000)),
        ];
        for (request, limit, cfs, wanted) in rows {
            assert_eq!(quota(request, limit, cfs), wanted, "{request} {limit:?} {cfs}");
        }
    }

    #[test]
    fn statistics_files() {
        let mut s = ResourceStatistics::default();
        fill_throttling_v1(b"nr_periods 7\nnr_throttled 3\nthrottled_time 2500000000\n", &mut s);
        assert_eq!((s.cpus_nr_periods, s.cpus_nr_throttled), (Some(7), Some(3)));
        assert_eq!(s.cpus_throttled_time_secs, Some(2.5));
        let mut s = ResourceStatistics::default();
        fill_cpu_stat_v2(b"usage_usec 3\nuser_usec 1500000\nsystem_usec 250000\n", &mut s);
        assert_eq!((s.cpus_user_time_secs, s.cpus_system_time_secs), (Some(1.5), Some(0.25)));
        assert_eq!(s.cpus_nr_periods, None);
        let mut s = ResourceStatistics::default();
        fill_cpuacct(b"user 24\nsystem 11\n", &mut s);
        assert_eq!(s.cpus_user_time_secs, Some(24.0 / kernel::proctree::ticks_per_second()));
        fill_processes(b"1\n2\n", &mut s);
        fill_threads(b"1\n2\n3\n", &mut s);
        assert_eq!((s.processes, s.threads), (Some(2), Some(3)));
    }
}
