//! Persistent volumes: directories of the agent that outlive containers and are part
//! of their resources.
//!
//! `filesystem/*` shows them in the sandbox ([`crate::filesystem`]). This module says
//! which ones a container has, keeps the [`Book`] of who has which, and hands them to
//! their users. The book is shared with `volume/sandbox_path`: a nested container sees
//! a volume of its parent where that has it, though nothing is mounted there on the
//! host.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{MetadataExt, lchown};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use mesos::Resource;
use mesos::volume::Mode;

use super::is_tame;
use crate::disk;

/// A volume in a container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Persistent {
    /// Below the sandbox.
    pub(crate) path: PathBuf,
    /// On the host.
    pub(crate) source: PathBuf,
    /// The container may not write to it.
    pub(crate) read_only: bool,
    /// Several containers may have it at the same time.
    shared: bool,
}

/// The persistent volumes among `requests`, each place once.
pub(crate) fn of(config: &disk::Config, requests: &[Resource]) -> Result<Vec<Persistent>, String> {
    let mut all: Vec<Persistent> = Vec::new();
    for resource in requests {
        let Some(disk) = resource.disk.as_ref() else { continue };
        let (Some(persistence), volume) = (&disk.persistence, &disk.volume) else { continue };
        let named = |why: &str| Err(format!("persistent volume '{}': {why}", persistence.id));
        let Some(volume) = volume else { return named("it has no 'volume'") };
        let path = Path::new(&volume.container_path);
        if path.is_absolute() || !is_tame(path) || path.file_name().is_none() {
            let place = path.display();
            return named(&format!("'{place}' is not a path below the sandbox"));
        }
        let Some(source) = (config.volume)(&config.work_dir, resource) else {
            return named("it has no directory on this agent");
        };
        let one = Persistent {
            path: path.to_owned(),
            source,
            read_only: volume.mode() == Mode::Ro,
            shared: resource.shared.is_some(),
        };
        match all.iter().find(|known| known.path == one.path) {
            Some(known) if known.source == one.source => {}
            Some(_) => return named("another one has the same container path"),
            None => all.push(one),
        }
    }
    Ok(all)
}

/// Which container has which volumes, by the container's sandbox on the host.
#[derive(Debug, Clone, Default)]
pub(crate) struct Book(Arc<Mutex<BTreeMap<PathBuf, Vec<Persistent>>>>);

impl Book {
    fn open(&self) -> MutexGuard<'_, BTreeMap<PathBuf, Vec<Persistent>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is noted of a container.
    pub(crate) fn of(&self, sandbox: &Path) -> Vec<Persistent> {
        self.open().get(sandbox).cloned().unwrap_or_default()
    }

    /// Notes what a container has from now on.
    pub(crate) fn note(&self, sandbox: &Path, volumes: Vec<Persistent>) {
        match volumes.is_empty() {
            true => self.open().remove(sandbox),
            false => self.open().insert(sandbox.to_owned(), volumes),
        };
    }

    /// The host path of `path` in the sandbox of a container, if it is in one of its
    /// volumes, and whether that is read-only.
    pub(crate) fn find(&self, sandbox: &Path, path: &Path) -> Option<(PathBuf, PathBuf, bool)> {
        self.open().get(sandbox)?.iter().find_map(|volume| {
            let rest = path.strip_prefix(&volume.path).ok()?;
            Some((volume.source.clone(), rest.to_owned(), volume.read_only))
        })
    }

    /// Whether another container has the volume.
    fn is_used(&self, volume: &Persistent, sandbox: &Path) -> bool {
        let has = |all: &Vec<Persistent>| all.iter().any(|one| one.source == volume.source);
        self.open().iter().any(|(other, all)| other != sandbox && has(all))
    }

    /// Gives a volume to the owner of the sandbox, as Mesos does: its root only, not
    /// to root, and not while others have it.
    pub(crate) fn give(&self, volume: &Persistent, sandbox: &Path) -> std::io::Result<()> {
        let owner = fs::metadata(sandbox)?;
        if !fs::metadata(&volume.source)?.is_dir() {
            return Err(std::io::ErrorKind::NotADirectory.into());
        }
        if owner.uid() == 0 || (volume.shared && self.is_used(volume, sandbox)) {
            return Ok(());
        }
        lchown(&volume.source, Some(owner.uid()), Some(owner.gid()))
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::disk::tests::volume;

    pub(crate) fn config(work_dir: &Path) -> disk::Config {
        let volume = |work_dir: &Path, resource: &Resource| {
            let id = &resource.disk.as_ref()?.persistence.as_ref()?.id;
            Some(work_dir.join("volumes").join(id))
        };
        disk::Config { work_dir: work_dir.to_owned(), volume, ..disk::Config::default() }
    }

    #[test]
    fn volumes_are_found_and_odd_ones_named() {
        let config = config(Path::new("/w"));
        let (a, b) = (volume("a", "data", 8.0, None), volume("b", "deep/er", 8.0, None));
        let all = of(&config, &[a.clone(), a.clone(), b]).unwrap();
        let seen: Vec<_> = all.iter().map(|v| (v.path.to_str(), v.source.to_str())).collect();
        assert_eq!(
            seen,
            [(Some("data"), Some("/w/volumes/a")), (Some("deep/er"), Some("/w/volumes/b"))]
        );
        for (volume, part) in [
            (volume("c", "/abs", 8.0, None), "'/abs' is not a path below the sandbox"),
            (volume("c", "../up", 8.0, None), "'../up' is not"),
            (volume("c", "", 8.0, None), "'' is not"),
            (volume("c", "data", 8.0, None), "another one has the same container path"),
        ] {
            let error = of(&config, &[a.clone(), volume]).unwrap_err();
            assert!(error.starts_with("persistent volume 'c'") && error.contains(part), "{error}");
        }
    }

    #[test]
    fn the_book_knows_what_is_where() {
        let book = Book::default();
        let all = of(&config(Path::new("/w")), &[volume("a", "data", 8.0, None)]).unwrap();
        let (one, other) = (Path::new("/s/1"), Path::new("/s/2"));
        book.note(one, all.clone());
        let found = book.find(one, Path::new("data/x/y"));
        assert_eq!(found, Some(("/w/volumes/a".into(), "x/y".into(), false)));
        assert_eq!(book.find(one, Path::new("database")), None);
        assert!(book.is_used(&all[0], other) && !book.is_used(&all[0], one));
        book.note(one, Vec::new());
        assert!(!book.is_used(&all[0], other) && book.of(one).is_empty());
    }
}
