//! The storage task: writes [`Record`]s strictly in the order given.
//!
//! Runs on a thread of its own, since every call blocks. The driver hands in
//! records with a number and gets the number back once the record is durable:
//! [`Store::write`] makes it survive the agent, [`super::flush`] the machine.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::{Path, PathBuf};

use kernel::mounts::Mount;
use mesos::Resource;
use mesos::resources::{Format, convert};
use mesos::secrets::Secretive;
use prost::Message;

use super::discard::{self, DiscardError};
use super::files::{StorageError, append, create_dir, framed, link, read, replace, touch};
use super::paths::names;
use super::{Garbage, Record, RunKey, WorkDir, garbage, reserve, resources};

type Result<T> = std::result::Result<T, StorageError>;

/// Writes below one work directory.
#[derive(Debug, Clone)]
pub struct Store {
    work: WorkDir,
    sync: bool,
}

/// What came of writing a record.
#[derive(Debug, Default)]
pub struct Written {
    /// To be flushed.
    pub unflushed: Unflushed,
    /// In the trash now: to be deleted.
    pub discarded: Vec<PathBuf>,
}

/// Files that were written and may not be on the disk yet.
#[derive(Debug, Default)]
pub struct Unflushed(pub(super) BTreeMap<PathBuf, File>);

impl Unflushed {
    /// How many.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Takes those of a later record in.
    pub fn extend(&mut self, later: Unflushed) {
        self.0.extend(later.0);
    }
}

impl Store {
    /// `sync`: what is written is to be flushed to the disk, so give it back.
    pub fn new(work: WorkDir, sync: bool) -> Self {
        Store { work, sync }
    }

    /// Writes one record, so that it outlives this process. What is to be flushed
    /// before it outlives the machine comes back, and what is to be deleted.
    ///
    /// # Errors
    /// What could not be written; nothing of it is half done.
    pub fn write(&self, record: &Record) -> Result<Written> {
        kernel::failpoint!(&format!("checkpoint.{}.before", record.name()));
        let mut writer =
            Writer { store: self, owed: record.is_owed(), written: Written::default() };
        writer.record(record)?;
        kernel::failpoint!(&format!("checkpoint.{}.after", record.name()));
        Ok(writer.written)
    }

    /// Moves the directories of `garbage` out of the way, unless something of `mounts`
    /// is mounted below; what is to be deleted now.
    ///
    /// # Errors
    /// Why they stay where they are.
    pub fn discard(
        &self,
        garbage: &Garbage,
        mounts: &[Mount],
    ) -> std::result::Result<Vec<PathBuf>, DiscardError> {
        discard::discard(&self.work, garbage, mounts)
    }

    /// What was discarded and not deleted before the last agent died.
    #[must_use]
    pub fn discarded(&self) -> Vec<PathBuf> {
        discard::left(&self.work.trash())
    }

    /// Makes the reserve for a full disk whole again, if there is room.
    ///
    /// # Errors
    /// Why it could not be; checkpoints work without it.
    pub fn refill(&self) -> Result<()> {
        // Made now: a full disk may have no room for it.
        create_dir(&self.work.trash())?;
        reserve::refill(&self.work.reserve())
    }

    /// Files left in the reserve.
    #[must_use]
    pub fn reserve_left(&self) -> u64 {
        reserve::left(&self.work.reserve())
    }
}

/// Writes one record.
struct Writer<'a> {
    store: &'a Store,
    /// A full disk is no excuse.
    owed: bool,
    written: Written,
}

impl Writer<'_> {
    fn record(&mut self, record: &Record) -> Result<()> {
        let work = &self.store.work;
        match record {
            Record::Agent(info) => {
                let id = info.id.as_ref().map_or("", |id| id.value.as_str());
                self.put(work.agent_info(id), &aged(info, |i| &mut i.resources))?;
                link(&work.latest_agent(), &work.meta_agent(id))
            }
            Record::Framework { agent, info, pid } => {
                let id = info.id.as_ref().map_or("", |id| id.value.as_str());
                self.put(work.framework_info(agent, id), &framed(&**info))?;
                self.put(work.framework_pid(agent, id), pid.as_bytes())
            }
            Record::Executor { run, info, generated } => {
                // A framework's executor is compared with what it sends next time, so
                // it stays as sent; one that was made up has the task's command.
                let info = if *generated { info.without_secrets() } else { info.clone() };
                let dir = work.meta_executor(&run.agent, &run.framework, &run.executor);
                self.put(dir.join(names::EXECUTOR_INFO), &aged(&*info, |i| &mut i.resources))?;
                self.put(dir.join(names::GENERATED), if *generated { b"1" } else { b"0" })?;
                // Now, not when a full disk has no room for a directory.
                create_dir(&self.run(run, names::PIDS))?;
                create_dir(&work.meta_tasks(run))?;
                let runs = work.meta_runs(&run.agent, &run.framework, &run.executor);
                link(&runs.join(names::LATEST), &work.meta_run(run))
            }
            Record::ForkedPid { run, pid } => {
                self.put(self.run(run, names::FORKED_PID), pid.to_string().as_bytes())
            }
            Record::LibprocessPid { run, pid } => {
                self.put(self.run(run, names::LIBPROCESS_PID), pid.as_bytes())
            }
            Record::HttpMarker { run } => self.mark(&self.run(run, names::HTTP_MARKER)),
            Record::Task { run, task, launch } => {
                let dir = work.meta_task(run, &task.task_id.value);
                if let Some(launch) = launch {
                    let bytes = aged(&launch.without_secrets(), |t| &mut t.resources);
                    self.put(dir.join(names::TASK_LAUNCH), &bytes)?;
                }
                self.put(
                    dir.join(names::TASK_INFO),
                    &aged(&task.without_secrets(), |t| &mut t.resources),
                )
            }
            Record::Kill { run, task } => {
                self.mark(&work.meta_task(run, task).join(names::TASK_KILL))
            }
            Record::Update { run, task, record } => {
                let path = work.meta_task(run, task).join(names::TASK_UPDATES);
                // A lost acknowledgement only costs a repetition.
                self.append(path, &framed(&**record), record.update.is_some())
            }
            Record::Sentinel { run } => {
                // A run that was deleted meanwhile needs no end.
                if !work.meta_run(run).is_dir() {
                    return Ok(());
                }
                self.mark(&self.run(run, names::SENTINEL))
            }
            Record::Drain { agent, config: Some(config) } => {
                self.put(work.drain_config(agent), &framed(config))
            }
            Record::Drain { agent, config: None } => remove(work.drain_config(agent)),
            Record::Resources(state) => {
                let discarded = resources::commit(work, state, self.store.sync)?;
                self.written.discarded.extend(discarded);
                Ok(())
            }
            Record::OperationUpdate { agent, operation, record } => {
                let path = work.meta_operation(agent, operation).join(names::OPERATION_UPDATES);
                self.append(path, &framed(&**record), record.update.is_some())
            }
            Record::ForgetOperation { agent, operation } => {
                forget_operation(work.meta_operation(agent, operation))
            }
            Record::ForgetAgent => remove(work.latest_agent()),
            Record::Scheduled { garbage, item } => garbage::add(&work.garbage_log(), garbage, item),
            Record::Unscheduled(garbage) => garbage::gone(&work.garbage_log(), garbage),
            Record::Schedule(all) => garbage::rewrite(&work.garbage_log(), all),
        }
    }

    fn run(&self, run: &RunKey, name: &str) -> PathBuf {
        self.store.work.meta_run(run).join(name)
    }

    fn put(&mut self, path: PathBuf, bytes: &[u8]) -> Result<()> {
        let file = match replace(&path, bytes, self.store.sync) {
            Err(error) => self.rescue(error, &path, bytes)?,
            Ok(file) => file,
        };
        self.written(path, file, true);
        Ok(())
    }

    fn append(&mut self, path: PathBuf, bytes: &[u8], flush: bool) -> Result<()> {
        let file = match append(&path, bytes) {
            Err(error) if error.is_full() && self.owed => {
                let mut whole = read(&path)?.unwrap_or_default();
                whole.extend_from_slice(bytes);
                self.rescue(error, &path, &whole)?
            }
            other => other?,
        };
        self.written(path, file, flush);
        Ok(())
    }

    fn mark(&self, path: &Path) -> Result<()> {
        match touch(path) {
            Err(error) => self.rescue(error, path, b"").map(drop),
            Ok(()) => Ok(()),
        }
    }

    /// Takes the place of a write that found the disk full, where it may.
    fn rescue(&self, error: StorageError, path: &Path, bytes: &[u8]) -> Result<File> {
        if !error.is_full() || !self.owed {
            return Err(error);
        }
        let reserve = self.store.work.reserve();
        match reserve::use_for(&reserve, path, bytes) {
            Ok(Some(file)) => {
                tracing::warn!(path = %path.display(), "the disk is full: using the reserve");
                Ok(file)
            }
            _ => Err(error),
        }
    }

    fn written(&mut self, path: PathBuf, file: File, flush: bool) {
        if self.store.sync && flush {
            self.written.unflushed.0.insert(path, file);
        }
    }
}

/// A framed message with its resources in the format that Mesos keeps on disk,
/// unless a reservation cannot be said in it.
fn aged<M: Message + Clone>(message: &M, resources: fn(&mut M) -> &mut Vec<Resource>) -> Vec<u8> {
    let mut old = message.clone();
    match convert(resources(&mut old), Format::Pre) {
        Ok(()) => framed(&old),
        Err(_) => framed(message),
    }
}

/// Removes an operation's log and its directory.
fn forget_operation(dir: PathBuf) -> Result<()> {
    remove(dir.join(names::OPERATION_UPDATES))?;
    match fs::remove_dir(&dir) {
        Err(source) if source.kind() != std::io::ErrorKind::NotFound => {
            Err(StorageError::Remove { path: dir, source })
        }
        _ => Ok(()),
    }
}

/// Removes a file; one that is gone is fine.
fn remove(path: PathBuf) -> Result<()> {
    match fs::remove_file(&path) {
        Err(source) if source.kind() != std::io::ErrorKind::NotFound => {
            Err(StorageError::Remove { path, source })
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use mesos::{CommandInfo, ContainerInfo, Environment, Secret, Task, TaskInfo, secret};

    use super::*;

    #[test]
    fn secrets_are_not_written_down() {
        let root = std::env::temp_dir().join(format!("store-secrets-{}", std::process::id()));
        let value = Secret {
            r#type: Some(secret::Type::Value as i32),
            value: Some(secret::Value { data: b"hush".to_vec() }),
            reference: None,
        };
        let variable = mesos::environment::Variable {
            name: "S".into(),
            secret: Some(value.clone()),
            ..Default::default()
        };
        let command = CommandInfo {
            environment: Some(Environment { variables: vec![variable] }),
            ..CommandInfo::default()
        };
        let source = mesos::volume::Source { secret: Some(value), ..Default::default() };
        let volume = mesos::Volume { source: Some(source), ..Default::default() };
        let container = ContainerInfo { volumes: vec![volume], ..ContainerInfo::default() };
        let launch = TaskInfo {
            command: Some(command.clone()),
            container: Some(container.clone()),
            ..TaskInfo::default()
        };
        let task = Task { container: Some(container), ..Task::default() };
        let run = RunKey {
            agent: "a".into(),
            framework: "f".into(),
            executor: "e".into(),
            container: "c".into(),
        };
        let executor = mesos::ExecutorInfo { command: Some(command), ..Default::default() };
        let store = Store::new(WorkDir::new(&root), false);
        for record in [
            Record::Executor { run: run.clone(), info: Box::new(executor), generated: true },
            Record::Task { run, task: Box::new(task), launch: Some(Box::new(launch)) },
        ] {
            store.write(&record).unwrap();
        }
        let mut files = vec![root.clone()];
        let mut read = 0;
        while let Some(path) = files.pop() {
            if path.is_dir() {
                files.extend(fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
            } else if path.is_file() {
                let bytes = fs::read(&path).unwrap();
                assert!(!bytes.windows(4).any(|part| part == b"hush"), "{}", path.display());
                read += 1;
            }
        }
        assert!(read >= 4, "only {read} files");
        fs::remove_dir_all(&root).unwrap();
    }
}
