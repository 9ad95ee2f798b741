//! `network/cni`: containers on networks of their own, by plugins of the Container Network
//! Interface, versions 0.1.0 to 1.1.0.
//!
//! A container that asks for named networks gets a network namespace before anything of
//! it runs; each network's plugins add it (`eth0`, `eth1`, ...), and the launch merely
//! joins. What is about to be done is written down first, so that whatever the agent dies
//! of is undone by the next one. Taking a container off a network holds nobody up: what
//! takes long, or fails, goes on in the background until it is done.
//!
//! * `settings`, `conf`, `version`, `request`, `outcome`, `dns`, `files`: pure.
//! * `inventory`: the configured networks. `plugins`, `exec`: calling plugins.
//! * `attachment`: one container and one network. `store`: what is kept on disk.
//! * `handle`: one container. `detach`: its end. `recover`: after a restart.
//! * `lodger`: a container that somebody else runs, on the same networks.

mod attachment;
mod conf;
mod detach;
mod dns;
mod exec;
mod files;
mod handle;
mod inventory;
mod lodger;
pub(super) mod outcome;
mod plugins;
mod recover;
mod request;
pub(crate) mod settings;
mod statistics;
mod store;
pub(super) mod version;

use std::path::PathBuf;
use std::sync::Arc;

use async_trait::async_trait;
use kernel::netns::Spares;
use tokio::sync::OnceCell;

use self::detach::Detacher;
pub use self::dns::DefaultDns;
use self::handle::Member;
use self::inventory::Inventory;
pub use self::lodger::{Joined, Lodger};
use self::plugins::Plugins;
pub use self::plugins::{IN_HELPER, LOOPBACK};
pub use self::settings::Settings;
use self::store::Store;
use crate::api::{About, ContainerContext, Isolation, Isolator, IsolatorError, Known, Recovered};
use crate::config::Config;

/// Name as in `--isolation`.
pub const NAME: &str = "network/cni";

/// What all containers share.
#[derive(Debug)]
struct Shared {
    store: Store,
    /// `None`: only the host's network.
    inventory: Option<Inventory>,
    plugins: Plugins,
    dns: DefaultDns,
    metrics: bool,
    /// For their figures.
    ends: Arc<statistics::Ends>,
    detacher: Detacher,
    /// Plugins were told what there is: once, before anything is added or taken off.
    collected: OnceCell<()>,
    /// Directories that must be there.
    dirs: Vec<PathBuf>,
}

/// The networks of an agent and the containers on them: one for all containerizers.
#[derive(Debug, Clone)]
pub struct Networks(Arc<Shared>);

impl Networks {
    /// The networks that the flags speak of; nothing is read yet.
    #[must_use]
    pub fn new(settings: &Settings) -> Networks {
        let search = settings.plugins_dirs.clone();
        Networks(Arc::new(Shared {
            store: Store::new(settings.root.clone()),
            inventory: settings.config_dir.clone().map(Inventory::new),
            plugins: Plugins::new(search, settings.helper.clone(), settings.timeout),
            dns: settings.dns.clone(),
            metrics: settings.metrics,
            ends: Arc::default(),
            detacher: Detacher::default(),
            collected: OnceCell::new(),
            dirs: settings.config_dir.iter().chain(&settings.plugins_dirs).cloned().collect(),
        }))
    }

    /// Whether they can be used at all.
    ///
    /// # Errors
    /// The flags contradict each other, or a directory is missing.
    pub fn check(&self) -> Result<(), IsolatorError> {
        let refuse = |object: &str| Err(IsolatorError::plain(NAME, "start", object));
        match (&self.0.inventory, self.0.plugins.are_configured()) {
            (None, true) => {
                return refuse(
                    "with --network_cni_plugins_dir alone: it needs --network_cni_config_dir, too",
                );
            }
            (Some(_), false) => {
                return refuse(
                    "with --network_cni_config_dir alone: it needs --network_cni_plugins_dir, too",
                );
            }
            _ => {}
        }
        match self.0.dirs.iter().find(|dir| !dir.is_dir()) {
            Some(dir) => refuse(&format!("with '{}': there is no such directory", dir.display())),
            None => Ok(()),
        }
    }
}

/// How containers of this isolator differ from others.
#[derive(Debug, Clone, Default)]
struct Manners {
    /// `namespaces/uts` is there, and makes the host's name the container's own.
    own_names: bool,
    /// Where their network namespaces come from.
    namespaces: Arc<Spares>,
}

/// The isolator.
#[derive(Debug)]
struct Cni(Arc<Shared>, Manners);

/// The isolator; `own_names` with `namespaces/uts`.
///
/// # Errors
/// The combination of flags cannot work.
pub fn cni(config: &Config, own_names: bool) -> Result<Arc<dyn Isolator>, IsolatorError> {
    config.require_linux(NAME)?;
    let networks = config.networks.clone().unwrap_or_else(|| Networks::new(&config.cni));
    networks.check()?;
    // A namespace is the agent's, and root of a remapped container is nobody in it.
    let settings: kernel::netns::Settings = match config.userns_remap {
        Some(_) => &[("ipv4/ip_unprivileged_port_start", "0")],
        None => &[],
    };
    let manners = Manners { own_names, namespaces: Arc::new(Spares::new(settings)) };
    Ok(Arc::new(Cni(networks.0, manners)))
}

/// What a container is called here, and for plugins.
fn key(context: &ContainerContext) -> String {
    context.id.to_string()
}

#[async_trait]
impl Isolator for Cni {
    fn about(&self) -> About {
        About { name: NAME, nesting: true, standalone: false }
    }

    fn attach(&self, context: &Arc<ContainerContext>) -> Box<dyn Isolation> {
        Box::new(Member::new(&self.0, context, &self.1))
    }

    async fn recover(&self, known: &[Known]) -> Result<Recovered, IsolatorError> {
        Ok(recover::recover(&self.0, known, &self.1).await)
    }
}
