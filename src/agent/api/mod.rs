//! The agent's HTTP door: v0 endpoints, the operator and executor APIs, and
//! libprocess messages.
//!
//! [`Api`] is the [`Service`] behind the agent's socket. Reads are rendered from
//! the newest snapshot and never wait for the agent's owner; writes go through
//! its [`Handle`]; container calls go to the containerizer. Status codes and
//! wordings of the agent live here and nowhere else.

pub mod containers;
pub mod executor;
pub mod metrics;
pub mod nested;
pub mod reads;
mod sandbox;
pub mod state;
pub mod v1;
pub mod validate;

use std::sync::Arc;

use mesos::slave_info::capability;

use super::handle::Handle;
use crate::checkpoint::WorkDir;
use crate::containerizer::Containerizer;
use crate::wire::http::{Response, StatusCode};

/// What an agent can say of itself without looking.
#[derive(Debug, Clone)]
pub struct About {
    /// Version and build.
    pub version: mesos::VersionInfo,
    /// When the process started, in seconds since the epoch.
    pub start_time: f64,
    /// `slave(1)@10.0.0.1:5051`.
    pub pid: String,
    /// As told to the master.
    pub capabilities: Vec<capability::Type>,
    /// Every flag that has a value, by name, as `/flags` shows it.
    pub flags: Vec<(String, String)>,
}

/// What the handlers work with.
pub struct Context {
    /// The door to the owner.
    pub handle: Handle,
    /// The containers.
    pub containerizer: Arc<dyn Containerizer>,
    /// Who we are.
    pub about: About,
    /// For sandboxes of standalone containers.
    pub work_dir: WorkDir,
    /// `--switch_user`.
    pub switch_user: bool,
}

/// 503 while the agent reads its checkpoints.
fn recovering() -> Response {
    Response::text(StatusCode::SERVICE_UNAVAILABLE, "Agent has not finished recovery")
}
