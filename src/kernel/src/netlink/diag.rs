//! `NETLINK_SOCK_DIAG`: who listens where. What `ss -lntu` asks.
//!
//! The kernel lists all sockets of one network, whoever they belong to, with the
//! inode that `/proc/<pid>/fd` shows and, since Linux 5.8, with the id of the v2
//! cgroup that they were made in (`cgroup::id`).

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::message::{Message, Request, long, number};
use super::socket::Socket;
use crate::Error;

const SOCK_DIAG_BY_FAMILY: u16 = 20;
/// Attribute `INET_DIAG_CGROUP_ID`.
const CGROUP: u16 = 21;
/// `struct inet_diag_msg`.
const REPLY: usize = 72;
/// `struct inet_diag_req_v2`.
const REQUEST: usize = 56;
const TCP_CLOSE: u32 = 7;
const TCP_LISTEN: u32 = 10;

/// What a port belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[allow(missing_docs)]
pub enum Protocol {
    Tcp,
    Udp,
}

impl Protocol {
    const ALL: [Protocol; 2] = [Protocol::Tcp, Protocol::Udp];

    /// For people.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Protocol::Tcp => "tcp",
            Protocol::Udp => "udp",
        }
    }

    const fn number(self) -> u8 {
        match self {
            Protocol::Tcp => 6,
            Protocol::Udp => 17,
        }
    }

    /// In which states a socket waits for others to begin. UDP has no listening:
    /// what has a port and no peer takes whatever comes.
    const fn states(self) -> u32 {
        match self {
            Protocol::Tcp => 1 << TCP_LISTEN,
            Protocol::Udp => 1 << TCP_CLOSE,
        }
    }
}

/// A socket that waits for others.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listener {
    /// TCP or UDP.
    pub protocol: Protocol,
    /// Where it listens.
    pub address: IpAddr,
    /// Its port; never 0.
    pub port: u16,
    /// As `/proc/<pid>/fd` shows it: `socket:[inode]`.
    pub inode: u32,
    /// Names it for as long as the machine runs.
    pub cookie: u64,
    /// The v2 cgroup that it was made in; `None` where the kernel does not tell.
    pub cgroup: Option<u64>,
}

/// Every TCP socket that listens and every UDP socket with a port and no peer,
/// IPv4 and IPv6, in the network of `socket`.
///
/// # Errors
/// The kernel refuses, or lacks `tcp_diag` or `udp_diag`.
pub fn listeners(socket: &mut Socket) -> Result<Vec<Listener>, Error> {
    let mut all = Vec::new();
    for protocol in Protocol::ALL {
        for family in [libc::AF_INET, libc::AF_INET6] {
            let found = socket.list(&request(protocol, family), |reply| read(protocol, reply));
            all.extend(found.map_err(|refusal| {
                let version = if family == libc::AF_INET { "IPv4" } else { "IPv6" };
                refusal.doing("list", format!("the {} sockets of {version}", protocol.name()))
            })?);
        }
    }
    Ok(all)
}

fn request(protocol: Protocol, family: i32) -> Request {
    let mut fixed = [0; REQUEST];
    // Address families are small numbers.
    fixed[0] = family as u8;
    fixed[1] = protocol.number();
    fixed[4..8].copy_from_slice(&protocol.states().to_ne_bytes());
    Request::new(SOCK_DIAG_BY_FAMILY, 0).fixed(&fixed)
}

fn read(protocol: Protocol, reply: Message<'_>) -> Option<Listener> {
    let body = reply.body;
    let port = u16::from_be_bytes(*body.get(4..)?.first_chunk()?);
    let v4: [u8; 4] = *body.get(8..)?.first_chunk()?;
    let v6: [u8; 16] = *body.get(8..)?.first_chunk()?;
    let address = match i32::from(*body.first()?) {
        libc::AF_INET => IpAddr::V4(Ipv4Addr::from(v4)),
        _ => IpAddr::V6(Ipv6Addr::from(v6)),
    };
    let cookie = u64::from(number(body, 48)?) << 32 | u64::from(number(body, 44)?);
    let inode = number(body, 68)?;
    let cgroup = reply.attributes(REPLY).get(CGROUP).and_then(|value| long(value, 0));
    let listener = Listener { protocol, address, port, inode, cookie, cgroup };
    (port != 0).then_some(listener)
}

/// The ports that the kernel gives to sockets that ask for none, in the network of
/// the calling thread: `net.ipv4.ip_local_port_range`.
///
/// # Errors
/// It cannot be read, or holds something else.
pub fn ephemeral_ports() -> Result<(u16, u16), Error> {
    const FILE: &str = "/proc/sys/net/ipv4/ip_local_port_range";
    let fail = |e| Error::new("read", FILE, e);
    let text = std::fs::read_to_string(FILE).map_err(fail)?;
    let mut words = text.split_whitespace().map(str::parse);
    match (words.next(), words.next()) {
        (Some(Ok(first)), Some(Ok(last))) => Ok((first, last)),
        _ => Err(fail(io::ErrorKind::InvalidData.into())),
    }
}

/// Those among them that it gives to nobody: `net.ipv4.ip_local_reserved_ports`.
///
/// # Errors
/// As [`ephemeral_ports`].
pub fn reserved_ports() -> Result<Vec<(u16, u16)>, Error> {
    const FILE: &str = "/proc/sys/net/ipv4/ip_local_reserved_ports";
    let fail = |e| Error::new("read", FILE, e);
    let text = std::fs::read_to_string(FILE).map_err(fail)?;
    parse_ports(&text).ok_or_else(|| fail(io::ErrorKind::InvalidData.into()))
}

/// `8080,9000-9100`.
fn parse_ports(text: &str) -> Option<Vec<(u16, u16)>> {
    let parts = text.trim().split(',').filter(|part| !part.is_empty());
    let range = |part: &str| match part.split_once('-') {
        Some((first, last)) => Some((first.parse().ok()?, last.parse().ok()?)),
        None => part.parse().ok().map(|port| (port, port)),
    };
    parts.map(range).collect()
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream, UdpSocket};
    use std::os::fd::AsRawFd;

    use super::super::socket::Family;
    use super::*;

    #[test]
    fn ports_as_the_kernel_writes_them() {
        assert_eq!(parse_ports("\n"), Some(vec![]));
        assert_eq!(parse_ports("80,9000-9100\n"), Some(vec![(80, 80), (9000, 9100)]));
        assert_eq!(parse_ports("80,x"), None);
        let (first, last) = ephemeral_ports().unwrap();
        assert!(first < last);
    }

    #[test]
    fn what_listens_is_found_with_its_inode() {
        let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
        let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
        let connected = UdpSocket::bind("127.0.0.1:0").unwrap();
        connected.connect(udp.local_addr().unwrap()).unwrap();
        let client = TcpStream::connect(tcp.local_addr().unwrap()).unwrap();
        let six = TcpListener::bind("[::1]:0").ok();
        let mut socket = Socket::open(Family::SockDiag).unwrap();
        let all = listeners(&mut socket).unwrap();
        let find = |fd: i32| {
            let link = std::fs::read_link(format!("/proc/self/fd/{fd}")).unwrap();
            let text = link.display().to_string();
            let inode = text.trim_start_matches("socket:[").trim_end_matches(']').parse().unwrap();
            all.iter().find(|listener| listener.inode == inode)
        };
        let found = find(tcp.as_raw_fd()).expect("a TCP listener");
        assert_eq!((found.protocol, found.port), (Protocol::Tcp, tcp.local_addr().unwrap().port()));
        assert_eq!(found.address, tcp.local_addr().unwrap().ip());
        let found = find(udp.as_raw_fd()).expect("a UDP socket without a peer");
        assert_eq!((found.protocol, found.port), (Protocol::Udp, udp.local_addr().unwrap().port()));
        assert_eq!(find(connected.as_raw_fd()), None, "it has a peer");
        assert_eq!(find(client.as_raw_fd()), None, "it does not listen");
        if let Some(six) = six {
            let found = find(six.as_raw_fd()).expect("an IPv6 listener");
            assert_eq!(found.address, six.local_addr().unwrap().ip());
        }
        let mut cookies: Vec<u64> = all.iter().map(|listener| listener.cookie).collect();
        cookies.sort_unstable();
        cookies.dedup();
        assert_eq!(cookies.len(), all.len(), "cookies are unique");
    }
}
