//! What others see of a container, and their way to its task.

use std::sync::Arc;

use mesos::{ContainerStatus, NetworkInfo, network_info};
use tokio::sync::{mpsc, watch};

use super::mapping::docker_info;
use crate::containerizer::terminal::Terminal;
use crate::containerizer::{LaunchRequest, Progress, Termination};

/// Mesos' states of a Docker container.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    Fetching,
    Pulling,
    Starting,
    Running,
    /// The engine has not said yet what became of it.
    Seeking,
    Destroying,
}

impl Phase {
    pub(super) fn name(self) -> &'static str {
        match self {
            Phase::Fetching => "FETCHING",
            Phase::Pulling => "PULLING",
            Phase::Starting => "STARTING",
            Phase::Running => "RUNNING",
            Phase::Seeking => "SEEKING",
            Phase::Destroying => "DESTROYING",
        }
    }
}

/// What everybody may see of a container.
#[derive(Debug, Clone)]
pub(super) struct View {
    pub(super) phase: Phase,
    pub(super) pid: Option<u32>,
    /// The signal that asks it to stop.
    pub(super) stop_signal: Option<String>,
    /// Its addresses, if they are not the agent's.
    pub(super) addresses: Vec<String>,
    /// Its networks, where they are not the engine's.
    pub(super) networks: Vec<NetworkInfo>,
    /// How far what it is launched with is.
    pub(super) progress: Option<Progress>,
    /// Its terminal, while it runs.
    pub(super) terminal: Option<Arc<Terminal>>,
    /// Set once, last.
    pub(super) end: Option<Termination>,
}

impl View {
    pub(super) fn new(phase: Phase, pid: Option<u32>) -> View {
        let (addresses, networks) = (Vec::new(), Vec::new());
        let (stop_signal, progress, terminal) = (None, None, None);
        View { phase, pid, stop_signal, addresses, networks, progress, terminal, end: None }
    }

    /// The first of its addresses.
    pub(super) fn address(&self) -> Option<String> {
        let of_network = self.networks.iter().flat_map(|network| &network.ip_addresses);
        let own = of_network.filter_map(|address| address.ip_address.as_ref());
        own.chain(&self.addresses).next().cloned()
    }
}

/// Others' way to a container.
#[derive(Debug, Clone)]
pub(super) struct Door {
    pub(super) request: Arc<LaunchRequest>,
    pub(super) destroy: mpsc::Sender<Option<Termination>>,
    pub(super) view: watch::Receiver<View>,
    /// Names it in the sampler.
    pub(super) slot: u64,
}

impl Door {
    /// What the framework sees of the running container.
    pub(super) fn status(&self) -> ContainerStatus {
        let view = self.view.borrow();
        let address = |text: &String| network_info::IpAddress {
            ip_address: Some(text.clone()),
            protocol: text.contains(':').then_some(network_info::Protocol::IPv6 as i32),
        };
        let asked = docker_info(self.request.container.as_ref());
        let asked = asked.and_then(|(info, _)| info.network_infos.first().cloned());
        let network = (!view.addresses.is_empty()).then(|| NetworkInfo {
            ip_addresses: view.addresses.iter().map(address).collect(),
            ..asked.unwrap_or_default()
        });
        ContainerStatus {
            container_id: Some(self.request.id.clone()),
            executor_pid: view.pid,
            network_infos: view.networks.iter().cloned().chain(network).collect(),
            ..ContainerStatus::default()
        }
    }
}
