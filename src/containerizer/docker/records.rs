//! Which images of the engine's store we pulled, and when they were used last: a file
//! in the work directory, where it outlives agent and machine.
//!
//! An intention is written before a pull, what came of it afterwards. Who finds an
//! intention without an outcome asks the engine: what has got its name since then came
//! by that pull, for it was not there before.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};
use tracing::warn;

/// A use is not written down again within this many seconds.
const COARSE: u64 = 60;

/// What is known of an image that we pulled.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Record {
    /// Names that it has from us, in the engine's spelling.
    pub(super) names: BTreeSet<String>,
    /// Seconds since 1970.
    pub(super) used: u64,
}

/// All that is written down.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Book {
    /// Images by id.
    pub(super) images: BTreeMap<String, Record>,
    /// Pulls under way: names, and when they began, in seconds since 1970.
    pub(super) pulls: BTreeMap<String, u64>,
}

/// The file and what it says.
#[derive(Debug)]
pub(super) struct Records {
    path: PathBuf,
    book: Mutex<Book>,
}

impl Records {
    /// Reads the file. One that cannot be read is told of and put aside: no image of
    /// before is ours any more, so none is removed.
    pub(super) fn open(path: &Path) -> Records {
        let book = match fs::read(path) {
            Ok(bytes) => serde_json::from_slice(&bytes).unwrap_or_else(|error| {
                let aside = path.with_extension("damaged");
                let _ = fs::rename(path, &aside);
                warn!(%error, "records of images are damaged; see '{}'", aside.display());
                Book::default()
            }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Book::default(),
            Err(error) => {
                warn!(%error, "failed to read '{}'", path.display());
                Book::default()
            }
        };
        Records { path: path.to_owned(), book: Mutex::new(book) }
    }

    pub(super) fn book(&self) -> Book {
        self.lock().clone()
    }

    fn lock(&self) -> MutexGuard<'_, Book> {
        // Changed on a copy, and swapped in one step.
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes the book, on disk first.
    fn change(&self, change: impl FnOnce(&mut Book)) {
        let mut book = self.lock();
        let mut changed = book.clone();
        change(&mut changed);
        if changed == *book {
            return;
        }
        if let Err(error) = write(&self.path, &changed) {
            warn!(%error, "failed to write '{}'", self.path.display());
        }
        *book = changed;
    }

    /// A pull of that name is about to begin.
    pub(super) fn begin(&self, name: &str, now: u64) {
        self.change(|book| _ = book.pulls.insert(name.to_owned(), now));
    }

    /// It is over. `brought`: the image, and the names that it has from it, if that was
    /// not there before.
    pub(super) fn end(&self, name: &str, brought: Option<(&str, Vec<String>)>, now: u64) {
        self.change(|book| {
            book.pulls.remove(name);
            if let Some((id, names)) = brought {
                let record = book.images.entry(id.to_owned()).or_default();
                record.names.extend(names);
                record.used = now;
            }
        });
    }

    /// These images are in use.
    pub(super) fn touch<'a>(&self, ids: impl Iterator<Item = &'a str>, now: u64) {
        self.change(|book| {
            for id in ids {
                if let Some(record) = book.images.get_mut(id)
                    && now >= record.used + COARSE
                {
                    record.used = now;
                }
            }
        });
    }

    /// Images that are gone.
    pub(super) fn forget(&self, gone: impl Fn(&str) -> bool) {
        self.change(|book| book.images.retain(|id, _| !gone(id)));
    }
}

fn write(path: &Path, book: &Book) -> io::Result<()> {
    let bytes = serde_json::to_vec_pretty(book)?;
    let temporary = path.with_extension("new");
    if let Some(directory) = path.parent() {
        fs::create_dir_all(directory)?;
    }
    let mut file = File::create(&temporary)?;
    file.write_all(&bytes)?;
    file.sync_all()?;
    fs::rename(&temporary, path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_pulled_is_known_after_a_restart() {
        let dir = std::env::temp_dir().join(format!("records-{}", std::process::id()));
        let path = dir.join("meta/images");
        let records = Records::open(&path);
        records.begin("a:1", 10);
        assert_eq!(Records::open(&path).book().pulls["a:1"], 10);
        records.end("a:1", Some(("sha256:1", vec!["a:1".into()])), 20);
        records.begin("b:1", 20);
        records.end("b:1", None, 21);
        records.touch(["sha256:1", "sha256:2"].into_iter(), 50);
        assert_eq!(records.book().images["sha256:1"].used, 20, "a minute has not passed");
        records.touch(["sha256:1", "sha256:2"].into_iter(), 80);
        let back = Records::open(&path).book();
        assert_eq!(back, records.book());
        assert_eq!((back.pulls.len(), back.images.len()), (0, 1));
        assert_eq!(back.images["sha256:1"].used, 80);
        records.forget(|id| id == "sha256:1");
        assert_eq!(Records::open(&path).book(), Book::default());
        fs::write(&path, "{").unwrap();
        assert_eq!(Records::open(&path).book(), Book::default());
        assert!(path.with_extension("damaged").exists());
        fs::remove_dir_all(&dir).unwrap();
    }
}
