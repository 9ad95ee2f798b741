//! Removes unused images when the disk of the store fills: `--image_gc_config`.
//!
//! The rule is Mesos': looked at now and then, and when what is used and the headroom
//! make more than the whole disk, everything goes that no container uses. One task for
//! as long as the agent lives; [`is_full`] is pure.

use std::sync::Arc;

use tracing::{info, warn};

use super::image_flags::Collection;
use crate::provisioner::{Provisioner, Reference};

/// Starts to look.
pub(super) fn start(provisioner: Arc<Provisioner>, collection: Collection) {
    let excluded = collection.excluded.iter().filter_map(|name| match Reference::parse(name) {
        Ok(reference) => Some(reference),
        Err(error) => {
            warn!(%error, "excluded_images of --image_gc_config");
            None
        }
    });
    let excluded: Vec<Reference> = excluded.collect();
    tokio::spawn(async move {
        loop {
            tokio::time::sleep(collection.interval).await;
            look(&provisioner, collection.headroom, &excluded).await;
        }
    });
}

async fn look(provisioner: &Provisioner, headroom: f64, excluded: &[Reference]) {
    let dir = provisioner.store().dir().to_owned();
    let measured = tokio::task::spawn_blocking(move || kernel::machine::space(&dir)).await;
    let used = match measured {
        Ok(Ok(space)) => space.used(),
        Ok(Err(error)) => return warn!(%error, "the disk of images cannot be measured"),
        Err(_) => return,
    };
    if !is_full(used, headroom) {
        return;
    }
    match provisioner.store().prune(excluded).await {
        Ok(pruned) => {
            let (images, bytes) = (pruned.images.len(), pruned.bytes);
            info!(images, layers = pruned.layers, bytes, "removed unused images: the disk fills");
        }
        Err(error) => warn!(error = %kernel::chain(&error), "unused images stay"),
    }
}

/// Whether a disk of which `used` is used, from 0 to 1, has less than `headroom` left.
fn is_full(used: f64, headroom: f64) -> bool {
    used + headroom > 1.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn full_is_what_has_no_headroom() {
        assert!(is_full(0.95, 0.1) && is_full(0.5, 0.6));
        assert!(!is_full(0.89, 0.1) && !is_full(1.0, 0.0));
    }
}
