//! The cache: shared downloads, revalidation, eviction, restarts, users.

use std::process::Command;

use serde_json::{Value, json};

use super::web::{Manner, Web};
use super::{PATIENCE, cached, files, log, task, unfinished};
use crate::cluster::{Cluster, Options, get};
use crate::framework::Framework;
use crate::require;
use crate::support::TempDir;

fn used(cluster: &Cluster) -> u64 {
    let metrics = get(&cluster.agent, "/metrics/snapshot").expect("metrics");
    let metrics: Value = serde_json::from_str(&metrics).expect("JSON");
    metrics["containerizer/fetcher/cache_size_used_bytes"].as_f64().expect("a number") as u64
}

async fn finish(cluster: &Cluster, framework: &mut Framework, tasks: Vec<Value>) {
    let wrong = unfinished(cluster, framework, tasks).await;
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

fn is(text: &str) -> String {
    format!("test \"$(cat data)\" = {text}")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_download_serves_all_and_is_kept() {
    require!(root, cgroup);
    let web = Web::start();
    web.put("/data", b"one");
    web.behave("/data", Manner::Stalls);
    let mut cluster = Cluster::start("fetchcache", Options::default());
    let mut framework = Framework::subscribe(&cluster.master, "fetchcache").await;
    let url = || cached(web.url("/data"));
    // Ten at once, while the download hangs: one request.
    let names: Vec<String> = (0..10).map(|i| format!("shared{i}")).collect();
    framework.launch(names.iter().map(|n| task(n, &is("one"), url())).collect()).await;
    while web.stalled() == 0 {
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    tokio::time::sleep(std::time::Duration::from_millis(300)).await;
    web.behave("/data", Manner::Plain);
    let all = |f: &Framework| names.iter().all(|name| f.end(name).is_some());
    framework.until("all tasks to end", PATIENCE, all).await;
    for name in &names {
        let end = framework.end(name).expect("ended");
        assert_eq!(end["state"], "TASK_FINISHED", "{end}\n{}", log(&cluster, name));
    }
    // Whoever came late asked whether it is still the same.
    assert_eq!(web.asked("/data").iter().filter(|status| *status == "200").count(), 1);
    assert_eq!(used(&cluster), 3);

    // Asked about, and changed.
    finish(&cluster, &mut framework, vec![task("again", &is("one"), url())]).await;
    assert_eq!(web.asked("/data").last().map(String::as_str), Some("304"));
    web.put("/data", b"second");
    finish(&cluster, &mut framework, vec![task("changed", &is("second"), url())]).await;
    assert_eq!(used(&cluster), 6);

    // Kept over a restart, and used when the server is ill.
    cluster.kill_agent();
    cluster.start_agent();
    assert_eq!(used(&cluster), 6);
    web.behave("/data", Manner::Status(500));
    finish(&cluster, &mut framework, vec![task("ill", &is("second"), url())]).await;
    // But not when the server says that it is gone.
    web.behave("/data", Manner::Status(404));
    let end = framework.run(task("gone", "true", url()), PATIENCE).await;
    assert!(end["message"].as_str().is_some_and(|m| m.contains("return code 404")), "{end}");
    assert_eq!((used(&cluster), files(&cluster.dir.path().join("fetch"))), (0, Vec::new()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_cache_has_a_size_and_users_are_apart() {
    require!(root, cgroup);
    let web = Web::start();
    for name in ["a", "b", "c"] {
        web.put(&format!("/{name}"), &[b'x'; 40]);
    }
    web.put("/large", &[b'x'; 101]);
    let options = Options::default().agent(&["--fetcher_cache_size=100B"]);
    let cluster = Cluster::start("fetchsize", options);
    let mut framework = Framework::subscribe(&cluster.master, "fetchsize").await;
    for (i, name) in ["a", "b", "a", "c", "a", "b"].into_iter().enumerate() {
        let uris = cached(web.url(&format!("/{name}")));
        let line = format!("test $(wc -c < {name}) = 40");
        finish(&cluster, &mut framework, vec![task(&format!("{name}{i}"), &line, uris)]).await;
        assert!(used(&cluster) <= 80);
    }
    // `b` made room for `c`, since `a` was used later.
    assert_eq!(web.asked("/a"), ["200", "304", "304"]);
    assert_eq!(web.asked("/b"), ["200", "200"]);
    // What does not fit is fetched all the same.
    let uris = cached(web.url("/large"));
    finish(&cluster, &mut framework, vec![task("large", "test -s large", uris)]).await;
    let text = log(&cluster, "large");
    assert!(text.contains("Bypassing the cache for '"), "{text}");
    assert!(used(&cluster) <= 80);

    let mut other = task("other", "test -O a && test -s a", cached(web.url("/a")));
    other["command"]["user"] = json!("nobody");
    finish(&cluster, &mut framework, vec![other]).await;
    assert_eq!(web.asked("/a").last().map(String::as_str), Some("200"), "nobody shares");
    let kept = files(&cluster.dir.path().join("fetch"));
    assert!(kept.iter().any(|file| file.starts_with("nobody/c")), "{kept:?}");
}

/// A file system of 64 KB, gone with the test.
struct Small(TempDir);

impl Small {
    fn new() -> Small {
        let dir = TempDir::new("fetch-small");
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", "size=64k,mode=700", "tmpfs"])
            .arg(dir.path())
            .status();
        assert!(mounted.expect("run mount").success());
        Small(dir)
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(self.0.path()).status();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cache_that_cannot_be_written_is_no_failure() {
    require!(root, cgroup);
    let web = Web::start();
    web.put("/data", &vec![b'x'; 200_000]);
    let small = Small::new();
    let flag = format!("--fetcher_cache_dir={}", small.0.path().display());
    let cluster = Cluster::start("fetchsmall", Options::default().agent(&[&flag]));
    let mut framework = Framework::subscribe(&cluster.master, "fetchsmall").await;
    let uris = || cached(web.url("/data"));
    let line = "test $(wc -c < data) = 200000";
    finish(&cluster, &mut framework, vec![task("full", line, uris())]).await;
    let local = cluster.dir.path().join("data");
    std::fs::write(&local, vec![b'x'; 200_000]).expect("write");
    let local = task("local", line, cached(local.display()));
    finish(&cluster, &mut framework, vec![local]).await;
    let text = log(&cluster, "full") + &log(&cluster, "local");
    assert_eq!(text.matches("Bypassing the cache for '").count(), 2, "{text}");
    assert!(text.contains("Bypassing the cache for '") && text.contains("No space left"), "{text}");
    assert_eq!((used(&cluster), files(small.0.path())), (0, Vec::new()));

    // A second agent that was given the same directory.
    let other = Cluster::start("fetchother", Options::default().agent(&[&flag]));
    let mut framework = Framework::subscribe(&other.master, "fetchother").await;
    finish(&other, &mut framework, vec![task("taken", line, uris())]).await;
    assert!(log(&other, "taken").contains("another agent uses '"), "{}", log(&other, "taken"));
}
