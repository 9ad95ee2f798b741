//! Guests: processes in a running container, Mesos' DEBUG containers.
//!
//! A guest joins whatever namespaces its parent has of its own and is placed in a
//! cgroup below the parent's, under its limits. Besides, only isolators of privileges
//! have a say; none needs to know of guests. Called by `start` and `recover`.

use isolators::api::{Contribution, Isolator};
use isolators::plan::{Environment, LinuxNamespaceType};
use kernel::namespaces::Namespace;
use mesos::ContainerInfo;
use oci_spec::runtime::LinuxNamespace;

use crate::containerizer::{Class, LaunchRequest};

pub(super) fn is_guest(request: &LaunchRequest) -> bool {
    matches!(request.class, Class::Debug(_))
}

/// Whether the isolator has to do with guests: cgroups are how they are found and
/// killed, and they may do no more than their parent may.
pub(super) fn concerns(isolator: &dyn Isolator) -> bool {
    isolator.name() == "cgroups" || isolator.name().starts_with("linux/")
}

/// What is asked of a guest: its parent's capabilities and filters, no limits of its
/// own, and not its parent's terminal.
pub(super) fn info(parent: Option<&ContainerInfo>) -> Option<ContainerInfo> {
    let mut info = parent.cloned()?;
    info.tty_info = None;
    if let Some(linux) = &mut info.linux_info {
        linux.share_cgroups = Some(true);
    }
    Some(info)
}

/// The parent's namespaces that are not the agent's.
pub(super) fn namespaces(parent: u32) -> Result<Contribution, String> {
    let kinds = [
        (Namespace::Uts, LinuxNamespaceType::Uts),
        (Namespace::Ipc, LinuxNamespaceType::Ipc),
        (Namespace::Network, LinuxNamespaceType::Network),
        (Namespace::Pid, LinuxNamespaceType::Pid),
        (Namespace::Cgroup, LinuxNamespaceType::Cgroup),
        (Namespace::Time, LinuxNamespaceType::Time),
        (Namespace::User, LinuxNamespaceType::User),
        (Namespace::Mount, LinuxNamespaceType::Mount),
    ];
    let mut part = Contribution::default();
    for (kind, typ) in kinds.into_iter().filter(|(kind, _)| kind.supported()) {
        let shared = kind.shared_with(parent);
        if !shared.map_err(|e| gone(parent, &e))? {
            let mut namespace = LinuxNamespace::default();
            namespace.set_typ(typ).set_path(Some(kind.of(parent)));
            part.namespaces.push(namespace);
        }
    }
    Ok(part)
}

/// What the parent was started with.
pub(super) fn environment(parent: u32) -> Result<Environment, String> {
    let bytes = kernel::proctree::environment(parent).map_err(|e| gone(parent, &e))?;
    let entries = bytes.split(|byte| *byte == 0).filter_map(|entry| {
        let entry = std::str::from_utf8(entry).ok()?;
        let (name, value) = entry.split_once('=')?;
        Some((name.to_owned(), value.to_owned()))
    });
    Ok(entries.collect())
}

fn gone(parent: u32, error: &std::io::Error) -> String {
    format!("failed to look at the parent container's process {parent}: {error}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_parent_in_our_own_namespaces_leaves_nothing_to_join() {
        let own = std::process::id();
        assert_eq!(namespaces(own), Ok(Contribution::default()));
        let path = std::env::var("PATH").ok();
        assert_eq!(environment(own).map(|e| e.get("PATH").cloned()), Ok(path));
        assert!(namespaces(u32::MAX >> 1).is_err());
    }
}
