//! The exit record as the agent sees it: created here, then only read.
//!
//! The layout is shared with the shim. The file is read as bytes, never mapped:
//! a truncated or foreign file is an error, not a crash.

#[allow(dead_code)]
#[path = "../shim/src/record.rs"]
mod layout;

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use kernel::boot::BootId;
use kernel::lock;

use super::error::LaunchError;
use layout::at;
pub(super) use layout::state;

/// How a container ended, as its shim recorded it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Exited {
    /// Wait status of the first process, as `waitpid` gives it.
    pub status: i32,
    /// When its pid was published, just before it executed.
    pub started: SystemTime,
    /// When it was reaped.
    pub ended: SystemTime,
    /// CPU time in user mode of it and the children it waited for.
    pub user_time: Duration,
    /// CPU time in the kernel, likewise.
    pub system_time: Duration,
    /// Largest resident set in bytes.
    pub max_rss: u64,
}

/// The wait status as a shell would print it, for logs.
impl std::fmt::Display for Exited {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match (libc::WIFEXITED(self.status), libc::WEXITSTATUS(self.status)) {
            (true, code) => write!(f, "exited with status {code}"),
            (false, _) => write!(f, "terminated by signal {}", libc::WTERMSIG(self.status)),
        }
    }
}

/// What a record says at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Record {
    pub boot: BootId,
    pub state: u32,
    pub shim: u32,
    pub pid: u32,
    pub own_pids: bool,
    /// Index of the failed operation, its code, and errno.
    pub failed: (u32, u32, i32),
    /// Boot clock at the publication of the pid.
    pub started_boot: Duration,
    pub exited: Exited,
}

/// Creates and locks the record at `path`.
pub(super) fn create(path: &Path, boot: BootId, own_pids: bool) -> Result<File, LaunchError> {
    let error = |verb| {
        move |source| LaunchError::Prepare { verb, object: path.display().to_string(), source }
    };
    let mut options = OpenOptions::new();
    options.read(true).write(true).create_new(true).mode(0o600);
    let file = options.open(path).map_err(error("create the exit record"))?;
    kernel::failpoint!("launch.record");
    file.write_all_at(&fresh(boot, own_pids), 0).map_err(error("write the exit record"))?;
    match lock::try_lock(&file).map_err(error("lock the exit record"))? {
        true => Ok(file),
        false => Err(error("lock the exit record")(io::ErrorKind::WouldBlock.into())),
    }
}

/// What a record says before there is a container.
pub(super) fn fresh(boot: BootId, own_pids: bool) -> [u8; layout::SIZE] {
    let mut bytes = [0u8; layout::SIZE];
    bytes[at::MAGIC..][..4].copy_from_slice(&layout::MAGIC.to_le_bytes());
    bytes[at::VERSION..][..4].copy_from_slice(&layout::VERSION.to_le_bytes());
    bytes[at::BOOT..][..16].copy_from_slice(&boot.0);
    bytes[at::OWN_PIDS..][..4].copy_from_slice(&u32::from(own_pids).to_le_bytes());
    bytes
}

/// Opens the record at `path` for reading; writable, as lock queries demand.
pub(super) fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).write(true).open(path)
}

/// What a runtime that started the first process leaves for the shim and the agent:
/// its pid on the host, and as the shim sees it.
#[cfg(feature = "oci")]
pub(super) fn publish(file: &File, pid: u32, followed: u32) -> io::Result<()> {
    let clock = |clock| {
        let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
        // SAFETY: a valid timespec to write to.
        unsafe { libc::clock_gettime(clock, &raw mut now) };
        now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
    };
    file.write_all_at(&followed.to_le_bytes(), at::FOLLOWED as u64)?;
    file.write_all_at(&pid.to_le_bytes(), at::PID as u64)?;
    file.write_all_at(&clock(libc::CLOCK_REALTIME).to_le_bytes(), at::STARTED as u64)?;
    file.write_all_at(&clock(libc::CLOCK_BOOTTIME).to_le_bytes(), at::STARTED_BOOT as u64)?;
    file.write_all_at(&state::PUBLISHED.to_le_bytes(), at::STATE as u64)
}

/// Reads the record.
pub(super) fn read(file: &File) -> io::Result<Record> {
    let mut bytes = [0u8; layout::SIZE];
    file.read_exact_at(&mut bytes, 0)?;
    parse(&bytes).ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "not an exit record"))
}

fn word(bytes: &[u8; layout::SIZE], at: usize) -> u32 {
    let mut out = [0; 4];
    out.copy_from_slice(&bytes[at..at + 4]);
    u32::from_le_bytes(out)
}

fn long(bytes: &[u8; layout::SIZE], at: usize) -> u64 {
    u64::from(word(bytes, at)) | u64::from(word(bytes, at + 4)) << 32
}

fn parse(bytes: &[u8; layout::SIZE]) -> Option<Record> {
    if word(bytes, at::MAGIC) != layout::MAGIC || word(bytes, at::VERSION) != layout::VERSION {
        return None;
    }
    let mut boot = [0; 16];
    boot.copy_from_slice(&bytes[at::BOOT..at::BOOT + 16]);
    let time = |at| -> SystemTime { UNIX_EPOCH + Duration::from_nanos(long(bytes, at)) };
    Some(Record {
        boot: BootId(boot),
        state: word(bytes, at::STATE),
        shim: word(bytes, at::SHIM),
        pid: word(bytes, at::PID),
        own_pids: word(bytes, at::OWN_PIDS) != 0,
        failed: (
            word(bytes, at::FAILED_INDEX),
            word(bytes, at::FAILED_CODE),
            word(bytes, at::FAILED_ERRNO) as i32,
        ),
        started_boot: Duration::from_nanos(long(bytes, at::STARTED_BOOT)),
        exited: Exited {
            status: word(bytes, at::STATUS) as i32,
            started: time(at::STARTED),
            ended: time(at::ENDED),
            user_time: Duration::from_micros(long(bytes, at::USER_TIME)),
            system_time: Duration::from_micros(long(bytes, at::SYSTEM_TIME)),
            max_rss: long(bytes, at::MAX_RSS).saturating_mul(1024),
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(name: &str) -> std::path::PathBuf {
        std::env::temp_dir().join(format!("bulkhead-record-{name}-{}", std::process::id()))
    }

    #[test]
    fn a_new_record_is_locked_and_says_so() {
        let path = path("new");
        let file = create(&path, BootId([7; 16]), true).expect("create");
        let again = open(&path).expect("open");
        let record = read(&again).expect("read");
        assert_eq!((record.boot, record.state), (BootId([7; 16]), state::CREATED));
        assert!(record.own_pids);
        assert!(lock::is_locked(&again).expect("query"));
        drop(file);
        assert!(!lock::is_locked(&again).expect("query"));
        let error = create(&path, BootId([7; 16]), true).expect_err("exists");
        assert_eq!(error.errno(), Some(libc::EEXIST));
        std::fs::remove_file(&path).expect("remove");
    }

    #[test]
    fn foreign_and_short_files_are_errors() {
        let path = path("foreign");
        std::fs::write(&path, [1; layout::SIZE]).expect("write");
        assert!(read(&open(&path).expect("open")).is_err());
        std::fs::write(&path, [1; 10]).expect("write");
        assert!(read(&open(&path).expect("open")).is_err());
        std::fs::remove_file(&path).expect("remove");
    }
}
