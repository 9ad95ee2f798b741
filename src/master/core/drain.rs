//! Agents that get no more offers: deactivated, draining, drained.
//!
//! ```text
//!            DRAIN_AGENT                 nothing runs any more
//! (active) -------------> DRAINING -----------------------------> DRAINED
//!     ^  \                    \                                      |
//!     |   DEACTIVATE_AGENT     \ mark_gone: marked gone instead      |
//!     +-------------------------- REACTIVATE_AGENT ------------------+
//! ```
//!
//! Where an agent stands is in the registry: it outlives the agent's process, its
//! reachability and this master. The agent itself kills what runs on it; the master
//! only tells it, again at every registration.

use std::sync::Arc;

use mesos::internal::DrainSlaveMessage;
use mesos::slave_info::capability::Type as Capability;
use mesos::{DrainConfig, DrainInfo, DrainState};

use super::cluster::Standing;
use super::registry::Pending;
use super::{Busy, Change, Core, Effect, Refusal, ReplyId};
use crate::master::ids::AgentId;

impl Core {
    pub(super) fn drain_by_operator(
        &mut self,
        id: &AgentId,
        config: DrainConfig,
        reply: ReplyId,
    ) -> Option<Result<(), Refusal>> {
        if self.agent(id).is_some_and(|agent| !agent.can(Capability::AgentDraining)) {
            let text = format!("Agent {id} is not capable of draining");
            return Some(Err(Refusal::Invalid(text)));
        }
        if !self.is_known(id) {
            return Some(Err(Refusal::Invalid("Unknown agent".into())));
        }
        if self.agents.busy.get(id) == Some(&Busy::Gone) {
            let text = "Agent is currently being marked gone";
            return Some(Err(Refusal::Conflict(text.into())));
        }
        let info = DrainInfo { state: DrainState::Draining as i32, config };
        let start = self.agent(id).map(|_| self.now.wall);
        let standing = Standing { deactivated: true, drain: Some(info), drain_start: start };
        self.store_standing(id, standing, Some(reply));
        None
    }

    pub(super) fn deactivate_by_operator(
        &mut self,
        id: &AgentId,
        reply: ReplyId,
    ) -> Option<Result<(), Refusal>> {
        if !self.is_known(id) {
            return Some(Err(Refusal::Invalid("Unknown agent".into())));
        }
        let standing = Standing { deactivated: true, ..self.standing(id) };
        self.store_standing(id, standing, Some(reply));
        None
    }

    pub(super) fn reactivate_by_operator(
        &mut self,
        id: &AgentId,
        reply: ReplyId,
    ) -> Option<Result<(), Refusal>> {
        let standing = self.standing(id);
        let refuse = |text: &str| Some(Err(Refusal::Invalid(text.into())));
        if !standing.deactivated {
            return refuse("Agent is not deactivated");
        }
        if standing.is_draining() {
            return refuse("Agent is still in the DRAINING state");
        }
        self.store_standing(id, Standing::default(), Some(reply));
        None
    }

    fn is_known(&self, id: &AgentId) -> bool {
        self.agent(id).is_some()
            || self.cluster.recovered.contains_key(id)
            || self.cluster.unreachable.contains_key(id)
    }

    fn standing(&self, id: &AgentId) -> Standing {
        self.cluster.standings.get(id).cloned().unwrap_or_default()
    }

    fn store_standing(&mut self, id: &AgentId, standing: Standing, reply: Option<ReplyId>) {
        let change = Change::Standing(id.clone(), standing.clone());
        self.store(change, Pending::Standing { agent: id.clone(), standing, reply });
    }

    /// The registry has it.
    pub(super) fn standing_stored(
        &mut self,
        id: &AgentId,
        standing: Standing,
        reply: Option<ReplyId>,
    ) {
        // Removed or marked gone meanwhile: there is nobody to stand anywhere.
        if self.is_known(id) {
            self.keep_standing(id, standing);
            self.apply_standing(id);
        }
        if let Some(reply) = reply {
            self.out.push(Effect::Reply(reply, Ok(())));
        }
    }

    fn keep_standing(&mut self, id: &AgentId, standing: Standing) {
        let standings = Arc::make_mut(&mut self.cluster.standings);
        if standing == Standing::default() {
            standings.remove(id);
        } else {
            standings.insert(id.clone(), standing.clone());
        }
        if let Some(agent) = self.agent_mut(id) {
            agent.standing = standing;
        }
    }

    pub(super) fn forget_standing(&mut self, id: &AgentId) {
        if self.cluster.standings.contains_key(id) {
            Arc::make_mut(&mut self.cluster.standings).remove(id);
        }
    }

    /// Does to a registered agent what its standing asks for: after a change of it
    /// and after every registration.
    pub(super) fn apply_standing(&mut self, id: &AgentId) {
        let standing = self.standing(id);
        let Some(agent) = self.agent_mut(id) else { return };
        agent.standing = standing.clone();
        let (active, connected) = (agent.active, agent.connected);
        match (standing.deactivated, active) {
            (true, true) => self.deactivate_agent(id),
            (false, false) if connected => self.activate_agent(id),
            _ => {}
        }
        // Drained ones are told, too: a drain that the agent forgot costs nothing.
        if let Some(drain) = &standing.drain {
            tracing::info!(agent = %id, "telling the agent to drain");
            self.send_agent(id, &DrainSlaveMessage { config: drain.config });
            self.check_drained(id);
        }
    }

    /// A draining agent on which nothing runs any more is drained, or gone.
    pub(super) fn check_drained(&mut self, id: &AgentId) {
        let Some(agent) = self.agent(id) else { return };
        let standing = &agent.standing;
        let Some(drain) = standing.drain.filter(|_| standing.is_draining()) else { return };
        let busy = !agent.tasks.is_empty() || !agent.operations.is_empty();
        if busy || self.agents.busy.contains_key(id) {
            return;
        }
        if drain.config.mark_gone() {
            tracing::info!(agent = %id, "drained: marking the agent gone");
            return self.begin_gone(id, None);
        }
        let mut standing = standing.clone();
        standing.drain = Some(DrainInfo { state: DrainState::Drained as i32, ..drain });
        // Seen at once, so that it is stored once.
        self.keep_standing(id, standing.clone());
        tracing::info!(agent = %id, "drained");
        self.store(Change::Standing(id.clone(), standing), Pending::Nothing);
    }
}
