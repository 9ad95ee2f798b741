//! The conformance suite over every built-in isolator, on the real kernel, with
//! cgroups and directories of its own: in this process, served over a socket, and
//! with single calls cut off.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use isolator_plugin::{Manifest, Plugin, Policy, RemoteIsolator};
use isolators::api::{
    About, ContainerContext, Contribution, Isolation, Isolator, IsolatorError, Known, Recovered,
};
use isolators::config::{Config, Launcher};
use isolators::ids::IdRange;
use isolators::network::ports::settings::Bind;
use isolators::quantity::scalar;
use isolators::registry::{self, CreateError};
use isolators::suite::{self, Fixture};
use kernel::cgroup::Hierarchies;
use mesos::{ContainerInfo, Resource};

use crate::cutter::Cutter;
use crate::{Place, cdi, gpu, mesos_container, require, secrets, support};

/// An isolator, where its containers are, and what they ask of it.
struct Ground {
    place: Place,
    root: PathBuf,
    requests: Vec<Resource>,
    info: Option<ContainerInfo>,
    isolator: Arc<dyn Isolator>,
}

impl Ground {
    /// `None` if this machine cannot have the isolator.
    fn new(name: &'static str) -> Option<Ground> {
        let place = Place::new("suite", name);
        let (mut root, mut requests, mut info) = (place.path("suite"), Vec::new(), None);
        let base = || vec![scalar("cpus", 0.1), scalar("mem", 32.0), scalar("disk", 64.0)];
        let mut config = Config {
            cgroups_root: place.config.isolators.cgroups_root.clone(),
            ..Config::new(Launcher::Linux, Hierarchies::detect().expect("cgroups"))
        };
        match name {
            "disk/xfs" => {
                let disk = std::env::var_os("BULKHEAD_XFS")?;
                root = PathBuf::from(disk).join(&config.cgroups_root);
            }
            // There are no more ids than the suite has containers at a time: ids that
            // are lost are missed.
            "namespaces/user" => {
                config.userns_remap = Some(IdRange::parse("[1000000-1655359]").expect("ids"));
            }
            "linux/sysctl" => {
                config.container_sysctls.insert("kernel.msgmax".into(), "4096".into());
            }
            "volume/secret" => {
                let mut container = mesos_container(None);
                container.volumes = vec![secrets::value_at("token")];
                info = Some(container);
            }
            "network/cni" => {
                let conf = place.path("networks");
                std::fs::create_dir_all(&conf).expect("a directory");
                let text = r#"{ "name": "alone", "type": "bulkhead-loopback" }"#;
                std::fs::write(conf.join("alone.conf"), text).expect("write");
                config.cni.config_dir = Some(conf.clone());
                config.cni.plugins_dirs = vec![conf];
                config.cni.root = root.join("cni");
                let mut container = mesos_container(None);
                let alone = mesos::NetworkInfo { name: Some("alone".into()), ..Default::default() };
                container.network_infos = vec![alone];
                info = Some(container);
            }
            "devices/cdi" => {
                config.cdi.directories = vec![cdi::specs(&place)];
                requests = base().into_iter().chain(cdi::set(&["log0"])).collect();
            }
            "gpu/nvidia" => {
                if !support::have("compiler") {
                    return None;
                }
                config.gpu = gpu::settings(&place, 16);
                requests = base().into_iter().chain([scalar("gpus", 1.0)]).collect();
            }
            // The kernel's part of it too, where there is one.
            "network/ports" => {
                config.ports.unified = true;
                if config.hierarchies.unified().is_some() {
                    config.ports.bind = Bind::Allocated;
                }
            }
            _ => {}
        }
        std::fs::create_dir_all(&root).expect("a directory");
        config.disk.work_dir.clone_from(&root);
        let isolator = create(name, &Arc::new(config))?;
        Some(Ground { place, root, requests, info, isolator })
    }

    fn dir(&self, id: &str, what: &str) -> PathBuf {
        let path = self.root.join(id).join(what);
        std::fs::create_dir_all(&path).expect("a directory");
        path
    }

    fn socket(&self) -> PathBuf {
        self.place.path("plugin.sock")
    }

    /// Serves the isolator until the returned task is aborted.
    async fn serve(&self) -> tokio::task::JoinHandle<()> {
        let plugin = Plugin::of(Shared(Arc::clone(&self.isolator)), "1").all_calls();
        let socket = self.socket();
        let served = tokio::spawn(async move { plugin.serve(&socket).await.expect("served") });
        let start = Instant::now();
        while std::os::unix::net::UnixStream::connect(self.socket()).is_err() {
            assert!(start.elapsed() < crate::PATIENCE, "nobody listens");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        served
    }

    fn manifest(&self, socket: PathBuf) -> Manifest {
        Manifest {
            name: self.isolator.name().into(),
            socket,
            command: Vec::new(),
            deadline: Duration::from_secs(30),
            policy: Policy::Fail,
            protobuf: false,
            config: serde_json::json!({}),
        }
    }
}

impl Fixture for Ground {
    fn context(&self, id: &str) -> ContainerContext {
        let mut context = suite::context(id);
        context.sandbox = self.dir(id, "sandbox");
        context.runtime = self.dir(id, "runtime");
        context.requests.clone_from(&self.requests);
        context.info.clone_from(&self.info);
        context
    }

    fn residue(&self) -> Vec<String> {
        let groups = self.place.cgroup_roots().into_iter().flat_map(|root| crate::dirs_in(&root));
        let mark = self.root.display().to_string();
        let table = std::fs::read_to_string("/proc/self/mountinfo").expect("the mount table");
        let mounts = table.lines().filter(|line| line.contains(&mark)).map(str::to_owned);
        let runtimes = crate::dirs_in(&self.root).into_iter().map(|dir| dir.join("runtime"));
        let kept = runtimes.flat_map(|dir| std::fs::read_dir(dir).into_iter().flatten().flatten());
        let kept = kept.map(|entry| entry.path().display().to_string());
        groups.map(|group| group.display().to_string()).chain(mounts).chain(kept).collect()
    }
}

impl Drop for Ground {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.root);
    }
}

/// The isolator of that name, with what it needs beside it; `None` if this machine
/// lacks a device, a file system or a controller.
fn create(name: &'static str, config: &Arc<Config>) -> Option<Arc<dyn Isolator>> {
    let make = |flag: &str| registry::create(flag, Arc::clone(config));
    let made = make(name)
        .or_else(|_| make(&format!("filesystem/linux,{name}")))
        .or_else(|_| make(&format!("filesystem/linux,cgroups/devices,{name}")));
    let made = match made {
        Ok(made) => made,
        Err(CreateError::Start(error)) => {
            eprintln!("{name}: not here: {}", error.chain());
            return None;
        }
        Err(error) => panic!("{name}: {error}"),
    };
    let mine = |isolator: &&Arc<dyn Isolator>| {
        isolator.name() == name
            || (name.starts_with("cgroups/") && isolator.name().starts_with("cgroups"))
    };
    let found = made.all.iter().find(mine).cloned();
    let isolator = found.unwrap_or_else(|| panic!("{name}: it was not made"));
    let cgroups = made.all.iter().find(|isolator| isolator.name() == "cgroups").cloned();
    match cgroups.filter(|_| ["devices/cdi", "gpu/nvidia", "network/ports"].contains(&name)) {
        // These change the lists of cgroups that somebody must make.
        Some(cgroups) => Some(Arc::new(Pair { cgroups, isolator })),
        None => Some(isolator),
    }
}

/// For a plugin, which wants an isolator of its own.
struct Shared(Arc<dyn Isolator>);

#[async_trait]
impl Isolator for Shared {
    fn about(&self) -> About {
        self.0.about()
    }

    fn attach(&self, context: &Arc<ContainerContext>) -> Box<dyn Isolation> {
        self.0.attach(context)
    }

    async fn recover(&self, known: &[Known]) -> Result<Recovered, IsolatorError> {
        self.0.recover(known).await
    }
}

/// An isolator in the cgroups that another one makes.
struct Pair {
    cgroups: Arc<dyn Isolator>,
    isolator: Arc<dyn Isolator>,
}

#[derive(Debug)]
struct PairIsolation {
    cgroups: Box<dyn Isolation>,
    isolation: Box<dyn Isolation>,
}

#[async_trait]
impl Isolator for Pair {
    fn about(&self) -> About {
        self.isolator.about()
    }

    fn attach(&self, context: &Arc<ContainerContext>) -> Box<dyn Isolation> {
        let (cgroups, isolation) = (self.cgroups.attach(context), self.isolator.attach(context));
        Box::new(PairIsolation { cgroups, isolation })
    }

    async fn recover(&self, known: &[Known]) -> Result<Recovered, IsolatorError> {
        let (first, second) =
            (self.cgroups.recover(known).await?, self.isolator.recover(known).await?);
        let pairs = first.handles.into_iter().zip(second.handles);
        let pair = |(cgroups, isolation)| Box::new(PairIsolation { cgroups, isolation }) as _;
        Ok(Recovered { handles: pairs.map(pair).collect(), leftovers: first.leftovers })
    }
}

#[async_trait]
impl Isolation for PairIsolation {
    async fn prepare(&mut self) -> Result<Contribution, IsolatorError> {
        self.cgroups.prepare().await?;
        self.isolation.prepare().await
    }

    async fn update(
        &mut self,
        requests: &[Resource],
        limits: &std::collections::BTreeMap<String, f64>,
    ) -> Result<(), IsolatorError> {
        self.isolation.update(requests, limits).await
    }

    async fn cleanup(&mut self) -> Result<(), IsolatorError> {
        let inner = self.isolation.cleanup().await;
        self.cgroups.cleanup().await?;
        inner
    }
}

fn names() -> impl Iterator<Item = &'static str> {
    registry::TABLE.iter().filter(|(_, has)| *has).map(|(name, _)| *name)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_built_in_isolator_conforms() {
    require!(root, cgroup);
    let (mut wrong, mut checked) = (Vec::new(), Vec::new());
    for name in names() {
        let Some(ground) = Ground::new(name) else { continue };
        let outcomes = suite::run(&*ground.isolator, &ground, "suite").await;
        checked.push(name);
        wrong.extend(suite::failures(&outcomes).iter().map(|why| format!("{name}: {why}")));
    }
    assert!(wrong.is_empty(), "\n{}\n", wrong.join("\n"));
    for name in ["disk/du", "volume/secret", "volume/image", "cgroups/mem", "network/ports"] {
        assert!(checked.contains(&name), "only {checked:?} were checked");
    }
}

/// What the protocol keeps from plugins on purpose: ids of user namespaces, and settings
/// that are dropped where a container shares the namespace.
const NOT_FOR_PLUGINS: [&str; 2] = ["namespaces/user", "linux/sysctl"];

/// As if it were a plugin: nothing of the contract is lost on the way.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_built_in_isolator_conforms_over_a_socket() {
    require!(root, cgroup);
    let (mut wrong, mut checked) = (Vec::new(), 0);
    for name in names().filter(|name| !NOT_FOR_PLUGINS.contains(name)) {
        let Some(ground) = Ground::new(name) else { continue };
        let served = ground.serve().await;
        let plugin = RemoteIsolator::new(ground.manifest(ground.socket()));
        plugin.start(true);
        let outcomes = suite::run(&plugin, &ground, "socket").await;
        wrong.extend(suite::failures(&outcomes).iter().map(|why| format!("{name}: {why}")));
        plugin.stop();
        served.abort();
        checked += 1;
    }
    assert!(wrong.is_empty(), "\n{}\n", wrong.join("\n"));
    assert!(checked > 15, "only {checked} isolators were checked");
}

/// A life in which one call does not arrive, or its answer; nothing may be left.
async fn survives(ground: &Ground, call: &'static str, after: bool) -> Result<(), String> {
    let name = ground.isolator.name();
    let cutter = Cutter::start(&ground.place.path(""), &ground.socket(), call, after);
    let plugin = RemoteIsolator::new(ground.manifest(cutter.socket.clone()));
    plugin.start(true);
    plugin.recover(&[]).await.map_err(|error| error.chain())?;
    let context = Arc::new(ground.context(&format!("cut-{after}")));
    let mut handle = plugin.attach(&context);
    let prepared = handle.prepare().await;
    if prepared.is_ok() == (call == "\"PREPARE\"") {
        return Err(format!("{name} {call}: {prepared:?}"));
    }
    let _ = handle.update(&context.requests, &context.limits).await;
    handle.cleanup().await.map_err(|error| error.chain())?;
    // What could not be said at once is said at the next handshake.
    let start = Instant::now();
    loop {
        let (report, left) = (plugin.report(), ground.residue());
        if report.state == "ready" && report.owed == 0 && left.is_empty() {
            break;
        }
        if start.elapsed() > crate::PATIENCE {
            return Err(format!("{name} {call}: {report:?}, left: {left:?}"));
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    plugin.stop();
    match cutter.cuts() {
        1 => Ok(()),
        _ => Err(format!("{name} {call}: nothing was cut")),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn isolators_that_keep_something_lose_nothing_when_a_call_is_cut_off() {
    require!(root, cgroup);
    let mut wrong = Vec::new();
    for name in ["cgroups/mem", "disk/du", "disk/xfs", "volume/secret", "devices/cdi", "gpu/nvidia"]
    {
        for (call, after) in [
            ("\"PREPARE\"", false),
            ("\"PREPARE\"", true),
            ("\"UPDATE\"", false),
            ("\"CLEANUP\"", false),
            ("\"CLEANUP\"", true),
        ] {
            let Some(ground) = Ground::new(name) else { continue };
            let served = ground.serve().await;
            let survived = survives(&ground, call, after).await;
            eprintln!("{name} {call} {after}: {survived:?}");
            wrong.extend(survived.err());
            served.abort();
        }
    }
    assert!(wrong.is_empty(), "\n{}\n", wrong.join("\n"));
}
