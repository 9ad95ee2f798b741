//! Which images of the engine's store may go, and in which order. Pure.
//!
//! The store is not ours alone. An image may go only if we pulled it, every name that
//! it has was given to it by us, no container uses it, and nobody wants it kept.

use std::collections::BTreeSet;
use std::time::Duration;

use super::engine::{Image, image_name};
use super::image;

/// `--image_gc_config`.
#[derive(Debug, Clone, PartialEq)]
pub struct ImagePolicy {
    /// The share of the engine's disk that is to be free, from 0 to 1.
    pub headroom: f64,
    /// Between two looks at the disk.
    pub interval: Duration,
    /// Names of images that stay.
    pub excluded: Vec<String>,
}

/// An image in the engine's store that we pulled.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Pulled {
    pub(super) image: Image,
    /// The names that it has from us.
    pub(super) names: BTreeSet<String>,
    /// Seconds since 1970.
    pub(super) used: u64,
    /// A container of whoever has it.
    pub(super) in_use: bool,
}

/// Those that may go, the one that was not used for the longest time first.
pub(super) fn order<'a>(all: &'a [Pulled], excluded: &[String]) -> Vec<&'a Pulled> {
    let excluded: BTreeSet<String> = excluded.iter().map(|name| canonical(name)).collect();
    let kept = |name: &String| excluded.contains(&canonical(name));
    let mut order: Vec<&Pulled> = all
        .iter()
        .filter(|pulled| {
            let mut names = pulled.image.tags.iter().chain(&pulled.image.digests);
            !pulled.in_use && names.all(|name| pulled.names.contains(name) && !kept(name))
        })
        .collect();
    order.sort_by(|a, b| a.used.cmp(&b.used).then_with(|| a.image.id.cmp(&b.image.id)));
    order
}

/// Whether the disk has less room than it should.
pub(super) fn is_full(available: u64, total: u64, headroom: f64) -> bool {
    #[allow(clippy::cast_precision_loss)] // a share of it
    let (available, total) = (available as f64, total as f64);
    total > 0.0 && available < headroom * total
}

/// One spelling for `nginx`, `nginx:latest` and `docker.io/library/nginx`.
pub(super) fn canonical(name: &str) -> String {
    let (bare, tag) = image::split(name);
    let bare = bare.strip_prefix("docker.io/").unwrap_or(bare);
    image_name(bare.strip_prefix("library/").unwrap_or(bare), tag)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pulled(id: &str, tags: &[&str], ours: &[&str], used: u64) -> Pulled {
        let texts = |list: &[&str]| list.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        Pulled {
            image: Image { id: id.into(), tags: texts(tags), ..Image::default() },
            names: texts(ours).into_iter().collect(),
            used,
            in_use: false,
        }
    }

    #[test]
    fn only_what_is_ours_and_unused_goes_the_oldest_first() {
        let mut all = vec![
            pulled("new", &["a:1"], &["a:1"], 30),
            pulled("old", &["b:1"], &["b:1"], 10),
            pulled("nameless", &[], &["c:1"], 20),
            pulled("renamed", &["d:1", "theirs:1"], &["d:1"], 1),
            pulled("used", &["e:1"], &["e:1"], 2),
            pulled("kept", &["nginx:latest"], &["nginx:latest"], 3),
        ];
        all[4].in_use = true;
        let excluded = ["docker.io/library/nginx".to_owned()];
        let ids: Vec<&str> = order(&all, &excluded).iter().map(|p| p.image.id.as_str()).collect();
        assert_eq!(ids, ["old", "nameless", "new"]);
    }

    #[test]
    fn a_disk_has_room_or_not() {
        assert!(is_full(9, 100, 0.1) && !is_full(10, 100, 0.1));
        assert!(is_full(99, 100, 1.0) && !is_full(0, 100, 0.0));
        assert!(!is_full(0, 0, 1.0), "a disk that cannot be asked");
    }

    #[test]
    fn names_have_one_spelling() {
        for (name, wanted) in [
            ("nginx", "nginx:latest"),
            ("library/nginx", "nginx:latest"),
            ("docker.io/team/nginx:1", "team/nginx:1"),
            ("host:5000/a", "host:5000/a:latest"),
            ("a@sha256:12", "a@sha256:12"),
        ] {
            assert_eq!(canonical(name), wanted);
        }
    }
}
