//! The few system calls that the shim makes, with their numbers and constants.
//!
//! Results are `Result<usize, i32>` with errno; nothing here decides anything.

use crate::arch::syscall;

/// Result of a system call; the error is errno.
pub type Answer = Result<usize, i32>;

macro_rules! numbers {
    ($($name:ident $x86_64:literal $aarch64:literal)*) => {
        /// System call numbers.
        pub mod nr { $(
            #[cfg(target_arch = "x86_64")]
            pub const $name: usize = $x86_64;
            #[cfg(target_arch = "aarch64")]
            pub const $name: usize = $aarch64;
        )* }
    };
}

numbers! {
    READ 0 63
    WRITE 1 64
    LSEEK 8 62
    MMAP 9 222
    MUNMAP 11 215
    RT_SIGACTION 13 134
    RT_SIGPROCMASK 14 135
    IOCTL 16 29
    PREAD 17 67
    GETPID 39 172
    RECVMSG 47 212
    EXECVE 59 221
    WAIT4 61 260
    KILL 62 129
    CHDIR 80 49
    FCHOWN 93 55
    UMASK 95 166
    GETPPID 110 173
    SETSID 112 157
    SETGROUPS 116 159
    SETRESUID 117 147
    SETRESGID 119 149
    SETFSUID 122 151
    SETFSGID 123 152
    CAPSET 126 91
    STATFS 137 43
    PIVOT_ROOT 155 41
    PRCTL 157 167
    CHROOT 161 51
    MOUNT 165 40
    UMOUNT2 166 39
    SETHOSTNAME 170 161
    CLOCK_GETTIME 228 113
    EXIT_GROUP 231 94
    WAITID 247 95
    OPENAT 257 56
    MKDIRAT 258 34
    MKNODAT 259 33
    FCHOWNAT 260 54
    SYMLINKAT 266 36
    READLINKAT 267 78
    PPOLL 271 73
    UNSHARE 272 97
    DUP3 292 24
    PIPE2 293 59
    PRLIMIT64 302 261
    SETNS 308 268
    SCHED_SETATTR 314 274
    SCHED_GETATTR 315 275
    RENAMEAT2 316 276
    SECCOMP 317 277
    STATX 332 291
    OPEN_TREE 428 428
    MOVE_MOUNT 429 429
    CLOSE_RANGE 436 436
    OPENAT2 437 437
    MOUNT_SETATTR 442 442
}

/// Error numbers that the shim tells apart.
pub mod errno {
    pub const EPERM: i32 = 1;
    pub const ENOENT: i32 = 2;
    pub const EINTR: i32 = 4;
    pub const EAGAIN: i32 = 11;
    pub const ENOEXEC: i32 = 8;
    pub const EACCES: i32 = 13;
    pub const EEXIST: i32 = 17;
    pub const ENODEV: i32 = 19;
    pub const ENOTDIR: i32 = 20;
    pub const EINVAL: i32 = 22;
    pub const ENOSYS: i32 = 38;
    pub const ECANCELED: i32 = 125;
}

pub const O_WRONLY: usize = 0o1;
pub const O_RDWR: usize = 0o2;
pub const O_NOCTTY: usize = 0o400;
pub const O_NONBLOCK: usize = 0o4000;
pub const O_CLOEXEC: usize = 0o2000000;
pub const O_PATH: usize = 0o10000000;
pub const AT_FDCWD: usize = -100isize as usize;
pub const AT_EMPTY_PATH: usize = 0x1000;
pub const AT_RECURSIVE: usize = 0x8000;
pub const OPEN_TREE_CLONE: usize = 1;
pub const MOVE_MOUNT_F_EMPTY_PATH: usize = 4;
pub const MOVE_MOUNT_T_SYMLINKS: usize = 16;
pub const MOVE_MOUNT_T_EMPTY_PATH: usize = 64;
pub const MSG_CMSG_CLOEXEC: usize = 0x4000_0000;
pub const MNT_DETACH: usize = 2;
pub const MS_RDONLY: usize = 1;
pub const MS_REMOUNT: usize = 32;
pub const MS_BIND: usize = 4096;
pub const MS_MOVE: usize = 8192;
pub const MS_REC: usize = 16384;
pub const MS_RELATIME: usize = 1 << 21;
pub const S_IFMT: u32 = 0o170000;
pub const S_IFDIR: u32 = 0o040000;
pub const S_IFCHR: u32 = 0o020000;
pub const S_IFREG: u32 = 0o100000;
pub const SIGKILL: usize = 9;
pub const SIGCHLD: u64 = 17;
pub const CLONE_VM: u64 = 0x100;
pub const CLONE_VFORK: u64 = 0x4000;
pub const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;

/// Calls the kernel.
///
/// # Safety
/// As dangerous as the call itself.
pub unsafe fn answer(number: usize, args: [usize; 6]) -> Answer {
    // SAFETY: handed on to the caller.
    match unsafe { syscall(number, args) } {
        error if error < 0 => Err(-error as i32),
        value => Ok(value as usize),
    }
}

/// As [`answer`], for shorter argument lists.
macro_rules! call {
    ($number:ident $(, $arg:expr)*) => {{
        #[allow(unused_mut)]
        let mut args = [0usize; 6];
        let mut _next = args.iter_mut();
        $( if let Some(arg) = _next.next() { *arg = $arg as usize } )*
        // SAFETY: arguments are integers, descriptors, or pointers to live values
        // of the size that the call expects.
        unsafe { $crate::sys::answer($crate::sys::nr::$number, args) }
    }};
}
pub(crate) use call;

/// Ends the process.
pub fn exit(status: usize) -> ! {
    loop {
        let _ = call!(EXIT_GROUP, status);
    }
}

/// Nanoseconds on `clock` (0 wall clock, 7 boot clock).
pub fn clock(clock: usize) -> u64 {
    let mut time = [0i64; 2];
    let _ = call!(CLOCK_GETTIME, clock, time.as_mut_ptr());
    time[0] as u64 * 1_000_000_000 + time[1] as u64
}

/// Type and permissions of what descriptor `fd` or, if `path` is not null, the
/// path from there names.
pub fn mode(fd: usize, path: *const u8) -> Result<u32, i32> {
    Ok(node(fd, path)?.0)
}

/// As [`mode`]; with it the device number, major and minor, of a node.
pub fn node(fd: usize, path: *const u8) -> Result<(u32, (u32, u32)), i32> {
    let empty = [0u8];
    let mut out = [0u64; 32];
    let (path, flags) = if path.is_null() { (empty.as_ptr(), AT_EMPTY_PATH) } else { (path, 0) };
    call!(STATX, fd, path, flags, 1, out.as_mut_ptr())?;
    // stx_mode: 16 bits at offset 28; stx_rdev_major and _minor: words at offset 128.
    Ok(((out[3] >> 32) as u32 & 0xffff, (out[16] as u32, (out[16] >> 32) as u32)))
}

/// The number that the symbolic link `self` of the procfs in `fd` names: the
/// caller's pid as that procfs sees it.
pub fn own_pid(fd: usize) -> Result<u32, i32> {
    let mut text = [0u8; 16];
    let length = call!(READLINKAT, fd, c"self".as_ptr(), text.as_mut_ptr(), text.len())?;
    let mut pid = 0u32;
    for digit in text.iter().take(length) {
        pid = pid.wrapping_mul(10).wrapping_add(digit.wrapping_sub(b'0') as u32);
    }
    Ok(pid)
}

/// How a process is scheduled. `struct sched_attr`: size and policy, flags, nice and
/// priority, runtime, ...
pub type Scheduling = [u64; 6];

/// Before all that are not in real time: `SCHED_FIFO`, with the lowest priority it has.
pub const AT_ONCE: Scheduling = [48 | 1 << 32, 0, 1 << 32, 0, 0, 0];

/// How this process is scheduled, if by the fair scheduler (`SCHED_OTHER`, `SCHED_BATCH`).
pub fn scheduling() -> Option<Scheduling> {
    let mut attr = [0; 6];
    call!(SCHED_GETATTR, 0, attr.as_mut_ptr(), 48, 0).ok()?;
    matches!(attr[0] >> 32, 0 | 3).then_some(attr)
}

/// Schedules process `pid`, 0 is this one, like that; a refusal changes nothing but
/// latency.
pub fn schedule(pid: usize, attr: &Scheduling) {
    let _ = call!(SCHED_SETATTR, pid, attr.as_ptr(), 0);
}

/// Asks for scheduler slices of `nanoseconds`; 0 is the default. Policy and nice
/// value stay.
pub fn slice(nanoseconds: u64) {
    if let Some(mut attr) = scheduling() {
        attr[3] = nanoseconds;
        schedule(0, &attr);
    }
}
