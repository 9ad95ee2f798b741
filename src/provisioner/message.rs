//! What agent and helper say to each other about a pull, one JSON object on a line each.
//!
//! The agent writes one [`Job`] to descriptor 0 and keeps that pipe open: its end is the
//! agent's. The helper writes [`Report`]s to descriptor 1, the last one `Done` or
//! `Failed`. Credentials travel in the job, so that no file and no command line has them.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::reference::{Digest, Reference};

/// Version of the messages: agent and helper come from one build.
pub(super) const VERSION: u32 = 1;

/// One image to pull.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Job {
    /// [`VERSION`]
    pub version: u32,
    /// In its one spelling.
    pub reference: Reference,
    pub source: Source,
    /// The store, and the directory below it that is this pull's alone.
    pub store: PathBuf,
    pub staging: PathBuf,
    /// In the form of Docker's `config.json`; the first that knows a registry counts.
    pub credentials: Vec<serde_json::Value>,
    /// Proxies, and where programs for credentials are.
    pub environment: BTreeMap<String, String>,
    /// No progress for so long is a failure; 0: never.
    pub stall_secs: u64,
    /// Largest image, unpacked, in bytes.
    pub size_limit: u64,
}

/// Where images come from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Source {
    /// `--docker_registry` is a directory.
    Directory(PathBuf),
    /// Registries, the first that has the image counts.
    Registry {
        endpoints: Vec<Endpoint>,
        /// `--docker_certs_dir`
        certificates: PathBuf,
    },
}

/// One registry to ask.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Endpoint {
    /// `host` or `host:port`.
    pub host: String,
    pub security: Security,
}

/// How a registry is spoken to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Security {
    /// By TLS only, with a certificate that is checked.
    Tls,
    /// By TLS that is checked, or without any if it does not speak TLS: on this machine.
    TlsOrPlain,
    /// By TLS that is not checked, or without any.
    Insecure,
    /// Without, since its URL says so.
    Plain,
}

/// How far a pull is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Progress {
    /// Bytes that came, of layers only.
    pub bytes: u64,
    /// Bytes that are expected; 0: not known yet.
    pub of: u64,
    /// Layers that are there.
    pub layers: u32,
    /// Layers of the image; 0: not known yet.
    pub layers_of: u32,
}

/// What the helper tells.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Report {
    Progress(Progress),
    /// All layers are in the store, and the configuration is `<staging>/config`.
    Done {
        id: Digest,
        manifest: Option<Digest>,
    },
    /// It is not; for people.
    Failed {
        message: String,
    },
}
