//! Making executors and starting their containers.

use std::collections::BTreeMap;
use std::sync::Arc;

use mesos::{
    CommandInfo, DurationInfo, ExecutorId, ExecutorInfo, FrameworkId, Resource, TaskInfo,
    TaskState, resource, task_status, value,
};

use super::event::{Effect, LaunchSpec, LaunchedContainer, Timer};
use super::operations::has_volumes;
use super::progress::first_look;
use super::state::{Executor, ExecutorState, FrameworkState, Played, task_of};
use super::tasks::is_default_executor;
use super::{Core, Then, names, wire};
use crate::checkpoint::Record;
use crate::containerizer::Termination;

/// What Mesos adds for its command executor: shown, but not given to the
/// container, since there is no such process here.
const EXECUTOR_CPUS: f64 = 0.1;
const EXECUTOR_MEM_MB: f64 = 32.0;

impl Core {
    /// Adds an executor that is not launched yet. `info` is `None` for a command
    /// task.
    pub(super) fn add_executor(
        &mut self,
        framework: &str,
        info: Option<ExecutorInfo>,
        task: &TaskInfo,
    ) {
        let Some(f) = self.frameworks.get(framework) else { return };
        let checkpoint = f.checkpoint();
        let played =
            info.is_none().then(|| Played { launching: true, ..Played::new(task.clone()) });
        let command = match &info {
            Some(info) => info.command.as_ref(),
            None => task.command.as_ref(),
        };
        let user = command
            .and_then(|c| c.user.clone())
            .or_else(|| Some(f.info.user.clone()).filter(|u| !u.is_empty()))
            .filter(|_| self.config.switch_user);
        let mut info = info.unwrap_or_else(|| self.command_executor(task));
        info.framework_id = Some(FrameworkId { value: framework.to_owned() });
        let container = self.random.uuid_text();
        let id = info.executor_id.value.clone();
        let run = self.run_key(framework, &id, &container);
        let directory = self.config.work_dir.sandbox(&run).to_string_lossy().into_owned();
        let executor = Executor {
            user,
            checkpoint,
            generated: played.is_some(),
            ..Executor::new(run, info, directory, played)
        };
        if checkpoint {
            self.persist(Record::Executor {
                run: executor.run.clone(),
                info: Box::new(executor.info.clone()),
                generated: executor.generated,
            });
        }
        self.containers.insert(container, (framework.to_owned(), id.clone()));
        if let Some(f) = self.framework_mut(framework) {
            f.executors.insert(id, Arc::new(executor));
        }
    }

    /// The executor that Mesos would start for a command task. It is shown and
    /// checkpointed, but never runs.
    #[allow(deprecated)] // `source` is still what `/state` shows
    fn command_executor(&self, task: &TaskInfo) -> ExecutorInfo {
        let command = task.command.clone().unwrap_or_default();
        let launcher = self.config.launcher_dir.to_string_lossy();
        let role = task.resources.iter().find_map(|r| r.allocation_info.clone());
        ExecutorInfo {
            executor_id: ExecutorId { value: task.task_id.value.clone() },
            name: Some(names::command_executor(task)),
            source: Some(task.task_id.value.clone()),
            container: task.container.clone(),
            labels: task.labels.clone(),
            discovery: task.discovery.clone(),
            shutdown_grace_period: task
                .kill_policy
                .as_ref()
                .and_then(|p| p.grace_period.as_ref())
                // compat: grace + reap interval (1 s) + 1 s.
                .map(|g| DurationInfo { nanoseconds: g.nanoseconds + 2_000_000_000 }),
            command: Some(CommandInfo {
                uris: command.uris,
                environment: command.environment,
                user: command.user,
                shell: Some(false),
                value: Some(format!("{launcher}/mesos-executor")),
                arguments: vec!["mesos-executor".to_owned(), format!("--launcher_dir={launcher}")],
            }),
            resources: [("cpus", EXECUTOR_CPUS), ("mem", EXECUTOR_MEM_MB)]
                .map(|(name, value)| overhead(name, value, role.clone()))
                .to_vec(),
            ..ExecutorInfo::default()
        }
    }

    pub(super) fn checkpoint_task(&mut self, framework: &str, executor: &str, task: &TaskInfo) {
        let Some(e) = self.executor(framework, executor).filter(|e| e.checkpoint) else { return };
        let record = Record::Task {
            run: e.run.clone(),
            task: Box::new(task_of(task, &e.framework_id, None)),
            launch: e.played.as_ref().map(|p| Box::new(p.task.clone())),
        };
        self.persist(record);
    }

    /// Starts the container once everything about it is written.
    pub(super) fn launch(&mut self, framework: &str, executor: &str) {
        let Some(spec) = self.launch_spec(framework, executor) else { return };
        let Some(e) = self.executor(framework, executor) else { return };
        let container = e.container_id.value.clone();
        let (checkpoint, volumes) = (e.checkpoint, has_volumes(&spec.requests));
        let timer = match &e.played {
            Some(played) => first_look(&container, &played.task),
            None => Some(Effect::Schedule {
                after: self.config.executor_registration_timeout,
                timer: Timer::ExecutorRegistration { container },
            }),
        };
        let mut effects = vec![Effect::Launch(Box::new(spec))];
        effects.extend(timer);
        // The newest checkpoint is that of the executor's first task.
        match (volumes, checkpoint) {
            // What is written into them outlives the machine.
            (true, _) => self.when_stored(Then::Effects(effects)),
            (false, true) => self.when_written(effects),
            (false, false) => self.out.extend(effects),
        }
    }

    /// What the container of an executor is started from.
    pub(super) fn launch_spec(&self, framework: &str, executor: &str) -> Option<LaunchSpec> {
        let e = self.executor(framework, executor)?;
        let mut info = e.info.clone();
        if is_default_executor(&info) && info.command.is_none() {
            info.command = Some(self.default_executor(e.user.clone()));
        }
        let (requests, limits) = self.allocation(e);
        Some(LaunchSpec {
            run: e.run.clone(),
            container: e.container_id.clone(),
            executor: info,
            task: e.played.as_ref().map(|p| p.task.clone()),
            requests,
            limits,
            user: e.user.clone(),
            checkpoint: e.checkpoint,
        })
    }

    fn default_executor(&self, user: Option<String>) -> CommandInfo {
        let launcher = self.config.launcher_dir.to_string_lossy();
        CommandInfo {
            shell: Some(false),
            value: Some(self.config.default_executor.to_string_lossy().into_owned()),
            arguments: vec![
                "mesos-default-executor".to_owned(),
                format!("--launcher_dir={launcher}"),
            ],
            user,
            ..CommandInfo::default()
        }
    }

    /// Requests and limits of an executor's container: its own and those of its
    /// queued and launched tasks.
    pub(super) fn allocation(&self, e: &Executor) -> (Vec<Resource>, BTreeMap<String, f64>) {
        if let Some(played) = &e.played {
            return (played.task.resources.clone(), wire::task_limits(&played.task));
        }
        let queued = e.queued.values().map(|t| (&t.resources[..], &t.limits));
        let launched = e.launched.values().map(|t| (&t.resources[..], &t.limits));
        let tasks = queued.chain(launched);
        let limits = wire::limits(&e.info.resources, tasks.clone());
        let mut requests = e.info.resources.clone();
        for (resources, _) in tasks {
            wire::add(&mut requests, resources);
        }
        (requests, limits)
    }

    pub(super) fn launched(&mut self, container: &str, result: Result<LaunchedContainer, String>) {
        let launched = match result {
            Ok(launched) => launched,
            Err(error) => return self.launch_failed(container, &error),
        };
        let Some(e) = self.run_in(container) else { return };
        e.pid = launched.pid;
        e.container_status = launched.status;
        e.details = launched.details;
        let (run, checkpoint, state) = (e.run.clone(), e.checkpoint, e.state);
        let id = e.container_id.clone();
        let played = e.played.as_ref().map(|played| played.task.task_id.value.clone());
        if let Some(pid) = launched.pid.filter(|_| checkpoint) {
            self.persist(Record::ForkedPid { run: run.clone(), pid });
        }
        let terminating = self
            .frameworks
            .get(&run.framework)
            .is_none_or(|f| f.state == FrameworkState::Terminating);
        if terminating || state == ExecutorState::Terminating {
            let destroy = vec![Effect::Destroy { container: id, termination: None }];
            // The kill that undoes this launch may not be stored yet.
            match played {
                Some(task) => self.after_kill_is_written(&run, &task, checkpoint, destroy),
                None => self.out.extend(destroy),
            }
        } else if played.is_some() {
            self.played_started(&run.framework, &run.executor);
        }
    }

    fn launch_failed(&mut self, container: &str, error: &str) {
        self.counters.container_launch_errors += 1;
        let Some(e) = self.run_in(container) else { return };
        tracing::warn!(container, error, "failed to launch a container");
        e.pending_termination.get_or_insert_with(|| Termination {
            state: Some(TaskState::TaskFailed),
            reasons: vec![task_status::Reason::ContainerLaunchFailed],
            message: Some(format!("Failed to launch container: {error}")),
            ..Termination::default()
        });
        self.terminated(container, Some(&Termination::default()));
    }
}

fn overhead(name: &str, value: f64, role: Option<resource::AllocationInfo>) -> Resource {
    Resource {
        name: name.to_owned(),
        r#type: value::Type::Scalar as i32,
        scalar: Some(value::Scalar { value }),
        allocation_info: role,
        ..Resource::default()
    }
}
