//! `namespaces/cgroup` and `namespaces/uts`, which Mesos does not have: a view of
//! the container's own cgroup as the root, and a host name of its own.

use std::sync::Arc;

use oci_spec::runtime::LinuxNamespaceType;

use crate::api::{ContainerContext, Contribution, Isolator, IsolatorError};
use crate::config::Config;
use crate::mounts::new_namespace;
use crate::simple::Preparing;

/// `namespaces/cgroup`.
///
/// # Errors
/// The combination of flags cannot work.
pub fn cgroup(config: &Config, filesystem_linux: bool) -> Result<Arc<dyn Isolator>, IsolatorError> {
    const NAME: &str = "namespaces/cgroup";
    super::check(NAME, config, filesystem_linux)?;
    Ok(Preparing::everywhere(NAME, LinuxNamespaceType::Cgroup, prepare))
}

/// `namespaces/uts`.
///
/// # Errors
/// The combination of flags cannot work.
pub fn uts(config: &Config, filesystem_linux: bool) -> Result<Arc<dyn Isolator>, IsolatorError> {
    const NAME: &str = "namespaces/uts";
    super::check(NAME, config, filesystem_linux)?;
    Ok(Preparing::everywhere(NAME, LinuxNamespaceType::Uts, prepare))
}

// The signature is that of every `prepare`.
#[allow(clippy::unnecessary_wraps)]
fn prepare(
    kind: &LinuxNamespaceType,
    context: &ContainerContext,
) -> Result<Contribution, IsolatorError> {
    let hostname = context.info.as_ref().and_then(|info| info.hostname.clone());
    let hostname = hostname.filter(|_| *kind == LinuxNamespaceType::Uts);
    Ok(Contribution { namespaces: vec![new_namespace(*kind)], hostname, ..Contribution::default() })
}
