//! `/slaves`: the agents, with their resources also as messages.

use mesos::json::Writer;
use mesos::resources::{Format, Resources};

use super::pieces::{Pieces, sum_of_used};
use super::state::recovered_agents;
use crate::master::core::cluster::Agent;
use crate::master::snapshot::Snapshot;

/// The body of `/slaves`; of one agent only if `slave_id` is given.
#[must_use]
pub fn slaves(snapshot: &Snapshot, pieces: &Pieces, slave_id: Option<&str>) -> Vec<u8> {
    let wanted = |id: &str| slave_id.is_none_or(|only| only == id);
    let mut w = Writer::new();
    w.object(|w| {
        w.key("slaves").array(|w| {
            for agent in snapshot.cluster.agents.values().filter(|a| wanted(a.id.as_str())) {
                w.object(|w| {
                    pieces.with(|kept| kept.agent(w, agent));
                    full_resources(w, agent);
                });
            }
        });
        recovered_agents(w, snapshot, wanted);
    });
    w.into_bytes()
}

fn full_resources(w: &mut Writer, agent: &Agent) {
    w.key("reserved_resources_full").object(|w| {
        for (role, reserved) in agent.total.reservations() {
            messages(w.key(&role), &reserved);
        }
    });
    messages(w.key("unreserved_resources_full"), &agent.total.unreserved());
    messages(w.key("used_resources_full"), &sum_of_used(agent));
    messages(w.key("offered_resources_full"), &agent.offered);
}

/// Both reservation formats, as the endpoints show them.
fn messages(w: &mut Writer, resources: &Resources) {
    let all = resources
        .to_protos_in(Format::Endpoint)
        .expect("the endpoint format has room for refined reservations");
    w.array(|w| all.iter().for_each(|r| w.message(r)));
}
