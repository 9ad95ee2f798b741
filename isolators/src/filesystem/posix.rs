//! `filesystem/posix`: the host's file system, as it is.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::check_volumes;
use crate::api::{ContainerContext, Contribution, Isolator, IsolatorError};
use crate::simple::Preparing;

const NAME: &str = "filesystem/posix";

type Enabled = Arc<BTreeSet<&'static str>>;

/// The isolator. `enabled`: names of all enabled isolators.
#[must_use]
pub fn posix(enabled: BTreeSet<&'static str>) -> Arc<dyn Isolator> {
    Preparing::top_level(NAME, Arc::new(enabled), prepare)
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
