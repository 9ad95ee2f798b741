//! `filesystem/linux`: a mount namespace for every container, and a complete
//! `/proc`, `/sys` and `/dev` for those with a root file system of their own.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use oci_spec::runtime::{
    LinuxDevice, LinuxDeviceBuilder, LinuxDeviceType, LinuxNamespaceType, Mount,
};

use super::check_volumes;
use super::volumes::{Filesystem, Volumes};
use crate::api::{About, ContainerContext, Contribution, Isolator, IsolatorError};
use crate::capability::Set;
use crate::config::Config;
use crate::linux::capabilities;
use crate::mounts::{bind, file_system, new_namespace};
use crate::plan::{FileOperation, Fixtures};
use crate::volume::persistent::Book;

const NAME: &str = "filesystem/linux";
/// Its containers have a `/dev/shm` that is not made here.
const IPC: &str = "namespaces/ipc";

/// Hidden in containers with a root of their own, as Mesos hides them.
const MASKED: [&str; 11] = [
    "/proc/acpi",
    "/proc/asound",
    "/proc/kcore",
    "/proc/keys",
    "/proc/key-users",
    "/proc/latency_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/sys/firmware",
];

/// Not to be written to, as in Mesos.
const READ_ONLY: [&str; 5] =
    ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

/// Device nodes every container has: name, major, minor.
const DEVICES: [(&str, i64, i64); 6] = [
    ("full", 1, 7),
    ("null", 1, 3),
    ("random", 1, 8),
    ("tty", 5, 0),
    ("urandom", 1, 9),
    ("zero", 1, 5),
];

/// Links in `/dev`: name and target.
const LINKS: [(&str, &str); 5] = [
    ("/dev/fd", "/proc/self/fd"),
    ("/dev/stdin", "/proc/self/fd/0"),
    ("/dev/stdout", "/proc/self/fd/1"),
    ("/dev/stderr", "/proc/self/fd/2"),
    ("/dev/ptmx", "pts/ptmx"),
];

/// How the host finds others and is called, for containers on its network.
const HOST_FILES: [&str; 3] = ["/etc/resolv.conf", "/etc/hosts", "/etc/hostname"];

/// Where a root file system of a container's own is mounted on: a path and whether it is
/// a directory. An image that has them all is quicker to start.
#[must_use]
pub fn mount_points(sandbox_directory: &Path) -> Vec<(PathBuf, bool)> {
    let dirs = ["/proc", "/sys", "/dev"].into_iter().map(Path::new).chain([sandbox_directory]);
    let files = HOST_FILES.iter().map(Path::new);
    let both = dirs.map(|dir| (dir, true)).chain(files.map(|file| (file, false)));
    both.map(|(path, is_dir)| (path.to_owned(), is_dir)).collect()
}

/// What all containers with a root of their own have in it, with these isolators
/// (`--isolation`).
#[must_use]
pub fn fixtures(isolation: &str) -> Fixtures {
    let own_shm = isolation.split(',').any(|name| name.trim() == IPC);
    Fixtures::new(root_mounts(!own_shm))
        .devices(devices())
        .links(links())
        .guarded(&MASKED, &READ_ONLY)
}

#[derive(Debug, Clone)]
struct Settings {
    config: Arc<Config>,
    enabled: Arc<BTreeSet<&'static str>>,
}

/// The isolator. `enabled`: names of all enabled isolators.
///
/// # Errors
/// The combination of flags cannot work.
pub(crate) fn linux(
    config: Arc<Config>,
    enabled: BTreeSet<&'static str>,
    book: Book,
) -> Result<Arc<dyn Isolator>, IsolatorError> {
    config.require_linux(NAME)?;
    Ok(Arc::new(Filesystem {
        about: About::everywhere(NAME),
        settings: Settings { config: Arc::clone(&config), enabled: Arc::new(enabled) },
        prepare,
        volumes: Volumes { config, book, bind: true },
    }))
}

fn prepare(settings: &Settings, context: &ContainerContext) -> Result<Contribution, IsolatorError> {
    check_volumes(NAME, context, &settings.enabled)?;
    let mut part = Contribution {
        namespaces: vec![new_namespace(LinuxNamespaceType::Mount)],
        ..Contribution::default()
    };
    if context.rootfs.is_none() {
        if is_confined(settings, context)? {
            protect(&mut part, context);
            // The host's own, with every cgroup in it.
            part.readonly_paths.push("/sys".to_owned());
        }
        return Ok(part);
    }
    let own_shm = settings.enabled.contains(IPC);
    part.mounts = root_mounts(!own_shm);
    part.mounts.push(bind(&context.sandbox, &settings.config.sandbox_directory, false));
    if !has_own_network(context) {
        let there = HOST_FILES.iter().map(Path::new).filter(|path| path.is_file());
        part.mounts.extend(there.map(|path| bind(path, path, true)));
    }
    part.devices = devices();
    part.file_operations = links();
    protect(&mut part, context);
    Ok(part)
}

fn protect(part: &mut Contribution, context: &ContainerContext) {
    let owned = |paths: &[&str]| paths.iter().map(|path| (*path).to_owned()).collect();
    part.readonly_paths = owned(&READ_ONLY);
    if !is_privileged(context) {
        part.masked_paths = owned(&MASKED);
    }
}

/// Whether the container sees the host's files but may not administer the host:
/// then what the kernel lets user 0 write to without any capability, the files
/// below `/proc/sys` and the cgroups, must not be writable.
fn is_confined(settings: &Settings, context: &ContainerContext) -> Result<bool, IsolatorError> {
    if !settings.enabled.contains("linux/capabilities") {
        return Ok(false);
    }
    let admin = Set::of_name("SYS_ADMIN").unwrap_or_default();
    let grant = capabilities::grant(&settings.config, context);
    let grant = grant.map_err(|text| IsolatorError::plain(NAME, "use", text))?;
    Ok(grant.is_some_and(|grant| !grant.bounding.contains(admin)))
}

/// Whether it has a network of its own, with files of its own.
fn has_own_network(context: &ContainerContext) -> bool {
    let networks = context.info.as_ref().map(|info| info.network_infos.as_slice());
    networks.unwrap_or_default().iter().any(|network| network.name.is_some())
}

/// Sharing the host's pid namespace all the way up.
fn is_privileged(context: &ContainerContext) -> bool {
    let linux = context.info.as_ref().and_then(|info| info.linux_info.as_ref());
    let shares = linux.and_then(|l| l.share_pid_namespace).unwrap_or(false);
    shares && context.parent.as_ref().is_none_or(|parent| parent.host_pid_namespace)
}

fn root_mounts(shm: bool) -> Vec<Mount> {
    let safe = ["nosuid", "noexec", "nodev"];
    let mut mounts = vec![
        file_system("proc", "/proc", &safe),
        file_system("sysfs", "/sys", &["ro", "nosuid", "noexec", "nodev"]),
        file_system("tmpfs", "/sys/fs/cgroup", &["nosuid", "noexec", "nodev", "mode=755"]),
        file_system("tmpfs", "/dev", &["nosuid", "noexec", "strictatime", "mode=755"]),
        file_system(
            "devpts",
            "/dev/pts",
            &["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"],
        ),
    ];
    if shm {
        mounts.push(file_system(
            "tmpfs",
            "/dev/shm",
            &["nosuid", "nodev", "strictatime", "mode=1777"],
        ));
    }
    mounts
}

fn links() -> Vec<FileOperation> {
    let link =
        |(link, to): &(&str, &str)| FileOperation::Symlink { target: to.into(), link: link.into() };
    LINKS.iter().map(link).collect()
}

fn devices() -> Vec<LinuxDevice> {
    let device = |(name, major, minor): &(&str, i64, i64)| {
        LinuxDeviceBuilder::default()
            .path(Path::new("/dev").join(name))
            .typ(LinuxDeviceType::C)
            .major(*major)
            .minor(*minor)
            .file_mode(0o666_u32)
            .uid(0_u32)
            .gid(0_u32)
            .build()
            .expect("every field of a device is given")
    };
    DEVICES.iter().map(device).collect()
}

#[cfg(test)]
mod tests {
    use mesos::ContainerInfo;

    use super::*;
    use crate::suite::context;
    use crate::volume::tests::{host, volume};

    fn settings(enabled: &[&'static str]) -> Settings {
        Settings {
            config: Arc::new(Config::default()),
            enabled: Arc::new(enabled.iter().copied().collect()),
        }
    }

    #[test]
    fn with_and_without_a_root() {
        let plain = prepare(&settings(&[]), &context("a")).unwrap();
        assert_eq!((plain.namespaces.len(), plain.mounts.len()), (1, 0));
        assert!(plain.masked_paths.is_empty());
        let mut image = context("a");
        image.rootfs = Some("/rootfs".into());
        let part = prepare(&settings(&[]), &image).unwrap();
        let seen: Vec<_> =
            part.mounts.iter().map(|m| m.destination().display().to_string()).collect();
        // What the host has of its three files comes last.
        let (own, hosts) = seen.split_at(7);
        assert!(hosts.iter().all(|path| HOST_FILES.contains(&path.as_str())), "{hosts:?}");
        let named = mesos::NetworkInfo { name: Some("net".into()), ..Default::default() };
        let mut networked = image.clone();
        networked.info =
            Some(ContainerInfo { network_infos: vec![named], ..ContainerInfo::default() });
        assert_eq!(prepare(&settings(&[]), &networked).unwrap().mounts.len(), 7);
        assert_eq!(
            own,
            [
                "/proc",
                "/sys",
                "/sys/fs/cgroup",
                "/dev",
                "/dev/pts",
                "/dev/shm",
                "/mnt/mesos/sandbox"
            ]
        );
        assert_eq!((part.devices.len(), part.masked_paths.len()), (6, 11));
        let ipc = prepare(&settings(&["namespaces/ipc"]), &image).unwrap();
        assert_eq!(ipc.mounts.len(), part.mounts.len() - 1);
    }

    #[test]
    fn a_container_that_may_not_administer_the_host_cannot_write_its_settings() {
        let mut settings = settings(&["linux/capabilities"]);
        let plain = prepare(&settings, &context("a")).unwrap();
        assert!(plain.readonly_paths.is_empty(), "nothing is bounded");
        let config = Arc::make_mut(&mut settings.config);
        config.bounding_capabilities = Set::of_name("CHOWN");
        let bounded = prepare(&settings, &context("a")).unwrap();
        assert!(bounded.readonly_paths.contains(&"/sys".to_owned()));
        assert!(bounded.readonly_paths.contains(&"/proc/sys".to_owned()));
        assert_eq!(bounded.masked_paths.len(), 11);
    }

    #[test]
    fn volumes_nobody_provides_are_refused() {
        let mut context = context("a");
        let volumes = vec![volume("x", host("/tmp"))];
        context.info = Some(ContainerInfo { volumes, ..ContainerInfo::default() });
        let error = prepare(&settings(&[]), &context).unwrap_err().to_string();
        assert!(error.contains("'volume/host_path'"), "{error}");
        assert!(prepare(&settings(&["volume/host_path"]), &context).is_ok());
    }
}
