//! Reconciliation: what the master knows of the tasks a framework asks about.
//!
//! The rules are those of `docs/reconciliation.md` of Mesos: an answer is given
//! only where the master can be sure, never while a recovered agent may still
//! come back with the task.

use mesos::TaskState;
use mesos::scheduler::call;
use mesos::task_status::Reason;

use super::tasks::Verdict;
use super::{Core, time_info};
use crate::master::ids::{AgentId, FrameworkId, TaskId};

impl Core {
    /// RECONCILE: all tasks of the framework, or the listed ones.
    pub(super) fn reconcile(&mut self, framework: &FrameworkId, call: &call::Reconcile) {
        self.count("messages_reconcile_tasks");
        if call.tasks.is_empty() {
            let tasks: Vec<TaskId> = self
                .framework(framework)
                .into_iter()
                .flat_map(|f| f.tasks.keys().cloned())
                .collect();
            for task in tasks {
                self.answer_known(framework, &task);
            }
            return;
        }
        for task in &call.tasks {
            let id = TaskId::from(&task.task_id);
            if self.task(framework, &id).is_some() {
                self.answer_known(framework, &id);
            } else {
                self.answer_unknown(framework, &id, task.slave_id.as_ref().map(AgentId::from));
            }
        }
    }

    fn answer_known(&mut self, framework: &FrameworkId, id: &TaskId) {
        let Some(task) = self.task(framework, id).cloned() else { return };
        let state = task.status_update_state.unwrap_or(task.state);
        let verdict = Verdict {
            state: TaskState::try_from(state).unwrap_or(TaskState::TaskStaging),
            reason: Reason::Reconciliation,
            message: "Reconciliation: Latest task state".into(),
        };
        let agent = AgentId::from(&task.slave_id);
        let mut update = self.own_update(framework, Some(&agent), id, &verdict);
        if let Some(last) = task.statuses.last() {
            update.status.healthy = last.healthy;
            update.status.check_status.clone_from(&last.check_status);
            update.status.container_status.clone_from(&last.container_status);
        }
        self.forward(update, None);
    }

    fn answer_unknown(&mut self, framework: &FrameworkId, id: &TaskId, agent: Option<AgentId>) {
        let aware = self
            .framework(framework)
            .is_some_and(|f| f.can(mesos::framework_info::capability::Type::PartitionAware));
        let recovering = match &agent {
            Some(agent) => self.cluster.recovered.contains_key(agent),
            None => !self.cluster.recovered.is_empty(),
        };
        if recovering {
            return; // The agent may come back with it; the framework asks again.
        }
        let mut since = None;
        let (state, message) = match &agent {
            Some(agent) if self.agent(agent).is_some() => {
                (TaskState::TaskGone, "Reconciliation: Task is unknown to the agent")
            }
            Some(agent) if self.cluster.unreachable.contains_key(agent) => {
                since = self.cluster.unreachable.get(agent).copied().map(time_info);
                (TaskState::TaskUnreachable, "Reconciliation: Task is unreachable")
            }
            Some(agent) if self.cluster.gone.contains_key(agent) => {
                (TaskState::TaskGoneByOperator, "Reconciliation: Task is gone")
            }
            _ => (TaskState::TaskUnknown, "Reconciliation: Task is unknown"),
        };
        let verdict = Verdict {
            state: if aware { state } else { TaskState::TaskLost },
            reason: Reason::Reconciliation,
            message: message.into(),
        };
        let mut update = self.own_update(framework, agent.as_ref(), id, &verdict);
        update.status.unreachable_time = since;
        self.forward(update, None);
    }
}
