//! A container on networks of `network/cni`.
//!
//! An engine makes a container's network namespace when it starts it, and nobody gets in
//! between. So the namespace is that of another container, the holder, in which there is
//! only a program that waits: that one is started first, on no network, plugins join it to
//! the networks, and the container is started in its namespace.
//!
//! ```text
//! holder made -> started -> namespace kept, networks joined -> container made -> started
//!                                             container ended -> networks left -> holder removed
//! ```
//!
//! Podman takes a namespace that is there already, so with it there is no holder.
//!
//! Called by `start` and `finish`. What is known of the networks is kept where containers
//! of our own have it; a holder of nobody is removed by the sweep.

use std::time::Duration;

use isolators::network::cni::Networks;
use kernel::failpoint;
use serde_json::Value;
use tracing::{info, warn};

use super::container::Container;
use super::engine::{Engine, EngineError};
use super::exit::Process;
use super::holder::{self, Part, Place, name_of_holder};
use super::mapping::docker_info;
use super::shared::Shared;
use super::start::{failure, refused};
use crate::containerizer::LaunchRequest;
use crate::containerizer::table::Failure;
use crate::launch::SHIM;

/// An engine that does not remove a holder within this is left to the sweep.
const ORDER: Duration = Duration::from_secs(5);
/// The holder's process is looked for so often, and so long each time.
const TRIES: u32 = 200;
const PAUSE: Duration = Duration::from_millis(50);

impl Container {
    /// The networks, if the container is to be on some of them.
    pub(super) fn networks(&self) -> Result<Option<Networks>, Failure> {
        let networks = self.shared.config.networks.as_ref();
        let asked = docker_info(self.request.container.as_ref());
        let (Some(networks), Some((info, _))) = (networks, asked) else { return Ok(None) };
        let ours = holder::is_ours(info, |name| networks.has(name));
        let ours = ours.map_err(|text| failure("network", text))?;
        Ok(ours.then(|| networks.clone()))
    }

    /// An engine that does not know a network cannot say that its file is no good.
    pub(super) fn explained(&self, failure: Failure) -> Failure {
        let asked = docker_info(self.request.container.as_ref());
        let name = asked.and_then(|(info, _)| info.network_infos.first()?.name.as_deref());
        let networks = self.shared.config.networks.as_ref();
        let networks = networks.filter(|_| failure.message.contains("not found"));
        match networks.zip(name).and_then(|(networks, name)| networks.why_not(name)) {
            Some(why) => Failure {
                message: format!("{}; not found, either: {why}", failure.message),
                ..failure
            },
            None => failure,
        }
    }

    /// Has a namespace join the networks, and puts the container of `body` into it.
    pub(super) async fn settle(
        &mut self,
        networks: &Networks,
        body: &mut Value,
    ) -> Result<(), Failure> {
        let part = holder::take(body).map_err(|text| failure("network", text))?;
        let info = holder::info(self.request.container.as_ref(), &part);
        let lodger = self.lodger.insert(networks.lodger(&self.key, Some(&info)));
        let takes_namespaces = self.shared.engine.is_podman().await.map_err(refused("network"))?;
        let holder = match takes_namespaces {
            true => None,
            false => Some(hold(&self.shared, &self.request, &part).await?),
        };
        let process = holder.as_ref().map(|(_, process)| process.pid);
        let joined = lodger.join(process, &part.hosts).await;
        let joined = joined.map_err(|error| failure("network", error.chain()))?;
        let place = match holder {
            // The namespace that was kept may be another's if the process was dead by then.
            Some((_, process)) if process.is_dead() => {
                return Err(gone(&name_of_holder(&self.key)));
            }
            Some((id, _)) => Place::Holder(id),
            None => Place::Namespace(joined.namespace.clone()),
        };
        holder::join(body, &self.key, &place, &joined, &part);
        Ok(())
    }

    /// Leaves the networks and removes the holder; nothing is left to fail.
    pub(super) async fn depart(&mut self) {
        let Some(mut lodger) = self.lodger.take() else { return };
        failpoint!("docker.departs");
        if let Err(error) = lodger.leave().await {
            warn!(container = %self.key, error = error.chain(), "not off its networks yet");
        }
        failpoint!("docker.departed");
        let name = name_of_holder(&self.key);
        let removed = tokio::time::timeout(ORDER, self.shared.engine.remove(&name)).await;
        if !matches!(removed, Ok(Ok(()))) {
            warn!(container = %self.key, "what held its network will be removed later");
        }
    }
}

fn gone(name: &str) -> Failure {
    failure("network", format!("the container '{name}' did not stay"))
}

/// The engine's id of the holder, and its process.
async fn found(engine: &Engine, name: &str) -> Result<(String, Process), Failure> {
    for _ in 0..TRIES {
        let inspected = engine.inspect(name).await.map_err(refused("network"))?;
        let pid = inspected.pid.ok_or_else(|| gone(name))?;
        // For a moment it is still the engine's runtime, by its environment.
        if let Ok(process) = Process::open(pid, name) {
            return Ok((inspected.id, process));
        }
        tokio::time::sleep(PAUSE).await;
    }
    Err(gone(name))
}

/// Has the holder run: the engine's id of it, and its process.
async fn hold(
    shared: &Shared,
    request: &LaunchRequest,
    part: &Part,
) -> Result<(String, Process), Failure> {
    let engine = &shared.engine;
    let name = &name_of_holder(&request.id.value);
    let image = holder::image(SHIM);
    let body = holder::body(request, &shared.config.owner, &image.name, part);
    let mut made = engine.create_anew(name, &body).await;
    if made.as_ref().is_err_and(EngineError::is_missing) {
        info!(image = image.name, "giving docker the image of what holds networks");
        engine.load(&image.name, image.archive).await.map_err(refused("network"))?;
        made = engine.create_anew(name, &body).await;
    }
    made.map_err(refused("network"))?;
    failpoint!("docker.holder");
    engine.start(name).await.map_err(refused("network"))?;
    failpoint!("docker.held");
    found(engine, name).await
}
