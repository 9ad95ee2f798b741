//! The agent put together: containerizer, owner task, HTTP server. Called by
//! `bulkhead-agent` and nobody else; decides nothing.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use thiserror::Error;
use tokio::net::TcpListener;
use tokio::sync::{mpsc, oneshot};
use tokio::task::{JoinError, JoinHandle};

use super::api::metrics::Surroundings;
use super::api::{self, About, Api};
use super::flags::StartError;
use super::info::InfoError;
use super::{AgentError, Config, Handle, Outcome, PostOutbox, flags as startup};
use crate::containerizer::composing::{Composing, Named};
use crate::containerizer::docker::Docker;
use crate::containerizer::hooks::Hooks;
use crate::containerizer::native::Native;
use crate::containerizer::{Containerizer, ContainerizerError};
use crate::daemon::api::Common;
use crate::daemon::files::Files;
use crate::daemon::flags::Flags;
use crate::daemon::listen::{PATIENCE, listen};
use crate::daemon::logging::Logging;
use crate::daemon::metrics::{Metrics, system};
use crate::daemon::signals::{Signal, Signals};
use crate::daemon::version;
use crate::fetch::Fetcher;
use crate::gc::Policy;
use crate::wire::http::{Limits, serve};
use crate::wire::libprocess::{Post, Upid};

/// Why the agent does not start, or ended badly.
#[derive(Debug, Error)]
#[allow(missing_docs)]
pub enum AppError {
    #[error(transparent)]
    Start(#[from] StartError),
    #[error(transparent)]
    Info(#[from] InfoError),
    #[error(transparent)]
    Containers(#[from] ContainerizerError),
    #[error(transparent)]
    Agent(#[from] AgentError),
    #[error("failed to listen on {address}: {message}")]
    Listen { address: std::net::SocketAddr, message: String },
    #[error("{what} ended unexpectedly: {error}")]
    Task { what: &'static str, error: JoinError },
}

/// What is ready to run: everything that can be wrong with the flags is known.
pub struct App {
    flags: Flags,
    logging: Logging,
    listener: TcpListener,
    config: Config,
    containers: Containers,
    post: Post,
    exits: mpsc::UnboundedReceiver<Upid>,
}

/// The containerizers of `--containerizers`.
struct Containers {
    native: Option<Arc<Native>>,
    docker: Option<Arc<Docker>>,
    /// Theirs, with its cache.
    fetcher: Arc<Fetcher>,
    /// Images that stay, by `--image_gc_config`.
    excluded_images: Vec<String>,
    /// The one that the agent talks to.
    door: Arc<dyn Containerizer>,
}

impl Containers {
    fn new(flags: &Flags, work_dir: PathBuf, runtime_dir: &Path) -> Result<Containers, AppError> {
        let names = startup::containerizers(flags)?;
        let (mut native, mut docker) = (None, None);
        let networks = startup::network::networks(flags, runtime_dir)?;
        let image_gc = startup::images::collection(flags)?;
        let excluded = image_gc.iter().flat_map(|gc| &gc.excluded);
        let excluded_images = excluded.map(ToString::to_string).collect();
        if names.contains(&"mesos") {
            let mut config = startup::containerizer(flags, runtime_dir.to_owned())?;
            config.work_dir = Some(work_dir.clone());
            let launcher = startup::launcher(flags, kernel::proctree::is_root())?;
            config.provisioner = startup::images::provisioner(flags, &work_dir, launcher)?;
            config.image_gc = image_gc;
            config.isolators.networks.clone_from(&networks);
            native = Some(Arc::new(Native::new(config)?));
        }
        let fetcher = match &native {
            Some(native) => native.fetcher(),
            None => Arc::new(Fetcher::new(startup::fetcher(flags))),
        };
        if names.contains(&"docker") {
            let mut config = startup::docker::config(flags, &work_dir, runtime_dir)?;
            config.networks = networks;
            config.hooks = match &native {
                Some(native) => native.hooks(),
                None => {
                    let plugins = startup::plugins(flags, runtime_dir)?;
                    Hooks::start(&plugins, &startup::hooks(flags))?
                }
            };
            docker = Some(Arc::new(Docker::new(config, fetcher.clone())?));
        }
        let mut all: Vec<Named> = Vec::new();
        for name in names {
            let one: Option<Arc<dyn Containerizer>> = match name {
                "docker" => docker.clone().map(|docker| docker as _),
                _ => native.clone().map(|native| native as _),
            };
            all.extend(one.map(|one| (name, one)));
        }
        let door: Arc<dyn Containerizer> = match (all.pop(), all.is_empty()) {
            (Some((_, only)), true) => only,
            (last, _) => {
                all.extend(last);
                Arc::new(Composing::new(all))
            }
        };
        Ok(Containers { native, docker, fetcher, excluded_images, door })
    }
}

impl App {
    /// Reads the flags, listens, makes directories and isolators.
    ///
    /// # Errors
    /// What is wrong with which flag, or with the machine.
    pub async fn build(mut flags: Flags, logging: Logging) -> Result<App, AppError> {
        let (work_dir, runtime_dir): (PathBuf, PathBuf) = startup::directories(&flags)?;
        let whereabouts = startup::whereabouts(&flags)?;
        let wanted = whereabouts.listen()?;
        let refused =
            |e: std::io::Error| AppError::Listen { address: wanted, message: e.to_string() };
        let listener = listen(wanted, PATIENCE).await.map_err(refused)?;
        let address = whereabouts.advertised(listener.local_addr().map_err(refused)?)?;
        let hostname = whereabouts.hostname(address.ip())?;
        startup::fill_in(&mut flags, &hostname)?;
        let info = startup::slave_info(&flags, &work_dir, hostname, address.port())?;
        let pid = format!("{}@{address}", api::PROCESS);
        let config = startup::config(&flags, info, &pid, &work_dir)?;
        let containers = Containers::new(&flags, work_dir, &runtime_dir)?;
        let (exited, exits) = mpsc::unbounded_channel();
        let post = Post::new(address, exited);
        Ok(App { flags, logging, listener, config, containers, post, exits })
    }

    /// Runs until a signal, the master or an error ends it.
    ///
    /// # Errors
    /// The agent could not recover, or cannot go on.
    pub async fn run(self, mut signals: Signals) -> Result<(), AppError> {
        let App { flags, logging, listener, mut config, containers, post, mut exits } = self;
        let files = Files::new();
        config.readers = files.readers();
        tracing::info!(
            "{} started as {}, work directory {}",
            version::line("bulkhead-agent"),
            config.pid,
            config.work_dir.root().display()
        );
        let outbox = Arc::new(PostOutbox::new(post, api::PROCESS));
        let (handle, mut owner) = super::start(config.clone(), containers.door.clone(), outbox);
        let common = Common {
            files,
            metrics: Metrics::new(),
            logging: logging.clone(),
            flags: Arc::new(flags),
        };
        let api = service(common, &config, containers, handle.clone());
        let (stop, stopped) = oneshot::channel::<()>();
        let server = tokio::spawn(serve(listener, Arc::new(api), Limits::default(), async {
            let _ = stopped.await;
        }));
        let ended = loop {
            tokio::select! {
                ended = &mut owner => break ended,
                Some(upid) = exits.recv() => handle.peer_exited(&upid.to_string()),
                signal = signals.next() => obey(signal, &handle, &logging).await,
            }
        };
        drain(ended, stop, server).await
    }
}

async fn obey(signal: Signal, handle: &Handle, logging: &Logging) {
    match signal {
        Signal::Stop => handle.detach().await,
        Signal::Leave => handle.leave().await,
        Signal::Reopen => {
            if let Err(error) = logging.reopen() {
                tracing::error!("{}", kernel::chain(&error));
            }
        }
    }
}

/// Lets the last messages and answers out.
async fn drain(
    ended: Result<Result<Outcome, AgentError>, JoinError>,
    stop: oneshot::Sender<()>,
    server: JoinHandle<()>,
) -> Result<(), AppError> {
    let failed = |what| move |error| AppError::Task { what, error };
    if ended.map_err(failed("the agent's owner task"))?? == Outcome::ShutDown {
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    drop(stop);
    server.await.map_err(failed("the HTTP server"))
}

/// The distribution of pulls is that of the last hour, as in Mesos.
const PULLS: Duration = Duration::from_secs(3600);

fn service(common: Common, config: &Config, containers: Containers, handle: Handle) -> Api {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let about = About {
        version: version::info().clone(),
        start_time: now.as_secs_f64(),
        pid: config.pid.clone(),
        capabilities: config.capabilities.clone(),
        flags: common.flags.shown().map(|(name, value)| (name.to_owned(), value)).collect(),
    };
    startup::attach_log(&common);
    common.metrics.source(system);
    let Containers { native, docker, fetcher, excluded_images, door } = containers;
    let reporter = native.clone();
    let swept = native.clone();
    if let Some(docker) = &docker {
        docker.time_pulls(common.metrics.timer("containerizer/docker/image_pull", PULLS));
    }
    common.metrics.source(move |out| {
        let figure = |(name, value): (&str, u64)| (name.to_owned(), value as f64);
        out.extend(swept.iter().flat_map(|native| native.leftovers()).map(figure));
        out.extend(swept.iter().flat_map(|native| native.isolator_figures()));
    });
    common.metrics.source(move |out| {
        for report in reporter.iter().flat_map(|native| native.plugins()) {
            let name = report.name;
            let named = |(figure, value)| (format!("containerizer/plugins/{name}/{figure}"), value);
            out.extend(report.figures().map(named));
        }
        let figures = docker.iter().flat_map(|docker| docker.figures());
        out.extend(figures.map(|(name, value)| (format!("containerizer/docker/{name}"), value)));
    });
    let context = api::Context {
        handle,
        containerizer: door,
        about,
        work_dir: config.work_dir.clone(),
        switch_user: config.switch_user,
        excluded_images,
        collection: Policy { delay: config.gc_delay, headroom: config.gc_disk_headroom },
        common,
        sessions: api::streams::Sessions::default(),
    };
    let started = Instant::now();
    Api::new(context, move || Surroundings {
        uptime_secs: started.elapsed().as_secs_f64(),
        destroy_errors: native.as_ref().map_or(0, |native| native.destroy_errors()),
        roots: native.as_ref().map_or(0, |native| native.roots().0),
        root_errors: native.as_ref().map_or(0, |native| native.roots().1),
        fetched: fetcher.figures(),
    })
}
