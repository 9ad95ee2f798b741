//! One cgroup directory: make, read and write knobs, kill, remove.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::{Duration, Instant};

use super::{Error, Version, parse};
use crate::proctree;

/// A directory in a hierarchy; whether it exists is the kernel's knowledge.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cgroup {
    version: Version,
    dir: PathBuf,
}

impl Cgroup {
    /// Names a directory; nothing is made.
    #[must_use]
    pub fn new(version: Version, dir: impl Into<PathBuf>) -> Cgroup {
        Cgroup { version, dir: dir.into() }
    }

    /// The kind of its hierarchy.
    #[must_use]
    pub fn version(&self) -> Version {
        self.version
    }

    /// The directory.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.dir
    }

    /// The path of one of its files.
    #[must_use]
    pub fn file(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// A cgroup below this one.
    #[must_use]
    pub fn child(&self, name: impl AsRef<Path>) -> Cgroup {
        Cgroup { version: self.version, dir: self.dir.join(name) }
    }

    /// Whether the directory exists.
    #[must_use]
    pub fn exists(&self) -> bool {
        self.dir.is_dir()
    }

    /// Makes the directory; its parent must exist.
    ///
    /// # Errors
    /// It exists already, or the kernel refuses.
    pub fn create(&self) -> Result<(), Error> {
        fs::create_dir(&self.dir).map_err(|e| Error::io("create", &self.dir, e))
    }

    /// Makes the directory and its parents where they are missing.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn create_all(&self) -> Result<(), Error> {
        fs::create_dir_all(&self.dir).map_err(|e| Error::io("create", &self.dir, e))
    }

    /// v1 `cpuset`: a new cgroup has no processors and no memory, and nothing can
    /// join it; this gives it its parent's.
    ///
    /// # Errors
    /// A file is missing, or the kernel refuses.
    pub fn inherit_cpuset(&self) -> Result<(), Error> {
        let Some(parent) = self.dir.parent() else { return Ok(()) };
        let parent = Cgroup::new(self.version, parent);
        for file in ["cpuset.cpus", "cpuset.mems"] {
            if self.read(file)?.trim_ascii().is_empty() {
                self.write(file, String::from_utf8_lossy(&parent.read(file)?).trim())?;
            }
        }
        Ok(())
    }

    /// Reads a file.
    ///
    /// # Errors
    /// It is missing or cannot be read.
    pub fn read(&self, name: &str) -> Result<Vec<u8>, Error> {
        let path = self.file(name);
        let mut text = Vec::with_capacity(512);
        File::open(&path)
            .and_then(|mut file| file.read_to_end(&mut text))
            .map_err(|e| Error::io("read", &path, e))?;
        Ok(text)
    }

    /// Reads a file that holds one number.
    ///
    /// # Errors
    /// It cannot be read, or it holds something else.
    pub fn read_number(&self, name: &str) -> Result<u64, Error> {
        let text = self.read(name)?;
        parse::number(&text).ok_or_else(|| self.unexpected(name, &text))
    }

    /// Reads a file that holds a limit.
    ///
    /// # Errors
    /// It cannot be read, or it holds something else.
    pub fn read_limit(&self, name: &str) -> Result<parse::Limit, Error> {
        let text = self.read(name)?;
        parse::limit(&text).ok_or_else(|| self.unexpected(name, &text))
    }

    fn unexpected(&self, name: &str, text: &[u8]) -> Error {
        let content = String::from_utf8_lossy(text).trim().to_owned();
        Error::Content { path: self.file(name), content }
    }

    /// Writes a knob, in one write.
    ///
    /// # Errors
    /// It is missing, or the kernel refuses the value.
    pub fn write(&self, name: &str, value: &str) -> Result<(), Error> {
        let path = self.file(name);
        OpenOptions::new()
            .write(true)
            .open(&path)
            .and_then(|mut file| file.write_all(value.as_bytes()))
            .map_err(|e| Error::io(format!("write '{value}' to"), &path, e))
    }

    /// Gives the children the controllers, those they do not have yet (v2).
    ///
    /// # Errors
    /// The kernel refuses: the parent does not have the controller, or processes
    /// are in this cgroup itself.
    pub fn enable(&self, controllers: &[&str]) -> Result<(), Error> {
        let has = self.read("cgroup.subtree_control")?;
        let has: Vec<&str> = parse::words(&has).collect();
        let missing: Vec<String> =
            controllers.iter().filter(|c| !has.contains(c)).map(|c| format!("+{c}")).collect();
        if missing.is_empty() {
            return Ok(());
        }
        self.write("cgroup.subtree_control", &missing.join(" "))
    }

    /// The processes in this cgroup, not in those below.
    ///
    /// # Errors
    /// The cgroup is gone.
    pub fn processes(&self) -> Result<Vec<u32>, Error> {
        Ok(parse::pids(&self.read("cgroup.procs")?))
    }

    /// The processes in this cgroup and all below; what vanishes meanwhile is
    /// left out.
    #[must_use]
    pub fn all_processes(&self) -> Vec<u32> {
        let mut pids = Vec::new();
        for group in self.tree() {
            pids.extend(group.processes().unwrap_or_default());
        }
        pids
    }

    /// The cgroups directly below, by name.
    ///
    /// # Errors
    /// The directory cannot be read.
    pub fn children(&self) -> Result<Vec<String>, Error> {
        let failed = |e| Error::io("list", &self.dir, e);
        let mut names = Vec::new();
        for entry in fs::read_dir(&self.dir).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                names.extend(entry.file_name().into_string());
            }
        }
        Ok(names)
    }

    /// This cgroup and all below, children first.
    #[must_use]
    pub fn tree(&self) -> Vec<Cgroup> {
        let mut found = vec![self.clone()];
        let mut next = 0;
        while let Some(group) = found.get(next).cloned() {
            found.extend(group.children().unwrap_or_default().iter().map(|name| group.child(name)));
            next += 1;
        }
        found.reverse();
        found
    }

    /// Sends a signal to every process in this cgroup and below; processes that
    /// are gone already are fine. How many were there.
    fn signal(&self, signal: i32) -> usize {
        let pids = self.all_processes();
        proctree::signal(&pids, signal);
        pids.len()
    }

    /// Kills every process in this cgroup and below and waits until none is
    /// left. **Blocks.** A cgroup that does not exist is empty.
    ///
    /// v2: `cgroup.kill`. v1: `SIGKILL` to every process again and again; forks
    /// are stopped first where the hierarchy can (`pids.max`, `freezer.state`),
    /// so that a fork bomb cannot outrun it.
    ///
    /// # Errors
    /// Processes are left after `timeout` (they hang in the kernel).
    pub fn kill(&self, timeout: Duration) -> Result<(), Error> {
        if !self.exists() {
            return Ok(());
        }
        let start = Instant::now();
        let mut pause = Duration::from_micros(200);
        if self.version == Version::V2 && self.write("cgroup.kill", "1").is_ok() {
            // The kernel has signalled all; only waiting is left.
        } else {
            self.stop_forks();
            self.signal(libc::SIGKILL);
            // Frozen processes take the signal when they thaw.
            let _ = self.write_if_there("freezer.state", "THAWED");
        }
        loop {
            let left = match self.version {
                Version::V2 => usize::from(self.is_populated()),
                Version::V1 => self.signal(libc::SIGKILL),
            };
            if left == 0 {
                return Ok(());
            }
            if start.elapsed() > timeout {
                return Err(Error::Busy {
                    path: self.dir.clone(),
                    millis: start.elapsed().as_millis(),
                });
            }
            sleep(pause);
            pause = (pause * 2).min(Duration::from_millis(10));
        }
    }

    /// Whether a process is in this cgroup or below (v2 `cgroup.events`).
    #[must_use]
    pub fn is_populated(&self) -> bool {
        match self.read("cgroup.events") {
            Ok(text) => parse::value(&text, "populated") == Some(1),
            Err(error) => !error.is_missing(),
        }
    }

    fn stop_forks(&self) {
        for group in self.tree() {
            let _ = group.write_if_there("pids.max", "0");
        }
        let _ = self.write_if_there("freezer.state", "FROZEN");
    }

    fn write_if_there(&self, name: &str, value: &str) -> io::Result<()> {
        OpenOptions::new().write(true).open(self.file(name))?.write_all(value.as_bytes())
    }

    /// Removes this cgroup and all below, children first. **Blocks.** Busy ones
    /// are tried again: the kernel lets go of the last process a moment after
    /// it is reaped. A cgroup that is gone already is fine.
    ///
    /// # Errors
    /// Still busy after `timeout`.
    pub fn remove(&self, timeout: Duration) -> Result<(), Error> {
        let start = Instant::now();
        let mut pause = Duration::from_micros(200);
        loop {
            // The common case is one directory without children.
            let result = match fs::remove_dir(&self.dir) {
                Err(error) if error.raw_os_error() == Some(libc::EBUSY) => self.remove_tree(),
                other => other,
            };
            match result {
                Ok(()) => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
                Err(error)
                    if error.raw_os_error() == Some(libc::EBUSY) && start.elapsed() <= timeout =>
                {
                    sleep(pause);
                    pause = (pause * 2).min(Duration::from_millis(20));
                }
                Err(error) => return Err(Error::io("remove", &self.dir, error)),
            }
        }
    }

    fn remove_tree(&self) -> io::Result<()> {
        for group in self.tree() {
            match fs::remove_dir(&group.dir) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A plain directory stands in for a cgroup where the kernel's part is not
    /// under test; tests/kernel does the rest on real ones.
    struct Scratch(PathBuf);

    impl Scratch {
        fn new(name: &str) -> Scratch {
            let dir = std::env::temp_dir().join(format!("cgroup-{name}-{}", std::process::id()));
            fs::create_dir_all(&dir).unwrap();
            Scratch(dir)
        }

        fn group(&self, version: Version) -> Cgroup {
            Cgroup::new(version, &self.0)
        }
    }

    impl Drop for Scratch {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn knobs_are_read_and_written_with_their_path_in_the_error() {
        let scratch = Scratch::new("knobs");
        let group = scratch.group(Version::V2);
        fs::write(group.file("memory.max"), "max\n").unwrap();
        assert_eq!(group.read_limit("memory.max").unwrap(), parse::Limit::Unlimited);
        fs::write(group.file("memory.current"), "x\n").unwrap();
        let error = group.read_number("memory.current").unwrap_err();
        assert!(error.to_string().ends_with("memory.current': 'x'"), "{error}");
        let error = group.write("cpu.max", "1").unwrap_err();
        assert!(error.is_missing());
        assert!(error.to_string().contains("write '1' to '/"), "{error}");
        group.write("memory.max", "4096").unwrap();
        assert_eq!(group.read_limit("memory.max").unwrap(), parse::Limit::Value(4096));
    }

    #[test]
    fn only_missing_controllers_are_enabled() {
        let scratch = Scratch::new("enable");
        let group = scratch.group(Version::V2);
        fs::write(group.file("cgroup.subtree_control"), "cpu memory\n").unwrap();
        group.enable(&["cpu", "memory"]).unwrap();
        assert_eq!(group.read("cgroup.subtree_control").unwrap(), b"cpu memory\n");
        fs::write(group.file("cgroup.subtree_control"), "cpu").unwrap();
        group.enable(&["cpu", "memory", "pids"]).unwrap();
        assert_eq!(group.read("cgroup.subtree_control").unwrap(), b"+memory +pids");
    }

    #[test]
    fn trees_are_listed_and_removed_children_first() {
        let scratch = Scratch::new("tree");
        let group = scratch.group(Version::V1);
        group.child("a").create().unwrap();
        group.child("a/b").create().unwrap();
        group.child("c").create().unwrap();
        let names: Vec<_> = group.tree().iter().map(|g| g.path().to_path_buf()).collect();
        let place = |name: &str| names.iter().position(|n| n.ends_with(name)).unwrap();
        assert!(place("a/b") < place("a"));
        assert_eq!(names.last().unwrap(), group.path());
        assert!(group.child("a").create().is_err());
        group.child("a/b").remove(Duration::ZERO).unwrap();
        group.child("gone").remove(Duration::ZERO).unwrap();
        group.child("gone").kill(Duration::ZERO).unwrap();
    }
}
