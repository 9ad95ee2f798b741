//! The labels by which our containers are told from all others. Pure.
//!
//! A container is ours if it carries the owner's label with our work directory: of
//! several agents on a machine, and of one that registered anew, each knows what it
//! made. Containers that Mesos' own agent or anybody else made have no such label
//! and are never touched, whatever their names.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use crate::containerizer::LaunchRequest;

/// Before the container's id in the engine's names, as Mesos has it.
pub(super) const PREFIX: &str = "mesos-";
/// The work directory of the agent that made the container.
pub(super) const OWNER: &str = "bulkhead.owner";
/// The framework's id.
pub(super) const FRAMEWORK: &str = "bulkhead.framework";
/// The name of the task, or of the executor where there is none: what stays the same
/// when a scheduler tries again.
pub(super) const NAME: &str = "bulkhead.name";
/// The id of the container whose network this one holds.
pub(super) const NETWORK_OF: &str = "bulkhead.network-of";
const AGENT: &str = "bulkhead.agent";
const EXECUTOR: &str = "bulkhead.executor";
const TASK: &str = "bulkhead.task";

/// The labels of a new container.
pub(super) fn of(request: &LaunchRequest, owner: &str) -> Map<String, Value> {
    let executor = request.executor.as_ref().map(|e| e.executor_id.value.clone());
    let all = [
        (OWNER, Some(owner.to_owned())),
        (AGENT, request.environment.get("MESOS_SLAVE_ID").cloned()),
        (FRAMEWORK, request.framework_id.as_ref().map(|id| id.value.clone())),
        (EXECUTOR, executor),
        (NAME, name(request)),
        (TASK, request.task.as_ref().map(|task| task.task_id.value.clone())),
    ];
    let pair = |(name, value): (&str, Option<String>)| Some((name.to_owned(), value?.into()));
    all.into_iter().filter_map(pair).collect()
}

fn name(request: &LaunchRequest) -> Option<String> {
    let executor = request.executor.as_ref();
    let named = |executor: &mesos::ExecutorInfo| match &executor.name {
        Some(name) if !name.is_empty() => name.clone(),
        _ => executor.executor_id.value.clone(),
    };
    let task = request.task.as_ref().map(|task| task.name.clone());
    task.filter(|name| !name.is_empty()).or_else(|| executor.map(named))
}

/// The id of a container of ours; `None` if it is somebody else's.
pub(super) fn id_of<'a>(
    name: &'a str,
    labels: &BTreeMap<String, String>,
    owner: &str,
) -> Option<&'a str> {
    labels.get(OWNER).filter(|value| *value == owner)?;
    if labels.contains_key(NETWORK_OF) {
        return None;
    }
    name.strip_prefix(PREFIX).filter(|id| !id.is_empty())
}

/// The id of the container whose network a container of ours holds.
pub(super) fn network_of<'a>(labels: &'a BTreeMap<String, String>, owner: &str) -> Option<&'a str> {
    labels.get(OWNER).filter(|value| *value == owner)?;
    labels.get(NETWORK_OF).map(String::as_str)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_name_and_label_make_a_container_ours() {
        let labels = |owner: &str| BTreeMap::from([(OWNER.to_owned(), owner.to_owned())]);
        for (name, labels, wanted) in [
            ("mesos-a", labels("/w"), Some("a")),
            ("mesos-a", labels("/other"), None),
            ("mesos-a", BTreeMap::new(), None),
            ("nginx", labels("/w"), None),
            ("mesos-", labels("/w"), None),
        ] {
            assert_eq!(id_of(name, &labels, "/w"), wanted, "{name} {labels:?}");
            assert_eq!(network_of(&labels, "/w"), None);
        }
        let mut holder = labels("/w");
        holder.insert(NETWORK_OF.into(), "a".into());
        assert_eq!(id_of("mesos-a.network", &holder, "/w"), None);
        assert_eq!(network_of(&holder, "/w"), Some("a"));
        assert_eq!(network_of(&holder, "/other"), None);
    }
}
