//! JSON of single agents, frameworks and tasks, made once and kept while the
//! thing itself stays the same.
//!
//! The core never changes an agent or a task in place: it puts a new `Arc` where
//! the old one was. So "the same pointer" means "the same JSON". Between two
//! `/state` requests mostly the agents that got offers are new, and of those
//! mostly the offered part.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use mesos::json::Writer;
use mesos::model;
use mesos::resources::Resources;

use crate::master::core::cluster::{Agent, Framework, FrameworkState};
use crate::master::ids::AgentId;

/// The parts of an agent's JSON, in order, as members without braces.
#[derive(Debug, Clone)]
struct AgentPieces {
    of: Arc<Agent>,
    /// `id` to `reregistered_time`.
    head: Arc<[u8]>,
    total: Arc<[u8]>,
    used: Arc<[u8]>,
    offered: Arc<[u8]>,
    /// `reserved_resources` and `unreserved_resources`.
    reserved: Arc<[u8]>,
    /// `active` to `capabilities`.
    tail: Arc<[u8]>,
}

#[derive(Debug)]
struct TaskPiece {
    of: Arc<mesos::Task>,
    json: Arc<[u8]>,
    /// The sweep in which it was last wanted.
    seen: u64,
}

/// Kept JSON. One per master, shared by all requests.
#[derive(Debug, Default)]
pub struct Pieces {
    kept: Mutex<Kept>,
}

/// What is kept, while one request uses it.
#[derive(Debug, Default)]
pub(super) struct Kept {
    agents: HashMap<AgentId, AgentPieces>,
    /// By the address of the task, which `of` keeps from being used again.
    tasks: HashMap<usize, TaskPiece>,
    sweep: u64,
    /// The last `/state` and the generation it shows.
    pub state: Option<(u64, Arc<[u8]>)>,
}

impl Pieces {
    /// Runs `render` with the kept pieces. Renderers wait for each other, so the
    /// second of two finds everything made.
    pub(super) fn with<T>(&self, render: impl FnOnce(&mut Kept) -> T) -> T {
        render(&mut self.kept.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Kept {
    /// Starts a rendering that will touch everything there is.
    pub fn begin(&mut self) {
        self.sweep += 1;
    }

    /// Ends it: what was not touched is gone from the cluster.
    pub fn end(&mut self, agents: impl Fn(&AgentId) -> bool) {
        let sweep = self.sweep;
        self.tasks.retain(|_, piece| piece.seen == sweep);
        self.agents.retain(|id, _| agents(id));
    }

    /// The members of an agent's object.
    pub fn agent(&mut self, w: &mut Writer, agent: &Arc<Agent>) {
        let pieces = match self.agents.get(&agent.id) {
            Some(kept) if Arc::ptr_eq(&kept.of, agent) => kept,
            kept => {
                let fresh = AgentPieces::new(agent, kept);
                self.agents.insert(agent.id.clone(), fresh);
                &self.agents[&agent.id]
            }
        };
        for piece in [
            &pieces.head,
            &pieces.total,
            &pieces.used,
            &pieces.offered,
            &pieces.reserved,
            &pieces.tail,
        ] {
            w.raw(piece);
        }
    }

    /// A task's object.
    pub fn task(&mut self, w: &mut Writer, task: &Arc<mesos::Task>) {
        let sweep = self.sweep;
        let piece = self.tasks.entry(Arc::as_ptr(task) as usize).or_insert_with(|| {
            let mut w = Writer::new();
            model::task(&mut w, task);
            TaskPiece { of: task.clone(), json: w.into_bytes().into(), seen: sweep }
        });
        debug_assert!(Arc::ptr_eq(&piece.of, task));
        piece.seen = sweep;
        w.raw(&piece.json);
    }
}

/// Members written by `body`, without the braces.
fn members(body: impl FnOnce(&mut Writer)) -> Arc<[u8]> {
    let mut w = Writer::new();
    body(&mut w);
    w.into_bytes().into()
}

impl AgentPieces {
    /// Takes over from `old` what did not change.
    fn new(agent: &Arc<Agent>, old: Option<&AgentPieces>) -> Self {
        let keep = |piece: fn(&AgentPieces) -> &Arc<[u8]>, same: fn(&Agent, &Agent) -> bool| {
            old.filter(|o| same(&o.of, agent)).map(|o| piece(o).clone())
        };
        let head = keep(
            |o| &o.head,
            |a, b| {
                Arc::ptr_eq(&a.info, &b.info)
                    && a.pid == b.pid
                    && (a.registered, a.reregistered) == (b.registered, b.reregistered)
            },
        );
        let same_total = |a: &Agent, b: &Agent| a.total == b.total;
        let tail = keep(
            |o| &o.tail,
            |a, b| {
                (a.active, &a.standing) == (b.active, &b.standing)
                    && Arc::ptr_eq(&a.version, &b.version)
                    && Arc::ptr_eq(&a.capabilities, &b.capabilities)
            },
        );
        AgentPieces {
            head: head.unwrap_or_else(|| members(|w| agent_head(w, agent))),
            total: keep(|o| &o.total, same_total)
                .unwrap_or_else(|| members(|w| model::resources(w.key("resources"), &agent.total))),
            used: keep(|o| &o.used, |a, b| a.used == b.used).unwrap_or_else(|| {
                members(|w| model::resources(w.key("used_resources"), &sum_of_used(agent)))
            }),
            offered: keep(|o| &o.offered, |a, b| a.offered == b.offered).unwrap_or_else(|| {
                members(|w| model::resources(w.key("offered_resources"), &agent.offered))
            }),
            reserved: keep(|o| &o.reserved, same_total)
                .unwrap_or_else(|| members(|w| agent_reserved(w, agent))),
            tail: tail.unwrap_or_else(|| members(|w| agent_tail(w, agent))),
            of: agent.clone(),
        }
    }
}

/// What all frameworks use on an agent.
pub(super) fn sum_of_used(agent: &Agent) -> Resources {
    let mut sum = Resources::new();
    for used in agent.used.values() {
        sum += used;
    }
    sum
}

fn agent_head(w: &mut Writer, agent: &Agent) {
    model::agent_fields(w, &agent.info);
    w.key("pid").string(agent.pid.as_str());
    w.key("registered_time").double(agent.registered.as_secs_f64());
    if let Some(time) = agent.reregistered {
        w.key("reregistered_time").double(time.as_secs_f64());
    }
}

fn agent_reserved(w: &mut Writer, agent: &Agent) {
    model::resources_by_role(w.key("reserved_resources"), &agent.total.reservations());
    model::resources(w.key("unreserved_resources"), &agent.total.unreserved());
}

fn agent_tail(w: &mut Writer, agent: &Agent) {
    w.key("active").bool(agent.active);
    w.key("deactivated").bool(agent.standing.deactivated);
    w.key("version").string(&agent.version);
    model::strings(w.key("capabilities"), agent.capabilities.iter().map(|c| c.as_str_name()));
    if let Some(drain) = &agent.standing.drain {
        w.key("drain_info").message(drain);
        if let Some(start) = agent.standing.drain_start {
            w.key("estimated_drain_start_time_seconds").double(start.as_secs_f64());
        }
    }
}

/// `id` to `recovered`: what every object about a framework begins with.
pub(super) fn framework_summary(w: &mut Writer, framework: &Framework) {
    let info = &framework.info;
    w.key("id").string(framework.id.as_str());
    w.key("name").string(&info.name);
    if let Some(pid) = &framework.pid {
        w.key("pid").string(pid.as_str());
    }
    model::resources(w.key("used_resources"), &framework.total_used);
    model::resources(w.key("offered_resources"), &framework.total_offered);
    model::framework_capabilities(w.key("capabilities"), &info.capabilities);
    w.key("hostname").string(info.hostname());
    w.key("webui_url").string(info.webui_url());
    let state = framework.state;
    w.key("active").bool(state == FrameworkState::Active);
    let connected = matches!(state, FrameworkState::Active | FrameworkState::Inactive);
    w.key("connected").bool(connected);
    w.key("recovered").bool(state == FrameworkState::Recovered);
}

fn seconds(time: Option<Duration>) -> f64 {
    time.map_or(0.0, |t| t.as_secs_f64())
}

/// A framework's object with all its tasks, offers and executors. `offer` finds
/// an offer by its id.
pub(super) fn framework(
    w: &mut Writer,
    framework: &Framework,
    kept: &mut Kept,
    offers: &crate::master::shared::SharedMap<crate::master::ids::OfferId, Arc<mesos::Offer>>,
) {
    let info = &framework.info;
    w.object(|w| {
        framework_summary(w, framework);
        w.key("user").string(&info.user);
        w.key("failover_timeout").double(info.failover_timeout());
        w.key("checkpoint").bool(info.checkpoint());
        w.key("registered_time").double(framework.registered.as_secs_f64());
        w.key("unregistered_time").double(seconds(framework.unregistered));
        if let Some(principal) = &info.principal {
            w.key("principal").string(principal);
        }
        model::resources(w.key("resources"), &(&framework.total_used + &framework.total_offered));
        if let Some(time) = framework.reregistered {
            w.key("reregistered_time").double(time.as_secs_f64());
        }
        roles(w, info);
        w.key("tasks").array(|w| framework.tasks.values().for_each(|t| kept.task(w, t)));
        let unreachable = framework.unreachable_tasks.iter();
        w.key("unreachable_tasks").array(|w| unreachable.for_each(|t| kept.task(w, t)));
        let completed = framework.completed_tasks.iter();
        w.key("completed_tasks").array(|w| completed.for_each(|t| kept.task(w, t)));
        w.key("offers").array(|w| {
            framework
                .offers
                .keys()
                .filter_map(|id| offers.get(id))
                .for_each(|o| model::offer(w, o));
        });
        w.key("executors").array(|w| {
            for ((agent, _), executor) in framework.executors.iter() {
                w.object(|w| {
                    model::executor_fields(w, executor);
                    w.key("slave_id").string(agent.as_str());
                });
            }
        });
        if let Some(labels) = &info.labels {
            model::labels(w.key("labels"), labels);
        }
        match &framework.constraints {
            Some(constraints) => w.key("offer_constraints").message(&**constraints),
            None => w.key("offer_constraints").object(|_| {}),
        }
    });
}

#[allow(deprecated)]
fn roles(w: &mut Writer, info: &mesos::FrameworkInfo) {
    let multi_role = mesos::framework_info::capability::Type::MultiRole;
    if info.capabilities.iter().any(|c| c.r#type() == multi_role) {
        model::strings(w.key("roles"), info.roles.iter().map(String::as_str));
    } else {
        w.key("role").string(info.role());
    }
}
