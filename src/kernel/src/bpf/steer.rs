//! Programs that steer packets by port: which interface has which port is in a map.
//! Pure.
//!
//! All containers have the host's address; whose a packet is, its port says. Three
//! programs share the map (port to interface index, 0 for the host's own):
//!
//! | program | where | what it does |
//! |---|---|---|
//! | [`inbound`] | host's public interface, ingress; host's loopback, egress | what is for a container's port goes to its interface |
//! | [`outbound`] | host's end of a container's pair, ingress | lets pass what has the container's port; to another container, to the host, or out |
//! | [`inside`] | container's loopback, egress | what is for the host's address and not for the container's ports leaves |
//!
//! Not steered, and so the host's: fragments, IPv4 options, IPv6 extension headers.
//! Answers to pings go by their identifier, which a second map remembers; errors
//! that concern a connection go by the port in the packet that they quote.

use std::collections::HashMap;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::os::fd::RawFd;

use super::instruction::{
    ADD, AND, CONTEXT, EXIT, Instruction, JUMP, JUMP_EQUAL, JUMP_NULL, JUMP_OTHER, LOAD_BYTE_AT,
    LOAD_HALF_AT, LOAD_WORD_AT, MOVE, OR, RESULT, SHIFT_RIGHT, STORE_WORD, call, copy, jump, load,
    load_from, map, op, store, store_half, unless_same,
};

/// Call numbers of the kernel's helpers.
const LOOK_UP: i32 = 1;
const UPDATE: i32 = 2;
const STORE_BYTES: i32 = 9;
const REDIRECT: i32 = 23;
const CHANGE_TYPE: i32 = 32;
const REDIRECT_NEIGHBOUR: i32 = 152;

/// Answers: the next filter decides; up to the stack; away with it.
const NEXT: i32 = -1;
const UP: i32 = 0;
const DROP: i32 = 2;

const SKB: u8 = 6;
const TARGET: u8 = 7;
const OWN: u8 = 8;
const LOCAL: u8 = 9;
const FRAME: u8 = 10;
/// Offset of `ifindex` in the context.
const INTERFACE: i16 = 40;
/// Offset of `priority` in the context: the class that a packet asks for.
const CLASS: i16 = 32;

/// Offsets in a frame; IPv4 headers have 20 bytes, IPv6 headers 40.
const ETHERTYPE: i32 = 12;
const IP4: i32 = 14;
const IP6: i32 = 14;
const PORTS4: i32 = IP4 + 20;
const PORTS6: i32 = IP6 + 40;

const TCP: i32 = 6;
const UDP: i32 = 17;
const ICMP: i32 = 1;
const ICMP6: i32 = 58;
/// Identifiers of IPv6 pings are apart from those of IPv4.
const IDENTIFIERS6: i32 = 0x1_0000;

/// What the programs need to know of the host.
#[derive(Debug, Clone, Copy)]
pub struct Host {
    /// The address that everybody has.
    pub v4: Ipv4Addr,
    /// The same of IPv6.
    pub v6: Option<Ipv6Addr>,
    /// Hardware address of the public interface, and of all containers.
    pub mac: [u8; 6],
    /// Index of the public interface.
    pub public: u32,
    /// Port to interface.
    pub ports: RawFd,
    /// Identifiers of pings to interface.
    pub pings: RawFd,
}

/// A program with names for its places.
#[derive(Default)]
struct Assembly {
    code: Vec<Instruction>,
    places: HashMap<&'static str, usize>,
    jumps: Vec<(usize, &'static str)>,
}

impl Assembly {
    fn push(&mut self, instruction: Instruction) -> &mut Assembly {
        self.code.push(instruction);
        self
    }

    /// The place of that name is here.
    fn here(&mut self, name: &'static str) -> &mut Assembly {
        self.places.insert(name, self.code.len());
        self
    }

    fn to(&mut self, name: &'static str, instruction: Instruction) -> &mut Assembly {
        self.jumps.push((self.code.len(), name));
        self.push(instruction)
    }

    fn go(&mut self, name: &'static str) -> &mut Assembly {
        self.to(name, jump(JUMP, 0, 0, 0))
    }

    fn if_equal(&mut self, value: i32, name: &'static str) -> &mut Assembly {
        self.to(name, jump(JUMP_EQUAL, RESULT, value, 0))
    }

    fn if_other(&mut self, value: i32, name: &'static str) -> &mut Assembly {
        self.to(name, jump(JUMP_OTHER, RESULT, value, 0))
    }

    /// A number of the packet, in the machine's order; a packet that is too short
    /// goes up.
    fn byte(&mut self, at: i32) -> &mut Assembly {
        self.push(op(LOAD_BYTE_AT, 0, at))
    }

    fn half(&mut self, at: i32) -> &mut Assembly {
        self.push(op(LOAD_HALF_AT, 0, at))
    }

    fn word(&mut self, at: i32) -> &mut Assembly {
        self.push(op(LOAD_WORD_AT, 0, at))
    }

    fn answer(&mut self, value: i32) -> &mut Assembly {
        self.push(op(MOVE, RESULT, value)).push(op(EXIT, 0, 0))
    }

    /// The interface of the port, or identifier, in the result; 0: nobody's.
    fn look_up(&mut self, table: RawFd, nobody: &'static str) -> &mut Assembly {
        self.push(store(FRAME, RESULT, -4));
        self.code.extend(map(1, table));
        self.push(copy(2, FRAME)).push(op(ADD, 2, -4));
        self.push(call(LOOK_UP)).to(nobody, jump(JUMP_NULL, RESULT, 0, 0));
        self.push(load_from(RESULT, RESULT, 0)).if_equal(0, nobody)
    }

    /// Goes to `local` if the address at `at` is the host's, or with `loops` a
    /// loopback address; else on.
    fn if_host4(&mut self, host: &Host, at: i32, loops: bool, local: &'static str) {
        self.word(at).if_equal(u32::from(host.v4).cast_signed(), local);
        if loops {
            self.push(op(SHIFT_RIGHT, RESULT, 24)).if_equal(127, local);
        }
    }

    /// Goes to `other` unless the address at `at` is `v6`.
    fn unless_host6(&mut self, v6: Ipv6Addr, at: i32, other: &'static str) {
        for (place, part) in v6.octets().chunks(4).enumerate() {
            let part = part.iter().fold(0u32, |all, byte| all << 8 | u32::from(*byte));
            self.word(at + place as i32 * 4).if_other(part.cast_signed(), other);
        }
    }

    /// To the interface in `TARGET`.
    fn send(&mut self) -> &mut Assembly {
        self.push(copy(1, TARGET)).push(op(MOVE, 2, 0)).push(call(REDIRECT));
        self.push(op(EXIT, 0, 0))
    }

    /// The packet is for the hardware address that everybody has.
    fn address(&mut self, host: &Host) -> &mut Assembly {
        let [a, b, c, d, e, f] = host.mac;
        self.push(op(STORE_WORD, FRAME, i32::from_ne_bytes([a, b, c, d])).at(-16));
        self.push(store_half(FRAME, -12, i32::from(u16::from_ne_bytes([e, f]))));
        self.push(copy(1, SKB)).push(op(MOVE, 2, 0));
        self.push(copy(3, FRAME)).push(op(ADD, 3, -16));
        self.push(op(MOVE, 4, 6)).push(op(MOVE, 5, 0)).push(call(STORE_BYTES))
    }

    /// The kernel refuses parts that are never reached: without an address of IPv6
    /// nothing is said of it.
    fn start(&mut self, host: &Host) {
        self.push(copy(SKB, CONTEXT));
        self.push(load(OWN, INTERFACE));
        self.half(ETHERTYPE).if_equal(0x0800, "v4");
        if host.v6.is_some() {
            self.if_equal(0x86dd, "v6");
        }
    }

    /// The program.
    fn finish(mut self) -> Vec<Instruction> {
        for (at, name) in self.jumps {
            // Every name is a place of the same program; it has a few hundred steps.
            let place = self.places.get(name).copied().unwrap_or(at);
            self.code[at].offset = (place as i16) - (at as i16) - 1;
        }
        self.code
    }
}

/// Whole IPv4 packets without options only.
fn plain4(asm: &mut Assembly, other: &'static str) {
    asm.byte(IP4).if_other(0x45, other);
    asm.half(IP4 + 6).push(op(AND, RESULT, 0x3fff)).if_other(0, other);
}

/// For the public interface (`loops` false) and for the loopback interface.
#[must_use]
pub fn inbound(host: &Host, loops: bool) -> Vec<Instruction> {
    let mut asm = Assembly::default();
    asm.start(host);
    asm.go("next").here("v4");
    asm.if_host4(host, IP4 + 16, loops, "ours4");
    asm.go("next").here("ours4");
    plain4(&mut asm, "next");
    asm.byte(IP4 + 9).if_equal(TCP, "ports4").if_equal(UDP, "ports4").if_other(ICMP, "next");
    // An answer to a ping, or an error about a packet of a container.
    asm.byte(PORTS4).if_equal(0, "ping4").if_equal(3, "error4");
    asm.if_equal(11, "error4").if_other(12, "next").here("error4");
    let quoted = PORTS4 + 8;
    asm.byte(quoted).if_other(0x45, "next");
    asm.byte(quoted + 9).if_equal(TCP, "quoted4").if_other(UDP, "next").here("quoted4");
    asm.half(quoted + 20).go("port");
    asm.here("ping4").half(PORTS4 + 4).go("ping");
    asm.here("ports4").half(PORTS4 + 2).go("port");

    if let Some(v6) = host.v6 {
        asm.here("v6");
        asm.unless_host6(v6, IP6 + 24, "next");
        asm.byte(IP6 + 6).if_equal(TCP, "ports6").if_equal(UDP, "ports6").if_other(ICMP6, "next");
        asm.byte(PORTS6).if_equal(129, "ping6").if_equal(1, "error6");
        asm.if_equal(2, "error6").if_equal(3, "error6").if_other(4, "next").here("error6");
        let quoted = PORTS6 + 8;
        asm.byte(quoted + 6).if_equal(TCP, "quoted6").if_other(UDP, "next").here("quoted6");
        asm.half(quoted + 40).go("port");
        asm.here("ping6").half(PORTS6 + 4).push(op(OR, RESULT, IDENTIFIERS6)).go("ping");
        asm.here("ports6").half(PORTS6 + 2);
    }

    asm.here("port").look_up(host.ports, "next").push(copy(TARGET, RESULT)).go("send");
    asm.here("ping").look_up(host.pings, "next").push(copy(TARGET, RESULT)).here("send");
    // What has come over the wire has it already, or is somebody else's: to write it
    // would copy the packet's head.
    if loops {
        asm.address(host);
    }
    asm.send();
    asm.here("next").answer(NEXT);
    asm.finish()
}

/// For the fair queues of the public interface: what asks for no flow goes to the
/// first, which is the host's.
#[must_use]
pub fn first_flow() -> Vec<Instruction> {
    vec![op(MOVE, RESULT, 1), op(EXIT, 0, 0)]
}

/// For the host's end of a container's pair. `class`: what leaves the host asks for
/// this one.
#[must_use]
pub fn outbound(host: &Host, class: Option<u32>) -> Vec<Instruction> {
    let mut asm = Assembly::default();
    asm.start(host);
    // There is nothing else to say: neighbours are known.
    asm.go("drop").here("v4");
    // LOCAL: it comes from a loopback address, and must not leave the host.
    asm.push(op(MOVE, LOCAL, 0)).word(IP4 + 12);
    asm.if_equal(u32::from(host.v4).cast_signed(), "from4");
    asm.push(op(SHIFT_RIGHT, RESULT, 24)).if_other(127, "drop");
    asm.push(op(MOVE, LOCAL, 1)).here("from4");
    asm.byte(IP4).if_other(0x45, "drop");
    asm.half(IP4 + 6).push(op(AND, RESULT, 0x1fff)).if_other(0, "rest4");
    asm.byte(IP4 + 9).if_equal(TCP, "ports4").if_equal(UDP, "ports4").if_other(ICMP, "drop");
    asm.byte(PORTS4).if_other(8, "rest4");
    asm.half(PORTS4 + 4).go("ping4");
    asm.here("ports4").half(PORTS4).look_up(host.ports, "drop");
    asm.to("drop", unless_same(RESULT, OWN));
    asm.if_host4(host, IP4 + 16, true, "to4");
    asm.go("out").here("to4").half(PORTS4 + 2).go("port");
    // Only what leaves the host: a fragment, an error, a ping.
    asm.here("ping4");
    remember(&mut asm, host);
    asm.here("rest4");
    asm.if_host4(host, IP4 + 16, true, "drop");
    asm.go("out");

    if let Some(v6) = host.v6 {
        asm.here("v6").push(op(MOVE, LOCAL, 0));
        asm.unless_host6(v6, IP6 + 8, "drop");
        asm.byte(IP6 + 6).if_equal(TCP, "ports6").if_equal(UDP, "ports6").if_other(ICMP6, "drop");
        // Errors and pings. Neighbours and routers are known: nobody asks for them.
        asm.byte(PORTS6);
        for kind in [1, 2, 3, 4, 129] {
            asm.if_equal(kind, "rest6");
        }
        asm.if_other(128, "drop");
        asm.half(PORTS6 + 4).push(op(OR, RESULT, IDENTIFIERS6));
        remember(&mut asm, host);
        asm.here("rest6");
        asm.unless_host6(v6, IP6 + 24, "out");
        asm.go("drop");
        asm.here("ports6").half(PORTS6).look_up(host.ports, "drop");
        asm.to("drop", unless_same(RESULT, OWN));
        asm.unless_host6(v6, IP6 + 24, "out");
        asm.half(PORTS6 + 2);
    }

    // For somebody on this host: another container, or the host itself.
    asm.here("port").look_up(host.ports, "up").push(copy(TARGET, RESULT));
    asm.address(host).send();
    asm.here("up").push(copy(1, SKB)).push(op(MOVE, 2, 0)).push(call(CHANGE_TYPE)).answer(UP);
    asm.here("out").push(copy(RESULT, LOCAL)).if_other(0, "drop");
    if let Some(class) = class {
        asm.push(op(MOVE, RESULT, class.cast_signed())).push(store(SKB, RESULT, CLASS));
    }
    asm.push(op(MOVE, 1, host.public.cast_signed())).push(op(MOVE, 2, 0)).push(op(MOVE, 3, 0));
    asm.push(op(MOVE, 4, 0)).push(call(REDIRECT_NEIGHBOUR)).push(op(EXIT, 0, 0));
    asm.here("drop").answer(DROP);
    asm.finish()
}

/// The ping with the identifier in the result is this container's.
fn remember(asm: &mut Assembly, host: &Host) {
    asm.push(store(FRAME, RESULT, -4)).push(store(FRAME, OWN, -8));
    asm.code.extend(map(1, host.pings));
    asm.push(copy(2, FRAME)).push(op(ADD, 2, -4));
    asm.push(copy(3, FRAME)).push(op(ADD, 3, -8));
    asm.push(op(MOVE, 4, 0)).push(call(UPDATE));
}

/// For the loopback interface of a container, whose ports are those of the host's
/// interface `own`; `way_out` is the index of its own interface.
#[must_use]
pub fn inside(host: &Host, own: u32, way_out: u32) -> Vec<Instruction> {
    let mut asm = Assembly::default();
    asm.start(host);
    asm.go("stay").here("v4");
    asm.if_host4(host, IP4 + 16, true, "ours4");
    asm.go("stay").here("ours4");
    plain4(&mut asm, "stay");
    asm.byte(IP4 + 9).if_equal(TCP, "ports4").if_other(UDP, "stay").here("ports4");
    asm.half(PORTS4 + 2).go("port");
    if let Some(v6) = host.v6 {
        asm.here("v6");
        asm.unless_host6(v6, IP6 + 24, "stay");
        asm.byte(IP6 + 6).if_equal(TCP, "ports6").if_other(UDP, "stay").here("ports6");
        asm.half(PORTS6 + 2);
    }
    asm.here("port").look_up(host.ports, "leave").if_equal(own.cast_signed(), "stay");
    asm.here("leave").push(op(MOVE, 1, way_out.cast_signed())).push(op(MOVE, 2, 0));
    asm.push(call(REDIRECT)).push(op(EXIT, 0, 0));
    asm.here("stay").answer(NEXT);
    asm.finish()
}

#[cfg(test)]
mod tests {
    use super::super::classifier;
    use super::super::map::Map;
    use super::*;

    /// With an address of IPv6 and without one.
    fn hosts(ports: RawFd, pings: RawFd) -> [Host; 2] {
        let both = Host {
            v4: Ipv4Addr::new(192, 168, 7, 9),
            v6: Some("fd00::9".parse().unwrap()),
            mac: [2, 3, 4, 5, 6, 7],
            public: 2,
            ports,
            pings,
        };
        [both, Host { v6: None, ..both }]
    }

    fn programs(host: &Host) -> [Vec<Instruction>; 6] {
        let out = [outbound(host, None), outbound(host, Some(0x1_0003))];
        let [plain, sorted] = out;
        let own = inside(host, 7, 2);
        [inbound(host, false), inbound(host, true), plain, sorted, own, first_flow()]
    }

    #[test]
    fn jumps_lead_forwards() {
        for program in hosts(3, 4).iter().flat_map(programs) {
            assert!(program.len() < 250, "{}", program.len());
            for (at, instruction) in program.iter().enumerate() {
                let jumps = [JUMP, JUMP_EQUAL, JUMP_OTHER, JUMP_NULL].contains(&instruction.code);
                let target = at as i64 + 1 + i64::from(instruction.offset);
                assert!(!jumps || (target as usize) < program.len(), "{at}: {instruction:?}");
                assert!(!jumps || instruction.offset >= 0, "{at}: {instruction:?}");
            }
        }
    }

    #[test]
    fn the_kernel_takes_them() {
        if !crate::proctree::is_root() {
            eprintln!("SKIPPED: needs root");
            return;
        }
        let (ports, pings) = (Map::array("ports", 1 << 16), Map::recent("pings", 64));
        let (ports, pings) = (ports.expect("a map"), pings.expect("a map"));
        for program in hosts(ports.fd(), pings.fd()).iter().flat_map(programs) {
            classifier("test", &program).expect("a program");
        }
        ports.set(80, 7).expect("set");
        assert_eq!((ports.get(80).expect("80"), ports.get(81).expect("81")), (7, 0));
        assert_eq!(pings.get(5).expect("none"), 0);
        assert!(ports.set(1 << 16, 1).is_err());
    }
}
