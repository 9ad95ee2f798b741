//! How far a fetch is: told to the framework, shown in `/containers`.

use serde_json::{Value, json};

use super::death::next_agent_ends_both;
use super::web::{Manner, Web};
use super::{PATIENCE, log, task};
use crate::cluster::{Cluster, Options, get};
use crate::framework::Framework;
use crate::require;

/// State and message of every status of a task, repetitions left out.
fn told<'a>(framework: &'a Framework, task: &str) -> Vec<(&'a str, &'a str)> {
    let mut statuses: Vec<&Value> = framework.statuses.get(task).into_iter().flatten().collect();
    statuses.dedup_by_key(|status| &status["uuid"]);
    let text = |status: &'a Value, name: &str| status[name].as_str().unwrap_or("");
    statuses.into_iter().map(|status| (text(status, "state"), text(status, "message"))).collect()
}

/// Whether the newest word on a task is that it fetches the second half of `file`.
fn is_half_way(framework: &Framework, task: &str, file: &str) -> bool {
    told(framework, task).last().is_some_and(|(state, message)| {
        let bytes = message.strip_prefix(&format!("Fetching '{file}', 2 of 2: "));
        *state == "TASK_STARTING" && bytes.is_some_and(|bytes| bytes.ends_with(" MB of 4.0 MB"))
    })
}

fn containers(cluster: &Cluster) -> Value {
    serde_json::from_str(&get(&cluster.agent, "/containers").expect("/containers")).expect("JSON")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_long_fetch_is_told_to_its_framework() {
    require!(root, cgroup);
    let web = Web::start();
    web.put("/small", b"small");
    // Half of it is more than what is reported at a time, 1 MB.
    for path in ["/direct", "/cached"] {
        web.put(path, &vec![b'x'; 4 << 20]);
        web.behave(path, Manner::Stalls);
    }
    let options = Options::default().agent(&["--fetcher_stall_timeout=10mins"]);
    let mut cluster = Cluster::start("fetchfar", options);
    let mut framework = Framework::subscribe(&cluster.master, "fetchfar").await;
    let uris = |path: &str, cache: bool| json!([{ "value": web.url("/small") }, { "value": web.url(path), "cache": cache }]);
    let tasks = vec![
        task("direct", "test $(wc -c < direct) = 4194304", uris("/direct", false)),
        task("cached", "test $(wc -c < cached) = 4194304", uris("/cached", true)),
        task("killed", "true", uris("/direct", false)),
    ];
    framework.launch(tasks).await;
    let all = [("direct", "direct"), ("cached", "cached"), ("killed", "direct")];
    // The first word may come before half of it did, the next one 30 s later.
    let heard = |f: &Framework| all.iter().all(|(name, file)| is_half_way(f, name, file));
    framework.until("a word on the fetches", 2 * PATIENCE, heard).await;
    for (name, _) in all {
        let status = framework.statuses[name].last().expect("a status");
        assert_eq!(status["source"], "SOURCE_EXECUTOR");
        assert!(status["container_status"].is_null(), "{status}");
    }
    let shown = containers(&cluster);
    let mut files = Vec::new();
    for container in shown.as_array().expect("a list") {
        let far = &container["fetching"];
        let done = far["bytes_done"].as_u64().unwrap_or(0);
        assert_eq!((&far["uris"], &far["uris_done"]), (&json!(2), &json!(1)), "{shown}");
        assert!(far["bytes"] == 4 << 20 && (1 << 20..=2 << 20).contains(&done), "{shown}");
        files.push(far["name"].as_str().unwrap_or(""));
    }
    files.sort_unstable();
    assert_eq!(files, ["cached", "direct", "direct"]);

    framework.call("KILL", json!({ "task_id": { "value": "killed" } })).await;
    framework.until("the kill", PATIENCE, |f| f.end("killed").is_some()).await;
    assert_eq!(framework.state("killed"), Some("TASK_KILLED"));
    // The next agent fetches anew, and takes nothing back.
    cluster.kill_agent();
    next_agent_ends_both(&web, &mut cluster, &mut framework).await;
    for name in ["direct", "cached"] {
        let told = told(&framework, name);
        let mut states: Vec<&str> = told.iter().map(|(state, _)| *state).collect();
        states.dedup();
        let expected = ["TASK_STARTING", "TASK_RUNNING", "TASK_FINISHED"];
        assert_eq!(states, expected, "{told:?}\n{}", log(&cluster, name));
    }
    assert_eq!(cluster.stop(), Vec::<String>::new());
}
