//! Other processes, through /proc. Off hot paths: each call reads files.

use std::collections::BTreeMap;

use procfs::ProcError;

use crate::Error;

/// A process at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Process {
    /// Pid.
    pub pid: u32,
    /// Parent's pid.
    pub parent: u32,
    /// Process group.
    pub group: u32,
    /// Session.
    pub session: u32,
    /// Command name, at most 15 bytes.
    pub name: String,
    /// State letter: `R`, `S`, `D`, `Z`, ...
    pub state: char,
    /// Start after boot, in clock ticks; pid and start together are unique.
    pub start_ticks: u64,
    /// User CPU time in clock ticks.
    pub user_ticks: u64,
    /// System CPU time in clock ticks.
    pub system_ticks: u64,
    /// Resident set in bytes.
    pub rss: u64,
    /// Number of threads.
    pub threads: u64,
}

fn convert(stat: procfs::process::Stat) -> Process {
    Process {
        pid: stat.pid as u32,
        parent: stat.ppid as u32,
        group: stat.pgrp as u32,
        session: stat.session as u32,
        name: stat.comm,
        state: stat.state,
        start_ticks: stat.starttime,
        user_ticks: stat.utime,
        system_ticks: stat.stime,
        rss: stat.rss.saturating_mul(procfs::page_size()),
        threads: stat.num_threads.max(0) as u64,
    }
}

fn error(pid: u32, source: ProcError) -> Error {
    let source = match source {
        ProcError::Io(source, _) => source,
        other => std::io::Error::other(other),
    };
    Error::new("read the state of process", pid.to_string(), source)
}

/// The process `pid`; `None` if there is none.
///
/// # Errors
/// If /proc cannot be read.
pub fn get(pid: u32) -> Result<Option<Process>, Error> {
    match procfs::process::Process::new(pid as i32).and_then(|process| process.stat()) {
        Ok(stat) => Ok(Some(convert(stat))),
        Err(ProcError::NotFound(_)) => Ok(None),
        Err(ProcError::Io(e, _)) if e.raw_os_error() == Some(libc::ESRCH) => Ok(None),
        Err(other) => Err(error(pid, other)),
    }
}

/// All processes of this pid namespace by pid. Those that end meanwhile are
/// left out.
///
/// # Errors
/// If /proc cannot be listed.
pub fn all() -> Result<BTreeMap<u32, Process>, Error> {
    let listed = procfs::process::all_processes().map_err(|e| error(0, e))?;
    let stats = listed.filter_map(|process| process.ok()?.stat().ok());
    Ok(stats.map(|stat| (stat.pid as u32, convert(stat))).collect())
}

/// `root` and all its descendants in `processes`, parents before children.
#[must_use]
pub fn tree(processes: &BTreeMap<u32, Process>, root: u32) -> Vec<u32> {
    let mut children: BTreeMap<u32, Vec<u32>> = BTreeMap::new();
    for process in processes.values() {
        children.entry(process.parent).or_default().push(process.pid);
    }
    let mut found = Vec::new();
    let mut next = if processes.contains_key(&root) { vec![root] } else { Vec::new() };
    while let Some(pid) = next.pop() {
        found.push(pid);
        next.extend(children.remove(&pid).unwrap_or_default());
    }
    found
}

/// Seconds after boot at which the process started.
#[must_use]
pub fn start_seconds(process: &Process) -> f64 {
    process.start_ticks as f64 / procfs::ticks_per_second() as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_itself_and_its_child() {
        let own = std::process::id();
        let mut child = std::process::Command::new("sleep").arg("1000").spawn().expect("spawn");
        let processes = all().expect("list");
        assert!(tree(&processes, own).contains(&child.id()));
        let process = get(child.id()).expect("read").expect("runs");
        assert_eq!(process.parent, own);
        assert!(start_seconds(&process) > 0.0);
        child.kill().expect("kill");
        child.wait().expect("wait");
        assert_eq!(get(child.id()).expect("read"), None);
        assert!(tree(&processes, u32::MAX).is_empty());
    }
}
