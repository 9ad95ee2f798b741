//! What containers mount on and their images lack, as one more layer above the image's.
//!
//! ```text
//! <work_dir>/provisioner/points/<digest>    shared by all images that lack the same
//!                              /.<uuid>     one that is not whole yet
//! ```
//!
//! Made in the directory that a container writes to, it would be some ten directories and
//! files at each launch, and as many to remove. Nobody ever writes here. Everything blocks.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::Digest;
use super::look::Missing;

/// The directory of these layers.
#[derive(Debug)]
pub(super) struct Points {
    dir: PathBuf,
    /// Held while one is made and noted, and while those that nobody uses go.
    turn: Mutex<()>,
}

impl Points {
    pub fn new(dir: PathBuf) -> Points {
        Points { dir, turn: Mutex::default() }
    }

    /// To be held from before a layer is made until its user is known.
    pub fn turn(&self) -> MutexGuard<'_, ()> {
        self.turn.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The layer that has all of `missing`; `None` if nothing is.
    ///
    /// # Errors
    /// The system's.
    pub fn layer(&self, missing: &[Missing]) -> io::Result<Option<PathBuf>> {
        if missing.is_empty() {
            return Ok(None);
        }
        // The text names the directories whose attributes count, by their layers' digests.
        let name = Digest::of(format!("{missing:?}").as_bytes()).hex();
        let place = self.dir.join(name);
        if place.is_dir() {
            return Ok(Some(place));
        }
        let staged = self.dir.join(format!(".{}", uuid::Uuid::new_v4()));
        fs::create_dir_all(&staged)?;
        missing.iter().try_for_each(|missing| missing.make(&staged))?;
        fs::rename(&staged, &place)?;
        Ok(Some(place))
    }

    /// Removes all but those in `used`; what could not be removed is left to the next
    /// call.
    pub fn keep(&self, used: &BTreeSet<PathBuf>) {
        for entry in fs::read_dir(&self.dir).into_iter().flatten().flatten() {
            let path = entry.path();
            if !used.contains(&path) {
                remove(&path);
            }
        }
    }
}

fn remove(path: &Path) {
    if let Err(error) = kernel::remove::tree(path, &mut |_| true) {
        tracing::warn!(error = %kernel::chain(&error), "a layer of mount points stays");
    }
}

#[cfg(test)]
mod tests {
    use super::super::look::{self, Point};
    use super::*;

    #[test]
    fn images_that_lack_the_same_share_a_layer_until_nobody_uses_it() {
        let dir = std::env::temp_dir().join(format!("points-{}", std::process::id()));
        let (base, bare) = (dir.join("base"), dir.join("bare"));
        fs::create_dir_all(base.join("etc")).unwrap();
        fs::create_dir_all(&bare).unwrap();
        let points = Points::new(dir.join("points"));
        let wanted = [
            Point { path: "/etc/hosts".into(), is_dir: false },
            Point { path: "/mnt/x".into(), is_dir: true },
        ];
        let layer = |layers: &[PathBuf]| {
            let missing = look::missing(layers, &wanted).unwrap();
            points.layer(&missing).unwrap().expect("something is missing")
        };
        let first = layer(std::slice::from_ref(&base));
        assert!(first.join("etc/hosts").is_file() && first.join("mnt/x").is_dir());
        assert_eq!(layer(&[base.clone(), bare.clone()]), first);
        let other = layer(&[bare]);
        assert_ne!(other, first, "its /etc is another");
        // One that was not whole when the agent died.
        fs::create_dir(dir.join("points/.half")).unwrap();
        points.keep(&BTreeSet::from([first.clone()]));
        let left: Vec<PathBuf> =
            fs::read_dir(dir.join("points")).unwrap().flatten().map(|e| e.path()).collect();
        assert_eq!(left, [first]);
        assert_eq!(points.layer(&[]).unwrap(), None);
        fs::remove_dir_all(&dir).unwrap();
    }
}
