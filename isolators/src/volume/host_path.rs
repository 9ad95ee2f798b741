//! `volume/host_path`: a path of the host, bind-mounted.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use mesos::{Volume, volume::Mode};

use super::{Source, is_tame, target, volumes};
use crate::api::{ContainerContext, Contribution, Isolator, IsolatorError};
use crate::config::{Config, Launcher};
use crate::mounts::bind;
use crate::simple::Preparing;

const NAME: &str = "volume/host_path";

/// The isolator.
///
/// # Errors
/// The combination of flags cannot work.
pub fn host_path(
    config: Arc<Config>,
    filesystem_linux: bool,
) -> Result<Arc<dyn Isolator>, IsolatorError> {
    if config.launcher != Launcher::Linux {
        let object = "with --launcher=posix: 'linux' launcher must be used";
        return Err(IsolatorError::plain(NAME, "start", object));
    }
    if !filesystem_linux {
        let object = "without 'filesystem/linux': add it to --isolation";
        return Err(IsolatorError::plain(NAME, "start", object));
    }
    Ok(Preparing::everywhere(NAME, config, prepare))
}

fn prepare(
    config: &Arc<Config>,
    context: &ContainerContext,
) -> Result<Contribution, IsolatorError> {
    let mut part = Contribution::default();
    let all = volumes(context).map_err(|text| IsolatorError::plain(NAME, "use", text))?;
    for (volume, source) in all {
        let Source::Host { path, bidirectional } = source else { continue };
        let is_dir = find(config, path)?;
        if bidirectional {
            check_shared(config, volume, path)?;
        }
        let target = target(NAME, context, &config.sandbox_directory, volume, is_dir)?;
        // The container sees the host's own path there already.
        if context.rootfs.is_none() && target == path && !bidirectional {
            continue;
        }
        let mut mount = bind(path, &target, read_only(volume));
        if bidirectional {
            let mut options = mount.options().clone().unwrap_or_default();
            options.push("rshared".to_owned());
            mount.set_options(Some(options));
        }
        part.mounts.push(mount);
    }
    Ok(part)
}

fn read_only(volume: &Volume) -> bool {
    volume.mode == Mode::Ro as i32
}

/// Whether mounts made in the volume can be seen on the host.
fn check_shared(config: &Config, volume: &Volume, path: &Path) -> Result<(), IsolatorError> {
    let refuse = |why: String| {
        let object = format!(
            "volume '{}' with bidirectional mount propagation: {why}",
            volume.container_path
        );
        Err(IsolatorError::plain(NAME, "mount", object))
    };
    if config.userns_remap.is_some() {
        return refuse("with --userns_remap nothing in a container can mount for the host".into());
    }
    let failed = |verb, error| {
        IsolatorError::new(NAME, verb, format!("host path '{}'", path.display()), error)
    };
    let path = path.canonicalize().map_err(|error| failed("resolve", error))?;
    let mounts =
        kernel::mounts::table().map_err(|error| failed("find the mount of", error.source))?;
    match kernel::mounts::holding(&mounts, &path) {
        Some(mount) if mount.shared.is_some() => Ok(()),
        Some(mount) => refuse(format!(
            "host path '{}' is on '{}', which is no shared mount (mount --make-shared)",
            path.display(),
            mount.target.display()
        )),
        None => refuse(format!("host path '{}' is on no mount", path.display())),
    }
}

/// Checks the host path, or makes it where the operator allows. Whether it is a
/// directory.
fn find(config: &Config, path: &Path) -> Result<bool, IsolatorError> {
    match fs::metadata(path) {
        Ok(metadata) => Ok(metadata.is_dir()),
        Err(error) => {
            let may_create = is_tame(path)
                && config.host_path_volume_force_creation.iter().any(|dir| path.starts_with(dir));
            let show = || format!("host path '{}'", path.display());
            if !may_create {
                return Err(IsolatorError::new(NAME, "find", show(), error));
            }
            fs::create_dir_all(path).map_err(|e| IsolatorError::new(NAME, "create", show(), e))?;
            Ok(true)
        }
    }
}

#[cfg(test)]
mod tests {
    use mesos::ContainerInfo;

    use super::*;
    use crate::suite::context;
    use crate::volume::tests::{host, volume};

    #[test]
    fn binds_are_made_only_where_something_changes() {
        let dir = std::env::temp_dir().join(format!("host-path-{}", std::process::id()));
        fs::create_dir_all(&dir).unwrap();
        let mut context = context("a");
        context.sandbox.clone_from(&dir);
        let config = Arc::new(Config {
            host_path_volume_force_creation: vec![dir.join("force")],
            ..Config::default()
        });
        let mut with = |volumes: Vec<Volume>| {
            context.info = Some(ContainerInfo { volumes, ..ContainerInfo::default() });
            prepare(&config, &context)
        };
        let part = with(vec![volume("/tmp", host("/tmp")), volume("data", host("/tmp"))]).unwrap();
        assert_eq!(part.mounts, [bind(Path::new("/tmp"), &dir.join("data"), false)]);
        assert!(dir.join("data").is_dir());
        assert!(with(vec![volume("x", host("/does/not/exist"))]).is_err());
        assert!(with(vec![volume("../x", host("/tmp"))]).is_err());
        assert!(with(vec![volume("/does/not/exist", host("/tmp"))]).is_err());
        let forced = dir.join("force/new");
        assert!(with(vec![volume("y", host(forced.to_str().unwrap()))]).is_ok());
        assert!(forced.is_dir());
        fs::remove_dir_all(&dir).unwrap();
    }
}
