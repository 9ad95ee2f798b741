//! What is kept on the disk of the roots of a container: one file, written before
//! anything is made, so that no root is ever unknown.
//!
//! ```text
//! <work_dir>/provisioner/containers/<id>/
//!     roots.json                              this file (ours; Mesos has `layers`)
//!     rootfs, upperdir, workdir               its own root, if it is an overlay
//!     backends/<backend>/rootfses/<name>      other roots, as in Mesos
//!     backends/overlay/scratch/<name>/{upperdir,workdir}
//!     containers/<child>/...                  of nested containers
//! <work_dir>/provisioner/{ready,gone}/<name>/ as that, of no container yet or any more
//! ```

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

use kernel::failpoint;
use mesos::ContainerId;
use serde::{Deserialize, Serialize};

use super::backend::{Backend, BackendError, Made, Place, failed};
use super::reference::Digest;

const FILE: &str = "roots.json";
const CHILDREN: &str = "containers";

/// One root of a container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RootRecord {
    /// Unique in the container.
    pub name: String,
    /// How it was made.
    pub backend: Backend,
    /// For a volume; otherwise it is the container's own.
    pub shared: bool,
    /// The image, for people.
    pub image: String,
    /// Who the image is.
    pub id: Digest,
    /// Its layers, bottom first.
    pub layers: Vec<PathBuf>,
    /// The layer above them, which has what containers mount on and the image has not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub points: Option<PathBuf>,
}

impl RootRecord {
    /// Whether both make the same root, but for its name.
    #[must_use]
    pub fn is_like(&self, other: &RootRecord) -> bool {
        *self == RootRecord { name: self.name.clone(), ..other.clone() }
    }

    /// Adds what is above the image's layers.
    #[must_use]
    pub fn complete(&self, mut made: Made) -> Made {
        if let Some(overlay) = &mut made.overlay {
            overlay.lower.splice(0..0, self.points.clone());
        }
        made
    }
}

/// All roots of a container.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// In the order in which they were made.
    pub roots: Vec<RootRecord>,
}

/// The directory of one container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ContainerRoots {
    path: PathBuf,
}

impl ContainerRoots {
    /// Of a container, where `containers` is the directory of all.
    #[must_use]
    pub fn new(containers: &Path, id: &ContainerId) -> ContainerRoots {
        let path = match &id.parent {
            Some(parent) => {
                ContainerRoots::new(containers, parent).path.join(CHILDREN).join(&id.value)
            }
            None => containers.join(&id.value),
        };
        ContainerRoots { path }
    }

    /// Those of no container yet.
    #[must_use]
    pub fn at(path: PathBuf) -> ContainerRoots {
        ContainerRoots { path }
    }

    /// Gives them to a container that has none.
    ///
    /// # Errors
    /// It has some, or the system's.
    pub fn become_those_of(&self, container: &ContainerRoots) -> io::Result<()> {
        match fs::rename(&self.path, &container.path) {
            // A nested container is the first below its parent that has an image.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                fs::create_dir_all(container.path.parent().unwrap_or(&container.path))?;
                fs::rename(&self.path, &container.path)
            }
            other => other,
        }
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Where a root is.
    #[must_use]
    pub fn place(&self, root: &RootRecord) -> Place {
        Place::new(&self.path, root.backend, &root.name, root.shared)
    }

    /// What was recorded; nothing if the file is not there or not readable: then what is
    /// in the directory is nobody's.
    #[must_use]
    pub fn read(&self) -> Record {
        let path = self.path.join(FILE);
        let bytes = match fs::read(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Record::default(),
            Err(error) => {
                tracing::warn!(%error, "failed to read '{}'", path.display());
                return Record::default();
            }
        };
        serde_json::from_slice(&bytes).unwrap_or_else(|error| {
            tracing::warn!(%error, "failed to understand '{}'", path.display());
            Record::default()
        })
    }

    /// Replaces what is recorded; the directory is made.
    ///
    /// # Errors
    /// The system's.
    pub fn write(&self, record: &Record) -> Result<(), BackendError> {
        fs::create_dir_all(&self.path).map_err(failed("create", &self.path))?;
        let (path, temporary) = (self.path.join(FILE), self.path.join(format!(".{FILE}")));
        let bytes = serde_json::to_vec(record).expect("a record is plain data");
        fs::write(&temporary, bytes).map_err(failed("write", &temporary))?;
        fs::rename(&temporary, &path).map_err(failed("write", &path))
    }

    /// Unmounts everything, also of nested containers; twice is fine.
    ///
    /// # Errors
    /// The kernel's.
    pub fn clear(&self) -> Result<(), BackendError> {
        for root in self.read().roots {
            self.place(&root).clear()?;
            failpoint!("provision.unmounted");
        }
        let below = children(&self.path.join(CHILDREN)).into_iter();
        below.map(ContainerRoots::at).try_for_each(|child| child.clear())
    }

    /// Unmounts and removes everything, also of nested containers; twice is fine.
    ///
    /// # Errors
    /// What is left.
    pub fn remove(&self) -> Result<(), BackendError> {
        self.clear()?;
        let removed = kernel::remove::tree(&self.path, &mut |_| true);
        removed.map(|_| ()).map_err(BackendError::Remove)
    }
}

/// Records a root, then makes it.
///
/// # Errors
/// What was begun is left for [`ContainerRoots::remove`].
pub fn build(
    roots: &ContainerRoots,
    root: &RootRecord,
    cancelled: &AtomicBool,
) -> Result<Made, BackendError> {
    let mut record = roots.read();
    record.roots.push(root.clone());
    roots.write(&record)?;
    failpoint!("provision.recorded");
    let made = root.backend.make(&roots.place(root), &root.layers, cancelled)?;
    failpoint!("provision.made");
    Ok(root.complete(made))
}

/// Every container that has a directory, parents before children.
#[must_use]
pub fn scan(containers: &Path) -> Vec<ContainerId> {
    let mut found = Vec::new();
    below(containers, None, &mut found);
    found
}

fn below(dir: &Path, parent: Option<&ContainerId>, found: &mut Vec<ContainerId>) {
    for path in children(dir) {
        let Some(value) = path.file_name().and_then(|name| name.to_str()) else { continue };
        let parent = parent.cloned().map(Box::new);
        let id = ContainerId { value: value.to_owned(), parent };
        found.push(id.clone());
        below(&path.join(CHILDREN), Some(&id), found);
    }
}

fn children(dir: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    let dirs = entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
    dirs.map(|entry| entry.path()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_recorded_is_found_again_and_removed() {
        let dir = std::env::temp_dir().join(format!("roots-{}", std::process::id()));
        let parent = ContainerId { value: "a".into(), parent: None };
        let child = ContainerId { value: "b".into(), parent: Some(Box::new(parent.clone())) };
        let root = RootRecord {
            name: "n".into(),
            backend: Backend::Copy,
            shared: false,
            image: "busybox".into(),
            id: Digest::of(b"x"),
            layers: vec!["/l".into()],
            points: None,
        };
        let record = Record { roots: vec![root] };
        let roots = ContainerRoots::new(&dir, &child);
        assert!(roots.path().ends_with("a/containers/b"));
        assert_eq!(roots.read(), Record::default());
        roots.write(&record).unwrap();
        assert_eq!(roots.read(), record);
        fs::write(roots.path().join(FILE), "{").unwrap();
        assert_eq!(roots.read(), Record::default());
        assert_eq!(scan(&dir), [parent.clone(), child]);
        ContainerRoots::new(&dir, &parent).remove().unwrap();
        ContainerRoots::new(&dir, &parent).remove().unwrap();
        assert_eq!(scan(&dir), []);
        fs::remove_dir_all(&dir).unwrap();
    }
}
