//! `namespaces/*`: what a container does not see of the host.

mod ipc;
mod own;
mod pid;
pub mod time;
mod user;

pub use self::ipc::ipc;
pub use self::own::{cgroup, uts};
pub use self::pid::pid;
pub use self::time::time;
pub use self::user::user;
use crate::api::IsolatorError;
use crate::config::{Config, Launcher};

/// All of them need a mount namespace of the container's own to show the change.
fn check(name: &'static str, config: &Config, filesystem_linux: bool) -> Result<(), IsolatorError> {
    if !config.root {
        return Err(IsolatorError::plain(name, "start", "without root: it needs root permissions"));
    }
    if config.launcher != Launcher::Linux {
        return Err(IsolatorError::plain(
            name,
            "start",
            "with --launcher=posix: the 'linux' launcher must be used",
        ));
    }
    if !filesystem_linux {
        return Err(IsolatorError::plain(
            name,
            "start",
            "without 'filesystem/linux': add it to --isolation",
        ));
    }
    Ok(())
}
