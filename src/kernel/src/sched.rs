//! The scheduler slice. On a busy node a woken task waits for the running one's
//! slice; asking for a short one halves launch latency (measured on 6.18). The
//! request is inherited, so the shim resets it before the command executes.

use std::io;

/// The slice that agent and shim ask for, in nanoseconds.
pub const SHORT_SLICE_NS: u64 = 100_000;

/// `struct sched_attr`, first published size.
#[repr(C)]
#[derive(Default)]
struct Attr {
    size: u32,
    policy: u32,
    flags: u64,
    nice: i32,
    priority: u32,
    runtime: u64,
    deadline: u64,
    period: u64,
}

/// Asks for slices of `nanoseconds` for the calling thread; 0 is the kernel's
/// default. Policy and nice value stay. `false` if the kernel refuses or the
/// thread is not under the fair scheduler; callers ignore that.
pub fn set_slice(nanoseconds: u64) -> io::Result<bool> {
    let mut attr = Attr { size: size_of::<Attr>() as u32, ..Attr::default() };
    let size = attr.size;
    // SAFETY: `attr` has `size` bytes and lives through the call.
    if unsafe { libc::syscall(libc::SYS_sched_getattr, 0, &mut attr, size, 0) } != 0 {
        return Err(io::Error::last_os_error());
    }
    if attr.policy != libc::SCHED_OTHER as u32 && attr.policy != libc::SCHED_BATCH as u32 {
        return Ok(false);
    }
    attr.runtime = nanoseconds;
    // SAFETY: as above.
    Ok(unsafe { libc::syscall(libc::SYS_sched_setattr, 0, &attr, 0) } == 0)
}

/// Makes the calling thread give way to all others: nice 19, and its reads wait
/// until nobody else reads (`ioprio_set`, idle class). Best effort.
pub fn background() {
    const IOPRIO_WHO_PROCESS: libc::c_int = 1;
    const IDLE: libc::c_int = 3 << 13;
    // SAFETY: plain calls about the calling thread.
    unsafe {
        libc::setpriority(libc::PRIO_PROCESS, 0, 19);
        libc::syscall(libc::SYS_ioprio_set, IOPRIO_WHO_PROCESS, 0, IDLE);
    }
}

/// Processor time of the calling thread so far.
#[must_use]
pub fn thread_time() -> std::time::Duration {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `time` lives through the call.
    unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &raw mut time) };
    let (secs, nanos) = (time.tv_sec.unsigned_abs(), time.tv_nsec as u32);
    std::time::Duration::new(secs, nanos)
}

/// Does `work` in this thread with the priority of what can wait (nice 10).
pub fn standing_back<T>(work: impl FnOnce() -> T) -> T {
    // Only latency is at stake, so a refusal is not worth a word.
    let set = |nice| {
        // SAFETY: integers only; the priority is the calling thread's.
        unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, nice) }
    };
    // SAFETY: integers only.
    let before = unsafe { libc::getpriority(libc::PRIO_PROCESS, 0) };
    set(before.saturating_add(10).min(19));
    let done = work();
    set(before);
    done
}

/// Gives the process `pid`, a child of this one, the priority that this process has,
/// whatever that of the calling thread is. Best effort.
pub fn like_this_process(pid: u32) {
    // SAFETY: integers only.
    unsafe {
        let own = libc::getpriority(libc::PRIO_PROCESS, std::process::id());
        libc::setpriority(libc::PRIO_PROCESS, pid, own);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn can_be_asked_for_and_taken_back() {
        set_slice(SHORT_SLICE_NS).expect("ask");
        set_slice(0).expect("take back");
    }
}
