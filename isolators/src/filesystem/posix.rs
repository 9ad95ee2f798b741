//! `filesystem/posix`: the host's file system, as it is.

use std::collections::BTreeSet;
use std::sync::Arc;

use async_trait::async_trait;

use super::check_volumes;
use crate::api::{
    ContainerContext, Contribution, Isolation, Isolator, IsolatorError, Known, Recovered,
};
use crate::simple::{Prepared, recovered};

const NAME: &str = "filesystem/posix";

type Enabled = Arc<BTreeSet<&'static str>>;

/// The isolator.
#[derive(Debug)]
pub struct FilesystemPosix {
    enabled: Enabled,
}

impl FilesystemPosix {
    /// `enabled`: names of all enabled isolators.
    #[must_use]
    pub fn new(enabled: BTreeSet<&'static str>) -> Self {
        FilesystemPosix { enabled: Arc::new(enabled) }
    }
}

#[async_trait]
impl Isolator for FilesystemPosix {
    fn name(&self) -> &'static str {
        NAME
    }

    fn attach(&self, context: &Arc<ContainerContext>) -> Box<dyn Isolation> {
        let (config, context) = (Arc::clone(&self.enabled), Arc::clone(context));
        Box::new(Prepared { config, context, prepare })
    }

    async fn recover(&self, known: &[Known]) -> Result<Recovered, IsolatorError> {
        Ok(recovered(&self.enabled, prepare, known))
    }
}

fn prepare(enabled: &Enabled, context: &ContainerContext) -> Result<Contribution, IsolatorError> {
    if context.rootfs.is_some() {
        let object = "a container with an image: 'filesystem/linux' must be used";
        return Err(IsolatorError::plain(NAME, "start", object));
    }
    check_volumes(NAME, context, enabled)?;
    Ok(Contribution::default())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::suite::context;

    #[test]
    fn the_host_as_it_is() {
        let enabled: Enabled = Arc::default();
        assert_eq!(prepare(&enabled, &context("a")).unwrap(), Contribution::default());
        let mut image = context("a");
        image.rootfs = Some("/rootfs".into());
        assert!(prepare(&enabled, &image).is_err());
    }
}
