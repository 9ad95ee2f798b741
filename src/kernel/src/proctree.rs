//! Process trees from `/proc`: who descends from whom, and what it uses.
//!
//! For containers without cgroups (`--launcher=posix`) and for naming the largest
//! processes of a cgroup. Not for hot paths: it reads `/proc` afresh each time.

use std::collections::{HashMap, HashSet, VecDeque};
use std::fs;
use std::sync::OnceLock;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// The environment that a process was started with, entries ended by NUL.
///
/// # Errors
/// The process is gone, or is somebody else's.
pub fn environment(pid: u32) -> std::io::Result<Vec<u8>> {
    fs::read(format!("/proc/{pid}/environ"))
}

/// Inodes of the sockets that a process has open; none if it is gone.
#[must_use]
pub fn sockets(pid: u32) -> Vec<u32> {
    let Ok(entries) = fs::read_dir(format!("/proc/{pid}/fd")) else { return Vec::new() };
    let inode = |entry: fs::DirEntry| {
        let link = fs::read_link(entry.path()).ok()?;
        link.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?.parse().ok()
    };
    entries.flatten().filter_map(inode).collect()
}

/// What `/proc/<pid>/stat` says of a process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProcessStat {
    /// The process.
    pub pid: u32,
    /// Name of its program, at most 15 bytes.
    pub name: String,
    /// `R`, `S`, `D`, `Z`, ...
    pub state: char,
    /// Its parent.
    pub parent: u32,
    /// Its session.
    pub session: u32,
    /// Clock ticks in user mode, without children.
    pub user_ticks: u64,
    /// Clock ticks in the kernel, without children.
    pub system_ticks: u64,
    /// Number of threads.
    pub threads: u32,
    /// Start, in clock ticks since boot: with the pid it names a process for good.
    pub start_ticks: u64,
    /// Resident memory in pages.
    pub resident_pages: u64,
}

impl ProcessStat {
    /// Reads one process; `None` if it is gone.
    #[must_use]
    pub fn read(pid: u32) -> Option<ProcessStat> {
        ProcessStat::parse(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
    }

    /// Parses a stat line. The name may hold blanks and parentheses.
    #[must_use]
    pub fn parse(line: &str) -> Option<ProcessStat> {
        let (open, close) = (line.find('(')?, line.rfind(')')?);
        let fields: Vec<&str> = line.get(close + 2..)?.split_whitespace().collect();
        Some(ProcessStat {
            pid: line.get(..open)?.trim().parse().ok()?,
            name: line.get(open + 1..close)?.to_owned(),
            state: fields.first()?.chars().next()?,
            parent: fields.get(1)?.parse().ok()?,
            session: fields.get(3)?.parse().ok()?,
            user_ticks: fields.get(11)?.parse().ok()?,
            system_ticks: fields.get(12)?.parse().ok()?,
            threads: fields.get(17)?.parse().ok()?,
            start_ticks: fields.get(19)?.parse().ok()?,
            resident_pages: fields.get(21)?.parse().ok()?,
        })
    }
}

/// `root` and all its living descendants, and what shares its session (children
/// whose parent has died), each once: `root` first, parents before children.
#[must_use]
pub fn tree(root: u32) -> Vec<ProcessStat> {
    descend(root, &all_processes())
}

/// In this order signals do not tell a parent of its child's death before it dies
/// itself: a shell would exit with 128 and the signal, and seem to have chosen to.
fn descend(root: u32, all: &[ProcessStat]) -> Vec<ProcessStat> {
    let mut children: HashMap<u32, Vec<usize>> = HashMap::new();
    for (index, process) in all.iter().enumerate() {
        children.entry(process.parent).or_default().push(index);
    }
    let session: HashSet<u32> = all.iter().filter(|p| p.session == root).map(|p| p.pid).collect();
    let stray = |p: &ProcessStat| p.session == root && !session.contains(&p.parent);
    let first = (0..all.len()).filter(|i| all[*i].pid == root);
    let strays = (0..all.len()).filter(|i| all[*i].pid != root && stray(&all[*i]));
    let mut queue: VecDeque<usize> = first.chain(strays).collect();
    let mut seen = vec![false; all.len()];
    let mut found = Vec::new();
    while let Some(index) = queue.pop_front() {
        if std::mem::replace(&mut seen[index], true) {
            continue;
        }
        found.push(all[index].clone());
        queue.extend(children.get(&all[index].pid).into_iter().flatten());
    }
    found
}

fn all_processes() -> Vec<ProcessStat> {
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    let pids = entries.flatten().filter_map(|e| e.file_name().to_str()?.parse().ok());
    pids.filter_map(ProcessStat::read).collect()
}

/// Sends a signal to each process; those that are gone are fine. A number that is
/// no signal is sent to nobody.
pub fn signal(pids: &[u32], signal: i32) {
    let Ok(signal) = Signal::try_from(signal) else { return };
    for pid in pids {
        // Refused only if it has just gone: whom we signal is ours.
        let _ = kill(Pid::from_raw(pid.cast_signed()), signal);
    }
}

/// Kills every process of the group that `leader` leads or led.
pub fn kill_group(leader: u32) {
    // Refused only if everybody has just gone: whom we kill is ours.
    let _ = nix::sys::signal::killpg(Pid::from_raw(leader.cast_signed()), Signal::SIGKILL);
}

/// Whether this process may do what root may.
#[must_use]
pub fn is_root() -> bool {
    nix::unistd::geteuid().is_root()
}

/// Effective user and group of this process, and its supplementary groups.
#[must_use]
pub fn own_ids() -> (u32, u32, Vec<u32>) {
    let groups = nix::unistd::getgroups().unwrap_or_default();
    let groups = groups.into_iter().map(nix::unistd::Gid::as_raw).collect();
    (nix::unistd::geteuid().as_raw(), nix::unistd::getegid().as_raw(), groups)
}

/// The `count` processes of `pids` with the most resident memory, largest first.
#[must_use]
pub fn largest(pids: &[u32], count: usize) -> Vec<ProcessStat> {
    let mut found: Vec<_> = pids.iter().filter_map(|pid| ProcessStat::read(*pid)).collect();
    found.sort_by_key(|process| std::cmp::Reverse(process.resident_pages));
    found.truncate(count);
    found
}

/// Clock ticks per second.
#[must_use]
pub fn ticks_per_second() -> f64 {
    static TICKS: OnceLock<i64> = OnceLock::new();
    let ticks = TICKS.get_or_init(|| sysconf(nix::unistd::SysconfVar::CLK_TCK, 100));
    #[allow(clippy::cast_precision_loss)] // 100, or 1000 at most
    let ticks = *ticks as f64;
    ticks
}

/// Bytes per page.
#[must_use]
pub fn page_size() -> u64 {
    static SIZE: OnceLock<i64> = OnceLock::new();
    SIZE.get_or_init(|| sysconf(nix::unistd::SysconfVar::PAGE_SIZE, 4096)).unsigned_abs()
}

/// Memory of the machine in bytes, 0 if the kernel does not tell.
#[must_use]
pub fn total_memory() -> u64 {
    let text = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:"));
    let kilobytes = line.and_then(|l| l.split_whitespace().next()?.parse::<u64>().ok());
    kilobytes.unwrap_or(0) * 1024
}

/// Processors that are online.
#[must_use]
pub fn processors() -> usize {
    usize::try_from(sysconf(nix::unistd::SysconfVar::_NPROCESSORS_ONLN, 1)).unwrap_or(1)
}

fn sysconf(variable: nix::unistd::SysconfVar, default: i64) -> i64 {
    nix::unistd::sysconf(variable).ok().flatten().unwrap_or(default)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stat_lines() {
        let line = "42 (a (b) c) S 7 42 41 0 -1 4194560 100 0 0 0 250 31 0 0 20 0 3 0 \
                    4242 1000000 77 18446744073709551615 1 1 0";
        let wanted = ProcessStat {
            pid: 42,
            name: "a (b) c".into(),
            state: 'S',
            parent: 7,
            session: 41,
            user_ticks: 250,
            system_ticks: 31,
            threads: 3,
            start_ticks: 4242,
            resident_pages: 77,
        };
        assert_eq!(ProcessStat::parse(line), Some(wanted));
        assert_eq!(ProcessStat::parse("42 (x) S"), None);
        assert_eq!(ProcessStat::parse(""), None);
    }

    #[test]
    fn a_child_is_in_the_tree() {
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let me = std::process::id();
        assert!(tree(me).iter().any(|p| p.pid == child.id()));
        assert_eq!(largest(&[me, child.id()], 1).len(), 1);
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(ProcessStat::read(child.id()).is_none());
    }

    #[test]
    fn sockets_are_listed_by_inode() {
        let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        let fd = std::os::fd::AsRawFd::as_raw_fd(&socket);
        let link = fs::read_link(format!("/proc/self/fd/{fd}")).unwrap();
        let mine = sockets(std::process::id());
        let links: Vec<String> = mine.iter().map(|inode| format!("socket:[{inode}]")).collect();
        assert!(links.contains(&link.display().to_string()), "{link:?} {links:?}");
        assert!(sockets(0).is_empty());
    }

    #[test]
    fn parents_come_before_their_children() {
        let process = |pid, parent, session| ProcessStat {
            pid,
            name: String::new(),
            state: 'S',
            parent,
            session,
            user_ticks: 0,
            system_ticks: 0,
            threads: 1,
            start_ticks: 0,
            resident_pages: 0,
        };
        // 90 is the root; 50 and 95 descend from it, 40 in a session of its own. The
        // parent of 30 has died; 99 is of the machine.
        let all = [
            process(30, 1, 90),
            process(31, 30, 90),
            process(40, 50, 40),
            process(50, 95, 90),
            process(90, 7, 90),
            process(95, 90, 90),
            process(99, 1, 99),
        ];
        let order: Vec<u32> = descend(90, &all).iter().map(|p| p.pid).collect();
        assert_eq!(order, [90, 30, 95, 31, 50, 40]);
    }

    #[test]
    fn the_machine_has_something() {
        assert!(ticks_per_second() > 0.0);
        assert!(page_size() >= 4096);
        assert!(total_memory() > 0);
        assert!(processors() > 0);
    }
}
