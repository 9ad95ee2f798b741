//! Flags of `devices/cdi`.

use std::path::PathBuf;

/// Where specs are looked for.
pub const DIRECTORIES: [&str; 2] = ["/etc/cdi", "/var/run/cdi"];

/// `--cdi_hooks`: what becomes of the hooks of specs, which are not run.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Hooks {
    /// A device with hooks cannot be used.
    #[default]
    Refuse,
    /// It can, without them.
    Ignore,
}

/// Flags of the isolator.
#[derive(Debug, Clone)]
pub struct Settings {
    /// `--cdi_spec_dirs`, the strongest last.
    pub directories: Vec<PathBuf>,
    /// `--cdi_hooks`.
    pub hooks: Hooks,
}

impl Default for Settings {
    fn default() -> Settings {
        let directories = DIRECTORIES.map(PathBuf::from).into();
        Settings { directories, hooks: Hooks::default() }
    }
}
