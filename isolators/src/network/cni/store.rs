//! What is kept of containers on networks, where Mesos keeps it.
//!
//! ```text
//! <root>/<container>/                  <runtime_dir or work_dir>/isolators/network/cni
//!     ns                               keeps the network namespace (a mount)
//!     hosts, hostname, resolv.conf     what the container sees of these files
//!     .lodger                          somebody else's container, not the native one's
//!     <network>/network.conf           configuration as it was told: written before ADD
//!     <network>/<interface>/network.info   the answer to ADD
//!     <network>/<interface>/log        what plugins said to people; locked by a call
//! ```
//!
//! The root is a mount of its own, shared, while there are containers: a namespace that
//! is let go of here then goes from the copies that containers have of our mounts.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use kernel::{Error, failpoint};
use serde_json::Value;

use super::conf::Network;
use super::version::Version;

const CONF: &str = "network.conf";
const INFO: &str = "network.info";

/// Marks a container that somebody else runs. No network is called so: their names begin
/// with a letter or a digit.
const LODGER: &str = ".lodger";

/// Names in a container's directory that no network may have.
const TAKEN: [&str; 4] = ["ns", "hosts", "hostname", "resolv.conf"];

/// The root directory. Its lock is held while the root itself is mounted or not.
#[derive(Debug)]
pub struct Store {
    root: PathBuf,
    mounted: Mutex<bool>,
}

/// One container's membership in one network, as it was written down.
#[derive(Debug, Clone, PartialEq)]
pub struct Stored {
    /// What plugins were told.
    pub network: Network,
    /// In this version.
    pub version: Version,
    /// The interface in the container.
    pub interface: String,
    /// What they answered; `None` if that is not known.
    pub result: Option<Value>,
    /// Where words of plugins go.
    pub log: PathBuf,
}

impl Store {
    /// The store below `root`, which need not exist.
    #[must_use]
    pub fn new(root: PathBuf) -> Store {
        Store { root, mounted: Mutex::new(false) }
    }

    /// Where everything is kept.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// A container's directory.
    #[must_use]
    pub fn dir(&self, key: &str) -> PathBuf {
        self.root.join(key)
    }

    /// What keeps its network namespace.
    #[must_use]
    pub fn netns(&self, key: &str) -> PathBuf {
        self.dir(key).join("ns")
    }

    /// Whether anything is kept of it.
    #[must_use]
    pub fn knows(&self, key: &str) -> bool {
        self.dir(key).is_dir()
    }

    /// Why a network's name cannot be used.
    #[must_use]
    pub fn is_taken(name: &str) -> bool {
        TAKEN.contains(&name)
    }

    /// Makes a container's directory.
    ///
    /// # Errors
    /// As `mkdir` and `mount`.
    pub fn enter(&self, key: &str) -> Result<(), Error> {
        let mut mounted = self.mounted.lock().unwrap_or_else(PoisonError::into_inner);
        let dir = self.dir(key);
        fs::create_dir_all(&dir).map_err(|e| Error::new("create", shown(&dir), e))?;
        if !*mounted {
            kernel::mounts::share(&self.root)?;
            *mounted = true;
        }
        Ok(())
    }

    /// Writes down that somebody else runs the container.
    ///
    /// # Errors
    /// As `write`.
    pub fn mark_lodger(&self, key: &str) -> Result<(), Error> {
        let path = self.dir(key).join(LODGER);
        fs::write(&path, "").map_err(|e| Error::new("write", shown(&path), e))
    }

    /// Whether somebody else runs the container.
    #[must_use]
    pub fn is_lodger(&self, key: &str) -> bool {
        self.dir(key).join(LODGER).exists()
    }

    /// Removes all that is kept of a container, and the root's mount with the last one.
    ///
    /// # Errors
    /// As `rm -r` and `umount`.
    pub fn forget(&self, key: &str) -> Result<(), Error> {
        let mut mounted = self.mounted.lock().unwrap_or_else(PoisonError::into_inner);
        kernel::netns::release(&self.netns(key))?;
        failpoint!("cni.let_go");
        remove(&self.dir(key))?;
        failpoint!("cni.removed");
        self.unmount_empty(&mut mounted)
    }

    /// Removes the root's mount if an agent died when its last container was gone.
    ///
    /// # Errors
    /// As `umount`.
    pub fn settle(&self) -> Result<(), Error> {
        let mut mounted = self.mounted.lock().unwrap_or_else(PoisonError::into_inner);
        self.unmount_empty(&mut mounted)
    }

    fn unmount_empty(&self, mounted: &mut bool) -> Result<(), Error> {
        let empty = fs::read_dir(&self.root).is_ok_and(|mut entries| entries.next().is_none());
        if empty {
            // Of this agent, or of one before it.
            kernel::mounts::unshare(&self.root)?;
            *mounted = false;
        }
        Ok(())
    }

    /// Containers of which something is kept.
    #[must_use]
    pub fn scan(&self) -> Vec<String> {
        let entries = fs::read_dir(&self.root).into_iter().flatten().flatten();
        let dirs = entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
        let mut keys: Vec<String> =
            dirs.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
        keys.sort();
        keys
    }

    /// Writes down that a container is about to join a network.
    ///
    /// # Errors
    /// As `write`.
    pub fn intend(
        &self,
        key: &str,
        network: Network,
        version: Version,
        interface: &str,
    ) -> Result<Stored, Error> {
        let dir = self.dir(key).join(&network.name);
        let inner = dir.join(interface);
        fs::create_dir_all(&inner).map_err(|e| Error::new("create", shown(&inner), e))?;
        write(&dir.join(CONF), &network.to_json(version).to_string())?;
        let log = inner.join("log");
        Ok(Stored { network, version, interface: interface.into(), result: None, log })
    }

    /// Writes down what the plugins answered.
    ///
    /// # Errors
    /// As `write`.
    pub fn record(&self, key: &str, stored: &mut Stored, result: Value) -> Result<(), Error> {
        let dir = self.dir(key).join(&stored.network.name).join(&stored.interface);
        write(&dir.join(INFO), &result.to_string())?;
        stored.result = Some(result);
        Ok(())
    }

    /// Forgets one network of a container.
    ///
    /// # Errors
    /// As `rm -r`.
    pub fn leave(&self, key: &str, stored: &Stored) -> Result<(), Error> {
        remove(&self.dir(key).join(&stored.network.name))
    }

    /// Puts a file of the container there, such as its `hosts`.
    ///
    /// # Errors
    /// As `write`.
    pub fn put(&self, key: &str, name: &str, text: &str) -> Result<PathBuf, Error> {
        let path = self.dir(key).join(name);
        write(&path, text)?;
        Ok(path)
    }

    /// The networks of a container, by interface. What was never written whole has had
    /// no consequences and is left out.
    #[must_use]
    pub fn load(&self, key: &str) -> Vec<Stored> {
        let dir = self.dir(key);
        let mut all: Vec<Stored> = dirs(&dir).iter().flat_map(|dir| stored(dir)).collect();
        // eth2 before eth10.
        all.sort_by_key(|stored| (stored.interface.len(), stored.interface.clone()));
        all
    }
}

fn stored(dir: &Path) -> Vec<Stored> {
    let file = dir.join(CONF);
    let Ok(text) = fs::read_to_string(&file) else { return Vec::new() };
    let Ok(network) = Network::parse(&file, &text) else { return Vec::new() };
    let Some(version) = network.versions.last().copied() else { return Vec::new() };
    let one = |inner: PathBuf| {
        let interface = inner.file_name()?.to_str()?.to_owned();
        let info = fs::read(inner.join(INFO)).ok();
        let result = info.and_then(|bytes| serde_json::from_slice(&bytes).ok());
        let log = inner.join("log");
        Some(Stored { network: network.clone(), version, interface, result, log })
    };
    dirs(dir).into_iter().filter_map(one).collect()
}

fn dirs(dir: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    let dirs = entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
    dirs.map(|entry| entry.path()).collect()
}

fn shown(path: &Path) -> String {
    path.display().to_string()
}

/// Writes a file. One that is not whole is no JSON, and counts as not there.
fn write(path: &Path, text: &str) -> Result<(), Error> {
    fs::write(path, text).map_err(|e| Error::new("write", shown(path), e))
}

fn remove(dir: &Path) -> Result<(), Error> {
    match fs::remove_dir_all(dir) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(Error::new("remove", shown(dir), error))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::version::SPOKEN;
    use super::*;

    #[test]
    fn what_is_written_is_found_again() {
        let root = std::env::temp_dir().join(format!("cni-store-{}", std::process::id()));
        let store = Store::new(root.clone());
        fs::create_dir_all(store.dir("a")).unwrap();
        let network = |name: &str| {
            let text = format!(r#"{{"name":"{name}","type":"bridge","args":{{"x":1}}}}"#);
            Network::parse(Path::new("f"), &text).unwrap()
        };
        let mut first = store.intend("a", network("one"), SPOKEN[5], "eth0").unwrap();
        let second = store.intend("a", network("two"), SPOKEN[3], "eth1").unwrap();
        store.record("a", &mut first, json!({ "ips": [] })).unwrap();
        let loaded = store.load("a");
        assert_eq!((loaded.len(), &loaded[0].result), (2, &first.result));
        assert_eq!((loaded[0].version, loaded[1].version), (SPOKEN[5], SPOKEN[3]));
        assert_eq!(loaded[1].network.plugins, second.network.plugins);
        assert_eq!(loaded[1].result, None);
        // Half written.
        fs::create_dir_all(store.dir("a").join("three/eth2")).unwrap();
        let whole = network("three").to_json(SPOKEN[5]).to_string();
        let conf = store.dir("a").join("three/network.conf");
        fs::write(conf, &whole[..whole.len() - 1]).unwrap();
        assert_eq!(store.load("a").len(), 2);
        store.leave("a", &first).unwrap();
        assert_eq!(store.load("a").len(), 1);
        assert_eq!(store.scan(), ["a"]);
        fs::remove_dir_all(&root).unwrap();
        assert!(!store.knows("a") && store.scan().is_empty());
    }
}
