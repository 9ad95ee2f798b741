//! Offers: made from allocations, taken back, timed out.
//!
//! While an offer is open its resources belong to nobody else: the allocator
//! counts them as used. Who closes an offer says where they go.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use mesos::framework_info::capability::Type as Capability;
use mesos::resources::Format;
use mesos::scheduler::event;
use mesos::{Filters, Offer};

use super::cluster::{Agent, Framework};
use super::config::{DEFAULT_REFUSE, MAX_REFUSE};
use super::send::event_of;
use super::timers::{Timer, TimerId};
use super::{Core, Scope};
use crate::master::Resources;
use crate::master::allocator::Allocation;
use crate::master::ids::{AgentId, FrameworkId, OfferId};

/// What the core must know of an open offer.
pub(super) struct OpenOffer {
    pub framework: FrameworkId,
    pub agent: AgentId,
    pub role: String,
    /// With `allocation_info`.
    pub resources: Resources,
    timer: Option<TimerId>,
}

/// How long a refusal lasts, in Mesos' reading of odd values.
pub(super) fn refuse_for(filters: Option<&Filters>) -> Duration {
    let seconds = filters.map_or(DEFAULT_REFUSE.as_secs_f64(), Filters::refuse_seconds);
    match Duration::try_from_secs_f64(seconds) {
        Ok(refuse) => refuse.min(MAX_REFUSE),
        // compat: negative and not a number mean the default, too long is cut.
        Err(_) if seconds > 0.0 => MAX_REFUSE,
        Err(_) => DEFAULT_REFUSE,
    }
}

/// The offer as it is kept; `strip` makes what old frameworks expect of it.
fn offer_of(id: &OfferId, agent: &Agent, framework: &Framework, allocation: &Allocation) -> Offer {
    let resources = allocation.resources.filter(|r| r.name() != "ephemeral_ports");
    let executors = agent.executors.range(first_of(&framework.id)..);
    let executors = executors.take_while(|((f, _), _)| *f == framework.id);
    Offer {
        id: id.message(),
        framework_id: framework.id.message(),
        slave_id: agent.id.message(),
        hostname: agent.info.hostname.clone(),
        url: Some(mesos::Url {
            scheme: "http".into(),
            address: mesos::Address {
                hostname: Some(agent.info.hostname.clone()),
                ip: Some(agent.pid.ip().to_owned()),
                port: i32::from(agent.pid.port()),
            },
            path: Some(format!("/{}", agent.pid.process())),
            ..mesos::Url::default()
        }),
        domain: agent.info.domain.clone(),
        resources: resources.to_protos(),
        attributes: agent.info.attributes.clone(),
        executor_ids: executors.map(|((_, id), _)| id.message()).collect(),
        unavailability: None,
        allocation_info: Some(mesos::resource::AllocationInfo {
            role: Some(allocation.role.clone()),
        }),
    }
}

fn first_of(framework: &FrameworkId) -> (FrameworkId, crate::master::ids::ExecutorId) {
    (framework.clone(), "".into())
}

/// What a framework is sent, by what it understands.
fn strip(mut offer: Offer, framework: &Framework) -> Offer {
    if !framework.can(Capability::MultiRole) {
        offer.allocation_info = None;
        for resource in &mut offer.resources {
            resource.allocation_info = None;
        }
    }
    if !framework.can(Capability::ReservationRefinement) {
        // Refined reservations are never allocated to such a framework.
        let _ = mesos::resources::convert(&mut offer.resources, Format::Pre);
    }
    offer
}

impl Core {
    /// One allocation cycle.
    pub(super) fn allocate(&mut self, scope: &Scope) {
        self.counters().allocation_runs += 1;
        let allocations = self.allocator.allocate(self.now.mono, scope.clone(), &mut self.rng);
        let mut by_framework: BTreeMap<FrameworkId, Vec<Offer>> = BTreeMap::new();
        for allocation in allocations {
            match self.open_offer(&allocation) {
                Some(offer) => {
                    by_framework.entry(allocation.framework).or_default().push(offer);
                }
                None => self.allocator.recover(
                    self.now.mono,
                    &allocation.framework,
                    &allocation.agent,
                    &allocation.resources,
                    None,
                ),
            }
        }
        for (framework, offers) in by_framework {
            self.tally(&framework, |t| t.offers_sent += offers.len() as u64);
            let mut event = event_of(event::Type::Offers);
            event.offers = Some(event::Offers { offers });
            self.notify(&framework, event);
        }
    }

    fn open_offer(&mut self, allocation: &Allocation) -> Option<Offer> {
        let id = OfferId::from(format!("{}-O{}", self.master.id, self.next.offer).as_str());
        // Holding on to either here would make the changes below copy it whole.
        let (offer, sent) = {
            let framework = self.framework(&allocation.framework)?;
            let agent = self.agent(&allocation.agent)?;
            if !framework.active() || !agent.active {
                return None;
            }
            let offer = offer_of(&id, agent, framework, allocation);
            let sent = strip(offer.clone(), framework);
            (offer, sent)
        };
        self.next.offer += 1;
        let timer = self.config.offer_timeout;
        let timer = timer.map(|after| self.set_timer(after, Timer::Offer(id.clone())));
        self.lend(&allocation.agent, &allocation.framework, &allocation.resources);
        self.cluster.offers.insert(id.clone(), Arc::new(offer));
        if let Some(framework) = self.framework_mut(&allocation.framework) {
            framework.offers.insert(id.clone(), ());
        }
        self.agents.offers.entry(allocation.agent.clone()).or_default().insert(id.clone());
        let open = OpenOffer {
            framework: allocation.framework.clone(),
            agent: allocation.agent.clone(),
            role: allocation.role.clone(),
            resources: allocation.resources.clone(),
            timer,
        };
        self.offers.insert(id, open);
        Some(sent)
    }

    /// Takes an offer out of the books. Its resources stay allocated: the
    /// caller uses them or gives them back.
    pub(super) fn close_offer(&mut self, id: &OfferId) -> Option<OpenOffer> {
        let open = self.offers.remove(id)?;
        if let Some(timer) = open.timer {
            self.timers.cancel(timer);
        }
        self.take_back(&open.agent, &open.framework, &open.resources);
        self.cluster.offers.remove(id);
        if let Some(framework) = self.framework_mut(&open.framework) {
            framework.offers.remove(id);
        }
        if let Some(offers) = self.agents.offers.get_mut(&open.agent) {
            offers.remove(id);
            if offers.is_empty() {
                self.agents.offers.remove(&open.agent);
            }
        }
        Some(open)
    }

    /// Closes an offer without a word; `refused` is its decline's filters.
    #[allow(clippy::option_option)]
    pub(super) fn discard(&mut self, id: &OfferId, refused: Option<Option<&Filters>>) {
        let Some(open) = self.close_offer(id) else { return };
        let refuse = refused.map(refuse_for);
        self.allocator.recover(
            self.now.mono,
            &open.framework,
            &open.agent,
            &open.resources,
            refuse,
        );
    }

    /// Takes an offer back and tells its framework.
    pub(super) fn rescind(&mut self, id: &OfferId) {
        let Some(framework) = self.offers.get(id).map(|o| o.framework.clone()) else { return };
        self.discard(id, None);
        self.tally(&framework, |t| t.offers_rescinded += 1);
        let mut event = event_of(event::Type::Rescind);
        event.rescind = Some(event::Rescind { offer_id: id.message() });
        self.notify(&framework, event);
    }

    /// Nobody answered the offer in time.
    pub(super) fn offer_due(&mut self, id: &OfferId) {
        self.rescind(id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals() {
        let filters = |s: f64| Some(Filters { refuse_seconds: Some(s) });
        let rows = [
            (None, DEFAULT_REFUSE),
            (Some(Filters { refuse_seconds: None }), DEFAULT_REFUSE),
            (filters(0.0), Duration::ZERO),
            (filters(0.5), Duration::from_millis(500)),
            (filters(-1.0), DEFAULT_REFUSE),
            (filters(f64::NAN), DEFAULT_REFUSE),
            (filters(1e300), MAX_REFUSE),
            (filters(f64::INFINITY), MAX_REFUSE),
        ];
        for (given, wanted) in rows {
            assert_eq!(refuse_for(given.as_ref()), wanted, "{given:?}");
        }
    }
}
