//! Ends in the middle of a fetch: a kill, the agent's death.

use std::time::{Duration, Instant};

use serde_json::json;

use super::web::{Manner, Web};
use super::{PATIENCE, cached, files, log, plain, task};
use crate::cluster::{Cluster, Options};
use crate::framework::Framework;
use crate::require;

/// Waits until so many clients hang in the middle of a page.
async fn stalled(web: &Web, count: usize) {
    let by = Instant::now() + Duration::from_secs(PATIENCE);
    while web.stalled() != count {
        assert!(Instant::now() < by, "{} clients hang, not {count}", web.stalled());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

fn pages(web: &Web) {
    for path in ["/direct", "/cached"] {
        web.put(path, b"some text");
        web.behave(path, Manner::Stalls);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_task_stops_fetching() {
    require!(root, cgroup);
    let web = Web::start();
    pages(&web);
    let cluster = Cluster::start("fetchkill", Options::default());
    let mut framework = Framework::subscribe(&cluster.master, "fetchkill").await;
    let tasks = vec![
        task("direct", "true", plain(web.url("/direct"))),
        task("first", "true", cached(web.url("/cached"))),
        task("second", "test -s cached", cached(web.url("/cached"))),
    ];
    framework.launch(tasks).await;
    stalled(&web, 2).await;
    for name in ["direct", "first"] {
        framework.call("KILL", json!({ "task_id": { "value": name } })).await;
    }
    let both = |f: &Framework| f.end("direct").is_some() && f.end("first").is_some();
    framework.until("the kills", PATIENCE, both).await;
    assert_eq!(framework.state("direct"), Some("TASK_KILLED"));
    // The shared download goes on for the task that still waits.
    stalled(&web, 1).await;
    web.behave("/cached", Manner::Plain);
    framework.until("the second task", PATIENCE, |f| f.end("second").is_some()).await;
    assert_eq!(framework.state("second"), Some("TASK_FINISHED"));
    assert_eq!(web.asked("/cached").iter().filter(|status| *status == "200").count(), 1);
}

/// Starts an agent that gets all of `/direct` and `/cached`; their tasks end.
pub(super) async fn next_agent_ends_both(
    web: &Web,
    cluster: &mut Cluster,
    framework: &mut Framework,
) {
    for path in ["/direct", "/cached"] {
        web.behave(path, Manner::Plain);
    }
    cluster.start_agent();
    let both = |f: &Framework| f.end("direct").is_some() && f.end("cached").is_some();
    framework.until("both tasks to end", PATIENCE, both).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_agents_death_ends_its_fetches() {
    require!(root, cgroup);
    let web = Web::start();
    pages(&web);
    let mut cluster = Cluster::start("fetchdeath", Options::default());
    let mut framework = Framework::subscribe(&cluster.master, "fetchdeath").await;
    let tasks = vec![
        task("direct", "test -s direct", plain(web.url("/direct"))),
        task("cached", "test -s cached", cached(web.url("/cached"))),
    ];
    framework.launch(tasks).await;
    stalled(&web, 2).await;
    cluster.kill_agent();
    // The helpers are gone before the next agent comes.
    stalled(&web, 0).await;
    // The tasks never ran: the next agent fetches anew and launches them.
    next_agent_ends_both(&web, &mut cluster, &mut framework).await;
    for name in ["direct", "cached"] {
        assert_eq!(framework.state(name), Some("TASK_FINISHED"), "{}", log(&cluster, name));
    }
    // Nothing half is in the cache: one download and its entry.
    let kept = files(&cluster.dir.path().join("fetch"));
    assert_eq!(kept.len(), 2, "{kept:?}");
    assert_eq!(cluster.stop(), Vec::<String>::new());
}
