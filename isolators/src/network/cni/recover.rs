//! After a restart of the agent: plugins are told what there is, what nobody claims is
//! taken off its networks, containers that run stay as they are and are checked.

use std::collections::BTreeSet;
use std::future::Future;
use std::sync::Arc;

use kernel::chain;
use tracing::warn;

use super::conf::Network;
use super::handle::Member;
use super::inventory::Found;
use super::plugins::Place;
use super::{Manners, Networks, Shared, attachment, detach, key};
use crate::api::{Isolation, Known, Recovered};

pub(super) async fn recover(shared: &Arc<Shared>, known: &[Known], manners: &Manners) -> Recovered {
    let mut handles: Vec<Box<dyn Isolation>> = Vec::with_capacity(known.len());
    let mut claimed = BTreeSet::new();
    for Known { context, pid } in known {
        claimed.insert(key(context));
        handles.push(Box::new(Member::recovered(shared, context, manners, *pid)));
    }
    let running = known.iter().filter(|known| known.pid.is_some());
    let running: Vec<String> = running.map(|known| key(&known.context)).collect();
    let leftovers = clear(shared, &claimed, false).await;
    tokio::spawn(check(Arc::clone(shared), running));
    Recovered { handles, leftovers }
}

impl Networks {
    /// The same for containers that somebody else runs: those that are not among `known`
    /// are taken off.
    pub async fn recover_lodgers(&self, known: &BTreeSet<String>) {
        for leftover in clear(&self.0, known, true).await {
            warn!(leftover, "taking off what nobody claims");
        }
        tokio::spawn(check(Arc::clone(&self.0), known.iter().cloned().collect()));
    }
}

/// Takes off what is not `claimed`, of those that `lodge` or of the others; what it was.
async fn clear(shared: &Arc<Shared>, claimed: &BTreeSet<String>, lodge: bool) -> Vec<String> {
    // Before anything is added or taken off: the specification wants it so. What is to be
    // taken off still counts as there, since its turn comes.
    shared.collected.get_or_init(|| begin(shared)).await;
    let mut leftovers = Vec::new();
    for key in shared.store.scan() {
        if !claimed.contains(&key) && shared.store.is_lodger(&key) == lodge {
            leftovers.push(format!("container '{key}' on CNI networks"));
            detach::detach_later(shared, &key);
        }
    }
    leftovers
}

/// What comes before all else, once.
async fn begin(shared: &Arc<Shared>) {
    collect(shared).await;
    if let Err(error) = shared.store.settle() {
        warn!(error = %chain(&error), "the CNI directory stays mounted");
    }
    // Complaints change nothing: nobody waits for them.
    let shared = Arc::clone(shared);
    tokio::spawn(async move { ask(&shared).await });
}

/// Lets the plugins of every network remove what they have of containers that are no more.
async fn collect(shared: &Arc<Shared>) {
    let Some(inventory) = &shared.inventory else { return };
    let keys = shared.store.scan();
    let all: Vec<(String, super::store::Stored)> = keys
        .iter()
        .flat_map(|key| shared.store.load(key).into_iter().map(|stored| (key.clone(), stored)))
        .collect();
    let Found { networks, errors } = inventory.scan();
    for error in errors {
        warn!("CNI configuration is not used: {error}");
    }
    each(networks.into_values().map(|(_, network)| {
        let on_it = all.iter().filter(|(_, stored)| stored.network.name == network.name);
        let valid: Vec<(String, String)> =
            on_it.map(|(key, stored)| (key.clone(), stored.interface.clone())).collect();
        let shared = Arc::clone(shared);
        async move {
            let errors = attachment::collect(&shared.plugins, &network, &valid).await;
            complain(&network, errors);
        }
    }))
    .await;
}

/// Whether containers could join.
async fn ask(shared: &Arc<Shared>) {
    let Some(inventory) = &shared.inventory else { return };
    each(inventory.scan().networks.into_values().map(|(_, network)| {
        let shared = Arc::clone(shared);
        async move {
            let errors = attachment::status(&shared.plugins, &network).await;
            complain(&network, errors);
        }
    }))
    .await;
}

fn complain(network: &Network, errors: Vec<String>) {
    for error in errors {
        warn!(network = network.name, %error, "the CNI network may not be in order");
    }
}

/// All at once, to the end.
async fn each<F>(all: impl Iterator<Item = F>)
where
    F: Future<Output = ()> + Send + 'static,
{
    for call in all.map(tokio::spawn).collect::<Vec<_>>() {
        // One that panics has said so.
        let _ = call.await;
    }
}

/// Asks after containers that run; what is found wrong is for people.
async fn check(shared: Arc<Shared>, running: Vec<String>) {
    for key in running {
        let netns = shared.store.netns(&key);
        for stored in shared.store.load(&key) {
            let place = Place {
                container: &key,
                interface: &stored.interface,
                netns: Some(&netns),
                log: &stored.log,
            };
            if let Err(error) = attachment::check(&shared.plugins, &stored, place).await {
                warn!(container = %key, network = stored.network.name, %error,
                      "a running container is not as its CNI network wants it");
            }
        }
    }
}
