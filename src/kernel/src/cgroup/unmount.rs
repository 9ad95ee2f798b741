//! Takes v1 hierarchies away again that an agent has mounted on its own.
//!
//! For whoever started an agent and wants the machine back as it was, such as
//! `bulkhead local`. Agents themselves never unmount: containers outlive them.

use super::{Error, Hierarchies, Version};

impl Hierarchies {
    /// Unmounts the v1 hierarchies of this table that `before` does not have and
    /// that hold no cgroup: another agent would have one in each that it uses.
    /// Returns what could not be unmounted.
    #[must_use]
    pub fn unmount_new(&self, before: &Hierarchies) -> Vec<Error> {
        let new = self.all().iter().filter(|hierarchy| {
            let known = before.all().iter().any(|old| old.mount == hierarchy.mount);
            hierarchy.version == Version::V1 && hierarchy.name.is_none() && !known
        });
        let mut failed = Vec::new();
        for hierarchy in new {
            let mount = &hierarchy.mount;
            let is_group = |entry: std::fs::DirEntry| entry.file_type().is_ok_and(|t| t.is_dir());
            let entries = std::fs::read_dir(mount).into_iter().flatten().flatten();
            if entries.into_iter().any(is_group) {
                continue;
            }
            match nix::mount::umount2(mount, nix::mount::MntFlags::UMOUNT_NOFOLLOW) {
                // The mount point was made for it; it stays if it holds something.
                Ok(()) => drop(std::fs::remove_dir(mount)),
                Err(error) => failed.push(Error::io("unmount", mount, error.into())),
            }
        }
        failed
    }
}
