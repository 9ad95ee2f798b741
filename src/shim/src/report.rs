//! Writing the exit record, through a shared mapping of its file.

use core::sync::atomic::{AtomicU32, Ordering};

use crate::record::{SIZE, at, state};
use crate::sys::{self, call};

/// The mapped record. Copies refer to the same memory.
#[derive(Clone, Copy)]
pub struct Report(*mut u8);

impl Report {
    /// Maps the record in `fd`.
    pub fn new(fd: usize) -> Option<Report> {
        // PROT_READ | PROT_WRITE, MAP_SHARED
        call!(MMAP, 0, SIZE, 3, 1, fd, 0).ok().map(|base| Report(base as *mut u8))
    }

    fn put(&self, at: usize, value: u32) {
        // SAFETY: every offset is a multiple of 4 below SIZE, inside the mapping.
        unsafe { self.0.add(at).cast::<u32>().write_volatile(value) }
    }

    fn put_long(&self, at: usize, value: u64) {
        // SAFETY: every offset of a long is a multiple of 8 below SIZE.
        unsafe { self.0.add(at).cast::<u64>().write_volatile(value) }
    }

    fn state(&self) -> &AtomicU32 {
        // SAFETY: an aligned word that only atomics access while we run.
        unsafe { AtomicU32::from_ptr(self.0.add(at::STATE).cast()) }
    }

    /// Publishes everything written so far.
    fn advance(&self, state: u32) {
        self.state().store(state, Ordering::Release);
    }

    /// The shim's pid on the host.
    pub fn identify(&self, pid: u32) {
        self.put(at::SHIM, pid);
    }

    /// The first process is about to exist.
    pub fn starting(&self) {
        self.put_long(at::STARTED, sys::clock(0));
        self.put_long(at::STARTED_BOOT, sys::clock(7));
    }

    /// The first process exists.
    pub fn publish(&self, pid: u32) {
        self.put(at::PID, pid);
        self.advance(state::PUBLISHED);
    }

    /// The launch failed at operation `index`.
    pub fn fail(&self, index: u32, code: u32, errno: i32) {
        self.put(at::FAILED_INDEX, index);
        self.put(at::FAILED_CODE, code);
        self.put(at::FAILED_ERRNO, errno as u32);
        self.advance(state::FAILED);
    }

    /// Whether the launch failed.
    pub fn failed(&self) -> bool {
        self.state().load(Ordering::Acquire) == state::FAILED
    }

    /// The pid that a runtime left for the shim to go on with.
    pub fn followed(&self) -> u32 {
        // SAFETY: an aligned word inside the mapping.
        unsafe { self.0.add(at::FOLLOWED).cast::<u32>().read_volatile() }
    }

    /// The command is executing.
    pub fn running(&self) {
        self.advance(state::RUNNING);
    }

    /// The pid must not be used any more.
    pub fn reaping(&self) {
        self.advance(state::REAPING);
    }

    /// The first process is gone; `usage` is a `struct rusage`.
    pub fn exited(&self, status: i32, usage: &[u64; 18]) {
        self.put(at::STATUS, status as u32);
        self.put_long(at::ENDED, sys::clock(0));
        self.put_long(at::USER_TIME, usage[0] * 1_000_000 + usage[1]);
        self.put_long(at::SYSTEM_TIME, usage[2] * 1_000_000 + usage[3]);
        self.put_long(at::MAX_RSS, usage[4]);
        self.advance(state::EXITED);
    }
}
