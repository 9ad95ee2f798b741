//! `GET_STATE`, `GET_TASKS`, `GET_EXECUTORS`, `GET_FRAMEWORKS`: the lists of the
//! operator API, from a [`Snapshot`]. Pure.
//!
//! compat: in JSON these lists are there even when they are empty, unlike every
//! other message.

use mesos::agent::response::{
    self, GetExecutors, GetFrameworks, GetState, GetTasks, get_executors, get_frameworks,
};
use mesos::agent::{Call, Response, call};
use mesos::json::{self, Writer};
use mesos::{Task, schema};

use super::About;
use crate::agent::core::state::{Executor, Framework, task_of};
use crate::agent::snapshot::Snapshot;

fn frameworks(snapshot: &Snapshot) -> impl Iterator<Item = &Framework> {
    snapshot.frameworks.values().chain(&snapshot.completed_frameworks).map(|f| &**f)
}

fn executors(snapshot: &Snapshot) -> impl Iterator<Item = &Executor> {
    frameworks(snapshot).flat_map(|f| f.executors.values().chain(&f.completed).map(|e| &**e))
}

/// `GET_TASKS`, in v0 messages.
#[must_use]
pub fn tasks(snapshot: &Snapshot) -> GetTasks {
    let mut all = GetTasks::default();
    for executor in executors(snapshot) {
        let queued = executor
            .queued
            .values()
            .map(|t| task_of(t, &executor.framework_id, executor.user.as_deref()));
        all.queued_tasks.extend(queued);
        all.launched_tasks.extend(executor.launched.values().cloned());
        all.terminated_tasks.extend(executor.terminated.values().cloned());
        all.completed_tasks.extend(executor.completed.iter().map(|t| Task::clone(t)));
    }
    all
}

/// `GET_EXECUTORS`.
#[must_use]
pub fn get_executors(snapshot: &Snapshot) -> GetExecutors {
    let info = |e: &Executor| get_executors::Executor { executor_info: e.info.clone() };
    let live = snapshot.executors().map(|(_, e)| info(e));
    let completed = frameworks(snapshot).flat_map(|f| f.completed.iter().map(|e| info(e)));
    GetExecutors { executors: live.collect(), completed_executors: completed.collect() }
}

/// `GET_FRAMEWORKS`.
#[must_use]
pub fn get_frameworks(snapshot: &Snapshot) -> GetFrameworks {
    let info = |f: &Framework| get_frameworks::Framework { framework_info: f.info.clone() };
    GetFrameworks {
        frameworks: snapshot.frameworks.values().map(|f| info(f)).collect(),
        completed_frameworks: snapshot.completed_frameworks.iter().map(|f| info(f)).collect(),
    }
}

/// `GET_STATE`.
#[must_use]
pub fn get_state(snapshot: &Snapshot) -> GetState {
    GetState {
        get_tasks: Some(tasks(snapshot)),
        get_executors: Some(get_executors(snapshot)),
        get_frameworks: Some(get_frameworks(snapshot)),
    }
}

/// The calls that are answered from what is known at once.
#[must_use]
pub fn answer(about: &About, snapshot: &Snapshot, call: &Call) -> Option<Response> {
    use response::Type as R;
    let mut answer = Response::default();
    let kind = match call.r#type() {
        call::Type::GetHealth => {
            answer.get_health = Some(response::GetHealth { healthy: true });
            R::GetHealth
        }
        call::Type::GetFlags => {
            let flag = |(name, value): &(String, String)| mesos::Flag {
                name: name.clone(),
                value: Some(value.clone()),
            };
            let flags = about.flags.iter().map(flag).collect();
            answer.get_flags = Some(response::GetFlags { flags });
            R::GetFlags
        }
        call::Type::GetVersion => {
            let version_info = about.version.clone();
            answer.get_version = Some(response::GetVersion { version_info });
            R::GetVersion
        }
        call::Type::GetState => {
            answer.get_state = Some(get_state(snapshot));
            R::GetState
        }
        call::Type::GetTasks => {
            answer.get_tasks = Some(tasks(snapshot));
            R::GetTasks
        }
        call::Type::GetExecutors => {
            answer.get_executors = Some(get_executors(snapshot));
            R::GetExecutors
        }
        call::Type::GetFrameworks => {
            answer.get_frameworks = Some(get_frameworks(snapshot));
            R::GetFrameworks
        }
        call::Type::GetOperations => {
            answer.get_operations = Some(response::GetOperations {
                operations: snapshot.operations.iter().map(|o| (**o).clone()).collect(),
            });
            R::GetOperations
        }
        call::Type::GetResourceProviders => {
            answer.get_resource_providers = Some(response::GetResourceProviders::default());
            R::GetResourceProviders
        }
        call::Type::GetAgent => {
            let slave_info = Some((*snapshot.info).clone());
            answer.get_agent = Some(response::GetAgent {
                slave_info,
                drain_config: snapshot.drain.map(|drain| v1_drain(drain.config)),
                estimated_drain_start_time: snapshot.drain.map(|drain| mesos::TimeInfo {
                    nanoseconds: drain.since as i64 * 1_000_000_000,
                }),
            });
            R::GetAgent
        }
        _ => return None,
    };
    answer.set_type(kind);
    Some(answer)
}

/// In v1 the grace period is a `google.protobuf.Duration`, whose first field is whole
/// seconds; its fraction is not shown.
fn v1_drain(mut config: mesos::DrainConfig) -> mesos::DrainConfig {
    if let Some(grace) = &mut config.max_grace_period {
        grace.nanoseconds /= 1_000_000_000;
    }
    config
}

/// One response as v1 JSON, its lists printed even if empty.
#[must_use]
pub fn to_json(response: &Response) -> Vec<u8> {
    let mut w = Writer::new();
    w.object(|w| {
        w.key("type").string(response.r#type().as_str_name());
        if let Some(all) = &response.get_state {
            w.key("get_state").object(|w| {
                if let Some(t) = &all.get_tasks {
                    tasks_member(w, t);
                }
                if let Some(e) = &all.get_executors {
                    executors_member(w, e);
                }
                if let Some(f) = &all.get_frameworks {
                    frameworks_member(w, f);
                }
            });
        }
        if let Some(t) = &response.get_tasks {
            tasks_member(w, t);
        }
        if let Some(e) = &response.get_executors {
            executors_member(w, e);
        }
        if let Some(f) = &response.get_frameworks {
            frameworks_member(w, f);
        }
    });
    w.into_bytes()
}

fn tasks_member(w: &mut Writer, t: &GetTasks) {
    w.key("get_tasks").object(|w| {
        list(w, "pending_tasks", "mesos.v1.Task", &t.pending_tasks);
        list(w, "queued_tasks", "mesos.v1.Task", &t.queued_tasks);
        list(w, "launched_tasks", "mesos.v1.Task", &t.launched_tasks);
        list(w, "terminated_tasks", "mesos.v1.Task", &t.terminated_tasks);
        list(w, "completed_tasks", "mesos.v1.Task", &t.completed_tasks);
    });
}

fn executors_member(w: &mut Writer, e: &GetExecutors) {
    const NAME: &str = "mesos.v1.agent.Response.GetExecutors.Executor";
    w.key("get_executors").object(|w| {
        list(w, "executors", NAME, &e.executors);
        list(w, "completed_executors", NAME, &e.completed_executors);
    });
}

fn frameworks_member(w: &mut Writer, f: &GetFrameworks) {
    const NAME: &str = "mesos.v1.agent.Response.GetFrameworks.Framework";
    w.key("get_frameworks").object(|w| {
        list(w, "frameworks", NAME, &f.frameworks);
        list(w, "completed_frameworks", NAME, &f.completed_frameworks);
    });
}

fn list<M: prost::Message>(w: &mut Writer, key: &str, schema: &str, all: &[M]) {
    let schema = schema::find(schema).expect("a message of the definitions");
    w.key(key).array(|w| {
        for message in all {
            let mut out = Vec::new();
            json::write(schema, &message.encode_to_vec(), &mut out)
                .expect("a v0 message has the wire form of its v1 twin");
            w.raw(&out);
        }
    });
}
