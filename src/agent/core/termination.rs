//! What follows when a container is gone.

use std::sync::Arc;

use mesos::internal::ExitedExecutorMessage;
use mesos::{ExecutorId, FrameworkId, TaskState, task_status};

use super::event::{Effect, WireMessage};
use super::state::{ExecutorSink, ExecutorState, FrameworkState};
use super::status::NewStatus;
use super::{AgentState, Core, Then};
use crate::checkpoint::Record;
use crate::containerizer::Termination;

impl Core {
    /// A run's container is gone; `None`: the containerizer does not know it.
    pub(super) fn terminated(&mut self, container: &str, termination: Option<&Termination>) {
        let Some(e) = self.run_in(container) else { return };
        if e.state == ExecutorState::Terminated {
            return;
        }
        e.state = ExecutorState::Terminated;
        let sink = e.sink.take();
        let (framework, executor) = (e.run.framework.clone(), e.run.executor.clone());
        self.counters.executors_terminated += 1;
        if let Some(ExecutorSink::Http(stream)) = sink {
            self.out.push(Effect::CloseStream(stream));
        }
        let terminating =
            self.frameworks.get(&framework).is_none_or(|f| f.state == FrameworkState::Terminating);
        if !terminating {
            self.end_tasks(&framework, &executor, termination);
        }
        let Some(e) = self.executor(&framework, &executor) else { return };
        let incomplete = e.is_incomplete();
        if !e.generated {
            let status = termination.and_then(|t| t.status);
            self.send_exited(&framework, &executor, status);
        }
        if terminating || self.state == AgentState::Terminating || !incomplete {
            self.remove_executor(&framework, &executor);
        }
        self.recovery_progress();
    }

    /// The last word on every task that had not ended.
    fn end_tasks(&mut self, framework: &str, executor: &str, termination: Option<&Termination>) {
        let Some(e) = self.executor(framework, executor) else { return };
        let played = e.is_played();
        let tasks: Vec<(String, bool)> = e
            .launched
            .keys()
            .map(|id| (id.clone(), true))
            .chain(e.queued.keys().map(|id| (id.clone(), false)))
            .collect();
        for (task, launched) in tasks {
            if played && launched && self.end_played(framework, executor, &task, termination) {
                continue;
            }
            let Some(e) = self.executor(framework, executor) else { return };
            let status = last_word(&task, e.pending_termination.as_ref(), termination);
            self.report(framework, executor, status);
        }
    }

    pub(super) fn send_exited(&mut self, framework: &str, executor: &str, status: Option<i32>) {
        let Some(slave_id) = self.info.id.clone() else { return };
        let message = ExitedExecutorMessage {
            slave_id,
            framework_id: FrameworkId { value: framework.to_owned() },
            executor_id: ExecutorId { value: executor.to_owned() },
            status: status.unwrap_or(-1),
        };
        self.send_to_master(WireMessage::of(&message));
    }

    /// Moves a terminated executor to the completed ones; its directories become
    /// garbage and its exit record may go.
    pub(super) fn remove_executor(&mut self, framework: &str, executor: &str) {
        let limit = self.config.max_completed_executors;
        let Some(f) = self.framework_mut(framework) else { return };
        let Some(mut e) = f.executors.remove(executor) else { return };
        {
            let e = Arc::make_mut(&mut e);
            let left = std::mem::take(&mut e.launched);
            e.terminated.extend(left);
        }
        if limit > 0 {
            if f.completed.len() >= limit {
                f.completed.pop_front();
            }
            f.completed.push_back(e.clone());
        }
        self.containers.remove(&e.container_id.value);
        let forget = Effect::Forget { container: e.container_id.clone() };
        if e.checkpoint {
            let record = Record::Sentinel { run: e.run.clone() };
            self.persist_then(record, Then::Effects(vec![forget]));
        } else {
            self.out.push(forget);
        }
        self.executor_ended(&e);
        let terminating =
            self.frameworks.get(framework).is_some_and(|f| f.state == FrameworkState::Terminating);
        if terminating || !self.updates.has_framework(framework) {
            self.retire_framework(framework);
        }
    }
}

/// The agent's status for a task whose container ended under it. What the
/// containerizer says goes before what the agent meant to do.
fn last_word(
    task: &str,
    pending: Option<&Termination>,
    termination: Option<&Termination>,
) -> NewStatus {
    let both = || termination.into_iter().chain(pending);
    let mut messages: Vec<String> = pending.iter().filter_map(|p| p.message.clone()).collect();
    match termination {
        None => messages.push("Abnormal executor termination: unknown container".to_owned()),
        Some(termination) => messages.extend(termination.message.clone()),
    }
    NewStatus {
        message: if messages.is_empty() {
            "Executor terminated".to_owned()
        } else {
            messages.join("; ")
        },
        reason: Some(
            both()
                .find_map(|t| t.reasons.first().copied())
                .unwrap_or(task_status::Reason::ExecutorTerminated),
        ),
        limited: termination.map(|t| t.limited_resources.clone()).unwrap_or_default(),
        ..NewStatus::of(task, both().find_map(|t| t.state).unwrap_or(TaskState::TaskFailed))
    }
}
