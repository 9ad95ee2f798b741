//! `volume/image`: the root file system of an image, seen as a volume.
//!
//! Made by the provisioner ([`crate::image`]) for the container, removed with it.
//! Without a provisioner the isolator is there and says what is missing.

use std::sync::Arc;

use async_trait::async_trait;
use mesos::volume::Mode;

use super::{Source, check, target, volumes};
use crate::api::{
    About, ContainerContext, Contribution, Isolation, Isolator, IsolatorError, Known, Recovered,
};
use crate::config::Config;
use crate::image::{Provisioner, name};
use crate::mounts::bind;

const NAME: &str = "volume/image";

/// The isolator.
///
/// # Errors
/// The combination of flags cannot work.
pub fn image(
    config: Arc<Config>,
    filesystem_linux: bool,
) -> Result<Arc<dyn Isolator>, IsolatorError> {
    check(NAME, &config, filesystem_linux)?;
    Ok(Arc::new(VolumeImage { config }))
}

struct VolumeImage {
    config: Arc<Config>,
}

#[async_trait]
impl Isolator for VolumeImage {
    fn about(&self) -> About {
        About::everywhere(NAME)
    }

    fn attach(&self, context: &Arc<ContainerContext>) -> Box<dyn Isolation> {
        let (config, context) = (Arc::clone(&self.config), Arc::clone(context));
        Box::new(Images { config, context })
    }

    async fn recover(&self, known: &[Known]) -> Result<Recovered, IsolatorError> {
        Ok(Recovered::attached(self, known))
    }
}

/// One container's images.
#[derive(Debug)]
struct Images {
    config: Arc<Config>,
    context: Arc<ContainerContext>,
}

impl Images {
    fn wanted(&self) -> bool {
        let volumes = self.context.info.as_ref().map(|info| info.volumes.as_slice());
        volumes.unwrap_or_default().iter().any(|volume| volume.image.is_some())
    }

    fn provisioner(&self) -> Option<&Arc<dyn Provisioner>> {
        self.config.provisioner.as_ref()
    }
}

#[async_trait]
impl Isolation for Images {
    async fn prepare(&mut self) -> Result<Contribution, IsolatorError> {
        let mut part = Contribution::default();
        let all = volumes(&self.context).map_err(|text| IsolatorError::plain(NAME, "use", text))?;
        for (volume, source) in all {
            let Source::Image(image) = source else { continue };
            let shown = format!("image '{}' at volume '{}'", name(image), volume.container_path);
            let Some(provisioner) = self.provisioner() else {
                let object =
                    format!("{shown}: no image provider is configured (--image_providers)");
                return Err(IsolatorError::plain(NAME, "provision", object));
            };
            let root = provisioner
                .provision(&self.context.id, image)
                .await
                .map_err(|error| IsolatorError::new(NAME, "provision", shown, error))?;
            let directory = &self.config.sandbox_directory;
            let target = target(NAME, &self.context, directory, volume, true)?;
            part.mounts.push(bind(&root, &target, volume.mode == Mode::Ro as i32));
        }
        Ok(part)
    }

    async fn cleanup(&mut self) -> Result<(), IsolatorError> {
        let Some(provisioner) = self.provisioner().filter(|_| self.wanted()) else { return Ok(()) };
        let id = &self.context.id;
        provisioner.destroy(id).await.map_err(|error| {
            IsolatorError::new(NAME, "remove", format!("the images of '{}'", id.value), error)
        })
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;
    use std::sync::Mutex;

    use mesos::{ContainerId, ContainerInfo, Image, Volume};

    use super::*;
    use crate::image::ProvisionError;
    use crate::suite::context;

    /// Knows one image, and what it made for whom.
    #[derive(Debug, Default)]
    struct Shelf(Mutex<Vec<String>>);

    #[async_trait]
    impl Provisioner for Shelf {
        async fn provision(
            &self,
            container: &ContainerId,
            image: &Image,
        ) -> Result<PathBuf, ProvisionError> {
            if name(image) != "known" {
                let object = format!("'{}'", name(image));
                return Err(ProvisionError { verb: "pull", object, source: None });
            }
            self.0.lock().unwrap().push(container.value.clone());
            Ok("/".into())
        }

        async fn destroy(&self, container: &ContainerId) -> Result<(), ProvisionError> {
            self.0.lock().unwrap().retain(|known| *known != container.value);
            Ok(())
        }
    }

    fn asking(image: &str) -> Arc<ContainerContext> {
        let docker = mesos::image::Docker { name: image.into(), ..Default::default() };
        let image = Image { docker: Some(docker), ..Image::default() };
        let volume = Volume {
            container_path: "/mnt".into(),
            mode: Mode::Ro as i32,
            image: Some(image),
            ..Volume::default()
        };
        let mut context = context("a");
        context.info = Some(ContainerInfo { volumes: vec![volume], ..ContainerInfo::default() });
        Arc::new(context)
    }

    fn isolator(provisioner: Option<Arc<dyn Provisioner>>) -> Arc<dyn Isolator> {
        image(Arc::new(Config { provisioner, ..Config::default() }), true).unwrap()
    }

    #[tokio::test]
    async fn images_are_provisioned_bound_and_removed() {
        let shelf = Arc::new(Shelf::default());
        let mut handle = isolator(Some(shelf.clone())).attach(&asking("known"));
        let part = handle.prepare().await.unwrap();
        assert_eq!(part.mounts, [bind("/".as_ref(), "/mnt".as_ref(), true)]);
        assert_eq!(*shelf.0.lock().unwrap(), ["a"]);
        handle.cleanup().await.unwrap();
        handle.cleanup().await.unwrap();
        assert!(shelf.0.lock().unwrap().is_empty());
        let error = isolator(Some(shelf)).attach(&asking("other")).prepare().await.unwrap_err();
        assert!(error.chain().ends_with("failed to pull 'other'"), "{}", error.chain());
    }

    #[tokio::test]
    async fn without_a_provider_the_image_is_refused_by_name() {
        let mut handle = isolator(None).attach(&asking("known"));
        let error = handle.prepare().await.unwrap_err().to_string();
        assert!(error.contains("image 'known' at volume '/mnt'"), "{error}");
        assert!(error.contains("no image provider is configured"), "{error}");
        handle.cleanup().await.unwrap();
    }
}
