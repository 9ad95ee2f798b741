//! A launch request as the body of a container's creation. Pure.
//!
//! What Mesos' agent gives to `docker run`, in the API's words. The body is made in
//! order: what `DockerInfo` says, then its parameters, which may override.

use std::collections::BTreeMap;

use kernel::terminal::Window;
use mesos::container_info::docker_info::Network;
use mesos::container_info::{DockerInfo, Type};
use mesos::{ContainerInfo, Resource};
use serde_json::{Value, json};

use super::config::Config;
use super::parameters::{apply, bind_port, cdi, insert};
use super::{labels, limits, volumes};
use crate::containerizer::{ContainerizerError, LaunchRequest, request, terminal};

/// In the place of a network's name until there is a container that holds it.
pub(super) const OURS: &str = "cni";

/// What is decided before a request is mapped.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Beside {
    /// Its networks are not the engine's.
    pub(super) own_network: bool,
    /// Variables of hooks.
    pub(super) variables: BTreeMap<String, String>,
}

/// What is asked of the engine.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Wanted {
    /// Image as given.
    pub(super) image: String,
    /// Pull even if it is there.
    pub(super) force_pull: bool,
    /// Directories to be made below the sandbox first.
    pub(super) directories: Vec<std::path::PathBuf>,
    /// For `POST /containers/create`.
    pub(super) body: Value,
}

/// The engine's name of a container.
pub(super) fn name_of(id: &str) -> String {
    format!("{}{id}", labels::PREFIX)
}

/// The request's container, if it is for Docker.
pub(super) fn docker_info(info: Option<&ContainerInfo>) -> Option<(&ContainerInfo, &DockerInfo)> {
    let info = info.filter(|info| info.r#type == Type::Docker as i32)?;
    info.docker.as_ref().map(|docker| (info, docker))
}

/// Whether the request is for this containerizer at all.
///
/// # Errors
/// `NotSupported`, for the next one.
pub(super) fn check(request: &LaunchRequest) -> Result<(), ContainerizerError> {
    let refuse = |what: &str| Err(ContainerizerError::NotSupported(what.to_owned()));
    match &request.container {
        None => refuse("the docker containerizer needs a ContainerInfo of type DOCKER"),
        Some(info) if info.r#type != Type::Docker as i32 => {
            refuse("containers that are not of type DOCKER")
        }
        Some(_) => Ok(()),
    }
}

/// The whole mapping. `machine` is all memory in bytes.
///
/// # Errors
/// What of the request makes no sense, in words for its author.
pub(super) fn wanted(
    request: &LaunchRequest,
    config: &Config,
    machine: u64,
    beside: &Beside,
) -> Result<Wanted, String> {
    let (info, docker) = docker_info(request.container.as_ref())
        .ok_or("a container of type DOCKER needs 'docker'")?;
    if docker.image.is_empty() {
        return Err("'docker.image' is empty".into());
    }
    let host = limits::at_creation(&request.requests, &request.limits, config.enable_cfs, machine);
    let mut body = json!({
        "Image": docker.image,
        "Labels": labels::of(request, &config.owner),
        "HostConfig": Value::Object(host),
        "AttachStdout": false, "AttachStderr": false,
    });
    command(&mut body, request)?;
    let window = terminal::wanted(request).map_err(|text| format!("'tty_info': {text}"))?;
    if let Some(window) = window {
        // Input stays open when a client that typed goes.
        (body["Tty"], body["OpenStdin"]) = (true.into(), true.into());
        if window != Window::default() {
            // From Docker 23 on; before it the size comes a moment after the start.
            let size = json!([window.rows, window.columns]);
            insert(&mut body, "HostConfig", "ConsoleSize", size);
        }
    }
    let mut environment = environment(request, config, beside)?;
    if docker.privileged() {
        insert(&mut body, "HostConfig", "Privileged", true.into());
    }
    if let Some(bytes) = config.engine_log {
        // Two files, so that what is read is not cut off in the middle.
        let half = (bytes / 2).max(1).to_string();
        let options = json!({ "max-size": half, "max-file": "2" });
        let log = json!({ "Type": "json-file", "Config": options });
        insert(&mut body, "HostConfig", "LogConfig", log);
    }
    let network = match beside.own_network {
        true => OURS.to_owned(),
        false => network(info, docker)?,
    };
    insert(&mut body, "HostConfig", "NetworkMode", network.clone().into());
    if let Some(hostname) = &info.hostname {
        if network == "host" {
            return Err("'hostname' cannot be set on the host's network".into());
        }
        body["Hostname"] = hostname.as_str().into();
    }
    ports(&mut body, docker, &network, &request.requests)?;
    for (kind, names) in isolators::cdi::wanted(&request.requests) {
        names.iter().for_each(|name| cdi(&mut body, &format!("{kind}={name}")));
    }
    let directories = volumes::map(&mut body, request, config)?;
    for parameter in &docker.parameters {
        apply(&mut body, &parameter.key, &parameter.value)?;
    }
    let given = body["Env"].take();
    environment.extend(given.as_array().into_iter().flatten().cloned());
    body["Env"] = environment.into();
    if !beside.own_network {
        default_dns(&mut body, docker, config.default_dns.as_ref());
    }
    endpoint(&mut body);
    Ok(Wanted {
        image: docker.image.clone(),
        force_pull: docker.force_pull_image(),
        directories,
        body,
    })
}

/// A shell command replaces the image's entry point; other words follow it.
fn command(body: &mut Value, request: &LaunchRequest) -> Result<(), String> {
    let command = &request.command;
    if command.shell.unwrap_or(true) {
        let value = command.value.as_ref().ok_or(
            "a shell command needs a 'value'; set 'shell' to false for the image's own command",
        )?;
        body["Entrypoint"] = json!(["/bin/sh"]);
        body["Cmd"] = json!(["-c", value]);
        return Ok(());
    }
    let words: Vec<&String> = command.value.iter().chain(&command.arguments).collect();
    if !words.is_empty() {
        body["Cmd"] = json!(words);
    }
    Ok(())
}

/// The variables that the container starts with, besides the image's.
fn environment(
    request: &LaunchRequest,
    config: &Config,
    beside: &Beside,
) -> Result<Vec<Value>, String> {
    let mut all = request::command_environment(&request.command, &config.secrets)?;
    // compat: in docker containers hooks have the last word.
    all.extend(beside.variables.clone());
    if request.task.is_none() {
        // What an executor needs to find its agent. compat: of the agent's own
        // environment nothing else means anything inside an image.
        let executors = |name: &str| name.starts_with("MESOS_") || name.starts_with("LIBPROCESS_");
        let own = request.environment.iter().filter(|(name, _)| executors(name));
        all.extend(own.map(|(name, value)| (name.clone(), value.clone())));
        if beside.own_network {
            // What listens must listen on its own addresses, not on the agent's.
            all.insert("LIBPROCESS_IP".into(), "0.0.0.0".into());
        }
        all.insert("MESOS_DIRECTORY".into(), config.sandbox_directory.display().to_string());
    }
    let role = request.requests.first().and_then(|r| r.allocation_info.as_ref()?.role.clone());
    let sandbox = config.sandbox_directory.display().to_string();
    all.insert("MESOS_SANDBOX".into(), sandbox);
    all.insert("MESOS_CONTAINER_NAME".into(), name_of(&request.id.value));
    all.insert("MESOS_ALLOCATION_ROLE".into(), role.unwrap_or_default());
    Ok(all.iter().map(|(name, value)| format!("{name}={value}").into()).collect())
}

fn network(info: &ContainerInfo, docker: &DockerInfo) -> Result<String, String> {
    Ok(match docker.network() {
        Network::Host => "host".into(),
        Network::Bridge => "bridge".into(),
        Network::None => "none".into(),
        Network::User => match info.network_infos.as_slice() {
            [one] => one.name.clone().ok_or("network USER: 'network_infos' has no 'name'")?,
            [] => return Err("network USER needs one entry in 'network_infos'".into()),
            _ => return Err("network USER: only one entry of 'network_infos' is supported".into()),
        },
    })
}

fn ports(
    body: &mut Value,
    docker: &DockerInfo,
    network: &str,
    requests: &[Resource],
) -> Result<(), String> {
    if docker.port_mappings.is_empty() {
        return Ok(());
    }
    if ["host", "none"].contains(&network) {
        return Err(format!("'port_mappings' need a BRIDGE or USER network, not '{network}'"));
    }
    let offered = |port: u32| {
        let ranges = requests.iter().filter(|r| r.name == "ports").flat_map(|r| &r.ranges);
        let port = u64::from(port);
        ranges.flat_map(|r| &r.range).any(|range| (range.begin..=range.end).contains(&port))
    };
    for mapping in &docker.port_mappings {
        let number = |port: u32| {
            u16::try_from(port).map_err(|_| format!("'port_mappings': {port} is not a port"))
        };
        let (host, inside) = (number(mapping.host_port)?, number(mapping.container_port)?);
        if !offered(mapping.host_port) {
            return Err(format!("port {host} is not among the task's resources"));
        }
        let protocol = mapping.protocol.as_deref().unwrap_or("tcp").to_ascii_lowercase();
        if !["tcp", "udp", "sctp"].contains(&protocol.as_str()) {
            return Err(format!("'port_mappings': '{protocol}' is not tcp, udp or sctp"));
        }
        bind_port(body, &format!("{inside}/{protocol}"), "", host);
    }
    Ok(())
}

/// `--default_container_dns`, unless the task brings its own.
fn default_dns(body: &mut Value, docker: &DockerInfo, dns: Option<&Value>) {
    let host = &body["HostConfig"];
    let own = ["Dns", "DnsSearch", "DnsOptions"].iter().any(|name| !host[*name].is_null());
    let mode = match docker.network() {
        Network::Bridge => "BRIDGE",
        Network::User => "USER",
        Network::Host | Network::None => return,
    };
    let Some(entries) = dns.and_then(|dns| dns["docker"].as_array()).filter(|_| !own) else {
        return;
    };
    let name = host["NetworkMode"].as_str().unwrap_or_default();
    let of_mode = || entries.iter().filter(|entry| entry["network_mode"] == mode);
    let named = of_mode().find(|entry| mode == "USER" && entry["network_name"] == name);
    let any = || of_mode().find(|entry| entry["network_name"].is_null());
    let Some(entry) = named.or_else(any).cloned() else { return };
    for (member, field) in
        [("Dns", "nameservers"), ("DnsSearch", "search"), ("DnsOptions", "options")]
    {
        if entry["dns"][field].is_array() {
            insert(body, "HostConfig", member, entry["dns"][field].clone());
        }
    }
}

/// What parameters said of the container's place in its network, below its name.
fn endpoint(body: &mut Value) {
    let Some(endpoint) = body.as_object_mut().and_then(|body| body.remove("Endpoint")) else {
        return;
    };
    let network = body["HostConfig"]["NetworkMode"].as_str().unwrap_or("bridge").to_owned();
    insert(body, "NetworkingConfig.EndpointsConfig", &network, endpoint);
}

#[cfg(test)]
#[path = "mapping_tests.rs"]
mod tests;
