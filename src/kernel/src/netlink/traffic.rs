//! Traffic control: queues and filters of interfaces, `tc`.
//!
//! A limit is a token bucket (HTB) with one class, and in it fair queues that keep
//! delays short (`fq_codel`). Filters are eBPF programs on the way in or out.

use std::os::fd::{AsRawFd, BorrowedFd};

use super::link::gone_is_fine;
use super::message::{Attributes, Message, Request, flag, long, number, text};
use super::socket::Socket;
use crate::Error;

const NEW_QUEUE: u16 = 36;
const DELETE_QUEUE: u16 = 37;
const GET_QUEUE: u16 = 38;
const NEW_CLASS: u16 = 40;
const NEW_FILTER: u16 = 44;
const GET_FILTER: u16 = 46;
/// `struct tcmsg`.
const FIXED: usize = 20;
const KIND: u16 = 1;
const OPTIONS: u16 = 2;
const STATISTICS: u16 = 7;
const STATISTICS_BASIC: u16 = 1;
const STATISTICS_RATE: u16 = 2;
const STATISTICS_QUEUE: u16 = 3;

/// `TC_H_ROOT`.
const ROOT: u32 = 0xffff_ffff;
/// `TC_H_CLSACT` and its minors.
const CLSACT: u32 = 0xffff_fff1;
const ON_INGRESS: u32 = 0xffff_fff2;
const ON_EGRESS: u32 = 0xffff_fff3;
const HTB: u32 = 0x1_0000;
const CLASS: u32 = 0x1_0001;
const FAIR: u32 = 0x2_0000;

const BPF_FD: u16 = 6;
const BPF_NAME: u16 = 7;
const BPF_FLAGS: u16 = 8;
const BPF_ID: u16 = 11;
/// The program's answer is what is done with the packet.
const DIRECT_ACTION: u32 = 1;
const EVERY_PROTOCOL: u32 = 0x0300;
const HTB_PARAMETERS: u16 = 1;
const HTB_INITIAL: u16 = 2;
const HTB_RATE64: u16 = 6;
const HTB_CEIL64: u16 = 7;

fn header(index: u32, handle: u32, parent: u32, info: u32) -> [u8; FIXED] {
    let mut fixed = [0; FIXED];
    fixed[4..8].copy_from_slice(&index.to_ne_bytes());
    fixed[8..12].copy_from_slice(&handle.to_ne_bytes());
    fixed[12..16].copy_from_slice(&parent.to_ne_bytes());
    fixed[16..20].copy_from_slice(&info.to_ne_bytes());
    fixed
}

/// Which way packets go through an interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// Into this machine.
    Ingress,
    /// Out of it.
    Egress,
}

/// Gives an interface the place where filters can be; one that is there is fine.
///
/// # Errors
/// The kernel refuses, or lacks `sch_ingress`.
pub fn add_filters(socket: &mut Socket, index: u32) -> Result<(), Error> {
    let request = Request::new(NEW_QUEUE, flag::CREATE | flag::EXCLUSIVE)
        .fixed(&header(index, 0xffff_0000, CLSACT, 0))
        .text(KIND, "clsact");
    gone_is_fine(socket.tell(request), libc::EEXIST)
        .map_err(|e| e.doing("add", format!("filters (clsact) to interface {index}")))
}

/// Puts a program at a place in the order of an interface's filters; replaces the
/// one that is there. `priority`: from 1, the lowest is asked first.
///
/// # Errors
/// The kernel refuses, or lacks `cls_bpf`.
pub fn set_filter(
    socket: &mut Socket,
    index: u32,
    way: Way,
    priority: u16,
    program: (BorrowedFd<'_>, &str),
) -> Result<(), Error> {
    let parent = match way {
        Way::Ingress => ON_INGRESS,
        Way::Egress => ON_EGRESS,
    };
    let info = u32::from(priority) << 16 | EVERY_PROTOCOL;
    let (fd, name) = program;
    let request = Request::new(NEW_FILTER, flag::CREATE | flag::REPLACE)
        .fixed(&header(index, 1, parent, info))
        .text(KIND, "bpf")
        .nested(OPTIONS, |options| {
            options
                .number(BPF_FD, fd.as_raw_fd().cast_unsigned())
                .text(BPF_NAME, name)
                .number(BPF_FLAGS, DIRECT_ACTION)
        });
    let what = || format!("the filter '{name}' of interface {index} ({way:?})");
    socket.tell(request).map_err(|e| e.doing("set", what()))
}

/// A program among the filters of an interface.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Filter {
    /// Its place in their order, from 1.
    pub priority: u16,
    /// Its name.
    pub name: String,
    /// Of the program.
    pub id: u32,
}

/// The programs among an interface's filters.
///
/// # Errors
/// The kernel refuses.
pub fn filters(socket: &mut Socket, index: u32, way: Way) -> Result<Vec<Filter>, Error> {
    let parent = match way {
        Way::Ingress => ON_INGRESS,
        Way::Egress => ON_EGRESS,
    };
    let request = Request::new(GET_FILTER, 0).fixed(&header(index, 0, parent, 0));
    let read = |message: Message<'_>| {
        let options = Attributes(message.attributes(FIXED).get(OPTIONS)?);
        // The upper half; a priority has 16 bits.
        let priority = (number(message.body, 16)? >> 16) as u16;
        let (name, id) = (text(options.get(BPF_NAME)?), number(options.get(BPF_ID)?, 0)?);
        Some(Filter { priority, name, id })
    };
    socket
        .list(&request, read)
        .map_err(|e| e.doing("list", format!("the filters of interface {index}")))
}

/// How much may leave by an interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate {
    /// Bytes per second.
    pub rate: u64,
    /// Bytes per second for as long as there is something saved up; `rate` or more.
    pub ceiling: u64,
    /// Bytes that may leave at once; `None`: what 10 ms of the rate are.
    pub burst: Option<u64>,
}

/// `struct tc_htb_opt`: two rates of 12 bytes, then burst, ceiling's burst, quantum,
/// level, priority.
fn htb(rate: Rate) -> [u8; 44] {
    let mut bytes = [0; 44];
    let narrow = |rate: u64| u32::try_from(rate).unwrap_or(u32::MAX);
    for (at, bytes_per_second) in [(0, rate.rate), (12, rate.ceiling)] {
        // Ethernet frames: the kernel needs no table of their lengths.
        bytes[at + 1] = 1;
        bytes[at + 8..at + 12].copy_from_slice(&narrow(bytes_per_second).to_ne_bytes());
    }
    let burst = rate.burst.unwrap_or(rate.rate / 100).max(16 << 10);
    // In ticks of 64 ns that the bytes take.
    let ticks = |bytes: u64, rate: u64| {
        let nanoseconds = u128::from(bytes) * 1_000_000_000 / u128::from(rate.max(1));
        u32::try_from(nanoseconds >> 6).unwrap_or(u32::MAX)
    };
    bytes[24..28].copy_from_slice(&ticks(burst, rate.rate).to_ne_bytes());
    bytes[28..32].copy_from_slice(&ticks(burst, rate.ceiling).to_ne_bytes());
    // One class: how much it may send in its turn does not matter.
    bytes[32..36].copy_from_slice(&(64u32 << 10).to_ne_bytes());
    bytes
}

/// Limits what leaves by an interface, or changes the limit.
///
/// # Errors
/// The kernel refuses, or lacks `sch_htb`. Without `sch_fq_codel` there are no fair
/// queues.
pub fn set_limit(socket: &mut Socket, index: u32, rate: Rate) -> Result<(), Error> {
    let mut initial = [0; 20];
    // Version 3, ten quanta; what has no class goes to the first.
    initial[0..4].copy_from_slice(&3u32.to_ne_bytes());
    initial[4..8].copy_from_slice(&10u32.to_ne_bytes());
    initial[8..12].copy_from_slice(&1u32.to_ne_bytes());
    let root = Request::new(NEW_QUEUE, flag::CREATE | flag::EXCLUSIVE)
        .fixed(&header(index, HTB, ROOT, 0))
        .text(KIND, "htb")
        .nested(OPTIONS, |options| options.attribute(HTB_INITIAL, &initial));
    let class = Request::new(NEW_CLASS, flag::CREATE)
        .fixed(&header(index, CLASS, HTB, 0))
        .text(KIND, "htb")
        .nested(OPTIONS, |options| {
            options
                .attribute(HTB_PARAMETERS, &htb(rate))
                .attribute(HTB_RATE64, &rate.rate.to_ne_bytes())
                .attribute(HTB_CEIL64, &rate.ceiling.to_ne_bytes())
        });
    let fair = Request::new(NEW_QUEUE, flag::CREATE | flag::EXCLUSIVE)
        .fixed(&header(index, FAIR, CLASS, 0))
        .text(KIND, "fq_codel");
    for (what, request) in [("queue", root), ("rate", class)] {
        gone_is_fine(socket.tell(request), libc::EEXIST)
            .map_err(|e| e.doing("set", format!("the {what} of interface {index}")))?;
    }
    // Without fair queues the limit holds all the same; only delays are longer.
    let _ = gone_is_fine(socket.tell(fair), libc::EEXIST);
    Ok(())
}

/// Takes the limit away; no limit is fine.
///
/// # Errors
/// The kernel refuses.
pub fn remove_limit(socket: &mut Socket, index: u32) -> Result<(), Error> {
    let request = Request::new(DELETE_QUEUE, 0).fixed(&header(index, HTB, ROOT, 0));
    // Nothing there is ENOENT; the kernel's own queue is EINVAL.
    gone_is_fine(gone_is_fine(socket.tell(request), libc::ENOENT), libc::EINVAL)
        .map_err(|e| e.doing("remove", format!("the limit of interface {index}")))
}

/// Figures of a queue.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct Queue {
    pub index: u32,
    pub kind: String,
    pub bytes: u64,
    pub packets: u32,
    pub bytes_per_second: u32,
    pub packets_per_second: u32,
    pub length: u32,
    pub backlog: u32,
    pub drops: u32,
    pub requeues: u32,
    pub overlimits: u32,
}

fn read(message: Message<'_>) -> Option<Queue> {
    let all = message.attributes(FIXED);
    let mut queue =
        Queue { index: number(message.body, 4)?, kind: text(all.get(KIND)?), ..Queue::default() };
    let figures = Attributes(all.get(STATISTICS)?);
    if let Some(basic) = figures.get(STATISTICS_BASIC) {
        (queue.bytes, queue.packets) = (long(basic, 0)?, number(basic, 8)?);
    }
    if let Some(rate) = figures.get(STATISTICS_RATE) {
        (queue.bytes_per_second, queue.packets_per_second) = (number(rate, 0)?, number(rate, 4)?);
    }
    if let Some(waiting) = figures.get(STATISTICS_QUEUE) {
        let at = |place: usize| number(waiting, place * 4);
        (queue.length, queue.backlog, queue.drops) = (at(0)?, at(1)?, at(2)?);
        (queue.requeues, queue.overlimits) = (at(3)?, at(4)?);
    }
    Some(queue)
}

/// The queues of all interfaces of the network.
///
/// # Errors
/// The kernel refuses.
pub fn queues(socket: &mut Socket) -> Result<Vec<Queue>, Error> {
    let request = Request::new(GET_QUEUE, 0).fixed(&[0; FIXED]);
    socket.list(&request, read).map_err(|e| e.doing("list", "the queues of interfaces"))
}
