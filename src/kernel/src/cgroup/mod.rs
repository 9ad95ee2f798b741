//! Control groups, v1 mounted one by one, hybrid, and pure v2.
//!
//! Owns finding the hierarchies, making and removing directories, reading and
//! writing knobs, killing what is inside and listening for out-of-memory events.
//! Called by the isolators and by the containerizer's destroy. Knows no formula
//! (what to write is the isolators' business), no Mesos type and no async
//! runtime: events are file descriptors that the caller polls.
//!
//! * [`Hierarchies`]: what is mounted where, and which hierarchy has a controller.
//! * [`Cgroup`]: one directory of one hierarchy.
//! * [`parse`]: pure parsers of the files' contents.
//! * [`event`]: out-of-memory and pressure notifications.
//! * [`id`]: numbers of v2 cgroups, and the way back.
//! * [`KeptFile`]: a file that is read again and again.

mod detect;
pub mod event;
mod group;
pub mod id;
mod kept;
pub mod parse;
mod unmount;

use std::io;
use std::path::{Path, PathBuf};

pub use detect::{Hierarchies, Hierarchy, Version, is_implicit_on_v2};
pub use group::Cgroup;
pub use kept::KeptFile;
use thiserror::Error;

/// A cgroup operation that did not work.
#[derive(Debug, Error)]
pub enum Error {
    /// The kernel refused; `verb` is what was tried.
    #[error("failed to {verb} '{}'", path.display())]
    Io {
        /// `create`, `remove`, `read`, `write '…' to`, ...
        verb: String,
        /// The file or directory.
        path: PathBuf,
        /// The kernel's answer.
        source: io::Error,
    },
    /// A file does not hold what it always holds.
    #[error("unexpected content in '{}': '{content}'", path.display())]
    Content {
        /// The file.
        path: PathBuf,
        /// What was read.
        content: String,
    },
    /// Processes are left although they were killed again and again.
    #[error("'{}' still has processes after {millis} ms", path.display())]
    Busy {
        /// The directory.
        path: PathBuf,
        /// How long it was tried.
        millis: u128,
    },
}

impl Error {
    pub(crate) fn io(verb: impl Into<String>, path: &Path, source: io::Error) -> Error {
        Error::Io { verb: verb.into(), path: path.to_path_buf(), source }
    }

    /// The kernel's error number, if it was the kernel that refused.
    #[must_use]
    pub fn errno(&self) -> Option<i32> {
        match self {
            Error::Io { source, .. } => source.raw_os_error(),
            Error::Content { .. } | Error::Busy { .. } => None,
        }
    }

    /// Whether a file or directory was missing: the cgroup is gone, or the
    /// kernel lacks the knob.
    #[must_use]
    pub fn is_missing(&self) -> bool {
        matches!(self.errno(), Some(libc::ENOENT | libc::ENODEV))
    }
}
