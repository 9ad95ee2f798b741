//! What the default executor does when: a pure state machine.
//!
//! Owns the tasks of all groups, the updates that the agent has not
//! acknowledged, and the ways to end. Called by [`super::driver`] with events,
//! answers with effects in order. Reads no clock and touches nothing.
//!
//! ```text
//! task:  starting --launched--> running --wait answered--> (reported, gone)
//!             \                   |  kill, shutdown, sibling failed
//!              \--refused-->      v
//!                (reported)    killing --SIGTERM, grace, SIGKILL--> (reported)
//! ```
//! The first failed or killed task of a group kills the rest of the group. When
//! no task is left the executor ends as soon as every update is acknowledged,
//! or a minute later.

use std::time::Duration;

use mesos::agent::{self, response::WaitNestedContainer};
use mesos::executor::{Call, Event as AgentEvent, call, event};
use mesos::{
    ContainerId, ContainerStatus, Environment, FrameworkInfo, TaskGroupInfo, TaskInfo, TaskState,
    TaskStatus, environment, framework_info, task_status, volume,
};

use super::settings::Settings;
use super::verdict::{self, Circumstances};
use crate::checks::{self, Checks};

/// Between SIGTERM and SIGKILL when no kill policy says otherwise.
pub const DEFAULT_KILL_GRACE: Duration = Duration::from_secs(3);
/// How long unacknowledged updates keep an executor without tasks alive.
pub const LINGER: Duration = Duration::from_secs(60);
/// Pause before an interrupted wait, kill or checks on a container is retried.
pub const RETRY: Duration = Duration::from_secs(1);

const SIGKILL: i32 = 9;
const SIGTERM: i32 = 15;

/// What happened.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// An event of the agent's stream.
    Agent(Box<AgentEvent>),
    /// The stream ended.
    Disconnected,
    /// The agent answered a launch; an error is in its words.
    Launched(ContainerId, Result<(), String>),
    /// No answer came: the container may run or not.
    LaunchLost(ContainerId),
    /// The agent answered, or did not answer, a wait.
    Waited {
        /// Which container.
        container: ContainerId,
        /// Of which subscription; older ones are dropped.
        generation: u64,
        /// The answer.
        outcome: Waited,
    },
    /// A probe of a task was answered.
    Checked(ContainerId, checks::Event),
    /// A signal was not delivered.
    KillFailed(ContainerId, i32),
    /// A scheduled timer.
    Timer(Timer),
}

/// The answer to a wait.
#[derive(Debug, Clone, PartialEq)]
pub enum Waited {
    /// The container ended.
    Ended(Box<WaitNestedContainer>),
    /// The agent does not know it.
    Unknown,
    /// No answer, or the agent is not ready: ask again.
    Interrupted,
    /// The agent refuses to say.
    Refused(String),
}

/// What time can bring.
#[derive(Debug, Clone, PartialEq)]
pub enum Timer {
    /// The grace period of a kill is over.
    Escalate(ContainerId),
    /// `max_completion_time` is over.
    Overtime(ContainerId),
    /// A task is to be checked.
    Check(ContainerId, checks::Kind, u64),
    /// Ask again for the end of a container.
    Wait(ContainerId, u64),
    /// The agent has been away for too long; of which disconnection.
    Abandoned(u64),
    /// End now.
    Exit,
}

/// What to do, in order.
#[derive(Debug, Clone, PartialEq)]
pub enum Effect {
    /// Send a call to the executor API. Lost calls are not retried: the next
    /// subscription carries them.
    Send(Box<Call>),
    /// `LAUNCH_CONTAINER`.
    Launch(Box<agent::call::LaunchContainer>),
    /// `WAIT_NESTED_CONTAINER`, of a subscription.
    Wait(ContainerId, u64),
    /// `KILL_NESTED_CONTAINER` with a signal.
    Kill(ContainerId, i32),
    /// Probe the task in a container; the answer is [`Event::Checked`].
    Probe(ContainerId, Box<checks::Attempt>),
    /// Make `tasks/<task>` a link to the container's sandbox.
    Link {
        /// Name of the link.
        task: String,
        /// The container it leads to.
        container: ContainerId,
    },
    /// Come back after this long.
    Schedule(Duration, Timer),
    /// Say this in the log.
    Log(String),
    /// End the process.
    Exit,
}

#[derive(Debug)]
enum Phase {
    /// The launch is not answered.
    Starting,
    /// It runs, or ran.
    Running,
}

#[derive(Debug)]
struct Task {
    info: TaskInfo,
    group: u64,
    container: ContainerId,
    phase: Phase,
    acknowledged: bool,
    /// The grace period of a kill under way.
    killing: Option<Duration>,
    overtime: bool,
    launch_error: Option<String>,
    checks: Checks,
}

/// The default executor.
#[derive(Debug)]
pub struct Core {
    settings: Settings,
    /// Makes ids: random ones in the driver, countable ones in tests.
    ids: fn() -> uuid::Uuid,
    framework: Option<FrameworkInfo>,
    container: Option<ContainerId>,
    tasks: Vec<Task>,
    unacknowledged: Vec<TaskStatus>,
    groups: u64,
    /// Counts subscriptions and disconnections.
    generation: u64,
    subscribed: bool,
    shutting_down: bool,
    ending: bool,
    /// A health check had a task killed: ends are reported as unhealthy.
    unhealthy: bool,
}

impl Core {
    /// An executor that has not met its agent. `ids` makes unique ids.
    #[must_use]
    pub fn new(settings: Settings, ids: fn() -> uuid::Uuid) -> Self {
        Core {
            settings,
            ids,
            framework: None,
            container: None,
            tasks: Vec::new(),
            unacknowledged: Vec::new(),
            groups: 0,
            generation: 0,
            subscribed: false,
            shutting_down: false,
            ending: false,
            unhealthy: false,
        }
    }

    /// The call that opens a stream: says what the agent may have missed.
    #[must_use]
    pub fn subscribe(&self) -> Call {
        let unacknowledged_tasks = self
            .tasks
            .iter()
            .filter(|t| matches!(t.phase, Phase::Running) && !t.acknowledged)
            .map(|t| t.info.clone())
            .collect();
        let unacknowledged_updates = self
            .unacknowledged
            .iter()
            .map(|status| call::Update { status: status.clone() })
            .collect();
        let subscribe = call::Subscribe { unacknowledged_tasks, unacknowledged_updates };
        Call { subscribe: Some(subscribe), ..self.call(call::Type::Subscribe) }
    }

    /// The periodic sign of life.
    #[must_use]
    pub fn heartbeat(&self) -> Call {
        self.call(call::Type::Heartbeat)
    }

    fn call(&self, kind: call::Type) -> Call {
        Call {
            executor_id: self.settings.executor_id.clone(),
            framework_id: self.settings.framework_id.clone(),
            r#type: Some(kind as i32),
            ..Default::default()
        }
    }

    /// Takes one event; `now` is seconds since the epoch, for statuses.
    pub fn handle(&mut self, now: f64, event: Event) -> Vec<Effect> {
        let mut step = Step { now, effects: Vec::new() };
        match event {
            Event::Agent(event) => self.agent_event(&mut step, *event),
            Event::Disconnected => self.disconnected(&mut step),
            Event::Launched(container, outcome) => self.launched(&mut step, &container, outcome),
            Event::LaunchLost(container) => self.launch_lost(&mut step, &container),
            Event::Waited { container, generation, outcome } => {
                if generation == self.generation {
                    self.waited(&mut step, &container, outcome);
                }
            }
            Event::Checked(container, event) => self.checked(&mut step, &container, event),
            Event::KillFailed(container, signal) => {
                if signal == SIGKILL && self.position(&container).is_some() {
                    step.push(Effect::Schedule(RETRY, Timer::Escalate(container)));
                }
            }
            Event::Timer(timer) => self.timer(&mut step, timer),
        }
        step.effects
    }

    fn agent_event(&mut self, step: &mut Step, event: AgentEvent) {
        match event.r#type() {
            event::Type::Subscribed => {
                if let Some(subscribed) = event.subscribed {
                    self.on_subscribed(step, subscribed);
                }
            }
            event::Type::LaunchGroup => {
                if let Some(launch) = event.launch_group {
                    self.launch_group(step, launch.task_group);
                }
            }
            event::Type::Kill => {
                if let Some(kill) = event.kill {
                    let grace = kill.kill_policy.and_then(|p| p.grace_period);
                    self.kill_task(
                        step,
                        &kill.task_id.value,
                        grace.map(|g| nanoseconds(g.nanoseconds)),
                    );
                }
            }
            event::Type::Acknowledged => {
                if let Some(acknowledged) = event.acknowledged {
                    self.acknowledged(step, &acknowledged);
                }
            }
            event::Type::Launch => {
                step.log("a single task is not for the default executor; shutting down");
                self.shutdown(step);
            }
            event::Type::Shutdown => self.shutdown(step),
            event::Type::Error => {
                let message = event.error.map(|e| e.message).unwrap_or_default();
                step.log(format!("the agent reports an error: {message}"));
            }
            event::Type::Message | event::Type::Heartbeat | event::Type::Unknown => {}
        }
    }

    fn on_subscribed(&mut self, step: &mut Step, subscribed: event::Subscribed) {
        self.generation += 1;
        self.subscribed = true;
        self.framework = Some(subscribed.framework_info);
        if subscribed.container_id.is_some() {
            self.container = subscribed.container_id;
        }
        for task in &self.tasks {
            if matches!(task.phase, Phase::Running) {
                if task.launch_error.is_some() {
                    step.push(Effect::Kill(task.container.clone(), SIGKILL));
                }
                step.push(Effect::Wait(task.container.clone(), self.generation));
            }
        }
        for i in 0..self.tasks.len() {
            let task = &mut self.tasks[i];
            if matches!(task.phase, Phase::Running)
                && task.killing.is_none()
                && task.launch_error.is_none()
            {
                let verdicts = task.checks.resume();
                self.follow(step, i, verdicts);
            }
        }
    }

    fn disconnected(&mut self, step: &mut Step) {
        if !self.subscribed {
            return;
        }
        self.subscribed = false;
        self.generation += 1;
        for task in &mut self.tasks {
            task.checks.pause();
        }
        match self.settings.recovery_timeout {
            Some(patience) => {
                step.push(Effect::Schedule(patience, Timer::Abandoned(self.generation)))
            }
            None => {
                step.log("the agent is gone and the framework does not checkpoint; ending");
                step.push(Effect::Exit);
            }
        }
    }

    fn launch_group(&mut self, step: &mut Step, group: TaskGroupInfo) {
        if self.shutting_down {
            step.log("a task group came while shutting down; ignored");
            return;
        }
        let Some(parent) = self.container.clone() else {
            step.log("a task group came before the agent named this container; ignored");
            return;
        };
        self.groups += 1;
        let first = self.tasks.len();
        for info in group.tasks {
            let container = ContainerId {
                value: (self.ids)().to_string(),
                parent: Some(Box::new(parent.clone())),
            };
            self.tasks.push(Task {
                checks: Checks::of(&info),
                info,
                group: self.groups,
                container,
                phase: Phase::Starting,
                acknowledged: false,
                killing: None,
                overtime: false,
                launch_error: None,
            });
        }
        for i in first..self.tasks.len() {
            let status = self.status(step.now, &self.tasks[i], TaskState::TaskStarting);
            self.update(step, status);
        }
        for task in &self.tasks[first..] {
            step.push(Effect::Launch(Box::new(self.launch_call(task))));
        }
    }

    /// The container of a task: its own command, image and resources, plus the
    /// address and the role that Mesos promises to tasks of a group.
    fn launch_call(&self, task: &Task) -> agent::call::LaunchContainer {
        let info = &task.info;
        let mut command = info.command.clone().unwrap_or_default();
        let role = info.resources.first().and_then(|r| r.allocation_info.as_ref());
        let variables = [
            ("MESOS_CONTAINER_IP", self.settings.container_ip.clone()),
            ("MESOS_ALLOCATION_ROLE", role.and_then(|a| a.role.clone()).unwrap_or_default()),
        ];
        let environment = command.environment.get_or_insert_with(Environment::default);
        for (name, value) in variables {
            environment.variables.push(environment::Variable {
                name: name.into(),
                value: Some(value),
                ..Default::default()
            });
        }
        let mut container = info.container.clone();
        for volume in info.resources.iter().filter_map(|r| r.disk.as_ref()?.volume.as_ref()) {
            container.get_or_insert_with(mesos_container).volumes.push(parents_volume(volume));
        }
        agent::call::LaunchContainer {
            container_id: task.container.clone(),
            command: Some(command),
            resources: info.resources.clone(),
            container,
            limits: info.limits.clone(),
        }
    }

    fn launched(&mut self, step: &mut Step, container: &ContainerId, outcome: Result<(), String>) {
        let Some(i) = self.position(container) else { return };
        match outcome {
            Err(error) => {
                step.log(format!(
                    "failed to launch task '{}': {error}",
                    self.tasks[i].info.task_id.value
                ));
                self.tasks[i].launch_error = Some(error);
                self.ended(step, i, None);
            }
            Ok(()) => {
                self.tasks[i].phase = Phase::Running;
                let task = &self.tasks[i];
                step.push(Effect::Link {
                    task: task.info.task_id.value.clone(),
                    container: task.container.clone(),
                });
                if let Some(limit) = &task.info.max_completion_time
                    && limit.nanoseconds > 0
                {
                    let timer = Timer::Overtime(task.container.clone());
                    step.push(Effect::Schedule(nanoseconds(limit.nanoseconds), timer));
                }
                let killing = task.killing;
                let status = self.status(step.now, task, TaskState::TaskRunning);
                self.update(step, status);
                if self.subscribed {
                    step.push(Effect::Wait(container.clone(), self.generation));
                }
                if let Some(grace) = killing {
                    self.signal(step, i, grace);
                } else {
                    let verdicts = self.tasks[i].checks.start(step.now);
                    self.follow(step, i, verdicts);
                    if !self.subscribed {
                        self.tasks[i].checks.pause();
                    }
                }
            }
        }
    }

    /// The agent went away during a launch. Whatever came of it is ended once
    /// the agent is back, and reported as failed.
    fn launch_lost(&mut self, step: &mut Step, container: &ContainerId) {
        let Some(i) = self.position(container) else { return };
        let task = &mut self.tasks[i];
        task.phase = Phase::Running;
        task.launch_error = Some("Lost the agent while launching the container".into());
        if self.subscribed {
            step.push(Effect::Kill(container.clone(), SIGKILL));
            step.push(Effect::Wait(container.clone(), self.generation));
        }
    }

    fn waited(&mut self, step: &mut Step, container: &ContainerId, outcome: Waited) {
        let Some(i) = self.position(container) else { return };
        match outcome {
            Waited::Interrupted => {
                step.push(Effect::Schedule(RETRY, Timer::Wait(container.clone(), self.generation)))
            }
            Waited::Refused(message) => {
                step.log(format!("the agent refuses to wait for {}: {message}", container.value));
                self.end(step);
            }
            Waited::Ended(answer) => self.ended(step, i, Some(*answer)),
            Waited::Unknown => self.ended(step, i, None),
        }
    }

    /// Reports the end of task `i`, forgets it, and draws the consequences.
    fn ended(&mut self, step: &mut Step, i: usize, answer: Option<WaitNestedContainer>) {
        let task = &self.tasks[i];
        let circumstances = Circumstances {
            killed: task.killing.is_some(),
            overtime: task.overtime,
            launch_error: task.launch_error.clone(),
        };
        let mut verdict = verdict::of(&circumstances, answer.as_ref());
        if let Some(error) = &task.launch_error {
            // Killed by us because its launch was lost: that is no kill.
            verdict.state = TaskState::TaskFailed;
            verdict.message = Some(error.clone());
        }
        let mut status = self.status(step.now, task, verdict.state);
        status.reason = verdict.reason.map(|r| r as i32);
        status.message = verdict.message;
        status.limitation = verdict.limitation;
        status.healthy = self.unhealthy.then_some(false);
        step.log(format!(
            "task '{}' ended: {}",
            task.info.task_id.value,
            verdict.state.as_str_name()
        ));
        self.update(step, status);
        let gone = self.tasks.remove(i);
        if matches!(verdict.state, TaskState::TaskFailed | TaskState::TaskKilled)
            && !self.shutting_down
        {
            self.kill_group(step, gone.group);
        }
        if self.tasks.is_empty() {
            self.end(step);
        }
    }

    /// A round of checks is due, or a probe was answered.
    fn checked(&mut self, step: &mut Step, container: &ContainerId, event: checks::Event) {
        if let Some(i) = self.position(container) {
            let verdicts = self.tasks[i].checks.handle(step.now, event);
            self.follow(step, i, verdicts);
        }
    }

    /// Turns the words of task `i`'s checks into effects.
    fn follow(&mut self, step: &mut Step, i: usize, verdicts: Vec<checks::Effect>) {
        use task_status::Reason::{TaskCheckStatusUpdated, TaskHealthCheckStatusUpdated};
        let container = self.tasks[i].container.clone();
        for verdict in verdicts {
            match verdict {
                checks::Effect::Schedule(after, kind, round) => {
                    let timer = Timer::Check(container.clone(), kind, round);
                    step.push(Effect::Schedule(after, timer));
                }
                checks::Effect::Probe(attempt) => {
                    step.push(Effect::Probe(container.clone(), Box::new(attempt)));
                }
                checks::Effect::Status(_) => {
                    self.report_checked(step, i, TaskCheckStatusUpdated, None);
                }
                checks::Effect::Health { kill, message, .. } => {
                    self.report_checked(step, i, TaskHealthCheckStatusUpdated, message);
                    if kill {
                        self.unhealthy = true;
                        let task = self.tasks[i].info.task_id.value.clone();
                        self.kill_task(step, &task, None);
                    }
                }
            }
        }
    }

    /// TASK_RUNNING again, with the newest results of both checks.
    fn report_checked(
        &mut self,
        step: &mut Step,
        i: usize,
        reason: task_status::Reason,
        message: Option<String>,
    ) {
        let task = &self.tasks[i];
        let mut status = self.status(step.now, task, TaskState::TaskRunning);
        status.reason = Some(reason as i32);
        status.message = message;
        status.healthy = task.checks.healthy();
        status.check_status = task.checks.status();
        self.update(step, status);
    }

    fn kill_group(&mut self, step: &mut Step, group: u64) {
        for i in 0..self.tasks.len() {
            if self.tasks[i].group == group {
                self.kill(step, i, DEFAULT_KILL_GRACE);
            }
        }
    }

    fn kill_task(&mut self, step: &mut Step, task_id: &str, grace: Option<Duration>) {
        if self.shutting_down {
            return;
        }
        let Some(i) = self.tasks.iter().position(|t| t.info.task_id.value == task_id) else {
            step.log(format!("kill of task '{task_id}', which is not active; ignored"));
            return;
        };
        let policy = self.tasks[i].info.kill_policy.as_ref().and_then(|p| p.grace_period.as_ref());
        let policy = policy.map(|g| nanoseconds(g.nanoseconds));
        self.kill(step, i, grace.or(policy).unwrap_or(DEFAULT_KILL_GRACE));
    }

    /// Starts the kill of task `i` unless one is under way. A task that is still
    /// starting is killed as soon as it runs.
    fn kill(&mut self, step: &mut Step, i: usize, grace: Duration) {
        if self.tasks[i].killing.is_some() {
            return;
        }
        self.tasks[i].killing = Some(grace);
        self.tasks[i].checks.pause();
        if matches!(self.tasks[i].phase, Phase::Running) {
            self.signal(step, i, grace);
        }
    }

    fn signal(&mut self, step: &mut Step, i: usize, grace: Duration) {
        let task = &self.tasks[i];
        let container = task.container.clone();
        if !task.overtime && self.has_capability(framework_info::capability::Type::TaskKillingState)
        {
            let status = self.status(step.now, task, TaskState::TaskKilling);
            self.update(step, status);
        }
        step.push(Effect::Kill(container.clone(), SIGTERM));
        step.push(Effect::Schedule(grace, Timer::Escalate(container)));
    }

    fn shutdown(&mut self, step: &mut Step) {
        if self.shutting_down {
            return;
        }
        self.shutting_down = true;
        if self.tasks.is_empty() || !self.subscribed {
            self.end(step);
            return;
        }
        for i in 0..self.tasks.len() {
            self.kill(step, i, DEFAULT_KILL_GRACE);
        }
        step.push(Effect::Schedule(self.settings.shutdown_grace, Timer::Exit));
    }

    /// Nothing is left to run: wait for acknowledgements, not for ever.
    fn end(&mut self, step: &mut Step) {
        if self.unacknowledged.is_empty() {
            step.push(Effect::Exit);
        } else if !self.ending {
            self.ending = true;
            step.push(Effect::Schedule(LINGER, Timer::Exit));
        }
    }

    fn acknowledged(&mut self, step: &mut Step, acknowledged: &event::Acknowledged) {
        let known = self.unacknowledged.len();
        self.unacknowledged.retain(|s| s.uuid.as_deref() != Some(acknowledged.uuid.as_slice()));
        if self.unacknowledged.len() == known {
            return;
        }
        let task = self.tasks.iter_mut().find(|t| t.info.task_id == acknowledged.task_id);
        if let Some(task) = task {
            task.acknowledged = true;
        }
        if self.tasks.is_empty() && self.unacknowledged.is_empty() {
            step.push(Effect::Exit);
        }
    }

    fn timer(&mut self, step: &mut Step, timer: Timer) {
        match timer {
            Timer::Escalate(container) => {
                if self.position(&container).is_some() {
                    step.push(Effect::Kill(container, SIGKILL));
                }
            }
            Timer::Overtime(container) => {
                if let Some(i) = self.position(&container)
                    && self.tasks[i].killing.is_none()
                {
                    self.tasks[i].overtime = true;
                    self.kill(step, i, Duration::ZERO);
                }
            }
            Timer::Check(container, kind, round) => {
                self.checked(step, &container, checks::Event::Due(kind, round));
            }
            Timer::Wait(container, generation) => {
                if generation == self.generation && self.position(&container).is_some() {
                    step.push(Effect::Wait(container, generation));
                }
            }
            Timer::Abandoned(generation) => {
                if generation == self.generation {
                    step.log("the agent stayed away for the whole recovery timeout; ending");
                    step.push(Effect::Exit);
                }
            }
            Timer::Exit => step.push(Effect::Exit),
        }
    }

    fn position(&self, container: &ContainerId) -> Option<usize> {
        self.tasks.iter().position(|t| t.container == *container)
    }

    fn has_capability(&self, wanted: framework_info::capability::Type) -> bool {
        let capabilities = self.framework.iter().flat_map(|f| &f.capabilities);
        capabilities.into_iter().any(|c| c.r#type == Some(wanted as i32))
    }

    fn status(&self, now: f64, task: &Task, state: TaskState) -> TaskStatus {
        TaskStatus {
            task_id: task.info.task_id.clone(),
            state: state as i32,
            source: Some(task_status::Source::Executor as i32),
            executor_id: Some(self.settings.executor_id.clone()),
            timestamp: Some(now),
            uuid: Some((self.ids)().as_bytes().to_vec()),
            check_status: checks::core::empty_status(&task.info),
            container_status: Some(ContainerStatus {
                container_id: Some(task.container.clone()),
                ..Default::default()
            }),
            ..Default::default()
        }
    }

    /// Sends a status; it stays until it is acknowledged.
    fn update(&mut self, step: &mut Step, status: TaskStatus) {
        let update = call::Update { status: status.clone() };
        self.unacknowledged.push(status);
        let call = Call { update: Some(update), ..self.call(call::Type::Update) };
        step.push(Effect::Send(Box::new(call)));
    }
}

struct Step {
    now: f64,
    effects: Vec<Effect>,
}

impl Step {
    fn push(&mut self, effect: Effect) {
        self.effects.push(effect);
    }

    fn log(&mut self, message: impl Into<String>) {
        self.effects.push(Effect::Log(message.into()));
    }
}

fn nanoseconds(n: i64) -> Duration {
    Duration::from_nanos(u64::try_from(n).unwrap_or(0))
}

fn mesos_container() -> mesos::ContainerInfo {
    mesos::ContainerInfo { r#type: mesos::container_info::Type::Mesos as i32, ..Default::default() }
}

/// A persistent volume lies in the executor's sandbox; the task's container gets
/// it from there under the same path.
fn parents_volume(volume: &mesos::Volume) -> mesos::Volume {
    mesos::Volume {
        mode: volume.mode,
        container_path: volume.container_path.clone(),
        source: Some(volume::Source {
            r#type: Some(volume::source::Type::SandboxPath as i32),
            sandbox_path: Some(volume::source::SandboxPath {
                r#type: Some(volume::source::sandbox_path::Type::Parent as i32),
                path: volume.container_path.clone(),
            }),
            ..Default::default()
        }),
        ..Default::default()
    }
}

#[cfg(test)]
#[path = "core_tests.rs"]
mod tests;
