//! What an agent may say of itself and of what it runs.

use std::collections::BTreeSet;

use mesos::internal::{RegisterSlaveMessage, ReregisterSlaveMessage};
use mesos::resources::validate_all;
use mesos::{SlaveInfo, TaskState};

use super::{Check, framework, task};

fn info(info: &SlaveInfo) -> Check {
    if let Some(id) = &info.id {
        super::id(&id.value)?;
    }
    validate_all(&info.resources).map_err(|e| e.to_string())
}

/// A first registration.
///
/// # Errors
/// The first rule it breaks.
pub fn registration(message: &RegisterSlaveMessage) -> Check {
    info(&message.slave)?;
    if !message.checkpointed_resources.is_empty() && !message.slave.checkpoint() {
        return Err("Checkpointed resources provided when checkpointing is not enabled".into());
    }
    validate_all(&message.checkpointed_resources).map_err(|e| e.to_string())
}

/// A re-registration: what is listed must fit together.
///
/// # Errors
/// The first rule it breaks.
pub fn reregistration(message: &ReregisterSlaveMessage) -> Check {
    info(&message.slave)?;
    validate_all(&message.checkpointed_resources).map_err(|e| e.to_string())?;
    let Some(agent) = &message.slave.id else {
        return Err("the agent has no id".into());
    };
    let mut frameworks = BTreeSet::new();
    for info in &message.frameworks {
        framework::info(info)?;
        let id = info.id.clone().unwrap_or_default().value;
        super::id(&id)?;
        if !frameworks.insert(id.clone()) {
            return Err(format!("Framework has a duplicate FrameworkID: '{id}'"));
        }
    }
    let executors = executors(message, &frameworks)?;
    for listed in &message.tasks {
        super::id(&listed.task_id.value).map_err(|e| format!("Task has an invalid TaskID: {e}"))?;
        if listed.slave_id != *agent {
            return Err(format!("Task has an invalid SlaveID '{}'", listed.slave_id.value));
        }
        let framework = &listed.framework_id.value;
        if !frameworks.contains(framework) {
            return Err(format!("Task has an invalid FrameworkID '{framework}'"));
        }
        if let Some(executor) = &listed.executor_id
            && listed.state() == TaskState::TaskRunning
            && !executors.contains(&(framework.clone(), executor.value.clone()))
        {
            return Err(format!("Task has an invalid ExecutorID '{}'", executor.value));
        }
        validate_all(&listed.resources).map_err(|e| format!("Task uses invalid resources: {e}"))?;
    }
    Ok(())
}

fn executors(
    message: &ReregisterSlaveMessage,
    frameworks: &BTreeSet<String>,
) -> Result<BTreeSet<(String, String)>, String> {
    let mut seen = BTreeSet::new();
    for executor in &message.executor_infos {
        task::executor_info(executor)?;
        validate_all(&executor.resources).map_err(|e| e.to_string())?;
        let framework = executor.framework_id.clone().unwrap_or_default().value;
        if !frameworks.contains(&framework) {
            return Err(format!("Executor has an invalid FrameworkID '{framework}'"));
        }
        let id = executor.executor_id.value.clone();
        if !seen.insert((framework.clone(), id.clone())) {
            return Err(format!("Framework '{framework}' has a duplicate ExecutorID '{id}'"));
        }
    }
    Ok(seen)
}
