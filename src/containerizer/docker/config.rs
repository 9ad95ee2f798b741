//! What the docker containerizer is told: the agent's flags.

use std::path::{Path, PathBuf};
use std::time::Duration;

use isolators::network::cni::Networks;
use isolators::secret::Secrets;
use mesos::Resource;
use serde_json::Value;

use super::gc::Policy;
use super::prune::ImagePolicy;
use crate::containerizer::hooks::Hooks;
use crate::logs::settings::Settings;

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
    /// `--docker_remove_delay`, `--docker_keep_exited`, `--docker_keep_exited_per_task`.
    pub policy: Policy,
    /// Below this part of free space, from 0 to 1, the engine's disk counts as full.
    pub headroom: f64,
    /// `--image_gc_config`; `None`: images are removed on request only.
    pub image_policy: Option<ImagePolicy>,
    /// Where is written down which images we pulled.
    pub image_records: PathBuf,
    /// `--container_logger`: limits of the files in sandboxes.
    pub logs: Option<Settings>,
    /// `--docker_log_max_size`: bytes of output that the engine keeps of a container.
    pub engine_log: Option<u64>,
    /// Host path of a persistent volume, given [`Config::owner`].
    pub persistent: fn(&Path, &Resource) -> Option<PathBuf>,
    /// Networks of `network/cni`, for containers that ask for them.
    pub networks: Option<Networks>,
    /// Hooks of plugins.
    pub hooks: Hooks,
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
            headroom: 0.1,
            image_policy: None,
            image_records: PathBuf::new(),
            logs: None,
            engine_log: None,
            persistent: |_, _| None,
            networks: None,
            hooks: Hooks::default(),
            statistics_age: Duration::from_secs(1),
        }
    }
}
