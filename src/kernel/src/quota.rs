//! Project quotas: how much disk all files with one project id may occupy.
//!
//! XFS has them, and ext4 with the features `project` and `quota`, when they are
//! mounted with `prjquota`. Files are marked with `FS_IOC_FSSETXATTR`; what is
//! made below a marked directory has its mark. Limits and figures go through
//! `quotactl_fd` (Linux 5.14), or through `quotactl` and the device before.

use std::ffi::{CStr, CString};
use std::fs::File;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use crate::walk::{Progress, Walk, open_entry};
use crate::{Error, mounts};

/// `struct fsxattr`.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default)]
struct Attributes {
    flags: u32,
    extent_size: u32,
    extents: u32,
    project: u32,
    cow_extent_size: u32,
    padding: [u8; 8],
}

/// What is made in this directory gets its project id.
const INHERIT: u32 = 0x200;

mod calls {
    //! `FS_IOC_FSGETXATTR` and `FS_IOC_FSSETXATTR`.
    #![allow(missing_docs, reason = "the macros make public functions")]

    use super::Attributes;

    nix::ioctl_read!(get_attributes, b'X', 31, Attributes);
    nix::ioctl_write_ptr!(set_attributes, b'X', 32, Attributes);
}

const PROJECT: u32 = 2;
const GET: u32 = 0x80_0007;
const SET: u32 = 0x80_0008;
const GET_NEXT: u32 = 0x80_0009;
const TURN_ON: u32 = ((b'X' as u32) << 8) + 1;
const GET_STATE: u32 = ((b'X' as u32) << 8) + 5;
/// `FS_QUOTA_PDQ_ACCT` and `FS_QUOTA_PDQ_ENFD`.
const ACCOUNTING: u16 = 1 << 4;
const ENFORCING: u16 = 1 << 5;
/// The same number on every architecture that has it.
const SYS_QUOTACTL_FD: libc::c_long = 443;

/// `struct if_nextdqblk`; its beginning is `struct if_dqblk`.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default)]
struct Record {
    hard_kib: u64,
    soft_kib: u64,
    bytes: u64,
    hard_inodes: u64,
    soft_inodes: u64,
    inodes: u64,
    block_time: u64,
    inode_time: u64,
    valid: u32,
    id: u32,
}

/// What a file system does for projects.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct State {
    /// It counts.
    pub accounting: bool,
    /// It refuses writes above the limits.
    pub enforcing: bool,
}

/// What a project occupies, and its limits; 0 is no limit.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    /// Bytes in use.
    pub bytes: u64,
    /// Files and directories.
    pub inodes: u64,
    /// Bytes from which the kernel only warns.
    pub soft: u64,
    /// Bytes that are never exceeded.
    pub hard: u64,
}

impl From<Record> for Usage {
    fn from(record: Record) -> Usage {
        Usage {
            bytes: record.bytes,
            inodes: record.inodes,
            soft: record.soft_kib.saturating_mul(1024),
            hard: record.hard_kib.saturating_mul(1024),
        }
    }
}

/// The project quotas of one file system.
#[derive(Debug)]
pub struct Quotas {
    path: PathBuf,
    directory: File,
    /// For kernels without `quotactl_fd`.
    device: Option<CString>,
    /// As in the mount table, `xfs` for example.
    pub kind: String,
}

impl Quotas {
    /// Those of the file system that has the directory `path`.
    ///
    /// # Errors
    /// It cannot be opened, or the mount table cannot be read.
    pub fn open(path: &Path) -> Result<Quotas, Error> {
        let shown = || path.display().to_string();
        let directory = File::options()
            .read(true)
            .custom_flags(libc::O_DIRECTORY | libc::O_CLOEXEC)
            .open(path)
            .map_err(|e| Error::new("open", shown(), e))?;
        let real = path.canonicalize().map_err(|e| Error::new("find", shown(), e))?;
        let table = mounts::table()?;
        let above = table.iter().filter(|mount| real.starts_with(&mount.target));
        // The last one mounted over the deepest point.
        let mount = above.max_by_key(|mount| mount.target.as_os_str().len());
        let source = mount.map(|m| m.source.clone()).filter(|s| s.starts_with('/'));
        let device = source.and_then(|source| CString::new(source).ok());
        let kind = mount.map(|mount| mount.kind.clone()).unwrap_or_default();
        Ok(Quotas { path: path.to_owned(), directory, device, kind })
    }

    /// Whether projects are counted and limited.
    ///
    /// # Errors
    /// The file system has no quotas.
    pub fn state(&self) -> Result<State, Error> {
        // `struct fs_quota_stat` is smaller; its flags come after a byte and a gap.
        let mut buffer = [0_u64; 32];
        self.control(GET_STATE, 0, buffer.as_mut_ptr().cast())
            .map_err(|e| self.failed("ask for the quota state of", e))?;
        let flags =
            ((buffer[0].to_ne_bytes()[3] as u16) << 8) | u16::from(buffer[0].to_ne_bytes()[2]);
        let flags = if cfg!(target_endian = "big") { flags.swap_bytes() } else { flags };
        let has = |bit| flags & bit != 0;
        Ok(State { accounting: has(ACCOUNTING), enforcing: has(ENFORCING) })
    }

    /// Asks for enforcement where projects are only counted.
    ///
    /// # Errors
    /// The kernel's.
    pub fn enforce(&self) -> Result<(), Error> {
        let mut flags = u32::from(ENFORCING);
        self.control(TURN_ON, 0, (&raw mut flags).cast())
            .map_err(|e| self.failed("turn quotas on in", e))
    }

    /// What a project occupies; all zero if it was never used.
    ///
    /// # Errors
    /// The kernel's.
    pub fn usage(&self, id: u32) -> Result<Usage, Error> {
        let mut record = Record::default();
        match self.control(GET, id, (&raw mut record).cast()) {
            Ok(()) => Ok(record.into()),
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(Usage::default()),
            Err(error) => Err(self.failed("read the quota of a project in", error)),
        }
    }

    /// The first project from `id` on that has files or limits.
    ///
    /// # Errors
    /// The kernel's.
    pub fn next(&self, id: u32) -> Result<Option<(u32, Usage)>, Error> {
        let mut record = Record::default();
        match self.control(GET_NEXT, id, (&raw mut record).cast()) {
            Ok(()) => Ok(Some((record.id, record.into()))),
            Err(error)
                if [Some(libc::ENOENT), Some(libc::ESRCH)].contains(&error.raw_os_error()) =>
            {
                Ok(None)
            }
            Err(error) => Err(self.failed("list the projects of", error)),
        }
    }

    /// Sets a project's limits in bytes, rounded up to a kibibyte; 0 is none.
    ///
    /// # Errors
    /// The kernel's.
    pub fn limit(&self, id: u32, soft: u64, hard: u64) -> Result<(), Error> {
        const LIMITS: u32 = 1;
        let mut record = Record {
            soft_kib: soft.div_ceil(1024),
            hard_kib: hard.div_ceil(1024),
            valid: LIMITS,
            ..Record::default()
        };
        self.control(SET, id, (&raw mut record).cast())
            .map_err(|e| self.failed("set the quota of a project in", e))
    }

    fn failed(&self, verb: &'static str, error: io::Error) -> Error {
        Error::new(verb, format!("{} ({})", self.path.display(), self.kind), error)
    }

    fn control(&self, command: u32, id: u32, data: *mut libc::c_void) -> io::Result<()> {
        let command = (command << 8) | PROJECT;
        let fd = self.directory.as_raw_fd();
        // SAFETY: `data` has room for what the command reads or writes.
        let done = unsafe { libc::syscall(SYS_QUOTACTL_FD, fd, command, id, data) };
        if done == 0 {
            return Ok(());
        }
        let error = io::Error::last_os_error();
        let Some(device) = &self.device else { return Err(error) };
        if error.raw_os_error() != Some(libc::ENOSYS) {
            return Err(error);
        }
        // SAFETY: as above; `device` is a C string.
        let done = unsafe { libc::syscall(libc::SYS_quotactl, command, device.as_ptr(), id, data) };
        if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    }
}

/// The project id of a directory; 0 is none.
///
/// # Errors
/// It cannot be opened, or its file system knows no projects.
pub fn project_of(path: &Path) -> Result<u32, Error> {
    let failed = |e| Error::new("read the project id of", path.display().to_string(), e);
    let directory = File::options()
        .read(true)
        .custom_flags(libc::O_DIRECTORY | libc::O_NONBLOCK)
        .open(path)
        .map_err(failed)?;
    attributes(directory.as_fd()).map(|attributes| attributes.project).map_err(failed)
}

/// Gives a directory, and all files and directories below it, a project id. No
/// link is followed and no mount entered; pipes and links themselves cannot be
/// marked. What is made meanwhile has the mark of its directory.
///
/// # Errors
/// The file system knows no projects, or the caller may not.
pub fn assign(path: &Path, id: u32) -> Result<(), Error> {
    let failed = |e| Error::new("set the project id of", path.display().to_string(), e);
    let mut first: Option<io::Error> = None;
    let mut mark = |dir: BorrowedFd<'_>, name: &CStr, stat: &crate::walk::Stat| {
        if first.is_some() || !(stat.is_dir() || stat.is_file()) {
            return;
        }
        // Gone, or not what it was: nothing of ours.
        let Ok(file) = open_entry(dir, name) else { return };
        if let Err(error) = set(&file, id, stat.is_dir()) {
            first = Some(error);
        }
    };
    let mut walk = Walk::open(path, &[])?;
    while walk.step(1000, &mut mark)? == Progress::More {}
    first.map_or(Ok(()), |error| Err(failed(error)))
}

fn attributes(file: BorrowedFd<'_>) -> io::Result<Attributes> {
    let mut attributes = MaybeUninit::<Attributes>::zeroed();
    // SAFETY: the kernel writes a whole `fsxattr`.
    unsafe { calls::get_attributes(file.as_raw_fd(), attributes.as_mut_ptr()) }?;
    // SAFETY: zeroed at first, and written by the kernel.
    Ok(unsafe { attributes.assume_init() })
}

fn set(file: &File, id: u32, directory: bool) -> io::Result<()> {
    let mut new = attributes(file.as_fd())?;
    new.project = id;
    match directory && id != 0 {
        true => new.flags |= INHERIT,
        false => new.flags &= !INHERIT,
    }
    // SAFETY: `new` is a whole `fsxattr` and lives through the call.
    unsafe { calls::set_attributes(file.as_raw_fd(), &raw const new) }?;
    Ok(())
}

/// Bytes in use on the whole file system that has `path`.
///
/// # Errors
/// The kernel's.
pub fn occupied(path: &Path) -> Result<u64, Error> {
    let failed = |e| Error::new("look at the file system of", path.display().to_string(), e);
    let name = CString::new(path.as_os_str().as_bytes()).map_err(|e| failed(e.into()))?;
    let mut out = MaybeUninit::<libc::statvfs>::zeroed();
    // SAFETY: `name` is a C string, `out` a whole `statvfs`.
    if unsafe { libc::statvfs(name.as_ptr(), out.as_mut_ptr()) } != 0 {
        return Err(failed(io::Error::last_os_error()));
    }
    // SAFETY: zeroed at first, and written by the kernel.
    let out = unsafe { out.assume_init() };
    Ok(out.f_blocks.saturating_sub(out.f_bfree).saturating_mul(out.f_frsize))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_system_without_quotas_says_so() {
        let quotas = Quotas::open(Path::new("/proc")).expect("open");
        assert_eq!(quotas.kind, "proc");
        let error = quotas.state().expect_err("no quotas");
        assert!(error.to_string().contains("/proc (proc)"), "{error}");
        assert!(project_of(Path::new("/proc")).is_err());
        assert!(assign(Path::new("/proc/self/fdinfo"), 7).is_err());
        assert!(Quotas::open(Path::new("/no/such/place")).is_err());
        assert!(occupied(Path::new("/")).expect("the root") > 0);
    }
}
