//! The plugins' files: `--isolator_plugins=DIR`, one JSON object per file.
//!
//! Read once at start. What is wrong is named with its file; nothing is guessed.

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;
use serde_json::Value as Json;
use thiserror::Error;

/// Longest time for one call unless the file says otherwise.
pub const DEADLINE: Duration = Duration::from_secs(5);

/// What happens to a launch whose plugin gives no usable answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Policy {
    /// It fails.
    #[default]
    Fail,
    /// It goes on without the plugin.
    Ignore,
}

/// One plugin's file.
#[derive(Debug, Clone, PartialEq)]
pub struct Manifest {
    /// As in `--isolation`.
    pub name: String,
    /// Where it listens, or shall listen.
    pub socket: PathBuf,
    /// The program to start and its arguments; empty: somebody else starts it.
    pub command: Vec<String>,
    /// Longest time for one call.
    pub deadline: Duration,
    /// What becomes of a launch without it.
    pub policy: Policy,
    /// Calls are sent as protobuf.
    pub protobuf: bool,
    /// Handed to the plugin as it is.
    pub config: Json,
}

/// A file that cannot be used.
#[derive(Debug, Error)]
pub enum ManifestError {
    /// It, or the directory, cannot be read.
    #[error("failed to read '{}'", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The system's words.
        source: std::io::Error,
    },
    /// It is not what a plugin's file looks like.
    #[error("invalid plugin file '{}': {message}", path.display())]
    Invalid {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        message: String,
    },
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    name: String,
    socket: Option<PathBuf>,
    #[serde(default)]
    command: Vec<String>,
    deadline_ms: Option<u64>,
    #[serde(default)]
    policy: Policy,
    #[serde(default)]
    protobuf: bool,
    #[serde(default)]
    config: Option<Json>,
}

impl Manifest {
    /// Reads one file's text. A plugin that the agent starts and that names no
    /// socket gets one in `sockets`.
    ///
    /// # Errors
    /// What is wrong, for people.
    pub fn parse(text: &str, sockets: &Path) -> Result<Manifest, String> {
        let file: File = serde_json::from_str(text).map_err(|error| error.to_string())?;
        check_name(&file.name)?;
        let socket = match (file.socket, file.command.is_empty()) {
            (Some(socket), _) if !socket.is_absolute() => {
                return Err(format!("'socket' is not an absolute path: '{}'", socket.display()));
            }
            (Some(socket), _) => socket,
            (None, true) => return Err("it names neither a 'socket' nor a 'command'".into()),
            (None, false) => sockets.join(format!("{}.sock", file.name.replace('/', "_"))),
        };
        if file.command.first().is_some_and(|program| !program.starts_with('/')) {
            return Err("the program of 'command' is not an absolute path".into());
        }
        let deadline = file.deadline_ms.map_or(DEADLINE, Duration::from_millis);
        if deadline.is_zero() || deadline > Duration::from_secs(600) {
            return Err("'deadline_ms' is not within 1 and 600000".into());
        }
        Ok(Manifest {
            name: file.name,
            socket,
            command: file.command,
            deadline,
            policy: file.policy,
            protobuf: file.protobuf,
            config: file.config.unwrap_or_else(|| Json::Object(serde_json::Map::new())),
        })
    }
}

/// A name may stand in `--isolation` and be told from the built-in ones.
fn check_name(name: &str) -> Result<(), String> {
    let fits = |c: char| c.is_ascii_alphanumeric() || "/_-.".contains(c);
    if name.is_empty() || name.len() > 64 || !name.chars().all(fits) {
        return Err(format!("'{name}' cannot be a name: letters, digits and '/_-.' only"));
    }
    match isolators::registry::TABLE.iter().any(|(built_in, _)| *built_in == name) {
        true => Err(format!("'{name}' is the name of a built-in isolator")),
        false => Ok(()),
    }
}

/// Reads every `*.json` of a directory, in the order of their names.
///
/// # Errors
/// The first file that cannot be used; two plugins of one name or one socket.
pub fn load(directory: &Path, sockets: &Path) -> Result<Vec<Manifest>, ManifestError> {
    let read = |path: &Path| {
        let path = path.to_owned();
        move |source| ManifestError::Read { path, source }
    };
    let mut paths = Vec::new();
    for entry in std::fs::read_dir(directory).map_err(read(directory))? {
        let path = entry.map_err(read(directory))?.path();
        if path.extension().is_some_and(|extension| extension == "json") {
            paths.push(path);
        }
    }
    paths.sort();
    let mut all: Vec<Manifest> = Vec::new();
    for path in paths {
        let text = std::fs::read_to_string(&path).map_err(read(&path))?;
        let invalid = |message| ManifestError::Invalid { path: path.clone(), message };
        let manifest = Manifest::parse(&text, sockets).map_err(invalid)?;
        for other in &all {
            if other.name == manifest.name {
                return Err(invalid(format!("plugin '{}' has another file", other.name)));
            }
            if other.socket == manifest.socket {
                return Err(invalid(format!("plugin '{}' has the same socket", other.name)));
            }
        }
        all.push(manifest);
    }
    Ok(all)
}

/// Why a value of `--modules` is refused; `None` if it loads no library. Says
/// what takes the place of each module that has a successor here.
#[must_use]
pub fn refused_modules(modules: &Json) -> Option<String> {
    let libraries = modules.get("libraries").and_then(Json::as_array)?;
    let text = |value: &Json, key: &str| value.get(key).and_then(Json::as_str).map(str::to_owned);
    let library = libraries.iter().find_map(|l| text(l, "file").or_else(|| text(l, "name")))?;
    let named = libraries.iter().filter_map(|l| l.get("modules").and_then(Json::as_array));
    let named = named.flatten().filter_map(|module| text(module, "name")).map(|name| {
        let known = REPLACEMENTS.iter().find(|(module, _)| *module == name);
        let instead = known.map_or("a plugin of --isolator_plugins", |(_, instead)| instead);
        format!("; instead of '{name}' use {instead}")
    });
    let named: String = named.collect();
    Some(format!(
        "--modules names the library '{library}', and shared libraries are not loaded: isolators \
         and hooks are programs on a unix socket, see --isolator_plugins and docs/plugins.md{named}"
    ))
}

/// Modules that come with Mesos, and what does their work here.
const REPLACEMENTS: [(&str, &str); 5] = [
    ("org_apache_mesos_TestCpuIsolator", "--isolation=posix/cpu"),
    ("org_apache_mesos_TestMemIsolator", "--isolation=posix/mem"),
    ("org_apache_mesos_TestHook", "--hooks with a plugin of --isolator_plugins"),
    ("com_mesosphere_mesos_MetricsModule", "the endpoint /metrics"),
    ("com_mesosphere_mesos_PrometheusMetricsModule", "the endpoint /metrics"),
];

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Manifest, String> {
        Manifest::parse(text, Path::new("/run/plugins"))
    }

    #[test]
    fn files() {
        let least = parse(r#"{"name": "acme/gpu", "command": ["/opt/gpu", "-v"]}"#).unwrap();
        assert_eq!(least.socket, Path::new("/run/plugins/acme_gpu.sock"));
        assert_eq!((least.deadline, least.policy), (DEADLINE, Policy::Fail));
        let most = r#"{"name": "a", "socket": "/s", "deadline_ms": 20, "policy": "ignore",
                       "protobuf": true, "config": {"x": 1}}"#;
        let most = parse(most).unwrap();
        assert_eq!((most.deadline.as_millis(), most.policy), (20, Policy::Ignore));
        assert_eq!(most.config["x"], 1);
    }

    #[test]
    fn bad_files_are_named() {
        let rows = [
            ("{", "EOF"),
            (r#"{"name": "a"}"#, "neither a 'socket' nor a 'command'"),
            (r#"{"name": "a", "socket": "s"}"#, "not an absolute path"),
            (r#"{"name": "a", "command": ["s"]}"#, "not an absolute path"),
            (r#"{"name": "a b", "socket": "/s"}"#, "cannot be a name"),
            (r#"{"name": "cgroups/cpu", "socket": "/s"}"#, "built-in isolator"),
            (r#"{"name": "a", "socket": "/s", "policy": "maybe"}"#, "unknown variant"),
            (r#"{"name": "a", "socket": "/s", "deadline": 1}"#, "unknown field `deadline`"),
            (r#"{"name": "a", "socket": "/s", "deadline_ms": 0}"#, "within 1 and 600000"),
        ];
        for (text, wanted) in rows {
            let message = parse(text).unwrap_err();
            assert!(message.contains(wanted), "{text}: {message}");
        }
    }

    #[test]
    fn directories() {
        let dir = std::env::temp_dir().join(format!("manifests-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let write = |name: &str, text: &str| std::fs::write(dir.join(name), text).unwrap();
        write("b.json", r#"{"name": "b", "socket": "/b"}"#);
        write("a.json", r#"{"name": "a", "socket": "/a"}"#);
        write("README", "no plugin");
        let names = |all: Vec<Manifest>| all.into_iter().map(|m| m.name).collect::<Vec<_>>();
        assert_eq!(names(load(&dir, Path::new("/run")).unwrap()), ["a", "b"]);
        write("c.json", r#"{"name": "a", "socket": "/c"}"#);
        let error = load(&dir, Path::new("/run")).unwrap_err().to_string();
        assert!(error.contains("c.json") && error.contains("another file"), "{error}");
        std::fs::remove_dir_all(&dir).unwrap();
        assert!(matches!(load(&dir, Path::new("/run")), Err(ManifestError::Read { .. })));
    }

    #[test]
    fn libraries_are_refused_with_what_to_use() {
        let modules = serde_json::json!({"libraries": [{"file": "/lib/libx.so", "modules": [
            {"name": "org_apache_mesos_TestHook"}, {"name": "com_acme_Isolator"}]}]});
        let text = refused_modules(&modules).unwrap();
        assert!(text.contains("'/lib/libx.so'") && text.contains("use --hooks"), "{text}");
        assert!(text.contains("instead of 'com_acme_Isolator' use a plugin"), "{text}");
        assert_eq!(refused_modules(&serde_json::json!({"libraries": []})), None);
        assert_eq!(refused_modules(&serde_json::json!({})), None);
    }
}
