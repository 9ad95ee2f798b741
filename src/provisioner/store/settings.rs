//! What the store is told when the agent starts, and what follows for whom to ask for an
//! image, and how. Pure.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use thiserror::Error;

use crate::provisioner::message::{Endpoint, Security, Source};
use crate::provisioner::reference::{HUB, Reference, is_hub};

/// A flag of the store that makes no sense.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("invalid value '{value}' for --{flag}: {expected}")]
pub struct SettingsError {
    /// Without dashes.
    pub flag: &'static str,
    /// As given.
    pub value: String,
    /// What would do.
    pub expected: &'static str,
}

/// What the store is told when the agent starts.
#[derive(Clone)]
pub struct Settings {
    /// `--docker_store_dir`
    pub dir: PathBuf,
    /// `--docker_registry`
    pub registry: Location,
    /// `--docker_config`: credentials in the form of Docker's `config.json`.
    pub credentials: Option<serde_json::Value>,
    /// The program `bulkhead-helper`.
    pub helper: PathBuf,
    /// `--docker_insecure_registries`: hosts that are spoken to without TLS, or whose
    /// certificates are not checked.
    pub insecure: Vec<String>,
    /// `--docker_registry_mirrors`: host of a registry -> URLs asked before it.
    pub mirrors: BTreeMap<String, Vec<String>>,
    /// `--docker_certs_dir`: a directory for each host with `*.crt`, `*.cert`, `*.key`.
    pub certificates: PathBuf,
    /// `--docker_image_size_limit`: largest image, unpacked, in bytes.
    pub size_limit: u64,
    /// `--fetcher_stall_timeout`: longest time without a byte; zero: for ever.
    pub stall: Duration,
}

impl std::fmt::Debug for Settings {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // Without the credentials.
        f.debug_struct("Settings")
            .field("dir", &self.dir)
            .field("registry", &self.registry)
            .finish_non_exhaustive()
    }
}

/// Where images come from that do not say it themselves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Location {
    /// A directory of archives; all images come from there.
    Directory(PathBuf),
    /// A registry.
    Registry {
        /// `host` or `host:port`.
        host: String,
        /// Its URL is `http://...`.
        plain: bool,
    },
}

impl Location {
    /// Reads `--docker_registry`: a URL, a host, or a path.
    ///
    /// # Errors
    /// [`SettingsError`]
    pub fn parse(text: &str) -> Result<Location, SettingsError> {
        let bad =
            |expected| SettingsError { flag: "docker_registry", value: text.to_owned(), expected };
        let path = text.strip_prefix("file://").unwrap_or(text);
        if path.starts_with('/') {
            return Ok(Location::Directory(path.into()));
        }
        if text.starts_with("hdfs://") {
            return Err(bad("an http(s) URL or an absolute path; hdfs is not supported"));
        }
        let (host, plain) = url(text).ok_or_else(|| bad("an http(s) URL or an absolute path"))?;
        let host = if is_hub(&host) { HUB.to_owned() } else { host };
        Ok(Location::Registry { host, plain })
    }
}

/// Host and port of a URL of a registry, or of a host alone, and whether it is `http`.
fn url(text: &str) -> Option<(String, bool)> {
    let (rest, plain) = match text.split_once("://") {
        Some(("https", rest)) => (rest, false),
        Some(("http", rest)) => (rest, true),
        Some(_) => return None,
        None => (text, false),
    };
    let host = rest.trim_end_matches('/').trim_end_matches("/v2").trim_end_matches("/v1");
    // The grammar of names knows what a host is.
    let probe = Reference::parse(&format!("{host}/x")).ok()?;
    let named = probe.registry.is_some() || !host.contains('/');
    (named && !host.is_empty()).then(|| (host.to_owned(), plain))
}

/// Reads `--docker_registry_mirrors`: `{"docker.io": ["https://mirror.example"]}`.
///
/// # Errors
/// [`SettingsError`]
pub fn mirrors(value: &serde_json::Value) -> Result<BTreeMap<String, Vec<String>>, SettingsError> {
    let bad = |value: &serde_json::Value| SettingsError {
        flag: "docker_registry_mirrors",
        value: value.to_string(),
        expected: "an object of lists of URLs by host, as {\"docker.io\": [\"https://mirror\"]}",
    };
    let mut mirrors = BTreeMap::new();
    for (host, urls) in value.as_object().ok_or_else(|| bad(value))? {
        let mut list = Vec::new();
        for one in urls.as_array().ok_or_else(|| bad(value))? {
            let text = one.as_str().filter(|text| url(text).is_some()).ok_or_else(|| bad(one))?;
            list.push(text.to_owned());
        }
        let host = if is_hub(host) { HUB } else { host };
        mirrors.insert(host.to_owned(), list);
    }
    Ok(mirrors)
}

/// Reads `--docker_insecure_registries`: hosts, with commas.
///
/// # Errors
/// [`SettingsError`]
pub fn insecure(text: &str) -> Result<Vec<String>, SettingsError> {
    let one = |host: &str| match url(host) {
        Some((name, false)) if !host.contains('/') => Ok(name),
        _ => Err(SettingsError {
            flag: "docker_insecure_registries",
            value: host.to_owned(),
            expected: "hosts or host:port, separated by commas",
        }),
    };
    text.split(',').map(str::trim).filter(|host| !host.is_empty()).map(one).collect()
}

impl Settings {
    /// The one spelling of a name.
    pub(super) fn canonical(&self, reference: &Reference) -> Reference {
        match &self.registry {
            Location::Directory(_) => reference.clone(),
            Location::Registry { host, .. } => reference.canonical(host),
        }
    }

    /// Where an image, in its one spelling, comes from.
    pub(super) fn source(&self, reference: &Reference) -> Source {
        let (own, plain) = match &self.registry {
            Location::Directory(dir) => return Source::Directory(dir.clone()),
            Location::Registry { host, plain } => (host, *plain),
        };
        let host = reference.host(own);
        let mirrors = self.mirrors.get(host).into_iter().flatten();
        let mut endpoints: Vec<Endpoint> = mirrors
            .filter_map(|mirror| url(mirror))
            .map(|(host, plain)| {
                let security = if plain { Security::Plain } else { self.security(&host) };
                Endpoint { host, security }
            })
            .collect();
        let security = if plain && host == own { Security::Plain } else { self.security(host) };
        endpoints.push(Endpoint { host: host.to_owned(), security });
        Source::Registry { endpoints, certificates: self.certificates.clone() }
    }

    fn security(&self, host: &str) -> Security {
        let name = without_port(host);
        if self.insecure.iter().any(|one| one == host || one == name) {
            return Security::Insecure;
        }
        let address = name.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>();
        if name == "localhost" || address.is_ok_and(|address| address.is_loopback()) {
            return Security::TlsOrPlain;
        }
        Security::Tls
    }
}

fn without_port(host: &str) -> &str {
    match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => host,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn settings(registry: &str) -> Settings {
        Settings {
            dir: "/store".into(),
            registry: Location::parse(registry).expect(registry),
            credentials: None,
            helper: "/helper".into(),
            insecure: insecure("lab.example, 10.0.0.9:5000").expect("hosts"),
            mirrors: mirrors(
                &json!({ "docker.io": ["https://near.example", "http://127.0.0.1:7"] }),
            )
            .expect("mirrors"),
            certificates: "/certs".into(),
            size_limit: 1,
            stall: Duration::ZERO,
        }
    }

    #[test]
    fn whom_to_ask_and_how() {
        let asked = |registry: &str, image: &str| {
            let settings = settings(registry);
            let name = settings.canonical(&Reference::parse(image).expect(image));
            match settings.source(&name) {
                Source::Directory(dir) => vec![format!("{}", dir.display())],
                Source::Registry { endpoints, .. } => {
                    endpoints.iter().map(|e| format!("{} {:?}", e.host, e.security)).collect()
                }
            }
        };
        let hub = "https://registry-1.docker.io";
        let near = ["near.example Tls", "127.0.0.1:7 Plain", "registry-1.docker.io Tls"];
        assert_eq!(asked(hub, "busybox"), near);
        assert_eq!(asked("docker.io", "index.docker.io/u/x"), near);
        for (image, expected) in [
            ("localhost:5000/x", "localhost:5000 TlsOrPlain"),
            ("127.8.0.1/x", "127.8.0.1 TlsOrPlain"),
            ("[::1]:5/x", "[::1]:5 TlsOrPlain"),
            ("lab.example:444/x", "lab.example:444 Insecure"),
            ("10.0.0.9:5000/x", "10.0.0.9:5000 Insecure"),
            ("10.0.0.9:5001/x", "10.0.0.9:5001 Tls"),
            ("other.example/x", "other.example Tls"),
        ] {
            assert_eq!(asked(hub, image), [expected], "{image}");
        }
        assert_eq!(asked("http://r.example:80/v2/", "x"), ["r.example:80 Plain"]);
        assert_eq!(asked("http://r.example:80", "other.example/x"), ["other.example Tls"]);
        assert_eq!(asked("/images", "x"), ["/images"]);
        assert_eq!(asked("file:///images", "h.example/x"), ["/images"]);
    }

    #[test]
    fn what_makes_no_sense_is_named() {
        for wrong in
            ["", "ftp://x", "hdfs://x/y", "https://", "a b", "https://x/y/z", "relative/path"]
        {
            let error = Location::parse(wrong).expect_err(wrong).to_string();
            assert!(error.contains("--docker_registry: an http(s) URL or"), "{error}");
        }
        for wrong in
            [json!([]), json!({ "x": "y" }), json!({ "x": ["ftp://y"] }), json!({ "x": [1] })]
        {
            let error = mirrors(&wrong).expect_err("wrong").to_string();
            assert!(error.contains("--docker_registry_mirrors"), "{error}");
        }
        assert!(insecure("http://x").is_err() && insecure("a/b").is_err());
        assert!(insecure("").expect("none").is_empty());
    }
}
