//! Where output goes: files of a sandbox, and their limits.

use std::fs::OpenOptions;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use super::LaunchRequest;
use crate::logs::settings::Settings;

/// Opens a file to write at its end; one that is made belongs to `ids`.
pub(super) fn append(path: &Path, ids: Option<(u32, u32)>) -> io::Result<OwnedFd> {
    // A link planted there by an earlier task must not lead anywhere.
    let file = OpenOptions::new()
        .append(true)
        .create(true)
        .mode(0o644)
        .custom_flags(libc::O_NOFOLLOW)
        .open(path)?;
    if let Some((uid, gid)) = ids {
        std::os::unix::fs::fchown(&file, Some(uid), Some(gid))?;
    }
    Ok(file.into())
}

/// What this container's command makes of the agent's settings.
pub(super) fn log_settings(
    defaults: &Settings,
    request: &LaunchRequest,
) -> Result<Settings, String> {
    let environment = request.command.environment.as_ref();
    let variables = environment.map(|e| e.variables.as_slice()).unwrap_or_default();
    let pairs = variables.iter().map(|v| (v.name.as_str(), v.value.as_deref().unwrap_or("")));
    let settings = defaults.for_command(pairs)?;
    match settings.needs_logrotate() && !crate::logs::is_program(&settings.logrotate) {
        true => Err(crate::logs::no_logrotate(&settings.logrotate)),
        false => Ok(settings),
    }
}
