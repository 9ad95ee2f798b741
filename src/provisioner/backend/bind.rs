//! The only layer of an image itself, read-only. What a container needs to mount on,
//! its sandbox for example, must be in the image.

use std::path::PathBuf;

use kernel::layers::mount_read_only;

use super::{BackendError, Made, Place, failed};

pub(super) fn make(place: &Place, layers: &[PathBuf]) -> Result<Made, BackendError> {
    let [layer] = layers else { return Err(BackendError::Layers(layers.len())) };
    std::fs::create_dir_all(&place.root).map_err(failed("create", &place.root))?;
    mount_read_only(&place.root, layer)?;
    Ok(Made::default())
}
