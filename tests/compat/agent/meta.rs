//! The work directory of a real Mesos agent, as recorded.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use bulkhead::checkpoint::{
    Mode, Record, RecoveredFramework, RecoveredTask, Store, WorkDir, recover,
};
use mesos::TaskState;
use mesos::internal::{StatusUpdateRecord, status_update_record};
use prost::Message as _;

use crate::require;
use crate::support::{self, TempDir};

/// Unpacks `meta.LABEL.tar.gz` below a new work directory.
fn unpack(label: &str) -> (TempDir, WorkDir) {
    let dir = TempDir::new("agent-meta");
    let archive = support::golden().expect("required").join(format!("workdir/meta.{label}.tar.gz"));
    let done = Command::new("tar").arg("-xzf").arg(archive).arg("-C").arg(dir.path()).status();
    assert!(done.expect("tar").success());
    let work = WorkDir::new(dir.path());
    assert!(work.meta().is_dir(), "the archive holds 'meta'");
    (dir, work)
}

fn states(framework: &RecoveredFramework) -> BTreeMap<String, Option<TaskState>> {
    let last = |t: &RecoveredTask| t.updates.last().map(|u| u.status.state());
    framework
        .executors
        .iter()
        .filter_map(|e| e.run.as_ref())
        .flat_map(|r| &r.tasks)
        .map(|t| (t.task.task_id.value.clone(), last(t)))
        .collect()
}

#[test]
fn checkpoints_of_mesos_are_understood() {
    require!(golden, program_tar);
    let (_dir, work) = unpack("a-running");
    let found = recover(&work, Mode::STRICT).expect("strict recovery");
    assert!(found.agent.expect("an agent").id.expect("an id").value.ends_with("-S0"));
    let golden = found.frameworks.iter().find(|f| f.info.name == "golden").expect("framework");
    let states = states(golden);
    for (task, state) in [
        ("t-run", TaskState::TaskRunning),
        ("t-vol", TaskState::TaskRunning),
        ("t-fin", TaskState::TaskFinished),
        ("t-fail", TaskState::TaskFailed),
        ("t-kill", TaskState::TaskKilled),
        ("t-oom", TaskState::TaskFailed),
        ("t-custom", TaskState::TaskFinished),
        ("g-run", TaskState::TaskRunning),
        ("g-fin", TaskState::TaskFinished),
    ] {
        assert_eq!(states.get(task), Some(&Some(state)), "{task}");
    }
    let executor = |id: &str| {
        golden.executors.iter().find(|e| e.info.executor_id.value == id).expect("executor")
    };
    let run = executor("t-run").run.as_ref().expect("run");
    assert!(run.forked_pid.is_some() && run.libprocess_pid.is_some() && !run.http);
    assert!(!run.completed && executor("t-run").generated);
    let group = executor("group-exec").run.as_ref().expect("run");
    assert!(group.http && group.libprocess_pid.is_none());
    assert!(executor("t-fin").run.as_ref().expect("run").completed);
    assert!(!executor("custom").generated);
    let finished = executor("t-fin").run.as_ref().expect("run");
    assert_eq!(finished.tasks[0].acknowledged.len(), finished.tasks[0].updates.len());
}

/// What was read, written again, gives the same files byte by byte.
#[test]
fn checkpoints_are_written_as_mesos_writes_them() {
    require!(golden, program_tar);
    let (_theirs, work) = unpack("a-running");
    let found = recover(&work, Mode::STRICT).expect("strict recovery");
    let agent = found.agent.clone().expect("an agent");
    let id = agent.id.clone().expect("an id").value;
    let ours = TempDir::new("agent-meta-ours");
    let copy = WorkDir::new(ours.path());
    let store = Store::new(copy.clone(), false);
    let write = |record: Record| {
        store.write(&record).expect("write");
    };
    write(Record::Agent(Box::new(agent)));
    for framework in &found.frameworks {
        let pid = framework.pid.clone().unwrap_or_else(|| "@0.0.0.0:0".to_owned());
        write(Record::Framework { agent: id.clone(), info: Box::new(framework.info.clone()), pid });
        for executor in &framework.executors {
            let run = executor.run.as_ref().expect("run");
            write(Record::Executor {
                run: run.key.clone(),
                info: Box::new(executor.info.clone()),
                generated: executor.generated,
            });
            if let Some(pid) = run.forked_pid {
                write(Record::ForkedPid { run: run.key.clone(), pid });
            }
            if let Some(pid) = run.libprocess_pid.clone() {
                write(Record::LibprocessPid { run: run.key.clone(), pid });
            }
            for task in &run.tasks {
                write_task(&store, run, task);
            }
        }
    }
    let mut compared = 0;
    for file in files(&copy.meta()) {
        let relative = file.strip_prefix(copy.meta()).expect("below meta");
        let mine = std::fs::read(&file).expect("ours");
        let theirs = std::fs::read(work.meta().join(relative)).expect("Mesos has it too");
        if relative.ends_with("task.updates") {
            continue; // The order of acknowledgements is not kept by recovery.
        }
        if relative.ends_with("task.info") {
            // Maps have no order on the wire.
            let task = |bytes: &[u8]| mesos::Task::decode(&bytes[4..]).expect("a task");
            assert_eq!(task(&mine), task(&theirs), "{}", relative.display());
            assert_eq!(mine.len(), theirs.len());
        } else {
            assert_eq!(mine, theirs, "{}", relative.display());
        }
        compared += 1;
    }
    assert!(compared > 40, "only {compared} files compared");
}

fn write_task(store: &Store, run: &bulkhead::checkpoint::RecoveredRun, task: &RecoveredTask) {
    let record = Record::Task {
        run: run.key.clone(),
        task: Box::new(task.task.clone()),
        launch: task.launch.clone().map(Box::new),
    };
    store.write(&record).expect("write");
    for update in &task.updates {
        let record = StatusUpdateRecord {
            r#type: status_update_record::Type::Update as i32,
            update: Some(update.clone()),
            uuid: None,
        };
        let record = Record::Update {
            run: run.key.clone(),
            task: task.task.task_id.value.clone(),
            record: Box::new(record),
        };
        store.write(&record).expect("write");
    }
}

fn files(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir).expect("directory") {
        let entry = entry.expect("entry");
        let kind = entry.file_type().expect("type");
        if kind.is_dir() {
            found.extend(files(&entry.path()));
        } else if kind.is_file() {
            found.push(entry.path());
        }
    }
    found
}
