//! A container that hit its memory limit: noticing it, and saying why.

use std::fmt::Write as _;
use std::sync::{Arc, Mutex, PoisonError};

use kernel::cgroup::event::{OomListener, killed_for_memory};
use kernel::cgroup::parse::Limit;
use kernel::cgroup::{Cgroup, Version, parse};
use kernel::proctree;
use mesos::task_status::Reason;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::oneshot;

use crate::api::{IsolatorError, Limitation, Watch};
use crate::quantity::{self, bytes_text};

/// As in `--isolation`.
pub(super) const NAME: &str = "cgroups/mem";
/// Processes named in the message.
const LARGEST: usize = 5;

/// The listener of one container.
#[derive(Debug)]
pub(super) struct Oom {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    group: Cgroup,
    listener: OomListener,
    /// The event was seen. Reading consumes it, so that only one may read at a time:
    /// the other would find nothing before this is true.
    seen: Mutex<bool>,
}

impl Oom {
    pub(super) fn new(group: Cgroup) -> Result<Oom, IsolatorError> {
        let listener = OomListener::new(&group).map_err(|error| {
            let path = group.path().display().to_string();
            IsolatorError::new(NAME, "listen for the memory limit of", path, error)
        })?;
        let shared = Shared { group, listener, seen: Mutex::new(false) };
        Ok(Oom { shared: Arc::new(shared) })
    }

    /// Completes when the limit is hit. Needs a tokio runtime.
    pub(super) fn watch(&self) -> Watch {
        let (sender, receiver) = oneshot::channel();
        tokio::spawn(wait(Arc::clone(&self.shared), sender));
        receiver
    }

    /// The limitation, if the limit has been hit. The counters are asked, too: the event
    /// may have gone to an agent that died before the kernel had killed.
    pub(super) fn check(&self) -> Option<Limitation> {
        let hit = self.shared.fired() || killed_for_memory(&self.shared.group);
        hit.then(|| self.shared.limitation())
    }
}

async fn wait(shared: Arc<Shared>, mut sender: oneshot::Sender<Limitation>) {
    let priority = shared.listener.polls_priority();
    let interest = if priority { Interest::PRIORITY } else { Interest::READABLE };
    let descriptor = Descriptor(Arc::clone(&shared));
    // The descriptor is open as long as `Shared` lives, and never replaced.
    #[allow(deprecated)]
    let Ok(fd) = AsyncFd::with_interest(descriptor, interest) else { return };
    loop {
        // Looked at once before waiting: it may have happened before the poll.
        if shared.fired() {
            let _ = sender.send(shared.limitation());
            return;
        }
        tokio::select! {
            ready = fd.ready(interest) => match ready {
                Ok(mut guard) => guard.clear_ready(),
                Err(_) => return,
            },
            () = sender.closed() => return,
        }
    }
}

/// Lends the listener's descriptor to the poll.
struct Descriptor(Arc<Shared>);

impl std::os::fd::AsRawFd for Descriptor {
    fn as_raw_fd(&self) -> std::os::fd::RawFd {
        self.0.listener.as_raw_fd()
    }
}

impl Shared {
    fn fired(&self) -> bool {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        // An error means that the cgroup is gone, and its container with it.
        *seen = *seen || self.listener.fired().unwrap_or(false);
        *seen
    }

    fn limitation(&self) -> Limitation {
        let report = Report::read(&self.group);
        Limitation {
            resources: vec![quantity::scalar("mem", report.megabytes())],
            message: report.to_string(),
            reason: Reason::ContainerLimitationMemory,
        }
    }
}

/// What is said about the end; whatever could be read.
#[derive(Debug, Default)]
struct Report {
    limit: Option<Limit>,
    peak: Option<u64>,
    statistics: String,
    /// Name, pid and resident bytes of the largest processes.
    largest: Vec<(String, u32, u64)>,
}

impl Report {
    fn read(group: &Cgroup) -> Report {
        // First what changes soonest: the kernel is killing.
        let pids = group.all_processes();
        let largest = proctree::largest(&pids, LARGEST)
            .into_iter()
            .filter(|process| process.resident_pages > 0)
            .map(|p| (p.name, p.pid, p.resident_pages * proctree::page_size()))
            .collect();
        let statistics = group.read("memory.stat").unwrap_or_default();
        let (limit, peak) = match group.version() {
            Version::V1 => ("memory.limit_in_bytes", "memory.max_usage_in_bytes"),
            Version::V2 => ("memory.max", "memory.peak"),
        };
        Report {
            limit: group.read_limit(limit).ok(),
            peak: group.read_number(peak).ok(),
            statistics: String::from_utf8_lossy(&statistics).into_owned(),
            largest,
        }
    }

    /// The amount in the limitation: the peak; the limit on kernels before 5.19
    /// with v2, which keep no peak.
    #[allow(clippy::cast_precision_loss)]
    fn megabytes(&self) -> f64 {
        let bytes = self.peak.or(match self.limit {
            Some(Limit::Value(bytes)) => Some(bytes),
            _ => None,
        });
        bytes.unwrap_or(0) as f64 / f64::from(1 << 20)
    }
}

impl std::fmt::Display for Report {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Memory limit exceeded: ")?;
        match self.limit {
            Some(Limit::Value(bytes)) => write!(f, "Requested: {} ", bytes_text(bytes))?,
            Some(Limit::Unlimited) => f.write_str("Requested: unlimited ")?,
            None => {}
        }
        if let Some(peak) = self.peak {
            writeln!(f, "Maximum Used: {}", bytes_text(peak))?;
        }
        let stat = self.statistics.as_bytes();
        let sum = |keys: [&str; 2]| keys.iter().find_map(|key| parse::value(stat, key));
        let (anon, file) = (sum(["total_rss", "anon"]), sum(["total_cache", "file"]));
        if let (Some(anon), Some(file)) = (anon, file) {
            let (anon, file) = (rounded(anon), rounded(file));
            writeln!(f, "In use now: {anon} by processes, {file} of files")?;
        }
        if !self.largest.is_empty() {
            let mut list = String::new();
            for (name, pid, bytes) in &self.largest {
                let comma = if list.is_empty() { "" } else { ", " };
                write!(list, "{comma}{name} (pid {pid}) {}", rounded(*bytes))?;
            }
            writeln!(f, "Largest processes: {list}")?;
        }
        write!(f, "\nMEMORY STATISTICS: \n{}\n", self.statistics)
    }
}

/// Bytes to the nearest tenth of a megabyte.
#[allow(clippy::cast_precision_loss)]
fn rounded(bytes: u64) -> String {
    format!("{:.1}MB", bytes as f64 / f64::from(1 << 20))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_message_has_limit_peak_and_users() {
        let report = Report {
            limit: Some(Limit::Value(64 << 20)),
            peak: Some(64 << 20),
            statistics: "cache 0\ntotal_cache 24576\ntotal_rss 65470464\n".into(),
            largest: vec![("memhog".into(), 42, 65 << 20), ("sh".into(), 41, 1 << 20)],
        };
        assert_eq!(
            report.to_string(),
            "Memory limit exceeded: Requested: 64MB Maximum Used: 64MB\n\
             In use now: 62.4MB by processes, 0.0MB of files\n\
             Largest processes: memhog (pid 42) 65.0MB, sh (pid 41) 1.0MB\n\
             \nMEMORY STATISTICS: \ncache 0\ntotal_cache 24576\ntotal_rss 65470464\n\n"
        );
        assert!((report.megabytes() - 64.0).abs() < 1e-9);
    }

    #[test]
    fn an_unreadable_cgroup_still_gives_a_message() {
        let report = Report::read(&Cgroup::new(Version::V2, "/nowhere"));
        assert!(report.to_string().starts_with("Memory limit exceeded: "));
        assert!(report.megabytes().abs() < 1e-9);
    }
}
