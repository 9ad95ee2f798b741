//! Garbage collection of a real agent: what goes, what stays, what survives.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::cluster::{Cluster, Options, binary, get};
use crate::framework::{Framework, command};
use crate::require;

/// Soon enough for a test, not before a test has looked.
const QUICK: [&str; 2] = ["--gc_delay=1secs", "--disk_watch_interval=300ms"];

fn agent_dir(cluster: &Cluster) -> PathBuf {
    cluster.dir.path().join("agent")
}

/// Sandboxes of runs below the work directory: the names are container ids.
fn sandboxes(work: &Path) -> Vec<PathBuf> {
    fn walk(dir: &Path, found: &mut Vec<PathBuf>) {
        for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
            let path = entry.path();
            if !entry.file_type().is_ok_and(|t| t.is_dir()) {
                continue;
            }
            if dir.ends_with("runs") {
                found.push(path);
            } else {
                walk(&path, found);
            }
        }
    }
    let mut found = Vec::new();
    walk(&work.join("slaves"), &mut found);
    found
}

/// The sandbox of a task, by a file that it has written.
fn sandbox_with(work: &Path, file: &str) -> Option<PathBuf> {
    sandboxes(work).into_iter().find(|path| path.join(file).exists())
}

fn wait(what: &str, cluster: &Cluster, done: impl Fn() -> bool) {
    let by = Instant::now() + Duration::from_secs(60);
    while !done() {
        assert!(Instant::now() < by, "{what} did not happen\n{}", cluster.logs());
        std::thread::sleep(Duration::from_millis(50));
    }
}

fn metric(cluster: &Cluster, name: &str) -> f64 {
    let text = get(&cluster.agent, "/metrics/snapshot").unwrap_or_default();
    let all: Value = serde_json::from_str(&text).unwrap_or_default();
    all[name].as_f64().unwrap_or(-1.0)
}

fn bulkhead(arguments: &[&str]) -> (i32, String, String) {
    let output = Command::new(binary("bulkhead")).args(arguments).output().expect("run bulkhead");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.code().unwrap_or(-1), text(&output.stdout), text(&output.stderr))
}

#[tokio::test]
async fn old_sandboxes_go_and_nothing_else() {
    require!(root, cgroup);
    let cluster = Cluster::start("gc-old", Options::default().agent(&QUICK));
    let work = agent_dir(&cluster);
    let outside = cluster.dir.path().join("outside");
    std::fs::create_dir(&outside).expect("a directory");
    std::fs::write(outside.join("precious"), "kept").expect("a file");
    let mut framework = Framework::subscribe(&cluster.master, "gc-old").await;
    framework.start(command("stays", "touch stays; sleep 1000", 16.0)).await;

    let mounted = "touch mounted; mkdir -p a/b; until [ -e go ]; do sleep 0.1; done";
    framework.start(command("mounted", mounted, 16.0)).await;
    wait("a file of the task", &cluster, || sandbox_with(&work, "mounted").is_some());
    let point = sandbox_with(&work, "mounted").expect("just seen");
    wait("its directories", &cluster, || point.join("a/b").is_dir());
    let done = Command::new("mount").args(["--bind"]).arg(&outside).arg(point.join("a/b")).status();
    assert!(done.expect("run mount").success());
    std::fs::write(point.join("go"), "").expect("let it end");
    framework.until("its end", 60, |f| f.end("mounted").is_some()).await;

    let script = format!(
        "ln -s {} link; ln -s / root; mkdir -p deep/er; touch 'deep/er/f{{1}}'; chmod 000 deep/er",
        outside.display()
    );
    let end = framework.run(command("goes", &script, 16.0), 60).await;
    assert_eq!(end["state"], "TASK_FINISHED", "{end}");
    wait("the removal", &cluster, || sandbox_with(&work, "link").is_none());
    assert!(sandbox_with(&work, "stays").is_some(), "what runs stays");
    wait("a failure to be counted", &cluster, || metric(&cluster, "gc/path_removals_failed") > 0.0);
    assert!(point.join("a/b/precious").exists(), "what is mounted is not entered");
    assert!(cluster.logs().contains("is still mounted below"), "{}", cluster.logs());

    let done = Command::new("umount").arg(point.join("a/b")).status();
    assert!(done.expect("run umount").success());
    wait("the removal after the umount", &cluster, || !point.exists());
    assert_eq!(std::fs::read(outside.join("precious")).expect("kept"), b"kept");
    let trash = work.join("trash");
    wait("the end of all deletions", &cluster, || {
        std::fs::read_dir(&trash).is_ok_and(|mut entries| entries.next().is_none())
    });
    assert!(metric(&cluster, "gc/files_removed") > 4.0);
}

#[tokio::test]
async fn what_somebody_reads_is_kept() {
    require!(root, cgroup);
    let cluster = Cluster::start("gc-read", Options::default().agent(&QUICK));
    let work = agent_dir(&cluster);
    let mut framework = Framework::subscribe(&cluster.master, "gc-read").await;
    framework.start(command("alive", "sleep 1000", 16.0)).await;
    let read = "touch read; echo text; until [ -e go ]; do sleep 0.1; done";
    framework.start(command("read", read, 16.0)).await;
    wait("a file of the task", &cluster, || sandbox_with(&work, "read").is_some());
    let sandbox = sandbox_with(&work, "read").expect("just seen");
    let path = format!("/files/read?offset=0&path={}/stdout", sandbox.display());
    assert!(get(&cluster.agent, &path).is_some_and(|text| text.contains("text")));
    std::fs::write(sandbox.join("go"), "").expect("let it end");
    framework.until("its end", 60, |f| f.end("read").is_some()).await;
    let end = framework.run(command("unread", "touch unread", 16.0), 60).await;
    assert_eq!(end["state"], "TASK_FINISHED", "{end}");
    wait("the removal of another", &cluster, || sandbox_with(&work, "unread").is_none());
    wait("a postponement", &cluster, || metric(&cluster, "gc/removals_postponed") > 0.0);
    assert!(get(&cluster.agent, &path).is_some_and(|text| text.contains("text")));
}

#[tokio::test]
async fn a_killed_agent_s_garbage_is_the_next_one_s() {
    require!(root, cgroup);
    let options = Options::default().agent(&["--gc_delay=1hrs", "--disk_watch_interval=300ms"]);
    let mut cluster = Cluster::start("gc-kill", options);
    let work = agent_dir(&cluster);
    let mut framework = Framework::subscribe(&cluster.master, "gc-kill").await;
    framework.start(command("alive", "touch alive; sleep 1000", 16.0)).await;
    let end = framework.run(command("over", "head -c 200000 /dev/zero > data", 16.0), 60).await;
    assert_eq!(end["state"], "TASK_FINISHED", "{end}");
    wait("its size", &cluster, || metric(&cluster, "gc/bytes_pending") >= 200_000.0);
    let pending = metric(&cluster, "gc/path_removals_pending");

    cluster.kill_agent();
    let half = work.join("trash/half-deleted/deep");
    std::fs::create_dir_all(&half).expect("what a killed agent leaves");
    cluster.start_agent();
    wait("trash to be emptied", &cluster, || !half.parent().is_some_and(Path::exists));
    wait("the size to be known", &cluster, || metric(&cluster, "gc/bytes_pending") >= 200_000.0);
    assert!((metric(&cluster, "gc/path_removals_pending") - pending).abs() < 0.1);

    // Live agent and offline look agree; what runs is in neither.
    let dir = work.display().to_string();
    let offline = ["agent", "gc", "--dry-run", "--gc_delay=1hrs", "--gc_disk_headroom=0", "--json"];
    let (code, out, err) = bulkhead(&[&offline[..], &["--work_dir", &dir]].concat());
    assert_eq!(code, 0, "{err}");
    let offline: Value = serde_json::from_str(&out).expect("an object");
    let (code, out, err) =
        bulkhead(&["agent", "gc", "--dry-run", "--json", "--agent", &cluster.agent]);
    assert_eq!(code, 0, "{err}");
    let live: Value = serde_json::from_str(&out).expect("an object");
    let paths = |plan: &Value| -> Vec<String> {
        let items = plan["items"].as_array().expect("items");
        items.iter().map(|i| i["path"].as_str().unwrap_or("").to_owned()).collect()
    };
    assert_eq!(paths(&offline), paths(&live));
    let over = sandbox_with(&work, "data").expect("it is there").display().to_string();
    let alive = sandbox_with(&work, "alive").expect("it is there").display().to_string();
    assert!(paths(&live).contains(&over) && !paths(&live).contains(&alive), "{live}");
    assert!(live["items"][0]["in_secs"].as_f64().is_some_and(|left| left < 3600.0), "{live}");
    let (code, out, _) = bulkhead(&["agent", "gc", "--dry-run", "--work_dir", &dir]);
    assert!(code == 0 && out.contains("keep for") && out.contains(&over), "{out}");
    let (code, _, err) = bulkhead(&["agent", "gc", "--work_dir", &dir]);
    assert!(code == 2 && err.contains("--dry-run"), "{err}");
    assert!(Path::new(&over).exists(), "looking deletes nothing");
}

#[tokio::test]
async fn nested_sandboxes_are_collected_if_asked_for() {
    require!(root, cgroup);
    let flags = [&QUICK[..], &["--gc_non_executor_container_sandboxes"]].concat();
    let mut cluster = Cluster::start("gc-nested", Options::default().agent(&flags));
    let work = agent_dir(&cluster);
    let mut framework = Framework::subscribe(&cluster.master, "gc-nested").await;
    let parent = framework.start(command("parent", "touch parent; sleep 1000", 16.0)).await;
    let nested = |id: &str, line: &str| {
        serde_json::json!({ "type": "LAUNCH_NESTED_CONTAINER", "launch_nested_container": {
            "container_id": { "value": id, "parent": { "value": parent } },
            "command": { "value": line },
        }})
    };
    let sandbox =
        |id: &str| sandbox_with(&work, "parent").expect("the parent's").join("containers").join(id);
    wait("a file of the parent", &cluster, || sandbox_with(&work, "parent").is_some());
    post(&cluster.agent, &nested("short", "touch file")).await;
    post(&cluster.agent, &nested("long", "until [ -e go ]; do sleep 0.1; done")).await;
    wait("the removal of what ended", &cluster, || !sandbox("short").exists());
    assert!(sandbox("long").exists());
    // The next agent watches what it takes over.
    cluster.kill_agent();
    cluster.start_agent();
    std::fs::write(sandbox("long").join("go"), "").expect("let it end");
    wait("the removal after a restart", &cluster, || !sandbox("long").exists());
    assert!(sandbox_with(&work, "parent").is_some());
}

/// The check before a removal may be too early: the removal itself stays out.
#[test]
fn a_mount_that_appears_meanwhile_is_not_entered() {
    require!(root);
    let dir = crate::support::TempDir::new("gc-mount");
    let (tree, outside) = (dir.path().join("tree"), dir.path().join("outside"));
    for path in [&tree.join("a/point"), &tree.join("b/c"), &outside] {
        std::fs::create_dir_all(path).expect("directories");
    }
    std::fs::write(outside.join("precious"), "kept").expect("a file");
    std::fs::write(tree.join("a/file"), "").expect("a file");
    let point = tree.join("a/point");
    let done = Command::new("mount").arg("--bind").arg(&outside).arg(&point).status();
    assert!(done.expect("run mount").success());
    let result = kernel::remove::tree(&tree, &mut |_| true);
    let kept = std::fs::read(outside.join("precious"));
    let done = Command::new("umount").arg(&point).status();
    assert!(done.expect("run umount").success());
    let error = result.expect_err("something stays").to_string();
    assert!(error.contains("tree/a/point") && error.contains("1 entries are left"), "{error}");
    assert_eq!(kept.expect("kept"), b"kept");
    assert!(!tree.join("a/file").exists() && !tree.join("b").exists(), "all else went");
    kernel::remove::tree(&tree, &mut |_| true).expect("the rest");
    assert!(!tree.exists());
}

/// An operator call that must succeed.
async fn post(agent: &str, call: &Value) {
    let client = bulkhead::wire::client::Client::new(agent);
    let body = call.to_string();
    let call = bulkhead::wire::client::Call::post("/api/v1", "application/json", body);
    let reply = client.call(call).await.expect("an answer");
    assert!(reply.status.is_success(), "{}", reply.text());
}
