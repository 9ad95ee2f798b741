//! `linux/nnp`: no process of a container gains privileges by executing a file.

use std::sync::Arc;

use crate::api::{ContainerContext, Contribution, Isolator, IsolatorError};
use crate::config::Config;
use crate::simple::Preparing;

const NAME: &str = "linux/nnp";

/// The isolator.
///
/// # Errors
/// The combination of flags cannot work.
pub fn nnp(config: &Config) -> Result<Arc<dyn Isolator>, IsolatorError> {
    config.require_linux(NAME)?;
    Ok(Preparing::everywhere(NAME, (), prepare))
}

// The signature is that of every `prepare`.
#[allow(clippy::unnecessary_wraps)]
fn prepare(_config: &(), _context: &ContainerContext) -> Result<Contribution, IsolatorError> {
    Ok(Contribution { no_new_privileges: true, ..Contribution::default() })
}
