//! What images are called: `[registry[:port]/]repository[:tag][@digest]`, and digests.
//! Pure.
//!
//! The grammar is that of Docker and of the OCI distribution specification. A name
//! without a registry means the agent's (`--docker_registry`).

use std::fmt;
use std::str::FromStr;

use thiserror::Error;

/// The tag of a name that has neither tag nor digest.
pub const LATEST: &str = "latest";
/// Where Docker's own images are, and what else people call it.
pub const HUB: &str = "registry-1.docker.io";
const HUB_NAMES: [&str; 3] = ["docker.io", "index.docker.io", HUB];
/// Longest repository and longest tag in bytes.
const LONGEST_REPOSITORY: usize = 255;
const LONGEST_TAG: usize = 128;

/// Why a text is no name of an image.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("'{text}' is no name of an image: {why}")]
pub struct ReferenceError {
    /// As given.
    pub text: String,
    /// What is wrong, and what was expected.
    pub why: String,
}

/// The SHA-256 of some bytes; in text `sha256:` and 64 digits.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Digest([u8; 32]);

/// Why a text is no digest.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("'{text}' is no digest; expected 'sha256:' and 64 hexadecimal digits")]
pub struct DigestError {
    /// As given, cut if it is long.
    pub text: String,
}

impl Digest {
    /// From the hash itself.
    #[must_use]
    pub const fn new(hash: [u8; 32]) -> Digest {
        Digest(hash)
    }

    /// Of `bytes`.
    #[must_use]
    pub fn of(bytes: &[u8]) -> Digest {
        use sha2::Digest as _;
        Digest(sha2::Sha256::digest(bytes).into())
    }

    /// 64 digits, as in names of files.
    #[must_use]
    pub fn hex(&self) -> String {
        use fmt::Write as _;
        self.0.iter().fold(String::with_capacity(64), |mut text, byte| {
            let _ = write!(text, "{byte:02x}");
            text
        })
    }

    /// From 64 digits in lower case.
    #[must_use]
    pub fn from_hex(text: &str) -> Option<Digest> {
        let digits = text.as_bytes();
        if digits.len() != 64 {
            return None;
        }
        let value = |digit: u8| match digit {
            b'0'..=b'9' => Some(digit - b'0'),
            b'a'..=b'f' => Some(digit - b'a' + 10),
            _ => None,
        };
        let mut hash = [0; 32];
        for (byte, pair) in hash.iter_mut().zip(digits.chunks(2)) {
            *byte = value(pair[0])? << 4 | value(pair[1])?;
        }
        Some(Digest(hash))
    }
}

impl FromStr for Digest {
    type Err = DigestError;

    fn from_str(text: &str) -> Result<Digest, DigestError> {
        let hex = text.strip_prefix("sha256:");
        hex.and_then(Digest::from_hex)
            .ok_or_else(|| DigestError { text: text.chars().take(100).collect() })
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "sha256:{}", self.hex())
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl serde::Serialize for Digest {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> serde::Deserialize<'de> for Digest {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Digest, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// A name of an image, as its user wrote it.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Reference {
    /// `host` or `host:port`; `None`: the agent's.
    pub registry: Option<String>,
    /// As written, without `library/`.
    pub repository: String,
    /// [`LATEST`] if neither tag nor digest was given.
    pub tag: Option<String>,
    /// Counts, where tag and digest are given.
    pub digest: Option<Digest>,
}

impl Reference {
    /// Reads a name.
    ///
    /// # Errors
    /// [`ReferenceError`]
    pub fn parse(text: &str) -> Result<Reference, ReferenceError> {
        let bad = |why: String| ReferenceError { text: text.chars().take(300).collect(), why };
        if text.is_empty() {
            return Err(bad("it is empty".into()));
        }
        let (rest, digest) = match text.split_once('@') {
            None => (text, None),
            Some((rest, digest)) => {
                (rest, Some(digest.parse().map_err(|e: DigestError| bad(e.to_string()))?))
            }
        };
        let (registry, rest) = match rest.split_once('/') {
            Some((first, rest)) if is_registry(first) => (Some(first), rest),
            _ => (None, rest),
        };
        let (repository, tag) = match rest.split_once(':') {
            None => (rest, None),
            Some((repository, tag)) => (repository, Some(tag)),
        };
        if let Some(registry) = registry.filter(|registry| !is_host(registry)) {
            return Err(bad(format!("'{registry}' is no host and port of a registry")));
        }
        if repository.len() > LONGEST_REPOSITORY {
            return Err(bad(format!("it is longer than {LONGEST_REPOSITORY} bytes")));
        }
        if let Some(part) = repository.split('/').find(|part| !is_component(part)) {
            return Err(bad(format!(
                "'{part}' is no part of a repository; expected lower-case letters and digits, \
                 separated by '.', '_', '__' or '-'"
            )));
        }
        if let Some(tag) = tag.filter(|tag| !is_tag(tag)) {
            return Err(bad(format!(
                "'{tag}' is no tag; expected at most {LONGEST_TAG} letters, digits, '_', '.' and \
                 '-', not beginning with '.' or '-'"
            )));
        }
        let latest = if digest.is_none() { Some(LATEST.to_owned()) } else { None };
        Ok(Reference {
            registry: registry.map(str::to_owned),
            repository: repository.to_owned(),
            tag: tag.map(str::to_owned).or(latest),
            digest,
        })
    }

    /// Host and port to ask, where `default` is the agent's.
    #[must_use]
    pub fn host<'a>(&'a self, default: &'a str) -> &'a str {
        let host = self.registry.as_deref().unwrap_or(default);
        if is_hub(host) { HUB } else { host }
    }

    /// The repository as its registry knows it: Docker's own are below `library`.
    #[must_use]
    pub fn path(&self, default: &str) -> String {
        let official = self.host(default) == HUB && !self.repository.contains('/');
        if official { format!("library/{}", self.repository) } else { self.repository.clone() }
    }

    /// The one spelling of all names that mean the same, where `default` is the agent's
    /// registry.
    #[must_use]
    pub fn canonical(&self, default: &str) -> Reference {
        Reference {
            registry: Some(self.host(default).to_owned()),
            repository: self.path(default),
            ..self.clone()
        }
    }

    /// What a manifest is asked for by.
    #[must_use]
    pub fn version(&self) -> String {
        match (&self.digest, &self.tag) {
            (Some(digest), _) => digest.to_string(),
            (None, Some(tag)) => tag.clone(),
            (None, None) => LATEST.to_owned(),
        }
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(registry) = &self.registry {
            write!(f, "{registry}/")?;
        }
        f.write_str(&self.repository)?;
        if let Some(tag) = &self.tag {
            write!(f, ":{tag}")?;
        }
        if let Some(digest) = &self.digest {
            write!(f, "@{digest}")?;
        }
        Ok(())
    }
}

impl serde::Serialize for Reference {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> serde::Deserialize<'de> for Reference {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Reference, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

impl FromStr for Reference {
    type Err = ReferenceError;

    fn from_str(text: &str) -> Result<Reference, ReferenceError> {
        Reference::parse(text)
    }
}

/// Whether this names Docker's own registry.
#[must_use]
pub fn is_hub(host: &str) -> bool {
    HUB_NAMES.contains(&host)
}

/// Docker's rule for what comes before the first slash.
fn is_registry(first: &str) -> bool {
    first == "localhost"
        || first.contains(['.', ':'])
        || first.bytes().any(|byte| byte.is_ascii_uppercase())
}

/// `name`, `name:port`, `address:port` or `[address]:port`.
fn is_host(text: &str) -> bool {
    let (host, port) = match text.strip_prefix('[') {
        Some(rest) => match rest.split_once(']') {
            Some((host, "")) => (host, None),
            Some((host, port)) => match port.strip_prefix(':') {
                Some(port) => (host, Some(port)),
                None => return false,
            },
            None => return false,
        },
        None => match text.split_once(':') {
            None => (text, None),
            Some((host, port)) => (host, Some(port)),
        },
    };
    let named = if text.starts_with('[') {
        host.parse::<std::net::Ipv6Addr>().is_ok()
    } else {
        let label = |label: &str| {
            let fine = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-';
            !label.is_empty()
                && label.bytes().all(fine)
                && !label.starts_with('-')
                && !label.ends_with('-')
        };
        host.len() <= 253 && host.split('.').all(label)
    };
    named && port.is_none_or(|port| port.parse::<u16>().is_ok_and(|port| port > 0))
}

fn is_component(part: &str) -> bool {
    let word = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let bytes = part.as_bytes();
    let (Some(first), Some(last)) = (bytes.first(), bytes.last()) else { return false };
    if !word(*first) || !word(*last) {
        return false;
    }
    bytes.split(|byte| word(*byte)).all(|between| {
        matches!(between, b"" | b"." | b"_" | b"__") || between.iter().all(|byte| *byte == b'-')
    })
}

fn is_tag(tag: &str) -> bool {
    let word = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    tag.len() <= LONGEST_TAG
        && tag.bytes().next().is_some_and(word)
        && tag.bytes().all(|byte| word(byte) || byte == b'.' || byte == b'-')
}

#[cfg(test)]
mod tests {
    use super::*;

    const HASH: &str = "sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

    #[test]
    fn names() {
        let rows: [(&str, Option<&str>, &str, Option<&str>); 13] = [
            ("busybox", None, "busybox", Some("latest")),
            ("busybox:1.36", None, "busybox", Some("1.36")),
            ("nginxinc/nginx", None, "nginxinc/nginx", Some("latest")),
            ("localhost/a", Some("localhost"), "a", Some("latest")),
            ("localhost:5000/a/b:x", Some("localhost:5000"), "a/b", Some("x")),
            ("127.0.0.1:5000/a", Some("127.0.0.1:5000"), "a", Some("latest")),
            ("[::1]:5000/a", Some("[::1]:5000"), "a", Some("latest")),
            ("registry.example.com/a:T_1.2-3", Some("registry.example.com"), "a", Some("T_1.2-3")),
            ("REGISTRY/a", Some("REGISTRY"), "a", Some("latest")),
            ("a.b", None, "a.b", Some("latest")),
            ("a__b/c---d", None, "a__b/c---d", Some("latest")),
            ("docker.io/library/busybox", Some("docker.io"), "library/busybox", Some("latest")),
            ("localhost", None, "localhost", Some("latest")),
        ];
        for (text, registry, repository, tag) in rows {
            let name = Reference::parse(text).expect(text);
            assert_eq!(
                (name.registry.as_deref(), name.repository.as_str(), name.tag.as_deref()),
                (registry, repository, tag),
                "{text}"
            );
            assert_eq!(Reference::parse(&name.to_string()), Ok(name), "{text}");
        }
        let pinned = Reference::parse(&format!("h:1/a:b@{HASH}")).expect("pinned");
        assert_eq!(pinned.version(), HASH);
        assert_eq!(pinned.to_string(), format!("h:1/a:b@{HASH}"));
        assert_eq!(Reference::parse(&format!("a@{HASH}")).expect("pinned").tag, None);
    }

    #[test]
    fn what_is_no_name_is_refused_by_name() {
        let long = "a".repeat(256);
        let tag = format!("a:{}", "t".repeat(129));
        let short = format!("a@{}", &HASH[..70]);
        let upper = format!("a@{}", HASH.to_uppercase());
        for text in [
            "",
            "/",
            "a/",
            "/a",
            "a//b",
            "A",
            "a:",
            ":a",
            "a:.b",
            "a:-b",
            "a b",
            "a_",
            "-a",
            "a..b",
            "a___b",
            "a._b",
            "../a",
            "a/../b",
            "h:0/a",
            "h:x/a",
            "h:99999/a",
            "-h.x/a",
            "[::1/a",
            "[x]:1/a",
            "a@",
            "a@md5:12",
            "a\n",
            "h:1/",
            "é",
            "a:b:c",
            "h.x:1/a:b/c",
            "a.:5/b",
            &long,
            &tag,
            &short,
            &upper,
        ] {
            let error = Reference::parse(text).expect_err(text);
            assert!(error.to_string().starts_with("'") && !error.why.is_empty(), "{text}: {error}");
        }
        let error = Reference::parse("Busy").expect_err("upper case").to_string();
        assert!(error.contains("'Busy' is no part of a repository"), "{error}");
    }

    #[test]
    fn names_that_mean_the_same_have_one_spelling() {
        let canonical = |text: &str, default: &str| {
            Reference::parse(text).expect(text).canonical(default).to_string()
        };
        for text in ["a", "a:latest", "docker.io/a", "index.docker.io/library/a", "library/a"] {
            assert_eq!(canonical(text, HUB), "registry-1.docker.io/library/a:latest", "{text}");
        }
        assert_eq!(canonical("a", "docker.io"), "registry-1.docker.io/library/a:latest");
        assert_eq!(canonical("a", "h:5000"), "h:5000/a:latest");
        assert_eq!(canonical("docker.io/a", "h:5000"), "registry-1.docker.io/library/a:latest");
        assert_eq!(canonical("u/a:b", HUB), "registry-1.docker.io/u/a:b");
    }

    #[test]
    fn digests() {
        let digest: Digest = HASH.parse().expect("a digest");
        assert_eq!(digest.to_string(), HASH);
        assert_eq!(
            Digest::of(b"").hex(),
            "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
        );
        let error = "sha512:00".parse::<Digest>().expect_err("another hash");
        assert!(error.to_string().contains("expected 'sha256:'"), "{error}");
    }
}
