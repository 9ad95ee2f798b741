//! Executors of frameworks: coming in, getting their tasks, being shut down.

use std::time::Duration;

use mesos::internal::{
    ExecutorRegisteredMessage, ExecutorReregisteredMessage, ReconnectExecutorMessage,
    RegisterExecutorMessage, ReregisterExecutorMessage, ShutdownExecutorMessage,
};
use mesos::{TaskInfo, TaskState, executor, task_status};

use super::event::{CallId, Effect, Refusal, Timer, WireMessage};
use super::messages::bare;
use super::operations::has_volumes;
use super::state::{ExecutorSink, ExecutorState, FrameworkState, StreamId};
use super::status::{NewStatus, Origin};
use super::{AgentState, Core, Then, names};
use crate::checkpoint::Record;
use crate::containerizer::Termination;

/// HEARTBEAT events of an HTTP executor's stream (Mesos' constant).
const HEARTBEAT: Duration = Duration::from_secs(30 * 60);

impl Core {
    // V0.

    pub(super) fn register_executor(&mut self, from: &str, message: &RegisterExecutorMessage) {
        let framework = message.framework_id.value.clone();
        let executor = message.executor_id.value.clone();
        let ready = matches!(self.state, AgentState::Running | AgentState::Disconnected)
            && self.frameworks.get(&framework).is_some_and(|f| f.state == FrameworkState::Running)
            && self
                .executor(&framework, &executor)
                .is_some_and(|e| e.state == ExecutorState::Registering && !e.is_played());
        if !ready {
            tracing::warn!(
                from,
                framework,
                executor,
                "shutting down an executor that is not expected"
            );
            return self.shut_down_pid(from);
        }
        self.adopt(&framework, &executor, ExecutorSink::Pid(from.to_owned()));
        self.out.push(Effect::Link { to: from.to_owned() });
        if self.shut_down_if_idle(&framework, &executor) {
            return;
        }
        if let (Some(f), Some(e)) =
            (self.frameworks.get(&framework), self.executor(&framework, &executor))
        {
            let message = ExecutorRegisteredMessage {
                executor_info: e.info.clone(),
                framework_id: e.framework_id.clone(),
                framework_info: f.info.clone(),
                slave_id: self.info.id.clone().unwrap_or_default(),
                slave_info: (*self.info).clone(),
            };
            self.send(from, WireMessage::of(&message));
        }
        self.resize_for_queued(&framework, &executor);
    }

    pub(super) fn reregister_executor(&mut self, from: &str, message: ReregisterExecutorMessage) {
        let framework = message.framework_id.value.clone();
        let executor = message.executor_id.value.clone();
        let state = self
            .frameworks
            .get(&framework)
            .filter(|f| f.state == FrameworkState::Running && self.state != AgentState::Terminating)
            .and_then(|f| f.executors.get(&executor))
            .filter(|e| !e.is_played())
            .map(|e| e.state);
        match state {
            Some(ExecutorState::Registering) => {}
            Some(ExecutorState::Running) if self.config.executor_reregistration_retry.is_some() => {
                return; // An answer to a repeated question.
            }
            _ => return self.shut_down_pid(from),
        }
        self.adopt(&framework, &executor, ExecutorSink::Pid(from.to_owned()));
        self.out.push(Effect::Link { to: from.to_owned() });
        let answer = ExecutorReregisteredMessage {
            slave_id: self.info.id.clone().unwrap_or_default(),
            slave_info: (*self.info).clone(),
        };
        self.send(from, WireMessage::of(&answer));
        for update in message.updates {
            self.status_update(update, Origin::Executor(ExecutorSink::Pid(from.to_owned())));
        }
        self.drop_unseen(&framework, &executor, &message.tasks);
        if !self.shut_down_if_idle(&framework, &executor) {
            self.resize(&framework, &executor, Vec::new());
        }
        self.recovery_progress();
    }

    // v1.

    pub(super) fn subscribe(
        &mut self,
        call: CallId,
        (framework, executor): (&str, &str),
        stream: StreamId,
        subscribe: executor::call::Subscribe,
    ) {
        let Some(f) = self.frameworks.get(framework) else {
            return self.out.push(Effect::Reply { call, result: Err(Refusal::UnknownFramework) });
        };
        let terminating =
            f.state == FrameworkState::Terminating || self.state == AgentState::Terminating;
        let Some(e) = f.executors.get(executor).filter(|e| !e.is_played()) else {
            return self.out.push(Effect::Reply { call, result: Err(Refusal::UnknownExecutor) });
        };
        let state = e.state;
        let previous = match &e.sink {
            Some(ExecutorSink::Http(stream)) => Some(*stream),
            _ => None,
        };
        self.out.push(Effect::Reply { call, result: Ok(()) });
        if terminating || matches!(state, ExecutorState::Terminating | ExecutorState::Terminated) {
            self.stream(stream, bare(executor::event::Type::Shutdown));
            return self.out.push(Effect::CloseStream(stream));
        }
        if let Some(previous) = previous {
            self.out.push(Effect::CloseStream(previous));
        }
        self.adopt(framework, executor, ExecutorSink::Http(stream));
        self.out.push(Effect::Schedule { after: HEARTBEAT, timer: Timer::StreamHeartbeat(stream) });
        for update in subscribe.unacknowledged_updates {
            let update = self.update_of(framework, update.status);
            self.status_update(update, Origin::Executor(ExecutorSink::Http(stream)));
        }
        self.drop_unseen(framework, executor, &subscribe.unacknowledged_tasks);
        if !self.shut_down_if_idle(framework, executor) {
            self.send_subscribed(framework, executor, stream);
            self.resize_for_queued(framework, executor);
        }
        self.recovery_progress();
    }

    fn send_subscribed(&mut self, framework: &str, executor: &str, stream: StreamId) {
        let (Some(f), Some(e)) =
            (self.frameworks.get(framework), self.executor(framework, executor))
        else {
            return;
        };
        let subscribed = executor::event::Subscribed {
            executor_info: e.info.clone(),
            framework_info: f.info.clone(),
            slave_info: (*self.info).clone(),
            container_id: Some(e.container_id.clone()),
        };
        let event = executor::Event {
            subscribed: Some(subscribed),
            ..bare(executor::event::Type::Subscribed)
        };
        self.stream(stream, event);
    }

    /// The executor behind a call other than SUBSCRIBE.
    pub(super) fn subscribed(
        &self,
        framework: &str,
        executor: &str,
    ) -> Result<ExecutorSink, Refusal> {
        if self.state == AgentState::Recovering {
            return Err(Refusal::Recovering);
        }
        let f = self.frameworks.get(framework).ok_or(Refusal::UnknownFramework)?;
        let e = f.executors.get(executor).ok_or(Refusal::UnknownExecutor)?;
        match &e.sink {
            Some(sink @ ExecutorSink::Http(_)) if e.state != ExecutorState::Registering => {
                Ok(sink.clone())
            }
            _ => Err(Refusal::NotSubscribed),
        }
    }

    pub(super) fn stream_closed(&mut self, stream: StreamId) {
        let sink = Some(ExecutorSink::Http(stream));
        let found = self
            .frameworks
            .values()
            .flat_map(|f| f.executors.values())
            .find(|e| e.sink == sink)
            .map(|e| (e.run.framework.clone(), e.run.executor.clone()));
        if let Some((framework, executor)) = found
            && let Some(e) = self.executor_mut(&framework, &executor)
        {
            e.sink = None; // It may subscribe again; its container says if it died.
        }
    }

    pub(super) fn stream_heartbeat(&mut self, stream: StreamId) {
        let sink = Some(ExecutorSink::Http(stream));
        let open =
            self.frameworks.values().flat_map(|f| f.executors.values()).any(|e| e.sink == sink);
        if open {
            self.stream(stream, bare(executor::event::Type::Heartbeat));
            self.out
                .push(Effect::Schedule { after: HEARTBEAT, timer: Timer::StreamHeartbeat(stream) });
        }
    }

    // Both.

    fn adopt(&mut self, framework: &str, executor: &str, sink: ExecutorSink) {
        let Some(e) = self.executor_mut(framework, executor) else { return };
        e.state = ExecutorState::Running;
        e.sink = Some(sink.clone());
        if e.checkpoint {
            let run = e.run.clone();
            self.persist(match sink {
                ExecutorSink::Pid(pid) => Record::LibprocessPid { run, pid },
                ExecutorSink::Http(_) => Record::HttpMarker { run },
            });
        }
    }

    /// Tasks that were on their way when the agent died and never arrived.
    pub(super) fn drop_unseen(&mut self, framework: &str, executor: &str, seen: &[TaskInfo]) {
        let Some(e) = self.executor(framework, executor) else { return };
        let lost: Vec<String> = e
            .launched
            .values()
            .filter(|t| t.state() == TaskState::TaskStaging)
            .filter(|t| !seen.iter().any(|s| s.task_id == t.task_id))
            .map(|t| t.task_id.value.clone())
            .collect();
        let Some(state) = self.frameworks.get(framework).map(|f| f.dropped()) else { return };
        for task in lost {
            let status = NewStatus {
                message: "Task launched during agent restart".to_owned(),
                reason: Some(task_status::Reason::SlaveRestarted),
                executor: Some(executor.to_owned()),
                ..NewStatus::of(&task, state)
            };
            self.report(framework, executor, status);
        }
    }

    /// An executor whose tasks were all killed before it could get them.
    fn shut_down_if_idle(&mut self, framework: &str, executor: &str) -> bool {
        let idle = self
            .executor(framework, executor)
            .is_some_and(|e| e.queued.is_empty() && !e.ever_sent_task());
        if idle {
            self.shut_down_executor(framework, executor);
        }
        idle
    }

    fn resize_for_queued(&mut self, framework: &str, executor: &str) {
        let queued = self
            .executor(framework, executor)
            .map(|e| e.queued.keys().cloned().collect())
            .unwrap_or_default();
        self.resize(framework, executor, queued);
    }

    /// Resizes the container to what its executor and tasks ask for; `tasks` are
    /// handed over afterwards.
    pub(super) fn resize(&mut self, framework: &str, executor: &str, tasks: Vec<String>) {
        let Some(e) = self.executor(framework, executor) else { return };
        let (requests, limits) = self.allocation(e);
        let container = e.container_id.clone();
        if requests.is_empty() {
            // compat: Mesos destroys the container of an executor without
            // resources when its last task ends; here it lives on as it is.
            self.deliver(&container.value, &tasks);
        } else {
            let volumes = has_volumes(&requests);
            let update = Effect::Update { container, requests, limits, tasks };
            match volumes {
                true => self.when_stored(Then::Effects(vec![update])),
                false => self.out.push(update),
            }
        }
    }

    pub(super) fn updated(
        &mut self,
        container: &str,
        tasks: &[String],
        result: Result<(), String>,
    ) {
        match result {
            Ok(()) => self.deliver(container, tasks),
            Err(error) => {
                let gone = self.framework_in(container).map(|f| f.gone());
                let Some((e, gone)) = self.run_in(container).zip(gone) else { return };
                if e.state == ExecutorState::Terminated {
                    return;
                }
                e.pending_termination.get_or_insert_with(|| Termination {
                    state: Some(gone),
                    reasons: vec![task_status::Reason::ContainerUpdateFailed],
                    message: Some(format!("Failed to update resources for container: {error}")),
                    ..Termination::default()
                });
                let container = e.container_id.clone();
                self.out.push(Effect::Destroy { container, termination: None });
            }
        }
    }

    fn framework_in(&self, container: &str) -> Option<&super::Framework> {
        let (framework, _) = self.containers.get(container)?;
        self.frameworks.get(framework).map(|f| &**f)
    }

    /// Hands queued tasks to their executor, groups as a whole.
    fn deliver(&mut self, container: &str, tasks: &[String]) {
        let Some((framework, executor)) = self.containers.get(container).cloned() else { return };
        let Some(f) =
            self.frameworks.get(&framework).filter(|f| f.state == FrameworkState::Running)
        else {
            return;
        };
        let (info, pid) = (f.info.clone(), f.pid.clone());
        for id in tasks {
            let Some(e) = self.executor_mut(&framework, &executor) else { return };
            if e.state != ExecutorState::Running {
                return;
            }
            let group = e.groups.iter().position(|g| g.contains(id)).map(|at| e.groups.remove(at));
            let ids = group.clone().unwrap_or_else(|| vec![id.clone()]);
            let ready: Vec<TaskInfo> = ids.iter().filter_map(|id| e.hand_over(id)).collect();
            if ready.is_empty() {
                continue; // Killed in the meantime, or handed over with its group.
            }
            if group.is_some() {
                self.send_group(&framework, &executor, ready);
            } else {
                for task in ready {
                    self.send_task(&info, pid.as_deref(), &executor, task);
                }
            }
        }
    }

    // Shutting down.

    pub(super) fn shutdown_executor_message(&mut self, message: &ShutdownExecutorMessage) {
        if !matches!(self.state, AgentState::Running | AgentState::Terminating) {
            return;
        }
        let (Some(framework), Some(executor)) = (&message.framework_id, &message.executor_id)
        else {
            return;
        };
        let running = self
            .frameworks
            .get(&framework.value)
            .is_some_and(|f| f.state == FrameworkState::Running);
        if running {
            self.shut_down_executor(&framework.value, &executor.value);
        }
    }

    pub(super) fn shut_down_executor(&mut self, framework: &str, executor: &str) {
        let Some(e) = self.executor_mut(framework, executor) else { return };
        if matches!(e.state, ExecutorState::Terminating | ExecutorState::Terminated) {
            return;
        }
        let container = e.container_id.value.clone();
        if e.is_played() {
            return self.shut_down_played(&container);
        }
        e.state = ExecutorState::Terminating;
        let after = match &e.info.shutdown_grace_period {
            Some(grace) => Duration::from_nanos(u64::try_from(grace.nanoseconds).unwrap_or(0)),
            None => self.config.executor_shutdown_grace,
        };
        // It may end at once: what is said of its tasks must be stored by then.
        let before = self.out.len();
        self.send_shutdown(framework, executor);
        let shutdown = self.out.split_off(before);
        self.when_stored(Then::Effects(shutdown));
        self.out.push(Effect::Schedule { after, timer: Timer::ExecutorShutdown { container } });
    }

    pub(super) fn shutdown_timeout(&mut self, container: &str) {
        if let Some(e) = self.run_in(container).filter(|e| e.state == ExecutorState::Terminating) {
            let container = e.container_id.clone();
            self.out.push(Effect::Destroy { container, termination: None });
        }
    }

    pub(super) fn registration_timeout(&mut self, container: &str) {
        let within = names::duration(self.config.executor_registration_timeout);
        let Some(e) = self.run_in(container).filter(|e| e.state == ExecutorState::Registering)
        else {
            return;
        };
        e.state = ExecutorState::Terminating;
        e.pending_termination.get_or_insert_with(|| Termination {
            state: Some(TaskState::TaskFailed),
            reasons: vec![task_status::Reason::ExecutorRegistrationTimeout],
            message: Some(format!("Executor did not register within {within}")),
            ..Termination::default()
        });
        let container = e.container_id.clone();
        self.out.push(Effect::Destroy { container, termination: None });
    }

    /// Asks recovered V0 executors to come back.
    pub(super) fn reconnect_executors(&mut self) {
        if self.state != AgentState::Recovering {
            return;
        }
        let Some(slave_id) = self.info.id.clone() else { return };
        let message = WireMessage::of(&ReconnectExecutorMessage { slave_id });
        let silent: Vec<String> = self
            .frameworks
            .values()
            .flat_map(|f| f.executors.values())
            .filter(|e| e.state == ExecutorState::Registering)
            .filter_map(|e| match &e.sink {
                Some(ExecutorSink::Pid(pid)) => Some(pid.clone()),
                _ => None,
            })
            .collect();
        for pid in silent {
            self.send(&pid, message.clone());
        }
        if let Some(after) = self.config.executor_reregistration_retry {
            self.out.push(Effect::Schedule { after, timer: Timer::ExecutorReconnect });
        }
    }

    pub(super) fn shutdown_framework(&mut self, id: &str) {
        if !matches!(self.state, AgentState::Running | AgentState::Terminating) {
            return;
        }
        let Some(framework) = self.framework_mut(id) else { return };
        if framework.state == FrameworkState::Terminating {
            return;
        }
        framework.state = FrameworkState::Terminating;
        let executors: Vec<(String, ExecutorState)> =
            framework.executors.values().map(|e| (e.id().to_owned(), e.state)).collect();
        for (executor, state) in executors {
            match state {
                ExecutorState::Terminated => self.remove_executor(id, &executor),
                _ => self.shut_down_executor(id, &executor),
            }
        }
        self.retire_framework(id);
    }
}
