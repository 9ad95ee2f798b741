//! What the docker containerizer is told: the agent's flags.

use std::path::{Path, PathBuf};
use std::time::Duration;

use isolators::secret::Secrets;
use mesos::Resource;
use serde_json::Value;

use super::gc::Policy;

/// Flags of the docker containerizer.
#[derive(Debug, Clone)]
pub struct Config {
    /// `--docker_socket`.
    pub socket: PathBuf,
    /// `--runtime_dir`.
    pub runtime_dir: PathBuf,
    /// The agent's work directory: marks our containers.
    pub owner: String,
    /// `--sandbox_directory`.
    pub sandbox_directory: PathBuf,
    /// `--cgroups_enable_cfs`.
    pub enable_cfs: bool,
    /// `--cgroups_cpu_enable_pids_and_tids_count`.
    pub count_processes: bool,
    /// `--docker_stop_timeout`: between the signal and the kill of a destroy.
    pub stop_timeout: Duration,
    /// `--docker_kill_orphans`.
    pub kill_orphans: bool,
    /// `--docker_config`.
    pub credentials: Option<Value>,
    /// Where secrets in environment variables come from.
    pub secrets: Secrets,
    /// `--default_container_dns`.
    pub default_dns: Option<Value>,
    /// `--docker_remove_delay`, `--docker_keep_exited`.
    pub policy: Policy,
    /// Host path of a persistent volume, given [`Config::owner`].
    pub persistent: fn(&Path, &Resource) -> Option<PathBuf>,
    /// How long a sample of the statistics is served before the next is taken.
    pub statistics_age: Duration,
}

impl Default for Config {
    fn default() -> Config {
        Config {
            socket: "/var/run/docker.sock".into(),
            runtime_dir: "/var/run/mesos".into(),
            owner: String::new(),
            sandbox_directory: "/mnt/mesos/sandbox".into(),
            enable_cfs: false,
            count_processes: false,
            stop_timeout: Duration::ZERO,
            kill_orphans: true,
            credentials: None,
            default_dns: None,
            secrets: Secrets::default(),
            policy: Policy::default(),
            persistent: |_, _| None,
            statistics_age: Duration::from_secs(1),
        }
    }
}
