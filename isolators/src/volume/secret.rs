//! `volume/secret`: secrets as files that no disk ever holds.
//!
//! Every container with secrets has a file system in memory in its runtime
//! directory, for root only; each secret is a file in it, bound to where the
//! container wants it, and belongs to the task's user. The mount outlives the agent
//! and goes with the container. Containers that share the host's files do not see
//! the runtime directories, and so not each other's secrets.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::os::unix::fs::{OpenOptionsExt, fchown};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;
use kernel::ramdisk;
use mesos::volume::Mode;

use super::{Source, check, target, volumes};
use crate::api::{
    About, ContainerContext, Contribution, Isolation, Isolator, IsolatorError, Known, Recovered,
};
use crate::config::Config;
use crate::mounts::bind;

const NAME: &str = "volume/secret";

/// Directory of a container's secrets in its runtime directory.
const DIRECTORY: &str = "secrets";

/// Room for the secrets of one container, in bytes.
const SIZE: u64 = 64 << 20;

/// The isolator.
///
/// # Errors
/// The combination of flags cannot work.
pub fn secret(
    config: Arc<Config>,
    filesystem_linux: bool,
) -> Result<Arc<dyn Isolator>, IsolatorError> {
    check(NAME, &config, filesystem_linux)?;
    Ok(Arc::new(VolumeSecret { config }))
}

struct VolumeSecret {
    config: Arc<Config>,
}

#[async_trait]
impl Isolator for VolumeSecret {
    fn about(&self) -> About {
        About { name: NAME, nesting: true, standalone: false }
    }

    fn attach(&self, context: &Arc<ContainerContext>) -> Box<dyn Isolation> {
        let directory = context.runtime.join(DIRECTORY);
        let (config, context) = (Arc::clone(&self.config), Arc::clone(context));
        Box::new(Secrets { config, context, directory })
    }

    async fn recover(&self, known: &[Known]) -> Result<Recovered, IsolatorError> {
        Ok(Recovered::attached(self, known))
    }
}

/// One container's secrets.
#[derive(Debug)]
struct Secrets {
    config: Arc<Config>,
    context: Arc<ContainerContext>,
    /// Where they are mounted on the host.
    directory: PathBuf,
}

impl Secrets {
    /// The directory that holds the runtime directories of all containers.
    fn all_containers(&self) -> &Path {
        let runtime = self.context.runtime.as_path();
        // A nested container's is `containers/<id>` below its parent's.
        let levels = 2 * self.context.id.lineage().len() - 1;
        runtime.ancestors().nth(levels).unwrap_or(runtime)
    }

    /// Makes the file system, once.
    fn open(&self) -> Result<(), IsolatorError> {
        let shown = || self.directory.display().to_string();
        fs::create_dir(&self.directory)
            .map_err(|error| IsolatorError::new(NAME, "create", shown(), error))?;
        ramdisk::mount_on(&self.directory, SIZE)
            .map_err(|error| IsolatorError::new(NAME, "use", shown(), error))
    }

    /// Writes one secret; the file's path.
    fn write(&self, number: usize, secret: &[u8], mode: Mode) -> Result<PathBuf, IsolatorError> {
        let path = self.directory.join(number.to_string());
        let bits = if mode == Mode::Ro { 0o400 } else { 0o600 };
        let written = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(bits)
            .open(&path)
            .and_then(|mut file| {
                file.write_all(secret)?;
                self.context.ids.map_or(Ok(()), |(uid, gid)| fchown(&file, Some(uid), Some(gid)))
            });
        written.map_err(|error| {
            IsolatorError::new(NAME, "write", path.display().to_string(), error)
        })?;
        Ok(path)
    }
}

#[async_trait]
impl Isolation for Secrets {
    async fn prepare(&mut self) -> Result<Contribution, IsolatorError> {
        let mut part = Contribution::default();
        if self.context.rootfs.is_none() {
            let hidden = self.all_containers().display().to_string();
            part.masked_paths.push(hidden);
        }
        let all = volumes(&self.context).map_err(|text| IsolatorError::plain(NAME, "use", text))?;
        let mut number = 0;
        for (volume, source) in all {
            let Source::Secret(secret) = source else { continue };
            let bytes = self.config.secrets.get(secret).map_err(|error| {
                let object = format!("the secret of volume '{}'", volume.container_path);
                IsolatorError::new(NAME, "resolve", object, error)
            })?;
            if number == 0 {
                self.open()?;
            }
            let mode = volume.mode.try_into().unwrap_or(Mode::Ro);
            let file = self.write(number, &bytes, mode)?;
            let directory = &self.config.sandbox_directory;
            let target = target(NAME, &self.context, directory, volume, false)?;
            part.mounts.push(bind(&file, &target, mode == Mode::Ro));
            number += 1;
        }
        Ok(part)
    }

    async fn cleanup(&mut self) -> Result<(), IsolatorError> {
        let shown = || self.directory.display().to_string();
        // Emptied before it is unmounted: somebody may hold the mount.
        for entry in fs::read_dir(&self.directory).into_iter().flatten().flatten() {
            let _ = fs::remove_file(entry.path());
        }
        ramdisk::unmount(&self.directory)
            .map_err(|error| IsolatorError::new(NAME, "remove", shown(), error))?;
        match fs::remove_dir(&self.directory) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(IsolatorError::new(NAME, "remove", shown(), error))
            }
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use mesos::{ContainerInfo, volume};

    use super::*;
    use crate::config::Launcher;
    use crate::secret::tests::{reference, value};
    use crate::suite::context;

    fn handle(secret: Option<mesos::Secret>) -> Secrets {
        let mut context = context("a");
        context.runtime = "/run/x/containers/a".into();
        let source = volume::Source {
            r#type: Some(volume::source::Type::Secret as i32),
            secret,
            ..volume::Source::default()
        };
        let volumes = vec![crate::volume::tests::volume("token", source)];
        context.info = Some(ContainerInfo { volumes, ..ContainerInfo::default() });
        let directory = context.runtime.join(DIRECTORY);
        let config = Arc::new(Config::default());
        Secrets { config, context: Arc::new(context), directory }
    }

    #[tokio::test]
    async fn what_cannot_be_resolved_is_named_and_never_shown() {
        for (secret, words) in [
            (None, "is of type SECRET without 'secret'"),
            (
                Some(reference("vault", None)),
                "volume 'token': the secret is a reference to 'vault'",
            ),
            (Some(mesos::Secret { r#type: None, ..value(b"hush") }), "of unknown type"),
        ] {
            let mut handle = handle(secret);
            let error = handle.prepare().await.unwrap_err().chain();
            let error = error.replace("failed to resolve the secret of ", "");
            assert!(error.contains(words) && !error.contains("hush"), "{error}");
            handle.cleanup().await.unwrap();
        }
    }

    #[test]
    fn the_runtime_directories_of_all_containers_are_hidden() {
        let mut nested = context("b");
        nested.id.parent = Some(Box::new(context("a").id));
        nested.runtime = "/run/x/containers/a/containers/b".into();
        let top = handle(None);
        assert_eq!(top.all_containers(), Path::new("/run/x/containers"));
        let nested = Secrets { context: Arc::new(nested), ..top };
        assert_eq!(nested.all_containers(), Path::new("/run/x/containers"));
    }

    #[test]
    fn it_needs_mount_namespaces() {
        let config = |launcher| Arc::new(Config { launcher, ..Config::default() });
        for made in [secret(config(Launcher::Posix), true), secret(config(Launcher::Linux), false)]
        {
            assert!(made.err().unwrap().to_string().contains("'filesystem/linux'"));
        }
    }
}
