//! `linux/devices`: nodes of `--allowed_devices` in the `/dev` of containers that
//! have a root file system of their own. What the nodes may be used for is
//! `cgroups/devices`' business; the modes only say the same to everybody inside.

use std::path::Path;
use std::sync::Arc;

use mesos::DeviceAccess;
use oci_spec::runtime::{LinuxDevice, LinuxDeviceBuilder, LinuxDeviceType};

use crate::api::{ContainerContext, Contribution, Isolator, IsolatorError};
use crate::cgroups::devices::{Allowed, look_up};
use crate::simple::Preparing;
use kernel::bpf::device::Kind;

/// As in `--isolation`.
const NAME: &str = "linux/devices";

/// The isolator of these devices.
///
/// # Errors
/// One is no device, or has no path: it cannot be shown.
pub fn isolator(allowed: &[DeviceAccess]) -> Result<Arc<dyn Isolator>, IsolatorError> {
    let found = look_up(allowed, NAME)?;
    if let Some(unnamed) = found.iter().find(|device| device.path.is_none()) {
        let object = format!("the device '{}': --allowed_devices gives no path", unnamed.rule);
        return Err(IsolatorError::plain(NAME, "show", object));
    }
    let nodes: Result<Vec<LinuxDevice>, IsolatorError> = found.iter().map(node).collect();
    Ok(Preparing::everywhere(NAME, Arc::new(nodes?), prepare))
}

fn prepare(
    nodes: &Arc<Vec<LinuxDevice>>,
    context: &ContainerContext,
) -> Result<Contribution, IsolatorError> {
    // Without a root file system the container has the host's /dev.
    let devices = if context.rootfs.is_some() { nodes.to_vec() } else { Vec::new() };
    Ok(Contribution { devices, ..Contribution::default() })
}

/// Every user inside gets the access that the flag gives.
fn mode(device: &Allowed) -> u32 {
    let access = device.rule.access;
    0o600 | if access.read { 0o044 } else { 0 } | if access.write { 0o022 } else { 0 }
}

fn node(device: &Allowed) -> Result<LinuxDevice, IsolatorError> {
    let path = device.path.as_deref().unwrap_or(Path::new("/dev/null"));
    let rule = device.rule;
    LinuxDeviceBuilder::default()
        .path(path)
        .typ(if rule.kind == Kind::Block { LinuxDeviceType::B } else { LinuxDeviceType::C })
        .major(i64::from(rule.major.unwrap_or(0)))
        .minor(i64::from(rule.minor.unwrap_or(0)))
        .file_mode(mode(device))
        .uid(0u32)
        .gid(0u32)
        .build()
        .map_err(|e| IsolatorError::new(NAME, "describe", path.display().to_string(), e))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::suite;

    fn allowed(json: &str) -> Vec<DeviceAccess> {
        let list: mesos::DeviceWhitelist = mesos::json::from_json(json.as_bytes()).unwrap();
        list.allowed_devices
    }

    #[tokio::test]
    async fn nodes_are_for_containers_with_a_root_of_their_own() {
        let flag = allowed(
            r#"{"allowed_devices": [{"device": {"path": "/dev/full"}, "access": {"read": true}}]}"#,
        );
        let isolator = isolator(&flag).unwrap();
        for (rootfs, count) in [(None, 0), (Some("/image".into()), 1)] {
            let context = ContainerContext { rootfs, ..suite::context("a") };
            let part = isolator.attach(&Arc::new(context)).prepare().await.unwrap();
            assert_eq!(part.devices.len(), count);
            for node in &part.devices {
                assert_eq!((node.major(), node.minor()), (1, 7));
                assert_eq!(node.file_mode(), Some(0o644));
            }
        }
    }

    #[test]
    fn a_number_without_a_path_cannot_be_shown() {
        let flag = allowed(
            r#"{"allowed_devices": [{"device": {"number": {"major_number": 10, "minor_number": 229}},
                "access": {"read": true}}]}"#,
        );
        let error = isolator(&flag).err().unwrap().to_string();
        assert!(error.contains("c 10:229 r") && error.contains("no path"), "{error}");
    }
}
