//! The parts of tasks and executors: commands, containers, checks.

use mesos::container_info::Type as ContainerType;
use mesos::environment::variable::Type as Variable;
use mesos::volume::source::Type as VolumeSource;
use mesos::{
    CheckInfo, CommandInfo, ContainerInfo, HealthCheck, Secret, Volume, check_info, health_check,
    secret,
};

use super::Check;

fn fail(text: &str) -> Check {
    Err(text.to_owned())
}

/// A command: its environment.
///
/// # Errors
/// The first variable that is wrong.
pub fn command(command: &CommandInfo) -> Check {
    for variable in command.environment.iter().flat_map(|e| &e.variables) {
        let name = &variable.name;
        let about = |kind: &str, what: &str| {
            Err(format!("Environment variable '{name}' of type '{kind}' {what}"))
        };
        match variable.r#type() {
            Variable::Secret => {
                let Some(value) = &variable.secret else {
                    return about("SECRET", "must have a secret set");
                };
                if variable.value.is_some() {
                    return about("SECRET", "must not have a value set");
                }
                secret(value).map_err(|e| {
                    format!("Environment variable '{name}' specifies an invalid secret: {e}")
                })?;
                if value.value.as_ref().is_some_and(|v| v.data.contains(&0)) {
                    return Err(format!(
                        "Environment variable '{name}' specifies a secret containing null bytes, \
                         which is not allowed in the environment"
                    ));
                }
            }
            Variable::Value if variable.value.is_none() => {
                return about("VALUE", "must have a value set");
            }
            Variable::Value if variable.secret.is_some() => {
                return about("VALUE", "must not have a secret set");
            }
            Variable::Value => {}
            Variable::Unknown => {
                return fail("Environment variable of type 'UNKNOWN' is not allowed");
            }
        }
    }
    Ok(())
}

fn secret(secret: &Secret) -> Check {
    match (secret.r#type(), &secret.reference, &secret.value) {
        (secret::Type::Reference, None, _) => {
            fail("Secret of type REFERENCE must have the 'reference' field set")
        }
        (secret::Type::Reference, Some(reference), Some(_)) => Err(format!(
            "Secret '{}' of type REFERENCE must not have the 'value' field set",
            reference.name
        )),
        (secret::Type::Value, _, None) => {
            fail("Secret of type VALUE must have the 'value' field set")
        }
        (secret::Type::Value, Some(_), _) => {
            fail("Secret of type VALUE must not have the 'reference' field set")
        }
        _ => Ok(()),
    }
}

/// A container.
///
/// # Errors
/// The first rule it breaks.
pub fn container(container: &ContainerInfo) -> Check {
    for one in &container.volumes {
        volume(one).map_err(|e| format!("Invalid volume: {e}"))?;
    }
    if container.r#type() == ContainerType::Docker {
        let Some(docker) = &container.docker else {
            return fail("DockerInfo 'docker' is not set for DOCKER typed ContainerInfo");
        };
        if docker.parameters.iter().any(|p| p.key == "name") {
            return fail("Parameter in DockerInfo must not be 'name'");
        }
    }
    Ok(())
}

fn volume(volume: &Volume) -> Check {
    let set = [volume.host_path.is_some(), volume.image.is_some(), volume.source.is_some()];
    if set.into_iter().filter(|s| *s).count() != 1 {
        return fail("Only one of them should be set: 'host_path', 'image' and 'source'");
    }
    let Some(source) = &volume.source else { return Ok(()) };
    let (present, field, kind) = match source.r#type() {
        VolumeSource::DockerVolume => {
            (source.docker_volume.is_some(), "docker_volume", "DOCKER_VOLUME")
        }
        VolumeSource::HostPath => (source.host_path.is_some(), "host_path", "HOST_PATH"),
        VolumeSource::SandboxPath => {
            (source.sandbox_path.is_some(), "sandbox_path", "SANDBOX_PATH")
        }
        VolumeSource::Secret => (source.secret.is_some(), "secret", "SECRET"),
        VolumeSource::CsiVolume => match &source.csi_volume {
            Some(csi) if csi.static_provisioning.is_none() => {
                return fail("'source.csi_volume.static_provisioning' is not set for CSI volume");
            }
            csi => (csi.is_some(), "csi_volume", "CSI"),
        },
        VolumeSource::Unknown => return fail("'source.type' is unknown"),
    };
    if present { Ok(()) } else { Err(format!("'source.{field}' is not set for {kind} volume")) }
}

/// The command of a check must say what to run.
fn check_command(of: &str, owner: &str, given: &CommandInfo) -> Check {
    if given.value.is_none() {
        let kind = if given.shell() { "'shell command'" } else { "'executable path'" };
        return Err(format!("{of} must contain {kind}"));
    }
    command(given).map_err(|e| format!("{owner}'s `CommandInfo` is invalid: {e}"))
}

/// Times of checks: (name, value).
fn times(all: &[(&str, Option<f64>)]) -> Check {
    match all.iter().find(|(_, value)| value.is_some_and(|v| v < 0.0 || v.is_nan())) {
        Some((name, _)) => Err(format!("Expecting '{name}' to be non-negative")),
        None => Ok(()),
    }
}

/// Mesos takes any number, and the check can only fail.
fn check_port(port: u32) -> Check {
    if (1..=65535).contains(&port) {
        Ok(())
    } else {
        Err(format!("There is no port {port}, expecting 1 to 65535"))
    }
}

/// A health check.
///
/// # Errors
/// The first rule it breaks.
pub fn health_check(check: &HealthCheck) -> Check {
    if check.r#type.is_none() {
        return fail("HealthCheck must specify 'type'");
    }
    match check.r#type() {
        health_check::Type::Command => {
            let Some(given) = &check.command else {
                return fail("Expecting 'command' to be set for COMMAND health check");
            };
            check_command("Command health check", "Health check", given)?;
        }
        health_check::Type::Http => {
            let Some(http) = &check.http else {
                return fail("Expecting 'http' to be set for HTTP health check");
            };
            if let Some(scheme) = http.scheme.as_deref().filter(|s| !["http", "https"].contains(s))
            {
                return Err(format!("Unsupported HTTP health check scheme: '{scheme}'"));
            }
            if let Some(path) = http.path.as_deref().filter(|p| !p.starts_with('/')) {
                return Err(format!("The path '{path}' of HTTP health check must start with '/'"));
            }
            check_port(http.port)?;
        }
        health_check::Type::Tcp => match &check.tcp {
            None => return fail("Expecting 'tcp' to be set for TCP health check"),
            Some(tcp) => check_port(tcp.port)?,
        },
        health_check::Type::Unknown => return fail("'UNKNOWN' is not a valid health check type"),
    }
    times(&[
        ("delay_seconds", check.delay_seconds),
        ("grace_period_seconds", check.grace_period_seconds),
        ("interval_seconds", check.interval_seconds),
        ("timeout_seconds", check.timeout_seconds),
    ])
}

/// A general check.
///
/// # Errors
/// The first rule it breaks.
pub fn check(check: &CheckInfo) -> Check {
    if check.r#type.is_none() {
        return fail("CheckInfo must specify 'type'");
    }
    match check.r#type() {
        check_info::Type::Command => {
            let Some(given) = &check.command else {
                return fail("Expecting 'command' to be set for COMMAND check");
            };
            check_command("Command check", "Check", &given.command)?;
        }
        check_info::Type::Http => {
            let Some(http) = &check.http else {
                return fail("Expecting 'http' to be set for HTTP check");
            };
            if let Some(path) = http.path.as_deref().filter(|p| !p.starts_with('/')) {
                return Err(format!("The path '{path}' of HTTP check must start with '/'"));
            }
            check_port(http.port)?;
        }
        check_info::Type::Tcp => match &check.tcp {
            None => return fail("Expecting 'tcp' to be set for TCP check"),
            Some(tcp) => check_port(tcp.port)?,
        },
        check_info::Type::Unknown => return fail("'UNKNOWN' is not a valid check type"),
    }
    times(&[
        ("delay_seconds", check.delay_seconds),
        ("interval_seconds", check.interval_seconds),
        ("timeout_seconds", check.timeout_seconds),
    ])
}
