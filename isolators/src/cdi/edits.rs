//! Edits of specs in the plan's words. Asks the kernel for device numbers only.

use std::path::{Path, PathBuf};

use kernel::bpf::device::{Access, Kind, Rule};
use kernel::machine::{self, DeviceNumber};
use oci_spec::runtime::{LinuxDevice, LinuxDeviceType, Mount};

use super::Hooks;
use super::spec::{Bind, Edits, Node};
use crate::api::{ContainerContext, Contribution};
use crate::mounts::bind;

/// What a container with some devices gets.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Given {
    pub part: Contribution,
    /// What its processes may do with which devices.
    pub rules: Vec<Rule>,
}

/// Applies `edits` in order.
///
/// # Errors
/// An edit is not supported, or does not fit the container; for people.
pub(super) fn apply(
    edits: &[&Edits],
    context: &ContainerContext,
    hooks: Hooks,
) -> Result<Given, String> {
    let mut given = Given::default();
    for edits in edits {
        refuse(edits, hooks)?;
        for variable in &edits.env {
            if let Some((name, value)) = variable.split_once('=') {
                given.part.environment.insert(name.to_owned(), value.to_owned());
            }
        }
        for node in &edits.device_nodes {
            add_node(node, context, &mut given)?;
        }
        for mount in &edits.mounts {
            given.part.mounts.extend(mounted(mount, context)?);
        }
        // 0 means none in CDI.
        let groups = edits.additional_gids.iter().filter(|gid| **gid != 0);
        given.part.supplementary_groups.extend(groups);
    }
    Ok(given)
}

fn refuse(edits: &Edits, hooks: Hooks) -> Result<(), String> {
    if let Some(hook) = edits.hooks.first().filter(|_| hooks == Hooks::Refuse) {
        return Err(format!(
            "its {} hook '{}' is not supported: --cdi_hooks=ignore leaves hooks out",
            hook.hook_name, hook.path
        ));
    }
    if !edits.net_devices.is_empty() {
        return Err("network devices (netDevices) are not supported".into());
    }
    if edits.intel_rdt.is_some() {
        return Err("cache and bandwidth classes (intelRdt) are not supported".into());
    }
    Ok(())
}

/// The device's number: what the spec says, else what the host's node says.
fn number(node: &Node) -> Result<Option<DeviceNumber>, String> {
    let host = node.host_path.as_ref().unwrap_or(&node.path);
    let part =
        |n: i64| u32::try_from(n).map_err(|_| format!("'{n}' of '{host}' is no device number"));
    match (node.r#type.as_deref(), node.major, node.minor) {
        // A pipe has no number, and needs no permission.
        (Some("p"), ..) => Ok(None),
        (Some(kind), Some(major), Some(minor)) => {
            Ok(Some(DeviceNumber { block: kind == "b", major: part(major)?, minor: part(minor)? }))
        }
        _ => match machine::device(Path::new(host)) {
            Ok(Some(number)) => Ok(Some(number)),
            Ok(None) => Err(format!("'{host}' is no device")),
            Err(error) => Err(format!("failed to find the device '{host}': {error}")),
        },
    }
}

fn add_node(node: &Node, context: &ContainerContext, given: &mut Given) -> Result<(), String> {
    let number = number(node)?;
    if let Some(number) = number {
        let letters = node.permissions.as_deref().unwrap_or("rwm");
        let has = |letter| letters.contains(letter);
        given.rules.push(Rule {
            kind: if number.block { Kind::Block } else { Kind::Char },
            major: Some(number.major),
            minor: Some(number.minor),
            access: Access { read: has('r'), write: has('w'), mknod: has('m') },
        });
    }
    let host = node.host_path.as_ref().unwrap_or(&node.path);
    if context.rootfs.is_some() {
        given.part.devices.push(made(node, number, context));
        return Ok(());
    }
    // The container has the host's /dev, where nothing may be made.
    if *host != node.path {
        let target = existing(Path::new(&node.path))?;
        given.part.mounts.push(bind(Path::new(host), &target, false));
    }
    Ok(())
}

/// A node in a root file system of the container's own. It belongs to the task's
/// user unless the spec says otherwise.
fn made(node: &Node, number: Option<DeviceNumber>, context: &ContainerContext) -> LinuxDevice {
    let (uid, gid) = context.ids.unwrap_or((0, 0));
    let (kind, major, minor) = match number {
        None => (LinuxDeviceType::P, 0, 0),
        Some(n) if n.block => (LinuxDeviceType::B, n.major, n.minor),
        Some(n) => (LinuxDeviceType::C, n.major, n.minor),
    };
    let mut device = LinuxDevice::default();
    device
        .set_path(PathBuf::from(&node.path))
        .set_typ(kind)
        .set_major(major.into())
        .set_minor(minor.into())
        .set_file_mode(Some(node.file_mode.unwrap_or(0o660) & 0o777))
        .set_uid(Some(node.uid.unwrap_or(uid)))
        .set_gid(Some(node.gid.unwrap_or(gid)));
    device
}

fn mounted(mount: &Bind, context: &ContainerContext) -> Result<Option<Mount>, String> {
    let target = PathBuf::from(&mount.container_path);
    let is_bind = mount.r#type.as_deref().is_none_or(|kind| kind == "bind" || kind == "none");
    let is_bind =
        is_bind || mount.options.iter().any(|option| option == "bind" || option == "rbind");
    if context.rootfs.is_none() {
        // The host's own file, where the container sees it already.
        if is_bind && mount.host_path == mount.container_path {
            return Ok(None);
        }
        existing(&target)?;
    }
    let mut options = mount.options.clone();
    let said = |word: &str| options.iter().any(|option| option == word);
    if is_bind && !said("bind") && !said("rbind") {
        options.insert(0, "rbind".into());
    }
    let kind = if is_bind { "bind" } else { mount.r#type.as_deref().unwrap_or("bind") };
    let mut made = Mount::default();
    made.set_destination(target)
        .set_typ(Some(kind.to_owned()))
        .set_source(Some(PathBuf::from(&mount.host_path)))
        .set_options(Some(options));
    Ok(Some(made))
}

/// A path of the host's file system, which the container shares.
fn existing(path: &Path) -> Result<PathBuf, String> {
    match path.exists() {
        true => Ok(path.to_owned()),
        false => Err(format!(
            "'{}' must exist if the container shares the host filesystem",
            path.display()
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::suite::context;

    fn edits(json: &str) -> Edits {
        serde_json::from_str(json).unwrap()
    }

    const FULL: &str = r#"{"deviceNodes": [{"path": "/dev/widget0", "hostPath": "/dev/full",
        "permissions": "rw"}, {"path": "/dev/zero"}, {"path": "/dev/block", "type": "b", "major": 7,
        "minor": 250, "permissions": "r", "fileMode": 416, "uid": 5}],
        "mounts": [{"hostPath": "/usr", "containerPath": "/usr"},
                   {"hostPath": "/usr", "containerPath": "/opt", "options": ["ro", "nosuid"]}],
        "additionalGids": [0, 7], "env": ["A=b=c"]}"#;

    #[test]
    fn a_container_with_a_root_of_its_own_gets_nodes() {
        let mut context = context("a");
        context.rootfs = Some("/image".into());
        context.ids = Some((1000, 100));
        let given = apply(&[&edits(FULL)], &context, Hooks::Refuse).unwrap();
        let rules: Vec<String> = given.rules.iter().map(ToString::to_string).collect();
        assert_eq!(rules, ["c 1:7 rw", "c 1:5 rwm", "b 7:250 r"]);
        let nodes: Vec<_> = given
            .part
            .devices
            .iter()
            .map(|d| (d.path().to_str().unwrap(), d.minor(), d.file_mode(), d.uid()))
            .collect();
        let wanted = [
            ("/dev/widget0", 7, Some(0o660), Some(1000)),
            ("/dev/zero", 5, Some(0o660), Some(1000)),
            ("/dev/block", 250, Some(0o640), Some(5)),
        ];
        assert_eq!(nodes, wanted);
        assert_eq!(given.part.mounts.len(), 2);
        let options = given.part.mounts[1].options().clone().unwrap();
        assert_eq!(options, ["rbind", "ro", "nosuid"]);
        assert_eq!(given.part.supplementary_groups, [7]);
        assert_eq!(given.part.environment["A"], "b=c");
    }

    #[test]
    fn the_hosts_own_files_are_not_touched() {
        let given = apply(&[&edits(FULL)], &context("a"), Hooks::Refuse).unwrap_err();
        assert!(given.contains("'/dev/widget0' must exist"), "{given}");
        let json = FULL.replace("/dev/widget0", "/dev/null");
        let given = apply(&[&edits(&json)], &context("a"), Hooks::Refuse).unwrap();
        assert!(given.part.devices.is_empty());
        let targets: Vec<_> =
            given.part.mounts.iter().map(|m| m.destination().to_str().unwrap()).collect();
        assert_eq!(targets, ["/dev/null", "/opt"]);
        assert_eq!(given.rules.len(), 3);
    }

    #[test]
    fn what_is_not_supported_is_refused_by_name() {
        let hook = r#"{"hooks": [{"hookName": "createContainer", "path": "/bin/hook"}]}"#;
        for (json, words) in [
            (hook, "its createContainer hook '/bin/hook'"),
            (r#"{"netDevices": [{}]}"#, "netDevices"),
            (r#"{"intelRdt": {}}"#, "intelRdt"),
            (r#"{"deviceNodes": [{"path": "/dev/none"}]}"#, "find the device '/dev/none'"),
            (r#"{"deviceNodes": [{"path": "/etc"}]}"#, "'/etc' is no device"),
            (r#"{"mounts": [{"hostPath": "/x", "containerPath": "/no/such"}]}"#, "'/no/such' must"),
        ] {
            let error = apply(&[&edits(json)], &context("a"), Hooks::Refuse).unwrap_err();
            assert!(error.contains(words), "{error}");
        }
        let given = apply(&[&edits(hook)], &context("a"), Hooks::Ignore).unwrap();
        assert_eq!(given, Given::default());
    }
}
