//! `filesystem/posix`: the host's file system, as it is. Persistent volumes are links.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::check_volumes;
use super::volumes::{Filesystem, Volumes};
use crate::api::{About, ContainerContext, Contribution, Isolator, IsolatorError};
use crate::config::Config;
use crate::volume::persistent::Book;

const NAME: &str = "filesystem/posix";

type Enabled = Arc<BTreeSet<&'static str>>;

/// The isolator. `enabled`: names of all enabled isolators.
#[must_use]
pub(crate) fn posix(
    config: Arc<Config>,
    enabled: BTreeSet<&'static str>,
    book: Book,
) -> Arc<dyn Isolator> {
    Arc::new(Filesystem {
        about: About::top_level(NAME),
        settings: Arc::new(enabled),
        prepare,
        volumes: Volumes { config, book, bind: false },
    })
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
