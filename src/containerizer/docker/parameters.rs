//! `DockerInfo.parameters`: options of `docker run`, in the API's words. Pure.
//!
//! Mesos hands them to the command line unread. Here each one that the API can
//! express is put where it belongs, and each other one is refused with the reason.

use serde_json::{Map, Value, json};

/// What an option's value is and where it goes, as a path in the body.
enum Kind {
    Text(&'static str),
    /// `true` unless the value says otherwise.
    Flag(&'static str),
    Whole(&'static str),
    /// Bytes, with Docker's suffixes; `-1` stays.
    Size(&'static str),
    /// One more entry of a list.
    List(&'static str),
    /// One more `name=value` of an object.
    Pair(&'static str),
    Special(fn(&mut Value, &str) -> Result<(), String>),
    Refused(&'static str),
}

impl Kind {
    /// Reads the value and puts it where it belongs.
    fn put(&self, body: &mut Value, value: &str) -> Result<(), String> {
        match self {
            Text(path) => *at_path(body, path) = value.into(),
            Flag(path) => *at_path(body, path) = flag(value)?.into(),
            Whole(path) => *at_path(body, path) = whole(value)?.into(),
            Size(path) => *at_path(body, path) = size(value)?.into(),
            List(path) => push(body, path, value.into()),
            Pair(path) => {
                let (name, value) = value.split_once('=').unwrap_or((value, ""));
                insert(body, path, name, value.into());
            }
            Special(_) | Refused(_) => {}
        }
        Ok(())
    }
}

use Kind::{Flag, List, Pair, Refused, Size, Special, Text, Whole};

const OURS: &str = "the agent decides on it";
const CLIENT: &str = "it concerns the docker command, which is not used";

/// Sorted by name.
#[rustfmt::skip] // one line per option
const OPTIONS: &[(&str, Kind)] = &[
    ("add-host", List("HostConfig.ExtraHosts")),
    ("attach", Refused(OURS)),
    ("blkio-weight", Whole("HostConfig.BlkioWeight")),
    ("cap-add", List("HostConfig.CapAdd")),
    ("cap-drop", List("HostConfig.CapDrop")),
    ("cgroup-parent", Text("HostConfig.CgroupParent")),
    ("cgroupns", Text("HostConfig.CgroupnsMode")),
    ("cidfile", Refused(CLIENT)),
    ("cpu-period", Whole("HostConfig.CpuPeriod")),
    ("cpu-quota", Whole("HostConfig.CpuQuota")),
    ("cpu-rt-period", Whole("HostConfig.CpuRealtimePeriod")),
    ("cpu-rt-runtime", Whole("HostConfig.CpuRealtimeRuntime")),
    ("cpu-shares", Whole("HostConfig.CpuShares")),
    ("cpus", Special(cpus)),
    ("cpuset-cpus", Text("HostConfig.CpusetCpus")),
    ("cpuset-mems", Text("HostConfig.CpusetMems")),
    ("detach", Refused(OURS)),
    ("detach-keys", Refused(CLIENT)),
    ("device", Special(device)),
    ("device-cgroup-rule", List("HostConfig.DeviceCgroupRules")),
    ("disable-content-trust", Refused(CLIENT)),
    ("dns", List("HostConfig.Dns")),
    ("dns-opt", List("HostConfig.DnsOptions")),
    ("dns-option", List("HostConfig.DnsOptions")),
    ("dns-search", List("HostConfig.DnsSearch")),
    ("domainname", Text("Domainname")),
    ("entrypoint", Special(entrypoint)),
    ("env", List("Env")),
    ("env-file", Refused("the file is one of the docker command's machine; use 'env'")),
    ("expose", Special(expose)),
    ("gpus", Special(gpus)),
    ("group-add", List("HostConfig.GroupAdd")),
    ("health-cmd", Refused("use the task's health_check")),
    ("health-interval", Refused("use the task's health_check")),
    ("health-retries", Refused("use the task's health_check")),
    ("health-start-period", Refused("use the task's health_check")),
    ("health-timeout", Refused("use the task's health_check")),
    ("hostname", Text("Hostname")),
    ("init", Flag("HostConfig.Init")),
    ("interactive", Refused("a task has no standard input")),
    ("ip", Special(|body, value| address(body, "IPv4Address", value))),
    ("ip6", Special(|body, value| address(body, "IPv6Address", value))),
    ("ipc", Text("HostConfig.IpcMode")),
    ("isolation", Refused("it is for Windows")),
    ("kernel-memory", Size("HostConfig.KernelMemory")),
    ("label", Pair("Labels")),
    ("label-file", Refused("the file is one of the docker command's machine; use 'label'")),
    ("link", List("HostConfig.Links")),
    ("log-driver", Special(log_driver)),
    ("log-opt", Pair("HostConfig.LogConfig.Config")),
    ("mac-address", Text("MacAddress")),
    ("memory", Size("HostConfig.Memory")),
    ("memory-reservation", Size("HostConfig.MemoryReservation")),
    ("memory-swap", Size("HostConfig.MemorySwap")),
    ("memory-swappiness", Whole("HostConfig.MemorySwappiness")),
    ("mount", Special(mount)),
    ("name", Refused("the agent finds the container by its name")),
    ("net", Text("HostConfig.NetworkMode")),
    ("net-alias", Special(alias)),
    ("network", Text("HostConfig.NetworkMode")),
    ("network-alias", Special(alias)),
    ("no-healthcheck", Special(no_healthcheck)),
    ("oom-kill-disable", Flag("HostConfig.OomKillDisable")),
    ("oom-score-adj", Whole("HostConfig.OomScoreAdj")),
    ("pid", Text("HostConfig.PidMode")),
    ("pids-limit", Whole("HostConfig.PidsLimit")),
    ("platform", Refused("it concerns pulls, which are the agent's")),
    ("privileged", Flag("HostConfig.Privileged")),
    ("publish", Special(publish)),
    ("publish-all", Refused("ports must be offered; use port_mappings")),
    ("pull", Refused("use force_pull_image")),
    ("read-only", Flag("HostConfig.ReadonlyRootfs")),
    ("restart", Refused("a task that ends has ended")),
    ("rm", Refused("see --docker_remove_delay of the agent")),
    ("runtime", Text("HostConfig.Runtime")),
    ("security-opt", Special(security)),
    ("shm-size", Size("HostConfig.ShmSize")),
    ("sig-proxy", Refused(CLIENT)),
    ("stop-signal", Text("StopSignal")),
    ("stop-timeout", Whole("StopTimeout")),
    ("storage-opt", Pair("HostConfig.StorageOpt")),
    ("sysctl", Pair("HostConfig.Sysctls")),
    ("tmpfs", Special(tmpfs)),
    ("tty", Refused("a terminal is asked for by the container's 'tty_info'")),
    ("ulimit", Special(ulimit)),
    ("user", Text("User")),
    ("userns", Text("HostConfig.UsernsMode")),
    ("uts", Text("HostConfig.UTSMode")),
    ("volume", Special(volume)),
    ("volume-driver", Text("HostConfig.VolumeDriver")),
    ("volumes-from", List("HostConfig.VolumesFrom")),
    ("workdir", Text("WorkingDir")),
];

/// One-letter spellings.
const SHORT: &[(&str, &str)] = &[
    ("a", "attach"),
    ("c", "cpu-shares"),
    ("d", "detach"),
    ("e", "env"),
    ("h", "hostname"),
    ("i", "interactive"),
    ("l", "label"),
    ("m", "memory"),
    ("p", "publish"),
    ("t", "tty"),
    ("u", "user"),
    ("v", "volume"),
    ("w", "workdir"),
];

/// Applies one option to the body of a container's creation.
///
/// # Errors
/// The option cannot be expressed, or its value makes no sense; names both.
pub(super) fn apply(body: &mut Value, key: &str, value: &str) -> Result<(), String> {
    let long = SHORT.iter().find(|(short, _)| *short == key).map_or(key, |(_, long)| long);
    let Ok(at) = OPTIONS.binary_search_by(|(name, _)| (*name).cmp(long)) else {
        return Err(format!("docker parameter '{key}': no option of that name is known"));
    };
    let done = match &OPTIONS[at].1 {
        Special(apply) => apply(body, value),
        Refused(why) => Err((*why).to_owned()),
        plain => plain.put(body, value),
    };
    done.map_err(|why| format!("docker parameter '{key}={value}': {why}"))
}

/// The value at a dotted path; objects on the way are made.
pub(super) fn at_path<'a>(body: &'a mut Value, path: &str) -> &'a mut Value {
    let mut at = body;
    for part in path.split('.') {
        if !at.is_object() {
            *at = Value::Object(Map::new());
        }
        at = &mut at[part];
    }
    at
}

/// One more entry of the list at a dotted path.
pub(super) fn push(body: &mut Value, path: &str, entry: Value) {
    let at = at_path(body, path);
    match at.as_array_mut() {
        Some(list) => list.push(entry),
        None => *at = Value::Array(vec![entry]),
    }
}

/// One more member of the object at a dotted path. The name may have dots.
pub(super) fn insert(body: &mut Value, path: &str, name: &str, value: Value) {
    let at = at_path(body, path);
    if !at.is_object() {
        *at = Value::Object(Map::new());
    }
    at[name] = value;
}

fn flag(value: &str) -> Result<bool, String> {
    match value {
        "" | "true" | "1" => Ok(true),
        "false" | "0" => Ok(false),
        _ => Err("expected true or false".into()),
    }
}

fn whole(value: &str) -> Result<i64, String> {
    value.parse().map_err(|_| "expected a whole number".into())
}

/// `64m`, `1.5g`, `100`: powers of 1024.
fn size(value: &str) -> Result<i64, String> {
    let wrong = || "expected a size like 64m or 1g".to_owned();
    if value == "-1" {
        return Ok(-1);
    }
    let lower = value.to_ascii_lowercase();
    let bare = lower.trim_end_matches("ib").trim_end_matches('b');
    let digits = bare.trim_end_matches(['k', 'm', 'g', 't']);
    let power = match &bare[digits.len()..] {
        "" => 0,
        "k" => 1,
        "m" => 2,
        "g" => 3,
        "t" => 4,
        _ => return Err(wrong()),
    };
    let number: f64 = digits.trim().parse().map_err(|_| wrong())?;
    let bytes = number * 1024f64.powi(power);
    if !(0.0..1e15).contains(&bytes) {
        return Err(wrong());
    }
    #[allow(clippy::cast_possible_truncation)] // in range
    Ok(bytes as i64)
}

fn cpus(body: &mut Value, value: &str) -> Result<(), String> {
    let number: f64 = value.parse().map_err(|_| "expected a number".to_owned())?;
    if !(0.0..1e6).contains(&number) {
        return Err("expected a number of processors".into());
    }
    // The engine takes either this or a quota.
    let host = at_path(body, "HostConfig");
    if let Some(host) = host.as_object_mut() {
        host.remove("CpuQuota");
        host.remove("CpuPeriod");
    }
    #[allow(clippy::cast_possible_truncation)] // in range
    let nano = (number * 1e9) as i64;
    insert(body, "HostConfig", "NanoCpus", nano.into());
    Ok(())
}

/// Another driver than the agent's knows nothing of that one's options.
#[allow(clippy::unnecessary_wraps)] // an entry of the table
fn log_driver(body: &mut Value, value: &str) -> Result<(), String> {
    let log = at_path(body, "HostConfig.LogConfig");
    if log["Type"].as_str().is_some_and(|known| known != value) {
        *log = json!({});
    }
    insert(body, "HostConfig.LogConfig", "Type", value.into());
    Ok(())
}

/// `/dev/host[:/dev/container[:rwm]]`, or the name of a CDI device: `vendor/class=name`.
fn device(body: &mut Value, value: &str) -> Result<(), String> {
    if !value.starts_with('/') && value.contains('=') {
        cdi(body, value);
        return Ok(());
    }
    let mut parts = value.split(':');
    let host = parts.next().filter(|path| path.starts_with('/'));
    let host = host.ok_or("expected /dev/HOST[:/dev/CONTAINER[:rwm]]")?;
    let (inside, rights) = match (parts.next(), parts.next(), parts.next()) {
        (None, None, None) => (host, "rwm"),
        (Some(inside), None, None) if inside.starts_with('/') => (inside, "rwm"),
        (Some(rights), None, None) => (host, rights),
        (Some(inside), Some(rights), None) => (inside, rights),
        _ => return Err("expected /dev/HOST[:/dev/CONTAINER[:rwm]]".into()),
    };
    if rights.is_empty() || !rights.chars().all(|c| "rwm".contains(c)) {
        return Err(format!("'{rights}' are no rights; expected some of rwm"));
    }
    let entry = json!({ "PathOnHost": host, "PathInContainer": inside,
                        "CgroupPermissions": rights });
    push(body, "HostConfig.Devices", entry);
    Ok(())
}

/// One more device that its vendor describes; engines since Docker 25 know them.
pub(super) fn cdi(body: &mut Value, name: &str) {
    let requests = at_path(body, "HostConfig.DeviceRequests");
    let all = requests.as_array_mut().into_iter().flatten();
    let known = all.into_iter().find(|request| request["Driver"] == "cdi");
    match known.and_then(|request| request["DeviceIDs"].as_array_mut()) {
        Some(ids) => ids.push(name.into()),
        None => {
            let request = json!({ "Driver": "cdi", "DeviceIDs": [name] });
            push(body, "HostConfig.DeviceRequests", request);
        }
    }
}

#[allow(clippy::unnecessary_wraps)] // an entry of the table
fn entrypoint(body: &mut Value, value: &str) -> Result<(), String> {
    *at_path(body, "Entrypoint") = json!([value]);
    Ok(())
}

fn port(text: &str) -> Result<String, String> {
    let (number, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
    let number: u16 = number.parse().map_err(|_| "expected PORT[/PROTOCOL]".to_owned())?;
    if !["tcp", "udp", "sctp"].contains(&protocol) {
        return Err(format!("'{protocol}' is no protocol; expected tcp, udp or sctp"));
    }
    Ok(format!("{number}/{protocol}"))
}

fn expose(body: &mut Value, value: &str) -> Result<(), String> {
    let port = port(value)?;
    insert(body, "ExposedPorts", &port, json!({}));
    Ok(())
}

/// `[[ip:]host:]container[/protocol]`
fn publish(body: &mut Value, value: &str) -> Result<(), String> {
    let mut parts = value.rsplitn(3, ':');
    let inside = port(parts.next().unwrap_or_default())?;
    let host = parts.next().ok_or("expected [IP:]HOST:CONTAINER[/PROTOCOL]")?;
    let host: u16 = host.parse().map_err(|_| "the port on the host is no port".to_owned())?;
    let ip = parts.next().unwrap_or_default();
    bind_port(body, &inside, ip, host);
    Ok(())
}

/// Makes a port of the container (`80/tcp`) one of the host.
pub(super) fn bind_port(body: &mut Value, inside: &str, ip: &str, host: u16) {
    insert(body, "ExposedPorts", inside, json!({}));
    let mut bindings = at_path(body, "HostConfig.PortBindings")[inside].take();
    if !bindings.is_array() {
        bindings = json!([]);
    }
    if let Some(list) = bindings.as_array_mut() {
        list.push(json!({ "HostIp": ip, "HostPort": host.to_string() }));
    }
    insert(body, "HostConfig.PortBindings", inside, bindings);
}

/// `all`, a number, or `device=ID,ID`.
fn gpus(body: &mut Value, value: &str) -> Result<(), String> {
    let mut entry = json!({ "Capabilities": [["gpu"]] });
    if value == "all" {
        entry["Count"] = (-1).into();
    } else if let Ok(count) = value.parse::<u32>() {
        entry["Count"] = count.into();
    } else if let Some(ids) = value.trim_matches('"').strip_prefix("device=") {
        entry["DeviceIDs"] = ids.split(',').collect();
    } else {
        return Err("expected all, a number, or device=ID,ID".into());
    }
    push(body, "HostConfig.DeviceRequests", entry);
    Ok(())
}

/// The network's name is filled in at the end: see `mapping`.
fn address(body: &mut Value, member: &str, value: &str) -> Result<(), String> {
    let _: std::net::IpAddr = value.parse().map_err(|_| "expected an address".to_owned())?;
    insert(body, "Endpoint.IPAMConfig", member, value.into());
    Ok(())
}

#[allow(clippy::unnecessary_wraps)] // an entry of the table
fn alias(body: &mut Value, value: &str) -> Result<(), String> {
    push(body, "Endpoint.Aliases", value.into());
    Ok(())
}

fn no_healthcheck(body: &mut Value, value: &str) -> Result<(), String> {
    if flag(value)? {
        insert(body, "Healthcheck", "Test", json!(["NONE"]));
    }
    Ok(())
}

fn security(body: &mut Value, value: &str) -> Result<(), String> {
    let is_file = value.strip_prefix("seccomp=").or_else(|| value.strip_prefix("seccomp:"));
    if is_file.is_some_and(|profile| profile != "unconfined" && !profile.starts_with('{')) {
        return Err("give the seccomp profile itself as JSON, or unconfined".into());
    }
    push(body, "HostConfig.SecurityOpt", value.into());
    Ok(())
}

#[allow(clippy::unnecessary_wraps)] // an entry of the table
fn tmpfs(body: &mut Value, value: &str) -> Result<(), String> {
    let (path, options) = value.split_once(':').unwrap_or((value, ""));
    insert(body, "HostConfig.Tmpfs", path, options.into());
    Ok(())
}

/// `nofile=1024[:2048]`
fn ulimit(body: &mut Value, value: &str) -> Result<(), String> {
    let wrong = || "expected NAME=SOFT[:HARD]".to_owned();
    let (name, limits) = value.split_once('=').ok_or_else(wrong)?;
    let (soft, hard) = limits.split_once(':').unwrap_or((limits, limits));
    let number = |text: &str| match text {
        "unlimited" => Ok(-1),
        text => text.parse::<i64>().map_err(|_| wrong()),
    };
    let entry = json!({ "Name": name, "Soft": number(soft)?, "Hard": number(hard)? });
    push(body, "HostConfig.Ulimits", entry);
    Ok(())
}

/// `/host:/container[:options]`, or a path that gets an anonymous volume.
fn volume(body: &mut Value, value: &str) -> Result<(), String> {
    match value.split_once(':') {
        None if value.starts_with('/') => insert(body, "Volumes", value, json!({})),
        None => return Err("expected SOURCE:PATH[:OPTIONS] or an absolute path".into()),
        Some((source, rest)) if source.is_empty() || !rest.starts_with('/') => {
            return Err("expected SOURCE:PATH[:OPTIONS]".into());
        }
        Some(_) => push(body, "HostConfig.Binds", value.into()),
    }
    Ok(())
}

/// `type=bind,source=/a,target=/b,readonly`
fn mount(body: &mut Value, value: &str) -> Result<(), String> {
    let mut entry = json!({ "Type": "volume" });
    for part in value.split(',') {
        let (key, value) = part.split_once('=').unwrap_or((part, ""));
        match key.to_ascii_lowercase().as_str() {
            "type" => entry["Type"] = value.into(),
            "source" | "src" => entry["Source"] = value.into(),
            "target" | "dst" | "destination" => entry["Target"] = value.into(),
            "readonly" | "ro" => entry["ReadOnly"] = flag(value)?.into(),
            "consistency" => entry["Consistency"] = value.into(),
            "bind-propagation" => insert(&mut entry, "BindOptions", "Propagation", value.into()),
            "volume-nocopy" => insert(&mut entry, "VolumeOptions", "NoCopy", flag(value)?.into()),
            "volume-driver" => {
                insert(&mut entry, "VolumeOptions.DriverConfig", "Name", value.into());
            }
            "volume-opt" => {
                let (name, value) = value.split_once('=').unwrap_or((value, ""));
                insert(&mut entry, "VolumeOptions.DriverConfig.Options", name, value.into());
            }
            "tmpfs-size" => insert(&mut entry, "TmpfsOptions", "SizeBytes", size(value)?.into()),
            "tmpfs-mode" => {
                let mode = u32::from_str_radix(value, 8);
                let mode = mode.map_err(|_| "tmpfs-mode: expected an octal mode".to_owned())?;
                insert(&mut entry, "TmpfsOptions", "Mode", mode.into());
            }
            other => return Err(format!("'{other}' is no key of a mount")),
        }
    }
    if entry["Target"].as_str().is_none_or(|target| !target.starts_with('/')) {
        return Err("a mount needs an absolute 'target'".into());
    }
    push(body, "HostConfig.Mounts", entry);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn applied(key: &str, value: &str) -> Result<Value, String> {
        let mut body = json!({});
        apply(&mut body, key, value).map(|()| body)
    }

    #[test]
    fn the_table_is_sorted() {
        assert!(OPTIONS.is_sorted_by(|(a, _), (b, _)| a < b));
        let known = |name: &str| OPTIONS.iter().any(|(option, _)| *option == name);
        assert!(SHORT.iter().all(|(_, long)| known(long)));
    }

    #[test]
    fn what_the_api_can_say_is_said() {
        let host = |value: Value| json!({ "HostConfig": value });
        for (key, value, wanted) in [
            ("add-host", "a:1.2.3.4", host(json!({"ExtraHosts": ["a:1.2.3.4"]}))),
            ("cap-add", "SYS_ADMIN", host(json!({"CapAdd": ["SYS_ADMIN"]}))),
            ("cpus", "1.5", host(json!({"NanoCpus": 1_500_000_000}))),
            ("cpuset-cpus", "0-1", host(json!({"CpusetCpus": "0-1"}))),
            (
                "device",
                "/dev/fuse",
                host(json!({"Devices": [{"PathOnHost": "/dev/fuse",
                    "PathInContainer": "/dev/fuse", "CgroupPermissions": "rwm"}]})),
            ),
            (
                "device",
                "acme.com/widget=w0",
                host(json!({"DeviceRequests": [{"Driver": "cdi",
                    "DeviceIDs": ["acme.com/widget=w0"]}]})),
            ),
            ("log-driver", "local", host(json!({"LogConfig": {"Type": "local"}}))),
            ("dns", "8.8.8.8", host(json!({"Dns": ["8.8.8.8"]}))),
            ("e", "A=b", json!({"Env": ["A=b"]})),
            ("entrypoint", "/x", json!({"Entrypoint": ["/x"]})),
            ("expose", "80", json!({"ExposedPorts": {"80/tcp": {}}})),
            (
                "gpus",
                "all",
                host(json!({"DeviceRequests": [{"Capabilities": [["gpu"]], "Count": -1}]})),
            ),
            ("init", "true", host(json!({"Init": true}))),
            ("label", "a.b=c", json!({"Labels": {"a.b": "c"}})),
            ("log-opt", "max-size=1m", host(json!({"LogConfig": {"Config": {"max-size": "1m"}}}))),
            ("memory-swap", "-1", host(json!({"MemorySwap": -1}))),
            (
                "mount",
                "type=tmpfs,target=/t,tmpfs-size=1m",
                host(json!({"Mounts": [{"Type": "tmpfs", "Target": "/t",
                    "TmpfsOptions": {"SizeBytes": 1 << 20}}]})),
            ),
            (
                "p",
                "127.0.0.1:31000:80/udp",
                json!({"ExposedPorts": {"80/udp": {}}, "HostConfig": {"PortBindings": {
                    "80/udp": [{"HostIp": "127.0.0.1", "HostPort": "31000"}]}}}),
            ),
            ("read-only", "", host(json!({"ReadonlyRootfs": true}))),
            ("shm-size", "64m", host(json!({"ShmSize": 64 << 20}))),
            (
                "sysctl",
                "net.core.somaxconn=9",
                host(json!({"Sysctls": {"net.core.somaxconn": "9"}})),
            ),
            ("tmpfs", "/t:size=1m", host(json!({"Tmpfs": {"/t": "size=1m"}}))),
            (
                "ulimit",
                "nofile=1:2",
                host(json!({"Ulimits": [{"Name": "nofile", "Soft": 1, "Hard": 2}]})),
            ),
            ("v", "/a:/b:ro", host(json!({"Binds": ["/a:/b:ro"]}))),
            ("volume", "/data", json!({"Volumes": {"/data": {}}})),
            ("w", "/x", json!({"WorkingDir": "/x"})),
        ] {
            assert_eq!(applied(key, value).as_ref(), Ok(&wanted), "{key}={value}");
        }
    }

    #[test]
    fn what_it_cannot_say_is_refused_by_name() {
        for (key, value, words) in [
            ("restart", "always", "a task that ends has ended"),
            ("rm", "true", "--docker_remove_delay"),
            ("tty", "true", "terminal"),
            ("env-file", "/x", "use 'env'"),
            ("frobnicate", "1", "no option of that name"),
            ("memory", "lots", "expected a size"),
            ("memory", "1e40g", "expected a size"),
            ("cpus", "many", "expected a number"),
            ("init", "maybe", "true or false"),
            ("device", "sda", "expected /dev/HOST"),
            ("device", "/dev/a:/dev/b:xyz", "'xyz' are no rights"),
            ("publish", "80", "expected [IP:]HOST:CONTAINER"),
            ("publish", "a:80", "no port"),
            ("expose", "80/xyz", "no protocol"),
            ("ulimit", "nofile", "NAME=SOFT"),
            ("volume", "data", "SOURCE:PATH"),
            ("mount", "type=bind", "absolute 'target'"),
            ("mount", "target=/a,colour=red", "'colour'"),
            ("security-opt", "seccomp=/etc/x.json", "as JSON"),
            ("ip", "somewhere", "expected an address"),
        ] {
            let text = applied(key, value).unwrap_err();
            assert!(text.contains(words) && text.contains(key), "{key}={value}: {text}");
        }
    }
}
