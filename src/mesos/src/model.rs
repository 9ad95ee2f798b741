//! The objects that the v0 HTTP endpoints of both daemons share: resources,
//! tasks, executors, offers and what they are made of.
//!
//! Each function writes one JSON value with the fields, order and types that
//! Mesos' endpoints show (which are not those of the protobuf messages). Called
//! by the endpoint renderers; owns nothing.
//!
//! ```
//! use mesos::{json::Writer, model, resources::Resources};
//! let mut w = Writer::new();
//! model::resources(&mut w, &Resources::parse("cpus:4;ports:[1-2]", "*").unwrap());
//! assert_eq!(
//!     w.into_bytes(),
//!     br#"{"disk":0.0,"mem":0.0,"gpus":0.0,"cpus":4.0,"ports":"[1-2]"}"#
//! );
//! ```

use std::borrow::Cow;
use std::collections::BTreeMap;

use crate::json::Writer;
use crate::resources::{Item, Quantities, Ranges, Resources, Scalar, Set, Value};
use crate::{
    Attribute, CommandInfo, ContainerStatus, DomainInfo, ExecutorInfo, Labels, MasterInfo,
    NetworkInfo, Offer, Resource, SlaveInfo, Task, TaskState, TaskStatus, VersionInfo,
    executor_info, framework_info, master_info, slave_info, value,
};

/// Amounts by name, revocable ones under `<name>_revocable`; cpus, gpus, mem and
/// disk always. Numbers first, then ranges and sets as text. Sums are exact to
/// thousandths.
pub fn resources(w: &mut Writer, resources: &Resources) {
    let mut scalars: Vec<(Cow<'_, str>, Scalar)> =
        ["disk", "mem", "gpus", "cpus"].map(|n| (n.into(), Scalar::ZERO)).to_vec();
    let mut ranges: Vec<(Cow<'_, str>, Ranges)> = Vec::new();
    let mut sets: Vec<(Cow<'_, str>, Set)> = Vec::new();
    for item in resources {
        match item.value() {
            Value::Scalar(v) => *entry(&mut scalars, item) += *v,
            Value::Ranges(v) => {
                let sum = entry(&mut ranges, item);
                *sum = sum.union(v);
            }
            Value::Set(v) => {
                let sum = entry(&mut sets, item);
                *sum = sum.union(v);
            }
        }
    }
    w.object(|w| {
        for (name, v) in &scalars {
            w.key(name).double(v.value());
        }
        for (name, v) in &ranges {
            w.key(name).string(&v.to_string());
        }
        for (name, v) in &sets {
            w.key(name).string(&v.to_string());
        }
    });
}

fn entry<'m, 'a, T: Default>(all: &'m mut Vec<(Cow<'a, str>, T)>, item: &'a Item) -> &'m mut T {
    let name: Cow<'a, str> = if item.is_revocable() {
        format!("{}_revocable", item.name()).into()
    } else {
        item.name().into()
    };
    let at = all.iter().position(|(n, _)| *n == name).unwrap_or_else(|| {
        all.push((name, T::default()));
        all.len() - 1
    });
    &mut all[at].1
}

/// As [`resources`], from messages.
pub fn resource_messages(w: &mut Writer, messages: &[Resource]) {
    resources(w, &Resources::from_valid(messages));
}

/// `{role: resources}`.
pub fn resources_by_role(w: &mut Writer, roles: &BTreeMap<String, Resources>) {
    w.object(|w| {
        for (role, amounts) in roles {
            resources(w.key(role), amounts);
        }
    });
}

/// `{name: number}`.
pub fn quantities(w: &mut Writer, quantities: &Quantities) {
    w.object(|w| {
        for (name, amount) in quantities.iter() {
            w.key(name).double(amount.value());
        }
    });
}

/// `{name: number}` of a task's limits, infinity as a string.
fn limits(w: &mut Writer, limits: &BTreeMap<String, value::Scalar>) {
    w.object(|w| {
        for (name, limit) in limits {
            w.key(name).double(limit.value);
        }
    });
}

/// `{name: value}`: numbers, and everything else as text.
pub fn attributes(w: &mut Writer, attributes: &[Attribute]) {
    w.object(|w| {
        for a in attributes {
            let w = w.key(&a.name);
            match a.r#type() {
                value::Type::Scalar => w.double(a.scalar.map_or(0.0, |s| s.value)),
                value::Type::Ranges => {
                    let ranges = a.ranges.as_ref().map(Ranges::from).unwrap_or_default();
                    w.string(&ranges.to_string());
                }
                value::Type::Set => {
                    let set = a.set.as_ref().map(Set::from).unwrap_or_default();
                    w.string(&set.to_string());
                }
                value::Type::Text => w.string(a.text.as_ref().map_or("", |t| &t.value)),
            }
        }
    });
}

/// `[{key, value?}]`.
pub fn labels(w: &mut Writer, labels: &Labels) {
    w.array(|w| labels.labels.iter().for_each(|label| w.message(label)));
}

/// An array of strings.
pub fn strings<'a>(w: &mut Writer, strings: impl IntoIterator<Item = &'a str>) {
    w.array(|w| strings.into_iter().for_each(|s| w.string(s)));
}

/// Capabilities of a framework by name; unknown ones are `UNKNOWN`.
pub fn framework_capabilities(w: &mut Writer, all: &[framework_info::Capability]) {
    strings(w, all.iter().map(|c| c.r#type().as_str_name()));
}

/// Capabilities of an agent by name.
pub fn agent_capabilities(w: &mut Writer, all: &[slave_info::Capability]) {
    strings(w, all.iter().map(|c| c.r#type().as_str_name()));
}

/// Capabilities of a master by name.
pub fn master_capabilities(w: &mut Writer, all: &[master_info::Capability]) {
    strings(w, all.iter().map(|c| c.r#type().as_str_name()));
}

/// `{fault_domain?: {region: {name}, zone: {name}}}`.
pub fn domain(w: &mut Writer, domain: &DomainInfo) {
    w.object(|w| {
        if let Some(fault) = &domain.fault_domain {
            w.key("fault_domain").object(|w| {
                w.key("region").object(|w| w.key("name").string(&fault.region.name));
                w.key("zone").object(|w| w.key("name").string(&fault.zone.name));
            });
        }
    });
}

/// `version`, `git_*` and `build_*` in the order of `/state`.
pub fn version_fields(w: &mut Writer, version: &VersionInfo) {
    w.key("version").string(&version.version);
    for (name, value) in [
        ("git_sha", &version.git_sha),
        ("git_branch", &version.git_branch),
        ("git_tag", &version.git_tag),
        ("build_date", &version.build_date),
    ] {
        if let Some(value) = value {
            w.key(name).string(value);
        }
    }
    if let Some(time) = version.build_time {
        w.key("build_time").double(time);
    }
    if let Some(user) = &version.build_user {
        w.key("build_user").string(user);
    }
}

/// `{id, pid, port, hostname, domain?}`.
pub fn master_info(w: &mut Writer, info: &MasterInfo) {
    w.object(|w| {
        w.key("id").string(&info.id);
        w.key("pid").string(info.pid());
        w.key("port").uint(info.port.into());
        w.key("hostname").string(info.hostname());
        if let Some(d) = &info.domain {
            domain(w.key("domain"), d);
        }
    });
}

/// The fields `id, hostname, port, attributes, domain?` with which every object
/// about an agent begins; to be called inside the object.
pub fn agent_fields(w: &mut Writer, info: &SlaveInfo) {
    w.key("id").string(info.id.as_ref().map_or("", |id| &id.value));
    w.key("hostname").string(&info.hostname);
    w.key("port").int(info.port().into());
    attributes(w.key("attributes"), &info.attributes);
    if let Some(d) = &info.domain {
        domain(w.key("domain"), d);
    }
}

/// The role for which the first resource was allocated.
#[must_use]
pub fn allocation_role(resources: &[Resource]) -> &str {
    resources.first().and_then(|r| r.allocation_info.as_ref()).map_or("", |a| a.role())
}

/// A task, from any list of tasks.
pub fn task(w: &mut Writer, t: &Task) {
    w.object(|w| {
        w.key("id").string(&t.task_id.value);
        w.key("name").string(&t.name);
        w.key("framework_id").string(&t.framework_id.value);
        w.key("executor_id").string(t.executor_id.as_ref().map_or("", |id| &id.value));
        w.key("slave_id").string(&t.slave_id.value);
        w.key("state").string(t.state().as_str_name());
        resource_messages(w.key("resources"), &t.resources);
        if !t.limits.is_empty() {
            limits(w.key("limits"), &t.limits);
        }
        w.key("role").string(allocation_role(&t.resources));
        w.key("statuses").array(|w| t.statuses.iter().for_each(|s| status(w, s)));
        if let Some(user) = &t.user {
            w.key("user").string(user);
        }
        if let Some(l) = &t.labels {
            labels(w.key("labels"), l);
        }
        if let Some(discovery) = &t.discovery {
            w.key("discovery").message(discovery);
        }
        if let Some(container) = &t.container {
            w.key("container").message(container);
        }
        if let Some(check) = &t.health_check {
            w.key("health_check").message(check);
        }
    });
}

/// One status of a task.
pub fn status(w: &mut Writer, s: &TaskStatus) {
    w.object(|w| {
        w.key("state").string(s.state().as_str_name());
        w.key("timestamp").double(s.timestamp());
        if let Some(l) = &s.labels {
            labels(w.key("labels"), l);
        }
        if let Some(c) = &s.container_status {
            container_status(w.key("container_status"), c);
        }
        if let Some(healthy) = s.healthy {
            w.key("healthy").bool(healthy);
        }
    });
}

/// `{container_id?, network_infos?, cgroup_info?}`.
pub fn container_status(w: &mut Writer, c: &ContainerStatus) {
    w.object(|w| {
        if let Some(id) = &c.container_id {
            w.key("container_id").message(id);
        }
        if !c.network_infos.is_empty() {
            let infos = &c.network_infos;
            w.key("network_infos").array(|w| infos.iter().for_each(|i| network_info(w, i)));
        }
        if let Some(cgroup) = &c.cgroup_info {
            w.key("cgroup_info").message(cgroup);
        }
    });
}

fn network_info(w: &mut Writer, info: &NetworkInfo) {
    w.object(|w| {
        if !info.groups.is_empty() {
            strings(w.key("groups"), info.groups.iter().map(String::as_str));
        }
        if let Some(l) = &info.labels {
            labels(w.key("labels"), l);
        }
        if !info.ip_addresses.is_empty() {
            w.key("ip_addresses").array(|w| info.ip_addresses.iter().for_each(|a| w.message(a)));
        }
        if let Some(name) = &info.name {
            w.key("name").string(name);
        }
        if !info.port_mappings.is_empty() {
            w.key("port_mappings").array(|w| info.port_mappings.iter().for_each(|p| w.message(p)));
        }
    });
}

/// `{shell?, value?, argv, environment?, uris}`.
pub fn command(w: &mut Writer, c: &CommandInfo) {
    w.object(|w| {
        if let Some(shell) = c.shell {
            w.key("shell").bool(shell);
        }
        if let Some(value) = &c.value {
            w.key("value").string(value);
        }
        strings(w.key("argv"), c.arguments.iter().map(String::as_str));
        if let Some(environment) = &c.environment {
            w.key("environment").message(environment);
        }
        w.key("uris").array(|w| {
            for uri in &c.uris {
                w.object(|w| {
                    w.key("value").string(&uri.value);
                    w.key("executable").bool(uri.executable());
                });
            }
        });
    });
}

/// The fields of an executor; to be called inside the object, which the master
/// closes with `slave_id`.
pub fn executor_fields(w: &mut Writer, e: &ExecutorInfo) {
    w.key("executor_id").string(&e.executor_id.value);
    w.key("name").string(e.name());
    w.key("framework_id").string(e.framework_id.as_ref().map_or("", |id| &id.value));
    command(w.key("command"), &e.command.clone().unwrap_or_default());
    resource_messages(w.key("resources"), &e.resources);
    if !e.resources.is_empty() {
        w.key("role").string(allocation_role(&e.resources));
    }
    if let Some(l) = &e.labels {
        labels(w.key("labels"), l);
    }
    if e.r#type.is_some() {
        w.key("type").string(executor_type(e));
    }
}

/// `DEFAULT`, `CUSTOM` or `UNKNOWN`.
#[must_use]
pub fn executor_type(e: &ExecutorInfo) -> &'static str {
    executor_info::Type::try_from(e.r#type.unwrap_or_default())
        .unwrap_or(executor_info::Type::Unknown)
        .as_str_name()
}

/// `{id, framework_id, allocation_info, slave_id, resources}`.
pub fn offer(w: &mut Writer, o: &Offer) {
    w.object(|w| {
        w.key("id").string(&o.id.value);
        w.key("framework_id").string(&o.framework_id.value);
        w.key("allocation_info").message(&o.allocation_info.clone().unwrap_or_default());
        w.key("slave_id").string(&o.slave_id.value);
        resource_messages(w.key("resources"), &o.resources);
    });
}

/// Whether an operation in this state will never leave it.
#[must_use]
pub fn is_terminal_operation(state: crate::OperationState) -> bool {
    use crate::OperationState as S;
    matches!(
        state,
        S::OperationFinished
            | S::OperationFailed
            | S::OperationError
            | S::OperationDropped
            | S::OperationGoneByOperator
    )
}

/// Whether a task in this state will never leave it.
#[must_use]
pub fn is_terminal(state: TaskState) -> bool {
    match state {
        TaskState::TaskFinished
        | TaskState::TaskFailed
        | TaskState::TaskKilled
        | TaskState::TaskLost
        | TaskState::TaskError
        | TaskState::TaskDropped
        | TaskState::TaskGone
        | TaskState::TaskGoneByOperator => true,
        TaskState::TaskStaging
        | TaskState::TaskStarting
        | TaskState::TaskRunning
        | TaskState::TaskKilling
        | TaskState::TaskUnreachable
        | TaskState::TaskUnknown => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::json::from_json;

    fn written(body: impl FnOnce(&mut Writer)) -> String {
        let mut w = Writer::new();
        body(&mut w);
        String::from_utf8(w.into_bytes()).unwrap()
    }

    #[test]
    fn resources_object() {
        let mut all = Resources::parse("cpus:4;x:2;ports:[1-2,5-6];bugs:{a,b}", "*").unwrap();
        all += &Resources::parse("cpus(web):0.5;ports(web):[3-4]", "*").unwrap();
        let revocable: Resource =
            from_json(br#"{"name":"cpus","type":"SCALAR","scalar":{"value":2},"revocable":{}}"#)
                .unwrap();
        all += &Resources::from_valid(&[revocable]);
        assert_eq!(
            written(|w| resources(w, &all)),
            r#"{"disk":0.0,"mem":0.0,"gpus":0.0,"cpus":4.5,"x":2.0,"cpus_revocable":2.0,"ports":"[1-6]","bugs":"{a, b}"}"#
        );
    }

    #[test]
    fn attributes_object() {
        let all = crate::attributes::parse("rack:r1;gen:3;slots:[1-2];s:{a,b}").unwrap();
        assert_eq!(
            written(|w| attributes(w, &all)),
            r#"{"rack":"r1","gen":3.0,"slots":"[1-2]","s":"{a, b}"}"#
        );
    }

    #[test]
    fn task_object() {
        let t: Task = from_json(
            br#"{"name":"n","task_id":{"value":"t"},"framework_id":{"value":"f"},
                "slave_id":{"value":"s"},"state":"TASK_RUNNING",
                "resources":[{"name":"cpus","type":"SCALAR","scalar":{"value":0.1},
                    "allocation_info":{"role":"web"}}],
                "limits":{"mem":{"value":"Infinity"}},
                "statuses":[{"task_id":{"value":"t"},"state":"TASK_RUNNING","timestamp":1.5,
                    "healthy":true,"container_status":{"network_infos":[{"groups":["g"]}]}}],
                "labels":{"labels":[{"key":"a"}]}}"#,
        )
        .unwrap();
        assert_eq!(
            written(|w| task(w, &t)),
            r#"{"id":"t","name":"n","framework_id":"f","executor_id":"","slave_id":"s","state":"TASK_RUNNING","resources":{"disk":0.0,"mem":0.0,"gpus":0.0,"cpus":0.1},"limits":{"mem":"Infinity"},"role":"web","statuses":[{"state":"TASK_RUNNING","timestamp":1.5,"container_status":{"network_infos":[{"groups":["g"]}]},"healthy":true}],"labels":[{"key":"a"}]}"#
        );
    }
}
