//! What reaches the core and what it asks the driver to do.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use thiserror::Error;

use super::cluster::{Agent, Framework, Standing};
use crate::master::ids::{AgentId, FrameworkId, Pid};

/// The time of an event: the core reads no clock.
#[derive(Debug, Clone, Copy, Default)]
pub struct Now {
    /// Since the start of the master; never jumps. Timers run by it.
    pub mono: Duration,
    /// Since the epoch. Goes into messages.
    pub wall: Duration,
}

impl Now {
    /// Seconds since the epoch, as Mesos puts times into messages.
    #[must_use]
    pub fn seconds(&self) -> f64 {
        self.wall.as_secs_f64()
    }

    /// The wall time as a `TimeInfo`.
    #[must_use]
    pub fn time_info(&self) -> mesos::TimeInfo {
        time_info(self.wall)
    }
}

/// A time since the epoch as a message.
#[must_use]
pub fn time_info(since_epoch: Duration) -> mesos::TimeInfo {
    mesos::TimeInfo { nanoseconds: i64::try_from(since_epoch.as_nanos()).unwrap_or(i64::MAX) }
}

/// The id of a scheduler's event stream, the value of `Mesos-Stream-Id`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StreamId(Arc<str>);

impl StreamId {
    /// The header value.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl From<&str> for StreamId {
    fn from(text: &str) -> Self {
        StreamId(text.into())
    }
}

impl fmt::Display for StreamId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for StreamId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Whom an [`Effect::Reply`] answers. The driver makes these up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ReplyId(pub u64);

/// Everything that can change the master.
#[derive(Debug)]
pub enum Event {
    /// A libprocess message arrived for process `to` of this master.
    Message {
        /// The claimed sender.
        from: Pid,
        /// The addressed process: `master` or `slave-observer(N)`.
        to: String,
        /// Full name of the message type.
        name: String,
        /// Its protobuf bytes, unchecked.
        body: Bytes,
    },
    /// The link to this process broke.
    Exited(Pid),
    /// A scheduler opened an event stream.
    Subscribe {
        /// Where its events go.
        stream: StreamId,
        /// The call; its shape is checked already.
        subscribe: Box<mesos::scheduler::call::Subscribe>,
    },
    /// A scheduler's event stream ended from the other side.
    StreamClosed(StreamId),
    /// Any other scheduler call over HTTP; its shape is checked already.
    Call {
        /// The call.
        call: Box<mesos::scheduler::Call>,
        /// The `Mesos-Stream-Id` it came with.
        stream: Option<String>,
        /// Who waits for the answer.
        reply: ReplyId,
    },
    /// An operator wants something changed.
    Operator {
        /// What.
        command: Command,
        /// Who waits for the answer.
        reply: ReplyId,
    },
    /// The registry has stored all changes up to this number.
    Stored(u64),
    /// Time passed: timers may be due.
    Tick,
}

/// A change an operator asks for.
#[derive(Debug, Clone)]
pub enum Command {
    /// End a framework and everything it runs.
    Teardown(FrameworkId),
    /// Set the weights of these roles.
    UpdateWeights(Vec<mesos::WeightInfo>),
    /// Declare an agent gone for good.
    MarkAgentGone(AgentId),
    /// End what runs on an agent and offer its resources no more.
    DrainAgent(AgentId, mesos::DrainConfig),
    /// Stop offering an agent's resources.
    DeactivateAgent(AgentId),
    /// Offer them again.
    ReactivateAgent(AgentId),
}

/// What the driver is asked to do, in order.
#[derive(Debug, Clone)]
pub enum Effect {
    /// Send a libprocess message.
    Send {
        /// The sending process of this master.
        from: Process,
        /// To whom.
        to: Pid,
        /// Full name of the message type.
        name: &'static str,
        /// Its protobuf bytes.
        body: Bytes,
    },
    /// Keep a connection to this process and report its end.
    Link(Pid),
    /// Forget about it.
    Unlink(Pid),
    /// Put an event on a scheduler's stream.
    Event(StreamId, Arc<mesos::scheduler::Event>),
    /// End a scheduler's stream after what was put on it.
    Close(StreamId),
    /// Tell the operators' streams.
    Operator(OperatorEvent),
    /// Make a change of the registry durable, then say [`Event::Stored`].
    Store(u64, Change),
    /// Answer a waiting caller.
    Reply(ReplyId, Result<(), Refusal>),
}

/// A process of this master that sends messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Process {
    /// `master`.
    Master,
    /// `slave-observer(N)`, which pings one agent.
    Observer(u64),
}

impl fmt::Display for Process {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Process::Master => f.write_str("master"),
            Process::Observer(n) => write!(f, "slave-observer({n})"),
        }
    }
}

/// What operators' event streams are told.
#[derive(Debug, Clone)]
pub enum OperatorEvent {
    /// A task was launched or learned of.
    TaskAdded(Arc<mesos::Task>),
    /// A task has a new state or check result.
    TaskUpdated {
        /// Whose task.
        framework: FrameworkId,
        /// The update.
        status: Arc<mesos::TaskStatus>,
        /// The newest known state of the task.
        state: mesos::TaskState,
    },
    /// An agent registered.
    AgentAdded(Arc<Agent>),
    /// An agent was removed.
    AgentRemoved(AgentId),
    /// A framework subscribed for the first time, or was learned of.
    FrameworkAdded(Arc<Framework>),
    /// A framework subscribed again or changed itself.
    FrameworkUpdated(Arc<Framework>),
    /// A framework was removed.
    FrameworkRemoved(Arc<mesos::FrameworkInfo>),
}

/// A change of the registry: what must survive the master's death.
#[derive(Debug, Clone, PartialEq)]
pub enum Change {
    /// Who leads now.
    Master(Box<mesos::MasterInfo>),
    /// An agent is admitted, changed or reachable again.
    Admit(Arc<mesos::SlaveInfo>),
    /// An agent is not one of ours any more.
    Remove(AgentId),
    /// An agent stopped answering at this time since the epoch.
    Unreachable(AgentId, Duration),
    /// An agent is gone for good since this time.
    Gone(AgentId, Duration),
    /// Where an agent stands with its operator.
    Standing(AgentId, Standing),
    /// Old entries of unreachable and gone agents are forgotten.
    Prune(Vec<AgentId>),
    /// The weights of these roles are now these.
    Weights(Vec<mesos::WeightInfo>),
}

/// Why a call was not done. The API knows the status codes.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum Refusal {
    /// The call cannot be right.
    #[error("{0}")]
    Invalid(String),
    /// The framework is known but has no connection.
    #[error("{0}")]
    NotSubscribed(&'static str),
    /// What the call is about does not exist.
    #[error("{0}")]
    NotFound(String),
    /// It contradicts what is being done.
    #[error("{0}")]
    Conflict(String),
    /// It is being changed right now, or the master is overloaded.
    #[error("{0}")]
    Busy(String),
}
