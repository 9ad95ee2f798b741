//! `namespaces/ipc`: System V and POSIX shared memory of its own.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use mesos::linux_info::IpcMode;
use oci_spec::runtime::LinuxNamespaceType;

use crate::api::{ContainerContext, Contribution, Isolator, IsolatorError};
use crate::config::Config;
use crate::mounts::{bind, file_system, namespace_of, new_namespace};
use crate::simple::Preparing;

const NAME: &str = "namespaces/ipc";
const SHM: &str = "/dev/shm";

/// The isolator.
///
/// # Errors
/// The combination of flags cannot work.
pub fn ipc(
    config: Arc<Config>,
    filesystem_linux: bool,
) -> Result<Arc<dyn Isolator>, IsolatorError> {
    super::check(NAME, &config, filesystem_linux)?;
    Ok(Preparing::everywhere(NAME, config, prepare))
}

fn prepare(
    config: &Arc<Config>,
    context: &ContainerContext,
) -> Result<Contribution, IsolatorError> {
    let refuse = |verb, text: &str| Err(IsolatorError::plain(NAME, verb, text));
    let linux = context.info.as_ref().and_then(|info| info.linux_info.as_ref());
    let mode = linux.and_then(|l| l.ipc_mode).and_then(|mode| IpcMode::try_from(mode).ok());
    let size = linux.and_then(|l| l.shm_size);
    if size.is_some() && mode != Some(IpcMode::Private) {
        return refuse("set", "the size of /dev/shm: 'shm_size' needs the IPC mode PRIVATE");
    }
    let new = || vec![new_namespace(LinuxNamespaceType::Ipc)];
    let shm = |bytes: Option<u64>| {
        let mut options = vec!["nosuid".to_owned(), "nodev".to_owned(), "mode=1777".to_owned()];
        options.extend(bytes.map(|bytes| format!("size={bytes}")));
        let options: Vec<&str> = options.iter().map(String::as_str).collect();
        vec![file_system("tmpfs", SHM, &options)]
    };
    let join = |pid| vec![namespace_of(LinuxNamespaceType::Ipc, pid, "ipc")];
    let host_shm = || match context.rootfs {
        Some(_) => vec![bind(Path::new(SHM), Path::new(SHM), false)],
        None => Vec::new(),
    };
    let default = Contribution::default();
    match (mode, &context.parent) {
        (Some(IpcMode::Private), _) => {
            let bytes = size.map(|megabytes| u64::from(megabytes) << 20);
            let bytes = bytes.or(config.default_container_shm_size);
            Ok(Contribution { namespaces: new(), mounts: shm(bytes), ..default })
        }
        (Some(IpcMode::ShareParent), None) if config.disallow_sharing_agent_ipc_namespace => {
            refuse(
                "share",
                "the agent's IPC namespace: --disallow_sharing_agent_ipc_namespace is set",
            )
        }
        (Some(IpcMode::ShareParent), None) => Ok(Contribution { mounts: host_shm(), ..default }),
        (_, Some(parent)) => {
            // What its parent has there, wherever that came from.
            let of_parent = PathBuf::from(format!("/proc/{}/root{SHM}", parent.pid));
            let mounts = match is_another(&of_parent) {
                true => vec![bind(&of_parent, Path::new(SHM), false)],
                false => host_shm(),
            };
            Ok(Contribution { namespaces: join(parent.pid), mounts, ..default })
        }
        (_, None) => {
            let mounts = if context.rootfs.is_some() { shm(None) } else { Vec::new() };
            Ok(Contribution { namespaces: new(), mounts, ..default })
        }
    }
}

/// Whether a directory is not the host's `/dev/shm`. One that is not there is no other.
fn is_another(directory: &Path) -> bool {
    let device = |path: &Path| std::fs::metadata(path).map(|metadata| metadata.dev());
    match (device(directory), device(Path::new(SHM))) {
        (Ok(one), Ok(other)) => one != other,
        (Ok(_), Err(_)) => true,
        (Err(_), _) => false,
    }
}

#[cfg(test)]
mod tests {
    use mesos::{ContainerInfo, LinuxInfo};

    use super::*;
    use crate::api::Parent;
    use crate::suite::context;

    fn with(mode: Option<IpcMode>, shm_size: Option<u32>) -> ContainerContext {
        let mut context = context("a");
        let ipc_mode = mode.map(|mode| mode as i32);
        let linux = LinuxInfo { ipc_mode, shm_size, ..LinuxInfo::default() };
        context.info = Some(ContainerInfo { linux_info: Some(linux), ..ContainerInfo::default() });
        context
    }

    #[test]
    fn modes() {
        let config = Arc::new(Config::default());
        let plain = prepare(&config, &with(None, None)).unwrap();
        assert_eq!((plain.namespaces.len(), plain.mounts.len()), (1, 0));
        let private = prepare(&config, &with(Some(IpcMode::Private), Some(8))).unwrap();
        let options = private.mounts[0].options().clone().unwrap();
        assert!(options.contains(&"size=8388608".to_owned()), "{options:?}");
        assert!(prepare(&config, &with(None, Some(8))).is_err());
        let shared = prepare(&config, &with(Some(IpcMode::ShareParent), None)).unwrap();
        assert_eq!(shared, Contribution::default());
        let mut image = with(Some(IpcMode::ShareParent), None);
        image.rootfs = Some("/rootfs".into());
        let shared = prepare(&config, &image).unwrap();
        assert_eq!(shared.mounts, [bind(Path::new(SHM), Path::new(SHM), false)]);
        let mut nested = with(None, None);
        nested.parent = Some(Parent {
            pid: u32::MAX >> 1,
            sandbox: "/s".into(),
            runtime: "/r".into(),
            host_pid_namespace: false,
        });
        let joined = prepare(&config, &nested).unwrap();
        assert!(joined.mounts.is_empty());
        assert_eq!(
            joined.namespaces[0].path().clone().unwrap().to_str(),
            Some("/proc/2147483647/ns/ipc")
        );
    }
}
