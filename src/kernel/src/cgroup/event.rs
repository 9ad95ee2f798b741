//! Out-of-memory and pressure notifications, as descriptors to poll.
//!
//! v1: an eventfd registered through `cgroup.event_control`; the kernel counts
//! into it before it kills, so a look at it after a process died is never late.
//! What happened before the registration (the agent was away) its counters tell.
//! v2: the file `memory.events` itself, which polls as `POLLPRI` when it changes
//! (no inotify instance per container: the default allows 128 per user).

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::fs::FileExt;

use nix::sys::eventfd::{EfdFlags, EventFd};

use super::{Cgroup, Error, Version, parse};

/// Counts of `memory.events`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct OomCounts {
    /// Times the limit was hit and nothing could be reclaimed.
    pub oom: u64,
    /// Processes killed by any OOM killer.
    pub oom_kill: u64,
}

impl OomCounts {
    /// Reads `memory.events` (v2).
    #[must_use]
    pub fn parse(text: &[u8]) -> OomCounts {
        OomCounts {
            oom: parse::value(text, "oom").unwrap_or(0),
            oom_kill: parse::value(text, "oom_kill").unwrap_or(0),
        }
    }
}

/// Listens for a cgroup hitting its memory limit.
#[derive(Debug)]
pub enum OomListener {
    /// Readable when it happened; true if it had happened before the registration.
    V1(EventFd, bool),
    /// Has `POLLPRI` when a counter changed; ask [`OomListener::fired`] which.
    V2(File),
}

impl OomListener {
    /// Starts to listen. `group` is the cgroup with the memory controller.
    ///
    /// # Errors
    /// A file is missing, or the kernel refuses the registration.
    pub fn new(group: &Cgroup) -> Result<OomListener, Error> {
        match group.version() {
            Version::V1 => {
                let event = register(group, "memory.oom_control", None)?;
                // Looked at after the registration: nothing falls between the two.
                Ok(OomListener::V1(event, killed_for_memory(group)))
            }
            Version::V2 => {
                let path = group.file("memory.events");
                let file = File::open(&path).map_err(|e| Error::io("open", &path, e))?;
                let listener = OomListener::V2(file);
                // The first read arms the poll.
                listener.fired().map_err(|e| Error::io("read", &path, e))?;
                Ok(listener)
            }
        }
    }

    /// Whether the limit was hit since the cgroup was made; never blocks. Once true
    /// for v1, the count is consumed.
    ///
    /// # Errors
    /// The cgroup is gone.
    pub fn fired(&self) -> io::Result<bool> {
        match self {
            OomListener::V1(event, before) => Ok(*before || take(event)? > 0),
            OomListener::V2(file) => {
                let mut buffer = [0; 512];
                let length = file.read_at(&mut buffer, 0)?;
                Ok(OomCounts::parse(&buffer[..length]).oom > 0)
            }
        }
    }

    /// Whether to poll for priority (v2) rather than readable (v1).
    #[must_use]
    pub fn polls_priority(&self) -> bool {
        matches!(self, OomListener::V2(_))
    }
}

impl AsFd for OomListener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            OomListener::V1(event, _) => event.as_fd(),
            OomListener::V2(file) => file.as_fd(),
        }
    }
}

impl AsRawFd for OomListener {
    fn as_raw_fd(&self) -> std::os::fd::RawFd {
        self.as_fd().as_raw_fd()
    }
}

/// Whether a process of a v1 cgroup was killed for memory and its limit was hit.
/// Kills alone could be the whole machine's; kernels before 4.13 do not count them.
/// Never true of v2, where [`OomListener::fired`] reads a count that stays.
#[must_use]
pub fn killed_for_memory(group: &Cgroup) -> bool {
    let control = group.read("memory.oom_control").unwrap_or_default();
    parse::value(&control, "oom_kill").is_some_and(|kills| kills > 0)
        && group.read_number("memory.failcnt").is_ok_and(|failures| failures > 0)
}

/// Counts the memory pressure events of one level (v1 only).
#[derive(Debug)]
pub struct PressureCounter {
    event: EventFd,
    count: u64,
}

impl PressureCounter {
    /// Starts to count; `level` is `low`, `medium` or `critical`.
    ///
    /// # Errors
    /// A file is missing, or the kernel refuses the registration.
    pub fn new(group: &Cgroup, level: &str) -> Result<PressureCounter, Error> {
        let event = register(group, "memory.pressure_level", Some(level))?;
        Ok(PressureCounter { event, count: 0 })
    }

    /// Events so far. The kernel adds them up in the eventfd: nobody needs to
    /// wake up for them.
    pub fn count(&mut self) -> u64 {
        self.count += take(&self.event).unwrap_or(0);
        self.count
    }
}

fn register(group: &Cgroup, file: &str, argument: Option<&str>) -> Result<EventFd, Error> {
    let path = group.file(file);
    let watched = File::open(&path).map_err(|e| Error::io("open", &path, e))?;
    let event = EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)
        .map_err(|e| Error::io("make an eventfd for", &path, e.into()))?;
    let (event_fd, watched_fd) = (event.as_raw_fd(), watched.as_raw_fd());
    let line = match argument {
        Some(argument) => format!("{event_fd} {watched_fd} {argument}"),
        None => format!("{event_fd} {watched_fd}"),
    };
    group.write("cgroup.event_control", &line)?;
    Ok(event)
}

/// Takes the eventfd's count, 0 if nothing happened.
fn take(event: &EventFd) -> io::Result<u64> {
    match event.read() {
        Ok(count) => Ok(count),
        Err(nix::errno::Errno::EAGAIN) => Ok(0),
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_events() {
        let text = b"low 0\nhigh 0\nmax 40\noom 2\noom_kill 1\noom_group_kill 0\n";
        assert_eq!(OomCounts::parse(text), OomCounts { oom: 2, oom_kill: 1 });
        assert_eq!(OomCounts::parse(b""), OomCounts::default());
    }
}
