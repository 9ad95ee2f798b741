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
const GET_CLASS: u16 = 42;
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

/// `TC_H_ROOT`: an interface itself, as the parent of its first queue.
pub const ROOT: u32 = 0xffff_ffff;
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
const FAIR_FLOWS: u16 = 5;

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

impl Way {
    fn parent(self) -> u32 {
        match self {
            Way::Ingress => ON_INGRESS,
            Way::Egress => ON_EGRESS,
        }
    }
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
    let name = program.1;
    let what = || format!("the filter '{name}' of interface {index} ({way:?})");
    let request = filter(index, way.parent(), priority, program, DIRECT_ACTION);
    socket.tell(request).map_err(|e| e.doing("set", what()))
}

/// Puts a program at a place in the order of a queue's filters, as [`set_filter`];
/// its answer is the class of the packet.
///
/// # Errors
/// As [`set_filter`].
pub fn set_classifier(
    socket: &mut Socket,
    index: u32,
    queue: u32,
    priority: u16,
    program: (BorrowedFd<'_>, &str),
) -> Result<(), Error> {
    let name = program.1;
    let what = || format!("the filter '{name}' of a queue of interface {index}");
    let request = filter(index, queue, priority, program, 0);
    socket.tell(request).map_err(|e| e.doing("set", what()))
}

fn filter(
    index: u32,
    parent: u32,
    priority: u16,
    (fd, name): (BorrowedFd<'_>, &str),
    flags: u32,
) -> Request {
    let info = u32::from(priority) << 16 | EVERY_PROTOCOL;
    Request::new(NEW_FILTER, flag::CREATE | flag::REPLACE)
        .fixed(&header(index, 1, parent, info))
        .text(KIND, "bpf")
        .nested(OPTIONS, |options| {
            options
                .number(BPF_FD, fd.as_raw_fd().cast_unsigned())
                .text(BPF_NAME, name)
                .number(BPF_FLAGS, flags)
        })
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
    let request = Request::new(GET_FILTER, 0).fixed(&header(index, 0, way.parent(), 0));
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
    /// Bytes that can be saved up, and then leave at the ceiling; `None`: what 10 ms
    /// of the rate are.
    pub burst: Option<u64>,
}

/// Nobody can save up less, in bytes: a few packets that the kernel cuts later.
const LEAST_BURST: u64 = 16 << 10;
/// The kernel counts time in ticks of as many nanoseconds, to the power of 2.
const TICK: u32 = 6;

/// Ticks that `bytes` take.
fn ticks(bytes: u64, bytes_per_second: u64) -> u32 {
    let nanoseconds = u128::from(bytes) * 1_000_000_000 / u128::from(bytes_per_second.max(1));
    u32::try_from(nanoseconds >> TICK).unwrap_or(u32::MAX)
}

/// Bytes of as many ticks.
fn bytes(ticks: u32, bytes_per_second: u64) -> u64 {
    let bytes = (u128::from(ticks) << TICK) * u128::from(bytes_per_second) / 1_000_000_000;
    u64::try_from(bytes).unwrap_or(u64::MAX)
}

/// `struct tc_htb_opt`: two rates of 12 bytes, then burst, ceiling's burst, quantum,
/// level, priority.
fn htb(rate: Rate) -> [u8; 44] {
    let mut all = [0; 44];
    let narrow = |rate: u64| u32::try_from(rate).unwrap_or(u32::MAX);
    for (at, bytes_per_second) in [(0, rate.rate), (12, rate.ceiling)] {
        // Ethernet frames: the kernel needs no table of their lengths.
        all[at + 1] = 1;
        all[at + 8..at + 12].copy_from_slice(&narrow(bytes_per_second).to_ne_bytes());
    }
    let burst = rate.burst.unwrap_or(rate.rate / 100).max(LEAST_BURST);
    // What is saved up leaves at the ceiling: that one saves nothing.
    let peak = (rate.ceiling / 100).max(LEAST_BURST);
    all[24..28].copy_from_slice(&ticks(burst, rate.rate).to_ne_bytes());
    all[28..32].copy_from_slice(&ticks(peak, rate.ceiling).to_ne_bytes());
    // One class: how much it may send in its turn does not matter.
    all[32..36].copy_from_slice(&(64u32 << 10).to_ne_bytes());
    all
}

/// What [`htb`] has written, and the kernel has made of it.
fn read_rate(message: Message<'_>) -> Option<Rate> {
    let all = message.attributes(FIXED);
    if text(all.get(KIND)?) != "htb" || number(message.body, 8)? != CLASS {
        return None;
    }
    let options = Attributes(all.get(OPTIONS)?);
    let parameters = options.get(HTB_PARAMETERS)?;
    // Rates that 32 bits can hold have no other attribute.
    let wide = |kind, at| match options.get(kind) {
        Some(value) => long(value, 0),
        None => number(parameters, at).map(u64::from),
    };
    let (rate, ceiling) = (wide(HTB_RATE64, 8)?, wide(HTB_CEIL64, 20)?);
    let burst = bytes(number(parameters, 24)?, rate);
    Some(Rate { rate, ceiling, burst: Some(burst).filter(|_| ceiling > rate) })
}

/// The limit that [`set_limit`] has set, if there is one. What can be saved up is
/// told where there is a ceiling, and not to the byte.
///
/// # Errors
/// The kernel refuses.
pub fn limit(socket: &mut Socket, index: u32) -> Result<Option<Rate>, Error> {
    let request = Request::new(GET_CLASS, 0).fixed(&header(index, 0, 0, 0));
    let found = socket.list(&request, read_rate);
    let found = found.map_err(|e| e.doing("read", format!("the limit of interface {index}")))?;
    Ok(found.into_iter().next())
}

/// The classes of an interface's queues, by number; of fair queues those where
/// something waits.
///
/// # Errors
/// The kernel refuses.
pub fn classes(socket: &mut Socket, index: u32) -> Result<Vec<u32>, Error> {
    let request = Request::new(GET_CLASS, 0).fixed(&header(index, 0, 0, 0));
    let found = socket.list(&request, |message| number(message.body, 8));
    found.map_err(|e| e.doing("list", format!("the classes of interface {index}")))
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

/// Fair queues that packets are sorted into by number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fair {
    /// The queue's own number; those of its flows are beside it, from 1.
    pub handle: u32,
    /// How many flows it has.
    pub flows: u32,
}

/// Puts fair queues (`fq_codel`) with this many flows under `parent`, which is
/// [`ROOT`] or a class; those that are there already are taken as they are.
///
/// # Errors
/// There is a queue of another kind, which somebody has chosen; the kernel refuses, or
/// lacks `sch_fq_codel`.
pub fn fair_queues(
    socket: &mut Socket,
    index: u32,
    parent: u32,
    flows: u32,
) -> Result<Fair, Error> {
    let there = queues(socket)?;
    let there: Vec<&Queue> = there.iter().filter(|queue| queue.index == index).collect();
    // Number 0: the kernel's own choice, which gives way.
    let taken = there.iter().find(|queue| queue.parent == parent && queue.handle != 0);
    if let Some(taken) = taken {
        return match taken.kind.as_str() {
            "fq_codel" => Ok(Fair { handle: taken.handle, flows: taken.flows }),
            kind => Err(Error::new(
                "add",
                format!("fair queues to interface {index}: there is a queue of kind {kind}"),
                std::io::ErrorKind::AlreadyExists.into(),
            )),
        };
    }
    let first = if parent == ROOT { 1 } else { (parent >> 16) + 1 };
    let free = |handle: &u32| there.iter().all(|queue| queue.handle != *handle);
    let handle = (first..0x7fff).map(|major| major << 16).find(free).unwrap_or(first << 16);
    let request = Request::new(NEW_QUEUE, flag::CREATE | flag::EXCLUSIVE)
        .fixed(&header(index, handle, parent, 0))
        .text(KIND, "fq_codel")
        .nested(OPTIONS, |options| options.number(FAIR_FLOWS, flows));
    socket
        .tell(request)
        .map_err(|e| e.doing("add", format!("fair queues to interface {index}")))?;
    Ok(Fair { handle, flows })
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
    pub handle: u32,
    pub parent: u32,
    pub kind: String,
    /// Of fair queues.
    pub flows: u32,
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
    let at = |place| number(message.body, place);
    let (index, handle, parent) = (at(4)?, at(8)?, at(12)?);
    let mut queue = Queue { index, handle, parent, kind: text(all.get(KIND)?), ..Queue::default() };
    if queue.kind == "fq_codel"
        && let Some(flows) =
            all.get(OPTIONS).and_then(|options| Attributes(options).get(FAIR_FLOWS))
    {
        queue.flows = number(flows, 0)?;
    }
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

#[cfg(test)]
mod tests {
    use super::super::message::Messages;
    use super::*;

    #[test]
    fn rates_are_read_back() {
        let wanted = Rate { rate: 1_000_000, ceiling: 3_000_000, burst: Some(200_000) };
        let options = Request::new(0, 0).attribute(HTB_PARAMETERS, &htb(wanted)).finish(0, 0);
        let request = Request::new(0, 0)
            .fixed(&header(7, CLASS, HTB, 0))
            .text(KIND, "htb")
            .attribute(OPTIONS, &options[16..])
            .finish(0, 0);
        let message = Messages(&request).next().expect("a message");
        let found = read_rate(message).expect("a rate");
        assert_eq!((found.rate, found.ceiling), (wanted.rate, wanted.ceiling));
        let burst = found.burst.expect("a burst");
        assert!((199_000..=200_000).contains(&burst), "{burst}");
    }

    #[test]
    fn what_is_saved_up_leaves_at_the_ceiling() {
        let all = htb(Rate { rate: 1_000_000, ceiling: 2_000_000, burst: Some(1_000_000) });
        // One second of the rate; 10 ms of the ceiling.
        assert_eq!(number(&all, 24), Some(1_000_000_000 >> TICK));
        assert_eq!(number(&all, 28), Some(10_000_000 >> TICK));
        // Without a ceiling and a burst.
        let all = htb(Rate { rate: 100_000_000, ceiling: 100_000_000, burst: None });
        assert_eq!(number(&all, 24), Some(10_000_000 >> TICK));
        assert_eq!(number(&all, 24), number(&all, 28));
    }
}
