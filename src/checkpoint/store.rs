//! The storage task: writes [`Record`]s strictly in the order given.
//!
//! Runs on a thread of its own, since every call blocks. The driver hands in
//! records with a number and gets the number back once the record is durable.

use std::fs;
use std::path::PathBuf;

use mesos::Resource;
use mesos::resources::{Format, convert};
use prost::Message;

use super::files::{StorageError, append, create_dir, framed, link, replace, touch};
use super::paths::names;
use super::{Record, RunKey, WorkDir};

type Result<T> = std::result::Result<T, StorageError>;

/// Writes below one work directory.
#[derive(Debug, Clone)]
pub struct Store {
    work: WorkDir,
    sync: bool,
}

impl Store {
    /// `sync`: flush to the disk before a record counts as durable.
    pub fn new(work: WorkDir, sync: bool) -> Self {
        Store { work, sync }
    }

    /// Makes one record durable.
    pub fn write(&self, record: &Record) -> Result<()> {
        kernel::failpoint!(&format!("checkpoint.{}.before", record.name()));
        self.store(record)?;
        kernel::failpoint!(&format!("checkpoint.{}.after", record.name()));
        Ok(())
    }

    fn store(&self, record: &Record) -> Result<()> {
        let work = &self.work;
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
                let dir = work.meta_executor(&run.agent, &run.framework, &run.executor);
                self.put(dir.join(names::EXECUTOR_INFO), &aged(info, |i| &mut i.resources))?;
                self.put(dir.join(names::GENERATED), if *generated { b"1" } else { b"0" })?;
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
            Record::HttpMarker { run } => touch(&self.run(run, names::HTTP_MARKER)),
            Record::Task { run, task, launch } => {
                let dir = work.meta_task(run, &task.task_id.value);
                if let Some(launch) = launch {
                    let bytes = aged(launch, |t| &mut t.resources);
                    self.put(dir.join(names::TASK_LAUNCH), &bytes)?;
                }
                self.put(dir.join(names::TASK_INFO), &aged(task, |t| &mut t.resources))
            }
            Record::Kill { run, task } => touch(&work.meta_task(run, task).join(names::TASK_KILL)),
            Record::Update { run, task, record } => {
                let path = work.meta_task(run, task).join(names::TASK_UPDATES);
                append(&path, &framed(&**record), self.sync)
            }
            Record::Sentinel { run } => touch(&self.run(run, names::SENTINEL)),
            Record::Drain { agent, config: Some(config) } => {
                self.put(work.drain_config(agent), &framed(config))
            }
            Record::Drain { agent, config: None } => remove(work.drain_config(agent)),
            Record::ForgetAgent => remove(work.latest_agent()),
        }
    }

    fn run(&self, run: &RunKey, name: &str) -> PathBuf {
        self.work.meta_run(run).join(name)
    }

    fn put(&self, path: PathBuf, bytes: &[u8]) -> Result<()> {
        replace(&path, bytes, self.sync)
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

/// Removes a file; one that is gone is fine.
fn remove(path: PathBuf) -> Result<()> {
    match fs::remove_file(&path) {
        Err(source) if source.kind() != std::io::ErrorKind::NotFound => {
            Err(StorageError::Remove { path, source })
        }
        _ => Ok(()),
    }
}
