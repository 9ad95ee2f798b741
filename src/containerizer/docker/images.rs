//! The engine's images: pulled for containers or ahead of them, listed, removed.
//!
//! Owns the records of what we pulled ([`super::records`]). What may go is decided in
//! [`super::prune`]; the engine itself refuses to remove what a container uses.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use async_trait::async_trait;
use serde_json::Value;
use tracing::{debug, info, warn};

use super::config::Config;
use super::engine::{Engine, EngineError, Image, image_name};
use super::image;
use super::prune::{ImagePolicy, Pulled, is_full, order};
use super::records::Records;
use crate::containerizer::images::{ImageRow, ImageStore, ImagesError, Progress, Watcher};
use crate::daemon::metrics::Timer;

/// The images of the engine.
pub(super) struct Images {
    engine: Arc<Engine>,
    credentials: Option<Value>,
    records: Records,
    /// How long pulls took.
    timer: OnceLock<Timer>,
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

impl Images {
    pub(super) fn new(engine: Arc<Engine>, config: &Config) -> Images {
        let (credentials, records) = (config.credentials.clone(), &config.image_records);
        let timer = OnceLock::new();
        Images { engine, credentials, records: Records::open(records), timer }
    }

    /// From now on this is told how long pulls take.
    pub(super) fn time(&self, timer: Timer) {
        let _ = self.timer.set(timer);
    }

    /// Sees to it that an image is there. `force`: asks its registry for the newest.
    /// `credentials` are looked at before the agent's own.
    pub(super) async fn ensure(
        &self,
        image: &str,
        force: bool,
        credentials: Option<&Value>,
        watcher: Option<Watcher>,
    ) -> Result<Image, EngineError> {
        let (name, tag) = image::split(image);
        let full = image_name(name, tag);
        let there = self.engine.image(&full).await?;
        if let Some(there) = there.filter(|_| !force) {
            self.records.touch([there.id.as_str()].into_iter(), now());
            return Ok(there);
        }
        info!(image = full, "pulling");
        let before = self.engine.images().await?;
        self.records.begin(&full, now());
        let all = credentials.into_iter().chain(&self.credentials);
        let auth = all.into_iter().find_map(|all| image::credentials(all, image));
        let began = Instant::now();
        let mut pulling = Pulling::default();
        let pulled = self
            .engine
            .pull(name, tag, auth.as_deref(), |report| {
                let progress = pulling.hear(report);
                watcher.iter().for_each(|watcher| watcher(progress));
            })
            .await;
        if let Some(timer) = self.timer.get().filter(|_| pulled.is_ok()) {
            timer.record(Instant::now(), began.elapsed());
        }
        let came = match pulled {
            Ok(()) => self.engine.image(&full).await,
            Err(error) => Err(error),
        };
        let brought = match &came {
            Ok(Some(image)) => self.brought(&before, image),
            _ => None,
        };
        self.records.end(&full, brought, now());
        let missing = || EngineError::Refused {
            operation: "pull image",
            object: full.clone(),
            status: 404,
            message: "it is not there after the pull".into(),
        };
        came?.ok_or_else(missing)
    }

    /// The image and the names that it did not have before; `None` if somebody else
    /// had it.
    fn brought<'a>(&self, before: &[Image], image: &'a Image) -> Option<(&'a str, Vec<String>)> {
        let known = before.iter().find(|known| known.id == image.id);
        if known.is_some() && !self.records.book().images.contains_key(&image.id) {
            return None;
        }
        let had = |name: &&String| {
            known.is_some_and(|known| known.tags.contains(name) || known.digests.contains(name))
        };
        let names = image.tags.iter().chain(&image.digests).filter(|name| !had(name));
        Some((&image.id, names.cloned().collect()))
    }

    /// Containers run that have these images.
    pub(super) fn touch<'a>(&self, ids: impl Iterator<Item = &'a str>) {
        self.records.touch(ids, now());
    }

    /// Finds out what became of pulls that an agent before us did not see the end of.
    pub(super) async fn recover(&self) -> Result<(), EngineError> {
        for (name, began) in self.records.book().pulls {
            let image = self.engine.image(&name).await?;
            let since = |image: &Image| image.tagged.is_some_and(|at| at / 1_000_000_000 >= began);
            let brought = image.as_ref().filter(|image| since(image)).map(|image| {
                let names = image.tags.iter().chain(&image.digests).cloned().collect();
                (image.id.as_str(), names)
            });
            self.records.end(&name, brought, now());
        }
        Ok(())
    }

    /// What we pulled and is there; forgets the rest.
    async fn pulled(&self) -> Result<Vec<Pulled>, EngineError> {
        // What comes while the list is made is in neither.
        let book = self.records.book();
        let images = self.engine.images().await?;
        let used = self.used().await?;
        let there: BTreeMap<&str, &Image> = images.iter().map(|i| (i.id.as_str(), i)).collect();
        self.records.forget(|id| book.images.contains_key(id) && !there.contains_key(id));
        let pulled = book.images.into_iter().filter_map(|(id, record)| {
            let image = (*there.get(id.as_str())?).clone();
            let in_use = used.contains(&image.id);
            Some(Pulled { image, names: record.names, used: record.used, in_use })
        });
        Ok(pulled.collect())
    }

    /// Images that some container has, of whoever.
    async fn used(&self) -> Result<BTreeSet<String>, EngineError> {
        let containers = self.engine.list_all().await?;
        Ok(containers.into_iter().map(|container| container.image).collect())
    }

    /// Takes our names from an image, and with the last one the image goes.
    async fn remove(&self, pulled: &Pulled) -> Result<(), EngineError> {
        for name in &pulled.image.tags {
            self.engine.remove_image(name).await?;
        }
        self.engine.remove_image(&pulled.image.id).await?;
        info!(image = pulled.image.id, names = ?pulled.image.tags, "removed an image");
        let id = &pulled.image.id;
        self.records.forget(|known| known == id);
        Ok(())
    }

    /// Removes what may go, with a `disk` only until that has room; what went.
    async fn clean(
        &self,
        excluded: &[String],
        disk: Option<&Disk>,
    ) -> Result<Vec<Pulled>, EngineError> {
        let all = self.pulled().await?;
        let mut gone = Vec::new();
        for pulled in order(&all, excluded) {
            if let Some(disk) = disk
                && !disk.is_full().await
            {
                break;
            }
            match self.remove(pulled).await {
                Ok(()) => gone.push(pulled.clone()),
                // A container has come to use it.
                Err(error) if error.is_conflict() => {}
                Err(error) => return Err(error),
            }
        }
        Ok(gone)
    }

    /// Removes images while the engine's disk has less room than it should.
    async fn watch_disk(&self, policy: &ImagePolicy) -> Result<(), EngineError> {
        let Some(disk) = Disk::of(&self.engine, policy.headroom).await? else { return Ok(()) };
        if disk.is_full().await && self.clean(&policy.excluded, Some(&disk)).await?.is_empty() {
            debug!("docker's disk is nearly full, and no image may go");
        }
        Ok(())
    }
}

/// The disk that the engine keeps everything on.
pub(super) struct Disk {
    root: String,
    headroom: f64,
}

impl Disk {
    /// `headroom`: the share of it that is to be free. `None`: the engine does not say
    /// where it is.
    pub(super) async fn of(engine: &Engine, headroom: f64) -> Result<Option<Disk>, EngineError> {
        let info = engine.info().await?;
        let root = info["DockerRootDir"].as_str().map(str::to_owned);
        Ok(root.map(|root| Disk { root, headroom }))
    }

    /// Whether it has less room than it should; not if it cannot be asked, as that of
    /// an engine elsewhere.
    pub(super) async fn is_full(&self) -> bool {
        let root = self.root.clone();
        let asking = tokio::task::spawn_blocking(move || kernel::machine::space(Path::new(&root)));
        match asking.await {
            Ok(Ok(space)) => is_full(space.available, space.total, self.headroom),
            _ => false,
        }
    }
}

/// Looks at the engine's disk for ever.
pub(super) async fn run(images: Arc<Images>, policy: Option<ImagePolicy>) {
    const AGAIN: Duration = Duration::from_secs(30);
    while let Err(error) = images.recover().await {
        debug!(error = %kernel::chain(&error), "pulls of before are not looked at yet");
        tokio::time::sleep(AGAIN).await;
    }
    let Some(policy) = policy else { return };
    loop {
        if let Err(error) = images.watch_disk(&policy).await {
            warn!(error = %kernel::chain(&error), "failed to remove images");
        }
        tokio::time::sleep(policy.interval).await;
    }
}

/// What the engine reports of a pull, added up.
#[derive(Debug, Default)]
struct Pulling {
    /// Bytes there and bytes in all, and whether it is done, by layer.
    layers: BTreeMap<String, (u64, u64, bool)>,
}

impl Pulling {
    fn hear(&mut self, report: &Value) -> Progress {
        let (id, status) = (report["id"].as_str(), report["status"].as_str().unwrap_or_default());
        // The image itself reports under its tag.
        if let Some(id) = id.filter(|_| !status.starts_with("Pulling from")) {
            let layer = self.layers.entry(id.to_owned()).or_default();
            let number = |name: &str| report["progressDetail"][name].as_u64();
            match status {
                "Already exists" | "Pull complete" => (layer.0, layer.2) = (layer.1, true),
                "Downloading" => {
                    layer.0 = number("current").unwrap_or(layer.0);
                    layer.1 = number("total").unwrap_or(layer.1);
                }
                "Download complete" => layer.0 = layer.1,
                _ => {}
            }
        }
        let count = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        Progress {
            layers: count(self.layers.len()),
            layers_done: count(self.layers.values().filter(|layer| layer.2).count()),
            bytes: self.layers.values().map(|layer| layer.1).sum(),
            bytes_done: self.layers.values().map(|layer| layer.0).sum(),
        }
    }
}

fn failed(verb: &'static str, object: String) -> impl FnOnce(EngineError) -> ImagesError {
    move |error| {
        let message = match error {
            EngineError::Refused { message, .. } => message,
            error => kernel::chain(&error),
        };
        ImagesError { verb, object, message }
    }
}

fn row(image: &Image, name: String, used: Option<u64>, in_use: bool) -> ImageRow {
    ImageRow {
        name,
        digest: Some(image.id.clone()),
        bytes: image.bytes,
        last_used: used.map(|used| UNIX_EPOCH + Duration::from_secs(used)),
        in_use,
    }
}

/// What an image is called.
fn names(image: &Image) -> Vec<String> {
    let names = if image.tags.is_empty() { &image.digests } else { &image.tags };
    if names.is_empty() { vec![image.id.clone()] } else { names.clone() }
}

#[async_trait]
impl ImageStore for Images {
    async fn pull(
        &self,
        image: &str,
        force: bool,
        watcher: Watcher,
    ) -> Result<ImageRow, ImagesError> {
        let there = self.ensure(image, force, None, Some(watcher)).await;
        let there = there.map_err(failed("pull", format!("image '{image}'")))?;
        let (name, tag) = image::split(image);
        let used = self.records.book().images.get(&there.id).map(|record| record.used);
        Ok(row(&there, image_name(name, tag), used, false))
    }

    /// Everything that the engine has, of whoever.
    async fn list(&self) -> Result<Vec<ImageRow>, ImagesError> {
        let images = self.engine.images().await.map_err(failed("list", "images".into()))?;
        let in_use = self.used().await.map_err(failed("list", "containers".into()))?;
        let book = self.records.book();
        let mut rows: Vec<ImageRow> = images
            .iter()
            .flat_map(|image| {
                let used = book.images.get(&image.id).map(|record| record.used);
                let is_used = in_use.contains(&image.id);
                names(image).into_iter().map(move |name| row(image, name, used, is_used))
            })
            .collect();
        rows.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(rows)
    }

    async fn prune(&self, excluded: &[String]) -> Result<Vec<ImageRow>, ImagesError> {
        let gone = self.clean(excluded, None).await;
        let gone = gone.map_err(failed("remove", "images".into()))?;
        let rows = gone.iter().flat_map(|pulled| {
            let each = names(&pulled.image).into_iter();
            each.map(|name| row(&pulled.image, name, Some(pulled.used), false))
        });
        Ok(rows.collect())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn reports_of_a_pull_add_up() {
        let mut pulling = Pulling::default();
        let mut last = Progress::default();
        for report in [
            json!({"status": "Pulling from library/a", "id": "latest"}),
            json!({"status": "Pulling fs layer", "id": "l1"}),
            json!({"status": "Already exists", "id": "l2"}),
            json!({"status": "Downloading", "id": "l1",
                   "progressDetail": {"current": 3, "total": 10}}),
            json!({"status": "Digest: sha256:00"}),
        ] {
            last = pulling.hear(&report);
        }
        assert_eq!((last.layers, last.layers_done), (2, 1));
        assert_eq!((last.bytes, last.bytes_done), (10, 3));
        last = pulling.hear(&json!({"status": "Pull complete", "id": "l1"}));
        assert_eq!((last.layers_done, last.bytes_done), (2, 10));
    }

    #[test]
    fn what_somebody_else_had_is_not_ours() {
        let dir = std::env::temp_dir().join(format!("images-{}", std::process::id()));
        let config = Config { image_records: dir.join("images"), ..Config::default() };
        let images = Images::new(Arc::new(Engine::new(Path::new("/nonexistent"))), &config);
        let image = |tags: &[&str]| Image {
            id: "sha256:1".into(),
            tags: tags.iter().map(|tag| (*tag).to_owned()).collect(),
            ..Image::default()
        };
        let (one, both) = (image(&["a:1"]), image(&["a:1", "b:1"]));
        assert_eq!(images.brought(&[], &one), Some(("sha256:1", vec!["a:1".to_owned()])));
        assert_eq!(images.brought(std::slice::from_ref(&one), &both), None);
        images.records.end("a:1", Some(("sha256:1", vec!["a:1".into()])), 1);
        let more = Some(("sha256:1", vec!["b:1".to_owned()]));
        assert_eq!(images.brought(std::slice::from_ref(&one), &both), more);
        std::fs::remove_dir_all(&dir).unwrap();
    }
}
