//! The lists of the operator API (`GET_STATE`, `GET_AGENTS`, ...) as the real
//! master prints them, and the list of roles.
//!
//! Pure; the messages come from [`super::views`], but for the roles, which take
//! the amounts of `/roles`.

use std::collections::BTreeMap;

use mesos::json::Writer;
use mesos::master::Response;
use mesos::master::event::Subscribed;
use mesos::master::response::{
    GetAgents, GetExecutors, GetFrameworks, GetRoles, GetState, GetTasks,
};
use mesos::resources::{Item, Quantities};

use super::roles::{self, RoleQuota};
use crate::master::snapshot::Snapshot;

/// `GET_ROLES`: of every known role its weight, frameworks, and the scalars
/// that it and the roles below hold or are offered.
#[must_use]
pub fn roles(snapshot: &Snapshot, quotas: &BTreeMap<String, RoleQuota>) -> GetRoles {
    let mut held: BTreeMap<String, Quantities> = BTreeMap::new();
    for framework in snapshot.cluster.frameworks.values() {
        let items = framework.total_used.iter().chain(framework.total_offered.iter());
        for item in items {
            let Some(role) = item.allocation_role() else { continue };
            for role in mesos::roles::ancestors(role).chain([role]) {
                held.entry(role.to_owned()).or_default().add_item(item);
            }
        }
    }
    let role = |(name, amounts): (String, roles::Amounts)| {
        let own = held.remove(&name).unwrap_or_default();
        mesos::Role {
            weight: snapshot.cluster.weights.get(&name).copied().unwrap_or(1.0),
            frameworks: amounts
                .frameworks
                .into_iter()
                .map(|value| mesos::FrameworkId { value })
                .collect(),
            resources: own.iter().map(|(n, s)| Item::scalar(n, s).to_proto()).collect(),
            name,
        }
    };
    GetRoles { roles: roles::amounts(snapshot, quotas).into_iter().map(role).collect() }
}

/// A response as the real master prints it: as v1 JSON, in which these lists
/// are shown even when they are empty.
///
/// # Panics
/// Never for responses made of this crate's structs.
#[must_use]
pub fn json(response: &Response) -> Vec<u8> {
    let mut w = Writer::new();
    w.object(|w| {
        let kind = response.r#type().as_str_name();
        w.key("type").string(kind);
        if let Some(lists) = &response.get_state {
            w.key("get_state").object(|w| write_state(w, lists));
        }
        if let Some(lists) = &response.get_agents {
            w.key("get_agents").object(|w| write_agents(w, lists));
        }
        if let Some(lists) = &response.get_frameworks {
            w.key("get_frameworks").object(|w| write_frameworks(w, lists));
        }
        if let Some(lists) = &response.get_tasks {
            w.key("get_tasks").object(|w| write_tasks(w, lists));
        }
        if let Some(lists) = &response.get_executors {
            w.key("get_executors").object(|w| write_executors(w, lists));
        }
    });
    let has_list = response.get_state.is_some()
        || response.get_agents.is_some()
        || response.get_frameworks.is_some()
        || response.get_tasks.is_some()
        || response.get_executors.is_some();
    if has_list { w.into_bytes() } else { v1("mesos.v1.master.Response", response) }
}

/// The first event of an operator's stream, with the same lists.
#[must_use]
pub fn subscribed(event: &Subscribed) -> Vec<u8> {
    let mut w = Writer::new();
    w.object(|w| {
        w.key("type").string("SUBSCRIBED");
        w.key("subscribed").object(|w| {
            let lists = event.get_state.iter();
            w.key("get_state").object(|w| lists.for_each(|l| write_state(w, l)));
            w.key("heartbeat_interval_seconds").double(event.heartbeat_interval_seconds());
        });
    });
    w.into_bytes()
}

fn write_state(w: &mut Writer, lists: &GetState) {
    let tasks = lists.get_tasks.as_ref();
    w.key("get_tasks").object(|w| tasks.iter().for_each(|l| write_tasks(w, l)));
    let executors = lists.get_executors.as_ref();
    w.key("get_executors").object(|w| executors.iter().for_each(|l| write_executors(w, l)));
    let frameworks = lists.get_frameworks.as_ref();
    w.key("get_frameworks").object(|w| frameworks.iter().for_each(|l| write_frameworks(w, l)));
    let agents = lists.get_agents.as_ref();
    w.key("get_agents").object(|w| agents.iter().for_each(|l| write_agents(w, l)));
}

fn v1(name: &str, message: &impl prost::Message) -> Vec<u8> {
    mesos::v1::to_json(name, message).expect("a generated struct encodes to its own schema")
}

fn list<T: prost::Message>(w: &mut Writer, key: &str, name: &str, messages: &[T]) {
    w.key(key).array(|w| messages.iter().for_each(|m| w.raw(&v1(name, m))));
}

fn write_tasks(w: &mut Writer, lists: &GetTasks) {
    list(w, "tasks", "mesos.v1.Task", &lists.tasks);
    list(w, "unreachable_tasks", "mesos.v1.Task", &lists.unreachable_tasks);
    list(w, "completed_tasks", "mesos.v1.Task", &lists.completed_tasks);
}

fn write_executors(w: &mut Writer, lists: &GetExecutors) {
    let name = "mesos.v1.master.Response.GetExecutors.Executor";
    list(w, "executors", name, &lists.executors);
}

fn write_frameworks(w: &mut Writer, lists: &GetFrameworks) {
    let name = "mesos.v1.master.Response.GetFrameworks.Framework";
    list(w, "frameworks", name, &lists.frameworks);
    list(w, "completed_frameworks", name, &lists.completed_frameworks);
}

fn write_agents(w: &mut Writer, lists: &GetAgents) {
    w.key("agents").array(|w| {
        for agent in &lists.agents {
            // `agent_info` is the first member.
            let json = v1("mesos.v1.master.Response.GetAgents.Agent", agent);
            let plain = v1("mesos.v1.AgentInfo", &agent.agent_info).len();
            let rest = &json[br#"{"agent_info":"#.len() + plain..];
            let info = agent_info(&agent.agent_info);
            w.raw(&[br#"{"agent_info":"#.as_slice(), &info, rest].concat());
        }
    });
    w.key("recovered_agents")
        .array(|w| lists.recovered_agents.iter().for_each(|info| w.raw(&agent_info(info))));
}

/// compat: the real master shows `checkpoint`, the last member of the v0 message,
/// which v1 does not have.
fn agent_info(info: &mesos::SlaveInfo) -> Vec<u8> {
    let mut json = v1("mesos.v1.AgentInfo", info);
    json.pop();
    json.extend_from_slice(format!(",\"checkpoint\":{}}}", info.checkpoint()).as_bytes());
    json
}
