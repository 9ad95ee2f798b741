//! Neighbours: which hardware address an address has, `ip neighbour`.

use std::net::IpAddr;

use super::address::{family, octets};
use super::message::{Request, flag};
use super::socket::Socket;
use crate::Error;

const NEW: u16 = 28;
/// `struct ndmsg`.
const FIXED: usize = 12;
const DESTINATION: u16 = 1;
const ADDRESS: u16 = 2;
/// Never asked for, never forgotten.
const PERMANENT: u16 = 0x80;

/// Says once and for all which hardware address `ip` has on an interface.
///
/// # Errors
/// The kernel refuses.
pub fn set(socket: &mut Socket, index: u32, ip: IpAddr, address: [u8; 6]) -> Result<(), Error> {
    let mut fixed = [0; FIXED];
    fixed[0] = family(ip);
    fixed[4..8].copy_from_slice(&index.to_ne_bytes());
    fixed[8..10].copy_from_slice(&PERMANENT.to_ne_bytes());
    let request = Request::new(NEW, flag::CREATE | flag::REPLACE)
        .fixed(&fixed)
        .attribute(DESTINATION, &octets(ip))
        .attribute(ADDRESS, &address);
    socket
        .tell(request)
        .map_err(|e| e.doing("set", format!("the neighbour {ip} of interface {index}")))
}
