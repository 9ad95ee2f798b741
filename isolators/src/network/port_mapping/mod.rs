//! `network/port_mapping`: all containers have the host's address, each its own ports.
//!
//! * [`settings`]: what the flags say, blocks of ephemeral ports (pure).
//! * `host`: the kernel's part; what is done with a packet is in
//!   `kernel::bpf::steer`.
//!
//! A top-level container gets a network namespace with one interface, the other end
//! of which is on the host. Packets are steered by port: its `ports`, and a block of
//! ephemeral ones from which the kernel serves whoever asks for none. Owns the
//! blocks; what is whose is in the kernel (marks of interfaces, the map of ports), so
//! recovery keeps no files. Nested containers are in the network of their parent.

mod host;
pub mod settings;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use kernel::netlink::link::Counters;
use mesos::resources::Ranges;
use mesos::{Resource, ResourceStatistics, value};
use oci_spec::runtime::LinuxNamespaceType;
use tracing::{info, warn};

use self::host::{Host, Limits, Pair};
use self::settings::Blocks;
use super::ports::core::ports;
use crate::api::{
    ContainerContext, Contribution, Isolation, Isolator, IsolatorError, Known, Probe, Recovered,
};
use crate::config::{Config, Launcher};
use crate::mounts::{namespace_of, new_namespace};

const NAME: &str = "network/port_mapping";

/// One reading of all counters serves all containers of a sampling pass.
const FRESH: Duration = Duration::from_millis(250);

/// The isolator.
#[derive(Debug)]
struct PortMapping {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    host: Host,
    offered: Ranges,
    limits: Limits,
    blocks: Mutex<Blocks>,
    figures: Mutex<Figures>,
}

/// Counters of all interfaces, and when they were read.
#[derive(Debug, Default)]
struct Figures {
    read: Option<Instant>,
    by_index: BTreeMap<u32, Counters>,
}

/// `network/port_mapping`.
///
/// # Errors
/// The flags contradict each other or the machine; says what to do.
pub fn port_mapping(config: &Config) -> Result<Arc<dyn Isolator>, IsolatorError> {
    let plain = |object: String| IsolatorError::plain(NAME, "start", object);
    if config.launcher != Launcher::Linux || !config.root {
        return Err(plain("without root and --launcher=linux".into()));
    }
    let settings = &config.port_mapping;
    let failed = |e| IsolatorError::new(NAME, "set up", "the network of this machine", e);
    let own = kernel::netlink::diag::ephemeral_ports().map_err(failed)?;
    settings.check(own).map_err(plain)?;
    let host = Host::new(settings, &config.cgroups_root).map_err(failed)?;
    let shared = Shared {
        host,
        offered: settings.ports.clone(),
        limits: Limits { egress: settings.egress, ingress: settings.ingress },
        blocks: Mutex::new(Blocks::new(&settings.ephemeral, settings.per_container)),
        figures: Mutex::default(),
    };
    Ok(Arc::new(PortMapping { shared: Arc::new(shared) }))
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // A block is taken or given back in one step, figures are replaced as a whole.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Does what blocks on another thread.
async fn blocking<T: Send + 'static>(
    verb: &'static str,
    object: String,
    work: impl FnOnce() -> Result<T, kernel::Error> + Send + 'static,
) -> Result<T, IsolatorError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result.map_err(|e| IsolatorError::new(NAME, verb, object, e)),
        Err(error) => Err(IsolatorError::new(NAME, verb, object, error)),
    }
}

fn range((first, last): (u16, u16)) -> (u64, u64) {
    (u64::from(first), u64::from(last))
}

impl PortMapping {
    fn handle(&self, context: &Arc<ContainerContext>) -> Handle {
        Handle {
            shared: Arc::clone(&self.shared),
            context: Arc::clone(context),
            block: None,
            pair: None,
            pid: None,
            ports: Ranges::default(),
        }
    }
}

#[async_trait]
impl Isolator for PortMapping {
    fn name(&self) -> &'static str {
        NAME
    }

    fn supports_nesting(&self) -> bool {
        true
    }

    fn attach(&self, context: &Arc<ContainerContext>) -> Box<dyn Isolation> {
        Box::new(self.handle(context))
    }

    async fn recover(&self, known: &[Known]) -> Result<Recovered, IsolatorError> {
        let shared = Arc::clone(&self.shared);
        let look = move || {
            let pairs = shared.host.pairs()?;
            let ports = shared.host.assigned(&pairs)?;
            Ok(pairs.into_iter().zip(ports).collect::<Vec<_>>())
        };
        let found = blocking("find", "the interfaces of containers".into(), look).await?;
        let mut found: BTreeMap<String, (Pair, Ranges)> = found
            .into_iter()
            .map(|(pair, ports)| (pair.container.clone(), (pair, ports)))
            .collect();
        let mut handles: Vec<Box<dyn Isolation>> = Vec::new();
        for container in known {
            let mut handle = self.handle(&container.context);
            let id = &container.context.id;
            if id.parent.is_none()
                && let Some((pair, ports)) = found.remove(&id.value)
            {
                if !lock(&self.shared.blocks).adopt(pair.block) {
                    warn!(
                        "the ephemeral ports {:?} of {} are outside --resources",
                        pair.block, id.value
                    );
                }
                handle.block = Some(pair.block);
                (handle.pair, handle.ports, handle.pid) = (Some(pair), ports, container.pid);
            }
            handles.push(Box::new(handle));
        }
        let leftovers =
            found.values().map(|(pair, _)| format!("interface {}", pair.name)).collect();
        for (pair, ports) in found.into_values() {
            info!(
                "removing the interface {} of container {}, which is gone",
                pair.name, pair.container
            );
            let (shared, object) = (Arc::clone(&self.shared), pair.name.clone());
            let gone = blocking("remove", object, move || shared.host.detach(&pair, &ports)).await;
            if let Err(error) = gone {
                warn!(error = %error.chain(), "a leftover stays");
            }
        }
        Ok(Recovered { handles, leftovers })
    }
}

/// One container.
#[derive(Debug)]
struct Handle {
    shared: Arc<Shared>,
    context: Arc<ContainerContext>,
    block: Option<(u16, u16)>,
    pair: Option<Pair>,
    pid: Option<u32>,
    /// What the map says are its ports, block included.
    ports: Ranges,
}

impl Handle {
    /// The ports that it asks for, if the agent has them.
    fn wanted(&self, requests: &[Resource]) -> Result<Ranges, IsolatorError> {
        let wanted = ports(requests);
        let foreign = wanted.difference(&self.shared.offered);
        match foreign.is_empty() {
            true => Ok(wanted.union(&Ranges::new(self.block.map(range)))),
            false => {
                let object =
                    format!("the ports {foreign}: they are not among those of --resources");
                Err(IsolatorError::plain(NAME, "give", object))
            }
        }
    }

    async fn assign(&mut self, wanted: Ranges) -> Result<(), IsolatorError> {
        let Some(pair) = self.pair.clone().filter(|_| wanted != self.ports) else { return Ok(()) };
        let (shared, before) = (Arc::clone(&self.shared), self.ports.clone());
        let ports = wanted.clone();
        let work = move || shared.host.assign(&pair, &ports, &before);
        blocking("give", format!("the ports {wanted}"), work).await?;
        self.ports = wanted;
        Ok(())
    }
}

#[async_trait]
impl Isolation for Handle {
    async fn prepare(&mut self) -> Result<Contribution, IsolatorError> {
        if let Some(parent) = &self.context.parent {
            let namespaces = vec![namespace_of(LinuxNamespaceType::Network, parent.pid, "net")];
            return Ok(Contribution { namespaces, ..Contribution::default() });
        }
        self.wanted(&self.context.requests)?;
        let block = lock(&self.shared.blocks).allocate();
        self.block = Some(block.ok_or_else(|| {
            let object = "ephemeral ports: all ephemeral_ports of --resources are in use";
            IsolatorError::plain(NAME, "allocate", object)
        })?);
        Ok(Contribution {
            namespaces: vec![new_namespace(LinuxNamespaceType::Network)],
            needs_pid: true,
            ..Contribution::default()
        })
    }

    async fn isolate(&mut self, pid: u32) -> Result<(), IsolatorError> {
        let Some(block) = self.block else { return Ok(()) };
        self.pid = Some(pid);
        let shared = Arc::clone(&self.shared);
        let id = self.context.id.value.clone();
        let object = format!("container '{id}' to the host's network");
        let pair = blocking("attach", object, move || shared.host.attach(&id, pid, block)).await?;
        self.pair = Some(pair.clone());
        let wanted = self.wanted(&self.context.requests)?;
        self.assign(wanted).await?;
        if self.shared.limits.egress.or(self.shared.limits.ingress).is_some() {
            let shared = Arc::clone(&self.shared);
            let object = format!("the network of container '{}'", self.context.id.value);
            let work = move || shared.host.limit(&pair, pid, shared.limits);
            blocking("limit", object, work).await?;
        }
        Ok(())
    }

    async fn update(
        &mut self,
        requests: &[Resource],
        _limits: &BTreeMap<String, f64>,
    ) -> Result<(), IsolatorError> {
        if self.pair.is_none() {
            return Ok(());
        }
        let wanted = self.wanted(requests)?;
        self.assign(wanted).await
    }

    fn probes(&mut self) -> Vec<Box<dyn Probe>> {
        let Some(pair) = &self.pair else { return Vec::new() };
        let (shared, limits) = (Arc::clone(&self.shared), self.shared.limits);
        vec![Box::new(Traffic { shared, index: pair.index, block: pair.block, limits })]
    }

    async fn cleanup(&mut self) -> Result<(), IsolatorError> {
        if let Some(pair) = self.pair.clone() {
            let (shared, ports) = (Arc::clone(&self.shared), self.ports.clone());
            let object = format!("the interface {}", pair.name);
            blocking("remove", object, move || shared.host.detach(&pair, &ports)).await?;
            (self.pair, self.ports) = (None, Ranges::default());
        } else if let Some(pid) = self.pid.filter(|_| self.block.is_some()) {
            // Cut off while it was made.
            let shared = Arc::clone(&self.shared);
            let work = move || shared.host.remove(pid);
            blocking("remove", format!("the interface of process {pid}"), work).await?;
        }
        if let Some(block) = self.block.take() {
            lock(&self.shared.blocks).release(block);
        }
        self.pid = None;
        Ok(())
    }
}

/// What went through a container's interface. It is read at the host's end, where
/// what the container receives is sent.
#[derive(Debug)]
struct Traffic {
    shared: Arc<Shared>,
    index: u32,
    block: (u16, u16),
    limits: Limits,
}

impl Probe for Traffic {
    fn source(&self) -> &'static str {
        NAME
    }

    fn sample(
        &mut self,
        _buffer: &mut Vec<u8>,
        statistics: &mut ResourceStatistics,
    ) -> Result<(), IsolatorError> {
        let mut figures = lock(&self.shared.figures);
        if figures.read.is_none_or(|read| read.elapsed() > FRESH) {
            let failed = |e| IsolatorError::new(NAME, "read", "counters of interfaces", e);
            figures.by_index = self.shared.host.counters().map_err(failed)?.into_iter().collect();
            figures.read = Some(Instant::now());
        }
        let (begin, end) = range(self.block);
        statistics.net_ephemeral_ports = Some(value::Range { begin, end });
        statistics.net_tx_rate_limit = self.limits.egress;
        statistics.net_rx_rate_limit = self.limits.ingress;
        let Some(ours) = figures.by_index.get(&self.index) else { return Ok(()) };
        statistics.net_rx_packets = Some(ours.tx_packets);
        statistics.net_rx_bytes = Some(ours.tx_bytes);
        statistics.net_rx_errors = Some(ours.tx_errors);
        statistics.net_rx_dropped = Some(ours.tx_dropped);
        statistics.net_tx_packets = Some(ours.rx_packets);
        statistics.net_tx_bytes = Some(ours.rx_bytes);
        statistics.net_tx_errors = Some(ours.rx_errors);
        statistics.net_tx_dropped = Some(ours.rx_dropped);
        Ok(())
    }
}
