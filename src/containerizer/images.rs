//! The images that a containerizer has at hand: [`ImageStore`].
//!
//! The same questions for every kind of store: fetch an image before it is needed,
//! list what is there, remove what nobody needs. Asked by the agent's API and by its
//! collector of images; implemented by `native` (the provisioner's store) and by
//! `docker` (the engine's).

use std::sync::Arc;
use std::time::SystemTime;

use async_trait::async_trait;
use serde_json::{Value, json};
use thiserror::Error;

/// An image in a store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageRow {
    /// What it is called: `registry/repository:tag`, or with a digest.
    pub name: String,
    /// Of its manifest or configuration, `sha256:...`, if the store knows one.
    pub digest: Option<String>,
    /// On the disk, in bytes; what is shared with other images counts for each.
    pub bytes: u64,
    /// When a container was last launched from it, or when it was pulled.
    pub last_used: Option<SystemTime>,
    /// A container uses it: it is not removed.
    pub in_use: bool,
}

/// How far a pull is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Progress {
    /// Layers of the image; 0 until they are known.
    pub layers: u32,
    /// Those that are there.
    pub layers_done: u32,
    /// Bytes to be downloaded, as far as known.
    pub bytes: u64,
    /// Bytes that are there.
    pub bytes_done: u64,
}

impl Progress {
    /// For `/containers` and those who pull.
    #[must_use]
    pub fn to_json(&self) -> Value {
        json!({
            "layers": self.layers, "layers_done": self.layers_done,
            "bytes": self.bytes, "bytes_done": self.bytes_done,
        })
    }
}

/// Hears how far a pull is, many times a second at most; must not block.
pub type Watcher = Arc<dyn Fn(Progress) + Send + Sync>;

/// Why a store did not do what it was asked for.
#[derive(Debug, Error)]
#[error("failed to {verb} {object}: {message}")]
pub struct ImagesError {
    /// `pull`, `list`, `remove`.
    pub verb: &'static str,
    /// `image 'x'`, `images`.
    pub object: String,
    /// The causes, for people.
    pub message: String,
}

/// The images of one containerizer.
#[async_trait]
pub trait ImageStore: Send + Sync {
    /// Fetches an image, unless it is there and not `force`d. Dropping the call ends
    /// the pull if nobody else waits for it.
    ///
    /// # Errors
    /// It cannot be found or fetched; nothing of it is left.
    async fn pull(
        &self,
        image: &str,
        force: bool,
        watcher: Watcher,
    ) -> Result<ImageRow, ImagesError>;

    /// What is there, by name.
    ///
    /// # Errors
    /// The store cannot be read.
    async fn list(&self) -> Result<Vec<ImageRow>, ImagesError>;

    /// Removes every image that no container uses and that is not `excluded`; those
    /// that were removed. Of a store that others use too, only what we pulled.
    ///
    /// # Errors
    /// Something is left that should not be.
    async fn prune(&self, excluded: &[String]) -> Result<Vec<ImageRow>, ImagesError>;
}

/// A store and the name of its containerizer in `--containerizers`.
pub type NamedStore = (&'static str, Arc<dyn ImageStore>);
