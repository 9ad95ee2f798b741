//! What `/monitor/statistics` says of a container's network: texts and lists of the
//! kernel to Mesos' fields. Pure.

use kernel::netlink::traffic::{Queue, Rate};
use mesos::{ResourceStatistics, SnmpStatistics, TrafficControlStatistics};
use serde_json::{Map, Value};

use super::shaping::Limits;

/// Which way a queue leads, as Mesos names its figures.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Way {
    /// Out of the container.
    Egress,
    /// Into it.
    Ingress,
}

/// What the container may send and receive. What can be saved up is told where it may
/// leave faster than the rate.
pub(super) fn limits(limits: &Limits, statistics: &mut ResourceStatistics) {
    let rate = |limit: Option<Rate>| limit.map(|limit| limit.rate);
    let faster = |limit: Option<Rate>| limit.filter(|limit| limit.ceiling > limit.rate);
    let ceiling = |limit| faster(limit).map(|limit| limit.ceiling);
    let burst = |limit| faster(limit).and_then(|limit| limit.burst);
    let Limits { egress, ingress } = *limits;
    statistics.net_tx_rate_limit = rate(egress);
    statistics.net_tx_burst_rate_limit = ceiling(egress);
    statistics.net_tx_burst_size = burst(egress);
    statistics.net_rx_rate_limit = rate(ingress);
    statistics.net_rx_burst_rate_limit = ceiling(ingress);
    statistics.net_rx_burst_size = burst(ingress);
}

/// The figures of a limit's queues, those that are ours.
pub(super) fn queue(queue: &Queue, way: Way) -> Option<TrafficControlStatistics> {
    let id = match (queue.kind.as_str(), way) {
        ("htb", Way::Egress) => "bw_limit",
        ("fq_codel", Way::Egress) => "bloat_reduction",
        ("htb", Way::Ingress) => "ingress_bw_limit",
        ("fq_codel", Way::Ingress) => "ingress_bloat_reduction",
        _ => return None,
    };
    let wide = |figure: u32| Some(u64::from(figure));
    Some(TrafficControlStatistics {
        id: id.into(),
        backlog: wide(queue.backlog),
        bytes: Some(queue.bytes),
        drops: wide(queue.drops),
        overlimits: wide(queue.overlimits),
        packets: wide(queue.packets),
        qlen: wide(queue.length),
        ratebps: wide(queue.bytes_per_second),
        ratepps: wide(queue.packets_per_second),
        requeues: wide(queue.requeues),
    })
}

/// `/proc/<pid>/net/sockstat`: TCP sockets in use, and those that wait for late
/// packets.
pub(super) fn sockets(text: &str, statistics: &mut ResourceStatistics) {
    let line = text.lines().find_map(|line| line.strip_prefix("TCP:")).unwrap_or_default();
    let words: Vec<&str> = line.split_whitespace().collect();
    let value = |name: &str| {
        let pair = words.chunks_exact(2).find(|pair| pair[0] == name)?;
        pair[1].parse().ok()
    };
    statistics.net_tcp_active_connections = value("inuse");
    statistics.net_tcp_time_wait_connections = value("tw");
}

/// Percentiles of round-trip times in microseconds, by nearest rank, as Mesos takes
/// them; none without connections.
pub(super) fn round_trips(mut times: Vec<u32>, statistics: &mut ResourceStatistics) {
    times.sort_unstable();
    let at = |percent: usize| times.get(times.len() * percent / 100).map(|time| f64::from(*time));
    statistics.net_tcp_rtt_microsecs_p50 = at(50);
    statistics.net_tcp_rtt_microsecs_p90 = at(90);
    statistics.net_tcp_rtt_microsecs_p95 = at(95);
    statistics.net_tcp_rtt_microsecs_p99 = at(99);
}

/// `/proc/<pid>/net/snmp`: for each protocol a line of names and one of numbers.
/// The names are those of Mesos' fields; newer ones are left out.
pub(super) fn snmp(text: &str) -> Option<SnmpStatistics> {
    let mut all = Map::new();
    let lines: Vec<&str> = text.lines().collect();
    for pair in lines.chunks_exact(2) {
        let (protocol, names) = pair[0].split_once(':')?;
        let (_, numbers) = pair[1].split_once(':')?;
        let known: &[&str] = match protocol {
            "Ip" => &IP,
            "Icmp" => &[],
            "Tcp" => &TCP,
            "Udp" => &UDP,
            _ => continue,
        };
        // Of ICMP's names Mesos has all but these.
        let wanted = |name: &str| match protocol {
            "Icmp" => !["OutRateLimitGlobal", "OutRateLimitHost", "OutCsumErrors"].contains(&name),
            _ => known.contains(&name),
        };
        let fields = names.split_whitespace().zip(numbers.split_whitespace());
        let fields = fields.filter(|(name, _)| wanted(name));
        let field = |(name, number): (&str, &str)| {
            Some((name.to_owned(), Value::from(number.parse::<i64>().ok()?)))
        };
        let fields: Map<String, Value> = fields.filter_map(field).collect();
        all.insert(format!("{}_stats", protocol.to_lowercase()), Value::Object(fields));
    }
    mesos::json::from_json(Value::Object(all).to_string().as_bytes()).ok()
}

const IP: [&str; 19] = [
    "Forwarding",
    "DefaultTTL",
    "InReceives",
    "InHdrErrors",
    "InAddrErrors",
    "ForwDatagrams",
    "InUnknownProtos",
    "InDiscards",
    "InDelivers",
    "OutRequests",
    "OutDiscards",
    "OutNoRoutes",
    "ReasmTimeout",
    "ReasmReqds",
    "ReasmOKs",
    "ReasmFails",
    "FragOKs",
    "FragFails",
    "FragCreates",
];
const TCP: [&str; 15] = [
    "RtoAlgorithm",
    "RtoMin",
    "RtoMax",
    "MaxConn",
    "ActiveOpens",
    "PassiveOpens",
    "AttemptFails",
    "EstabResets",
    "CurrEstab",
    "InSegs",
    "OutSegs",
    "RetransSegs",
    "InErrs",
    "OutRsts",
    "InCsumErrors",
];
const UDP: [&str; 8] = [
    "InDatagrams",
    "NoPorts",
    "InErrors",
    "OutDatagrams",
    "RcvbufErrors",
    "SndbufErrors",
    "InCsumErrors",
    "IgnoredMulti",
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn snmp_counters_have_mesos_names() {
        let text = "Ip: Forwarding DefaultTTL InReceives OutTransmits\nIp: 1 64 12345 7\n\
                    Icmp: InMsgs OutRateLimitGlobal OutEchoReps\nIcmp: 5 6 7\n\
                    IcmpMsg: InType3\nIcmpMsg: 2\n\
                    Tcp: RtoMin MaxConn CurrEstab\nTcp: 200 -1 3\n\
                    Udp: InDatagrams IgnoredMulti MemErrors\nUdp: 9 1 0\n\
                    UdpLite: InDatagrams\nUdpLite: 4\n";
        let found = snmp(text).expect("counters");
        let ip = found.ip_stats.expect("ip");
        assert_eq!((ip.forwarding, ip.in_receives), (Some(1), Some(12345)));
        let icmp = found.icmp_stats.expect("icmp");
        assert_eq!((icmp.in_msgs, icmp.out_echo_reps), (Some(5), Some(7)));
        assert_eq!(found.tcp_stats.expect("tcp").max_conn, Some(-1));
        assert_eq!(found.udp_stats.expect("udp").ignored_multi, Some(1));
        assert_eq!(snmp("rubbish\nrubbish\n"), None);
        // What this kernel has.
        let own = std::fs::read_to_string("/proc/self/net/snmp").expect("counters");
        let own = snmp(&own).expect("counters");
        assert!(own.ip_stats.is_some_and(|ip| ip.default_ttl.is_some()), "names are known");
        assert!(own.icmp_stats.is_some() && own.tcp_stats.is_some() && own.udp_stats.is_some());
    }

    #[test]
    fn sockets_and_round_trips() {
        let mut statistics = ResourceStatistics::default();
        let text =
            "sockets: used 9\nTCP: inuse 4 orphan 0 tw 2 alloc 5 mem 1\nUDP: inuse 7 mem 0\n";
        sockets(text, &mut statistics);
        assert_eq!(statistics.net_tcp_active_connections, Some(4.0));
        assert_eq!(statistics.net_tcp_time_wait_connections, Some(2.0));
        round_trips(Vec::new(), &mut statistics);
        assert_eq!(statistics.net_tcp_rtt_microsecs_p50, None);
        round_trips((1..=100).rev().collect(), &mut statistics);
        assert_eq!(statistics.net_tcp_rtt_microsecs_p50, Some(51.0));
        assert_eq!(statistics.net_tcp_rtt_microsecs_p99, Some(100.0));
    }

    #[test]
    fn limits_are_told_with_what_can_be_saved_up() {
        let mut found = ResourceStatistics::default();
        let egress = Rate { rate: 5, ceiling: 9, burst: Some(100) };
        let ingress = Rate { rate: 7, ceiling: 7, burst: None };
        limits(&Limits { egress: Some(egress), ingress: Some(ingress) }, &mut found);
        let tx = (found.net_tx_rate_limit, found.net_tx_burst_rate_limit, found.net_tx_burst_size);
        assert_eq!(tx, (Some(5), Some(9), Some(100)));
        let rx = (found.net_rx_rate_limit, found.net_rx_burst_rate_limit, found.net_rx_burst_size);
        assert_eq!(rx, (Some(7), None, None));
    }

    #[test]
    fn queues_have_mesos_names() {
        let of = |kind: &str, way| {
            let found = Queue { kind: kind.into(), drops: 3, bytes: 9, ..Queue::default() };
            queue(&found, way).map(|said| (said.id, said.drops, said.bytes))
        };
        assert_eq!(of("htb", Way::Egress), Some(("bw_limit".into(), Some(3), Some(9))));
        let wanted = Some(("ingress_bloat_reduction".into(), Some(3), Some(9)));
        assert_eq!(of("fq_codel", Way::Ingress), wanted);
        assert_eq!(of("noqueue", Way::Egress), None);
    }
}
