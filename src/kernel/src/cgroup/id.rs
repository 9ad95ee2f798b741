//! Ids of v2 cgroups: numbers that the kernel never gives twice.
//!
//! An id is the inode number of the directory; the way back is a file handle, so
//! that nothing has to be walked. 64-bit kernels since 5.5.

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::Error;

/// `FILEID_KERNFS`: the handle is the id.
const KIND: i32 = 0xfe;
/// What the kernel appends to the path of a directory that is gone.
const DELETED: &str = " (deleted)";

/// `struct file_handle` with the bytes of an id.
#[repr(C)]
struct Handle {
    bytes: u32,
    kind: i32,
    id: u64,
}

/// The id of a cgroup.
///
/// # Errors
/// The directory is gone.
pub fn of(directory: &Path) -> Result<u64, Error> {
    let found = std::fs::metadata(directory).map_err(|e| Error::io("find", directory, e))?;
    Ok(found.ino())
}

/// The way from ids to directories.
#[derive(Debug)]
pub struct Directories {
    mount: PathBuf,
    root: File,
}

impl Directories {
    /// Of the hierarchy that is mounted there.
    ///
    /// # Errors
    /// It cannot be opened.
    pub fn open(mount: &Path) -> Result<Directories, Error> {
        let root = File::open(mount).map_err(|e| Error::io("open", mount, e))?;
        Ok(Directories { mount: mount.to_path_buf(), root })
    }

    /// The cgroup's path below the mount point; `None` if it is gone or above it.
    #[must_use]
    pub fn find(&self, id: u64) -> Option<PathBuf> {
        let mut handle = Handle { bytes: 8, kind: KIND, id };
        let flags = libc::O_PATH | libc::O_CLOEXEC | libc::O_DIRECTORY;
        // SAFETY: `handle` is laid out as `struct file_handle` with 8 bytes behind
        // it, as its length says, and lives through the call.
        let fd = unsafe {
            libc::open_by_handle_at(
                self.root.as_raw_fd(),
                std::ptr::from_mut(&mut handle).cast(),
                flags,
            )
        };
        if fd < 0 {
            return None;
        }
        // SAFETY: the kernel has just made this descriptor for us.
        let fd = unsafe { OwnedFd::from_raw_fd(fd) };
        let link = std::fs::read_link(format!("/proc/self/fd/{}", fd.as_raw_fd())).ok()?;
        let below = link.strip_prefix(&self.mount).ok()?;
        (!below.to_string_lossy().ends_with(DELETED)).then(|| below.to_path_buf())
    }
}

/// Whether the kernel finds cgroups by id; asked once, at start.
///
/// # Errors
/// It does not, or this process may not (`CAP_DAC_READ_SEARCH`).
pub fn check(mount: &Path) -> Result<(), Error> {
    let directories = Directories::open(mount)?;
    match directories.find(of(mount)?) {
        Some(_) => Ok(()),
        None => Err(Error::io("find a cgroup by its id in", mount, io::Error::last_os_error())),
    }
}
