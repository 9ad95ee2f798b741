//! Command tasks without an executor process: the agent plays the executor.
//!
//! It reports TASK_STARTING and TASK_RUNNING when the container runs the
//! command (the former earlier if that takes long, see `progress`), kills by the
//! task's policy (SIGTERM to all, then destruction) and turns the exit status into
//! the last state, in the words of Mesos' command executor.

use std::time::Duration;

use mesos::{TaskState, framework_info, task_status};

use super::event::{Effect, Timer};
use super::state::{ExecutorState, FrameworkState, KillProgress, is_terminal};
use super::status::NewStatus;
use super::{Core, names};
use crate::checkpoint::{Record, RunKey};
use crate::containerizer::Termination;

/// Between SIGTERM and destruction, unless a policy says otherwise (Mesos'
/// default).
const KILL_GRACE: Duration = Duration::from_secs(3);
const SIGTERM: i32 = 15;

impl Core {
    /// The container executes the task's command.
    pub(super) fn played_started(&mut self, framework: &str, executor: &str) {
        let Some(e) = self.executor_mut(framework, executor) else { return };
        e.state = ExecutorState::Running;
        let Some(played) = &mut e.played else { return };
        played.launching = false;
        let task = played.task.task_id.value.clone();
        e.hand_over(&task);
        let container = e.container_id.value.clone();
        self.report_started(framework, executor, &task);
        self.limit_time(framework, executor);
        self.start_checks(&container);
    }

    /// TASK_STARTING and TASK_RUNNING, whichever was not reported yet.
    pub(super) fn report_started(&mut self, framework: &str, executor: &str, task: &str) {
        for state in [TaskState::TaskStarting, TaskState::TaskRunning] {
            let Some(e) = self.executor(framework, executor) else { return };
            let Some(known) = e.launched.get(task) else { return };
            let rank = |s: TaskState| match s {
                TaskState::TaskStaging => 0,
                TaskState::TaskStarting => 1,
                _ => 2,
            };
            if rank(known.state()) < rank(state) {
                let e = self.executor_mut(framework, executor);
                let details = e.filter(|_| state == TaskState::TaskRunning);
                let details = details.and_then(|e| e.details.take());
                let status = NewStatus { details, ..NewStatus::of(task, state) };
                self.report_played(framework, executor, status);
            }
        }
        let now = self.now;
        if let Some(e) = self.executor_mut(framework, executor)
            && let Some(played) = &mut e.played
        {
            played.running_since.get_or_insert(now);
        }
    }

    /// Starts the clock of `max_completion_time`.
    pub(super) fn limit_time(&mut self, framework: &str, executor: &str) {
        let Some(e) = self.executor(framework, executor) else { return };
        let Some(played) = &e.played else { return };
        let Some(limit) = &played.task.max_completion_time else { return };
        let limit = Duration::from_nanos(u64::try_from(limit.nanoseconds).unwrap_or(0));
        let gone = (self.now - played.running_since.unwrap_or(self.now)).max(0.0);
        let after = limit.saturating_sub(Duration::try_from_secs_f64(gone).unwrap_or_default());
        let container = e.container_id.value.clone();
        self.out.push(Effect::Schedule { after, timer: Timer::MaxCompletion { container } });
    }

    pub(super) fn out_of_time(&mut self, container: &str) {
        let Some(e) = self.run_in(container) else { return };
        let Some(played) = e.played.as_mut().filter(|p| p.kill.is_none()) else { return };
        played.out_of_time = true;
        self.kill_played(container, None);
    }

    /// A kill from outside, with the grace period of its policy if it has one.
    pub(super) fn kill_played(&mut self, container: &str, grace: Option<Duration>) {
        let Some(e) = self.run_in(container) else { return };
        let run = e.run.clone();
        let Some(played) = &e.played else { return };
        let task = played.task.task_id.value.clone();
        if !e.queued.contains_key(&task) && !e.launched.contains_key(&task) {
            return;
        }
        if played.launching {
            // Not started: the launch is undone, from whatever state.
            e.state = ExecutorState::Terminating;
            let (container, checkpoint) = (e.container_id.clone(), e.checkpoint);
            let destroy = Effect::Destroy { container, termination: None };
            self.after_kill_is_written(&run, &task, checkpoint, vec![destroy]);
            return self.kill_queued(&run.framework, &run.executor, &task);
        }
        let policy = played.task.kill_policy.as_ref().and_then(|p| p.grace_period.as_ref());
        let grace = grace.unwrap_or_else(|| {
            policy.map_or(KILL_GRACE, |g| {
                Duration::from_nanos(u64::try_from(g.nanoseconds).unwrap_or(0))
            })
        });
        self.begin_kill(container, grace);
    }

    /// Whoever finds the task dead after a crash must know that it was killed, so
    /// nothing is done to it before that is written.
    pub(super) fn after_kill_is_written(
        &mut self,
        run: &RunKey,
        task: &str,
        checkpoint: bool,
        effects: Vec<Effect>,
    ) {
        if checkpoint {
            let record = Record::Kill { run: run.clone(), task: task.to_owned() };
            self.persist(record);
            self.when_written(effects);
        } else {
            self.out.extend(effects);
        }
    }

    /// SIGTERM now, destruction after `grace`. A second kill can only hurry.
    fn begin_kill(&mut self, container: &str, grace: Duration) {
        let generation = self.next_generation();
        let Some(e) = self.run_in(container) else { return };
        let (run, id, checkpoint) = (e.run.clone(), e.container_id.clone(), e.checkpoint);
        let Some(played) = &mut e.played else { return };
        let task = played.task.task_id.value.clone();
        let (again, out_of_time) = (played.kill.is_some(), played.out_of_time);
        played.kill = Some(KillProgress { generation });
        played.checks.pause();
        let timer = Timer::KillGrace { container: container.to_owned(), generation };
        let mut effects = Vec::new();
        if !again {
            let announces = self
                .frameworks
                .get(&run.framework)
                .is_some_and(|f| f.has(framework_info::capability::Type::TaskKillingState));
            let running = self
                .executor(&run.framework, &run.executor)
                .and_then(|e| e.launched.get(&task))
                .is_some_and(|t| t.state() != TaskState::TaskKilling && !is_terminal(t.state()));
            if announces && running && !out_of_time {
                let status = NewStatus::of(&task, TaskState::TaskKilling);
                self.report_played(&run.framework, &run.executor, status);
            }
            effects.push(Effect::Signal { container: id, signal: SIGTERM });
        }
        effects.push(Effect::Schedule { after: grace, timer });
        self.after_kill_is_written(&run, &task, checkpoint, effects);
    }

    pub(super) fn kill_grace_over(&mut self, container: &str, generation: u64) {
        let Some(e) = self.run_in(container).filter(|e| e.state != ExecutorState::Terminated)
        else {
            return;
        };
        let current =
            e.played.as_ref().and_then(|p| p.kill).is_some_and(|k| k.generation == generation);
        if current {
            let container = e.container_id.clone();
            self.out.push(Effect::Destroy { container, termination: None });
        }
    }

    /// The executor is to go: its task is killed.
    pub(super) fn shut_down_played(&mut self, container: &str) {
        let Some(e) = self.run_in(container) else { return };
        let launched = !e.launched.is_empty();
        let id = e.container_id.clone();
        let framework = e.run.framework.clone();
        self.kill_played(container, None);
        if let Some(e) = self.run_in(container) {
            e.state = ExecutorState::Terminating;
        }
        let removed =
            self.frameworks.get(&framework).is_none_or(|f| f.state == FrameworkState::Terminating);
        if !launched && removed {
            self.out.push(Effect::Destroy { container: id, termination: None });
        }
    }

    /// The last word of the played executor. `false`: it never got to speak, or
    /// the agent or an isolator ended the container and says so itself.
    pub(super) fn end_played(
        &mut self,
        framework: &str,
        executor: &str,
        task: &str,
        termination: Option<&Termination>,
    ) -> bool {
        let Some(e) = self.executor(framework, executor) else { return false };
        let (Some(played), Some(termination)) = (&e.played, termination) else { return false };
        let limited = termination.state.is_some() || !termination.reasons.is_empty();
        let Some(status) =
            termination.status.filter(|_| !limited && e.pending_termination.is_none())
        else {
            return false;
        };
        let (state, reason) = if played.out_of_time {
            (TaskState::TaskFailed, Some(task_status::Reason::MaxCompletionTimeReached))
        } else if played.kill.is_some() {
            (TaskState::TaskKilled, None)
        } else if status == 0 {
            (TaskState::TaskFinished, None)
        } else {
            (TaskState::TaskFailed, None)
        };
        let sick = played.unhealthy && played.kill.is_some();
        let status = NewStatus {
            message: format!("Command {}", names::wait_status(status)),
            reason,
            healthy: sick.then_some(false),
            ..NewStatus::of(task, state)
        };
        self.report_played(framework, executor, status);
        true
    }
}
