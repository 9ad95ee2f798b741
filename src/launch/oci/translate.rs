//! Launch plan to OCI configuration. Pure: data in, data out.
//!
//! What libcontainer does differently from what the plan means is said here in
//! other words, so that the container is the same as the `linux` engine's.

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use isolators::plan::{LaunchPlan, LinuxNamespaceType as Kind, Spec, seen_by};
use oci_spec::runtime::{
    Capability, Hook, Hooks, Linux, LinuxCapabilities, LinuxNamespace, Mount, Process,
    Root as SpecRoot,
};

use super::message::{Filter, Message, Operation, Root, VERSION, file};
use crate::launch::compile;
use crate::launch::error::LaunchError;

/// The version of OCI's format that is written.
const OCI_VERSION: &str = "1.0.2";

/// What the agent knows beside the plan.
#[derive(Debug)]
pub(super) struct Scene<'a> {
    pub bundle: &'a Path,
    pub record: &'a Path,
    pub helper: &'a Path,
    /// Relative to the root of every hierarchy, with a leading slash.
    pub cgroup: PathBuf,
    pub extra_cgroups: Vec<PathBuf>,
    pub no_pivot: bool,
}

fn unsupported(what: impl Into<String>) -> LaunchError {
    LaunchError::Unsupported { engine: "oci", what: what.into() }
}

/// The configuration for libcontainer and the message for the helper.
pub(super) fn translate(
    plan: &LaunchPlan,
    scene: Scene<'_>,
) -> Result<(Spec, Message), LaunchError> {
    refuse(plan)?;
    let mounts = plan.spec.mounts().as_deref().unwrap_or_default();
    let own_dev = mounts.iter().any(|mount| mount.destination() == Path::new("/dev"));
    let root = root_of(plan)?;
    let linux = plan.spec.linux().clone().unwrap_or_default();
    let cover_dev = root == Root::Host && !own_dev;
    if cover_dev && linux.devices().as_ref().is_some_and(|devices| !devices.is_empty()) {
        return Err(unsupported("devices in the host's /dev"));
    }
    let namespaces = linux.namespaces().clone().unwrap_or_default();
    let pid = namespaces.iter().find(|space| space.typ() == Kind::Pid);

    let message = Message {
        version: VERSION,
        record: scene.record.to_path_buf(),
        own_proc: pid.is_some(),
        own_pids: pid.is_some_and(|space| space.path().is_none()),
        cover_dev,
        no_pivot: scene.no_pivot,
        wait: !plan.wait_for.is_empty(),
        executable: plan.executable.clone(),
        system_calls: plan
            .system_calls
            .as_ref()
            .map(|filter| Filter { program: filter.program.clone(), flags: filter.flags }),
        operations: plan.file_operations.iter().map(Operation::from).collect(),
        extra_cgroups: scene.extra_cgroups,
        root,
    };
    let mut spec = plan.spec.clone();
    let directory = match (&message.root, plan.spec.root()) {
        (Root::Directory, Some(root)) => root.path().clone(),
        _ => scene.bundle.join(file::ROOT),
    };
    let read_only = plan.spec.root().as_ref().and_then(SpecRoot::readonly) == Some(true);
    let mut root = SpecRoot::default();
    root.set_path(directory).set_readonly(Some(read_only));
    spec.set_version(OCI_VERSION.to_owned())
        .set_root(Some(root))
        .set_mounts(Some(mounts.iter().map(mount).collect()))
        .set_process(plan.spec.process().as_ref().map(|process| self::process(process, plan)))
        .set_linux(Some(self::linux(linux, &namespaces, scene.cgroup)?))
        .set_hooks(Some(hooks(plan, scene.helper, scene.bundle)?));
    if !namespaces.iter().any(|space| space.typ() == Kind::Uts && space.path().is_none()) {
        // In a joined namespace the shim sets it.
        spec.set_hostname(None);
    }
    Ok((spec, message))
}

fn refuse(plan: &LaunchPlan) -> Result<(), LaunchError> {
    let linux = plan.spec.linux().as_ref();
    let namespaces = linux.and_then(|linux| linux.namespaces().as_deref()).unwrap_or_default();
    let asks = |kind| namespaces.iter().find(|space| space.typ() == kind);
    if asks(Kind::Mount).is_none_or(|space| space.path().is_some()) {
        let what = "containers without a new mount namespace (isolator filesystem/linux)";
        return Err(unsupported(what));
    }
    if asks(Kind::User).is_some() {
        // libcontainer cannot map the ids of mounts.
        return Err(unsupported("the user namespace (--userns_remap)"));
    }
    let settings = linux.and_then(|linux| linux.sysctl().as_ref());
    if let Some(name) = settings.into_iter().flatten().find_map(|(name, _)| name.split_once('/')) {
        return Err(unsupported(format!("kernel settings of '{}.*' with dots in names", name.0)));
    }
    let mounts = plan.spec.mounts().as_deref().unwrap_or_default();
    if let Some(what) = mounts.iter().find_map(strange) {
        return Err(unsupported(what));
    }
    if linux.is_some_and(|linux| linux.seccomp().is_some()) {
        return Err(unsupported("an OCI system call filter"));
    }
    let process = plan.spec.process().as_ref();
    if plan.system_calls.is_some() && !process.is_some_and(may_filter) {
        let what = "system call filters without no-new-privileges or CAP_SYS_ADMIN";
        return Err(unsupported(what));
    }
    if plan.spec.process().as_ref().and_then(Process::terminal) == Some(true) {
        return Err(unsupported("a terminal"));
    }
    Ok(())
}

/// What libcontainer makes something else of.
fn strange(mount: &Mount) -> Option<&'static str> {
    let has = |word: &str| mount.options().iter().flatten().any(|option| option == word);
    let of_another = mount.source().as_deref().and_then(seen_by).is_some();
    match (mount.typ().as_deref() == Some("bind"), has("shared") || has("rshared")) {
        (true, true) => Some("volumes with bidirectional mount propagation"),
        (true, _) if of_another => Some("mounts of another container (a shared /dev/shm)"),
        _ => None,
    }
}

/// Whether the process may install a filter when libcontainer lets us, which is
/// after its change of user and capabilities.
fn may_filter(process: &Process) -> bool {
    let admin = |sets: &LinuxCapabilities| {
        sets.effective().as_ref().is_some_and(|set| set.contains(&Capability::SysAdmin))
    };
    let privileged = match process.capabilities() {
        Some(sets) => admin(sets),
        None => process.user().uid() == 0,
    };
    privileged || process.no_new_privileges() == Some(true)
}

fn root_of(plan: &LaunchPlan) -> Result<Root, LaunchError> {
    Ok(match (&plan.overlay, plan.spec.root()) {
        (Some(overlay), _) => Root::Overlay(compile::overlay_options(overlay)?),
        (None, Some(_)) => Root::Directory,
        (None, None) => Root::Host,
    })
}

/// Flags of a recursive bind mount hold for what is mounted below, too; OCI has
/// words of their own for that.
fn mount(entry: &Mount) -> Mount {
    const RECURSIVE: [&str; 6] = ["ro", "nosuid", "nodev", "noexec", "noatime", "nodiratime"];
    let mut entry = entry.clone();
    let mut options = entry.options().clone().unwrap_or_default();
    if options.iter().any(|option| option == "rbind") {
        let set: Vec<String> = options
            .iter()
            .filter(|option| RECURSIVE.contains(&option.as_str()))
            .map(|option| format!("r{option}"))
            .collect();
        options.extend(set);
    } else if entry.typ().as_deref() == Some("bind") && !options.iter().any(|o| o == "bind") {
        options.push("bind".to_owned());
    }
    entry.set_options(Some(options));
    entry
}

fn process(process: &Process, plan: &LaunchPlan) -> Process {
    let mut process = process.clone();
    if let Some(value) = plan.oom_score_adj {
        process.set_oom_score_adj(Some(value));
    }
    if process.capabilities().is_none() && process.user().uid() != 0 {
        // libcontainer keeps capabilities over the change of user; the kernel's own
        // rule, which the plan means, is that they are gone.
        let none = || Some(HashSet::new());
        let mut sets = LinuxCapabilities::default();
        sets.set_bounding(Some(every_capability()))
            .set_permitted(none())
            .set_effective(none())
            .set_inheritable(none())
            .set_ambient(none());
        process.set_capabilities(Some(sets));
    }
    process
}

fn every_capability() -> HashSet<Capability> {
    isolators::capability::BY_NUMBER.into_iter().collect()
}

fn linux(
    mut linux: Linux,
    namespaces: &[LinuxNamespace],
    cgroup: PathBuf,
) -> Result<Linux, LaunchError> {
    let propagation = match linux.rootfs_propagation().as_deref() {
        None | Some("slave" | "rslave") => "slave",
        Some("private" | "rprivate") => "private",
        Some("shared" | "rshared") => "shared",
        Some(other) => return Err(unsupported(format!("root propagation '{other}'"))),
    };
    // The shim makes the pid namespace and enters all that exist.
    let made = |space: &&LinuxNamespace| space.typ() != Kind::Pid && space.path().is_none();
    let namespaces = namespaces.iter().filter(made).cloned().collect();
    linux
        .set_rootfs_propagation(Some(propagation.to_owned()))
        .set_namespaces(Some(namespaces))
        .set_cgroups_path(Some(cgroup))
        .set_resources(None);
    Ok(linux)
}

/// The plan's hooks, and ours first of those in the container's namespaces.
fn hooks(plan: &LaunchPlan, helper: &Path, bundle: &Path) -> Result<Hooks, LaunchError> {
    let text = |path: &Path| {
        let text = path.to_str().map(str::to_owned);
        text.ok_or_else(|| LaunchError::Plan(format!("'{}' is not UTF-8", path.display())))
    };
    let mut finish = Hook::default();
    finish.set_path(helper.to_path_buf()).set_args(Some(vec![
        "bulkhead-helper".to_owned(),
        "oci".to_owned(),
        "finish".to_owned(),
        text(bundle)?,
    ]));
    let mut hooks = plan.spec.hooks().clone().unwrap_or_default();
    let mut created = vec![finish];
    created.extend(hooks.create_container().clone().unwrap_or_default());
    hooks.set_create_container(Some(created));
    Ok(hooks)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bind(options: &[&str]) -> Mount {
        let mut mount = Mount::default();
        mount
            .set_typ(Some("bind".to_owned()))
            .set_options(Some(options.iter().map(|o| (*o).to_owned()).collect()));
        mount
    }

    #[test]
    fn recursive_binds_are_restricted_all_the_way_down() {
        let said = |options: &[&str]| mount(&bind(options)).options().clone().expect("set");
        assert_eq!(said(&["rbind", "ro"]), ["rbind", "ro", "rro"]);
        assert_eq!(said(&["bind", "ro"]), ["bind", "ro"]);
        assert_eq!(said(&["ro"]), ["ro", "bind"]);
        assert_eq!(said(&["rbind", "noexec", "rslave"]), ["rbind", "noexec", "rslave", "rnoexec"]);
    }

    #[test]
    fn namespaces_of_others_are_the_shims_work() {
        let space = |kind, path: Option<&str>| {
            let mut space = LinuxNamespace::default();
            space.set_typ(kind).set_path(path.map(PathBuf::from));
            space
        };
        let all = [
            space(Kind::Mount, None),
            space(Kind::Pid, None),
            space(Kind::Network, Some("/proc/1/ns/net")),
            space(Kind::Ipc, None),
        ];
        let linux = linux(Linux::default(), &all, "/a".into()).expect("supported");
        let kinds: Vec<_> =
            linux.namespaces().as_ref().expect("set").iter().map(LinuxNamespace::typ).collect();
        assert_eq!(kinds, [Kind::Mount, Kind::Ipc]);
        assert_eq!(linux.cgroups_path().as_deref(), Some(Path::new("/a")));
        assert!(linux.resources().is_none());
    }
}
