//! What one controller does for one container, and what all of them share.

use std::collections::BTreeMap;
use std::fmt::Debug;

use kernel::cgroup::Cgroup;
use mesos::{ContainerStatus, Resource};

use crate::api::{ContainerContext, IsolatorError, Probe};

/// One controller's work for one container that has a cgroup of its own.
pub(super) trait Control: Send + Sync + Debug {
    /// Sets the knobs; the cgroup is there and empty.
    fn prepare(&mut self, context: &ContainerContext) -> Result<(), IsolatorError>;

    /// The container was found running after a restart of the agent.
    fn recover(&mut self, _context: &ContainerContext) -> Result<(), IsolatorError> {
        Ok(())
    }

    /// The container is about to run, or was recovered. Called on the runtime.
    fn start(&mut self) {}

    fn update(&mut self, _requests: &[Resource]) -> Result<(), IsolatorError> {
        Ok(())
    }

    fn probes(&self) -> Vec<Box<dyn Probe>> {
        Vec::new()
    }

    fn status(&self, _status: &mut ContainerStatus) {}

    /// The cgroup is gone. Called more than once.
    fn cleanup(&mut self) {}
}

/// Requests and limits as an update gives them.
#[derive(Debug, Clone, Copy)]
pub(super) struct Demand<'a> {
    pub requests: &'a [Resource],
    pub limits: &'a BTreeMap<String, f64>,
}

impl Demand<'_> {
    pub(super) fn limit(&self, name: &str) -> Option<f64> {
        self.limits.get(name).copied()
    }
}

pub(super) fn failed(
    isolator: &'static str,
    verb: &'static str,
    group: &Cgroup,
    knob: &str,
    error: kernel::cgroup::Error,
) -> IsolatorError {
    IsolatorError::new(isolator, verb, group.file(knob).display().to_string(), error)
}
