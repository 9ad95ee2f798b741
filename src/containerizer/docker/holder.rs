//! The container that holds another one's network, in the engine's words. Pure.
//!
//! It is made of one program of some kilobytes, which waits. Its image is put together
//! here, is the same whoever makes it, and goes to the engine when that has it not.

use std::path::{Path, PathBuf};

use isolators::network::cni::Joined;
use mesos::ContainerInfo;
use mesos::network_info::PortMapping;
use serde_json::{Map, Value, json};
use sha2::{Digest as _, Sha256};

use super::labels;
use super::mapping::{OURS, name_of};
use super::parameters::{at_path, insert};
use super::volumes::bind;
use crate::containerizer::LaunchRequest;

/// The program's place in its image.
const PROGRAM: &str = "/bulkhead-shim";

/// The image, as `docker load` takes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Image {
    /// Another program, another name.
    pub(super) name: String,
    pub(super) archive: Vec<u8>,
}

/// Where a container's network is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Place {
    /// In that of the container with this id of the engine's.
    Holder(String),
    /// In this namespace; the engine knows no other container of it.
    Namespace(PathBuf),
}

/// What of a body concerns the network, and therefore not the container itself.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Part {
    hostname: Option<Value>,
    domainname: Option<Value>,
    /// `Dns`, `DnsSearch`, `DnsOptions`, where a parameter set them.
    dns: Map<String, Value>,
    ports: Vec<PortMapping>,
    /// Lines of `/etc/hosts`.
    pub(super) hosts: String,
}

/// The holder's name.
pub(super) fn name_of_holder(id: &str) -> String {
    format!("{}.network", name_of(id))
}

/// Whether all the networks of a request are among those that `has` knows; then they are
/// CNI's. compat: with any mode that is said and is not USER, names mean nothing.
///
/// # Errors
/// Some are, some are not.
pub(super) fn is_ours(info: &ContainerInfo, has: impl Fn(&str) -> bool) -> Result<bool, String> {
    use mesos::container_info::docker_info::Network;
    let mode = info.docker.as_ref().and_then(|docker| docker.network);
    if mode.is_some_and(|mode| mode != Network::User as i32) {
        return Ok(false);
    }
    let names = info.network_infos.iter().filter_map(|network| network.name.as_deref());
    let (ours, others): (Vec<&str>, Vec<&str>) = names.partition(|name| has(name));
    match (ours.first(), others.first()) {
        (None, _) => Ok(false),
        (Some(_), None) => Ok(true),
        (Some(ours), Some(other)) => Err(format!(
            "'{ours}' is a CNI network and '{other}' is none: a container cannot be on both"
        )),
    }
}

/// Takes from a body what its engine would refuse beside the network of another container.
///
/// # Errors
/// What has no place on CNI networks, and what is to be said instead.
pub(super) fn take(body: &mut Value) -> Result<Part, String> {
    let mode = body["HostConfig"]["NetworkMode"].as_str().unwrap_or_default();
    if mode != OURS {
        return Err(format!(
            "docker parameter 'network={mode}' contradicts the CNI networks of 'network_infos'"
        ));
    }
    for (at, what) in [
        ("/MacAddress", "'mac-address': use the label 'cni.mac' of the network"),
        ("/NetworkingConfig", "'ip', 'ip6' and 'network-alias': use 'network_infos'"),
        ("/HostConfig/Links", "'link': use addresses or names of a name server"),
    ] {
        if body.pointer(at).is_some_and(|value| !value.is_null()) {
            return Err(format!("on CNI networks there is no docker parameter {what}"));
        }
    }
    let mut part = Part {
        hostname: remove(body, "Hostname"),
        domainname: remove(body, "Domainname"),
        ..Part::default()
    };
    remove(body, "ExposedPorts");
    let host = at_path(body, "HostConfig");
    for name in ["Dns", "DnsSearch", "DnsOptions"] {
        part.dns.extend(remove(host, name).map(|value| (name.to_owned(), value)));
    }
    let ports = remove(host, "PortBindings").unwrap_or_default();
    for (inside, bindings) in ports.as_object().into_iter().flatten() {
        for binding in bindings.as_array().into_iter().flatten() {
            part.ports.push(port(inside, binding)?);
        }
    }
    let extra = remove(host, "ExtraHosts").unwrap_or_default();
    for entry in extra.as_array().into_iter().flatten().filter_map(Value::as_str) {
        let (name, address) = entry
            .split_once(':')
            .ok_or_else(|| format!("docker parameter 'add-host={entry}': expected NAME:ADDRESS"))?;
        part.hosts.push_str(&format!("{address} {name}\n"));
    }
    Ok(part)
}

fn remove(object: &mut Value, name: &str) -> Option<Value> {
    object.as_object_mut().and_then(|object| object.remove(name))
}

fn port(inside: &str, binding: &Value) -> Result<PortMapping, String> {
    let ip = binding["HostIp"].as_str().unwrap_or_default();
    if !ip.is_empty() {
        return Err(format!("port {inside} cannot be published at '{ip}' alone on CNI networks"));
    }
    let (container, protocol) = inside.split_once('/').unwrap_or((inside, "tcp"));
    let host = binding["HostPort"].as_str().unwrap_or_default();
    let number = |text: &str| {
        text.parse::<u16>().map(u32::from).map_err(|_| format!("'{text}' is not a port"))
    };
    Ok(PortMapping {
        host_port: number(host)?,
        container_port: number(container)?,
        protocol: Some(protocol.to_owned()),
    })
}

/// The container as CNI plugins are to hear of it: with all ports at its first network.
pub(super) fn info(asked: Option<&ContainerInfo>, part: &Part) -> ContainerInfo {
    let mut info = asked.cloned().unwrap_or_default();
    if let Some(name) = part.hostname.as_ref().and_then(Value::as_str) {
        info.hostname = Some(name.to_owned());
    }
    if let Some(first) = info.network_infos.iter_mut().find(|network| network.name.is_some()) {
        let more = part.ports.iter().filter(|port| !first.port_mappings.contains(port));
        let more: Vec<PortMapping> = more.cloned().collect();
        first.port_mappings.extend(more);
    }
    info
}

/// The body of the holder's creation.
pub(super) fn body(request: &LaunchRequest, owner: &str, image: &str, part: &Part) -> Value {
    let id = &request.id.value;
    let mut labels = labels::of(request, owner);
    labels.insert(labels::NETWORK_OF.into(), id.as_str().into());
    let mut body = json!({
        "Image": image, "Labels": labels,
        "Env": [format!("MESOS_CONTAINER_NAME={}", name_of_holder(id))],
        "AttachStdout": false, "AttachStderr": false,
        "HostConfig": {
            "NetworkMode": "none", "ReadonlyRootfs": true, "CapDrop": ["ALL"],
            "SecurityOpt": ["no-new-privileges"], "LogConfig": { "Type": "none" },
        },
    });
    names(&mut body, id, part);
    body
}

/// Gives its names and name servers to the container whose network it is.
fn names(body: &mut Value, id: &str, part: &Part) {
    body["Hostname"] = part.hostname.clone().unwrap_or_else(|| hostname(id).into());
    if let Some(domain) = &part.domainname {
        body["Domainname"] = domain.clone();
    }
    for (name, value) in &part.dns {
        insert(body, "HostConfig", name, value.clone());
    }
}

/// As containers of the native containerizer are called that were given no name.
fn hostname(id: &str) -> String {
    const LONGEST: usize = 63;
    id.chars().take(LONGEST).collect()
}

/// Puts the container with our `id` into its place.
pub(super) fn join(body: &mut Value, id: &str, place: &Place, joined: &Joined, part: &Part) {
    let mode = match place {
        Place::Holder(holder) => format!("container:{holder}"),
        Place::Namespace(path) => {
            names(body, id, part);
            format!("ns:{}", path.display())
        }
    };
    insert(body, "HostConfig", "NetworkMode", mode.into());
    // Name servers that the task brought itself are the holder's or its own by now.
    let resolv_conf = joined.resolv_conf.as_ref().filter(|_| part.dns.is_empty());
    let files = [("/etc/hosts", Some(&joined.hosts)), ("/etc/resolv.conf", resolv_conf)];
    for (target, source) in files {
        if let Some(source) = source.filter(|_| !is_mounted(body, target)) {
            bind(body, source, target, false);
        }
    }
}

fn is_mounted(body: &Value, target: &str) -> bool {
    let list = |name: &str| body["HostConfig"][name].as_array().into_iter().flatten();
    let bind =
        |text: &str| text.split(':').nth(1).is_some_and(|at| Path::new(at) == Path::new(target));
    list("Mounts").any(|mount| mount["Target"] == target)
        || list("Binds").filter_map(Value::as_str).any(bind)
}

/// The image with `program`.
pub(super) fn image(program: &[u8]) -> Image {
    let layer = tar(&[(PROGRAM.trim_start_matches('/'), program, 0o755)]);
    let layer_digest = hex(&layer);
    let architecture = match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    };
    let config = json!({
        "architecture": architecture, "os": "linux", "created": "1970-01-01T00:00:00Z",
        "config": { "Entrypoint": [PROGRAM, "hold"], "StopSignal": "SIGKILL" },
        "rootfs": { "type": "layers", "diff_ids": [format!("sha256:{layer_digest}")] },
        "history": [{ "created": "1970-01-01T00:00:00Z", "created_by": "bulkhead" }],
    });
    let config = config.to_string();
    let digest = hex(config.as_bytes());
    let name = format!("bulkhead/network:{}", &digest[..12]);
    let (file, inner) = (format!("{digest}.json"), format!("{layer_digest}/layer.tar"));
    let manifest = json!([{ "Config": file, "RepoTags": [name], "Layers": [inner] }]).to_string();
    let archive = tar(&[
        (&inner, &layer, 0o644),
        (&file, config.as_bytes(), 0o644),
        ("manifest.json", manifest.as_bytes(), 0o644),
    ]);
    Image { name, archive }
}

fn hex(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// An archive of these files: name, content, mode.
fn tar(files: &[(&str, &[u8], u32)]) -> Vec<u8> {
    let mut archive = ::tar::Builder::new(Vec::new());
    for (name, content, mode) in files {
        let mut header = ::tar::Header::new_gnu();
        header.set_size(content.len() as u64);
        header.set_mode(*mode);
        header.set_mtime(0);
        archive.append_data(&mut header, name, *content).expect("memory takes everything");
    }
    archive.into_inner().expect("memory takes everything")
}

#[cfg(test)]
mod tests {
    use mesos::NetworkInfo;
    use mesos::container_info::DockerInfo;
    use mesos::container_info::docker_info::Network;

    use super::*;

    fn asked(mode: Option<Network>, names: &[&str]) -> ContainerInfo {
        let network =
            |name: &&str| NetworkInfo { name: Some((*name).into()), ..NetworkInfo::default() };
        let docker = DockerInfo { network: mode.map(|mode| mode as i32), ..DockerInfo::default() };
        ContainerInfo {
            docker: Some(docker),
            network_infos: names.iter().map(network).collect(),
            ..ContainerInfo::default()
        }
    }

    #[test]
    fn whose_networks_they_are() {
        let ours =
            |mode, names: &[&str]| is_ours(&asked(mode, names), |name| name.starts_with('c'));
        assert_eq!(ours(Some(Network::User), &["c1", "c2"]), Ok(true));
        assert_eq!(ours(None, &["c1"]), Ok(true));
        assert_eq!(ours(Some(Network::User), &["d1"]), Ok(false));
        assert_eq!(ours(Some(Network::User), &[]), Ok(false));
        for mode in [Network::Host, Network::Bridge, Network::None] {
            assert_eq!(ours(Some(mode), &["c1"]), Ok(false));
        }
        let error = ours(Some(Network::User), &["c1", "d1"]).unwrap_err();
        assert!(error.contains("'c1' is a CNI network and 'd1' is none"), "{error}");
    }

    #[test]
    fn what_belongs_to_the_network_goes_where_it_is() {
        let mut body = json!({
            "Image": "bb", "Hostname": "web", "Domainname": "d", "ExposedPorts": { "80/tcp": {} },
            "HostConfig": { "NetworkMode": "cni", "Dns": ["1.1.1.1"], "Memory": 1,
                "ExtraHosts": ["db:10.0.0.1", "six:fd00::1"],
                "PortBindings": { "80/tcp": [{ "HostIp": "", "HostPort": "31005" }],
                                  "53/udp": [{ "HostIp": "", "HostPort": "31053" }] } },
        });
        let part = take(&mut body).unwrap();
        assert_eq!(
            body,
            json!({ "Image": "bb",
            "HostConfig": { "NetworkMode": "cni", "Memory": 1 } })
        );
        assert_eq!(part.hosts, "10.0.0.1 db\nfd00::1 six\n");
        let info = info(Some(&asked(None, &["c1", "c2"])), &part);
        assert_eq!(info.hostname.as_deref(), Some("web"));
        let mut ports: Vec<(u32, u32)> = info.network_infos[0]
            .port_mappings
            .iter()
            .map(|mapping| (mapping.host_port, mapping.container_port))
            .collect();
        ports.sort_unstable();
        assert_eq!(ports, [(31005, 80), (31053, 53)]);
        assert!(info.network_infos[1].port_mappings.is_empty());

        let joined = Joined {
            namespace: "/r/ns".into(),
            hosts: "/r/hosts".into(),
            resolv_conf: Some("/r/resolv.conf".into()),
        };
        let holder = Place::Holder("8a3a".into());
        let mut own = body.clone();
        join(&mut own, "id", &Place::Namespace("/r/ns".into()), &joined, &part);
        assert_eq!(own["HostConfig"]["NetworkMode"], "ns:/r/ns");
        assert_eq!((&own["Hostname"], &own["Domainname"]), (&json!("web"), &json!("d")));
        assert_eq!(own["HostConfig"]["Dns"], json!(["1.1.1.1"]));
        join(&mut body, "id", &holder, &joined, &part);
        assert_eq!(body["Hostname"], Value::Null);
        assert_eq!(body["HostConfig"]["NetworkMode"], "container:8a3a");
        // The task's own name servers stay.
        assert_eq!(body["HostConfig"]["Mounts"].as_array().map(Vec::len), Some(1));
        let mut body = json!({ "HostConfig": { "NetworkMode": "cni",
            "Binds": ["/h:/etc/hosts:ro"] } });
        let part = take(&mut body).unwrap();
        let mut own = body.clone();
        join(&mut own, "id", &Place::Namespace("/r/ns".into()), &joined, &part);
        assert_eq!(own["Hostname"], "id");
        join(&mut body, "id", &holder, &joined, &part);
        assert_eq!(body["HostConfig"]["Mounts"][0]["Target"], "/etc/resolv.conf");
        assert_eq!(body["HostConfig"]["Mounts"].as_array().map(Vec::len), Some(1));
    }

    #[test]
    fn what_has_no_place_on_cni_networks_is_refused_by_name() {
        let refused = |more: Value| {
            let mut body = json!({ "HostConfig": { "NetworkMode": "cni" } });
            for (name, value) in more.as_object().into_iter().flatten() {
                body[name] = value.clone();
            }
            take(&mut body).unwrap_err()
        };
        for (body, words) in [
            (json!({ "HostConfig": { "NetworkMode": "host" } }), "'network=host' contradicts"),
            (json!({ "MacAddress": "02:00:00:00:00:01" }), "use the label 'cni.mac'"),
            (json!({ "NetworkingConfig": {} }), "use 'network_infos'"),
            (
                json!({ "HostConfig": { "NetworkMode": "cni",
                    "PortBindings": { "80/tcp": [{ "HostIp": "127.0.0.1", "HostPort": "1" }] } } }),
                "port 80/tcp cannot be published at '127.0.0.1' alone",
            ),
        ] {
            let error = refused(body);
            assert!(error.contains(words), "{error}");
        }
    }

    #[test]
    fn the_image_is_the_same_whoever_makes_it() {
        let made = image(b"program");
        assert_eq!(made, image(b"program"));
        assert_ne!(made.name, image(b"another").name);
        let mut archive = ::tar::Archive::new(made.archive.as_slice());
        let names: Vec<String> = archive
            .entries()
            .unwrap()
            .map(|entry| entry.unwrap().path().unwrap().display().to_string())
            .collect();
        assert!(names[0].ends_with("/layer.tar") && names[2] == "manifest.json", "{names:?}");
    }
}
