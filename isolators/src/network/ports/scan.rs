//! Who listens where, by container. **Blocks.**
//!
//! One list of all listening sockets for each network, then every socket is given
//! to its container: by the id of the v2 cgroup that it was made in, which costs a
//! table look-up, or, for containers without such a cgroup (hosts without v2, and
//! containers that are older than this isolator), by its inode in
//! `/proc/<pid>/fd` of the container's processes. Those are read only if there is a
//! socket that nobody has looked for yet: sockets have names that are never used
//! again, so what was found once stays found.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use kernel::cgroup::Cgroup;
use kernel::cgroup::id::Directories;
use kernel::namespaces::Namespace;
use kernel::netlink::diag::{self, Listener, Protocol};
use kernel::netlink::{Family, Socket};
use tracing::{debug, warn};

use super::core::container_of;

/// Looks for a socket's owner before it is taken for the host's: a process may
/// hand it to a child and end while its descriptors are read.
const LOOKS: u8 = 3;

/// A container to look for.
#[derive(Debug, Clone)]
pub(super) struct Target {
    /// Of the top-level container.
    pub(super) id: String,
    /// Its first process, if known.
    pub(super) pid: Option<u32>,
    /// All its processes are here and below.
    pub(super) tracker: Cgroup,
    /// It has a v2 cgroup, and had it when it was started.
    pub(super) unified: bool,
}

/// A container, by the ids from the top-level one down.
pub(super) type Lineage = Arc<[String]>;

/// A socket of a container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Owned {
    /// The container that it is in, its parents first.
    pub(super) lineage: Lineage,
    pub(super) listener: Listener,
}

/// All that was found in one look.
#[derive(Debug, Default)]
pub(super) struct Found {
    /// By top-level container: each that was looked at, if only to find nothing.
    pub(super) owned: BTreeMap<String, Vec<Owned>>,
    /// In the host's network and no container's.
    pub(super) others: Vec<Listener>,
}

/// A network, known by the inode of its namespace.
#[derive(Debug)]
struct Network {
    socket: Socket,
    ephemeral: (u16, u16),
}

/// What is remembered from one look to the next.
#[derive(Debug)]
pub(super) struct Scanner {
    /// `--cgroups_root`.
    root: String,
    /// The v2 hierarchy, where containers are in it.
    directories: Option<Directories>,
    host: u64,
    networks: HashMap<u64, Network>,
    /// v2 cgroups that were looked up; `None`: of no container.
    cgroups: HashMap<u64, Option<Lineage>>,
    /// Sockets that were looked for by inode: whose, or how often in vain.
    sockets: HashMap<u64, Result<Lineage, u8>>,
}

impl Scanner {
    /// # Errors
    /// The kernel does not list sockets.
    pub(super) fn new(
        root: &str,
        directories: Option<Directories>,
    ) -> Result<Scanner, kernel::Error> {
        let host = network_of(std::process::id()).unwrap_or(0);
        let ephemeral = diag::ephemeral_ports()?;
        let socket = Socket::open(Family::SockDiag)?;
        let networks = HashMap::from([(host, Network { socket, ephemeral })]);
        let root = root.to_owned();
        let (cgroups, sockets) = (HashMap::new(), HashMap::new());
        let mut scanner = Scanner { root, directories, host, networks, cgroups, sockets };
        scanner.list(host)?;
        Ok(scanner)
    }

    /// The ports that the host's kernel gives to whoever asks for none.
    pub(super) fn ephemeral(&self) -> (u16, u16) {
        self.networks.get(&self.host).map_or((0, 0), |network| network.ephemeral)
    }

    /// What counts as listening. UDP has no listening: a port that the kernel chose
    /// is a client's.
    fn list(&mut self, network: u64) -> Result<Vec<Listener>, kernel::Error> {
        let Some(known) = self.networks.get_mut(&network) else { return Ok(Vec::new()) };
        let (first, last) = known.ephemeral;
        let mut all = diag::listeners(&mut known.socket)?;
        all.retain(|l| l.protocol == Protocol::Tcp || !(first..=last).contains(&l.port));
        Ok(all)
    }

    /// One look at everything.
    pub(super) fn look(&mut self, targets: &[Target]) -> Found {
        let mut found = Found::default();
        let mut networks: BTreeMap<u64, Vec<&Target>> = BTreeMap::from([(self.host, Vec::new())]);
        for target in targets {
            // One that is not started yet listens nowhere; one that has ended neither.
            let Some(network) = target.pid.and_then(network_of) else { continue };
            if self.enter(network, target.pid) {
                networks.entry(network).or_default().push(target);
            }
        }
        self.networks.retain(|network, _| networks.contains_key(network));
        let mut alive = HashSet::new();
        let mut asked = HashSet::new();
        for (network, members) in networks {
            match self.list(network) {
                Ok(all) => {
                    alive.extend(all.iter().map(|listener| listener.cookie));
                    asked.extend(all.iter().filter_map(|listener| listener.cgroup));
                    self.sort(network == self.host, all, &members, &mut found);
                }
                Err(error) => {
                    let error = kernel::chain(&error);
                    warn!(error, "what listens in containers is not known");
                }
            }
        }
        self.sockets.retain(|cookie, _| alive.contains(cookie));
        self.cgroups.retain(|id, _| asked.contains(id));
        found
    }

    /// Opens a socket in the network, if there is none yet.
    fn enter(&mut self, network: u64, pid: Option<u32>) -> bool {
        let Some(pid) = pid.filter(|_| !self.networks.contains_key(&network)) else { return true };
        let entered = kernel::namespaces::in_network_of(pid, || {
            Ok::<_, kernel::Error>(Network {
                socket: Socket::open(Family::SockDiag)?,
                ephemeral: diag::ephemeral_ports()?,
            })
        });
        match entered {
            Ok(Ok(opened)) => {
                self.networks.insert(network, opened);
                true
            }
            // It has ended meanwhile.
            Ok(Err(error)) => {
                debug!(pid, %error, "its network cannot be listed");
                false
            }
            Err(error) => {
                debug!(pid, %error, "its network cannot be entered");
                false
            }
        }
    }

    fn sort(&mut self, host: bool, all: Vec<Listener>, members: &[&Target], found: &mut Found) {
        let known: HashSet<&str> = members.iter().map(|target| target.id.as_str()).collect();
        for id in &known {
            found.owned.entry((*id).to_owned()).or_default();
        }
        let mut rest = Vec::new();
        for listener in all {
            match listener.cgroup.and_then(|id| self.by_cgroup(id)) {
                Some(lineage) if known.contains(lineage[0].as_str()) => {
                    let owner = lineage[0].clone();
                    found.owned.entry(owner).or_default().push(Owned { lineage, listener });
                }
                // Of a container that is in another network, or not ours to judge.
                Some(_) => {}
                None => rest.push(listener),
            }
        }
        let old: Vec<&Target> = members.iter().filter(|t| !t.unified).copied().collect();
        if !old.is_empty() {
            self.search(&rest, &old);
        }
        for listener in rest {
            match self.sockets.get(&listener.cookie) {
                Some(Ok(lineage)) if known.contains(lineage[0].as_str()) => {
                    let (lineage, owner) = (Arc::clone(lineage), lineage[0].clone());
                    found.owned.entry(owner).or_default().push(Owned { lineage, listener });
                }
                Some(Ok(_)) => {}
                _ if host => found.others.push(listener),
                _ => {}
            }
        }
    }

    fn by_cgroup(&mut self, id: u64) -> Option<Lineage> {
        let directories = self.directories.as_ref()?;
        let root = &self.root;
        let look = || container_of(directories.find(id)?.to_str()?, root).map(Lineage::from);
        self.cgroups.entry(id).or_insert_with(look).clone()
    }

    /// Looks for the owners of sockets that were not looked for before.
    fn search(&mut self, listeners: &[Listener], targets: &[&Target]) {
        let mut wanted: HashMap<u32, u64> = HashMap::new();
        for listener in listeners {
            let done = match self.sockets.get(&listener.cookie) {
                Some(Ok(_)) => true,
                Some(Err(looks)) => *looks >= LOOKS,
                None => false,
            };
            if !done {
                wanted.insert(listener.inode, listener.cookie);
            }
        }
        for target in targets {
            if wanted.is_empty() {
                return;
            }
            for group in target.tracker.tree() {
                let lineage = || {
                    let below = group.path().strip_prefix(target.tracker.path()).ok()?;
                    let path = format!("{}/{}/{}", self.root, target.id, below.display());
                    container_of(&path, &self.root)
                };
                for pid in group.processes().unwrap_or_default() {
                    for inode in kernel::proctree::sockets(pid) {
                        if let Some(cookie) = wanted.remove(&inode) {
                            let lineage = lineage().unwrap_or_else(|| vec![target.id.clone()]);
                            self.sockets.insert(cookie, Ok(lineage.into()));
                        }
                    }
                }
            }
        }
        for cookie in wanted.into_values() {
            let looks = match self.sockets.get(&cookie) {
                Some(Err(looks)) => looks.saturating_add(1),
                _ => 1,
            };
            self.sockets.insert(cookie, Err(looks));
        }
    }
}

/// The inode of the network namespace of a process.
fn network_of(pid: u32) -> Option<u64> {
    use std::os::unix::fs::MetadataExt;
    std::fs::metadata(Namespace::Network.of(pid)).ok().map(|found| found.ino())
}
