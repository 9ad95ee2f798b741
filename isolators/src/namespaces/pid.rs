//! `namespaces/pid`: a process tree of its own, with its own `/proc`.

use std::sync::Arc;

use oci_spec::runtime::LinuxNamespaceType;

use crate::api::{ContainerContext, Contribution, Isolator, IsolatorError};
use crate::config::Config;
use crate::mounts::{file_system, namespace_of, new_namespace};
use crate::simple::Preparing;

const NAME: &str = "namespaces/pid";

/// The isolator.
///
/// # Errors
/// The combination of flags cannot work.
pub fn pid(
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
    let linux = context.info.as_ref().and_then(|info| info.linux_info.as_ref());
    let share = linux.and_then(|l| l.share_pid_namespace).unwrap_or(false);
    // A root of its own has a new /proc from filesystem/linux already.
    let proc = || match context.rootfs {
        Some(_) => Vec::new(),
        None => vec![file_system("proc", "/proc", &["nosuid", "noexec", "nodev"])],
    };
    match (&context.parent, share) {
        (_, false) => Ok(Contribution {
            namespaces: vec![new_namespace(LinuxNamespaceType::Pid)],
            mounts: proc(),
            ..Contribution::default()
        }),
        // Sharing with a parent that shares with the host: nothing to join.
        (Some(parent), true) if parent.host_pid_namespace => Ok(Contribution::default()),
        (Some(parent), true) => Ok(Contribution {
            namespaces: vec![namespace_of(LinuxNamespaceType::Pid, parent.pid, "pid")],
            mounts: proc(),
            ..Contribution::default()
        }),
        (None, true) if config.disallow_sharing_agent_pid_namespace => Err(IsolatorError::plain(
            NAME,
            "share",
            "the agent's pid namespace: --disallow_sharing_agent_pid_namespace is set",
        )),
        (None, true) => Ok(Contribution::default()),
    }
}

#[cfg(test)]
mod tests {
    use mesos::{ContainerInfo, LinuxInfo};

    use super::*;
    use crate::api::Parent;
    use crate::config::Launcher;
    use crate::suite::context;

    fn sharing(mut context: ContainerContext) -> ContainerContext {
        let linux = LinuxInfo { share_pid_namespace: Some(true), ..LinuxInfo::default() };
        context.info = Some(ContainerInfo { linux_info: Some(linux), ..ContainerInfo::default() });
        context
    }

    #[test]
    fn top_level() {
        let config = Arc::new(Config::default());
        let own = prepare(&config, &context("a")).unwrap();
        assert_eq!(own.namespaces, [new_namespace(LinuxNamespaceType::Pid)]);
        assert_eq!(own.mounts.len(), 1);
        let shared = prepare(&config, &sharing(context("a"))).unwrap();
        assert_eq!(shared, Contribution::default());
        let mut strict = (*config).clone();
        strict.disallow_sharing_agent_pid_namespace = true;
        assert!(prepare(&Arc::new(strict), &sharing(context("a"))).is_err());
    }

    #[test]
    fn nested_joins_what_its_parent_has() {
        let config = Arc::new(Config::default());
        let mut nested = sharing(context("b"));
        let parent = Parent {
            pid: 42,
            sandbox: "/s".into(),
            runtime: "/r".into(),
            host_pid_namespace: false,
        };
        nested.parent = Some(parent.clone());
        let joined = prepare(&config, &nested).unwrap();
        let path = joined.namespaces[0].path().clone().unwrap();
        assert_eq!(path.to_str(), Some("/proc/42/ns/pid"));
        nested.parent = Some(Parent { host_pid_namespace: true, ..parent });
        assert_eq!(prepare(&config, &nested).unwrap(), Contribution::default());
    }

    #[test]
    fn prerequisites() {
        assert!(pid(Arc::new(Config::default()), true).is_ok());
        assert!(pid(Arc::new(Config::default()), false).is_err());
        let posix = Config { launcher: Launcher::Posix, ..Config::default() };
        let error = pid(Arc::new(posix), true).err().unwrap().to_string();
        assert!(error.contains("--launcher=posix"), "{error}");
    }
}
