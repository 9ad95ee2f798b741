//! The launch program: the flat file that the launch code writes and the shim
//! runs.
//!
//! Compiled into both. A program is a header, a pool of NUL-terminated strings
//! and tables, and a table of fixed-size operations that point into the pool by
//! offset. The shim runs the operations strictly in order; those behind
//! [`code::SPAWN`] run in the container's first process. No operation is decided
//! here, and nothing here touches the kernel.
//!
//! The reader trusts nothing: every offset is checked, and the last byte of the
//! pool is NUL, so that every string that starts inside also ends inside.

/// First word of a program.
pub const MAGIC: u32 = u32::from_le_bytes(*b"BKLP");
/// Layout version; agent and shim are built together, so it only guards mistakes.
pub const VERSION: u32 = 1;
/// Number of file descriptor slots that operations may use.
pub const SLOTS: usize = 64;
/// Inherited descriptor of the program itself.
pub const PROGRAM_FD: i32 = 3;
/// Inherited descriptor of the exit record; its open file holds the lock.
pub const RECORD_FD: i32 = 4;
/// Inherited descriptor of the socket to the agent, used until the launch is done.
pub const SOCKET_FD: i32 = 5;

/// Inherited descriptor of the root file system, if it is mounted already.
pub const READY_FD: i32 = 6;

/// Where a shim keeps the master end of its container's terminal, once the program is
/// mapped; the slave end is then its standard input.
pub const TERMINAL_FD: i32 = PROGRAM_FD;
/// Where it keeps the container's output in that case.
pub const OUTPUT_FD: i32 = 1;
/// Whoever reads the terminal has a copy of this for as long.
pub const HOLD_FD: i32 = 2;

/// Sent by a shim that was started ahead when it waits for a container.
pub const SAYS_PARKED: u8 = b'P';
/// Sent by the container's first process when it waits to be released.
pub const SAYS_WAITING: u8 = b'W';
/// Sent by the shim when the container's first process executes its command.
pub const SAYS_RUNNING: u8 = b'R';
/// Sent by the shim when the launch failed; the record says how.
pub const SAYS_FAILED: u8 = b'F';

/// Operation codes. `a`, `b`, `c`, `d`, `e` are the fields of [`Op`]; "path",
/// "string" and "table" are offsets into the program.
pub mod code {
    /// Become the reaper of orphans (containers without a new pid namespace). First of
    /// all, so that none is missed.
    pub const SUBREAPER: u32 = 1;
    /// Open path `a` with flags `d` (close-on-exec is added) into slot `b`.
    pub const OPEN: u32 = 2;
    /// Clone the mount tree at path `a` into slot `b`, recursively if `c` is 1. If
    /// `d` is not 0 the path is below the directory in slot `d - 1` and stays there.
    pub const TREE: u32 = 3;
    /// Enter the namespace at path `a`; `b` is its `CLONE_NEW*` kind. If `d` is not 0:
    /// the one open in slot `d - 1`. Also for the first process.
    pub const JOIN: u32 = 4;
    /// Set the host name to string `a` of length `b`.
    pub const HOSTNAME: u32 = 5;
    /// `mount(a, b, c, flags d, data e)`; 0 is a null pointer.
    pub const MOUNT: u32 = 6;
    /// Attach the mount tree of slot `a` at path `b`, which is made if missing. If `c`
    /// is not 0 the path exists, is below the directory in slot `c - 1` and stays there.
    pub const ATTACH: u32 = 7;
    /// Set mount attributes `d` at path `a`, recursively if `b` is 1; `e` has the
    /// same as `MS_*` flags for kernels without mount_setattr (before 5.12). If `c` is
    /// not 0: of the tree in slot `c - 1`, not yet attached.
    pub const RESTRICT: u32 = 8;
    /// Make directory `a` with mode `b`, with parents if `c` is 1; it may exist.
    pub const MKDIR: u32 = 9;
    /// Symbolic link at `b` to `a`; an existing one is left alone.
    pub const SYMLINK: u32 = 10;
    /// Rename `a` to `b`.
    pub const RENAME: u32 = 11;
    /// Device node at `a`, mode `b`, device number `d`.
    pub const MKNOD: u32 = 12;
    /// Owner of `a` to user `b` and group `c`.
    pub const CHOWN: u32 = 13;
    /// Make directory `a` the root and detach the old root.
    pub const PIVOT: u32 = 14;
    /// Hide path `a`: a file behind /dev/null, a directory behind the empty directory `b`
    /// or, if there is none, an empty tmpfs.
    pub const MASK: u32 = 15;
    /// Make path `a` read-only if it exists.
    pub const PROTECT: u32 = 16;
    /// Change the root to `a` (containers without a mount namespace).
    pub const CHROOT: u32 = 17;
    /// Record the shim's own pid, read as `self` in the procfs of slot `a`.
    pub const IDENTIFY: u32 = 18;
    /// Start the container's first process; slot `a - 1` is its v2 cgroup if `a` is not 0.
    /// If `b` is 1 it gets memory of its own: only so it enters the time namespace that
    /// the shim has made for its children.
    pub const SPAWN: u32 = 19;
    /// The first process is a runtime that starts the container's: wait for its end,
    /// and if it ended well go on with the process whose pid it left in the record.
    pub const FOLLOW: u32 = 20;
    /// Map the ids of the tree in slot `a`, not yet attached, by the user namespace in
    /// slot `b`; recursively if `c` is 1.
    pub const MAP_IDS: u32 = 21;
    /// From here on files are made by user `a` and group `b`, with all capabilities.
    pub const FILES_AS: u32 = 22;
    /// Open path `a`, without reading it, as the descriptor of number `b`.
    pub const PLACE: u32 = 23;
    /// Close the descriptors of the numbers `a` to `b`.
    pub const CLOSE: u32 = 24;
    /// Detach what is mounted at path `a`; nothing there is fine.
    pub const UNMOUNT: u32 = 25;
    /// Make a terminal of the devpts at hand. Its master goes to `TERMINAL_FD`, its slave
    /// is standard input from here on. The procfs is in slot `a`; the slave belongs to
    /// user `b` and is mounted at path `c` if that is not 0; `d` is the window: rows, and
    /// columns in the high word.
    pub const TERMINAL: u32 = 26;
    /// The inherited descriptor `a` is in slot `b`.
    pub const INHERIT: u32 = 27;
    /// Say so and wait for standard input, output and error, a program and an exit record
    /// from the agent; then begin with that. What is above [`super::READY_FD`] is closed.
    pub const PARK: u32 = 28;

    /// Write string `b` of length `c` to the file in slot `a`.
    pub const WRITE: u32 = 32;
    /// Write string `c` of length `d` to path `b` below the directory in slot `a`. Also
    /// for the shim.
    pub const WRITE_AT: u32 = 33;
    /// Publish the own pid, read as `self` in the procfs of slot `a`.
    pub const PUBLISH: u32 = 34;
    /// Tell the agent and wait until it answers.
    pub const WAIT: u32 = 35;
    /// Leave the namespaces `d` for new ones. Also for the shim.
    pub const UNSHARE: u32 = 36;
    /// Start a session.
    pub const SESSION: u32 = 37;
    /// Resource limit `a`: soft `d`, hard `e`.
    pub const RLIMIT: u32 = 38;
    /// Supplementary groups: table `a` of `b` 32-bit ids.
    pub const GROUPS: u32 = 39;
    /// Real, effective and saved group `a`.
    pub const GID: u32 = 40;
    /// Real, effective and saved user `a`; permitted capabilities are kept if `b` is 1.
    pub const UID: u32 = 41;
    /// Keep only the capabilities in mask `d` in the bounding set.
    pub const BOUND: u32 = 42;
    /// Capability sets: permitted `d`, effective `e`, inheritable `a | b << 32`.
    pub const CAPABILITIES: u32 = 43;
    /// Raise the ambient capabilities in mask `d`.
    pub const AMBIENT: u32 = 44;
    /// No new privileges, for ever.
    pub const NO_NEW_PRIVILEGES: u32 = 45;
    /// Install the filter: table `a` of `b` instructions of 8 bytes, with flags `c`.
    pub const SECCOMP: u32 = 46;
    /// Change to directory `a`. Also for the shim.
    pub const CHDIR: u32 = 47;
    /// Scheduling slice back to the kernel's default.
    pub const SLICE: u32 = 48;
    /// Be killed when the shim dies.
    pub const DIE_WITH_SHIM: u32 = 49;
    /// File mode creation mask `a`.
    pub const UMASK: u32 = 50;
    /// Standard input is the session's terminal, and output and error, too.
    pub const CONTROL: u32 = 51;
    /// Execute the first of the `b` candidate paths in table `a` that can be,
    /// with the argument table `d` (low word offset, high word count) and the
    /// environment table `e`. One free word precedes the argument table. If `c` is 1
    /// the socket to the agent stays open.
    pub const EXEC: u32 = 63;
    /// Not an operation: the program itself could not be read.
    pub const LOAD: u32 = 64;
}

/// Start of a program.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct Header {
    /// [`MAGIC`].
    pub magic: u32,
    /// [`VERSION`].
    pub version: u32,
    /// Length of the whole program in bytes.
    pub length: u32,
    /// Number of operations.
    pub count: u32,
    /// Offset of the first operation, which is the end of the pool.
    pub ops: u32,
    /// Zero.
    pub reserved: u32,
}

/// One operation; see [`code`] for the meaning of the fields.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct Op {
    pub code: u32,
    pub a: u32,
    pub b: u32,
    pub c: u32,
    pub d: u64,
    pub e: u64,
}

/// Bytes of a [`Header`].
pub const HEADER_SIZE: usize = 24;
/// Bytes of an [`Op`].
pub const OP_SIZE: usize = 32;

/// A program whose frame has been checked; operands are checked when they are used.
#[derive(Debug, Clone, Copy)]
pub struct Program<'a> {
    bytes: &'a [u8],
    count: usize,
    ops: usize,
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    let end = at.checked_add(4)?;
    let four = bytes.get(at..end)?;
    Some(u32::from_le_bytes([four[0], four[1], four[2], four[3]]))
}

fn long(bytes: &[u8], at: usize) -> Option<u64> {
    let low = word(bytes, at)?;
    let high = word(bytes, at.checked_add(4)?)?;
    Some(low as u64 | (high as u64) << 32)
}

impl<'a> Program<'a> {
    /// Checks magic, version, lengths and the pool's closing NUL.
    pub fn parse(bytes: &'a [u8]) -> Option<Program<'a>> {
        if word(bytes, 0)? != MAGIC || word(bytes, 4)? != VERSION {
            return None;
        }
        let count = word(bytes, 12)? as usize;
        let ops = word(bytes, 16)? as usize;
        let end = count.checked_mul(OP_SIZE)?.checked_add(ops)?;
        if word(bytes, 8)? as usize != bytes.len() || end != bytes.len() {
            return None;
        }
        if ops <= HEADER_SIZE || *bytes.get(ops - 1)? != 0 {
            return None;
        }
        Some(Program { bytes, count, ops })
    }

    /// Length of the whole program in bytes.
    pub fn length(&self) -> usize {
        self.bytes.len()
    }

    /// Number of operations.
    pub fn count(&self) -> usize {
        self.count
    }

    /// The operation at `index`.
    pub fn op(&self, index: usize) -> Option<Op> {
        if index >= self.count {
            return None;
        }
        let at = self.ops + index * OP_SIZE;
        Some(Op {
            code: word(self.bytes, at)?,
            a: word(self.bytes, at + 4)?,
            b: word(self.bytes, at + 8)?,
            c: word(self.bytes, at + 12)?,
            d: long(self.bytes, at + 16)?,
            e: long(self.bytes, at + 24)?,
        })
    }

    /// Whether `length` bytes lie in the pool at `offset`, aligned to `align`. A
    /// length of 1 asks whether a string starts there: it also ends in the pool.
    pub fn holds(&self, offset: usize, length: usize, align: usize) -> bool {
        let fits = offset.checked_add(length).is_some_and(|end| end <= self.ops);
        offset >= HEADER_SIZE && offset.is_multiple_of(align) && fits
    }

    /// The 64-bit word at `offset`, for tables of string offsets.
    pub fn entry(&self, offset: usize) -> Option<u64> {
        long(self.bytes, offset)
    }
}
