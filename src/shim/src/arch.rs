//! Raw system calls and the process-creating trampoline, per architecture.
//!
//! Compiled into the shim and into `kernel::spawn`; the only assembly of the
//! project besides the shim's entry point.

use core::arch::asm;

/// Makes a system call; negative results are `-errno`.
///
/// # Safety
/// As dangerous as the call itself: pointers must be valid for what it does.
#[cfg(target_arch = "x86_64")]
#[inline]
pub unsafe fn syscall(number: usize, args: [usize; 6]) -> isize {
    let result: isize;
    // SAFETY: the kernel clobbers rcx and r11 only; the caller vouches for the rest.
    unsafe {
        asm!(
            "syscall",
            inlateout("rax") number as isize => result,
            in("rdi") args[0], in("rsi") args[1], in("rdx") args[2],
            in("r10") args[3], in("r8") args[4], in("r9") args[5],
            lateout("rcx") _, lateout("r11") _,
            options(nostack),
        );
    }
    result
}

/// Makes a system call; negative results are `-errno`.
///
/// # Safety
/// As dangerous as the call itself: pointers must be valid for what it does.
#[cfg(target_arch = "aarch64")]
#[inline]
pub unsafe fn syscall(number: usize, args: [usize; 6]) -> isize {
    let result: isize;
    // SAFETY: the kernel clobbers x0 only; the caller vouches for the rest.
    unsafe {
        asm!(
            "svc 0",
            in("x8") number,
            inlateout("x0") args[0] as isize => result,
            in("x1") args[1], in("x2") args[2],
            in("x3") args[3], in("x4") args[4], in("x5") args[5],
            options(nostack),
        );
    }
    result
}

/// `struct clone_args` of clone3(2), version 2 (cgroup).
#[repr(C)]
#[derive(Debug, Clone, Copy, Default)]
#[allow(missing_docs)]
pub struct CloneArgs {
    pub flags: u64,
    pub pidfd: u64,
    pub child_tid: u64,
    pub parent_tid: u64,
    pub exit_signal: u64,
    pub stack: u64,
    pub stack_size: u64,
    pub tls: u64,
    pub set_tid: u64,
    pub set_tid_size: u64,
    pub cgroup: u64,
}

/// Number of clone3 on every architecture that has it.
const CLONE3: usize = 435;

/// Calls clone3; the child runs `body(argument)` on the stack named in `args`.
/// Returns the child's pid or `-errno`, in the parent only.
///
/// # Safety
/// `args` names a stack that nobody else uses while the child runs, with the
/// top aligned to 16 bytes. `body` obeys what the flags demand; with `CLONE_VM`
/// it must not return into, unlock or free anything of the parent.
pub unsafe fn clone3(
    args: &CloneArgs,
    body: unsafe extern "C" fn(*mut core::ffi::c_void) -> !,
    argument: *mut core::ffi::c_void,
) -> isize {
    let result: isize;
    #[cfg(target_arch = "x86_64")]
    // SAFETY: r8 and r9 survive the call; the child never reaches label 2.
    unsafe {
        asm!(
            "syscall",
            "test rax, rax",
            "jnz 2f",
            "xor ebp, ebp",
            "mov rdi, r9",
            "call r8",
            "ud2",
            "2:",
            inlateout("rax") CLONE3 as isize => result,
            in("rdi") args as *const CloneArgs,
            in("rsi") size_of::<CloneArgs>(),
            in("r8") body,
            in("r9") argument,
            lateout("rcx") _, lateout("r11") _,
        );
    }
    #[cfg(target_arch = "aarch64")]
    // SAFETY: x9 and x10 survive the call; the child never reaches label 2.
    unsafe {
        asm!(
            "svc 0",
            "cbnz x0, 2f",
            "mov x29, xzr",
            "mov x0, x9",
            "blr x10",
            "brk 1",
            "2:",
            in("x8") CLONE3,
            inlateout("x0") args as *const CloneArgs as isize => result,
            in("x1") size_of::<CloneArgs>(),
            in("x9") argument,
            in("x10") body,
        );
    }
    result
}
