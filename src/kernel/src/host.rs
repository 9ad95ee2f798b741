//! What this machine has: processors, memory, disk, name, load.

use std::ffi::CString;
use std::fs;
use std::io;
use std::mem::MaybeUninit;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use crate::Error;

/// Memory of the machine in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[allow(missing_docs)]
pub struct Memory {
    pub total: u64,
    pub free: u64,
    pub available: u64,
    pub swap_total: u64,
    pub swap_free: u64,
}

/// Reads `/proc/meminfo`.
///
/// # Errors
/// If it cannot be read or does not say `MemTotal`.
pub fn memory() -> Result<Memory, Error> {
    const PATH: &str = "/proc/meminfo";
    let text = fs::read_to_string(PATH).map_err(|e| Error::new("read", PATH, e))?;
    parse_memory(&text).ok_or_else(|| Error::new("parse", PATH, io::ErrorKind::InvalidData.into()))
}

fn parse_memory(text: &str) -> Option<Memory> {
    let value = |name: &str| {
        let line = text.lines().find_map(|l| l.strip_prefix(name)?.strip_prefix(':'))?;
        line.trim().trim_end_matches("kB").trim_end().parse::<u64>().ok().map(|kib| kib * 1024)
    };
    let free = value("MemFree")?;
    Some(Memory {
        total: value("MemTotal")?,
        free,
        available: value("MemAvailable").unwrap_or(free),
        swap_total: value("SwapTotal").unwrap_or(0),
        swap_free: value("SwapFree").unwrap_or(0),
    })
}

/// Number of processors that are online, regardless of the caller's affinity.
#[must_use]
pub fn cpus() -> u32 {
    // SAFETY: no pointers.
    let count = unsafe { libc::sysconf(libc::_SC_NPROCESSORS_ONLN) };
    u32::try_from(count).unwrap_or(1).max(1)
}

/// Load averages over 1, 5 and 15 minutes.
///
/// # Errors
/// If the kernel does not say.
pub fn load() -> Result<[f64; 3], Error> {
    let mut load = [0.0; 3];
    // SAFETY: room for three values.
    match unsafe { libc::getloadavg(load.as_mut_ptr(), 3) } {
        3 => Ok(load),
        _ => Err(Error::new("read", "load averages", io::ErrorKind::Unsupported.into())),
    }
}

/// Space of a file system in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct Space {
    pub total: u64,
    /// Free for everybody, without root's reserve.
    pub available: u64,
    /// Free including root's reserve.
    pub free: u64,
    /// `f_type`: the file system's magic number.
    pub kind: u64,
}

/// Space of the file system that holds `path`.
///
/// # Errors
/// As `statfs(2)`.
pub fn space(path: &Path) -> Result<Space, Error> {
    let object = || path.display().to_string();
    let text = CString::new(path.as_os_str().as_bytes())
        .map_err(|e| Error::new("query the file system of", object(), e.into()))?;
    let mut out = MaybeUninit::<libc::statfs>::uninit();
    // SAFETY: `text` is a C string and `out` has room for the answer.
    if unsafe { libc::statfs(text.as_ptr(), out.as_mut_ptr()) } != 0 {
        return Err(Error::last("query the file system of", object()));
    }
    // SAFETY: filled in by the kernel.
    let out = unsafe { out.assume_init() };
    let block = out.f_bsize as u64;
    Ok(Space {
        total: out.f_blocks.saturating_mul(block),
        available: out.f_bavail.saturating_mul(block),
        free: out.f_bfree.saturating_mul(block),
        kind: out.f_type as u64,
    })
}

/// The host's name (`uname -n`).
///
/// # Errors
/// If the kernel does not say.
pub fn name() -> Result<String, Error> {
    nix::unistd::gethostname()
        .map(|name| name.to_string_lossy().into_owned())
        .map_err(|e| Error::new("read", "host name", e.into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_meminfo() {
        let text = "MemTotal:       16384 kB\nMemFree:    8 kB\nSwapTotal: 0 kB\n";
        let memory = parse_memory(text).expect("memory");
        assert_eq!((memory.total, memory.free, memory.available), (16 << 20, 8192, 8192));
        assert_eq!(parse_memory("MemFree: 8 kB\n"), None);
    }

    #[test]
    fn this_machine_has_something() {
        assert!(memory().expect("memory").total > 0);
        assert!(cpus() >= 1);
        assert!(space(Path::new("/")).expect("space").total > 0);
        assert!(space(Path::new("/no/such/path")).is_err());
        assert!(!name().expect("name").is_empty());
        load().expect("load");
    }
}
