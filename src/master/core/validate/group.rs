//! Task groups: all or nothing.

use mesos::{ExecutorInfo, TaskGroupInfo, TaskInfo, container_info, executor_info, health_check};

use super::task::{MIN_CPUS, MIN_MEM, Scene, common, executor as check_executor, share_cgroups};
use super::{Check, resources};
use crate::master::Resources;

/// A LAUNCH_GROUP.
///
/// # Errors
/// The first rule it breaks.
pub fn launch(
    group: &TaskGroupInfo,
    executor: &ExecutorInfo,
    scene: Scene<'_>,
    available: &Resources,
) -> Check {
    for (n, task) in group.tasks.iter().enumerate() {
        let id = &task.task_id;
        let twice = group.tasks[..n].iter().any(|other| other.task_id == *id);
        if twice {
            // compat: Mesos crashes here; a duplicate within the group is one, too.
            return Err(format!("Task '{0}' is invalid: Task has duplicate ID: {0}", id.value));
        }
        member(task, scene).map_err(|e| format!("Task '{}' is invalid: {e}", id.value))?;
    }
    of_group(group, executor, scene, available)?;
    cgroups(group, executor)
}

fn member(task: &TaskInfo, scene: Scene<'_>) -> Check {
    common(task, scene)?;
    if task.executor.is_none() {
        return Err("'TaskInfo.executor' must be set".into());
    }
    if let Some(container) = &task.container {
        let checked = task.health_check.as_ref().map(mesos::HealthCheck::r#type);
        let remote = matches!(checked, Some(health_check::Type::Http | health_check::Type::Tcp));
        if !container.network_infos.is_empty() && remote {
            return Err("HTTP and TCP health checks are not supported for nested containers not \
                        joining parent's network"
                .into());
        }
        if container.r#type() == container_info::Type::Docker {
            return Err("Docker ContainerInfo is not supported on the task".into());
        }
    }
    if !task.limits.is_empty() && task.container.as_ref().and_then(share_cgroups) != Some(false) {
        return Err("Resource limits may only be set for tasks within a task group when the \
                    'share_cgroups' field is set to 'false'."
            .into());
    }
    Ok(())
}

fn of_group(
    group: &TaskGroupInfo,
    executor: &ExecutorInfo,
    scene: Scene<'_>,
    available: &Resources,
) -> Check {
    check_executor(executor, scene)?;
    if executor.r#type.is_none() {
        return Err("'ExecutorInfo.type' must be set".into());
    }
    if executor.r#type() == executor_info::Type::Unknown {
        return Err("Unknown executor type".into());
    }
    let docker = container_info::Type::Docker;
    if executor.container.as_ref().is_some_and(|c| c.r#type() == docker) {
        return Err("Docker ContainerInfo is not supported on the executor".into());
    }
    let id = &executor.executor_id.value;
    for task in &group.tasks {
        if task.executor.as_ref().is_some_and(|e| e != executor) {
            return Err(format!(
                "The `ExecutorInfo` of task '{}' is different from executor '{id}'",
                task.task_id.value
            ));
        }
    }
    let own = Resources::from_valid(&executor.resources);
    enough(id, &own)?;
    together(group, &own)?;
    let mut total = Resources::new();
    for task in &group.tasks {
        total += &Resources::from_valid(&task.resources);
    }
    if scene.running(executor).is_none() {
        total += &own;
    }
    if available.contains(&total) {
        Ok(())
    } else {
        Err(format!(
            "Total resources {total} required by task group and its executor are more than \
             available {available}"
        ))
    }
}

fn enough(id: &str, own: &Resources) -> Check {
    let less = |what: &str, has: Option<f64>, unit: &str, min: String| {
        let has = has.map_or_else(|| "None".to_owned(), |h| format!("{h}{unit}"));
        Err(format!("Executor '{id}' uses less {what} ({has}) than the minimum required ({min})"))
    };
    match (own.cpus(), own.mem(), own.disk()) {
        (cpus, _, _) if cpus.is_none_or(|c| c < MIN_CPUS) => {
            less("CPUs", cpus, "", MIN_CPUS.to_string())
        }
        (_, mem, _) if mem.is_none_or(|m| m < MIN_MEM) => {
            less("memory", mem, "MB", format!("{MIN_MEM}MB"))
        }
        (_, _, None) => Err(format!("Executor '{id}' uses no disk")),
        _ => Ok(()),
    }
}

fn together(group: &TaskGroupInfo, own: &Resources) -> Check {
    let mut lists: Vec<Resources> =
        group.tasks.iter().map(|t| Resources::from_valid(&t.resources)).collect();
    let mut total = own.clone();
    for list in &lists {
        total += list;
    }
    resources::unique_persistence(&total)
        .map_err(|e| format!("Task group and executor use duplicate persistence ID: {e}"))?;
    resources::revocable_or_not(&total).map_err(|e| {
        format!("Task group and executor mix revocable and non-revocable resources: {e}")
    })?;
    let of_tasks: Vec<String> = lists.iter().map(ToString::to_string).collect();
    lists.push(own.clone());
    if resources::overlap(&lists) {
        return Err(format!(
            "There are overlapping resources in the task group's task resources {{ {} }} and/or \
             executor resources {own}",
            of_tasks.join(", ")
        ));
    }
    Ok(())
}

fn cgroups(group: &TaskGroupInfo, executor: &ExecutorInfo) -> Check {
    if executor.container.as_ref().and_then(share_cgroups) == Some(true) {
        return Err(
            "The 'share_cgroups' field cannot be set to 'true' on executor containers".into()
        );
    }
    let mut all =
        group.tasks.iter().map(|t| t.container.as_ref().and_then(share_cgroups).unwrap_or(true));
    let first = all.next();
    if all.any(|shared| Some(shared) != first) {
        return Err("If set, the value of 'share_cgroups' must be the same for all tasks in each \
                    task group and under a single executor"
            .into());
    }
    Ok(())
}
