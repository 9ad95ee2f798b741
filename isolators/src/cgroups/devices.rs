//! `cgroups/devices`: which device nodes work in a container.
//!
//! Mesos' default whitelist and `--allowed_devices`. v1: everything is denied, then
//! each rule allowed. v2: one eBPF program made of the same rules (kernel::bpf).
//! Single devices
//! for single containers are added by [`super::grants`].

use std::path::PathBuf;
use std::sync::Arc;

use kernel::bpf::device::{Access, Kind, Rule};
use kernel::cgroup::{Cgroup, Version};
use kernel::machine;
use mesos::DeviceAccess;

use super::control::{Control, failed};
use crate::api::{ContainerContext, IsolatorError};

/// As in `--isolation`.
pub const NAME: &str = "cgroups/devices";

/// What every container may use, Mesos' own list: making nodes; console, tty0,
/// tty1, ptys, ptmx, tun; null, zero, full, tty, urandom, random.
pub const DEFAULT: [Rule; 14] = [
    Rule::char(None, None, Access::MKNOD),
    Rule { kind: Kind::Block, major: None, minor: None, access: Access::MKNOD },
    Rule::char(Some(5), Some(1), Access::ALL),
    Rule::char(Some(4), Some(0), Access::ALL),
    Rule::char(Some(4), Some(1), Access::ALL),
    Rule::char(Some(136), None, Access::ALL),
    Rule::char(Some(5), Some(2), Access::ALL),
    Rule::char(Some(10), Some(200), Access::ALL),
    Rule::char(Some(1), Some(3), Access::ALL),
    Rule::char(Some(1), Some(5), Access::ALL),
    Rule::char(Some(1), Some(7), Access::ALL),
    Rule::char(Some(5), Some(0), Access::ALL),
    Rule::char(Some(1), Some(9), Access::ALL),
    Rule::char(Some(1), Some(8), Access::ALL),
];

/// A device of `--allowed_devices`, found on this machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Allowed {
    /// Where its node is on the host; `None` if only its number was given.
    pub path: Option<PathBuf>,
    /// What may be done with it.
    pub rule: Rule,
}

/// Looks the flag's devices up.
///
/// # Errors
/// A path is no device, neither path nor number is given, or no access.
pub fn look_up(
    allowed: &[DeviceAccess],
    isolator: &'static str,
) -> Result<Vec<Allowed>, IsolatorError> {
    let wrong = |text: String| IsolatorError::plain(isolator, "use --allowed_devices:", text);
    let mut found = Vec::new();
    for entry in allowed {
        let access = Access {
            read: entry.access.read.unwrap_or(false),
            write: entry.access.write.unwrap_or(false),
            mknod: entry.access.mknod.unwrap_or(false),
        };
        let device = &entry.device;
        let name = device.path.clone().or_else(|| {
            device.number.as_ref().map(|n| format!("{}:{}", n.major_number, n.minor_number))
        });
        let name = name.ok_or_else(|| wrong("a device without path and number".into()))?;
        if access.is_empty() {
            return Err(wrong(format!("'{name}' needs at least one of read, write, mknod")));
        }
        let (kind, major, minor) = match (&device.path, &device.number) {
            (Some(path), _) => {
                let number = machine::device(path.as_ref()).map_err(|e| {
                    IsolatorError::new(isolator, "find the allowed device", path.clone(), e)
                })?;
                let number = number
                    .ok_or_else(|| wrong(format!("'{name}' is no block or character device")))?;
                let kind = if number.block { Kind::Block } else { Kind::Char };
                (kind, number.major, number.minor)
            }
            (None, Some(number)) => {
                let part = |n: u64| {
                    u32::try_from(n).map_err(|_| wrong(format!("'{name}' is no device number")))
                };
                (Kind::Char, part(number.major_number)?, part(number.minor_number)?)
            }
            (None, None) => continue,
        };
        let rule = Rule { kind, major: Some(major), minor: Some(minor), access };
        found.push(Allowed { path: device.path.clone().map(PathBuf::from), rule });
    }
    Ok(found)
}

/// The default list and the flag's devices.
pub(super) fn whitelist(allowed: &[DeviceAccess]) -> Result<Vec<Rule>, IsolatorError> {
    let mut rules = DEFAULT.to_vec();
    rules.extend(look_up(allowed, NAME)?.into_iter().map(|device| device.rule));
    Ok(rules)
}

/// Lets a container use `base` and `extra`, nothing else. `group` is its cgroup
/// with the `devices` controller. On v2 call again with all extras to change them;
/// on v1 that would leave a running container without any device for a moment.
///
/// # Errors
/// The kernel refuses.
pub fn grant(group: &Cgroup, base: &[Rule], extra: &[Rule]) -> Result<(), IsolatorError> {
    let all: Vec<Rule> = base.iter().chain(extra).copied().collect();
    match group.version() {
        Version::V1 => {
            let write = |file: &str, text: &str| {
                group.write(file, text).map_err(|e| failed(NAME, "set", group, file, e))
            };
            write("devices.deny", "a *:* rwm")?;
            all.iter().try_for_each(|rule| write("devices.allow", &rule.to_string()))
        }
        Version::V2 => kernel::bpf::allow(group.path(), &all).map_err(|e| {
            let path = group.path().display().to_string();
            IsolatorError::new(NAME, "restrict the devices of", path, e)
        }),
    }
}

/// One container's whitelist. It goes with the cgroup, and stays over restarts of
/// the agent: the kernel holds it.
#[derive(Debug)]
pub(super) struct Devices {
    group: Cgroup,
    rules: Arc<[Rule]>,
}

impl Devices {
    pub(super) fn new(group: Cgroup, rules: Arc<[Rule]>) -> Devices {
        Devices { group, rules }
    }
}

impl Control for Devices {
    fn prepare(&mut self, _context: &ContainerContext) -> Result<(), IsolatorError> {
        grant(&self.group, &self.rules, &[])
    }
}

#[cfg(test)]
mod tests {
    use mesos::{Device, device_access};

    use super::*;

    fn access(path: Option<&str>, number: Option<(u64, u64)>, bits: [bool; 3]) -> DeviceAccess {
        let number = number.map(|(major_number, minor_number)| mesos::device::Number {
            major_number,
            minor_number,
        });
        DeviceAccess {
            device: Device { path: path.map(str::to_owned), number },
            access: device_access::Access {
                read: Some(bits[0]),
                write: Some(bits[1]),
                mknod: Some(bits[2]),
            },
        }
    }

    #[test]
    fn the_default_list_is_mesos_own() {
        let text: Vec<String> = DEFAULT.iter().map(ToString::to_string).collect();
        assert_eq!(text[..3], ["c *:* m", "b *:* m", "c 5:1 rwm"]);
        for number in
            ["4:0", "4:1", "136:*", "5:2", "10:200", "1:3", "1:5", "1:7", "5:0", "1:9", "1:8"]
        {
            assert!(text.contains(&format!("c {number} rwm")), "{number}");
        }
    }

    #[test]
    fn flag_devices_are_looked_up() {
        let rows = [
            (access(Some("/dev/full"), None, [true, false, false]), "c 1:7 r"),
            (access(None, Some((10, 229)), [true, true, false]), "c 10:229 rw"),
        ];
        for (entry, wanted) in rows {
            let found = look_up(&[entry], NAME).unwrap();
            assert_eq!(found[0].rule.to_string(), wanted);
        }
        let rows = [
            (access(Some("/dev/full"), None, [false; 3]), "at least one of read, write, mknod"),
            (access(Some("/etc"), None, [true; 3]), "no block or character device"),
            (access(Some("/dev/none"), None, [true; 3]), "'/dev/none'"),
            (access(None, None, [true; 3]), "without path and number"),
            (access(None, Some((u64::MAX, 0)), [true; 3]), "no device number"),
        ];
        for (entry, wanted) in rows {
            let error = look_up(&[entry], NAME).unwrap_err().chain();
            assert!(error.contains(wanted.trim_matches('\'')), "{error}");
        }
    }
}
