//! What operators change: teardown, weights, agents gone. Of those that get no
//! offers see `drain`.

use std::collections::BTreeSet;
use std::sync::Arc;

use mesos::roles;

use super::registry::Pending;
use super::{Busy, Change, Command, Core, Effect, Refusal, ReplyId};
use crate::master::ids::{AgentId, OfferId};

impl Core {
    pub(super) fn operator(&mut self, command: Command, reply: ReplyId) {
        let answer = match command {
            Command::Teardown(framework) => {
                if self.framework(&framework).is_some() {
                    self.count("messages_unregister_framework");
                    self.remove_framework(&framework);
                    Some(Ok(()))
                } else {
                    Some(Err(Refusal::Invalid("No framework found with specified ID".into())))
                }
            }
            Command::UpdateWeights(infos) => self.update_weights(infos, reply),
            Command::MarkAgentGone(agent) => self.mark_gone(&agent, reply),
            Command::DrainAgent(agent, config) => self.drain_by_operator(&agent, config, reply),
            Command::DeactivateAgent(agent) => self.deactivate_by_operator(&agent, reply),
            Command::ReactivateAgent(agent) => self.reactivate_by_operator(&agent, reply),
        };
        if let Some(answer) = answer {
            self.out.push(Effect::Reply(reply, answer));
        }
    }

    fn update_weights(
        &mut self,
        mut infos: Vec<mesos::WeightInfo>,
        reply: ReplyId,
    ) -> Option<Result<(), Refusal>> {
        const WHAT: &str = "Failed to validate update weights request JSON";
        for info in &mut infos {
            let role = info.role().trim().to_owned();
            let refuse = |text: String| Some(Err(Refusal::Invalid(text)));
            if let Err(error) = roles::validate(&role) {
                return refuse(format!("{WHAT}: Invalid role '{role}': {error}"));
            }
            if self.config.roles.as_ref().is_some_and(|known| !known.contains(&role)) {
                return refuse(format!("{WHAT}: Unknown role '{role}'"));
            }
            if !(info.weight > 0.0 && info.weight.is_finite()) {
                let weight = info.weight;
                return refuse(format!(
                    "{WHAT} for role '{role}': Invalid weight '{weight}': Weights must be positive"
                ));
            }
            info.role = Some(role);
        }
        self.store(Change::Weights(infos.clone()), Pending::Weights { infos, reply });
        None
    }

    pub(super) fn weights_stored(&mut self, infos: &[mesos::WeightInfo], reply: ReplyId) {
        let weights = Arc::make_mut(&mut self.cluster.weights);
        let mut changed = BTreeSet::new();
        for info in infos {
            let old = weights.insert(info.role().to_owned(), info.weight);
            if old.unwrap_or(1.0).total_cmp(&info.weight).is_ne() {
                changed.insert(info.role().to_owned());
            }
        }
        self.allocator.set_weights(&self.cluster.weights);
        // Everybody's share changes with the weight of a role that is in use.
        let used = self
            .cluster
            .frameworks
            .values()
            .any(|f| f.roles.iter().any(|role| changed.contains(role)));
        if used {
            let offers: Vec<OfferId> = self.offers.keys().cloned().collect();
            for offer in offers {
                self.rescind(&offer);
            }
        }
        self.out.push(Effect::Reply(reply, Ok(())));
    }

    fn mark_gone(&mut self, agent: &AgentId, reply: ReplyId) -> Option<Result<(), Refusal>> {
        if self.cluster.gone.contains_key(agent) {
            return Some(Ok(()));
        }
        if let Some(busy) = self.agents.busy.get(agent) {
            let doing = match busy {
                Busy::Reregistering => "re-registered",
                Busy::Unreachable => "marked unreachable",
                Busy::Gone => "marked gone",
                Busy::Removing => "removed",
            };
            let text = format!("Agent '{agent}' is being {doing}; try again later");
            return Some(Err(Refusal::Busy(text)));
        }
        let known = self.agent(agent).is_some()
            || self.cluster.recovered.contains_key(agent)
            || self.cluster.unreachable.contains_key(agent);
        if !known {
            return Some(Err(Refusal::NotFound(format!("Agent '{agent}' not found"))));
        }
        self.begin_gone(agent, Some(reply));
        None
    }

    pub(super) fn begin_gone(&mut self, agent: &AgentId, reply: Option<ReplyId>) {
        self.agents.busy.insert(agent.clone(), Busy::Gone);
        let at = self.now.wall;
        let then = Pending::Gone { agent: agent.clone(), at, reply };
        self.store(Change::Gone(agent.clone(), at), then);
    }
}
