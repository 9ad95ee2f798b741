//! Draining: on the master's word everything that runs here is killed, and nothing
//! new is started until all of it is gone. The order is stored first and outlives
//! the agent's process.
//!
//! ```text
//! DrainSlaveMessage -> store -> kill every task -> ... -> nothing left -> forget
//!                        |                                    ^
//!                        +--- restart: recovered -> kill -----+
//! ```

use mesos::internal::KillTaskMessage;
use mesos::{
    DrainConfig, DurationInfo, FrameworkId, KillPolicy, TaskId, TaskState, TaskStatus,
    framework_info, task_status,
};

use super::state::Framework;
use super::{Core, Then, Time};
use crate::checkpoint::Record;

/// A drain that is under way.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Drain {
    /// What the operator asked for.
    pub config: DrainConfig,
    /// When this process was told, in seconds since the epoch.
    pub since: Time,
}

impl Core {
    pub(super) fn drain(&mut self, config: DrainConfig) {
        if self.frameworks.is_empty() && self.operations.known.is_empty() {
            tracing::info!("nothing runs here: already drained");
            return;
        }
        tracing::info!(
            grace_period = ?config.max_grace_period,
            mark_gone = config.mark_gone(),
            "draining"
        );
        self.drain = Some(Drain { config, since: self.now });
        let record = Record::Drain { agent: self.agent_id().to_owned(), config: Some(config) };
        self.persist_then(record, Then::DrainStored);
    }

    /// Kills every task that is not being killed already.
    pub(super) fn drain_tasks(&mut self) {
        let Some(drain) = self.drain else { return };
        let mut kills = Vec::new();
        for framework in self.frameworks.values() {
            for executor in framework.executors.values() {
                let launched = executor.launched.values().map(|t| (&t.task_id, t.kill_policy));
                let queued = executor.queued.values().map(|t| (&t.task_id, t.kill_policy));
                for (task, policy) in launched.chain(queued) {
                    kills.push(kill(framework, task, hurried(&drain.config, policy)));
                }
            }
        }
        for kill in kills {
            self.kill_task(&kill);
        }
    }

    /// Nothing is left: the order is forgotten.
    pub(super) fn drain_progress(&mut self) {
        let idle = self.frameworks.is_empty() && self.operations.known.is_empty();
        if self.drain.is_some() && idle {
            tracing::info!("drained");
            self.drain = None;
            let agent = self.agent_id().to_owned();
            self.persist(Record::Drain { agent, config: None });
        }
    }

    /// Says in a task's end that it came of the drain.
    pub(super) fn mark_drained(&self, framework: &str, status: &mut TaskStatus) {
        let Some(drain) = &self.drain else { return };
        if !matches!(status.state(), TaskState::TaskKilling | TaskState::TaskKilled) {
            return;
        }
        status.set_reason(task_status::Reason::SlaveDraining);
        let aware = framework_info::capability::Type::PartitionAware;
        let aware = self.frameworks.get(framework).is_some_and(|f| f.has(aware));
        // Mesos says so of TASK_KILLING, too: a terminal state of what still runs.
        if drain.config.mark_gone() && aware && status.state() == TaskState::TaskKilled {
            status.set_state(TaskState::TaskGoneByOperator);
        }
    }
}

fn kill(framework: &Framework, task: &TaskId, policy: Option<KillPolicy>) -> KillTaskMessage {
    KillTaskMessage {
        framework_id: FrameworkId { value: framework.id().to_owned() },
        task_id: task.clone(),
        kill_policy: policy,
    }
}

/// The policy that replaces the task's own: only to hurry.
fn hurried(config: &DrainConfig, own: Option<KillPolicy>) -> Option<KillPolicy> {
    let most: DurationInfo = config.max_grace_period?;
    let grace = own.and_then(|policy| policy.grace_period);
    let fine = grace.is_some_and(|grace| grace.nanoseconds <= most.nanoseconds);
    (!fine).then_some(KillPolicy { grace_period: Some(most) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_drain_hurries_and_never_slows() {
        let of = |secs: i64| DurationInfo { nanoseconds: secs * 1_000_000_000 };
        let policy = |secs| KillPolicy { grace_period: Some(of(secs)) };
        let config =
            |secs: Option<i64>| DrainConfig { max_grace_period: secs.map(of), mark_gone: None };
        for (most, own, wanted) in [
            (None, Some(9), None),
            (Some(5), None, Some(5)),
            (Some(5), Some(9), Some(5)),
            (Some(5), Some(5), None),
            (Some(5), Some(1), None),
        ] {
            let given = hurried(&config(most), own.map(policy));
            assert_eq!(given, wanted.map(policy), "{most:?} {own:?}");
        }
    }
}
