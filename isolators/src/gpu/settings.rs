//! Flags of `gpu/nvidia`.

use std::path::PathBuf;

use kernel::nvml;

/// Flags of the isolator, and where it looks.
#[derive(Debug, Clone)]
pub struct Settings {
    /// `--nvidia_gpu_devices`: indices of the GPUs to manage; all if `None`.
    pub indices: Option<Vec<u32>>,
    /// The management library.
    pub library: PathBuf,
    /// Where the device nodes are.
    pub devices: PathBuf,
}

impl Default for Settings {
    fn default() -> Settings {
        Settings { indices: None, library: nvml::LIBRARY.into(), devices: "/dev".into() }
    }
}
