//! The contract's values as messages and back. Pure.
//!
//! What OCI defines has OCI's names in the messages too, so it goes through OCI's
//! own JSON form: one definition, no second list of enum values. A value that
//! does not convert is the sender's mistake and named.

use std::collections::BTreeMap;
use std::path::PathBuf;

use isolators::api::{ContainerContext, Contribution, Known, Limitation, Parent, Sysctl};
use isolators::linux::seccomp;
use isolators::plan::{CgroupJoin, FileOperation};
use mesos::bulkhead::plugin as wire;
use mesos::{ContainerId, task_status};
use serde::Serialize;
use serde::de::DeserializeOwned;
use thiserror::Error;

/// A value that the contract does not have.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("invalid {what}: {message}")]
pub struct ConvertError {
    /// Which field.
    pub what: &'static str,
    /// What is wrong with it.
    pub message: String,
}

fn bad(what: &'static str, message: impl ToString) -> ConvertError {
    ConvertError { what, message: message.to_string() }
}

/// A container as it is told to a plugin.
#[must_use]
pub fn container(context: &ContainerContext) -> wire::Container {
    let text = |path: &PathBuf| path.display().to_string();
    wire::Container {
        container_id: context.id.clone(),
        container_info: context.info.clone(),
        sandbox: text(&context.sandbox),
        rootfs: context.rootfs.as_ref().map(text),
        runtime: text(&context.runtime),
        user: context.user.clone(),
        uid: context.ids.map(|(uid, _)| uid),
        gid: context.ids.map(|(_, gid)| gid),
        requests: context.requests.clone(),
        limits: context.limits.clone(),
        labels: context.labels.clone(),
        parent: context.parent.as_ref().map(|parent| wire::Parent {
            pid: parent.pid,
            sandbox: text(&parent.sandbox),
            runtime: text(&parent.runtime),
            host_pid_namespace: Some(parent.host_pid_namespace),
        }),
        command_task: Some(context.command_task),
        pid: None,
        ephemeral_volumes: context.ephemeral_volumes.iter().map(text).collect(),
    }
}

/// A container as a plugin's isolator sees it.
#[must_use]
pub fn known(container: wire::Container) -> Known {
    let pid = container.pid;
    let context = ContainerContext {
        id: container.container_id,
        info: container.container_info,
        sandbox: container.sandbox.into(),
        rootfs: container.rootfs.map(PathBuf::from),
        runtime: container.runtime.into(),
        user: container.user,
        ids: container.uid.zip(container.gid),
        requests: container.requests,
        limits: container.limits,
        labels: container.labels,
        parent: container.parent.map(|parent| Parent {
            pid: parent.pid,
            sandbox: parent.sandbox.into(),
            runtime: parent.runtime.into(),
            host_pid_namespace: parent.host_pid_namespace.unwrap_or(false),
        }),
        ephemeral_volumes: container.ephemeral_volumes.into_iter().map(PathBuf::from).collect(),
        command_task: container.command_task.unwrap_or(false),
        ..ContainerContext::default()
    };
    Known { context: context.into(), pid }
}

/// A limit that was hit, for the stream.
#[must_use]
pub fn limitation(id: &ContainerId, limitation: Limitation) -> wire::Limitation {
    wire::Limitation {
        container_id: id.clone(),
        resources: limitation.resources,
        message: limitation.message,
        reason: Some(limitation.reason as i32),
    }
}

/// A limit that was hit, from the stream.
#[must_use]
pub fn limited(limitation: wire::Limitation) -> Limitation {
    let reason = limitation.reason.and_then(|reason| task_status::Reason::try_from(reason).ok());
    Limitation {
        resources: limitation.resources,
        message: limitation.message,
        reason: reason.unwrap_or(task_status::Reason::ContainerLimitation),
    }
}

/// A message as the OCI type of the same JSON form.
fn to_oci<A: prost::Message + prost::Name, B: DeserializeOwned>(
    what: &'static str,
    all: &[A],
) -> Result<Vec<B>, ConvertError> {
    let one = |message: &A| {
        serde_json::from_slice(&mesos::json::to_json(message)).map_err(|e| bad(what, e))
    };
    all.iter().map(one).collect()
}

/// An OCI value as the message of the same JSON form.
fn of_oci<A: Serialize, B: prost::Message + prost::Name + Default>(
    what: &'static str,
    all: &[A],
) -> Result<Vec<B>, ConvertError> {
    let one = |value: &A| {
        let text = serde_json::to_vec(value).map_err(|e| bad(what, e))?;
        mesos::json::from_json(&text).map_err(|e| bad(what, e))
    };
    all.iter().map(one).collect()
}

/// A contribution for the wire.
///
/// # Errors
/// A value has no JSON form.
pub fn contribution(part: &Contribution) -> Result<wire::Contribution, ConvertError> {
    let text = |path: &PathBuf| path.display().to_string();
    let capabilities = part.capabilities.as_ref().map(std::slice::from_ref);
    let capabilities = of_oci("capabilities", capabilities.unwrap_or_default())?.pop();
    if !part.time_offsets.is_empty() || part.id_mappings.is_some() {
        return Err(bad("namespaces", "clocks and ids are not for plugins to set".to_owned()));
    }
    Ok(wire::Contribution {
        namespaces: of_oci("namespaces", &part.namespaces)?,
        mounts: of_oci("mounts", &part.mounts)?,
        devices: of_oci("devices", &part.devices)?,
        environment: part.environment.clone(),
        working_directory: part.working_directory.as_ref().map(text),
        rlimits: of_oci("rlimits", part.rlimits.as_deref().unwrap_or_default())?,
        capabilities,
        seccomp: part.seccomp.as_ref().map(|filter| filter.source.clone()),
        no_new_privileges: Some(part.no_new_privileges),
        masked_paths: part.masked_paths.clone(),
        readonly_paths: part.readonly_paths.clone(),
        supplementary_groups: part.supplementary_groups.clone(),
        cgroups: part.cgroups.iter().map(cgroup).collect(),
        file_operations: part.file_operations.iter().map(file_operation).collect(),
        oom_score_adj: part.oom_score_adj,
        hostname: part.hostname.clone(),
        needs_pid: Some(part.needs_pid),
        sysctls: part.sysctls.iter().map(|(k, v)| (k.clone(), v.value.clone())).collect(),
    })
}

/// A contribution from the wire.
///
/// # Errors
/// The field that no engine could use: plugins are not believed blindly.
pub fn contributed(part: wire::Contribution) -> Result<Contribution, ConvertError> {
    check_environment(&part.environment)?;
    if let Some(score) = part.oom_score_adj.filter(|score| !(-1000..=1000).contains(score)) {
        return Err(bad("oom_score_adj", format!("{score} is not within -1000 and 1000")));
    }
    let paths = part.masked_paths.iter().chain(&part.readonly_paths);
    let paths = paths.chain(part.working_directory.as_ref());
    for path in paths.chain(part.mounts.iter().map(|mount| &mount.destination)) {
        if !path.starts_with('/') || path.contains('\0') {
            return Err(bad("path", format!("'{path}' is not absolute")));
        }
    }
    let capabilities = part.capabilities.as_ref().map(std::slice::from_ref);
    let seccomp = part.seccomp.as_deref().map(seccomp::filter).transpose();
    let rlimits = to_oci("rlimits", &part.rlimits)?;
    Ok(Contribution {
        namespaces: to_oci("namespaces", &part.namespaces)?,
        mounts: to_oci("mounts", &part.mounts)?,
        devices: to_oci("devices", &part.devices)?,
        environment: part.environment,
        working_directory: part.working_directory.map(PathBuf::from),
        rlimits: (!rlimits.is_empty()).then_some(rlimits),
        capabilities: to_oci("capabilities", capabilities.unwrap_or_default())?.pop(),
        seccomp: seccomp.map_err(|e| bad("seccomp", e))?,
        no_new_privileges: part.no_new_privileges.unwrap_or(false),
        masked_paths: part.masked_paths,
        readonly_paths: part.readonly_paths,
        supplementary_groups: part.supplementary_groups,
        cgroups: part.cgroups.into_iter().map(joined).collect::<Result<_, _>>()?,
        file_operations: part
            .file_operations
            .into_iter()
            .map(operation)
            .collect::<Result<_, _>>()?,
        oom_score_adj: part.oom_score_adj,
        hostname: part.hostname,
        sysctls: sysctls(&part.sysctls)?,
        needs_pid: part.needs_pid.unwrap_or(false),
        ..Contribution::default()
    })
}

/// Kernel settings: which namespace they are of, and whether the container has it, is
/// the merge's to say.
fn sysctls(all: &BTreeMap<String, String>) -> Result<BTreeMap<String, Sysctl>, ConvertError> {
    let setting = |(name, value): (&String, &String)| {
        let dotted = isolators::linux::sysctl::dotted(name);
        let dotted = dotted.ok_or_else(|| bad("sysctls", format!("'{name}' is no setting")))?;
        Ok((dotted, Sysctl { value: value.clone(), optional: false, yields: false }))
    };
    all.iter().map(setting).collect()
}

/// Whether every name and value can be an environment variable.
///
/// # Errors
/// The first that cannot.
pub fn check_environment(environment: &BTreeMap<String, String>) -> Result<(), ConvertError> {
    for (name, value) in environment {
        if name.is_empty() || name.contains(['=', '\0']) || value.contains('\0') {
            return Err(bad("environment", format!("'{name}' cannot be a variable")));
        }
    }
    Ok(())
}

fn cgroup(join: &CgroupJoin) -> wire::CgroupJoin {
    match join {
        CgroupJoin::V1(path) => wire::CgroupJoin { v1: Some(path.display().to_string()), v2: None },
        CgroupJoin::V2(path) => wire::CgroupJoin { v1: None, v2: Some(path.display().to_string()) },
    }
}

fn joined(join: wire::CgroupJoin) -> Result<CgroupJoin, ConvertError> {
    match (join.v1, join.v2) {
        (Some(path), None) if path.starts_with('/') => Ok(CgroupJoin::V1(path.into())),
        (None, Some(path)) if path.starts_with('/') => Ok(CgroupJoin::V2(path.into())),
        _ => Err(bad("cgroups", "exactly one of 'v1' and 'v2', an absolute path")),
    }
}

fn file_operation(operation: &FileOperation) -> wire::FileOperation {
    use wire::file_operation::{Mkdir, Rename, Symlink, Unmount};
    let text = |path: &PathBuf| path.display().to_string();
    let mut message = wire::FileOperation::default();
    match operation {
        FileOperation::Mkdir { path, mode, recursive } => {
            let (mode, recursive) = (Some(*mode), Some(*recursive));
            message.mkdir = Some(Mkdir { path: text(path), mode, recursive });
        }
        FileOperation::Symlink { target, link } => {
            message.symlink = Some(Symlink { target: text(target), link: text(link) });
        }
        FileOperation::Rename { from, to } => {
            message.rename = Some(Rename { from: text(from), to: text(to) });
        }
        FileOperation::Unmount { path } => {
            message.unmount = Some(Unmount { path: text(path) });
        }
    }
    message
}

fn operation(message: wire::FileOperation) -> Result<FileOperation, ConvertError> {
    match (message.mkdir, message.symlink, message.rename, message.unmount) {
        (Some(mkdir), None, None, None) => Ok(FileOperation::Mkdir {
            path: mkdir.path.into(),
            mode: mkdir.mode.unwrap_or(0o755),
            recursive: mkdir.recursive.unwrap_or(false),
        }),
        (None, Some(link), None, None) => {
            Ok(FileOperation::Symlink { target: link.target.into(), link: link.link.into() })
        }
        (None, None, Some(rename), None) => {
            Ok(FileOperation::Rename { from: rename.from.into(), to: rename.to.into() })
        }
        (None, None, None, Some(unmount)) => {
            Ok(FileOperation::Unmount { path: unmount.path.into() })
        }
        _ => Err(bad("file_operations", "exactly one of 'mkdir', 'symlink', 'rename', 'unmount'")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_contribution_survives_the_wire() {
        let text = r#"{
            "namespaces": [{"type": "ipc"}, {"type": "network", "path": "/run/netns/a"}],
            "mounts": [{"destination": "/data", "type": "none", "source": "/srv",
                        "options": ["rbind", "ro"]}],
            "devices": [{"path": "/dev/fuse", "type": "c", "major": 10, "minor": 229,
                         "fileMode": 438, "uid": 0, "gid": 0}],
            "environment": {"A": "1"}, "working_directory": "/w",
            "rlimits": [{"type": "RLIMIT_NOFILE", "hard": 18446744073709551615, "soft": 10}],
            "capabilities": {"bounding": ["CAP_CHOWN"], "effective": ["CAP_CHOWN"]},
            "seccomp": "{\"defaultAction\":\"SCMP_ACT_ALLOW\"}",
            "no_new_privileges": true, "masked_paths": ["/proc/kcore"],
            "readonly_paths": ["/proc/sys"], "supplementary_groups": [7],
            "cgroups": [{"v1": "/sys/fs/cgroup/cpu/x"}],
            "file_operations": [{"mkdir": {"path": "/d", "mode": 448, "recursive": true}},
                                {"symlink": {"target": "/d", "link": "/l"}},
                                {"rename": {"from": "/a", "to": "/b"}}],
            "oom_score_adj": -5, "hostname": "h", "needs_pid": true}"#;
        let message: wire::Contribution = mesos::json::from_json(text.as_bytes()).unwrap();
        let part = contributed(message).unwrap();
        assert_eq!(part.mounts[0].destination().to_str(), Some("/data"));
        assert_eq!(part.devices[0].file_mode(), Some(0o666));
        assert_eq!((part.rlimits.as_ref().unwrap()[0].hard(), part.needs_pid), (u64::MAX, true));
        assert!(part.capabilities.as_ref().unwrap().bounding().is_some());
        let again = contributed(contribution(&part).unwrap()).unwrap();
        assert_eq!(again, part);
        let empty = Contribution::default();
        assert_eq!(contributed(contribution(&empty).unwrap()).unwrap(), empty);
    }

    #[test]
    fn lies_are_named() {
        let rows = [
            (r#"{"namespaces":[{"type":"x"}]}"#, "namespaces"),
            (r#"{"environment":{"A=B":"1"}}"#, "environment"),
            (r#"{"environment":{"":"1"}}"#, "environment"),
            (r#"{"rlimits":[{"type":"RLIMIT_X","hard":1,"soft":1}]}"#, "rlimits"),
            (r#"{"capabilities":{"bounding":["CAP_NOT"]}}"#, "capabilities"),
            (r#"{"seccomp":"{"}"#, "seccomp"),
            (r#"{"devices":[{"path":"/dev/x","type":"z","major":1,"minor":1}]}"#, "devices"),
            (r#"{"cgroups":[{}]}"#, "cgroups"),
            (r#"{"file_operations":[{}]}"#, "file_operations"),
            (r#"{"oom_score_adj":2000}"#, "oom_score_adj"),
            (r#"{"masked_paths":["proc"]}"#, "path"),
            (r#"{"mounts":[{"destination":"relative"}]}"#, "path"),
        ];
        for (text, what) in rows {
            let message = mesos::json::from_json(text.as_bytes()).unwrap();
            assert_eq!(contributed(message).unwrap_err().what, what, "{text}");
        }
    }

    #[test]
    fn containers_survive_the_wire() {
        let mut context = isolators::suite::context("c");
        context.limits.insert("cpus".into(), f64::INFINITY);
        context.ids = Some((1, 2));
        let json = mesos::json::to_json(&container(&context));
        let back = known(mesos::json::from_json(&json).unwrap());
        assert_eq!(back.context.limits["cpus"], f64::INFINITY);
        assert_eq!((back.context.ids, &back.context.id), (Some((1, 2)), &context.id));
    }
}
