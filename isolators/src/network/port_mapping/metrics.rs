//! `port_mapping/*`: Mesos' names, and what is counted under them here.
//!
//! Mesos counts filters, of which it has many for each container; here a map says
//! whose a port is. Names of what there is no counterpart of stay at 0, for those
//! who watch them.

use std::sync::atomic::{AtomicU64, Ordering};

/// Mesos' counters: of which filters, and what happened to them.
const NAMES: [(&str, &[&str]); 15] = [
    ("adding_eth0_ip_filters", &EXIST),
    ("adding_lo_ip_filters", &EXIST),
    ("adding_veth_ip_filters", &EXIST),
    ("adding_veth_icmp_filters", &EXIST),
    ("adding_veth_arp_filters", &EXIST),
    ("adding_eth0_icmp_filters", &EXIST),
    ("adding_eth0_arp_filters", &EXIST),
    ("removing_eth0_ip_filters", &GONE),
    ("removing_lo_ip_filters", &GONE),
    ("removing_veth_ip_filters", &GONE),
    ("removing_eth0_icmp_filters", &GONE),
    ("removing_eth0_arp_filters", &GONE),
    ("updating_eth0_icmp_filters", &["errors", "already_exist", "do_not_exist"]),
    ("updating_eth0_arp_filters", &["errors", "already_exist", "do_not_exist"]),
    ("updating_container_ip_filters", &["errors"]),
];
const EXIST: [&str; 2] = ["errors", "already_exist"];
const GONE: [&str; 2] = ["errors", "do_not_exist"];

/// What went wrong since the agent started.
#[derive(Debug, Default)]
pub(super) struct Metrics {
    /// A container's interface, its programs or its addresses could not be made.
    pub(super) attach: AtomicU64,
    /// Ports could not be given to a new container.
    pub(super) assign: AtomicU64,
    /// A container's ports could not be taken back, or its interface not removed.
    pub(super) detach: AtomicU64,
    /// Ports or limits of a running container could not be changed.
    pub(super) update: AtomicU64,
}

impl Metrics {
    /// Counts a failure of `what`.
    pub(super) fn count<T, E>(what: &AtomicU64, result: Result<T, E>) -> Result<T, E> {
        if result.is_err() {
            what.fetch_add(1, Ordering::Relaxed);
        }
        result
    }

    /// Names and values. `per_cpu`: bytes per second of egress and ingress; 0: no such
    /// limit.
    #[allow(clippy::cast_precision_loss)]
    pub(super) fn figures(&self, per_cpu: (u64, u64)) -> Vec<(String, f64)> {
        let mut all = Vec::new();
        for (filters, kinds) in NAMES {
            for kind in kinds {
                let counter = match (filters, *kind) {
                    ("adding_veth_ip_filters", "errors") => Some(&self.attach),
                    ("adding_eth0_ip_filters", "errors") => Some(&self.assign),
                    ("removing_eth0_ip_filters", "errors") => Some(&self.detach),
                    ("updating_container_ip_filters", "errors") => Some(&self.update),
                    _ => None,
                };
                let value = counter.map_or(0, |counter| counter.load(Ordering::Relaxed));
                all.push((format!("port_mapping/{filters}_{kind}"), value as f64));
            }
        }
        all.push(("port_mapping/per_cpu_egress_rate_limit".into(), per_cpu.0 as f64));
        all.push(("port_mapping/per_cpu_ingress_rate_limit".into(), per_cpu.1 as f64));
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_are_counted_under_mesos_names() {
        let metrics = Metrics::default();
        let failed: Result<(), ()> = Metrics::count(&metrics.attach, Err(()));
        assert!(failed.is_err() && Metrics::count(&metrics.assign, Ok::<_, ()>(1)) == Ok(1));
        let figures = metrics.figures((0, 1000));
        assert_eq!(figures.len(), 33);
        let of = |name: &str| {
            let name = format!("port_mapping/{name}");
            figures.iter().find(|(has, _)| *has == name).map(|(_, value)| *value)
        };
        assert_eq!(of("adding_veth_ip_filters_errors"), Some(1.0));
        assert_eq!(of("adding_eth0_ip_filters_errors"), Some(0.0));
        assert_eq!(of("updating_eth0_arp_filters_do_not_exist"), Some(0.0));
        assert_eq!(of("per_cpu_ingress_rate_limit"), Some(1000.0));
    }
}
