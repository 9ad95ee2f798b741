//! What is worth knowing of an image for every container in it: [`Known`].
//!
//! Layers never change, so that they are asked once. What they lack is one more layer
//! (`points`), which stays as long as somebody has the facts that name it.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use isolators::runtime::users::{self, Identity};

use super::Digest;
use super::image::MOST_LAYERS;
use super::look::{self, Point};
use super::points::Points;

/// Images whose facts are remembered.
const REMEMBERED: usize = 256;

/// Of one image.
#[derive(Debug, Default)]
pub(super) struct Facts {
    passwd: String,
    group: String,
    /// The layer with what containers mount on and the image has not.
    pub points: Option<PathBuf>,
}

impl Facts {
    fn read(layers: &[PathBuf]) -> Facts {
        // Without them only numbers are known.
        let text = |file: &str| {
            look::text(layers, Path::new(file)).unwrap_or_else(|error| {
                tracing::warn!(%error, ?layers, "failed to read /{file} of an image");
                String::new()
            })
        };
        Facts { passwd: text("etc/passwd"), group: text("etc/group"), points: None }
    }

    /// Who `spec` (`user[:group]`, names or numbers) is in this image.
    ///
    /// # Errors
    /// Nobody; for people.
    pub fn identity(&self, spec: &str) -> Result<Identity, String> {
        users::resolve(spec, &self.passwd, &self.group)
    }
}

#[derive(Debug, Default)]
struct State {
    images: BTreeMap<Digest, Arc<Facts>>,
    /// Those as well that somebody has and that are not remembered.
    lent: Vec<Weak<Facts>>,
    /// Some were forgotten: their layers may be nobody's now.
    forgotten: bool,
}

impl State {
    fn enter(&mut self, id: Digest, facts: &Arc<Facts>) {
        if self.images.len() >= REMEMBERED {
            self.images.clear();
            self.forgotten = true;
        }
        self.lent.retain(|facts| facts.strong_count() > 0);
        self.lent.push(Arc::downgrade(facts));
        self.images.insert(id, Arc::clone(facts));
    }
}

/// Of all images. Blocks where it reads.
#[derive(Debug)]
pub(super) struct Known {
    /// What containers have mounted in their root, where a layer for it is of use.
    mounted: Vec<Point>,
    points: Points,
    state: Mutex<State>,
}

impl Known {
    /// `points` is the directory of the layers that images lack.
    pub fn new(points: PathBuf, mounted: Vec<Point>) -> Known {
        Known { mounted, points: Points::new(points), state: Mutex::default() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What the layers of an image say.
    ///
    /// # Errors
    /// The system's.
    pub fn of(&self, id: Digest, layers: &[PathBuf]) -> io::Result<Arc<Facts>> {
        if let Some(facts) = self.state().images.get(&id) {
            return Ok(Arc::clone(facts));
        }
        let mut facts = Facts::read(layers);
        let _turn = self.points.turn();
        // With one more than the most it would not be mounted.
        if layers.len() < MOST_LAYERS {
            facts.points = self.points.layer(&look::missing(layers, &self.mounted)?)?;
        }
        let facts = Arc::new(facts);
        self.state().enter(id, &facts);
        Ok(facts)
    }

    /// Others may have used layers of mount points, and are gone.
    pub fn forget(&self) {
        self.state().forgotten = true;
    }

    /// Removes layers of mount points that nobody uses any more, if there may be some;
    /// `recorded` are those of containers.
    pub fn tidy(&self, recorded: impl FnOnce() -> BTreeSet<PathBuf>) {
        if !self.state().forgotten {
            return;
        }
        let _turn = self.points.turn();
        let mut used: BTreeSet<PathBuf> = {
            let mut state = self.state();
            state.forgotten = false;
            state.lent.iter().filter_map(|facts| facts.upgrade()?.points.clone()).collect()
        };
        used.extend(recorded());
        self.points.keep(&used);
    }
}
