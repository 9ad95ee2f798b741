//! `--cgroups_hierarchy`: a v1 hierarchy that nobody has mounted is mounted by
//! the agent, once, and all others are left alone; `bulkhead local` takes it away
//! again. Unmounts `pids` first, so it runs in the v1 VM only.

#[path = "../support/cluster.rs"]
mod cluster;
#[path = "../support/framework.rs"]
mod framework;
#[path = "../support/mod.rs"]
mod support;

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

use cluster::{Cluster, Options, binary};
use framework::{Framework, command};
use serde_json::Value;
use support::TempDir;

/// Mount point and options of every v1 hierarchy.
fn hierarchies() -> Vec<(String, String)> {
    let table = std::fs::read_to_string("/proc/self/mounts").expect("the mount table");
    let fields = table.lines().map(|line| line.split(' ').collect::<Vec<_>>());
    let v1 = fields.filter(|f| f[2] == "cgroup");
    v1.map(|f| (f[1].to_owned(), f[3].to_owned())).collect()
}

fn carries_pids((_, options): &&(String, String)) -> bool {
    options.split(',').any(|option| option == "pids")
}

fn unmount(point: &str) {
    let status = Command::new("umount").arg(point).status().expect("umount");
    assert!(status.success(), "umount {point}");
}

/// Takes away what an earlier test's agent has mounted; the rest.
fn without_pids() -> Vec<(String, String)> {
    for (point, _) in hierarchies().iter().filter(carries_pids) {
        unmount(point);
    }
    hierarchies()
}

#[tokio::test]
async fn what_is_missing_is_mounted_and_nothing_else() {
    require!(root, vm_v1);
    let before = without_pids();
    let base = TempDir::new("hierarchies");
    let flag = format!("--cgroups_hierarchy={}", base.path().display());
    let mut cluster = Cluster::start("hierarchy", Options::default().agent(&[&flag]));

    let mut wanted = before.clone();
    let after = hierarchies();
    let made = after.iter().find(carries_pids).expect("pids is mounted").clone();
    let point = base.path().join("pids");
    assert_eq!(made.0, point.display().to_string());
    wanted.push(made);
    assert_eq!(after, wanted, "all others are as they were");

    let mut framework = Framework::subscribe(&cluster.master, "hierarchy").await;
    let container = framework.start(command("a", "sleep 1000", 32.0)).await;
    let own = point.join(&cluster.cgroups_root).join(&container);
    let processes = std::fs::read_to_string(own.join("cgroup.procs")).expect("its cgroup");
    assert!(!processes.trim().is_empty(), "the container is in {}", own.display());

    // The next agent finds it mounted.
    cluster.kill_agent();
    cluster.start_agent();
    assert_eq!(hierarchies(), wanted);
    let again = std::fs::read_to_string(own.join("cgroup.procs")).expect("its cgroup");
    assert_eq!(again, processes, "the container lives on");
    framework.call("TEARDOWN", Value::Null).await;
    cluster.stop();
    unmount(&point.display().to_string());
    assert_eq!(hierarchies(), before);
}

#[test]
fn local_unmounts_what_its_agent_has_mounted() {
    require!(root, vm_v1);
    let before = without_pids();
    let dir = TempDir::new("hierarchy-local");
    let mut local = Command::new(binary("bulkhead"))
        .args(["local", "--json"])
        .env("TMPDIR", dir.path())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .expect("run bulkhead");
    let mut line = String::new();
    let stdout = local.stdout.take().expect("a pipe");
    BufReader::new(stdout).read_line(&mut line).expect("a line");
    assert!(hierarchies().iter().any(|h| carries_pids(&h)), "mounted: {line}");
    let _ = Command::new("kill").args(["-INT", &local.id().to_string()]).status();
    assert!(local.wait().expect("it ends").success());
    assert_eq!(hierarchies(), before);
    assert!(!std::path::Path::new("/sys/fs/cgroup/pids").exists(), "no empty directory is left");
}
