//! What cannot be killed: its container stays DESTROYING, says why, keeps its
//! resources, holds nobody else up, and ends when it can.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::cluster::{Cluster, Options, get};
use crate::disk::Disk;
use crate::framework::{Framework, command};
use crate::require;

fn json_of(address: &str, path: &str) -> Value {
    serde_json::from_str(&get(address, path).expect(path)).expect("JSON")
}

/// Waits until the agent shows why `container` is not gone.
fn wait_for_trouble(cluster: &Cluster, container: &str) -> Value {
    let by = Instant::now() + Duration::from_secs(60);
    loop {
        let debug = json_of(&cluster.agent, "/containerizer/debug");
        let pending = debug["pending"].as_array().expect("a list");
        let own = |p: &&Value| p["operation"] == "destroy" && p["args"]["containerId"] == container;
        if let Some(found) = pending.iter().find(own) {
            return found["args"].clone();
        }
        assert!(Instant::now() < by, "no trouble is told: {debug}\n{}", cluster.logs());
        std::thread::sleep(Duration::from_millis(50));
    }
}

fn metric(cluster: &Cluster, name: &str) -> f64 {
    json_of(&cluster.agent, "/metrics/snapshot")[name].as_f64().expect(name)
}

/// A freezer cgroup of the test's own; thawed and removed at the end.
struct Freezer(PathBuf);

impl Freezer {
    fn new(name: &str) -> Option<Freezer> {
        let found = kernel::cgroup::Hierarchies::detect().expect("the mount table");
        let mount = found.carrying("freezer")?;
        (mount.version == kernel::cgroup::Version::V1).then_some(())?;
        let group = mount.mount.join(format!("{name}-{}", std::process::id()));
        std::fs::create_dir(&group).expect("a cgroup");
        Some(Freezer(group))
    }

    fn freeze(&self, pids: &[u32]) {
        for pid in pids {
            std::fs::write(self.0.join("cgroup.procs"), pid.to_string()).expect("joins");
        }
        std::fs::write(self.0.join("freezer.state"), "FROZEN").expect("freezes");
    }

    fn thaw(&self) {
        std::fs::write(self.0.join("freezer.state"), "THAWED").expect("thaws");
    }
}

impl Drop for Freezer {
    fn drop(&mut self) {
        let _ = std::fs::write(self.0.join("freezer.state"), "THAWED");
        for _ in 0..100 {
            if std::fs::remove_dir(&self.0).is_ok() {
                return;
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

/// Every process below the agent's cgroups, in the container of that name.
fn processes(cluster: &Cluster, container: &str) -> Vec<u32> {
    let mut all: Vec<u32> = Vec::new();
    for root in cluster.cgroups() {
        all.extend(root.child(Path::new(container)).all_processes());
    }
    all.sort_unstable();
    all.dedup();
    all
}

#[tokio::test]
async fn a_frozen_container_is_seen_and_ends_when_it_thaws() {
    require!(root, cgroup);
    let Some(freezer) = Freezer::new("bulkhead-stuck") else {
        return crate::support::skip("a_frozen_container_is_seen", "the cgroup controller freezer");
    };
    let options = Options::default().agent(&["--cgroups_destroy_timeout=500ms"]);
    let cluster = Cluster::start("stuck", options);
    let mut framework = Framework::subscribe(&cluster.master, "stuck").await;
    let container = framework.start(command("frozen", "sleep 1000", 64.0)).await;
    freezer.freeze(&processes(&cluster, &container));
    framework.call("KILL", json!({ "task_id": { "value": "frozen" } })).await;

    let trouble = wait_for_trouble(&cluster, &container);
    let process = &trouble["processes"][0];
    assert!(process["pid"].as_u64().is_some_and(|pid| pid > 1), "{trouble}");
    assert_eq!(process["frozen_by"], freezer.0.display().to_string(), "{trouble}");
    assert!(trouble["reason"].as_str().is_some_and(|r| r.contains("frozen by")), "{trouble}");
    let listed = json_of(&cluster.agent, "/containers");
    assert_eq!(listed[0]["container_id"], container.as_str());
    assert_eq!(listed[0]["destroying"]["processes"][0]["pid"], process["pid"], "{listed}");
    assert!(metric(&cluster, "containerizer/mesos/container_destroy_errors") >= 1.0);
    // Its resources are still its own, and no end was told.
    assert!(framework.end("frozen").is_none());
    let used = json_of(&cluster.master, "/slaves")["slaves"][0]["used_resources"]["mem"].clone();
    assert_eq!(used.as_f64(), Some(64.0));
    // Others do not notice.
    let other = framework.run(command("other", "exit 0", 32.0), 60).await;
    assert_eq!(other["state"], "TASK_FINISHED");
    // It is tried again and again.
    let by = Instant::now() + Duration::from_secs(60);
    while wait_for_trouble(&cluster, &container)["attempts"].as_u64() < Some(2) {
        assert!(Instant::now() < by, "only one attempt\n{}", cluster.logs());
        std::thread::sleep(Duration::from_millis(50));
    }
    assert!(framework.end("frozen").is_none());

    freezer.thaw();
    framework.until("the end", 90, |f| f.end("frozen").is_some()).await;
    assert_eq!(framework.state("frozen"), Some("TASK_KILLED"));
    cluster.wait_clean();
    assert_eq!(json_of(&cluster.agent, "/containerizer/debug"), json!({ "pending": [] }));
}

/// The parent of a `vfork` waits in the kernel, deaf to all signals but `SIGKILL`;
/// an agent that is restarted meanwhile takes the frozen one over and goes on.
#[tokio::test]
async fn a_restarted_agent_goes_on_with_what_is_stuck() {
    require!(root, cgroup);
    let Some(freezer) = Freezer::new("bulkhead-stuck-restart") else {
        return crate::support::skip("a_restarted_agent", "the cgroup controller freezer");
    };
    let options = Options::default().agent(&["--cgroups_destroy_timeout=500ms"]);
    let mut cluster = Cluster::start("stuck-restart", options);
    let mut framework = Framework::subscribe(&cluster.master, "stuck-restart").await;
    let container = framework.start(command("frozen", "sleep 1000", 64.0)).await;
    freezer.freeze(&processes(&cluster, &container));
    framework.call("KILL", json!({ "task_id": { "value": "frozen" } })).await;
    wait_for_trouble(&cluster, &container);
    cluster.kill_agent();
    cluster.start_agent();
    wait_for_trouble(&cluster, &container);
    let other = framework.run(command("other", "exit 0", 32.0), 60).await;
    assert_eq!(other["state"], "TASK_FINISHED");
    freezer.thaw();
    framework.until("the end", 90, |f| f.end("frozen").is_some()).await;
    assert_eq!(framework.state("frozen"), Some("TASK_KILLED"));
    cluster.wait_clean();
}

#[tokio::test]
async fn a_process_that_waits_for_a_disk_is_named_and_ends_when_the_disk_is_back() {
    require!(root, cgroup, program_fsfreeze, mkfs_ext4);
    let options = Options::default().agent(&["--cgroups_destroy_timeout=500ms"]);
    let mut cluster = Cluster::start("disk-wait", options);
    let disk = Disk::new(cluster.dir.path(), 32 << 20);
    let mut framework = Framework::subscribe(&cluster.master, "disk-wait").await;
    let line =
        format!("until [ -e go ]; do sleep 0.05; done; echo x > {}/x", disk.path().display());
    let container = framework.start(command("waits", &line, 64.0)).await;
    disk.freeze();
    std::fs::write(cluster.sandbox("waits").join("go"), "").expect("written");
    let asleep =
        |pid: &u32| kernel::proctree::ProcessStat::read(*pid).is_some_and(|stat| stat.state == 'D');
    let by = Instant::now() + Duration::from_secs(60);
    while !processes(&cluster, &container).iter().any(asleep) {
        assert!(Instant::now() < by, "nobody waits for the disk\n{}", cluster.logs());
        std::thread::sleep(Duration::from_millis(20));
    }
    framework.call("KILL", json!({ "task_id": { "value": "waits" } })).await;
    let trouble = wait_for_trouble(&cluster, &container);
    let process = &trouble["processes"][0];
    assert_eq!(process["state"], "D", "{trouble}");
    assert!(process["wchan"].as_str().is_some_and(|w| !w.is_empty()), "{trouble}");
    // The agent's death changes nothing, and nobody else waits.
    cluster.kill_agent();
    cluster.start_agent();
    assert_eq!(wait_for_trouble(&cluster, &container)["processes"][0]["state"], "D");
    let other = framework.run(command("other", "exit 0", 32.0), 60).await;
    assert_eq!(other["state"], "TASK_FINISHED");
    assert!(framework.end("waits").is_none());
    disk.thaw();
    framework.until("the end", 90, |f| f.end("waits").is_some()).await;
    assert_eq!(framework.state("waits"), Some("TASK_KILLED"));
    drop(disk);
    cluster.wait_clean();
}
