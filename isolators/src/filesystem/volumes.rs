//! What both `filesystem/*` do about persistent volumes.
//!
//! With a mount namespace they are bind mounts that only the container sees: nothing
//! is mounted on the host, so nothing can be left there, and deleting a sandbox never
//! reaches a volume. compat: Mesos mounts on the host and counts on propagation.
//! Without one they are links in the sandbox, and read-only is only a wish.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;
use kernel::beneath;
use kernel::volume::{Place, bind, unbind};
use mesos::Resource;

use crate::api::{
    About, ContainerContext, Contribution, Isolation, Isolator, IsolatorError, Known, Recovered,
};
use crate::config::Config;
use crate::mounts;
use crate::simple::Prepare;
use crate::volume::persistent::{self, Book, Persistent};

/// A `filesystem/*` isolator: a contribution, and persistent volumes.
pub(super) struct Filesystem<C> {
    pub(super) about: About,
    pub(super) settings: C,
    pub(super) prepare: Prepare<C>,
    pub(super) volumes: Volumes,
}

/// How volumes are shown, and who has which.
#[derive(Debug, Clone)]
pub(super) struct Volumes {
    pub(super) config: Arc<Config>,
    pub(super) book: Book,
    /// Containers have mount namespaces: bind, do not link.
    pub(super) bind: bool,
}

#[async_trait]
impl<C: Clone + Send + Sync + 'static> Isolator for Filesystem<C> {
    fn about(&self) -> About {
        self.about
    }

    fn attach(&self, context: &Arc<ContainerContext>) -> Box<dyn Isolation> {
        Box::new(self.handle(context, None))
    }

    async fn recover(&self, known: &[Known]) -> Result<Recovered, IsolatorError> {
        let handles = known.iter().map(|known| {
            let context = &known.context;
            // What was refused at its launch is not there now.
            if context.id.parent.is_none() {
                let volumes = persistent::of(&self.volumes.config.disk, &context.requests);
                self.volumes.book.note(&context.sandbox, volumes.unwrap_or_default());
            }
            Box::new(self.handle(context, known.pid)) as Box<dyn Isolation>
        });
        Ok(Recovered { handles: handles.collect(), leftovers: Vec::new() })
    }
}

impl<C: Clone> Filesystem<C> {
    fn handle(&self, context: &Arc<ContainerContext>, pid: Option<u32>) -> Handle<C> {
        Handle {
            name: self.about.name,
            settings: self.settings.clone(),
            prepare: self.prepare,
            volumes: self.volumes.clone(),
            context: Arc::clone(context),
            pid,
        }
    }
}

struct Handle<C> {
    name: &'static str,
    settings: C,
    prepare: Prepare<C>,
    volumes: Volumes,
    context: Arc<ContainerContext>,
    pid: Option<u32>,
}

impl<C> std::fmt::Debug for Handle<C> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Handle").field("id", &self.context.id.value).finish_non_exhaustive()
    }
}

#[async_trait]
impl<C: Send + Sync> Isolation for Handle<C> {
    async fn prepare(&mut self) -> Result<Contribution, IsolatorError> {
        let mut part = (self.prepare)(&self.settings, &self.context)?;
        // Nested containers have no resources, and guests no sandbox, of their own.
        if self.context.id.parent.is_some() {
            return Ok(part);
        }
        let wanted = self.wanted(&self.context.requests)?;
        for volume in &wanted {
            self.give(volume)?;
            if self.volumes.bind {
                let target = self.mount_point(volume)?;
                part.mounts.push(mounts::bind(&volume.source, &target, volume.read_only));
            } else {
                self.link(volume)?;
            }
        }
        self.volumes.book.note(&self.context.sandbox, wanted);
        Ok(part)
    }

    async fn isolate(&mut self, pid: u32) -> Result<(), IsolatorError> {
        self.pid = Some(pid);
        Ok(())
    }

    async fn update(
        &mut self,
        requests: &[Resource],
        _limits: &BTreeMap<String, f64>,
    ) -> Result<(), IsolatorError> {
        let wanted = self.wanted(requests)?;
        let now = self.volumes.book.of(&self.context.sandbox);
        for volume in now.iter().filter(|volume| !wanted.contains(volume)) {
            self.take_away(volume)?;
        }
        for volume in wanted.iter().filter(|volume| !now.contains(volume)) {
            self.give(volume)?;
            if self.volumes.bind {
                self.mount(volume)?;
            } else {
                self.link(volume)?;
            }
        }
        self.volumes.book.note(&self.context.sandbox, wanted);
        Ok(())
    }

    async fn cleanup(&mut self) -> Result<(), IsolatorError> {
        // Mounts went with their namespace, links go with the sandbox.
        if self.context.id.parent.is_none() {
            self.volumes.book.note(&self.context.sandbox, Vec::new());
        }
        Ok(())
    }
}

impl<C> Handle<C> {
    fn wanted(&self, requests: &[Resource]) -> Result<Vec<Persistent>, IsolatorError> {
        persistent::of(&self.volumes.config.disk, requests)
            .map_err(|text| IsolatorError::plain(self.name, "use", text))
    }

    fn failed(&self, verb: &'static str, path: &Path, error: std::io::Error) -> IsolatorError {
        let object = format!("persistent volume '{}'", path.display());
        IsolatorError::new(self.name, verb, object, error)
    }

    fn give(&self, volume: &Persistent) -> Result<(), IsolatorError> {
        let given = self.volumes.book.give(volume, &self.context.sandbox);
        given.map_err(|error| self.failed("change the owner of", &volume.source, error))
    }

    /// Makes the place where the volume is mounted; as the container sees it.
    fn mount_point(&self, volume: &Persistent) -> Result<PathBuf, IsolatorError> {
        let sandbox = &self.context.sandbox;
        beneath::make_directory(sandbox, &volume.path, self.context.ids).map_err(|error| {
            let point = sandbox.join(&volume.path).display().to_string();
            IsolatorError::new(self.name, "make the mount point", point, error)
        })?;
        Ok(self.root().join(&volume.path))
    }

    /// The sandbox as the container sees it.
    fn root(&self) -> &Path {
        match self.context.rootfs {
            Some(_) => &self.volumes.config.sandbox_directory,
            None => &self.context.sandbox,
        }
    }

    fn place<'a>(&'a self, volume: &'a Persistent, pid: u32) -> Place<'a> {
        Place { pid, root: self.root(), path: &volume.path }
    }

    /// Into a container that runs.
    fn mount(&self, volume: &Persistent) -> Result<(), IsolatorError> {
        self.mount_point(volume)?;
        let refuse = |why: &str| {
            let object = format!("persistent volume '{}': {why}", volume.source.display());
            Err(IsolatorError::plain(self.name, "mount", object))
        };
        let Some(pid) = self.pid else { return refuse("the container does not run") };
        if self.volumes.config.userns_remap.is_some() {
            return refuse("with --userns_remap its executor must be launched with it");
        }
        let place = self.place(volume, pid);
        // An agent that died may have got so far.
        unbind(place)
            .and_then(|()| bind(&volume.source, place, volume.read_only))
            .map_err(|error| self.failed("mount", &volume.source, std::io::Error::other(error)))
    }

    /// Links the sandbox to the volume; a link that leads there already is fine.
    fn link(&self, volume: &Persistent) -> Result<(), IsolatorError> {
        let sandbox = &self.context.sandbox;
        let place = sandbox.join(&volume.path);
        if volume.read_only {
            tracing::warn!(
                volume = %volume.source.display(),
                "read-only cannot be enforced without 'filesystem/linux'"
            );
        }
        if fs::read_link(&place).is_ok_and(|target| target == volume.source) {
            return Ok(());
        }
        beneath::make_link(sandbox, &volume.path, &volume.source).map_err(|error| {
            IsolatorError::new(self.name, "link", place.display().to_string(), error)
        })
    }

    fn take_away(&self, volume: &Persistent) -> Result<(), IsolatorError> {
        let place = self.context.sandbox.join(&volume.path);
        if !self.volumes.bind {
            return match fs::read_link(&place) {
                Ok(target) if target == volume.source => fs::remove_file(&place)
                    .map_err(|error| self.failed("remove the link to", &volume.source, error)),
                // The task has put something else there.
                _ => Ok(()),
            };
        }
        if let Some(pid) = self.pid {
            unbind(self.place(volume, pid)).map_err(|error| {
                self.failed("unmount", &volume.source, std::io::Error::other(error))
            })?;
        }
        // With something in it, it is the task's own.
        let _ = fs::remove_dir(&place);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::tests::volume;
    use crate::suite::context;

    struct Fixture {
        dir: PathBuf,
        isolator: Filesystem<()>,
        context: Arc<ContainerContext>,
    }

    impl Fixture {
        fn new(name: &str, bind: bool, requests: Vec<Resource>) -> Fixture {
            let dir = std::env::temp_dir().join(format!("volumes-{name}-{}", std::process::id()));
            for part in ["sandbox", "volumes/a", "volumes/b"] {
                fs::create_dir_all(dir.join(part)).unwrap();
            }
            let disk = persistent::tests::config(&dir);
            let config = Arc::new(Config { disk, ..Config::default() });
            let volumes = Volumes { config, book: Book::default(), bind };
            let isolator = Filesystem {
                about: About::top_level("filesystem/test"),
                settings: (),
                prepare: |(), _| Ok(Contribution::default()),
                volumes,
            };
            let sandbox = dir.join("sandbox");
            let context = Arc::new(ContainerContext { sandbox, requests, ..context("a") });
            Fixture { dir, isolator, context }
        }
    }

    impl Drop for Fixture {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.dir);
        }
    }

    #[tokio::test]
    async fn links_come_and_go() {
        let (a, b) = (volume("a", "data", 8.0, None), volume("b", "deep/er", 8.0, None));
        let it = Fixture::new("link", false, vec![a.clone()]);
        let mut handle = it.isolator.attach(&it.context);
        assert_eq!(handle.prepare().await.unwrap(), Contribution::default());
        let link = it.dir.join("sandbox/data");
        assert_eq!(fs::read_link(&link).unwrap(), it.dir.join("volumes/a"));
        handle.update(&[a.clone(), b.clone()], &BTreeMap::new()).await.unwrap();
        assert_eq!(
            fs::read_link(it.dir.join("sandbox/deep/er")).unwrap(),
            it.dir.join("volumes/b")
        );
        // After a restart of the agent all of it is known.
        let mut requests = (*it.context).clone();
        requests.requests = vec![a, b.clone()];
        let known = [Known { context: Arc::new(requests), pid: None }];
        let mut handle = it.isolator.recover(&known).await.unwrap().handles.remove(0);
        handle.update(&[b], &BTreeMap::new()).await.unwrap();
        assert!(fs::symlink_metadata(&link).is_err(), "the link is gone");
        handle.cleanup().await.unwrap();
        assert!(it.isolator.volumes.book.of(&it.context.sandbox).is_empty());
    }

    #[tokio::test]
    async fn binds_are_part_of_the_plan() {
        let a = volume("a", "data", 8.0, None);
        let it = Fixture::new("bind", true, vec![a]);
        let mut handle = it.isolator.attach(&it.context);
        let part = handle.prepare().await.unwrap();
        let (source, target) = (it.dir.join("volumes/a"), it.dir.join("sandbox/data"));
        assert_eq!(part.mounts, [mounts::bind(&source, &target, false)]);
        assert!(target.is_dir());
        let lost = Fixture::new("lost", true, vec![volume("no", "data", 8.0, None)]);
        let error = lost.isolator.attach(&lost.context).prepare().await.unwrap_err().chain();
        assert!(error.contains("volumes/no") && error.contains("No such file"), "{error}");
    }
}
