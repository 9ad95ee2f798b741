//! What the agent offers: `--resources` completed by what the machine has.
//!
//! Called once at start. A resource that `--resources` names, even with 0, is
//! not looked for. The rules and numbers are Mesos': 1 GB of memory and 5 GB of
//! disk are left to the system on machines that have them, else half.

use std::path::{Path, PathBuf};

use mesos::Resource;
use mesos::resource::disk_info::source::Type as SourceType;
use mesos::resources::{self, Ranges, Resources};
use thiserror::Error;

const GB: u64 = 1 << 30;
const MB: u64 = 1 << 20;
/// Offered when nothing else is said (`31000-32000`, Mesos' constant).
const DEFAULT_PORTS: &str = "[31000-32000]";

/// Why there are no resources to offer.
#[derive(Debug, Error)]
#[allow(missing_docs)]
pub enum ResourcesError {
    #[error("failed to determine agent resources: {0} (see --resources)")]
    Parse(#[from] resources::ParseError),
    #[error("invalid --default_role '{role}': {message}")]
    DefaultRole { role: String, message: String },
    #[error("failed to create the directory of disk '{}'", path.display())]
    Path { path: PathBuf, source: std::io::Error },
    #[error("failed to find mount '{}' in /proc/mounts", path.display())]
    Mount { path: PathBuf },
    #[error("unsupported disk source {kind} in --resources: only PATH and MOUNT can be given")]
    Source { kind: &'static str },
    #[error("missing root of a {kind} disk in --resources")]
    Root { kind: &'static str },
}

/// The machine, as far as resources go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Machine {
    /// Online processors.
    pub cpus: u32,
    /// Main memory in bytes.
    pub mem: u64,
    /// Size in bytes of the file system of the work directory.
    pub disk: u64,
}

impl Machine {
    /// This machine. What cannot be found out is Mesos' fallback: 1 cpu, 1 GB of
    /// memory, 10 GB of disk to offer.
    #[must_use]
    pub fn detect(work_dir: &Path) -> Self {
        let complain = |what: &str, error: std::io::Error| {
            tracing::warn!("failed to auto-detect {what}: {error}");
        };
        Machine {
            cpus: kernel::machine::cpus().unwrap_or_else(|e| {
                complain("the number of cpus", e);
                1
            }),
            mem: kernel::machine::memory().map(|m| m.total).unwrap_or_else(|e| {
                complain("the size of main memory", e);
                2 * GB
            }),
            disk: kernel::machine::space(work_dir).map(|s| s.total).unwrap_or_else(|e| {
                complain("the disk space", e);
                15 * GB
            }),
        }
    }

    fn text_of(&self, name: &str) -> String {
        match name {
            "cpus" => self.cpus.to_string(),
            "mem" => {
                let mem = if self.mem >= 2 * GB { self.mem - GB } else { self.mem / 2 };
                (mem / MB).to_string()
            }
            "disk" => {
                let disk = if self.disk >= 10 * GB { self.disk - 5 * GB } else { self.disk / 2 };
                (disk / MB).to_string()
            }
            _ => DEFAULT_PORTS.to_owned(),
        }
    }
}

/// `--resources` and `--default_role` with what is missing added from `machine` and
/// from the devices `found`.
///
/// # Errors
/// [`ResourcesError`] naming the input.
pub fn complete(
    flag: Option<&str>,
    default_role: &str,
    machine: &Machine,
    found: &[Resource],
) -> Result<Resources, ResourcesError> {
    mesos::roles::validate(default_role).map_err(|e| ResourcesError::DefaultRole {
        role: default_role.to_owned(),
        message: e.to_string(),
    })?;
    let given = flag.unwrap_or_default();
    let mut all = Resources::parse(given, default_role)?;
    // `cpus:0` says that there are none; the parsed resources would not show it.
    let named = resources::parse_list(given, default_role)?;
    for name in ["cpus", "mem", "disk", "ports"] {
        if !named.iter().any(|r| r.name == name) {
            let text = format!("{name}:{}", machine.text_of(name));
            all += &Resources::parse(&text, default_role)?;
        }
    }
    for device in found.iter().filter(|device| !named.iter().any(|r| r.name == device.name)) {
        // The text form has no quotes for names of devices.
        let text = format!("[{}]", String::from_utf8_lossy(&mesos::json::to_json(device)));
        all += &Resources::parse(&text, default_role)?;
    }
    Ok(all)
}

/// The ranges of that name among them, of all roles: `ports`, `ephemeral_ports`.
///
/// # Errors
/// [`ResourcesError`] naming the input.
pub fn ranges(
    flag: Option<&str>,
    default_role: &str,
    name: &str,
) -> Result<Ranges, ResourcesError> {
    // What else the machine has makes no difference.
    let any = Machine { cpus: 1, mem: GB, disk: GB };
    Ok(complete(flag, default_role, &any, &[])?.ranges(name).unwrap_or_default())
}

/// The cpus of the flag, of all roles; where it names none, the machine's.
///
/// # Errors
/// [`ResourcesError`] naming the input.
pub fn cpus(flag: Option<&str>, default_role: &str) -> Result<f64, ResourcesError> {
    let cpus = kernel::machine::cpus().unwrap_or(1);
    let machine = Machine { cpus, mem: GB, disk: GB };
    Ok(complete(flag, default_role, &machine, &[])?.cpus().unwrap_or(0.0))
}

/// Creates the directories of PATH disks and checks that MOUNT disks are mount
/// points.
///
/// # Errors
/// [`ResourcesError`] naming the path.
pub fn prepare_disks(resources: &[Resource], work_dir: &Path) -> Result<(), ResourcesError> {
    for source in resources.iter().filter_map(|r| r.disk.as_ref()?.source.as_ref()) {
        match source.r#type() {
            SourceType::Path => {
                let root = source.path.as_ref().and_then(|p| p.root.as_deref());
                let root = root.ok_or(ResourcesError::Root { kind: "PATH" })?;
                // A relative root lies in the work directory.
                let path = work_dir.join(root);
                std::fs::create_dir_all(&path)
                    .map_err(|source| ResourcesError::Path { path, source })?;
            }
            SourceType::Mount => {
                let root = source.mount.as_ref().and_then(|m| m.root.as_deref());
                let root = root.ok_or(ResourcesError::Root { kind: "MOUNT" })?;
                let path = PathBuf::from(root);
                let real = path.canonicalize().unwrap_or_else(|_| path.clone());
                let mounts = std::fs::read_to_string("/proc/mounts").unwrap_or_default();
                if !is_mounted(&mounts, &real) {
                    return Err(ResourcesError::Mount { path: real });
                }
            }
            SourceType::Block => return Err(ResourcesError::Source { kind: "BLOCK" }),
            SourceType::Raw => return Err(ResourcesError::Source { kind: "RAW" }),
            SourceType::Unknown => return Err(ResourcesError::Source { kind: "UNKNOWN" }),
        }
    }
    Ok(())
}

/// Whether `path` is a mount point by the text of `/proc/mounts`, where blanks
/// are written in octal.
fn is_mounted(mounts: &str, path: &Path) -> bool {
    let escaped = path.to_string_lossy().replace('\\', "\\134").replace(' ', "\\040");
    mounts.lines().any(|line| line.split(' ').nth(1) == Some(escaped.as_str()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const MACHINE: Machine = Machine { cpus: 8, mem: 16 * GB, disk: 100 * GB };

    fn texts(flag: Option<&str>, machine: &Machine) -> Vec<String> {
        let all = complete(flag, "*", machine, &[]).expect("valid");
        all.iter().map(|r| format!("{}={:?}", r.name(), r.as_scalar().map(|s| s.value()))).collect()
    }

    #[test]
    fn what_is_not_named_is_detected() {
        assert_eq!(
            texts(None, &MACHINE),
            ["cpus=Some(8.0)", "mem=Some(15360.0)", "disk=Some(97280.0)", "ports=None"]
        );
        assert_eq!(
            texts(Some("mem:100;cpus:0;gold:3"), &MACHINE),
            ["mem=Some(100.0)", "gold=Some(3.0)", "disk=Some(97280.0)", "ports=None"]
        );
    }

    #[test]
    fn small_machines_keep_half() {
        let small = Machine { cpus: 1, mem: GB, disk: 4 * GB };
        assert_eq!(
            texts(Some("ports:[1-2]"), &small),
            ["ports=None", "cpus=Some(1.0)", "mem=Some(512.0)", "disk=Some(2048.0)"]
        );
    }

    #[test]
    fn the_default_role_is_given_to_what_has_none() {
        let all = complete(Some("cpus(ads):1;mem:5"), "web", &MACHINE, &[]).expect("valid");
        let roles: Vec<_> = all.iter().map(|r| r.reservation_role()).collect();
        assert_eq!(roles, [Some("ads"), Some("web"), Some("web"), Some("web")]);
        assert!(matches!(
            complete(None, "a/../b", &MACHINE, &[]),
            Err(ResourcesError::DefaultRole { .. })
        ));
    }

    #[test]
    fn json_and_errors_name_the_input() {
        let json = r#"[{"name":"cpus","type":"SCALAR","scalar":{"value":2}}]"#;
        assert_eq!(texts(Some(json), &MACHINE)[0], "cpus=Some(2.0)");
        for (bad, part) in [
            ("cpus", "missing or extra ':' in 'cpus'"),
            ("cpus:-1", "-1"),
            ("cpus:abc", "cpus value abc"),
            ("cpus:1e400", "1e400"),
            ("ports:[5-", "ports"),
            ("[{]", "JSON"),
        ] {
            let error = complete(Some(bad), "*", &MACHINE, &[]).expect_err(bad).to_string();
            assert!(error.contains(part), "{bad}: {error}");
        }
    }

    #[test]
    fn disks_are_made_or_must_be_mounted() {
        let work = std::env::temp_dir().join(format!("bulkhead-disks-{}", std::process::id()));
        let disk = |source: &str| {
            let text = format!(
                r#"[{{"name":"disk","type":"SCALAR","scalar":{{"value":9}},"disk":{{"source":{source}}}}}]"#
            );
            complete(Some(&text), "*", &MACHINE, &[]).expect("valid").to_protos()
        };
        let path = disk(r#"{"type":"PATH","path":{"root":"disks/one"}}"#);
        prepare_disks(&path, &work).expect("created");
        assert!(work.join("disks/one").is_dir());
        std::fs::remove_dir_all(&work).expect("own directory");
        let mount = disk(r#"{"type":"MOUNT","mount":{"root":"/proc"}}"#);
        prepare_disks(&mount, &work).expect("mounted everywhere");
        let mount = disk(r#"{"type":"MOUNT","mount":{"root":"/etc"}}"#);
        assert!(matches!(prepare_disks(&mount, &work), Err(ResourcesError::Mount { .. })));
        assert!(is_mounted("a /mnt/with\\040blank ext4 rw 0 0", Path::new("/mnt/with blank")));
    }
}
