//! The devices that specs describe: which files there are, and which one counts.
//!
//! Read anew when a container wants a device, so that drivers may come and change
//! while the agent runs. A later directory wins over an earlier one; a device that
//! two files of the same directory describe is nobody's, and says so.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use super::spec::{Edits, Spec, read};

/// The largest spec, in bytes.
const LARGEST: u64 = 1 << 20;

/// Name of a device that stands for all others of its kind, by convention.
const ALL: &str = "all";

/// A device and all that a container with it gets.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Entry {
    /// Of the kind first, then of the device.
    edits: [Edits; 2],
    file: PathBuf,
    /// Position of its directory.
    rank: usize,
    /// Another file of the same directory that has it too.
    rival: Option<PathBuf>,
}

/// Every device of the machine that has a spec.
#[derive(Debug, Clone, Default)]
pub struct Inventory {
    kinds: BTreeMap<String, BTreeMap<String, Entry>>,
    /// Files that could not be used, and why.
    broken: Vec<String>,
}

impl Inventory {
    /// Reads all specs. What cannot be read or understood is kept as
    /// [`Inventory::broken`]; a directory that is not there has no specs.
    #[must_use]
    pub fn load(directories: &[PathBuf]) -> Inventory {
        let mut all = Inventory::default();
        for (rank, directory) in directories.iter().enumerate() {
            let mut files: Vec<PathBuf> = match fs::read_dir(directory) {
                Ok(entries) => entries.flatten().map(|entry| entry.path()).collect(),
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
                Err(error) => {
                    all.broken.push(format!("'{}': {error}", directory.display()));
                    continue;
                }
            };
            files.sort();
            for file in files {
                let yaml = match file.extension().and_then(|text| text.to_str()) {
                    Some("json") => false,
                    Some("yaml" | "yml") => true,
                    _ => continue,
                };
                match load(&file, yaml) {
                    Ok(spec) => all.add(spec, &file, rank),
                    Err(error) => all.broken.push(format!("'{}': {error}", file.display())),
                }
            }
        }
        all
    }

    fn add(&mut self, spec: Spec, file: &Path, rank: usize) {
        let devices = self.kinds.entry(spec.kind).or_default();
        for device in spec.devices {
            let edits = [spec.container_edits.clone(), device.container_edits];
            let entry = Entry { edits, file: file.to_owned(), rank, rival: None };
            match devices.get_mut(&device.name) {
                Some(old) if old.rank == rank => old.rival = Some(file.to_owned()),
                _ => drop(devices.insert(device.name, entry)),
            }
        }
    }

    /// Files that could not be used, each with the reason.
    #[must_use]
    pub fn broken(&self) -> &[String] {
        &self.broken
    }

    /// Whether some spec is of this kind.
    #[must_use]
    pub fn has_kind(&self, kind: &str) -> bool {
        self.kinds.contains_key(kind)
    }

    /// The devices to offer, by kind: those that can be used, without the one that
    /// stands for all.
    #[must_use]
    pub fn offered(&self) -> BTreeMap<&str, BTreeSet<&str>> {
        self.kinds
            .iter()
            .map(|(kind, devices)| {
                let names = devices
                    .iter()
                    .filter(|(name, entry)| *name != ALL && entry.rival.is_none())
                    .map(|(name, _)| name.as_str());
                (kind.as_str(), names.collect())
            })
            .collect()
    }

    /// What containers with these devices of a kind get, in order: the edits of the
    /// kind once, then of each device.
    ///
    /// # Errors
    /// A device is not there, or described twice; for people.
    pub(super) fn edits(&self, kind: &str, names: &[String]) -> Result<Vec<&Edits>, String> {
        let devices = self
            .kinds
            .get(kind)
            .ok_or_else(|| self.missing(kind, "there is no CDI spec of this kind"))?;
        let mut all: Vec<&Edits> = Vec::new();
        for name in names {
            let entry = devices.get(name).ok_or_else(|| {
                let known: Vec<&str> = devices.keys().map(String::as_str).collect();
                let text = format!("no such device; there are: {}", known.join(", "));
                self.missing(&format!("{kind}={name}"), &text)
            })?;
            if let Some(rival) = &entry.rival {
                let (one, other) = (entry.file.display(), rival.display());
                return Err(format!("{kind}={name}: both '{one}' and '{other}' describe it"));
            }
            let [common, own] = &entry.edits;
            // Devices of one file share their common edits.
            if !all.contains(&common) {
                all.push(common);
            }
            all.push(own);
        }
        Ok(all)
    }

    fn missing(&self, what: &str, why: &str) -> String {
        match self.broken[..] {
            [] => format!("{what}: {why}"),
            _ => format!("{what}: {why} (not readable: {})", self.broken.join("; ")),
        }
    }
}

fn load(file: &Path, yaml: bool) -> Result<Spec, String> {
    let data = fs::metadata(file).map_err(|error| error.to_string())?;
    if !data.is_file() || data.len() > LARGEST {
        return Err(format!("it is no file of at most {LARGEST} bytes"));
    }
    let text = fs::read_to_string(file).map_err(|error| error.to_string())?;
    read(&text, yaml)
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// Two directories of specs, gone when dropped.
    pub(in crate::cdi) struct Specs(pub PathBuf);

    impl Specs {
        pub(in crate::cdi) fn new(name: &str) -> Specs {
            let root = std::env::temp_dir().join(format!("cdi-{name}-{}", std::process::id()));
            fs::create_dir_all(root.join("etc")).unwrap();
            fs::create_dir_all(root.join("run")).unwrap();
            Specs(root)
        }

        pub(in crate::cdi) fn directories(&self) -> Vec<PathBuf> {
            vec![self.0.join("etc"), self.0.join("run"), self.0.join("none")]
        }

        pub(in crate::cdi) fn write(&self, file: &str, kind: &str, devices: &[(&str, &str)]) {
            let devices: Vec<String> = devices
                .iter()
                .map(|(name, edits)| format!(r#"{{"name": "{name}", "containerEdits": {edits}}}"#))
                .collect();
            let text = format!(
                r#"{{"cdiVersion": "1.0.0", "kind": "{kind}", "devices": [{}],
                    "containerEdits": {{"env": ["KIND={kind}"]}}}}"#,
                devices.join(", ")
            );
            fs::write(self.0.join(file), text).unwrap();
        }
    }

    impl Drop for Specs {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    fn env(edits: Result<Vec<&Edits>, String>) -> Vec<String> {
        edits.unwrap().into_iter().flat_map(|edits| edits.env.clone()).collect()
    }

    #[test]
    fn later_directories_win_and_rivals_are_nobodys() {
        let specs = Specs::new("inventory");
        let edits = |value: &str| format!(r#"{{"env": ["FROM={value}"]}}"#);
        let (first, second) = (edits("etc"), edits("run"));
        specs.write(
            "etc/a.json",
            "acme.com/widget",
            &[("0", &first), ("1", &first), ("all", &first)],
        );
        specs.write("run/a.json", "acme.com/widget", &[("1", &second)]);
        specs.write("run/b.json", "acme.com/twin", &[("x", &first), ("y", &first)]);
        specs.write("run/c.json", "acme.com/twin", &[("x", &second)]);
        fs::write(specs.0.join("etc/broken.yaml"), "kind: [").unwrap();
        fs::write(specs.0.join("etc/notes.txt"), "not a spec").unwrap();
        let all = Inventory::load(&specs.directories());
        let names =
            |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        let widget = |list: &[&str]| all.edits("acme.com/widget", &names(list));
        assert_eq!(env(widget(&["0"])), ["KIND=acme.com/widget", "FROM=etc"]);
        assert_eq!(env(widget(&["0", "1"])), ["KIND=acme.com/widget", "FROM=etc", "FROM=run"]);
        let offered: Vec<String> = all
            .offered()
            .iter()
            .map(|(kind, names)| {
                format!("{kind}:{}", names.iter().copied().collect::<Vec<_>>().join(","))
            })
            .collect();
        assert_eq!(offered, ["acme.com/twin:y", "acme.com/widget:0,1"]);
        let error = all.edits("acme.com/twin", &names(&["x"])).unwrap_err();
        assert!(error.contains("b.json") && error.contains("c.json"), "{error}");
        let error = widget(&["7"]).unwrap_err();
        assert!(
            error.contains("acme.com/widget=7: no such device; there are: 0, 1, all"),
            "{error}"
        );
        assert!(error.contains("broken.yaml"), "{error}");
        assert!(all.edits("acme.com/none", &[]).unwrap_err().contains("no CDI spec of this kind"));
        assert_eq!(all.broken().len(), 1);
    }
}
