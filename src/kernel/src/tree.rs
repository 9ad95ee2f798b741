//! Copies of mounts that are attached nowhere, and what is changed of these before they
//! are put anywhere. Blocking.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// A copy of the mount at `path`.
pub(crate) fn copy(path: &Path) -> io::Result<OwnedFd> {
    let text = CString::new(path.as_os_str().as_bytes())?;
    let flags = libc::OPEN_TREE_CLONE as libc::c_int | libc::OPEN_TREE_CLOEXEC as libc::c_int;
    // SAFETY: a C string that outlives the call, and integers.
    let tree = unsafe { libc::syscall(libc::SYS_open_tree, libc::AT_FDCWD, text.as_ptr(), flags) };
    if tree < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: a fresh descriptor that nobody else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(tree as RawFd) })
}

/// Nobody writes through `tree`.
pub(crate) fn forbid_writing(tree: &OwnedFd) -> io::Result<()> {
    change(tree, [libc::MOUNT_ATTR_RDONLY, 0, 0, 0])
}

/// Owners of files are shown as the user namespace `namespace` has them.
pub(crate) fn map_ids(tree: &OwnedFd, namespace: &OwnedFd) -> io::Result<()> {
    change(tree, [libc::MOUNT_ATTR_IDMAP, 0, 0, namespace.as_raw_fd() as u64])
}

/// `request`: a `struct mount_attr`: set, clear, propagation, user namespace.
fn change(tree: &OwnedFd, request: [u64; 4]) -> io::Result<()> {
    // SAFETY: an empty C string and a struct that outlive the call.
    let answer = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            tree.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH,
            request.as_ptr(),
            size_of_val(&request),
        )
    };
    if answer == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
