//! The kernel's part of port mapping: the host's interfaces, a container's pair, and
//! which port is whose. **Blocks.**

use std::collections::BTreeSet;
use std::fs;
use std::net::IpAddr;
use std::os::fd::AsFd;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use kernel::bpf::map::Map;
use kernel::bpf::{self, steer};
use kernel::namespaces::{Namespace, in_network_of};
use kernel::netlink::address::Address;
use kernel::netlink::link::{Change, End, Link};
use kernel::netlink::route::Route;
use kernel::netlink::traffic::{self, Fair, Way};
use kernel::netlink::{Family, Socket, address, link, neighbour, route};
use mesos::resources::Ranges;

use super::settings::{Settings, mark, read_mark};
use super::{flows, limits};

pub(super) type Error = kernel::Error;

/// Names of the programs, and of the maps that they share.
const INBOUND: &str = "bulkhead_in";
const OUTBOUND: &str = "bulkhead_out";
const INSIDE: &str = "bulkhead_lo";
const PORTS: &str = "bulkhead_ports";
const PINGS: &str = "bulkhead_pings";
/// Identifiers of pings that are remembered.
const MOST_PINGS: u32 = 16_384;
/// Our place in the order of an interface's filters: those of others, which mostly
/// begin at 1 or end at 49152, come before and after.
const PRIORITY: u16 = 31_050;
/// What a packet on the loopback interface may have, and so what a pair must take.
const LOOPBACK_MTU: u32 = 65_535;
/// The kernel needs no longer to make an address its own, if it has anything to do it with.
const OWN_SOON: Duration = Duration::from_secs(2);
/// The way out of a container: the other end of its pair, which needs no address.
const GATEWAY4: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(169, 254, 1, 1));
const GATEWAY6: IpAddr = IpAddr::V6(std::net::Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1));

/// The host's network, as containers share it.
#[derive(Debug)]
pub(super) struct Host {
    /// `--cgroups_root`: tells this agent's interfaces from those of others.
    root: String,
    pub(super) public: Link,
    facts: steer::Host,
    /// Where every container has a flow, and how many ports each one's block has.
    fair: Option<(Fair, u32)>,
    ports: Map,
    /// Kept for the programs that are loaded for new containers.
    _pings: Map,
    socket: Mutex<Socket>,
}

/// A container's pair, at the host's end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Pair {
    pub(super) container: String,
    pub(super) index: u32,
    pub(super) name: String,
    pub(super) block: (u16, u16),
}

/// A wrong thing about the host, for people.
pub(super) fn unfit(object: String) -> Error {
    Error::new("use", object, std::io::ErrorKind::Unsupported.into())
}

impl Host {
    /// Finds the public interface and puts the programs on it; those of an earlier
    /// agent are replaced, and their map is taken over.
    pub(super) fn new(settings: &Settings, root: &str) -> Result<Host, Error> {
        let mut socket = Socket::open(Family::Route)?;
        let links = link::list(&mut socket)?;
        let named = |name: &str| {
            let found = links.iter().find(|link| link.name == name).cloned();
            found.ok_or_else(|| unfit(format!("the interface '{name}': there is none")))
        };
        let public = match &settings.public {
            Some(name) => named(name)?,
            None => default_interface(&mut socket, &links)?,
        };
        let loopback = named(&settings.loopback)?;
        let mac = <[u8; 6]>::try_from(public.address.as_slice())
            .map_err(|_| unfit(format!("the interface '{}': it is no Ethernet", public.name)))?;
        let all = address::list(&mut socket)?;
        let mut own = all.iter().filter(|a| a.index == public.index && a.scope == 0).map(|a| a.ip);
        let v4 = own.clone().find_map(|ip| if let IpAddr::V4(ip) = ip { Some(ip) } else { None });
        let v6 = own.find_map(|ip| if let IpAddr::V6(ip) = ip { Some(ip) } else { None });
        let v4 = v4.ok_or_else(|| {
            unfit(format!("the interface '{}': it has no IPv4 address", public.name))
        })?;
        // The kernel takes the stricter of this one and the interface's own.
        if setting("net/ipv4/conf/all/rp_filter").trim() == "1" {
            let text = "net.ipv4.conf.all.rp_filter=1: containers have the host's address, whose \
                        packets it drops; set it to 0 or 2";
            return Err(unfit(text.into()));
        }
        let (ports, pings) = maps(&mut socket, public.index)?;
        let facts =
            steer::Host { v4, v6, mac, public: public.index, ports: ports.fd(), pings: pings.fd() };
        for (index, way, loops) in
            [(public.index, Way::Ingress, false), (loopback.index, Way::Egress, true)]
        {
            let program = bpf::classifier(INBOUND, &steer::inbound(&facts, loops))?;
            traffic::add_filters(&mut socket, index)?;
            let there = traffic::filters(&mut socket, index, way)?;
            if let Some(other) = there.iter().find(|f| f.priority == PRIORITY && f.name != INBOUND)
            {
                let name = &other.name;
                return Err(unfit(format!(
                    "interface {index}: the filter '{name}' of somebody else has the priority {PRIORITY}"
                )));
            }
            traffic::set_filter(&mut socket, index, way, PRIORITY, (program.as_fd(), INBOUND))?;
        }
        let size = settings.per_container;
        let fair = settings.flows.map(|parent| {
            let fair = flows::fair_queues(&mut socket, public.index, parent, size, PRIORITY)?;
            Ok::<_, Error>((fair, size))
        });
        let fair = fair.transpose()?;
        let root = root.trim_matches('/').to_owned();
        let socket = Mutex::new(socket);
        Ok(Host { root, public, facts, fair, ports, _pings: pings, socket })
    }

    /// What the public interface can do. `told`: `--network_link_speed`.
    pub(super) fn link(&self, told: Option<u64>) -> limits::Link {
        // Virtual ones may refuse to say.
        let path = format!("/sys/class/net/{}/speed", self.public.name);
        limits::Link::read(told, &fs::read_to_string(path).unwrap_or_default())
    }

    pub(super) fn socket(&self) -> MutexGuard<'_, Socket> {
        // An exchange that was cut short is skipped by the next one.
        self.socket.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The pairs of this agent's containers.
    pub(super) fn pairs(&self) -> Result<Vec<Pair>, Error> {
        let all = link::list(&mut self.socket())?;
        let pair = |link: Link| {
            let (container, block) = read_mark(link.alias.as_deref()?, &self.root)?;
            Some(Pair { container, index: link.index, name: link.name, block })
        };
        Ok(all.into_iter().filter_map(pair).collect())
    }

    /// Gives the network of the process `pid` its pair, up to where packets flow.
    pub(super) fn attach(
        &self,
        container: &str,
        pid: u32,
        block: (u16, u16),
    ) -> Result<Pair, Error> {
        let name = format!("mesos{pid}");
        let network = Namespace::Network.of(pid);
        let network = fs::File::open(&network)
            .map_err(|e| Error::new("open", network.display().to_string(), e))?;
        let mut socket = self.socket();
        // With its network goes the pair: one that has this name now is nobody's.
        link::remove(&mut socket, &name)?;
        let end = End { name: &name, mtu: Some(LOOPBACK_MTU), ..End::default() };
        let peer = End {
            name: &self.public.name,
            address: Some(self.facts.mac),
            mtu: Some(LOOPBACK_MTU),
            network: Some(network.as_fd()),
            ..End::default()
        };
        link::add_veth(&mut socket, &end, &peer)?;
        let found = link::find(&mut socket, &name)?;
        let ours = found.ok_or_else(|| unfit(format!("the interface '{name}': it is gone")))?;
        link::change(&mut socket, ours.index, Change::Alias(&mark(&self.root, container, block)))?;
        kernel::failpoint!("port_mapping.made");
        for (file, value) in [("accept_local", "1"), ("route_localnet", "1"), ("rp_filter", "0")] {
            set(&format!("net/ipv4/conf/{name}/{file}"), value)?;
        }
        self.let_out(&mut socket, ours.index, block)?;
        link::change(&mut socket, ours.index, Change::Up(true))?;
        drop(socket);
        let gateway = <[u8; 6]>::try_from(ours.address.as_slice())
            .map_err(|_| unfit(format!("the interface '{name}': it has no address")))?;
        in_network_of(pid, || self.furnish(ours.index, gateway, block))
            .map_err(|e| Error::new("enter", format!("the network of process {pid}"), e))??;
        kernel::failpoint!("port_mapping.furnished");
        Ok(Pair { container: container.to_owned(), index: ours.index, name, block })
    }

    /// Puts the program on a container's way out, or this agent's in place of another's.
    fn let_out(&self, socket: &mut Socket, index: u32, block: (u16, u16)) -> Result<(), Error> {
        let class = self.fair.map(|(fair, size)| flows::class(fair, block, size));
        let program = bpf::classifier(OUTBOUND, &steer::outbound(&self.facts, class))?;
        traffic::add_filters(socket, index)?;
        let filter = (program.as_fd(), OUTBOUND);
        traffic::set_filter(socket, index, Way::Ingress, PRIORITY, filter)
    }

    /// Gives a container that another agent has made a flow of its own, where this one
    /// has them.
    pub(super) fn sort(&self, pair: &Pair) -> Result<(), Error> {
        match self.fair {
            Some(_) => self.let_out(&mut self.socket(), pair.index, pair.block),
            None => Ok(()),
        }
    }

    /// Inside: addresses, the way out, the ports that the kernel gives out.
    fn furnish(&self, outer: u32, gateway: [u8; 6], block: (u16, u16)) -> Result<(), Error> {
        let mut socket = Socket::open(Family::Route)?;
        let named = |socket: &mut Socket, name: &str| {
            let found = link::find(socket, name)?;
            found.ok_or_else(|| unfit(format!("the interface '{name}': there is none")))
        };
        let loopback = named(&mut socket, "lo")?;
        let name = &self.public.name;
        let own = named(&mut socket, name)?;
        let range = format!("{} {}", block.0, block.1);
        set("net/ipv4/ip_local_port_range", &range)?;
        for (file, value) in [("accept_local", "1"), ("route_localnet", "1"), ("rp_filter", "0")] {
            set(&format!("net/ipv4/conf/{name}/{file}"), value)?;
        }
        let program = bpf::classifier(INSIDE, &steer::inside(&self.facts, outer, own.index))?;
        traffic::add_filters(&mut socket, loopback.index)?;
        let filter = (program.as_fd(), INSIDE);
        traffic::set_filter(&mut socket, loopback.index, Way::Egress, PRIORITY, filter)?;
        link::change(&mut socket, loopback.index, Change::Up(true))?;
        link::change(&mut socket, own.index, Change::Up(true))?;
        let v4 = (IpAddr::V4(self.facts.v4), 32, GATEWAY4);
        let v6 = self.facts.v6.map(|ip| (IpAddr::V6(ip), 128, GATEWAY6));
        for (ip, prefix, way_out) in std::iter::once(v4).chain(v6) {
            let index = own.index;
            address::add(&mut socket, &Address { index, ip, prefix, scope: 0 })?;
            neighbour::set(&mut socket, index, way_out, gateway)?;
            let destination = match ip {
                IpAddr::V4(_) => IpAddr::from([0; 4]),
                IpAddr::V6(_) => IpAddr::from([0; 16]),
            };
            let route =
                Route { destination, prefix: 0, index, gateway: Some(way_out), source: None };
            route::add_with_mtu(&mut socket, &route, self.public.mtu)?;
        }
        // Else the first connections of the container may look for it outside.
        if let Some(ip) = self.facts.v6 {
            let start = Instant::now();
            while start.elapsed() < OWN_SOON
                && !route::is_own(&mut socket, IpAddr::V6(ip)).unwrap_or(true)
            {
                std::thread::sleep(Duration::from_millis(1));
            }
        }
        Ok(())
    }

    /// These ports are the container's from now on, and no others.
    pub(super) fn assign(&self, pair: &Pair, ports: &Ranges, before: &Ranges) -> Result<(), Error> {
        for port in numbers(&ports.difference(before)) {
            self.ports.set(port, pair.index)?;
        }
        for port in numbers(&before.difference(ports)) {
            if self.ports.get(port)? == pair.index {
                self.ports.set(port, 0)?;
            }
        }
        Ok(())
    }

    /// What the map says of each container's ports; entries of others, left by a
    /// dead agent, are removed.
    pub(super) fn assigned(&self, pairs: &[Pair]) -> Result<Vec<Ranges>, Error> {
        let known: BTreeSet<u32> = pairs.iter().map(|pair| pair.index).collect();
        let mut found: Vec<Vec<(u64, u64)>> = vec![Vec::new(); pairs.len()];
        for port in 0..=u32::from(u16::MAX) {
            let index = self.ports.get(port)?;
            if index == 0 {
                continue;
            }
            if !known.contains(&index) {
                self.ports.set(port, 0)?;
            } else if let Some(place) = pairs.iter().position(|pair| pair.index == index) {
                found[place].push((u64::from(port), u64::from(port)));
            }
        }
        Ok(found.into_iter().map(Ranges::new).collect())
    }

    /// Takes a pair away, and its ports with it.
    pub(super) fn detach(&self, pair: &Pair, ports: &Ranges) -> Result<(), Error> {
        self.assign(pair, &Ranges::default(), ports)?;
        link::remove(&mut self.socket(), &pair.name)
    }

    /// Takes away what an [`Host::attach`] that was cut off has made.
    pub(super) fn remove(&self, pid: u32) -> Result<(), Error> {
        link::remove(&mut self.socket(), &format!("mesos{pid}"))
    }

    /// Counters of all interfaces by index.
    pub(super) fn counters(&self) -> Result<Vec<(u32, link::Counters)>, Error> {
        link::all_counters(&mut self.socket())
    }
}

/// The maps of the programs that are there already, or new ones.
fn maps(socket: &mut Socket, public: u32) -> Result<(Map, Map), Error> {
    let there = traffic::filters(socket, public, Way::Ingress).unwrap_or_default();
    for filter in there.into_iter().filter(|filter| filter.name == INBOUND) {
        let found = (Map::of_program(filter.id, PORTS)?, Map::of_program(filter.id, PINGS)?);
        if let (Some(ports), Some(pings)) = found {
            return Ok((ports, pings));
        }
    }
    Ok((Map::array(PORTS, 1 << 16)?, Map::recent(PINGS, MOST_PINGS)?))
}

fn default_interface(socket: &mut Socket, links: &[Link]) -> Result<Link, Error> {
    let routes = route::list(socket)?;
    let default = routes.iter().find(|route| route.prefix == 0 && route.destination.is_ipv4());
    let index = default.map(|route| route.index);
    let found = links.iter().find(|link| Some(link.index) == index).cloned();
    found.ok_or_else(|| {
        unfit("the public interface: there is no default route to find it by; name it with --eth0_name".into())
    })
}

fn numbers(ports: &Ranges) -> impl Iterator<Item = u32> + '_ {
    let narrow = |port: u64| u32::try_from(port).unwrap_or(u32::MAX);
    ports.iter().flat_map(move |(first, last)| narrow(first)..=narrow(last).min(65_535))
}

fn setting(name: &str) -> String {
    fs::read_to_string(format!("/proc/sys/{name}")).unwrap_or_default()
}

/// Writes a kernel setting of the network of the calling thread.
fn set(name: &str, value: &str) -> Result<(), Error> {
    let path = format!("/proc/sys/{name}");
    fs::write(&path, value).map_err(|e| Error::new("write", format!("'{value}' to '{path}'"), e))
}
