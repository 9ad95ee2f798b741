//! Figures of cgroups that somebody else made, given a process in them: those of
//! Docker's containers. Only reads.

use kernel::cgroup::{Cgroup, Hierarchies, Hierarchy, Version};

use super::{cpu, mem};
use crate::api::Probe;

/// What is counted besides cpu time and memory.
#[derive(Debug, Clone, Copy, Default)]
pub struct Wanted {
    /// `--cgroups_enable_cfs`: how often it was throttled.
    pub throttling: bool,
    /// `--cgroups_cpu_enable_pids_and_tids_count`.
    pub processes: bool,
}

/// The probes for the process whose `/proc/<pid>/cgroup` is `table`.
#[must_use]
pub fn probes(hierarchies: &Hierarchies, table: &[u8], wanted: Wanted) -> Vec<Box<dyn Probe>> {
    let table = String::from_utf8_lossy(table);
    let of = |controller: &str| {
        let hierarchy = hierarchies.carrying(controller)?;
        let path = path(&table, hierarchy, controller)?;
        let dir = hierarchy.mount.join(path.trim_start_matches('/'));
        Some(Cgroup::new(hierarchy.version, dir))
    };
    let mut all = Vec::new();
    if let Some(group) = of("cpu") {
        let accounting = of("cpuacct").unwrap_or_else(|| group.clone());
        let Wanted { throttling, processes } = wanted;
        all.extend(cpu::foreign_probes(&group, &accounting, throttling, processes));
    }
    if let Some(group) = of("memory") {
        all.extend(mem::foreign_probes(&group));
    }
    all
}

/// The process' place in a hierarchy.
fn path<'a>(table: &'a str, hierarchy: &Hierarchy, controller: &str) -> Option<&'a str> {
    table.lines().find_map(|line| {
        let mut fields = line.splitn(3, ':').skip(1);
        let (controllers, path) = (fields.next()?, fields.next()?);
        let ours = match hierarchy.version {
            Version::V1 => controllers.split(',').any(|name| name == controller),
            Version::V2 => controllers.is_empty(),
        };
        ours.then_some(path)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: &str = "4:memory:/docker/8a\n2:cpu,cpuacct:/docker/8a\n1:name=systemd:/x\n\
                         0::/docker/8a\n";

    fn sources(mountinfo: &str, controllers: &str) -> Vec<&'static str> {
        let hierarchies = Hierarchies::parse(mountinfo.as_bytes(), |_| controllers.to_owned());
        let wanted = Wanted { throttling: true, processes: false };
        probes(&hierarchies, TABLE.as_bytes(), wanted).iter().map(|p| p.source()).collect()
    }

    #[test]
    fn both_versions_are_found() {
        let v1 = "30 25 0:26 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu,cpuacct\n\
                  31 25 0:27 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n";
        let found = sources(v1, "");
        assert!(
            found.starts_with(&["cpuacct.stat", "cpu.stat", "memory.usage_in_bytes"]),
            "{found:?}"
        );
        let v2 = "30 25 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n";
        let found = sources(v2, "cpu memory");
        assert!(found.starts_with(&["cpu.stat", "memory.current", "memory.stat"]), "{found:?}");
        assert!(sources("", "").is_empty());
    }
}
