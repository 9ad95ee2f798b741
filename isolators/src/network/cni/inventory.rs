//! Which networks there are: the files of `--network_cni_config_dir`.
//!
//! As in Mesos every file may hold a network, a file is read when a container joins,
//! and the directory is looked through again when a name is not known. What is hidden,
//! and what editors leave behind, is no network.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use super::conf::{ConfError, Network};

/// The networks of one directory. Its lock is held for map operations only.
#[derive(Debug)]
pub struct Inventory {
    dir: PathBuf,
    files: Mutex<BTreeMap<String, PathBuf>>,
}

/// What was found in the directory.
#[derive(Debug, Default)]
pub struct Found {
    /// By name; of two files with one name the first.
    pub networks: BTreeMap<String, (PathBuf, Network)>,
    /// Files that are not used, and why.
    pub errors: Vec<ConfError>,
}

impl Inventory {
    /// The networks of `dir`; nothing is read yet.
    #[must_use]
    pub fn new(dir: PathBuf) -> Inventory {
        Inventory { dir, files: Mutex::default() }
    }

    /// Reads all files.
    pub fn scan(&self) -> Found {
        let mut found = Found::default();
        match candidates(&self.dir) {
            Ok(files) => files.iter().for_each(|file| found.add(&self.dir, file)),
            Err(error) => found.errors.push(ConfError::of_file(&self.dir, error.to_string())),
        }
        let files = found.networks.iter().map(|(name, (file, _))| (name.clone(), file.clone()));
        *self.files.lock().unwrap_or_else(PoisonError::into_inner) = files.collect();
        found
    }

    /// The network `name`, as its file says now.
    ///
    /// # Errors
    /// There is none; says which there are, and which files are not used.
    pub fn find(&self, name: &str) -> Result<Network, String> {
        let known = || self.files.lock().unwrap_or_else(PoisonError::into_inner).get(name).cloned();
        if let Some(file) = known()
            && let Ok(network) = read(&self.dir, &file)
            && network.name == name
        {
            return Ok(network);
        }
        let mut found = self.scan();
        if let Some((_, network)) = found.networks.remove(name) {
            return Ok(network);
        }
        let names: Vec<&str> = found.networks.keys().map(String::as_str).collect();
        let names = if names.is_empty() { "none".into() } else { names.join(", ") };
        let mut text = format!(
            "the CNI network '{name}', which is not in '{}' (there: {names})",
            self.dir.display()
        );
        for error in found.errors {
            text.push_str(&format!("; not used: {error}"));
        }
        Err(text)
    }
}

impl Found {
    fn add(&mut self, dir: &Path, file: &Path) {
        match read(dir, file) {
            Ok(network) => match self.networks.get(&network.name) {
                None => {
                    self.networks.insert(network.name.clone(), (file.to_owned(), network));
                }
                Some((first, _)) => {
                    let text = format!("network '{}' is in {}, too", network.name, first.display());
                    self.errors.push(ConfError::of_file(file, text));
                }
            },
            Err(error) => self.errors.push(error),
        }
    }
}

/// Files that may hold networks, by name.
fn candidates(dir: &Path) -> std::io::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let leftover = name.starts_with('.') || name.ends_with('~') || name.contains(".dpkg-");
        if !leftover && path.is_file() {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

fn read(dir: &Path, file: &Path) -> Result<Network, ConfError> {
    let text = |file: &Path| {
        fs::read_to_string(file).map_err(|error| ConfError::of_file(file, error.to_string()))
    };
    let mut network = Network::parse(file, &text(file)?)?;
    if network.load_more {
        let more = candidates(&dir.join(&network.name)).unwrap_or_default();
        for file in more.iter().filter(|file| file.extension().is_some_and(|e| e == "conf")) {
            network.add(file, &text(file)?)?;
        }
    }
    match network.plugins.is_empty() {
        true => Err(ConfError::of_file(file, "the network has no plugins")),
        false => Ok(network),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_come_change_and_go() {
        let dir = std::env::temp_dir().join(format!("cni-inventory-{}", std::process::id()));
        fs::create_dir_all(dir.join("chain")).unwrap();
        let write = |name: &str, text: &str| fs::write(dir.join(name), text).unwrap();
        let inventory = Inventory::new(dir.clone());
        let error = inventory.find("a").unwrap_err();
        assert!(error.ends_with("(there: none)"), "{error}");
        write("10-a.conf", r#"{"name":"a","type":"one"}"#);
        write("20-a", r#"{"name":"a","type":"two"}"#);
        write(".hidden", "x");
        write("30-bad.json", "{\n\n");
        let first = inventory.find("a").unwrap();
        assert_eq!(first.plugins[0].kind, "one");
        write("10-a.conf", r#"{"name":"a","type":"new"}"#);
        assert_eq!(inventory.find("a").unwrap().plugins[0].kind, "new");
        let error = inventory.find("b").unwrap_err();
        assert!(error.contains("(there: a)"), "{error}");
        assert!(error.contains("20-a: network 'a' is in "), "{error}");
        assert!(error.contains("30-bad.json:3: EOF"), "{error}");
        assert!(!error.contains("hidden"), "{error}");
        fs::remove_file(dir.join("10-a.conf")).unwrap();
        assert_eq!(inventory.find("a").unwrap().plugins[0].kind, "two");
        write("40.conflist", r#"{"name":"chain","plugins":[]}"#);
        assert!(inventory.find("chain").unwrap_err().contains("has no plugins"));
        write("chain/1.conf", r#"{"type":"tuning"}"#);
        assert_eq!(inventory.find("chain").unwrap().plugins[0].kind, "tuning");
        fs::remove_dir_all(&dir).unwrap();
        assert!(inventory.find("a").unwrap_err().contains("not used: "));
    }
}
