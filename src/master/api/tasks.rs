//! `/tasks`: tasks in all states, by the time of their first status.

use std::sync::Arc;

use mesos::json::Writer;
use mesos::{Task, model};

use crate::master::core::cluster::Framework;
use crate::master::snapshot::Snapshot;

/// How many tasks are shown if the request does not say.
const LIMIT: usize = 100;

/// What a request asks for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TasksQuery<'a> {
    /// At most so many.
    pub limit: usize,
    /// Without the first so many.
    pub offset: usize,
    /// Oldest first.
    pub ascending: bool,
    /// Of this framework only.
    pub framework_id: Option<&'a str>,
    /// Called this only.
    pub task_id: Option<&'a str>,
}

impl<'a> TasksQuery<'a> {
    /// Reads `limit`, `offset`, `order`, `framework_id` and `task_id`. Values
    /// that cannot be read count as not given.
    #[must_use]
    pub fn new(parameter: impl Fn(&str) -> Option<&'a str>) -> Self {
        // A negative number is a huge one to the master of Mesos.
        let number = |name, otherwise| {
            let value = parameter(name).and_then(|text| text.parse::<i32>().ok());
            value.map_or(otherwise, |n| usize::try_from(n).unwrap_or(usize::MAX))
        };
        TasksQuery {
            limit: number("limit", LIMIT),
            offset: number("offset", 0),
            ascending: parameter("order") == Some("asc"),
            framework_id: parameter("framework_id"),
            task_id: parameter("task_id"),
        }
    }
}

/// The body of `/tasks`.
#[must_use]
pub fn tasks(snapshot: &Snapshot, query: &TasksQuery<'_>) -> Vec<u8> {
    let cluster = &snapshot.cluster;
    let mut found: Vec<&Arc<Task>> = Vec::new();
    for framework in cluster.frameworks.values().chain(cluster.completed_frameworks.iter()) {
        if query.framework_id.is_none_or(|only| only == framework.id.as_str()) {
            found.extend(all_tasks(framework));
        }
    }
    found.retain(|task| query.task_id.is_none_or(|only| only == task.task_id.value));
    // Tasks without a status come first when ascending, last when descending.
    let time = |task: &Task| task.statuses.first().map_or(f64::NEG_INFINITY, |s| s.timestamp());
    found.sort_by(|a, b| {
        let order = time(a).total_cmp(&time(b));
        if query.ascending { order } else { order.reverse() }
    });
    let mut w = Writer::new();
    w.object(|w| {
        w.key("tasks").array(|w| {
            found.iter().skip(query.offset).take(query.limit).for_each(|t| model::task(w, t));
        });
    });
    w.into_bytes()
}

/// Live, unreachable and completed tasks.
pub(super) fn all_tasks(framework: &Framework) -> impl Iterator<Item = &Arc<Task>> {
    framework
        .tasks
        .values()
        .chain(framework.unreachable_tasks.iter())
        .chain(framework.completed_tasks.iter())
}
