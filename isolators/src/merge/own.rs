//! What a container has in namespaces of its own: kernel settings, clocks, ids. Whether
//! they can be is known when all isolators have spoken. Pure.

use std::collections::{BTreeMap, HashMap};

use oci_spec::runtime::{Linux, LinuxIdMapping, LinuxNamespace, LinuxTimeOffset, Mount};

use super::{MergeError, Owned};
use crate::api::{IdMappings, Sysctl};
use crate::linux::sysctl;
use crate::plan::seen_by;

/// Collected from all contributions.
#[derive(Debug)]
pub(super) struct OwnNamespaces {
    time_offsets: Owned<HashMap<String, LinuxTimeOffset>>,
    id_mappings: Owned<IdMappings>,
    sysctls: Vec<(&'static str, String, Sysctl)>,
}

impl OwnNamespaces {
    pub(super) fn new() -> OwnNamespaces {
        OwnNamespaces {
            time_offsets: Owned::new("time offsets"),
            id_mappings: Owned::new("ids"),
            sysctls: Vec::new(),
        }
    }

    /// What the isolator `name` says.
    pub(super) fn add(
        &mut self,
        name: &'static str,
        time_offsets: BTreeMap<String, LinuxTimeOffset>,
        id_mappings: Option<IdMappings>,
        sysctls: BTreeMap<String, Sysctl>,
    ) -> Result<(), MergeError> {
        let moved = !time_offsets.is_empty();
        self.time_offsets.set(name, moved.then(|| time_offsets.into_iter().collect()))?;
        self.id_mappings.set(name, id_mappings)?;
        for (setting, value) in sysctls {
            add_sysctl(&mut self.sysctls, name, setting, value)?;
        }
        Ok(())
    }

    /// Completes the plan, whose namespaces and mounts are known.
    pub(super) fn finish(self, linux: &mut Linux, mounts: &mut [Mount]) -> Result<(), MergeError> {
        let namespaces = linux.namespaces().as_deref().unwrap_or_default();
        let sysctls = own_sysctls(self.sysctls, namespaces)?;
        linux
            .set_sysctl((!sysctls.is_empty()).then_some(sysctls))
            .set_time_offsets(self.time_offsets.take());
        if let Some(mappings) = self.id_mappings.take() {
            mounts.iter_mut().for_each(|mount| map_ids(mount, &mappings));
            linux.set_uid_mappings(Some(mappings.uids)).set_gid_mappings(Some(mappings.gids));
        }
        Ok(())
    }
}

fn add_sysctl(
    all: &mut Vec<(&'static str, String, Sysctl)>,
    isolator: &'static str,
    name: String,
    value: Sysctl,
) -> Result<(), MergeError> {
    match all.iter_mut().find(|(_, known, _)| *known == name) {
        Some(_) if value.yields => {}
        Some(weak) if weak.2.yields => *weak = (isolator, name, value),
        Some((first, ..)) => {
            let field = "kernel settings";
            return Err(MergeError::Conflict { field, first, second: isolator });
        }
        None => all.push((isolator, name, value)),
    }
    Ok(())
}

/// The settings of namespaces that are made for the container.
fn own_sysctls(
    all: Vec<(&'static str, String, Sysctl)>,
    namespaces: &[LinuxNamespace],
) -> Result<HashMap<String, String>, MergeError> {
    let mut out = HashMap::new();
    for (isolator, name, Sysctl { value, optional, .. }) in all {
        let refuse = |why| MergeError::Sysctl { isolator, name: name.clone(), why };
        let kind = sysctl::kind(&name).map_err(refuse)?;
        // One that is kept by a file was made for it; below /proc it is another's.
        let made = |space: &LinuxNamespace| {
            space.path().as_ref().is_none_or(|path| !path.starts_with("/proc"))
        };
        let own = |space: &LinuxNamespace| space.typ() == kind && made(space);
        if namespaces.iter().any(own) {
            out.insert(name, value);
        } else if !optional {
            return Err(refuse(format!("the container has no {kind} namespace of its own")));
        }
    }
    Ok(out)
}

/// What is bound from the host shows its owners under the container's ids; owners that
/// a new file system is told are said in the container's ids.
fn map_ids(mount: &mut Mount, mappings: &IdMappings) {
    let mut options = mount.options().clone().unwrap_or_default();
    let recursive = options.iter().any(|option| option == "rbind");
    if recursive || mount.typ().as_deref() == Some("bind") {
        // What another container sees is mapped already.
        if mount.source().as_deref().and_then(seen_by).is_none() {
            options.push(if recursive { "ridmap" } else { "idmap" }.to_owned());
        }
    } else {
        for option in &mut options {
            let mapped = match option.split_once('=') {
                Some((word @ "uid", id)) => (word, outside(&mappings.uids, id)),
                Some((word @ "gid", id)) => (word, outside(&mappings.gids, id)),
                _ => continue,
            };
            if let (word, Some(id)) = mapped {
                *option = format!("{word}={id}");
            }
        }
    }
    mount.set_options(Some(options));
}

/// What the host calls an id of the container.
fn outside(mappings: &[LinuxIdMapping], id: &str) -> Option<u32> {
    let id: u32 = id.parse().ok()?;
    mappings.iter().find_map(|mapping| {
        let distance = id.checked_sub(mapping.container_id())?;
        (distance < mapping.size()).then(|| mapping.host_id() + distance)
    })
}

#[cfg(test)]
mod tests {
    use oci_spec::runtime::{LinuxIdMappingBuilder, LinuxNamespaceType, MountBuilder};

    use super::super::tests::{joined, new_namespace};
    use super::super::{Base, merge};
    use super::*;
    use crate::api::Contribution;

    #[test]
    fn sysctls_need_a_namespace_of_the_containers_own() {
        let with = |name: &str, optional, namespaces: Vec<LinuxNamespace>| {
            let value = Sysctl { value: "1".into(), optional, yields: false };
            let sysctls = [(name.to_owned(), value)].into();
            let part = Contribution { namespaces, sysctls, ..Contribution::default() };
            merge(Base::default(), vec![("x", part)])
                .map(|merged| merged.spec.linux().as_ref().unwrap().sysctl().clone())
                .map_err(|error| error.to_string())
        };
        let own = || vec![new_namespace(LinuxNamespaceType::Ipc)];
        let set = HashMap::from([("kernel.msgmax".to_owned(), "1".to_owned())]);
        assert_eq!(with("kernel.msgmax", false, own()), Ok(Some(set)));
        assert_eq!(with("kernel.msgmax", true, Vec::new()), Ok(None));
        for namespaces in [Vec::new(), vec![joined(LinuxNamespaceType::Ipc, "/proc/1/ns/ipc")]] {
            let error = with("kernel.msgmax", false, namespaces).unwrap_err();
            let wanted = "'x' sets 'kernel.msgmax' of the container: the container has no ipc \
                          namespace of its own";
            assert_eq!(error, wanted);
        }
        // One that was made before the launch is its own, too.
        let kept = vec![joined(LinuxNamespaceType::Network, "/run/x/ns")];
        let set = HashMap::from([("net.core.somaxconn".to_owned(), "1".to_owned())]);
        assert_eq!(with("net.core.somaxconn", false, kept), Ok(Some(set)));
        let other = vec![joined(LinuxNamespaceType::Network, "/proc/1/ns/net")];
        assert!(with("net.core.somaxconn", false, other).is_err());
        assert!(with("kernel.panic", true, own()).unwrap_err().contains("is the host's"));
        let value = || Sysctl { value: "1".into(), optional: true, yields: false };
        let twice = || Contribution {
            sysctls: [("kernel.msgmax".to_owned(), value())].into(),
            ..Contribution::default()
        };
        assert!(merge(Base::default(), vec![("a", twice()), ("b", twice())]).is_err());
    }

    #[test]
    fn what_yields_is_there_where_nobody_else_sets_it() {
        let part = |value: &str, yields| {
            let value = Sysctl { value: value.into(), optional: false, yields };
            Contribution {
                namespaces: vec![new_namespace(LinuxNamespaceType::Network)],
                sysctls: [("net.core.somaxconn".to_owned(), value)].into(),
                ..Contribution::default()
            }
        };
        let merged = |parts| {
            let merged = merge(Base::default(), parts).expect("no conflict");
            merged.spec.linux().as_ref().unwrap().sysctl().clone().unwrap()
        };
        let (weak, strong) = (|| part("weak", true), || part("strong", false));
        for (parts, wanted) in [
            (vec![("a", weak())], "weak"),
            (vec![("a", weak()), ("b", strong())], "strong"),
            (vec![("a", strong()), ("b", weak())], "strong"),
        ] {
            assert_eq!(merged(parts)["net.core.somaxconn"], wanted);
        }
    }

    #[test]
    fn mounts_are_mapped_by_the_containers_ids() {
        let mapping = LinuxIdMappingBuilder::default();
        let mapping = mapping.container_id(0u32).host_id(100_000u32).size(65536u32);
        let mapping = mapping.build().unwrap();
        let mappings = IdMappings { uids: vec![mapping], gids: vec![mapping] };
        let mount = |kind: &str, source: &str, options: &[&str]| {
            let options: Vec<String> = options.iter().map(|o| (*o).to_owned()).collect();
            let mount = MountBuilder::default().destination("/x").typ(kind).source(source);
            mount.options(options).build().unwrap()
        };
        let mounts = vec![
            mount("bind", "/data", &["rbind", "ro"]),
            mount("bind", "/data", &[]),
            mount("bind", "/proc/7/root/dev/shm", &["rbind"]),
            mount("devpts", "devpts", &["gid=5", "mode=0620"]),
            mount("tmpfs", "tmpfs", &["uid=1000", "gid=70000"]),
        ];
        let part = Contribution { mounts, id_mappings: Some(mappings), ..Contribution::default() };
        let merged = merge(Base::default(), vec![("x", part)]).unwrap();
        let mounts = merged.spec.mounts().clone().unwrap();
        let options: Vec<_> = mounts.iter().map(|m| m.options().clone().unwrap()).collect();
        let wanted: [&[&str]; 5] = [
            &["rbind", "ro", "ridmap"],
            &["idmap"],
            &["rbind"],
            &["gid=100005", "mode=0620"],
            &["uid=101000", "gid=70000"],
        ];
        assert_eq!(options, wanted);
    }
}
