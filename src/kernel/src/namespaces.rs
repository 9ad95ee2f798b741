//! Kinds of namespaces.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::path::PathBuf;

/// A kind of namespace.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[allow(missing_docs)]
pub enum Namespace {
    Mount,
    Uts,
    Ipc,
    Pid,
    Network,
    Cgroup,
    User,
    Time,
}

impl Namespace {
    /// Every kind.
    pub const ALL: [Namespace; 8] = [
        Namespace::Mount,
        Namespace::Uts,
        Namespace::Ipc,
        Namespace::Pid,
        Namespace::Network,
        Namespace::Cgroup,
        Namespace::User,
        Namespace::Time,
    ];

    /// The `CLONE_NEW*` flag.
    #[must_use]
    pub const fn flag(self) -> u32 {
        (match self {
            Namespace::Mount => libc::CLONE_NEWNS,
            Namespace::Uts => libc::CLONE_NEWUTS,
            Namespace::Ipc => libc::CLONE_NEWIPC,
            Namespace::Pid => libc::CLONE_NEWPID,
            Namespace::Network => libc::CLONE_NEWNET,
            Namespace::Cgroup => libc::CLONE_NEWCGROUP,
            Namespace::User => libc::CLONE_NEWUSER,
            Namespace::Time => 0x80,
        }) as u32
    }

    /// The file's name below `/proc/<pid>/ns`.
    #[must_use]
    pub const fn file(self) -> &'static str {
        match self {
            Namespace::Mount => "mnt",
            Namespace::Uts => "uts",
            Namespace::Ipc => "ipc",
            Namespace::Pid => "pid",
            Namespace::Network => "net",
            Namespace::Cgroup => "cgroup",
            Namespace::User => "user",
            Namespace::Time => "time",
        }
    }

    /// The file that stands for the namespace of a process.
    #[must_use]
    pub fn of(self, pid: u32) -> PathBuf {
        PathBuf::from(format!("/proc/{pid}/ns/{}", self.file()))
    }

    /// Whether the process `pid` is in the same namespace as this one.
    ///
    /// # Errors
    /// As `readlink`: the process is gone, or is somebody else's.
    pub fn shared_with(self, pid: u32) -> io::Result<bool> {
        let own = std::fs::read_link(format!("/proc/self/ns/{}", self.file()))?;
        Ok(own == std::fs::read_link(self.of(pid))?)
    }

    /// Whether this kernel has the kind.
    #[must_use]
    pub fn supported(self) -> bool {
        std::path::Path::new("/proc/self/ns").join(self.file()).exists()
    }
}

/// Does `work` in the network of the process `pid`: on a thread of its own, unless
/// that is this process' network. The thread is never used for anything else.
///
/// # Errors
/// The process is gone, or its network may not be entered.
pub fn in_network_of<T: Send>(pid: u32, work: impl FnOnce() -> T + Send) -> io::Result<T> {
    if Namespace::Network.shared_with(pid)? {
        return Ok(work());
    }
    let network = File::open(Namespace::Network.of(pid))?;
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().name("network".into());
        let entered = thread.spawn_scoped(scope, move || {
            // SAFETY: an integer and an open descriptor; changes this thread only.
            if unsafe { libc::setns(network.as_raw_fd(), libc::CLONE_NEWNET) } != 0 {
                return Err(io::Error::last_os_error());
            }
            Ok(work())
        })?;
        entered.join().unwrap_or_else(|_| Err(io::Error::other("the work was cut short")))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_are_distinct_bits() {
        let all = Namespace::ALL.iter().fold(0, |sum, kind| {
            assert_eq!(sum & kind.flag(), 0, "{kind:?}");
            sum | kind.flag()
        });
        assert_eq!(all.count_ones(), 8);
        assert!(Namespace::Mount.supported());
    }

    #[test]
    fn work_is_done_in_the_other_process_network() {
        // SAFETY: no arguments.
        if unsafe { libc::geteuid() } != 0 {
            eprintln!("SKIPPED: needs root");
            return;
        }
        let mut other = std::process::Command::new("unshare")
            .args(["--net", "sleep", "1000"])
            .spawn()
            .expect("unshare");
        let pid = other.id();
        let start = std::time::Instant::now();
        while Namespace::Network.shared_with(pid).unwrap_or(true) {
            assert!(start.elapsed().as_secs() < 10, "it has a network of its own");
            std::thread::yield_now();
        }
        let there = in_network_of(pid, || std::fs::read_link("/proc/thread-self/ns/net"));
        let wanted = std::fs::read_link(Namespace::Network.of(pid)).expect("its network");
        other.kill().expect("kill");
        other.wait().expect("reap");
        assert_eq!(there.expect("entered").expect("a link"), wanted);
        let own = in_network_of(std::process::id(), || std::thread::current().id());
        assert_eq!(own.expect("ours"), std::thread::current().id());
        assert!(in_network_of(pid, || ()).is_err());
    }
}
