//! From flags to a running master: the order of start-up and of the end.
//!
//! Start: listen, open the registry, be elected, recover, serve. End: stop
//! accepting, let answers finish, leave. Agents and tasks do not notice.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, ToSocketAddrs};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use mesos::master_info::{Capability, capability::Type};
use mesos::{Address, MasterInfo};
use thiserror::Error;
use tokio::net::TcpListener;
use tokio::sync::mpsc;

use super::allocator;
use super::api::{Api, Door};
use super::core::Core;
use super::core::config::{Config, MIN_AGENT_REREGISTER_TIMEOUT};
use super::driver::{Driver, Handle, Hands, Limits as QueueLimits, Meters, now};
use super::election::{Election, Standalone};
use super::registrar::{self, Embedded, InMemory, Registrar, RegistrarError};
use super::snapshot::Identity;
use crate::daemon::api::Common;
use crate::daemon::files::Files;
use crate::daemon::flags::Flags;
use crate::daemon::listen::{PATIENCE, listen};
use crate::daemon::logging::Logging;
use crate::daemon::metrics::Metrics;
use crate::wire::http::{Limits, serve};
use crate::wire::libprocess::Post;

/// Window of the allocation timer's distribution, as in Mesos.
const DAY: Duration = Duration::from_secs(24 * 3600);

/// Why the master does not start, or stopped.
#[derive(Debug, Error)]
pub enum AppError {
    /// A flag's value cannot be used.
    #[error("bad value of --{flag}: {why}")]
    Flag {
        /// Which.
        flag: &'static str,
        /// Why.
        why: String,
    },
    /// The address cannot be listened on.
    #[error("listen on {address}")]
    Listen {
        /// Which.
        address: SocketAddr,
        /// Why.
        source: std::io::Error,
    },
    /// The registry cannot be used.
    #[error("the registry failed")]
    Registry(#[from] RegistrarError),
}

/// What the flags ask for.
pub struct Settings {
    /// Where to listen.
    pub listen: SocketAddr,
    /// What to announce instead, where given.
    pub advertise: (Option<IpAddr>, Option<u16>),
    /// `--hostname`.
    pub hostname: Option<String>,
    /// `--hostname_lookup`.
    pub hostname_lookup: bool,
    /// `--work_dir`; `None` keeps the registry in memory.
    pub work_dir: Option<PathBuf>,
    /// The core's settings.
    pub core: Config,
    /// Initial weights.
    pub weights: Vec<mesos::WeightInfo>,
    /// `--max_operator_event_stream_subscribers`.
    pub max_watchers: usize,
}

fn bad(flag: &'static str, why: impl Into<String>) -> AppError {
    AppError::Flag { flag, why: why.into() }
}

fn number(flags: &Flags, name: &'static str) -> Result<usize, AppError> {
    let value = flags.number(name).unwrap_or(0);
    usize::try_from(value).map_err(|_| bad(name, format!("{value} is too large")))
}

fn port(flags: &Flags, name: &'static str) -> Result<Option<u16>, AppError> {
    let Some(value) = flags.number(name) else { return Ok(None) };
    u16::try_from(value).map(Some).map_err(|_| bad(name, format!("{value} is no port")))
}

impl Settings {
    /// Reads the flags.
    ///
    /// # Errors
    /// [`AppError::Flag`] naming the flag.
    pub fn new(flags: &Flags) -> Result<Settings, AppError> {
        let ip = flags.ip("ip").unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED));
        let work_dir = match flags.text("registry").unwrap_or("replicated_log") {
            "in_memory" => None,
            "replicated_log" => match flags.text("work_dir") {
                Some(dir) => Some(PathBuf::from(dir)),
                None => {
                    return Err(bad(
                        "work_dir",
                        "it is needed to keep the registry; give it, or \
                                                --registry=in_memory",
                    ));
                }
            },
            other => {
                return Err(bad(
                    "registry",
                    format!("'{other}' is not replicated_log or in_memory"),
                ));
            }
        };
        Ok(Settings {
            listen: SocketAddr::new(ip, port(flags, "port")?.unwrap_or(5050)),
            advertise: (flags.ip("advertise_ip"), port(flags, "advertise_port")?),
            hostname: flags.text("hostname").map(str::to_owned),
            hostname_lookup: flags.bool("hostname_lookup"),
            work_dir,
            core: core_config(flags)?,
            weights: weights(flags)?,
            max_watchers: number(flags, "max_operator_event_stream_subscribers")?,
        })
    }
}

fn core_config(flags: &Flags) -> Result<Config, AppError> {
    let reregister = flags.duration("agent_reregister_timeout").unwrap_or_default();
    if reregister < MIN_AGENT_REREGISTER_TIMEOUT {
        return Err(bad("agent_reregister_timeout", "it must be at least 10mins"));
    }
    let ping = flags.duration("agent_ping_timeout").unwrap_or_default();
    if ping < Duration::from_secs(1) || ping > Duration::from_secs(15 * 60) {
        return Err(bad("agent_ping_timeout", "it must be between 1secs and 15mins"));
    }
    let pings = number(flags, "max_agent_ping_timeouts")?.max(1);
    let roles = flags.text("roles").map(|list| {
        let mut roles: BTreeSet<String> = list.split(',').map(|r| r.trim().to_owned()).collect();
        roles.insert("*".to_owned());
        roles
    });
    let defaults = Config::default();
    let duration = |name, or: Duration| flags.duration(name).unwrap_or(or);
    let interval = duration("allocation_interval", defaults.allocation_interval);
    Ok(Config {
        ping_timeout: ping,
        max_ping_timeouts: u32::try_from(pings).unwrap_or(u32::MAX),
        reregister_timeout: reregister,
        offer_timeout: flags.duration("offer_timeout"),
        allocation_interval: interval,
        max_completed_frameworks: number(flags, "max_completed_frameworks")?,
        max_completed_tasks: number(flags, "max_completed_tasks_per_framework")?,
        max_unreachable_tasks: number(flags, "max_unreachable_tasks_per_framework")?,
        root_submissions: flags.bool("root_submissions"),
        roles,
        require_agent_domain: flags.bool("require_agent_domain"),
        registry_gc_interval: duration("registry_gc_interval", defaults.registry_gc_interval),
        registry_max_age: duration("registry_max_agent_age", defaults.registry_max_age),
        registry_max_count: number(flags, "registry_max_agent_count")?,
        allocator: allocator::Options {
            interval,
            min_allocatable: minimum(flags)?,
            excluded: flags
                .text("fair_sharing_excluded_resource_names")
                .into_iter()
                .flat_map(|list| list.split(','))
                .map(|name| name.trim().to_owned())
                .collect(),
            filter_gpu: flags.bool("filter_gpu_resources"),
            region: None,
        },
        seed: uuid::Uuid::new_v4().as_u64_pair().0,
    })
}

/// `cpus:0.01|mem:32`: any of these sets.
fn minimum(flags: &Flags) -> Result<Vec<BTreeMap<String, f64>>, AppError> {
    const FLAG: &str = "min_allocatable_resources";
    let text = flags.text(FLAG).unwrap_or_default();
    let mut sets = Vec::new();
    for set in text.split('|').filter(|s| !s.trim().is_empty()) {
        let parsed = mesos::resources::Quantities::parse(set)
            .map_err(|error| bad(FLAG, format!("'{set}': {error}")))?;
        sets.push(parsed.iter().map(|(name, n)| (name.to_owned(), n.value())).collect());
    }
    Ok(sets)
}

/// `web=2,batch=1`.
fn weights(flags: &Flags) -> Result<Vec<mesos::WeightInfo>, AppError> {
    let Some(text) = flags.text("weights") else { return Ok(Vec::new()) };
    text.split(',')
        .map(|pair| {
            let wrong = || bad("weights", format!("'{pair}' is not role=weight"));
            let (role, weight) = pair.split_once('=').ok_or_else(wrong)?;
            let weight: f64 = weight.trim().parse().map_err(|_| wrong())?;
            if weight > 0.0 && weight.is_finite() {
                Ok(mesos::WeightInfo { weight, role: Some(role.trim().to_owned()) })
            } else {
                Err(bad("weights", format!("weight of '{role}' must be positive")))
            }
        })
        .collect()
}

/// The address that others reach us at.
fn announced(settings: &Settings, bound: SocketAddr) -> SocketAddr {
    let ip = settings.advertise.0.or(Some(bound.ip()).filter(|ip| !ip.is_unspecified()));
    let port = settings.advertise.1.unwrap_or(bound.port());
    SocketAddr::new(ip.unwrap_or_else(own_ip), port)
}

/// The first IPv4 address of our own host name; loopback if it has none.
fn own_ip() -> IpAddr {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let found = (name.trim(), 0).to_socket_addrs().ok();
    found
        .and_then(|mut all| all.find(SocketAddr::is_ipv4))
        .map_or(IpAddr::V4(Ipv4Addr::LOCALHOST), |address| address.ip())
}

/// How the master introduces itself.
fn master_info(settings: &Settings, address: SocketAddr) -> MasterInfo {
    let lookup = || kernel::lookup::hostname_of(address.ip()).ok();
    let hostname = settings
        .hostname
        .clone()
        .or_else(|| settings.hostname_lookup.then(lookup).flatten())
        .unwrap_or_else(|| address.ip().to_string());
    let ip = match address.ip() {
        // The four bytes in network order, read as a little-endian number.
        IpAddr::V4(ip) => u32::from_le_bytes(ip.octets()),
        IpAddr::V6(_) => 0,
    };
    let capability = |kind: Type| Capability { r#type: Some(kind as i32) };
    MasterInfo {
        id: uuid::Uuid::new_v4().to_string(),
        ip,
        port: u32::from(address.port()),
        pid: Some(format!("master@{address}")),
        hostname: Some(hostname.clone()),
        version: Some(crate::daemon::version::MESOS_VERSION.to_owned()),
        address: Some(Address {
            hostname: Some(hostname),
            ip: Some(address.ip().to_string()),
            port: i32::from(address.port()),
        }),
        domain: None,
        capabilities: [Type::AgentUpdate, Type::AgentDraining, Type::QuotaV2]
            .map(capability)
            .to_vec(),
    }
}

/// A master that listens and has recovered, ready to run.
pub struct App {
    listener: TcpListener,
    driver: Driver,
    api: Arc<Api>,
    address: SocketAddr,
}

impl App {
    /// Listens, opens the registry, is elected, recovers.
    ///
    /// # Errors
    /// [`AppError`]
    pub async fn build(
        settings: Settings,
        flags: Arc<Flags>,
        logging: Logging,
    ) -> Result<App, AppError> {
        let started = Instant::now();
        let start_time = now(started).seconds();
        let listener = listen(settings.listen, PATIENCE)
            .await
            .map_err(|source| AppError::Listen { address: settings.listen, source })?;
        let bound = listener
            .local_addr()
            .map_err(|source| AppError::Listen { address: settings.listen, source })?;
        let address = announced(&settings, bound);
        let info = master_info(&settings, address);
        let mut registrar: Box<dyn Registrar> = match &settings.work_dir {
            Some(dir) => Box::new(Embedded::open(dir)?),
            None => Box::new(InMemory::default()),
        };
        let metrics = Metrics::new();
        let before = Instant::now();
        let mut registry = registrar.load()?;
        let fetched = before.elapsed();
        metrics.timer("registrar/state_fetch", DAY).record(Instant::now(), fetched);
        if registry.weights.is_empty() {
            let weight = |info| mesos::internal::registry::Weight { info };
            registry.weights = settings.weights.into_iter().map(weight).collect();
        }
        let leader = Standalone::default().leader(&info).await;
        let identity = Identity {
            info: info.clone(),
            start_time,
            elected_time: Some(now(started).seconds()),
            leader: Some(leader),
            flags: flags.shown().map(|(name, value)| (name.to_owned(), value)).collect(),
        };
        let core = Core::new(settings.core, info, &registry, now(started));
        let (exits, exited) = mpsc::unbounded_channel();
        let (changes, stored) = registrar::start(registrar, &metrics);
        let common = Common { files: Files::new(), metrics, logging: logging.clone(), flags };
        let hands = Hands {
            post: Post::new(address, exits),
            exited,
            changes,
            stored,
            meters: Meters::new(&common.metrics),
            max_watchers: settings.max_watchers,
            limits: QueueLimits::default(),
        };
        let (driver, handle) = Driver::new(core, started, Arc::new(identity), hands);
        let each = common.flags.bool("publish_per_framework_metrics");
        super::metrics::attach(&common.metrics, handle.clone(), each);
        if let Some(log) = logging.file() {
            let _ = common.files.attach(log, "/master/log");
        }
        let api = Api::new(handle, common);
        Ok(App { listener, driver, api, address })
    }

    /// Where others reach it.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The way to the owner, for tests and `bulkhead local`.
    #[must_use]
    pub fn handle(&self) -> Handle {
        self.api.handle.clone()
    }

    /// Serves until `shutdown` resolves.
    ///
    /// # Errors
    /// [`AppError::Registry`] if the registry fails meanwhile.
    pub async fn run(self, shutdown: impl Future<Output = ()> + Send) -> Result<(), AppError> {
        tracing::info!("master {} started", self.address);
        // Every connection of an agent is one file, ours to it another.
        let limits = Limits::default();
        let door = Arc::new(Door(self.api));
        tokio::select! {
            ended = self.driver.run() => ended.map_err(AppError::from),
            () = serve(self.listener, door, limits, shutdown) => Ok(()),
        }
    }
}
