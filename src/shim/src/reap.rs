//! Waiting: reaps everything, records the end of the first process.

use crate::report::Report;
use crate::sys::{SIGKILL, call, errno};

const P_ALL: usize = 0;
const WEXITED: usize = 4;
const WNOWAIT: usize = 0x0100_0000;
/// Children that were cloned without SIGCHLD, too.
pub const WALL: usize = 0x4000_0000;

/// Waits for the end of the runtime `child`. If it ended well, this is the pid of
/// the process that it started, which is our child like itself.
pub fn follow(record: &Report, child: usize) -> Result<usize, i32> {
    let mut status = 0i32;
    loop {
        match call!(WAIT4, child, &raw mut status, WALL, 0) {
            Err(errno::EINTR) => {}
            Err(error) => return Err(error),
            Ok(_) => break,
        }
    }
    match record.followed() {
        pid if status == 0 && pid != 0 => Ok(pid as usize),
        _ => Err(errno::ECANCELED),
    }
}

/// Ends every child of a launch that failed, if this is not a namespace's init.
pub fn give_up(children: i32) {
    if children >= 0 {
        kill_rest(children as usize);
    }
}

/// Reaps until the first process `child` has ended and is recorded. In a pid
/// namespace the shim's exit kills the rest; elsewhere the rest, which has been
/// re-parented to the shim, is killed here.
pub fn until_end(record: &Report, child: u32, children: i32) {
    loop {
        // siginfo: si_pid is the 32-bit word at offset 16.
        let mut info = [0u32; 32];
        match call!(WAITID, P_ALL, 0, info.as_mut_ptr(), WEXITED | WNOWAIT | WALL, 0) {
            Err(errno::EINTR) => continue,
            Err(_) => break,
            Ok(_) => {}
        }
        let pid = info[4];
        let mut status = 0i32;
        let mut usage = [0u64; 18];
        if pid == child {
            record.reaping();
        }
        // A child that is announced and cannot be reaped would be announced for ever.
        if call!(WAIT4, pid, &raw mut status, WALL, usage.as_mut_ptr()).is_err() {
            break;
        }
        if pid == child {
            record.exited(status, &usage);
            break;
        }
    }
    if children >= 0 {
        kill_rest(children as usize);
    }
}

/// Kills own children until there are none; those of the killed become own. `list` is
/// the open list of them.
fn kill_rest(list: usize) {
    let mut text = [0u8; 512];
    loop {
        let length = match call!(PREAD, list, text.as_mut_ptr(), text.len(), 0) {
            Ok(length) if length > 0 => length,
            _ => return,
        };
        let mut pid = 0u32;
        for byte in text.iter().take(length) {
            match byte {
                b'0'..=b'9' => pid = pid.wrapping_mul(10).wrapping_add((byte - b'0') as u32),
                // A number that the buffer cuts off is left for the next round.
                _ if pid != 0 => {
                    let _ = call!(KILL, pid, SIGKILL);
                    pid = 0;
                }
                _ => {}
            }
        }
        if call!(WAIT4, -1isize, 0, WALL, 0).is_err() {
            return;
        }
    }
}
