//! The shim: parent and reaper of one container.
//!
//! A static program without libc, started by the agent in the container's new
//! namespaces with the launch program, the exit record and a socket as inherited
//! descriptors. It puts the container together ([`steps`]), starts its first
//! process ([`first`]), reaps whatever dies, writes the first process' end into
//! the record and exits. In a pid namespace it is the init: when it goes, so does
//! everything in the container. It forwards nothing, decides nothing and
//! allocates nothing; it must stay small, because there is one per container.
//!
//! All signals are blocked for it, so only SIGKILL ends it early.
//!
//! With any argument it does none of that, but waits until it is killed: the whole of a
//! container that holds a network for others (docs/decisions/0050).

#![no_std]
#![no_main]

mod arch;
mod first;
mod memory;
mod park;
// The launch code uses the rest of these two.
#[allow(dead_code)]
mod program;
mod reap;
#[allow(dead_code)]
mod record;
mod report;
mod steps;
mod sys;
mod terminal;

use core::arch::global_asm;

use program::{PROGRAM_FD, Program, RECORD_FD, SAYS_FAILED, SAYS_RUNNING, SLOTS, SOCKET_FD, code};
use report::Report;
use sys::{call, errno};

#[cfg(target_arch = "x86_64")]
global_asm!(
    ".globl _start",
    "_start:",
    "mov rdi, [rsp]",
    "xor ebp, ebp",
    "and rsp, -16",
    "call {main}",
    "ud2",
    main = sym main,
);

#[cfg(target_arch = "aarch64")]
global_asm!(
    ".globl _start",
    "_start:",
    "ldr x0, [sp]",
    "mov x29, xzr",
    "bl {main}",
    "brk 1",
    main = sym main
);

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    sys::exit(127)
}

/// What the shim and, while it is stopped, the first process work on.
pub struct Shim {
    /// The mapped program, writable in private.
    base: *mut u8,
    program: Program<'static>,
    /// The mapped exit record.
    record: Report,
    /// Open descriptors by slot; -1 is free.
    slots: [i32; SLOTS],
    /// The list of own children, if this is not a pid namespace's init; else -1.
    children: i32,
    /// The inherited file mode creation mask, until an operation changes it.
    umask: usize,
    /// The first process is a runtime; index of the operation that said so.
    follow: Option<usize>,
    /// How the shim is to be scheduled, if it may be otherwise for now.
    usual: Option<sys::Scheduling>,
    /// The end of a terminal's pipe, if the container has one; else -1.
    terminal: i32,
}

impl Shim {
    /// The string at `offset`.
    fn string(&self, offset: impl TryInto<usize>) -> Result<*mut u8, i32> {
        let offset = offset.try_into().map_err(|_| errno::EINVAL)?;
        match self.program.holds(offset, 1, 1) {
            // SAFETY: inside the mapping, and NUL-terminated there.
            true => Ok(unsafe { self.base.add(offset) }),
            false => Err(errno::EINVAL),
        }
    }

    /// The string at `offset`, or a null pointer for offset 0.
    fn optional(&self, offset: impl TryInto<usize>) -> Result<*mut u8, i32> {
        match offset.try_into() {
            Ok(0) => Ok(core::ptr::null_mut()),
            Ok(offset) => self.string(offset),
            Err(_) => Err(errno::EINVAL),
        }
    }

    /// `length` bytes at `offset`, aligned to `align`.
    fn bytes(&self, offset: u32, length: usize, align: usize) -> Result<*mut u8, i32> {
        match self.program.holds(offset as usize, length, align) {
            // SAFETY: inside the mapping.
            true => Ok(unsafe { self.base.add(offset as usize) }),
            false => Err(errno::EINVAL),
        }
    }

    /// The descriptor in `slot`.
    fn slot(&self, slot: u32) -> Result<usize, i32> {
        match self.slots.get(slot as usize) {
            Some(fd) if *fd >= 0 => Ok(*fd as usize),
            _ => Err(errno::EINVAL),
        }
    }

    fn keep(&mut self, slot: u32, fd: usize) -> Result<(), i32> {
        *self.slots.get_mut(slot as usize).ok_or(errno::EINVAL)? = fd as i32;
        Ok(())
    }

    /// It has nothing to hurry for any more.
    fn slow_down(&mut self) {
        if let Some(usual) = self.usual.take() {
            sys::schedule(0, &usual);
        }
    }

    /// Waits for a container, and is that one's from here on.
    fn park(&mut self) -> Result<(), i32> {
        park::wait()?;
        let _ = call!(MUNMAP, self.base, self.program.length());
        // Without a record nobody can be told.
        let Some(record) = Report::new(RECORD_FD as usize) else { sys::exit(126) };
        self.record = record;
        (self.base, self.program) = load().ok_or(errno::EINVAL)?;
        self.slots = [-1; SLOTS];
        Ok(())
    }
}

unsafe extern "C" fn main(arguments: usize) -> ! {
    if arguments > 1 {
        hold()
    }
    let Some(record) = Report::new(RECORD_FD as usize) else { sys::exit(126) };
    let _ = call!(PRCTL, 15, c"bulkhead-shim".as_ptr());
    sys::slice(100_000);
    reset_signals();
    let umask = call!(UMASK, 0).unwrap_or(0o22);
    let Some((base, program)) = load() else {
        record.fail(0, code::LOAD, errno::EINVAL);
        say(SAYS_FAILED);
        sys::exit(1)
    };
    let mut shim = Shim {
        base,
        program,
        record,
        slots: [-1; SLOTS],
        children: -1,
        umask,
        follow: None,
        usual: None,
        terminal: -1,
    };
    let mut index = 0;
    let child = loop {
        let Some(op) = shim.program.op(index) else {
            shim.record.fail(index as u32, code::LOAD, errno::EINVAL);
            break 0;
        };
        let result = match op.code {
            code::PARK => match shim.park() {
                Ok(()) => {
                    index = 0;
                    continue;
                }
                Err(errno) => Err(errno),
            },
            code::SPAWN => first::spawn(&mut shim, index),
            code::FOLLOW => {
                shim.follow = Some(index);
                Ok(0)
            }
            _ => steps::run(&mut shim, &op).map(|()| 0),
        };
        match result {
            Ok(0) => index += 1,
            Ok(child) => break child,
            Err(errno) => {
                shim.record.fail(index as u32, op.code, errno);
                break 0;
            }
        }
    };
    let record = shim.record;
    let child = match shim.follow {
        Some(index) if child != 0 && !record.failed() => {
            shim.slow_down();
            match reap::follow(&record, child) {
                Ok(first) => first,
                Err(errno) => {
                    record.fail(index as u32, code::FOLLOW, errno);
                    reap::give_up(shim.children);
                    0
                }
            }
        }
        _ => child,
    };
    if record.failed() {
        if child != 0 {
            let _ = call!(WAIT4, child, 0, 0, 0);
        }
        say(SAYS_FAILED);
        sys::exit(1)
    }
    record.running();
    say(SAYS_RUNNING);
    shim.slow_down();
    let (children, terminal) = (shim.children, shim.terminal);
    let _ = call!(MUNMAP, shim.base, shim.program.length());
    let_go(children, terminal);
    reap::until_end(&record, child as u32, children);
    if terminal >= 0 {
        terminal::drain();
    }
    sys::exit(0)
}

/// The other use of this program: to be there, so that namespaces are. The agent never
/// starts it with an argument; an engine that it has hold a network does.
fn hold() -> ! {
    loop {
        let _ = call!(PPOLL, 0, 0, 0, 0, 8);
    }
}

/// Maps the program.
fn load() -> Option<(*mut u8, Program<'static>)> {
    let length = call!(LSEEK, PROGRAM_FD, 0, 2).ok()?;
    // PROT_READ | PROT_WRITE, MAP_PRIVATE
    let base = call!(MMAP, 0, length, 3, 2, PROGRAM_FD, 0).ok()? as *mut u8;
    // SAFETY: mapped just now, `length` bytes; the file is sealed, so it cannot
    // shrink. The writes through `base` go to string tables and back, never to
    // what `Program` has checked.
    let bytes = unsafe { core::slice::from_raw_parts(base, length) };
    Some((base, Program::parse(bytes)?))
}

/// Tells the agent.
fn say(word: u8) {
    let _ = call!(WRITE, SOCKET_FD, &raw const word, 1);
}

/// Lets go of everything but the record (its open file holds the lock), the list of
/// children, and a terminal with the output it goes to.
fn let_go(children: i32, terminal: i32) {
    if terminal >= 0 {
        // In the place of the socket, so that only the rest is closed.
        let _ = call!(DUP3, terminal, SOCKET_FD, sys::O_CLOEXEC);
    } else {
        let _ = call!(CLOSE_RANGE, 0, PROGRAM_FD, 0);
        let _ = call!(CLOSE_RANGE, SOCKET_FD, SOCKET_FD, 0);
    }
    let mut rest = SOCKET_FD + 1;
    if children >= rest {
        // An empty range is refused, and nothing is closed.
        let _ = call!(CLOSE_RANGE, rest, children - 1, 0);
        rest = children + 1;
    }
    let _ = call!(CLOSE_RANGE, rest, u32::MAX, 0);
}

/// Dispositions survive an execution when they are "ignore"; the container must
/// not inherit those of the agent.
fn reset_signals() {
    let default = [0u64; 4];
    for signal in 1..=64 {
        let _ = call!(RT_SIGACTION, signal, default.as_ptr(), 0, 8);
    }
}
