//! `namespaces/user`, which Mesos does not have (`--userns_remap`): root in a container
//! is an unprivileged user on the host.
//!
//! Every top-level container gets a block of 65536 host ids of its own and a user
//! namespace in which they are called 0 to 65535. Bind mounts are id-mapped the same
//! way, so a file that user N makes inside belongs to N on the host, too; what the
//! container sees of the host's own root file system is not mapped: there it is
//! nobody. The blocks in use are learnt again from the kernel (`/proc/PID/uid_map`).

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use kernel::idmap::{self, Extent};
use kernel::namespaces::Namespace;
use oci_spec::runtime::{LinuxIdMapping, LinuxIdMappingBuilder, LinuxNamespaceType};

use crate::api::{
    ContainerContext, Contribution, IdMappings, Isolation, Isolator, IsolatorError, Known,
    Recovered,
};
use crate::config::Config;
use crate::mounts::{bind, namespace_of, new_namespace};

const NAME: &str = "namespaces/user";
/// Ids of one container.
const BLOCK: u32 = 1 << 16;

/// The host's ids that containers get: `--userns_remap`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IdRange {
    first: u32,
    /// How many blocks fit.
    blocks: u32,
}

impl IdRange {
    /// Reads `[100000-6653599]`.
    ///
    /// # Errors
    /// What is wrong with the text, for people.
    pub fn parse(text: &str) -> Result<IdRange, String> {
        let wrong = || format!("'{text}' is no range of host ids such as [100000-6653599]");
        let inner = text.trim().strip_prefix('[').and_then(|t| t.strip_suffix(']'));
        let (from, to) = inner.and_then(|inner| inner.split_once('-')).ok_or_else(wrong)?;
        let id = |text: &str| text.trim().parse::<u32>().map_err(|_| wrong());
        let (from, to) = (id(from)?, id(to)?);
        if from > to {
            return Err(wrong());
        }
        if from < BLOCK {
            // What images and the host call their users: 0 to 65535.
            return Err(format!("'{text}' begins below {BLOCK}, where the host's own ids are"));
        }
        // The last id of all is no id.
        let blocks = (u64::from(to.min(u32::MAX - 1)) + 1 - u64::from(from)) / u64::from(BLOCK);
        match u32::try_from(blocks) {
            Ok(blocks) if blocks > 0 => Ok(IdRange { first: from, blocks }),
            _ => Err(format!("'{text}' is shorter than one container needs: {BLOCK} ids")),
        }
    }

    fn base(self, block: u32) -> u32 {
        self.first + block * BLOCK
    }

    /// The block that begins at a host id.
    fn block(self, base: u32) -> Option<u32> {
        let distance = base.checked_sub(self.first)?;
        let found = (distance / BLOCK, distance % BLOCK);
        (found.1 == 0 && found.0 < self.blocks).then_some(found.0)
    }
}

/// Which blocks are taken. Pure.
#[derive(Debug)]
struct Pool {
    range: IdRange,
    taken: BTreeSet<u32>,
    /// Where the search begins: a block rests as long as it can.
    next: u32,
}

impl Pool {
    fn new(range: IdRange) -> Pool {
        Pool { range, taken: BTreeSet::new(), next: 0 }
    }

    fn take(&mut self) -> Option<u32> {
        let all = (self.next..self.range.blocks).chain(0..self.next);
        let block = all.into_iter().find(|block| !self.taken.contains(block))?;
        self.taken.insert(block);
        self.next = (block + 1) % self.range.blocks;
        Some(self.range.base(block))
    }

    fn reserve(&mut self, base: u32) -> bool {
        self.range.block(base).is_some_and(|block| self.taken.insert(block))
    }

    fn give_back(&mut self, base: u32) {
        if let Some(block) = self.range.block(base) {
            self.taken.remove(&block);
        }
    }
}

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
    let map = extents(range.first, None);
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
    fn name(&self) -> &'static str {
        NAME
    }

    fn supports_nesting(&self) -> bool {
        true
    }

    fn supports_standalone(&self) -> bool {
        true
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
    fn ranges_are_parsed_or_refused() {
        let rows = [
            ("[100000-165535]", Ok((100_000, 1))),
            ("[ 100000 - 231071 ]", Ok((100_000, 2))),
            ("[65536-4294967295]", Ok((65536, 65534))),
            ("[100000-165534]", Err("shorter than one container needs")),
            ("[0-65535]", Err("begins below 65536")),
            ("[200000-100000]", Err("is no range of host ids")),
            ("100000-165535", Err("is no range of host ids")),
            ("[100000]", Err("is no range of host ids")),
            ("[100000-99999999999]", Err("is no range of host ids")),
        ];
        for (text, wanted) in rows {
            match (IdRange::parse(text), wanted) {
                (Ok(range), Ok(wanted)) => {
                    assert_eq!((range.first, range.blocks), wanted, "{text}")
                }
                (Err(error), Err(wanted)) => assert!(error.contains(wanted), "{text}: {error}"),
                (got, _) => panic!("{text}: {got:?}"),
            }
        }
    }

    #[test]
    fn blocks_are_taken_once_rest_and_come_back() {
        let range = IdRange::parse("[100000-296607]").unwrap();
        let mut pool = Pool::new(range);
        assert!(pool.reserve(165_536), "recovered");
        assert!(!pool.reserve(165_536), "twice");
        assert!(!pool.reserve(100_001) && !pool.reserve(65_536) && !pool.reserve(296_608));
        assert_eq!((pool.take(), pool.take(), pool.take()), (Some(100_000), Some(231_072), None));
        pool.give_back(231_072);
        pool.give_back(100_000);
        assert_eq!(pool.take(), Some(100_000), "the search goes on behind the last");
        pool.give_back(100_000);
        assert_eq!(pool.take(), Some(231_072), "it rests");
    }

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
