//! The decisions of the master, pure: no clock, no files, no sockets.
//!
//! Called by the driver only: [`Core::handle`] takes an [`Event`] and the time,
//! and returns [`Effect`]s in the order in which they must happen. Nothing here
//! waits: what depends on the registry is finished when [`Event::Stored`] comes
//! back.
//!
//! * [`cluster`]: the part of the state that readers see through a snapshot.
//! * `agents`, `liveness`, `reregister`: agents come, stay, are lost, come back.
//! * `frameworks`: schedulers subscribe, fail over, leave.
//! * `messages`, `calls`: what arrives over libprocess and HTTP, dispatched.
//! * `offers`, `accept`, `operations`, `tasks`, `reconcile`: the work itself.
//! * `books`: who uses what; the only place that moves resources.
//! * `validate`: what is refused and in which words.
//!
//! ```text
//! agent:     (unknown) -> registered <-> disconnected -> unreachable -> registered
//!                             |               |              |
//!                             +---- removed --+---- gone ----+
//! framework: (unknown) -> active <-> inactive, active -> disconnected -> active | completed
//!            recovered (known from agents only) -> active
//! ```

mod accept;
mod agents;
mod books;
mod calls;
pub mod cluster;
pub mod config;
pub mod counters;
mod drain;
mod event;
mod frameworks;
mod liveness;
mod messages;
mod offers;
mod operations;
mod operator;
mod reconcile;
mod registry;
mod reregister;
mod send;
pub mod tally;
mod tasks;
mod timers;
pub mod validate;

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use mesos::internal::Registry;

pub use event::{
    Change, Command, Effect, Event, Now, OperatorEvent, Process, Refusal, ReplyId, StreamId,
    time_info,
};
pub use registry::{apply, slave_entry, unreachable_entry};

use self::cluster::{Agent, Allocation, Cluster, Framework};
use self::config::Config;
use self::counters::Counters;
use self::offers::OpenOffer;
use self::registry::Pending;
use self::timers::{Timer, TimerId, Timers};
use super::allocator::{Allocator, Rng, Scope};
use super::ids::{AgentId, FrameworkId, OfferId, Pid, TaskId};

/// Everything the master knows and decides.
pub struct Core {
    config: Config,
    /// Who this master is; sent to frameworks.
    master: mesos::MasterInfo,
    cluster: Cluster,
    allocator: Allocator,
    rng: Rng,
    timers: Timers,
    now: Now,
    out: Vec<Effect>,
    agents: AgentIndex,
    frameworks: FrameworkIndex,
    offers: HashMap<OfferId, OpenOffer>,
    pending: BTreeMap<u64, Pending>,
    next: NextIds,
    /// Agents the next triggered allocation must look at.
    /// What to allocate soon, and since when.
    trigger: Option<(Scope, Duration)>,
    /// When the next regular cycle is to run.
    cycle_due: Duration,
}

/// What the core must find fast about agents, and readers need not see.
#[derive(Default)]
struct AgentIndex {
    by_pid: HashMap<Pid, AgentId>,
    /// Processes whose first registration is being stored.
    registering: BTreeSet<Pid>,
    /// Agents with a change of the registry under way.
    busy: BTreeMap<AgentId, Busy>,
    observers: BTreeMap<AgentId, liveness::Observer>,
    by_observer: HashMap<u64, AgentId>,
    /// Set while the agent is disconnected.
    reregister_timer: BTreeMap<AgentId, TimerId>,
    /// Tasks frameworks asked to kill; retried when the agent comes back.
    killed: BTreeMap<AgentId, BTreeSet<(FrameworkId, TaskId)>>,
    offers: BTreeMap<AgentId, BTreeSet<OfferId>>,
    /// Tasks that became unreachable with their agent.
    unreachable_tasks: BTreeMap<AgentId, Vec<(FrameworkId, TaskId)>>,
}

/// What is being stored about an agent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Busy {
    Reregistering,
    Unreachable,
    Gone,
    Removing,
}

/// What the core must find fast about frameworks.
#[derive(Default)]
struct FrameworkIndex {
    by_pid: HashMap<Pid, FrameworkId>,
    by_stream: HashMap<StreamId, FrameworkId>,
    streams: HashMap<FrameworkId, StreamId>,
    failover_timer: HashMap<FrameworkId, TimerId>,
    heartbeat_timer: HashMap<FrameworkId, TimerId>,
    completed: BTreeSet<FrameworkId>,
}

/// Counters for ids that this master hands out.
#[derive(Default)]
struct NextIds {
    agent: u64,
    framework: u64,
    offer: u64,
    observer: u64,
    store: u64,
}

impl Core {
    /// A master that starts with what the registry holds. The effects of the
    /// first [`handle`](Self::handle) include storing who leads now.
    #[must_use]
    pub fn new(config: Config, master: mesos::MasterInfo, registry: &Registry, now: Now) -> Self {
        let mut core = Core {
            allocator: Allocator::new(config.allocator.clone()),
            rng: Rng::new(config.seed),
            config,
            master,
            cluster: Cluster::default(),
            timers: Timers::default(),
            now,
            out: Vec::new(),
            agents: AgentIndex::default(),
            frameworks: FrameworkIndex::default(),
            offers: HashMap::new(),
            pending: BTreeMap::new(),
            next: NextIds::default(),
            trigger: None,
            cycle_due: Duration::ZERO,
        };
        core.cluster.role_whitelist = core.config.roles.clone().map(Arc::new);
        core.recover(registry);
        core.plan_cycle();
        core.set_timer(core.config.registry_gc_interval, Timer::Prune);
        core
    }

    /// Decides what follows from `event`. Effects are to be done in order.
    pub fn handle(&mut self, now: Now, event: Event) -> Vec<Effect> {
        self.now = now;
        match event {
            Event::Message { from, to, name, body } => self.message(&from, &to, &name, &body),
            Event::Exited(pid) => self.exited(&pid),
            Event::Subscribe { stream, subscribe } => self.subscribe_http(stream, *subscribe),
            Event::StreamClosed(stream) => self.stream_closed(&stream),
            Event::Call { call, stream, reply } => {
                let answer = self.http_call(*call, stream.as_deref());
                self.out.push(Effect::Reply(reply, answer));
            }
            Event::Operator { command, reply } => self.operator(command, reply),
            Event::Stored(through) => self.stored(through),
            Event::Tick => {}
        }
        while let Some(timer) = self.timers.pop(self.now.mono) {
            self.due(timer);
        }
        std::mem::take(&mut self.out)
    }

    /// When [`Event::Tick`] is wanted next, on the monotonic clock.
    #[must_use]
    pub fn next_deadline(&self) -> Option<Duration> {
        self.timers.next()
    }

    /// The visible state; cloning it freezes it.
    #[must_use]
    pub fn cluster(&self) -> &Cluster {
        &self.cluster
    }

    /// The allocator, for its metrics.
    #[must_use]
    pub fn allocator(&self) -> &Allocator {
        &self.allocator
    }

    fn due(&mut self, timer: Timer) {
        match timer {
            Timer::Cycle => {
                let late = self.now.mono.saturating_sub(self.cycle_due);
                self.counters().allocation_latency = late;
                self.allocate(&Scope::All);
                self.cluster.allocation = Arc::new(Allocation {
                    shares: self.allocator.dominant_shares(),
                    filters: self.allocator.active_filters(),
                });
                self.plan_cycle();
            }
            Timer::Triggered => {
                if let Some((scope, since)) = self.trigger.take() {
                    self.counters().allocation_latency = self.now.mono.saturating_sub(since);
                    self.allocate(&scope);
                }
            }
            Timer::Ping(agent) => self.ping_due(&agent),
            Timer::Reregister(agent) => self.reregister_due(&agent),
            Timer::Failover(framework) => self.failover_due(&framework),
            Timer::Offer(offer) => self.offer_due(&offer),
            Timer::Heartbeat(framework, stream) => self.heartbeat_due(&framework, &stream),
            Timer::Recovered => self.recovered_due(),
            Timer::Prune => self.prune_due(),
        }
    }

    fn plan_cycle(&mut self) {
        self.cycle_due = self.now.mono.saturating_add(self.config.allocation_interval);
        self.set_timer(self.config.allocation_interval, Timer::Cycle);
    }

    fn set_timer(&mut self, after: Duration, timer: Timer) -> TimerId {
        self.timers.set(self.now.mono.saturating_add(after), timer)
    }

    /// Asks for an allocation soon; requests until then are one.
    fn trigger(&mut self, scope: Scope) {
        self.trigger = Some(match (self.trigger.take(), scope) {
            (None, scope) => {
                self.set_timer(Duration::ZERO, Timer::Triggered);
                (scope, self.now.mono)
            }
            (Some((Scope::Agents(mut all), since)), Scope::Agents(more)) => {
                all.extend(more);
                (Scope::Agents(all), since)
            }
            (Some((_, since)), _) => (Scope::All, since),
        });
    }

    fn count(&mut self, name: &'static str) {
        Arc::make_mut(&mut self.cluster.counters).add(name);
    }

    fn counters(&mut self) -> &mut Counters {
        Arc::make_mut(&mut self.cluster.counters)
    }

    fn agent(&self, id: &AgentId) -> Option<&Arc<Agent>> {
        self.cluster.agents.get(id)
    }

    fn agent_mut(&mut self, id: &AgentId) -> Option<&mut Agent> {
        self.cluster.agents.get_mut(id).map(Arc::make_mut)
    }

    fn framework(&self, id: &FrameworkId) -> Option<&Arc<Framework>> {
        self.cluster.frameworks.get(id)
    }

    fn framework_mut(&mut self, id: &FrameworkId) -> Option<&mut Framework> {
        self.cluster.frameworks.get_mut(id).map(Arc::make_mut)
    }
}
