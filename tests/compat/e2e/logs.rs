//! Output through the logger over the deaths of a real agent.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

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

/// A real systemd-journald with a /run of its own, ended with the test.
struct Journald(Child);

impl Journald {
    fn start() -> Journald {
        let line = "mount -t tmpfs none /run && mount -t tmpfs none /var/log && \
                    mkdir -p /run/systemd/journald.conf.d && \
                    printf '[Journal]\\nAudit=no\\nReadKMsg=no\\nStorage=volatile\\n' \
                    > /run/systemd/journald.conf.d/test.conf && exec /lib/systemd/systemd-journald";
        let mut command = Command::new("unshare");
        command.args(["--mount", "--propagation=private", "sh", "-c", line]);
        let child = command.stdin(Stdio::null()).stderr(Stdio::null()).spawn().expect("unshare");
        let journald = Journald(child);
        let by = Instant::now() + Duration::from_secs(60);
        while !journald.socket().exists() {
            assert!(Instant::now() < by, "systemd-journald does not start");
            std::thread::sleep(Duration::from_millis(20));
        }
        journald
    }

    fn socket(&self) -> PathBuf {
        format!("/proc/{}/root/run/systemd/journal/socket", self.0.id()).into()
    }

    /// Entries that match, one JSON object each.
    fn entries(&self, field: &str) -> Vec<serde_json::Value> {
        let pid = self.0.id().to_string();
        let mut command = Command::new("nsenter");
        command.args(["--mount", "--target", &pid, "journalctl", "--no-pager", "-o", "json"]);
        let output = command.arg(field).output().expect("journalctl");
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect()
    }
}

impl Drop for Journald {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[tokio::test]
async fn a_real_journald_takes_what_tasks_say() {
    require!(root, cgroup, journalctl, nsenter);
    let journald = Journald::start();
    let socket = format!("--container_log_journal_socket={}", journald.socket().display());
    let flags = ["--container_logger=com_mesosphere_mesos_JournaldLogger", socket.as_str()];
    let cluster = Cluster::start("journald", Options::default().agent(&flags));
    let mut framework = Framework::subscribe(&cluster.master, "journald").await;
    let status = framework.run(command("said", "echo one; echo two; echo bad >&2", 32.0), 60).await;
    assert_eq!(status["state"], "TASK_FINISHED");
    let by = Instant::now() + Duration::from_secs(60);
    let mut entries = journald.entries("TASK_ID=said");
    while entries.len() < 3 {
        assert!(Instant::now() < by, "{entries:?}");
        std::thread::sleep(Duration::from_millis(100));
        entries = journald.entries("TASK_ID=said");
    }
    let of = |stream: &str| -> Vec<&str> {
        let found = entries.iter().filter(|entry| entry["STREAM"] == stream);
        found.filter_map(|entry| entry["MESSAGE"].as_str()).collect()
    };
    assert_eq!((of("STDOUT"), of("STDERR")), (vec!["one", "two"], vec!["bad"]));
    assert!(entries.iter().all(|entry| entry["FRAMEWORK_ID"] == framework.id.as_str()));
    assert!(entries.iter().all(|entry| entry["AGENT_ID"].is_string()), "{entries:?}");
}
