//! One CDI spec: its members, and the rules it must keep. Pure.
//!
//! Versions 0.3.0 to 1.1.0 of the specification. As it demands, an unknown member
//! makes a spec invalid: an edit that nobody knows must not be left out silently.

use serde::Deserialize;

/// A spec as it is written.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
#[allow(missing_docs)]
pub(super) struct Spec {
    pub cdi_version: String,
    /// `vendor.com/class`.
    pub kind: String,
    #[serde(default)]
    #[allow(dead_code)] // for people
    annotations: Annotations,
    pub devices: Vec<Device>,
    /// Of every container that gets one of the devices.
    #[serde(default)]
    pub container_edits: Edits,
}

type Annotations = std::collections::BTreeMap<String, String>;

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(super) struct Device {
    pub name: String,
    #[serde(default)]
    #[allow(dead_code)] // for people
    annotations: Annotations,
    pub container_edits: Edits,
}

/// What changes in a container.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
pub(super) struct Edits {
    /// `NAME=value`.
    pub env: Vec<String>,
    pub device_nodes: Vec<Node>,
    pub net_devices: Vec<serde_json::Value>,
    pub hooks: Vec<Hook>,
    pub mounts: Vec<Bind>,
    pub intel_rdt: Option<serde_json::Value>,
    #[serde(rename = "additionalGids")]
    pub additional_gids: Vec<u32>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
pub(super) struct Node {
    /// In the container.
    pub path: String,
    /// On the host; the same path if it is not given.
    pub host_path: Option<String>,
    /// `b`, `c`, `u` or `p`; asked of the host if it is not given.
    pub r#type: Option<String>,
    pub major: Option<i64>,
    pub minor: Option<i64>,
    pub file_mode: Option<u32>,
    /// Of `r`, `w` and `m`; all if it is not given.
    pub permissions: Option<String>,
    pub uid: Option<u32>,
    pub gid: Option<u32>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
pub(super) struct Bind {
    pub host_path: String,
    pub container_path: String,
    pub options: Vec<String>,
    /// A bind mount if it is not given.
    pub r#type: Option<String>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
pub(super) struct Hook {
    pub hook_name: String,
    pub path: String,
    #[allow(dead_code)] // hooks are not run
    args: Vec<String>,
    #[allow(dead_code)] // hooks are not run
    env: Vec<String>,
    #[allow(dead_code)] // hooks are not run
    timeout: Option<i64>,
}

/// Reads a spec; `yaml` by the name of its file.
pub(super) fn read(text: &str, yaml: bool) -> Result<Spec, String> {
    let value = match yaml {
        true => super::yaml::read(text)?,
        false => serde_json::from_str(text).map_err(|error| error.to_string())?,
    };
    let spec: Spec = serde_json::from_value(value).map_err(|error| error.to_string())?;
    spec.check().map(|()| spec)
}

impl Spec {
    fn check(&self) -> Result<(), String> {
        version(&self.cdi_version)?;
        let (vendor, class) = self
            .kind
            .split_once('/')
            .ok_or_else(|| format!("kind '{}' is not of the form vendor.com/class", self.kind))?;
        name(vendor, "vendor", "-_.", char::is_alphabetic)?;
        name(class, "class", "-_.", char::is_alphabetic)?;
        if self.devices.is_empty() {
            return Err("it has no devices".into());
        }
        self.container_edits.check("containerEdits")?;
        for (index, device) in self.devices.iter().enumerate() {
            name(&device.name, "device name", "-_.:", char::is_alphanumeric)?;
            if self.devices[..index].iter().any(|other| other.name == device.name) {
                return Err(format!("device '{}' is there twice", device.name));
            }
            device.container_edits.check(&format!("device '{}'", device.name))?;
        }
        Ok(())
    }
}

impl Edits {
    fn check(&self, of: &str) -> Result<(), String> {
        for variable in &self.env {
            if variable.split_once('=').is_none_or(|(name, _)| name.is_empty()) {
                return Err(format!("{of}: env '{variable}' is not of the form NAME=value"));
            }
        }
        for node in &self.device_nodes {
            path(of, "device node", &node.path)?;
            if let Some(host) = &node.host_path {
                path(of, "hostPath", host)?;
            }
            let access = node.permissions.as_deref().unwrap_or("rwm");
            if access.is_empty() || !access.chars().all(|c| "rwm".contains(c)) {
                return Err(format!(
                    "{of}: permissions '{access}' of '{}': expected some of r, w, m",
                    node.path
                ));
            }
            let kind = node.r#type.as_deref().unwrap_or("c");
            if !["b", "c", "u", "p"].contains(&kind) {
                return Err(format!(
                    "{of}: type '{kind}' of '{}': expected b, c, u or p",
                    node.path
                ));
            }
        }
        for mount in &self.mounts {
            path(of, "hostPath", &mount.host_path)?;
            path(of, "containerPath", &mount.container_path)?;
        }
        for hook in &self.hooks {
            path(of, "hook", &hook.path)?;
        }
        Ok(())
    }
}

fn path(of: &str, what: &str, path: &str) -> Result<(), String> {
    let steps = std::path::Path::new(path).components();
    if !path.starts_with('/')
        || steps.into_iter().any(|step| step == std::path::Component::ParentDir)
    {
        return Err(format!("{of}: {what} '{path}' is no absolute path without '..'"));
    }
    Ok(())
}

/// `0.3.0` to `1.1`, with or without `v`.
fn version(text: &str) -> Result<(), String> {
    let parts: Vec<u32> =
        text.trim_start_matches('v').split('.').filter_map(|part| part.parse().ok()).collect();
    match parts[..] {
        [0, minor, _] if minor >= 3 => Ok(()),
        [1, 0 | 1, _] => Ok(()),
        _ => Err(format!("cdiVersion '{text}' is not supported: expected 0.3.0 to 1.1.0")),
    }
}

fn name(text: &str, what: &str, between: &str, first: impl Fn(char) -> bool) -> Result<(), String> {
    let inner = |c: char| c.is_ascii_alphanumeric() || between.contains(c);
    let good = text.is_ascii()
        && text.starts_with(first)
        && text.ends_with(char::is_alphanumeric)
        && text.chars().all(inner);
    if good { Ok(()) } else { Err(format!("'{text}' is no {what}")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SMALL: &str = r#"{"cdiVersion": "0.5.0", "kind": "acme.com/widget",
        "devices": [{"name": "0", "containerEdits": {"env": ["A=b"]}}]}"#;

    #[test]
    fn json_and_yaml_say_the_same() {
        let yaml = "cdiVersion: 0.5.0\nkind: acme.com/widget\ndevices:\n- name: \"0\"\n  containerEdits:\n    env: [A=b]\n";
        let spec = read(SMALL, false).unwrap();
        assert_eq!(read(yaml, true).unwrap(), spec);
        assert_eq!((spec.kind.as_str(), spec.devices.len()), ("acme.com/widget", 1));
    }

    #[test]
    fn what_breaks_a_rule_is_named() {
        let edit = |edits: &str| SMALL.replace(r#""env": ["A=b"]"#, edits);
        for (text, words) in [
            (SMALL.replace("0.5.0", "2.0.0"), "cdiVersion '2.0.0'"),
            (SMALL.replace("0.5.0", "0.2.0"), "cdiVersion '0.2.0'"),
            (SMALL.replace("0.5.0", "new"), "cdiVersion 'new'"),
            (SMALL.replace("acme.com/widget", "widget"), "vendor.com/class"),
            (SMALL.replace("acme.com/widget", "acme.com/wid get"), "'wid get' is no class"),
            (SMALL.replace("acme.com", "9acme"), "'9acme' is no vendor"),
            (SMALL.replace(r#""name": "0""#, r#""name": "-0""#), "'-0' is no device name"),
            (edit(r#""enw": ["A=b"]"#), "unknown field `enw`"),
            (edit(r#""env": ["A"]"#), "device '0': env 'A'"),
            (edit(r#""deviceNodes": [{"path": "dev/x"}]"#), "'dev/x' is no absolute path"),
            (edit(r#""deviceNodes": [{"path": "/dev/../x"}]"#), "'/dev/../x' is no absolute path"),
            (edit(r#""deviceNodes": [{"path": "/x", "permissions": "rx"}]"#), "permissions 'rx'"),
            (edit(r#""deviceNodes": [{"path": "/x", "type": "z"}]"#), "type 'z'"),
            (edit(r#""mounts": [{"hostPath": "/x"}]"#), "containerPath '' is no absolute path"),
            (
                SMALL.replace(r#"[{"name": "0", "containerEdits": {"env": ["A=b"]}}]"#, "[]"),
                "no devices",
            ),
            ("{".to_owned(), "EOF"),
        ] {
            let error = read(&text, false).unwrap_err();
            assert!(error.contains(words), "{text}: {error}");
        }
    }
}
