//! Persistent volumes: made by frameworks, used by tasks of all kinds, destroyed.

use std::os::unix::fs::MetadataExt;

use serde_json::{Value, json};

use crate::cluster::{Cluster, Options, get};
use crate::framework::{Framework, command, scalar};
use crate::require;
use crate::volumes::{
    directory, launch, offer_with, operation, reserved, state, subscribe, volume,
};

/// A task with a volume.
fn on_volume(name: &str, line: &str, volume: &Value) -> Value {
    let mut task = command(name, line, 32.0);
    task["resources"].as_array_mut().expect("a list").push(volume.clone());
    task
}

async fn ended(framework: &mut Framework, cluster: &Cluster, task: &str, state: &str) {
    framework.until(&format!("the end of {task}"), 60, |f| f.end(task).is_some()).await;
    let end = framework.end(task).expect("ended");
    assert_eq!(end["state"], state, "{task}: {end}\n{}", cluster.logs());
}

async fn done(framework: &mut Framework, operations: &[&str]) {
    let finished =
        |f: &Framework| operations.iter().all(|id| f.operation(id) == Some("OPERATION_FINISHED"));
    framework.until("the operations", 60, finished).await;
}

/// Reserves and creates volume `v`; the offer is used up.
async fn create(framework: &mut Framework, v: &Value) {
    let offer = offer_with(framework, None).await;
    let operations = vec![operation("RESERVE", "r", &reserved()), operation("CREATE", "c", v)];
    framework.operate(&offer, operations).await;
    done(framework, &["r", "c"]).await;
}

async fn remove(framework: &mut Framework, cluster: &Cluster, v: &Value) {
    let offer = offer_with(framework, Some("v")).await;
    let operations = vec![operation("DESTROY", "d", v), operation("UNRESERVE", "u", &reserved())];
    framework.operate(&offer, operations).await;
    done(framework, &["d", "u"]).await;
    assert!(!directory(cluster, "v").exists());
    assert_eq!(state(cluster), json!({}));
    cluster.wait_clean();
}

#[tokio::test]
async fn a_volume_outlives_its_tasks_and_the_agent() {
    require!(root, cgroup);
    let mut cluster = Cluster::start("volume", Options::default());
    let mut framework = subscribe(&cluster.master, "volume").await;
    let v = volume("v", "RW");
    // All in one call: what is reserved is made a volume that a task is launched on.
    let offer = offer_with(&mut framework, None).await;
    let mut writer = on_volume("writer", "id -un > data/who", &v);
    writer["command"]["user"] = json!("nobody");
    let operations = vec![
        operation("RESERVE", "r", &reserved()),
        operation("CREATE", "c", &v),
        launch(&offer, writer),
    ];
    framework.operate(&offer, operations).await;
    ended(&mut framework, &cluster, "writer", "TASK_FINISHED").await;
    done(&mut framework, &["r", "c"]).await;
    let place = directory(&cluster, "v");
    assert_eq!(std::fs::read_to_string(place.join("who")).expect("written"), "nobody\n");
    assert_ne!(place.metadata().expect("a directory").uid(), 0, "it is the task's");
    assert_eq!(state(&cluster)["web"][0]["disk"]["persistence"]["id"], "v");
    cluster.kill_agent();
    cluster.start_agent();
    let offer = offer_with(&mut framework, Some("v")).await;
    let reader = on_volume("reader", "grep nobody data/who && ! touch data/x", &volume("v", "RO"));
    framework.operate(&offer, vec![launch(&offer, reader)]).await;
    ended(&mut framework, &cluster, "reader", "TASK_FINISHED").await;
    assert!(!cluster.sandbox("reader").join("data/who").exists(), "nothing is mounted here");
    remove(&mut framework, &cluster, &v).await;
}

#[tokio::test]
async fn task_groups_see_volumes_of_their_executor_and_of_their_own() {
    require!(root, cgroup);
    let cluster = Cluster::start("groupvolume", Options::default());
    let mut framework = subscribe(&cluster.master, "groupvolume").await;
    let v = volume("v", "RW");
    create(&mut framework, &v).await;
    for (name, of_task, line) in [
        ("first", true, "echo hello > data/f"),
        ("second", false, "grep hello data/f && echo more > data/g"),
    ] {
        let offer = offer_with(&mut framework, Some("v")).await;
        let mut executor = json!({ "type": "DEFAULT",
            "executor_id": { "value": format!("{name}-executor") },
            "framework_id": { "value": framework.id },
            "shutdown_grace_period": { "nanoseconds": 100_000_000 },
            "resources": [scalar("cpus", 0.1), scalar("mem", 32.0), scalar("disk", 32.0)] });
        let mut task = command(name, line, 32.0);
        let holder = if of_task { &mut task } else { &mut executor };
        holder["resources"].as_array_mut().expect("a list").push(v.clone());
        if !of_task {
            // As in Mesos, a volume of the executor is asked for.
            task["container"] = json!({ "type": "MESOS", "volumes": [{ "mode": "RW",
                "container_path": "data", "source": { "type": "SANDBOX_PATH",
                "sandbox_path": { "type": "PARENT", "path": "data" } } }] });
        }
        task["agent_id"] = offer["agent_id"].clone();
        let group = json!({ "type": "LAUNCH_GROUP", "launch_group": {
            "executor": executor, "task_group": { "tasks": [task] } } });
        framework.operate(&offer, vec![group]).await;
        ended(&mut framework, &cluster, name, "TASK_FINISHED").await;
    }
    assert_eq!(std::fs::read_to_string(directory(&cluster, "v").join("g")).expect("g"), "more\n");
    remove(&mut framework, &cluster, &v).await;
}

#[tokio::test]
async fn without_mounts_a_volume_is_a_link() {
    require!(root, cgroup);
    let options = Options::default().agent(&["--launcher=posix", "--isolation=posix/cpu"]);
    let cluster = Cluster::start("linkvolume", options);
    let mut framework = subscribe(&cluster.master, "linkvolume").await;
    let v = volume("v", "RW");
    create(&mut framework, &v).await;
    let offer = offer_with(&mut framework, Some("v")).await;
    framework.operate(&offer, vec![launch(&offer, on_volume("t", "echo x > data/f", &v))]).await;
    ended(&mut framework, &cluster, "t", "TASK_FINISHED").await;
    let link = cluster.sandbox("t").join("data");
    assert_eq!(std::fs::read_link(&link).expect("a link"), directory(&cluster, "v"));
    assert!(link.join("f").is_file());
    remove(&mut framework, &cluster, &v).await;
}

#[tokio::test]
async fn operations_that_do_not_fit_end_and_harm_nothing() {
    require!(root, cgroup);
    let cluster = Cluster::start("misfit", Options::default());
    let mut framework = subscribe(&cluster.master, "misfit").await;
    let offer = offer_with(&mut framework, None).await;
    // Nothing is reserved.
    framework.operate(&offer, vec![operation("CREATE", "c", &volume("v", "RW"))]).await;
    framework.until("the end", 60, |f| f.operation("c").is_some()).await;
    assert_eq!(framework.operation("c"), Some("OPERATION_ERROR"));
    assert!(!directory(&cluster, "v").exists());
    let body = get(&cluster.agent, "/state").expect("the agent answers");
    assert!(body.contains("\"reserved_resources_full\":{}"), "{body}");
}
