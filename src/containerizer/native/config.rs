//! What the agent's flags say to the native containerizer.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use isolators::api::Isolator;
use isolators::capability::Set;
use isolators::config::Launcher;
use isolators::ids::IdRange;
use isolators::registry::{self, Isolators};
use kernel::cgroup::Hierarchies;

use crate::containerizer::ContainerizerError;
use crate::launch::Engine;
use crate::logs::{self, settings::Settings};
use crate::provisioner::{Collection, Provisioner};

/// Longest path of a Unix socket in bytes.
const LONGEST_SOCKET: usize = 107;

/// Flags with Mesos' names and defaults.
#[derive(Debug, Clone)]
#[allow(clippy::struct_excessive_bools)] // they are flags
pub struct Config {
    /// `--isolation`.
    pub isolation: String,
    /// `--launcher`.
    pub launcher: Engine,
    /// `--runtime_dir`: state of running containers, on a tmpfs.
    pub runtime_dir: PathBuf,
    /// `--sandbox_directory`.
    pub sandbox_directory: PathBuf,
    /// Flags of the fetcher.
    pub fetcher: crate::fetch::Settings,
    /// `--cgroups_root`.
    pub cgroups_root: String,
    /// `--cgroups_enable_cfs`.
    pub cgroups_enable_cfs: bool,
    /// `--cgroups_limit_swap`.
    pub cgroups_limit_swap: bool,
    /// `--cgroups_cpu_enable_pids_and_tids_count`.
    pub cgroups_count_processes: bool,
    /// `--cgroups_pids_limit`, ours: see docs/isolators/cgroups-pids.md.
    pub cgroups_pids_limit: Option<u64>,
    /// Flags of single controllers: devices, cpuset, blkio, perf, ...
    pub cgroups: isolators::cgroups::Settings,
    /// `--cgroups_destroy_timeout`.
    pub cgroups_destroy_timeout: Duration,
    /// `--revocable_cpu_low_priority`.
    pub revocable_cpu_low_priority: bool,
    /// `--host_path_volume_force_creation`, split at `:`.
    pub host_path_volume_force_creation: Vec<PathBuf>,
    /// `--disallow_sharing_agent_pid_namespace`.
    pub disallow_sharing_agent_pid_namespace: bool,
    /// `--disallow_sharing_agent_ipc_namespace`.
    pub disallow_sharing_agent_ipc_namespace: bool,
    /// `--default_container_shm_size` in bytes.
    pub default_container_shm_size: Option<u64>,
    /// `--container_sysctls`, ours: see docs/isolators/linux-sysctl.md.
    pub container_sysctls: BTreeMap<String, String>,
    /// `--userns_remap`, ours: see docs/isolators/namespaces-user.md.
    pub userns_remap: Option<IdRange>,
    /// `--effective_capabilities`.
    pub effective_capabilities: Option<Set>,
    /// `--bounding_capabilities`.
    pub bounding_capabilities: Option<Set>,
    /// `--seccomp_config_dir`.
    pub seccomp_config_dir: Option<PathBuf>,
    /// `--seccomp_profile_name`.
    pub seccomp_profile_name: Option<String>,
    /// The plugins of `--isolator_plugins`; nothing is started yet.
    pub plugins: Vec<isolator_plugin::RemoteIsolator>,
    /// `--hooks`: which of them are hooks, in order.
    pub hooks: Vec<String>,
    /// Flags of `disk/*`.
    pub disk: isolators::disk::Config,
    /// Flags of `devices/cdi`.
    pub cdi: isolators::cdi::Settings,
    /// Flags of `network/port_mapping`.
    pub port_mapping: isolators::network::port_mapping::settings::Settings,
    /// Flags of `network/ports`.
    pub ports: isolators::network::ports::settings::Settings,
    /// Flags of `gpu/nvidia`.
    pub gpu: isolators::gpu::Settings,
    /// Flags of `network/cni`.
    pub cni: isolators::network::cni::Settings,
    /// The networks of these flags, where another containerizer uses them, too.
    pub networks: Option<isolators::network::cni::Networks>,
    /// `--secrets_dir`: where secrets come from.
    pub secrets: isolators::secret::Secrets,
    /// Who makes root file systems of images, if anybody.
    pub provisioner: Option<Arc<Provisioner>>,
    /// `--image_gc_config`: when images go by themselves.
    pub image_gc: Option<Collection>,
    /// `--docker_ignore_runtime`.
    pub docker_ignore_runtime: bool,
    /// `--work_dir`: leftovers of mounts are looked for below it.
    pub work_dir: Option<PathBuf>,
    /// Between two searches for leftovers.
    pub sweep_interval: Duration,
    /// `--container_logger`; `None`: tasks write to the files of their sandbox.
    pub logs: Option<Settings>,
    /// The program `bulkhead-helper`, if not beside this one.
    pub helper: Option<PathBuf>,
    /// How long a sample of the statistics is served before the next is taken.
    pub statistics_age: Duration,
}

impl Default for Config {
    fn default() -> Config {
        Config {
            isolation: registry::DEFAULT.into(),
            launcher: Engine::Linux,
            runtime_dir: "/var/run/mesos".into(),
            sandbox_directory: "/mnt/mesos/sandbox".into(),
            fetcher: crate::fetch::Settings::default(),
            cgroups_root: "mesos".into(),
            cgroups_enable_cfs: false,
            cgroups_limit_swap: false,
            cgroups_count_processes: false,
            cgroups_pids_limit: None,
            cgroups: isolators::cgroups::Settings::default(),
            cgroups_destroy_timeout: Duration::from_secs(60),
            revocable_cpu_low_priority: true,
            host_path_volume_force_creation: Vec::new(),
            disallow_sharing_agent_pid_namespace: false,
            disallow_sharing_agent_ipc_namespace: false,
            default_container_shm_size: None,
            container_sysctls: BTreeMap::new(),
            userns_remap: None,
            effective_capabilities: None,
            bounding_capabilities: None,
            seccomp_config_dir: None,
            seccomp_profile_name: None,
            plugins: Vec::new(),
            hooks: Vec::new(),
            disk: isolators::disk::Config::default(),
            cdi: isolators::cdi::Settings::default(),
            port_mapping: isolators::network::port_mapping::settings::Settings::default(),
            ports: isolators::network::ports::settings::Settings::default(),
            gpu: isolators::gpu::Settings::default(),
            cni: isolators::network::cni::Settings::default(),
            networks: None,
            secrets: isolators::secret::Secrets::default(),
            provisioner: None,
            image_gc: None,
            docker_ignore_runtime: false,
            work_dir: None,
            sweep_interval: Duration::from_secs(60),
            logs: None,
            helper: None,
            statistics_age: Duration::from_secs(1),
        }
    }
}

impl Config {
    /// The helper program; with a logger it must be there.
    pub(super) fn helper(&self) -> Result<PathBuf, ContainerizerError> {
        let beside = || {
            let own = std::env::current_exe().and_then(|own| own.canonicalize());
            own.unwrap_or_default().with_file_name(logs::client::PROGRAM)
        };
        let program = self.helper.clone().unwrap_or_else(beside);
        let start = |text| Err(ContainerizerError::Start(text));
        let socket = logs::helper::socket(&self.runtime_dir);
        if self.logs.is_some() && !logs::is_program(&program) {
            let program = program.display();
            return start(format!(
                "the container logger needs the program '{program}', which cannot be executed"
            ));
        }
        if self.logs.is_some() && socket.as_os_str().len() > LONGEST_SOCKET {
            let socket = socket.display();
            return start(format!(
                "--runtime_dir is too long for the container logger: the kernel takes no socket '{socket}'"
            ));
        }
        Ok(program)
    }

    /// Makes the isolators: finds the cgroup hierarchies, makes root cgroups.
    ///
    /// # Errors
    /// `--isolation` is wrong, or an isolator cannot work here; for people.
    pub(super) fn isolators(&self) -> Result<Isolators, ContainerizerError> {
        let start = ContainerizerError::Start;
        let hierarchies = Hierarchies::detect().map_err(|e| start(super::chain(&e)))?;
        let launcher = match self.launcher {
            Engine::Linux | Engine::Oci => Launcher::Linux,
            Engine::Posix => Launcher::Posix,
        };
        let config = isolators::config::Config {
            cgroups_root: self.cgroups_root.clone(),
            cgroups_enable_cfs: self.cgroups_enable_cfs,
            cgroups_limit_swap: self.cgroups_limit_swap,
            cgroups_count_processes: self.cgroups_count_processes,
            revocable_cpu_low_priority: self.revocable_cpu_low_priority,
            cgroups_pids_limit: self.cgroups_pids_limit,
            cgroups: self.cgroups.clone(),
            cgroups_destroy_timeout: self.cgroups_destroy_timeout,
            sandbox_directory: self.sandbox_directory.clone(),
            host_path_volume_force_creation: self.host_path_volume_force_creation.clone(),
            disallow_sharing_agent_pid_namespace: self.disallow_sharing_agent_pid_namespace,
            disallow_sharing_agent_ipc_namespace: self.disallow_sharing_agent_ipc_namespace,
            default_container_shm_size: self.default_container_shm_size,
            container_sysctls: self.container_sysctls.clone(),
            userns_remap: self.userns_remap,
            effective_capabilities: self.effective_capabilities,
            bounding_capabilities: self.bounding_capabilities,
            seccomp_config_dir: self.seccomp_config_dir.clone(),
            seccomp_profile_name: self.seccomp_profile_name.clone(),
            disk: self.disk.clone(),
            cdi: self.cdi.clone(),
            port_mapping: self.port_mapping.clone(),
            ports: isolators::network::ports::settings::Settings {
                // libcontainer joins cgroups of one kind only.
                unified: self.launcher == Engine::Linux,
                ..self.ports.clone()
            },
            gpu: self.gpu.clone(),
            cni: isolators::network::cni::Settings {
                helper: self.helper().ok(),
                ..self.cni.clone()
            },
            networks: self.networks.clone(),
            secrets: self.secrets.clone(),
            provisioner: self.provisioner.clone().map(|provisioner| provisioner as _),
            docker_ignore_runtime: self.docker_ignore_runtime,
            root: kernel::proctree::is_root(),
            ..isolators::config::Config::new(launcher, hierarchies)
        };
        if launcher == Launcher::Linux && !config.root {
            let text = "--launcher=linux needs root; use --launcher=posix";
            return Err(start(text.into()));
        }
        if self.userns_remap.is_some() && self.launcher != Engine::Linux {
            // libcontainer cannot map the ids of mounts.
            let text = format!("--userns_remap needs --launcher=linux, not {}", self.launcher);
            return Err(start(text));
        }
        let plugins: Vec<Arc<dyn Isolator>> =
            self.plugins.iter().map(|plugin| Arc::new(plugin.clone()) as _).collect();
        let made = registry::create_with(&self.isolation, Arc::new(config), &plugins);
        made.map_err(|e| start(super::chain(&e)))
    }
}
