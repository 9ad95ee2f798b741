//! The launch plan: everything an engine needs to start one container, as data.
//!
//! Made by the merge of all isolator contributions, run by `src/launch` (engines
//! `linux`, `posix`, `oci`). OCI's [`Spec`] carries what OCI can say; the rest of
//! [`LaunchPlan`] is what it cannot. Everything here is decided and prepared
//! (cgroups made, files in place) before the engine is called.

mod ready;

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;

pub use self::ready::{Fixtures, Park, ReadyRoot, Taken, Top};
pub use oci_spec::runtime::{LinuxNamespaceType, Spec};

/// One container, ready to start.
#[derive(Debug)]
pub struct LaunchPlan {
    /// `process` (args, env, cwd, user, capabilities, rlimits, noNewPrivileges,
    /// terminal), `root` (absent: the host's root file system), `hostname`,
    /// `mounts` (in order, destinations inside the new root), `linux.namespaces`
    /// (new ones without `path`, joined ones with), masked and read-only paths,
    /// devices. `linux.resources` and `linux.cgroupsPath` stay empty: our
    /// isolators own the cgroups, see [`LaunchPlan::cgroups`].
    pub spec: Spec,
    /// What to execute when it is not the first of the arguments (Mesos'
    /// `CommandInfo` names the file and `argv[0]` apart). Without a `/` it is
    /// looked up in the `PATH` of the container's environment.
    pub executable: Option<String>,
    /// Where the root file system comes from, when it is not a plain directory.
    pub overlay: Option<Overlay>,
    /// That overlay, if it is the root of a mount namespace already. A container with a
    /// user namespace cannot have it: ids of layers are mapped before they are mounted.
    pub ready: Option<Arc<ReadyRoot>>,
    /// Cgroups the container joins before it executes; they exist already.
    pub cgroups: Vec<CgroupJoin>,
    /// Directories of the host that tasks can change while we mount: what is below
    /// them is opened without ever leaving them. The outermost first.
    pub wild: Vec<PathBuf>,
    /// Steps on the container's file system, after the mounts and devices, in order.
    pub file_operations: Vec<FileOperation>,
    /// Which system calls its processes may make; `linux.seccomp` stays empty.
    pub system_calls: Option<Arc<SystemCallFilter>>,
    /// `/proc/<pid>/oom_score_adj` of the container's init, if set.
    pub oom_score_adj: Option<i32>,
    /// Standard streams; they are duplicated into the container.
    pub stdio: Stdio,
    /// The isolators that must see the pid before `exec`. While this is not
    /// empty the child waits after its namespaces are made until the engine's
    /// `release` is called; empty means it never blocks.
    pub wait_for: Vec<&'static str>,
}

/// An overlay root file system, mounted inside the container's own mount
/// namespace (no host mount point, nothing to unmount at teardown).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Overlay {
    /// Read-only layers, topmost first.
    pub lower: Vec<PathBuf>,
    /// Writable layer; an empty directory made for this container.
    pub upper: PathBuf,
    /// Work directory on the same file system as `upper`.
    pub work: PathBuf,
}

/// A cgroup to join.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CgroupJoin {
    /// A v1 cgroup directory: the child writes `0` to its `tasks` file.
    V1(PathBuf),
    /// A v2 cgroup directory: joined by `CLONE_INTO_CGROUP`. At most one.
    V2(PathBuf),
}

/// A step on files in the container's mount namespace. Paths are as the container
/// sees them, so links of an image cannot lead out of its root.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum FileOperation {
    Mkdir {
        path: PathBuf,
        mode: u32,
        recursive: bool,
    },
    Symlink {
        target: PathBuf,
        link: PathBuf,
    },
    Rename {
        from: PathBuf,
        to: PathBuf,
    },
    /// What is mounted there, and below, goes from the container's own mounts; where it
    /// has none, or nothing is mounted there, nothing happens.
    Unmount {
        path: PathBuf,
    },
}

/// A system call filter, ready for the kernel. It is installed as late as
/// possible: right before the command with `noNewPrivileges`, else before the
/// change of user, because only root may install one without it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SystemCallFilter {
    /// The profile's name, for messages.
    pub profile: String,
    /// The profile itself, as JSON.
    pub source: String,
    /// Classic BPF instructions of 8 bytes.
    pub program: Vec<u64>,
    /// `SECCOMP_FILTER_FLAG_*`.
    pub flags: u32,
}

/// Standard streams of the container.
#[derive(Debug)]
#[allow(missing_docs)]
pub struct Stdio {
    pub stdin: OwnedFd,
    pub stdout: OwnedFd,
    pub stderr: OwnedFd,
}

/// Whether a bind mount's source is what another process sees, below `/proc/PID/root`:
/// its pid, and the path as it sees it.
#[must_use]
pub fn seen_by(source: &Path) -> Option<(u32, PathBuf)> {
    let mut parts = source.strip_prefix("/proc").ok()?.components();
    let pid = parts.next()?.as_os_str().to_str()?.parse().ok()?;
    let root = parts.next()?.as_os_str() == "root";
    root.then(|| (pid, Path::new("/").join(parts.as_path())))
}

/// Environment variables by name; later writers win by the merge's rules.
pub type Environment = BTreeMap<String, String>;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn views_are_told_from_paths() {
        let seen = |path: &str| seen_by(Path::new(path));
        assert_eq!(seen("/proc/7/root/dev/shm"), Some((7, "/dev/shm".into())));
        assert_eq!(seen("/proc/7/root"), Some((7, "/".into())));
        for path in ["/proc/sys", "/proc/self/root/x", "/proc/7/cwd", "/a/proc/7/root", "/proc"] {
            assert_eq!(seen(path), None, "{path}");
        }
    }
}
