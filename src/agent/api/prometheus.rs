//! Containers, isolators and GPUs in `/metrics`, as Prometheus' families. Pure.
//!
//! Of each container the newest sample. Which containers is up to `--metrics_per_container`: every container is
//! a series of its own for each figure, and their ids never come back.

use std::collections::BTreeMap;

use isolators::gpu::Figure as Gpu;
use isolators::traced::Calls;
use mesos::ResourceStatistics;
use mesos::agent::response::get_containers::Container;

use crate::daemon::prometheus::Kind::{self, Counter, Gauge};
use crate::daemon::prometheus::{Exposition, Labels};

type Get = fn(&ResourceStatistics) -> Option<f64>;

/// A figure: name after `mesos_container_`, type, meaning, and where it is.
struct Figure(&'static str, Kind, &'static str, Get);

macro_rules! number {
    ($field:ident) => {
        |s| s.$field.map(|value| value as f64)
    };
}

#[rustfmt::skip]
const FIGURES: &[Figure] = &[
    Figure("processes", Gauge, "Processes.", number!(processes)),
    Figure("threads", Gauge, "Threads.", number!(threads)),
    Figure("cpu_user_seconds_total", Counter, "Processor time in user mode.", number!(cpus_user_time_secs)),
    Figure("cpu_system_seconds_total", Counter, "Processor time in the kernel.", number!(cpus_system_time_secs)),
    Figure("cpu_limit", Gauge, "Processors it may use at most.", number!(cpus_limit)),
    Figure("cpu_request", Gauge, "Processors it asked for.", number!(cpus_soft_limit)),
    Figure("cpu_periods_total", Counter, "Enforcement periods of the cpu limit.", number!(cpus_nr_periods)),
    Figure("cpu_throttled_periods_total", Counter, "Periods in which the cpu limit was hit.", number!(cpus_nr_throttled)),
    Figure("cpu_throttled_seconds_total", Counter, "Time for which it was held back by the cpu limit.", number!(cpus_throttled_time_secs)),
    Figure("memory_bytes", Gauge, "Memory in use.", number!(mem_total_bytes)),
    Figure("memory_and_swap_bytes", Gauge, "Memory and swap in use.", number!(mem_total_memsw_bytes)),
    Figure("memory_kernel_bytes", Gauge, "Memory of the kernel for it.", number!(mem_kmem_usage_bytes)),
    Figure("memory_tcp_bytes", Gauge, "Memory of its TCP buffers.", number!(mem_kmem_tcp_usage_bytes)),
    Figure("memory_limit_bytes", Gauge, "Memory it may use at most.", number!(mem_limit_bytes)),
    Figure("memory_request_bytes", Gauge, "Memory it asked for.", number!(mem_soft_limit_bytes)),
    Figure("memory_cache_bytes", Gauge, "Memory of cached files.", number!(mem_cache_bytes)),
    Figure("memory_rss_bytes", Gauge, "Memory of its own, not of files.", number!(mem_rss_bytes)),
    Figure("memory_mapped_bytes", Gauge, "Memory of mapped files.", number!(mem_mapped_file_bytes)),
    Figure("memory_swap_bytes", Gauge, "Swap in use.", number!(mem_swap_bytes)),
    Figure("memory_unevictable_bytes", Gauge, "Memory that cannot be reclaimed.", number!(mem_unevictable_bytes)),
    Figure("memory_low_pressure_total", Counter, "Low memory pressure events.", number!(mem_low_pressure_counter)),
    Figure("memory_medium_pressure_total", Counter, "Medium memory pressure events.", number!(mem_medium_pressure_counter)),
    Figure("memory_critical_pressure_total", Counter, "Critical memory pressure events.", number!(mem_critical_pressure_counter)),
    Figure("disk_bytes", Gauge, "Disk that its sandbox occupies.", number!(disk_used_bytes)),
    Figure("disk_limit_bytes", Gauge, "Disk that its sandbox may occupy.", number!(disk_limit_bytes)),
    Figure("network_receive_bytes_total", Counter, "Bytes received.", number!(net_rx_bytes)),
    Figure("network_receive_packets_total", Counter, "Packets received.", number!(net_rx_packets)),
    Figure("network_receive_errors_total", Counter, "Errors while receiving.", number!(net_rx_errors)),
    Figure("network_receive_dropped_total", Counter, "Received packets dropped.", number!(net_rx_dropped)),
    Figure("network_transmit_bytes_total", Counter, "Bytes sent.", number!(net_tx_bytes)),
    Figure("network_transmit_packets_total", Counter, "Packets sent.", number!(net_tx_packets)),
    Figure("network_transmit_errors_total", Counter, "Errors while sending.", number!(net_tx_errors)),
    Figure("network_transmit_dropped_total", Counter, "Sent packets dropped.", number!(net_tx_dropped)),
];

/// Adds every figure of every container that has been sampled.
pub fn containers(all: &[Container], out: &mut Exposition) {
    for container in all {
        let Some(statistics) = &container.resource_statistics else { continue };
        let labels = labels(container);
        for Figure(name, kind, help, get) in FIGURES {
            if let Some(value) = get(statistics) {
                out.add(&format!("mesos_container_{name}"), *kind, help, labels.clone(), value);
            }
        }
        for disk in &statistics.disk_statistics {
            let Some(persistence) = &disk.persistence else { continue };
            let mut labels = labels.clone();
            labels.insert("volume_id", persistence.id.clone());
            for (name, help, value) in [
                ("mesos_container_volume_bytes", "Disk that a volume occupies.", disk.used_bytes),
                (
                    "mesos_container_volume_limit_bytes",
                    "Disk that a volume may occupy.",
                    disk.limit_bytes,
                ),
            ] {
                if let Some(value) = value {
                    out.add(name, Gauge, help, labels.clone(), value as f64);
                }
            }
        }
    }
}

/// Adds what calls to isolators took, by isolator and call.
pub fn isolators(calls: &BTreeMap<(&'static str, &'static str), Calls>, out: &mut Exposition) {
    for ((isolator, call), calls) in calls {
        let labels =
            Labels::from([("isolator", (*isolator).to_owned()), ("call", (*call).to_owned())]);
        for (name, kind, help, value) in [
            ("calls_total", Counter, "Calls that have ended.", calls.count as f64),
            ("call_failures_total", Counter, "Calls that failed.", calls.failures as f64),
            ("call_seconds_total", Counter, "Time of all calls.", calls.time.as_secs_f64()),
            ("call_seconds_max", Gauge, "Time of the slowest.", calls.slowest.as_secs_f64()),
        ] {
            out.add(&format!("mesos_isolator_{name}"), kind, help, labels.clone(), value);
        }
    }
}

/// Adds the GPUs that are handed out, with the container that has each.
pub fn gpus(all: &[Gpu], out: &mut Exposition) {
    for gpu in all {
        let mut labels = Labels::from([("gpu", gpu.minor.to_string())]);
        let given = f64::from(u8::from(gpu.container.is_some()));
        labels.extend(gpu.container.clone().map(|id| ("container_id", id)));
        let usage = gpu.usage;
        for (name, help, value) in [
            ("allocated", "Whether a container has it.", Some(given)),
            (
                "utilization_ratio",
                "Part of the time in which it computed.",
                usage.percent.map(|percent| f64::from(percent) / 100.0),
            ),
            ("memory_bytes", "Its memory in use.", usage.memory_used.map(|bytes| bytes as f64)),
            ("memory_total_bytes", "Its memory.", usage.memory_total.map(|bytes| bytes as f64)),
        ] {
            if let Some(value) = value {
                out.add(&format!("mesos_gpu_{name}"), Gauge, help, labels.clone(), value);
            }
        }
    }
}

/// Which container: a nested one by its whole id, parents first.
fn labels(container: &Container) -> Labels {
    let known = container.container_status.as_ref().and_then(|s| s.container_id.as_ref());
    let id = known.unwrap_or(&container.container_id).to_string();
    let mut labels = Labels::from([("container_id", id)]);
    if let Some(framework) = &container.framework_id {
        labels.insert("framework_id", framework.value.clone());
    }
    if let Some(executor) = &container.executor_id {
        labels.insert("executor_id", executor.value.clone());
    }
    labels
}

#[cfg(test)]
mod tests {
    use mesos::resource::disk_info::Persistence;
    use mesos::{ContainerId, ContainerStatus, DiskStatistics, ExecutorId, FrameworkId};

    use super::*;
    use crate::daemon::prometheus::tests::read;

    #[test]
    fn containers_become_families() {
        let persistence = Some(Persistence { id: "v".into(), principal: None });
        let statistics = ResourceStatistics {
            cpus_user_time_secs: Some(1.25),
            mem_rss_bytes: Some(4096),
            disk_statistics: vec![
                DiskStatistics {
                    persistence,
                    used_bytes: Some(7),
                    limit_bytes: Some(8),
                    ..Default::default()
                },
                DiskStatistics { used_bytes: Some(1), ..Default::default() },
            ],
            ..ResourceStatistics::default()
        };
        let parent = ContainerId { value: "p".into(), parent: None };
        let nested = ContainerId { value: "n".into(), parent: Some(Box::new(parent.clone())) };
        let of_executor = Container {
            framework_id: Some(FrameworkId { value: "f".into() }),
            executor_id: Some(ExecutorId { value: "say \"hi\"".into() }),
            container_id: parent,
            resource_statistics: Some(statistics.clone()),
            ..Container::default()
        };
        let inside = Container {
            container_id: ContainerId { value: "n".into(), parent: None },
            container_status: Some(ContainerStatus {
                container_id: Some(nested),
                ..ContainerStatus::default()
            }),
            resource_statistics: Some(ResourceStatistics {
                processes: Some(2),
                ..ResourceStatistics::default()
            }),
            ..Container::default()
        };
        let mut out = Exposition::default();
        containers(&[of_executor, inside, Container::default()], &mut out);
        let (samples, types) = read(&out.render());
        let labels = "container_id=\"p\",executor_id=\"say \\\"hi\\\"\",framework_id=\"f\"";
        let rows = [
            (format!("mesos_container_cpu_user_seconds_total{{{labels}}}"), 1.25),
            (format!("mesos_container_memory_rss_bytes{{{labels}}}"), 4096.0),
            ("mesos_container_processes{container_id=\"p.n\"}".to_owned(), 2.0),
            (format!("mesos_container_volume_bytes{{{labels},volume_id=\"v\"}}"), 7.0),
            (format!("mesos_container_volume_limit_bytes{{{labels},volume_id=\"v\"}}"), 8.0),
        ];
        assert_eq!(samples, rows.into());
        assert_eq!(types["mesos_container_cpu_user_seconds_total"], "counter");
        assert_eq!(types["mesos_container_memory_rss_bytes"], "gauge");
    }

    #[test]
    fn calls_to_isolators_become_families() {
        let seconds = std::time::Duration::from_secs_f64;
        let book = Calls { count: 3, failures: 1, time: seconds(1.5), slowest: seconds(1.0) };
        let mut out = Exposition::default();
        isolators(&BTreeMap::from([(("disk/du", "prepare"), book)]), &mut out);
        let (samples, types) = read(&out.render());
        let labels = "{call=\"prepare\",isolator=\"disk/du\"}";
        for (name, value) in [
            ("calls_total", 3.0),
            ("call_failures_total", 1.0),
            ("call_seconds_total", 1.5),
            ("call_seconds_max", 1.0),
        ] {
            assert_eq!(samples[&format!("mesos_isolator_{name}{labels}")], value, "{name}");
        }
        assert_eq!(types["mesos_isolator_call_seconds_max"], "gauge");
    }

    #[test]
    fn gpus_become_families() {
        let usage = kernel::nvml::Usage { percent: Some(50), ..kernel::nvml::Usage::default() };
        let free = Gpu { minor: 1, container: None, usage };
        let taken = Gpu { minor: 0, container: Some("c".into()), usage };
        let mut out = Exposition::default();
        gpus(&[taken, free], &mut out);
        let (samples, _) = read(&out.render());
        assert_eq!(samples["mesos_gpu_allocated{container_id=\"c\",gpu=\"0\"}"], 1.0);
        assert_eq!(samples["mesos_gpu_allocated{gpu=\"1\"}"], 0.0);
        assert_eq!(samples["mesos_gpu_utilization_ratio{gpu=\"1\"}"], 0.5);
        assert_eq!(samples.len(), 4, "what the driver does not tell is not there");
    }
}
