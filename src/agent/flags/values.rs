//! Values of flags, and what is said of those that make no sense.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use isolators::secret::{Directory, Secrets};
use thiserror::Error;

use crate::agent::info::InfoError;
use crate::agent::resources::ResourcesError;
use crate::daemon::flags::Flags;

/// Why the agent does not start with these flags.
#[derive(Debug, Error)]
#[allow(missing_docs)]
pub enum StartError {
    #[error("{0}")]
    Info(#[from] InfoError),
    #[error("{0}")]
    Resources(#[from] ResourcesError),
    #[error("missing required option --master")]
    NoMaster,
    #[error("--master={0}: finding the master in ZooKeeper is not supported yet; give host:port")]
    ZooKeeper(String),
    #[error("invalid value '{value}' for --{flag}: {expected}")]
    Value { flag: &'static str, value: String, expected: String },
    #[error("failed to create the agent's {what} '{}': {message}", path.display())]
    Directory { what: &'static str, path: PathBuf, message: String },
    #[error("{0}")]
    Plugins(String),
    #[error("failed to find the agent's devices: {0}")]
    Devices(String),
    #[error("failed to prepare for container images: {0}")]
    Images(String),
    #[error("--launcher=linux needs root; give --launcher=posix")]
    NotRoot,
}

pub(super) fn invalid(flag: &'static str, value: &str, expected: impl Into<String>) -> StartError {
    StartError::Value { flag, value: value.to_owned(), expected: expected.into() }
}

/// The value of a flag that takes one of a few words.
///
/// # Errors
/// Another word.
pub(super) fn one_of<T: Copy>(
    flags: &Flags,
    name: &'static str,
    known: &[(&'static str, T)],
) -> Result<T, StartError> {
    let given = flags.text(name).unwrap_or_default();
    if let Some((_, value)) = known.iter().find(|(n, _)| *n == given) {
        return Ok(*value);
    }
    let names: Vec<&str> = known.iter().map(|(n, _)| *n).collect();
    Err(invalid(name, given, format!("one of {}", names.join(", "))))
}

/// A flag that an isolator has the grammar of.
pub(super) fn parsed<T>(
    flags: &Flags,
    name: &'static str,
    parse: impl Fn(&str) -> Result<T, String>,
) -> Result<Option<T>, StartError> {
    let value = flags.text(name).filter(|text| !text.is_empty());
    value.map(|text| parse(text).map_err(|expected| invalid(name, text, expected))).transpose()
}

/// `--launcher_dir`, or where this program lies.
#[must_use]
pub fn launcher_dir(flags: &Flags) -> PathBuf {
    flags.text("launcher_dir").map(PathBuf::from).unwrap_or_else(|| {
        let own = std::env::current_exe().and_then(|p| p.canonicalize());
        own.ok().and_then(|p| p.parent().map(Path::to_owned)).unwrap_or_default()
    })
}

/// Where the secrets come from that tasks refer to.
pub(super) fn secrets(flags: &Flags) -> Result<Secrets, StartError> {
    if let Some(module) = flags.text("secret_resolver").filter(|name| !name.is_empty()) {
        let expected = "no module: shared libraries are not loaded; see --secrets_dir";
        return Err(invalid("secret_resolver", module, expected));
    }
    let Some(directory) = flags.text("secrets_dir").filter(|path| !path.is_empty()) else {
        return Ok(Secrets::default());
    };
    if !Path::new(directory).is_dir() {
        return Err(invalid("secrets_dir", directory, "a directory"));
    }
    Ok(Secrets::with(Arc::new(Directory::new(directory))))
}
