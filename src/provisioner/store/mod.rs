//! The store of images below `--docker_store_dir`: what is there and who needs it.

use std::fmt;
use std::io;
use std::ops::Deref;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use thiserror::Error;

use super::image::StoredImage;
use super::reference::{Digest, Reference, ReferenceError};

/// Why there is no image.
#[derive(Debug, Error)]
pub enum StoreError {
    /// Its name is none.
    #[error(transparent)]
    Reference(#[from] ReferenceError),
    /// The store itself cannot be used.
    #[error("failed to {verb} '{}'", path.display())]
    Store {
        /// What was being done.
        verb: &'static str,
        /// To what.
        path: PathBuf,
        /// The system's words.
        source: io::Error,
    },
    /// Another agent uses the directory.
    #[error("the image store '{}' is used by another agent (--docker_store_dir)", path.display())]
    InUse {
        /// The store.
        path: PathBuf,
    },
    /// It cannot be pulled or unpacked.
    #[error("failed to pull image '{image}': {message}")]
    Pull {
        /// Its name, as asked for.
        image: String,
        /// What happened, with all causes.
        message: String,
    },
}

/// What the store is told when the agent starts.
#[derive(Debug, Clone)]
pub struct Settings {
    /// `--docker_store_dir`
    pub dir: PathBuf,
    /// `--docker_registry`: a URL of a registry, or a directory of archives.
    pub registry: String,
    /// `--docker_config`: credentials in the form of Docker's `config.json`.
    pub credentials: Option<serde_json::Value>,
    /// The program `bulkhead-helper`.
    pub helper: PathBuf,
    /// `--docker_insecure_registries`: hosts that are spoken to without TLS, or whose
    /// certificates are not checked.
    pub insecure: Vec<String>,
    /// `--docker_registry_mirrors`: host of a registry -> URLs asked before it.
    pub mirrors: Vec<(String, Vec<String>)>,
    /// `--docker_certs_dir`: a directory for each host with `*.crt`, `*.cert`, `*.key`.
    pub certificates: PathBuf,
    /// `--docker_image_size_limit`: largest image, unpacked, in bytes.
    pub size_limit: u64,
    /// `--fetcher_stall_timeout`: longest time without a byte; zero: for ever.
    pub stall: Duration,
}

/// How far a pull is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
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

/// How somebody wants an image.
#[derive(Clone, Default)]
pub struct Options {
    /// Ask the registry although the image is here (`Image.cached = false`).
    pub force_pull: bool,
    /// Credentials in the form of Docker's `config.json`, from the image's own secret
    /// (`Image.docker.config`); they come before the agent's.
    pub credentials: Option<Vec<u8>>,
    /// Is told how far a pull is, a few times a second.
    pub progress: Option<Arc<dyn Fn(Progress) + Send + Sync>>,
}

impl fmt::Debug for Options {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let secret = self.credentials.as_ref().map(|_| "...");
        f.debug_struct("Options")
            .field("force_pull", &self.force_pull)
            .field("credentials", &secret)
            .finish_non_exhaustive()
    }
}

/// An image that stays in the store as long as this lives. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Lease {
    image: Arc<StoredImage>,
}

impl Deref for Lease {
    type Target = StoredImage;

    fn deref(&self) -> &StoredImage {
        &self.image
    }
}

/// An image in the store, for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    /// Its name, in its one spelling.
    pub reference: Reference,
    /// Who it is.
    pub id: Digest,
    /// Of its manifest.
    pub manifest: Option<Digest>,
    /// Size of its layers in bytes, unpacked.
    pub bytes: u64,
    /// When it was last pulled or run.
    pub used: SystemTime,
    /// A container uses it now.
    pub in_use: bool,
}

/// What pruning removed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Pruned {
    /// Names that are gone.
    pub images: Vec<Reference>,
    /// Layers that are gone.
    pub layers: u64,
    /// Their size in bytes.
    pub bytes: u64,
}

/// The store. One for each agent; cheap to clone.
#[derive(Debug, Clone)]
pub struct Store {
    settings: Arc<Settings>,
}

impl Store {
    /// Opens the store, makes it if there is none, and removes what is not whole.
    /// Blocking.
    ///
    /// # Errors
    /// [`StoreError::Store`], [`StoreError::InUse`]
    pub fn open(settings: Settings) -> Result<Store, StoreError> {
        Ok(Store { settings: Arc::new(settings) })
    }

    /// Where it is.
    #[must_use]
    pub fn dir(&self) -> &std::path::Path {
        &self.settings.dir
    }

    /// An image, from the store or pulled. All who ask for the same at a time wait for
    /// one pull; when nobody waits any more it ends.
    ///
    /// # Errors
    /// [`StoreError::Pull`]
    pub async fn get(&self, reference: &Reference, _: Options) -> Result<Lease, StoreError> {
        let message = format!("nothing is pulled into {} yet", self.settings.dir.display());
        Err(StoreError::Pull { image: reference.to_string(), message })
    }

    /// Keeps an image that a container uses since before the agent started; `None` if it
    /// is not there any more. Its `reference` is one of those it has.
    #[must_use]
    pub fn keep(&self, _id: &Digest) -> Option<Lease> {
        None
    }

    /// All images, by name.
    #[must_use]
    pub fn list(&self) -> Vec<Listed> {
        Vec::new()
    }

    /// Removes all images that nobody uses, but for those named.
    ///
    /// # Errors
    /// [`StoreError::Store`]; what could be removed is gone.
    pub async fn prune(&self, _excluded: &[Reference]) -> Result<Pruned, StoreError> {
        Ok(Pruned::default())
    }
}
