//! Which images go when room is needed: the longest unused first. Pure.
//!
//! Called by the store for `--image_gc_config` and for PRUNE_IMAGES; what is in use or
//! excluded never goes.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, SystemTime};

use mesos::Image;
use serde::Deserialize;
use thiserror::Error;

use super::reference::{Digest, Reference};

/// `--image_gc_config` is not usable.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{0}")]
pub struct ConfigError(String);

/// When images go by themselves.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// Part of the disk that is to be free, 0 to 1.
    pub headroom: f64,
    /// Time between two looks.
    pub interval: Duration,
    /// Never go.
    pub excluded: Vec<Reference>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Raw {
    image_disk_headroom: f64,
    image_disk_watch_interval: RawDuration,
    #[serde(default)]
    excluded_images: Vec<serde_json::Value>,
}

#[derive(Deserialize)]
struct RawDuration {
    nanoseconds: i64,
}

impl Config {
    /// Reads the flag, in Mesos' form.
    ///
    /// # Errors
    /// [`ConfigError`]
    pub fn parse(value: &serde_json::Value) -> Result<Config, ConfigError> {
        let raw: Raw = serde_json::from_value(value.clone()).map_err(|error| {
            ConfigError(format!(
                "expected image_disk_headroom, image_disk_watch_interval {{nanoseconds}} and \
                 excluded_images: {error}"
            ))
        })?;
        if !(0.0..=1.0).contains(&raw.image_disk_headroom) {
            let given = raw.image_disk_headroom;
            return Err(ConfigError(format!("image_disk_headroom is {given}; expected 0 to 1")));
        }
        let interval = u64::try_from(raw.image_disk_watch_interval.nanoseconds).unwrap_or(0);
        if interval == 0 {
            return Err(ConfigError("image_disk_watch_interval must be more than nothing".into()));
        }
        let name = |image: &serde_json::Value| {
            let name = image["docker"]["name"].as_str().ok_or_else(|| {
                ConfigError("expected excluded_images with docker {name} each".into())
            })?;
            Reference::parse(name).map_err(|error| ConfigError(error.to_string()))
        };
        Ok(Config {
            headroom: raw.image_disk_headroom,
            interval: Duration::from_nanos(interval),
            excluded: raw.excluded_images.iter().map(name).collect::<Result<_, _>>()?,
        })
    }

    /// Bytes that are to go, of a disk of `total` of which `available` are free.
    #[must_use]
    pub fn wanted(&self, total: u64, available: u64) -> u64 {
        let free = (self.headroom * total as f64) as u64;
        free.saturating_sub(available)
    }
}

/// The names in a list of images, as PRUNE_IMAGES has them; others than docker's and
/// names that are none cannot be here and are left out.
#[must_use]
pub fn excluded(images: &[Image]) -> Vec<Reference> {
    let named = |image: &Image| Reference::parse(&image.docker.as_ref()?.name).ok();
    images.iter().filter_map(named).collect()
}

/// A name that may go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Candidate {
    /// In its one spelling.
    pub reference: Reference,
    /// The image it means.
    pub id: Digest,
    /// Last use.
    pub used: SystemTime,
    /// It stays.
    pub kept: bool,
}

/// Names that go, in order, so that `wanted` bytes become free; `None`: all that may.
/// A layer's bytes count once no image that stays has it.
#[must_use]
pub fn choose(
    candidates: &[Candidate],
    layers: &BTreeMap<Digest, Vec<(Digest, u64)>>,
    wanted: Option<u64>,
) -> Vec<Reference> {
    let mut going: Vec<&Candidate> = candidates.iter().filter(|one| !one.kept).collect();
    going.sort_by(|a, b| a.used.cmp(&b.used).then_with(|| a.reference.cmp(&b.reference)));
    let mut staying: BTreeMap<Digest, usize> = BTreeMap::new();
    for one in candidates {
        *staying.entry(one.id).or_default() += 1;
    }
    let mut users: BTreeMap<Digest, usize> = BTreeMap::new();
    for id in staying.keys() {
        for (layer, _) in own(layers, *id) {
            *users.entry(layer).or_default() += 1;
        }
    }
    let (mut freed, mut gone) = (0_u64, Vec::new());
    for one in going {
        if wanted.is_some_and(|wanted| freed >= wanted) {
            break;
        }
        gone.push(one.reference.clone());
        let names = staying.get_mut(&one.id).expect("counted above");
        *names -= 1;
        if *names > 0 {
            continue;
        }
        for (layer, bytes) in own(layers, one.id) {
            let left = users.get_mut(&layer).expect("counted above");
            *left -= 1;
            if *left == 0 {
                freed = freed.saturating_add(bytes);
            }
        }
    }
    gone
}

/// The layers of an image, each once.
fn own(layers: &BTreeMap<Digest, Vec<(Digest, u64)>>, id: Digest) -> BTreeSet<(Digest, u64)> {
    layers.get(&id).into_iter().flatten().copied().collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn digest(name: &str) -> Digest {
        Digest::of(name.as_bytes())
    }

    fn names(rows: &[(&str, &str, u64, bool)], wanted: Option<u64>) -> Vec<String> {
        // Images a, b and c; all have the layer `base`, a and b share one more.
        let layers = [
            ("a", vec![("base", 100), ("ab", 50), ("a", 5)]),
            ("b", vec![("base", 100), ("ab", 50), ("b", 6), ("b", 6)]),
            ("c", vec![("base", 100), ("c", 7)]),
        ];
        let layers = layers
            .into_iter()
            .map(|(id, own)| {
                (digest(id), own.into_iter().map(|(name, bytes)| (digest(name), bytes)).collect())
            })
            .collect();
        let candidates: Vec<Candidate> = rows
            .iter()
            .map(|(name, id, used, kept)| Candidate {
                reference: Reference::parse(name).expect(name),
                id: digest(id),
                used: SystemTime::UNIX_EPOCH + Duration::from_secs(*used),
                kept: *kept,
            })
            .collect();
        let chosen = choose(&candidates, &layers, wanted);
        chosen.into_iter().map(|reference| reference.repository).collect()
    }

    #[test]
    fn the_longest_unused_goes_first_until_there_is_room() {
        let rows = [("x", "a", 3, false), ("y", "b", 1, false), ("z", "c", 2, false)];
        for (wanted, expected) in [
            (Some(0), &[][..]),
            (Some(6), &["y"]),
            (Some(7), &["y", "z"]),
            // Only with the last goes what all have.
            (Some(14), &["y", "z", "x"]),
            (Some(1 << 40), &["y", "z", "x"]),
            (None, &["y", "z", "x"]),
        ] {
            assert_eq!(names(&rows, wanted), expected, "{wanted:?}");
        }
    }

    #[test]
    fn what_is_kept_stays_with_all_it_needs() {
        let rows = [("x", "a", 3, true), ("y", "b", 1, false), ("z", "c", 2, false)];
        assert_eq!(names(&rows, None), ["y", "z"]);
        assert_eq!(names(&rows, Some(12)), ["y", "z"], "the base is not freed");
        // Two names of one image: it goes with the second.
        let rows = [("x", "a", 1, false), ("y", "a", 2, false), ("z", "c", 3, false)];
        assert_eq!(names(&rows, Some(5)), ["x", "y"]);
        assert_eq!(names(&[("x", "a", 1, false), ("y", "a", 2, true)], None), ["x"]);
        assert!(names(&[], None).is_empty());
    }

    #[test]
    fn the_flag() {
        let value = json!({
            "image_disk_headroom": 0.1,
            "image_disk_watch_interval": { "nanoseconds": 3_600_000_000_000_u64 },
            "excluded_images": [{ "type": "DOCKER", "docker": { "name": "busybox" } }],
        });
        let config = Config::parse(&value).expect("fine");
        assert_eq!(config.interval, Duration::from_secs(3600));
        assert_eq!(config.excluded, [Reference::parse("busybox").expect("a name")]);
        assert_eq!((config.wanted(1000, 150), config.wanted(1000, 40)), (0, 60));
        for (field, wrong, expected) in [
            ("image_disk_headroom", json!(1.5), "expected 0 to 1"),
            ("image_disk_watch_interval", json!({ "nanoseconds": 0 }), "more than nothing"),
            ("excluded_images", json!([{ "type": "APPC" }]), "docker {name}"),
            ("excluded_images", json!([{ "docker": { "name": "A" } }]), "'A' is no name"),
            ("image_disk_headrom", json!(1), "unknown field `image_disk_headrom`"),
        ] {
            let mut value = value.clone();
            value[field] = wrong;
            let error = Config::parse(&value).expect_err(field).to_string();
            assert!(error.contains(expected), "{field}: {error}");
        }
    }
}
