//! Counting events of a cgroup with `perf_event_open(2)`, in this process.
//!
//! A counter counts one event of all processes of one cgroup on one processor;
//! [`Counters`] holds those of a list of events on all processors. Called by
//! `cgroups/perf_event`; which events there are is its business.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsRawFd, FromRawFd};
use std::path::Path;

use crate::Error;

/// `PERF_TYPE_*`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum Kind {
    /// Of the processor.
    Hardware = 0,
    /// Of the kernel; works on every machine.
    Software = 1,
    /// Of the caches.
    Cache = 3,
}

/// What is counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Event {
    /// Which counters.
    pub kind: Kind,
    /// `PERF_COUNT_*` of the kind.
    pub config: u64,
}

/// `struct perf_event_attr`, first published size and what follows as zeros.
#[repr(C)]
#[derive(Default)]
struct Attributes {
    kind: u32,
    size: u32,
    config: u64,
    period: u64,
    sample: u64,
    read_format: u64,
    flags: u64,
    wakeup: u32,
    breakpoint: u32,
    config1: u64,
}

/// Time enabled and time running come along with the count.
const READ_FORMAT: u64 = 1 | 2;
const FLAG_PID_CGROUP: u64 = 1 << 2;
const FLAG_CLOEXEC: u64 = 1 << 3;

fn open(event: Event, target: i32, cpu: i32, flags: u64) -> io::Result<File> {
    let mut attributes = Attributes {
        kind: event.kind as u32,
        size: size_of::<Attributes>() as u32,
        config: event.config,
        read_format: READ_FORMAT,
        ..Attributes::default()
    };
    // SAFETY: `attributes` has `size` bytes and lives through the call; the
    // descriptor that comes back is new and owned by nobody else.
    unsafe {
        let fd = libc::syscall(
            libc::SYS_perf_event_open,
            std::ptr::from_mut(&mut attributes),
            target,
            cpu,
            -1,
            flags | FLAG_CLOEXEC,
        );
        if fd < 0 { Err(io::Error::last_os_error()) } else { Ok(File::from_raw_fd(fd as i32)) }
    }
}

/// Whether this machine can count the event, asked by counting this thread.
///
/// # Errors
/// The kernel's answer; `ENOENT` or `EOPNOTSUPP`: the machine has no such counter.
pub fn check(event: Event) -> io::Result<()> {
    open(event, 0, -1, 0).map(drop)
}

/// Running counters of one cgroup.
#[derive(Debug)]
pub struct Counters {
    /// By event, then by processor.
    files: Vec<Vec<File>>,
}

impl Counters {
    /// Starts to count `events` of the processes in `cgroup` (v1 `perf_event`, or
    /// v2) and below, on `cpus`. Takes a descriptor per event and processor.
    ///
    /// # Errors
    /// The cgroup is gone, or the kernel refuses an event.
    pub fn start(
        cgroup: &Path,
        events: &[Event],
        cpus: impl Iterator<Item = u32> + Clone,
    ) -> Result<Counters, Error> {
        let fail = |e| Error::new("count the perf events of", cgroup.display().to_string(), e);
        let directory = File::open(cgroup).map_err(fail)?;
        let mut files = Vec::with_capacity(events.len());
        for event in events {
            let on = |cpu| open(*event, directory.as_raw_fd(), cpu as i32, FLAG_PID_CGROUP);
            files.push(cpus.clone().map(on).collect::<io::Result<Vec<File>>>().map_err(fail)?);
        }
        Ok(Counters { files })
    }

    /// Counts since the start, in the order of the events, scaled up where the
    /// processor's counters had to be shared.
    ///
    /// # Errors
    /// A counter cannot be read.
    pub fn read(&mut self) -> io::Result<Vec<u64>> {
        let mut sums = Vec::with_capacity(self.files.len());
        for files in &mut self.files {
            let mut sum = 0u64;
            for file in files {
                let mut buffer = [0; 24];
                file.read_exact(&mut buffer)?;
                let field = |n: usize| {
                    let mut bytes = [0; 8];
                    bytes.copy_from_slice(&buffer[n * 8..n * 8 + 8]);
                    u64::from_ne_bytes(bytes)
                };
                sum = sum.saturating_add(scaled(field(0), field(1), field(2)));
            }
            sums.push(sum);
        }
        Ok(sums)
    }
}

/// A count over the whole time from one over the time it was running.
fn scaled(count: u64, enabled: u64, running: u64) -> u64 {
    if running == 0 || running >= enabled {
        return count;
    }
    u64::try_from(u128::from(count) * u128::from(enabled) / u128::from(running)).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_are_scaled_to_the_whole_time() {
        let rows = [(10, 100, 100, 10), (10, 100, 50, 20), (10, 100, 0, 10), (0, 9, 3, 0)];
        for (count, enabled, running, wanted) in rows {
            assert_eq!(scaled(count, enabled, running), wanted);
        }
    }

    #[test]
    fn unknown_events_are_errors() {
        assert!(check(Event { kind: Kind::Software, config: 4096 }).is_err());
    }
}
