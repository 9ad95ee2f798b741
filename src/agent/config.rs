//! What an agent is told at start. The flags parser (`agent::flags`) fills it;
//! tests build it directly. Defaults are Mesos'.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use mesos::{ContainerInfo, SlaveInfo, slave_info};

use crate::checkpoint::WorkDir;
use crate::daemon::files::Readers;

/// What `--recover` says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RecoverMode {
    /// Take live executors back.
    Reconnect,
    /// Shut live executors down and exit.
    Cleanup,
}

/// What `--reconfiguration_policy` says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReconfigurationPolicy {
    /// The agent's description must not change.
    Equal,
    /// It may grow.
    Additive,
}

/// Everything the owner task of an agent needs to know.
#[derive(Debug, Clone)]
pub struct Config {
    /// Hostname, port, resources, attributes, domain; no id.
    pub info: SlaveInfo,
    /// The agent's libprocess address, `slave(1)@10.0.0.1:5051`.
    pub pid: String,
    /// The version that is told to the master.
    pub version: String,
    /// What the agent can do, as told to the master.
    pub capabilities: Vec<slave_info::capability::Type>,
    /// `--master`: `host:port` of a standalone master.
    pub master: String,
    /// `--work_dir`.
    pub work_dir: WorkDir,
    /// `--launcher_dir`, where the built-in executors lie.
    pub launcher_dir: PathBuf,
    /// The program of the default executor.
    pub default_executor: PathBuf,
    /// `--switch_user`.
    pub switch_user: bool,
    /// `--strict`: a corrupt checkpoint stops the agent.
    pub strict: bool,
    /// `--recover`.
    pub recover: RecoverMode,
    /// `--reconfiguration_policy`.
    pub reconfiguration: ReconfigurationPolicy,
    /// `--registration_backoff_factor`.
    pub registration_backoff: Duration,
    /// `--executor_registration_timeout`.
    pub executor_registration_timeout: Duration,
    /// `--executor_reregistration_timeout`.
    pub executor_reregistration_timeout: Duration,
    /// `--executor_reregistration_retry_interval`.
    pub executor_reregistration_retry: Option<Duration>,
    /// `--executor_shutdown_grace_period`.
    pub executor_shutdown_grace: Duration,
    /// `--recovery_timeout`, told to executors.
    pub recovery_timeout: Duration,
    /// `--gc_delay`.
    pub gc_delay: Duration,
    /// `--gc_disk_headroom`.
    pub gc_disk_headroom: f64,
    /// `--gc_non_executor_container_sandboxes`.
    pub gc_non_executor_sandboxes: bool,
    /// `--disk_watch_interval`.
    pub disk_watch_interval: Duration,
    /// `--max_completed_executors_per_framework`.
    pub max_completed_executors: usize,
    /// `--executor_environment_variables`; `None`: the agent's own environment
    /// without `LIBPROCESS_*` and `MESOS_*`.
    pub executor_environment: Option<BTreeMap<String, String>>,
    /// `--default_container_info`: of executors and tasks that bring none.
    pub default_container_info: Option<ContainerInfo>,
    /// `--flush_checkpoints`: whether checkpoints are flushed to the disk before
    /// they count as durable.
    pub sync: bool,
    /// Who reads which sandbox.
    pub readers: Readers,
}

impl Config {
    /// Mesos' defaults for everything but what has none.
    pub fn new(info: SlaveInfo, pid: &str, master: &str, work_dir: impl Into<PathBuf>) -> Self {
        use slave_info::capability::Type as C;
        Config {
            info,
            pid: pid.to_owned(),
            version: crate::daemon::version::MESOS_VERSION.to_owned(),
            capabilities: vec![
                C::MultiRole,
                C::HierarchicalRole,
                C::ReservationRefinement,
                C::ResourceProvider,
                C::ResizeVolume,
                C::AgentOperationFeedback,
                C::AgentDraining,
                C::TaskResourceLimits,
            ],
            master: master.to_owned(),
            work_dir: WorkDir::new(work_dir),
            launcher_dir: PathBuf::from("/usr/libexec/mesos"),
            default_executor: PathBuf::from("/usr/libexec/mesos/mesos-default-executor"),
            switch_user: true,
            strict: true,
            recover: RecoverMode::Reconnect,
            reconfiguration: ReconfigurationPolicy::Equal,
            registration_backoff: Duration::from_secs(1),
            executor_registration_timeout: Duration::from_secs(60),
            executor_reregistration_timeout: Duration::from_secs(2),
            executor_reregistration_retry: None,
            executor_shutdown_grace: Duration::from_secs(5),
            recovery_timeout: Duration::from_secs(15 * 60),
            gc_delay: Duration::from_secs(7 * 24 * 3600),
            gc_disk_headroom: 0.1,
            gc_non_executor_sandboxes: false,
            disk_watch_interval: Duration::from_secs(60),
            max_completed_executors: 150,
            executor_environment: None,
            default_container_info: None,
            sync: true,
            readers: Readers::default(),
        }
    }
}
