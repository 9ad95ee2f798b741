//! Reads `meta` back after a restart of the agent.
//!
//! Missing and empty files are what an agent leaves that died between two steps:
//! the thing simply had not happened. Damaged ones stop the start under
//! `--strict`, else they are counted and skipped.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

use mesos::internal::{StatusUpdateRecord, status_update_record};
use mesos::resources::upgrade_all;
use mesos::{ExecutorInfo, SlaveInfo, Task, TaskInfo};
use thiserror::Error;

use super::files::{self, StorageError};
use super::paths::names;
use super::{
    Recovered, RecoveredExecutor, RecoveredFramework, RecoveredRun, RecoveredTask, RunKey, WorkDir,
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

/// Reads everything below `work`.
pub fn recover(work: &WorkDir, strict: bool) -> Result<Recovered, RecoverError> {
    let mut reader = Reader { work, strict, errors: Vec::new() };
    let mut recovered =
        reader.agent().map_err(|source| RecoverError::Damaged { meta: work.meta(), source })?;
    recovered.errors = reader.errors;
    Ok(recovered)
}

/// Remembers the running kernel, so that the next start knows of a reboot.
pub fn write_boot_id(work: &WorkDir) -> Result<(), StorageError> {
    match boot_id() {
        Some(id) => files::replace(&work.boot_id(), id.as_bytes(), false),
        None => Ok(()),
    }
}

fn boot_id() -> Option<String> {
    let id = fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
    Some(id.trim().to_owned())
}

struct Reader<'a> {
    work: &'a WorkDir,
    strict: bool,
    errors: Vec<String>,
}

impl Reader<'_> {
    /// Without `--strict` a problem is noted and the thing skipped.
    fn tolerate<T>(
        &mut self,
        result: Result<Option<T>, StorageError>,
    ) -> Result<Option<T>, StorageError> {
        match result {
            Err(error) if !self.strict => {
                let error = kernel::chain(&error);
                tracing::warn!(error, "skipping a damaged checkpoint");
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
        let latest = fs::read_link(self.work.latest_agent())
            .ok()
            .and_then(|target| target.file_name().map(OsString::from));
        let latest = latest.map(|name| name.to_string_lossy().into_owned());
        let mut recovered = Recovered { rebooted, ..Recovered::default() };
        recovered.other_agents = self.other_agents(latest.as_deref())?;
        let Some(id) = latest else { return Ok(recovered) };
        let info = files::message(&self.work.agent_info(&id));
        recovered.agent = self.tolerate(info)?.map(|mut info: SlaveInfo| {
            upgrade_all(&mut info.resources);
            info
        });
        if recovered.agent.is_none() {
            return Ok(recovered);
        }
        let drain = files::message(&self.work.drain_config(&id));
        recovered.drain = self.tolerate(drain)?;
        for framework in subdirs(&self.work.meta_frameworks(&id))? {
            if let Some(framework) = self.framework(&id, &framework)? {
                recovered.frameworks.push(framework);
            }
        }
        Ok(recovered)
    }

    fn other_agents(&self, latest: Option<&str>) -> Result<Vec<(String, f64)>, StorageError> {
        let mut found = subdirs(&self.work.meta_agents())?;
        found.extend(subdirs(&self.work.agents())?);
        found.sort();
        found.dedup();
        Ok(found
            .into_iter()
            .filter(|id| Some(id.as_str()) != latest)
            .map(|id| {
                let since =
                    modified(&self.work.agent(&id)).max(modified(&self.work.meta_agent(&id)));
                (id, since)
            })
            .collect())
    }

    fn framework(
        &mut self,
        agent: &str,
        id: &str,
    ) -> Result<Option<RecoveredFramework>, StorageError> {
        let info = files::message(&self.work.framework_info(agent, id));
        let Some(info) = self.tolerate(info)? else { return Ok(None) };
        let pid = files::read(&self.work.framework_pid(agent, id))?
            .map(|b| String::from_utf8_lossy(&b).into_owned())
            .filter(|pid| !pid.is_empty() && !pid.starts_with('@'));
        let dir = self.work.meta_framework(agent, id);
        let mut executors = Vec::new();
        for executor in subdirs(&self.work.meta_executors(agent, id))? {
            if let Some(executor) = self.executor(agent, id, &executor)? {
                executors.push(executor);
            }
        }
        Ok(Some(RecoveredFramework { info, pid, executors, modified: modified(&dir) }))
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
        let Some(mut info): Option<ExecutorInfo> = self.tolerate(info)? else { return Ok(None) };
        upgrade_all(&mut info.resources);
        let generated = files::read(&dir.join(names::GENERATED))?.is_some_and(|b| b == b"1");
        let latest = fs::read_link(runs.join(names::LATEST))
            .ok()
            .and_then(|t| t.file_name().map(|n| n.to_string_lossy().into_owned()));
        let key = |container: String| RunKey {
            agent: agent.to_owned(),
            framework: framework.to_owned(),
            executor: id.to_owned(),
            container,
        };
        let mut run = None;
        let mut old_runs = Vec::new();
        for container in subdirs(&runs)? {
            if Some(&container) == latest.as_ref() {
                run = Some(self.run(key(container))?);
            } else {
                let key = key(container);
                let since = modified(&self.work.meta_run(&key));
                old_runs.push((key, since));
            }
        }
        Ok(Some(RecoveredExecutor { info, generated, run, old_runs }))
    }

    fn run(&mut self, key: RunKey) -> Result<RecoveredRun, StorageError> {
        let dir = self.work.meta_run(&key);
        let text = |name: &str| -> Result<Option<String>, StorageError> {
            let bytes = files::read(&dir.join(name))?;
            Ok(bytes
                .map(|b| String::from_utf8_lossy(&b).trim().to_owned())
                .filter(|t| !t.is_empty()))
        };
        let forked = match text(names::FORKED_PID)? {
            None => None,
            Some(pid) => {
                let parsed = pid.parse().map(Some).map_err(|_| StorageError::Damaged {
                    path: dir.join(names::FORKED_PID),
                    message: format!("'{pid}' is not a pid"),
                });
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
            modified: modified(&dir),
            forked_pid: forked,
            libprocess_pid: text(names::LIBPROCESS_PID)?,
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
        let log = files::records::<StatusUpdateRecord>(&dir.join(names::TASK_UPDATES)).map(Some);
        let mut updates = Vec::new();
        let mut acknowledged = Vec::new();
        for record in self.tolerate(log)?.unwrap_or_default() {
            match record.r#type() {
                status_update_record::Type::Update => updates.extend(record.update),
                status_update_record::Type::Ack => acknowledged.extend(record.uuid),
            }
        }
        let killed = dir.join(names::TASK_KILL).exists();
        Ok(Some(RecoveredTask { task, launch, killed, updates, acknowledged }))
    }
}

/// Names of the directories (no links) in `path`; none if there is no `path`.
fn subdirs(path: &Path) -> Result<Vec<String>, StorageError> {
    let failed = |source| StorageError::Read { path: path.to_owned(), source };
    let entries = match fs::read_dir(path) {
        Ok(entries) => entries,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(source) => return Err(failed(source)),
    };
    let mut names = Vec::new();
    for entry in entries {
        let entry = entry.map_err(failed)?;
        if entry.file_type().map_err(failed)?.is_dir() {
            names.push(entry.file_name().to_string_lossy().into_owned());
        }
    }
    names.sort();
    Ok(names)
}

/// Seconds since the epoch; 0 if there is no such file.
fn modified(path: &Path) -> f64 {
    fs::metadata(path)
        .and_then(|m| m.modified())
        .ok()
        .and_then(|t| t.duration_since(UNIX_EPOCH).ok())
        .map_or(0.0, |d| d.as_secs_f64())
}
