//! `linux/*`: what the processes of a container may ask of the kernel.

pub mod capabilities;
mod devices;
mod nnp;
pub mod seccomp;
pub mod sysctl;

pub use self::capabilities::isolator as capabilities;
pub use self::devices::isolator as devices;
pub use self::nnp::nnp;
pub use self::seccomp::isolator as seccomp;
pub use self::sysctl::isolator as sysctl;
use crate::api::IsolatorError;
use crate::config::{Config, Launcher};

/// All of them act in the linux launcher's processes only.
fn check(name: &'static str, config: &Config) -> Result<(), IsolatorError> {
    let refuse = |object| Err(IsolatorError::plain(name, "start", object));
    if !config.root {
        return refuse("without root: it needs root permissions");
    }
    if config.launcher != Launcher::Linux {
        return refuse("with --launcher=posix: the 'linux' launcher must be used");
    }
    Ok(())
}
