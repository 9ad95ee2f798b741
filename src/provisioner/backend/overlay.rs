//! Layers under a directory that takes the writes.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use isolators::plan::Overlay;
use kernel::layers::{Upper, mount_overlay};
use kernel::root::Fixture;

use super::{BackendError, Made, Place, failed};

/// As in Mesos.
const UPPER: &str = "upperdir";
const WORK: &str = "workdir";

pub(super) fn make(place: &Place, layers: &[PathBuf]) -> Result<Made, BackendError> {
    let (upper, work) = (place.scratch.join(UPPER), place.scratch.join(WORK));
    for dir in [&place.root, &upper, &work] {
        std::fs::create_dir_all(dir).map_err(failed("create", dir))?;
    }
    // The root directory is the topmost layer's own.
    if let Some(top) = layers.last() {
        kernel::layers::copy::attributes(top, &upper)?;
    }
    if place.shared {
        let lower: Vec<PathBuf> = layers.iter().rev().cloned().collect();
        mount_overlay(&place.root, &lower, Some(Upper { upper: &upper, work: &work }))?;
    }
    Ok(made(place, layers))
}

pub(super) fn made(place: &Place, layers: &[PathBuf]) -> Made {
    let (upper, work) = (place.scratch.join(UPPER), place.scratch.join(WORK));
    let ephemeral = vec![upper.clone(), work.clone()];
    let lower = layers.iter().rev().cloned().collect();
    let overlay = (!place.shared).then_some(Overlay { lower, upper, work });
    Made { overlay, ephemeral }
}

/// Mounts what was made, in a mount namespace of its own.
pub(super) fn furnish(
    place: &Place,
    overlay: &Overlay,
    (fixtures, known): (&[Fixture], &[PathBuf]),
) -> Result<OwnedFd, BackendError> {
    let upper = Upper { upper: &overlay.upper, work: &overlay.work };
    let fill = || mount_overlay(&place.root, &overlay.lower, Some(upper));
    Ok(kernel::root::furnish(&place.root, fill, fixtures, known)?)
}

/// Whether it works with layers below `store` and writes below `scratch`.
pub(super) fn probe(store: &Path, scratch: &Path) -> Result<(), BackendError> {
    let name = format!("probe-{}", std::process::id());
    let (layer, own) = (store.join(format!(".{name}")), scratch.join(format!(".{name}")));
    let (root, upper, work) = (own.join("root"), own.join(UPPER), own.join(WORK));
    let tried = [&layer, &root, &upper, &work]
        .into_iter()
        .try_for_each(|dir| std::fs::create_dir_all(dir).map_err(failed("create", dir)))
        .and_then(|()| {
            let lower = [layer.clone()];
            let upper = Upper { upper: &upper, work: &work };
            let mounted = mount_overlay(&root, &lower, Some(upper));
            mounted.and_then(|()| kernel::mounts::detach(&root)).map_err(BackendError::Mount)
        });
    for dir in [&layer, &own] {
        if let Err(error) = std::fs::remove_dir_all(dir) {
            tracing::warn!(%error, "'{}' stays", dir.display());
        }
    }
    tried
}
