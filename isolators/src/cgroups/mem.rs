//! `cgroups/mem`: soft limits from requests, hard limits from limits, and the
//! end of a container that hits its hard limit.

use kernel::cgroup::event::PressureCounter;
use kernel::cgroup::parse::Limit;
use kernel::cgroup::{Cgroup, Version, parse};
use mesos::ResourceStatistics;

use super::oom::Oom;
use super::{Demand, failed};
use crate::api::{IsolatorError, Limitation, Probe, Watch};
use crate::config::Config;
use crate::probe::FileProbe;
use crate::quantity;

pub(super) const NAME: &str = "cgroups/mem";

/// No container gets less: 32 MB.
const MIN_MEMORY: u64 = 32 << 20;

/// `memory.soft_limit_in_bytes` and `memory.low` for a request in megabytes.
#[must_use]
pub fn soft_limit(request: f64) -> u64 {
    quantity::megabytes(request).max(MIN_MEMORY)
}

/// The hard limit: the task's limit if it has one, else its soft limit.
#[must_use]
pub fn hard_limit(request: f64, limit: Option<f64>) -> Limit {
    match limit {
        None => Limit::Value(soft_limit(request)),
        Some(megabytes) if megabytes.is_finite() => Limit::Value(soft_limit(megabytes)),
        Some(_) => Limit::Unlimited,
    }
}

/// Whether to write a new hard limit: the first time, when it becomes infinite,
/// or when it grows. Lowering it under a running task could kill the task.
#[must_use]
pub fn should_write(first: bool, current: Limit, wanted: Limit) -> bool {
    match (current, wanted) {
        _ if first => true,
        (_, Limit::Unlimited) => true,
        (Limit::Unlimited, Limit::Value(_)) => false,
        (Limit::Value(current), Limit::Value(wanted)) => wanted > current,
    }
}

/// `oom_score_adj` of a task that may use more than it asked for: the less it
/// asked for, the sooner the kernel takes it when the machine is short.
#[must_use]
pub fn oom_score(soft: u64, hard: Limit, machine: u64) -> Option<i32> {
    let burst = match hard {
        Limit::Unlimited => true,
        Limit::Value(hard) => soft < hard,
    };
    (burst && machine > 0)
        .then(|| i32::try_from(1000 - (1000 * u128::from(soft.min(machine)) / u128::from(machine))))
        .and_then(Result::ok)
}

/// The controller of one container.
#[derive(Debug)]
pub(super) struct Mem {
    group: Cgroup,
    /// The hard limit has not been written yet.
    first: bool,
    limit_swap: bool,
    oom: Option<Oom>,
}

impl Mem {
    pub(super) fn new(config: &Config, group: Cgroup, fresh: bool) -> Mem {
        Mem { group, first: fresh, limit_swap: config.cgroups_limit_swap, oom: None }
    }

    pub(super) fn update(&mut self, demand: Demand<'_>) -> Result<(), IsolatorError> {
        // An executor without resources of its own gets the least there is.
        let request = quantity::total(demand.requests, "mem").unwrap_or(0.0);
        let soft = soft_limit(request);
        let hard = hard_limit(request, demand.limit("mem"));
        let (soft_knob, hard_knob) = match self.group.version() {
            Version::V1 => ("memory.soft_limit_in_bytes", "memory.limit_in_bytes"),
            Version::V2 => ("memory.low", "memory.max"),
        };
        self.write(soft_knob, &soft.to_string())?;
        let current = if self.first {
            Limit::Unlimited
        } else {
            self.group
                .read_limit(hard_knob)
                .map_err(|e| failed(NAME, "read", &self.group, hard_knob, e))?
        };
        if should_write(self.first, current, hard) {
            self.write_hard(hard_knob, hard)?;
            self.first = false;
        }
        Ok(())
    }

    /// `oom_score_adj` for the container as it starts.
    pub(super) fn oom_score(&self, demand: Demand<'_>) -> Option<i32> {
        let request = quantity::total(demand.requests, "mem").unwrap_or(0.0);
        let hard = hard_limit(request, demand.limit("mem"));
        oom_score(soft_limit(request), hard, kernel::proctree::total_memory())
    }

    fn write(&self, knob: &str, value: &str) -> Result<(), IsolatorError> {
        self.group.write(knob, value).map_err(|e| failed(NAME, "set", &self.group, knob, e))
    }

    fn write_hard(&self, knob: &str, hard: Limit) -> Result<(), IsolatorError> {
        let v1 = self.group.version() == Version::V1;
        let value = match hard {
            Limit::Value(bytes) => bytes.to_string(),
            Limit::Unlimited if v1 => "-1".to_owned(),
            Limit::Unlimited => "max".to_owned(),
        };
        if !self.limit_swap {
            return self.write(knob, &value);
        }
        if !v1 {
            // v2 counts swap apart: none of it makes the sum the limit.
            self.write("memory.swap.max", if hard == Limit::Unlimited { "max" } else { "0" })?;
            return self.write(knob, &value);
        }
        // v1: memory <= memory + swap must hold after each write.
        let order = if self.first {
            [knob, "memory.memsw.limit_in_bytes"]
        } else {
            ["memory.memsw.limit_in_bytes", knob]
        };
        order.iter().try_for_each(|knob| self.write(knob, &value))
    }

    /// Starts to listen; before the container's first process runs.
    pub(super) fn listen(&mut self) -> Result<(), IsolatorError> {
        self.oom = Some(Oom::new(self.group.clone())?);
        Ok(())
    }

    pub(super) fn watch(&mut self) -> Option<Watch> {
        self.oom.as_ref().map(Oom::watch)
    }

    pub(super) fn ended(&mut self) -> Option<Limitation> {
        self.oom.as_ref().and_then(Oom::check)
    }

    pub(super) fn close(&mut self) {
        self.oom = None;
    }

    pub(super) fn probes(&self) -> Vec<Box<dyn Probe>> {
        let file =
            |name: &'static str, fill| FileProbe::boxed(NAME, name, self.group.file(name), fill);
        if self.group.version() == Version::V2 {
            return vec![file("memory.current", fill_total), file("memory.stat", fill_stat_v2)];
        }
        let mut probes = vec![
            file("memory.usage_in_bytes", fill_total),
            file("memory.stat", fill_stat_v1),
            Box::new(Pressure::new(&self.group)) as Box<dyn Probe>,
        ];
        let optional: [(&str, crate::probe::Fill); 2] = [
            ("memory.kmem.usage_in_bytes", fill_kmem),
            ("memory.kmem.tcp.usage_in_bytes", fill_kmem_tcp),
        ];
        for (name, fill) in optional {
            if self.group.file(name).exists() {
                probes.push(file(name, fill));
            }
        }
        if self.limit_swap {
            probes.push(file("memory.memsw.usage_in_bytes", fill_memsw));
        }
        probes
    }
}

fn fill_total(text: &[u8], statistics: &mut ResourceStatistics) {
    statistics.mem_total_bytes = parse::number(text);
}

fn fill_kmem(text: &[u8], statistics: &mut ResourceStatistics) {
    statistics.mem_kmem_usage_bytes = parse::number(text);
}

fn fill_kmem_tcp(text: &[u8], statistics: &mut ResourceStatistics) {
    statistics.mem_kmem_tcp_usage_bytes = parse::number(text);
}

fn fill_memsw(text: &[u8], statistics: &mut ResourceStatistics) {
    statistics.mem_total_memsw_bytes = parse::number(text);
}

fn fill_stat_v1(text: &[u8], statistics: &mut ResourceStatistics) {
    for (key, value) in parse::pairs(text) {
        let value = Some(value);
        match key {
            b"total_cache" => {
                statistics.mem_file_bytes = value;
                statistics.mem_cache_bytes = value;
            }
            b"total_rss" => {
                statistics.mem_anon_bytes = value;
                statistics.mem_rss_bytes = value;
            }
            b"total_mapped_file" => statistics.mem_mapped_file_bytes = value,
            b"total_swap" => statistics.mem_swap_bytes = value,
            b"total_unevictable" => statistics.mem_unevictable_bytes = value,
            _ => {}
        }
    }
}

fn fill_stat_v2(text: &[u8], statistics: &mut ResourceStatistics) {
    let (mut kernel, mut parts) = (None, 0);
    for (key, value) in parse::pairs(text) {
        match key {
            b"file" => {
                statistics.mem_file_bytes = Some(value);
                statistics.mem_cache_bytes = Some(value);
            }
            b"anon" => {
                statistics.mem_anon_bytes = Some(value);
                statistics.mem_rss_bytes = Some(value);
            }
            b"file_mapped" => statistics.mem_mapped_file_bytes = Some(value),
            b"unevictable" => statistics.mem_unevictable_bytes = Some(value),
            b"kernel" => kernel = Some(value),
            b"kernel_stack" | b"pagetables" | b"vmalloc" | b"slab" => parts += value,
            b"sock" => {
                statistics.mem_kmem_tcp_usage_bytes = Some(value);
                parts += value;
            }
            _ => {}
        }
    }
    // Kernels before 5.18 do not sum it up.
    statistics.mem_kmem_usage_bytes = Some(kernel.unwrap_or(parts));
}

/// The three pressure counters of v1.
#[derive(Debug)]
struct Pressure {
    low: Option<PressureCounter>,
    medium: Option<PressureCounter>,
    critical: Option<PressureCounter>,
}

impl Pressure {
    fn new(group: &Cgroup) -> Pressure {
        // Where the kernel has no such file the field stays away.
        let counter = |level| PressureCounter::new(group, level).ok();
        Pressure { low: counter("low"), medium: counter("medium"), critical: counter("critical") }
    }
}

impl Probe for Pressure {
    fn source(&self) -> &'static str {
        "memory.pressure_level"
    }

    fn sample(
        &mut self,
        _buffer: &mut Vec<u8>,
        statistics: &mut ResourceStatistics,
    ) -> Result<(), IsolatorError> {
        let count =
            |counter: &mut Option<PressureCounter>| counter.as_mut().map(PressureCounter::count);
        statistics.mem_low_pressure_counter = count(&mut self.low);
        statistics.mem_medium_pressure_counter = count(&mut self.medium);
        statistics.mem_critical_pressure_counter = count(&mut self.critical);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MB: u64 = 1 << 20;

    #[test]
    fn limits() {
        let inf = Some(f64::INFINITY);
        // request, limit, soft, hard
        let rows = [
            (64.0, None, 64 * MB, Limit::Value(64 * MB)),
            (10.0, None, 32 * MB, Limit::Value(32 * MB)),
            (64.9, None, 64 * MB, Limit::Value(64 * MB)),
            (64.0, Some(96.0), 64 * MB, Limit::Value(96 * MB)),
            (64.0, Some(8.0), 64 * MB, Limit::Value(32 * MB)),
            (64.0, inf, 64 * MB, Limit::Unlimited),
        ];
        for (request, limit, soft, hard) in rows {
            assert_eq!(soft_limit(request), soft, "{request}");
            assert_eq!(hard_limit(request, limit), hard, "{request} {limit:?}");
        }
    }

    #[test]
    fn hard_limits_are_never_lowered() {
        let (small, large) = (Limit::Value(MB), Limit::Value(2 * MB));
        let rows = [
            (true, Limit::Unlimited, small, true),
            (false, small, large, true),
            (false, large, small, false),
            (false, small, small, false),
            (false, small, Limit::Unlimited, true),
            (false, Limit::Unlimited, small, false),
        ];
        for (first, current, wanted, write) in rows {
            assert_eq!(
                should_write(first, current, wanted),
                write,
                "{first} {current:?} {wanted:?}"
            );
        }
    }

    #[test]
    fn oom_scores() {
        let rows = [
            (64, Limit::Value(64), 1000, None),
            (250, Limit::Value(500), 1000, Some(750)),
            (250, Limit::Unlimited, 1000, Some(750)),
            (2000, Limit::Unlimited, 1000, Some(0)),
            (64, Limit::Unlimited, 0, None),
        ];
        for (soft, hard, machine, wanted) in rows {
            assert_eq!(oom_score(soft, hard, machine), wanted);
        }
    }

    #[test]
    fn stat_v1() {
        let mut s = ResourceStatistics::default();
        fill_stat_v1(
            b"cache 1\nrss 2\ntotal_cache 10\ntotal_rss 20\ntotal_mapped_file 3\ntotal_swap 0\n\
              total_unevictable 5\n",
            &mut s,
        );
        assert_eq!((s.mem_cache_bytes, s.mem_file_bytes), (Some(10), Some(10)));
        assert_eq!((s.mem_rss_bytes, s.mem_anon_bytes), (Some(20), Some(20)));
        assert_eq!((s.mem_mapped_file_bytes, s.mem_swap_bytes), (Some(3), Some(0)));
        assert_eq!(s.mem_unevictable_bytes, Some(5));
    }

    #[test]
    fn stat_v2_with_and_without_the_kernel_sum() {
        let old = b"anon 5\nfile 6\nkernel_stack 1\npagetables 2\nsock 4\nvmalloc 8\nslab 16\n";
        let mut s = ResourceStatistics::default();
        fill_stat_v2(old, &mut s);
        assert_eq!((s.mem_kmem_usage_bytes, s.mem_kmem_tcp_usage_bytes), (Some(31), Some(4)));
        assert_eq!((s.mem_anon_bytes, s.mem_cache_bytes), (Some(5), Some(6)));
        fill_stat_v2(b"kernel 100\nkernel_stack 1\n", &mut s);
        assert_eq!(s.mem_kmem_usage_bytes, Some(100));
    }
}
