//! Interfaces: `ip link`.
//!
//! An interface is named by its index within one network; the index changes when
//! it moves to another one, the name may too.

use std::os::fd::{AsRawFd, BorrowedFd};
use std::sync::mpsc::RecvTimeoutError;
use std::time::Duration;

use super::message::{Attributes, Message, Request, flag, long, number, text};
use super::socket::{Family, Refusal, Socket};
use crate::Error;

const NEW: u16 = 16;
const DELETE: u16 = 17;
const GET: u16 = 18;
const SET: u16 = 19;
const GET_NETWORK: u16 = 90;
const GET_STATISTICS: u16 = 94;
/// `struct rtgenmsg`.
const NETWORK_FIXED: usize = 4;
const NETWORK_NAME: u16 = 1;
const NETWORK_FD: u16 = 3;
/// `struct if_stats_msg`.
const STATISTICS_FIXED: usize = 12;
/// Of what is asked: the plain counters.
const STATISTICS_LINK: u32 = 1;
/// `struct ifinfomsg`.
const FIXED: usize = 16;
const UP: u32 = 1;

const ADDRESS: u16 = 1;
const NAME: u16 = 3;
const MTU: u16 = 4;
const PEERS_INDEX: u16 = 5;
const MASTER: u16 = 10;
const INFO: u16 = 18;
const ALIAS: u16 = 20;
const STATISTICS: u16 = 23;
const NETWORK_OF_FD: u16 = 28;
const QUEUES_OUT: u16 = 31;
const QUEUES_IN: u16 = 32;
const PEERS_NETWORK: u16 = 37;
const INFO_KIND: u16 = 1;
const INFO_DATA: u16 = 2;
const PORT: u16 = 12;
const PORT_HAIRPIN: u16 = 4;
const VETH_PEER: u16 = 1;

/// The longest name in bytes (`IFNAMSIZ` without its NUL).
pub const LONGEST_NAME: usize = 15;

/// Between two looks at whether an interface is gone.
const GLANCE: Duration = Duration::from_millis(1);

/// Counters of an interface, since it was made: `struct rtnl_link_stats64`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct Counters {
    pub rx_packets: u64,
    pub tx_packets: u64,
    pub rx_bytes: u64,
    pub tx_bytes: u64,
    pub rx_errors: u64,
    pub tx_errors: u64,
    pub rx_dropped: u64,
    pub tx_dropped: u64,
}

impl Counters {
    /// Both together; at most what a counter can hold.
    #[must_use]
    pub fn plus(&self, other: &Counters) -> Counters {
        Counters {
            rx_packets: self.rx_packets.saturating_add(other.rx_packets),
            tx_packets: self.tx_packets.saturating_add(other.tx_packets),
            rx_bytes: self.rx_bytes.saturating_add(other.rx_bytes),
            tx_bytes: self.tx_bytes.saturating_add(other.tx_bytes),
            rx_errors: self.rx_errors.saturating_add(other.rx_errors),
            tx_errors: self.tx_errors.saturating_add(other.tx_errors),
            rx_dropped: self.rx_dropped.saturating_add(other.rx_dropped),
            tx_dropped: self.tx_dropped.saturating_add(other.tx_dropped),
        }
    }
}

/// An interface as the kernel lists it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Link {
    /// Names it in its network.
    pub index: u32,
    /// Its name.
    pub name: String,
    /// `veth`, `bridge`, ...; `None` for hardware and loopback.
    pub kind: Option<String>,
    /// Switched on by its administrator.
    pub up: bool,
    /// Largest packet in bytes.
    pub mtu: u32,
    /// Hardware address; empty if it has none.
    pub address: Vec<u8>,
    /// Index of the bridge that it is a port of.
    pub master: Option<u32>,
    /// Index of the other end of a pair, in the network where that is.
    pub peer: Option<u32>,
    /// What this network calls the network of the other end; `None`: itself.
    pub peers_network: Option<i32>,
    /// Free text for people and for marks.
    pub alias: Option<String>,
    /// What went through it.
    pub counters: Counters,
}

/// Header of messages about one interface.
fn about(index: u32, flags: u32, mask: u32) -> [u8; FIXED] {
    let mut fixed = [0; FIXED];
    fixed[4..8].copy_from_slice(&index.to_ne_bytes());
    fixed[8..12].copy_from_slice(&flags.to_ne_bytes());
    fixed[12..16].copy_from_slice(&mask.to_ne_bytes());
    fixed
}

fn read(message: Message<'_>) -> Option<Link> {
    let (index, flags) = (number(message.body, 4)?, number(message.body, 8)?);
    let all = message.attributes(FIXED);
    let value = |kind| all.get(kind).and_then(|value| number(value, 0));
    let info = all.get(INFO).map(Attributes);
    Some(Link {
        index,
        name: text(all.get(NAME)?),
        kind: info.and_then(|info| info.get(INFO_KIND)).map(text),
        up: flags & UP != 0,
        mtu: value(MTU).unwrap_or(0),
        address: all.get(ADDRESS).unwrap_or_default().to_vec(),
        master: value(MASTER),
        peer: value(PEERS_INDEX).filter(|peer| *peer != 0),
        peers_network: value(PEERS_NETWORK).map(u32::cast_signed),
        alias: all.get(ALIAS).map(text),
        counters: all.get(STATISTICS).and_then(counters).unwrap_or_default(),
    })
}

fn counters(bytes: &[u8]) -> Option<Counters> {
    let at = |place: usize| long(bytes, place * 8);
    Some(Counters {
        rx_packets: at(0)?,
        tx_packets: at(1)?,
        rx_bytes: at(2)?,
        tx_bytes: at(3)?,
        rx_errors: at(4)?,
        tx_errors: at(5)?,
        rx_dropped: at(6)?,
        tx_dropped: at(7)?,
    })
}

/// All interfaces of the network.
///
/// # Errors
/// The kernel refuses.
pub fn list(socket: &mut Socket) -> Result<Vec<Link>, Error> {
    let request = Request::new(GET, 0).fixed(&[0; FIXED]);
    socket.list(&request, read).map_err(|e| e.doing("list", "the network interfaces"))
}

/// What went through all interfaces of the network, by index; cheaper than [`list`].
///
/// # Errors
/// The kernel refuses.
pub fn all_counters(socket: &mut Socket) -> Result<Vec<(u32, Counters)>, Error> {
    let mut fixed = [0; STATISTICS_FIXED];
    fixed[8..12].copy_from_slice(&STATISTICS_LINK.to_ne_bytes());
    let request = Request::new(GET_STATISTICS, 0).fixed(&fixed);
    let read = |message: Message<'_>| {
        let figures = message.attributes(STATISTICS_FIXED).get(1)?;
        Some((number(message.body, 4)?, counters(figures)?))
    };
    socket.list(&request, read).map_err(|e| e.doing("list", "the counters of interfaces"))
}

/// What the socket's network calls the network `other`; `None` if it has no name for
/// it.
///
/// # Errors
/// The kernel refuses.
pub fn name_of_network(socket: &mut Socket, other: BorrowedFd<'_>) -> Result<Option<i32>, Error> {
    let request = Request::new(GET_NETWORK, 0)
        .fixed(&[0; NETWORK_FIXED])
        .number(NETWORK_FD, other.as_raw_fd().cast_unsigned());
    let mut found = None;
    let read = |message: Message<'_>| {
        let name = message.attributes(NETWORK_FIXED).get(NETWORK_NAME);
        found = name.and_then(|name| number(name, 0)).map(u32::cast_signed);
    };
    socket.ask(request, read).map_err(|e| e.doing("name", "another network"))?;
    // -1: none.
    Ok(found.filter(|name| *name >= 0))
}

/// The interface of that name, if there is one.
///
/// # Errors
/// The kernel refuses.
pub fn find(socket: &mut Socket, name: &str) -> Result<Option<Link>, Error> {
    let request = Request::new(GET, 0).fixed(&[0; FIXED]).text(NAME, name);
    let mut found = None;
    match socket.ask(request, |message| found = read(message)) {
        Ok(()) => Ok(found),
        Err(refusal) if refusal.is(libc::ENODEV) => Ok(None),
        Err(refusal) => Err(refusal.doing("find", format!("the network interface '{name}'"))),
    }
}

/// How many queues the interface of that name has, out and in.
#[cfg(test)]
pub(super) fn queues(socket: &mut Socket, name: &str) -> [Option<u32>; 2] {
    let request = Request::new(GET, 0).fixed(&[0; FIXED]).text(NAME, name);
    let mut found = [None; 2];
    let read = |message: Message<'_>| {
        let all = message.attributes(FIXED);
        found = [QUEUES_OUT, QUEUES_IN].map(|kind| number(all.get(kind)?, 0));
    };
    socket.ask(request, read).expect("asked");
    found
}

/// One end of a pair.
#[derive(Debug, Clone, Default)]
pub struct End<'a> {
    /// Its name; of at most [`LONGEST_NAME`] bytes.
    pub name: &'a str,
    /// Hardware address; `None`: the kernel makes one.
    pub address: Option<[u8; 6]>,
    /// Largest packet in bytes; `None`: 1500.
    pub mtu: Option<u32>,
    /// Whether it is switched on at once.
    pub up: bool,
    /// Index of the bridge that it is made a port of.
    pub master: Option<u32>,
    /// The network that it is made in, by descriptor; `None`: the socket's.
    pub network: Option<BorrowedFd<'a>>,
}

impl End<'_> {
    fn header(&self) -> [u8; FIXED] {
        about(0, u32::from(self.up), u32::from(self.up))
    }

    fn append(&self, mut request: Request) -> Request {
        request = request.text(NAME, self.name).number(QUEUES_OUT, 1).number(QUEUES_IN, 1);
        if let Some(address) = &self.address {
            request = request.attribute(ADDRESS, address);
        }
        if let Some(mtu) = self.mtu {
            request = request.number(MTU, mtu);
        }
        if let Some(master) = self.master {
            request = request.number(MASTER, master);
        }
        if let Some(network) = self.network {
            request = request.number(NETWORK_OF_FD, network.as_raw_fd().cast_unsigned());
        }
        request
    }
}

/// Makes a pair of connected interfaces, both ends in one step. The kernel makes the peer
/// first, when it is connected to nothing: it can be neither `up` nor have a `master` yet.
///
/// Both have one queue each way. The kernel's own choice is as many as the machine may ever
/// have processors, which XDP alone uses, and which are all made, and asked for their
/// figures at each look.
///
/// # Errors
/// A name is taken (`EEXIST`), or the kernel refuses.
pub fn add_veth(socket: &mut Socket, end: &End<'_>, peer: &End<'_>) -> Result<(), Error> {
    let request = Request::new(NEW, flag::CREATE | flag::EXCLUSIVE).fixed(&end.header());
    let request = end.append(request).nested(INFO, |info| {
        info.text(INFO_KIND, "veth").nested(INFO_DATA, |data| {
            data.nested(VETH_PEER, |inner| peer.append(inner.fixed(&[0; FIXED])))
        })
    });
    let what = || format!("the pair of network interfaces '{}' and '{}'", end.name, peer.name);
    socket.tell(request).map_err(|e| e.doing("create", what()))
}

/// Makes an interface of a kind that needs no more than a name: `bridge`, `dummy`.
///
/// # Errors
/// The name is taken (`EEXIST`), or the kernel refuses.
pub fn add(socket: &mut Socket, name: &str, kind: &str) -> Result<(), Error> {
    let request = Request::new(NEW, flag::CREATE | flag::EXCLUSIVE)
        .fixed(&[0; FIXED])
        .text(NAME, name)
        .nested(INFO, |info| info.text(INFO_KIND, kind));
    socket.tell(request).map_err(|e| e.doing("create", format!("the {kind} interface '{name}'")))
}

/// Removes an interface; with one end of a pair goes the other. One that is gone
/// already is fine.
///
/// # Errors
/// The kernel refuses.
pub fn remove(socket: &mut Socket, name: &str) -> Result<(), Error> {
    let request = Request::new(DELETE, 0).fixed(&[0; FIXED]).text(NAME, name);
    gone_is_fine(socket.tell(request), libc::ENODEV)
        .map_err(|e| e.doing("remove", format!("the network interface '{name}'")))
}

/// As [`remove`], in the network of the calling thread, but returns when the interface is
/// out of it and nothing goes through it any more. The kernel keeps whoever removes it for
/// some 20 ms longer, until nothing of its own refers to it; that is left to a thread.
///
/// # Errors
/// As [`Socket::open`] and [`remove`].
pub fn remove_soon(name: &str) -> Result<(), Error> {
    let mut socket = Socket::open(Family::Route)?;
    if find(&mut socket, name)?.is_none() {
        return Ok(());
    }
    let (tell, removed) = std::sync::mpsc::channel();
    let owned = name.to_owned();
    let thread = std::thread::Builder::new().name("network".into());
    let work = move || {
        let done = Socket::open(Family::Route).and_then(|mut own| remove(&mut own, &owned));
        // Nobody listens any more if it was seen to be gone.
        let _ = tell.send(done);
    };
    if thread.spawn(work).is_err() {
        return remove(&mut socket, name);
    }
    loop {
        match removed.recv_timeout(GLANCE) {
            Ok(done) => return done,
            // The kernel answers when it has done what it does under its lock.
            Err(RecvTimeoutError::Timeout) if find(&mut socket, name)?.is_none() => return Ok(()),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return remove(&mut socket, name),
        }
    }
}

/// What may be changed of an interface.
#[derive(Debug, Clone, Copy)]
pub enum Change<'a> {
    /// Switch it on or off.
    Up(bool),
    /// Make it a port of the bridge with this index; 0: of none.
    Master(u32),
    /// Largest packet in bytes.
    Mtu(u32),
    /// Hardware address.
    Address([u8; 6]),
    /// Another name; only while it is off.
    Name(&'a str),
    /// Free text, at most 255 bytes.
    Alias(&'a str),
    /// Move it to another network.
    Network(BorrowedFd<'a>),
}

/// Changes one thing of the interface with this index.
///
/// # Errors
/// It is gone (`ENODEV`), or the kernel refuses.
pub fn change(socket: &mut Socket, index: u32, change: Change<'_>) -> Result<(), Error> {
    let plain = Request::new(NEW, 0).fixed(&about(index, 0, 0));
    let request = match change {
        Change::Up(up) => Request::new(NEW, 0).fixed(&about(index, u32::from(up), UP)),
        Change::Master(master) => plain.number(MASTER, master),
        Change::Mtu(mtu) => plain.number(MTU, mtu),
        Change::Address(address) => plain.attribute(ADDRESS, &address),
        Change::Name(name) => plain.text(NAME, name),
        Change::Alias(alias) => plain.text(ALIAS, alias),
        Change::Network(fd) => plain.number(NETWORK_OF_FD, fd.as_raw_fd().cast_unsigned()),
    };
    let what = || format!("network interface {index}: {change:?}");
    socket.tell(request).map_err(|e| e.doing("change", what()))
}

/// Whether a port of a bridge sends back what came from it.
///
/// # Errors
/// It is no port of a bridge.
pub fn hairpin(socket: &mut Socket, index: u32, on: bool) -> Result<(), Error> {
    let mut fixed = about(index, 0, 0);
    fixed[0] = libc::AF_BRIDGE as u8;
    let request = Request::new(SET, 0)
        .fixed(&fixed)
        .nested(PORT, |port| port.attribute(PORT_HAIRPIN, &[u8::from(on)]));
    let what = || format!("the hairpin mode of network interface {index}");
    socket.tell(request).map_err(|e| e.doing("change", what()))
}

/// A refusal that says that what was to be removed is not there.
pub(super) fn gone_is_fine(result: Result<(), Refusal>, errno: i32) -> Result<(), Refusal> {
    match result {
        Err(refusal) if refusal.is(errno) => Ok(()),
        other => other,
    }
}
