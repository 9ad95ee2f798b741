//! A launch request in the isolators' and the engine's words. Pure.

use std::path::{Path, PathBuf};

use isolators::api::{ContainerContext, Parent};
use isolators::plan::Environment;
use isolators::secret::Secrets;
use mesos::container_info::Type;
use mesos::{CommandInfo, ContainerInfo};

use super::image;
use crate::containerizer::LaunchRequest;
use crate::containerizer::request::{command_environment, labels};
use crate::containerizer::terminal;

/// What a container gets if nobody sets `PATH`.
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Longest value of a container id: it is a directory's name.
const LONGEST_ID: usize = 242;

/// Why a request is not for this containerizer, or for none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Refusal {
    /// Another containerizer may take it.
    NotSupported(String),
    /// Nobody can.
    Bad(String),
}

/// What the agent has to do with images.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Images {
    /// There is a provisioner.
    pub(super) provided: bool,
    /// What they say of their command counts.
    pub(super) heeded: bool,
}

/// Why a container of this type is another containerizer's.
pub(super) fn others(info: Option<&ContainerInfo>) -> Option<String> {
    let other = info.is_some_and(|info| info.r#type != Type::Mesos as i32);
    other.then(|| "containers that are not of type MESOS".into())
}

/// Checks what can be checked without looking at the machine.
pub(super) fn check(
    request: &LaunchRequest,
    secrets: &Secrets,
    images: Images,
) -> Result<(), Refusal> {
    if let Some(what) = others(request.container.as_ref()) {
        return Err(Refusal::NotSupported(what));
    }
    if image::wanted(request).is_some() && !images.provided {
        return Err(Refusal::NotSupported(image::NO_PROVIDER.into()));
    }
    terminal::wanted(request)
        .map_err(|text| Refusal::Bad(format!("'tty_info.window_size': {text}")))?;
    let mut next = Some(&request.id);
    while let Some(id) = next {
        check_id(&id.value).map_err(Refusal::Bad)?;
        next = id.parent.as_deref();
    }
    // An image may know what there is to execute.
    if image::wanted(request).is_none() || !images.heeded {
        command(&request.command).map(|_| ()).map_err(Refusal::Bad)?;
    }
    command_environment(&request.command, secrets).map(|_| ()).map_err(Refusal::Bad)
}

/// Whether the named networks that a container asks for are anybody's business here.
pub(super) fn networks(info: Option<&ContainerInfo>, isolation: &[&str]) -> Result<(), String> {
    let infos = info.map(|info| info.network_infos.as_slice()).unwrap_or_default();
    match infos.iter().find_map(|network| network.name.as_deref()) {
        Some(name) if !isolation.contains(&"network/cni") => Err(format!(
            "the network '{name}' needs the isolator 'network/cni': add it to --isolation"
        )),
        _ => Ok(()),
    }
}

fn check_id(value: &str) -> Result<(), String> {
    let odd = |c: char| c == '/' || c == '.' || c.is_control() || c.is_whitespace();
    if value.is_empty() || value.len() > LONGEST_ID || value.contains(odd) {
        return Err(format!("'{value}' is not a container id"));
    }
    Ok(())
}

/// What is executed: the program if it is not the first argument, the arguments.
pub(super) fn command(command: &CommandInfo) -> Result<(Option<String>, Vec<String>), String> {
    if command.shell.unwrap_or(true) {
        let value = command.value.as_ref().ok_or("a shell command needs a 'value'")?;
        return Ok((Some("/bin/sh".into()), vec!["sh".into(), "-c".into(), value.clone()]));
    }
    let value = command.value.as_ref().ok_or("a command needs a 'value'")?;
    let arguments = match command.arguments.is_empty() {
        true => vec![value.clone()],
        false => command.arguments.clone(),
    };
    Ok((Some(value.clone()), arguments))
}

/// The agent's variables, and those every container has.
pub(super) fn base_environment(
    request: &LaunchRequest,
    sandbox_directory: &Path,
    rootfs: Option<&Path>,
) -> Environment {
    let mut environment = request.environment.clone();
    let sandbox = rootfs.map_or(request.sandbox.as_path(), |_| sandbox_directory);
    environment.insert("MESOS_SANDBOX".into(), sandbox.display().to_string());
    environment.entry("PATH".into()).or_insert_with(|| DEFAULT_PATH.into());
    environment
}

/// The context for the isolators.
pub(super) fn context(
    request: &LaunchRequest,
    runtime: PathBuf,
    ids: Option<(u32, u32)>,
    parent: Option<Parent>,
) -> ContainerContext {
    ContainerContext {
        id: request.id.clone(),
        info: request.container.clone(),
        sandbox: request.sandbox.clone(),
        rootfs: None,
        runtime,
        user: request.user.clone(),
        ids,
        requests: request.requests.clone(),
        limits: request.limits.clone(),
        labels: labels(request),
        parent,
        ephemeral_volumes: Vec::new(),
        command_task: request.task.is_some(),
        command: request.command.clone(),
        image: None,
    }
}

#[cfg(test)]
mod tests {
    use mesos::NetworkInfo;

    use super::*;
    use crate::containerizer::request::tests::request;

    fn shell(value: &str) -> CommandInfo {
        CommandInfo { value: Some(value.into()), ..CommandInfo::default() }
    }

    #[test]
    fn commands() {
        let (program, arguments) = command(&shell("echo hi")).unwrap();
        assert_eq!(
            (program.as_deref(), arguments.join("|")),
            (Some("/bin/sh"), "sh|-c|echo hi".into())
        );
        let exec = |value: Option<&str>, arguments: &[&str]| CommandInfo {
            shell: Some(false),
            value: value.map(Into::into),
            arguments: arguments.iter().map(|a| (*a).to_owned()).collect(),
            ..CommandInfo::default()
        };
        let (program, arguments) = command(&exec(Some("/bin/ls"), &["ls", "-l"])).unwrap();
        assert_eq!((program.as_deref(), arguments.join("|")), (Some("/bin/ls"), "ls|-l".into()));
        let (_, arguments) = command(&exec(Some("ls"), &[])).unwrap();
        assert_eq!(arguments, ["ls"]);
        assert!(command(&exec(None, &["ls"])).is_err());
        assert!(command(&CommandInfo::default()).is_err());
    }

    #[test]
    fn environment() {
        let mut wanted = request("a", shell("true"));
        wanted.environment.insert("A".into(), "1".into());
        let environment = base_environment(&wanted, Path::new("/mnt/mesos/sandbox"), None);
        assert_eq!(environment["MESOS_SANDBOX"], "/sandbox");
        assert_eq!((environment["A"].as_str(), environment["PATH"].as_str()), ("1", DEFAULT_PATH));
        wanted.environment.insert("PATH".into(), "/bin".into());
        let rootfs = Some(Path::new("/r"));
        let environment = base_environment(&wanted, Path::new("/mnt/mesos/sandbox"), rootfs);
        assert_eq!(environment["MESOS_SANDBOX"], "/mnt/mesos/sandbox");
        assert_eq!(environment["PATH"], "/bin");
    }

    #[test]
    fn what_is_refused() {
        let check =
            |request: &LaunchRequest| check(request, &Secrets::default(), Images::default());
        assert_eq!(check(&request("a", shell("true"))), Ok(()));
        for bad in ["", "a/b", "..", "a b", &"x".repeat(243)] {
            assert!(matches!(check(&request(bad, shell("true"))), Err(Refusal::Bad(_))), "{bad}");
        }
        let with = |info: ContainerInfo| {
            check(&LaunchRequest { container: Some(info), ..request("a", shell("true")) })
        };
        let mesos = ContainerInfo { r#type: Type::Mesos as i32, ..ContainerInfo::default() };
        assert_eq!(with(mesos.clone()), Ok(()));
        let docker = ContainerInfo { r#type: Type::Docker as i32, ..ContainerInfo::default() };
        assert!(matches!(with(docker), Err(Refusal::NotSupported(_))));
        let network = NetworkInfo { name: Some("net".into()), ..NetworkInfo::default() };
        let info = ContainerInfo { network_infos: vec![network], ..mesos };
        let isolated = |names: &[&'static str]| networks(Some(&info), names);
        assert!(isolated(&["filesystem/linux"]).unwrap_err().contains("add it to --isolation"));
        assert_eq!(isolated(&["network/cni"]), Ok(()));
        assert_eq!(networks(None, &[]), Ok(()));
    }
}
