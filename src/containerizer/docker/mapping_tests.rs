//! The mapping as a table: ContainerInfo and CommandInfo to the body of a creation.

use std::path::Path;

use isolators::quantity::scalar;
use mesos::container_info::docker_info::PortMapping;
use mesos::tty_info::WindowSize;
use mesos::volume::{Mode, Source, source};
use mesos::{CommandInfo, ContainerId, NetworkInfo, Parameter, TtyInfo, Volume, value};

use super::*;

const MACHINE: u64 = 1 << 30;

fn request(docker: DockerInfo, change: impl FnOnce(&mut LaunchRequest)) -> LaunchRequest {
    let docker = DockerInfo { image: "bb".into(), ..docker };
    let info = ContainerInfo {
        r#type: Type::Docker as i32,
        docker: Some(docker),
        ..ContainerInfo::default()
    };
    let command = CommandInfo { value: Some("true".into()), ..CommandInfo::default() };
    let mut request = LaunchRequest {
        id: ContainerId { value: "c".into(), parent: None },
        command,
        container: Some(info),
        requests: vec![scalar("cpus", 1.0), scalar("mem", 64.0)],
        sandbox: "/w/sandbox:1".into(),
        environment: BTreeMap::from([
            ("MESOS_SLAVE_ID".to_owned(), "S0".to_owned()),
            ("PATH".to_owned(), "/host".to_owned()),
        ]),
        task: Some(mesos::TaskInfo::default()),
        ..LaunchRequest::default()
    };
    change(&mut request);
    request
}

fn info(request: &mut LaunchRequest) -> &mut ContainerInfo {
    request.container.as_mut().expect("a container")
}

fn network(kind: Network) -> DockerInfo {
    DockerInfo { network: Some(kind as i32), ..DockerInfo::default() }
}

fn parameters(rows: &[(&str, &str)]) -> DockerInfo {
    let parameter =
        |(key, value): &(&str, &str)| Parameter { key: (*key).into(), value: (*value).into() };
    DockerInfo { parameters: rows.iter().map(parameter).collect(), ..DockerInfo::default() }
}

fn config() -> Config {
    let persistent = |_: &Path, _: &Resource| Some("/w/volumes/v".into());
    Config { owner: "/w".into(), persistent, ..Config::default() }
}

fn body(request: &LaunchRequest) -> Result<Value, String> {
    wanted(request, &config(), MACHINE, &Beside::default()).map(|wanted| wanted.body)
}

#[test]
fn a_plain_command_task() {
    let wanted = body(&request(DockerInfo::default(), |_| {})).expect("it is fine");
    let expected = json!({
        "Image": "bb",
        "Labels": { "bulkhead.owner": "/w", "bulkhead.agent": "S0", "bulkhead.task": "" },
        "AttachStdout": false, "AttachStderr": false,
        "Entrypoint": ["/bin/sh"], "Cmd": ["-c", "true"],
        "Env": ["MESOS_ALLOCATION_ROLE=", "MESOS_CONTAINER_NAME=mesos-c",
                "MESOS_SANDBOX=/mnt/mesos/sandbox"],
        "HostConfig": {
            "CpuShares": 1024, "Memory": 64 << 20, "NetworkMode": "host",
            "Mounts": [{ "Type": "bind", "Source": "/w/sandbox:1",
                         "Target": "/mnt/mesos/sandbox", "ReadOnly": false }],
        },
    });
    assert_eq!(wanted, expected);
}

#[test]
fn commands_follow_or_replace_the_entry_point() {
    let exec = |value: Option<&str>, arguments: &[&str]| {
        let arguments = arguments.iter().map(|a| (*a).to_owned()).collect();
        let value = value.map(str::to_owned);
        let command =
            CommandInfo { shell: Some(false), value, arguments, ..CommandInfo::default() };
        let body = body(&request(DockerInfo::default(), |r| r.command = command)).expect("fine");
        (body["Entrypoint"].clone(), body["Cmd"].clone())
    };
    assert_eq!(exec(None, &[]), (Value::Null, Value::Null));
    assert_eq!(exec(Some("ls"), &[]), (Value::Null, json!(["ls"])));
    // compat: unlike in Mesos' own containers the value comes before the arguments.
    assert_eq!(exec(Some("ls"), &["-l"]), (Value::Null, json!(["ls", "-l"])));
    assert_eq!(exec(None, &["-l"]), (Value::Null, json!(["-l"])));
    let nothing = request(DockerInfo::default(), |r| r.command.value = None);
    assert!(body(&nothing).expect_err("no value").contains("needs a 'value'"));
}

#[test]
fn networks_ports_and_names() {
    let mapping = |host, protocol: Option<&str>| PortMapping {
        host_port: host,
        container_port: 80,
        protocol: protocol.map(Into::into),
    };
    let ports = |kind, mappings: Vec<PortMapping>| {
        let docker = DockerInfo { port_mappings: mappings, ..network(kind) };
        let range = value::Range { begin: 31000, end: 31010 };
        body(&request(docker, |r| {
            info(r).network_infos =
                vec![NetworkInfo { name: Some("net".into()), ..NetworkInfo::default() }];
            r.requests.push(Resource {
                name: "ports".into(),
                r#type: value::Type::Ranges as i32,
                ranges: Some(value::Ranges { range: vec![range] }),
                ..Resource::default()
            });
        }))
    };
    for (kind, wanted) in [
        (Network::Host, "host"),
        (Network::Bridge, "bridge"),
        (Network::None, "none"),
        (Network::User, "net"),
    ] {
        assert_eq!(ports(kind, vec![]).expect("fine")["HostConfig"]["NetworkMode"], wanted);
    }
    let two = vec![mapping(31000, None), mapping(31001, Some("UDP"))];
    let mapped = ports(Network::Bridge, two).expect("both are offered");
    assert_eq!(mapped["ExposedPorts"], json!({ "80/tcp": {}, "80/udp": {} }));
    assert_eq!(
        mapped["HostConfig"]["PortBindings"]["80/udp"],
        json!([{ "HostIp": "", "HostPort": "31001" }])
    );
    for (kind, mapping, words) in [
        (Network::Host, mapping(31000, None), "need a BRIDGE or USER network"),
        (Network::Bridge, mapping(32000, None), "port 32000 is not among the task's resources"),
        (Network::Bridge, mapping(99_999, None), "99999 is not a port"),
        (Network::Bridge, mapping(31000, Some("icmp")), "'icmp' is not tcp, udp or sctp"),
    ] {
        let text = ports(kind, vec![mapping]).expect_err(words);
        assert!(text.contains(words), "{text}");
    }
    let none = request(network(Network::User), |_| {});
    assert!(body(&none).expect_err("no name").contains("one entry in 'network_infos'"));
    let named = |kind| body(&request(network(kind), |r| info(r).hostname = Some("h".into())));
    assert_eq!(named(Network::Bridge).expect("fine")["Hostname"], "h");
    assert!(named(Network::Host).is_err());
}

#[test]
fn parameters_come_last_and_may_override() {
    let rows = [("memory", "128m"), ("net", "other"), ("ip", "10.0.0.9"), ("env", "A=b")];
    let wanted = body(&request(parameters(&rows), |_| {})).expect("fine");
    assert_eq!(wanted["HostConfig"]["Memory"], 128 << 20);
    assert_eq!(wanted["HostConfig"]["NetworkMode"], "other");
    assert_eq!(
        wanted["NetworkingConfig"]["EndpointsConfig"]["other"]["IPAMConfig"]["IPv4Address"],
        "10.0.0.9"
    );
    assert_eq!(wanted["Env"].as_array().and_then(|e| e.last()), Some(&json!("A=b")));
    let text = body(&request(parameters(&[("rm", "true")]), |_| {})).expect_err("refused");
    assert!(text.contains("'rm=true'"), "{text}");
}

#[test]
fn executors_find_their_agent() {
    let wanted = body(&request(DockerInfo::default(), |r| r.task = None)).expect("fine");
    let environment = wanted["Env"].to_string();
    assert!(environment.contains("MESOS_SLAVE_ID=S0"), "{environment}");
    assert!(environment.contains("MESOS_DIRECTORY=/mnt/mesos/sandbox"), "{environment}");
    assert!(!environment.contains("PATH=/host"), "{environment}");
}

#[test]
fn volumes() {
    let plain = |host: Option<&str>, inside: &str, mode: Mode| Volume {
        mode: mode as i32,
        container_path: inside.into(),
        host_path: host.map(Into::into),
        ..Volume::default()
    };
    let with = |volume: Volume| {
        let made = wanted(
            &request(DockerInfo::default(), |r| info(r).volumes = vec![volume]),
            &config(),
            MACHINE,
            &Beside::default(),
        )?;
        let host = &made.body["HostConfig"];
        Ok::<_, String>((host["Binds"].clone(), host["Mounts"][1].clone(), made.directories))
    };
    let (rw, ro) = (Mode::Rw, Mode::Ro);
    let (binds, _, _) = with(plain(Some("/h"), "/c", ro)).expect("fine");
    assert_eq!(binds, json!(["/h:/c:ro"]));
    let (binds, _, _) = with(plain(Some("/h"), "c", rw)).expect("fine");
    assert_eq!(binds, json!(["/h:/mnt/mesos/sandbox/c:rw"]));
    let (binds, mount, _) = with(plain(Some("/h:1"), "/c", ro)).expect("fine");
    assert_eq!(
        (binds, &mount["Source"], &mount["ReadOnly"]),
        (Value::Null, &json!("/h:1"), &json!(true))
    );
    let (_, mount, directories) = with(plain(Some("data/x"), "/c", rw)).expect("fine");
    assert_eq!(mount["Source"], "/w/sandbox:1/data/x");
    assert_eq!(directories, [Path::new("data/x")]);
    for (volume, words) in [
        (plain(Some("a"), "b", rw), "are relative"),
        (plain(Some("../a"), "/b", rw), "leads out of the sandbox"),
        (plain(None, "/b", rw), "is missing"),
        (plain(Some(""), "/b", rw), "is empty"),
    ] {
        let text = with(volume).expect_err(words);
        assert!(text.starts_with("volume '") && text.contains(words), "{text}");
    }
    let docker = source::DockerVolume {
        name: "data".into(),
        driver: Some("rex".into()),
        ..source::DockerVolume::default()
    };
    let source = Source {
        r#type: Some(source::Type::DockerVolume as i32),
        docker_volume: Some(docker),
        ..Source::default()
    };
    let volume = Volume { source: Some(source), ..plain(None, "/c", rw) };
    let made =
        body(&request(DockerInfo::default(), |r| info(r).volumes = vec![volume])).expect("fine");
    assert_eq!(made["HostConfig"]["Binds"], json!(["data:/c:rw"]));
    assert_eq!(made["HostConfig"]["VolumeDriver"], "rex");

    let options = vec![Parameter { key: "size".into(), value: "10".into() }];
    let docker = source::DockerVolume {
        name: "data".into(),
        driver: Some("rex".into()),
        driver_options: Some(mesos::Parameters { parameter: options }),
    };
    let source = Source {
        r#type: Some(source::Type::DockerVolume as i32),
        docker_volume: Some(docker),
        ..Source::default()
    };
    let volume = Volume { source: Some(source), ..plain(None, "/c", ro) };
    let (binds, mount, _) = with(volume).expect("fine");
    assert_eq!(binds, Value::Null);
    let wanted = json!({ "Type": "volume", "Source": "data", "Target": "/c", "ReadOnly": true,
        "VolumeOptions": { "DriverConfig": { "Name": "rex", "Options": { "size": "10" } } } });
    assert_eq!(mount, wanted);
}

#[test]
fn persistent_volumes_are_below_the_sandbox() {
    use mesos::resource::{DiskInfo, disk_info::Persistence};
    let disk = |path: &str| {
        let volume =
            Volume { container_path: path.into(), mode: Mode::Rw as i32, ..Volume::default() };
        let persistence = Some(Persistence { id: "v".into(), principal: None });
        let disk = DiskInfo { persistence, volume: Some(volume), ..DiskInfo::default() };
        let resource = Resource { disk: Some(disk), ..scalar("disk", 1.0) };
        body(&request(DockerInfo::default(), |r| r.requests.push(resource)))
    };
    let mount = &disk("data").expect("fine")["HostConfig"]["Mounts"][1];
    assert_eq!(
        (&mount["Source"], &mount["Target"]),
        (&json!("/w/volumes/v"), &json!("/mnt/mesos/sandbox/data"))
    );
    assert!(disk("/data").expect_err("absolute").contains("not below the sandbox"));
}

#[test]
fn dns_of_the_flag_yields_to_the_tasks_own() {
    let dns = json!({ "docker": [
        { "network_mode": "BRIDGE", "dns": { "nameservers": ["1.1.1.1"], "search": ["a"] } },
        { "network_mode": "USER", "dns": { "nameservers": ["2.2.2.2"] } },
        { "network_mode": "USER", "network_name": "net", "dns": { "nameservers": ["3.3.3.3"] } },
    ] });
    let config = Config { default_dns: Some(dns), ..config() };
    let servers = |docker: DockerInfo, name: &str| {
        let network = NetworkInfo { name: Some(name.into()), ..NetworkInfo::default() };
        let request = request(docker, |r| info(r).network_infos = vec![network]);
        wanted(&request, &config, MACHINE, &Beside::default()).expect("fine").body["HostConfig"]["Dns"].clone()
    };
    assert_eq!(servers(network(Network::Bridge), "net"), json!(["1.1.1.1"]));
    assert_eq!(servers(network(Network::User), "net"), json!(["3.3.3.3"]));
    assert_eq!(servers(network(Network::User), "other"), json!(["2.2.2.2"]));
    assert_eq!(servers(network(Network::Host), "net"), Value::Null);
    let own = parameters(&[("dns", "9.9.9.9")]);
    let own = DockerInfo { network: Some(Network::Bridge as i32), ..own };
    assert_eq!(servers(own, "net"), json!(["9.9.9.9"]));
}

#[test]
fn what_is_for_others_and_what_for_nobody() {
    let plain = request(DockerInfo::default(), |r| r.container = None);
    assert!(matches!(check(&plain), Err(ContainerizerError::NotSupported(_))));
    let mesos = request(DockerInfo::default(), |r| info(r).r#type = Type::Mesos as i32);
    assert!(matches!(check(&mesos), Err(ContainerizerError::NotSupported(_))));
    let bare = request(DockerInfo::default(), |r| info(r).docker = None);
    assert!(check(&bare).is_ok() && body(&bare).is_err());
}

#[test]
fn who_asks_for_a_terminal_has_input_too() {
    let sized = |rows| TtyInfo { window_size: Some(WindowSize { rows, columns: 80 }) };
    let asked = |tty: TtyInfo| request(DockerInfo::default(), |r| info(r).tty_info = Some(tty));
    let made = body(&asked(sized(24))).expect("it is fine");
    assert_eq!((&made["Tty"], &made["OpenStdin"]), (&json!(true), &json!(true)));
    assert_eq!(made["HostConfig"]["ConsoleSize"], json!([24, 80]));
    let plain = body(&request(DockerInfo::default(), |_| {})).expect("it is fine");
    assert_eq!((&plain["Tty"], &plain["OpenStdin"]), (&Value::Null, &Value::Null));
    let error = body(&asked(sized(70_000))).expect_err("refused");
    assert_eq!(error, "'tty_info': rows must be at most 65535, not 70000");
}

#[test]
fn devices_that_are_resources_are_named() {
    let set = |name: &str, items: &[&str]| Resource {
        name: name.into(),
        r#type: value::Type::Set as i32,
        set: Some(value::Set { item: items.iter().map(|item| (*item).to_owned()).collect() }),
        ..Resource::default()
    };
    let asked = request(parameters(&[("device", "other.com/x=1")]), |request| {
        request.requests.push(set("acme.com/widget", &["w0", "w1"]));
    });
    let wanted = body(&asked).expect("it is fine");
    let ids = ["acme.com/widget=w0", "acme.com/widget=w1", "other.com/x=1"];
    let devices = json!([{ "Driver": "cdi", "DeviceIDs": ids }]);
    assert_eq!(wanted["HostConfig"]["DeviceRequests"], devices);
}

#[test]
fn what_the_engine_keeps_of_output_is_limited_unless_the_task_says_how() {
    let config = Config { engine_log: Some(1 << 20), ..config() };
    let log = |rows: &[(&str, &str)]| {
        let wanted =
            wanted(&request(parameters(rows), |_| {}), &config, MACHINE, &Beside::default());
        wanted.expect("it is fine").body["HostConfig"]["LogConfig"].clone()
    };
    let ours = json!({ "Type": "json-file", "Config": { "max-size": "524288", "max-file": "2" } });
    assert_eq!(log(&[]), ours);
    let more = log(&[("log-opt", "max-size=7m")]);
    assert_eq!(
        (&more["Config"]["max-size"], &more["Config"]["max-file"]),
        (&json!("7m"), &json!("2"))
    );
    assert_eq!(log(&[("log-driver", "local")]), json!({ "Type": "local" }));
}
