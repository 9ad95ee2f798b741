//! A container that somebody else runs, an engine mostly, on networks of ours.
//!
//! There is no plan that it could be launched by. Whoever runs it shows a process in a
//! network namespace without networks, or takes a namespace that is made here; that
//! namespace is kept and joined to them, and what the container should see of the host's
//! files is for whoever runs it to show it. All else is as for containers of our own:
//! written down before it is done, found again after a restart, taken off in the background
//! if need be.

use std::path::PathBuf;
use std::sync::Arc;

use mesos::{ContainerId, ContainerInfo, NetworkInfo};

use super::handle::{Member, Origin};
use super::{Manners, Networks, statistics};
use crate::api::{ContainerContext, Isolation, IsolatorError, Probe};

/// The container's handle.
#[derive(Debug)]
pub struct Lodger(Member);

/// Files of a container that is on its networks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Joined {
    /// Its network namespace, as a file.
    pub namespace: PathBuf,
    /// Its `/etc/hosts`.
    pub hosts: PathBuf,
    /// Its `/etc/resolv.conf`, if anybody had a word to say.
    pub resolv_conf: Option<PathBuf>,
}

impl Networks {
    /// Whether a network of that name is configured.
    #[must_use]
    pub fn has(&self, name: &str) -> bool {
        self.0.inventory.as_ref().is_some_and(|inventory| inventory.find(name).is_ok())
    }

    /// Why there is no network of that name, or none that can be used.
    #[must_use]
    pub fn why_not(&self, name: &str) -> Option<String> {
        self.0.inventory.as_ref()?.find(name).err()
    }

    /// A new container on the networks that `info` names. Nothing is done yet.
    #[must_use]
    pub fn lodger(&self, id: &str, info: Option<&ContainerInfo>) -> Lodger {
        Lodger(Member::new(&self.0, &context(id, info), &Manners::default()))
    }

    /// A container of before a restart; `None` if it is on none of our networks.
    #[must_use]
    pub fn lodged(&self, id: &str, info: Option<&ContainerInfo>) -> Option<Lodger> {
        let found = self.0.store.knows(id) && self.0.store.is_lodger(id);
        let context = found.then(|| context(id, info))?;
        Some(Lodger(Member::recovered(&self.0, &context, &Manners::default(), None)))
    }
}

fn context(id: &str, info: Option<&ContainerInfo>) -> Arc<ContainerContext> {
    let id = ContainerId { value: id.to_owned(), parent: None };
    Arc::new(ContainerContext { id, info: info.cloned(), ..ContainerContext::default() })
}

impl Lodger {
    /// Keeps the network namespace of a process, or makes one if there is no `process`, and
    /// joins it to all networks. `more` comes at the end of its `/etc/hosts`. After an error
    /// [`Lodger::leave`] must follow, and also if this is given up half way.
    ///
    /// # Errors
    /// What cannot be joined, and why.
    pub async fn join(
        &mut self,
        process: Option<u32>,
        more: &str,
    ) -> Result<Joined, IsolatorError> {
        self.0.settle(process.map_or(Origin::Lent, Origin::Process), more).await?;
        let store = &self.0.shared.store;
        let dir = store.dir(&self.0.key);
        let resolv_conf = Some(dir.join("resolv.conf")).filter(|path| path.exists());
        Ok(Joined { namespace: store.netns(&self.0.key), hosts: dir.join("hosts"), resolv_conf })
    }

    /// Its networks, with its addresses there.
    #[must_use]
    pub fn networks(&self) -> &[NetworkInfo] {
        &self.0.networks
    }

    /// Figures of its interfaces, through a process of it.
    #[must_use]
    pub fn probe(&self, pid: u32) -> Option<Box<dyn Probe>> {
        self.0.shared.metrics.then(|| statistics::probe(pid, &self.0.shared.ends))
    }

    /// Takes it off; what takes long, or fails, goes on in the background.
    ///
    /// # Errors
    /// It is not done yet.
    pub async fn leave(&mut self) -> Result<(), IsolatorError> {
        self.0.cleanup().await
    }
}
