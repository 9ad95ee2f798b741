//! `cgroups/net_prio` (v1 only): the priority of a container's packets per device.
//!
//! Mesos only makes the cgroup. Here `--cgroups_net_prio_map` sets priorities;
//! without it the cgroup inherits its parent's and operators may write their own.

use kernel::cgroup::Cgroup;

use super::control::{Control, failed};
use crate::api::{ContainerContext, IsolatorError};

/// As in `--isolation`.
pub const NAME: &str = "cgroups/net_prio";

/// The priority of packets that leave through a device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Priority {
    /// For example `eth0`.
    pub device: String,
    /// `SO_PRIORITY` of packets whose socket does not say.
    pub priority: u32,
}

/// Parses `eth0=5;lo=1`.
///
/// # Errors
/// What is wrong with the text, for people.
pub fn parse_map(text: &str) -> Result<Vec<Priority>, String> {
    let parts = text.split(';').map(str::trim).filter(|part| !part.is_empty());
    let parse = |part: &str| {
        let (device, priority) = part.split_once('=')?;
        let priority = priority.parse().ok()?;
        (!device.is_empty()).then(|| Priority { device: device.to_owned(), priority })
    };
    parts
        .map(|part| parse(part).ok_or_else(|| format!("'{part}' is no priority like eth0=5")))
        .collect()
}

/// One container's priorities.
#[derive(Debug)]
pub(super) struct NetPrio {
    group: Cgroup,
    map: Vec<Priority>,
}

impl NetPrio {
    pub(super) fn new(group: Cgroup, map: Vec<Priority>) -> NetPrio {
        NetPrio { group, map }
    }
}

impl Control for NetPrio {
    fn prepare(&mut self, _context: &ContainerContext) -> Result<(), IsolatorError> {
        const FILE: &str = "net_prio.ifpriomap";
        for Priority { device, priority } in &self.map {
            let line = format!("{device} {priority}");
            self.group.write(FILE, &line).map_err(|e| failed(NAME, "set", &self.group, FILE, e))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn maps_are_parsed_or_refused() {
        let parsed = parse_map("eth0=5; lo=1").unwrap();
        assert_eq!(parsed[1], Priority { device: "lo".into(), priority: 1 });
        assert_eq!(parse_map(""), Ok(Vec::new()));
        for bad in ["eth0", "eth0=high", "=5"] {
            assert!(parse_map(bad).unwrap_err().contains(bad), "{bad}");
        }
    }
}
