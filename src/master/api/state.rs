//! `/state`: everything. Rendered off a snapshot, from kept pieces.

use std::sync::Arc;

use mesos::json::Writer;
use mesos::{VersionInfo, model};

use super::pieces::{self, Kept, Pieces};
use crate::master::snapshot::Snapshot;

/// The body of `/state`.
///
/// Takes up to about a tenth of a second for 10,000 agents that all changed:
/// not for an async thread. Of several callers that want the same generation,
/// one renders and the others wait for it.
#[must_use]
pub fn state(snapshot: &Snapshot, version: &VersionInfo, pieces: &Pieces) -> Arc<[u8]> {
    pieces.with(|kept| {
        match &kept.state {
            Some((generation, body)) if *generation >= snapshot.generation => return body.clone(),
            _ => {}
        }
        let body: Arc<[u8]> = render(snapshot, version, kept).into();
        kept.state = Some((snapshot.generation, body.clone()));
        body
    })
}

fn render(snapshot: &Snapshot, version: &VersionInfo, kept: &mut Kept) -> Vec<u8> {
    let cluster = &snapshot.cluster;
    let mut w = Writer::new();
    kept.begin();
    w.object(|w| {
        header(w, snapshot, version);
        w.key("slaves").array(|w| {
            cluster.agents.values().for_each(|agent| w.object(|w| kept.agent(w, agent)));
        });
        recovered_agents(w, snapshot, |_| true);
        w.key("frameworks").array(|w| {
            for framework in cluster.frameworks.values() {
                pieces::framework(w, framework, kept, &cluster.offers);
            }
        });
        w.key("completed_frameworks").array(|w| {
            for framework in cluster.completed_frameworks.iter() {
                pieces::framework(w, framework, kept, &cluster.offers);
            }
        });
        w.key("orphan_tasks").array(|_| {});
        w.key("unregistered_frameworks").array(|_| {});
    });
    kept.end(|id| cluster.agents.contains_key(id));
    w.into_bytes()
}

/// `recovered_slaves`, of those whose id `wanted` accepts.
pub(super) fn recovered_agents(w: &mut Writer, snapshot: &Snapshot, wanted: impl Fn(&str) -> bool) {
    w.key("recovered_slaves").array(|w| {
        for (id, info) in snapshot.cluster.recovered.iter() {
            if wanted(id.as_str()) {
                w.object(|w| model::agent_fields(w, info));
            }
        }
    });
}

fn header(w: &mut Writer, snapshot: &Snapshot, version: &VersionInfo) {
    model::version_fields(w, version);
    let master = &snapshot.master;
    w.key("start_time").double(master.start_time);
    if let Some(time) = master.elected_time {
        w.key("elected_time").double(time);
    }
    w.key("id").string(&master.info.id);
    w.key("pid").string(master.info.pid());
    w.key("hostname").string(master.info.hostname());
    model::master_capabilities(w.key("capabilities"), &master.info.capabilities);
    let cluster = &snapshot.cluster;
    let active = cluster.agents.values().filter(|a| a.active).count();
    w.key("activated_slaves").double(active as f64);
    w.key("deactivated_slaves").double((cluster.agents.len() - active) as f64);
    w.key("unreachable_slaves").double(cluster.unreachable.len() as f64);
    if let Some(domain) = &master.info.domain {
        model::domain(w.key("domain"), domain);
    }
    if let Some(leader) = &master.leader {
        w.key("leader").string(leader.pid());
        model::master_info(w.key("leader_info"), leader);
    }
    for name in ["cluster", "log_dir", "external_log_file"] {
        if let Some(value) = master.flag(name) {
            w.key(name).string(value);
        }
    }
    w.key("flags").object(|w| {
        for (name, value) in &master.flags {
            w.key(name).string(value);
        }
    });
}
