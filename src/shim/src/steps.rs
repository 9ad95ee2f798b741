//! Operations of the shim itself: namespaces, mounts, root, files.

use crate::Shim;
use crate::program::{Op, code};
use crate::sys::{self, call, errno};
use crate::terminal;

/// Runs one operation.
pub fn run(shim: &mut Shim, op: &Op) -> Result<(), i32> {
    match op.code {
        code::SUBREAPER => subreaper(shim),
        code::OPEN => {
            let flags = op.d as usize | sys::O_CLOEXEC;
            let fd = call!(OPENAT, sys::AT_FDCWD, shim.string(op.a)?, flags, 0)?;
            shim.keep(op.b, fd)
        }
        code::TREE => {
            let depth = if op.c == 1 { sys::AT_RECURSIVE } else { 0 };
            let flags = sys::OPEN_TREE_CLONE | sys::O_CLOEXEC | depth;
            let path = shim.string(op.a)?;
            if op.d == 0 {
                let fd = call!(OPEN_TREE, sys::AT_FDCWD, path, flags)?;
                return shim.keep(op.b, fd);
            }
            let found = beneath(shim.slot(op.d as u32 - 1)?, path)?;
            let fd = call!(OPEN_TREE, found, c"".as_ptr(), flags | sys::AT_EMPTY_PATH);
            let _ = call!(CLOSE_RANGE, found, found, 0);
            shim.keep(op.b, fd?)
        }
        code::JOIN => join(shim, op),
        code::UNSHARE => done(call!(UNSHARE, op.d)),
        code::WRITE_AT => write_at(shim, op),
        code::MAP_IDS => {
            let depth = if op.c == 1 { sys::AT_RECURSIVE } else { 0 };
            // struct mount_attr: set (MOUNT_ATTR_IDMAP), clear, propagation, namespace.
            let request = [0x0010_0000, 0, 0, shim.slot(op.b)? as u64];
            let (fd, flags) = (shim.slot(op.a)?, depth | sys::AT_EMPTY_PATH);
            done(call!(MOUNT_SETATTR, fd, c"".as_ptr(), flags, request.as_ptr(), 32))
        }
        code::FILES_AS => files_as(op.a, op.b),
        code::IDENTIFY => {
            shim.record.identify(sys::own_pid(shim.slot(op.a)?)?);
            Ok(())
        }
        code::HOSTNAME => done(call!(SETHOSTNAME, shim.string(op.a)?, op.b)),
        code::MOUNT => {
            let (source, target) = (shim.optional(op.a)?, shim.string(op.b)?);
            let (kind, data) = (shim.optional(op.c)?, shim.optional(op.e)?);
            done(call!(MOUNT, source, target, kind, op.d, data))
        }
        code::INHERIT => shim.keep(op.b, op.a as usize),
        code::PLACE => {
            let flags = sys::O_PATH | sys::O_CLOEXEC;
            let fd = call!(OPENAT, sys::AT_FDCWD, shim.string(op.a)?, flags, 0)?;
            let placed = call!(DUP3, fd, op.b, sys::O_CLOEXEC);
            let _ = call!(CLOSE_RANGE, fd, fd, 0);
            done(placed)
        }
        code::CLOSE => done(call!(CLOSE_RANGE, op.a, op.b, 0)),
        code::CHDIR => done(call!(CHDIR, shim.string(op.a)?)),
        code::ATTACH if op.c != 0 => {
            let found = beneath(shim.slot(op.c - 1)?, shim.string(op.b)?)?;
            let (fd, empty) = (shim.slot(op.a)?, c"".as_ptr());
            let flags = sys::MOVE_MOUNT_F_EMPTY_PATH | sys::MOVE_MOUNT_T_EMPTY_PATH;
            let moved = call!(MOVE_MOUNT, fd, empty, found, empty, flags);
            let _ = call!(CLOSE_RANGE, found, found, 0);
            done(moved)
        }
        code::ATTACH => attach(shim.slot(op.a)?, shim.string(op.b)?),
        code::RESTRICT if op.c != 0 => {
            let depth = if op.b == 1 { sys::AT_RECURSIVE } else { 0 };
            let fd = shim.slot(op.c - 1)?;
            done(set_attributes(fd, c"".as_ptr().cast(), op.d, depth | sys::AT_EMPTY_PATH))
        }
        code::RESTRICT => restrict(shim.string(op.a)?, op.d, op.e as usize, op.b == 1),
        code::MKDIR => make_directory(shim.string(op.a)?, op.b, op.c == 1),
        code::SYMLINK => {
            let (target, link) = (shim.string(op.a)?, shim.string(op.b)?);
            existing(call!(SYMLINKAT, target, sys::AT_FDCWD, link))
        }
        code::RENAME => {
            let (from, to) = (shim.string(op.a)?, shim.string(op.b)?);
            done(call!(RENAMEAT2, sys::AT_FDCWD, from, sys::AT_FDCWD, to, 0))
        }
        code::MKNOD => existing(call!(MKNODAT, sys::AT_FDCWD, shim.string(op.a)?, op.b, op.d)),
        code::CHOWN => done(call!(FCHOWNAT, sys::AT_FDCWD, shim.string(op.a)?, op.b, op.c, 0)),
        code::PIVOT => pivot(shim.string(op.a)?),
        code::CHROOT => {
            call!(CHROOT, shim.string(op.a)?)?;
            done(call!(CHDIR, c"/".as_ptr()))
        }
        code::MASK => mask(shim.string(op.a)?, shim.optional(op.b)?),
        code::PROTECT => protect(shim.string(op.a)?),
        code::UNMOUNT => match call!(UMOUNT2, shim.string(op.a)?, sys::MNT_DETACH) {
            Err(errno::ENOENT | errno::ENOTDIR | errno::EINVAL) => Ok(()),
            other => done(other),
        },
        code::TERMINAL => {
            shim.terminal = terminal::make(shim, op)?;
            Ok(())
        }
        _ => Err(errno::EINVAL),
    }
}

/// Drops the value of a successful call.
pub fn done(answer: sys::Answer) -> Result<(), i32> {
    answer.map(|_| ())
}

/// Enters a namespace, by path or by slot.
pub fn join(shim: &Shim, op: &Op) -> Result<(), i32> {
    if op.d != 0 {
        return done(call!(SETNS, shim.slot(op.d as u32 - 1)?, op.b));
    }
    let fd = call!(OPENAT, sys::AT_FDCWD, shim.string(op.a)?, sys::O_CLOEXEC, 0)?;
    let joined = call!(SETNS, fd, op.b);
    let _ = call!(CLOSE_RANGE, fd, fd, 0);
    done(joined)
}

/// Writes a file below a directory.
pub fn write_at(shim: &Shim, op: &Op) -> Result<(), i32> {
    let flags = sys::O_WRONLY | sys::O_CLOEXEC;
    let fd = call!(OPENAT, shim.slot(op.a)?, shim.string(op.b)?, flags, 0)?;
    let written = call!(WRITE, fd, shim.string(op.c)?, op.d);
    let _ = call!(CLOSE_RANGE, fd, fd, 0);
    done(written)
}

/// Makes files as another user and group. SECBIT_NO_SETUID_FIXUP keeps the
/// capabilities that user 0 has over files.
fn files_as(user: u32, group: u32) -> Result<(), i32> {
    let keep = if user == 0 { 0 } else { 4 };
    if keep != 0 {
        call!(PRCTL, 28, keep)?;
    }
    call!(SETFSGID, group)?;
    call!(SETFSUID, user)?;
    // These calls tell failure by changing nothing: asking is trying the impossible.
    if call!(SETFSUID, -1isize)? != user as usize || call!(SETFSGID, -1isize)? != group as usize {
        return Err(errno::EPERM);
    }
    if keep == 0 {
        call!(PRCTL, 28, 0)?;
    }
    Ok(())
}

/// As [`done`]; "exists already" is success.
fn existing(answer: sys::Answer) -> Result<(), i32> {
    match answer {
        Err(errno::EEXIST) => Ok(()),
        other => done(other),
    }
}

/// Orphans come to us, and we keep the list of own children at hand, because
/// /proc may be out of reach when it is needed.
fn subreaper(shim: &mut Shim) -> Result<(), i32> {
    call!(PRCTL, 36, 1)?;
    let path = c"/proc/thread-self/children".as_ptr();
    // Without CONFIG_PROC_CHILDREN orphans are left to the agent.
    if let Ok(fd) = call!(OPENAT, sys::AT_FDCWD, path, sys::O_CLOEXEC, 0) {
        shim.children = fd as i32;
    }
    Ok(())
}

/// Makes directory `path`; with `parents` the missing ones above it, too.
fn make_directory(path: *mut u8, mode: u32, parents: bool) -> Result<(), i32> {
    match call!(MKDIRAT, sys::AT_FDCWD, path, mode) {
        Err(errno::ENOENT) if parents => {
            make_parents(path)?;
            existing(call!(MKDIRAT, sys::AT_FDCWD, path, mode))
        }
        other => existing(other),
    }
}

/// Makes every directory above `path`, by ending the string at each slash in turn.
fn make_parents(path: *mut u8) -> Result<(), i32> {
    let mut at = 1;
    loop {
        // SAFETY: `at` runs up to the terminating NUL and the string is writable.
        let byte = unsafe { path.add(at) };
        // SAFETY: as above.
        match unsafe { byte.read() } {
            0 => return Ok(()),
            b'/' => {
                // SAFETY: as above.
                unsafe { byte.write(0) };
                let made = existing(call!(MKDIRAT, sys::AT_FDCWD, path, 0o755));
                // SAFETY: as above.
                unsafe { byte.write(b'/') };
                made?;
            }
            _ => {}
        }
        at += 1;
    }
}

/// Attaches the tree in `fd` at `target`, made to match if it is missing. It hardly ever
/// is, and looking first would take longer than all else.
pub fn attach(fd: usize, target: *mut u8) -> Result<(), i32> {
    let flags = sys::MOVE_MOUNT_F_EMPTY_PATH | sys::MOVE_MOUNT_T_SYMLINKS;
    let attach = || done(call!(MOVE_MOUNT, fd, c"".as_ptr(), sys::AT_FDCWD, target, flags));
    match attach() {
        Err(errno::ENOENT) => {}
        other => return other,
    }
    if sys::mode(fd, core::ptr::null())? & sys::S_IFMT == sys::S_IFDIR {
        make_directory(target, 0o755, true)?;
    } else {
        make_parents(target)?;
        let mode = sys::S_IFREG | 0o644;
        existing(call!(MKNODAT, sys::AT_FDCWD, target, mode, 0))?;
    }
    attach()
}

/// Opens `path` below the directory `root` without touching it. Links that lead
/// out, and `/proc`'s magic ones, are refused; whoever owns the directory may swap
/// what is in it while we look.
fn beneath(root: usize, path: *const u8) -> Result<usize, i32> {
    // struct open_how: flags, mode, RESOLVE_BENEATH | RESOLVE_NO_MAGICLINKS.
    let how = [(sys::O_PATH | sys::O_CLOEXEC) as u64, 0, 0x0a];
    let mut answer = Err(errno::EAGAIN);
    // EAGAIN: something was renamed while the kernel looked at a `..`.
    for _ in 0..16 {
        answer = call!(OPENAT2, root, path, how.as_ptr(), 24);
        if answer != Err(errno::EAGAIN) {
            break;
        }
    }
    answer
}

fn set_attributes(fd: usize, path: *const u8, attributes: u64, flags: usize) -> sys::Answer {
    const ATIME: u64 = 0x70;
    let clear = if attributes & ATIME != 0 { ATIME } else { 0 };
    let request = [attributes, clear, 0, 0];
    call!(MOUNT_SETATTR, fd, path, flags, request.as_ptr(), 32)
}

/// Adds mount attributes, keeping those that are there.
fn restrict(path: *const u8, attributes: u64, flags: usize, recursive: bool) -> Result<(), i32> {
    let depth = if recursive { sys::AT_RECURSIVE } else { 0 };
    match set_attributes(sys::AT_FDCWD, path, attributes, depth) {
        Err(errno::ENOSYS) => {}
        other => return done(other),
    }
    // Before 5.12: a remount replaces the flags, so it has to repeat them.
    let mut out = [0u64; 15];
    call!(STATFS, path, out.as_mut_ptr())?;
    let now = out[10] as usize;
    let relatime = if now & 0x1000 != 0 { sys::MS_RELATIME } else { 0 };
    let flags = flags | now & 0xc0f | relatime | sys::MS_REMOUNT | sys::MS_BIND;
    done(call!(MOUNT, 0, path, 0, flags, 0))
}

/// Makes `root` the root. The old root is mounted on top of the new one and the
/// working directory stays in it, so it can be detached without a name.
fn pivot(root: *const u8) -> Result<(), i32> {
    let here = c".".as_ptr();
    call!(CHDIR, root)?;
    match call!(PIVOT_ROOT, here, here) {
        // The initial ramfs cannot be pivoted away: move over it instead.
        Err(errno::EINVAL) => {
            call!(MOUNT, here, c"/".as_ptr(), 0, sys::MS_MOVE, 0)?;
            call!(CHROOT, here)?;
        }
        other => {
            other?;
            call!(UMOUNT2, here, sys::MNT_DETACH)?;
        }
    }
    done(call!(CHDIR, c"/".as_ptr()))
}

/// Hides a path, if it exists; a directory behind an `empty` one, if that does.
fn mask(path: *const u8, empty: *const u8) -> Result<(), i32> {
    let mode = match sys::mode(sys::AT_FDCWD, path) {
        Err(errno::ENOENT | errno::ENOTDIR) => return Ok(()),
        other => other?,
    };
    if mode & sys::S_IFMT == sys::S_IFDIR {
        if !empty.is_null() && call!(MOUNT, empty, path, 0, sys::MS_BIND, 0).is_ok() {
            return Ok(());
        }
        let tmpfs = c"tmpfs".as_ptr();
        return done(call!(MOUNT, tmpfs, path, tmpfs, sys::MS_RDONLY, 0));
    }
    done(call!(MOUNT, c"/dev/null".as_ptr(), path, 0, sys::MS_BIND, 0))
}

/// Makes a path read-only, if it exists.
fn protect(path: *const u8) -> Result<(), i32> {
    match call!(MOUNT, path, path, 0, sys::MS_BIND | sys::MS_REC, 0) {
        Err(errno::ENOENT | errno::ENOTDIR) => Ok(()),
        other => {
            other?;
            restrict(path, 1, sys::MS_RDONLY, true)
        }
    }
}
