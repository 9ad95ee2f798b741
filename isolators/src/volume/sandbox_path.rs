//! `volume/sandbox_path`: a path in the container's own sandbox, or in its
//! parent's, seen elsewhere. A bind mount with the linux launcher and
//! `filesystem/linux`, else a symbolic link in the sandbox. A path in a persistent
//! volume of the parent leads to the volume itself.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use kernel::beneath::{self, BeneathError};
use mesos::Volume;
use mesos::volume::Mode;

use super::persistent::Book;
use super::{Source, is_tame, target, volumes};
use crate::api::{ContainerContext, Contribution, Isolator, IsolatorError};
use crate::config::Config;
use crate::mounts::bind;
use crate::simple::Preparing;

const NAME: &str = "volume/sandbox_path";

#[derive(Debug, Clone)]
struct Settings {
    config: Arc<Config>,
    /// Containers have mount namespaces: bind, do not link.
    bind: bool,
    /// Which container has which persistent volumes.
    book: Book,
}

/// The isolator. `bind`: containers have a mount namespace of their own.
#[must_use]
pub(crate) fn sandbox_path(config: Arc<Config>, bind: bool, book: Book) -> Arc<dyn Isolator> {
    Preparing::everywhere(NAME, Settings { config, bind, book }, prepare)
}

fn prepare(settings: &Settings, context: &ContainerContext) -> Result<Contribution, IsolatorError> {
    let mut part = Contribution::default();
    let all = volumes(context).map_err(|text| IsolatorError::plain(NAME, "use", text))?;
    for (volume, source) in all {
        let Source::Sandbox { path, parent } = source else { continue };
        let Found { source, is_dir, read_only, wild } =
            source_path(&settings.book, context, volume, path, parent)?;
        part.wild.extend(wild);
        let read_only = read_only || volume.mode == Mode::Ro as i32;
        if settings.bind {
            let directory = &settings.config.sandbox_directory;
            let target = target(NAME, context, directory, volume, is_dir)?;
            part.mounts.push(bind(&source, &target, read_only));
        } else {
            link(context, volume, &source)?;
        }
    }
    Ok(part)
}

fn refused(volume: &Volume, why: &str) -> IsolatorError {
    IsolatorError::plain(NAME, "use", format!("volume '{}': {why}", volume.container_path))
}

fn refuse<T>(volume: &Volume, why: &str) -> Result<T, IsolatorError> {
    Err(refused(volume, why))
}

/// A source on the host.
struct Found {
    source: PathBuf,
    is_dir: bool,
    read_only: bool,
    /// The persistent volume that it is in.
    wild: Option<PathBuf>,
}

/// The source, made if it is missing.
fn source_path(
    book: &Book,
    context: &ContainerContext,
    volume: &Volume,
    path: &Path,
    parent: bool,
) -> Result<Found, IsolatorError> {
    if !is_tame(path) {
        return refuse(volume, "'..' is not allowed in its sandbox path");
    }
    let root = match (&context.parent, parent) {
        (None, true) => {
            return refuse(
                volume,
                "SANDBOX_PATH volume PARENT type only works for nested containers",
            );
        }
        (Some(of), true) => &of.sandbox,
        (_, false) if Path::new(&volume.container_path).is_relative() => {
            return refuse(
                volume,
                "'container_path' is relative for SANDBOX_PATH volume SELF type",
            );
        }
        (_, false) => &context.sandbox,
    };
    let persistent = book.find(root, path);
    let (root, path, read_only) = match &persistent {
        Some((root, path, read_only)) => (root, path.as_path(), *read_only),
        None => (root, path, false),
    };
    // `join` would put a slash behind it.
    let source = if path.as_os_str().is_empty() { root.clone() } else { root.join(path) };
    let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
    // A link planted in the sandbox must not lead out of it.
    let failed = |error: BeneathError| match error {
        BeneathError::Escapes { .. } => {
            refused(volume, "its sandbox path leads out of the sandbox")
        }
        error => IsolatorError::new(NAME, "create", source.display().to_string(), error),
    };
    let found = match beneath::find(root, path) {
        Err(BeneathError::NotFound { .. }) => {
            let owner = fs::metadata(root).map_err(|error| {
                IsolatorError::new(NAME, "find", root.display().to_string(), error)
            })?;
            beneath::make_directory(root, path, Some((owner.uid(), owner.gid())))
                .map_err(failed)?;
            beneath::find(root, path)
        }
        found => found,
    };
    let is_dir = found.map_err(failed)?.is_dir();
    let wild = persistent.as_ref().map(|(root, ..)| root.clone());
    Ok(Found { source, is_dir, read_only, wild })
}

fn link(context: &ContainerContext, volume: &Volume, source: &Path) -> Result<(), IsolatorError> {
    let path = Path::new(&volume.container_path);
    if path.is_absolute() {
        return refuse(
            volume,
            "The 'linux' launcher and 'filesystem/linux' isolator must be enabled to support \
             SANDBOX_PATH volume with absolute container path",
        );
    }
    if !is_tame(path) {
        return refuse(volume, "'..' is not allowed in its container path");
    }
    beneath::make_link(&context.sandbox, path, source).map_err(|error| {
        let place = context.sandbox.join(path);
        IsolatorError::new(NAME, "link", place.display().to_string(), error)
    })
}

#[cfg(test)]
mod tests {
    use mesos::ContainerInfo;
    use mesos::volume::source::sandbox_path::Type;

    use super::*;
    use crate::api::Parent;
    use crate::suite::context;
    use crate::volume::tests::{sandbox, volume};

    struct Fixture {
        dir: PathBuf,
        context: ContainerContext,
        book: Book,
    }

    impl Fixture {
        fn new(name: &str) -> Fixture {
            let dir = std::env::temp_dir().join(format!("sandbox-{name}-{}", std::process::id()));
            fs::create_dir_all(dir.join("parent")).unwrap();
            fs::create_dir_all(dir.join("own")).unwrap();
            let mut context = context("a");
            context.sandbox = dir.join("own");
            context.parent = Some(Parent {
                pid: 1,
                sandbox: dir.join("parent"),
                runtime: "/r".into(),
                host_pid_namespace: false,
            });
            Fixture { dir, context, book: Book::default() }
        }

        fn prepare(
            &mut self,
            bind: bool,
            volumes: Vec<Volume>,
        ) -> Result<Contribution, IsolatorError> {
            self.context.info = Some(ContainerInfo { volumes, ..ContainerInfo::default() });
            let config = Arc::new(Config::default());
            let book = self.book.clone();
            prepare(&Settings { config, bind, book }, &self.context)
        }
    }

    impl Drop for Fixture {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.dir);
        }
    }

    #[test]
    fn parent_bound_and_linked() {
        let mut f = Fixture::new("parent");
        let shared = || vec![volume("seen", sandbox("data", Type::Parent))];
        let part = f.prepare(true, shared()).unwrap();
        let (from, to) = (f.dir.join("parent/data"), f.dir.join("own/seen"));
        assert_eq!(part.mounts, [bind(&from, &to, false)]);
        assert!(from.is_dir() && to.is_dir());
        fs::remove_dir(&to).unwrap();
        assert_eq!(f.prepare(false, shared()).unwrap(), Contribution::default());
        assert_eq!(fs::read_link(&to).unwrap(), from);
    }

    #[test]
    fn a_path_in_a_persistent_volume_of_the_parent_leads_to_the_volume() {
        let mut f = Fixture::new("persistent");
        let volumes = f.dir.join("volumes/a");
        fs::create_dir_all(&volumes).unwrap();
        let config = super::super::persistent::tests::config(&f.dir);
        let one = crate::disk::tests::volume("a", "data", 8.0, None);
        let all = super::super::persistent::of(&config, &[one]).unwrap();
        f.book.note(&f.dir.join("parent"), all);
        for (path, source) in [("data", volumes.clone()), ("data/sub", volumes.join("sub"))] {
            let part = f.prepare(true, vec![volume("seen", sandbox(path, Type::Parent))]).unwrap();
            assert_eq!(part.mounts, [bind(&source, &f.dir.join("own/seen"), false)]);
            assert_eq!(part.wild, std::slice::from_ref(&volumes));
        }
        assert!(volumes.join("sub").is_dir() && !f.dir.join("parent/data").exists());
    }

    #[test]
    fn what_is_refused() {
        let mut f = Fixture::new("refused");
        std::os::unix::fs::symlink("/etc", f.dir.join("parent/evil")).unwrap();
        let rows = [
            volume("seen", sandbox("evil", Type::Parent)),
            volume("seen", sandbox("../x", Type::Parent)),
            volume("relative", sandbox("x", Type::Self_)),
        ];
        for row in rows {
            assert!(f.prepare(true, vec![row.clone()]).is_err(), "{row:?}");
        }
        assert!(f.prepare(false, vec![volume("/abs", sandbox("x", Type::Parent))]).is_err());
        f.context.parent = None;
        assert!(f.prepare(true, vec![volume("seen", sandbox("x", Type::Parent))]).is_err());
    }
}
