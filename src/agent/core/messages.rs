//! Talking to executors: one intent, two languages (v1 events and V0 messages).

use mesos::internal::{
    ExecutorToFrameworkMessage, FrameworkToExecutorMessage, KillTaskMessage, RunTaskMessage,
    ShutdownExecutorMessage, StatusUpdateAcknowledgementMessage,
};
use mesos::{ExecutorId, FrameworkId, FrameworkInfo, TaskGroupInfo, TaskId, TaskInfo, executor};

use super::event::{Effect, Refusal, WireMessage};
use super::state::{ExecutorSink, ExecutorState, FrameworkState, StreamId};
use super::{AgentState, Core};

/// An event with a type and nothing else.
pub(super) fn bare(kind: executor::event::Type) -> executor::Event {
    executor::Event { r#type: Some(kind as i32), ..executor::Event::default() }
}

impl Core {
    pub(super) fn stream(&mut self, stream: StreamId, event: executor::Event) {
        self.out.push(Effect::Stream { stream, event: Box::new(event) });
    }

    fn sink(&self, framework: &str, executor: &str) -> Option<ExecutorSink> {
        self.executor(framework, executor)?.sink.clone()
    }

    pub(super) fn send_task(
        &mut self,
        framework: &FrameworkInfo,
        pid: Option<&str>,
        executor: &str,
        task: TaskInfo,
    ) {
        let id = framework.id.as_ref().map_or("", |id| id.value.as_str());
        match self.sink(id, executor) {
            Some(ExecutorSink::Http(stream)) => {
                let launch = executor::event::Launch { task };
                let event =
                    executor::Event { launch: Some(launch), ..bare(executor::event::Type::Launch) };
                self.stream(stream, event);
            }
            Some(ExecutorSink::Pid(to)) => {
                let message = RunTaskMessage {
                    framework: framework.clone(),
                    task,
                    pid: Some(pid.unwrap_or("@0.0.0.0:0").to_owned()),
                    ..RunTaskMessage::default()
                };
                self.send(&to, WireMessage::of(&message));
            }
            None => {}
        }
    }

    /// V0 has no word for groups: `false`.
    pub(super) fn send_group(
        &mut self,
        framework: &str,
        executor: &str,
        tasks: Vec<TaskInfo>,
    ) -> bool {
        let Some(ExecutorSink::Http(stream)) = self.sink(framework, executor) else { return false };
        let group = executor::event::LaunchGroup { task_group: TaskGroupInfo { tasks } };
        let event = executor::Event {
            launch_group: Some(group),
            ..bare(executor::event::Type::LaunchGroup)
        };
        self.stream(stream, event);
        true
    }

    pub(super) fn send_kill(&mut self, framework: &str, executor: &str, message: &KillTaskMessage) {
        match self.sink(framework, executor) {
            Some(ExecutorSink::Http(stream)) => {
                let kill = executor::event::Kill {
                    task_id: message.task_id.clone(),
                    kill_policy: message.kill_policy,
                };
                let event =
                    executor::Event { kill: Some(kill), ..bare(executor::event::Type::Kill) };
                self.stream(stream, event);
            }
            Some(ExecutorSink::Pid(to)) => self.send(&to, WireMessage::of(message)),
            None => {}
        }
    }

    pub(super) fn send_shutdown(&mut self, framework: &str, executor: &str) {
        match self.sink(framework, executor) {
            Some(ExecutorSink::Http(stream)) => {
                self.stream(stream, bare(executor::event::Type::Shutdown));
            }
            Some(ExecutorSink::Pid(to)) => self.shut_down_pid(&to),
            None => {}
        }
    }

    /// Tells an executor that should not be there to go away.
    pub(super) fn shut_down_pid(&mut self, to: &str) {
        // compat: agents send it empty; the ids are for masters, which name one.
        self.send(to, WireMessage::of(&ShutdownExecutorMessage::default()));
    }

    /// Tells an executor that its update is safe with the agent.
    pub(super) fn acknowledge_executor(
        &mut self,
        sink: &ExecutorSink,
        framework: &str,
        task: &str,
        uuid: &[u8],
    ) {
        match sink {
            ExecutorSink::Http(stream) => {
                let acknowledged = executor::event::Acknowledged {
                    task_id: TaskId { value: task.to_owned() },
                    uuid: uuid.to_vec(),
                };
                let event = executor::Event {
                    acknowledged: Some(acknowledged),
                    ..bare(executor::event::Type::Acknowledged)
                };
                self.stream(*stream, event);
            }
            ExecutorSink::Pid(to) => {
                let message = StatusUpdateAcknowledgementMessage {
                    slave_id: self.info.id.clone().unwrap_or_default(),
                    framework_id: FrameworkId { value: framework.to_owned() },
                    task_id: TaskId { value: task.to_owned() },
                    uuid: uuid.to_vec(),
                };
                self.send(to, WireMessage::of(&message));
            }
        }
    }

    pub(super) fn framework_to_executor(&mut self, message: FrameworkToExecutorMessage) {
        let framework = message.framework_id.value.clone();
        let executor = message.executor_id.value.clone();
        let deliverable = self.state == AgentState::Running
            && self.frameworks.get(&framework).is_some_and(|f| f.state == FrameworkState::Running)
            && self
                .executor(&framework, &executor)
                .is_some_and(|e| e.state == ExecutorState::Running);
        let sink = self.sink(&framework, &executor).filter(|_| deliverable);
        match sink {
            Some(ExecutorSink::Http(stream)) => {
                let payload = executor::event::Message { data: message.data };
                let event = executor::Event {
                    message: Some(payload),
                    ..bare(executor::event::Type::Message)
                };
                self.stream(stream, event);
            }
            Some(ExecutorSink::Pid(to)) => self.send(&to, WireMessage::of(&message)),
            None => {
                tracing::warn!(
                    framework,
                    executor,
                    "dropping a message to an executor that is not running"
                );
                self.counters.invalid_framework_messages += 1;
                return;
            }
        }
        self.counters.valid_framework_messages += 1;
    }

    pub(super) fn executor_to_framework(&mut self, message: ExecutorToFrameworkMessage) {
        let target = self
            .frameworks
            .get(&message.framework_id.value)
            .filter(|f| f.state == FrameworkState::Running && self.state == AgentState::Running)
            .map(|f| f.pid.clone());
        let Some(pid) = target else {
            self.counters.invalid_framework_messages += 1;
            return;
        };
        self.counters.valid_framework_messages += 1;
        let message = WireMessage::of(&message);
        match pid {
            Some(pid) => self.send(&pid, message),
            None => self.send_to_master(message),
        }
    }

    pub(super) fn http_message(
        &mut self,
        framework: &str,
        executor: &str,
        data: Vec<u8>,
    ) -> Result<(), Refusal> {
        self.subscribed(framework, executor)?;
        self.executor_to_framework(ExecutorToFrameworkMessage {
            slave_id: self.info.id.clone().unwrap_or_default(),
            framework_id: FrameworkId { value: framework.to_owned() },
            executor_id: ExecutorId { value: executor.to_owned() },
            data,
        });
        Ok(())
    }
}
