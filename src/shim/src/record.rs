//! The exit record: the fixed-size file in which a shim says what became of its
//! container.
//!
//! Compiled into the shim, which maps and writes it, and into the launch code,
//! which creates it and reads it as plain bytes. Values are little-endian at
//! fixed offsets. The open file that the shim inherits holds a lock until the
//! shim is gone, so "lock free and no end recorded" means that it was killed.

/// First word of a record.
pub const MAGIC: u32 = u32::from_le_bytes(*b"BKXR");
/// Layout version; records outlive agents, so a change must stay readable.
pub const VERSION: u32 = 1;
/// Size of the file in bytes.
pub const SIZE: usize = 256;

/// Values of the word at [`at::STATE`]; it only grows.
pub mod state {
    /// Made by the agent; nothing has run.
    pub const CREATED: u32 = 0;
    /// The first process exists and its pid is published.
    pub const PUBLISHED: u32 = 1;
    /// The first process executes its command.
    pub const RUNNING: u32 = 2;
    /// The first process ended; its pid is about to be given back to the kernel.
    pub const REAPING: u32 = 3;
    /// The launch failed; step and errno are set.
    pub const FAILED: u32 = 4;
    /// The first process was reaped; status, end and usage are set.
    pub const EXITED: u32 = 5;
}

/// Offsets of the fields.
pub mod at {
    /// u32, [`super::MAGIC`].
    pub const MAGIC: usize = 0;
    /// u32, [`super::VERSION`].
    pub const VERSION: usize = 4;
    /// 16 bytes, the boot that the record belongs to.
    pub const BOOT: usize = 8;
    /// u32, one of [`super::state`].
    pub const STATE: usize = 24;
    /// u32, the shim's pid in the host's pid namespace.
    pub const SHIM: usize = 28;
    /// u32, the first process' pid in the host's pid namespace.
    pub const PID: usize = 32;
    /// i32, wait status of the first process.
    pub const STATUS: usize = 36;
    /// u32, index of the operation that failed.
    pub const FAILED_INDEX: usize = 40;
    /// u32, code of the operation that failed.
    pub const FAILED_CODE: usize = 44;
    /// i32, errno of the operation that failed.
    pub const FAILED_ERRNO: usize = 48;
    /// u32, 1 if the container has its own pid namespace.
    pub const OWN_PIDS: usize = 52;
    /// u64, wall clock at the start, nanoseconds since 1970.
    pub const STARTED: usize = 56;
    /// u64, boot clock at the start, nanoseconds.
    pub const STARTED_BOOT: usize = 64;
    /// u64, wall clock at the end, nanoseconds since 1970.
    pub const ENDED: usize = 72;
    /// u64, user CPU time of the first process and its reaped children, microseconds.
    pub const USER_TIME: usize = 80;
    /// u64, system CPU time, microseconds.
    pub const SYSTEM_TIME: usize = 88;
    /// u64, largest resident set, KiB.
    pub const MAX_RSS: usize = 96;
    /// u32, the first process' pid as the shim sees it, if a runtime started it.
    pub const FOLLOWED: usize = 104;
}
