//! Containers with an image of their own: PROVISIONING, and what follows from it.
//!
//! Called by `start` for a new container and by `recover` for one that was found. What
//! is on the disk belongs to the provisioner; a container only knows its root.

use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;

use async_trait::async_trait;
use isolators::api::ContainerContext;
use isolators::plan::Park;
use isolators::runtime::users::Identity;
use kernel::failpoint;
use mesos::Image;

use super::container::{Container, Handle, Phase};
use super::{Shared, chain, debug};
use crate::containerizer::images::{self, ImageRow, ImageStore, ImagesError};
use crate::containerizer::table::Failure;
use crate::containerizer::{LaunchRequest, Progress};
use crate::launch::Engine;
use crate::provisioner::{self, Options, Provisioner, Reference, Root};

/// The isolator that makes an image's words count.
pub(super) const RUNTIME: &str = "docker/runtime";

/// Where a container lives, and as whom.
#[derive(Debug, Clone)]
pub(super) struct Home {
    pub(super) root: Root,
    /// Who it is in the image, if that is not for the host to say.
    pub(super) identity: Option<Identity>,
    /// Home directory by the image's words.
    pub(super) directory: Option<String>,
    /// Whether what the image says of its processes counts.
    pub(super) heeded: bool,
}

impl Home {
    /// The image's own signal to ask for the end.
    pub(super) fn stop_signal(&self) -> Option<i32> {
        self.root.runtime.stop_signal.filter(|_| self.heeded)
    }
}

/// The image that a container asks for as its root.
pub(super) fn wanted(request: &LaunchRequest) -> Option<&Image> {
    if debug::is_guest(request) {
        return None;
    }
    request.container.as_ref()?.mesos.as_ref()?.image.as_ref()
}

/// Whether the image says who runs: if the task names nobody and would be root. An image
/// never gives more than its framework has.
fn decides(request: &LaunchRequest, ids: Option<(u32, u32)>) -> bool {
    request.command.user.is_none() && matches!(ids, Some((0, _)))
}

impl Shared {
    /// Whether images have a say.
    pub(super) fn heeds_images(&self) -> bool {
        let names = &self.isolators.isolation.names;
        names.contains(&RUNTIME) && !self.config.isolators.docker_ignore_runtime
    }

    /// Whether a root may be mounted before its container is made.
    pub(super) fn takes_mounted_roots(&self) -> bool {
        // With user namespaces layers are mapped first, and libcontainer mounts itself.
        self.launcher.engine() == Engine::Linux
            && !self.isolators.isolation.names.contains(&"namespaces/user")
    }

    /// Who starts shims ahead: most containers have pid namespaces of their own.
    pub(super) fn park(&self) -> Option<Arc<dyn Park>> {
        let own_pids = self.isolators.isolation.names.contains(&"namespaces/pid");
        own_pids.then(|| Arc::clone(&self.launcher) as Arc<dyn Park>)
    }

    /// What follows from a root for its container.
    pub(super) fn home(
        &self,
        request: &LaunchRequest,
        ids: Option<(u32, u32)>,
        root: Root,
    ) -> Result<Home, String> {
        if !self.heeds_images() {
            return Ok(Home { root, identity: None, directory: None, heeded: false });
        }
        let user = root.runtime.user.clone().filter(|_| decides(request, ids));
        if let Some(user) = user {
            let identity = root.identity(&user)?;
            let directory = Some(identity.home.clone());
            return Ok(Home { root, identity: Some(identity), directory, heeded: true });
        }
        let uid = ids.map_or(0, |(uid, _)| uid);
        // Nothing depends on it.
        let directory = root.identity(&uid.to_string()).ok().map(|known| known.home);
        Ok(Home { root, identity: None, directory, heeded: true })
    }
}

/// The context of a container that has this home.
pub(super) fn at_home(context: &ContainerContext, home: &Home) -> ContainerContext {
    ContainerContext {
        rootfs: Some(home.root.path.clone()),
        ephemeral_volumes: home.root.ephemeral.clone(),
        image: Some(Arc::clone(&home.root.runtime)),
        ids: home.identity.as_ref().map(|who| (who.uid, who.gid)).or(context.ids),
        ..context.clone()
    }
}

impl Container {
    /// Makes the root of the image, if one is asked for. The handles are made again with
    /// what is known then: none has done anything yet.
    pub(super) async fn provision(&mut self) -> Result<(), Failure> {
        let failed = |message: String| Failure { step: "provision", message };
        let Some(image) = wanted(&self.request) else { return Ok(()) };
        let provisioner = self.shared.config.provisioner.clone();
        let provisioner = provisioner.ok_or_else(|| failed(NO_PROVIDER.into()))?;
        self.enter(Phase::Provisioning);
        self.is_at(Progress::Pulling(images::Progress::default()));
        let view = self.view.clone();
        let watcher: provisioner::Watcher = Arc::new(move |progress| {
            let progress = Progress::Pulling(shown(progress));
            view.send_modify(|view| view.progress = Some(progress));
        });
        let mut root = pin!(provisioner.root(&self.request.id, image, Some(watcher)));
        let root = match poll_fn(|context| Poll::Ready(root.as_mut().poll(context))).await {
            Poll::Ready(root) => root,
            // It may take long: an agent that finds it then is to know what it is.
            Poll::Pending => {
                self.keep_config()?;
                root.await
            }
        };
        let root = root.map_err(|error| failed(chain(&error)))?;
        failpoint!("launch.provisioned");
        let home = self.shared.home(&self.request, self.context.ids, root).map_err(failed)?;
        if let Some(who) = &home.identity {
            let sandbox = &self.request.sandbox;
            std::os::unix::fs::lchown(sandbox, Some(who.uid), Some(who.gid)).map_err(|error| {
                let (user, path) = (who.uid, sandbox.display());
                failed(format!("failed to give '{path}' to user {user} of the image: {error}"))
            })?;
        }
        self.context = Arc::new(at_home(&self.context, &home));
        let all = self.shared.isolators_for(&self.request);
        self.handles = all
            .map(|isolator| Handle {
                isolator: isolator.name(),
                isolation: isolator.attach(&self.context),
            })
            .collect();
        let identity = home.identity.clone();
        self.view.send_modify(|view| view.identity = identity);
        self.home = Some(home);
        Ok(())
    }

    /// Has roots made for the next containers of its image, if it has one.
    pub(super) fn restock(&self) {
        if let (Some(provisioner), Some(home)) = (&self.shared.config.provisioner, &self.home) {
            let (mount, park) = (self.shared.takes_mounted_roots(), self.shared.park());
            provisioner.prepare(&home.root, mount, park);
        }
    }

    /// Removes what was made of images, for its volumes as well.
    pub(super) async fn unprovision(&self, errors: &mut Vec<String>) {
        let Some(provisioner) = &self.shared.config.provisioner else { return };
        if let Err(error) = provisioner.remove(&self.request.id).await {
            errors.push(chain(&error));
        }
    }
}

/// Said of every image where there is no provisioner.
pub(super) const NO_PROVIDER: &str =
    "container images are not supported: no image provider is configured (--image_providers)";

fn shown(progress: provisioner::Progress) -> images::Progress {
    images::Progress {
        layers: progress.layers_of,
        layers_done: progress.layers,
        bytes: progress.of,
        bytes_done: progress.bytes,
    }
}

/// The images of the store, for people.
pub(super) struct Images(pub(super) Arc<Provisioner>);

fn row(listed: provisioner::Listed) -> ImageRow {
    ImageRow {
        name: listed.reference.to_string(),
        digest: Some(listed.manifest.unwrap_or(listed.id).to_string()),
        bytes: listed.bytes,
        last_used: Some(listed.used),
        in_use: listed.in_use,
    }
}

fn failed(verb: &'static str, object: String, message: String) -> ImagesError {
    ImagesError { verb, object, message }
}

#[async_trait]
impl ImageStore for Images {
    async fn pull(
        &self,
        image: &str,
        force: bool,
        watcher: images::Watcher,
    ) -> Result<ImageRow, ImagesError> {
        let fail = |message| failed("pull", format!("image '{image}'"), message);
        let reference = Reference::parse(image).map_err(|e| fail(e.to_string()))?;
        let progress: provisioner::Watcher = Arc::new(move |now| watcher(shown(now)));
        let options = Options { force_pull: force, progress: Some(progress), ..Options::default() };
        let pulled = self.0.store().get(&reference, options).await;
        let lease = pulled.map_err(|error| match error {
            provisioner::StoreError::Pull { message, .. } => fail(message),
            other => fail(chain(&other)),
        })?;
        let (name, id, bytes) = (lease.reference.to_string(), lease.id, lease.bytes);
        let manifest = lease.manifest;
        drop(lease);
        let known = self.0.store().list().into_iter().find(|row| row.reference.to_string() == name);
        Ok(known.map(row).unwrap_or(ImageRow {
            name,
            digest: Some(manifest.unwrap_or(id).to_string()),
            bytes,
            last_used: None,
            in_use: false,
        }))
    }

    async fn list(&self) -> Result<Vec<ImageRow>, ImagesError> {
        let store = self.0.store().clone();
        let list = tokio::task::spawn_blocking(move || store.list()).await;
        let list = list.map_err(|e| failed("list", "images".into(), e.to_string()))?;
        Ok(list.into_iter().map(row).collect())
    }

    async fn prune(&self, excluded: &[String]) -> Result<Vec<ImageRow>, ImagesError> {
        let fail = |message| failed("remove", "unused images".into(), message);
        let excluded: Result<Vec<Reference>, _> =
            excluded.iter().map(|name| Reference::parse(name)).collect();
        let excluded = excluded.map_err(|e| fail(e.to_string()))?;
        let before = self.list().await?;
        let pruned = self.0.store().prune(&excluded).await.map_err(|e| fail(chain(&e)))?;
        let gone: Vec<String> = pruned.images.iter().map(ToString::to_string).collect();
        Ok(before.into_iter().filter(|row| gone.contains(&row.name)).collect())
    }
}

#[cfg(test)]
mod tests {
    use mesos::CommandInfo;

    use super::*;
    use crate::containerizer::request::tests::request;

    #[test]
    fn an_image_never_gives_more_than_its_framework_has() {
        let mut asked = request("a", CommandInfo::default());
        assert!(decides(&asked, Some((0, 0))));
        assert!(!decides(&asked, Some((1000, 1000))));
        // Users are not switched.
        assert!(!decides(&asked, None));
        asked.command.user = Some("root".into());
        assert!(!decides(&asked, Some((0, 0))));
    }
}
