//! The agent's work directory: every path in it is built here and nowhere else.
//!
//! ```text
//! WORK_DIR
//! |-- meta                                     what survives the agent ("META")
//! |   |-- boot_id
//! |   |-- garbage.log                          what waits for its deletion (ours)
//! |   |-- docker_images                        which ones we pulled (ours)
//! |   |-- reserve/<number>                     room for a full disk (ours)
//! |   |-- resources/{resources.info, resources.target,
//! |   |              resources_and_operations.state, resources_and_operations.target}
//! |   `-- slaves
//! |       |-- latest -> <agent id>
//! |       `-- <agent id>
//! |           |-- slave.info
//! |           |-- drain.config                     while it is draining
//! |           |-- operations/<uuid>/operation.updates   append log
//! |           `-- frameworks/<framework id>
//! |               |-- framework.info
//! |               |-- framework.pid
//! |               `-- executors/<executor id>
//! |                   |-- executor.info
//! |                   |-- executor_generated_for_command_task   "0" or "1"
//! |                   `-- runs
//! |                       |-- latest -> <container id>
//! |                       `-- <container id>
//! |                           |-- executor.sentinel             the run is over
//! |                           |-- http.marker                   speaks the v1 API
//! |                           |-- pids/{forked.pid, libprocess.pid}
//! |                           `-- tasks/<task id>
//! |                               |-- task.info                 mesos.Task
//! |                               |-- task.launch               mesos.TaskInfo (ours)
//! |                               |-- task.kill                 a kill has begun (ours)
//! |                               `-- task.updates              append log
//! |-- slaves/<agent id>/frameworks/<framework id>/executors/<executor id>/runs
//! |       |-- latest -> <container id>
//! |       `-- <container id>                   the sandbox
//! |-- containers/<container id>                sandbox of a standalone container
//! |-- trash/<number>                           on its way out (ours)
//! |-- provisioner/containers/<container id>    root file systems of images
//! |              /{ready,points,gone}          before and after them (ours)
//! `-- volumes/roles/<role>/<persistence id>
//! ```
//!
//! What is not marked as ours is Mesos' own layout; a C++ agent ignores the rest.
//! Used by the storage task, by recovery, by the agent's driver for
//! sandboxes and by `/files`. It touches no file itself.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::Garbage;

/// Names one run of one executor: the four ids that its paths are made of.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct RunKey {
    /// The agent's id.
    pub agent: String,
    /// The framework's id.
    pub framework: String,
    /// The executor's id, unique within the framework.
    pub executor: String,
    /// The top-level container of this run.
    pub container: String,
}

/// The work directory of one agent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WorkDir(PathBuf);

impl WorkDir {
    /// `root` is the value of `--work_dir`.
    pub fn new(root: impl Into<PathBuf>) -> Self {
        WorkDir(root.into())
    }

    /// The directory itself.
    pub fn root(&self) -> &Path {
        &self.0
    }

    /// Root file systems that were made of images.
    pub fn provisioner(&self) -> PathBuf {
        self.0.join("provisioner/containers")
    }

    /// Where checkpoints live.
    pub fn meta(&self) -> PathBuf {
        self.0.join("meta")
    }

    /// The kernel's boot id at the last start of the agent.
    pub fn boot_id(&self) -> PathBuf {
        self.meta().join("boot_id")
    }

    /// `meta/slaves`.
    pub fn meta_agents(&self) -> PathBuf {
        self.meta().join("slaves")
    }

    /// The link to the directory of the agent id in use.
    pub fn latest_agent(&self) -> PathBuf {
        self.meta_agents().join("latest")
    }

    /// Checkpoints of one agent id.
    pub fn meta_agent(&self, agent: &str) -> PathBuf {
        self.meta_agents().join(agent)
    }

    /// `mesos.SlaveInfo`.
    pub fn agent_info(&self, agent: &str) -> PathBuf {
        self.meta_agent(agent).join("slave.info")
    }

    /// `mesos.DrainConfig`.
    pub fn drain_config(&self, agent: &str) -> PathBuf {
        self.meta_agent(agent).join("drain.config")
    }

    /// Where an agent id keeps the updates of its operations.
    pub fn meta_operations(&self, agent: &str) -> PathBuf {
        self.meta_agent(agent).join("operations")
    }

    /// The updates of one operation; `operation` is its uuid in text.
    pub fn meta_operation(&self, agent: &str, operation: &str) -> PathBuf {
        self.meta_operations(agent).join(operation)
    }

    /// Where an agent id keeps its frameworks.
    pub fn meta_frameworks(&self, agent: &str) -> PathBuf {
        self.meta_agent(agent).join("frameworks")
    }

    /// Checkpoints of a framework.
    pub fn meta_framework(&self, agent: &str, framework: &str) -> PathBuf {
        self.meta_frameworks(agent).join(framework)
    }

    /// Where a framework keeps its executors.
    pub fn meta_executors(&self, agent: &str, framework: &str) -> PathBuf {
        self.meta_framework(agent, framework).join("executors")
    }

    /// `mesos.FrameworkInfo`.
    pub fn framework_info(&self, agent: &str, framework: &str) -> PathBuf {
        self.meta_framework(agent, framework).join("framework.info")
    }

    /// The scheduler's libprocess address.
    pub fn framework_pid(&self, agent: &str, framework: &str) -> PathBuf {
        self.meta_framework(agent, framework).join("framework.pid")
    }

    /// Checkpoints of an executor.
    pub fn meta_executor(&self, agent: &str, framework: &str, executor: &str) -> PathBuf {
        self.meta_executors(agent, framework).join(executor)
    }

    /// Where an executor keeps its runs.
    pub fn meta_runs(&self, agent: &str, framework: &str, executor: &str) -> PathBuf {
        self.meta_executor(agent, framework, executor).join("runs")
    }

    /// Checkpoints of one run.
    pub fn meta_run(&self, run: &RunKey) -> PathBuf {
        self.meta_runs(&run.agent, &run.framework, &run.executor).join(&run.container)
    }

    /// Where a run keeps its tasks.
    pub fn meta_tasks(&self, run: &RunKey) -> PathBuf {
        self.meta_run(run).join("tasks")
    }

    /// Checkpoints of one task.
    pub fn meta_task(&self, run: &RunKey, task: &str) -> PathBuf {
        self.meta_tasks(run).join(task)
    }

    /// The log of what waits for its deletion.
    pub fn garbage_log(&self) -> PathBuf {
        self.meta().join("garbage.log")
    }

    /// Files that become checkpoints when the disk is full.
    pub fn reserve(&self) -> PathBuf {
        self.meta().join("reserve")
    }

    /// Which images of the docker engine this agent pulled.
    pub fn docker_images(&self) -> PathBuf {
        self.meta().join("docker_images")
    }

    /// Where resources and operations are checkpointed.
    pub fn resources(&self) -> PathBuf {
        self.meta().join("resources")
    }

    /// Where directories go that are being deleted.
    pub fn trash(&self) -> PathBuf {
        self.0.join("trash")
    }

    /// A directory that waits for its deletion, then its twin under `meta` if it
    /// has one.
    pub fn garbage(&self, garbage: &Garbage) -> Vec<PathBuf> {
        match garbage {
            Garbage::Run(run) => vec![self.sandbox(run), self.meta_run(run)],
            Garbage::Executor { agent, framework, executor } => vec![
                self.executor(agent, framework, executor),
                self.meta_executor(agent, framework, executor),
            ],
            Garbage::Framework { agent, framework } => {
                vec![self.framework(agent, framework), self.meta_framework(agent, framework)]
            }
            Garbage::Agent(agent) => vec![self.agent(agent), self.meta_agent(agent)],
            Garbage::Sandbox(path) => vec![self.0.join(path)],
        }
    }

    /// Sandboxes of one agent id.
    pub fn agent(&self, agent: &str) -> PathBuf {
        self.0.join("slaves").join(agent)
    }

    /// Sandboxes of all agent ids.
    pub fn agents(&self) -> PathBuf {
        self.0.join("slaves")
    }

    /// Sandboxes of an agent id by framework.
    pub fn frameworks(&self, agent: &str) -> PathBuf {
        self.agent(agent).join("frameworks")
    }

    /// Sandboxes of a framework by executor.
    pub fn executors(&self, agent: &str, framework: &str) -> PathBuf {
        self.framework(agent, framework).join("executors")
    }

    /// Sandboxes of an executor by container.
    pub fn runs(&self, agent: &str, framework: &str, executor: &str) -> PathBuf {
        self.executor(agent, framework, executor).join("runs")
    }

    /// Sandboxes of a framework.
    pub fn framework(&self, agent: &str, framework: &str) -> PathBuf {
        self.frameworks(agent).join(framework)
    }

    /// Sandboxes of an executor.
    pub fn executor(&self, agent: &str, framework: &str, executor: &str) -> PathBuf {
        self.executors(agent, framework).join(executor)
    }

    /// The sandbox of one run.
    pub fn sandbox(&self, run: &RunKey) -> PathBuf {
        self.runs(&run.agent, &run.framework, &run.executor).join(&run.container)
    }

    /// The sandbox of a standalone container.
    pub fn standalone(&self, container: &str) -> PathBuf {
        self.0.join("containers").join(container)
    }

    /// The directory of a persistent volume; of a volume on a disk of its own,
    /// that disk's. `None` for any other resource.
    pub fn volume(&self, resource: &mesos::Resource) -> Option<PathBuf> {
        use mesos::resource::disk_info::source::Type;
        let disk = resource.disk.as_ref()?;
        let id = &disk.persistence.as_ref()?.id;
        let source = disk.source.as_ref();
        let rooted = |root: Option<&String>| {
            let root = PathBuf::from(root?);
            // compat: relative to the work directory.
            Some(if root.is_relative() { self.0.join(root) } else { root })
        };
        let root = match source.map(mesos::resource::disk_info::Source::r#type) {
            None => self.0.clone(),
            Some(Type::Mount) => return rooted(source?.mount.as_ref()?.root.as_ref()),
            Some(Type::Path) => rooted(source?.path.as_ref()?.root.as_ref())?,
            Some(_) => return None,
        };
        let reserved = resource.reservations.last().and_then(|r| r.role.as_deref());
        let role = reserved.or(resource.role.as_deref()).unwrap_or("*");
        // compat: a role below another is one directory.
        Some(root.join("volumes/roles").join(role.replace('/', " ")).join(id))
    }
}

/// File names below the directories above.
pub(super) mod names {
    pub const EXECUTOR_INFO: &str = "executor.info";
    pub const GENERATED: &str = "executor_generated_for_command_task";
    pub const LATEST: &str = "latest";
    pub const SENTINEL: &str = "executor.sentinel";
    pub const HTTP_MARKER: &str = "http.marker";
    pub const PIDS: &str = "pids";
    pub const FORKED_PID: &str = "pids/forked.pid";
    pub const LIBPROCESS_PID: &str = "pids/libprocess.pid";
    pub const TASK_INFO: &str = "task.info";
    pub const TASK_LAUNCH: &str = "task.launch";
    pub const TASK_KILL: &str = "task.kill";
    pub const TASK_UPDATES: &str = "task.updates";
    pub const OPERATION_UPDATES: &str = "operation.updates";
    pub const RESOURCES: &str = "resources.info";
    pub const RESOURCES_TARGET: &str = "resources.target";
    pub const RESOURCE_STATE: &str = "resources_and_operations.state";
    pub const RESOURCE_STATE_TARGET: &str = "resources_and_operations.target";
}

/// The sandbox of a nested container below that of its top-level container:
/// `<sandbox>/containers/<child>[/containers/<grandchild>]`.
pub fn nested_sandbox(root: &Path, id: &mesos::ContainerId) -> PathBuf {
    match &id.parent {
        None => root.to_path_buf(),
        Some(parent) => nested_sandbox(root, parent).join("containers").join(&id.value),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn volumes_are_where_mesos_puts_them() {
        use mesos::resource::disk_info::source::{Path as DiskPath, Type};
        use mesos::resource::disk_info::{Persistence, Source};
        use mesos::resource::{DiskInfo, ReservationInfo};
        let dir = WorkDir::new("/w");
        let persistence = Some(Persistence { id: "v1".into(), principal: None });
        let disk = DiskInfo { persistence, ..DiskInfo::default() };
        let mut volume = mesos::Resource {
            name: "disk".into(),
            disk: Some(disk),
            reservations: vec![ReservationInfo { role: Some("a/b".into()), ..Default::default() }],
            ..Default::default()
        };
        assert_eq!(dir.volume(&volume), Some("/w/volumes/roles/a b/v1".into()));
        let path = Some(DiskPath { root: Some("disks/1".into()) });
        let mut source = Source { path, ..Source::default() };
        source.set_type(Type::Path);
        volume.disk.as_mut().expect("disk").source = Some(source);
        assert_eq!(dir.volume(&volume), Some("/w/disks/1/volumes/roles/a b/v1".into()));
        assert_eq!(dir.volume(&mesos::Resource::default()), None);
    }

    #[test]
    fn sandbox_is_where_mesos_puts_it() {
        let run = RunKey {
            agent: "S0".into(),
            framework: "F".into(),
            executor: "E".into(),
            container: "C".into(),
        };
        let work = WorkDir::new("/w");
        assert_eq!(work.sandbox(&run), Path::new("/w/slaves/S0/frameworks/F/executors/E/runs/C"));
        assert_eq!(
            work.meta_task(&run, "t"),
            Path::new("/w/meta/slaves/S0/frameworks/F/executors/E/runs/C/tasks/t")
        );
    }

    #[test]
    fn nested_sandboxes_lie_below_their_parents() {
        let id = mesos::ContainerId {
            value: "c".into(),
            parent: Some(Box::new(mesos::ContainerId { value: "b".into(), parent: None })),
        };
        assert_eq!(nested_sandbox(Path::new("/s"), &id), Path::new("/s/containers/c"));
    }
}
