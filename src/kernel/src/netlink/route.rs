//! Routes of the main table: `ip route`.

use std::net::IpAddr;

use super::address::{family, octets, parse};
use super::link::gone_is_fine;
use super::message::{Message, Request, flag, number};
use super::socket::Socket;
use crate::Error;

const NEW: u16 = 24;
const DELETE: u16 = 25;
const GET: u16 = 26;
/// `struct rtmsg`.
const FIXED: usize = 12;
const DESTINATION: u16 = 1;
const INTERFACE: u16 = 4;
const GATEWAY: u16 = 5;
const SOURCE: u16 = 7;
const METRICS: u16 = 8;
const METRIC_MTU: u16 = 2;
const TABLE_MAIN: u8 = 254;
const PROTOCOL_BOOT: u8 = 3;
const KIND_UNICAST: u8 = 1;
const KIND_LOCAL: u8 = 2;
const SCOPE_UNIVERSE: u8 = 0;
const SCOPE_LINK: u8 = 253;
const SCOPE_NOWHERE: u8 = 255;
/// The gateway is reached over the interface, whatever its addresses say.
const ON_LINK: u32 = 4;

/// Where packets go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Route {
    /// The network that it leads to.
    pub destination: IpAddr,
    /// How many bits of it count; 0: everything.
    pub prefix: u8,
    /// The interface that packets leave by.
    pub index: u32,
    /// Who takes them there, if not their receiver itself.
    pub gateway: Option<IpAddr>,
    /// The address that they leave with.
    pub source: Option<IpAddr>,
}

impl Route {
    fn request(&self, kind: u16, flags: u16) -> Request {
        let mut fixed = [0; FIXED];
        (fixed[0], fixed[1]) = (family(self.destination), self.prefix);
        (fixed[4], fixed[5]) = (TABLE_MAIN, PROTOCOL_BOOT);
        fixed[6] = match self.gateway {
            Some(_) => SCOPE_UNIVERSE,
            None if self.destination.is_ipv6() => SCOPE_UNIVERSE,
            None => SCOPE_LINK,
        };
        fixed[7] = KIND_UNICAST;
        if kind == DELETE {
            // Whatever its scope.
            fixed[6] = SCOPE_NOWHERE;
        } else if self.gateway.is_some() {
            fixed[8..12].copy_from_slice(&ON_LINK.to_ne_bytes());
        }
        let mut request = Request::new(kind, flags).fixed(&fixed);
        if self.prefix > 0 {
            request = request.attribute(DESTINATION, &octets(self.destination));
        }
        if let Some(gateway) = self.gateway {
            request = request.attribute(GATEWAY, &octets(gateway));
        }
        if let Some(source) = self.source {
            request = request.attribute(SOURCE, &octets(source));
        }
        request.number(INTERFACE, self.index)
    }

    fn text(&self) -> String {
        let via = self.gateway.map(|gateway| format!(" via {gateway}")).unwrap_or_default();
        format!(
            "the route to {}/{}{via} over interface {}",
            self.destination, self.prefix, self.index
        )
    }
}

fn read(message: Message<'_>) -> Option<Route> {
    let body = message.body;
    let (version, prefix) = (i32::from(*body.first()?), *body.get(1)?);
    if (*body.get(4)?, *body.get(7)?) != (TABLE_MAIN, KIND_UNICAST) {
        return None;
    }
    let all = message.attributes(FIXED);
    let everything = match version {
        libc::AF_INET => IpAddr::from([0; 4]),
        libc::AF_INET6 => IpAddr::from([0; 16]),
        _ => return None,
    };
    Some(Route {
        destination: all.get(DESTINATION).and_then(parse).unwrap_or(everything),
        prefix,
        index: number(all.get(INTERFACE)?, 0)?,
        gateway: all.get(GATEWAY).and_then(parse),
        source: all.get(SOURCE).and_then(parse),
    })
}

/// The unicast routes of the main table, IPv4 and IPv6. Of routes over several
/// interfaces nothing is said.
///
/// # Errors
/// The kernel refuses.
pub fn list(socket: &mut Socket) -> Result<Vec<Route>, Error> {
    let request = Request::new(GET, 0).fixed(&[0; FIXED]);
    socket.list(&request, read).map_err(|e| e.doing("list", "the routes"))
}

/// Adds a route; one to the same network is an error (`EEXIST`).
///
/// # Errors
/// The kernel refuses.
pub fn add(socket: &mut Socket, route: &Route) -> Result<(), Error> {
    let request = route.request(NEW, flag::CREATE | flag::EXCLUSIVE);
    socket.tell(request).map_err(|e| e.doing("add", route.text()))
}

/// The same for packets of at most `mtu` bytes.
///
/// # Errors
/// The kernel refuses.
pub fn add_with_mtu(socket: &mut Socket, route: &Route, mtu: u32) -> Result<(), Error> {
    let request = route
        .request(NEW, flag::CREATE | flag::EXCLUSIVE)
        .nested(METRICS, |metrics| metrics.number(METRIC_MTU, mtu));
    socket.tell(request).map_err(|e| e.doing("add", route.text()))
}

/// Takes a route away; one that is gone already is fine.
///
/// # Errors
/// The kernel refuses.
pub fn remove(socket: &mut Socket, route: &Route) -> Result<(), Error> {
    gone_is_fine(socket.tell(route.request(DELETE, 0)), libc::ESRCH)
        .map_err(|e| e.doing("remove", route.text()))
}

/// Whether the network takes packets for `ip` itself. The kernel makes an address of
/// IPv6 its own a moment after it was added.
///
/// # Errors
/// It does not know where to send them either.
pub fn is_own(socket: &mut Socket, ip: IpAddr) -> Result<bool, Error> {
    let bytes = octets(ip);
    let mut fixed = [0; FIXED];
    (fixed[0], fixed[1]) = (family(ip), (bytes.len() * 8) as u8);
    let request = Request::new(GET, 0).fixed(&fixed).attribute(DESTINATION, &bytes);
    let mut own = false;
    let read = |message: Message<'_>| own = message.body.get(7) == Some(&KIND_LOCAL);
    socket.ask(request, read).map_err(|e| e.doing("find", format!("the route to {ip}")))?;
    Ok(own)
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use super::super::link::{self, Change, End};
    use super::super::socket::{Family, Socket};
    use super::super::{address, diag};
    use super::*;
    use crate::namespaces;

    /// A process with a network of its own; gone with the value.
    struct Elsewhere(std::process::Child);

    impl Elsewhere {
        fn start() -> Option<Elsewhere> {
            if !crate::proctree::is_root() {
                eprintln!("SKIPPED: needs root");
                return None;
            }
            let mut command = std::process::Command::new("unshare");
            let child =
                Elsewhere(command.args(["--net", "sleep", "1000"]).spawn().expect("unshare"));
            let start = std::time::Instant::now();
            while namespaces::Namespace::Network.shared_with(child.0.id()).unwrap_or(true) {
                assert!(start.elapsed().as_secs() < 60, "it has a network of its own");
                std::thread::yield_now();
            }
            Some(child)
        }
    }

    impl Drop for Elsewhere {
        fn drop(&mut self) {
            let _ = self.0.kill();
            let _ = self.0.wait();
        }
    }

    #[test]
    fn pairs_addresses_and_routes_come_and_go_in_other_networks() {
        let (Some(here), Some(there)) = (Elsewhere::start(), Elsewhere::start()) else { return };
        let mut socket = Socket::open_in(here.0.id(), Family::Route).expect("a socket");
        let mut far = Socket::open_in(there.0.id(), Family::Route).expect("a socket");
        let network = std::fs::File::open(namespaces::Namespace::Network.of(there.0.id())).unwrap();
        let mac = [2, 0, 0, 0, 0, 9];
        let end = End { name: "veth0", mtu: Some(1400), ..End::default() };
        let peer = End {
            name: "eth0",
            address: Some(mac),
            network: Some(network.as_fd()),
            ..End::default()
        };
        link::add_veth(&mut socket, &end, &peer).expect("a pair");
        let again = link::add_veth(&mut socket, &end, &peer).unwrap_err();
        assert_eq!(again.errno(), Some(libc::EEXIST));
        let eth0 = link::find(&mut far, "eth0").expect("found").expect("the other end");
        assert_eq!((eth0.address.as_slice(), eth0.kind.as_deref()), (&mac[..], Some("veth")));
        let veth0 = link::find(&mut socket, "veth0").expect("found").expect("this end");
        assert_eq!((veth0.mtu, veth0.up, veth0.peer), (1400, false, Some(eth0.index)));
        assert_eq!(link::find(&mut socket, "none").expect("asked"), None);

        link::add(&mut socket, "br0", "bridge").expect("a bridge");
        let bridge = link::find(&mut socket, "br0").expect("found").expect("the bridge");
        link::change(&mut socket, veth0.index, Change::Master(bridge.index)).expect("a port");
        link::change(&mut socket, veth0.index, Change::Alias("mark")).expect("an alias");
        link::change(&mut socket, veth0.index, Change::Up(true)).expect("up");
        link::change(&mut far, eth0.index, Change::Up(true)).expect("up");
        let all = link::list(&mut socket).expect("a list");
        let veth0 = all.iter().find(|link| link.name == "veth0").expect("listed");
        assert_eq!(
            (veth0.master, veth0.up, veth0.alias.as_deref()),
            (Some(bridge.index), true, Some("mark"))
        );

        for (ip, prefix, gateway) in [("10.9.0.2", 24, "10.9.0.1"), ("fd00:9::2", 64, "fd00:9::1")]
        {
            let (ip, gateway): (IpAddr, IpAddr) = (ip.parse().unwrap(), gateway.parse().unwrap());
            let wanted = address::Address { index: eth0.index, ip, prefix, scope: 0 };
            address::add(&mut far, &wanted).expect("an address");
            assert!(address::list(&mut far).expect("a list").contains(&wanted));
            let everything =
                if ip.is_ipv4() { IpAddr::from([0; 4]) } else { IpAddr::from([0; 16]) };
            let route = Route {
                destination: everything,
                prefix: 0,
                index: eth0.index,
                gateway: Some(gateway),
                source: None,
            };
            add(&mut far, &route).expect("a route");
            assert!(list(&mut far).expect("a list").contains(&route));
            assert!(!is_own(&mut far, gateway).expect("a way to the gateway"));
            let start = std::time::Instant::now();
            while !is_own(&mut far, ip).expect("a way to itself") {
                assert!(start.elapsed().as_secs() < 60, "{ip} is never its own");
                std::thread::yield_now();
            }
            for _ in 0..2 {
                remove(&mut far, &route).expect("removed");
                assert!(!list(&mut far).expect("a list").contains(&route));
            }
            for _ in 0..2 {
                address::remove(&mut far, &wanted).expect("removed");
            }
            assert!(!address::list(&mut far).expect("a list").contains(&wanted));
        }
        let mut sockets = Socket::open_in(there.0.id(), Family::SockDiag).expect("a socket");
        assert_eq!(diag::listeners(&mut sockets).expect("a list"), [], "nobody listens there");
        for _ in 0..2 {
            link::remove(&mut socket, "veth0").expect("removed");
        }
        assert_eq!(link::find(&mut far, "eth0").expect("asked"), None, "both ends are gone");

        let end = End { up: true, master: Some(bridge.index), ..end };
        link::add_veth(&mut socket, &end, &peer).expect("a pair");
        let veth0 = link::find(&mut socket, "veth0").expect("found").expect("this end");
        assert_eq!((veth0.up, veth0.master), (true, Some(bridge.index)));
        for _ in 0..2 {
            let removed = namespaces::in_network_of(here.0.id(), || link::remove_soon("veth0"));
            removed.expect("entered").expect("removed");
            assert_eq!(link::find(&mut socket, "veth0").expect("asked"), None);
        }
        // The name is free at once.
        link::add_veth(&mut socket, &end, &peer).expect("a pair");
    }

    #[test]
    fn pairs_have_one_queue_each_way() {
        let Some(here) = Elsewhere::start() else { return };
        let mut socket = Socket::open_in(here.0.id(), Family::Route).expect("a socket");
        let [end, peer] = ["veth0", "veth1"].map(|name| End { name, ..End::default() });
        link::add_veth(&mut socket, &end, &peer).expect("a pair");
        for name in ["veth0", "veth1"] {
            assert_eq!(link::queues(&mut socket, name), [Some(1); 2], "of {name}");
        }
    }
}
