//! Requests and limits in the engine's words. Pure.
//!
//! The figures are Mesos': cpu shares from the request, a quota from the limit (or
//! from the request with `--cgroups_enable_cfs`), memory from limit or request and
//! never less than 32 MB.

use std::collections::BTreeMap;

use mesos::Resource;
use serde_json::{Map, Value, json};

/// `CpuShares` of one cpu.
const SHARES: f64 = 1024.0;
const MIN_SHARES: f64 = 2.0;
/// Microseconds of a scheduling period.
const PERIOD: f64 = 100_000.0;
/// Shortest quota, in microseconds.
const MIN_QUOTA: f64 = 1000.0;
/// No container gets less: 32 MB.
const MIN_MEMORY: u64 = 32 << 20;

/// What `HostConfig` says of cpu and memory. `machine` is all memory in bytes.
pub(super) fn at_creation(
    requests: &[Resource],
    limits: &BTreeMap<String, f64>,
    enable_cfs: bool,
    machine: u64,
) -> Map<String, Value> {
    let mut all = cpus(requests, limits, enable_cfs);
    let request = isolators::quantity::total(requests, "mem").map(bytes);
    match (limits.get("mem").copied(), request) {
        (None, Some(request)) => set(&mut all, "Memory", json!(request)),
        (None, None) => {}
        (Some(limit), request) => {
            let hard = limit.is_finite().then(|| bytes(limit));
            if let Some(hard) = hard {
                set(&mut all, "Memory", json!(hard));
            }
            if let Some(request) = request {
                set(&mut all, "MemoryReservation", json!(request));
                if hard.is_none_or(|hard| request < hard) {
                    set(&mut all, "OomScoreAdj", json!(oom_score(request, machine)));
                }
            }
        }
    }
    all
}

/// The same for a running container, whose memory limit cannot be lifted, only be
/// set to all memory. `swap`: whether its swap is limited now; the limit of both
/// together may not be below that of memory.
pub(super) fn at_update(
    requests: &[Resource],
    limits: &BTreeMap<String, f64>,
    enable_cfs: bool,
    machine: u64,
    swap: bool,
) -> Map<String, Value> {
    let mut all = cpus(requests, limits, enable_cfs);
    if !all.contains_key("CpuQuota") {
        set(&mut all, "CpuQuota", json!(-1));
    }
    let request = isolators::quantity::total(requests, "mem").map(bytes);
    let hard = match limits.get("mem") {
        Some(limit) if limit.is_finite() => Some(bytes(*limit)),
        Some(_) => Some(machine),
        None => request,
    };
    if let Some(hard) = hard {
        set(&mut all, "Memory", json!(hard));
        if swap {
            set(&mut all, "MemorySwap", json!(hard.saturating_mul(2)));
        }
    }
    if let Some(request) = request.filter(|_| limits.contains_key("mem")) {
        set(&mut all, "MemoryReservation", json!(request));
    }
    all
}

fn cpus(
    requests: &[Resource],
    limits: &BTreeMap<String, f64>,
    enable_cfs: bool,
) -> Map<String, Value> {
    let mut all = Map::new();
    let request = isolators::quantity::total(requests, "cpus");
    if let Some(request) = request {
        set(&mut all, "CpuShares", json!(whole((SHARES * request).max(MIN_SHARES))));
    }
    let capped = match limits.get("cpus") {
        Some(limit) => Some(*limit).filter(|limit| limit.is_finite()),
        None => request.filter(|_| enable_cfs),
    };
    if let Some(capped) = capped {
        set(&mut all, "CpuQuota", json!(whole((PERIOD * capped).max(MIN_QUOTA))));
        set(&mut all, "CpuPeriod", json!(whole(PERIOD)));
    }
    all
}

fn set(all: &mut Map<String, Value>, name: &str, value: Value) {
    all.insert(name.to_owned(), value);
}

fn bytes(megabytes: f64) -> u64 {
    isolators::quantity::megabytes(megabytes).max(MIN_MEMORY)
}

#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // positive, far below 2^63
fn whole(value: f64) -> u64 {
    value as u64
}

/// The more of its memory is guaranteed, the later it is killed.
fn oom_score(request: u64, machine: u64) -> u64 {
    1000 - (1000 * request).checked_div(machine).unwrap_or(0).min(1000)
}

#[cfg(test)]
mod tests {
    use isolators::quantity::scalar;

    use super::*;

    const GB: u64 = 1 << 30;

    fn limits(rows: &[(&str, f64)]) -> BTreeMap<String, f64> {
        rows.iter().map(|(name, value)| ((*name).to_owned(), *value)).collect()
    }

    #[test]
    fn creation() {
        let mb = |n: u64| n << 20;
        // cpus, mem, limits, cfs -> HostConfig
        let rows = [
            (0.5, 64.0, limits(&[]), false, json!({"CpuShares": 512, "Memory": mb(64)})),
            (0.001, 1.0, limits(&[]), false, json!({"CpuShares": 2, "Memory": mb(32)})),
            (
                0.5,
                64.0,
                limits(&[]),
                true,
                json!({"CpuShares": 512, "CpuQuota": 50_000, "CpuPeriod": 100_000,
                       "Memory": mb(64)}),
            ),
            (
                0.5,
                512.0,
                limits(&[("cpus", 2.0), ("mem", 1024.0)]),
                false,
                json!({"CpuShares": 512, "CpuQuota": 200_000, "CpuPeriod": 100_000,
                       "Memory": mb(1024), "MemoryReservation": mb(512), "OomScoreAdj": 500}),
            ),
            (
                1.0,
                512.0,
                limits(&[("cpus", f64::INFINITY), ("mem", f64::INFINITY)]),
                true,
                json!({"CpuShares": 1024, "MemoryReservation": mb(512), "OomScoreAdj": 500}),
            ),
        ];
        for (cpus, mem, limits, cfs, wanted) in rows {
            let requests = [scalar("cpus", cpus), scalar("mem", mem)];
            let given = Value::Object(at_creation(&requests, &limits, cfs, GB));
            assert_eq!(given, wanted, "{cpus} {mem} {limits:?} {cfs}");
        }
    }

    #[test]
    fn updates_can_lower_and_lift() {
        let requests = [scalar("cpus", 1.0), scalar("mem", 64.0)];
        let given = at_update(&requests, &limits(&[]), false, GB, true);
        assert_eq!(
            Value::Object(given),
            json!({"CpuShares": 1024, "CpuQuota": -1, "Memory": 64 << 20, "MemorySwap": 128 << 20})
        );
        let given = at_update(&requests, &limits(&[("mem", f64::INFINITY)]), false, GB, false);
        assert_eq!((&given["Memory"], &given["MemoryReservation"]), (&json!(GB), &json!(64 << 20)));
    }
}
