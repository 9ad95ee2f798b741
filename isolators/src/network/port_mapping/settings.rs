//! What the flags say about port mapping, and which ephemeral ports are whose. Pure.

use std::collections::BTreeSet;

use mesos::resources::Ranges;

pub use super::limits::{PerCpu, Shape};
pub use super::rates::Sampling;

/// Flags of `network/port_mapping`, with Mesos' names and defaults.
#[derive(Debug, Clone)]
pub struct Settings {
    /// `--eth0_name`: the public interface; `None`: that of the default route.
    pub public: Option<String>,
    /// `--lo_name`: the loopback interface.
    pub loopback: String,
    /// The resource `ports` of the agent.
    pub ports: Ranges,
    /// The resource `ephemeral_ports` of the agent.
    pub ephemeral: Ranges,
    /// `--ephemeral_ports_per_container`.
    pub per_container: u32,
    /// What containers may send: `--egress_*`.
    pub egress: Shape,
    /// What they may receive: `--ingress_*`.
    pub ingress: Shape,
    /// `--ingress_isolate_existing_containers`: also those that were made without a
    /// limit.
    pub ingress_existing: bool,
    /// `--network_link_speed` in bytes per second.
    pub link_speed: Option<u64>,
    /// The resource `cpus` of the agent.
    pub cpus: f64,
    /// `--egress_unique_flow_per_container`: where the fair queues are,
    /// `--egress_flow_classifier_parent`.
    pub flows: Option<u32>,
    /// `--network_enable_rate_statistics`.
    pub rates: Option<Sampling>,
    /// `--network_enable_socket_statistics_summary`: how many TCP sockets.
    pub summary: bool,
    /// `--network_enable_socket_statistics_details`: their round-trip times.
    pub details: bool,
    /// `--network_enable_snmp_statistics`.
    pub snmp: bool,
}

impl Default for Settings {
    fn default() -> Settings {
        Settings {
            public: None,
            loopback: "lo".into(),
            ports: Ranges::default(),
            ephemeral: Ranges::default(),
            per_container: 1024,
            egress: Shape::default(),
            ingress: Shape::default(),
            ingress_existing: true,
            link_speed: None,
            cpus: 0.0,
            flows: None,
            rates: None,
            summary: false,
            details: false,
            snmp: false,
        }
    }
}

impl Settings {
    /// Checks the ports against each other and against the host's own, `host`.
    ///
    /// # Errors
    /// What is wrong, for people.
    pub fn check(&self, host: (u16, u16)) -> Result<(), String> {
        let n = self.per_container;
        if !n.is_power_of_two() || !(16..=32768).contains(&n) {
            return Err(format!(
                "--ephemeral_ports_per_container={n}: it must be a power of 2 from 16 to 32768"
            ));
        }
        if self.ephemeral.is_empty() {
            return Err(
                "--resources has no 'ephemeral_ports', for example ephemeral_ports:[32768-57343]"
                    .to_owned(),
            );
        }
        let overlap = |what: &str, other: Ranges| {
            let both = self.ephemeral.difference(&self.ephemeral.difference(&other));
            match both.is_empty() {
                true => Ok(()),
                false => Err(format!("the ephemeral_ports {both} of --resources are also {what}")),
            }
        };
        overlap("among its ports", self.ports.clone())?;
        overlap("well-known ports", Ranges::new([(0, 1023)]))?;
        overlap(
            "in net.ipv4.ip_local_port_range, the host's own",
            Ranges::new([(u64::from(host.0), u64::from(host.1))]),
        )?;
        if let Some(rates) = &self.rates {
            rates.check()?;
        }
        match Blocks::new(&self.ephemeral, n).free.is_empty() {
            true => {
                Err(format!("no {n} ephemeral_ports of --resources begin at a multiple of {n}"))
            }
            false => Ok(()),
        }
    }
}

/// `--egress_flow_classifier_parent`: `root`, or a class as `tc` writes it (`1:2`).
///
/// # Errors
/// What was expected, for people.
pub fn parse_parent(text: &str) -> Result<u32, String> {
    if text == "root" {
        return Ok(kernel::netlink::traffic::ROOT);
    }
    let number = |part: &str| u16::from_str_radix(part, 16).ok();
    let halves = text.split_once(':');
    let halves = halves.and_then(|(major, minor)| Some((number(major)?, number(minor)?)));
    match halves {
        Some((major, minor)) if major > 0 => Ok(u32::from(major) << 16 | u32::from(minor)),
        _ => Err("'root', or a class such as 1:2, in hexadecimal numbers as tc has them".into()),
    }
}

/// Blocks of ephemeral ports, by their first port.
#[derive(Debug)]
pub struct Blocks {
    size: u32,
    free: BTreeSet<u16>,
}

impl Blocks {
    /// All blocks of that size in `ports` that begin at a multiple of it are free.
    #[must_use]
    pub fn new(ports: &Ranges, size: u32) -> Blocks {
        let step = u64::from(size.max(1));
        let starts = ports.iter().flat_map(|(first, last)| {
            let mut next = first.next_multiple_of(step);
            std::iter::from_fn(move || {
                let start = (next + step - 1 <= last).then_some(next)?;
                next += step;
                u16::try_from(start).ok()
            })
        });
        Blocks { size, free: starts.collect() }
    }

    /// Takes the lowest free block: its first and last port.
    pub fn allocate(&mut self) -> Option<(u16, u16)> {
        let first = self.free.pop_first()?;
        Some((first, self.last(first)))
    }

    /// Takes the block that a container has already; whether it was free.
    pub fn adopt(&mut self, block: (u16, u16)) -> bool {
        block.1 == self.last(block.0) && self.free.remove(&block.0)
    }

    /// Gives a block back.
    pub fn release(&mut self, block: (u16, u16)) {
        self.free.insert(block.0);
    }

    fn last(&self, first: u16) -> u16 {
        u16::try_from(u32::from(first) + self.size - 1).unwrap_or(u16::MAX)
    }
}

/// The mark of a container's interface: whose it is, and its block.
#[must_use]
pub fn mark(root: &str, container: &str, block: (u16, u16)) -> String {
    format!("bulkhead {root} {container} {}-{}", block.0, block.1)
}

/// The container and the block of a mark, if it is of this `root`.
#[must_use]
pub fn read_mark(mark: &str, root: &str) -> Option<(String, (u16, u16))> {
    let mut words = mark.strip_prefix("bulkhead ")?.strip_prefix(root)?.split_whitespace();
    let container = words.next()?.to_owned();
    let (first, last) = words.next()?.split_once('-')?;
    Some((container, (first.parse().ok()?, last.parse().ok()?)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(ephemeral: &[(u64, u64)]) -> Settings {
        Settings {
            ephemeral: Ranges::new(ephemeral.iter().copied()),
            ports: Ranges::new([(31000, 32000)]),
            ..Settings::default()
        }
    }

    #[test]
    fn ports_that_cannot_work_are_named() {
        let host = (57_345, 61_000);
        assert_eq!(settings(&[(32768, 57343)]).check(host), Ok(()));
        for (ephemeral, words) in [
            (&[][..], "no 'ephemeral_ports'"),
            (&[(31500, 40000)], "[31500-32000] of --resources are also among its ports"),
            (&[(1000, 4000)], "well-known"),
            (
                &[(50000, 60000)],
                "[57345-60000] of --resources are also in net.ipv4.ip_local_port_range",
            ),
            (&[(33000, 33500)], "begin at a multiple of 1024"),
        ] {
            let error = settings(ephemeral).check(host).unwrap_err();
            assert!(error.contains(words), "{error}");
        }
        for per_container in [0, 8, 1000, 65536] {
            let odd = Settings { per_container, ..settings(&[(32768, 57343)]) };
            assert!(odd.check(host).unwrap_err().contains("power of 2"));
        }
    }

    #[test]
    fn blocks_are_aligned_and_given_once() {
        let mut blocks = Blocks::new(&Ranges::new([(1000, 1040), (2048, 2080)]), 16);
        assert!(blocks.adopt((1008, 1023)));
        assert!(!blocks.adopt((1008, 1023)), "twice");
        assert!(!blocks.adopt((2048, 2079)), "of another size");
        assert!(!blocks.adopt((4096, 4111)), "not ours");
        assert_eq!(blocks.allocate(), Some((1024, 1039)));
        assert_eq!(blocks.allocate(), Some((2048, 2063)));
        assert_eq!(blocks.allocate(), Some((2064, 2079)));
        assert_eq!(blocks.allocate(), None);
        blocks.release((1008, 1023));
        assert_eq!(blocks.allocate(), Some((1008, 1023)));
        let top = Blocks::new(&Ranges::new([(65520, 65535)]), 16).allocate();
        assert_eq!(top, Some((65520, 65535)));
    }

    #[test]
    fn parents_of_queues_are_written_as_tc_does() {
        assert_eq!(parse_parent("root"), Ok(0xffff_ffff));
        assert_eq!(parse_parent("1:2"), Ok(0x1_0002));
        assert_eq!(parse_parent("8001:1f"), Ok(0x8001_001f));
        for wrong in ["", "1", ":1", "1:", "0:1", "x:1", "10000:1", "1:2:3"] {
            assert!(parse_parent(wrong).unwrap_err().contains("'root'"), "{wrong}");
        }
    }

    #[test]
    fn marks_are_read_back() {
        let text = mark("mesos", "a-1", (32768, 33791));
        assert_eq!(read_mark(&text, "mesos"), Some(("a-1".into(), (32768, 33791))));
        for other in ["", "bulkhead other a 1-2", "bulkhead mesos a", "bulkhead mesos a 1-x", "lan"]
        {
            assert_eq!(read_mark(other, "mesos"), None, "{other}");
        }
    }
}
