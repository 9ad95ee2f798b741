//! Tasks and executors, one rule after the other, in Mesos' order.

use mesos::resources::validate_all;
use mesos::slave_info::capability::Type as Capability;
use mesos::{ContainerInfo, ExecutorInfo, TaskInfo, executor_info};

use super::{Check, parts, resources};
use crate::master::Resources;
use crate::master::core::cluster::{Agent, Framework};
use crate::master::ids::{ExecutorId, TaskId};

/// Least memory of an executor in a task group, MB.
pub(super) const MIN_MEM: f64 = 32.0;
/// Least cpus of an executor in a task group.
pub(super) const MIN_CPUS: f64 = 0.01;

/// Whom a launch is between.
#[derive(Clone, Copy)]
pub struct Scene<'a> {
    /// Who launches.
    pub framework: &'a Framework,
    /// Where.
    pub agent: &'a Agent,
}

impl Scene<'_> {
    pub(super) fn running(&self, executor: &ExecutorInfo) -> Option<&ExecutorInfo> {
        let key = (self.framework.id.clone(), ExecutorId::from(&executor.executor_id));
        self.agent.executors.get(&key).map(|known| &**known)
    }
}

/// A task of a LAUNCH.
///
/// # Errors
/// The first rule it breaks.
pub fn launch(task: &TaskInfo, scene: Scene<'_>, available: &Resources) -> Check {
    common(task, scene)?;
    with_executor(task, scene, available)?;
    match task.container.as_ref().and_then(share_cgroups) {
        Some(false) => {
            Err("Only tasks in a task group may have 'share_cgroups' set to 'false'".into())
        }
        _ => Ok(()),
    }
}

pub(super) fn share_cgroups(container: &ContainerInfo) -> Option<bool> {
    container.linux_info.as_ref().and_then(|l| l.share_cgroups)
}

/// What all tasks must be, in groups and alone.
pub(super) fn common(task: &TaskInfo, scene: Scene<'_>) -> Check {
    super::id(&task.task_id.value)?;
    unique(task, scene.framework)?;
    if task.slave_id.value != scene.agent.id.as_str() {
        return Err(format!(
            "Task uses invalid agent {} while agent {} is expected",
            task.slave_id.value, scene.agent.id
        ));
    }
    let grace = task.kill_policy.as_ref().and_then(|p| p.grace_period.as_ref());
    if grace.is_some_and(|g| g.nanoseconds < 0) {
        return Err("Task's 'kill_policy.grace_period' must be non-negative".into());
    }
    if task.max_completion_time.as_ref().is_some_and(|t| t.nanoseconds < 0) {
        return Err("Task's `max_completion_time` must be non-negative".into());
    }
    if let Some(check) = &task.check {
        parts::check(check).map_err(|e| format!("Task uses invalid check: {e}"))?;
    }
    if let Some(check) = &task.health_check {
        parts::health_check(check).map_err(|e| format!("Task uses invalid health check: {e}"))?;
    }
    own_resources(task)?;
    if let Some(command) = &task.command {
        parts::command(command).map_err(|e| format!("Task's `CommandInfo` is invalid: {e}"))?;
    }
    if let Some(container) = &task.container {
        parts::container(container)
            .map_err(|e| format!("Task's `ContainerInfo` is invalid: {e}"))?;
    }
    limits(task, scene.agent)
}

fn unique(task: &TaskInfo, framework: &Framework) -> Check {
    let id = TaskId::from(&task.task_id);
    if framework.tasks.contains_key(&id) {
        return Err(format!("Task has duplicate ID: {id}"));
    }
    if framework.unreachable_tasks.iter().any(|t| t.task_id == task.task_id) {
        return Err(format!("Task reuses the ID of an unreachable task: {id}"));
    }
    Ok(())
}

fn own_resources(task: &TaskInfo) -> Check {
    if task.resources.is_empty() {
        return Err("Task uses no resources".into());
    }
    resources::all(&task.resources).map_err(|e| format!("Task uses invalid resources: {e}"))?;
    let parsed = Resources::from_valid(&task.resources);
    resources::unique_persistence(&parsed)
        .map_err(|e| format!("Task uses duplicate persistence ID: {e}"))?;
    resources::one_role(&task.resources).map_err(|e| format!("Invalid task resources: {e}"))?;
    resources::revocable_or_not(&parsed)
        .map_err(|e| format!("Task mixes revocable and non-revocable resources: {e}"))
}

fn limits(task: &TaskInfo, agent: &Agent) -> Check {
    if task.limits.is_empty() {
        return Ok(());
    }
    if !agent.can(Capability::TaskResourceLimits) {
        return Err("Agent is not capable of handling task resource limits".into());
    }
    if task.limits.keys().any(|name| name != "cpus" && name != "mem") {
        return Err("Only cpus and mem may be included in a task's resource limits".into());
    }
    let wanted = Resources::from_valid(&task.resources);
    if let Some(limit) = task.limits.get("cpus").map(|l| l.value) {
        let Some(cpus) = wanted.cpus() else {
            return Err(
                "When a CPU limit is specified, a CPU request must also be specified".into()
            );
        };
        if limit.is_nan() || limit < cpus {
            return Err("The cpu limit must be greater than or equal to the cpu request".into());
        }
    }
    if let Some(limit) = task.limits.get("mem").map(|l| l.value) {
        let Some(mem) = wanted.mem() else {
            return Err(
                "When a memory limit is specified, a memory request must also be specified".into(),
            );
        };
        if limit.is_nan() || limit < mem {
            return Err(
                "The memory limit must be greater than or equal to the memory request".into()
            );
        }
    }
    Ok(())
}

fn with_executor(task: &TaskInfo, scene: Scene<'_>, available: &Resources) -> Check {
    if task.executor.is_some() == task.command.is_some() {
        return Err("Task should have at least one (but not both) of CommandInfo or ExecutorInfo \
                    present"
            .into());
    }
    let mut total = Resources::from_valid(&task.resources);
    if let Some(given) = &task.executor {
        executor(given, scene)?;
        if given.r#type.is_some() && given.r#type() != executor_info::Type::Custom {
            return Err("'ExecutorInfo.type' must be 'CUSTOM'".into());
        }
        if given.command.is_none() {
            return Err("'ExecutorInfo.command' must be set".into());
        }
        let own = Resources::from_valid(&given.resources);
        if !own.shared().is_empty() {
            return Err(format!(
                "Executor resources {own} should not contain any shared resources"
            ));
        }
        if given.container.as_ref().and_then(share_cgroups) == Some(true) {
            return Err(
                "The 'share_cgroups' field cannot be set to 'true' on executor containers".into()
            );
        }
        if scene.running(given).is_none() {
            total += &own;
        }
    }
    together(task)?;
    if !available.contains(&total) {
        return Err(format!(
            "Total resources {total} required by task and its executor is more than available \
             {available}"
        ));
    }
    Ok(())
}

/// Task and executor resources, added up, must still make sense.
fn together(task: &TaskInfo) -> Check {
    let mut total = task.resources.clone();
    let own = Resources::from_valid(&task.resources);
    if let Some(executor) = &task.executor {
        total.extend(executor.resources.iter().cloned());
    }
    resources::all(&total)
        .map_err(|e| format!("Task and its executor use invalid resources: {e}"))?;
    if let Some(executor) = &task.executor {
        let of_executor = Resources::from_valid(&executor.resources);
        if resources::overlap(&[own.clone(), of_executor.clone()]) {
            return Err(format!(
                "There are overlapping resources in the task resources {own} and executor \
                 resources {of_executor}"
            ));
        }
    }
    let total = Resources::from_valid(&total);
    resources::unique_persistence(&total)
        .map_err(|e| format!("Task and its executor use duplicate persistence ID: {e}"))?;
    resources::revocable_or_not(&total).map_err(|e| {
        format!("Task and its executor mix revocable and non-revocable resources: {e}")
    })
}

/// An executor by itself.
///
/// # Errors
/// The first rule it breaks.
pub fn executor_info(executor: &ExecutorInfo) -> Check {
    match executor.r#type() {
        executor_info::Type::Default => {
            if executor.command.is_some() {
                return Err("'ExecutorInfo.command' must not be set for 'DEFAULT' executor".into());
            }
            if let Some(container) = &executor.container {
                if container.r#type() != mesos::container_info::Type::Mesos {
                    return Err(
                        "'ExecutorInfo.container.type' must be 'MESOS' for 'DEFAULT' executor"
                            .into(),
                    );
                }
                if container.mesos.as_ref().is_some_and(|m| m.image.is_some()) {
                    return Err("'ExecutorInfo.container.mesos.image' must not be set for \
                                'DEFAULT' executor"
                        .into());
                }
            }
        }
        executor_info::Type::Custom if executor.command.is_none() => {
            return Err("'ExecutorInfo.command' must be set for 'CUSTOM' executor".into());
        }
        executor_info::Type::Custom | executor_info::Type::Unknown => {}
    }
    super::id(&executor.executor_id.value)?;
    if executor.shutdown_grace_period.as_ref().is_some_and(|g| g.nanoseconds < 0) {
        return Err("ExecutorInfo's 'shutdown_grace_period' must be non-negative".into());
    }
    if let Some(command) = &executor.command {
        parts::command(command).map_err(|e| format!("Executor's `CommandInfo` is invalid: {e}"))?;
    }
    if let Some(container) = &executor.container {
        parts::container(container)
            .map_err(|e| format!("Executor's `ContainerInfo` is invalid: {e}"))?;
    }
    Ok(())
}

/// An executor that a framework wants on an agent.
pub(super) fn executor(executor: &ExecutorInfo, scene: Scene<'_>) -> Check {
    executor_info(executor)?;
    let Some(framework) = &executor.framework_id else {
        return Err("'ExecutorInfo.framework_id' must be set".into());
    };
    if framework.value != scene.framework.id.as_str() {
        return Err(format!(
            "ExecutorInfo has an invalid FrameworkID (Actual: {} vs Expected: {})",
            framework.value, scene.framework.id
        ));
    }
    validate_all(&executor.resources)
        .map_err(|e| format!("Executor uses invalid resources: Invalid resources: {e}"))?;
    resources::all(&executor.resources)
        .map_err(|e| format!("Executor uses invalid resources: {e}"))?;
    let parsed = Resources::from_valid(&executor.resources);
    resources::unique_persistence(&parsed)
        .map_err(|e| format!("Executor uses duplicate persistence ID: {e}"))?;
    resources::one_role(&executor.resources)
        .map_err(|e| format!("Invalid executor resources: {e}"))?;
    resources::revocable_or_not(&parsed)
        .map_err(|e| format!("Executor mixes revocable and non-revocable resources: {e}"))?;
    match scene.running(executor) {
        Some(known) if known != executor => Err(different(known, executor)),
        _ => Ok(()),
    }
}

fn different(known: &ExecutorInfo, given: &ExecutorInfo) -> String {
    let line = "------------------------------------------------------------";
    let show = |e: &ExecutorInfo| String::from_utf8_lossy(&mesos::json::to_json(e)).into_owned();
    format!(
        "ExecutorInfo is not compatible with existing ExecutorInfo with same ExecutorID.\n\
         {line}\nExisting ExecutorInfo:\n{}\n{line}\nExecutorInfo:\n{}\n{line}\n",
        show(known),
        show(given)
    )
}
