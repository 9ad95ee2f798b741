//! Directories made of layers: overlays and read-only binds, mounted by the agent, and
//! copies (`copy`).
//!
//! Layers are in overlay's own form: what one removes is a character device 0/0 in it,
//! a directory that hides what is below it has the attribute [`OPAQUE`]. Mounts are made
//! with the mount API of Linux 5.2, which has no limit on the number of layers from 6.5
//! on; with `mount(2)` on older kernels, whose options must fit into a page.

pub mod copy;

use std::ffi::{CStr, CString};
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use nix::mount::MsFlags;

use crate::Error;

/// The attribute of a directory that hides what is below it; its value is `y`.
pub const OPAQUE: &str = "trusted.overlay.opaque";
/// Longest value of a parameter that the kernel takes, in bytes.
const LONGEST: usize = 255;
const FSOPEN_CLOEXEC: libc::c_uint = 1;
const FSMOUNT_CLOEXEC: libc::c_uint = 1;
const SET_FLAG: libc::c_uint = 0;
const SET_STRING: libc::c_uint = 1;
const CREATE: libc::c_uint = 6;
const MOVE_MOUNT_F_EMPTY_PATH: libc::c_uint = 4;

/// Where an overlay is written.
#[derive(Debug, Clone, Copy)]
pub struct Upper<'a> {
    /// What was written.
    pub upper: &'a Path,
    /// An empty directory on the same file system.
    pub work: &'a Path,
}

/// Mounts an overlay on `target`; `lower` has the topmost layer first. Without an upper
/// directory it cannot be written, and needs two layers. What is written is not kept
/// over a crash of the machine (`volatile`).
///
/// # Errors
/// As the kernel: a file system that cannot be a layer, too many layers for it.
pub fn mount_overlay(
    target: &Path,
    lower: &[PathBuf],
    upper: Option<Upper<'_>>,
) -> Result<(), Error> {
    let made = match new_overlay(lower, upper) {
        Ok(tree) => attach(&tree, target),
        // Before 6.5, or before 5.2.
        Err(error) if old_kernel(&error) => old_overlay(target, lower, upper),
        Err(error) => Err(error),
    };
    made.map_err(|error| Error::new("mount an overlay on", target.display().to_string(), error))
}

/// As [`mount_overlay`], without a place: who has the descriptor may give it one, in
/// whatever mount namespace, and it goes with the descriptor if nobody does. `None`: the
/// kernel is too old for that (before 6.5).
///
/// # Errors
/// As [`mount_overlay`].
pub fn overlay_tree(lower: &[PathBuf], upper: Option<Upper<'_>>) -> Result<Option<OwnedFd>, Error> {
    match new_overlay(lower, upper) {
        Ok(tree) => Ok(Some(tree)),
        Err(error) if old_kernel(&error) => Ok(None),
        Err(error) => {
            let object = upper.map_or_else(String::new, |own| own.upper.display().to_string());
            Err(Error::new("make an overlay of", object, error))
        }
    }
}

/// Mounts `source` on `target`, so that nothing below it can be written.
///
/// # Errors
/// As the kernel.
pub fn mount_read_only(target: &Path, source: &Path) -> Result<(), Error> {
    let bind = MsFlags::MS_BIND;
    let read_only = bind | MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY;
    let none = None::<&Path>;
    nix::mount::mount(Some(source), target, none, bind, none)
        .and_then(|()| nix::mount::mount(none, target, none, read_only, none))
        .map_err(|e| Error::new("mount on", target.display().to_string(), e.into()))
}

fn old_kernel(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ENOSYS | libc::EINVAL))
}

fn new_overlay(lower: &[PathBuf], upper: Option<Upper<'_>>) -> io::Result<OwnedFd> {
    let context = open(c"overlay")?;
    // What is too long is named by a descriptor that stays open until the end.
    let mut held = Vec::new();
    for layer in lower {
        set(&context, c"lowerdir+", &short(layer, &mut held)?)?;
    }
    if let Some(Upper { upper, work }) = upper {
        set(&context, c"upperdir", &short(upper, &mut held)?)?;
        set(&context, c"workdir", &short(work, &mut held)?)?;
        configure(&context, SET_FLAG, c"volatile", None)?;
    }
    // SAFETY: a descriptor of fsopen and integers.
    let made = unsafe {
        libc::syscall(libc::SYS_fsconfig, context.as_raw_fd(), CREATE, 0usize, 0usize, 0)
    };
    checked(made)?;
    // SAFETY: as above.
    let tree = unsafe { libc::syscall(libc::SYS_fsmount, context.as_raw_fd(), FSMOUNT_CLOEXEC, 0) };
    owned(tree)
}

fn open(kind: &CStr) -> io::Result<OwnedFd> {
    // SAFETY: a string and an integer.
    owned(unsafe { libc::syscall(libc::SYS_fsopen, kind.as_ptr(), FSOPEN_CLOEXEC) })
}

fn set(context: &OwnedFd, name: &CStr, value: &Path) -> io::Result<()> {
    let value = CString::new(value.as_os_str().as_bytes())?;
    configure(context, SET_STRING, name, Some(&value))
}

fn configure(
    context: &OwnedFd,
    kind: libc::c_uint,
    name: &CStr,
    value: Option<&CStr>,
) -> io::Result<()> {
    let value = value.map_or(std::ptr::null(), CStr::as_ptr);
    // SAFETY: a descriptor of fsopen and strings that outlive the call.
    let done = unsafe {
        libc::syscall(libc::SYS_fsconfig, context.as_raw_fd(), kind, name.as_ptr(), value, 0)
    };
    checked(done)
}

fn short(path: &Path, held: &mut Vec<File>) -> io::Result<PathBuf> {
    if path.as_os_str().len() <= LONGEST {
        return Ok(path.to_owned());
    }
    held.push(File::open(path)?);
    let fd = held.last().map_or(-1, AsRawFd::as_raw_fd);
    Ok(PathBuf::from(format!("/proc/self/fd/{fd}")))
}

fn attach(tree: &OwnedFd, target: &Path) -> io::Result<()> {
    let target = CString::new(target.as_os_str().as_bytes())?;
    // SAFETY: a descriptor of a mount and strings that outlive the call.
    let moved = unsafe {
        libc::syscall(
            libc::SYS_move_mount,
            tree.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_FDCWD,
            target.as_ptr(),
            MOVE_MOUNT_F_EMPTY_PATH,
        )
    };
    checked(moved)
}

fn checked(answer: libc::c_long) -> io::Result<()> {
    if answer < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

fn owned(answer: libc::c_long) -> io::Result<OwnedFd> {
    checked(answer)?;
    // SAFETY: the kernel has just made this descriptor for us.
    Ok(unsafe { OwnedFd::from_raw_fd(answer as libc::c_int) })
}

fn old_overlay(target: &Path, lower: &[PathBuf], upper: Option<Upper<'_>>) -> io::Result<()> {
    let lower: Vec<String> = lower.iter().map(|path| escape(path)).collect();
    let mut options = format!("lowerdir={}", lower.join(":"));
    if let Some(Upper { upper, work }) = upper {
        let own = format!(",upperdir={},workdir={},volatile", escape(upper), escape(work));
        options.push_str(&own);
    }
    let kind = Some("overlay");
    nix::mount::mount(kind, target, kind, MsFlags::empty(), Some(options.as_str()))?;
    Ok(())
}

/// Escapes what separates options and layers.
#[must_use]
pub fn escape(path: &Path) -> String {
    let mut out = String::new();
    for c in path.to_string_lossy().chars() {
        if matches!(c, ':' | ',' | '\\') {
            out.push('\\');
        }
        out.push(c);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_separates_is_escaped() {
        assert_eq!(escape(Path::new("/a:b,c\\d")), r"/a\:b\,c\\d");
    }
}
