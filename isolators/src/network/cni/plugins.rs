//! Finding plugins and calling them: programs of `--network_cni_plugins_dir`, and those
//! that are built in.

use std::collections::HashMap;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use kernel::chain;
use serde_json::{Value, json};

use super::exec::{Call, Program, open_log};
use super::outcome;
use super::version::{SPOKEN, Version};
use crate::network::{bridge, groups, port_mapper};

/// A container with nothing but its loopback.
pub const LOOPBACK: &str = "bulkhead-loopback";
/// CNI's `bridge` and `host-local` without a process.
pub const BRIDGE: &str = "bulkhead-bridge";
/// A plugin's own `main`.
pub type Main = fn() -> ExitCode;
/// Plugins that are in the helper program, found wherever that is.
pub const IN_HELPER: [(&str, Main); 4] = [
    (BRIDGE, bridge::main),
    ("bulkhead-port-mapper", port_mapper::main),
    ("mesos-cni-port-mapper", port_mapper::main),
    ("bulkhead-groups", groups::main),
];

/// All plugins. Its lock is held for map operations only.
#[derive(Debug)]
pub struct Plugins {
    search: Vec<PathBuf>,
    helper: Option<PathBuf>,
    /// For one call.
    pub deadline: Duration,
    versions: Mutex<HashMap<(PathBuf, u64, i64), Vec<Version>>>,
}

/// One plugin.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Plugin {
    /// A program.
    External(Program),
    /// [`LOOPBACK`].
    Loopback,
    /// [`BRIDGE`].
    Bridge,
}

/// Where a call belongs to.
#[derive(Debug, Clone, Copy)]
pub struct Place<'a> {
    /// The container's id for plugins.
    pub container: &'a str,
    /// Of the interface in it.
    pub interface: &'a str,
    /// What keeps its network namespace, if it is there.
    pub netns: Option<&'a Path>,
    /// Where words for people go.
    pub log: &'a Path,
}

impl Plugins {
    /// Plugins of the directories `search`, in order; `helper` is our helper program.
    #[must_use]
    pub fn new(search: Vec<PathBuf>, helper: Option<PathBuf>, deadline: Duration) -> Plugins {
        Plugins { search, helper, deadline, versions: Mutex::default() }
    }

    /// Whether it was said where plugins are.
    #[must_use]
    pub fn are_configured(&self) -> bool {
        !self.search.is_empty()
    }

    fn path(&self) -> String {
        let all: Vec<String> = self.search.iter().map(|dir| dir.display().to_string()).collect();
        all.join(":")
    }

    /// The plugin that a configuration calls `kind`.
    ///
    /// # Errors
    /// There is no such program; says where it was looked for.
    pub fn find(&self, kind: &str) -> Result<Plugin, String> {
        if kind == LOOPBACK {
            return Ok(Plugin::Loopback);
        }
        if kind == BRIDGE {
            return Ok(Plugin::Bridge);
        }
        let runs = |path: &PathBuf| {
            path.metadata().is_ok_and(|found| found.is_file() && found.mode() & 0o111 != 0)
        };
        if let Some(path) = self.search.iter().map(|dir| dir.join(kind)).find(runs) {
            return Ok(Plugin::External(Program { path, name: None }));
        }
        if let Some(helper) =
            self.helper.clone().filter(|_| IN_HELPER.iter().any(|(name, _)| *name == kind))
        {
            return Ok(Plugin::External(Program { path: helper, name: Some(kind.to_owned()) }));
        }
        Err(format!("failed to find the CNI plugin '{kind}' in '{}'", self.path()))
    }

    /// The versions that a plugin speaks. Asked once of each program.
    ///
    /// # Errors
    /// It does not say.
    pub async fn versions(&self, plugin: &Plugin) -> Result<Vec<Version>, String> {
        let Plugin::External(program) = plugin else { return Ok(SPOKEN.to_vec()) };
        let metadata = program.path.metadata();
        let metadata =
            metadata.map_err(|e| format!("failed to look at {}: {e}", program.path.display()))?;
        let name = PathBuf::from(program.name.as_deref().unwrap_or_default());
        let key =
            (program.path.join(name), metadata.ino(), metadata.mtime_nsec() ^ metadata.mtime());
        let known = || self.versions.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(versions) = known().get(&key) {
            return Ok(versions.clone());
        }
        let input = json!({ "cniVersion": SPOKEN[SPOKEN.len() - 1].to_string() }).to_string();
        let call = Call {
            program,
            command: "VERSION",
            environment: &[],
            input: input.as_bytes(),
            deadline: self.deadline,
            log: None,
        };
        let versions = match call.run().await {
            Ok(answer) => outcome::versions(&answer)
                .map_err(|why| format!("the CNI plugin '{}': {why}", program.path.display()))?,
            // It is older than the command.
            Err(error) if error.says("unknown CNI_COMMAND") => SPOKEN[..1].to_vec(),
            Err(error) => return Err(chain(&error)),
        };
        known().insert(key, versions.clone());
        Ok(versions)
    }

    /// Calls a plugin for one attachment; what it printed.
    ///
    /// # Errors
    /// It failed; for people.
    pub async fn call(
        &self,
        plugin: &Plugin,
        command: &'static str,
        place: Place<'_>,
        conf: &Value,
    ) -> Result<Vec<u8>, String> {
        let program = match plugin {
            Plugin::External(program) => program,
            Plugin::Loopback => return Ok(loopback(command, place, conf)),
            Plugin::Bridge => return bridged(command, place, conf.clone()).await,
        };
        let mut environment = vec![
            ("CNI_CONTAINERID", place.container.to_owned()),
            ("CNI_IFNAME", place.interface.to_owned()),
            ("CNI_PATH", self.path()),
        ];
        environment.extend(place.netns.map(|path| ("CNI_NETNS", path.display().to_string())));
        let input = conf.to_string();
        let call = Call {
            program,
            command,
            environment: &environment,
            input: input.as_bytes(),
            deadline: self.deadline,
            log: Some(place.log),
        };
        call.run().await.map_err(|error| chain(&error))
    }

    /// Calls a plugin for a whole network: GC or STATUS.
    ///
    /// # Errors
    /// It failed; for people.
    pub async fn call_for_all(
        &self,
        plugin: &Plugin,
        command: &'static str,
        conf: &Value,
    ) -> Result<(), String> {
        let program = match plugin {
            Plugin::External(program) => program,
            Plugin::Loopback => return Ok(()),
            Plugin::Bridge => {
                let nowhere =
                    Place { container: "", interface: "", netns: None, log: Path::new("") };
                return bridged(command, nowhere, conf.clone()).await.map(drop);
            }
        };
        let input = conf.to_string();
        let call = Call {
            program,
            command,
            environment: &[("CNI_PATH", self.path())],
            input: input.as_bytes(),
            deadline: self.deadline,
            log: None,
        };
        call.run().await.map(drop).map_err(|error| chain(&error))
    }
}

/// Off the runtime's threads: the kernel takes its time.
async fn bridged(command: &str, place: Place<'_>, conf: Value) -> Result<Vec<u8>, String> {
    let call = bridge::Call {
        command: command.to_owned(),
        container: place.container.to_owned(),
        interface: place.interface.to_owned(),
        netns: place.netns.map(Path::to_owned),
    };
    let failed = |text| format!("{BRIDGE} failed {command}: {text}");
    // Held until it is through, also if nobody waits for it any more.
    let log = match place.interface {
        "" => None,
        _ => Some(open_log(place.log).map_err(|error| failed(error.to_string()))?),
    };
    let served = tokio::task::spawn_blocking(move || {
        let served = bridge::serve(&call, &conf);
        drop(log);
        served
    });
    let served = served.await;
    let answer = served.map_err(|_| failed("it was cut short".to_owned()))?.map_err(failed)?;
    Ok(answer.map(|answer| answer.to_string().into_bytes()).unwrap_or_default())
}

/// Everything is done when the namespace is made.
fn loopback(command: &str, place: Place<'_>, conf: &Value) -> Vec<u8> {
    if command != "ADD" {
        return Vec::new();
    }
    let sandbox = place.netns.map(|path| path.display().to_string()).unwrap_or_default();
    let result = json!({
        "cniVersion": conf["cniVersion"],
        "interfaces": [{ "name": "lo", "mac": "00:00:00:00:00:00", "sandbox": sandbox }],
        "ips": [{ "address": "127.0.0.1/8", "interface": 0 }],
    });
    result.to_string().into_bytes()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn the_first_directory_that_has_it_counts() {
        let dir = std::env::temp_dir().join(format!("cni-search-{}", std::process::id()));
        let dirs = ["a", "b", "c"].map(|name| dir.join(name));
        let file = |dir: &Path, name: &str, mode| {
            std::fs::create_dir_all(dir).unwrap();
            std::fs::write(dir.join(name), "").unwrap();
            let mode = std::fs::Permissions::from_mode(mode);
            std::fs::set_permissions(dir.join(name), mode).unwrap();
        };
        // One that cannot be run is none.
        file(&dirs[0], "x", 0o644);
        file(&dirs[1], "x", 0o755);
        file(&dirs[2], "x", 0o755);
        file(&dirs[2], "y", 0o755);
        let plugins = Plugins::new(dirs.to_vec(), None, Duration::from_secs(60));
        let found = |name: &str| match plugins.find(name) {
            Ok(Plugin::External(program)) => Ok(program.path),
            Ok(other) => panic!("{other:?}"),
            Err(error) => Err(error),
        };
        assert_eq!(found("x"), Ok(dirs[1].join("x")));
        assert_eq!(found("y"), Ok(dirs[2].join("y")));
        let all = dirs.map(|dir| dir.display().to_string()).join(":");
        assert_eq!(found("z"), Err(format!("failed to find the CNI plugin 'z' in '{all}'")));
        std::fs::remove_dir_all(&dir).unwrap();
    }

    #[tokio::test]
    async fn a_plugin_that_knows_no_versions_speaks_the_first() {
        let dir = std::env::temp_dir().join(format!("cni-versions-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let plugin = |name: &str, answer: &str| {
            let text = format!("#!/bin/sh\n{answer}\n");
            std::fs::write(dir.join("text"), text).unwrap();
            // Written by a child: nobody here may have it open for writing when it is run.
            let mut copy = std::process::Command::new("cp");
            let copied = copy.arg(dir.join("text")).arg(dir.join(name)).status();
            assert!(copied.unwrap().success());
            let mode = std::fs::Permissions::from_mode(0o755);
            std::fs::set_permissions(dir.join(name), mode).unwrap();
        };
        plugin("old", r#"echo '{"code":4,"msg":"unknown CNI_COMMAND: VERSION"}'; exit 1"#);
        plugin("new", r#"echo '{"supportedVersions":["1.0.0","1.1.0"]}'"#);
        plugin("broken", "echo no >&2; exit 1");
        let plugins = Plugins::new(vec![dir.clone()], None, Duration::from_secs(60));
        let asked = async |name: &str| plugins.versions(&plugins.find(name).unwrap()).await;
        assert_eq!(asked("old").await, Ok(SPOKEN[..1].to_vec()));
        assert_eq!(asked("new").await, Ok(SPOKEN[5..].to_vec()));
        let error = asked("broken").await.unwrap_err();
        assert!(error.contains("failed VERSION"), "{error}");
        std::fs::remove_dir_all(&dir).unwrap();
    }
}
