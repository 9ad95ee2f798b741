//! The user namespace of a container: there before the container is, so that its mounts
//! can be mapped by it.

use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use isolators::plan::LaunchPlan;
use kernel::idmap::{self, Extent};
use oci_spec::runtime::{Linux, LinuxIdMapping};

use super::compile::{Spaces, User};
use super::error::LaunchError;

/// A user namespace that is kept while a container is launched.
#[derive(Debug)]
pub(super) struct Ids {
    path: PathBuf,
    namespace: OwnedFd,
    users: Vec<Extent>,
}

impl Ids {
    /// Makes or opens the namespace that `plan` asks for, if it asks for one.
    pub(super) fn of(plan: &LaunchPlan) -> Result<Option<Ids>, LaunchError> {
        let Some(linux) = plan.spec.linux() else { return Ok(None) };
        let (namespace, users) = match Spaces::of(Some(linux))?.user {
            None => return Ok(None),
            Some(User::New) => {
                let (users, groups) = maps(linux)?;
                (idmap::user_namespace(&users, &groups)?, users)
            }
            Some(User::Joined(path)) => {
                let namespace = File::open(path).map_err(|source| {
                    let object = path.display().to_string();
                    LaunchError::Prepare { verb: "open", object, source }
                })?;
                // `/proc/<pid>/ns/user`: a process that is in it.
                let pid = path.iter().nth(2).and_then(|pid| pid.to_str()?.parse().ok());
                let users = pid.and_then(|pid| idmap::users_of(pid).ok());
                (namespace.into(), users.unwrap_or_default())
            }
        };
        let path = format!("/proc/{}/fd/{}", std::process::id(), namespace.as_raw_fd()).into();
        Ok(Some(Ids { path, namespace, users }))
    }

    /// The host's id of the container's user `id`, if it is known.
    pub(super) fn outside(&self, id: u32) -> Option<u32> {
        let extent = self.users.iter().find(|extent| extent.holds(id))?;
        Some(extent.outside + (id - extent.inside))
    }

    /// Where a process of the host finds it, as long as this value lives.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// The container's output, opened such that its processes may open it by name, too.
    /// What cannot be is used as it is: they have the descriptor.
    fn output(&self, file: &OwnedFd) -> Option<OwnedFd> {
        let again = idmap::reopen(file, &self.namespace);
        again.inspect_err(|error| tracing::debug!(%error, "output without mapped owner")).ok()?
    }
}

/// Standard output and error of a container, as it gets them.
#[derive(Debug)]
pub(super) struct Outputs<'a> {
    plan: &'a LaunchPlan,
    mapped: [Option<OwnedFd>; 2],
}

impl<'a> Outputs<'a> {
    pub(super) fn of(plan: &'a LaunchPlan, ids: Option<&Ids>) -> Outputs<'a> {
        let mapped = |file| ids.and_then(|ids| ids.output(file));
        Outputs { plan, mapped: [mapped(&plan.stdio.stdout), mapped(&plan.stdio.stderr)] }
    }

    pub(super) fn stdout(&self) -> BorrowedFd<'_> {
        self.mapped[0].as_ref().unwrap_or(&self.plan.stdio.stdout).as_fd()
    }

    pub(super) fn stderr(&self) -> BorrowedFd<'_> {
        self.mapped[1].as_ref().unwrap_or(&self.plan.stdio.stderr).as_fd()
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
