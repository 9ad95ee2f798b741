//! Limits of `network/port_mapping`: rates, bursts, flows, and what is told of them.

use isolators::network::port_mapping::settings::{PerCpu, Sampling, Shape};
use kernel::netlink::traffic::{self, Rate};
use kernel::netlink::{Family, Socket, link};
use mesos::ResourceStatistics;

use super::*;

/// A whole frame, and what of it is ours.
const HEADERS: f64 = 1514.0 / 1448.0;
const KB: u64 = 1 << 10;
const MB: u64 = 1 << 20;

fn fixed(rate: u64) -> Shape {
    Shape { fixed: Some(rate), ..Shape::default() }
}

async fn figures_of(native: &Native, id: &str) -> ResourceStatistics {
    // Answered by its task, which has told the sampler of it by then.
    native.status(&top(id)).await.expect("it runs");
    let statistics = native.statistics().await;
    let found = statistics.iter().find(|(has, _)| has.value == id);
    found.unwrap_or_else(|| panic!("figures of {id}")).1.clone()
}

/// A container that answers, limited as the place says.
async fn start_echo(native: &Native, place: &Place) {
    native.recover(Vec::new()).await.expect("recovery of nothing");
    let request = container(place, "echo", &[31_000], &["echo", "tcp", "0.0.0.0:31000"]);
    native.launch(request).await.expect("launch");
    place.wait_output("echo", "ready").await;
}

/// Seconds until all bytes were in the container and back.
fn transfer(outside: &Outside, bytes: u64) -> f64 {
    let said = outside.probe(&["transfer", "10.77.0.2:31000", &bytes.to_string()]);
    said.parse().unwrap_or_else(|_| panic!("no seconds: {said}"))
}

#[test]
fn rates_hold_both_ways() {
    require!(root, cgroup);
    let test = "port_mapping::shaping::rates_hold_both_ways";
    if !have_probe(test) || !in_a_network(test) {
        return;
    }
    let outside = Outside::start();
    let (rate, bytes) = (MB, 2 * MB);
    for (way, egress, ingress) in [("out", rate, 0), ("in", 0, rate)] {
        let mut place = place(&format!("mapping-rate-{way}"));
        let mapping = &mut place.config.isolators.port_mapping;
        (mapping.egress, mapping.ingress) = (fixed(egress), fixed(ingress));
        (mapping.summary, mapping.details, mapping.snmp) = (true, true, true);
        in_a_life(async {
            let native = place.start();
            start_echo(&native, &place).await;
            let mut sent = 0;
            let mut measured = Vec::new();
            // A busy machine may be slower than the limit, now and then; never faster.
            while !measured.iter().any(|ratio| *ratio >= 0.9) && measured.len() < 10 {
                let seconds = transfer(&outside, bytes);
                measured.push(bytes as f64 * HEADERS / seconds / rate as f64);
                sent += bytes;
            }
            eprintln!("{way}: {measured:.3?} of the limit");
            assert!(measured.iter().all(|ratio| *ratio <= 1.1), "{way}: {measured:?}");
            assert!(measured.iter().any(|ratio| *ratio >= 0.9), "{way}: {measured:?}");
            let figures = figures_of(&native, "echo").await;
            assert_eq!(figures.net_tx_rate_limit.unwrap_or(0), egress);
            assert_eq!(figures.net_rx_rate_limit.unwrap_or(0), ingress);
            // Counted is what was really sent, and its headers.
            for (what, counted) in [("rx", figures.net_rx_bytes), ("tx", figures.net_tx_bytes)] {
                let ratio = counted.unwrap_or(0) as f64 / sent as f64;
                assert!((1.0..=1.2).contains(&ratio), "{what}: {ratio:.2} of what was sent");
            }
            let queue = if egress > 0 { "bw_limit" } else { "ingress_bw_limit" };
            let queues = &figures.net_traffic_control_statistics;
            let found = queues.iter().find(|figures| figures.id == queue).expect("a queue");
            assert!(found.bytes.unwrap_or(0) >= sent, "{found:?}");
            assert!(figures.net_tcp_active_connections >= Some(1.0), "it listens");
            let snmp = figures.net_snmp_statistics.as_ref().expect("counters");
            let segments = snmp.tcp_stats.as_ref().and_then(|tcp| tcp.in_segs);
            assert!(segments > Some(10), "{snmp:?}");
            native.destroy(&top("echo"), None).await.expect("destroyed");
        });
    }
}

#[test]
fn what_is_saved_up_leaves_faster_and_rates_are_measured() {
    require!(root, cgroup);
    let test = "port_mapping::shaping::what_is_saved_up_leaves_faster_and_rates_are_measured";
    if !have_probe(test) || !in_a_network(test) {
        return;
    }
    let outside = Outside::start();
    let mut place = place("mapping-burst");
    let mapping = &mut place.config.isolators.port_mapping;
    let (rate, ceiling, burst) = (256 * KB, 8 * MB, 2 * MB);
    let shape = Shape { ceiling: Some(ceiling), burst: Some(burst), ..fixed(rate) };
    (mapping.egress, mapping.ingress) = (shape, Shape { fixed: Some(ceiling), ..shape });
    mapping.rates =
        Some(Sampling { window: Duration::from_secs(600), interval: Duration::from_millis(20) });
    in_a_life(async {
        let native = place.start();
        start_echo(&native, &place).await;
        let (part, begun) = (3 * burst / 4, Instant::now());
        // By the rate it would take 6 seconds.
        let seconds = transfer(&outside, part);
        assert!(seconds < 4.0, "{seconds} s for what was saved up");
        // Of the rest, what is not saved up any more leaves by the rate.
        transfer(&outside, part);
        let allowed = burst as f64 + begun.elapsed().as_secs_f64() * rate as f64;
        assert!(2.0 * part as f64 <= allowed * 1.1, "only {allowed} bytes were saved up");

        let figures = figures_of(&native, "echo").await;
        assert_eq!(figures.net_tx_rate_limit, Some(rate));
        assert_eq!(figures.net_tx_burst_rate_limit, Some(ceiling));
        assert_eq!(figures.net_tx_burst_size, Some(burst));
        // A ceiling that is no higher than the rate is none.
        assert_eq!((figures.net_rx_rate_limit, figures.net_rx_burst_size), (Some(ceiling), None));
        let start = Instant::now();
        loop {
            let figures = figures_of(&native, "echo").await;
            let rates = figures.net_rate_statistics.as_ref().expect("rates");
            assert_eq!(rates.sampling_interval_secs, Some(0.02));
            assert_eq!(rates.sampling_window_secs, Some(600.0));
            let sent = rates.tx_rate.as_ref();
            let (most, samples) = (sent.and_then(|s| s.max), sent.and_then(|s| s.samples));
            if samples >= Some(20) && most > Some(rate / 2) {
                let packets = rates.rx_packet_rate.as_ref().and_then(|packets| packets.max);
                assert!(packets > Some(0), "{rates:?}");
                assert!(most <= Some(64 * MB), "{rates:?}");
                break;
            }
            assert!(start.elapsed() < PATIENCE, "{rates:?}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        native.destroy(&top("echo"), None).await.expect("destroyed");
    });
}

/// The container's interface at the host's end, and its limit there.
fn kernels_limit() -> Option<Rate> {
    let mut socket = Socket::open(Family::Route).expect("a socket");
    let all = link::list(&mut socket).expect("interfaces");
    let ours = all.iter().find(|link| link.name.starts_with("mesos")).expect("a container's");
    traffic::limit(&mut socket, ours.index).expect("its limit")
}

#[test]
fn rates_follow_cpus_and_outlive_the_agent() {
    require!(root, cgroup);
    let test = "port_mapping::shaping::rates_follow_cpus_and_outlive_the_agent";
    if !have_probe(test) || !in_a_network(test) {
        return;
    }
    let _outside = Outside::start();
    let mut place = place("mapping-cpus");
    let mapping = &mut place.config.isolators.port_mapping;
    let per_cpu = |rate| Shape {
        per_cpu: Some(PerCpu::Bytes(rate)),
        minimum: Some(300 * KB),
        maximum: Some(5 * MB),
        ..Shape::default()
    };
    (mapping.egress, mapping.ingress) = (per_cpu(MB), per_cpu(2 * MB));
    let request = container(&place, "c", &[], &["sleep", "1000"]);
    let with = |cpus: f64| resources(cpus, 64.0);
    let rates =
        |figures: &ResourceStatistics| (figures.net_tx_rate_limit, figures.net_rx_rate_limit);
    let plain = |rate| Some(Rate { rate, ceiling: rate, burst: None });
    let pid = in_a_life(async {
        let native = place.start();
        native.recover(Vec::new()).await.expect("recovery of nothing");
        let pid = native.launch(request.clone()).await.expect("launch").pid;
        // A tenth of a cpu.
        let figures = figures_of(&native, "c").await;
        assert_eq!(rates(&figures), (Some(300 * KB), Some(300 * KB)));
        assert_eq!(kernels_limit(), plain(300 * KB));
        native.update(&top("c"), with(2.5), Default::default()).await.expect("update");
        assert_eq!(rates(&figures_of(&native, "c").await), (Some(2 * MB), Some(4 * MB)));
        assert_eq!(kernels_limit(), plain(4 * MB));
        native.update(&top("c"), with(3.0), Default::default()).await.expect("update");
        assert_eq!(rates(&figures_of(&native, "c").await), (Some(3 * MB), Some(5 * MB)));
        let metrics = native.isolator_figures();
        let of = |name: &str| metrics.iter().find(|(has, _)| has == name).map(|(_, value)| *value);
        let wanted = Some((2 * MB) as f64);
        assert_eq!(of("port_mapping/per_cpu_ingress_rate_limit"), wanted);
        assert_eq!(of("port_mapping/adding_veth_ip_filters_errors"), Some(0.0));
        pid
    });
    // An agent without limits takes none away until it knows better.
    let mapping = &mut place.config.isolators.port_mapping;
    (mapping.egress, mapping.ingress) = (Shape::default(), Shape::default());
    let mut executors = known(&request, pid);
    executors.request.task = None;
    in_a_life(async {
        let native = place.start();
        native.recover(vec![executors.clone()]).await.expect("recover");
        assert_eq!(rates(&figures_of(&native, "c").await), (Some(3 * MB), Some(5 * MB)));
        native.update(&top("c"), with(1.0), Default::default()).await.expect("update");
        assert_eq!(rates(&figures_of(&native, "c").await), (None, None));
        assert_eq!(kernels_limit(), None);
    });
    // Who was not limited is not, if the flag says so; a task's rates are known at once.
    let mapping = &mut place.config.isolators.port_mapping;
    (mapping.egress, mapping.ingress) = (per_cpu(MB), per_cpu(MB));
    mapping.ingress_existing = false;
    in_a_life(async {
        let native = place.start();
        native.recover(vec![executors]).await.expect("recover");
        native.update(&top("c"), with(1.0), Default::default()).await.expect("update");
        assert_eq!(rates(&figures_of(&native, "c").await), (Some(MB), None));
    });
    place.config.isolators.port_mapping.ingress_existing = true;
    in_a_life(async {
        let native = place.start();
        native.recover(vec![known(&request, pid)]).await.expect("recover");
        assert_eq!(rates(&figures_of(&native, "c").await), (Some(300 * KB), Some(300 * KB)));
        native.destroy(&top("c"), None).await.expect("destroyed");
    });
    assert_eq!(interfaces(), Vec::<String>::new());
}

#[test]
fn what_containers_send_has_flows_of_its_own() {
    // Other networks than the first do not say which queues the kernel has.
    if std::env::var_os(INSIDE).is_none() {
        require!(root, cgroup, fq_codel);
    }
    let test = "port_mapping::shaping::what_containers_send_has_flows_of_its_own";
    if !have_probe(test) || !in_a_network(test) {
        return;
    }
    let outside = Outside::start();
    let mut socket = Socket::open(Family::Route).expect("a socket");
    let public = link::find(&mut socket, "eth0").expect("interfaces").expect("eth0");
    // The operator's own queue, so slow that everything waits in what is below it.
    let slow = Rate { rate: 20 * KB, ceiling: 20 * KB, burst: None };
    let parent = 0x1_0001;
    traffic::set_limit(&mut socket, public.index, slow).expect("a queue");
    let mut place = place("mapping-flows");
    place.config.isolators.port_mapping.flows = Some(traffic::ROOT);
    let error = Native::new(place.config.clone()).err().map(|e| chain(&e)).expect("refused");
    assert!(error.contains("there is a queue of kind htb"), "{error}");
    place.config.isolators.port_mapping.flows = Some(parent);
    let _answering = outside.answers("tcp", "10.77.0.1:7000");
    let flow = |figures: &ResourceStatistics| {
        let block = figures.net_ephemeral_ports.as_ref().expect("a block");
        0x2_0000 | (3 + u32::try_from(block.begin).expect("a port") / 64)
    };
    in_a_life(async {
        let native = place.start();
        native.recover(Vec::new()).await.expect("recovery of nothing");
        let sending = ["transfer", "10.77.0.1:7000", "10000000"];
        for id in ["a", "b"] {
            native.launch(container(&place, id, &[], &sending)).await.expect("launch");
        }
        let host = Command::new(crate::probe()).args(sending).spawn().expect("the probe");
        let _host = Answering(host);
        let mut wanted = vec![parent, 0x2_0001];
        for id in ["a", "b"] {
            wanted.push(flow(&figures_of(&native, id).await));
        }
        wanted.sort_unstable();
        let start = Instant::now();
        let mut seen = std::collections::BTreeSet::new();
        loop {
            seen.extend(traffic::classes(&mut socket, public.index).expect("classes"));
            let all: Vec<u32> = seen.iter().copied().collect();
            if all.len() >= wanted.len() {
                // The host has one flow, whatever it sends, and so has each container.
                assert_eq!(all, wanted);
                break;
            }
            assert!(start.elapsed() < PATIENCE, "{all:x?} of {wanted:x?}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        for (id, _) in native.containers() {
            native.destroy(&id, None).await.expect("destroyed");
        }
    });
}

fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(error) = next {
        text.push_str(&format!(": {error}"));
        next = error.source();
    }
    text
}
