//! `volume/*`: what `ContainerInfo.volumes` asks for.
//!
//! This module tells the kinds of volumes apart and finds where they are to be
//! seen; the modules below provide them.

mod host_path;
mod image;
pub(crate) mod persistent;
mod sandbox_path;
mod secret;

use std::path::{Component, Path, PathBuf};

use kernel::beneath;
use mesos::volume::source::Type;
use mesos::volume::source::sandbox_path::Type as SandboxType;
use mesos::{Volume, volume};

pub use self::host_path::host_path;
pub use self::image::image;
pub(crate) use self::sandbox_path::sandbox_path;
pub use self::secret::secret;
use crate::api::{ContainerContext, IsolatorError};
use crate::config::{Config, Launcher};

/// What is mounted into a container needs a mount namespace and its isolator.
fn check(name: &'static str, config: &Config, filesystem_linux: bool) -> Result<(), IsolatorError> {
    if config.launcher != Launcher::Linux || !filesystem_linux {
        let object = "without --launcher=linux and 'filesystem/linux' in --isolation";
        return Err(IsolatorError::plain(name, "start", object));
    }
    Ok(())
}

/// Where a volume's content comes from.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Source<'a> {
    /// A path of the host.
    Host {
        path: &'a Path,
        /// Mounts made inside are to be seen on the host.
        bidirectional: bool,
    },
    /// A path below the container's own sandbox, or below its parent's.
    Sandbox { path: &'a Path, parent: bool },
    /// A secret, as a file.
    Secret(&'a mesos::Secret),
    /// The root file system of an image.
    Image(&'a mesos::Image),
    /// A kind that no isolator of this version provides: its name.
    Later(&'static str),
}

impl Source<'_> {
    /// The isolator that provides it.
    pub(crate) fn isolator(&self) -> &'static str {
        match self {
            Source::Host { .. } => "volume/host_path",
            Source::Sandbox { .. } => "volume/sandbox_path",
            Source::Secret(_) => "volume/secret",
            Source::Image(_) => "volume/image",
            Source::Later(name) => name,
        }
    }
}

/// What a volume asks for.
pub(crate) fn source(volume: &Volume) -> Result<Source<'_>, String> {
    let invalid = |what: &str| Err(format!("volume '{}': {what}", volume.container_path));
    if volume.container_path.is_empty() {
        return invalid("has no 'container_path'");
    }
    if let Some(image) = &volume.image {
        return match (&volume.source, &volume.host_path) {
            (None, None) => Ok(Source::Image(image)),
            _ => invalid("has both 'image' and another source"),
        };
    }
    match (&volume.source, &volume.host_path) {
        (Some(_), Some(_)) => invalid("has both 'source' and 'host_path'"),
        (None, None) => invalid("has neither 'source' nor 'host_path'"),
        // The old spelling: relative means the container's own sandbox.
        (None, Some(path)) => {
            let path = Path::new(path);
            Ok(if path.is_absolute() {
                Source::Host { path, bidirectional: false }
            } else {
                Source::Sandbox { path, parent: false }
            })
        }
        (Some(source), None) => from_source(source).or_else(invalid),
    }
}

fn from_source(source: &volume::Source) -> Result<Source<'_>, &'static str> {
    match source.r#type.and_then(|t| Type::try_from(t).ok()).unwrap_or(Type::Unknown) {
        Type::Unknown => Err("has a source of unknown type"),
        Type::DockerVolume => Ok(Source::Later("docker/volume")),
        Type::Secret => {
            let secret = source.secret.as_ref().ok_or("is of type SECRET without 'secret'")?;
            Ok(Source::Secret(secret))
        }
        Type::CsiVolume => Ok(Source::Later("volume/csi")),
        Type::HostPath => {
            let host =
                source.host_path.as_ref().ok_or("is of type HOST_PATH without 'host_path'")?;
            let path = Path::new(&host.path);
            if !path.is_absolute() {
                return Err("has a HOST_PATH that is not absolute");
            }
            let mode = host.mount_propagation.as_ref().and_then(|p| p.mode);
            let bidirectional = mode == Some(mesos::mount_propagation::Mode::Bidirectional as i32);
            Ok(Source::Host { path, bidirectional })
        }
        Type::SandboxPath => {
            let sandbox = source
                .sandbox_path
                .as_ref()
                .ok_or("is of type SANDBOX_PATH without 'sandbox_path'")?;
            let path = Path::new(&sandbox.path);
            if path.is_absolute() {
                return Err("has an absolute path in SANDBOX_PATH");
            }
            match sandbox.r#type.and_then(|t| SandboxType::try_from(t).ok()) {
                Some(SandboxType::Self_) => Ok(Source::Sandbox { path, parent: false }),
                Some(SandboxType::Parent) => Ok(Source::Sandbox { path, parent: true }),
                Some(SandboxType::Unknown) | None => Err("has a SANDBOX_PATH of unknown type"),
            }
        }
    }
}

/// The volumes a container asks for, with their sources.
pub(crate) fn volumes(context: &ContainerContext) -> Result<Vec<(&Volume, Source<'_>)>, String> {
    let all = context.info.as_ref().map(|info| info.volumes.as_slice()).unwrap_or_default();
    all.iter().map(|volume| source(volume).map(|source| (volume, source))).collect()
}

/// Whether a path stays where it starts: no `..`.
pub(crate) fn is_tame(path: &Path) -> bool {
    !path.components().any(|part| part == Component::ParentDir)
}

/// Finds, and makes where Mesos does, the place where a volume is to be seen:
/// the mount's target in the container's view.
pub(crate) fn target(
    name: &'static str,
    context: &ContainerContext,
    sandbox_directory: &Path,
    volume: &Volume,
    source_is_dir: bool,
) -> Result<PathBuf, IsolatorError> {
    let path = Path::new(&volume.container_path);
    let refuse = |text: String| Err(IsolatorError::plain(name, "mount", text));
    if !is_tame(path) {
        return refuse(format!("volume at '{}': '..' is not allowed", path.display()));
    }
    if path.is_absolute() {
        // With a root of its own the engine makes missing mount points.
        if context.rootfs.is_none() && !path.exists() {
            return refuse(format!(
                "volume at '{}': an absolute path must exist if the container shares the host \
                 filesystem",
                path.display()
            ));
        }
        return Ok(path.to_path_buf());
    }
    // Whoever runs in the sandbox may put links in our way.
    let make = if source_is_dir { beneath::make_directory } else { beneath::make_file };
    let point = context.sandbox.join(path);
    make(&context.sandbox, path, context.ids).map_err(|error| {
        IsolatorError::new(name, "make the mount point", point.display().to_string(), error)
    })?;
    Ok(match context.rootfs {
        Some(_) => sandbox_directory.join(path),
        None => point,
    })
}

#[cfg(test)]
pub(crate) mod tests {
    use mesos::volume::source::{HostPath, SandboxPath};

    use super::*;

    pub(crate) fn volume(container_path: &str, source: volume::Source) -> Volume {
        Volume {
            mode: volume::Mode::Rw as i32,
            container_path: container_path.into(),
            source: Some(source),
            ..Volume::default()
        }
    }

    pub(crate) fn host(path: &str) -> volume::Source {
        volume::Source {
            r#type: Some(Type::HostPath as i32),
            host_path: Some(HostPath { path: path.into(), mount_propagation: None }),
            ..volume::Source::default()
        }
    }

    pub(crate) fn sandbox(path: &str, kind: SandboxType) -> volume::Source {
        volume::Source {
            r#type: Some(Type::SandboxPath as i32),
            sandbox_path: Some(SandboxPath { path: path.into(), r#type: Some(kind as i32) }),
            ..volume::Source::default()
        }
    }

    #[test]
    fn kinds() {
        let old = |path: &str| Volume {
            host_path: Some(path.into()),
            container_path: "x".into(),
            ..Volume::default()
        };
        let (absolute, relative) = (old("/data"), old("data"));
        assert_eq!(
            source(&absolute),
            Ok(Source::Host { path: Path::new("/data"), bidirectional: false })
        );
        assert_eq!(
            source(&relative),
            Ok(Source::Sandbox { path: Path::new("data"), parent: false })
        );
        let parent = volume("x", sandbox("d", SandboxType::Parent));
        assert_eq!(source(&parent), Ok(Source::Sandbox { path: Path::new("d"), parent: true }));
        let bad = [
            Volume { container_path: "x".into(), ..Volume::default() },
            Volume { container_path: String::new(), ..old("/data") },
            volume("x", host("relative")),
            volume("x", sandbox("/absolute", SandboxType::Self_)),
            volume("x", sandbox("d", SandboxType::Unknown)),
            volume("x", volume::Source::default()),
        ];
        for volume in bad {
            assert!(source(&volume).is_err(), "{volume:?}");
        }
        let secret = volume::Source {
            r#type: Some(Type::Secret as i32),
            secret: Some(mesos::Secret::default()),
            ..volume::Source::default()
        };
        assert_eq!(source(&volume("x", secret)).unwrap().isolator(), "volume/secret");
        let image = || Some(mesos::Image::default());
        let whole = Volume { image: image(), container_path: "x".into(), ..Volume::default() };
        assert_eq!(source(&whole).unwrap().isolator(), "volume/image");
        assert!(source(&Volume { image: image(), ..old("/data") }).is_err());
    }

    #[test]
    fn tame_paths() {
        for (path, tame) in
            [("a/b", true), ("/a", true), ("a/../b", false), ("..", false), ("a..b", true)]
        {
            assert_eq!(is_tame(Path::new(path)), tame, "{path}");
        }
    }
}
