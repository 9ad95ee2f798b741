//! The few mount calls that the helper and its hook make themselves.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

fn string(bytes: &[u8]) -> io::Result<CString> {
    CString::new(bytes).map_err(|_| io::ErrorKind::InvalidInput.into())
}

fn path(path: &Path) -> io::Result<CString> {
    string(path.as_os_str().as_bytes())
}

fn done(result: libc::c_int) -> io::Result<()> {
    match result {
        -1 => Err(io::Error::last_os_error()),
        _ => Ok(()),
    }
}

/// A mount namespace of our own; what the host mounts later still appears in it,
/// what we mount stays.
pub(super) fn leave_the_hosts() -> io::Result<()> {
    // SAFETY: an integer.
    done(unsafe { libc::unshare(libc::CLONE_NEWNS) })?;
    mount("none", Path::new("/"), "", libc::MS_REC | libc::MS_SLAVE, "")
}

/// As mount(2); an empty kind or data is a null pointer.
pub(super) fn mount(
    source: &str,
    target: &Path,
    kind: &str,
    flags: libc::c_ulong,
    data: &str,
) -> io::Result<()> {
    let (source, target) = (string(source.as_bytes())?, path(target)?);
    let (kind, data) = (string(kind.as_bytes())?, string(data.as_bytes())?);
    let pointer = |text: &CString| match text.is_empty() {
        true => std::ptr::null(),
        false => text.as_ptr(),
    };
    // SAFETY: C strings that outlive the call, or null pointers.
    done(unsafe {
        libc::mount(source.as_ptr(), target.as_ptr(), pointer(&kind), flags, pointer(&data).cast())
    })
}

/// Detaches the mount at `target` with all on it.
pub(super) fn detach(target: &Path) -> io::Result<()> {
    let target = path(target)?;
    // SAFETY: a C string that outlives the call.
    done(unsafe { libc::umount2(target.as_ptr(), libc::MNT_DETACH) })
}

/// A copy of the mounts at and below `source`, attached nowhere.
pub(super) fn pick_up(source: &Path) -> io::Result<OwnedFd> {
    let source = path(source)?;
    let flags = libc::OPEN_TREE_CLONE as libc::c_int
        | libc::OPEN_TREE_CLOEXEC as libc::c_int
        | libc::AT_RECURSIVE;
    // SAFETY: a C string that outlives the call, and integers.
    let fd = unsafe { libc::syscall(libc::SYS_open_tree, libc::AT_FDCWD, source.as_ptr(), flags) };
    match fd {
        -1 => Err(io::Error::last_os_error()),
        // SAFETY: a fresh descriptor that nobody else owns.
        fd => Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) }),
    }
}

/// Attaches what [`pick_up`] returned.
pub(super) fn put_down(tree: &OwnedFd, target: &Path) -> io::Result<()> {
    let target = path(target)?;
    // SAFETY: C strings that outlive the call, and integers.
    done(unsafe {
        libc::syscall(
            libc::SYS_move_mount,
            tree.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_FDCWD,
            target.as_ptr(),
            libc::MOVE_MOUNT_F_EMPTY_PATH,
        )
    } as libc::c_int)
}
