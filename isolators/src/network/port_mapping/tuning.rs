//! Kernel settings of the host's network that its containers have as well: who tuned the
//! host meant everybody who has its address.

use std::collections::BTreeMap;

use crate::api::Sysctl;

/// What Mesos carries over, but for what is one for all networks: `netdev_max_backlog` and
/// the limits of neighbours.
const CARRIED: [&str; 13] = [
    "net.core.rmem_max",
    "net.core.somaxconn",
    "net.core.wmem_max",
    "net.ipv4.tcp_ecn",
    "net.ipv4.tcp_ecn_fallback",
    "net.ipv4.tcp_keepalive_intvl",
    "net.ipv4.tcp_keepalive_probes",
    "net.ipv4.tcp_keepalive_time",
    "net.ipv4.tcp_max_syn_backlog",
    "net.ipv4.tcp_retries2",
    "net.ipv4.tcp_rmem",
    "net.ipv4.tcp_synack_retries",
    "net.ipv4.tcp_wmem",
];

type Values = BTreeMap<&'static str, String>;

/// What the host has set otherwise than a new network has by itself. Others may set it for
/// a container.
///
/// # Errors
/// The kernel makes no network to compare with.
pub(super) fn of_the_host() -> Result<BTreeMap<String, Sysctl>, kernel::Error> {
    Ok(carried(read(), &kernel::netns::anew(|| Ok(read()))?))
}

/// Those of the network of the calling thread that there are.
fn read() -> Values {
    let value = |name: &'static str| {
        let path = format!("/proc/sys/{}", name.replace('.', "/"));
        Some((name, std::fs::read_to_string(path).ok()?.trim().to_owned()))
    };
    CARRIED.into_iter().filter_map(value).collect()
}

/// The settings of `host` that are not so in a `new` network, of those that it has.
fn carried(host: Values, new: &Values) -> BTreeMap<String, Sysctl> {
    let other = |(name, value): &(&str, String)| new.get(name).is_some_and(|has| has != value);
    let set = |(name, value): (&str, String)| {
        (name.to_owned(), Sysctl { value, optional: true, yields: true })
    };
    host.into_iter().filter(other).map(set).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_a_new_network_has_otherwise_is_carried_over() {
        let values = |all: &[(&'static str, &str)]| {
            all.iter().map(|(name, value)| (*name, (*value).to_owned())).collect::<Values>()
        };
        let host = values(&[
            ("net.core.somaxconn", "65535"),
            ("net.core.rmem_max", "1"),
            ("net.ipv4.tcp_ecn", "2"),
        ]);
        let new = values(&[("net.core.somaxconn", "4096"), ("net.ipv4.tcp_ecn", "2")]);
        let found = carried(host, &new);
        let wanted = Sysctl { value: "65535".into(), optional: true, yields: true };
        assert_eq!(found, BTreeMap::from([("net.core.somaxconn".to_owned(), wanted)]));
        assert!(read().contains_key("net.ipv4.tcp_ecn"), "every kernel has it");
    }
}
