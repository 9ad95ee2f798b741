//! The core's language: what happens to the agent and what it wants done.
//!
//! Pure data. The driver turns the outside world into [`Event`]s and runs the
//! [`Effect`]s; results of effects come back as events.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use bytes::Bytes;
use mesos::internal as m;
use mesos::{
    ContainerId, ContainerStatus, ExecutorId, ExecutorInfo, FrameworkId, MasterInfo, Resource,
    TaskInfo, TaskStatus, executor,
};
use thiserror::Error;

use super::state::StreamId;
use crate::checkpoint::{Garbage, Record, RunKey};
use crate::checks;
use crate::containerizer::{Details, Progress, Termination};
use crate::gc::Disk;

/// Numbers a checkpoint; the storage task works them off in order.
pub type Seq = u64;

/// Names a caller that waits for [`Effect::Reply`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct CallId(pub u64);

/// Something happened.
#[derive(Debug)]
pub enum Event {
    /// The detector found a leading master, or lost it.
    MasterDetected(Option<Box<MasterInfo>>),
    /// A libprocess message arrived.
    Message {
        /// The sender's address, `id@ip:port`.
        from: String,
        /// What it says.
        message: Inbound,
    },
    /// A linked peer's connection closed.
    PeerExited {
        /// Its address.
        pid: String,
    },
    /// The operator wants the agent out of the cluster: unregister, end
    /// everything, exit.
    Leave,
    /// The API hands in a call and waits for the reply.
    Call {
        /// Where the reply goes.
        id: CallId,
        /// The call.
        command: Command,
    },
    /// An HTTP executor's event stream closed at the far end.
    StreamClosed(StreamId),
    /// This checkpoint and those before it survive the agent, but not yet the machine.
    Written(Seq),
    /// A checkpoint is durable.
    Persisted(Seq),
    /// A checkpoint could not be written.
    PersistFailed {
        /// Which.
        seq: Seq,
        /// Verb, path and cause.
        error: String,
    },
    /// A launch ended well or not.
    Launched {
        /// The container.
        container: String,
        /// Its pid and status, or why not.
        result: Result<LaunchedContainer, String>,
    },
    /// How far a launch is.
    Progress {
        /// The container.
        container: String,
        /// `None`: it waits for nothing that takes long.
        progress: Option<Progress>,
    },
    /// The containerizer applied (or not) new resources.
    Updated {
        /// The container.
        container: String,
        /// As given in [`Effect::Update`].
        tasks: Vec<String>,
        /// Why not.
        result: Result<(), String>,
    },
    /// A container is gone; `None` if the containerizer does not know it.
    Terminated {
        /// The container.
        container: String,
        /// How it ended.
        termination: Option<Termination>,
    },
    /// A probe of a command task was answered.
    Checked {
        /// The task's container.
        container: String,
        /// The answer.
        event: checks::Event,
    },
    /// A timer fired.
    Timer(Timer),
    /// The file system of the work directory was looked at.
    DiskMeasured(Disk),
    /// Checkpoints met a full disk, or have room again.
    DiskFull {
        /// Whether one of them waits for room.
        waiting: bool,
        /// Files left in the reserve.
        reserve: u64,
    },
    /// Directories were moved out of the way, or not.
    Discarded {
        /// What.
        garbage: Garbage,
        /// What is to be deleted now, or why not.
        result: Result<Vec<PathBuf>, NotDiscarded>,
    },
    /// A removal ended.
    Removed {
        /// What; `None`: what an earlier agent had begun to delete.
        garbage: Option<Garbage>,
        /// Files and directories that went, or why not all.
        result: Result<u64, String>,
    },
    /// Garbage was measured.
    Weighed {
        /// What.
        garbage: Garbage,
        /// What its files occupy; `None`: it could not be read.
        bytes: Option<u64>,
    },
    /// A nested or standalone container is over.
    ContainerEnded {
        /// Its sandbox, relative to the work directory.
        sandbox: PathBuf,
    },
    /// The clock was set.
    ClockSet {
        /// By how many seconds.
        by: f64,
    },
}

/// Why garbage stays where it is for now.
#[derive(Debug)]
pub enum NotDiscarded {
    /// Somebody reads it through `/files`.
    InUse,
    /// It cannot be moved.
    Failed(String),
}

/// A container that started.
#[derive(Debug, Clone, PartialEq)]
pub struct LaunchedContainer {
    /// Init's pid in the host's pid namespace; `None` if it has ended already.
    pub pid: Option<u32>,
    /// What isolators say of it.
    pub status: Option<ContainerStatus>,
    /// What the first TASK_RUNNING says besides.
    pub details: Option<Details>,
}

/// Messages that the agent understands; the decoder is `agent::inbox`.
#[derive(Debug)]
#[allow(missing_docs)] // Mesos' message names
pub enum Inbound {
    SlaveRegistered(m::SlaveRegisteredMessage),
    SlaveReregistered(m::SlaveReregisteredMessage),
    Ping(m::PingSlaveMessage),
    Drain(m::DrainSlaveMessage),
    Shutdown(m::ShutdownMessage),
    RunTask(Box<m::RunTaskMessage>),
    RunTaskGroup(Box<m::RunTaskGroupMessage>),
    KillTask(m::KillTaskMessage),
    ShutdownExecutor(m::ShutdownExecutorMessage),
    ShutdownFramework(m::ShutdownFrameworkMessage),
    UpdateFramework(Box<m::UpdateFrameworkMessage>),
    FrameworkToExecutor(m::FrameworkToExecutorMessage),
    Acknowledgement(m::StatusUpdateAcknowledgementMessage),
    ApplyOperation(Box<m::ApplyOperationMessage>),
    AcknowledgeOperation(m::AcknowledgeOperationStatusMessage),
    ReconcileOperations(m::ReconcileOperationsMessage),
    CheckpointResources(m::CheckpointResourcesMessage),
    RegisterExecutor(m::RegisterExecutorMessage),
    ReregisterExecutor(Box<m::ReregisterExecutorMessage>),
    StatusUpdate(Box<m::StatusUpdateMessage>),
    ExecutorToFramework(m::ExecutorToFrameworkMessage),
}

/// A call of the HTTP API that changes the agent.
#[derive(Debug)]
pub enum Command {
    /// v1 executor SUBSCRIBE; on success the stream starts with SUBSCRIBED.
    Subscribe {
        /// The caller's framework.
        framework: FrameworkId,
        /// The caller.
        executor: ExecutorId,
        /// Where its events go.
        stream: StreamId,
        /// What it had to tell when it lost the agent.
        subscribe: Box<executor::call::Subscribe>,
    },
    /// v1 executor UPDATE.
    Update {
        /// The caller's framework.
        framework: FrameworkId,
        /// The caller.
        executor: ExecutorId,
        /// The status; uuid and source are required.
        status: Box<TaskStatus>,
    },
    /// v1 executor MESSAGE to its scheduler.
    Message {
        /// The caller's framework.
        framework: FrameworkId,
        /// The caller.
        executor: ExecutorId,
        /// The payload.
        data: Vec<u8>,
    },
    /// v1 executor HEARTBEAT: checked, otherwise ignored.
    Heartbeat {
        /// The caller's framework.
        framework: FrameworkId,
        /// The caller.
        executor: ExecutorId,
    },
}

/// Why a call was not taken. Displays as Mesos words it; the API adds the status.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum Refusal {
    /// Answered with 503.
    #[error("Agent has not finished recovery")]
    Recovering,
    /// Answered with 400.
    #[error("Framework cannot be found")]
    UnknownFramework,
    /// Answered with 400.
    #[error("Executor cannot be found")]
    UnknownExecutor,
    /// Answered with 403.
    #[error("Executor is not subscribed")]
    NotSubscribed,
    /// Answered with 400; says what is wrong.
    #[error("{0}")]
    Invalid(String),
}

/// An encoded libprocess message.
#[derive(Debug, Clone, PartialEq)]
pub struct WireMessage {
    /// Full protobuf name, `mesos.internal.RegisterSlaveMessage`.
    pub name: String,
    /// Protobuf bytes.
    pub body: Bytes,
}

impl WireMessage {
    /// Encodes `message`.
    pub fn of<M: prost::Message + prost::Name>(message: &M) -> Self {
        WireMessage { name: M::full_name(), body: message.encode_to_vec().into() }
    }
}

/// Something to start a container from.
#[derive(Debug, Clone, PartialEq)]
pub struct LaunchSpec {
    /// Names the paths.
    pub run: RunKey,
    /// The container.
    pub container: ContainerId,
    /// The executor; for a played one the made-up info.
    pub executor: ExecutorInfo,
    /// The task that runs in the container itself, if the agent plays its executor.
    pub task: Option<TaskInfo>,
    /// Executor and tasks together.
    pub requests: Vec<Resource>,
    /// Limits by name, possibly infinite.
    pub limits: BTreeMap<String, f64>,
    /// The user to run as.
    pub user: Option<String>,
    /// Whether the framework checkpoints (part of the executor's environment).
    pub checkpoint: bool,
}

/// Something to be done by the driver, in order of emission.
#[derive(Debug)]
pub enum Effect {
    /// Ask the detector again; the answer is [`Event::MasterDetected`].
    Detect,
    /// Keep a connection to this address and report its end.
    Link {
        /// The peer.
        to: String,
    },
    /// Send a libprocess message as the agent.
    Send {
        /// The receiver.
        to: String,
        /// The message.
        message: WireMessage,
    },
    /// Put an event on an executor's HTTP stream.
    Stream {
        /// The stream.
        stream: StreamId,
        /// The event.
        event: Box<executor::Event>,
    },
    /// End an executor's HTTP stream.
    CloseStream(StreamId),
    /// Answer a call.
    Reply {
        /// The caller.
        call: CallId,
        /// Taken or refused.
        result: Result<(), Refusal>,
    },
    /// Write a checkpoint; the answers are [`Event::Written`], which may be
    /// left out, and [`Event::Persisted`], each in order of `seq`.
    Persist {
        /// Its number.
        seq: Seq,
        /// What to write.
        record: Record,
    },
    /// Make the sandbox and start the container ([`Event::Launched`]), then watch it.
    Launch(Box<LaunchSpec>),
    /// Ask how far a launch is; the answer is [`Event::Progress`].
    AskProgress {
        /// The container.
        container: ContainerId,
    },
    /// Watch a recovered container ([`Event::Terminated`]).
    Watch {
        /// The container.
        container: ContainerId,
    },
    /// Resize a container; the answer is [`Event::Updated`].
    Update {
        /// The container.
        container: ContainerId,
        /// Requested resources.
        requests: Vec<Resource>,
        /// Limits by name.
        limits: BTreeMap<String, f64>,
        /// The queued tasks that wait for it.
        tasks: Vec<String>,
    },
    /// Signal every process of a container.
    Signal {
        /// The container.
        container: ContainerId,
        /// The signal's number.
        signal: i32,
    },
    /// Kill and clean up a container.
    Destroy {
        /// The container.
        container: ContainerId,
        /// State, reason and message to report.
        termination: Option<Termination>,
    },
    /// The container's end is stored: its exit record may go.
    Forget {
        /// The container.
        container: ContainerId,
    },
    /// Start a timer.
    Schedule {
        /// From now.
        after: Duration,
        /// Comes back as [`Event::Timer`].
        timer: Timer,
    },
    /// Probe a command task; the answer is [`Event::Checked`].
    Probe {
        /// The task's container.
        container: ContainerId,
        /// Its first process.
        pid: Option<u32>,
        /// Its sandbox.
        directory: String,
        /// The user it runs as.
        user: Option<String>,
        /// What to ask.
        attempt: Box<checks::Attempt>,
    },
    /// Look at the work directory's file system ([`Event::DiskMeasured`]).
    MeasureDisk,
    /// Move directories out of the way, in order with the checkpoints
    /// ([`Event::Discarded`]).
    Discard {
        /// Which.
        garbage: Garbage,
        /// Even if somebody reads it.
        urgent: bool,
    },
    /// Delete what was moved ([`Event::Removed`]).
    Remove {
        /// What it was.
        garbage: Garbage,
        /// Where it is now.
        paths: Vec<PathBuf>,
    },
    /// Measure garbage ([`Event::Weighed`]).
    Weigh(Garbage),
    /// End the process: nothing sensible can follow.
    Exit {
        /// For the operator.
        message: String,
        /// Whether this is an orderly end.
        ok: bool,
    },
}

/// What a timer is about. Generations make old timers harmless.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Timer {
    /// Try to register (again).
    Register {
        /// Of the detection.
        generation: u64,
        /// The longest wait before the next try.
        backoff: Duration,
    },
    /// The master was silent for too long.
    PingTimeout {
        /// Of the newest ping.
        generation: u64,
    },
    /// An executor has not registered in time.
    ExecutorRegistration {
        /// Its container.
        container: String,
    },
    /// Recovered executors have had their time to come back.
    ExecutorReregistration,
    /// Ask silent V0 executors again to reconnect.
    ExecutorReconnect,
    /// A launch takes its time: its framework is to be told how far it is.
    Progress {
        /// The container.
        container: String,
    },
    /// An executor had its time to shut down.
    ExecutorShutdown {
        /// Its container.
        container: String,
    },
    /// The grace period of a played kill is over.
    KillGrace {
        /// The container.
        container: String,
        /// Of the kill.
        generation: u64,
    },
    /// A played task's `max_completion_time` is over.
    MaxCompletion {
        /// The container.
        container: String,
    },
    /// A played task is to be checked.
    Check {
        /// The container.
        container: String,
        /// Which of its checks.
        kind: checks::Kind,
        /// Of the round.
        round: u64,
    },
    /// Send an unacknowledged status update again.
    UpdateRetry {
        /// The framework.
        framework: String,
        /// The task.
        task: String,
        /// Of the update at the front of its stream.
        generation: u64,
    },
    /// Send an unacknowledged update of an operation again.
    OperationRetry {
        /// Its uuid.
        operation: Vec<u8>,
        /// Of its last sending.
        generation: u64,
        /// How long it waited for this time.
        after: Duration,
    },
    /// Look at the disk and collect sandboxes.
    DiskWatch {
        /// Of the newest look.
        generation: u64,
    },
    /// Send HEARTBEAT on an executor's stream.
    StreamHeartbeat(StreamId),
}
