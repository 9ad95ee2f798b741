//! `/containers`, `/monitor/statistics` and `GET_CONTAINERS`: what runs in which
//! container and what it uses.
//!
//! The description comes from the snapshot, status and statistics from the
//! containerizer's newest sample.

use std::collections::HashMap;
use std::sync::Arc;

use isolators::network::ports::listening::OpenPorts;
use mesos::agent::response::{GetContainers, get_containers};
use mesos::json::Writer;
use mesos::{ContainerId, ContainerStatus, ResourceStatistics};

use crate::agent::core::state::{Executor, ExecutorState};
use crate::agent::snapshot::Snapshot;
use crate::containerizer::{Containerizer, Progress, Sample, Trouble};

/// Which containers are wanted; `None` is any.
#[derive(Debug, Clone, Default)]
pub struct Selection {
    /// By container.
    pub container: Option<String>,
    /// By framework.
    pub framework: Option<String>,
    /// By executor, within a framework.
    pub executor: Option<String>,
    /// Also containers inside containers.
    pub nested: bool,
    /// Also containers without executor.
    pub standalone: bool,
}

impl Selection {
    /// The combinations of filters that Mesos knows.
    #[must_use]
    pub fn is_supported(&self) -> bool {
        match (&self.container, &self.framework, &self.executor) {
            (Some(_), None, None) | (None, Some(_), _) | (None, None, None) => true,
            (Some(_), _, _) | (None, None, Some(_)) => false,
        }
    }

    fn wants(&self, framework: &str, executor: &Executor) -> bool {
        let is =
            |wanted: &Option<String>, value: &str| wanted.as_deref().is_none_or(|w| w == value);
        is(&self.framework, framework)
            && is(&self.executor, executor.id())
            && is(&self.container, &executor.container_id.value)
    }
}

/// The executors that have a container now.
fn alive(snapshot: &Snapshot) -> impl Iterator<Item = &Executor> {
    snapshot.executors().map(|(_, e)| &**e).filter(|e| e.state != ExecutorState::Terminated)
}

/// Every selected container, those of executors first.
pub async fn collect(
    snapshot: &Snapshot,
    containerizer: &dyn Containerizer,
    selection: &Selection,
) -> Vec<get_containers::Container> {
    let sample = containerizer.statistics().await;
    let samples = by_id(&sample);
    let mut found = Vec::new();
    let mut roots = Vec::new();
    for executor in alive(snapshot) {
        roots.push(executor.container_id.value.as_str());
        if !selection.wants(&executor.framework_id.value, executor) {
            continue;
        }
        let id = &executor.container_id;
        found.push(get_containers::Container {
            framework_id: Some(executor.framework_id.clone()),
            executor_id: Some(executor.info.executor_id.clone()),
            executor_name: Some(executor.info.name().to_owned()),
            container_id: id.clone(),
            container_status: Some(status(containerizer, id).await),
            resource_statistics: samples.get(&id.to_string()).map(|s| (*s).clone()),
        });
    }
    if !(selection.nested || selection.standalone) {
        return found;
    }
    for (id, _) in containerizer.containers() {
        let nested = id.parent.is_some();
        let of_executor = roots.contains(&id.root().value.as_str());
        let wanted = selection.container.as_deref().is_none_or(|c| c == id.value);
        if !wanted || (nested && !selection.nested) || (!of_executor && !selection.standalone) {
            continue;
        }
        if of_executor && !nested {
            continue;
        }
        found.push(get_containers::Container {
            container_status: Some(status(containerizer, &id).await),
            resource_statistics: samples.get(&id.to_string()).map(|s| (*s).clone()),
            // compat: the parent is only told in the status.
            container_id: ContainerId { value: id.value, parent: None },
            ..Default::default()
        });
    }
    found
}

/// One sample by the ids with their parents.
fn by_id(sample: &Sample) -> HashMap<String, &ResourceStatistics> {
    sample.iter().map(|(id, statistics)| (id.to_string(), statistics)).collect()
}

async fn status(containerizer: &dyn Containerizer, id: &ContainerId) -> ContainerStatus {
    containerizer
        .status(id)
        .await
        .unwrap_or_else(|| ContainerStatus { container_id: Some(id.clone()), ..Default::default() })
}

/// What is told of containers besides Mesos' messages.
#[derive(Debug, Default)]
pub struct Beside {
    /// They are being destroyed, and something is in the way.
    pub troubles: Vec<(ContainerId, Arc<Trouble>)>,
    /// They are being launched, and that takes its time.
    pub progress: Vec<(ContainerId, Progress)>,
    /// What listens in them: top-level ones by id.
    pub listening: HashMap<String, OpenPorts>,
}

impl Beside {
    /// As it is now.
    #[must_use]
    pub fn of(containerizer: &dyn Containerizer) -> Beside {
        Beside {
            troubles: containerizer.troubles(),
            progress: containerizer.progress(),
            listening: listening(containerizer),
        }
    }
}

/// What listens in top-level containers, by id.
fn listening(containerizer: &dyn Containerizer) -> HashMap<String, OpenPorts> {
    containerizer.listening().into_iter().collect()
}

/// The figures of a container under `statistics`: Mesos' own, and among them what listens
/// in it, if that is known. `GET_CONTAINERS` has Mesos' only: its clients may be strict.
fn figures(w: &mut Writer, sample: &ResourceStatistics, listening: Option<&OpenPorts>) {
    const OWN: &str = "net_listening_ports";
    let w = w.key("statistics");
    let Some(listening) = listening else { return w.sorted_message(sample) };
    let mut told = Writer::new();
    told.object(|w| {
        for (name, ports) in listening.iter() {
            w.key(name).array(|w| {
                for (begin, end) in ports.iter() {
                    w.object(|w| {
                        w.key("begin").uint(begin);
                        w.key("end").uint(end);
                    });
                }
            });
        }
    });
    w.sorted_message_with(sample, OWN, &told.into_bytes());
}

/// The body of `/containers`: every object with its members sorted.
#[must_use]
pub fn render(
    containers: &[get_containers::Container],
    snapshot: &Snapshot,
    beside: &Beside,
) -> Vec<u8> {
    let executors: HashMap<&str, &Executor> =
        alive(snapshot).map(|e| (e.container_id.value.as_str(), e)).collect();
    let mut w = Writer::new();
    w.array(|w| {
        for c in containers {
            w.object(|w| {
                w.key("container_id").string(&c.container_id.value);
                let own = |id: &ContainerId| id.value == c.container_id.value;
                if let Some((_, trouble)) = beside.troubles.iter().find(|(id, _)| own(id)) {
                    w.key("destroying").raw(trouble.to_json().to_string().as_bytes());
                }
                if let Some(executor) = executors.get(c.container_id.value.as_str()) {
                    executor_members(w, executor);
                }
                if let Some((_, progress)) = beside.progress.iter().find(|(id, _)| own(id)) {
                    let (name, value) = progress.to_json();
                    w.key(name).raw(value.to_string().as_bytes());
                }
                if let Some(statistics) = &c.resource_statistics {
                    figures(w, statistics, beside.listening.get(&c.container_id.value));
                }
                if let Some(status) = &c.container_status {
                    w.key("status").sorted_message(status);
                }
            });
        }
    });
    w.into_bytes()
}

fn executor_members(w: &mut Writer, executor: &Executor) {
    w.key("executor_id").string(executor.id());
    w.key("executor_name").string(executor.info.name());
    w.key("framework_id").string(&executor.framework_id.value);
    w.key("source").string(executor.info.source());
}

/// The body of `/monitor/statistics`: executors that have been sampled.
pub async fn statistics(snapshot: &Snapshot, containerizer: &dyn Containerizer) -> Vec<u8> {
    let sample = containerizer.statistics().await;
    let samples = by_id(&sample);
    let listening = listening(containerizer);
    let mut w = Writer::new();
    w.array(|w| {
        for executor in alive(snapshot) {
            let Some(&sample) = samples.get(&executor.container_id.to_string()) else { continue };
            w.object(|w| {
                executor_members(w, executor);
                figures(w, sample, listening.get(&executor.container_id.value));
            });
        }
    });
    w.into_bytes()
}

/// `GET_CONTAINERS`; compat: nothing at all when there is none.
#[must_use]
pub fn response(containers: Vec<get_containers::Container>) -> Option<GetContainers> {
    (!containers.is_empty()).then_some(GetContainers { containers })
}

#[cfg(test)]
mod tests {
    use kernel::netlink::diag::{Listener, Protocol};

    use super::*;

    #[test]
    fn ports_are_told_among_mesos_figures() {
        let sample = ResourceStatistics {
            timestamp: 1.0,
            net_rx_bytes: Some(7),
            net_ephemeral_ports: Some(mesos::value::Range { begin: 1, end: 2 }),
            ..Default::default()
        };
        let said = |listening: Option<&OpenPorts>| {
            let mut w = Writer::new();
            w.object(|w| figures(w, &sample, listening));
            String::from_utf8(w.into_bytes()).expect("text")
        };
        let mesos = |own: &str| {
            format!(
                "{{\"statistics\":{{\"net_ephemeral_ports\":{{\"begin\":1,\"end\":2}},{own}\
                 \"net_rx_bytes\":7,\"timestamp\":1.0}}}}"
            )
        };
        assert_eq!(said(None), mesos(""), "nobody has looked");
        let nothing = OpenPorts::default();
        assert_eq!(said(Some(&nothing)), mesos("\"net_listening_ports\":{},"));
        let socket = |address: &str, port| Listener {
            protocol: Protocol::Tcp,
            address: address.parse().expect("an address"),
            port,
            inode: 0,
            cookie: 0,
            cgroup: None,
        };
        let some = OpenPorts::of(&[socket("::", 90), socket("0.0.0.0", 80), socket("::", 91)]);
        let wanted = "\"net_listening_ports\":{\"tcp\":[{\"begin\":80,\"end\":80}],\
                      \"tcp6\":[{\"begin\":90,\"end\":91}]},";
        assert_eq!(said(Some(&some)), mesos(wanted));
    }
}
