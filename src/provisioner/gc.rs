//! Which images go when room is needed: the longest unused first. Pure.
//!
//! Called by the store for `--image_gc_config` and for PRUNE_IMAGES; what is in use or
//! excluded never goes.

use std::collections::{BTreeMap, BTreeSet};
use std::time::SystemTime;

use super::reference::{Digest, Reference};

/// Bytes that are to go so that `headroom`, a part of the disk from 0 to 1, is free.
#[must_use]
pub fn wanted(headroom: f64, total: u64, available: u64) -> u64 {
    let free = (headroom.clamp(0.0, 1.0) * total as f64) as u64;
    free.saturating_sub(available)
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
    use std::time::Duration;

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
    fn headroom_is_a_part_of_the_disk() {
        let rows = [(0.1, 150, 0), (0.1, 40, 60), (0.0, 0, 0), (1.0, 400, 600), (7.0, 0, 1000)];
        for (headroom, available, expected) in rows {
            assert_eq!(wanted(headroom, 1000, available), expected, "{headroom} {available}");
        }
    }
}
