//! The terminal of a container.
//!
//! It is made here and not by the agent, so that it is one of the container's own devpts
//! and outlives the agent: the shim keeps both ends, and whoever is the agent takes a
//! copy of the master. As long as the shim has the slave, nobody who closes it hangs up.
//!
//! Whoever has the master has an end of a pipe, too. When the container has ended, its
//! closing says that everything has been read, or that nobody is there who would: then
//! what is left goes to the container's output from here.

use crate::Shim;
use crate::program::{HOLD_FD, OUTPUT_FD, Op, SOCKET_FD, TERMINAL_FD};
use crate::reap::WALL;
use crate::steps::{self, done};
use crate::sys::{self, call, errno};

const TIOCSCTTY: usize = 0x540e;
const TIOCSWINSZ: usize = 0x5414;
const TIOCSPTLCK: usize = 0x4004_5431;
const TIOCGPTPEER: usize = 0x5441;
/// Of `/dev/ptmx`.
const MULTIPLEXER: (u32, u32) = (5, 2);
/// How long a reader that is there may take for the rest, in seconds.
const PATIENCE: i64 = 5;
/// `self/fd/` and a number.
const LINK: usize = 24;

/// Makes it; the end of the pipe that is the shim's alone.
pub fn make(shim: &Shim, op: &Op) -> Result<i32, i32> {
    let master = multiplexer(shim.slot(op.a)?)?;
    let locked = 0i32;
    call!(IOCTL, master, TIOCSPTLCK, &raw const locked)?;
    let flags = sys::O_RDWR | sys::O_NOCTTY | sys::O_CLOEXEC;
    let slave = call!(IOCTL, master, TIOCGPTPEER, flags)?;
    // struct winsize: rows, columns and two words that nobody uses.
    let window = [op.d as u16, (op.d >> 32) as u16, 0, 0];
    call!(IOCTL, master, TIOCSWINSZ, window.as_ptr())?;
    // The group stays that of the mount.
    call!(FCHOWN, slave, op.b, u32::MAX)?;
    if op.c != 0 {
        let flags = sys::OPEN_TREE_CLONE | sys::O_CLOEXEC | sys::AT_EMPTY_PATH;
        let tree = call!(OPEN_TREE, slave, c"".as_ptr(), flags)?;
        steps::attach(tree, shim.string(op.c)?)?;
        let _ = call!(CLOSE_RANGE, tree, tree, 0);
    }
    call!(DUP3, master, TERMINAL_FD, sys::O_CLOEXEC)?;
    call!(DUP3, slave, 0, 0)?;
    let mut pipe = [0i32; 2];
    call!(PIPE2, pipe.as_mut_ptr(), sys::O_CLOEXEC)?;
    call!(DUP3, pipe[1], HOLD_FD, 0)?;
    for fd in [master, slave, pipe[1] as usize] {
        let _ = call!(CLOSE_RANGE, fd, fd, 0);
    }
    Ok(pipe[0])
}

/// A new master. A container may have put anything in the place of `/dev/ptmx`, so it
/// is looked at before it is opened.
fn multiplexer(procfs: usize) -> Result<usize, i32> {
    let path = c"/dev/ptmx".as_ptr();
    let found = call!(OPENAT, sys::AT_FDCWD, path, sys::O_PATH | sys::O_CLOEXEC, 0)?;
    let (mode, number) = sys::node(found, core::ptr::null())?;
    let opened = if mode & sys::S_IFMT == sys::S_IFCHR && number == MULTIPLEXER {
        let mut link = [0; LINK];
        let flags = sys::O_RDWR | sys::O_NOCTTY | sys::O_NONBLOCK | sys::O_CLOEXEC;
        call!(OPENAT, procfs, own(&mut link, found), flags, 0)
    } else {
        Err(errno::ENODEV)
    };
    let _ = call!(CLOSE_RANGE, found, found, 0);
    opened
}

/// The name of an own descriptor in a procfs.
fn own(link: &mut [u8; LINK], fd: usize) -> *const u8 {
    let prefix = b"self/fd/";
    let mut digits = 1;
    while fd / 10usize.pow(digits) != 0 {
        digits += 1;
    }
    for (at, byte) in link.iter_mut().enumerate() {
        *byte = match prefix.get(at) {
            Some(byte) => *byte,
            None if at < prefix.len() + digits as usize => {
                let place = digits - 1 - (at - prefix.len()) as u32;
                b'0' + (fd / 10usize.pow(place) % 10) as u8
            }
            None => 0,
        };
    }
    link.as_ptr()
}

/// The first process, leader of its session, takes the terminal.
pub fn take() -> Result<(), i32> {
    call!(IOCTL, 0, TIOCSCTTY, 0)?;
    call!(DUP3, 0, 1, 0)?;
    done(call!(DUP3, 0, 2, 0))
}

/// The container has ended: its last words go where they belong, unless that is nowhere.
pub fn drain() {
    match sys::mode(OUTPUT_FD as usize, core::ptr::null()) {
        Ok(mode) if mode & sys::S_IFMT != sys::S_IFCHR => {}
        _ => return,
    }
    // Only an init may: everywhere else `-1` is the whole machine.
    if call!(GETPID) == Ok(1) {
        let _ = call!(KILL, -1isize, sys::SIGKILL);
        while call!(WAIT4, -1isize, 0, WALL, 0).is_ok() {}
    }
    let _ = call!(CLOSE_RANGE, 0, 0, 0);
    let _ = call!(CLOSE_RANGE, HOLD_FD, HOLD_FD, 0);
    // struct pollfd: no events, so only the end wakes us.
    let mut poll = [SOCKET_FD as u32, 0];
    let patience = [PATIENCE, 0];
    let _ = call!(PPOLL, poll.as_mut_ptr(), 1, patience.as_ptr(), 0, 0);
    let mut piece = [0u8; 4096];
    loop {
        match call!(READ, TERMINAL_FD, piece.as_mut_ptr(), piece.len()) {
            Ok(length) if length > 0 => {
                if write_all(piece.get(..length).unwrap_or_default()).is_err() {
                    return;
                }
            }
            Err(errno::EINTR) => {}
            // EIO: it was the last.
            _ => return,
        }
    }
}

fn write_all(mut bytes: &[u8]) -> Result<(), i32> {
    while !bytes.is_empty() {
        match call!(WRITE, OUTPUT_FD, bytes.as_ptr(), bytes.len()) {
            Ok(length) => bytes = bytes.get(length..).unwrap_or_default(),
            Err(errno::EINTR) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}
