//! What the agent tells the helper: one versioned message, a file in the bundle.
//!
//! It says what OCI's `config.json` beside it cannot. Written and removed by the
//! launch code, read by the helper and its hook; holds no secret.

use std::path::{Path, PathBuf};

use isolators::plan::FileOperation;
use serde::{Deserialize, Serialize};

/// Version of the message: agent and helper come from one build, so another one
/// is refused.
pub(super) const VERSION: u32 = 2;

/// Files and directories of a bundle.
pub(super) mod file {
    /// This message.
    pub const MESSAGE: &str = "launch.json";
    /// OCI's part, as libcontainer reads it.
    pub const CONFIG: &str = "config.json";
    /// Mount point of a root file system that is made for the container.
    pub const ROOT: &str = "rootfs";
    /// libcontainer's own state.
    pub const STATE: &str = "state";
    /// What libcontainer logs while it makes the container: errors only.
    #[cfg(feature = "oci")]
    pub const LOG: &str = "log";
    /// Why the launch failed, for people.
    pub const ERROR: &str = "error";
}

/// The message.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Message {
    /// [`VERSION`].
    pub version: u32,
    /// The exit record.
    pub record: PathBuf,
    /// What is mounted at the root before libcontainer starts.
    pub root: Root,
    /// The helper is in another pid namespace than the agent: it needs a /proc.
    pub own_proc: bool,
    /// The shim is in that pid namespace, too.
    pub own_pids: bool,
    /// The container keeps the host's /dev, so libcontainer must fill another.
    pub cover_dev: bool,
    /// The machine runs from its initial ramfs, which cannot be pivoted away.
    pub no_pivot: bool,
    /// Tell the agent when the container is made, and wait for its answer.
    pub wait: bool,
    /// What to execute when it is not the first of the arguments.
    pub executable: Option<String>,
    /// The system call filter to install right before the command.
    pub system_calls: Option<Filter>,
    /// Steps after the mounts, inside the container's root.
    pub operations: Vec<Operation>,
    /// Cgroup directories that libcontainer makes and nobody else removes.
    pub extra_cgroups: Vec<PathBuf>,
}

/// Classic BPF instructions and `SECCOMP_FILTER_FLAG_*`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs)]
pub(super) struct Filter {
    pub program: Vec<u64>,
    pub flags: u32,
}

/// Where the root file system comes from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Root {
    /// The host's.
    Host,
    /// A directory, as it is.
    Directory,
    /// An overlay with these mount options.
    Overlay(String),
}

/// A step on the container's files; see [`FileOperation`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs)]
pub(super) enum Operation {
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
    /// Of the host's root, which a container of this engine does not keep.
    Nothing,
}

impl From<&FileOperation> for Operation {
    fn from(operation: &FileOperation) -> Operation {
        match operation {
            FileOperation::Mkdir { path, mode, recursive } => {
                Operation::Mkdir { path: path.clone(), mode: *mode, recursive: *recursive }
            }
            FileOperation::Symlink { target, link } => {
                Operation::Symlink { target: target.clone(), link: link.clone() }
            }
            FileOperation::Rename { from, to } => {
                Operation::Rename { from: from.clone(), to: to.clone() }
            }
            FileOperation::Unmount { .. } => Operation::Nothing,
        }
    }
}

/// Reads the message of a bundle.
///
/// # Errors
/// For people: the file cannot be read, or is of another version.
pub(super) fn read(bundle: &Path) -> Result<Message, String> {
    let path = bundle.join(file::MESSAGE);
    let failed = |error: &dyn std::fmt::Display| format!("read '{}': {error}", path.display());
    let bytes = std::fs::read(&path).map_err(|error| failed(&error))?;
    let message: Message = serde_json::from_slice(&bytes).map_err(|error| failed(&error))?;
    match message.version {
        VERSION => Ok(message),
        other => Err(failed(&format_args!("version {other} is not {VERSION}"))),
    }
}
