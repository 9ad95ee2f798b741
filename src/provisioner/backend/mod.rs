//! How a root file system is made of the layers of an image.
//!
//! | backend | root | written to | mounted |
//! |---|---|---|---|
//! | `overlay` | the layers, and a directory above them | that directory | where it is used |
//! | `copy` | a copy of all layers | the copy | nowhere |
//! | `bind` | the only layer | never | by the agent, read-only |
//!
//! A container mounts its own overlay in its own mount namespace, so that there is
//! nothing to unmount at its end; that of a volume is mounted by the agent. Everything
//! here blocks, and nothing is recorded: `roots` does that first.

mod bind;
mod copy;
mod overlay;

use std::fmt;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::atomic::AtomicBool;

use isolators::plan::Overlay;
use kernel::root::Fixture;
use thiserror::Error;

/// Why there is no root file system.
#[derive(Debug, Error)]
pub enum BackendError {
    /// `--image_provisioner_backend` names something else.
    #[error("'{given}' is no backend; expected overlay, copy or bind{hint}")]
    Unknown {
        /// As given.
        given: String,
        /// Of Mesos' backends that are not there.
        hint: &'static str,
    },
    /// The backend that was asked for cannot work here.
    #[error("backend '{backend}' cannot be used with images below '{}'", store.display())]
    Unsupported {
        /// Its name.
        backend: Backend,
        /// `--docker_store_dir`.
        store: PathBuf,
        /// The kernel's words.
        source: kernel::Error,
    },
    /// An image of more layers than the backend takes.
    #[error("backend 'bind' takes images of one layer, this one has {0}")]
    Layers(usize),
    /// A file or directory could not be made.
    #[error("failed to {verb} '{}'", path.display())]
    File {
        /// `create`, `copy`, ...
        verb: &'static str,
        /// What.
        path: PathBuf,
        /// The system's words.
        source: io::Error,
    },
    /// Something of it stays.
    #[error(transparent)]
    Remove(kernel::remove::RemoveError),
    /// The kernel does not mount it, or it could not be copied.
    #[error(transparent)]
    Mount(#[from] kernel::Error),
}

pub(super) fn failed(verb: &'static str, path: &Path) -> impl FnOnce(io::Error) -> BackendError {
    let path = path.to_path_buf();
    move |source| BackendError::File { verb, path, source }
}

/// One of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
#[allow(missing_docs)]
pub enum Backend {
    Overlay,
    Copy,
    Bind,
}

impl Backend {
    /// As in `--image_provisioner_backend` and in paths.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Backend::Overlay => "overlay",
            Backend::Copy => "copy",
            Backend::Bind => "bind",
        }
    }

    /// What `--image_provisioner_backend` asks for, or without it the first of overlay
    /// and copy that works: overlay does where the file system of `store` can be a layer
    /// and that of `scratch` can be written to. Mounts something in `scratch` to find
    /// out; `scratch` is made.
    ///
    /// # Errors
    /// The name is unknown, or this backend does not work here.
    pub fn choose(
        given: Option<&str>,
        store: &Path,
        scratch: &Path,
    ) -> Result<Backend, BackendError> {
        let wanted = given.filter(|name| !name.is_empty()).map(Backend::from_str).transpose()?;
        std::fs::create_dir_all(scratch).map_err(failed("create", scratch))?;
        match (wanted, wanted.unwrap_or(Backend::Overlay)) {
            (_, Backend::Overlay) => match overlay::probe(store, scratch) {
                Ok(()) => Ok(Backend::Overlay),
                Err(BackendError::Mount(error)) if wanted.is_none() => {
                    let error = kernel::chain(&error);
                    tracing::warn!(%error, "images are copied: overlay does not work here");
                    Ok(Backend::Copy)
                }
                Err(BackendError::Mount(source)) => {
                    let store = store.to_path_buf();
                    Err(BackendError::Unsupported { backend: Backend::Overlay, store, source })
                }
                Err(other) => Err(other),
            },
            (_, other) => Ok(other),
        }
    }

    /// Makes the root `place` of `layers`, bottom first. What was begun is left for
    /// [`Place::clear`] after an error.
    ///
    /// # Errors
    /// See [`BackendError`].
    pub fn make(
        self,
        place: &Place,
        layers: &[PathBuf],
        cancelled: &AtomicBool,
    ) -> Result<Made, BackendError> {
        match self {
            Backend::Overlay => overlay::make(place, layers),
            Backend::Copy => copy::make(place, layers, cancelled),
            Backend::Bind => bind::make(place, layers),
        }
    }
}

impl Backend {
    /// What [`Backend::make`] made some time ago.
    #[must_use]
    pub fn made(self, place: &Place, layers: &[PathBuf]) -> Made {
        match self {
            Backend::Overlay => overlay::made(place, layers),
            Backend::Copy => copy::made(place),
            Backend::Bind => Made::default(),
        }
    }
}

impl fmt::Display for Backend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Backend {
    type Err = BackendError;

    fn from_str(given: &str) -> Result<Backend, BackendError> {
        match given {
            "overlay" => Ok(Backend::Overlay),
            "copy" => Ok(Backend::Copy),
            "bind" => Ok(Backend::Bind),
            other => {
                let hint = if other == "aufs" { ": no kernel has aufs" } else { "" };
                Err(BackendError::Unknown { given: other.to_owned(), hint })
            }
        }
    }
}

/// Where one root is: below the directory of its container. That of a container's own
/// overlay has as few directories as can be; the others are where Mesos has them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// `<container>/rootfs`, or `<container>/backends/<backend>/rootfses/<name>`
    pub root: PathBuf,
    /// `<container>`, or `<container>/backends/<backend>/scratch/<name>`
    pub scratch: PathBuf,
    /// It is for a volume: the agent mounts it.
    pub shared: bool,
}

impl Place {
    /// The place of the root `name` of the container with this directory.
    #[must_use]
    pub fn new(container: &Path, backend: Backend, name: &str, shared: bool) -> Place {
        if backend == Backend::Overlay && !shared {
            let (root, scratch) = (container.join("rootfs"), container.to_owned());
            return Place { root, scratch, shared };
        }
        let own = container.join("backends").join(backend.name());
        let (root, scratch) = (own.join("rootfses").join(name), own.join("scratch").join(name));
        Place { root, scratch, shared }
    }

    /// Unmounts what is mounted there.
    ///
    /// # Errors
    /// The kernel's.
    pub fn clear(&self) -> Result<(), kernel::Error> {
        kernel::mounts::detach(&self.root)
    }
}

/// Mounts the overlay of a root as the root of a mount namespace, with fixtures in it and
/// paths that are looked up. Once it was mounted, it cannot be again.
///
/// # Errors
/// The kernel's.
pub fn furnish(
    place: &Place,
    overlay: &Overlay,
    inside: (&[Fixture], &[PathBuf]),
) -> Result<OwnedFd, BackendError> {
    overlay::furnish(place, overlay, inside)
}

/// A root that can be used.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Made {
    /// To be mounted on the root by whoever uses it.
    pub overlay: Option<Overlay>,
    /// Directories that are written to.
    pub ephemeral: Vec<PathBuf>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        for backend in [Backend::Overlay, Backend::Copy, Backend::Bind] {
            assert_eq!(backend.name().parse::<Backend>().expect("a name"), backend);
        }
        let error = "aufs".parse::<Backend>().expect_err("gone").to_string();
        assert_eq!(
            error,
            "'aufs' is no backend; expected overlay, copy or bind: no kernel has aufs"
        );
        assert!("zfs".parse::<Backend>().is_err());
    }

    #[test]
    fn places_are_those_of_mesos_but_for_what_every_launch_makes() {
        let place = Place::new(Path::new("/c"), Backend::Overlay, "n", true);
        assert_eq!(place.root, Path::new("/c/backends/overlay/rootfses/n"));
        assert_eq!(place.scratch, Path::new("/c/backends/overlay/scratch/n"));
        let place = Place::new(Path::new("/c"), Backend::Copy, "n", false);
        assert_eq!(place.root, Path::new("/c/backends/copy/rootfses/n"));
        let place = Place::new(Path::new("/c"), Backend::Overlay, "n", false);
        assert_eq!(
            (place.root.as_path(), place.scratch.as_path()),
            (Path::new("/c/rootfs"), Path::new("/c"))
        );
    }
}
