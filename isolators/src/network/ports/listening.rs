//! What listens in a container, for those who ask. Pure.

use std::collections::BTreeMap;
use std::net::IpAddr;

use kernel::netlink::diag::{Listener, Protocol};
use mesos::resources::Ranges;

/// The ports on which a container listens, by protocol and version of IP: `tcp`, `tcp6`,
/// `udp`, `udp6`. A socket of IPv6 that takes IPv4 as well is one of IPv6.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct OpenPorts(BTreeMap<&'static str, Ranges>);

impl OpenPorts {
    /// Of these sockets, all of one container.
    #[must_use]
    pub fn of<'a>(sockets: impl IntoIterator<Item = &'a Listener>) -> OpenPorts {
        let mut ports: BTreeMap<&'static str, Vec<(u64, u64)>> = BTreeMap::new();
        for socket in sockets {
            let port = u64::from(socket.port);
            ports.entry(name(socket)).or_default().push((port, port));
        }
        OpenPorts(ports.into_iter().map(|(name, ports)| (name, Ranges::new(ports))).collect())
    }

    /// Names and ports; nothing of what there is none.
    pub fn iter(&self) -> impl Iterator<Item = (&'static str, &Ranges)> {
        self.0.iter().map(|(name, ports)| (*name, ports))
    }
}

const fn name(socket: &Listener) -> &'static str {
    match (socket.protocol, socket.address) {
        (Protocol::Tcp, IpAddr::V4(_)) => "tcp",
        (Protocol::Tcp, IpAddr::V6(_)) => "tcp6",
        (Protocol::Udp, IpAddr::V4(_)) => "udp",
        (Protocol::Udp, IpAddr::V6(_)) => "udp6",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_told_by_protocol_and_version() {
        let socket = |protocol, address: &str, port| Listener {
            protocol,
            address: address.parse().expect("an address"),
            port,
            inode: 0,
            cookie: 0,
            cgroup: None,
        };
        let all = [
            socket(Protocol::Tcp, "127.0.0.1", 81),
            socket(Protocol::Tcp, "0.0.0.0", 80),
            // A second socket on the same port.
            socket(Protocol::Tcp, "0.0.0.0", 80),
            socket(Protocol::Udp, "::", 53),
            socket(Protocol::Udp, "::1", 9000),
        ];
        let told = OpenPorts::of(&all);
        let told: Vec<_> = told.iter().map(|(name, ports)| (name, ports.to_string())).collect();
        assert_eq!(
            told,
            [("tcp", "[80-81]".to_owned()), ("udp6", "[53-53, 9000-9000]".to_owned())]
        );
        assert_eq!(OpenPorts::of(&[]), OpenPorts::default());
    }
}
