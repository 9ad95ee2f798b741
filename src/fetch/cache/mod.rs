//! Downloads that are kept for the next task, and shared while they are made.
//!
//! Whoever wants a URI first starts its download; others wait for that one ([`flight`]).
//! A download that nobody waits for any more is given up. The books ([`core`]) and the
//! directory ([`files`]) are behind one lock, held for single file operations.

mod core;
mod files;
mod flight;

use std::fs::File;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use kernel::chain;
use tracing::{info, warn};

pub(super) use self::core::Key;
use self::core::{Book, Removed};
use self::files::Files;
pub(super) use self::flight::Order;
use super::message::{Amount, Validators};
use super::wanted::Flights;

/// Where a download stands; everything but `Flying` is its end.
#[derive(Debug, Clone)]
pub(super) enum Landing {
    Flying(Amount),
    /// It is in the cache.
    Ready(Arc<Lease>),
    /// The cache cannot take it, and why; it can be fetched without.
    Bypass(String),
    /// It cannot be fetched, and why.
    Failed(String),
}

/// The cache of one agent.
#[derive(Debug, Clone)]
pub(super) struct Cache {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    dir: PathBuf,
    capacity: u64,
    state: Mutex<State>,
    flights: Flights<Key, Landing>,
}

#[derive(Debug)]
struct State {
    book: Book,
    /// `None` before it is needed, and as long as it cannot be used.
    files: Option<Files>,
}

impl Cache {
    /// A cache of `capacity` bytes in `dir`. A directory of an earlier agent is opened
    /// at once, a new one is made when it is needed.
    pub fn new(dir: &Path, capacity: u64) -> Cache {
        let state = Mutex::new(State { book: Book::new(capacity), files: None });
        let inner = Inner { dir: dir.to_owned(), capacity, state, flights: Flights::default() };
        if capacity > 0 && dir.exists() {
            // That it cannot be used is told to those who want to.
            let _ = inner.lock().files(&inner);
        }
        Cache { inner: Arc::new(inner) }
    }

    /// Bytes in use, and bytes there are.
    pub fn sizes(&self) -> (u64, u64) {
        (self.inner.lock().book.used(), self.inner.capacity)
    }

    /// The download of `key`, as `order` says if it has to be made or asked about.
    /// `watcher` hears how far it is.
    pub async fn obtain(&self, key: Key, order: Order, watcher: impl Fn(Amount)) -> Landing {
        let start = Landing::Flying(Amount::default());
        let (mut landing, begun) = self.inner.flights.join(&key, start);
        if let Some(waiting) = begun {
            tokio::spawn(flight::fly(Arc::clone(&self.inner), key, order, waiting));
        }
        loop {
            match landing.borrow_and_update().clone() {
                Landing::Flying(amount) => watcher(amount),
                landed => return landed,
            }
            if landing.changed().await.is_err() {
                return Landing::Bypass("its download was given up".into());
            }
        }
    }
}

impl Inner {
    fn lock(&self) -> MutexGuard<'_, State> {
        // Books and directory may differ after a panic, by a file that the next agent
        // sweeps.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// The directory, opened when it is first needed.
    fn files(&mut self, inner: &Inner) -> Result<&mut Files, String> {
        let opened = match self.files.take() {
            Some(files) => files,
            None => open(inner, &mut self.book)?,
        };
        Ok(self.files.insert(opened))
    }

    /// Removes files that are struck out of the books.
    fn sweep(&mut self, removed: impl IntoIterator<Item = Removed>) {
        let Some(files) = &mut self.files else { return };
        for Removed { key, file } in removed {
            if let Err(error) = files.remove(&key, &file) {
                warn!(error = %chain(&error), "a file stays in the fetcher's cache");
            }
        }
    }
}

fn open(inner: &Inner, book: &mut Book) -> Result<Files, String> {
    if inner.capacity == 0 {
        return Err("the cache is off (--fetcher_cache_size)".into());
    }
    let (files, found) = Files::open(&inner.dir).map_err(|error| chain(&error))?;
    for download in found {
        let files::Found { key, file, stored, .. } = download;
        let mut reservation = core::Reservation::default();
        let fits = book.reserve(&mut reservation, stored.size);
        book.cancel(&mut reservation);
        // The cache may have become smaller.
        let going = match fits {
            Ok(going) => {
                let old = book.enter(key, file, stored.size, stored.validators);
                going.into_iter().chain(old).collect()
            }
            Err(_) => vec![Removed { key, file }],
        };
        for Removed { key, file } in going {
            files.remove(&key, &file).map_err(|error| chain(&error))?;
        }
    }
    info!(bytes = book.used(), dir = %inner.dir.display(), "opened the fetcher's cache");
    Ok(files)
}

/// A download in use: it stays as long as this, and is readable even if a newer one has
/// taken its place.
#[derive(Debug)]
pub(super) struct Lease {
    inner: Arc<Inner>,
    key: Key,
    name: String,
    file: File,
    /// Permissions that come along with it, if it has some.
    pub mode: Option<u32>,
}

impl Lease {
    /// Takes the download of `key` into use, if there is one.
    fn take(inner: &Arc<Inner>, state: &mut State, key: &Key) -> Option<(Validators, Lease)> {
        let entry = state.book.hold(key)?;
        let opened = state.files(inner).and_then(|files| {
            files.touch(key, &entry.file);
            files.open_file(key, &entry.file).map_err(|error| chain(&error))
        });
        match opened {
            Ok(file) => {
                let (inner, key, mode) = (Arc::clone(inner), key.clone(), entry.validators.mode);
                Some((entry.validators, Lease { inner, key, name: entry.file, file, mode }))
            }
            Err(error) => {
                // Somebody removed it by hand: as if it had never been there.
                warn!(error, "a download is gone from the fetcher's cache");
                let removed = state.book.remove(key);
                state.sweep(removed);
                None
            }
        }
    }

    /// Opens it once more for a reader, at its start.
    pub fn open(&self) -> Result<File, String> {
        let path = format!("/proc/self/fd/{}", self.file.as_raw_fd());
        File::open(path).map_err(|error| format!("failed to open the cached file: {error}"))
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.inner.lock().book.release(&self.key, &self.name);
    }
}
