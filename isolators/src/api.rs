//! The only contract between the containerizer and an isolator.
//!
//! Two traits. An [`Isolator`] is one value per agent: configuration and shared
//! allocators. An [`Isolation`] is its handle on one container. A container is
//! born with all its handles attached, so "unknown container" cannot be said and
//! `cleanup` can always be called.
//!
//! Order of calls on one handle: `prepare`, `isolate` and `watch` (before the
//! container executes), `probes` (when it runs), then `update`, `status` any
//! number of times, `ended` when init is gone, then `cleanup`. After a restart of
//! the agent `recover` makes the handle; `watch` and `probes` come next. Every
//! method has a default that does nothing.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use async_trait::async_trait;
use mesos::{
    CommandInfo, ContainerId, ContainerInfo, ContainerStatus, Resource, ResourceStatistics,
};
use oci_spec::runtime::{
    LinuxCapabilities, LinuxDevice, LinuxIdMapping, LinuxNamespace, LinuxTimeOffset, Mount,
    PosixRlimit,
};
use thiserror::Error;
use tokio::sync::oneshot;

use crate::image::Runtime;
use crate::plan::{CgroupJoin, Environment, FileOperation, SystemCallFilter};

/// What is known of a container when its handles are made.
#[derive(Debug, Clone, Default)]
pub struct ContainerContext {
    /// The container, with its parents if it is nested.
    pub id: ContainerId,
    /// The requested container, if any (volumes, rlimits, network, ...).
    pub info: Option<ContainerInfo>,
    /// Host path of the sandbox; exists and belongs to `user`.
    pub sandbox: PathBuf,
    /// Host path of the root file system, `None` for the host's own.
    pub rootfs: Option<PathBuf>,
    /// Runtime directory of this container (tmpfs, survives the agent).
    pub runtime: PathBuf,
    /// The user the task runs as, `None` to stay what the agent is.
    pub user: Option<String>,
    /// `uid` and `gid` of `user`.
    pub ids: Option<(u32, u32)>,
    /// Requested resources.
    pub requests: Vec<Resource>,
    /// Limits by resource name (`cpus`, `mem`); may be infinite.
    pub limits: BTreeMap<String, f64>,
    /// Labels of the task, or of the executor where there is no task.
    pub labels: BTreeMap<String, String>,
    /// The container that this one is nested in.
    pub parent: Option<Parent>,
    /// Writable directories outside the sandbox that share its disk quota (the
    /// upper directory of an overlay root).
    pub ephemeral_volumes: Vec<PathBuf>,
    /// A command task: the container runs the task itself, no executor.
    pub command_task: bool,
    /// What is to be executed, as it was asked for.
    pub command: CommandInfo,
    /// What the image says, if `rootfs` is one's.
    pub image: Option<Arc<Runtime>>,
}

/// What a container executes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Command {
    /// The program, if it is not the first of the arguments.
    pub executable: Option<String>,
    /// From its own name on.
    pub arguments: Vec<String>,
}

/// The running container that a nested one belongs to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Parent {
    /// Its init's pid in the host's pid namespace.
    pub pid: u32,
    /// Host path of its sandbox.
    pub sandbox: PathBuf,
    /// Its runtime directory.
    pub runtime: PathBuf,
    /// Whether its own ancestors, and it, share the agent's pid namespace.
    pub host_pid_namespace: bool,
}

/// One container's part of the launch plan, as data. The merge applies Mesos'
/// rules: working directory, capabilities, rlimits and seccomp have one owner;
/// namespaces and groups are sets; mounts and environment keep their order.
#[derive(Debug, Clone, Default, PartialEq)]
#[allow(missing_docs)]
pub struct Contribution {
    pub namespaces: Vec<LinuxNamespace>,
    pub mounts: Vec<Mount>,
    pub devices: Vec<LinuxDevice>,
    /// In place of the command as it was asked for.
    pub command: Option<Command>,
    pub environment: Environment,
    pub working_directory: Option<PathBuf>,
    pub rlimits: Option<Vec<PosixRlimit>>,
    pub capabilities: Option<LinuxCapabilities>,
    pub seccomp: Option<Arc<SystemCallFilter>>,
    pub no_new_privileges: bool,
    pub masked_paths: Vec<String>,
    pub readonly_paths: Vec<String>,
    pub supplementary_groups: Vec<u32>,
    pub cgroups: Vec<CgroupJoin>,
    pub file_operations: Vec<FileOperation>,
    /// Directories of the host that tasks can change and that mounts come from.
    pub wild: Vec<PathBuf>,
    pub oom_score_adj: Option<i32>,
    pub hostname: Option<String>,
    /// Kernel settings of the container's own namespaces, by dotted name.
    pub sysctls: BTreeMap<String, Sysctl>,
    /// Of the new time namespace: `monotonic`, `boottime`.
    pub time_offsets: BTreeMap<String, LinuxTimeOffset>,
    /// Of the user namespace, new or joined.
    pub id_mappings: Option<IdMappings>,
    /// The child must wait for this isolator's `isolate` before it executes.
    pub needs_pid: bool,
}

/// A kernel setting of one of the container's own namespaces.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sysctl {
    /// What is written.
    pub value: String,
    /// Left out where the container shares the namespace; else that is an error.
    pub optional: bool,
    /// Gives way to another isolator that sets it; else two are an error.
    pub yields: bool,
}

/// Which ids inside a user namespace are which outside. All bind mounts of the
/// container are mapped by them: files keep their owners on the host.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct IdMappings {
    /// Of users.
    pub uids: Vec<LinuxIdMapping>,
    /// Of groups.
    pub gids: Vec<LinuxIdMapping>,
}

/// A limit was hit; the container is destroyed and the task fails with this.
#[derive(Debug, Clone, PartialEq)]
pub struct Limitation {
    /// The resource and the amount that was hit.
    pub resources: Vec<Resource>,
    /// For people: limit, peak, and what was using it.
    pub message: String,
    /// Mesos' reason, for example `ReasonContainerLimitationMemory`.
    pub reason: mesos::task_status::Reason,
}

/// Completes when a limit is hit. Dropping it unsubscribes. A dropped sender
/// means that the limit can no longer be watched: the reader logs it and goes on.
pub type Watch = oneshot::Receiver<Limitation>;

/// One source of figures of one container: a kept file, mostly. The sampler owns
/// all probes of all containers and walks them source by source, not container by
/// container, which is kinder to the caches.
pub trait Probe: Send + std::fmt::Debug {
    /// What is read, for example `memory.stat`. Orders the sampling pass.
    fn source(&self) -> &'static str;

    /// Adds the newest figures; partial and best effort. `buffer` is scratch
    /// space. Blocks on nothing but the kernel.
    fn sample(
        &mut self,
        buffer: &mut Vec<u8>,
        statistics: &mut ResourceStatistics,
    ) -> Result<(), IsolatorError>;

    /// Nobody has asked for statistics for long: give descriptors back.
    fn release(&mut self) {}
}

/// Why an isolator could not do its step.
#[derive(Debug, Error)]
#[error("{isolator}: failed to {verb} {object}")]
pub struct IsolatorError {
    /// Name as in `--isolation`.
    pub isolator: &'static str,
    /// What was being done.
    pub verb: &'static str,
    /// To what: a path, a device, a value and what was expected of it.
    pub object: String,
    /// The kernel's answer, if there was one.
    #[source]
    pub source: Option<Box<dyn std::error::Error + Send + Sync>>,
}

impl IsolatorError {
    /// An error that has a cause.
    pub fn new(
        isolator: &'static str,
        verb: &'static str,
        object: impl Into<String>,
        source: impl std::error::Error + Send + Sync + 'static,
    ) -> IsolatorError {
        IsolatorError { isolator, verb, object: object.into(), source: Some(Box::new(source)) }
    }

    /// An error that says everything itself.
    pub fn plain(
        isolator: &'static str,
        verb: &'static str,
        object: impl Into<String>,
    ) -> IsolatorError {
        IsolatorError { isolator, verb, object: object.into(), source: None }
    }

    /// The whole chain in one line, for people.
    #[must_use]
    pub fn chain(&self) -> String {
        kernel::chain(self)
    }
}

/// A container found at recovery.
#[derive(Debug, Clone)]
pub struct Known {
    /// As at launch, read back from the checkpoint.
    pub context: Arc<ContainerContext>,
    /// Init's pid in the host's pid namespace, if it still runs.
    pub pid: Option<u32>,
}

/// What `recover` made of the kernel's state.
#[derive(Debug)]
pub struct Recovered {
    /// One handle for each known container, in the order given.
    pub handles: Vec<Box<dyn Isolation>>,
    /// Kernel leftovers that carry our marks and that no known container claims;
    /// already being cleaned up by the isolator, named here for the report.
    pub leftovers: Vec<String>,
}

impl Recovered {
    /// Handles as for new containers: of an isolator that keeps nothing of them, or
    /// has just put it in order.
    #[must_use]
    pub fn attached(isolator: &(impl Isolator + ?Sized), known: &[Known]) -> Recovered {
        let handles = known.iter().map(|known| isolator.attach(&known.context)).collect();
        Recovered { handles, leftovers: Vec::new() }
    }
}

/// What an isolator is called, and which containers get a handle besides those of tasks
/// and executors.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct About {
    /// As in `--isolation`.
    pub name: &'static str,
    /// Nested containers do.
    pub nesting: bool,
    /// Standalone containers do.
    pub standalone: bool,
}

impl About {
    /// Of an isolator of all containers.
    #[must_use]
    pub const fn everywhere(name: &'static str) -> About {
        About { name, nesting: true, standalone: true }
    }

    /// Of an isolator of tasks and executors only.
    #[must_use]
    pub const fn top_level(name: &'static str) -> About {
        About { name, nesting: false, standalone: false }
    }
}

/// One isolator of the agent.
#[async_trait]
pub trait Isolator: Send + Sync {
    /// What it is called, and which containers it serves.
    fn about(&self) -> About;

    /// Name as in `--isolation`.
    fn name(&self) -> &'static str {
        self.about().name
    }

    /// Figures of the isolator itself, for `/metrics/snapshot`: Mesos' names and values.
    fn metrics(&self) -> Vec<(String, f64)> {
        Vec::new()
    }

    /// Makes the handle of a new container. Infallible and without side effects:
    /// called before anything is done for the container.
    fn attach(&self, context: &Arc<ContainerContext>) -> Box<dyn Isolation>;

    /// Called once at start, before any other call, with every container the
    /// checkpoints know. Rebuilds handles from kernel state and `Known`.
    ///
    /// # Errors
    /// Only when no handle can be given at all; fails the agent's recovery.
    async fn recover(&self, known: &[Known]) -> Result<Recovered, IsolatorError>;
}

/// One isolator's handle on one container.
#[async_trait]
pub trait Isolation: Send + Sync + std::fmt::Debug {
    /// Makes what the container needs and says what goes into its plan. Called
    /// once, strictly in table order; the isolators before have succeeded. On
    /// error the container is destroyed and `cleanup` called on all handles.
    async fn prepare(&mut self) -> Result<Contribution, IsolatorError> {
        Ok(Contribution::default())
    }

    /// Called with init's pid, all isolators at once. The child is blocked only
    /// if a contribution said `needs_pid`; else it may be running already.
    async fn isolate(&mut self, _pid: u32) -> Result<(), IsolatorError> {
        Ok(())
    }

    /// Starts to watch for a limit; `None` if there is nothing to watch. Called
    /// once before the child executes, and once after recovery.
    fn watch(&mut self) -> Option<Watch> {
        None
    }

    /// Applies new requests and limits to the running container.
    async fn update(
        &mut self,
        _requests: &[Resource],
        _limits: &BTreeMap<String, f64>,
    ) -> Result<(), IsolatorError> {
        Ok(())
    }

    /// The sources of this container's figures. Called once when the container
    /// runs, and once after recovery; off the launch path.
    fn probes(&mut self) -> Vec<Box<dyn Probe>> {
        Vec::new()
    }

    /// Init has ended; called before `cleanup`, while everything still exists. A
    /// limit that was hit and that the watch may have had no time to report.
    fn ended(&mut self) -> Option<Limitation> {
        None
    }

    /// Adds this isolator's part of the container's status.
    fn status(&mut self, _status: &mut ContainerStatus) -> Result<(), IsolatorError> {
        Ok(())
    }

    /// Undoes everything. Called in reverse table order, each awaited even if
    /// the one before failed; after a half-done `prepare` as well, and twice.
    /// No process of the container is left when it is called.
    async fn cleanup(&mut self) -> Result<(), IsolatorError> {
        Ok(())
    }
}
