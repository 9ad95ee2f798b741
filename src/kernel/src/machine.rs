//! Sizes of the machine: processors, memory, file systems. Called by the agent
//! to find its resources and for the statistics of the host.

use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;

use nix::sys::statvfs::statvfs;
use nix::sys::sysinfo::sysinfo;
use nix::unistd::{SysconfVar, sysconf};

/// Main memory in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Memory {
    /// All of it.
    pub total: u64,
    /// Neither used nor holding caches.
    pub free: u64,
}

/// Space of a file system in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Space {
    /// All of it.
    pub total: u64,
    /// What an unprivileged process may still take.
    pub available: u64,
    /// Inodes it can have; 0 where it makes them as needed.
    pub inodes: u64,
    /// Inodes that are free.
    pub inodes_free: u64,
}

impl Space {
    /// The used fraction, 0 to 1, of bytes or of inodes, whichever is more.
    #[must_use]
    pub fn used(&self) -> f64 {
        let used = |all: u64, free: u64| match all {
            0 => 0.0,
            all => 1.0 - free.min(all) as f64 / all as f64,
        };
        used(self.total, self.available).max(used(self.inodes, self.inodes_free))
    }
}

/// Processors that are online.
///
/// # Errors
/// The system does not say.
pub fn cpus() -> io::Result<u32> {
    let count = sysconf(SysconfVar::_NPROCESSORS_ONLN)?;
    count
        .and_then(|n| u32::try_from(n).ok())
        .filter(|n| *n > 0)
        .ok_or_else(|| io::Error::other("the system does not say how many processors are online"))
}

/// Main memory.
///
/// # Errors
/// `sysinfo(2)` failed.
pub fn memory() -> io::Result<Memory> {
    let info = sysinfo()?;
    Ok(Memory { total: info.ram_total(), free: info.ram_unused() })
}

/// Lets this process open as many files as it may. What the system refuses is left.
pub fn raise_open_files() {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    if let Ok((_, most)) = getrlimit(Resource::RLIMIT_NOFILE) {
        let _ = setrlimit(Resource::RLIMIT_NOFILE, most, most);
    }
}

/// Load averages over 1, 5 and 15 minutes.
///
/// # Errors
/// `sysinfo(2)` failed.
pub fn load() -> io::Result<(f64, f64, f64)> {
    Ok(sysinfo()?.load_average())
}

/// Gives `file` its blocks: writing its first `bytes` bytes needs no space then.
///
/// # Errors
/// `fallocate(2)` failed; `Unsupported` where the file system cannot.
pub fn allocate(file: &std::fs::File, bytes: u64) -> io::Result<()> {
    let length = i64::try_from(bytes).map_err(|_| io::ErrorKind::InvalidInput)?;
    Ok(nix::fcntl::fallocate(file, nix::fcntl::FallocateFlags::empty(), 0, length)?)
}

/// The file system that holds `path`.
///
/// # Errors
/// `statvfs(3)` failed, for example because `path` does not exist.
pub fn space(path: &Path) -> io::Result<Space> {
    let stat = statvfs(path)?;
    let unit = stat.fragment_size();
    Ok(Space {
        total: stat.blocks() * unit,
        available: stat.blocks_available() * unit,
        inodes: stat.files(),
        inodes_free: stat.files_free(),
    })
}

/// What a device node stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[allow(missing_docs)]
pub struct DeviceNumber {
    pub block: bool,
    pub major: u32,
    pub minor: u32,
}

/// The device that the node at `path` stands for; `None` if it is no device.
///
/// # Errors
/// `stat(2)` failed, for example because `path` does not exist.
pub fn device(path: &Path) -> io::Result<Option<DeviceNumber>> {
    let data = std::fs::metadata(path)?;
    let (block, char) = (data.file_type().is_block_device(), data.file_type().is_char_device());
    // The kernel's numbers have 12 and 20 bits.
    let part = |n: u64| u32::try_from(n).unwrap_or(u32::MAX);
    let (major, minor) =
        (part(nix::sys::stat::major(data.rdev())), part(nix::sys::stat::minor(data.rdev())));
    Ok((block || char).then_some(DeviceNumber { block, major, minor }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn device_numbers() {
        let null = device(Path::new("/dev/null")).expect("stat").expect("a device");
        assert_eq!(null, DeviceNumber { block: false, major: 1, minor: 3 });
        assert_eq!(device(Path::new("/")).expect("stat"), None);
        assert!(device(Path::new("/no/such/path")).is_err());
    }

    #[test]
    fn the_scarcer_of_bytes_and_inodes_counts() {
        let space =
            |available, inodes_free| Space { total: 100, available, inodes: 10, inodes_free };
        for (available, inodes_free, used) in [(100, 10, 0.0), (25, 10, 0.75), (25, 1, 0.9)] {
            assert!((space(available, inodes_free).used() - used).abs() < 1e-9);
        }
        let endless = Space { inodes: 0, inodes_free: 0, ..space(50, 0) };
        assert!((endless.used() - 0.5).abs() < 1e-9);
    }

    #[test]
    fn this_machine_has_sizes() {
        assert!(cpus().expect("sysconf") >= 1);
        let memory = memory().expect("sysinfo");
        assert!(memory.total > memory.free && memory.total > 1 << 20);
        let root = space(Path::new("/")).expect("statvfs");
        assert!(root.total >= root.available && root.total > 0);
        assert!(space(Path::new("/no/such/path")).is_err());
    }
}
