//! Fixtures for tests of isolators, of this crate and of plugins.

use mesos::ContainerId;

use crate::api::ContainerContext;

/// A top-level container that asks for nothing.
#[must_use]
pub fn context(id: &str) -> ContainerContext {
    ContainerContext {
        id: ContainerId { value: id.to_owned(), parent: None },
        info: None,
        sandbox: "/nonexistent/sandbox".into(),
        rootfs: None,
        runtime: "/nonexistent/runtime".into(),
        user: None,
        ids: None,
        requests: Vec::new(),
        limits: std::collections::BTreeMap::new(),
        labels: std::collections::BTreeMap::new(),
        parent: None,
        ephemeral_volumes: Vec::new(),
        command_task: true,
    }
}
