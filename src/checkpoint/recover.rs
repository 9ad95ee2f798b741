//! Reads `meta` back after a restart of the agent.
//!
//! Missing and empty files are what an agent leaves that died between two steps:
//! the thing simply had not happened. Damaged ones stop the start under
//! `--strict`, else they are counted and skipped. Logs are read record by record,
//! and of what is over only the newest is kept in memory, so that a work directory
//! with a week of ended tasks costs little.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};

use mesos::internal::{
    StatusUpdateRecord, UpdateOperationStatusRecord, status_update_record,
    update_operation_status_record,
};
use mesos::resources::upgrade_all;
use mesos::{ExecutorInfo, SlaveInfo, Task, TaskInfo};
use thiserror::Error;

use super::files::{self, StorageError, modified, subdirs};
use super::paths::names;
use super::{
    Garbage, Item, Recovered, RecoveredExecutor, RecoveredFramework, RecoveredOperation,
    RecoveredRun, RecoveredTask, RunKey, WorkDir, garbage, leftovers, reserve, resources,
};

/// Why the checkpoints cannot be used.
#[derive(Debug, Error)]
pub enum RecoverError {
    /// Under `--strict`: the first problem found.
    #[error("failed to recover from '{meta}' (--no-strict skips what is damaged)")]
    Damaged {
        /// The directory.
        meta: PathBuf,
        /// What is wrong.
        source: StorageError,
    },
}

/// How to read.
#[derive(Debug, Clone, Copy)]
pub struct Mode {
    /// Damage is an error.
    pub strict: bool,
    /// Torn ends of logs are cut off.
    pub repair: bool,
    /// How many ended executors of each framework are wanted, the newest.
    pub completed: usize,
}

impl Mode {
    /// All there is, and nothing may be damaged.
    pub const STRICT: Mode = Mode { strict: true, repair: true, completed: usize::MAX };
}

/// Reads everything below `work`.
///
/// # Errors
/// [`RecoverError`]
pub fn recover(work: &WorkDir, mode: Mode) -> Result<Recovered, RecoverError> {
    let mut reader = Reader { work, mode, errors: Vec::new(), seen: Vec::new() };
    let damaged = |source| RecoverError::Damaged { meta: work.meta(), source };
    let resources = match resources::recover(work, mode.repair) {
        Err(error @ StorageError::Damaged { .. }) => reader.tolerate(Err(error)),
        other => other.map(Some),
    };
    let resources = resources.map_err(damaged)?;
    let mut recovered = reader.agent().map_err(damaged)?;
    recovered.resources = resources.unwrap_or_default();
    recovered.garbage = reader.garbage();
    recovered.errors = reader.errors;
    Ok(recovered)
}

/// Reads everything below `work` and changes nothing, damage or not.
///
/// # Errors
/// [`RecoverError`], if a directory cannot be read.
pub fn survey(work: &WorkDir) -> Result<Recovered, RecoverError> {
    recover(work, Mode { strict: false, repair: false, completed: 0 })
}

/// Remembers the running kernel, so that the next start knows of a reboot.
///
/// # Errors
/// The next start would take this one for another machine's.
pub fn write_boot_id(work: &WorkDir) -> Result<(), StorageError> {
    let Some(id) = boot_id() else { return Ok(()) };
    let path = work.boot_id();
    match files::replace(&path, id.as_bytes(), false) {
        Err(error) if error.is_full() => {
            match reserve::use_for(&work.reserve(), &path, id.as_bytes()) {
                Ok(Some(_)) => Ok(()),
                _ => Err(error),
            }
        }
        other => other.map(drop),
    }
}

/// Of the running kernel.
pub(super) fn boot_id() -> Option<String> {
    let id = fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
    Some(id.trim().to_owned())
}

/// The agent id in use, as the link says.
pub(super) fn latest_agent(work: &WorkDir) -> Option<String> {
    let target = fs::read_link(work.latest_agent()).ok()?;
    Some(OsString::from(target.file_name()?).to_string_lossy().into_owned())
}

struct Reader<'a> {
    work: &'a WorkDir,
    mode: Mode,
    errors: Vec<String>,
    /// Garbage as it is found, and when it was changed last.
    seen: Vec<(Garbage, f64)>,
}

impl Reader<'_> {
    /// Without `--strict` a problem is noted and the thing skipped.
    fn tolerate<T>(
        &mut self,
        result: Result<Option<T>, StorageError>,
    ) -> Result<Option<T>, StorageError> {
        match result {
            Err(error) if !self.mode.strict => {
                let error = kernel::chain(&error);
                if self.mode.repair {
                    tracing::warn!(error, "skipping a damaged checkpoint");
                }
                self.errors.push(error);
                Ok(None)
            }
            other => other,
        }
    }

    fn agent(&mut self) -> Result<Recovered, StorageError> {
        let before = files::read(&self.work.boot_id())?;
        let rebooted = match (before, boot_id()) {
            (Some(before), Some(now)) => before.trim_ascii() != now.as_bytes(),
            _ => false,
        };
        let latest = latest_agent(self.work);
        let mut recovered = Recovered { rebooted, ..Recovered::default() };
        self.other_agents(latest.as_deref())?;
        let Some(id) = latest else { return Ok(recovered) };
        let info = files::message(&self.work.agent_info(&id));
        recovered.agent = self.tolerate(info)?.map(|mut info: SlaveInfo| {
            upgrade_all(&mut info.resources);
            info
        });
        if recovered.agent.is_none() {
            self.found(Garbage::Agent(id));
            return Ok(recovered);
        }
        let drain = files::message(&self.work.drain_config(&id));
        recovered.drain = self.tolerate(drain)?;
        for operation in subdirs(&self.work.meta_operations(&id))? {
            recovered.operations.extend(self.operation(&id, operation)?);
        }
        for framework in subdirs(&self.work.meta_frameworks(&id))? {
            if let Some(framework) = self.framework(&id, &framework)? {
                recovered.frameworks.push(framework);
            }
        }
        self.seen.extend(leftovers::sandboxes(self.work, &id)?);
        Ok(recovered)
    }

    /// Notes garbage; it is as old as its youngest directory.
    fn found(&mut self, garbage: Garbage) {
        let changed = self.work.garbage(&garbage).iter().map(|p| modified(p)).fold(0.0, f64::max);
        self.seen.push((garbage, changed));
    }

    /// Everything found with what the log remembers of it, and sandboxes that only
    /// the log knows.
    fn garbage(&mut self) -> Vec<(Garbage, Item)> {
        let log = garbage::read(&self.work.garbage_log());
        let log = log.unwrap_or_else(|error| {
            self.errors.push(kernel::chain(&error));
            garbage::Log::default()
        });
        let path = self.work.garbage_log();
        for (at, why) in &log.damaged {
            self.errors.push(format!("'{}' is damaged: at byte {at}: {why}", path.display()));
        }
        let mut remembered = log.items;
        let mut all: Vec<(Garbage, Item)> = Vec::new();
        for (garbage, changed) in self.seen.drain(..) {
            let item = remembered.remove(&garbage).unwrap_or_else(|| Item::since(changed));
            all.push((garbage, item));
        }
        let lives = |garbage: &Garbage| {
            matches!(garbage, Garbage::Sandbox(_))
                && self.work.garbage(garbage).iter().any(|path| path.exists())
        };
        all.extend(remembered.into_iter().filter(|(garbage, _)| lives(garbage)));
        all
    }

    fn other_agents(&mut self, latest: Option<&str>) -> Result<(), StorageError> {
        let mut found: BTreeSet<String> = subdirs(&self.work.meta_agents())?.into_iter().collect();
        found.extend(subdirs(&self.work.agents())?);
        for id in found.into_iter().filter(|id| Some(id.as_str()) != latest) {
            self.found(Garbage::Agent(id));
        }
        Ok(())
    }

    fn operation(
        &mut self,
        agent: &str,
        uuid: String,
    ) -> Result<Option<RecoveredOperation>, StorageError> {
        let log = self.work.meta_operation(agent, &uuid).join(names::OPERATION_UPDATES);
        let log = files::records::<UpdateOperationStatusRecord>(&log, self.mode.repair);
        let Some(log) = self.tolerate(log.map(Some))? else { return Ok(None) };
        let mut found = RecoveredOperation { uuid, updates: Vec::new(), acknowledged: Vec::new() };
        for record in log.records {
            match record.r#type() {
                update_operation_status_record::Type::Update => found.updates.extend(record.update),
                update_operation_status_record::Type::Ack => {
                    found.acknowledged.extend(record.uuid.map(|uuid| uuid.value));
                }
            }
        }
        Ok(Some(found))
    }

    fn framework(
        &mut self,
        agent: &str,
        id: &str,
    ) -> Result<Option<RecoveredFramework>, StorageError> {
        let own = || Garbage::Framework { agent: agent.to_owned(), framework: id.to_owned() };
        let info = files::message(&self.work.framework_info(agent, id));
        let Some(info) = self.tolerate(info)? else {
            self.found(own());
            return Ok(None);
        };
        let pid = files::read(&self.work.framework_pid(agent, id))?
            .map(|b| String::from_utf8_lossy(&b).into_owned())
            .filter(|pid| !pid.is_empty() && !pid.starts_with('@'));
        let mut executors = Vec::new();
        let all = subdirs(&self.work.meta_executors(agent, id))?;
        let skipped = self.long_over(agent, id, &all);
        for name in all {
            if skipped.contains(&name) {
                self.found_executor(agent, id, &name)?;
            } else if let Some(executor) = self.executor(agent, id, &name)? {
                executors.push(executor);
            }
        }
        if !executors.iter().any(RecoveredExecutor::is_live) {
            self.found(own());
        }
        Ok(Some(RecoveredFramework { info, pid, executors }))
    }

    /// Ended executors that nobody will ask for: all but the newest few.
    fn long_over(&self, agent: &str, framework: &str, all: &[String]) -> BTreeSet<String> {
        let mut over: Vec<(f64, &String)> = all
            .iter()
            .filter_map(|id| {
                let runs = self.work.meta_runs(agent, framework, id);
                let latest = fs::read_link(runs.join(names::LATEST)).ok()?;
                let run = runs.join(latest.file_name()?);
                run.join(names::SENTINEL).exists().then(|| (modified(&run), id))
            })
            .collect();
        over.sort_by(|a, b| b.0.total_cmp(&a.0));
        over.into_iter().skip(self.mode.completed).map(|(_, id)| id.clone()).collect()
    }

    fn found_executor(
        &mut self,
        agent: &str,
        framework: &str,
        id: &str,
    ) -> Result<(), StorageError> {
        for container in subdirs(&self.work.meta_runs(agent, framework, id))? {
            self.found(Garbage::Run(RunKey {
                agent: agent.to_owned(),
                framework: framework.to_owned(),
                executor: id.to_owned(),
                container,
            }));
        }
        self.found(Garbage::Executor {
            agent: agent.to_owned(),
            framework: framework.to_owned(),
            executor: id.to_owned(),
        });
        Ok(())
    }

    fn executor(
        &mut self,
        agent: &str,
        framework: &str,
        id: &str,
    ) -> Result<Option<RecoveredExecutor>, StorageError> {
        let dir = self.work.meta_executor(agent, framework, id);
        let runs = self.work.meta_runs(agent, framework, id);
        let info = files::message(&dir.join(names::EXECUTOR_INFO));
        let Some(mut info): Option<ExecutorInfo> = self.tolerate(info)? else {
            self.found_executor(agent, framework, id)?;
            return Ok(None);
        };
        upgrade_all(&mut info.resources);
        let generated = files::read(&dir.join(names::GENERATED))?.is_some_and(|b| b == b"1");
        let latest = fs::read_link(runs.join(names::LATEST))
            .ok()
            .and_then(|t| t.file_name().map(|n| n.to_string_lossy().into_owned()));
        let mut executor = RecoveredExecutor { info, generated, run: None };
        for container in subdirs(&runs)? {
            let is_latest = Some(&container) == latest.as_ref();
            let key = RunKey {
                agent: agent.to_owned(),
                framework: framework.to_owned(),
                executor: id.to_owned(),
                container,
            };
            if is_latest {
                executor.run = Some(self.run(key)?);
            } else {
                self.found(Garbage::Run(key));
            }
        }
        if !executor.is_live() {
            if let Some(run) = &executor.run {
                self.found(Garbage::Run(run.key.clone()));
            }
            self.found(Garbage::Executor {
                agent: agent.to_owned(),
                framework: framework.to_owned(),
                executor: id.to_owned(),
            });
        }
        Ok(Some(executor))
    }

    fn run(&mut self, key: RunKey) -> Result<RecoveredRun, StorageError> {
        let dir = self.work.meta_run(&key);
        let forked = match text(&dir.join(names::FORKED_PID))? {
            None => None,
            Some(pid) => {
                let path = dir.join(names::FORKED_PID);
                let message = format!("'{pid}' is not a pid");
                let damaged = |_| StorageError::Damaged { path, at: 0, message };
                let parsed = pid.parse().map(Some).map_err(damaged);
                self.tolerate(parsed)?
            }
        };
        let mut tasks = Vec::new();
        for task in subdirs(&self.work.meta_tasks(&key))? {
            if let Some(task) = self.task(&self.work.meta_task(&key, &task))? {
                tasks.push(task);
            }
        }
        Ok(RecoveredRun {
            completed: dir.join(names::SENTINEL).exists(),
            forked_pid: forked,
            libprocess_pid: text(&dir.join(names::LIBPROCESS_PID))?,
            http: dir.join(names::HTTP_MARKER).exists(),
            tasks,
            key,
        })
    }

    fn task(&mut self, dir: &Path) -> Result<Option<RecoveredTask>, StorageError> {
        let task = files::message::<Task>(&dir.join(names::TASK_INFO));
        let Some(mut task) = self.tolerate(task)? else { return Ok(None) };
        upgrade_all(&mut task.resources);
        let launch = files::message::<TaskInfo>(&dir.join(names::TASK_LAUNCH));
        let mut launch = self.tolerate(launch)?;
        if let Some(launch) = &mut launch {
            upgrade_all(&mut launch.resources);
        }
        let log = dir.join(names::TASK_UPDATES);
        let log = files::records::<StatusUpdateRecord>(&log, self.mode.repair);
        let mut updates = Vec::new();
        let mut acknowledged = Vec::new();
        for record in self.tolerate(log.map(|log| Some(log.records)))?.unwrap_or_default() {
            match record.r#type() {
                status_update_record::Type::Update => updates.extend(record.update),
                status_update_record::Type::Ack => acknowledged.extend(record.uuid),
            }
        }
        let killed = dir.join(names::TASK_KILL).exists();
        Ok(Some(RecoveredTask { task, launch, killed, updates, acknowledged }))
    }
}

/// The text of a small file; `None` if it is missing or empty.
pub(super) fn text(path: &Path) -> Result<Option<String>, StorageError> {
    let bytes = files::read(path)?;
    Ok(bytes.map(|b| String::from_utf8_lossy(&b).trim().to_owned()).filter(|t| !t.is_empty()))
}
