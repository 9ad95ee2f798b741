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

mod attachment;
mod conf;
mod detach;
mod dns;
mod exec;
mod files;
mod handle;
mod inventory;
pub(super) mod outcome;
mod plugins;
mod recover;
mod request;
pub(crate) mod settings;
mod statistics;
mod store;
pub(super) mod version;

use std::sync::Arc;

use async_trait::async_trait;
use tracing::warn;

use self::detach::Detacher;
pub use self::dns::DefaultDns;
use self::handle::Member;
use self::inventory::Inventory;
use self::plugins::Plugins;
pub use self::plugins::{IN_HELPER, LOOPBACK};
pub use self::settings::Settings;
use self::store::Store;
use crate::api::{ContainerContext, Isolation, Isolator, IsolatorError, Known, Recovered};
use crate::config::{Config, Launcher};

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
    /// `namespaces/uts` is there, and makes the host's name the container's own.
    own_names: bool,
    /// Root in a container is nobody in the namespace, which is the agent's.
    remapped: bool,
    detacher: Detacher,
}

/// The isolator.
#[derive(Debug)]
struct Cni(Arc<Shared>);

/// The isolator; `own_names` with `namespaces/uts`.
///
/// # Errors
/// The combination of flags cannot work.
pub fn cni(config: &Config, own_names: bool) -> Result<Arc<dyn Isolator>, IsolatorError> {
    let settings = &config.cni;
    let refuse = |object: &str| Err(IsolatorError::plain(NAME, "start", object));
    if !config.root {
        return refuse("without root: it needs root permissions");
    }
    if config.launcher != Launcher::Linux {
        return refuse("with --launcher=posix: the 'linux' launcher must be used");
    }
    match (&settings.config_dir, settings.plugins_dirs.as_slice()) {
        (None, [_, ..]) => {
            return refuse(
                "with --network_cni_plugins_dir alone: it needs --network_cni_config_dir, too",
            );
        }
        (Some(_), []) => {
            return refuse(
                "with --network_cni_config_dir alone: it needs --network_cni_plugins_dir, too",
            );
        }
        _ => {}
    }
    if let Some(dir) =
        settings.config_dir.iter().chain(&settings.plugins_dirs).find(|dir| !dir.is_dir())
    {
        return refuse(&format!("with '{}': there is no such directory", dir.display()));
    }
    let inventory = settings.config_dir.clone().map(Inventory::new);
    if let Some(inventory) = &inventory {
        for error in inventory.scan().errors {
            warn!("CNI configuration is not used: {error}");
        }
    }
    let plugins =
        Plugins::new(settings.plugins_dirs.clone(), settings.helper.clone(), settings.timeout);
    Ok(Arc::new(Cni(Arc::new(Shared {
        store: Store::new(settings.root.clone()),
        inventory,
        plugins,
        dns: settings.dns.clone(),
        metrics: settings.metrics,
        ends: Arc::default(),
        own_names,
        remapped: config.userns_remap.is_some(),
        detacher: Detacher::default(),
    }))))
}

/// What a container is called here, and for plugins.
fn key(context: &ContainerContext) -> String {
    context.lineage().join(".")
}

#[async_trait]
impl Isolator for Cni {
    fn name(&self) -> &'static str {
        NAME
    }

    fn supports_nesting(&self) -> bool {
        true
    }

    fn attach(&self, context: &Arc<ContainerContext>) -> Box<dyn Isolation> {
        Box::new(Member::new(&self.0, context))
    }

    async fn recover(&self, known: &[Known]) -> Result<Recovered, IsolatorError> {
        Ok(recover::recover(&self.0, known).await)
    }
}
