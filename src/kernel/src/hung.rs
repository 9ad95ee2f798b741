//! Why a process does not die of `SIGKILL`: what `/proc` says of it.
//!
//! For people: the text of a container that cannot be destroyed. Reading `stack`
//! needs root; what cannot be read is left out.

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

use crate::proctree::ProcessStat;

/// Lines of a kernel stack that are kept, the innermost first.
const STACK: usize = 8;

/// A process that was killed and is still there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hung {
    /// In the pid namespace of the agent.
    pub pid: u32,
    /// Name of its program.
    pub name: String,
    /// `D`: it waits in the kernel and takes no signal; `Z`: nobody reaps it.
    pub state: char,
    /// The kernel function it waits in; empty if it does not wait.
    pub wchan: String,
    /// Functions of its kernel stack.
    pub stack: Vec<String>,
    /// The v1 cgroup that froze it.
    pub frozen: Option<PathBuf>,
}

impl Hung {
    /// Looks at a process; `None` if it is gone.
    #[must_use]
    pub fn read(pid: u32) -> Option<Hung> {
        let stat = ProcessStat::read(pid)?;
        let file = |name: &str| fs::read_to_string(format!("/proc/{pid}/{name}"));
        let wchan = file("wchan").unwrap_or_default().trim().to_owned();
        let stack = file("stack").unwrap_or_default();
        Some(Hung {
            pid,
            name: stat.name,
            state: stat.state,
            wchan: if wchan == "0" { String::new() } else { wchan },
            stack: stack.lines().filter_map(function).take(STACK).collect(),
            frozen: freezer().and_then(|mount| frozen(&file("cgroup").ok()?, &mount)),
        })
    }
}

impl fmt::Display for Hung {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (pid {}) is in state {}", self.name, self.pid, self.state)?;
        if !self.wchan.is_empty() {
            write!(f, " in {}", self.wchan)?;
        }
        if let Some(cgroup) = &self.frozen {
            write!(f, ", frozen by '{}'", cgroup.display())?;
        }
        Ok(())
    }
}

/// `[<0>] request_wait_answer+0x13f/0x220 [fuse]` is `request_wait_answer`.
fn function(line: &str) -> Option<String> {
    let name = line.split_once("] ").map_or(line, |(_, name)| name);
    let name = name.split(['+', ' ']).next()?.trim();
    (!name.is_empty()).then(|| name.to_owned())
}

/// Where the v1 freezer is mounted. A v2 freezer does not stop `SIGKILL`.
fn freezer() -> Option<PathBuf> {
    let hierarchies = crate::cgroup::Hierarchies::detect().ok()?;
    let found = hierarchies.carrying("freezer")?;
    (found.version == crate::cgroup::Version::V1).then(|| found.mount.clone())
}

/// The frozen cgroup nearest to a process, from its `/proc/<pid>/cgroup`.
fn frozen(cgroups: &str, mount: &Path) -> Option<PathBuf> {
    let own = cgroups.lines().find_map(|line| {
        let (_, rest) = line.split_once(':')?;
        let (controllers, path) = rest.split_once(':')?;
        controllers.split(',').any(|c| c == "freezer").then_some(path)
    })?;
    let mut group = mount.join(own.trim_start_matches('/'));
    while group.starts_with(mount) && group != mount {
        let itself = fs::read_to_string(group.join("freezer.self_freezing"));
        if itself.is_ok_and(|text| text.trim() == "1") {
            return Some(group);
        }
        group.pop();
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn functions_of_a_stack() {
        for (line, wanted) in [
            ("[<0>] request_wait_answer+0x13f/0x220 [fuse]", Some("request_wait_answer")),
            ("[<ffffffff810>] __refrigerator+0x4c", Some("__refrigerator")),
            ("", None),
        ] {
            assert_eq!(function(line).as_deref(), wanted, "{line}");
        }
    }

    #[test]
    fn a_living_process_is_described_and_a_gone_one_is_not() {
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let hung = Hung::read(child.id()).unwrap();
        assert_eq!((hung.pid, hung.frozen), (child.id(), None));
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!(Hung::read(child.id()), None);
        let text = Hung {
            pid: 7,
            name: "cat".into(),
            state: 'D',
            wchan: "request_wait_answer".into(),
            stack: Vec::new(),
            frozen: Some("/cg/a".into()),
        };
        assert_eq!(
            text.to_string(),
            "cat (pid 7) is in state D in request_wait_answer, frozen by '/cg/a'"
        );
    }
}
