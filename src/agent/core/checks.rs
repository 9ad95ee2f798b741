//! Checks of command tasks: the agent asks, as it plays the executor.
//!
//! What is asked when and what an answer means is decided by [`crate::checks`];
//! here its words become timers, probes and status updates.

use mesos::{TaskState, TaskStatus, task_status};

use super::Core;
use super::event::{Effect, Timer};
use super::state::{Executor, ExecutorState};
use super::status::NewStatus;
use crate::checks::{Effect as Verdict, Event};

impl Core {
    /// The task runs for the first time.
    pub(super) fn start_checks(&mut self, container: &str) {
        let now = self.now;
        let Some(played) = self.run_in(container).and_then(|e| e.played.as_mut()) else { return };
        let verdicts = played.checks.start(now);
        self.follow(container, verdicts);
    }

    /// The task ran before this process: goes on where the last agent stopped.
    pub(super) fn take_over_checks(&mut self, container: &str) {
        let now = self.now;
        let Some(e) = self.run_in(container) else { return };
        let last = last_running(e).cloned().unwrap_or_default();
        let Some(played) = &mut e.played else { return };
        let verdicts = played.checks.take_over(&last, played.running_since.unwrap_or(now));
        self.follow(container, verdicts);
    }

    /// A round is due, or a probe was answered.
    pub(super) fn checked(&mut self, container: &str, event: Event) {
        let now = self.now;
        let Some(e) = self.run_in(container).filter(|e| e.state == ExecutorState::Running) else {
            return;
        };
        let Some(played) = e.played.as_mut().filter(|p| p.kill.is_none()) else { return };
        let verdicts = played.checks.handle(now, event);
        self.follow(container, verdicts);
    }

    fn follow(&mut self, container: &str, verdicts: Vec<Verdict>) {
        for verdict in verdicts {
            match verdict {
                Verdict::Schedule(after, kind, round) => {
                    let timer = Timer::Check { container: container.to_owned(), kind, round };
                    self.out.push(Effect::Schedule { after, timer });
                }
                Verdict::Probe(attempt) => {
                    let Some(e) = self.run_in(container) else { return };
                    let effect = Effect::Probe {
                        container: e.container_id.clone(),
                        pid: e.pid,
                        directory: e.directory.clone(),
                        user: e.user.clone(),
                        attempt: Box::new(attempt),
                    };
                    self.out.push(effect);
                }
                Verdict::Status(_) => {
                    let reason = task_status::Reason::TaskCheckStatusUpdated;
                    self.report_checked(container, reason, None);
                }
                Verdict::Health { kill, message, .. } => {
                    let reason = task_status::Reason::TaskHealthCheckStatusUpdated;
                    self.report_checked(container, reason, message);
                    if kill {
                        let Some(e) = self.run_in(container) else { return };
                        if let Some(played) = &mut e.played {
                            played.unhealthy = true;
                        }
                        self.kill_played(container, None);
                    }
                }
            }
        }
    }

    /// TASK_RUNNING again, with the newest results of both checks.
    fn report_checked(
        &mut self,
        container: &str,
        reason: task_status::Reason,
        message: Option<String>,
    ) {
        let Some(e) = self.run_in(container) else { return };
        let Some(played) = &e.played else { return };
        let status = NewStatus {
            reason: Some(reason),
            message: message.unwrap_or_default(),
            healthy: played.checks.healthy(),
            check: played.checks.status(),
            ..NewStatus::of(&played.task.task_id.value, TaskState::TaskRunning)
        };
        let (framework, executor) = (e.run.framework.clone(), e.run.executor.clone());
        self.report_played(&framework, &executor, status);
    }
}

/// The newest TASK_RUNNING of a command task.
fn last_running(e: &Executor) -> Option<&TaskStatus> {
    let statuses = e.launched.values().flat_map(|task| &task.statuses);
    statuses.rev().find(|status| status.state() == TaskState::TaskRunning)
}
