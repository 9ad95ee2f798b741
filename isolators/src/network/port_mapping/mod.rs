//! `network/port_mapping`: all containers have the host's address, each its own ports.
//!
//! * [`settings`]: what the flags say, blocks of ephemeral ports; [`limits`]: how much a
//!   container may send and receive (pure).
//! * `host`: the kernel's part; what is done with a packet is in
//!   `kernel::bpf::steer`. `shaping`: the same of limits, `flows` of the order in which
//!   packets leave. `tuning`: what containers have of the host's kernel settings.
//! * `probe` reads the figures, `figures` (pure) says what they mean; [`rates`] (pure) is
//!   how they were spread over time, `metrics` what went wrong.
//!
//! A top-level container gets a network namespace with one interface, the other end
//! of which is on the host. Packets are steered by port: its `ports`, and a block of
//! ephemeral ones from which the kernel serves whoever asks for none. Owns the
//! blocks; what is whose is in the kernel (marks of interfaces, the map of ports), so
//! recovery keeps no files. Nested containers are in the network of their parent.

mod figures;
mod flows;
mod host;
pub mod limits;
mod metrics;
mod probe;
pub mod rates;
pub mod settings;
mod shaping;
mod tuning;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Instant;

use async_trait::async_trait;
use mesos::Resource;
use mesos::resources::Ranges;
use oci_spec::runtime::LinuxNamespaceType;
use tracing::{info, warn};

use self::host::{Host, Pair};
use self::metrics::Metrics;
use self::probe::{Reading, Traffic};
use self::rates::{Sampling, Window};
use self::settings::{Blocks, Settings};
use self::shaping::Limits;
use super::ports::core::ports;
use crate::api::{
    About, ContainerContext, Contribution, Isolation, Isolator, IsolatorError, Known, Probe,
    Recovered, Sysctl,
};
use crate::config::{Config, Launcher};
use crate::mounts::{namespace_of, new_namespace};
use crate::quantity;

const NAME: &str = "network/port_mapping";

/// The isolator.
#[derive(Debug)]
struct PortMapping {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    host: Host,
    settings: Settings,
    blocks: Mutex<Blocks>,
    reading: Reading,
    metrics: Metrics,
    /// Kernel settings that containers have from the host.
    sysctls: BTreeMap<String, Sysctl>,
    /// Rates of each container, by the index of its interface.
    windows: Mutex<BTreeMap<u32, Window>>,
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
    let link = host.link(settings.link_speed);
    let settings = Settings {
        egress: settings.egress.resolve("egress", link, settings.cpus).map_err(plain)?,
        ingress: settings.ingress.resolve("ingress", link, settings.cpus).map_err(plain)?,
        ..settings.clone()
    };
    for (way, shape) in [("egress", &settings.egress), ("ingress", &settings.ingress)] {
        if shape.rate_per_cpu() > 0 {
            info!("{NAME}: {} bytes per second and cpu of {way}", shape.rate_per_cpu());
        }
        if let Some((speed, most)) = link.seen.zip(shape.maximum).filter(|(has, most)| has < most) {
            warn!(
                "--maximum_{way}_rate_limit={most}B is more than the link's {speed} bytes per second"
            );
        }
    }
    let shared = Shared {
        host,
        blocks: Mutex::new(Blocks::new(&settings.ephemeral, settings.per_container)),
        reading: Reading::default(),
        metrics: Metrics::default(),
        sysctls: tuning::of_the_host().map_err(failed)?,
        windows: Mutex::default(),
        settings,
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

impl Shared {
    /// What a container with these resources may send and receive.
    fn limits(&self, requests: &[Resource]) -> Limits {
        let cpus = quantity::total(requests, "cpus").unwrap_or(0.0);
        Limits {
            egress: self.settings.egress.limit(cpus),
            ingress: self.settings.ingress.limit(cpus),
        }
    }

    /// The rates of this interface are watched from now on.
    fn watch(&self, pair: &Pair) {
        if self.settings.rates.is_some() {
            lock(&self.windows).insert(pair.index, Window::default());
        }
    }

    /// Reads everybody's counters. **Blocks.**
    fn take_rates(&self, sampling: &Sampling) {
        let counters = match self.host.counters() {
            Ok(counters) => counters,
            Err(error) => {
                let error = kernel::chain(&error);
                return warn!(error, "rates of containers are not measured");
            }
        };
        let now = Instant::now();
        let mut windows = lock(&self.windows);
        for (index, counters) in &counters {
            if let Some(window) = windows.get_mut(index) {
                window.take(now, counters, sampling);
            }
        }
    }
}

/// Measures rates for as long as the isolator lives.
async fn measure_for_ever(shared: Weak<Shared>, sampling: Sampling) {
    let mut ticks = tokio::time::interval(sampling.interval);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let Some(shared) = shared.upgrade() else { return };
        if tokio::task::spawn_blocking(move || shared.take_rates(&sampling)).await.is_err() {
            warn!("a measurement of rates was cut short");
        }
    }
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
            limits: Arc::default(),
        }
    }

    /// What containers that run already are limited to, by interface; those of an agent
    /// with other flags get flows of their own.
    async fn look_again(
        &self,
        pairs: Vec<(Pair, u32)>,
    ) -> Result<BTreeMap<u32, Limits>, IsolatorError> {
        let shared = Arc::clone(&self.shared);
        let look = move || {
            let mut found = BTreeMap::new();
            for (pair, pid) in pairs {
                let seen = shared.host.sort(&pair).and_then(|()| shared.host.limits(&pair, pid));
                match seen {
                    Ok(limits) => {
                        found.insert(pair.index, limits);
                    }
                    // It may be about to end.
                    Err(error) => {
                        let (error, container) = (kernel::chain(&error), pair.container);
                        warn!(container, error, "the limits of a container are not known");
                    }
                }
            }
            Ok(found)
        };
        blocking("read", "the limits of containers".into(), look).await
    }
}

#[async_trait]
impl Isolator for PortMapping {
    fn about(&self) -> About {
        About { name: NAME, nesting: true, standalone: false }
    }

    fn metrics(&self) -> Vec<(String, f64)> {
        let Settings { egress, ingress, .. } = &self.shared.settings;
        self.shared.metrics.figures((egress.rate_per_cpu(), ingress.rate_per_cpu()))
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
        let running = known.iter().filter_map(|container| {
            let (pair, _) = found.get(&container.context.id.value)?;
            let top = container.context.id.parent.is_none();
            Some((pair.clone(), container.pid.filter(|_| top)?))
        });
        let limits = self.look_again(running.collect()).await?;
        if let Some(sampling) = self.shared.settings.rates {
            tokio::spawn(measure_for_ever(Arc::downgrade(&self.shared), sampling));
        }
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
                self.shared.watch(&pair);
                let seen = limits.get(&pair.index).copied();
                *lock(&handle.limits) = seen.unwrap_or_default();
                (handle.pair, handle.ports, handle.pid) = (Some(pair), ports, container.pid);
                // What an executor has for its tasks is known when they are.
                if seen.is_some()
                    && container.context.command_task
                    && let Err(error) = handle.restrict(&container.context.requests, true).await
                {
                    warn!(error = %error.chain(), "a container keeps its limits");
                }
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
    /// As they are now; for the figures, too.
    limits: Arc<Mutex<Limits>>,
}

impl Handle {
    /// The ports that it asks for, if the agent has them.
    fn wanted(&self, requests: &[Resource]) -> Result<Ranges, IsolatorError> {
        let wanted = ports(requests);
        let foreign = wanted.difference(&self.shared.settings.ports);
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

    /// Limits the container as its resources say. `existing`: it runs already.
    async fn restrict(
        &mut self,
        requests: &[Resource],
        existing: bool,
    ) -> Result<(), IsolatorError> {
        let Some((pair, pid)) = self.pair.clone().zip(self.pid) else { return Ok(()) };
        let before = *lock(&self.limits);
        let mut wanted = self.shared.limits(requests);
        if existing && before.ingress.is_none() && !self.shared.settings.ingress_existing {
            wanted.ingress = None;
        }
        if wanted == before {
            return Ok(());
        }
        let shared = Arc::clone(&self.shared);
        let object = format!("the network of container '{}'", self.context.id.value);
        let work = move || shared.host.limit(&pair, pid, wanted, before);
        blocking("limit", object, work).await?;
        *lock(&self.limits) = wanted;
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
            sysctls: self.shared.sysctls.clone(),
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
        let pair = blocking("attach", object, move || shared.host.attach(&id, pid, block)).await;
        let metrics = &self.shared.metrics;
        let pair = Metrics::count(&metrics.attach, pair)?;
        self.shared.watch(&pair);
        self.pair = Some(pair);
        let context = Arc::clone(&self.context);
        let wanted = self.wanted(&context.requests)?;
        let assigned = self.assign(wanted).await;
        Metrics::count(&self.shared.metrics.assign, assigned)?;
        self.restrict(&context.requests, false).await
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
        let changed = match self.assign(wanted).await {
            Ok(()) => self.restrict(requests, true).await,
            Err(error) => Err(error),
        };
        Metrics::count(&self.shared.metrics.update, changed)
    }

    fn probes(&mut self) -> Vec<Box<dyn Probe>> {
        let Some((pair, pid)) = self.pair.as_ref().zip(self.pid) else { return Vec::new() };
        vec![Box::new(Traffic::new(&self.shared, pair, pid, &self.limits))]
    }

    async fn cleanup(&mut self) -> Result<(), IsolatorError> {
        if let Some(pair) = self.pair.clone() {
            let (shared, ports) = (Arc::clone(&self.shared), self.ports.clone());
            let object = format!("the interface {}", pair.name);
            let index = pair.index;
            let gone = blocking("remove", object, move || shared.host.detach(&pair, &ports)).await;
            Metrics::count(&self.shared.metrics.detach, gone)?;
            lock(&self.shared.windows).remove(&index);
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
