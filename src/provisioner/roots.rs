//! Root file systems of containers: [`Provisioner`].
//!
//! Owns what was made for whom. A root is recorded before it is made, and its image kept
//! in the store from then on until the container is destroyed; both outlive the agent.
//! What the containerizer does not know of any more is removed at recovery. What can be
//! done before or after a container lives is: `ahead`, `trash`; what is known of an image:
//! `facts`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use isolators::image::{ProvisionError, Runtime, name};
use isolators::plan::{Fixtures, Overlay, Park, ReadyRoot};
use isolators::runtime::users::Identity;
use isolators::secret::Secrets;
use kernel::failpoint;
use kernel::sched::standing_back;
use mesos::{ContainerId, Image};

use super::ahead::{Furniture, Shelf, Taken};
use super::backend::{Backend, BackendError, Made};
use super::facts::{Facts, Known};
use super::look::Point;
use super::record::{ContainerRoots, RootRecord, build, scan};
use super::rush::{Rush, UnderWay};
use super::store::{Lease, Options, Store, StoreError};
use super::trash::{Discarded, Trash};
use super::{ImageConfig, Progress, Reference};

/// Is told how far a pull is.
pub type Watcher = Arc<dyn Fn(Progress) + Send + Sync>;

/// A root file system of a container's own.
#[derive(Debug, Clone)]
pub struct Root {
    /// Host path of it; empty until it is mounted, if it is an overlay.
    pub path: PathBuf,
    /// To be mounted on `path` by the container.
    pub overlay: Option<Overlay>,
    /// Directories that the container writes to.
    pub ephemeral: Vec<PathBuf>,
    /// What the image says.
    pub runtime: Arc<Runtime>,
    /// What the image is called.
    pub image: String,
    /// The overlay, if it is mounted already.
    pub ready: Option<Arc<ReadyRoot>>,
    record: RootRecord,
    facts: Arc<Facts>,
}

impl Root {
    /// Who `spec` (`user[:group]`, names or numbers) is in this image.
    ///
    /// # Errors
    /// Nobody; for people.
    pub fn identity(&self, spec: &str) -> Result<Identity, String> {
        self.facts.identity(spec)
    }
}

/// What is known of a container.
#[derive(Debug, Default)]
struct Entry {
    leases: Vec<Lease>,
    /// Held while its directory is changed.
    turn: Arc<tokio::sync::Mutex<()>>,
}

/// Makes root file systems of images in the store.
#[derive(Debug)]
pub struct Provisioner {
    store: Store,
    backend: Backend,
    containers: PathBuf,
    secrets: Secrets,
    known: Known,
    ahead: Arc<Shelf>,
    rush: Arc<Rush>,
    furniture: Arc<Furniture>,
    trash: Arc<Trash>,
    table: Mutex<BTreeMap<PathBuf, Entry>>,
    errors: AtomicU64,
}

impl Provisioner {
    /// `containers` is the directory of all containers' roots, `mounted` what they have
    /// mounted on, `fixtures` what is in each of them. What belongs to no container is beside `containers`.
    #[must_use]
    pub fn new(
        store: Store,
        backend: Backend,
        containers: PathBuf,
        secrets: Secrets,
        mounted: Vec<Point>,
        fixtures: Fixtures,
    ) -> Provisioner {
        let paths = mounted.iter().map(|point| point.path.clone());
        let rush = Arc::new(Rush::default());
        let furniture = Furniture::new(fixtures, paths.chain(["/bin/sh".into()]).collect());
        // Other backends do not take one more layer.
        let mounted = if backend == Backend::Overlay { mounted } else { Vec::new() };
        let known = Known::new(containers.with_file_name("points"), mounted);
        Provisioner {
            store,
            backend,
            known,
            ahead: Arc::new(Shelf::new(containers.with_file_name("ready"), Arc::clone(&rush))),
            rush,
            trash: Arc::new(Trash::new(containers.with_file_name("gone"))),
            furniture: Arc::new(furniture),
            containers,
            secrets,
            table: Mutex::default(),
            errors: AtomicU64::new(0),
        }
    }

    /// The images.
    #[must_use]
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// How roots are made.
    #[must_use]
    pub fn backend(&self) -> Backend {
        self.backend
    }

    /// Containers that have images now, and how often something of one could not be
    /// removed.
    #[must_use]
    pub fn figures(&self) -> (u64, u64) {
        let having = self.table().values().filter(|entry| !entry.leases.is_empty()).count();
        (having as u64, self.errors.load(Ordering::Relaxed) + self.trash.errors())
    }

    fn table(&self) -> MutexGuard<'_, BTreeMap<PathBuf, Entry>> {
        // Entries go in and out in one step each.
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn of(&self, id: &ContainerId) -> ContainerRoots {
        ContainerRoots::new(&self.containers, id)
    }

    fn turn(&self, roots: &ContainerRoots) -> Arc<tokio::sync::Mutex<()>> {
        Arc::clone(&self.table().entry(roots.path().to_owned()).or_default().turn)
    }

    /// Lets a launch, of whatever container, pass before what is made for others.
    pub fn launching(&self) -> UnderWay {
        self.rush.launch()
    }

    /// Makes the container's own root. Dropping the call ends it; what it made is left to
    /// [`Provisioner::remove`].
    ///
    /// # Errors
    /// The image cannot be had, or no root be made of it.
    pub async fn root(
        &self,
        id: &ContainerId,
        image: &Image,
        watcher: Option<Watcher>,
    ) -> Result<Root, ProvisionError> {
        let lease = self.lease(image, watcher).await?;
        let (taken, made) = self.make(id, image, lease.clone(), false).await?;
        let mut root = self.root_of(id, &taken.record, made, runtime(&lease.config));
        root.ready = taken.ready.map(Arc::new);
        Ok(root)
    }

    fn root_of(&self, id: &ContainerId, record: &RootRecord, made: Made, runtime: Runtime) -> Root {
        Root {
            path: self.of(id).place(record).root,
            overlay: made.overlay,
            ephemeral: made.ephemeral,
            runtime: Arc::new(runtime),
            image: record.image.clone(),
            // Of an image that cannot be read nothing is known.
            facts: self.known.of(record.id, &record.layers).unwrap_or_default(),
            record: record.clone(),
            ready: None,
        }
    }

    /// The container's own root as the last agent made it.
    #[must_use]
    pub fn known(&self, id: &ContainerId) -> Option<Root> {
        let record = self.of(id).read().roots.into_iter().find(|root| !root.shared)?;
        let lease = self.store.keep(&record.id);
        let runtime = lease.map(|lease| runtime(&lease.config)).unwrap_or_default();
        Some(self.root_of(id, &record, self.made(id, &record), runtime))
    }

    fn made(&self, id: &ContainerId, record: &RootRecord) -> Made {
        let place = self.of(id).place(record);
        record.complete(record.backend.made(&place, &record.layers))
    }

    async fn lease(
        &self,
        image: &Image,
        progress: Option<Watcher>,
    ) -> Result<Lease, ProvisionError> {
        let shown = format!("'{}'", name(image));
        let fail = |verb, source: Box<dyn std::error::Error + Send + Sync>| ProvisionError {
            verb,
            object: format!("image {shown}"),
            source: Some(source),
        };
        let Some(docker) = &image.docker else {
            let object = format!("image {shown}: only images of type DOCKER are supported");
            return Err(ProvisionError { verb: "use", object, source: None });
        };
        let reference = Reference::parse(&docker.name).map_err(|e| fail("find", e.into()))?;
        let credentials = match &docker.config {
            Some(secret) => {
                let bytes =
                    self.secrets.get(secret).map_err(|e| fail("get the secret of", e.into()))?;
                Some(bytes.into_owned())
            }
            None => None,
        };
        let force_pull = image.cached == Some(false);
        let options = Options { force_pull, credentials, progress };
        self.store.get(&reference, options).await.map_err(|error| match error {
            // It names the image itself.
            StoreError::Pull { message, .. } => ProvisionError {
                verb: "pull",
                object: format!("image {shown}: {message}"),
                source: None,
            },
            other => fail("pull", other.into()),
        })
    }

    /// Takes a root that is ready, or records one and makes it.
    async fn make(
        &self,
        id: &ContainerId,
        image: &Image,
        lease: Lease,
        shared: bool,
    ) -> Result<(Taken, Made), ProvisionError> {
        let (roots, backend) = (self.of(id), self.backend);
        let turn = self.turn(&roots).lock_owned().await;
        if let Some(entry) = self.table().get_mut(roots.path()) {
            entry.leases.push(lease.clone());
        }
        let fail = |source: Box<dyn std::error::Error + Send + Sync>| ProvisionError {
            verb: "make",
            object: format!("a root file system of image '{}'", name(image)),
            source: Some(source),
        };
        let facts = self.known.of(lease.id, &lease.layers).map_err(|e| fail(e.into()))?;
        let own = backend == Backend::Overlay && !shared;
        let root = RootRecord {
            name: uuid::Uuid::new_v4().to_string(),
            backend,
            shared,
            image: lease.reference.to_string(),
            id: lease.id,
            layers: lease.layers.clone(),
            points: facts.points.clone().filter(|_| own),
        };
        if own && let Some(taken) = self.ahead.take(&root, &roots, self.store.removals()) {
            failpoint!("provision.taken");
            let made = self.made(id, &taken.record);
            return Ok((taken, made));
        }
        let cancelled = Cancelled::default();
        let (flag, recorded) = (Arc::clone(&cancelled.0), root.clone());
        let work = move || {
            let _turn = turn;
            build(&roots, &recorded, &flag)
        };
        // A few directories are made faster than a thread is woken.
        let made = if own {
            work()
        } else {
            tokio::task::spawn_blocking(work).await.map_err(|e| fail(e.into()))?
        };
        let made = made.map_err(|e| fail(e.into()))?;
        Ok((Taken { record: root, ready: None }, made))
    }

    /// Makes roots for the next containers that are to be like this one, behind; `mount`:
    /// those can take an overlay that is mounted, and with `park` a shim that is there.
    pub fn prepare(&self, root: &Root, mount: bool, park: Option<Arc<dyn Park>>) {
        if root.overlay.is_none() {
            return;
        }
        let (ahead, trash) = (Arc::clone(&self.ahead), Arc::clone(&self.trash));
        let (like, facts) = (root.record.clone(), Arc::clone(&root.facts));
        let furniture = mount.then(|| Arc::clone(&self.furniture));
        let removals = self.store.removals();
        let work = move || {
            let (furniture, park) = (furniture.as_deref(), park.as_deref());
            if let Err(error) = ahead.fill(&like, &facts, furniture, park, removals) {
                let error = kernel::chain(&error);
                tracing::warn!(%error, image = like.image, "no root is made ahead");
            }
            ahead.tidy(&trash, removals).into_iter().for_each(Discarded::remove);
        };
        drop(tokio::task::spawn_blocking(|| standing_back(work)));
    }

    /// Removes what was made for a container and lets its images go. Its directory is
    /// away after that; what was in it is removed behind.
    ///
    /// # Errors
    /// Something is left.
    pub async fn remove(&self, id: &ContainerId) -> Result<(), ProvisionError> {
        let roots = self.of(id);
        // Whatever is being made has an entry.
        if !self.table().contains_key(roots.path()) && !roots.path().exists() {
            return Ok(());
        }
        let turn = self.turn(&roots).lock_owned().await;
        let (gone, trash) = (roots.clone(), Arc::clone(&self.trash));
        let moved = tokio::task::spawn_blocking(move || {
            let _turn = turn;
            gone.clear()?;
            // On a full disk there may be no place to move it to.
            trash.take(gone.path()).or_else(|_| gone.remove().map(|()| None))
        });
        let fail = |source: Box<dyn std::error::Error + Send + Sync>| ProvisionError {
            verb: "remove",
            object: format!("the root file systems of '{}'", id.value),
            source: Some(source),
        };
        let moved = moved.await.map_err(|e| fail(e.into()))?;
        let moved = moved.map_err(|e| {
            self.errors.fetch_add(1, Ordering::Relaxed);
            fail(e.into())
        })?;
        failpoint!("provision.moved");
        self.table().retain(|path, _| !path.starts_with(roots.path()));
        failpoint!("provision.removed");
        let Some(moved) = moved else { return Ok(()) };
        if self.trash.is_crowded() {
            let removed = tokio::task::spawn_blocking(|| moved.remove_now());
            return removed.await.map_err(|e| fail(e.into()));
        }
        let rush = Arc::clone(&self.rush);
        drop(tokio::task::spawn_blocking(move || {
            standing_back(|| {
                rush.let_pass();
                moved.remove();
            });
        }));
        Ok(())
    }

    /// Removes what is old or was left. Blocks.
    pub fn tidy(&self) {
        self.ahead.tidy(&self.trash, self.store.removals()).into_iter().for_each(Discarded::remove);
        self.trash.sweep();
        self.known.tidy(|| {
            let all = self.scan().into_iter();
            all.flat_map(|id| self.of(&id).read().roots).filter_map(|root| root.points).collect()
        });
    }

    /// Every container that something was made for. Blocks.
    #[must_use]
    pub fn scan(&self) -> Vec<ContainerId> {
        scan(&self.containers)
    }

    /// As [`Provisioner::remove`], of a container that is nobody's. Blocks.
    ///
    /// # Errors
    /// Something is left.
    pub fn sweep(&self, id: &ContainerId) -> Result<(), BackendError> {
        let roots = self.of(id);
        let _turn = self.turn(&roots).blocking_lock_owned();
        roots.remove()?;
        self.table().retain(|path, _| !path.starts_with(roots.path()));
        Ok(())
    }

    /// After a restart: keeps the images of the containers in `known`, and removes what
    /// was made for any other. What could not be removed is left to the next agent.
    pub async fn recover(&self, known: &[ContainerId]) -> Vec<ProvisionError> {
        // Only names: `tidy` removes what is behind them.
        drop(self.ahead.recover(&self.trash));
        let mut errors = Vec::new();
        for id in self.scan() {
            if !known.contains(&id) {
                tracing::info!(container = %id.value, "removing root file systems of nobody");
                errors.extend(self.remove(&id).await.err());
                continue;
            }
            let roots = self.of(&id);
            let all = roots.read().roots;
            let leases: Vec<Lease> =
                all.iter().filter_map(|root| self.store.keep(&root.id)).collect();
            self.table().entry(roots.path().to_owned()).or_default().leases.extend(leases);
        }
        // What a dead agent used is in the records of its containers, or nobody's.
        self.known.forget();
        errors
    }
}

#[async_trait]
impl isolators::image::Provisioner for Provisioner {
    async fn provision(
        &self,
        container: &ContainerId,
        image: &Image,
    ) -> Result<PathBuf, ProvisionError> {
        let lease = self.lease(image, None).await?;
        let (made, _) = self.make(container, image, lease, true).await?;
        Ok(self.of(container).place(&made.record).root)
    }

    async fn destroy(&self, container: &ContainerId) -> Result<(), ProvisionError> {
        self.remove(container).await
    }
}

/// Tells a thread that nobody waits for it any more.
#[derive(Debug, Default)]
struct Cancelled(Arc<AtomicBool>);

impl Drop for Cancelled {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// In the isolators' words.
fn runtime(config: &ImageConfig) -> Runtime {
    let pair = |text: &String| {
        let (name, value) = text.split_once('=')?;
        Some((name.to_owned(), value.to_owned()))
    };
    let given = |text: &str| Some(text.to_owned()).filter(|text| !text.is_empty());
    Runtime {
        environment: config.env.iter().filter_map(pair).collect(),
        entrypoint: config.entrypoint.clone(),
        cmd: config.cmd.clone(),
        working_directory: given(&config.working_dir).map(|dir| Path::new("/").join(dir)),
        user: given(&config.user),
        volumes: config.volumes.iter().map(|path| Path::new("/").join(path)).collect(),
        stop_signal: kernel::signals::number(&config.stop_signal),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn configurations_in_the_isolators_words() {
        let config = ImageConfig {
            env: vec!["A=b=c".into(), "EMPTY=".into(), "odd".into()],
            working_dir: "srv".into(),
            volumes: vec!["data".into()],
            stop_signal: "SIGQUIT".into(),
            ..ImageConfig::default()
        };
        let runtime = runtime(&config);
        assert_eq!(runtime.environment["A"], "b=c");
        assert_eq!(runtime.environment.len(), 2);
        assert_eq!(runtime.working_directory.as_deref(), Some(Path::new("/srv")));
        assert_eq!(runtime.user, None);
        assert_eq!(runtime.volumes, [Path::new("/data")]);
        assert_eq!(runtime.stop_signal, Some(libc::SIGQUIT));
    }
}
