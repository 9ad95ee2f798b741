//! Manifests of the distribution specification: of Docker (version 2, schema 2) and of
//! OCI, for one image or for a choice of platforms. Pure.

use serde::Deserialize;
use thiserror::Error;

use crate::provisioner::image::MOST_LAYERS;
use crate::provisioner::reference::Digest;

/// What a registry is told that we understand, in the order of preference.
pub(super) const ACCEPT: &str = "application/vnd.oci.image.index.v1+json, \
     application/vnd.docker.distribution.manifest.list.v2+json, \
     application/vnd.oci.image.manifest.v1+json, \
     application/vnd.docker.distribution.manifest.v2+json";
/// Largest manifest and largest configuration in bytes; registries refuse larger ones.
pub(super) const LARGEST_MANIFEST: usize = 4 << 20;
pub(super) const LARGEST_CONFIG: usize = 8 << 20;

/// Why a manifest is of no use.
#[derive(Debug, Error)]
pub(super) enum ManifestError {
    #[error("it is no manifest")]
    Parse(#[source] serde_json::Error),
    #[error("manifests of schema version {0} are not supported (the registry is asked for 2)")]
    Schema(u64),
    #[error("it is neither a manifest of an image nor a list of them (media type '{0}')")]
    Neither(String),
    #[error("there is no image for {wanted}; there are: {found}")]
    Platform { wanted: String, found: String },
    #[error("it has {0} layers, more than the {MOST_LAYERS} supported")]
    Layers(usize),
    #[error("layer {digest} is kept elsewhere (media type '{media_type}'), which is not supported")]
    Foreign { digest: Digest, media_type: String },
    #[error("its configuration of {0} bytes is larger than {LARGEST_CONFIG}")]
    Config(u64),
}

/// Some content that a manifest names.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub(super) struct Descriptor {
    #[serde(rename = "mediaType", default)]
    pub media_type: String,
    pub digest: Digest,
    pub size: u64,
    #[serde(default)]
    platform: Option<RawPlatform>,
    #[serde(default)]
    pub annotations: Option<std::collections::BTreeMap<String, String>>,
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
struct RawPlatform {
    #[serde(default)]
    architecture: String,
    #[serde(default)]
    os: String,
    #[serde(default)]
    variant: Option<String>,
}

#[derive(Deserialize)]
struct Raw {
    #[serde(rename = "schemaVersion")]
    schema: u64,
    #[serde(rename = "mediaType", default)]
    media_type: Option<String>,
    config: Option<Descriptor>,
    layers: Option<Vec<Descriptor>>,
    manifests: Option<Vec<serde_json::Value>>,
}

/// What a machine runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Platform {
    pub architecture: &'static str,
    /// Variants that it runs, the best first; none at all is fine too.
    pub variants: &'static [&'static str],
}

impl Platform {
    /// This machine's.
    pub fn own() -> Platform {
        Platform::named(std::env::consts::ARCH)
    }

    /// By Rust's name of an architecture.
    fn named(architecture: &'static str) -> Platform {
        let (architecture, variants): (_, &[&str]) = match architecture {
            "x86_64" => ("amd64", &["v1"]),
            "aarch64" => ("arm64", &["v8"]),
            "arm" => ("arm", &["v7", "v6", "v5"]),
            "x86" => ("386", &[]),
            "powerpc64" => ("ppc64le", &[]),
            other => (other, &[]),
        };
        Platform { architecture, variants }
    }

    /// How well an image fits; the least is the best, `None`: not at all.
    fn rank(&self, of: &RawPlatform) -> Option<usize> {
        if of.os != "linux" || of.architecture != self.architecture {
            return None;
        }
        match of.variant.as_deref() {
            None | Some("") => Some(0),
            Some(variant) => self.variants.iter().position(|own| *own == variant).map(|n| n + 1),
        }
    }
}

/// An image's parts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Manifest {
    pub config: Descriptor,
    /// Bottom first.
    pub layers: Vec<Descriptor>,
}

/// What a manifest turned out to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Parsed {
    Image(Manifest),
    /// The one for this machine, of several.
    Choice(Descriptor),
}

/// Reads a manifest.
///
/// # Errors
/// [`ManifestError`]
pub(super) fn parse(bytes: &[u8], platform: &Platform) -> Result<Parsed, ManifestError> {
    let raw: Raw = serde_json::from_slice(bytes).map_err(ManifestError::Parse)?;
    if raw.schema != 2 {
        return Err(ManifestError::Schema(raw.schema));
    }
    match (raw.manifests, raw.config, raw.layers) {
        (Some(manifests), None, None) => choose(manifests, platform).map(Parsed::Choice),
        (None, Some(config), Some(layers)) => {
            if layers.len() > MOST_LAYERS {
                return Err(ManifestError::Layers(layers.len()));
            }
            if config.size > LARGEST_CONFIG as u64 {
                return Err(ManifestError::Config(config.size));
            }
            let away = |layer: &&Descriptor| {
                layer.media_type.contains("foreign")
                    || layer.media_type.contains("nondistributable")
            };
            if let Some(Descriptor { digest, media_type, .. }) = layers.iter().find(away) {
                let (digest, media_type) = (*digest, media_type.clone());
                return Err(ManifestError::Foreign { digest, media_type });
            }
            Ok(Parsed::Image(Manifest { config, layers }))
        }
        _ => Err(ManifestError::Neither(raw.media_type.unwrap_or_default())),
    }
}

/// The one for this machine. What else is listed, signatures and the like, need not be
/// understood.
fn choose(
    manifests: Vec<serde_json::Value>,
    platform: &Platform,
) -> Result<Descriptor, ManifestError> {
    let listed: Vec<Descriptor> =
        manifests.into_iter().filter_map(|value| serde_json::from_value(value).ok()).collect();
    // An OCI layout may not say for what its only image is.
    if let [only] = listed.as_slice()
        && only.platform.is_none()
    {
        return Ok(only.clone());
    }
    let rank = |one: &&Descriptor| one.platform.as_ref().and_then(|p| platform.rank(p));
    let best = listed.iter().filter(|one| rank(one).is_some()).min_by_key(rank);
    best.cloned().ok_or_else(|| {
        let name = |one: &Descriptor| {
            let platform = one.platform.as_ref()?;
            let variant = platform.variant.iter().map(|v| format!("/{v}")).collect::<String>();
            Some(format!("{}/{}{variant}", platform.os, platform.architecture))
        };
        let found: Vec<String> = listed.iter().filter_map(name).take(20).collect();
        let found = if found.is_empty() { "none".to_owned() } else { found.join(", ") };
        ManifestError::Platform { wanted: format!("linux/{}", platform.architecture), found }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn digest(digit: char) -> String {
        format!("sha256:{}", digit.to_string().repeat(64))
    }

    fn descriptor(digit: char, more: &str) -> String {
        format!(r#"{{"digest":"{}","size":7{more}}}"#, digest(digit))
    }

    fn platform(digit: char, os: &str, architecture: &str, variant: &str) -> String {
        let more = format!(
            r#","platform":{{"os":"{os}","architecture":"{architecture}","variant":"{variant}"}}"#
        );
        descriptor(digit, &more)
    }

    fn chosen(list: &[String], architecture: &'static str) -> Result<String, String> {
        let text = format!(r#"{{"schemaVersion":2,"manifests":[{}]}}"#, list.join(","));
        match parse(text.as_bytes(), &Platform::named(architecture)) {
            Ok(Parsed::Choice(one)) => Ok(one.digest.hex()[..1].to_owned()),
            Ok(other) => panic!("{other:?}"),
            Err(error) => Err(error.to_string()),
        }
    }

    #[test]
    fn images() {
        let (config, layer) =
            (descriptor('a', ""), descriptor('b', r#","mediaType":"x.tar+gzip""#));
        let text = format!(
            r#"{{"schemaVersion":2,"config":{config},"layers":[{layer},{layer}],"annotations":{{}}}}"#
        );
        let Ok(Parsed::Image(manifest)) = parse(text.as_bytes(), &Platform::own()) else {
            panic!("an image");
        };
        assert_eq!((manifest.config.size, manifest.layers.len()), (7, 2));
        assert_eq!(manifest.layers[0].media_type, "x.tar+gzip");
    }

    #[test]
    fn platforms() {
        let list = [
            platform('1', "windows", "amd64", ""),
            platform('2', "linux", "amd64", "v3"),
            platform('3', "linux", "arm", "v6"),
            platform('4', "linux", "arm", "v7"),
            platform('5', "linux", "amd64", ""),
            platform('6', "unknown", "unknown", ""),
            platform('7', "linux", "arm64", "v8"),
            r#"{"digest":"sha512:00","size":1}"#.to_owned(),
        ];
        for (architecture, expected) in [("x86_64", "5"), ("arm", "4"), ("aarch64", "7")] {
            assert_eq!(chosen(&list, architecture).as_deref(), Ok(expected), "{architecture}");
        }
        let error = chosen(&list[..3], "riscv64").expect_err("none");
        let expected = "there is no image for linux/riscv64; there are: windows/amd64/, \
                        linux/amd64/v3, linux/arm/v6";
        assert_eq!(error, expected);
        assert_eq!(chosen(&[descriptor('9', "")], "x86_64").as_deref(), Ok("9"));
        assert!(chosen(&[], "x86_64").expect_err("none").ends_with("there are: none"));
    }

    #[test]
    fn what_is_none_is_refused() {
        let (one, many) = (descriptor('a', ""), vec![descriptor('b', ""); 501].join(","));
        let foreign = descriptor(
            'c',
            r#","mediaType":"application/vnd.docker.image.rootfs.foreign.diff.tar.gzip""#,
        );
        let large = one.replace(":7", ":9000000");
        let rows = [
            ("<html>".to_owned(), "it is no manifest"),
            (r#"{"schemaVersion":1}"#.into(), "manifests of schema version 1 are not supported"),
            (r#"{"schemaVersion":2,"mediaType":"x"}"#.into(), "(media type 'x')"),
            (
                format!(r#"{{"schemaVersion":2,"config":{one},"layers":[],"manifests":[]}}"#),
                "neither",
            ),
            (format!(r#"{{"schemaVersion":2,"config":{one},"layers":[{many}]}}"#), "501 layers"),
            (
                format!(r#"{{"schemaVersion":2,"config":{one},"layers":[{foreign}]}}"#),
                "kept elsewhere",
            ),
            (format!(r#"{{"schemaVersion":2,"config":{large},"layers":[]}}"#), "9000000 bytes"),
        ];
        for (text, expected) in rows {
            let error = parse(text.as_bytes(), &Platform::own()).expect_err(expected).to_string();
            assert!(error.contains(expected), "{expected}: {error}");
        }
    }
}
