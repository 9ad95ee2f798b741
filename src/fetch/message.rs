//! What agent and helper say to each other, one JSON object on a line each.
//!
//! The agent writes one [`Job`] to descriptor 0 and keeps that pipe open: its end is
//! the agent's. The helper writes [`Report`]s to descriptor 1, the last one `Done` or
//! `Failed`. Descriptor 2 is the sandbox' `stderr`, 3 the sandbox, 4 a file of the cache.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// Version of the messages: agent and helper come from one build, so another one
/// means that they were mixed.
pub(super) const VERSION: u32 = 2;

/// Descriptors of the helper.
pub(super) const SANDBOX_FD: i32 = 3;
/// The cached file, to fill or to read.
pub(super) const CACHE_FD: i32 = 4;

/// One URI to fetch.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Job {
    /// [`VERSION`]
    pub version: u32,
    pub uri: String,
    pub task: Task,
    /// Who to become; nobody else without it.
    pub user: Option<User>,
    /// The sandbox by its name, for messages and for other programs.
    pub sandbox: PathBuf,
    pub frameworks_home: Option<PathBuf>,
    /// For other programs: the agent's, without its own variables.
    pub environment: BTreeMap<String, String>,
    /// No progress for so long is a failure; 0: never.
    pub stall_secs: u64,
    /// Largest download, and largest content of an archive, in bytes.
    pub size_limit: u64,
}

/// What to do with the URI.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Task {
    /// Bring it into the sandbox.
    Place(Placement),
    /// Bring it into the cache.
    Fill { known: Option<Validators> },
}

/// Where in the sandbox, and how.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Placement {
    /// Below the sandbox.
    pub output: PathBuf,
    pub executable: bool,
    pub extract: bool,
    /// It comes from the file of the cache.
    pub cached: bool,
    /// With these permissions, if the cache knows some.
    pub mode: Option<u32>,
}

/// The task's user.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct User {
    pub uid: u32,
    pub gid: u32,
    pub groups: Vec<u32>,
}

/// What tells one content of a URI from the next.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Validators {
    /// Of HTTP; for local files made of size, time and inode.
    pub etag: Option<String>,
    /// `Last-Modified` of HTTP, as it came.
    pub modified: Option<String>,
    /// Permissions of a local file: they come along with it.
    #[serde(default)]
    pub mode: Option<u32>,
}

impl Validators {
    /// Nothing to ask about.
    pub fn is_empty(&self) -> bool {
        self.etag.is_none() && self.modified.is_none()
    }
}

/// How much of a download is there, in bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Amount {
    pub done: u64,
    /// In all, if it is known.
    pub of: Option<u64>,
}

impl Amount {
    /// What a report says of it.
    pub fn hear(&mut self, report: &Report) {
        match report {
            Report::Begins { size } => *self = Amount { done: 0, of: *size },
            Report::Progress { bytes } => self.done = *bytes,
            Report::Unchanged | Report::Done { .. } | Report::Failed { .. } => {}
        }
    }
}

/// What the helper tells.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Report {
    /// The download begins; its size in bytes, if it is known.
    Begins { size: Option<u64> },
    /// So many bytes are there.
    Progress { bytes: u64 },
    /// `Fill`: what is known is what is there.
    Unchanged,
    /// It is done; what the content is known by.
    Done { validators: Validators },
    /// It is not; for people.
    Failed { message: String, trouble: Trouble },
}

/// What kind of failure it is, as far as the agent acts on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Trouble {
    /// The source says that there is no such thing.
    Gone,
    /// What came could not be written.
    Disk,
    Other,
}
