//! Contributions of all isolators to one launch plan. Pure: data in, data out.
//!
//! Ownership as in Mesos: root file system and user belong to nobody here (the
//! containerizer sets them); command, working directory, rlimits, capabilities, seccomp,
//! hostname and the OOM score have one owner; namespaces and groups are sets;
//! mounts, devices, file operations and cgroups keep table order; of environment
//! variables the later isolator's wins, and the command's own over all.

mod own;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use oci_spec::runtime::{Linux, LinuxNamespace, Process, Root, Spec, User};
use thiserror::Error;

use crate::api::{Command, Contribution};
use crate::plan::{CgroupJoin, Environment, FileOperation, SystemCallFilter};
use own::OwnNamespaces;

/// What the containerizer itself says of the process.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Base {
    /// What is executed, unless an isolator owns it; the program is looked up in `PATH`
    /// if it has no `/`.
    pub command: Command,
    /// Environment that the agent gives, below the isolators'.
    pub environment: Environment,
    /// Environment that the command asks for, above all.
    pub command_environment: Environment,
    /// Working directory unless an isolator owns it.
    pub working_directory: PathBuf,
    /// User, group and supplementary groups.
    pub user: Option<(u32, u32, Vec<u32>)>,
    /// Root file system; `None` for the host's.
    pub rootfs: Option<PathBuf>,
}

/// The merged plan, without what only the engine needs (streams, descriptors).
#[derive(Debug, Clone, PartialEq)]
pub struct Merged {
    /// OCI's part.
    pub spec: Spec,
    /// The program, if it is not the first of the arguments.
    pub executable: Option<String>,
    /// Cgroups to join, in order.
    pub cgroups: Vec<CgroupJoin>,
    /// Steps after the mounts, in order.
    pub file_operations: Vec<FileOperation>,
    /// Directories of the host that tasks can change and that mounts come from.
    pub wild: Vec<PathBuf>,
    /// Which system calls may be made.
    pub system_calls: Option<Arc<SystemCallFilter>>,
    /// Of init.
    pub oom_score_adj: Option<i32>,
    /// Isolators that must see the pid before `exec`.
    pub wait_for: Vec<&'static str>,
}

/// Two isolators want to own the same thing.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum MergeError {
    /// A field with one owner has two.
    #[error("both '{first}' and '{second}' set the {field} of the container")]
    Conflict {
        /// What both set.
        field: &'static str,
        /// The earlier isolator.
        first: &'static str,
        /// The later isolator.
        second: &'static str,
    },
    /// One isolator joins a namespace, another wants a new one.
    #[error("'{first}' and '{second}' disagree on the {kind} namespace of the container")]
    Namespace {
        /// `pid`, `ipc`, ...
        kind: String,
        /// The earlier isolator.
        first: &'static str,
        /// The later isolator.
        second: &'static str,
    },
    /// A kernel setting of a namespace that the container shares, or of none.
    #[error("'{isolator}' sets '{name}' of the container: {why}")]
    Sysctl {
        /// The isolator.
        isolator: &'static str,
        /// The setting.
        name: String,
        /// Why that cannot be, for people.
        why: String,
    },
    /// More than one v2 cgroup: a process is in exactly one.
    #[error("both '{first}' and '{second}' place the container in a v2 cgroup")]
    Cgroup {
        /// The earlier isolator.
        first: &'static str,
        /// The later isolator.
        second: &'static str,
    },
}

/// A value with one owner.
#[derive(Debug)]
struct Owned<T> {
    field: &'static str,
    value: Option<(&'static str, T)>,
}

impl<T> Owned<T> {
    fn new(field: &'static str) -> Owned<T> {
        Owned { field, value: None }
    }

    fn set(&mut self, owner: &'static str, value: Option<T>) -> Result<(), MergeError> {
        match (&self.value, value) {
            (_, None) => Ok(()),
            (None, Some(value)) => {
                self.value = Some((owner, value));
                Ok(())
            }
            (Some((first, _)), Some(_)) => {
                Err(MergeError::Conflict { field: self.field, first, second: owner })
            }
        }
    }

    fn take(self) -> Option<T> {
        self.value.map(|(_, value)| value)
    }
}

/// Merges the contributions, given in table order with their isolators' names.
///
/// # Errors
/// Two isolators own the same field.
pub fn merge(
    base: Base,
    contributions: Vec<(&'static str, Contribution)>,
) -> Result<Merged, MergeError> {
    let mut namespaces: Vec<(&'static str, LinuxNamespace)> = Vec::new();
    let mut cgroups: Vec<(&'static str, CgroupJoin)> = Vec::new();
    let mut command = Owned::new("command");
    let mut working_directory = Owned::new("working directory");
    let mut rlimits = Owned::new("rlimits");
    let mut capabilities = Owned::new("capabilities");
    let mut seccomp = Owned::new("seccomp filter");
    let mut oom_score_adj = Owned::new("OOM score");
    let mut hostname = Owned::new("hostname");
    let mut own = OwnNamespaces::new();
    let mut environment = base.environment;
    let (mut mounts, mut devices) = (Vec::new(), Vec::new());
    let (mut masked, mut readonly) = (Vec::new(), Vec::new());
    let (mut groups, mut wild, mut file_operations) = (Vec::new(), Vec::new(), Vec::new());
    let (mut no_new_privileges, mut wait_for) = (false, Vec::new());

    for (name, part) in contributions {
        for namespace in part.namespaces {
            add_namespace(&mut namespaces, name, namespace)?;
        }
        for join in part.cgroups {
            add_cgroup(&mut cgroups, name, join)?;
        }
        command.set(name, part.command)?;
        working_directory.set(name, part.working_directory)?;
        rlimits.set(name, part.rlimits)?;
        capabilities.set(name, part.capabilities)?;
        seccomp.set(name, part.seccomp)?;
        oom_score_adj.set(name, part.oom_score_adj)?;
        hostname.set(name, part.hostname)?;
        own.add(name, part.time_offsets, part.id_mappings, part.sysctls)?;
        environment.extend(part.environment);
        mounts.extend(part.mounts);
        devices.extend(part.devices);
        add_new(&mut masked, part.masked_paths);
        add_new(&mut readonly, part.readonly_paths);
        add_new(&mut groups, part.supplementary_groups);
        file_operations.extend(part.file_operations);
        add_new(&mut wild, part.wild);
        no_new_privileges |= part.no_new_privileges;
        if part.needs_pid {
            wait_for.push(name);
        }
    }
    environment.extend(base.command_environment);
    let Command { executable, arguments } = command.take().unwrap_or(base.command);

    let mut process = Process::default();
    process
        .set_terminal(None)
        .set_args(Some(arguments))
        .set_env(Some(environment_list(&environment)))
        .set_cwd(working_directory.take().unwrap_or(base.working_directory))
        .set_user(user(base.user, groups))
        .set_capabilities(capabilities.take())
        .set_rlimits(rlimits.take())
        .set_no_new_privileges(Some(no_new_privileges));
    let mut linux = Linux::default();
    linux
        .set_resources(None)
        .set_namespaces(Some(namespaces.into_iter().map(|(_, n)| n).collect()))
        .set_devices(Some(devices))
        .set_seccomp(None)
        .set_masked_paths(Some(masked))
        .set_readonly_paths(Some(readonly));
    own.finish(&mut linux, &mut mounts)?;
    let mut spec = Spec::default();
    spec.set_process(Some(process))
        .set_root(base.rootfs.map(root))
        .set_hostname(hostname.take())
        .set_mounts(Some(mounts))
        .set_linux(Some(linux));
    Ok(Merged {
        spec,
        executable,
        cgroups: cgroups.into_iter().map(|(_, join)| join).collect(),
        file_operations,
        wild,
        system_calls: seccomp.take(),
        oom_score_adj: oom_score_adj.take(),
        wait_for,
    })
}

fn add_namespace(
    all: &mut Vec<(&'static str, LinuxNamespace)>,
    name: &'static str,
    namespace: LinuxNamespace,
) -> Result<(), MergeError> {
    match all.iter().find(|(_, known)| known.typ() == namespace.typ()) {
        None => {
            all.push((name, namespace));
            Ok(())
        }
        Some((_, known)) if known.path() == namespace.path() => Ok(()),
        Some((first, _)) => {
            Err(MergeError::Namespace { kind: namespace.typ().to_string(), first, second: name })
        }
    }
}

fn add_cgroup(
    all: &mut Vec<(&'static str, CgroupJoin)>,
    name: &'static str,
    join: CgroupJoin,
) -> Result<(), MergeError> {
    if all.iter().any(|(_, known)| *known == join) {
        return Ok(());
    }
    let v2 = |known: &CgroupJoin| matches!(known, CgroupJoin::V2(_));
    match all.iter().find(|(_, known)| v2(known) && v2(&join)) {
        Some((first, _)) => Err(MergeError::Cgroup { first, second: name }),
        None => {
            all.push((name, join));
            Ok(())
        }
    }
}

fn add_new<T: PartialEq>(all: &mut Vec<T>, new: Vec<T>) {
    for item in new {
        if !all.contains(&item) {
            all.push(item);
        }
    }
}

fn environment_list(environment: &BTreeMap<String, String>) -> Vec<String> {
    environment.iter().map(|(name, value)| format!("{name}={value}")).collect()
}

fn user(ids: Option<(u32, u32, Vec<u32>)>, added: Vec<u32>) -> User {
    let mut user = User::default();
    let (uid, gid, mut groups) = ids.unwrap_or_default();
    add_new(&mut groups, added);
    user.set_uid(uid).set_gid(gid).set_additional_gids(Some(groups));
    user
}

fn root(path: PathBuf) -> Root {
    let mut root = Root::default();
    root.set_path(path).set_readonly(Some(false));
    root
}

#[cfg(test)]
mod tests {
    use oci_spec::runtime::{LinuxNamespaceBuilder, LinuxNamespaceType, MountBuilder};
    use proptest::prelude::*;

    use super::*;

    pub(super) fn new_namespace(kind: LinuxNamespaceType) -> LinuxNamespace {
        LinuxNamespaceBuilder::default().typ(kind).build().unwrap()
    }

    pub(super) fn joined(kind: LinuxNamespaceType, path: &str) -> LinuxNamespace {
        LinuxNamespaceBuilder::default().typ(kind).path(path).build().unwrap()
    }

    #[test]
    fn the_conflict_names_both() {
        let wd = |dir: &str| Contribution {
            working_directory: Some(dir.into()),
            ..Contribution::default()
        };
        let error =
            merge(Base::default(), vec![("docker/runtime", wd("/a")), ("appc/runtime", wd("/a"))])
                .unwrap_err();
        assert_eq!(
            error.to_string(),
            "both 'docker/runtime' and 'appc/runtime' set the working directory of the container"
        );
    }

    #[test]
    fn namespaces_are_a_set() {
        let with =
            |namespace| Contribution { namespaces: vec![namespace], ..Contribution::default() };
        let mnt = || with(new_namespace(LinuxNamespaceType::Mount));
        let merged = merge(Base::default(), vec![("a", mnt()), ("b", mnt())]).unwrap();
        assert_eq!(merged.spec.linux().as_ref().unwrap().namespaces().as_ref().unwrap().len(), 1);
        let join = with(joined(LinuxNamespaceType::Mount, "/proc/1/ns/mnt"));
        let error = merge(Base::default(), vec![("a", mnt()), ("b", join)]).unwrap_err();
        assert_eq!(error.to_string(), "'a' and 'b' disagree on the mnt namespace of the container");
    }

    #[test]
    fn one_v2_cgroup_many_v1() {
        let with = |joins: &[CgroupJoin]| Contribution {
            cgroups: joins.to_vec(),
            ..Contribution::default()
        };
        let (one, two) = (CgroupJoin::V1("/a".into()), CgroupJoin::V1("/b".into()));
        let unified = CgroupJoin::V2("/u".into());
        let all = [one.clone(), two, unified.clone()];
        let merged = merge(Base::default(), vec![("a", with(&all)), ("b", with(&[one]))]).unwrap();
        assert_eq!(merged.cgroups, all);
        let other = with(&[CgroupJoin::V2("/v".into())]);
        assert!(merge(Base::default(), vec![("a", with(&[unified])), ("b", other)]).is_err());
    }

    #[test]
    fn environment_order_is_agent_isolators_command() {
        let map = |rows: &[(&str, &str)]| -> Environment {
            rows.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
        };
        let base = Base {
            environment: map(&[("A", "agent"), ("B", "agent"), ("C", "agent")]),
            command_environment: map(&[("C", "command")]),
            ..Base::default()
        };
        let part = Contribution {
            environment: map(&[("B", "isolator"), ("C", "isolator")]),
            ..Contribution::default()
        };
        let merged = merge(base, vec![("x", part)]).unwrap();
        let process = merged.spec.process().as_ref().unwrap();
        assert_eq!(process.env().as_ref().unwrap(), &["A=agent", "B=isolator", "C=command"]);
        assert_eq!(process.no_new_privileges(), Some(false));
        assert_eq!(process.capabilities(), &None);
        assert!(merged.spec.root().is_none());
    }

    fn contribution() -> impl Strategy<Value = Contribution> {
        (
            prop::option::of("/[a-c]"),
            prop::collection::vec("/[a-z]{1,3}", 0..3),
            prop::collection::vec(0u32..5, 0..4),
            any::<bool>(),
            prop::collection::btree_map("[A-C]", "[0-9]", 0..3),
        )
            .prop_map(|(working_directory, targets, groups, pid, environment)| {
                Contribution {
                    working_directory: working_directory.map(PathBuf::from),
                    mounts: targets
                        .iter()
                        .map(|t| MountBuilder::default().destination(t).build().unwrap())
                        .collect(),
                    supplementary_groups: groups,
                    needs_pid: pid,
                    environment,
                    ..Contribution::default()
                }
            })
    }

    proptest! {
        /// Nothing is lost, nothing made up, order is kept, one owner holds.
        #[test]
        fn merge_is_faithful(parts in prop::collection::vec(contribution(), 0..5)) {
            const NAMES: [&str; 5] = ["i0", "i1", "i2", "i3", "i4"];
            let owners = parts.iter().filter(|p| p.working_directory.is_some()).count();
            let mounts: Vec<_> = parts.iter().flat_map(|p| p.mounts.clone()).collect();
            let waits: Vec<_> =
                NAMES.iter().zip(&parts).filter(|(_, p)| p.needs_pid).map(|(n, _)| *n).collect();
            let groups: std::collections::BTreeSet<u32> =
                parts.iter().flat_map(|p| p.supplementary_groups.clone()).collect();
            let result = merge(Base::default(), NAMES.into_iter().zip(parts).collect());
            prop_assert_eq!(result.is_err(), owners > 1);
            if let Ok(merged) = result {
                prop_assert_eq!(merged.spec.mounts().clone().unwrap(), mounts);
                prop_assert_eq!(merged.wait_for, waits);
                let user = merged.spec.process().as_ref().unwrap().user().clone();
                let merged_groups = user.additional_gids().clone().unwrap();
                prop_assert_eq!(merged_groups.len(), groups.len());
                prop_assert!(merged_groups.iter().all(|g| groups.contains(g)));
            }
        }
    }
}
