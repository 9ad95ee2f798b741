//! Work directories that something happened to: damage, full and read-only disks,
//! another boot. `docs/operating/work_dir.md` says what is to come of each.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

use super::disk::Tmpfs;
use crate::cluster::{Cluster, Options, binary, get};
use crate::framework::{Framework, command};
use crate::require;

/// The only file of that name below `dir`, links not followed.
fn find(dir: &Path, name: &str, part: &str) -> PathBuf {
    fn walk(dir: &Path, name: &str, found: &mut Vec<PathBuf>) {
        for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
            if entry.file_type().is_ok_and(|t| t.is_dir()) {
                walk(&entry.path(), name, found);
            } else if entry.file_name() == name {
                found.push(entry.path());
            }
        }
    }
    let mut found = Vec::new();
    walk(&dir.join("meta"), name, &mut found);
    let found: Vec<_> = found.into_iter().filter(|p| p.to_string_lossy().contains(part)).collect();
    assert_eq!(found.len(), 1, "{name} of {part}: {found:?}");
    found[0].clone()
}

/// `bulkhead agent inspect --json`.
fn inspect(work: &Path) -> Value {
    let output = Command::new(binary("bulkhead"))
        .args(["agent", "inspect", "--json", "--work_dir"])
        .arg(work)
        .output()
        .expect("run bulkhead");
    serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|_| panic!("{}", String::from_utf8_lossy(&output.stderr)))
}

fn metric(cluster: &Cluster, name: &str) -> f64 {
    let text = get(&cluster.agent, "/metrics/snapshot").unwrap_or_default();
    let all: Value = serde_json::from_str(&text).unwrap_or_default();
    all[name].as_f64().unwrap_or(-1.0)
}

fn mount(arguments: &[&str], at: &Path) {
    let done = Command::new("mount").args(arguments).arg(at).status();
    assert!(done.expect("run mount").success(), "mount {arguments:?}");
}

/// Writes until nothing more goes in, not even a byte.
fn fill(dir: &Path) -> PathBuf {
    use std::io::Write as _;
    let ballast = dir.join("ballast");
    let mut file = fs::File::create(&ballast).expect("create the ballast");
    while file.write_all(&[0; 4096]).is_ok() {}
    while file.write_all(&[0]).is_ok() {}
    ballast
}

#[tokio::test]
async fn damaged_checkpoints_are_named_and_skipped_or_not() {
    require!(root, cgroup);
    let mut cluster = Cluster::start("wd-damage", Options::default());
    let work = cluster.dir.path().join("agent");
    let mut framework = Framework::subscribe(&cluster.master, "wd-damage").await;
    framework.start(command("stays", "sleep 1000", 16.0)).await;
    framework.start(command("victim", "sleep 1000", 16.0)).await;
    cluster.kill_agent();

    // A torn tail is what a dying agent leaves: no damage.
    let updates = find(&work, "task.updates", "/victim/");
    let whole = fs::read(&updates).expect("updates");
    let torn = [&whole[..], &[200, 0, 0, 0, 1, 2, 3]].concat();
    fs::write(&updates, torn).expect("tear it");
    let found = inspect(&work);
    assert_eq!(found["problems"].as_array().map(Vec::len), Some(1), "{found}");
    assert_eq!(found["problems"][0]["offset"], whole.len());
    assert_eq!(found["problems"][0]["outcome"], "cut_off");
    cluster.start_agent();
    assert!(cluster.logs().contains("cutting off a torn record"), "{}", cluster.logs());
    assert!(metric(&cluster, "slave/recovery_errors").abs() < 0.1);
    cluster.kill_agent();
    assert!(fs::read(&updates).expect("updates").starts_with(&whole));

    // Damage in the middle: strict agents do not start, and say where.
    let task = find(&work, "task.info", "/victim/");
    let good = fs::read(&task).expect("task.info");
    fs::write(&task, &good[..good.len() - 3]).expect("cut it");
    let logs = cluster.failing_agent();
    let words = format!("'{}' is damaged at byte {}", task.display(), good.len() - 3);
    assert!(logs.contains(&words) && logs.contains("--no-strict"), "{words} in\n{logs}");
    let found = inspect(&work);
    assert_eq!(found["problems"][0]["path"], task.display().to_string());
    assert_eq!(found["problems"][0]["outcome"], "strict_fails");

    // Others skip it: the task is lost, the rest goes on.
    cluster.change(Options::default().agent(&["--no-strict"]));
    cluster.start_agent();
    framework.until("the victim's end", 60, |f| f.end("victim").is_some()).await;
    assert!((metric(&cluster, "slave/recovery_errors") - 1.0).abs() < 0.1);
    assert_eq!(framework.state("stays"), Some("TASK_RUNNING"));

    // Our own log of garbage is advice: damaged, it is found out again.
    cluster.kill_agent();
    fs::write(work.join("meta/garbage.log"), b"00000000 {}\nnothing\n").expect("damage it");
    let found = inspect(&work);
    assert_eq!(found["problems"][0]["outcome"], "rebuilt", "{found}");
    cluster.change(Options::default());
    fs::write(&task, &good).expect("mend it");
    cluster.start_agent();
    assert_eq!(framework.state("stays"), Some("TASK_RUNNING"));
}

#[tokio::test]
async fn what_is_owed_is_told_on_a_full_disk_and_new_work_waits() {
    require!(root, cgroup);
    let small = Tmpfs::new("wd-full", "size=8m");
    let work = small.path();
    let options = Options { agent_work_dir: Some(work.clone()), ..Options::default() };
    let mut cluster = Cluster::start("wd-full", options);
    let mut framework = Framework::subscribe(&cluster.master, "wd-full").await;
    framework.start(command("ends", "until [ -e go ]; do sleep 0.1; done; exit 3", 16.0)).await;
    let (go, _) = sandboxes_of(&cluster);
    let ballast = fill(&work);
    assert!(metric(&cluster, "slave/checkpoint_reserve_files") >= 4.0);
    // A directory of a tmpfs takes no space of it.
    fs::create_dir(go.join("go")).expect("let it end");
    framework.until("its end while nothing can be written", 60, |f| f.end("ends").is_some()).await;
    assert_eq!(framework.state("ends"), Some("TASK_FAILED"));
    assert!(fs::metadata(&ballast).is_ok_and(|m| m.len() > 4 << 20));

    // The agent also starts there.
    cluster.kill_agent();
    let _ = fill_more(&ballast);
    cluster.start_agent();
    fs::remove_file(&ballast).expect("make room");
    let end = framework.run(command("after", "true", 16.0), 60).await;
    assert_eq!(end["state"], "TASK_FINISHED", "{end}");
}

/// Takes what was freed meanwhile.
fn fill_more(ballast: &Path) -> std::io::Result<()> {
    use std::io::Write as _;
    let mut file = fs::OpenOptions::new().append(true).open(ballast)?;
    while file.write_all(&[0]).is_ok() {}
    Ok(())
}

/// The first sandbox that the agent's state names, and how many there are.
fn sandboxes_of(cluster: &Cluster) -> (PathBuf, usize) {
    let text = get(&cluster.agent, "/state").expect("the agent's state");
    let state: Value = serde_json::from_str(&text).expect("an object");
    let executors = state["frameworks"][0]["executors"].as_array().cloned().unwrap_or_default();
    let first = executors.first().and_then(|e| e["directory"].as_str()).expect("an executor");
    (PathBuf::from(first), executors.len())
}

#[tokio::test]
async fn a_full_disk_makes_its_own_room_from_garbage() {
    require!(root, cgroup);
    let small = Tmpfs::new("wd-room", "size=16m");
    let work = small.path();
    let options = Options::default().agent(&["--gc_disk_headroom=0.1"]);
    let options = Options { agent_work_dir: Some(work.clone()), ..options };
    let mut cluster = Cluster::start("wd-room", options);
    let mut framework = Framework::subscribe(&cluster.master, "wd-room").await;
    framework.start(command("stays", "sleep 1000", 16.0)).await;
    let large = "head -c 4m /dev/zero > large";
    let end = framework.run(command("large", large, 16.0), 60).await;
    assert_eq!(end["state"], "TASK_FINISHED", "{end}");
    fill(&work);
    let end = framework.run(command("next", "echo fine", 16.0), 60).await;
    assert_eq!(end["state"], "TASK_FINISHED", "{end}\n{}", cluster.logs());
    assert!(metric(&cluster, "gc/bytes_removed") >= f64::from(4 << 20));
    assert!(cluster.alive());
    assert_eq!(framework.state("stays"), Some("TASK_RUNNING"));
}

#[tokio::test]
async fn without_inodes_ends_are_told_and_new_work_waits() {
    require!(root, cgroup);
    let small = Tmpfs::new("wd-inodes", "size=64m,nr_inodes=400");
    let work = small.path();
    let options = Options { agent_work_dir: Some(work.clone()), ..Options::default() };
    let mut cluster = Cluster::start("wd-inodes", options);
    let mut framework = Framework::subscribe(&cluster.master, "wd-inodes").await;
    framework.start(command("killed", "sleep 1000", 16.0)).await;
    let files = work.join("files");
    fs::create_dir(&files).expect("a directory");
    let mut count = 0;
    while fs::File::create(files.join(count.to_string())).is_ok() {
        count += 1;
    }
    assert!(count > 10);
    framework.launch(vec![command("waits", "true", 16.0)]).await;
    let by = tokio::time::Instant::now() + std::time::Duration::from_secs(2);
    while framework.next(by).await.is_some() {}
    assert_eq!(framework.state("waits"), None, "{:?}", framework.statuses.get("waits"));
    assert!(metric(&cluster, "slave/checkpoints_waiting") > 0.0);
    // What is owed does not wait behind it.
    let body = serde_json::json!({ "task_id": { "value": "killed" } });
    framework.call("KILL", body).await;
    framework.until("the end of the killed", 60, |f| f.end("killed").is_some()).await;
    assert_eq!(framework.state("killed"), Some("TASK_KILLED"));
    assert!(cluster.alive(), "{}", cluster.logs());
    fs::remove_dir_all(&files).expect("make room");
    framework.until("the waiting task", 60, |f| f.end("waits").is_some()).await;
    let end = framework.end("waits").expect("ended");
    // What was collected of the killed one may have been enough for its checkpoints, and
    // not for its sandbox.
    let no_room = end["message"].as_str().is_some_and(|m| m.contains("No space left on device"));
    assert!(end["state"] == "TASK_FINISHED" || no_room, "{end}");
}

#[tokio::test]
async fn a_read_only_disk_ends_the_agent_and_no_task() {
    require!(root, cgroup);
    let small = Tmpfs::new("wd-ro", "size=16m");
    let work = small.path();
    let options = Options { agent_work_dir: Some(work.clone()), ..Options::default() };
    let mut cluster = Cluster::start("wd-ro", options);
    let mut framework = Framework::subscribe(&cluster.master, "wd-ro").await;
    framework.start(command("stays", "sleep 1000", 16.0)).await;
    // What tasks write to keeps a mount busy: another one is put over it.
    mount(&["--bind", &work.display().to_string()], &work);
    mount(&["-o", "remount,bind,ro"], &work);
    framework.launch(vec![command("new", "true", 16.0)]).await;
    let logs = cluster.agent_ends();
    assert!(logs.contains("failed to checkpoint") && logs.contains("Read-only"), "{logs}");
    let logs = cluster.failing_agent();
    assert!(logs.contains("Read-only file system"), "{logs}");
    let done = Command::new("umount").arg(&work).status();
    assert!(done.expect("run umount").success());
    cluster.start_agent();
    framework.until("the end of the new", 60, |f| f.end("new").is_some()).await;
    assert_eq!(framework.state("stays"), Some("TASK_RUNNING"));
    let end = framework.run(command("after", "true", 16.0), 60).await;
    assert_eq!(end["state"], "TASK_FINISHED", "{end}");
}

#[tokio::test]
async fn after_another_boot_tasks_have_ended_and_new_ones_run() {
    require!(root, cgroup);
    let mut cluster = Cluster::start("wd-boot", Options::default());
    let work = cluster.dir.path().join("agent");
    let mut framework = Framework::subscribe(&cluster.master, "wd-boot").await;
    framework.start(command("before", "sleep 1000", 16.0)).await;
    cluster.kill_agent();
    // What a reboot leaves: no process, no cgroup, no runtime directory.
    for group in cluster.cgroups() {
        let limit = std::time::Duration::from_secs(20);
        group.kill(limit).and_then(|()| group.remove(limit)).expect("end the containers");
    }
    fs::remove_dir_all(cluster.dir.path().join("run")).expect("remove the runtime directory");
    fs::write(work.join("meta/boot_id"), "00000000-0000-0000-0000-000000000000").expect("write");
    assert_eq!(inspect(&work)["rebooted"], true);
    cluster.start_agent();
    framework.until("the end of the task", 60, |f| f.end("before").is_some()).await;
    let ends = framework.statuses["before"].iter();
    let ends: Vec<&Value> = ends.filter(|s| s["state"] == "TASK_FAILED").collect();
    assert_eq!(ends.len(), 1, "{:?}", framework.statuses["before"]);
    let end = framework.run(command("after", "true", 16.0), 60).await;
    assert_eq!(end["state"], "TASK_FINISHED", "{end}");
    assert_eq!(inspect(&work)["rebooted"], false);
}
