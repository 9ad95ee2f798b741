//! A full disk under the work dir: a clear error, and work goes on afterwards.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use bulkhead::wire::client::{Call, Client};
use serde_json::{Value, json};

use crate::cluster::{Cluster, Options, get};
use crate::framework::{Framework, command};
use crate::require;
use crate::support::TempDir;

/// A small tmpfs, unmounted when dropped.
pub(super) struct Tmpfs(TempDir);

impl Tmpfs {
    pub(super) fn new(name: &str, size: &str) -> Self {
        let dir = TempDir::new(name);
        let done = Command::new("mount")
            .args(["-t", "tmpfs", "-o", size, "tmpfs"])
            .arg(dir.path())
            .status();
        assert!(done.expect("run mount").success());
        Self(dir)
    }

    pub(super) fn path(&self) -> PathBuf {
        self.0.path().to_owned()
    }
}

impl Drop for Tmpfs {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(self.0.path()).status();
    }
}

/// Fills the disk under `dir` to its last byte.
fn fill(dir: &Path) -> PathBuf {
    let ballast = dir.join("ballast");
    // The error at the end is the point.
    let mut file = std::fs::File::create(&ballast).expect("create the ballast");
    while file.write_all(&[0; 4096]).is_ok() {}
    while file.write_all(&[0]).is_ok() {}
    drop(file);
    assert!(std::fs::metadata(&ballast).is_ok_and(|m| m.len() > 2 << 20));
    ballast
}

#[tokio::test]
async fn full_disk_under_the_masters_work_dir() {
    require!(root, cgroup);
    let small = Tmpfs::new("fullmaster", "size=8m");
    let work = format!("--work_dir={}", small.0.path().join("master").display());
    let options = Options { durable: true, ..Options::default() }.master(&[&work]);
    let mut cluster = Cluster::master_only("disk-master", options);
    let ballast = fill(small.0.path());
    // More than fits into what the registry has already.
    let infos: Vec<Value> = (0..2000)
        .map(|n| json!({ "role": format!("{}-{n}", "long".repeat(40)), "weight": 2.0 }))
        .collect();
    let call = json!({ "type": "UPDATE_WEIGHTS", "update_weights": { "weight_infos": infos } });
    let (address, body) = (cluster.master.clone(), call.to_string());
    let mut waiting = tokio::spawn(async move {
        let client = Client::new(address).timeout(Duration::from_secs(90));
        client.call(Call::post("/api/v1", "application/json", body)).await.expect("an answer")
    });
    let early = tokio::time::timeout(Duration::from_secs(3), &mut waiting).await;
    assert!(early.is_err(), "nothing is promised: {early:?}");
    assert!(get(&cluster.master, "/state").is_some(), "the master answers");
    assert!(cluster.logs().contains("no space left for the registry"), "{}", cluster.logs());
    std::fs::remove_file(&ballast).expect("make room");
    assert_eq!(waiting.await.expect("no panic").status.as_u16(), 200);
    // And it is true.
    cluster.kill_master();
    cluster.start_master();
    let weights = get(&cluster.master, "/weights").expect("weights");
    assert_eq!(weights.matches("\"weight\":2.0").count(), 2000);
}

#[tokio::test]
async fn full_disk_under_the_work_dir() {
    require!(root, cgroup);
    let small = Tmpfs::new("fulldisk", "size=8m");
    let work = small.0.path().to_owned();
    let options = Options { agent_work_dir: Some(work.clone()), ..Options::default() };
    let mut cluster = Cluster::start("disk", options);
    let mut framework = Framework::subscribe(&cluster.master, "disk").await;
    // It does not end: what it leaves would be collected and make room.
    framework.start(command("before", "echo fine; sleep 1000", 16.0)).await;

    let ballast = fill(&work);
    framework.launch(vec![command("during", "echo more", 16.0)]).await;
    // Nothing may be promised that could be forgotten: the launch waits, visibly.
    let by = tokio::time::Instant::now() + std::time::Duration::from_secs(3);
    while framework.next(by).await.is_some() {}
    assert_eq!(framework.state("during"), None, "{:?}", framework.statuses["during"]);
    assert!(cluster.alive(), "the agent survives a full disk");
    assert!(cluster.logs().contains("no space left for checkpoints"), "{}", cluster.logs());

    std::fs::remove_file(&ballast).expect("make room");
    framework.until("the waiting task", 60, |f| f.end("during").is_some()).await;
    assert_eq!(framework.state("during"), Some("TASK_FINISHED"), "{:?}", framework.end("during"));
    let end = framework.run(command("after", "echo fine", 16.0), 60).await;
    assert_eq!(end["state"], "TASK_FINISHED", "{end}");
}
