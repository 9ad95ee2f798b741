//! `volume/sandbox_path`: a path in the container's own sandbox, or in its
//! parent's, seen elsewhere. A bind mount with the linux launcher and
//! `filesystem/linux`, else a symbolic link in the sandbox.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use kernel::beneath::{self, BeneathError};
use mesos::Volume;
use mesos::volume::Mode;

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
}

/// The isolator. `bind`: containers have a mount namespace of their own.
#[must_use]
pub fn sandbox_path(config: Arc<Config>, bind: bool) -> Arc<dyn Isolator> {
    Preparing::everywhere(NAME, Settings { config, bind }, prepare)
}

fn prepare(settings: &Settings, context: &ContainerContext) -> Result<Contribution, IsolatorError> {
    let mut part = Contribution::default();
    let all = volumes(context).map_err(|text| IsolatorError::plain(NAME, "use", text))?;
    for (volume, source) in all {
        let Source::Sandbox { path, parent } = source else { continue };
        let (source, is_dir) = source_path(context, volume, path, parent)?;
        if settings.bind {
            let directory = &settings.config.sandbox_directory;
            let target = target(NAME, context, directory, volume, is_dir)?;
            part.mounts.push(bind(&source, &target, volume.mode == Mode::Ro as i32));
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

/// The source on the host, made if it is missing, and whether it is a directory.
fn source_path(
    context: &ContainerContext,
    volume: &Volume,
    path: &Path,
    parent: bool,
) -> Result<(PathBuf, bool), IsolatorError> {
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
    let source = root.join(path);
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
    Ok((source, is_dir))
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
    use kernel::cgroup::Hierarchies;
    use mesos::ContainerInfo;
    use mesos::volume::source::sandbox_path::Type;

    use super::*;
    use crate::api::Parent;
    use crate::config::Launcher;
    use crate::suite::context;
    use crate::volume::tests::{sandbox, volume};

    struct Fixture {
        dir: PathBuf,
        context: ContainerContext,
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
            Fixture { dir, context }
        }

        fn prepare(
            &mut self,
            bind: bool,
            volumes: Vec<Volume>,
        ) -> Result<Contribution, IsolatorError> {
            self.context.info = Some(ContainerInfo { volumes, ..ContainerInfo::default() });
            let config = Arc::new(Config::new(Launcher::Linux, Hierarchies::default()));
            prepare(&Settings { config, bind }, &self.context)
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
