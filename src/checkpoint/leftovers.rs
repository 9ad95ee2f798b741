//! Sandboxes of an agent id that no checkpoint speaks of: those of frameworks that
//! do not checkpoint, and of launches that an agent began and did not live to write
//! down. The agent that ran them is dead, and so are they: they are garbage.

use super::files::{StorageError, modified, subdirs};
use super::{Garbage, RunKey, WorkDir};

/// All of them, each with the time of its last change in seconds since the epoch:
/// runs, and the directories above them of which no checkpoint speaks either.
pub(super) fn sandboxes(work: &WorkDir, agent: &str) -> Result<Vec<(Garbage, f64)>, StorageError> {
    let mut found = Vec::new();
    for framework in subdirs(&work.frameworks(agent))? {
        let mut youngest = modified(&work.framework(agent, &framework));
        for executor in subdirs(&work.executors(agent, &framework))? {
            let changed = executor_of(work, (agent, &framework, &executor), &mut found)?;
            youngest = youngest.max(changed);
        }
        if !work.meta_framework(agent, &framework).is_dir() {
            let own = Garbage::Framework { agent: agent.to_owned(), framework };
            found.push((own, youngest));
        }
    }
    Ok(found)
}

/// When the youngest of its runs was changed.
fn executor_of(
    work: &WorkDir,
    (agent, framework, executor): (&str, &str, &str),
    found: &mut Vec<(Garbage, f64)>,
) -> Result<f64, StorageError> {
    let mut youngest = modified(&work.executor(agent, framework, executor));
    for container in subdirs(&work.runs(agent, framework, executor))? {
        let run = RunKey {
            agent: agent.to_owned(),
            framework: framework.to_owned(),
            executor: executor.to_owned(),
            container,
        };
        let changed = modified(&work.sandbox(&run));
        youngest = youngest.max(changed);
        if !work.meta_run(&run).is_dir() {
            found.push((Garbage::Run(run), changed));
        }
    }
    if !work.meta_executor(agent, framework, executor).is_dir() {
        let own = Garbage::Executor {
            agent: agent.to_owned(),
            framework: framework.to_owned(),
            executor: executor.to_owned(),
        };
        found.push((own, youngest));
    }
    Ok(youngest)
}
