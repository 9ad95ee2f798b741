//! Root file systems of containers: [`Provisioner`].
//!
//! Owns what was made for whom. A root is recorded before it is made, and its image kept
//! in the store from then on until the container is destroyed; both outlive the agent.
//! What the containerizer does not know of any more is removed at recovery.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use isolators::image::{ProvisionError, Runtime, name};
use isolators::plan::Overlay;
use isolators::runtime::users::{self, Identity};
use isolators::secret::Secrets;
use kernel::failpoint;
use mesos::{ContainerId, Image};

use super::backend::{Backend, BackendError, Made, failed};
use super::look::{self, Missing, Point};
use super::record::{ContainerRoots, RootRecord, scan};
use super::store::{Lease, Options, Store, StoreError};
use super::{Digest, ImageConfig, Progress, Reference};

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
    facts: Arc<Facts>,
}

impl Root {
    /// Who `spec` (`user[:group]`, names or numbers) is in this image.
    ///
    /// # Errors
    /// Nobody; for people.
    pub fn identity(&self, spec: &str) -> Result<Identity, String> {
        users::resolve(spec, &self.facts.passwd, &self.facts.group)
    }
}

/// What is worth knowing of an image; its layers never change.
#[derive(Debug, Default)]
struct Facts {
    passwd: String,
    group: String,
    missing: Vec<Missing>,
}

impl Facts {
    fn read(layers: &[PathBuf], points: &[Point]) -> std::io::Result<Facts> {
        // Without them only numbers are known.
        let text = |file: &str| {
            look::text(layers, Path::new(file)).unwrap_or_else(|error| {
                tracing::warn!(%error, ?layers, "failed to read /{file} of an image");
                String::new()
            })
        };
        let (passwd, group) = (text("etc/passwd"), text("etc/group"));
        Ok(Facts { passwd, group, missing: look::missing(layers, points)? })
    }
}

/// Images whose facts are remembered.
const REMEMBERED: usize = 256;

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
    /// What containers have mounted in their root.
    points: Vec<Point>,
    facts: Mutex<BTreeMap<Digest, Arc<Facts>>>,
    table: Mutex<BTreeMap<PathBuf, Entry>>,
    errors: AtomicU64,
}

impl Provisioner {
    /// `containers` is the directory of all containers' roots, `points` what they have
    /// mounted on.
    #[must_use]
    pub fn new(
        store: Store,
        backend: Backend,
        containers: PathBuf,
        secrets: Secrets,
        points: Vec<Point>,
    ) -> Provisioner {
        Provisioner {
            store,
            backend,
            containers,
            secrets,
            points,
            facts: Mutex::default(),
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
        (having as u64, self.errors.load(Ordering::Relaxed))
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
        let (record, made) = self.make(id, image, lease.clone(), false).await?;
        Ok(self.root_of(id, &record, made, runtime(&lease.config)))
    }

    /// What the layers of an image say.
    fn facts(&self, image: &RootRecord) -> std::io::Result<Arc<Facts>> {
        let known = || self.facts.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(facts) = known().get(&image.id) {
            return Ok(Arc::clone(facts));
        }
        let facts = Arc::new(Facts::read(&image.layers, &self.points)?);
        let mut known = known();
        if known.len() >= REMEMBERED {
            known.clear();
        }
        known.insert(image.id, Arc::clone(&facts));
        Ok(facts)
    }

    fn root_of(&self, id: &ContainerId, record: &RootRecord, made: Made, runtime: Runtime) -> Root {
        Root {
            path: self.of(id).place(record).root,
            overlay: made.overlay,
            ephemeral: made.ephemeral,
            runtime: Arc::new(runtime),
            image: record.image.clone(),
            // Of an image that cannot be read nothing is known.
            facts: self.facts(record).unwrap_or_default(),
        }
    }

    /// The container's own root as the last agent made it.
    #[must_use]
    pub fn known(&self, id: &ContainerId) -> Option<Root> {
        let record = self.of(id).read().roots.into_iter().find(|root| !root.shared)?;
        let lease = self.store.keep(&record.id);
        let runtime = lease.map(|lease| runtime(&lease.config)).unwrap_or_default();
        let made = record.backend.made(&self.of(id).place(&record), &record.layers);
        Some(self.root_of(id, &record, made, runtime))
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

    /// Records a root, then makes it.
    async fn make(
        &self,
        id: &ContainerId,
        image: &Image,
        lease: Lease,
        shared: bool,
    ) -> Result<(RootRecord, Made), ProvisionError> {
        let (roots, backend) = (self.of(id), self.backend);
        let turn = self.turn(&roots).lock_owned().await;
        if let Some(entry) = self.table().get_mut(roots.path()) {
            entry.leases.push(lease.clone());
        }
        let root = RootRecord {
            name: uuid::Uuid::new_v4().to_string(),
            backend,
            shared,
            image: lease.reference.to_string(),
            id: lease.id,
            layers: lease.layers.clone(),
        };
        let fail = |source: Box<dyn std::error::Error + Send + Sync>| ProvisionError {
            verb: "make",
            object: format!("a root file system of image '{}'", name(image)),
            source: Some(source),
        };
        let facts = self.facts(&root).map_err(|e| fail(e.into()))?;
        let cancelled = Cancelled::default();
        let (flag, recorded) = (Arc::clone(&cancelled.0), root.clone());
        let work = move || {
            let _turn = turn;
            let mut record = roots.read();
            record.roots.push(recorded.clone());
            roots.write(&record)?;
            failpoint!("provision.recorded");
            let place = roots.place(&recorded);
            let made = backend.make(&place, &recorded.layers, &flag)?;
            if let Some(overlay) = &made.overlay {
                for missing in &facts.missing {
                    missing.make(&overlay.upper).map_err(failed("prepare", &overlay.upper))?;
                }
            }
            failpoint!("provision.made");
            Ok::<Made, BackendError>(made)
        };
        // A few directories are made faster than a thread is woken.
        let made = if backend == Backend::Copy || shared {
            tokio::task::spawn_blocking(work).await.map_err(|e| fail(e.into()))?
        } else {
            work()
        };
        let made = made.map_err(|e| fail(e.into()))?;
        Ok((root, made))
    }

    /// Removes all that was made for a container and lets its images go.
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
        let gone = roots.clone();
        let removed = tokio::task::spawn_blocking(move || {
            let _turn = turn;
            gone.remove()
        });
        let fail = |source: Box<dyn std::error::Error + Send + Sync>| ProvisionError {
            verb: "remove",
            object: format!("the root file systems of '{}'", id.value),
            source: Some(source),
        };
        let removed = removed.await.map_err(|e| fail(e.into()))?;
        removed.map_err(|e| {
            self.errors.fetch_add(1, Ordering::Relaxed);
            fail(e.into())
        })?;
        self.table().retain(|path, _| !path.starts_with(roots.path()));
        failpoint!("provision.removed");
        Ok(())
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
        let (record, _) = self.make(container, image, lease, true).await?;
        Ok(self.of(container).place(&record).root)
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
        volumes: config.volumes.iter().map(PathBuf::from).collect(),
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
            ..ImageConfig::default()
        };
        let runtime = runtime(&config);
        assert_eq!(runtime.environment["A"], "b=c");
        assert_eq!(runtime.environment.len(), 2);
        assert_eq!(runtime.working_directory.as_deref(), Some(Path::new("/srv")));
        assert_eq!(runtime.user, None);
    }
}
