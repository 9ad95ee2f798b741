//! Sets of processors as the kernel writes them (`0-3,8`), and which node and core
//! each processor of the machine is on, from sysfs. Called by `cgroups/cpuset`.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::io;
use std::path::Path;
use std::str::FromStr;

/// A set of processors or of memory nodes.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct CpuSet(pub BTreeSet<u32>);

/// A text that is no list of processors.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("'{0}' is not a list like 0-3,8")]
pub struct NotAList(pub String);

/// More numbers than any machine has processors.
const MOST: u32 = 1 << 16;

impl FromStr for CpuSet {
    type Err = NotAList;

    fn from_str(text: &str) -> Result<CpuSet, NotAList> {
        let wrong = || NotAList(text.trim().to_owned());
        let mut set = BTreeSet::new();
        for part in text.trim().split(',').filter(|part| !part.is_empty()) {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            let first: u32 = first.parse().map_err(|_| wrong())?;
            let last: u32 = last.parse().map_err(|_| wrong())?;
            if first > last || last >= MOST {
                return Err(wrong());
            }
            set.extend(first..=last);
        }
        Ok(CpuSet(set))
    }
}

impl fmt::Display for CpuSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut rest = self.0.iter().copied().peekable();
        let mut comma = "";
        while let Some(first) = rest.next() {
            let mut last = first;
            while rest.next_if(|next| *next == last + 1).is_some() {
                last += 1;
            }
            match first == last {
                true => write!(f, "{comma}{first}")?,
                false => write!(f, "{comma}{first}-{last}")?,
            }
            comma = ",";
        }
        Ok(())
    }
}

/// Where a processor is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Spot {
    /// Memory node.
    pub node: u32,
    /// Physical core, unique on the machine by package and number.
    pub core: (u32, u32),
}

/// The processors `online` of the machine described below `sys`
/// (`/sys/devices/system`). What the kernel does not say is one node, and a core
/// for each processor.
///
/// # Errors
/// `cpu/online` cannot be read.
pub fn topology(sys: &Path) -> io::Result<BTreeMap<u32, Spot>> {
    let read = |path: &Path| std::fs::read_to_string(path);
    let list = |text: String| text.parse::<CpuSet>().map_err(io::Error::other);
    let online = list(read(&sys.join("cpu/online"))?)?;
    let mut nodes = BTreeMap::new();
    let known = read(&sys.join("node/online")).and_then(list).unwrap_or_default();
    for node in known.0 {
        let cpus = read(&sys.join(format!("node/node{node}/cpulist"))).and_then(list);
        nodes.extend(cpus.unwrap_or_default().0.into_iter().map(|cpu| (cpu, node)));
    }
    let number = |cpu: u32, file: &str| {
        let path = sys.join(format!("cpu/cpu{cpu}/topology/{file}"));
        read(&path).ok().and_then(|text| text.trim().parse::<u32>().ok())
    };
    let spot = |cpu| Spot {
        node: nodes.get(&cpu).copied().unwrap_or(0),
        core: (
            number(cpu, "physical_package_id").unwrap_or(0),
            number(cpu, "core_id").unwrap_or(cpu),
        ),
    };
    Ok(online.0.into_iter().map(|cpu| (cpu, spot(cpu))).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_as_the_kernel_writes_them() {
        for text in ["", "0", "0-1", "0-3,8", "1,3,5-7", "65535"] {
            let set: CpuSet = text.parse().unwrap();
            assert_eq!(set.to_string(), text);
        }
        assert_eq!("0-1,2\n".parse::<CpuSet>().unwrap().to_string(), "0-2");
        for bad in ["a", "3-1", "-1", "1-", "0-65536"] {
            assert!(bad.parse::<CpuSet>().is_err(), "{bad}");
        }
    }

    #[test]
    fn this_machine_has_a_topology() {
        let found = topology(Path::new("/sys/devices/system")).unwrap();
        assert_eq!(found.len(), crate::machine::cpus().unwrap() as usize);
        assert!(topology(Path::new("/nowhere")).is_err());
    }
}
