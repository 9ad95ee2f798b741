//! What the agent's flags say to the isolators. Built once at start.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use kernel::cgroup::Hierarchies;

use crate::api::IsolatorError;
use crate::capability::Set;
use crate::cdi::settings::Settings as CdiSettings;
use crate::cgroups::settings::Settings as CgroupSettings;
use crate::disk;
use crate::gpu::settings::Settings as GpuSettings;
use crate::ids::IdRange;
use crate::image::Provisioner;
use crate::network::cni::Networks;
use crate::network::cni::settings::Settings as CniSettings;
use crate::network::port_mapping::settings::Settings as MappingSettings;
use crate::network::ports::settings::Settings as PortSettings;
use crate::secret::Secrets;

/// How containers are started; `--launcher`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Launcher {
    /// Namespaces and cgroups.
    Linux,
    /// Plain child processes.
    Posix,
}

/// Flags that isolators read, with Mesos' names and defaults.
#[derive(Debug, Clone)]
#[allow(clippy::struct_excessive_bools)] // they are flags
pub struct Config {
    /// `--launcher`.
    pub launcher: Launcher,
    /// The mounted cgroup hierarchies.
    pub hierarchies: Hierarchies,
    /// `--cgroups_root`: directory of all containers in each hierarchy.
    pub cgroups_root: String,
    /// `--cgroups_enable_cfs`: a cpu request without a limit is a limit too.
    pub cgroups_enable_cfs: bool,
    /// `--cgroups_limit_swap`: the memory limit covers memory and swap together.
    pub cgroups_limit_swap: bool,
    /// `--cgroups_cpu_enable_pids_and_tids_count`.
    pub cgroups_count_processes: bool,
    /// `--revocable_cpu_low_priority`.
    pub revocable_cpu_low_priority: bool,
    /// `--cgroups_pids_limit`: processes and threads per container; a task's
    /// label `pids_limit` may ask for fewer, or for some where this is not set.
    pub cgroups_pids_limit: Option<u64>,
    /// `--cgroups_destroy_timeout`.
    pub cgroups_destroy_timeout: Duration,
    /// `--sandbox_directory`: the sandbox inside a container with its own root.
    pub sandbox_directory: PathBuf,
    /// `--host_path_volume_force_creation`: where missing host paths are made.
    pub host_path_volume_force_creation: Vec<PathBuf>,
    /// `--disallow_sharing_agent_pid_namespace`.
    pub disallow_sharing_agent_pid_namespace: bool,
    /// `--disallow_sharing_agent_ipc_namespace`.
    pub disallow_sharing_agent_ipc_namespace: bool,
    /// `--default_container_shm_size` in bytes.
    pub default_container_shm_size: Option<u64>,
    /// `--container_sysctls`, ours: by dotted name, checked.
    pub container_sysctls: BTreeMap<String, String>,
    /// `--userns_remap`, ours: the host's ids that containers get in their place.
    pub userns_remap: Option<IdRange>,
    /// Flags of the single controllers.
    pub cgroups: CgroupSettings,
    /// `--effective_capabilities`: of containers that ask for none.
    pub effective_capabilities: Option<Set>,
    /// `--bounding_capabilities`: the most a container may have.
    pub bounding_capabilities: Option<Set>,
    /// `--seccomp_config_dir`: where profiles are looked up by name.
    pub seccomp_config_dir: Option<PathBuf>,
    /// `--seccomp_profile_name`: of containers that name none.
    pub seccomp_profile_name: Option<String>,
    /// Flags of `disk/*`.
    pub disk: disk::Config,
    /// Flags of `devices/cdi`.
    pub cdi: CdiSettings,
    /// Flags of `gpu/nvidia`.
    pub gpu: GpuSettings,
    /// Flags of `network/cni`.
    pub cni: CniSettings,
    /// The networks of `network/cni`, where somebody else has containers on them, too.
    pub networks: Option<Networks>,
    /// Flags of `network/port_mapping`.
    pub port_mapping: MappingSettings,
    /// Flags of `network/ports`.
    pub ports: PortSettings,
    /// Where secrets come from.
    pub secrets: Secrets,
    /// Who makes root file systems of images, if anybody.
    pub provisioner: Option<Arc<dyn Provisioner>>,
    /// `--docker_ignore_runtime`: what images say of their processes does not count.
    pub docker_ignore_runtime: bool,
    /// Whether the agent runs as root.
    pub root: bool,
}

impl Default for Config {
    /// Mesos' defaults, without cgroups.
    fn default() -> Config {
        Config::new(Launcher::Linux, Hierarchies::default())
    }
}

impl Config {
    /// Refuses to start an isolator that acts in processes of the linux launcher.
    ///
    /// # Errors
    /// There are none, or they are not root's.
    pub(crate) fn require_linux(&self, isolator: &'static str) -> Result<(), IsolatorError> {
        let refuse = |object| Err(IsolatorError::plain(isolator, "start", object));
        if !self.root {
            return refuse("without root: it needs root permissions");
        }
        if self.launcher != Launcher::Linux {
            return refuse("with --launcher=posix: the 'linux' launcher must be used");
        }
        Ok(())
    }

    /// Mesos' defaults, on the given hierarchies.
    #[must_use]
    pub fn new(launcher: Launcher, hierarchies: Hierarchies) -> Config {
        Config {
            launcher,
            hierarchies,
            cgroups_root: "mesos".into(),
            cgroups_enable_cfs: false,
            cgroups_limit_swap: false,
            cgroups_count_processes: false,
            revocable_cpu_low_priority: true,
            cgroups_pids_limit: None,
            cgroups_destroy_timeout: Duration::from_secs(60),
            sandbox_directory: "/mnt/mesos/sandbox".into(),
            host_path_volume_force_creation: Vec::new(),
            disallow_sharing_agent_pid_namespace: false,
            disallow_sharing_agent_ipc_namespace: false,
            default_container_shm_size: None,
            container_sysctls: BTreeMap::new(),
            userns_remap: None,
            cgroups: CgroupSettings::default(),
            effective_capabilities: None,
            bounding_capabilities: None,
            seccomp_config_dir: None,
            seccomp_profile_name: None,
            disk: disk::Config::default(),
            cdi: CdiSettings::default(),
            gpu: GpuSettings::default(),
            cni: CniSettings::default(),
            networks: None,
            port_mapping: MappingSettings::default(),
            ports: PortSettings::default(),
            secrets: Secrets::default(),
            provisioner: None,
            docker_ignore_runtime: false,
            root: true,
        }
    }
}
