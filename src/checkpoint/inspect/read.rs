//! Reads a work directory file by file and notes what is wrong with each.

use std::fs;
use std::path::Path;

use mesos::internal::slave::ResourceState;
use mesos::internal::{StatusUpdateRecord, UpdateOperationStatusRecord, status_update_record};
use mesos::resources::{Resources, upgrade_all};
use mesos::{ExecutorInfo, FrameworkInfo, Resource, SlaveInfo};
use prost::{Message, Name};

use super::{
    Agent, Executor, Framework, Inspection, Operation, Outcome, Run, Task, Update, Waiting,
};
use crate::checkpoint::files::{self, StorageError, subdirs};
use crate::checkpoint::paths::names;
use crate::checkpoint::recover::{boot_id, latest_agent, survey, text};
use crate::checkpoint::{RecoverError, RunKey, WorkDir, discard, garbage, reserve};

/// Looks at everything below `work`.
///
/// # Errors
/// A directory that cannot be read; what is wrong with files is told in the answer.
pub fn inspect(work: &WorkDir) -> Result<Inspection, RecoverError> {
    let mut found = Inspection { work_dir: work.root().to_owned(), ..Inspection::default() };
    let mut reader = Reader { work, found: &mut found };
    reader.all().map_err(|source| RecoverError::Damaged { meta: work.meta(), source })?;
    // What an agent would find, by the same code.
    let garbage = survey(work)?.garbage.into_iter();
    found.garbage = garbage.map(|(garbage, item)| Waiting { garbage, item }).collect();
    Ok(found)
}

struct Reader<'a> {
    work: &'a WorkDir,
    found: &'a mut Inspection,
}

type Result<T, E = StorageError> = std::result::Result<T, E>;

impl Reader<'_> {
    fn all(&mut self) -> Result<()> {
        self.found.boot_id = text(&self.work.boot_id())?;
        self.found.rebooted = self.found.boot_id.is_some() && self.found.boot_id != boot_id();
        self.found.trash = discard::left(&self.work.trash()).len();
        self.found.reserve_files = reserve::left(&self.work.reserve());
        let log = garbage::read(&self.work.garbage_log())?;
        for (at, why) in log.damaged {
            self.found.problem(&self.work.garbage_log(), Some(at), why, Outcome::Rebuilt);
        }
        let latest = latest_agent(self.work);
        let mut all = subdirs(&self.work.meta_agents())?;
        all.extend(subdirs(&self.work.agents())?);
        all.sort();
        all.dedup();
        self.found.other_agents =
            all.into_iter().filter(|id| Some(id.as_str()) != latest.as_deref()).collect();
        self.resources()?;
        if let Some(id) = latest {
            self.found.agent = Some(self.agent(id)?);
        }
        Ok(())
    }

    /// A message, or a note of what is wrong with it.
    fn message<M: Message + Name + Default>(&mut self, path: &Path) -> Option<M> {
        match files::message(path) {
            Ok(message) => message,
            Err(error) => {
                self.damaged(path, &error);
                None
            }
        }
    }

    fn damaged(&mut self, path: &Path, error: &StorageError) {
        let (offset, what) = match error {
            StorageError::Damaged { at, message, .. } => (Some(*at), message.clone()),
            other => (None, kernel::chain(other)),
        };
        self.found.problem(path, offset, what, Outcome::StrictFails);
    }

    /// The whole records of a log, with a note of what follows them.
    fn log<M: Message + Name + Default>(&mut self, path: &Path) -> Vec<M> {
        match files::records(path, false) {
            Ok(log) => {
                if log.torn > 0 {
                    let what = format!("{} bytes of a record that is cut off", log.torn);
                    self.found.problem(path, Some(log.good), what, Outcome::CutOff);
                }
                log.records
            }
            Err(error) => {
                self.damaged(path, &error);
                Vec::new()
            }
        }
    }

    fn resources(&mut self) -> Result<()> {
        let dir = self.work.resources();
        let state: Option<ResourceState> = self.message(&dir.join(names::RESOURCE_STATE));
        self.found.resources.checkpointed = match &state {
            Some(state) => told(&state.resources),
            None => told(&self.log::<Resource>(&dir.join(names::RESOURCES))),
        };
        let target: Option<ResourceState> = self.message(&dir.join(names::RESOURCE_STATE_TARGET));
        self.found.resources.target = match &target {
            Some(target) => told(&target.resources),
            None => told(&self.log::<Resource>(&dir.join(names::RESOURCES_TARGET))),
        };
        let agent = latest_agent(self.work).unwrap_or_default();
        for operation in state.into_iter().flat_map(|state| state.operations) {
            let operation = self.operation(&agent, &operation);
            self.found.resources.operations.push(operation);
        }
        Ok(())
    }

    fn operation(&mut self, agent: &str, operation: &mesos::Operation) -> Operation {
        let uuid = hex(&operation.uuid.value);
        let log = self.work.meta_operation(agent, &uuid).join(names::OPERATION_UPDATES);
        let records = self.log::<UpdateOperationStatusRecord>(&log);
        let status = &operation.latest_status;
        Operation {
            id: operation.info.id.as_ref().map(|id| id.value.clone()),
            framework: operation.framework_id.as_ref().map(|id| id.value.clone()),
            kind: operation.info.r#type().as_str_name(),
            state: status.state().as_str_name(),
            message: status.message.clone(),
            logged: records.iter().any(|record| record.update.is_some()),
            acknowledged: records.iter().any(|r| r.uuid.is_some() && r.uuid == status.uuid),
            uuid,
        }
    }

    fn agent(&mut self, id: String) -> Result<Agent> {
        let info: Option<SlaveInfo> = self.message(&self.work.agent_info(&id));
        let mut agent = match info {
            Some(info) => Agent {
                hostname: info.hostname,
                port: info.port,
                resources: told(&info.resources),
                attributes: info.attributes.len(),
                ..Agent::default()
            },
            None => Agent::default(),
        };
        for framework in subdirs(&self.work.meta_frameworks(&id))? {
            agent.frameworks.push(self.framework(&id, framework)?);
        }
        agent.id = id;
        Ok(agent)
    }

    fn framework(&mut self, agent: &str, id: String) -> Result<Framework> {
        let info: Option<FrameworkInfo> = self.message(&self.work.framework_info(agent, &id));
        let mut framework = match info {
            Some(info) => Framework {
                name: Some(info.name),
                user: Some(info.user),
                principal: info.principal,
                ..Framework::default()
            },
            None => Framework::default(),
        };
        let pid = text(&self.work.framework_pid(agent, &id))?;
        framework.pid = pid.filter(|pid| !pid.starts_with('@'));
        for executor in subdirs(&self.work.meta_executors(agent, &id))? {
            framework.executors.push(self.executor(agent, &id, executor)?);
        }
        framework.id = id;
        Ok(framework)
    }

    fn executor(&mut self, agent: &str, framework: &str, id: String) -> Result<Executor> {
        let dir = self.work.meta_executor(agent, framework, &id);
        let runs = self.work.meta_runs(agent, framework, &id);
        let info: Option<ExecutorInfo> = self.message(&dir.join(names::EXECUTOR_INFO));
        let mut executor = Executor {
            name: info.and_then(|info| info.name),
            generated: text(&dir.join(names::GENERATED))?.as_deref() == Some("1"),
            ..Executor::default()
        };
        let latest = fs::read_link(runs.join(names::LATEST)).ok();
        let latest = latest.as_deref().and_then(Path::file_name).map(|n| n.to_owned());
        for container in subdirs(&runs)? {
            let is_latest = latest.as_deref() == Some(container.as_ref());
            let key = RunKey {
                agent: agent.to_owned(),
                framework: framework.to_owned(),
                executor: id.clone(),
                container,
            };
            executor.runs.push(self.run(key, is_latest)?);
        }
        executor.id = id;
        Ok(executor)
    }

    fn run(&mut self, key: RunKey, latest: bool) -> Result<Run> {
        let dir = self.work.meta_run(&key);
        let forked = dir.join(names::FORKED_PID);
        let forked_pid = text(&forked)?;
        if let Some(pid) = forked_pid.as_ref().filter(|pid| pid.parse::<u32>().is_err()) {
            self.found.problem(
                &forked,
                Some(0),
                format!("'{pid}' is not a pid"),
                Outcome::StrictFails,
            );
        }
        let mut tasks = Vec::new();
        for task in subdirs(&self.work.meta_tasks(&key))? {
            let dir = self.work.meta_task(&key, &task);
            tasks.push(self.task(&dir, task));
        }
        Ok(Run {
            latest,
            completed: dir.join(names::SENTINEL).exists(),
            forked_pid,
            libprocess_pid: text(&dir.join(names::LIBPROCESS_PID))?,
            http: dir.join(names::HTTP_MARKER).exists(),
            sandbox: Some(self.work.sandbox(&key)).filter(|path| path.is_dir()),
            tasks,
            container: key.container,
        })
    }

    fn task(&mut self, dir: &Path, id: String) -> Task {
        let info: Option<mesos::Task> = self.message(&dir.join(names::TASK_INFO));
        let _launch: Option<mesos::TaskInfo> = self.message(&dir.join(names::TASK_LAUNCH));
        let mut updates: Vec<Update> = Vec::new();
        for record in self.log::<StatusUpdateRecord>(&dir.join(names::TASK_UPDATES)) {
            match (record.r#type(), record.update, record.uuid) {
                (status_update_record::Type::Update, Some(update), _) => {
                    updates.push(told_update(&update));
                }
                (status_update_record::Type::Ack, _, Some(uuid)) => {
                    let uuid = hex(&uuid);
                    let same = updates.iter_mut().filter(|update| update.uuid == uuid);
                    same.for_each(|update| update.acknowledged = true);
                }
                _ => {}
            }
        }
        let state = updates.last().map(|update| update.state);
        Task {
            id,
            state: state.or_else(|| info.as_ref().map(|task| task.state().as_str_name())),
            name: info.map(|task| task.name),
            killed: dir.join(names::TASK_KILL).exists(),
            updates,
        }
    }
}

fn told_update(update: &mesos::internal::StatusUpdate) -> Update {
    let status = &update.status;
    Update {
        uuid: hex(update.uuid.as_deref().unwrap_or_default()),
        state: status.state().as_str_name(),
        reason: status.reason.is_some().then(|| status.reason().as_str_name()),
        message: status.message.clone(),
        timestamp: status.timestamp,
        acknowledged: false,
    }
}

/// Each resource as text, whatever format it was checkpointed in.
fn told(resources: &[Resource]) -> Vec<String> {
    let mut resources = resources.to_vec();
    upgrade_all(&mut resources);
    Resources::from_valid(&resources).iter().map(ToString::to_string).collect()
}

/// A uuid as it is usually written.
fn hex(bytes: &[u8]) -> String {
    match uuid::Uuid::from_slice(bytes) {
        Ok(uuid) => uuid.to_string(),
        Err(_) => bytes.iter().map(|b| format!("{b:02x}")).collect(),
    }
}
