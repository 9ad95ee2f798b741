//! `network/ports`: what listens in a container must be one of its ports.
//!
//! * [`settings`]: what the flags say.
//! * [`core`](mod@core): what a container may, and what is said if it does more
//!   (pure).
//! * `scan`: who listens where, every `--container_ports_watch_interval`;
//!   [`listening`] is what is told of it (pure).
//!
//! Owns the table of the containers that it watches; a task of its own looks at all
//! of them in one go. With `--container_ports_bind` the kernel refuses other ports
//! at once: a program on the container's v2 cgroup, which goes with the cgroup and
//! stays over restarts of the agent. Nested containers have the ports of their
//! top-level container and are looked at with it. A container on a named network
//! has an address of its own, and is left alone.

pub mod core;
pub mod listening;
mod scan;
pub mod settings;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Instant;

use async_trait::async_trait;
use kernel::bpf;
use kernel::cgroup::Version;
use kernel::cgroup::id::{self, Directories};
use mesos::Resource;
use mesos::resources::Ranges;
use tokio::sync::oneshot;
use tracing::{info, warn};

use self::core::Book;
use self::listening::OpenPorts;
use self::scan::{Found, Scanner, Target};
use self::settings::{Bind, Settings};
use crate::api::{
    About, ContainerContext, Contribution, Isolation, Isolator, IsolatorError, Known, Limitation,
    Recovered, Watch,
};
use crate::cgroups::Layout;
use crate::config::{Config, Launcher};

const NAME: &str = "network/ports";

/// The isolator.
#[derive(Debug)]
pub struct Ports {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    settings: Settings,
    layout: Layout,
    /// Containers with a named network have an address of their own.
    named_networks: bool,
    ephemeral: (u16, u16),
    scanner: Mutex<Scanner>,
    table: Mutex<BTreeMap<String, Member>>,
}

/// A container that is watched.
#[derive(Debug)]
struct Member {
    target: Target,
    book: Book,
    /// As of the last look; `None` before the first.
    listening: Option<OpenPorts>,
    watcher: Option<oneshot::Sender<Limitation>>,
}

/// What listens in the containers that are watched.
#[derive(Debug, Clone)]
pub struct Listeners(Arc<Shared>);

impl Listeners {
    /// By top-level container, as of the last look; nothing of those that were not looked
    /// at yet.
    #[must_use]
    pub fn read(&self) -> Vec<(String, OpenPorts)> {
        let table = lock(&self.0.table);
        let known =
            |(id, member): (&String, &Member)| Some((id.clone(), member.listening.clone()?));
        table.iter().filter_map(known).collect()
    }
}

/// `network/ports`. `named_networks`: whether `network/cni` is on.
///
/// # Errors
/// This machine does not list sockets, or cannot do what the flags ask for.
pub fn ports(
    config: &Config,
    layout: Option<Layout>,
    named_networks: bool,
) -> Result<Arc<Ports>, IsolatorError> {
    Ok(Arc::new(Ports::new(config, layout, named_networks)?))
}

impl Ports {
    /// As [`ports`].
    ///
    /// # Errors
    /// As [`ports`].
    pub fn new(
        config: &Config,
        layout: Option<Layout>,
        named_networks: bool,
    ) -> Result<Ports, IsolatorError> {
        let plain = |object: &str| IsolatorError::plain(NAME, "start", object);
        if config.launcher != Launcher::Linux {
            return Err(plain("without --launcher=linux"));
        }
        let layout = layout.ok_or_else(|| plain("without cgroups"))?;
        let settings = config.ports.clone();
        let mount = layout.unified_mount();
        if settings.bind != Bind::Any && mount.is_none() {
            return Err(plain(
                "with --container_ports_bind: the kernel refuses ports only to cgroups of v2, and no \
                 cgroup2 is mounted (or --launcher=oci cannot use it beside v1); mount one, or leave \
                 the flag out",
            ));
        }
        let scanner = Scanner::new(&config.cgroups_root, mount.and_then(directories))
            .map_err(|e| IsolatorError::new(NAME, "list", "the sockets of this machine", e))?;
        let ephemeral = scanner.ephemeral();
        if let Some(scope) = &settings.scope {
            info!("{NAME} watches the ports {scope}");
        }
        warn_of_overlap(&settings.offered, ephemeral);
        let shared = Shared {
            settings,
            layout,
            named_networks,
            ephemeral,
            scanner: Mutex::new(scanner),
            table: Mutex::default(),
        };
        Ok(Ports { shared: Arc::new(shared) })
    }

    /// One look at everything, for benches: how many sockets containers have.
    /// **Blocks.**
    #[must_use]
    pub fn look(&self) -> usize {
        self.shared.scan()
    }

    /// What is found, for those who ask.
    #[must_use]
    pub fn listeners(&self) -> Listeners {
        Listeners(Arc::clone(&self.shared))
    }

    fn handle(&self, context: &Arc<ContainerContext>) -> Handle {
        let id = context.id.value.clone();
        Handle { shared: Arc::clone(&self.shared), context: Arc::clone(context), id }
    }
}

/// How to find cgroups by id; without it, sockets are found by inode.
fn directories(mount: &Path) -> Option<Directories> {
    let found = id::check(mount).and_then(|()| Directories::open(mount));
    let say = |error| {
        let error = kernel::chain(&error);
        warn!(error, "{NAME} looks for sockets in /proc, which takes longer");
    };
    found.map_err(say).ok()
}

/// Offered ports that the kernel gives to whoever asks for none may be taken when a
/// task wants them.
fn warn_of_overlap(offered: &Ranges, (first, last): (u16, u16)) {
    let reserved = kernel::netlink::diag::reserved_ports().unwrap_or_default();
    let wide = |(first, last): (u16, u16)| (u64::from(first), u64::from(last));
    let given = Ranges::new([wide((first, last))]);
    let given = given.difference(&Ranges::new(reserved.into_iter().map(wide)));
    // What both have.
    let both = offered.difference(&offered.difference(&given));
    if !both.is_empty() {
        warn!(
            "the ports {both} of --resources are also given to outgoing connections \
             (net.ipv4.ip_local_port_range is {first}-{last}): a task may find them taken; offer \
             others, or put them into net.ipv4.ip_local_reserved_ports"
        );
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Entries go in and out in one step; a scanner forgets nothing that matters.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Shared {
    /// Looks at all containers, and tells those that listen where they may not. How
    /// many sockets they have.
    fn scan(&self) -> usize {
        let found = self.look();
        let now = Instant::now();
        let mut table = lock(&self.table);
        for (id, owned) in &found.owned {
            let Some(member) = table.get_mut(id) else { continue };
            let mut listening: BTreeMap<&[String], Vec<(u64, u64)>> = BTreeMap::new();
            for socket in owned {
                let port = u64::from(socket.listener.port);
                listening.entry(&socket.lineage).or_default().push((port, port));
            }
            let all = self.within(Ranges::new(listening.values().flatten().copied()));
            let Some(verdict) = member.book.judge(&all, now) else { continue };
            // The first of its containers that does it is named.
            let mine = |ports: &[(u64, u64)]| {
                let ports = Ranges::new(ports.iter().copied());
                ports.difference(&ports.difference(&verdict.foreign))
            };
            let who = listening.iter().find(|(_, ports)| !mine(ports).is_empty());
            let name = who.map_or_else(|| id.clone(), |(lineage, _)| lineage.join("."));
            let limitation = core::violation(&name, &verdict.foreign);
            if verdict.news {
                info!("{}", limitation.message);
            }
            if self.settings.enforce
                && let Some(watcher) = member.watcher.take()
            {
                // Nobody hears it if the container is being destroyed.
                let _ = watcher.send(limitation);
            }
        }
        found.owned.values().map(Vec::len).sum()
    }

    /// Looks at all containers, and notes what listens in each.
    fn look(&self) -> Found {
        let targets: Vec<Target> = lock(&self.table).values().map(|m| m.target.clone()).collect();
        let found = lock(&self.scanner).look(&targets);
        let mut table = lock(&self.table);
        for (id, owned) in &found.owned {
            // One that ended meanwhile is nobody's business.
            if let Some(member) = table.get_mut(id) {
                let sockets = owned.iter().map(|socket| &socket.listener);
                member.listening = Some(OpenPorts::of(sockets));
            }
        }
        drop(table);
        found
    }

    fn within(&self, ports: Ranges) -> Ranges {
        match &self.settings.scope {
            Some(scope) => ports.difference(&ports.difference(scope)),
            None => ports,
        }
    }

    /// Offered ports on which others listen: tasks that get them will fail.
    fn warn_of_use(&self) {
        let taken = |port: u16| {
            let port = Ranges::new([(u64::from(port), u64::from(port))]);
            self.settings.offered.contains(&port)
        };
        let others = self.look().others.into_iter().filter(|listener| taken(listener.port));
        let list: Vec<String> = others
            .map(|l| {
                format!("{} {}", l.protocol.name(), std::net::SocketAddr::new(l.address, l.port))
            })
            .collect();
        if !list.is_empty() {
            warn!("ports of --resources are in use by others: {}", list.join(", "));
        }
    }
}

/// Looks again and again for as long as the isolator lives.
async fn watch_for_ever(shared: Weak<Shared>) {
    loop {
        let Some(interval) = shared.upgrade().map(|shared| shared.settings.watch_interval) else {
            return;
        };
        tokio::time::sleep(interval).await;
        let Some(shared) = shared.upgrade() else { return };
        if tokio::task::spawn_blocking(move || shared.scan()).await.is_err() {
            warn!("a look at what listens in containers was cut short");
        }
    }
}

#[async_trait]
impl Isolator for Ports {
    fn about(&self) -> About {
        About::top_level(NAME)
    }

    fn attach(&self, context: &Arc<ContainerContext>) -> Box<dyn Isolation> {
        Box::new(self.handle(context))
    }

    async fn recover(&self, known: &[Known]) -> Result<Recovered, IsolatorError> {
        let mut handles: Vec<Box<dyn Isolation>> = Vec::new();
        for container in known {
            let handle = self.handle(&container.context);
            if container.pid.is_some() && handle.concerns() {
                handle.recover(container.pid);
            }
            handles.push(Box::new(handle));
        }
        let shared = Arc::clone(&self.shared);
        let looked = tokio::task::spawn_blocking(move || shared.warn_of_use());
        // Only a warning is lost.
        let _ = looked.await;
        tokio::spawn(watch_for_ever(Arc::downgrade(&self.shared)));
        Ok(Recovered { handles, leftovers: Vec::new() })
    }
}

/// One container.
#[derive(Debug)]
struct Handle {
    shared: Arc<Shared>,
    context: Arc<ContainerContext>,
    id: String,
}

impl Handle {
    /// Whether its ports are the host's.
    fn concerns(&self) -> bool {
        let networks = self.context.info.iter().flat_map(|info| &info.network_infos);
        let named = networks.into_iter().any(|network| network.name.is_some());
        !(self.shared.named_networks && named)
    }

    /// Its directory in the v2 hierarchy, if it has one.
    fn unified(&self) -> Option<PathBuf> {
        let group = self.shared.layout.unified(&self.context.id.lineage())?;
        group.exists().then(|| group.path().to_path_buf())
    }

    fn add(&self, pid: Option<u32>) {
        let tracker = self.shared.layout.tracker(&self.context.id.lineage());
        // By id only if all its sockets have one.
        let unified = tracker.version() == Version::V2 || self.unified().is_some();
        let target = Target { id: self.id.clone(), pid, tracker, unified };
        let member = Member { target, book: Book::default(), listening: None, watcher: None };
        lock(&self.shared.table).insert(self.id.clone(), member);
    }

    fn change<T>(&self, change: impl FnOnce(&mut Member) -> T) -> Option<T> {
        lock(&self.shared.table).get_mut(&self.id).map(change)
    }

    /// It runs already. What an executor has for its tasks is known when they are:
    /// until then nothing is judged, and what the kernel refuses stays as it is.
    fn recover(&self, pid: Option<u32>) {
        self.add(pid);
        let undone = match self.shared.settings.bind {
            // An agent with other flags may have refused some.
            Bind::Any => self.refuse(None),
            _ => Ok(()),
        };
        let allotted = match self.context.command_task {
            true => self.allot(&self.context.requests),
            false => Ok(()),
        };
        if let Err(error) = undone.and(allotted) {
            let error = error.chain();
            warn!(error, "what a recovered container may bind is as it was");
        }
    }

    fn allot(&self, requests: &[Resource]) -> Result<(), IsolatorError> {
        let ports = core::ports(requests);
        let news = self.change(|member| {
            let news = member.book.allocated() != Some(&ports);
            member.book.allot(ports.clone(), Instant::now());
            news
        });
        match news == Some(true) && self.shared.settings.bind != Bind::Any {
            true => self.refuse(Some(&ports)),
            false => Ok(()),
        }
    }

    /// Refuses all ports but these, as the flag says; `None`: refuses none.
    fn refuse(&self, ports: Option<&Ranges>) -> Result<(), IsolatorError> {
        let Some(group) = self.unified() else { return Ok(()) };
        let settings = &self.shared.settings;
        let result = match ports {
            Some(ports) => {
                bpf::refuse_ports(&group, &core::refused(settings, ports, self.shared.ephemeral))
            }
            None => bpf::refuse_nothing(&group),
        };
        let object = || format!("the ports of container '{}'", self.id);
        result.map_err(|e| IsolatorError::new(NAME, "restrict", object(), e))
    }
}

#[async_trait]
impl Isolation for Handle {
    async fn prepare(&mut self) -> Result<Contribution, IsolatorError> {
        if self.concerns() {
            self.add(None);
            self.allot(&self.context.requests)?;
        }
        Ok(Contribution::default())
    }

    async fn isolate(&mut self, pid: u32) -> Result<(), IsolatorError> {
        self.change(|member| member.target.pid = Some(pid));
        Ok(())
    }

    fn watch(&mut self) -> Option<Watch> {
        if !self.shared.settings.enforce {
            return None;
        }
        let (watcher, watch) = oneshot::channel();
        self.change(|member| member.watcher = Some(watcher))?;
        Some(watch)
    }

    async fn update(
        &mut self,
        requests: &[Resource],
        _limits: &BTreeMap<String, f64>,
    ) -> Result<(), IsolatorError> {
        self.allot(requests)
    }

    async fn cleanup(&mut self) -> Result<(), IsolatorError> {
        lock(&self.shared.table).remove(&self.id);
        Ok(())
    }
}
