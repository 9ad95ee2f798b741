//! What the agent's flags say to the native containerizer.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use isolators::api::Isolator;
use isolators::config::Launcher;
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
pub struct Config {
    /// `--isolation`.
    pub isolation: String,
    /// `--launcher`.
    pub launcher: Engine,
    /// `--runtime_dir`: state of running containers, on a tmpfs.
    pub runtime_dir: PathBuf,
    /// Flags of the fetcher.
    pub fetcher: crate::fetch::Settings,
    /// Flags of the isolators. What is found out at the start does not count: the cgroup
    /// hierarchies, whether this is root, who provisions, the helper.
    pub isolators: isolators::config::Config,
    /// The plugins of `--isolator_plugins`; nothing is started yet.
    pub plugins: Vec<isolator_plugin::RemoteIsolator>,
    /// `--hooks`: which of them are hooks, in order.
    pub hooks: Vec<String>,
    /// Who makes root file systems of images, if anybody.
    pub provisioner: Option<Arc<Provisioner>>,
    /// `--image_gc_config`: when images go by themselves.
    pub image_gc: Option<Collection>,
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
            fetcher: crate::fetch::Settings::default(),
            isolators: isolators::config::Config::default(),
            plugins: Vec::new(),
            hooks: Vec::new(),
            provisioner: None,
            image_gc: None,
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
            launcher,
            hierarchies,
            ports: isolators::network::ports::settings::Settings {
                // libcontainer joins cgroups of one kind only.
                unified: self.launcher == Engine::Linux,
                ..self.isolators.ports.clone()
            },
            cni: isolators::network::cni::Settings {
                helper: self.helper().ok(),
                ..self.isolators.cni.clone()
            },
            provisioner: self.provisioner.clone().map(|provisioner| provisioner as _),
            root: kernel::proctree::is_root(),
            ..self.isolators.clone()
        };
        if launcher == Launcher::Linux && !config.root {
            let text = "--launcher=linux needs root; use --launcher=posix";
            return Err(start(text.into()));
        }
        if self.isolators.userns_remap.is_some() && self.launcher != Engine::Linux {
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
