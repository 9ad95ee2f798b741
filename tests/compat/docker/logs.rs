//! Output under limits: of the files in the sandbox and of what the engine keeps.

use std::path::Path;

use super::scene::{cluster, container, docker_task, eventually, sandbox};
use crate::dockerd::{Dockerd, Network};
use crate::framework::Framework;
use crate::require;

/// Lines of seven bytes; the engine needs ten times as much for each.
const LINES: usize = 60_000;
const FIRST: usize = 100_000;
const FILE: u64 = 64 << 10;
const FILES: usize = 3;
const ENGINE: u64 = 1 << 20;

/// What a sandbox has of `stdout`, the oldest first.
fn stdout(sandbox: &str) -> String {
    let name = |number: usize| match number {
        0 => format!("{sandbox}/stdout"),
        number => format!("{sandbox}/stdout.{number}"),
    };
    (0..20).rev().filter_map(|number| std::fs::read_to_string(name(number)).ok()).collect()
}

#[tokio::test]
async fn output_has_limits_in_the_sandbox_and_at_the_engine() {
    require!(root, cgroup, busybox, docker);
    let engine = Dockerd::start("logs", Network::Host);
    let flags = [
        &format!("--container_log_max_size={}KB", FILE >> 10),
        &format!("--container_log_max_files={}", FILES - 1),
        &format!("--docker_log_max_size={}KB", ENGINE >> 10),
    ];
    let flags = flags.map(String::as_str);
    let mut cluster = cluster("docker-logs", &engine, &flags);
    let mut framework = Framework::subscribe(&cluster.master, "docker-logs").await;
    // Not faster than it is read, or the engine would have to drop some.
    let line = format!(
        "i={FIRST}; while [ $i -lt {} ]; do seq $i $((i+999)); \
         until [ \"$(busybox tail -n 1 $MESOS_SANDBOX/stdout)\" = $((i+999)) ]; do sleep 0.05; done; \
         i=$((i+1000)); done; echo the end; exit 3",
        FIRST + LINES
    );
    framework.start(docker_task("talks", &line)).await;
    let (sandbox, container) = (sandbox(&cluster, "talks"), container(&cluster, "talks"));
    eventually("a first rotation", || Path::new(&format!("{sandbox}/stdout.1")).exists()).await;
    cluster.kill_agent();
    cluster.start_agent();
    framework.until("the end", 60, |f| f.end("talks").is_some()).await;
    let end = framework.end("talks").expect("it ended");
    assert_eq!(end["message"], "Command exited with status 3", "{end}");

    // The newest lines are all there, once and in order, in files that are not too large.
    let text = stdout(&sandbox);
    let all: String = (FIRST..FIRST + LINES).map(|n| format!("{n}\n")).collect();
    let all = all + "the end\n";
    if !all.ends_with(&text) {
        let numbers: Vec<usize> = text.lines().filter_map(|line| line.parse().ok()).collect();
        let odd = numbers.windows(2).filter(|pair| pair[0] + 1 != pair[1]);
        panic!("lost or repeated at {:?}, {} bytes", odd.collect::<Vec<_>>(), text.len());
    }
    assert!(text.len() as u64 > FILE * (FILES as u64 - 1), "{} bytes", text.len());
    for number in 0..20 {
        let name = if number == 0 { "stdout".into() } else { format!("stdout.{number}") };
        let size = std::fs::metadata(format!("{sandbox}/{name}")).map_or(0, |m| m.len());
        assert!(size <= FILE && (number < FILES || size == 0), "{name} has {size} bytes");
    }
    let (_, inspected) = engine.api("GET", &format!("/containers/{container}/json"), None);
    assert_eq!(inspected["HostConfig"]["LogConfig"]["Type"], "json-file", "{inspected}");
    let log = inspected["LogPath"].as_str().expect("a path");
    let directory = Path::new(log).parent().expect("a directory");
    let of_log = |name: &str| name.contains("-json.log");
    let sizes = std::fs::read_dir(directory).expect("its directory").flatten();
    let sizes = sizes.filter(|entry| of_log(&entry.file_name().to_string_lossy()));
    let total: u64 = sizes.map(|entry| entry.metadata().map_or(0, |m| m.len())).sum();
    assert!(total > 0 && total <= ENGINE + (64 << 10), "{total} bytes");
}
