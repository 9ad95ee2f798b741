//! Effects on containers: each runs in a task of its own and
//! reports by mail. Resizes go one after the other, so that the newest wins.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use mesos::{ContainerId, Resource};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::{checks, environment, sandbox};
use crate::agent::config::Config;
use crate::agent::core::event::{Event, LaunchSpec, LaunchedContainer};
use crate::agent::handle::Mail;
use crate::checks::Attempt;
use crate::containerizer::{Class, Containerizer, ContainerizerError, LaunchRequest, Termination};

/// How long an agent that ends waits for files to be removed.
const FORGETTING: Duration = Duration::from_secs(10);

/// One resize that waits for its turn.
struct Resize {
    container: ContainerId,
    requests: Vec<Resource>,
    limits: BTreeMap<String, f64>,
    tasks: Vec<String>,
}

pub(super) struct Containers {
    containerizer: Arc<dyn Containerizer>,
    config: Arc<Config>,
    /// What executors inherit from the agent, read once.
    base: Arc<BTreeMap<String, String>>,
    back: mpsc::Sender<Mail>,
    resizes: mpsc::UnboundedSender<Resize>,
    /// Containers being forgotten: an agent that shuts down waits for them.
    forgetting: Vec<JoinHandle<()>>,
}

async fn report(back: &mpsc::Sender<Mail>, event: Event) {
    // Fails only if the driver is gone; then nobody needs to know.
    let _ = back.send(Mail::Event(event)).await;
}

impl Containers {
    pub(super) fn new(
        containerizer: Arc<dyn Containerizer>,
        config: Arc<Config>,
        back: mpsc::Sender<Mail>,
    ) -> Self {
        let base = config.executor_environment.clone().unwrap_or_else(environment::inherited);
        let (resizes, queue) = mpsc::unbounded_channel();
        tokio::spawn(resize(containerizer.clone(), queue, back.clone()));
        Containers {
            containerizer,
            config,
            base: Arc::new(base),
            back,
            resizes,
            forgetting: Vec::new(),
        }
    }

    /// What the containerizer needs to know of a run.
    pub(super) fn request(&self, spec: LaunchSpec) -> LaunchRequest {
        let sandbox = self.config.work_dir.sandbox(&spec.run);
        let environment =
            environment::of_run(&self.config, &self.base, &spec, &sandbox.to_string_lossy());
        let (command, container) = match &spec.task {
            Some(task) => (task.command.clone(), task.container.clone()),
            None => (spec.executor.command.clone(), spec.executor.container.clone()),
        };
        LaunchRequest {
            id: spec.container,
            command: command.unwrap_or_default(),
            container: container.or_else(|| self.config.default_container_info.clone()),
            requests: spec.requests,
            limits: spec.limits,
            sandbox,
            user: spec.user,
            environment,
            framework_id: Some(mesos::FrameworkId { value: spec.run.framework }),
            executor: Some(spec.executor),
            task: spec.task,
            class: Class::Default,
        }
    }

    pub(super) fn launch(&self, spec: LaunchSpec) {
        let (run, user) = (spec.run.clone(), spec.user.clone());
        let request = self.request(spec);
        let (containerizer, back) = (self.containerizer.clone(), self.back.clone());
        let work = self.config.work_dir.clone();
        tokio::spawn(async move {
            let id = request.id.clone();
            let made =
                tokio::task::spawn_blocking(move || sandbox::create(&work, &run, user.as_deref()))
                    .await;
            let result = match made {
                Ok(Ok(())) => start(&*containerizer, request).await,
                Ok(Err(error)) => Err(kernel::chain(&error)),
                Err(error) => Err(format!("failed to create the sandbox: {error}")),
            };
            let launched = result.is_ok();
            let container = id.value.clone();
            report(&back, Event::Launched { container: container.clone(), result }).await;
            if launched {
                let termination = containerizer.wait(&id).await;
                report(&back, Event::Terminated { container, termination }).await;
            }
        });
    }

    pub(super) fn ask_progress(&self, container: ContainerId) {
        let (containerizer, back) = (self.containerizer.clone(), self.back.clone());
        tokio::spawn(async move {
            let found = containerizer.progress().into_iter().find(|(id, _)| *id == container);
            let (container, progress) = (container.value, found.map(|(_, progress)| progress));
            report(&back, Event::Progress { container, progress }).await;
        });
    }

    pub(super) fn watch(&self, container: ContainerId) {
        let (containerizer, back) = (self.containerizer.clone(), self.back.clone());
        tokio::spawn(async move {
            let termination = containerizer.wait(&container).await;
            report(&back, Event::Terminated { container: container.value, termination }).await;
        });
    }

    pub(super) fn update(
        &self,
        container: ContainerId,
        requests: Vec<Resource>,
        limits: BTreeMap<String, f64>,
        tasks: Vec<String>,
    ) {
        let _ = self.resizes.send(Resize { container, requests, limits, tasks });
    }

    pub(super) fn signal(&self, container: ContainerId, signal: i32) {
        let containerizer = self.containerizer.clone();
        tokio::spawn(async move {
            if !containerizer.kill_all(&container, signal).await {
                tracing::debug!(container = container.value, signal, "nothing left to signal");
            }
        });
    }

    pub(super) fn destroy(&self, container: ContainerId, termination: Option<Termination>) {
        let containerizer = self.containerizer.clone();
        // Whoever waits for the container hears of its end.
        tokio::spawn(async move {
            containerizer.destroy(&container, termination).await;
        });
    }

    pub(super) fn probe(&self, target: checks::Target, attempt: Attempt) {
        let (containerizer, back) = (self.containerizer.clone(), self.back.clone());
        tokio::spawn(async move {
            let container = target.container.value.clone();
            let event = checks::probe(&*containerizer, target, attempt).await;
            report(&back, Event::Checked { container, event }).await;
        });
    }

    pub(super) fn forget(&mut self, container: ContainerId) {
        let containerizer = self.containerizer.clone();
        self.forgetting.retain(|task| !task.is_finished());
        self.forgetting.push(tokio::spawn(async move { containerizer.forget(&container).await }));
    }

    /// Waits until everything is forgotten that was to be, for a while at most.
    pub(super) async fn finish(&mut self) {
        let by = tokio::time::Instant::now() + FORGETTING;
        for task in self.forgetting.drain(..) {
            let _ = tokio::time::timeout_at(by, task).await;
        }
    }
}

async fn start(
    containerizer: &dyn Containerizer,
    request: LaunchRequest,
) -> Result<LaunchedContainer, String> {
    let id = request.id.clone();
    match containerizer.launch(request).await {
        Ok(launched) => {
            let status = containerizer.status(&id).await;
            Ok(LaunchedContainer { pid: launched.pid, status, details: launched.details })
        }
        Err(ContainerizerError::Launch { step, message, .. }) => Err(format!("{step}: {message}")),
        Err(error) => Err(error.to_string()),
    }
}

async fn resize(
    containerizer: Arc<dyn Containerizer>,
    mut queue: mpsc::UnboundedReceiver<Resize>,
    back: mpsc::Sender<Mail>,
) {
    while let Some(Resize { container, requests, limits, tasks }) = queue.recv().await {
        let result = containerizer.update(&container, requests, limits).await;
        // A container that ended meanwhile is told by its watcher.
        let result = match result {
            Err(ContainerizerError::Unknown(_)) | Ok(()) => Ok(()),
            Err(error) => Err(error.to_string()),
        };
        report(&back, Event::Updated { container: container.value, tasks, result }).await;
    }
}
