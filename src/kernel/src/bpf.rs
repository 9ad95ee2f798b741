//! Programs on cgroups of v2: loading, attaching with replace, listing, detaching.
//!
//! v2 has no `devices.allow`: a small eBPF program per cgroup decides, and another
//! one which ports may be bound. The kernel asks every program on the way to the
//! root and all must agree, so ours can only take away. Programs of others
//! (systemd's `DevicePolicy=`, a container runtime) on the same cgroup stay: ours is
//! found by its name and only that one is ever replaced or detached. Called by the
//! isolators `cgroups/devices` and `network/ports`. Instructions are made in
//! [`device`] and [`bind`], which are pure.

pub mod bind;
pub mod device;
mod instruction;

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::path::Path;

use crate::Error;
use device::Rule;
use instruction::Instruction;

/// The name of our device programs; at most 15 bytes.
pub const NAME: &str = "bulkhead_dev";
/// The name of our programs that decide on ports.
const BIND_NAME: &str = "bulkhead_bind";

const PROG_LOAD: u32 = 5;
const PROG_ATTACH: u32 = 8;
const PROG_DETACH: u32 = 9;
const PROG_GET_FD_BY_ID: u32 = 13;
const OBJ_GET_INFO_BY_FD: u32 = 15;
const PROG_QUERY: u32 = 16;
const ALLOW_MULTI: u32 = 2;
const REPLACE: u32 = 4;
/// The kernel's own bound on programs of one kind on a cgroup.
const MOST_PROGRAMS: usize = 64;

/// A place in the kernel where programs are asked.
#[derive(Debug, Clone, Copy)]
struct Hook {
    /// `BPF_PROG_TYPE_*`.
    kind: u32,
    /// `BPF_CGROUP_*`.
    attach: u32,
    /// For people: a ... program.
    what: &'static str,
}

const DEVICE: Hook = Hook { kind: 15, attach: 6, what: "device" };
/// `bind()` of IPv4 and IPv6 sockets (`BPF_PROG_TYPE_CGROUP_SOCK_ADDR`).
const BIND: [Hook; 2] = [
    Hook { kind: 18, attach: 8, what: "port (IPv4)" },
    Hook { kind: 18, attach: 9, what: "port (IPv6)" },
];

/// `union bpf_attr` of `BPF_PROG_LOAD`, up to what is used here.
#[repr(C)]
#[derive(Default)]
struct Load {
    kind: u32,
    instruction_count: u32,
    instructions: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log: u64,
    kernel_version: u32,
    flags: u32,
    name: [u8; 16],
    interface: u32,
    expected_attach: u32,
}

#[repr(C)]
#[derive(Default)]
struct Attach {
    target: u32,
    program: u32,
    kind: u32,
    flags: u32,
    replaced: u32,
}

#[repr(C)]
#[derive(Default)]
struct Query {
    target: u32,
    kind: u32,
    query_flags: u32,
    attach_flags: u32,
    ids: u64,
    count: u32,
    padding: u32,
}

#[repr(C)]
#[derive(Default)]
struct ById {
    id: u32,
    next: u32,
    flags: u32,
}

#[repr(C)]
#[derive(Default)]
struct InfoByFd {
    fd: u32,
    length: u32,
    info: u64,
}

/// The start of `struct bpf_prog_info`, up to the name.
#[repr(C)]
#[derive(Default)]
struct Info {
    kind: u32,
    id: u32,
    tag: [u8; 8],
    jited_length: u32,
    translated_length: u32,
    jited: u64,
    translated: u64,
    load_time: u64,
    uid: u32,
    map_count: u32,
    maps: u64,
    name: [u8; 16],
}

fn bpf<T>(command: u32, attributes: &mut T) -> io::Result<RawFd> {
    // SAFETY: `attributes` is a `repr(C)` prefix of the kernel's union for this
    // command, lives through the call, and its size goes along; pointers inside
    // it are to buffers that the caller keeps alive.
    let result = unsafe {
        libc::syscall(libc::SYS_bpf, command, std::ptr::from_mut(attributes), size_of::<T>())
    };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result as RawFd) }
}

fn owned(fd: RawFd) -> OwnedFd {
    // SAFETY: the kernel has just made this descriptor for us; nobody else owns it.
    unsafe { OwnedFd::from_raw_fd(fd) }
}

fn load(hook: Hook, name: &str, instructions: &[Instruction]) -> io::Result<OwnedFd> {
    let mut padded = [0; 16];
    // The last byte stays 0.
    for (to, from) in padded.iter_mut().take(15).zip(name.bytes()) {
        *to = from;
    }
    let license = c"Apache-2.0";
    let mut attributes = Load {
        kind: hook.kind,
        instruction_count: instructions.len() as u32,
        instructions: instructions.as_ptr() as u64,
        license: license.as_ptr() as u64,
        name: padded,
        expected_attach: hook.attach,
        ..Load::default()
    };
    bpf(PROG_LOAD, &mut attributes).map(owned)
}

/// Ids of the programs attached to the cgroup directory itself.
fn attached(directory: &File, hook: Hook) -> io::Result<Vec<u32>> {
    let mut ids = [0u32; MOST_PROGRAMS];
    let mut query = Query {
        target: directory.as_raw_fd() as u32,
        kind: hook.attach,
        ids: ids.as_mut_ptr() as u64,
        count: MOST_PROGRAMS as u32,
        ..Query::default()
    };
    bpf(PROG_QUERY, &mut query)?;
    Ok(ids[..(query.count as usize).min(MOST_PROGRAMS)].to_vec())
}

/// The newest program of that name on the cgroup directory itself.
fn named(directory: &File, hook: Hook, name: &str) -> io::Result<Option<OwnedFd>> {
    let mut ours = None;
    for id in attached(directory, hook)? {
        ours = program(id)?.filter(|(_, has)| has == name).map(|(fd, _)| fd).or(ours);
    }
    Ok(ours)
}

/// The program and its name; `None` if it went away meanwhile.
fn program(id: u32) -> io::Result<Option<(OwnedFd, String)>> {
    let fd = match bpf(PROG_GET_FD_BY_ID, &mut ById { id, ..ById::default() }) {
        Ok(fd) => owned(fd),
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => return Ok(None),
        Err(error) => return Err(error),
    };
    let mut info = Info::default();
    let mut ask = InfoByFd {
        fd: fd.as_raw_fd() as u32,
        length: size_of::<Info>() as u32,
        info: std::ptr::from_mut(&mut info) as u64,
    };
    bpf(OBJ_GET_INFO_BY_FD, &mut ask)?;
    let end = info.name.iter().position(|b| *b == 0).unwrap_or(info.name.len());
    Ok(Some((fd, String::from_utf8_lossy(&info.name[..end]).into_owned())))
}

/// Names of the device programs on a cgroup, in the order of their attachment.
///
/// # Errors
/// The directory is no v2 cgroup, or the kernel has no device programs.
pub fn names(cgroup: &Path) -> Result<Vec<String>, Error> {
    names_at(cgroup, DEVICE)
}

/// Names of the programs on a cgroup that decide on ports, of IPv4 then IPv6.
///
/// # Errors
/// The directory is no v2 cgroup, or the kernel has no such programs.
pub fn bind_names(cgroup: &Path) -> Result<Vec<String>, Error> {
    let mut all = Vec::new();
    for hook in BIND {
        all.extend(names_at(cgroup, hook)?);
    }
    Ok(all)
}

fn names_at(cgroup: &Path, hook: Hook) -> Result<Vec<String>, Error> {
    let fail = |e| Error::new("list the programs of", cgroup.display().to_string(), e);
    let directory = File::open(cgroup).map_err(fail)?;
    let mut names = Vec::new();
    for id in attached(&directory, hook).map_err(fail)? {
        names.extend(program(id).map_err(fail)?.map(|(_, name)| name));
    }
    Ok(names)
}

/// Lets the processes in `cgroup`, and below, use the devices of `rules` and no
/// others. Replaces what an earlier call set, in one step: there is no moment
/// without a program.
///
/// # Errors
/// The directory is no v2 cgroup, the kernel was built without `CGROUP_BPF`, or
/// it refuses.
pub fn allow(cgroup: &Path, rules: &[Rule]) -> Result<(), Error> {
    allow_as(NAME, cgroup, rules)
}

/// The same under another name: programs of different names do not replace each
/// other.
///
/// # Errors
/// As [`allow`].
pub fn allow_as(name: &str, cgroup: &Path, rules: &[Rule]) -> Result<(), Error> {
    put(DEVICE, name, cgroup, &device::assemble(rules))
}

/// Refuses `bind()` to the ports in `refused` (ranges with both ends, ascending) to
/// the processes in `cgroup` and below, with `EPERM`; whatever is bound already
/// stays. Replaces what an earlier call set, without a moment in between.
///
/// # Errors
/// As [`allow`].
pub fn refuse_ports(cgroup: &Path, refused: &[(u16, u16)]) -> Result<(), Error> {
    refuse_ports_as(BIND_NAME, cgroup, refused)
}

/// The same under another name: programs of different names do not replace each
/// other.
///
/// # Errors
/// As [`allow`].
pub fn refuse_ports_as(name: &str, cgroup: &Path, refused: &[(u16, u16)]) -> Result<(), Error> {
    let program = bind::assemble(refused);
    BIND.into_iter().try_for_each(|hook| put(hook, name, cgroup, &program))
}

/// Takes away what [`refuse_ports`] set, nobody else's. Where nothing was set, or
/// no cgroup is, nothing happens.
///
/// # Errors
/// The kernel refuses.
pub fn refuse_nothing(cgroup: &Path) -> Result<(), Error> {
    for hook in BIND {
        let fail = |e| failed("detach", hook, cgroup, e);
        let directory = match File::open(cgroup) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            opened => opened.map_err(fail)?,
        };
        if let Some(ours) = named(&directory, hook, BIND_NAME).map_err(fail)? {
            let mut attributes = Attach {
                target: directory.as_raw_fd() as u32,
                program: ours.as_raw_fd() as u32,
                kind: hook.attach,
                ..Attach::default()
            };
            bpf(PROG_DETACH, &mut attributes).map_err(fail)?;
        }
    }
    Ok(())
}

fn failed(verb: &'static str, hook: Hook, cgroup: &Path, error: io::Error) -> Error {
    Error::new(verb, format!("the {} program of '{}'", hook.what, cgroup.display()), error)
}

/// Loads a program and puts it in the place of the one of that name, if any.
fn put(hook: Hook, name: &str, cgroup: &Path, instructions: &[Instruction]) -> Result<(), Error> {
    let new = load(hook, name, instructions).map_err(|e| failed("load", hook, cgroup, e))?;
    let fail = |e| failed("attach", hook, cgroup, e);
    let directory = File::open(cgroup).map_err(fail)?;
    let ours = named(&directory, hook, name).map_err(fail)?;
    let replaced = ours.as_ref().map(|fd| fd.as_raw_fd() as u32);
    let mut attributes = Attach {
        target: directory.as_raw_fd() as u32,
        program: new.as_raw_fd() as u32,
        kind: hook.attach,
        flags: ALLOW_MULTI | if replaced.is_some() { REPLACE } else { 0 },
        replaced: replaced.unwrap_or(0),
    };
    bpf(PROG_ATTACH, &mut attributes).map(drop).map_err(fail)
}
