//! Images as isolators need them: the trait of whoever makes root file systems.
//!
//! Implemented by the provisioner (pullers, store, backends), asked by
//! `volume/image`. One owner per container: what was provisioned for it, the
//! provisioner knows, also after a restart of the agent.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::path::PathBuf;

use async_trait::async_trait;
use mesos::{ContainerId, Image};
use thiserror::Error;

/// Why there is no root file system of an image.
#[derive(Debug, Error)]
#[error("failed to {verb} {object}")]
pub struct ProvisionError {
    /// What was being done: `pull`, `unpack`, `mount`, ...
    pub verb: &'static str,
    /// To what: an image, a layer.
    pub object: String,
    /// The cause.
    #[source]
    pub source: Option<Box<dyn std::error::Error + Send + Sync>>,
}

/// What an image says of the processes that run in it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Runtime {
    /// Variables.
    pub environment: BTreeMap<String, String>,
    /// What is executed, with its first arguments.
    pub entrypoint: Vec<String>,
    /// More arguments, or what is executed where there is no entry point.
    pub cmd: Vec<String>,
    /// Where it is executed.
    pub working_directory: Option<PathBuf>,
    /// As whom: `user`, `user:group`, by name or number; names are the image's.
    pub user: Option<String>,
    /// Directories whose content is not the image's; absolute.
    pub volumes: Vec<PathBuf>,
    /// The signal that asks its first process to end; `None`: `SIGTERM`.
    pub stop_signal: Option<i32>,
}

/// Makes root file systems of images.
#[async_trait]
pub trait Provisioner: Send + Sync + Debug {
    /// Makes one for a container, in whose name it is kept. Every call makes another
    /// one: the container may write to it.
    ///
    /// # Errors
    /// The image cannot be found, pulled or unpacked.
    async fn provision(
        &self,
        container: &ContainerId,
        image: &Image,
    ) -> Result<PathBuf, ProvisionError>;

    /// Removes all that were made for a container; none is fine.
    ///
    /// # Errors
    /// Something is left.
    async fn destroy(&self, container: &ContainerId) -> Result<(), ProvisionError>;
}

/// What an image is called, for messages.
#[must_use]
pub fn name(image: &Image) -> String {
    match (&image.docker, &image.appc) {
        (Some(docker), _) => docker.name.clone(),
        (None, Some(appc)) => appc.name.clone(),
        (None, None) => "an image without a name".into(),
    }
}
