//! Volumes of a request: sandbox, host paths, Docker's volumes, persistent ones.
//! Pure.

use std::path::{Component, Path, PathBuf};

use mesos::volume::Mode;
use mesos::volume::source::{DockerVolume, Type as SourceType};
use mesos::{Resource, Volume};
use serde_json::{Map, Value, json};

use super::config::Config;
use super::parameters::{at_path, push};
use crate::containerizer::LaunchRequest;

/// Adds all volumes to the body; the directories that must be made first, all of
/// them below the sandbox.
///
/// # Errors
/// Names the volume and what is wrong with it.
pub(super) fn map(
    body: &mut Value,
    request: &LaunchRequest,
    config: &Config,
) -> Result<Vec<PathBuf>, String> {
    let mapped = &config.sandbox_directory;
    bind(body, &request.sandbox, &mapped.display().to_string(), false);
    let mut directories = Vec::new();
    let info = request.container.as_ref();
    let docker = info.and_then(|info| info.docker.as_ref());
    #[allow(deprecated)] // frameworks still set it
    let driver = docker.and_then(|docker| docker.volume_driver.as_deref());
    if let Some(driver) = driver {
        volume_driver(body, driver)?;
    }
    for volume in info.into_iter().flat_map(|info| &info.volumes) {
        let named = |text: String| format!("volume '{}': {text}", volume.container_path);
        let made = one(body, volume, request, config, driver.is_some()).map_err(named)?;
        directories.extend(made);
    }
    for resource in &request.requests {
        persistent(body, resource, config)?;
    }
    Ok(directories)
}

fn one(
    body: &mut Value,
    volume: &Volume,
    request: &LaunchRequest,
    config: &Config,
    has_driver: bool,
) -> Result<Option<PathBuf>, String> {
    let read_only = volume.mode() == Mode::Ro;
    let inside = Path::new(&volume.container_path);
    let target = config.sandbox_directory.join(inside);
    let target = target.to_str().ok_or("its path is not text")?;
    let source = volume.source.as_ref();
    let host = match (&volume.host_path, source.map(mesos::volume::Source::r#type)) {
        (Some(path), None) => path.as_str(),
        (None, Some(SourceType::HostPath)) => {
            let path = source.and_then(|source| source.host_path.as_ref());
            path.map(|path| path.path.as_str()).ok_or("'host_path' is missing")?
        }
        (None, Some(SourceType::DockerVolume)) => {
            let volume = source.and_then(|source| source.docker_volume.as_ref());
            let volume = volume.ok_or("'docker_volume' is missing")?;
            if let Some(options) = driver_options(volume) {
                with_options(body, volume, options, target, read_only);
                return Ok(None);
            }
            if let Some(driver) = &volume.driver {
                volume_driver(body, driver)?;
            }
            bind_by_name(body, &volume.name, target, read_only);
            return Ok(None);
        }
        (None, Some(other)) => {
            return Err(format!("sources of type {} are not supported", other.as_str_name()));
        }
        (Some(_), Some(_)) => return Err("give either 'host_path' or 'source'".into()),
        (None, None) => return Err("'host_path' or 'source' is missing".into()),
    };
    if host.is_empty() {
        return Err("'host_path' is empty".into());
    }
    if Path::new(host).is_absolute() {
        // The engine makes it if it is missing, as `docker run -v` does.
        if host.contains(':') || target.contains(':') {
            bind(body, Path::new(host), target, read_only);
        } else {
            bind_by_name(body, host, target, read_only);
        }
        return Ok(None);
    }
    if has_driver {
        bind_by_name(body, host, target, read_only);
        return Ok(None);
    }
    if !inside.is_absolute() {
        return Err(format!("both 'host_path' ({host}) and 'container_path' are relative"));
    }
    let tame = Path::new(host).components().all(|part| matches!(part, Component::Normal(_)));
    if !tame {
        return Err(format!("'host_path' ({host}) leads out of the sandbox"));
    }
    bind(body, &request.sandbox.join(host), target, read_only);
    Ok(Some(PathBuf::from(host)))
}

fn driver_options(volume: &DockerVolume) -> Option<Map<String, Value>> {
    let options = &volume.driver_options.as_ref()?.parameter;
    let pair = |option: &mesos::Parameter| (option.key.clone(), option.value.as_str().into());
    (!options.is_empty()).then(|| options.iter().map(pair).collect())
}

/// A volume that its driver makes with options, if it is not there yet.
fn with_options(
    body: &mut Value,
    volume: &DockerVolume,
    options: Map<String, Value>,
    target: &str,
    read_only: bool,
) {
    let mut driver = json!({ "Options": options });
    if let Some(name) = &volume.driver {
        driver["Name"] = name.as_str().into();
    }
    let entry = json!({ "Type": "volume", "Source": volume.name, "Target": target,
        "ReadOnly": read_only, "VolumeOptions": { "DriverConfig": driver } });
    push(body, "HostConfig.Mounts", entry);
}

fn bind_by_name(body: &mut Value, source: &str, target: &str, read_only: bool) {
    let mode = if read_only { "ro" } else { "rw" };
    push(body, "HostConfig.Binds", format!("{source}:{target}:{mode}").into());
}

/// A persistent volume among the resources, below the sandbox.
fn persistent(body: &mut Value, resource: &Resource, config: &Config) -> Result<(), String> {
    let disk = resource.disk.as_ref();
    let Some((disk, volume)) = disk
        .and_then(|disk| Some((disk, disk.volume.as_ref()?)))
        .filter(|(disk, _)| disk.persistence.is_some())
    else {
        return Ok(());
    };
    let id = disk.persistence.as_ref().map(|p| p.id.as_str()).unwrap_or_default();
    let inside = Path::new(&volume.container_path);
    let tame = inside.components().all(|part| matches!(part, Component::Normal(_)));
    if !tame || volume.container_path.is_empty() {
        let path = &volume.container_path;
        return Err(format!("persistent volume '{id}': '{path}' is not below the sandbox"));
    }
    let source = (config.persistent)(Path::new(&config.owner), resource)
        .ok_or_else(|| format!("persistent volume '{id}' has no path"))?;
    let target = config.sandbox_directory.join(inside);
    bind(body, &source, &target.display().to_string(), volume.mode() == Mode::Ro);
    Ok(())
}

/// A bind mount of a host's path, which may have colons in it.
pub(super) fn bind(body: &mut Value, source: &Path, target: &str, read_only: bool) {
    let entry = json!({ "Type": "bind", "Source": source.display().to_string(),
                        "Target": target, "ReadOnly": read_only });
    push(body, "HostConfig.Mounts", entry);
}

/// One volume driver serves the whole container.
fn volume_driver(body: &mut Value, driver: &str) -> Result<(), String> {
    let at = at_path(body, "HostConfig.VolumeDriver");
    if at.as_str().is_some_and(|known| known != driver) {
        return Err(format!(
            "only one volume driver per container is supported, not '{driver}' too"
        ));
    }
    *at = driver.into();
    Ok(())
}
