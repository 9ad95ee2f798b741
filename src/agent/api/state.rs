//! `/state`: the whole agent as one JSON document, from a [`Snapshot`].
//!
//! Pure. Fields, order and types are those of the real Mesos, as recorded.

use mesos::json::Writer;
use mesos::model;
use mesos::resources::{Format, Resources};
use mesos::{Task, TaskInfo, framework_info};

use super::About;
use crate::agent::core::state::{Executor, Framework};
use crate::agent::snapshot::Snapshot;

/// The body of `/state`.
#[must_use]
pub fn render(snapshot: &Snapshot, about: &About) -> Vec<u8> {
    let mut w = Writer::new();
    w.object(|w| {
        model::version_fields(w, &about.version);
        w.key("start_time").double(about.start_time);
        w.key("id").string(snapshot.info.id.as_ref().map_or("", |id| &id.value));
        w.key("pid").string(&about.pid);
        w.key("hostname").string(&snapshot.info.hostname);
        let capabilities = about.capabilities.iter().map(|c| c.as_str_name());
        model::strings(w.key("capabilities"), capabilities);
        if let Some(domain) = &snapshot.info.domain {
            model::domain(w.key("domain"), domain);
        }
        if let Some(drain) = &snapshot.drain {
            w.key("drain_config").message(&drain.config);
            w.key("estimated_drain_start_time_seconds").int(drain.since as i64);
        }
        resource_fields(w, snapshot);
        model::attributes(w.key("attributes"), &snapshot.info.attributes);
        if let Some(master) = &snapshot.master {
            let name = master.hostname.as_deref().unwrap_or_default();
            w.key("master_hostname").string(name);
        }
        for name in ["log_dir", "external_log_file"] {
            if let Some((_, value)) = about.flags.iter().find(|(n, _)| n == name) {
                w.key(name).string(value);
            }
        }
        flags_field(w, about);
        w.key("frameworks").array(|w| {
            snapshot.frameworks.values().for_each(|f| framework(w, f));
        });
        w.key("completed_frameworks").array(|w| {
            snapshot.completed_frameworks.iter().for_each(|f| framework(w, f));
        });
    });
    w.into_bytes()
}

/// `flags`, as in `/flags`.
pub(super) fn flags_field(w: &mut Writer, about: &About) {
    w.key("flags").object(|w| {
        for (name, value) in &about.flags {
            w.key(name).string(value);
        }
    });
}

fn resource_fields(w: &mut Writer, snapshot: &Snapshot) {
    let total = &*snapshot.resources;
    model::resources(w.key("resources"), total);
    model::resources_by_role(w.key("reserved_resources"), &total.reservations());
    model::resources(w.key("unreserved_resources"), &total.unreserved());
    w.key("reserved_resources_full").object(|w| {
        for (role, resources) in total.reservations() {
            full(w.key(&role), &resources);
        }
    });
    full(w.key("unreserved_resources_full"), &total.unreserved());
    let mut allocated = Resources::default();
    for (_, executor) in snapshot.executors() {
        allocated += &allocated_to(executor);
    }
    model::resources_by_role(w.key("reserved_resources_allocated"), &allocated.reservations());
    model::resources(w.key("unreserved_resources_allocated"), &allocated.unreserved());
    w.key("resource_providers").array(|_| {});
}

fn full(w: &mut Writer, resources: &Resources) {
    let all = resources.to_protos_in(Format::Endpoint).unwrap_or_else(|_| resources.to_protos());
    w.array(|w| all.iter().for_each(|r| w.message(r)));
}

/// What an executor and its live tasks hold.
#[must_use]
pub fn allocated_to(executor: &Executor) -> Resources {
    let mut sum = Resources::from_valid(&executor.info.resources);
    for task in executor.launched.values() {
        sum += &Resources::from_valid(&task.resources);
    }
    for task in executor.queued.values() {
        sum += &Resources::from_valid(&task.resources);
    }
    sum
}

fn framework(w: &mut Writer, f: &Framework) {
    let info = &f.info;
    w.object(|w| {
        w.key("id").string(f.id());
        w.key("name").string(&info.name);
        w.key("user").string(&info.user);
        w.key("failover_timeout").double(info.failover_timeout());
        w.key("checkpoint").bool(info.checkpoint());
        w.key("hostname").string(info.hostname());
        if let Some(principal) = &info.principal {
            w.key("principal").string(principal);
        }
        if f.has(framework_info::capability::Type::MultiRole) {
            model::strings(w.key("roles"), info.roles.iter().map(String::as_str));
        } else {
            #[allow(deprecated)] // single-role frameworks have nothing else
            w.key("role").string(info.role());
        }
        w.key("executors").array(|w| f.executors.values().for_each(|e| executor(w, e)));
        w.key("completed_executors").array(|w| f.completed.iter().for_each(|e| executor(w, e)));
    });
}

fn executor(w: &mut Writer, e: &Executor) {
    let info = &e.info;
    w.object(|w| {
        w.key("id").string(e.id());
        w.key("name").string(info.name());
        w.key("source").string(info.source());
        w.key("container").string(&e.container_id.value);
        w.key("directory").string(&e.directory);
        model::resources(w.key("resources"), &allocated_to(e));
        if !info.resources.is_empty() {
            w.key("role").string(model::allocation_role(&info.resources));
        }
        if let Some(labels) = &info.labels {
            model::labels(w.key("labels"), labels);
        }
        if info.r#type.is_some() {
            w.key("type").string(model::executor_type(info));
        }
        w.key("tasks").array(|w| e.launched.values().for_each(|t| task(w, t)));
        w.key("queued_tasks").array(|w| e.queued.values().for_each(|t| queued_task(w, t)));
        w.key("completed_tasks").array(|w| {
            e.completed.iter().for_each(|t| task(w, t));
            e.terminated.values().for_each(|t| task(w, t));
        });
    });
}

fn task(w: &mut Writer, t: &Task) {
    model::task(w, t);
}

fn queued_task(w: &mut Writer, t: &TaskInfo) {
    w.object(|w| {
        w.key("id").string(&t.task_id.value);
        w.key("name").string(&t.name);
        w.key("slave_id").string(&t.slave_id.value);
        model::resource_messages(w.key("resources"), &t.resources);
        w.key("role").string(model::allocation_role(&t.resources));
        if let Some(command) = &t.command {
            model::command(w.key("command"), command);
        }
        if let Some(executor) = &t.executor {
            w.key("executor_id").string(&executor.executor_id.value);
        }
        if let Some(discovery) = &t.discovery {
            w.key("discovery").message(discovery);
        }
    });
}
