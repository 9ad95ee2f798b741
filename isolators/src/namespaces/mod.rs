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
use crate::config::Config;

/// All of them need a mount namespace of the container's own to show the change.
fn check(name: &'static str, config: &Config, filesystem_linux: bool) -> Result<(), IsolatorError> {
    config.require_linux(name)?;
    if !filesystem_linux {
        let object = "without 'filesystem/linux': add it to --isolation";
        return Err(IsolatorError::plain(name, "start", object));
    }
    Ok(())
}
