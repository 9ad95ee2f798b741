//! The answers of the operator API's reads, as messages made from a snapshot.
//!
//! Used for `GET_*` calls and for what operators' event streams are told.

use std::collections::BTreeMap;
use std::time::Duration;

use mesos::Resource;
use mesos::master::response as r;
use mesos::resources::Format;

use crate::master::Resources;
use crate::master::core::cluster::{Agent, Framework};
use crate::master::core::time_info;
use crate::master::snapshot::Snapshot;

/// Resources as the operator API shows them: both reservation formats filled in.
fn shown(resources: &Resources) -> Vec<Resource> {
    resources.to_protos_in(Format::Endpoint).unwrap_or_else(|_| resources.to_protos())
}

fn time(at: Duration) -> Option<mesos::TimeInfo> {
    Some(time_info(at))
}

/// In v1 the grace period is a `google.protobuf.Duration`, whose first field is whole
/// seconds; its fraction is not shown.
fn v1_drain(mut drain: mesos::DrainInfo) -> mesos::DrainInfo {
    if let Some(grace) = &mut drain.config.max_grace_period {
        grace.nanoseconds /= 1_000_000_000;
    }
    drain
}

/// compat: without the fraction.
fn whole_seconds(at: Duration) -> Option<mesos::TimeInfo> {
    time(Duration::from_secs(at.as_secs()))
}

/// One agent.
#[must_use]
pub fn agent(agent: &Agent) -> r::get_agents::Agent {
    let capability = |c: &mesos::slave_info::capability::Type| mesos::slave_info::Capability {
        r#type: Some(*c as i32),
    };
    r::get_agents::Agent {
        agent_info: (*agent.info).clone(),
        active: agent.active,
        deactivated: Some(agent.standing.deactivated),
        drain_info: agent.standing.drain.map(v1_drain),
        estimated_drain_start_time: agent.standing.drain_start.and_then(whole_seconds),
        version: agent.version.to_string(),
        pid: Some(agent.pid.as_str().to_owned()),
        registered_time: time(agent.registered),
        reregistered_time: agent.reregistered.and_then(time),
        total_resources: shown(&agent.total),
        allocated_resources: shown(&agent.total_used()),
        offered_resources: shown(&agent.offered),
        capabilities: agent.capabilities.iter().map(capability).collect(),
        ..r::get_agents::Agent::default()
    }
}

/// One framework; `offers` are its open ones.
#[must_use]
pub fn framework(framework: &Framework, offers: Vec<mesos::Offer>) -> r::get_frameworks::Framework {
    r::get_frameworks::Framework {
        unregistered_time: framework.unregistered.and_then(time),
        offers,
        allocated_resources: shown(&framework.total_used),
        offered_resources: shown(&framework.total_offered),
        offer_constraints: Some(framework.constraints.as_deref().cloned().unwrap_or_default()),
        ..framework_told(framework)
    }
}

/// One framework as event streams tell it: without offers, resources and offer
/// constraints, and with a time of unregistration that is 0 until there is one.
#[must_use]
pub fn framework_told(framework: &Framework) -> r::get_frameworks::Framework {
    r::get_frameworks::Framework {
        framework_info: (*framework.info).clone(),
        active: framework.active(),
        connected: framework.connected(),
        recovered: framework.recovered(),
        registered_time: time(framework.registered),
        // compat: Mesos prints the registration time until there is a later one.
        reregistered_time: time(framework.reregistered.unwrap_or(framework.registered)),
        unregistered_time: time(framework.unregistered.unwrap_or_default()),
        ..r::get_frameworks::Framework::default()
    }
}

/// `GET_AGENTS`.
#[must_use]
pub fn agents(snapshot: &Snapshot) -> r::GetAgents {
    r::GetAgents {
        agents: snapshot.cluster.agents.values().map(|a| agent(a)).collect(),
        recovered_agents: snapshot.cluster.recovered.values().map(|i| (**i).clone()).collect(),
    }
}

/// `GET_FRAMEWORKS`.
#[must_use]
#[allow(deprecated)]
pub fn frameworks(snapshot: &Snapshot) -> r::GetFrameworks {
    let cluster = &snapshot.cluster;
    let offers = |f: &Framework| {
        f.offers.keys().filter_map(|id| cluster.offers.get(id)).map(|o| (**o).clone()).collect()
    };
    r::GetFrameworks {
        frameworks: cluster.frameworks.values().map(|f| framework(f, offers(f))).collect(),
        completed_frameworks: cluster
            .completed_frameworks
            .iter()
            .map(|f| framework(f, Vec::new()))
            .collect(),
        recovered_frameworks: Vec::new(),
    }
}

/// `GET_EXECUTORS`.
#[must_use]
#[allow(deprecated)]
pub fn executors(snapshot: &Snapshot) -> r::GetExecutors {
    let all = snapshot.cluster.frameworks.values().flat_map(|f| f.executors.iter());
    let executor = |((agent, _), info): (
        &(crate::master::ids::AgentId, _),
        &std::sync::Arc<mesos::ExecutorInfo>,
    )| {
        r::get_executors::Executor { executor_info: (**info).clone(), slave_id: agent.message() }
    };
    r::GetExecutors { executors: all.map(executor).collect(), orphan_executors: Vec::new() }
}

/// `GET_OPERATIONS`.
#[must_use]
pub fn operations(snapshot: &Snapshot) -> r::GetOperations {
    let all = snapshot.cluster.agents.values().flat_map(|a| a.operations.iter());
    r::GetOperations { operations: all.map(|o| (**o).clone()).collect() }
}

/// `GET_TASKS`.
#[must_use]
#[allow(deprecated)]
pub fn tasks(snapshot: &Snapshot) -> r::GetTasks {
    let cluster = &snapshot.cluster;
    let mut answer = r::GetTasks::default();
    for framework in cluster.frameworks.values().chain(cluster.completed_frameworks.iter()) {
        answer.tasks.extend(framework.tasks.values().map(|t| (**t).clone()));
        answer.unreachable_tasks.extend(framework.unreachable_tasks.iter().map(|t| (**t).clone()));
        answer.completed_tasks.extend(framework.completed_tasks.iter().map(|t| (**t).clone()));
    }
    answer
}

/// `GET_ROLES`: every known role.
#[must_use]
pub fn roles(snapshot: &Snapshot) -> r::GetRoles {
    super::lists::roles(snapshot, &BTreeMap::new())
}

/// `GET_WEIGHTS`.
#[must_use]
pub fn weights(snapshot: &Snapshot) -> r::GetWeights {
    let info = |(role, weight): (&String, &f64)| mesos::WeightInfo {
        weight: *weight,
        role: Some(role.clone()),
    };
    r::GetWeights { weight_infos: snapshot.cluster.weights.iter().map(info).collect() }
}

/// `GET_MASTER`.
#[must_use]
pub fn master(snapshot: &Snapshot) -> r::GetMaster {
    r::GetMaster {
        master_info: Some(snapshot.master.info.clone()),
        start_time: Some(snapshot.master.start_time),
        elected_time: snapshot.master.elected_time,
    }
}

/// `GET_STATE`.
#[must_use]
pub fn state(snapshot: &Snapshot) -> r::GetState {
    r::GetState {
        get_tasks: Some(tasks(snapshot)),
        get_executors: Some(executors(snapshot)),
        get_frameworks: Some(frameworks(snapshot)),
        get_agents: Some(agents(snapshot)),
    }
}
