//! Birth and adoption: everything up to a container that runs and is watched.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use kernel::cgroup::Hierarchies;
use kernel::failpoint;
use tracing::{info, warn};

use super::console::is_wanted;
use super::container::{Container, marks, networks_of};
use super::door::Phase;
use super::engine::{EngineError, Inspected, image_name};
use super::exit::{Cause, Exit, Process};
use super::mapping::Beside;
use super::output::Output;
use super::{image, mapping};
use crate::containerizer::images::Watcher;
use crate::containerizer::request::ids_of;
use crate::containerizer::runtime;
use crate::containerizer::streams::log_settings;
use crate::containerizer::table::Failure;
use crate::containerizer::{Details, Launched, Progress, uris};
use crate::logs::files;
use crate::logs::order::{Files, STREAMS};

/// Between two questions after a restart, at most.
const SEEK_PAUSE: Duration = Duration::from_secs(5);

pub(super) fn failure(step: &'static str, message: impl Into<String>) -> Failure {
    Failure { step, message: message.into() }
}

pub(super) fn refused(step: &'static str) -> impl FnOnce(EngineError) -> Failure {
    move |error| match error {
        EngineError::Refused { message, .. } => failure(step, message),
        error => failure(step, kernel::chain(&error)),
    }
}

impl Container {
    /// Launches. After an error `finish` must follow.
    pub(super) async fn start(&mut self) -> Result<Launched, Failure> {
        let checkpoint = |error| failure("checkpoint", kernel::chain(&error));
        self.dir.create().map_err(checkpoint)?;
        self.dir.write_config(&runtime::config_of(&self.request)).map_err(checkpoint)?;
        let shared = Arc::clone(&self.shared);
        let mut decorated = (*self.request).clone();
        let variables = shared.config.hooks.decorate(&mut decorated).await?;
        self.request = Arc::new(decorated);
        let networks = self.networks()?;
        let beside = Beside { own_network: networks.is_some(), variables };
        let memory = shared.machine.memory;
        let wanted = mapping::wanted(&self.request, &shared.config, memory, &beside);
        let mut wanted = wanted.map_err(|text| failure("check", text))?;
        // An unknown user is no error: inside the image it may well be known.
        let ids = ids_of(self.request.user.as_deref()).unwrap_or_default();
        uris::fetch(&shared.fetcher, &self.request, &|far| self.is_at(far)).await?;
        make_directories(&self.request.sandbox, &wanted.directories, ids)?;
        if wanted.force_pull {
            self.pull(&wanted, true).await?;
        }
        shared.config.hooks.fetched(&self.request).await?;
        self.enter(Phase::Starting);
        if let Some(networks) = networks {
            self.settle(&networks, &mut wanted.body).await?;
        }
        self.asked_for = true;
        for warning in self.create(&wanted).await? {
            info!(container = %self.key, warning, "docker warns");
        }
        let output = self.output().map_err(|text| failure("open", text))?;
        failpoint!("docker.created");
        let started = shared.engine.start(&self.name).await.map_err(refused("start"));
        started.map_err(|failure| self.explained(failure))?;
        failpoint!("docker.started");
        let inspected = shared.engine.inspect(&self.name).await.map_err(refused("inspect"))?;
        self.read(output);
        self.observe(&inspected, true);
        self.use_image(&inspected);
        let address = self.view.borrow().address();
        Ok(Launched { pid: inspected.pid, details: Some(details(&inspected, address)) })
    }

    async fn pull(&self, wanted: &mapping::Wanted, force: bool) -> Result<(), Failure> {
        self.enter(Phase::Pulling);
        let credentials = credentials(&self.request.sandbox);
        let images = &self.shared.images;
        let view = self.view.clone();
        let watcher: Watcher = Arc::new(move |far| {
            view.send_modify(|view| view.progress = Some(Progress::Pulling(far)));
        });
        let credentials = credentials.as_ref();
        let pulled = images.ensure(&wanted.image, force, credentials, Some(watcher)).await;
        pulled.map(drop).map_err(|error| match error {
            EngineError::Refused { message, .. } => {
                let (name, tag) = image::split(&wanted.image);
                let full = image_name(name, tag);
                failure("pull", format!("failed to pull image '{full}': {message}"))
            }
            error => failure("pull", kernel::chain(&error)),
        })
    }

    /// Has the container made; the engine's warnings.
    async fn create(&self, wanted: &mapping::Wanted) -> Result<Vec<String>, Failure> {
        let engine = &self.shared.engine;
        let mut made = engine.create_anew(&self.name, &wanted.body).await;
        if made.as_ref().is_err_and(EngineError::is_missing) {
            // The image, most likely: mostly it is there, so nobody asked first.
            self.pull(wanted, false).await?;
            self.enter(Phase::Starting);
            made = engine.create_anew(&self.name, &wanted.body).await;
        }
        made.map_err(refused("create"))
    }

    /// Its image was used now; that is written down in passing.
    fn use_image(&self, inspected: &Inspected) {
        let images = Arc::clone(&self.shared.images);
        let id = inspected.raw["Image"].as_str().unwrap_or_default().to_owned();
        tokio::task::spawn_blocking(move || images.touch([id.as_str()].into_iter()));
    }

    /// Looks for a container that a former agent started. `None`: it runs.
    pub(super) async fn seek(&mut self, pid: Option<u32>) -> Option<Cause> {
        // The kernel's word, should the engine not have one.
        self.process = pid.and_then(|pid| Process::open(pid, &self.name).ok());
        // It was started, or was about to be: whatever it said is to be read.
        if marks(&self.dir).exists() {
            match self.output() {
                Ok(output) => self.read(output),
                Err(error) => warn!(container = %self.key, error, "its output is not read"),
            }
        }
        let mut pause = Duration::from_millis(200);
        let found = loop {
            match self.shared.engine.inspect(&self.name).await {
                Ok(inspected) => break Some(inspected),
                Err(error) if error.is_missing() => break None,
                Err(error) => {
                    let error = kernel::chain(&error);
                    info!(container = %self.key, error, "looking for it again");
                }
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(SEEK_PAUSE);
        };
        let Some(inspected) = found else { return Some(Cause::Exited(Exit::Gone)) };
        if inspected.runs() {
            self.observe(&inspected, false);
            return None;
        }
        Some(Cause::Exited(Exit::Known(Box::new(inspected))))
    }

    /// The files of the sandbox, and how far they have been written.
    fn output(&self) -> Result<Output, String> {
        let (sandbox, shared) = (&self.request.sandbox, &self.shared);
        let ids = ids_of(self.request.user.as_deref()).unwrap_or_default();
        let limits = match &shared.config.logs {
            Some(defaults) => log_settings(defaults, &self.request)?.limits(),
            None => [Files::unlimited(), Files::unlimited()],
        };
        let open = |limits, name: &'static str| {
            files::Files::open(sandbox, ids, limits, name)
                .map_err(|e| format!("failed to open '{}': {e}", sandbox.join(name).display()))
        };
        let [out, err] = limits;
        let files = [open(out, STREAMS[0])?, open(err, STREAMS[1])?];
        let marks = marks(&self.dir);
        let output = Output::open(Arc::clone(&shared.engine), &self.name, files, marks.clone())
            .map_err(|e| format!("failed to use '{}': {e}", marks.display()))?;
        let output = if is_wanted(&self.request) { output.of_terminal() } else { output };
        Ok(if shared.config.engine_log.is_some() { output.limited() } else { output })
    }

    /// From now on the output is read.
    fn read(&mut self, output: Output) {
        self.reader = Some(tokio::spawn(output.follow(self.ended.subscribe())));
    }

    /// It runs, or has just ended: watch the process, take statistics, show it.
    /// `first`: it was started just now.
    fn observe(&mut self, inspected: &Inspected, first: bool) {
        if let Some(pid) = inspected.pid {
            self.process = Process::open(pid, &self.name).ok();
            match probes(pid, &self.shared.config) {
                Ok(mut probes) => {
                    probes.extend(self.lodger.as_ref().and_then(|lodger| lodger.probe(pid)));
                    let id = self.request.id.clone();
                    self.shared.sampler.add(self.slot, id, self.allotted(), probes);
                }
                Err(error) => info!(container = %self.key, %error, "it has no statistics"),
            }
        }
        let networks = networks_of(self.lodger.as_ref());
        let terminal = self.console(first);
        self.view.send_modify(|view| {
            view.networks = networks;
            view.terminal = terminal;
            view.phase = Phase::Running;
            view.pid = inspected.pid;
            view.stop_signal.clone_from(&inspected.stop_signal);
            view.addresses.clone_from(&inspected.addresses);
        });
    }
}

/// What the kernel counts of the container: the engine made its cgroups, the
/// process is in them.
fn probes(pid: u32, config: &super::Config) -> Result<Vec<Box<dyn isolators::api::Probe>>, String> {
    let path = format!("/proc/{pid}/cgroup");
    let table = std::fs::read(&path).map_err(|e| format!("failed to read {path}: {e}"))?;
    let hierarchies = Hierarchies::detect().map_err(|e| kernel::chain(&e))?;
    let wanted = isolators::cgroups::foreign::Wanted {
        throttling: config.enable_cfs,
        processes: config.count_processes,
    };
    Ok(isolators::cgroups::foreign::probes(&hierarchies, &table, wanted))
}

/// What Mesos' docker executor puts into TASK_RUNNING: the output of `docker inspect`,
/// and the address under the name of its place in it.
fn details(inspected: &Inspected, address: Option<String>) -> Details {
    let label = |address: String| mesos::Label {
        key: "Docker.NetworkSettings.IPAddress".into(),
        value: Some(address),
    };
    Details {
        data: serde_json::json!([inspected.raw]).to_string().into_bytes(),
        labels: address.map(label).into_iter().collect(),
    }
}

/// What was fetched for the `docker` command of Mesos' agent, whose home the sandbox
/// is while it pulls.
fn credentials(sandbox: &Path) -> Option<serde_json::Value> {
    const LARGEST: u64 = 1 << 20;
    [".docker/config.json", ".dockercfg"].iter().find_map(|name| {
        let file = kernel::beneath::find(sandbox, Path::new(name)).ok()?;
        let file = file.open().ok().filter(|_| file.is_file())?;
        let mut text = String::new();
        file.take(LARGEST).read_to_string(&mut text).ok()?;
        let read = serde_json::from_str(&text);
        read.inspect_err(|error| info!(%error, "'{name}' in {} is no JSON", sandbox.display())).ok()
    })
}

fn make_directories(
    sandbox: &Path,
    directories: &[PathBuf],
    ids: Option<(u32, u32)>,
) -> Result<(), Failure> {
    for directory in directories {
        // What was fetched there may be a file.
        if kernel::beneath::find(sandbox, directory).is_ok() {
            continue;
        }
        let made = kernel::beneath::make_directory(sandbox, directory, ids);
        made.map_err(|error| failure("volumes", kernel::chain(&error)))?;
    }
    Ok(())
}
