//! The port mapper's part of nftables: a table of its own, as text for `nft` and as it
//! comes back. Pure.
//!
//! Ports are elements of maps, not rules: a packet is looked up once, however many
//! containers there are, and an element belongs to one container, which its comment names.

use std::net::IpAddr;

use super::conf::{Conf, Mapping};
use crate::network::nft::Element;

/// Our table, in the family `inet`.
pub const TABLE: &str = "bulkhead_ports";

/// Table, maps and chains of a configuration; those that are there stay.
#[must_use]
pub fn ground(conf: &Conf) -> String {
    let chain = &conf.chain;
    let mut text = format!("add table inet {TABLE}\n");
    let devices: Vec<String> = conf.excluded.iter().map(|name| format!("\"{name}\"")).collect();
    let unless = match devices.is_empty() {
        true => String::new(),
        false => format!("iifname != {{ {} }} ", devices.join(", ")),
    };
    let mut add = |line: &str| text.push_str(&format!("add {line}\n"));
    for (number, family) in [("4", "ipv4_addr"), ("6", "ipv6_addr")] {
        add(&format!(
            "map inet {TABLE} {chain}-to{number} {{ type inet_proto . inet_service : {family} . inet_service; }}"
        ));
        add(&format!("set inet {TABLE} {chain}-ip{number} {{ type {family}; }}"));
    }
    let hooks = [
        ("pre", "prerouting", "dstnat"),
        ("out", "output", "-100"),
        ("post", "postrouting", "srcnat"),
    ];
    for (name, hook, priority) in hooks {
        add(&format!(
            "chain inet {TABLE} {chain}-{name} {{ type nat hook {hook} priority {priority}; policy accept; }}"
        ));
    }
    for (name, _, _) in hooks {
        text.push_str(&format!("flush chain inet {TABLE} {chain}-{name}\n"));
    }
    let mut rule = |name: &str, line: &str| {
        text.push_str(&format!("add rule inet {TABLE} {chain}-{name} {line}\n"));
    };
    for (ip, number, loopback) in [("ip", "4", "127.0.0.0/8"), ("ip6", "6", "::1")] {
        let lookup = format!(
            "fib daddr type local dnat {ip} to meta l4proto . th dport map @{chain}-to{number}"
        );
        rule("pre", &format!("{unless}{lookup}"));
        rule("out", &format!("{ip} daddr != {loopback} {lookup}"));
        // A container that uses a published port, its own perhaps, must get the answer
        // from where it asked.
        rule("post", &format!("ct status dnat {ip} saddr @{chain}-ip{number} masquerade"));
    }
    text
}

/// The elements of one attachment.
#[must_use]
pub fn elements(chain: &str, mappings: &[Mapping], targets: &[IpAddr], tag: &str) -> Vec<Element> {
    let mut all = Vec::new();
    if mappings.is_empty() {
        return all;
    }
    for ip in targets {
        let number = if ip.is_ipv4() { 4 } else { 6 };
        let element = |map: &str, key: String, target: Option<String>| Element {
            map: format!("{chain}-{map}{number}"),
            key,
            target,
            tag: tag.to_owned(),
        };
        for Mapping { host, container, protocol } in mappings {
            let target = Some(format!("{ip} . {container}"));
            all.push(element("to", format!("{protocol} . {host}"), target));
        }
        all.push(element("ip", ip.to_string(), None));
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_and_addresses_are_elements() {
        let mapping = Mapping { host: 8080, container: 80, protocol: "tcp" };
        let targets: Vec<IpAddr> = vec!["10.0.0.2".parse().unwrap(), "fd00::2".parse().unwrap()];
        let all = elements("C", &[mapping], &targets, "t");
        let maps: Vec<&str> = all.iter().map(|element| element.map.as_str()).collect();
        assert_eq!(maps, ["C-to4", "C-ip4", "C-to6", "C-ip6"]);
        assert_eq!(
            (all[0].key.as_str(), all[0].target.as_deref()),
            ("tcp . 8080", Some("10.0.0.2 . 80"))
        );
        assert_eq!((all[3].key.as_str(), &all[3].target), ("fd00::2", &None));
        assert!(elements("C", &[], &targets, "t").is_empty());
    }

    #[test]
    fn excluded_devices() {
        let text = br#"{"name":"n","excludeDevices":["br0","br1"]}"#;
        let ground = ground(&Conf::parse(text).unwrap());
        assert!(
            ground.contains("BULKHEAD-pre iifname != { \"br0\", \"br1\" } fib daddr"),
            "{ground}"
        );
        assert!(ground.contains("BULKHEAD-out ip daddr != 127.0.0.0/8 fib daddr"), "{ground}");
    }
}
