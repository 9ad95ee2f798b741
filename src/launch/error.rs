//! Why a container did not start.
//!
//! Made by this module's compiler, the spawn call and the shim's report; read by
//! the containerizer, which turns it into Mesos' words.

use std::fmt;
use std::io;

use thiserror::Error;

/// What was being done when a launch failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Step {
    /// Reading the program in the shim.
    Load,
    /// Becoming the reaper of orphans.
    Reaper,
    /// Opening something that a later step needs.
    Open,
    /// Entering an existing namespace.
    JoinNamespace,
    /// Making a new namespace after joining the cgroups.
    NewNamespace,
    /// Setting the host name.
    Hostname,
    /// Mounting, attaching or restricting a mount.
    Mount,
    /// Mapping the ids of a mount.
    MapIds,
    /// Making directories, links, device nodes.
    File,
    /// Changing the root.
    Root,
    /// Masking or protecting a path.
    Mask,
    /// Making the terminal, or taking it as the first process.
    Terminal,
    /// Creating the container's first process.
    Spawn,
    /// Having the OCI runtime start the container.
    Runtime,
    /// Joining a cgroup.
    Cgroup,
    /// Writing to a process setting such as `oom_score_adj`.
    Setting,
    /// Publishing the pid, or waiting for the release.
    Release,
    /// Session, signal and scheduler state.
    Process,
    /// A resource limit.
    Rlimit,
    /// User, group or supplementary groups.
    User,
    /// Capabilities or no-new-privileges.
    Privileges,
    /// The system call filter.
    Seccomp,
    /// The working directory.
    WorkingDirectory,
    /// Executing the command.
    Exec,
}

impl Step {
    /// The step's name, stable, for messages and tests.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Step::Load => "load the launch program",
            Step::Reaper => "become the reaper",
            Step::Open => "open",
            Step::JoinNamespace => "join the namespace",
            Step::NewNamespace => "make the namespaces",
            Step::Hostname => "set the host name",
            Step::Mount => "mount",
            Step::MapIds => "map the ids of",
            Step::File => "make",
            Step::Root => "change the root to",
            Step::Mask => "mask",
            Step::Terminal => "set up the terminal:",
            Step::Spawn => "create the process",
            Step::Runtime => "start the container with the OCI runtime",
            Step::Cgroup => "join the cgroup",
            Step::Setting => "set",
            Step::Release => "wait for the release",
            Step::Process => "set up the process:",
            Step::Rlimit => "set the resource limit",
            Step::User => "change to",
            Step::Privileges => "set the privileges:",
            Step::Seccomp => "install the system call filter",
            Step::WorkingDirectory => "change to the working directory",
            Step::Exec => "execute",
        }
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Why a container did not start. Nothing of it is left running; cgroups and
/// files belong to the caller.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum LaunchError {
    /// The plan asks for something this engine cannot do.
    #[error("the {engine} engine does not support {what} yet")]
    Unsupported {
        /// Name of the engine.
        engine: &'static str,
        /// What was asked for.
        what: String,
    },
    /// The plan contradicts itself or lacks something.
    #[error("bad launch plan: {0}")]
    Plan(String),
    /// Something failed in the agent, before the container existed.
    #[error("failed to {verb} {object}")]
    Prepare {
        /// What was being done.
        verb: &'static str,
        /// To what.
        object: String,
        /// The kernel's answer.
        #[source]
        source: io::Error,
    },
    /// A step failed in the shim or in the container's first process.
    #[error("failed to {step}{}{object}", if object.is_empty() { "" } else { " " })]
    Step {
        /// The kind of step.
        step: Step,
        /// Its object: a path, a command, a user.
        object: String,
        /// The kernel's answer.
        #[source]
        source: io::Error,
    },
    /// The OCI runtime refused the container or failed to start it.
    #[error("the OCI runtime failed: {0}")]
    Runtime(String),
    /// The shim ended without a report: it was killed.
    #[error("the shim ended during the launch with wait status {0:?}")]
    Lost(Option<i32>),
}

impl LaunchError {
    /// The failing step, if the container got that far.
    #[must_use]
    pub fn step(&self) -> Option<Step> {
        match self {
            LaunchError::Step { step, .. } => Some(*step),
            _ => None,
        }
    }

    /// The kernel's answer, if there was one.
    #[must_use]
    pub fn errno(&self) -> Option<i32> {
        match self {
            LaunchError::Step { source, .. } | LaunchError::Prepare { source, .. } => {
                source.raw_os_error()
            }
            _ => None,
        }
    }
}
