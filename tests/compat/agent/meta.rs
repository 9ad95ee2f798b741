//! The work directory of a real Mesos agent, as recorded.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use bulkhead::checkpoint::{
    Garbage, Mode, Record, RecoveredFramework, RecoveredTask, Store, WorkDir, inspect, recover,
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
    let kept: Vec<_> = found.resources.resources.iter().map(|r| r.name.as_str()).collect();
    assert_eq!(kept, ["cpus", "mem", "disk"]);
    let volume = found.resources.resources.last().and_then(|r| work.volume(r));
    assert_eq!(volume, Some(work.root().join("volumes/roles/web/vol-1")));
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
    write(Record::Resources(Box::new(found.resources.clone())));
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

/// The real agent's work directory, in words and as an object.
#[test]
fn work_dirs_of_mesos_are_explained() {
    require!(golden, program_tar);
    let (dir, work) = unpack("a-running");
    let before = tree(dir.path());
    let found = inspect::inspect(&work).expect("inspect");
    assert!(found.problems.is_empty(), "{:?}", found.problems);
    let agent = found.agent.as_ref().expect("an agent");
    assert_eq!((agent.hostname.as_str(), agent.port), ("agent1.example", Some(5051)));
    let golden = agent.frameworks.iter().find(|f| f.name.as_deref() == Some("golden"));
    let golden = golden.expect("the framework");
    let task = |id: &str| {
        let mut runs = golden.executors.iter().flat_map(|e| &e.runs);
        runs.find_map(|r| r.tasks.iter().find(|t| t.id == id).map(|t| (r, t))).expect("the task")
    };
    let (run, running) = task("t-run");
    assert!(!run.completed && run.latest && run.forked_pid.is_some());
    assert_eq!(running.state, Some("TASK_RUNNING"));
    let (run, failed) = task("t-fail");
    assert!(run.completed && failed.updates.iter().all(|u| u.acknowledged));
    assert_eq!(failed.state, Some("TASK_FAILED"));
    assert!(
        found.resources.checkpointed.iter().any(|r| r.contains("disk")),
        "{:?}",
        found.resources
    );
    // What is over waits for its collection; what runs does not.
    let waits = |id: &str| {
        let of = |w: &inspect::Waiting| matches!(&w.garbage, Garbage::Run(r) if r.executor == id);
        found.garbage.iter().any(of)
    };
    assert!(waits("t-fail") && !waits("t-run"));
    let text = found.text().join("\n");
    for words in ["on agent1.example:5051", "task t-run TASK_RUNNING", "nothing is damaged"] {
        assert!(text.contains(words), "{words} in\n{text}");
    }
    assert_eq!(tree(dir.path()), before, "looking changes nothing");
}

/// Every path below `dir` with its size and time.
fn tree(dir: &Path) -> BTreeMap<PathBuf, (u64, std::time::SystemTime)> {
    let mut found = BTreeMap::new();
    for path in files(dir) {
        let data = std::fs::metadata(&path).expect("metadata");
        found.insert(path, (data.len(), data.modified().expect("a time")));
    }
    found
}

/// What is damaged is named with file and byte, whatever it is.
#[test]
fn damage_is_named_with_file_and_byte() {
    require!(golden, program_tar);
    let (_dir, work) = unpack("b-ended");
    let all: Vec<PathBuf> = files(&work.meta());
    let by_name = |name: &str| {
        all.iter().find(|p| p.file_name().is_some_and(|n| n == name)).expect(name).clone()
    };
    let cases: [(&str, usize, u64); 4] = [
        ("slave.info", 10, 10),
        ("framework.info", 7, 7),
        ("executor.info", 3, 0),
        ("task.info", 20, 20),
    ];
    for (name, keep, at) in cases {
        let path = by_name(name);
        let good = std::fs::read(&path).expect("a file");
        std::fs::write(&path, &good[..keep]).expect("cut it");
        let found = inspect::inspect(&work).expect("inspect");
        let problem = found.problems.iter().find(|p| p.path == path).expect(name);
        assert_eq!(problem.offset, Some(at), "{problem:?}");
        assert_eq!(problem.outcome, inspect::Outcome::StrictFails);
        let error = recover(&work, Mode::STRICT).expect_err(name);
        assert!(kernel::chain(&error).contains(&path.display().to_string()), "{error}");
        let lenient = recover(&work, Mode { strict: false, ..Mode::STRICT }).expect("it goes on");
        assert_eq!(lenient.errors.len(), 1, "{:?}", lenient.errors);
        std::fs::write(&path, &good).expect("mend it");
    }
}

/// A week of ended tasks costs the next start a look at each, not its memory.
#[test]
fn only_the_newest_ended_executors_are_read() {
    require!(golden, program_tar);
    let (_dir, work) = unpack("a-running");
    let all = recover(&work, Mode::STRICT).expect("strict recovery");
    let few = recover(&work, Mode { completed: 2, ..Mode::STRICT }).expect("strict recovery");
    let count = |r: &bulkhead::checkpoint::Recovered, live: bool| {
        let executors = r.frameworks.iter().flat_map(|f| &f.executors);
        executors.filter(|e| e.is_live() == live).count()
    };
    assert_eq!(count(&all, true), count(&few, true));
    assert!(count(&all, false) > 4 && count(&few, false) <= 2 * few.frameworks.len());
    let names = |r: &bulkhead::checkpoint::Recovered| {
        let mut all: Vec<Garbage> = r.garbage.iter().map(|(g, _)| g.clone()).collect();
        all.sort();
        all
    };
    assert_eq!(names(&all), names(&few), "all that is over is garbage, read or not");
}

/// A work directory of release 0.1.0, made by its agent: one task runs, one has
/// ended, one update is not acknowledged. Every later release must read it.
#[test]
fn the_work_dir_of_release_0_1_0_is_read() {
    require!(program_tar);
    let dir = TempDir::new("agent-release");
    let archive = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/compat/testdata/workdir-0.1.0/meta.tar.gz");
    let done = Command::new("tar").arg("-xzf").arg(archive).arg("-C").arg(dir.path()).status();
    assert!(done.expect("tar").success());
    let work = WorkDir::new(dir.path());
    let found = recover(&work, Mode::STRICT).expect("strict recovery");
    assert!(found.rebooted, "another machine's boot id");
    let [framework] = &found.frameworks[..] else { panic!("{:?}", found.frameworks) };
    assert_eq!(framework.info.name, "release");
    let expected = BTreeMap::from([
        ("ended".to_owned(), Some(TaskState::TaskFailed)),
        ("open".to_owned(), Some(TaskState::TaskFinished)),
        ("runs".to_owned(), Some(TaskState::TaskRunning)),
    ]);
    assert_eq!(states(framework), expected);
    let run = |id: &str| {
        let mut executors = framework.executors.iter();
        let executor = executors.find(|e| e.info.executor_id.value == id).expect(id);
        executor.run.as_ref().expect("a run")
    };
    assert!(run("ended").completed && !run("open").completed && !run("runs").completed);
    let open = &run("open").tasks[0];
    assert!(open.acknowledged.len() < open.updates.len());
    assert!(run("runs").tasks[0].launch.is_some() && run("runs").forked_pid.is_some());
    assert!(inspect::inspect(&work).expect("inspect").problems.is_empty());
}
