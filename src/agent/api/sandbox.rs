//! Sandboxes of containers that the API starts: made before the launch, removed
//! with the record of the container.

use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt, chown};
use std::path::Path;

/// Owner may do everything, the group may look, others nothing (Mesos' mode).
const MODE: u32 = 0o750;

/// Makes the directory, for `user` if one is given. One that is there is kept:
/// the launch may be a retry.
///
/// # Errors
/// The user is not known, or the directory cannot be made.
pub fn create(path: &Path, user: Option<&str>) -> io::Result<()> {
    fs::DirBuilder::new().recursive(true).mode(MODE).create(path)?;
    let Some(user) = user else { return Ok(()) };
    let found = kernel::users::by_name(user).map_err(io::Error::other)?;
    let found = found.ok_or_else(|| io::Error::other(format!("no such user '{user}'")))?;
    chown(path, Some(found.uid), Some(found.gid))
}

/// Removes the directory; one that is not there is fine.
///
/// # Errors
/// It cannot be removed.
pub fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}
