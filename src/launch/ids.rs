//! The user namespace of a container: made by the agent before the container is, so
//! that its mounts can be mapped by it.

use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use isolators::plan::LaunchPlan;
use kernel::idmap::{self, Extent};
use oci_spec::runtime::{Linux, LinuxIdMapping};

use super::compile::{Spaces, User};
use super::error::LaunchError;

/// A user namespace made for a container that is being launched.
#[derive(Debug)]
pub(super) struct Ids {
    path: PathBuf,
    _namespace: OwnedFd,
}

impl Ids {
    /// Makes the namespace that `plan` asks for, if it asks for a new one.
    pub(super) fn of(plan: &LaunchPlan) -> Result<Option<Ids>, LaunchError> {
        let Some(linux) = plan.spec.linux() else { return Ok(None) };
        if Spaces::of(Some(linux))?.user != Some(User::New) {
            return Ok(None);
        }
        let (users, groups) = maps(linux)?;
        let namespace = idmap::user_namespace(&users, &groups)?;
        let path = format!("/proc/{}/fd/{}", std::process::id(), namespace.as_raw_fd()).into();
        Ok(Some(Ids { path, _namespace: namespace }))
    }

    /// Where a process of the host finds it, as long as this value lives.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }
}

fn maps(linux: &Linux) -> Result<(Vec<Extent>, Vec<Extent>), LaunchError> {
    let extents = |list: &Option<Vec<LinuxIdMapping>>| -> Vec<Extent> {
        let extent = |map: &LinuxIdMapping| Extent {
            inside: map.container_id(),
            outside: map.host_id(),
            count: map.size(),
        };
        list.iter().flatten().map(extent).collect()
    };
    let maps = (extents(linux.uid_mappings()), extents(linux.gid_mappings()));
    match maps.0.is_empty() || maps.1.is_empty() {
        true => Err(LaunchError::Plan("a user namespace without ids".to_owned())),
        false => Ok(maps),
    }
}
