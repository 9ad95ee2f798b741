//! `cgroups/cpuset`: on which processors a container runs.
//!
//! As in Mesos a container has its parent's processors. With
//! `--cpuset_policy=exclusive` one whose cpu request is a whole number has that
//! many processors for itself, and all others share the rest. Which ones is decided
//! in [`super::pinning`]; here the files are written. The kernel keeps the sets of
//! running containers; recovery reads them back.

use std::collections::BTreeMap;
use std::path::Path;
use std::str::FromStr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use kernel::cgroup::{Cgroup, Version};
use kernel::cpus::{self, CpuSet};
use mesos::Resource;
use tracing::{info, warn};

use super::control::{Control, failed};
use super::pinning::{Allocator, exclusive_count};
use crate::api::{ContainerContext, IsolatorError};
use crate::quantity;

/// As in `--isolation`.
pub const NAME: &str = "cgroups/cpuset";
const FILE: &str = "cpuset.cpus";

/// `--cpuset_policy`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Policy {
    /// `none`: the parent's processors, as in Mesos.
    Inherit,
    /// `exclusive`
    Exclusive,
}

impl FromStr for Policy {
    type Err = String;

    fn from_str(text: &str) -> Result<Policy, String> {
        match text {
            "none" => Ok(Policy::Inherit),
            "exclusive" => Ok(Policy::Exclusive),
            _ => Err("one of none, exclusive".to_owned()),
        }
    }
}

/// The processors of the machine and the containers that use them. Locked for the
/// few writes of a placement, so that no two of them mix.
#[derive(Debug)]
pub(super) struct Pins(Mutex<State>);

#[derive(Debug)]
struct State {
    allocator: Allocator,
    /// Containers without processors of their own.
    sharing: BTreeMap<String, Cgroup>,
}

impl Pins {
    /// On this machine.
    pub(super) fn detect() -> Result<Pins, IsolatorError> {
        let sys = Path::new("/sys/devices/system");
        let topology = cpus::topology(sys).map_err(|e| {
            IsolatorError::new(NAME, "find the processors in", sys.display().to_string(), e)
        })?;
        info!(
            processors = topology.len(),
            "--cpuset_policy=exclusive: whole cpu requests are pinned"
        );
        Ok(Pins(Mutex::new(State {
            allocator: Allocator::new(topology),
            sharing: BTreeMap::new(),
        })))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Files may be behind after a panic; the next placement writes them.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Places a container anew, on `count` processors of its own or in the pool.
    fn place(&self, id: &str, group: &Cgroup, count: Option<usize>) -> Result<(), IsolatorError> {
        let mut state = self.lock();
        let before = state.allocator.of(id);
        match count {
            Some(count) => {
                if before.as_ref().is_some_and(|set| set.0.len() == count) {
                    return Ok(());
                }
                let set = state
                    .allocator
                    .allocate(id, count)
                    .map_err(|e| IsolatorError::new(NAME, "pin", format!("container '{id}'"), e))?;
                state.sharing.remove(id);
                // First the others leave, then this one moves in.
                state.write_pool();
                write(group, &set)
            }
            None => {
                let freed = state.allocator.release(id);
                state.sharing.insert(id.to_owned(), group.clone());
                if freed {
                    state.write_pool();
                }
                write(group, &state.allocator.shared())
            }
        }
    }

    /// A container that runs already keeps what it has.
    fn adopt(&self, id: &str, group: &Cgroup, count: Option<usize>) -> Result<(), IsolatorError> {
        let text = group.read(FILE).map_err(|e| failed(NAME, "read", group, FILE, e))?;
        let set = String::from_utf8_lossy(&text).parse::<CpuSet>().unwrap_or_default();
        let mut state = self.lock();
        let pinned = count == Some(set.0.len()) && state.allocator.adopt(id, &set);
        if !pinned {
            state.sharing.insert(id.to_owned(), group.clone());
        }
        state.write_pool();
        Ok(())
    }

    fn release(&self, id: &str) {
        let mut state = self.lock();
        state.sharing.remove(id);
        if state.allocator.release(id) {
            state.write_pool();
        }
    }
}

impl State {
    /// Best effort: a container that ends right now has no file any more.
    fn write_pool(&self) {
        let pool = self.allocator.shared();
        for (id, group) in &self.sharing {
            if group.exists()
                && let Err(error) = write(group, &pool)
            {
                warn!(container = id, error = %error.chain(), "a container keeps its processors");
            }
        }
    }
}

/// v1 wants a child's set within its parent's at any time: first all grow to the
/// old and the new set, parents first; then they shrink, children first.
fn write(group: &Cgroup, set: &CpuSet) -> Result<(), IsolatorError> {
    let write = |group: &Cgroup, set: &CpuSet| {
        group.write(FILE, &set.to_string()).map_err(|e| failed(NAME, "set", group, FILE, e))
    };
    if group.version() == Version::V2 {
        return write(group, set);
    }
    let tree = group.tree();
    if tree.len() > 1 {
        let text = group.read(FILE).map_err(|e| failed(NAME, "read", group, FILE, e))?;
        let mut both = String::from_utf8_lossy(&text).parse::<CpuSet>().unwrap_or_default();
        both.0.extend(&set.0);
        tree.iter().rev().try_for_each(|group| write(group, &both))?;
    }
    tree.iter().try_for_each(|group| write(group, set))
}

/// One top-level container's place.
#[derive(Debug)]
pub(super) struct Cpuset {
    pins: Arc<Pins>,
    group: Cgroup,
    id: String,
}

impl Cpuset {
    pub(super) fn new(pins: Arc<Pins>, group: Cgroup) -> Cpuset {
        let id = group.path().file_name().unwrap_or_default().to_string_lossy().into_owned();
        Cpuset { pins, group, id }
    }
}

fn count(requests: &[Resource]) -> Option<usize> {
    let cpus = quantity::total(requests, "cpus").unwrap_or(0.0);
    exclusive_count(cpus, quantity::has_revocable(requests, "cpus"))
}

impl Control for Cpuset {
    fn prepare(&mut self, context: &ContainerContext) -> Result<(), IsolatorError> {
        self.pins.place(&self.id, &self.group, count(&context.requests))
    }

    fn recover(&mut self, context: &ContainerContext) -> Result<(), IsolatorError> {
        self.pins.adopt(&self.id, &self.group, count(&context.requests))
    }

    fn update(&mut self, requests: &[Resource]) -> Result<(), IsolatorError> {
        self.pins.place(&self.id, &self.group, count(requests))
    }

    fn cleanup(&mut self) {
        self.pins.release(&self.id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn policies() {
        assert_eq!("none".parse(), Ok(Policy::Inherit));
        assert_eq!("exclusive".parse(), Ok(Policy::Exclusive));
        assert!("numa".parse::<Policy>().unwrap_err().contains("exclusive"));
    }
}
