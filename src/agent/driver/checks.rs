//! Probing command tasks: over the network of their container, or by a command in
//! it. Decides nothing; called by `containers`, each probe in a task of its own.

use std::collections::BTreeMap;

use mesos::{CommandInfo, ContainerId};

use crate::agent::core::names::wait_status;
use crate::checks::network::{self, words};
use crate::checks::{Attempt, Event, Outcome, Probe};
use crate::containerizer::{
    Class, Containerizer, ContainerizerError, LaunchRequest, Output, Termination,
};

const SIGKILL: i32 = 9;

/// A command task's container.
#[derive(Debug)]
pub(super) struct Target {
    pub container: ContainerId,
    /// Its first process.
    pub pid: Option<u32>,
    /// Its sandbox on the host.
    pub directory: String,
    /// Whom it runs as.
    pub user: Option<String>,
}

/// Makes one probe; the answer is for the core.
pub(super) async fn probe(
    containerizer: &dyn Containerizer,
    target: Target,
    attempt: Attempt,
) -> Event {
    let outcome = match (&attempt.probe, target.pid) {
        (Probe::Command(command), _) => {
            run(containerizer, &target, (**command).clone(), &attempt).await
        }
        (_, None) => Outcome::Unavailable("the container has no process yet".into()),
        (_, pid) => network::perform(&attempt, pid).await,
    };
    if let Outcome::Failed(why) | Outcome::Unavailable(why) = &outcome {
        tracing::debug!(container = target.container.value, kind = ?attempt.kind, why, "probe");
    }
    Event::Done(attempt.kind, attempt.round, outcome)
}

/// Runs the command as a guest of the task's container. Its output follows the
/// task's own `stderr`, as Mesos' command executor has it.
async fn run(
    containerizer: &dyn Containerizer,
    target: &Target,
    command: CommandInfo,
    attempt: &Attempt,
) -> Outcome {
    let id = ContainerId {
        value: format!("check-{}", uuid::Uuid::new_v4()),
        parent: Some(Box::new(target.container.clone())),
    };
    let request = LaunchRequest {
        id: id.clone(),
        user: command.user.clone().filter(|_| target.user.is_some()).or(target.user.clone()),
        command,
        container: None,
        requests: Vec::new(),
        limits: BTreeMap::new(),
        sandbox: target.directory.clone().into(),
        environment: BTreeMap::new(),
        framework_id: None,
        executor: None,
        task: None,
        class: Class::Debug(Output::ParentsStderr),
    };
    let running = async {
        match containerizer.launch(request).await {
            Ok(_) => Ok(containerizer.wait(&id).await),
            Err(error) => Err(error),
        }
    };
    let ended = match attempt.limit {
        None => Some(running.await),
        Some(limit) => tokio::time::timeout(limit, running).await.ok(),
    };
    let outcome = match (ended, attempt.limit) {
        (Some(Ok(end)), _) => outcome_of(end.as_ref()),
        // The task itself is gone or going.
        (Some(Err(error @ ContainerizerError::Unknown(_))), _) => {
            Outcome::Unavailable(error.to_string())
        }
        (Some(Err(error)), _) => Outcome::Failed(error.to_string()),
        (None, limit) => {
            containerizer.destroy(&id, None).await;
            let limit = limit.map(words).unwrap_or_default();
            Outcome::Failed(format!("the command did not end within {limit}"))
        }
    };
    containerizer.forget(&id).await;
    outcome
}

/// A guest that was killed without having been too slow died with its task.
fn outcome_of(end: Option<&Termination>) -> Outcome {
    match end.and_then(|end| end.status) {
        None => Outcome::Unavailable("nothing is known of the command".into()),
        Some(SIGKILL) => Outcome::Unavailable("the command was killed".into()),
        Some(status) if status & 0x7f == 0 => Outcome::Exited((status >> 8) & 0xff),
        Some(status) => Outcome::Failed(format!("the command {}", wait_status(status))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wait_statuses_are_answers_or_not() {
        let end = |status| Some(Termination { status, ..Termination::default() });
        for (end, outcome) in [
            (end(Some(0)), Outcome::Exited(0)),
            (end(Some(3 << 8)), Outcome::Exited(3)),
            (
                end(Some(15)),
                Outcome::Failed("the command terminated with signal Terminated".into()),
            ),
            (end(Some(9)), Outcome::Unavailable("the command was killed".into())),
            (end(None), Outcome::Unavailable("nothing is known of the command".into())),
            (None, Outcome::Unavailable("nothing is known of the command".into())),
        ] {
            assert_eq!(outcome_of(end.as_ref()), outcome);
        }
    }
}
