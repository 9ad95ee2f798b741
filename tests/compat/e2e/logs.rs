//! Output through the logger over the deaths of a real agent.

use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::cluster::{Cluster, Options};
use crate::framework::{Framework, command};
use crate::require;

/// The files of a stream below `dir`, the oldest first.
fn files(dir: &Path, name: &str) -> Vec<(u32, PathBuf)> {
    let mut found = Vec::new();
    let mut open = vec![dir.to_owned()];
    while let Some(dir) = open.pop() {
        for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
            let kind = entry.file_type().expect("a type");
            let file = entry.file_name().into_string().expect("text");
            let number = match file.strip_prefix(name) {
                _ if kind.is_dir() => {
                    open.push(entry.path());
                    continue;
                }
                Some("") => Some(0),
                Some(rest) => rest.strip_prefix('.').and_then(|number| number.parse().ok()),
                None => None,
            };
            found.extend(number.map(|number| (number, entry.path())));
        }
    }
    found.sort_by(|a, b| b.cmp(a));
    found
}

#[tokio::test]
async fn output_survives_kill_9_of_the_agent() {
    require!(root, cgroup);
    let caps = ["--container_log_max_size=4KB", "--container_log_max_files=900"];
    let mut cluster = Cluster::start("logs", Options::default().agent(&caps));
    let mut framework = Framework::subscribe(&cluster.master, "logs").await;
    let line = "i=0; while [ $i -lt 60000 ]; do echo line $i; i=$((i+1)); done; sleep 1; echo end";
    framework.start(command("t", line, 32.0)).await;
    let sandboxes = cluster.dir.path().join("agent/slaves");
    let mut seen = 0;
    for _ in 0..3 {
        cluster.kill_agent();
        tokio::time::sleep(Duration::from_millis(200)).await;
        seen = seen.max(files(&sandboxes, "stdout").len());
        cluster.start_agent();
    }
    assert!(seen > 1, "the logger works without an agent");
    framework.until("the end", 120, |f| f.end("t").is_some()).await;
    assert_eq!(framework.state("t"), Some("TASK_FINISHED"));
    let mut found = String::new();
    for (_, path) in files(&sandboxes, "stdout") {
        let text = std::fs::read_to_string(&path).expect("text");
        assert!(text.len() <= 4096, "{} has {} bytes", path.display(), text.len());
        found.push_str(&text);
    }
    let wrong = found.lines().zip(0..).find(|(line, i)| *line != format!("line {i}"));
    assert_eq!(wrong, Some(("end", 60_000)));
}
