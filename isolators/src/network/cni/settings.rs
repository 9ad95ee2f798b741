//! What the flags say about CNI. Pure.

use std::path::PathBuf;
use std::time::Duration;

use super::dns::DefaultDns;

/// Flags of this isolator.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// `--network_cni_plugins_dir`, split at `:`.
    pub plugins_dirs: Vec<PathBuf>,
    /// `--network_cni_config_dir`.
    pub config_dir: Option<PathBuf>,
    /// Where what is known of containers is kept; see `--network_cni_root_dir_persist`.
    pub root: PathBuf,
    /// `--network_cni_metrics`: figures of interfaces.
    pub metrics: bool,
    /// `--default_container_dns`.
    pub dns: DefaultDns,
    /// `--network_cni_timeout`, ours: for one call of a plugin.
    pub timeout: Duration,
    /// Our helper program, which has plugins of its own.
    pub helper: Option<PathBuf>,
}

impl Default for Settings {
    fn default() -> Settings {
        Settings {
            plugins_dirs: Vec::new(),
            config_dir: None,
            root: "/var/run/mesos/isolators/network/cni".into(),
            metrics: true,
            dns: DefaultDns::default(),
            timeout: Duration::from_secs(60),
            helper: None,
        }
    }
}

impl Settings {
    /// Whether there may be networks at all.
    #[must_use]
    pub fn is_configured(&self) -> bool {
        self.config_dir.is_some()
    }
}
