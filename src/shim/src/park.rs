//! A shim that was started before its container.

use crate::program::{READY_FD, SAYS_PARKED, SOCKET_FD};
use crate::sys::{self, call, errno};

/// Descriptors that a launch sends: those below the socket's.
const SENT: usize = SOCKET_FD as usize;
/// `struct cmsghdr` with that many descriptors: length, then level and type.
const LENGTH: u64 = 16 + 4 * SENT as u64;
const RIGHTS: u64 = 1 | 1 << 32;

/// Tells the agent that all is ready, and waits for the descriptors of a container, which
/// take the places that they have in a shim that is started for it. With an agent that is
/// gone, this ends.
pub fn wait() -> Result<(), i32> {
    let word = SAYS_PARKED;
    call!(WRITE, SOCKET_FD, &raw const word, 1)?;
    let mut byte = 0u8;
    let mut parts = [&raw mut byte as usize, 1];
    let mut control = [0u64; 5];
    // struct msghdr: name and its length, parts, control and flags.
    let mut message =
        [0, 0, parts.as_mut_ptr() as usize, 1, control.as_mut_ptr() as usize, size_of_val(&control), 0];
    match call!(RECVMSG, SOCKET_FD, message.as_mut_ptr(), sys::MSG_CMSG_CLOEXEC) {
        Ok(1) => {}
        _ => sys::exit(0),
    }
    // SAFETY: the kernel has written to it by now.
    let control = unsafe { core::ptr::read_volatile(&raw const control) };
    if control[..2] != [LENGTH, RIGHTS] {
        return Err(errno::EINVAL);
    }
    for place in 0..SENT {
        let pair = control[2 + place / 2];
        let fd = if place % 2 == 0 { pair as u32 } else { (pair >> 32) as u32 };
        call!(DUP3, fd, place, 0)?;
    }
    let _ = call!(CLOSE_RANGE, READY_FD + 1, u32::MAX, 0);
    Ok(())
}
