//! What is counted of one framework: its calls, events, offers, operations and
//! the ends of its tasks. `metrics` prints it under Mesos' names; how many
//! tasks are active is no count and is worked out there.

use std::collections::BTreeMap;
use std::sync::Arc;

use mesos::TaskState;
use mesos::offer::operation;
use mesos::scheduler::{call, event};

use super::Core;
use crate::master::ids::FrameworkId;

/// The counts of one framework since this master knows it.
#[derive(Debug, Clone, Default)]
pub struct Tally {
    /// Calls that were let in.
    pub calls: BTreeMap<call::Type, u64>,
    /// Events sent to the scheduler, or the messages that stand for them.
    pub events: BTreeMap<event::Type, u64>,
    /// Operations of ACCEPT calls with valid offers.
    pub operations: BTreeMap<operation::Type, u64>,
    /// Tasks that ended, by how.
    pub ends: BTreeMap<TaskState, u64>,
    /// Offers sent.
    pub offers_sent: u64,
    /// Offers used by an ACCEPT.
    pub offers_accepted: u64,
    /// Offers declined.
    pub offers_declined: u64,
    /// Offers taken back.
    pub offers_rescinded: u64,
}

impl Core {
    /// Changes a framework's counts, if there is such a framework.
    pub(super) fn tally(&mut self, id: &FrameworkId, change: impl FnOnce(&mut Tally)) {
        if let Some(framework) = self.framework_mut(id) {
            change(Arc::make_mut(&mut framework.tally));
        }
    }

    pub(super) fn tally_call(&mut self, id: &FrameworkId, kind: call::Type) {
        self.tally(id, |t| *t.calls.entry(kind).or_default() += 1);
    }

    pub(super) fn tally_event(&mut self, id: &FrameworkId, kind: event::Type) {
        self.tally(id, |t| *t.events.entry(kind).or_default() += 1);
    }
}
