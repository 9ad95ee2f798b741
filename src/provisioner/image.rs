//! What an image is: its configuration as OCI and Docker write it, and its layers.
//! Pure.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::Deserialize;
use thiserror::Error;

use super::reference::{Digest, Reference};

/// Most layers of an image; overlay takes 500, Docker makes 127.
pub const MOST_LAYERS: usize = 500;

/// Why a configuration cannot be used.
#[derive(Debug, Error)]
pub enum ConfigError {
    /// It is no JSON of the expected form.
    #[error("failed to read the configuration of the image")]
    Parse(#[source] serde_json::Error),
    /// Too many layers, or none that is known.
    #[error("the image {0}")]
    Layers(String),
}

/// How an image wants to be run.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ImageConfig {
    /// `user`, `uid`, `user:group`, ... ; empty: root.
    pub user: String,
    /// `NAME=value`, in order.
    pub env: Vec<String>,
    /// Comes before the command.
    pub entrypoint: Vec<String>,
    /// The command, or arguments of the entry point.
    pub cmd: Vec<String>,
    /// Empty: `/`.
    pub working_dir: String,
    /// Directories whose content is not the image's.
    pub volumes: Vec<String>,
    /// For people and programs.
    pub labels: BTreeMap<String, String>,
    /// A name or a number; empty: SIGTERM.
    pub stop_signal: String,
    /// `80/tcp`, ...
    pub exposed_ports: Vec<String>,
    /// `amd64`, ... ; empty in old images.
    pub architecture: String,
    /// `linux`; empty in old images.
    pub os: String,
}

/// A configuration and what only the store needs of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ParsedConfig {
    /// For whoever runs the image.
    pub config: ImageConfig,
    /// Digests of the layers, not compressed, bottom first.
    pub diff_ids: Vec<Digest>,
}

#[derive(Deserialize)]
struct Raw {
    config: Option<RawRun>,
    rootfs: Option<RawRootfs>,
    #[serde(default)]
    architecture: Option<String>,
    #[serde(default)]
    os: Option<String>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "PascalCase", default)]
struct RawRun {
    user: Option<String>,
    env: Option<Vec<String>>,
    entrypoint: Option<Words>,
    cmd: Option<Words>,
    working_dir: Option<String>,
    volumes: Option<BTreeMap<String, serde_json::Value>>,
    labels: Option<BTreeMap<String, String>>,
    stop_signal: Option<String>,
    exposed_ports: Option<BTreeMap<String, serde_json::Value>>,
}

/// Very old images have a text instead of a list.
#[derive(Deserialize)]
#[serde(untagged)]
enum Words {
    Many(Vec<String>),
    One(String),
}

impl Words {
    fn list(self) -> Vec<String> {
        match self {
            Words::Many(words) => words,
            Words::One(word) => vec![word],
        }
    }
}

#[derive(Deserialize)]
struct RawRootfs {
    #[serde(default)]
    diff_ids: Vec<Digest>,
}

impl ImageConfig {
    /// Reads a configuration (`application/vnd.oci.image.config.v1+json` or Docker's).
    ///
    /// # Errors
    /// [`ConfigError`]
    pub fn parse(bytes: &[u8]) -> Result<ParsedConfig, ConfigError> {
        let raw: Raw = serde_json::from_slice(bytes).map_err(ConfigError::Parse)?;
        let run = raw.config.unwrap_or_default();
        let diff_ids = raw.rootfs.map(|rootfs| rootfs.diff_ids).unwrap_or_default();
        if diff_ids.is_empty() {
            return Err(ConfigError::Layers("names no layers (rootfs.diff_ids)".into()));
        }
        if diff_ids.len() > MOST_LAYERS {
            let count = diff_ids.len();
            let text = format!("has {count} layers, more than the {MOST_LAYERS} supported");
            return Err(ConfigError::Layers(text));
        }
        let keys = |map: Option<BTreeMap<String, serde_json::Value>>| {
            map.unwrap_or_default().into_keys().collect()
        };
        let config = ImageConfig {
            user: run.user.unwrap_or_default(),
            env: run.env.unwrap_or_default(),
            entrypoint: run.entrypoint.map(Words::list).unwrap_or_default(),
            cmd: run.cmd.map(Words::list).unwrap_or_default(),
            working_dir: run.working_dir.unwrap_or_default(),
            volumes: keys(run.volumes),
            labels: run.labels.unwrap_or_default(),
            stop_signal: run.stop_signal.unwrap_or_default(),
            exposed_ports: keys(run.exposed_ports),
            architecture: raw.architecture.unwrap_or_default(),
            os: raw.os.unwrap_or_default(),
        };
        Ok(ParsedConfig { config, diff_ids })
    }
}

/// An image that is in the store, unpacked.
///
/// The layers are in the form that overlay reads: a removed file is a character device
/// 0/0, a directory that hides what is below has `trusted.overlay.opaque=y`. No layer
/// is there twice, and none below one that hides everything.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredImage {
    /// What it was asked for by, in its one spelling.
    pub reference: Reference,
    /// Of its configuration: who the image is (`docker images` shows it).
    pub id: Digest,
    /// Of its manifest, if it came from a registry or an OCI layout.
    pub manifest: Option<Digest>,
    /// How it wants to be run.
    pub config: ImageConfig,
    /// Directories, bottom first.
    pub layers: Vec<PathBuf>,
    /// Size of its layers in bytes, unpacked.
    pub bytes: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    const LAYER: &str = "sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

    #[test]
    fn configurations_of_docker_and_oci() {
        let text = format!(
            r#"{{"architecture":"amd64","os":"linux","created":"x","history":[{{"empty_layer":true}}],
            "config":{{"User":"1:2","Env":["A=b","P="],"Entrypoint":["/e"],"Cmd":["c","d"],
            "WorkingDir":"/w","Volumes":{{"/v":{{}},"/u":{{}}}},"Labels":{{"l":"m"}},
            "StopSignal":"SIGQUIT","ExposedPorts":{{"80/tcp":{{}}}},"Hostname":"","OnBuild":null}},
            "rootfs":{{"type":"layers","diff_ids":["{LAYER}"]}}}}"#
        );
        let parsed = ImageConfig::parse(text.as_bytes()).expect("a configuration");
        let expected = ImageConfig {
            user: "1:2".into(),
            env: vec!["A=b".into(), "P=".into()],
            entrypoint: vec!["/e".into()],
            cmd: vec!["c".into(), "d".into()],
            working_dir: "/w".into(),
            volumes: vec!["/u".into(), "/v".into()],
            labels: [("l".to_owned(), "m".to_owned())].into(),
            stop_signal: "SIGQUIT".into(),
            exposed_ports: vec!["80/tcp".into()],
            architecture: "amd64".into(),
            os: "linux".into(),
        };
        assert_eq!(parsed.config, expected);
        assert_eq!(parsed.diff_ids, [LAYER.parse().expect("a digest")]);
    }

    #[test]
    fn little_is_needed_and_nulls_are_nothing() {
        let text = format!(r#"{{"config":null,"rootfs":{{"diff_ids":["{LAYER}"]}}}}"#);
        assert_eq!(
            ImageConfig::parse(text.as_bytes()).expect("fine").config,
            ImageConfig::default()
        );
        let text = format!(
            r#"{{"config":{{"Env":null,"Cmd":"sh","Volumes":null}},"rootfs":{{"diff_ids":["{LAYER}"]}}}}"#
        );
        assert_eq!(ImageConfig::parse(text.as_bytes()).expect("fine").config.cmd, ["sh"]);
        for bad in ["", "[]", "{}", r#"{"rootfs":{"diff_ids":["x"]}}"#, r#"{"rootfs":{}}"#] {
            assert!(ImageConfig::parse(bad.as_bytes()).is_err(), "{bad}");
        }
        let many = format!(
            r#"{{"rootfs":{{"diff_ids":[{}"{LAYER}"]}}}}"#,
            format!("\"{LAYER}\",").repeat(500)
        );
        let error = ImageConfig::parse(many.as_bytes()).expect_err("many").to_string();
        assert_eq!(error, "the image has 501 layers, more than the 500 supported");
    }
}
