//! The container's first process, from its creation to the command.
//!
//! It shares the shim's memory while the shim is stopped (`CLONE_VM | CLONE_VFORK`),
//! or, to enter a time namespace, has a copy; either way it shares the mapped record
//! and reports a failing step simply by writing it.

use core::ffi::c_void;
use core::mem::MaybeUninit;

use crate::Shim;
use crate::arch::{CloneArgs, clone3};
use crate::program::{Op, SAYS_WAITING, SOCKET_FD, code};
use crate::steps::{self, done};
use crate::sys::{self, call, errno};
use crate::terminal;

const STACK: usize = 8192;

#[repr(C, align(16))]
struct Stack([MaybeUninit<u8>; STACK]);

struct First<'a> {
    shim: &'a mut Shim,
    /// The operation that creates it; its own follow.
    index: usize,
}

/// Creates the first process and returns its pid (as the shim sees it) once it
/// executes, or has failed and recorded why.
pub fn spawn(shim: &mut Shim, index: usize) -> Result<usize, i32> {
    let op = shim.program.op(index).ok_or(errno::EINVAL)?;
    let (flag, cgroup) = match op.a {
        0 => (0, 0),
        slot => (sys::CLONE_INTO_CGROUP, shim.slot(slot - 1)? as u64),
    };
    let memory = if op.b == 1 { 0 } else { sys::CLONE_VM };
    let mut stack = MaybeUninit::<Stack>::uninit();
    // In a time namespace the clocks may be others.
    shim.record.starting();
    let args = CloneArgs {
        flags: memory | sys::CLONE_VFORK | flag,
        exit_signal: sys::SIGCHLD,
        stack: stack.as_mut_ptr() as u64,
        stack_size: STACK as u64,
        cgroup,
        ..CloneArgs::default()
    };
    shim.usual = sys::scheduling();
    let mut first = First { shim, index };
    // SAFETY: stack and argument are ours until the process has executed or
    // ended, which is when the call returns. It only makes system calls and
    // writes to the record and to private copies of strings.
    match unsafe { clone3(&args, body, (&raw mut first).cast()) } {
        error if error < 0 => Err(-error as i32),
        pid => Ok(pid as usize),
    }
}

unsafe extern "C" fn body(argument: *mut c_void) -> ! {
    // SAFETY: `spawn` passes a `First` that outlives this process' use of it.
    let first = unsafe { &mut *argument.cast::<First<'_>>() };
    let mut index = first.index + 1;
    if first.shim.usual.is_some() {
        hurry_shim();
    }
    loop {
        let Some(op) = first.shim.program.op(index) else {
            first.shim.record.fail(index as u32, code::LOAD, errno::EINVAL);
            sys::exit(1)
        };
        if let Err(errno) = run(first.shim, &op) {
            first.shim.record.fail(index as u32, op.code, errno);
            sys::exit(1)
        }
        index += 1;
    }
}

/// Lets the shim run as soon as this process executes: it has but a word to say, and the
/// agent waits for it. Else it may have to wait for the slice of the command, which begins
/// on the same processor (docs/decisions/0020).
fn hurry_shim() {
    match call!(GETPPID) {
        // It is in another pid namespace.
        Err(_) | Ok(0) => {}
        Ok(shim) => sys::schedule(shim, &sys::AT_ONCE),
    }
}

fn run(shim: &mut Shim, op: &Op) -> Result<(), i32> {
    match op.code {
        code::PUBLISH => {
            shim.record.publish(sys::own_pid(shim.slot(op.a)?)?);
            Ok(())
        }
        code::WRITE => done(call!(WRITE, shim.slot(op.a)?, shim.string(op.b)?, op.c)),
        code::WRITE_AT => steps::write_at(shim, op),
        code::JOIN => steps::join(shim, op),
        code::WAIT => wait(),
        code::UNSHARE => done(call!(UNSHARE, op.d)),
        code::SESSION => done(call!(SETSID)),
        code::CONTROL => terminal::take(),
        code::RLIMIT => {
            let limit = [op.d, op.e];
            done(call!(PRLIMIT64, 0, op.a, limit.as_ptr(), 0))
        }
        code::GROUPS => {
            let ids = match op.b {
                0 => core::ptr::null_mut(),
                count => shim.bytes(op.a, count as usize * 4, 4)?,
            };
            done(call!(SETGROUPS, op.b, ids))
        }
        code::GID => done(call!(SETRESGID, op.a, op.a, op.a)),
        code::UID => {
            if op.b == 1 {
                call!(PRCTL, 8, 1)?;
            }
            done(call!(SETRESUID, op.a, op.a, op.a))
        }
        code::BOUND => bound(op.d),
        code::CAPABILITIES => capabilities(op),
        code::AMBIENT => ambient(op.d),
        code::NO_NEW_PRIVILEGES => done(call!(PRCTL, 38, 1)),
        code::SECCOMP => {
            let filter = shim.bytes(op.a, op.b as usize * 8, 8)?;
            // struct sock_fprog: a 16-bit length, padding, a pointer.
            let program = [op.b as u64 & 0xffff, filter as u64];
            done(call!(SECCOMP, 1, op.c, program.as_ptr()))
        }
        code::CHDIR => done(call!(CHDIR, shim.string(op.a)?)),
        code::UMASK => {
            shim.umask = op.a as usize;
            Ok(())
        }
        code::SLICE => {
            sys::slice(0);
            Ok(())
        }
        code::DIE_WITH_SHIM => done(call!(PRCTL, 1, sys::SIGKILL)),
        code::EXEC => execute(shim, op),
        _ => Err(errno::EINVAL),
    }
}

/// Waits for one byte of the agent; an agent that is gone means no.
fn wait() -> Result<(), i32> {
    let mut word = SAYS_WAITING;
    call!(WRITE, SOCKET_FD, &raw const word, 1)?;
    match call!(READ, SOCKET_FD, &raw mut word, 1)? {
        1 => Ok(()),
        _ => Err(errno::ECANCELED),
    }
}

fn bound(keep: u64) -> Result<(), i32> {
    for capability in 0..64 {
        if keep & 1 << capability == 0 {
            match call!(PRCTL, 24, capability) {
                // Beyond the kernel's last capability.
                Err(errno::EINVAL) => break,
                other => done(other)?,
            }
        }
    }
    Ok(())
}

fn capabilities(op: &Op) -> Result<(), i32> {
    let inheritable = [op.a, op.b];
    let half = |mask: u64, high: usize| (mask >> (32 * high)) as u32;
    let header = [0x2008_0522u32, 0];
    let mut data = [0u32; 6];
    for high in 0..2 {
        data[high * 3] = half(op.e, high);
        data[high * 3 + 1] = half(op.d, high);
        data[high * 3 + 2] = inheritable[high];
    }
    done(call!(CAPSET, header.as_ptr(), data.as_ptr()))
}

fn ambient(mask: u64) -> Result<(), i32> {
    call!(PRCTL, 47, 4)?;
    for capability in 0..64 {
        if mask & 1 << capability != 0 {
            call!(PRCTL, 47, 2, capability)?;
        }
    }
    Ok(())
}

/// Turns a table of string offsets into one of pointers, in place; the word
/// behind it is already null.
fn pointers(shim: &Shim, table: u32, count: usize) -> Result<*mut u64, i32> {
    let length = count.checked_add(1).and_then(|n| n.checked_mul(8)).ok_or(errno::EINVAL)?;
    let entries = shim.bytes(table, length, 8)?.cast::<u64>();
    for i in 0..count {
        // SAFETY: `bytes` checked that `count` aligned words are there.
        let entry = unsafe { entries.add(i) };
        // SAFETY: as above.
        let string = shim.string(unsafe { entry.read() })?;
        // SAFETY: as above; the mapping is private and writable.
        unsafe { entry.write(string as u64) };
    }
    Ok(entries)
}

/// Executes the first candidate that can be; as execvp, a candidate that may not
/// be executed counts more than one that is missing, and a file that the kernel
/// does not know is a shell script.
fn execute(shim: &mut Shim, op: &Op) -> Result<(), i32> {
    let split = |value: u64| (value as u32, (value >> 32) as usize);
    let ((arguments, argc), (environment, envc)) = (split(op.d), split(op.e));
    // One word before the arguments is free, for the shell.
    shim.bytes(arguments.wrapping_sub(8), 8, 8)?;
    let argv = pointers(shim, arguments, argc)?;
    let envp = pointers(shim, environment, envc)?;
    let candidates = pointers(shim, op.a, op.b as usize)?;
    let none = 0u64;
    call!(UMASK, shim.umask)?;
    call!(RT_SIGPROCMASK, 2, &raw const none, 0, 8)?;
    if op.c == 1 {
        call!(CLOSE_RANGE, 3, SOCKET_FD - 1, 0)?;
        call!(CLOSE_RANGE, SOCKET_FD + 1, u32::MAX, 0)?;
    } else {
        call!(CLOSE_RANGE, 3, u32::MAX, 0)?;
    }
    let mut worst = errno::ENOENT;
    for i in 0..op.b as usize {
        // SAFETY: `pointers` made `op.b` of them.
        let path = unsafe { candidates.add(i).read() };
        match call!(EXECVE, path, argv, envp) {
            Err(errno::ENOENT | errno::ENOTDIR) => {}
            Err(errno::EACCES) => worst = errno::EACCES,
            Err(errno::ENOEXEC) => {
                // SAFETY: the free word and the first argument, checked above.
                let script = unsafe {
                    argv.write(path);
                    argv.sub(1).write(c"/bin/sh".as_ptr() as u64);
                    argv.sub(1)
                };
                call!(EXECVE, c"/bin/sh".as_ptr(), script, envp)?;
            }
            Err(other) => return Err(other),
            Ok(_) => {}
        }
    }
    Err(worst)
}
