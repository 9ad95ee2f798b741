//! `filesystem/*`: what the container sees as its file system. Exactly one of
//! them is enabled.

mod linux;
mod posix;
mod volumes;

use std::collections::BTreeSet;

pub(crate) use self::linux::linux;
pub use self::linux::{fixtures, mount_points};
pub(crate) use self::posix::posix;
use crate::api::{ContainerContext, IsolatorError};
use crate::volume;

/// Every volume must have an isolator that provides it: a volume that nobody
/// provides would be lost silently.
fn check_volumes(
    name: &'static str,
    context: &ContainerContext,
    enabled: &BTreeSet<&'static str>,
) -> Result<(), IsolatorError> {
    let refuse = |text: String| Err(IsolatorError::plain(name, "use", text));
    let all = volume::volumes(context).map_err(|text| IsolatorError::plain(name, "use", text))?;
    for (volume, source) in all {
        let path = &volume.container_path;
        let needed = source.isolator();
        if matches!(source, volume::Source::Later(_)) {
            return refuse(format!("volume '{path}': '{needed}' is not supported yet"));
        }
        if !enabled.contains(needed) {
            return refuse(format!("volume '{path}': it needs '{needed}' in --isolation"));
        }
    }
    Ok(())
}
