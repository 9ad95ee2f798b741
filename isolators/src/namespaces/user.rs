//! `namespaces/user`, which Mesos does not have (`--userns_remap`): root in a container
//! is an unprivileged user on the host.
//!
//! Every top-level container gets a block of 65536 host ids of its own and a user
//! namespace in which they are called 0 to 65535. Bind mounts are id-mapped the same
//! way, so a file that user N makes inside belongs to N on the host, too; what the
//! container sees of the host's own root file system is not mapped: there it is
//! nobody. The blocks in use are learnt again from the kernel (`/proc/PID/uid_map`).

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use kernel::idmap::{self, Extent};
use kernel::namespaces::Namespace;
use oci_spec::runtime::{LinuxIdMapping, LinuxIdMappingBuilder, LinuxNamespaceType};

use crate::api::{
    About, ContainerContext, Contribution, IdMappings, Isolation, Isolator, IsolatorError, Known,
    Recovered,
};
use crate::config::Config;
use crate::ids::{BLOCK, IdRange, Pool};
use crate::mounts::{bind, namespace_of, new_namespace};

const NAME: &str = "namespaces/user";
type SharedPool = Arc<Mutex<Pool>>;

/// The isolator.
struct User {
    pool: SharedPool,
}

/// The isolator.
///
/// # Errors
/// The combination of flags, the kernel, or the file system of the work dir cannot
/// work.
pub fn user(
    config: Arc<Config>,
    filesystem_linux: bool,
) -> Result<Arc<dyn Isolator>, IsolatorError> {
    super::check(NAME, &config, filesystem_linux)?;
    let range = config.userns_remap.ok_or_else(|| {
        let object = "without --userns_remap: it names the host ids, such as [100000-6653599]";
        IsolatorError::plain(NAME, "start", object)
    })?;
    probe(range, &config.disk.work_dir)?;
    Ok(Arc::new(User { pool: Arc::new(Mutex::new(Pool::new(range))) }))
}

/// Finds out at start what would fail every launch.
fn probe(range: IdRange, work_dir: &Path) -> Result<(), IsolatorError> {
    let map = extents(range.first(), None);
    let namespace = idmap::user_namespace(&map, &map).map_err(|error| {
        let object = "here: this kernel gives no user namespace (CONFIG_USER_NS, \
                      user.max_user_namespaces)";
        IsolatorError::new(NAME, "start", object, error)
    })?;
    if !work_dir.is_dir() {
        return Ok(());
    }
    idmap::can_map(work_dir, &namespace).map_err(|error| {
        let object = format!(
            "here: the file system of the work dir '{}' cannot map ids (Linux 5.12 or later, and \
             ext4, XFS or btrfs, or from 6.3 tmpfs)",
            work_dir.display()
        );
        IsolatorError::new(NAME, "start", object, error)
    })
}

/// 0 to 65535 inside, from `base` outside. An `extra` id beyond takes the place of the
/// last one, which nobody uses: 65535 is "no id" to programs of 16 bits.
fn extents(base: u32, extra: Option<u32>) -> Vec<Extent> {
    match extra.filter(|id| *id >= BLOCK) {
        None => vec![Extent { inside: 0, outside: base, count: BLOCK }],
        Some(id) => vec![
            Extent { inside: 0, outside: base, count: BLOCK - 1 },
            Extent { inside: id, outside: base + BLOCK - 1, count: 1 },
        ],
    }
}

fn mappings(extents: &[Extent]) -> Vec<LinuxIdMapping> {
    let mapping = |extent: &Extent| {
        LinuxIdMappingBuilder::default()
            .container_id(extent.inside)
            .host_id(extent.outside)
            .size(extent.count)
            .build()
            .expect("every field is given")
    };
    extents.iter().map(mapping).collect()
}

#[async_trait]
impl Isolator for User {
    fn about(&self) -> About {
        About::everywhere(NAME)
    }

    fn attach(&self, context: &Arc<ContainerContext>) -> Box<dyn Isolation> {
        let (pool, context) = (Arc::clone(&self.pool), Arc::clone(context));
        Box::new(Block { pool, context, base: None })
    }

    async fn recover(&self, known: &[Known]) -> Result<Recovered, IsolatorError> {
        let recovered = |known: &Known| {
            let mut base = None;
            // A nested container is in its parent's block.
            if let Some(pid) = known.pid.filter(|_| known.context.parent.is_none())
                && let Ok(map) = idmap::users_of(pid)
                && let Some(first) = map.first().filter(|extent| extent.inside == 0)
            {
                let mut pool = self.pool.lock().unwrap_or_else(PoisonError::into_inner);
                base = pool.reserve(first.outside).then_some(first.outside);
            }
            let (pool, context) = (Arc::clone(&self.pool), Arc::clone(&known.context));
            Box::new(Block { pool, context, base }) as Box<dyn Isolation>
        };
        Ok(Recovered { handles: known.iter().map(recovered).collect(), leftovers: Vec::new() })
    }
}

/// The ids of one container.
#[derive(Debug)]
struct Block {
    pool: SharedPool,
    context: Arc<ContainerContext>,
    /// The first host id, if this container owns a block.
    base: Option<u32>,
}

impl Block {
    fn pool(&self) -> std::sync::MutexGuard<'_, Pool> {
        self.pool.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn own(&mut self) -> Result<Contribution, IsolatorError> {
        let taken = self.pool().take();
        let base = taken.ok_or_else(|| {
            let object = "host ids: every block of --userns_remap is in use";
            IsolatorError::plain(NAME, "find", object)
        })?;
        self.base = Some(base);
        let (uid, gid) = self.context.ids.unzip();
        let mut part = self.part(&extents(base, uid), &extents(base, gid));
        part.namespaces = vec![new_namespace(LinuxNamespaceType::User)];
        Ok(part)
    }

    /// In the namespace of the parent, if that has one of its own.
    fn joined(&self, parent: u32) -> Result<Contribution, IsolatorError> {
        let failed = |error: std::io::Error| {
            let object = format!("the user namespace of the parent container's process {parent}");
            IsolatorError::new(NAME, "look at", object, error)
        };
        if Namespace::User.shared_with(parent).map_err(failed)? {
            return Ok(Contribution::default());
        }
        let uids = idmap::users_of(parent).map_err(failed)?;
        let gids = idmap::groups_of(parent).map_err(failed)?;
        if let Some((uid, gid)) = self.context.ids {
            let has = |map: &[Extent], id| map.iter().any(|extent| extent.holds(id));
            if !has(&uids, uid) || !has(&gids, gid) {
                let object = format!(
                    "user {uid} and group {gid}: the parent container's namespace has no such ids"
                );
                return Err(IsolatorError::plain(NAME, "map", object));
            }
        }
        let mut part = self.part(&uids, &gids);
        part.namespaces = vec![namespace_of(LinuxNamespaceType::User, parent, "user")];
        Ok(part)
    }

    fn part(&self, uids: &[Extent], gids: &[Extent]) -> Contribution {
        let id_mappings = Some(IdMappings { uids: mappings(uids), gids: mappings(gids) });
        // With a root of its own the sandbox is bound there; here it must be, too, to
        // be mapped.
        let mounts = match &self.context.rootfs {
            Some(_) => Vec::new(),
            None => vec![bind(&self.context.sandbox, &self.context.sandbox, false)],
        };
        Contribution { id_mappings, mounts, ..Contribution::default() }
    }
}

#[async_trait]
impl Isolation for Block {
    async fn prepare(&mut self) -> Result<Contribution, IsolatorError> {
        match self.context.parent.as_ref().map(|parent| parent.pid) {
            None => self.own(),
            Some(parent) => self.joined(parent),
        }
    }

    async fn cleanup(&mut self) -> Result<(), IsolatorError> {
        if let Some(base) = self.base.take() {
            self.pool().give_back(base);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn large_ids_take_the_last_place() {
        let extent = |inside, outside, count| Extent { inside, outside, count };
        assert_eq!(extents(100_000, Some(1000)), [extent(0, 100_000, 65536)]);
        assert_eq!(
            extents(100_000, Some(70_000)),
            [extent(0, 100_000, 65535), extent(70_000, 165_535, 1)]
        );
    }
}
