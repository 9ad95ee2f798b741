//! The visible state of the master: agents, frameworks, tasks, offers.
//!
//! Owned by the core; a snapshot is a clone of [`Cluster`], which copies
//! pointers only. Readers (`api`) take it as it is.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use super::counters::Counters;
use super::tally::Tally;
use crate::master::Resources;
use crate::master::ids::{AgentId, ExecutorId, FrameworkId, OfferId, Pid, TaskId};
use crate::master::shared::SharedMap;

/// Everything readers may see.
#[derive(Debug, Clone, Default)]
pub struct Cluster {
    /// Registered agents, connected or not.
    pub agents: SharedMap<AgentId, Arc<Agent>>,
    /// Agents known from the registry that have not come back since this
    /// master started.
    pub recovered: Arc<BTreeMap<AgentId, Arc<mesos::SlaveInfo>>>,
    /// Agents that stopped answering, with the time since the epoch.
    pub unreachable: Arc<BTreeMap<AgentId, Duration>>,
    /// Agents the operator declared gone, with the time since the epoch.
    pub gone: Arc<BTreeMap<AgentId, Duration>>,
    /// What operators said of agents, registered or not; the rest stand as usual.
    pub standings: Arc<BTreeMap<AgentId, Standing>>,
    /// Frameworks that may still do something.
    pub frameworks: SharedMap<FrameworkId, Arc<Framework>>,
    /// Removed frameworks, oldest first, at most `--max_completed_frameworks`.
    pub completed_frameworks: Arc<VecDeque<Arc<Framework>>>,
    /// Outstanding offers.
    pub offers: SharedMap<OfferId, Arc<mesos::Offer>>,
    /// Weights of roles that are not 1.
    pub weights: Arc<BTreeMap<String, f64>>,
    /// `--roles`, if given: no other role may be used.
    pub role_whitelist: Option<Arc<BTreeSet<String>>>,
    /// What was counted so far, for the metrics.
    pub counters: Arc<Counters>,
    /// How the allocator saw it after its latest regular cycle, for the metrics.
    pub allocation: Arc<Allocation>,
}

/// What only the allocator knows.
#[derive(Debug, Clone, Default)]
pub struct Allocation {
    /// Dominant share of each role with frameworks.
    pub shares: Vec<(String, f64)>,
    /// Refusals in force per role.
    pub filters: BTreeMap<String, usize>,
}

/// Where an agent stands with its operator.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Standing {
    /// It gets no offers.
    pub deactivated: bool,
    /// It is draining or drained.
    pub drain: Option<mesos::DrainInfo>,
    /// When it was told to drain, since the epoch; later masters do not know.
    pub drain_start: Option<Duration>,
}

impl Standing {
    /// Whether something may still run.
    #[must_use]
    pub fn is_draining(&self) -> bool {
        self.drain.is_some_and(|drain| drain.state() == mesos::DrainState::Draining)
    }
}

/// A registered agent.
#[derive(Debug, Clone)]
pub struct Agent {
    /// Its id, the same over restarts.
    pub id: AgentId,
    /// As it registered, id included; resources in the format with `reservations`.
    pub info: Arc<mesos::SlaveInfo>,
    /// Where its messages go, `slave(1)@ip:port`.
    pub pid: Pid,
    /// Its version.
    pub version: Arc<str>,
    /// What it can do, in the order it said so.
    pub capabilities: Arc<[mesos::slave_info::capability::Type]>,
    /// First registration with this master, since the epoch.
    pub registered: Duration,
    /// Latest re-registration, since the epoch.
    pub reregistered: Option<Duration>,
    /// The link to it is up.
    pub connected: bool,
    /// It gets offers: connected and not deactivated.
    pub active: bool,
    /// What the operator said of it.
    pub standing: Standing,
    /// Everything it has now: registered resources, operations applied,
    /// revocable ones.
    pub total: Resources,
    /// Dynamically reserved resources and volumes the agent keeps over restarts.
    pub checkpointed: Resources,
    /// What tasks and executors of each framework use.
    pub used: BTreeMap<FrameworkId, Resources>,
    /// Sum of the outstanding offers.
    pub offered: Resources,
    /// Tasks on it that have not ended or whose end is not acknowledged.
    pub tasks: SharedMap<(FrameworkId, TaskId), ()>,
    /// Executors the master knows of (not those of command tasks).
    pub executors: Arc<BTreeMap<(FrameworkId, ExecutorId), Arc<mesos::ExecutorInfo>>>,
    /// Version of its default resources, echoed in launches and operations.
    pub resource_version: Option<mesos::Uuid>,
    /// Operations not finished or not acknowledged.
    pub operations: Arc<Vec<Arc<mesos::Operation>>>,
}

impl Agent {
    /// Whether it can do `what`.
    #[must_use]
    pub fn can(&self, what: mesos::slave_info::capability::Type) -> bool {
        self.capabilities.contains(&what)
    }
}

/// How a framework stands with the master.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FrameworkState {
    /// Known from an agent only; its scheduler has not come back.
    Recovered,
    /// Its connection broke; it has until its failover timeout.
    Disconnected,
    /// Connected, but asked not to get offers (an old driver's `abort`).
    Inactive,
    /// Connected and getting offers.
    Active,
}

/// A framework.
#[derive(Debug, Clone)]
pub struct Framework {
    /// Its id.
    pub id: FrameworkId,
    /// As it subscribed, id included.
    pub info: Arc<mesos::FrameworkInfo>,
    /// Its roles (from `roles`, or the one `role`).
    pub roles: Arc<BTreeSet<String>>,
    /// Roles it wants no offers for.
    pub suppressed: Arc<BTreeSet<String>>,
    /// Attribute constraints on its offers.
    pub constraints: Option<Arc<mesos::scheduler::OfferConstraints>>,
    /// Address of its driver; none over HTTP.
    pub pid: Option<Pid>,
    /// Connected, active, ...
    pub state: FrameworkState,
    /// First subscription, since the epoch.
    pub registered: Duration,
    /// Latest subscription again, since the epoch.
    pub reregistered: Option<Duration>,
    /// Removal, since the epoch.
    pub unregistered: Option<Duration>,
    /// Tasks that have not ended or whose end is not acknowledged.
    pub tasks: SharedMap<TaskId, Arc<mesos::Task>>,
    /// Tasks on agents that stopped answering, oldest first, at most
    /// `--max_unreachable_tasks_per_framework`.
    pub unreachable_tasks: Arc<VecDeque<Arc<mesos::Task>>>,
    /// Ended tasks, oldest first, at most `--max_completed_tasks_per_framework`.
    pub completed_tasks: Arc<VecDeque<Arc<mesos::Task>>>,
    /// Its executors per agent (not those of command tasks).
    pub executors: SharedMap<(AgentId, ExecutorId), Arc<mesos::ExecutorInfo>>,
    /// Its outstanding offers.
    pub offers: SharedMap<OfferId, ()>,
    /// What it uses on each agent.
    pub used: SharedMap<AgentId, Resources>,
    /// Sum of `used`.
    pub total_used: Resources,
    /// Sum of its offers.
    pub total_offered: Resources,
    /// What was counted of it, for the metrics.
    pub tally: Arc<Tally>,
}

impl Framework {
    /// Whether it said it can do `what`.
    #[must_use]
    pub fn can(&self, what: mesos::framework_info::capability::Type) -> bool {
        self.info.capabilities.iter().any(|c| c.r#type() == what)
    }

    /// Whether its scheduler is connected.
    #[must_use]
    pub fn connected(&self) -> bool {
        matches!(self.state, FrameworkState::Active | FrameworkState::Inactive)
    }

    /// Whether it gets offers.
    #[must_use]
    pub fn active(&self) -> bool {
        self.state == FrameworkState::Active
    }

    /// Whether it is known from agents only.
    #[must_use]
    pub fn recovered(&self) -> bool {
        self.state == FrameworkState::Recovered
    }
}

/// The roles of a framework: `roles` if it is `MULTI_ROLE`, else its one `role`.
#[must_use]
pub fn roles_of(info: &mesos::FrameworkInfo) -> BTreeSet<String> {
    let multi = mesos::framework_info::capability::Type::MultiRole;
    if info.capabilities.iter().any(|c| c.r#type() == multi) {
        info.roles.iter().cloned().collect()
    } else {
        BTreeSet::from([info.role().to_owned()])
    }
}
