//! Which namespaces a plan makes and which it enters.

use std::path::Path;

use isolators::plan::LinuxNamespaceType;
use kernel::namespaces::Namespace;
use oci_spec::runtime::Linux;

use crate::launch::error::LaunchError;

/// The namespaces of a plan.
#[derive(Debug)]
pub(in crate::launch) struct Spaces<'a> {
    /// `CLONE_NEW*` flags of those to make.
    new: u32,
    /// Those to join, the mount namespace last: it changes what paths mean.
    pub(super) joined: Vec<(Namespace, &'a Path)>,
    /// The user namespace; the container's first process enters it, the shim does not.
    pub(in crate::launch) user: Option<User<'a>>,
}

/// A container's user namespace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::launch) enum User<'a> {
    /// The engine makes it.
    New,
    /// It is there.
    Joined(&'a Path),
}

impl<'a> Spaces<'a> {
    pub(in crate::launch) fn of(linux: Option<&'a Linux>) -> Result<Spaces<'a>, LaunchError> {
        let mut spaces = Spaces { new: 0, joined: Vec::new(), user: None };
        for space in linux.and_then(|linux| linux.namespaces().as_ref()).into_iter().flatten() {
            let kind = match space.typ() {
                LinuxNamespaceType::Mount => Namespace::Mount,
                LinuxNamespaceType::Cgroup => Namespace::Cgroup,
                LinuxNamespaceType::Uts => Namespace::Uts,
                LinuxNamespaceType::Ipc => Namespace::Ipc,
                LinuxNamespaceType::Pid => Namespace::Pid,
                LinuxNamespaceType::Network => Namespace::Network,
                LinuxNamespaceType::Time => Namespace::Time,
                LinuxNamespaceType::User => Namespace::User,
            };
            if spaces.has(kind) {
                return Err(LaunchError::Plan(format!("two {} namespaces", space.typ())));
            }
            match space.path() {
                path if kind == Namespace::User => {
                    spaces.user = Some(path.as_deref().map_or(User::New, User::Joined));
                }
                None => spaces.new |= kind.flag(),
                Some(path) => spaces.joined.push((kind, path)),
            }
        }
        spaces.joined.sort_by_key(|(kind, _)| *kind == Namespace::Mount);
        Ok(spaces)
    }

    /// Made for this container.
    pub(in crate::launch) fn made(&self, kind: Namespace) -> bool {
        self.new & kind.flag() != 0
    }

    /// Not the agent's own.
    pub(in crate::launch) fn has(&self, kind: Namespace) -> bool {
        let user = kind == Namespace::User && self.user.is_some();
        user || self.made(kind) || self.joined.iter().any(|(joined, _)| *joined == kind)
    }

    /// `CLONE_NEW*` flags for the shim. A cgroup namespace is rooted at its maker's
    /// cgroup, and a time namespace gets its offsets before it has processes: both are
    /// made later.
    pub(super) fn for_shim(&self) -> u64 {
        u64::from(self.new & !(Namespace::Cgroup.flag() | Namespace::Time.flag()))
    }
}
