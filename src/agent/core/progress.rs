//! Launches that take their time, told to the frameworks of command tasks.
//!
//! A task whose URIs are fetched or whose image is pulled for long is TASK_STARTING with a
//! message that says how far that is; the usual updates follow. It is an update like any
//! other, so it is rare, and none is made before the last one is acknowledged.
//!
//! Only the executor may say of a task that it starts, so tasks of executors that are not
//! played stay as they are; `/containers` shows the progress of all.

use std::time::Duration;

use mesos::{ContainerInfo, TaskInfo, TaskState};

use super::Core;
use super::event::{Effect, Timer};
use super::state::{Executor, ExecutorState};
use super::status::NewStatus;
use crate::agent::updates::Key;
use crate::containerizer::Progress;

/// After the launch began: most never get here.
const FIRST: Duration = Duration::from_secs(10);
/// Between two looks.
const EVERY: Duration = Duration::from_secs(30);

/// Looks at a launch later, if there is anything in it that may take long.
pub(super) fn first_look(container: &str, task: &TaskInfo) -> Option<Effect> {
    let uris = task.command.as_ref().is_some_and(|command| !command.uris.is_empty());
    (uris || task.container.as_ref().is_some_and(has_image)).then(|| look(container, FIRST))
}

fn has_image(container: &ContainerInfo) -> bool {
    container.docker.is_some()
        || container.mesos.as_ref().is_some_and(|mesos| mesos.image.is_some())
}

fn look(container: &str, after: Duration) -> Effect {
    Effect::Schedule { after, timer: Timer::Progress { container: container.to_owned() } }
}

impl Core {
    pub(super) fn progress_due(&mut self, container: &str) {
        let Some(e) = self.run_in(container).filter(|e| e.is_launching()) else { return };
        let container = e.container_id.clone();
        self.out.push(Effect::AskProgress { container });
    }

    /// The answer to [`Effect::AskProgress`].
    pub(super) fn progress(&mut self, container: &str, progress: Option<Progress>) {
        let starts = |e: &&mut Executor| e.is_launching() && e.state == ExecutorState::Registering;
        let Some(e) = self.run_in(container).filter(starts) else { return };
        let Some(played) = &e.played else { return };
        let (run, task) = (e.run.clone(), played.task.task_id.value.clone());
        let last = e.launched.get(&task).and_then(|task| task.statuses.last());
        let told = last.and_then(|status| status.message.clone());
        self.out.push(look(container, EVERY));
        let Some(message) = progress.map(|progress| progress.to_string()) else { return };
        let key = Key { framework: run.framework.clone(), task: task.clone() };
        if told.as_ref() == Some(&message) || self.updates.is_busy(&key) {
            return;
        }
        if let Some(e) = self.run_in(container) {
            e.hand_over(&task);
        }
        let status = NewStatus { message, ..NewStatus::of(&task, TaskState::TaskStarting) };
        self.report_played(&run.framework, &run.executor, status);
    }
}
