//! `cgroups/mem`: soft limits from requests, hard limits from limits, and the
//! end of a container that hits its hard limit.

use kernel::cgroup::event::PressureCounter;
use kernel::cgroup::parse::Limit;
use kernel::cgroup::{Cgroup, Version, parse};
use mesos::ResourceStatistics;
use tracing::warn;

use super::control::{Demand, failed};
pub(super) use super::oom::NAME;
use super::oom::Oom;
use crate::api::{IsolatorError, Limitation, Probe, Watch};
use crate::config::Config;
use crate::probe::FileProbe;
use crate::quantity;

/// `EBUSY`: the kernel could not take enough back.
const EBUSY: i32 = 16;

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

/// What to do about a hard limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// It is so already.
    Keep,
    /// The first time, or more: cannot hurt.
    Write,
    /// Less: only if the container fits, else the kernel would kill it.
    Shrink,
}

/// How to get from the current hard limit to the wanted one.
#[must_use]
pub fn step(first: bool, current: Limit, wanted: Limit) -> Step {
    match (current, wanted) {
        _ if first => Step::Write,
        (current, wanted) if current == wanted => Step::Keep,
        (_, Limit::Unlimited) => Step::Write,
        (Limit::Unlimited, Limit::Value(_)) => Step::Shrink,
        (Limit::Value(current), Limit::Value(wanted)) if wanted > current => Step::Write,
        (Limit::Value(_), Limit::Value(_)) => Step::Shrink,
    }
}

/// Bytes of `memory.stat` (v2) that the kernel cannot take back from a container
/// without killing: its own memory, shared memory, locked and kernel memory.
#[must_use]
pub fn held(stat: &[u8]) -> u64 {
    let sum = |keys: &[&str]| keys.iter().filter_map(|key| parse::value(stat, key)).sum::<u64>();
    let kernel = parse::value(stat, "kernel")
        .unwrap_or_else(|| sum(&["kernel_stack", "pagetables", "sock", "vmalloc", "slab"]));
    let reclaimable = sum(&["slab_reclaimable"]);
    sum(&["anon", "shmem", "unevictable"]) + kernel.saturating_sub(reclaimable)
}

/// Whether a container that holds `held` bytes can live under `limit`: a sixteenth
/// is left for what it allocates meanwhile.
#[must_use]
pub fn fits(held: u64, limit: Limit) -> bool {
    match limit {
        Limit::Unlimited => true,
        Limit::Value(limit) => held <= limit - limit / 16,
    }
}

/// A part of an amount; whole pages.
#[must_use]
#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::cast_precision_loss)]
pub fn part(bytes: u64, ratio: f64) -> u64 {
    // The cast saturates.
    (bytes as f64 * ratio) as u64 / 4096 * 4096
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
    high_ratio: Option<f64>,
    min_ratio: Option<f64>,
    oom_group: bool,
    oom: Option<Oom>,
}

impl Mem {
    pub(super) fn new(config: &Config, group: Cgroup, fresh: bool) -> Mem {
        let settings = &config.cgroups;
        Mem {
            group,
            first: fresh,
            limit_swap: config.cgroups_limit_swap,
            high_ratio: settings.mem_high_ratio,
            min_ratio: settings.mem_min_ratio,
            oom_group: settings.mem_oom_group,
            oom: None,
        }
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
        match step(self.first, current, hard) {
            Step::Keep => {}
            Step::Write => self.write_hard(hard_knob, hard, false)?,
            Step::Shrink => self.shrink(hard_knob, hard)?,
        }
        self.first = false;
        self.write_v2_knobs(soft, hard)
    }

    /// v2: protection and throttling that Mesos has no words for.
    fn write_v2_knobs(&self, soft: u64, hard: Limit) -> Result<(), IsolatorError> {
        if self.group.version() == Version::V1 {
            return Ok(());
        }
        if let Some(ratio) = self.min_ratio {
            self.write("memory.min", &part(soft, ratio).to_string())?;
        }
        if let Some(ratio) = self.high_ratio {
            let high = match hard {
                Limit::Unlimited => "max".to_owned(),
                Limit::Value(hard) => part(hard, ratio).to_string(),
            };
            self.write("memory.high", &high)?;
        }
        if self.oom_group {
            self.write("memory.oom.group", "1")?;
        }
        Ok(())
    }

    /// Lowers the hard limit if the container fits under it. If not it keeps what
    /// it has until the next update: a kill is worse than a late limit.
    fn shrink(&self, knob: &str, hard: Limit) -> Result<(), IsolatorError> {
        let fits = match self.group.version() {
            // The kernel takes back what it can, and refuses if that is too little.
            Version::V1 => match self.write_hard(knob, hard, true) {
                Err(error) if is_busy(&error) => false,
                other => return other,
            },
            Version::V2 => {
                let stat = self.group.read("memory.stat");
                let stat = stat.map_err(|e| failed(NAME, "read", &self.group, "memory.stat", e))?;
                fits(held(&stat), hard)
            }
        };
        if fits {
            return self.write_hard(knob, hard, true);
        }
        let path = self.group.path().display();
        warn!("'{path}' uses more than its new memory limit and keeps the old one");
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

    fn write_hard(&self, knob: &str, hard: Limit, less: bool) -> Result<(), IsolatorError> {
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
        let order = if self.first || less {
            [knob, "memory.memsw.limit_in_bytes"]
        } else {
            ["memory.memsw.limit_in_bytes", knob]
        };
        order.iter().try_for_each(|knob| self.write(knob, &value))
    }

    /// Whether the container has its cgroup.
    pub(super) fn exists(&self) -> bool {
        self.group.exists()
    }

    /// Starts to listen; before the container's first process runs, or after a
    /// restart of the agent.
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
            let mut probes =
                vec![file("memory.current", fill_total), file("memory.stat", fill_stat_v2)];
            // Kernels without swap accounting or PSI have no such files.
            let swap = if self.limit_swap { fill_swap_and_sum } else { fill_swap };
            let optional: [(&str, crate::probe::Fill); 2] =
                [("memory.pressure", fill_psi), ("memory.swap.current", swap)];
            for (name, fill) in optional {
                if self.group.read(name).is_ok() {
                    probes.push(file(name, fill));
                }
            }
            return probes;
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

/// The figures of a cgroup that is not ours.
pub(super) fn foreign_probes(group: &Cgroup) -> Vec<Box<dyn Probe>> {
    let file = |name: &'static str, fill| FileProbe::boxed(NAME, name, group.file(name), fill);
    match group.version() {
        Version::V1 => {
            vec![file("memory.usage_in_bytes", fill_total), file("memory.stat", fill_stat_v1)]
        }
        Version::V2 => vec![file("memory.current", fill_total), file("memory.stat", fill_stat_v2)],
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

fn fill_swap(text: &[u8], statistics: &mut ResourceStatistics) {
    statistics.mem_swap_bytes = parse::number(text);
}

/// Sampled after `memory.current`: sources go by name.
fn fill_swap_and_sum(text: &[u8], statistics: &mut ResourceStatistics) {
    fill_swap(text, statistics);
    let sum = statistics.mem_total_bytes.zip(statistics.mem_swap_bytes);
    statistics.mem_total_memsw_bytes = sum.map(|(memory, swap)| memory + swap);
}

/// v2 has no pressure levels; it has the time that processes waited for memory.
/// Low: 10 ms in which some waited; medium: 100 ms of that; critical: 100 ms in
/// which all waited.
fn fill_psi(text: &[u8], statistics: &mut ResourceStatistics) {
    let total = |kind: &str| {
        let text = std::str::from_utf8(text).ok()?;
        let line = text.lines().find_map(|line| line.strip_prefix(kind))?;
        parse::number(line.rsplit_once("total=")?.1.as_bytes())
    };
    let (some, full) = (total("some "), total("full "));
    statistics.mem_low_pressure_counter = some.map(|micros| micros / 10_000);
    statistics.mem_medium_pressure_counter = some.map(|micros| micros / 100_000);
    statistics.mem_critical_pressure_counter = full.map(|micros| micros / 100_000);
}

fn is_busy(error: &IsolatorError) -> bool {
    let kernel = error.source.as_ref().and_then(|e| e.downcast_ref::<kernel::cgroup::Error>());
    kernel.and_then(kernel::cgroup::Error::errno) == Some(EBUSY)
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
    fn hard_limits_grow_at_once_and_shrink_with_care() {
        let (small, large) = (Limit::Value(MB), Limit::Value(2 * MB));
        let rows = [
            (true, Limit::Unlimited, small, Step::Write),
            (false, small, large, Step::Write),
            (false, large, small, Step::Shrink),
            (false, small, small, Step::Keep),
            (false, small, Limit::Unlimited, Step::Write),
            (false, Limit::Unlimited, Limit::Unlimited, Step::Keep),
            (false, Limit::Unlimited, small, Step::Shrink),
        ];
        for (first, current, wanted, expected) in rows {
            assert_eq!(step(first, current, wanted), expected, "{first} {current:?} {wanted:?}");
        }
    }

    #[test]
    fn what_a_container_holds_decides_whether_it_fits() {
        let stat = b"anon 100\nfile 5000\nkernel 30\nshmem 7\nunevictable 1\nslab_reclaimable 10\n";
        assert_eq!(held(stat), 128);
        assert_eq!(held(b"anon 5\nkernel_stack 1\nslab 4\nslab_reclaimable 4\n"), 6);
        let rows = [(128, 160, true), (150, 160, true), (151, 160, false), (160, 160, false)];
        for (held, limit, wanted) in rows {
            assert_eq!(fits(held, Limit::Value(limit)), wanted, "{held} {limit}");
        }
        assert!(fits(u64::MAX, Limit::Unlimited));
    }

    #[test]
    fn parts_are_whole_pages() {
        let rows = [(64 * MB, 0.5, 32 * MB), (64 * MB, 1.0, 64 * MB), (10_000, 0.9, 8192)];
        for (bytes, ratio, wanted) in rows {
            assert_eq!(part(bytes, ratio), wanted);
        }
    }

    #[test]
    fn stall_times_become_counters() {
        let mut s = ResourceStatistics::default();
        let text = b"some avg10=1.00 avg60=0.00 avg300=0.00 total=1234567\n\
                     full avg10=0.00 avg60=0.00 avg300=0.00 total=450000\n";
        fill_psi(text, &mut s);
        assert_eq!(s.mem_low_pressure_counter, Some(123));
        assert_eq!(s.mem_medium_pressure_counter, Some(12));
        assert_eq!(s.mem_critical_pressure_counter, Some(4));
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
