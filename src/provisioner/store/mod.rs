//! The store of images below `--docker_store_dir`: what is there and who needs it.
//!
//! Owned by the provisioner. `files` draws the tree on the disk, `book` is what is known
//! of it in memory, `flight` is a pull for all who wait for it, `settings` says whom to
//! ask. Layers are shared by all images that have them.

mod book;
pub(super) mod files;
mod flight;
pub mod settings;

use std::fmt;
use std::io;
use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use thiserror::Error;
use tracing::warn;

use self::book::Book;
use self::files::{Failed, Files};
use self::flight::{Key, Landing};
use super::gc;
use super::image::StoredImage;
use super::message::Progress;
use super::reference::{Digest, Reference};
use crate::fetch::{Flights, Program};

pub use self::settings::{Location, Settings, SettingsError, insecure, mirrors};

/// Why there is no image.
#[derive(Debug, Error)]
pub enum StoreError {
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
        /// Its name, in its one spelling.
        image: String,
        /// What happened, with all causes.
        message: String,
    },
    /// Credentials that come with an image are no JSON.
    #[error("the credentials of image '{image}' are not usable; expected docker's config.json")]
    Credentials {
        /// Its name.
        image: String,
    },
}

impl From<Failed> for StoreError {
    fn from(Failed { verb, path, source }: Failed) -> StoreError {
        StoreError::Store { verb, path, source }
    }
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
pub struct Lease(Arc<Hold>);

#[derive(Debug)]
struct Hold {
    image: Arc<StoredImage>,
    inner: Arc<Inner>,
}

impl Deref for Lease {
    type Target = StoredImage;

    fn deref(&self) -> &StoredImage {
        &self.0.image
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        let mut book = self.inner.lock();
        book.book.release(self.image.id);
        self.inner.touch(&mut book, &self.image);
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
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    settings: Settings,
    program: Program,
    files: Files,
    state: Mutex<State>,
    /// How often layers were removed.
    removals: AtomicU64,
    flights: Flights<Key, Landing>,
}

#[derive(Debug, Default)]
struct State {
    book: Book,
    /// Pulls at work, those included that nobody waits for any more.
    pulls: usize,
}

impl Inner {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn touch(&self, state: &mut State, image: &StoredImage) {
        let now = SystemTime::now();
        if state.book.touch(image, now) {
            self.files.touch(&image.reference, now);
        }
    }
}

impl Store {
    /// Opens the store, makes it if there is none, and removes what is not whole.
    /// Blocking.
    ///
    /// # Errors
    /// [`StoreError::Store`], [`StoreError::InUse`]
    pub fn open(settings: Settings) -> Result<Store, StoreError> {
        let files = Files::open(&settings.dir)?;
        let files = files.ok_or_else(|| StoreError::InUse { path: settings.dir.clone() })?;
        let (book, lost) = Book::new(files.read()?);
        for reference in lost {
            warn!(image = %reference, "forgetting an image that lacks a layer");
            files.remove_reference(&reference)?;
        }
        let program = Program::new(&settings.helper);
        let state = Mutex::new(State { book, ..State::default() });
        let flights = Flights::default();
        let removals = AtomicU64::new(0);
        let inner = Inner { settings, program, files, state, removals, flights };
        Ok(Store { inner: Arc::new(inner) })
    }

    /// An image, from the store or pulled. All who ask for the same at a time wait for
    /// one pull; when nobody waits any more it ends.
    ///
    /// # Errors
    /// [`StoreError::Pull`], [`StoreError::Credentials`]
    pub async fn get(&self, reference: &Reference, options: Options) -> Result<Lease, StoreError> {
        let reference = self.inner.settings.canonical(reference);
        let failed = |message| StoreError::Pull { image: reference.to_string(), message };
        if !options.force_pull
            && let Some(lease) = self.take(&reference)
        {
            return Ok(lease);
        }
        let key = Key::new(&reference, options.credentials.as_deref())
            .ok_or_else(|| StoreError::Credentials { image: reference.to_string() })?;
        let mut landing = flight::join(&self.inner, key);
        loop {
            let now = landing.borrow_and_update().clone();
            match now {
                Landing::Pulling(progress) => {
                    if let Some(tell) = &options.progress {
                        tell(progress);
                    }
                }
                Landing::Ready(lease) => return Ok(lease),
                Landing::Failed(message) => return Err(failed(message)),
            }
            if landing.changed().await.is_err() {
                return Err(failed("the agent is ending".into()));
            }
        }
    }

    /// An image that is in the store.
    fn take(&self, reference: &Reference) -> Option<Lease> {
        let mut state = self.inner.lock();
        let image = state.book.find(&self.inner.files.dir, reference)?;
        self.inner.touch(&mut state, &image);
        Some(hold(&self.inner, &mut state, image))
    }

    /// Keeps an image that a container uses since before the agent started; `None` if it
    /// is not there any more. Its `reference` is one of those it has.
    #[must_use]
    pub fn keep(&self, id: &Digest) -> Option<Lease> {
        let mut state = self.inner.lock();
        let image = state.book.find_id(&self.inner.files.dir, *id)?;
        Some(hold(&self.inner, &mut state, image))
    }

    /// How often layers were removed: as long as this stays the same, those of an image
    /// that is here are the same directories.
    #[must_use]
    pub fn removals(&self) -> u64 {
        self.inner.removals.load(Ordering::Acquire)
    }

    /// All images, by name.
    #[must_use]
    pub fn list(&self) -> Vec<Listed> {
        self.inner.lock().book.list(&self.inner.files.dir)
    }

    /// Removes all images that nobody uses, but for those named.
    ///
    /// # Errors
    /// [`StoreError::Store`]; what could be removed is gone.
    pub async fn prune(&self, excluded: &[Reference]) -> Result<Pruned, StoreError> {
        self.remove(excluded, None).await
    }

    /// Removes images that nobody uses, those unused for the longest time first, until
    /// `headroom`, a part of the disk from 0 to 1, is free; none if it is already.
    ///
    /// # Errors
    /// As [`Store::prune`].
    pub async fn make_room(
        &self,
        headroom: f64,
        excluded: &[Reference],
    ) -> Result<Pruned, StoreError> {
        let path = &self.inner.files.dir;
        let space = kernel::machine::space(path).map_err(|source| StoreError::Store {
            verb: "look at the file system of",
            path: path.clone(),
            source,
        })?;
        match gc::wanted(headroom, space.total, space.available) {
            0 => Ok(Pruned::default()),
            wanted => self.remove(excluded, Some(wanted)).await,
        }
    }

    /// Where the store is.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.inner.files.dir
    }

    async fn remove(
        &self,
        excluded: &[Reference],
        wanted: Option<u64>,
    ) -> Result<Pruned, StoreError> {
        let inner = &self.inner;
        let excluded: Vec<Reference> =
            excluded.iter().map(|name| inner.settings.canonical(name)).collect();
        let dir = inner.files.stage()?;
        let result = inner.take_out(&excluded, wanted, &dir);
        // Blocking, for long: in its own thread.
        let removed = tokio::task::spawn_blocking(move || files::remove(&dir));
        let _ = removed.await;
        Ok(result?)
    }
}

impl Inner {
    /// Forgets what goes; the files of layers are moved into `dir`.
    fn take_out(
        &self,
        excluded: &[Reference],
        wanted: Option<u64>,
        dir: &Path,
    ) -> Result<Pruned, Failed> {
        let mut state = self.lock();
        let mut pruned = Pruned::default();
        let (candidates, weights) = (state.book.candidates(excluded), state.book.weights());
        for reference in gc::choose(&candidates, &weights, wanted) {
            self.files.remove_reference(&reference)?;
            state.book.forget(&reference);
            pruned.images.push(reference);
        }
        for id in state.book.nameless() {
            self.files.remove_image(id)?;
        }
        // A pull counts on what it saw; what is left now goes the next time.
        if state.pulls > 0 {
            return Ok(pruned);
        }
        // What pulls left that came to nothing is known to the disk only.
        let mut unused = state.book.unused_layers();
        let known = |layer: &Digest| state.book.layers.contains_key(layer);
        let found = self.files.layers()?.into_iter();
        let lost =
            found.filter(|(layer, _)| !known(layer) && unused.iter().all(|(u, _)| u != layer));
        let lost: Vec<(Digest, u64)> = lost.collect();
        unused.extend(lost);
        if !unused.is_empty() {
            self.removals.fetch_add(1, Ordering::Release);
        }
        for (layer, bytes) in unused {
            self.files.take_layer(layer, dir)?;
            pruned.layers += 1;
            pruned.bytes += bytes;
        }
        Ok(pruned)
    }
}

fn hold(inner: &Arc<Inner>, state: &mut State, image: Arc<StoredImage>) -> Lease {
    state.book.lease(image.id);
    Lease(Arc::new(Hold { image, inner: Arc::clone(inner) }))
}
