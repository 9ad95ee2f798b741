//! `/state-summary`: agents and frameworks with counts of tasks by state.

use std::collections::{BTreeSet, HashMap};

use mesos::TaskState;
use mesos::json::Writer;

use super::pieces::{self, Pieces};
use super::tasks::all_tasks;
use crate::master::snapshot::Snapshot;

/// The states that are counted, in the order in which they are shown.
const STATES: [TaskState; 10] = [
    TaskState::TaskStaging,
    TaskState::TaskStarting,
    TaskState::TaskRunning,
    TaskState::TaskKilling,
    TaskState::TaskFinished,
    TaskState::TaskKilled,
    TaskState::TaskFailed,
    TaskState::TaskLost,
    TaskState::TaskError,
    TaskState::TaskUnreachable,
];

/// Tasks of one agent or framework, and the frameworks or agents they belong to.
#[derive(Default)]
struct Counts<'a> {
    states: [u64; STATES.len()],
    others: BTreeSet<&'a str>,
}

impl<'a> Counts<'a> {
    fn add(&mut self, state: TaskState, other: &'a str) {
        if let Some(at) = STATES.iter().position(|s| *s == state) {
            self.states[at] += 1;
        }
        self.others.insert(other);
    }

    fn write(&self, w: &mut Writer, others: &str) {
        for (state, count) in STATES.iter().zip(self.states) {
            w.key(state.as_str_name()).uint(count);
        }
        mesos::model::strings(w.key(others), self.others.iter().copied());
    }
}

/// The body of `/state-summary`.
#[must_use]
pub fn summary(snapshot: &Snapshot, pieces: &Pieces) -> Vec<u8> {
    let cluster = &snapshot.cluster;
    let mut agents: HashMap<&str, Counts<'_>> = HashMap::new();
    let mut frameworks: HashMap<&str, Counts<'_>> = HashMap::new();
    for framework in cluster.frameworks.values() {
        for task in all_tasks(framework) {
            let (agent, framework) = (task.slave_id.value.as_str(), framework.id.as_str());
            agents.entry(agent).or_default().add(task.state(), framework);
            frameworks.entry(framework).or_default().add(task.state(), agent);
        }
    }
    let none = Counts::default();
    let mut w = Writer::new();
    w.object(|w| {
        w.key("hostname").string(snapshot.master.info.hostname());
        if let Some(name) = snapshot.master.flag("cluster") {
            w.key("cluster").string(name);
        }
        w.key("slaves").array(|w| {
            for agent in cluster.agents.values() {
                w.object(|w| {
                    pieces.with(|kept| kept.agent(w, agent));
                    agents.get(agent.id.as_str()).unwrap_or(&none).write(w, "framework_ids");
                });
            }
        });
        w.key("frameworks").array(|w| {
            for framework in cluster.frameworks.values() {
                w.object(|w| {
                    pieces::framework_summary(w, framework);
                    let counts = frameworks.get(framework.id.as_str()).unwrap_or(&none);
                    counts.write(w, "slave_ids");
                });
            }
        });
    });
    w.into_bytes()
}
