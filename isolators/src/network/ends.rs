//! Figures of the host's ends of containers' interfaces. Pure.

use kernel::netlink::link::Counters;
use mesos::ResourceStatistics;

/// Counters of the host's end: what it sends is what the container receives.
pub(super) fn counters(ours: &Counters, statistics: &mut ResourceStatistics) {
    statistics.net_rx_packets = Some(ours.tx_packets);
    statistics.net_rx_bytes = Some(ours.tx_bytes);
    statistics.net_rx_errors = Some(ours.tx_errors);
    statistics.net_rx_dropped = Some(ours.tx_dropped);
    statistics.net_tx_packets = Some(ours.rx_packets);
    statistics.net_tx_bytes = Some(ours.rx_bytes);
    statistics.net_tx_errors = Some(ours.rx_errors);
    statistics.net_tx_dropped = Some(ours.rx_dropped);
}
