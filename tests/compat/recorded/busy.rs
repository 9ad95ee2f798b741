//! What all endpoints show of a framework with running and ended tasks: the
//! recorded framework runs some of its recorded tasks, and every body must have
//! the recorded members in the recorded order, with the recorded types.

use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::Instant;

use crate::cluster::{Cluster, get};
use crate::framework::Framework;
use crate::names::Names;
use crate::shape::{self, Rules};
use crate::{cluster, require, support};

/// The recorded master; the framework was its second.
const MASTER: &str = "7ed94201-e781-44e7-840a-14ba86547fdb";

/// What is not there because it was not done or is not yet supported.
const NOT_DONE: &[(&str, &str)] = &[
    ("reserved_resources.web", "no reservation"),
    ("reserved_resources_full.web", "no reservation"),
    ("used_resources_full", "no reservation"),
    ("offered_resources_full", "no reservation"),
    ("completed_frameworks", "one framework only"),
    ("allocated_resources", "no reservation"),
    ("roles.reserved", "no reservation"),
    ("statuses.check_status", "run without checks here"),
    ("statuses.healthy", "run without checks here"),
    ("statuses.reason", "run without checks here"),
    ("health_check", "run without checks here"),
    ("quota.guarantee", "no quota is set"),
    ("quota.limit", "no quota is set"),
    ("git_tag", "our own version has one"),
    ("flags.webui_dir", "there is no web UI"),
    ("flags.perf_events", "not given here"),
    ("reserved_resources_allocated.web", "no reservation"),
    ("limits", "a map, in any order"),
    (
        "container_status.executor_pid",
        "of nested ones told when they run, which is a race in Mesos",
    ),
    ("drain_info", "nothing is drained"),
    ("statistics.blkio_statistics", "cgroups/blkio is not isolated with here"),
    ("statistics.threads", "told with cgroups/pids; a COMPAT row says why"),
    ("statistics.perf", "cgroups/perf_event is not isolated with here"),
    ("statistics.disk_statistics", "disk/du is not isolated with here"),
    ("statistics.disk_limit_bytes", "disk/du is not isolated with here"),
    ("statistics.disk_used_bytes", "disk/du is not isolated with here"),
];

fn recorded_request(name: &str) -> Value {
    let path = format!("v1/scheduler/busy/{name}.request");
    let bytes = std::fs::read(support::golden().expect("required").join(path)).expect("recorded");
    let text = String::from_utf8(bytes).expect("UTF-8");
    serde_json::from_str(text.split_once("\r\n\r\n").expect("a head").1).expect("JSON")
}

fn recorded(path: &str) -> Value {
    let path = support::golden().expect("required").join(path);
    let bytes = std::fs::read(&path).unwrap_or_else(|e| panic!("read {}: {e}", path.display()));
    serde_json::from_slice(&bytes).expect("JSON")
}

/// The recorded tasks of these ids, without their checks.
fn tasks(ids: &[&str]) -> Vec<Value> {
    let accept = recorded_request("02-accept-many");
    let operations = accept["accept"]["operations"].as_array().expect("operations");
    let launch = operations.iter().find(|o| o["type"] == "LAUNCH").expect("a launch");
    let all = launch["launch"]["task_infos"].as_array().expect("tasks");
    let mut tasks: Vec<Value> = all
        .iter()
        .filter(|t| ids.contains(&t["task_id"]["value"].as_str().unwrap_or("")))
        .cloned()
        .collect();
    for task in &mut tasks {
        let task = task.as_object_mut().expect("an object");
        task.remove("check");
        task.remove("health_check");
    }
    tasks
}

async fn run_all(framework: &mut Framework) {
    framework.launch(tasks(&["t-run", "t-fin", "t-fail"])).await;
    framework
        .until("one to run, two to end", 60, |f| {
            f.state("t-run") == Some("TASK_RUNNING")
                && f.end("t-fin").is_some()
                && f.end("t-fail").is_some()
        })
        .await;
    // The group is run with resources of the other role.
    framework.call("SUPPRESS", json!({ "roles": ["web"] })).await;
    framework.call("REVIVE", json!({ "roles": ["batch"] })).await;
    let batch = json!({ "role": "batch" });
    let mut offer = framework.offer().await;
    while offer["allocation_info"] != batch {
        let back = json!({ "offer_ids": [offer["id"]], "filters": { "refuse_seconds": 0.0 } });
        framework.call("DECLINE", back).await;
        offer = framework.offer().await;
    }
    let mut group = recorded_request("32-accept-group")["accept"]["operations"][0].clone();
    let launch = &mut group["launch_group"];
    launch["executor"]["framework_id"]["value"] = json!(framework.id);
    for task in launch["task_group"]["tasks"].as_array_mut().expect("tasks") {
        task["agent_id"] = offer["agent_id"].clone();
    }
    let body = json!({ "offer_ids": [offer["id"]], "operations": [group],
                       "filters": { "refuse_seconds": 3600.0 } });
    assert_eq!(framework.call("ACCEPT", body).await.status.as_u16(), 202);
    framework
        .until("the group", 60, |f| {
            f.state("g-run") == Some("TASK_RUNNING") && f.end("g-fin").is_some()
        })
        .await;
    // What ended tasks and executors gave back: no offer was out in the recording.
    let quiet = Duration::from_millis(2500);
    while framework.next(Instant::now() + quiet).await.is_some() || framework.has_offer() {
        while let Some(offer) = framework.take_offer() {
            let back =
                json!({ "offer_ids": [offer["id"]], "filters": { "refuse_seconds": 3600.0 } });
            framework.call("DECLINE", back).await;
        }
    }
}

/// Bodies in the recorded names against recorded ones.
struct Check {
    names: Names,
    found: Vec<String>,
}

impl Check {
    fn body(&mut self, what: &str, body: &str, recorded_at: &str) {
        let ours = serde_json::from_str(&self.names.recorded(body)).expect("JSON");
        let rules = Rules { allowed: NOT_DONE, by_id: true, ..Rules::default() };
        for difference in shape::compare(&ours, &recorded(recorded_at), &rules) {
            self.found.push(format!("{what} {difference}"));
        }
    }
}

fn endpoints(cluster: &Cluster, check: &mut Check) {
    let pages = [
        ("master", "/state", "state"),
        ("master", "/state-summary", "state-summary"),
        ("master", "/slaves", "slaves"),
        ("master", "/frameworks", "frameworks"),
        ("master", "/tasks", "tasks"),
        ("master", "/roles", "roles"),
        ("agent", "/state", "state"),
        ("agent", "/containers", "containers"),
        ("agent", "/monitor/statistics", "monitor_statistics"),
    ];
    for (who, path, file) in pages {
        let address = if who == "master" { &cluster.master } else { &cluster.agent };
        let body = get(address, path).unwrap_or_else(|| panic!("{who}{path} has no answer"));
        let file = format!("http/{who}/{file}.busy.json");
        check.body(&format!("{who}{path}"), &body, &file);
    }
}

async fn calls(cluster: &Cluster, check: &mut Check) {
    let calls = [
        ("master", "GET_STATE"),
        ("master", "GET_TASKS"),
        ("master", "GET_AGENTS"),
        ("master", "GET_FRAMEWORKS"),
        ("master", "GET_EXECUTORS"),
        ("master", "GET_ROLES"),
        ("agent", "GET_STATE"),
        ("agent", "GET_TASKS"),
        ("agent", "GET_FRAMEWORKS"),
        ("agent", "GET_EXECUTORS"),
        ("agent", "GET_CONTAINERS"),
        ("agent", "GET_AGENT"),
    ];
    for (who, kind) in calls {
        let address = if who == "master" { &cluster.master } else { &cluster.agent };
        let client = bulkhead::wire::client::Client::new(address.clone());
        let mut body = json!({ "type": kind });
        if kind == "GET_CONTAINERS" {
            body["get_containers"] = json!({ "show_nested": false, "show_standalone": false });
        }
        let call =
            bulkhead::wire::client::Call::post("/api/v1", "application/json", body.to_string());
        let reply = client.call(call.header("accept", "application/json")).await.expect("reached");
        let file = format!("v1/{who}/busy/{kind}.json");
        check.body(&format!("{who} {kind}"), &reply.text(), &file);
    }
}

/// Names of metrics that come with features that are not there.
const NOT_YET: [&str; 11] = [
    // No quota is set.
    "allocator/mesos/quota/roles/batch/resources/cpus/guarantee",
    "allocator/mesos/quota/roles/batch/resources/cpus/limit",
    "allocator/mesos/quota/roles/batch/resources/cpus/offered_or_allocated",
    "allocator/mesos/quota/roles/batch/resources/mem/guarantee",
    "allocator/mesos/quota/roles/batch/resources/mem/limit",
    "allocator/mesos/quota/roles/batch/resources/mem/offered_or_allocated",
    // Ends of tasks that did not run here, and a framework that did not.
    "master/task_failed/",
    "master/task_lost/",
    "master/frameworks/Test%20Framework%20(C%2B%2B)/",
    // With more than one sample only.
    "allocator/mesos/allocation_run_ms",
    "master/http_cache_hits",
];

fn metrics(cluster: &Cluster, framework: &Framework, found: &mut Vec<String>) {
    let body = get(&cluster.master, "/metrics/snapshot").expect("metrics");
    let ours: serde_json::Map<String, Value> = serde_json::from_str(&body).expect("JSON");
    let keys = support::golden().expect("required").join("metrics/master.busy.keys.txt");
    let keys = std::fs::read_to_string(keys).expect("the names");
    for name in keys.lines().filter(|n| !NOT_YET.iter().any(|p| n.starts_with(p))) {
        let ours_name = name.replace("7ed94201-e781-44e7-840a-14ba86547fdb-0001", &framework.id);
        if !ours.contains_key(&ours_name) {
            found.push(format!("no metric {ours_name}"));
        }
    }
    let statuses: usize = framework.statuses.values().map(Vec::len).sum();
    let (two, one) = (2.0, 1.0);
    #[allow(clippy::cast_precision_loss)] // a dozen
    let updates = statuses as f64;
    for (name, wanted) in [
        ("calls/accept", two),
        ("calls/acknowledge", updates),
        ("calls/subscribe", one),
        ("events/subscribed", one),
        ("events/update", updates),
        ("offers/accepted", two),
        ("operations", two),
        ("operations/launch", one),
        ("operations/launch_group", one),
        ("roles/batch/suppressed", 0.0),
        ("roles/web/suppressed", one),
        ("subscribed", one),
        ("tasks/active/task_running", two),
        ("tasks/terminal/task_failed", one),
        ("tasks/terminal/task_finished", two),
    ] {
        let name = format!("master/frameworks/golden/{}/{name}", framework.id);
        if ours.get(&name) != Some(&json!(wanted)) {
            found.push(format!("{name}: {:?}, wanted {wanted}", ours.get(&name)));
        }
    }
}

#[tokio::test]
async fn a_busy_cluster_shows_the_recorded_members() {
    require!(golden, root, cgroup);
    let cluster = cluster("busy", &["--attributes=rack:r1;gen:3;slots:[1-2]"]);
    let subscribe = recorded_request("01-subscribe");
    let mut framework = Framework::subscribe_with(&cluster.master, subscribe).await;
    run_all(&mut framework).await;
    let mut check = Check { names: Names::default(), found: Vec::new() };
    let master = framework.id.rsplit_once('-').expect("an id").0;
    check.names.learn(&format!("{MASTER}-0001"), &framework.id);
    check.names.learn(MASTER, master);
    endpoints(&cluster, &mut check);
    calls(&cluster, &mut check).await;
    let mut found = check.found;
    metrics(&cluster, &framework, &mut found);
    assert!(found.is_empty(), "{} differences:\n{}", found.len(), found.join("\n"));
}
