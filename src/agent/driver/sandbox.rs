//! Making sandboxes: directories, links, owner. Blocking.

use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _, chown, symlink};
use std::path::{Path, PathBuf};

use thiserror::Error;

use crate::checkpoint::{RunKey, WorkDir};

/// Why a sandbox could not be made.
#[derive(Debug, Error)]
#[allow(missing_docs)]
pub enum SandboxError {
    #[error("failed to create directory '{path}'")]
    Create { path: PathBuf, source: io::Error },
    #[error("failed to link '{path}'")]
    Link { path: PathBuf, source: io::Error },
    #[error("failed to chown '{path}' to '{user}': {message}")]
    Owner { path: PathBuf, user: String, message: String },
}

/// Makes the sandbox of a run (mode 0750, owned by `user`) and points `latest`
/// at it.
pub fn create(work: &WorkDir, run: &RunKey, user: Option<&str>) -> Result<(), SandboxError> {
    let sandbox = work.sandbox(run);
    let runs = sandbox.parent().unwrap_or(Path::new("/"));
    fs::create_dir_all(runs)
        .map_err(|source| SandboxError::Create { path: runs.to_owned(), source })?;
    make(&sandbox, user)?;
    kernel::failpoint!("sandbox.made");
    let latest = runs.join("latest");
    let temp = runs.join(format!(".latest.{}", run.container));
    // Left by an agent that died between the two steps.
    let _ = fs::remove_file(&temp);
    symlink(&sandbox, &temp)
        .and_then(|()| fs::rename(&temp, &latest))
        .map_err(|source| SandboxError::Link { path: latest, source })?;
    kernel::failpoint!("sandbox.linked");
    Ok(())
}

/// Makes one sandbox directory below an existing one, e.g. of a nested container.
pub fn make(path: &Path, user: Option<&str>) -> Result<(), SandboxError> {
    let created = fs::DirBuilder::new().mode(0o750).create(path);
    match created {
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        // The mode must not depend on the umask.
        Ok(()) => fs::set_permissions(path, fs::Permissions::from_mode(0o750)),
        other => other,
    }
    .map_err(|source| SandboxError::Create { path: path.to_owned(), source })?;
    let Some(user) = user else { return Ok(()) };
    let failed = |message: String| SandboxError::Owner {
        path: path.to_owned(),
        user: user.to_owned(),
        message,
    };
    let found = kernel::users::by_name(user).map_err(|e| failed(e.to_string()))?;
    let found = found.ok_or_else(|| failed("no such user".to_owned()))?;
    chown(path, Some(found.uid), Some(found.gid)).map_err(|e| failed(e.to_string()))
}
