//! Addresses of interfaces: `ip address`.

use std::net::IpAddr;

use super::link::gone_is_fine;
use super::message::{Message, Request, flag, number};
use super::socket::Socket;
use crate::Error;

const NEW: u16 = 20;
const DELETE: u16 = 21;
const GET: u16 = 22;
/// `struct ifaddrmsg`.
const FIXED: usize = 8;
const ADDRESS: u16 = 1;
const LOCAL: u16 = 2;
const BROADCAST: u16 = 4;
const FLAGS: u16 = 8;
/// Not to be looked for elsewhere first (IPv6 duplicate address detection).
const NO_DETECTION: u32 = 2;

/// An address of an interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Address {
    /// The interface.
    pub index: u32,
    /// The address itself.
    pub ip: IpAddr,
    /// How many bits name the network.
    pub prefix: u8,
    /// 0: everywhere; 253: this link; 254: this machine.
    pub scope: u8,
}

/// Bytes in network order.
pub(super) fn octets(ip: IpAddr) -> Vec<u8> {
    match ip {
        IpAddr::V4(ip) => ip.octets().to_vec(),
        IpAddr::V6(ip) => ip.octets().to_vec(),
    }
}

/// The address family as the kernel numbers it.
pub(super) const fn family(ip: IpAddr) -> u8 {
    match ip {
        IpAddr::V4(_) => libc::AF_INET as u8,
        IpAddr::V6(_) => libc::AF_INET6 as u8,
    }
}

/// An address from its bytes.
pub(super) fn parse(bytes: &[u8]) -> Option<IpAddr> {
    match bytes.len() {
        4 => <[u8; 4]>::try_from(bytes).ok().map(IpAddr::from),
        16 => <[u8; 16]>::try_from(bytes).ok().map(IpAddr::from),
        _ => None,
    }
}

fn header(address: &Address) -> [u8; FIXED] {
    let mut fixed = [0; FIXED];
    (fixed[0], fixed[1], fixed[3]) = (family(address.ip), address.prefix, address.scope);
    fixed[4..8].copy_from_slice(&address.index.to_ne_bytes());
    fixed
}

fn read(message: Message<'_>) -> Option<Address> {
    let all = message.attributes(FIXED);
    // LOCAL is this end of a line with two ends; ADDRESS the other.
    let ip = all.get(LOCAL).or_else(|| all.get(ADDRESS)).and_then(parse)?;
    let (prefix, scope) = (*message.body.get(1)?, *message.body.get(3)?);
    Some(Address { index: number(message.body, 4)?, ip, prefix, scope })
}

/// All addresses of the network, IPv4 and IPv6.
///
/// # Errors
/// The kernel refuses.
pub fn list(socket: &mut Socket) -> Result<Vec<Address>, Error> {
    let request = Request::new(GET, 0).fixed(&[0; FIXED]);
    socket.list(&request, read).map_err(|e| e.doing("list", "the network addresses"))
}

/// Gives an interface an address; usable at once, on IPv6 too. One that it has
/// already is an error (`EEXIST`).
///
/// # Errors
/// The kernel refuses.
pub fn add(socket: &mut Socket, address: &Address) -> Result<(), Error> {
    let bytes = octets(address.ip);
    let mut request = Request::new(NEW, flag::CREATE | flag::EXCLUSIVE)
        .fixed(&header(address))
        .attribute(LOCAL, &bytes)
        .attribute(ADDRESS, &bytes);
    match address.ip {
        IpAddr::V4(ip) if (1..31).contains(&address.prefix) => {
            let rest = u32::MAX >> address.prefix;
            request = request.attribute(BROADCAST, &(u32::from(ip) | rest).to_be_bytes());
        }
        IpAddr::V4(_) => {}
        IpAddr::V6(_) => request = request.number(FLAGS, NO_DETECTION),
    }
    let what =
        || format!("the address {}/{} to interface {}", address.ip, address.prefix, address.index);
    socket.tell(request).map_err(|e| e.doing("add", what()))
}

/// Takes an address away; one that is gone already is fine.
///
/// # Errors
/// The kernel refuses.
pub fn remove(socket: &mut Socket, address: &Address) -> Result<(), Error> {
    let request =
        Request::new(DELETE, 0).fixed(&header(address)).attribute(LOCAL, &octets(address.ip));
    let what =
        || format!("the address {}/{} of interface {}", address.ip, address.prefix, address.index);
    gone_is_fine(socket.tell(request), libc::EADDRNOTAVAIL).map_err(|e| e.doing("remove", what()))
}
