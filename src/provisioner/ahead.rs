//! Roots made ahead of the containers that will have them.
//!
//! ```text
//! <work_dir>/provisioner/ready/<uuid>    what will be the directory of a container,
//!                                        with its record
//! ```
//!
//! A dozen directories and files are made on the disk for each root and its overlay, which
//! took most of the time of a launch. After a launch some roots are made behind, for the
//! next containers of the image, with their overlay mounted in a mount namespace that has
//! all that does not depend on the container; taking one is a rename. They are few, they go
//! when their image is not used for a while, and after the agent's death they are nobody's.
//! They do not keep their image in the store: what is mounted is used only as long as no
//! layers were removed, and goes then. Everything blocks.

use std::fs;
use std::io;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use isolators::plan::{Fixtures, Park, ReadyRoot};
use kernel::failpoint;
use kernel::root::Fixture;

use super::Digest;
use super::backend::{self, BackendError, Made, Place};
use super::facts::Facts;
use super::record::{ContainerRoots, RootRecord, build};
use super::rush::Rush;
use super::trash::{Discarded, Trash};

/// Roots that are ready for each image.
const EACH: usize = 3;
/// Roots that are ready in all.
const MOST: usize = 32;
/// How long one stays after its image was used last.
const PATIENCE: Duration = Duration::from_secs(600);

/// What is made in a root.
#[derive(Debug)]
pub(super) struct Furniture {
    fixtures: Arc<Fixtures>,
    steps: Vec<Fixture>,
    /// What is looked up.
    known: Vec<PathBuf>,
}

impl Furniture {
    pub fn new(fixtures: Fixtures, known: Vec<PathBuf>) -> Furniture {
        Furniture { steps: fixtures.steps(), fixtures: Arc::new(fixtures), known }
    }
}

/// One root.
#[derive(Debug)]
struct Ready {
    roots: ContainerRoots,
    record: RootRecord,
    /// Its overlay, if it is mounted.
    mounted: Option<ReadyRoot>,
    /// Removals of layers from the store, before it was mounted.
    removals: u64,
    /// Last use of the image.
    used: Instant,
    /// Keeps the layer of mount points.
    _facts: Arc<Facts>,
}

impl Ready {
    /// The image may have been removed and pulled again.
    fn is_stale(&self, removals: u64) -> bool {
        self.mounted.is_some() && self.removals < removals
    }
}

#[derive(Debug, Default)]
struct State {
    ready: Vec<Ready>,
    /// Images of those being made, one for each.
    making: Vec<Digest>,
    /// What nobody can use any more.
    stale: Vec<ContainerRoots>,
}

/// The roots that are ready.
#[derive(Debug)]
pub(super) struct Shelf {
    dir: PathBuf,
    rush: Arc<Rush>,
    state: Mutex<State>,
}

/// A root that was ready.
#[derive(Debug)]
pub(super) struct Taken {
    pub record: RootRecord,
    /// Its overlay, if it is mounted.
    pub ready: Option<ReadyRoot>,
}

impl Shelf {
    pub fn new(dir: PathBuf, rush: Arc<Rush>) -> Shelf {
        Shelf { dir, rush, state: Mutex::default() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes a root as `wanted` the container's, if one is ready and the container has
    /// nothing yet. `removals`: of layers from the store, by now; whoever asks keeps the
    /// image there.
    pub fn take(
        &self,
        wanted: &RootRecord,
        container: &ContainerRoots,
        removals: u64,
    ) -> Option<Taken> {
        let mut state = self.state();
        let found = loop {
            let at = state.ready.iter().position(|one| one.record.is_like(wanted))?;
            let found = state.ready.remove(at);
            if !found.is_stale(removals) {
                break found;
            }
            state.stale.push(found.roots);
        };
        drop(state);
        match found.roots.become_those_of(container) {
            Ok(()) => Some(Taken { record: found.record, ready: found.mounted }),
            Err(error) if is_taken(&error) => {
                // It has a root for a volume. The next one will not.
                self.state().ready.push(found);
                None
            }
            Err(error) => {
                let path = container.path().display();
                tracing::warn!(%error, "a root that was ready does not become '{path}'");
                self.state().stale.push(found.roots);
                None
            }
        }
    }

    /// Makes roots as `like` until enough are ready, and mounts their overlays if there is
    /// `furniture`, with a shim by `park`. What is too many after that goes with `tidy`.
    ///
    /// # Errors
    /// The system's.
    pub fn fill(
        &self,
        like: &RootRecord,
        facts: &Arc<Facts>,
        furniture: Option<&Furniture>,
        park: Option<&dyn Park>,
        removals: u64,
    ) -> Result<(), BackendError> {
        while self.begin(like) {
            self.rush.let_pass();
            let name = uuid::Uuid::new_v4().to_string();
            let roots = ContainerRoots::at(self.dir.join(&name));
            let record = RootRecord { name, ..like.clone() };
            let built = build(&roots, &record, &AtomicBool::new(false)).and_then(|made| {
                let at = roots.place(&record);
                let mounted = furniture.map(|all| self.mount(&at, &made, all, park));
                Ok(mounted.transpose()?.flatten())
            });
            failpoint!("provision.ahead");
            let mut state = self.state();
            if let Some(at) = state.making.iter().position(|id| *id == like.id) {
                state.making.swap_remove(at);
            }
            let mounted = match built {
                Ok(mounted) => mounted,
                Err(error) => {
                    state.stale.push(roots);
                    return Err(error);
                }
            };
            let (used, facts) = (Instant::now(), Arc::clone(facts));
            state.ready.push(Ready { roots, record, mounted, removals, used, _facts: facts });
            if state.ready.len() > MOST {
                let spare = oldest(&mut state.ready);
                state.stale.push(spare.roots);
            }
        }
        Ok(())
    }

    /// Mounts the overlay of the root at `place`.
    fn mount(
        &self,
        place: &Place,
        made: &Made,
        furniture: &Furniture,
        park: Option<&dyn Park>,
    ) -> Result<Option<ReadyRoot>, BackendError> {
        let Some(overlay) = &made.overlay else { return Ok(None) };
        self.rush.let_pass();
        let inside = (furniture.steps.as_slice(), furniture.known.as_slice());
        let namespace = backend::furnish(place, overlay, inside)?;
        self.rush.let_pass();
        let fixtures = Arc::clone(&furniture.fixtures);
        let shim = park.map(|park| park.park(namespace.as_fd(), &fixtures)).transpose();
        let shim = Mutex::new(shim.unwrap_or_else(|error| {
            tracing::warn!(error = %kernel::chain(&error), "no shim is started ahead");
            None
        }));
        Ok(Some(ReadyRoot { namespace, fixtures, shim }))
    }

    /// Whether one more is to be made; then it is noted.
    fn begin(&self, like: &RootRecord) -> bool {
        let mut state = self.state();
        let now = Instant::now();
        let mut there = state.making.iter().filter(|id| **id == like.id).count();
        for one in state.ready.iter_mut().filter(|one| one.record.is_like(like)) {
            one.used = now;
            there += 1;
        }
        let more = there < EACH;
        if more {
            state.making.push(like.id);
        }
        more
    }

    /// Takes away those whose image was not used for long, and what nobody can use.
    pub fn tidy(&self, trash: &Arc<Trash>, removals: u64) -> Vec<Discarded> {
        let mut state = self.state();
        let now = Instant::now();
        let is_old =
            |one: &mut Ready| one.is_stale(removals) || now.duration_since(one.used) > PATIENCE;
        let old: Vec<Ready> = state.ready.extract_if(.., is_old).collect();
        let mut going = std::mem::take(&mut state.stale);
        drop(state);
        going.extend(old.into_iter().map(|one| one.roots));
        going.iter().filter_map(|roots| discard(roots.path(), trash)).collect()
    }

    /// Takes away those of a dead agent. To be called before any is made.
    pub fn recover(&self, trash: &Arc<Trash>) -> Vec<Discarded> {
        let found = fs::read_dir(&self.dir).into_iter().flatten().flatten();
        found.filter_map(|entry| discard(&entry.path(), trash)).collect()
    }
}

/// Moves a root away; one that stays is left to the next agent.
fn discard(path: &Path, trash: &Arc<Trash>) -> Option<Discarded> {
    trash.take(path).unwrap_or_else(|error| {
        tracing::warn!(error = %kernel::chain(&error), "a root that nobody will have stays");
        None
    })
}

fn oldest(ready: &mut Vec<Ready>) -> Ready {
    let ages = ready.iter().enumerate();
    let (at, _) = ages.min_by_key(|(_, one)| one.used).expect("more than there may be");
    ready.remove(at)
}

fn is_taken(error: &io::Error) -> bool {
    use io::ErrorKind::{AlreadyExists, DirectoryNotEmpty};
    matches!(error.kind(), AlreadyExists | DirectoryNotEmpty)
}

#[cfg(test)]
mod tests {
    use super::super::backend::Backend;
    use super::*;

    fn count(dir: &Path) -> usize {
        fs::read_dir(dir).into_iter().flatten().count()
    }

    fn record(layer: &Path, image: &str) -> RootRecord {
        RootRecord {
            name: "wanted".into(),
            backend: Backend::Overlay,
            shared: false,
            image: image.into(),
            id: Digest::of(image.as_bytes()),
            layers: vec![layer.to_owned()],
            points: None,
        }
    }

    /// A shelf in a directory of the test's own, and a layer.
    struct Scene {
        dir: PathBuf,
        layer: PathBuf,
        ready: PathBuf,
        shelf: Shelf,
        trash: Arc<Trash>,
    }

    impl Scene {
        fn new(name: &str) -> Scene {
            let dir = std::env::temp_dir().join(format!("{name}-{}", std::process::id()));
            let (layer, ready) = (dir.join("layer"), dir.join("ready"));
            fs::create_dir_all(&layer).unwrap();
            let shelf = Shelf::new(ready.clone(), Arc::default());
            let trash = Arc::new(Trash::new(dir.join("gone")));
            Scene { dir, layer, ready, shelf, trash }
        }

        fn fill(&self, like: &RootRecord, removals: u64) {
            self.shelf.fill(like, &Arc::default(), None, None, removals).unwrap();
        }

        fn of(&self, name: &str) -> ContainerRoots {
            ContainerRoots::at(self.dir.join("containers").join(name))
        }
    }

    impl Drop for Scene {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.dir);
        }
    }

    #[test]
    fn a_root_is_taken_once_and_only_by_a_container_like_it() {
        let scene = Scene::new("ahead");
        let (shelf, ready) = (&scene.shelf, &scene.ready);
        let (one, two) = (record(&scene.layer, "one"), record(&scene.layer, "two"));
        let of = |name: &str| scene.of(name);
        assert!(shelf.take(&one, &of("a"), 0).is_none());
        for _ in 0..2 {
            scene.fill(&one, 0);
            assert_eq!(count(ready), EACH);
        }
        assert!(shelf.take(&two, &of("a"), 0).is_none(), "another image");
        // The first one makes the directory of containers.
        let taken = shelf.take(&one, &of("a"), 0).expect("one is ready");
        assert_eq!(of("a").read().roots, std::slice::from_ref(&taken.record));
        let place = of("a").place(&taken.record);
        assert!(place.root.is_dir() && of("a").path().join("upperdir").is_dir());
        // A container that has something keeps it, and the root stays.
        assert!(shelf.take(&one, &of("a"), 0).is_none());
        assert_eq!(count(ready), EACH - 1);
        for name in ["b", "c"] {
            assert!(shelf.take(&one, &of(name), 0).is_some());
        }
        assert!(shelf.take(&one, &of("d"), 0).is_none(), "there are no more");
    }

    #[test]
    fn what_was_mounted_before_layers_were_removed_goes() {
        let scene = Scene::new("stale");
        let (shelf, trash, like) = (&scene.shelf, &scene.trash, record(&scene.layer, "one"));
        scene.fill(&like, 1);
        let nothing = || ReadyRoot {
            namespace: fs::File::open("/dev/null").unwrap().into(),
            fixtures: Arc::default(),
            shim: Mutex::default(),
        };
        for one in shelf.state().ready.iter_mut().skip(1) {
            one.mounted = Some(nothing());
        }
        shelf.state().ready[2].removals = 2;
        let going = shelf.tidy(trash, 2);
        assert_eq!(going.len(), 1, "neither what is not mounted nor what is new");
        assert!(shelf.take(&like, &scene.of("a"), 3).is_some_and(|taken| taken.ready.is_none()));
        assert!(shelf.take(&like, &scene.of("b"), 3).is_none(), "removed meanwhile");
        assert_eq!(shelf.tidy(trash, 3).len(), 1);
    }

    #[test]
    fn they_are_few_and_those_of_the_dead_go() {
        let scene = Scene::new("few");
        let Scene { dir, layer, ready, shelf, trash } = &scene;
        for image in 0..MOST {
            scene.fill(&record(layer, &image.to_string()), 0);
        }
        shelf.tidy(trash, 0).into_iter().for_each(Discarded::remove);
        assert_eq!((count(ready), count(&dir.join("gone"))), (MOST, 0));
        assert!(shelf.take(&record(layer, "0"), &scene.of("a"), 0).is_none(), "the oldest went");
        assert!(shelf.tidy(trash, 0).is_empty());
        // The next agent knows of none.
        Shelf::new(ready.clone(), Arc::default())
            .recover(trash)
            .into_iter()
            .for_each(Discarded::remove);
        assert_eq!((count(ready), count(&dir.join("gone"))), (0, 0));
    }
}
