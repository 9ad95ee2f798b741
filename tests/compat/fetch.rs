//! The fetcher from outside: master, agent and helper of this build, servers of the
//! test's own on loopback.

#[path = "../support/cluster.rs"]
mod cluster;
#[path = "../support/framework.rs"]
mod framework;
#[path = "../support/mod.rs"]
mod support;

mod fetch {
    //! One file per theme.
    pub mod cache;
    pub mod cases;
    pub mod death;
    pub mod programs;
    pub mod progress;
    pub mod web;

    use std::path::Path;

    use serde_json::{Value, json};

    use crate::cluster::Cluster;
    use crate::framework::{Framework, command};

    /// Nothing takes longer.
    pub const PATIENCE: u64 = 60;

    /// A task that fetches `uris` and then runs `line`.
    pub fn task(name: &str, line: &str, uris: Value) -> Value {
        let mut task = command(name, line, 32.0);
        task["command"]["uris"] = uris;
        task
    }

    /// One URI, nothing else asked.
    pub fn plain(value: impl std::fmt::Display) -> Value {
        json!([{ "value": value.to_string() }])
    }

    /// One URI through the cache.
    pub fn cached(value: impl std::fmt::Display) -> Value {
        json!([{ "value": value.to_string(), "cache": true }])
    }

    /// What the fetcher wrote there.
    pub fn log(cluster: &Cluster, task: &str) -> String {
        std::fs::read_to_string(cluster.sandbox(task).join("stderr")).unwrap_or_default()
    }

    /// Runs tasks together; those that did not finish, with their logs.
    pub async fn unfinished(
        cluster: &Cluster,
        framework: &mut Framework,
        tasks: Vec<Value>,
    ) -> Vec<String> {
        let names: Vec<String> =
            tasks.iter().map(|t| t["name"].as_str().unwrap_or("").to_owned()).collect();
        framework.launch(tasks).await;
        let all = |f: &Framework| names.iter().all(|name| f.end(name).is_some());
        framework.until("all tasks to end", PATIENCE, all).await;
        let wrong =
            |name: &&String| framework.end(name).expect("ended")["state"] != "TASK_FINISHED";
        names
            .iter()
            .filter(wrong)
            .map(|n| format!("{n}: {}\n{}", framework.end(n).expect("ended"), log(cluster, n)))
            .collect()
    }

    /// Names in a directory and below, sorted, without those that begin with a dot.
    pub fn files(dir: &Path) -> Vec<String> {
        let (mut found, mut dirs) = (Vec::new(), vec![dir.to_owned()]);
        while let Some(next) = dirs.pop() {
            for entry in std::fs::read_dir(&next).into_iter().flatten().flatten() {
                let name = entry.file_name().to_string_lossy().into_owned();
                if entry.path().is_dir() {
                    dirs.push(entry.path());
                } else if !name.starts_with('.') {
                    let path = entry.path();
                    let below = path.strip_prefix(dir).expect("below");
                    found.push(below.display().to_string());
                }
            }
        }
        found.sort();
        found
    }
}
