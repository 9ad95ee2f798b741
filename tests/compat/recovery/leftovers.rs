//! What an agent finds in the kernel and in its directories that belongs to no
//! container: ours is removed and counted, everything else stays byte for byte.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::cluster::{Cluster, Options, get};
use crate::framework::{Framework, command};
use crate::require;

const GONE: &str = "0b4e2f6c-6d0e-4a5e-9d3c-1f2a3b4c5d6e";

fn metric(cluster: &Cluster, name: &str) -> u64 {
    let all = get(&cluster.agent, "/metrics/snapshot").expect("metrics");
    let all: Value = serde_json::from_str(&all).expect("JSON");
    all[format!("containerizer/leftovers/{name}")].as_f64().expect(name) as u64
}

fn mounted(path: &Path) -> bool {
    let table = kernel::mounts::table().expect("the mount table");
    table.iter().any(|mount| mount.target == path)
}

fn mount(path: &Path) {
    std::fs::create_dir_all(path).expect("a directory");
    let done = Command::new("mount").args(["-t", "tmpfs", "none"]).arg(path).status();
    assert!(done.expect("mount").success());
}

/// Names, contents and modes of everything below a directory.
fn picture(dir: &Path) -> Vec<String> {
    use std::os::unix::fs::MetadataExt;
    let mut all = Vec::new();
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        let (path, meta) = (entry.path(), entry.metadata().expect("metadata"));
        let content = if meta.is_file() { std::fs::read(&path).expect("a file") } else { vec![] };
        all.push(format!("{} {:o} {} {content:?}", path.display(), meta.mode(), meta.ino()));
        if meta.is_dir() {
            all.extend(picture(&path));
        }
    }
    all.sort();
    all
}

#[tokio::test]
async fn ours_is_removed_and_everything_else_is_left_alone() {
    require!(root, cgroup);
    let mut cluster = Cluster::start("leftovers", Options::default());
    let mut framework = Framework::subscribe(&cluster.master, "leftovers").await;
    let living = framework.start(command("living", "sleep 1000", 32.0)).await;
    let lost = framework.start(command("lost", "sleep 1000", 32.0)).await;
    cluster.kill_agent();
    let dir = cluster.dir.path().to_owned();
    let containers = dir.join("run/containers");

    // Ours: a shim without a directory, a cgroup with a process in it, mounts, and
    // the directory of a container that never was.
    std::fs::remove_dir_all(containers.join(&lost)).expect("the directory of the lost one");
    let meta = std::fs::read_link(dir.join("agent/meta/slaves/latest")).expect("the agent's link");
    let checkpoints = meta.join(format!("frameworks/{}/executors/lost", framework.id));
    std::fs::remove_dir_all(checkpoints).expect("the checkpoints of the lost one");
    let roots = cluster.cgroups();
    let stray = roots[0].child(GONE);
    stray.create().expect("a cgroup");
    let mut sleeper =
        Command::new("sleep").arg("1000").stdin(Stdio::null()).spawn().expect("sleep");
    stray.write("cgroup.procs", &sleeper.id().to_string()).expect("it joins");
    let box_of_gone = dir.join(format!("agent/slaves/S/frameworks/F/executors/E/runs/{GONE}/vol"));
    mount(&box_of_gone);
    std::fs::create_dir(containers.join("1b4e2f6c-6d0e-4a5e-9d3c-1f2a3b4c5d6e")).expect("empty");

    // Not ours: a cgroup by another name, one beside our root, mounts, directories.
    let named = roots[0].child("somebody");
    named.create().expect("a cgroup");
    let beside = PathBuf::from(format!("{}-beside", roots[0].path().display()));
    std::fs::create_dir(&beside).expect("a cgroup");
    let volume = dir.join("agent/volumes/roles/r/v");
    mount(&volume);
    std::fs::write(volume.join("data"), "precious").expect("a file");
    let strange = containers.join("strange");
    std::fs::create_dir(&strange).expect("a directory");
    std::fs::write(strange.join("data"), "precious").expect("a file");
    let mut other = Command::new("sleep").arg("1000").spawn().expect("sleep");
    let before = (picture(&volume), picture(&strange));

    cluster.start_agent();
    let by = Instant::now() + Duration::from_secs(60);
    while stray.exists()
        || mounted(&box_of_gone)
        || containers.join("1b4e2f6c-6d0e-4a5e-9d3c-1f2a3b4c5d6e").exists()
        || cluster.leftovers().iter().any(|left| left.contains(&lost))
    {
        assert!(Instant::now() < by, "{:#?}\n{}", cluster.leftovers(), cluster.logs());
        std::thread::sleep(Duration::from_millis(50));
    }
    let died = sleeper.wait().expect("its end");
    assert!(!died.success());
    framework.until("the end of the lost one", 60, |f| f.end("lost").is_some()).await;

    assert_eq!((picture(&volume), picture(&strange)), before);
    assert!(mounted(&volume) && named.exists() && beside.is_dir());
    assert!(other.try_wait().expect("a child").is_none());
    assert_eq!(framework.state("living"), Some("TASK_RUNNING"));
    assert!(containers.join(&living).exists());
    let by = Instant::now() + Duration::from_secs(60);
    while metric(&cluster, "strangers") != 2 {
        assert!(Instant::now() < by, "{} strangers", metric(&cluster, "strangers"));
        std::thread::sleep(Duration::from_millis(50));
    }
    assert!(metric(&cluster, "cgroups_removed") >= 1);
    assert_eq!(metric(&cluster, "mounts_removed"), 1);
    assert_eq!(metric(&cluster, "shims_killed"), 1);
    assert_eq!(metric(&cluster, "directories_removed"), 1);
    assert_eq!(metric(&cluster, "errors"), 0);

    other.kill().and_then(|()| other.wait()).expect("its end");
    named.remove(Duration::from_secs(5)).expect("an empty cgroup");
    std::fs::remove_dir(&beside).expect("an empty cgroup");
    assert!(Command::new("umount").arg(&volume).status().expect("umount").success());
}
