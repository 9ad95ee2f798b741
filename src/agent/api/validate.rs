//! What a call must have to be looked at, in Mesos' words. Pure.

#![allow(deprecated)] // the older names of container calls are what executors use

use mesos::agent::{self, call};
use mesos::{ContainerId, TaskState, executor, task_status};

/// Longest container id (Mesos' constant): ids become parts of paths.
const MAX_CONTAINER_ID: usize = 242;
/// Longest file name of Linux.
const NAME_MAX: usize = 255;

/// Checks an operator call; the message completes `Failed to validate agent::Call: `.
///
/// # Errors
/// What is missing or wrong.
pub fn agent_call(call: &agent::Call) -> Result<(), String> {
    use call::Type as T;
    let kind = call.r#type.and_then(|t| T::try_from(t).ok());
    let kind = kind.ok_or("Expecting 'type' to be present")?;
    match kind {
        T::GetMetrics => present("get_metrics", call.get_metrics.is_some()),
        T::SetLoggingLevel => present("set_logging_level", call.set_logging_level.is_some()),
        T::ListFiles => present("list_files", call.list_files.is_some()),
        T::ReadFile => present("read_file", call.read_file.is_some()),
        T::AttachContainerInput => attach_input(call),
        T::AddResourceProviderConfig => {
            present("add_resource_provider_config", call.add_resource_provider_config.is_some())
        }
        T::UpdateResourceProviderConfig => {
            let given = call.update_resource_provider_config.is_some();
            present("update_resource_provider_config", given)
        }
        T::RemoveResourceProviderConfig => {
            let given = call.remove_resource_provider_config.is_some();
            present("remove_resource_provider_config", given)
        }
        T::MarkResourceProviderGone => {
            present("mark_resource_provider_gone", call.mark_resource_provider_gone.is_some())
        }
        T::LaunchContainer => launch_container(call),
        _ => container_call(kind, call),
    }
}

fn container_call(kind: call::Type, call: &agent::Call) -> Result<(), String> {
    use call::Type as T;
    let (name, id, nested) = match kind {
        T::LaunchNestedContainer => {
            let c = call.launch_nested_container.as_ref();
            ("launch_nested_container", c.map(|c| &c.container_id), true)
        }
        T::WaitNestedContainer => {
            let c = call.wait_nested_container.as_ref();
            ("wait_nested_container", c.map(|c| &c.container_id), true)
        }
        T::KillNestedContainer => {
            let c = call.kill_nested_container.as_ref();
            ("kill_nested_container", c.map(|c| &c.container_id), true)
        }
        T::RemoveNestedContainer => {
            let c = call.remove_nested_container.as_ref();
            ("remove_nested_container", c.map(|c| &c.container_id), true)
        }
        T::LaunchNestedContainerSession => {
            let c = call.launch_nested_container_session.as_ref();
            ("launch_nested_container_session", c.map(|c| &c.container_id), true)
        }
        T::AttachContainerOutput => {
            let c = call.attach_container_output.as_ref();
            ("attach_container_output", c.map(|c| &c.container_id), false)
        }
        T::WaitContainer => {
            ("wait_container", call.wait_container.as_ref().map(|c| &c.container_id), false)
        }
        T::KillContainer => {
            ("kill_container", call.kill_container.as_ref().map(|c| &c.container_id), false)
        }
        T::RemoveContainer => {
            ("remove_container", call.remove_container.as_ref().map(|c| &c.container_id), false)
        }
        _ => return Ok(()),
    };
    let id = id.ok_or_else(|| format!("Expecting '{name}' to be present"))?;
    valid_id(name, id)?;
    if nested && id.parent.is_none() {
        return Err(format!("Expecting '{name}.container_id.parent' to be present"));
    }
    Ok(())
}

fn attach_input(call: &agent::Call) -> Result<(), String> {
    use call::attach_container_input::Type;
    const NAME: &str = "attach_container_input";
    let attach = call.attach_container_input.as_ref();
    let attach = attach.ok_or_else(|| format!("Expecting '{NAME}' to be present"))?;
    attach.r#type.ok_or_else(|| format!("Expecting '{NAME}.type' to be present"))?;
    match attach.r#type() {
        Type::Unknown => Err(format!("'{NAME}.type' is unknown")),
        Type::ContainerId => valid_id(NAME, &attach.container_id.clone().unwrap_or_default()),
        Type::ProcessIo => Ok(()),
    }
}

fn launch_container(call: &agent::Call) -> Result<(), String> {
    let launch = call.launch_container.as_ref();
    let launch = launch.ok_or("Expecting 'launch_container' to be present")?;
    valid_id("launch_container", &launch.container_id)?;
    mesos::resources::validate_all(&launch.resources)
        .map_err(|e| format!("Invalid resources: {e}"))?;
    let share = launch.container.as_ref().and_then(|c| c.linux_info.as_ref());
    let share = share.and_then(|l| l.share_cgroups);
    let twice_nested = launch.container_id.parent.as_ref().is_some_and(|p| p.parent.is_some());
    if twice_nested && !(launch.resources.is_empty() && launch.limits.is_empty()) {
        return Err("'launch_container' is invalid: containers nested at the second level or \
                    greater cannot specify resources"
            .into());
    }
    if twice_nested && share == Some(false) {
        return Err("'launch_container' is invalid: containers nested at the second level or \
                    greater cannot set 'share_cgroups' to 'false'"
            .into());
    }
    if launch.container_id.parent.is_none() && share == Some(true) {
        return Err("'launch_container' is invalid: containers without a parent cannot set \
                    'share_cgroups' to 'true'"
            .into());
    }
    Ok(())
}

fn present(name: &str, is: bool) -> Result<(), String> {
    if is { Ok(()) } else { Err(format!("Expecting '{name}' to be present")) }
}

fn valid_id(call: &str, id: &ContainerId) -> Result<(), String> {
    container_id(id).map_err(|e| format!("'{call}.container_id' is invalid: {e}"))
}

/// Checks a container id and its parents.
///
/// # Errors
/// What is wrong with it.
pub fn container_id(id: &ContainerId) -> Result<(), String> {
    let value = &id.value;
    any_id(value)?;
    if value.len() > MAX_CONTAINER_ID {
        return Err(format!(
            "'ContainerID.value' '{value}' exceeds the maximum length ({MAX_CONTAINER_ID})"
        ));
    }
    // A period separates the ids of parent and child in names and logs.
    if value.contains(['.', ' ']) {
        return Err(format!("'ContainerID.value' '{value}' contains invalid characters"));
    }
    match &id.parent {
        Some(parent) => {
            container_id(parent).map_err(|e| format!("'ContainerID.parent' is invalid: {e}"))
        }
        None => Ok(()),
    }
}

/// The rules of every id that may become a file name.
fn any_id(id: &str) -> Result<(), String> {
    if id.is_empty() {
        return Err("ID must not be empty".into());
    }
    if id.len() > NAME_MAX {
        return Err(format!("ID must not be greater than {NAME_MAX} characters"));
    }
    if id == "." || id == ".." {
        return Err(format!("'{id}' is disallowed"));
    }
    if id.contains(|c: char| c.is_ascii_control() || c == '/' || c == '\\') {
        return Err(format!("'{id}' contains invalid characters"));
    }
    Ok(())
}

/// Checks an executor call; the message completes `Failed to validate Executor::Call: `.
///
/// # Errors
/// What is missing or wrong.
pub fn executor_call(call: &executor::Call) -> Result<(), String> {
    use executor::call::Type as T;
    let kind = call.r#type.and_then(|t| T::try_from(t).ok());
    match kind.ok_or("Expecting 'type' to be present")? {
        T::Subscribe => present("subscribe", call.subscribe.is_some()),
        T::Message => present("message", call.message.is_some()),
        T::Update => {
            let update = call.update.as_ref().ok_or("Expecting 'update' to be present")?;
            status(call, &update.status)
        }
        T::Heartbeat | T::Unknown => Ok(()),
    }
}

fn status(call: &executor::Call, status: &mesos::TaskStatus) -> Result<(), String> {
    let uuid = status.uuid.as_ref().ok_or("Expecting 'uuid' to be present")?;
    if uuid.len() != 16 {
        return Err("Not a valid UUID".into());
    }
    let executor = &call.executor_id.value;
    if let Some(other) = status.executor_id.as_ref().filter(|id| id.value != *executor) {
        return Err(format!(
            "ExecutorID in Call: {executor} does not match ExecutorID in TaskStatus: {}",
            other.value
        ));
    }
    let framework = &call.framework_id.value;
    let who = format!("executor {executor} of framework {framework}");
    if status.source() != task_status::Source::Executor || status.source.is_none() {
        return Err(format!(
            "Received Call from {who} with invalid source, expecting 'SOURCE_EXECUTOR'"
        ));
    }
    if status.state() == TaskState::TaskStaging {
        return Err(format!("Received TASK_STAGING from {who} which is not allowed"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(value: &str, parent: Option<&str>) -> ContainerId {
        let parent = parent.map(|p| Box::new(ContainerId { value: p.into(), parent: None }));
        ContainerId { value: value.into(), parent }
    }

    #[test]
    fn container_ids_must_be_file_names_without_periods() {
        assert_eq!(container_id(&id("a-1_b", Some("p"))), Ok(()));
        for (bad, words) in [
            (id("", None), "ID must not be empty"),
            (id("..", None), "'..' is disallowed"),
            (id("../x", Some("p")), "'../x' contains invalid characters"),
            (id("a\nb", None), "'a\nb' contains invalid characters"),
            (id("a.b", None), "'ContainerID.value' 'a.b' contains invalid characters"),
            (
                id("a", Some("p q")),
                "'ContainerID.parent' is invalid: 'ContainerID.value' 'p q' contains invalid characters",
            ),
        ] {
            assert_eq!(container_id(&bad), Err(words.to_owned()));
        }
        assert!(container_id(&id(&"x".repeat(243), None)).is_err());
    }

    #[test]
    fn calls_name_what_is_missing() {
        let mut call = agent::Call::default();
        assert_eq!(agent_call(&call), Err("Expecting 'type' to be present".into()));
        call.set_type(call::Type::WaitNestedContainer);
        assert_eq!(
            agent_call(&call),
            Err("Expecting 'wait_nested_container' to be present".into())
        );
        call.wait_nested_container =
            Some(call::WaitNestedContainer { container_id: id("c", None) });
        assert_eq!(
            agent_call(&call),
            Err("Expecting 'wait_nested_container.container_id.parent' to be present".into())
        );
    }

    #[test]
    fn updates_need_an_id_and_the_right_source() {
        let mut call = executor::Call::default();
        call.executor_id.value = "e".into();
        call.set_type(executor::call::Type::Update);
        assert_eq!(executor_call(&call), Err("Expecting 'update' to be present".into()));
        let mut status =
            mesos::TaskStatus { state: TaskState::TaskRunning as i32, ..Default::default() };
        let mut with = |status: &mesos::TaskStatus| {
            call.update = Some(executor::call::Update { status: status.clone() });
            executor_call(&call)
        };
        assert_eq!(with(&status), Err("Expecting 'uuid' to be present".into()));
        status.uuid = Some(vec![1; 15]);
        assert_eq!(with(&status), Err("Not a valid UUID".into()));
        status.uuid = Some(vec![1; 16]);
        assert!(with(&status).expect_err("no source").contains("invalid source"));
        status.source = Some(task_status::Source::Executor as i32);
        assert_eq!(with(&status), Ok(()));
        status.state = TaskState::TaskStaging as i32;
        assert!(with(&status).expect_err("staging").contains("TASK_STAGING"));
    }
}
