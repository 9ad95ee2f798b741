//! Hooks: what an outsider may add to, or refuse of, a launch without being an
//! isolator. Mesos' decorators, called by the containerizer and served by plugins.

use std::collections::BTreeMap;
use std::path::PathBuf;

use async_trait::async_trait;
use mesos::{ContainerId, ExecutorInfo, FrameworkId, TaskInfo};

use crate::api::IsolatorError;

/// What a hook is told.
#[derive(Debug, Clone, Default)]
pub struct HookContext {
    /// The container.
    pub id: ContainerId,
    /// Host path of its sandbox.
    pub sandbox: PathBuf,
    /// The task, where the container runs one itself.
    pub task: Option<TaskInfo>,
    /// The executor, if there is one.
    pub executor: Option<ExecutorInfo>,
    /// The framework, `None` for standalone containers.
    pub framework: Option<FrameworkId>,
    /// Labels as they are by now.
    pub labels: BTreeMap<String, String>,
}

/// What to add; the later hook wins over the earlier one.
pub type Additions = BTreeMap<String, String>;

/// A hook. Every method has a default that does nothing; an error of any but
/// `removed` refuses the launch.
#[async_trait]
pub trait Hook: Send + Sync {
    /// Name as in `--hooks`.
    fn name(&self) -> &'static str;

    /// Labels for the container, before its isolators see it.
    async fn labels(&self, _context: &HookContext) -> Result<Additions, IsolatorError> {
        Ok(Additions::new())
    }

    /// Environment for the container, below what the command itself sets.
    async fn environment(&self, _context: &HookContext) -> Result<Additions, IsolatorError> {
        Ok(Additions::new())
    }

    /// Before anything is prepared.
    async fn pre_launch(&self, _context: &HookContext) -> Result<(), IsolatorError> {
        Ok(())
    }

    /// The URIs are in the sandbox, nothing runs yet.
    async fn post_fetch(&self, _context: &HookContext) -> Result<(), IsolatorError> {
        Ok(())
    }

    /// The container is gone and cleaned up.
    async fn removed(&self, _context: &HookContext) -> Result<(), IsolatorError> {
        Ok(())
    }
}
