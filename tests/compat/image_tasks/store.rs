//! The images of an agent, by its API and by `bulkhead image`; and pulls that take long.

use std::net::TcpListener;
use std::process::{Command, Output};

use serde_json::{Value, json};

use super::scene::{Scene, config, eventually, task};
use crate::cluster::{binary, get};
use crate::framework::Framework;
use crate::require;

/// As [`config`], of an image that is no other's.
fn labelled(name: &str) -> Value {
    let mut config = config();
    config["Labels"] = json!({ "name": name });
    config
}

fn image(scene: &Scene, arguments: &[&str]) -> Output {
    let mut command = Command::new(binary("bulkhead"));
    command.arg("image").args(arguments).args(["--agent", &scene.cluster.agent]);
    command.output().expect("run bulkhead")
}

fn names(scene: &Scene) -> Vec<String> {
    let listed = image(scene, &["ls", "--json"]);
    assert!(listed.status.success(), "{listed:?}");
    let rows = String::from_utf8_lossy(&listed.stdout).into_owned();
    let rows = rows.lines().map(|line| serde_json::from_str::<Value>(line).expect("JSON"));
    let rows: Vec<Value> = rows.collect();
    let name = |row: &Value| row["name"].as_str().unwrap_or_default().to_owned();
    rows.iter().map(name).collect()
}

#[tokio::test]
async fn images_are_pulled_listed_and_pruned_by_hand() {
    require!(root, cgroup, busybox, overlay);
    let scene = Scene::start("image-store", &[]);
    for name in ["used:1", "kept:1", "idle:1"] {
        scene.image(name, &labelled(name));
    }
    let pulled = image(&scene, &["pull", "used:1", "kept:1", "idle:1"]);
    assert!(pulled.status.success(), "{pulled:?}");
    let mut all = names(&scene);
    all.sort();
    assert_eq!(all.len(), 3, "{all:?}");
    assert!(all[0].ends_with("idle:1") && all[2].ends_with("used:1"), "{all:?}");
    let none = image(&scene, &["pull", "no/such:1"]);
    let said = String::from_utf8_lossy(&none.stderr).into_owned();
    assert_eq!(none.status.code(), Some(2), "{none:?}");
    assert!(said.contains("failed to pull image 'no/such:1'"), "{said}");

    let run = Command::new(binary("bulkhead"))
        .args(["run", "--master", &scene.cluster.master, "--image", "idle:1"])
        .output()
        .expect("run bulkhead");
    assert!(run.status.success(), "{run:?}");
    assert!(String::from_utf8_lossy(&run.stdout).ends_with("/show entry cmd\n"), "{run:?}");
    let mut framework = Framework::subscribe(&scene.cluster.master, "image-store").await;
    framework.start(task("uses", "used:1", "sleep 1000")).await;
    let pruned = image(&scene, &["prune", "--exclude", "kept:1"]);
    assert!(pruned.status.success(), "{pruned:?}");
    let left = names(&scene);
    assert_eq!(left.len(), 2, "{left:?}");
    assert!(left.iter().all(|name| !name.ends_with("idle:1")), "{left:?}");
    framework.call("KILL", json!({ "task_id": { "value": "uses" } })).await;
    framework.until("the kill", 60, |f| f.end("uses").is_some()).await;
    scene.wait_clean().await;
    let pruned = image(&scene, &["prune"]);
    assert!(pruned.status.success(), "{pruned:?}");
    assert_eq!(names(&scene), Vec::<String>::new());
    let listed = get(&scene.cluster.agent, "/images").expect("an answer");
    assert_eq!(listed, "{\"images\":[],\"errors\":[]}");
}

/// The disk counts as full: everything goes that is not used.
#[tokio::test]
async fn unused_images_go_when_the_disk_fills() {
    require!(root, cgroup, busybox, overlay);
    let config_flag = r#"--image_gc_config={"image_disk_headroom": 1.0,
        "image_disk_watch_interval": {"nanoseconds": 200000000},
        "excluded_images": [{"type": "DOCKER", "docker": {"name": "kept:1"}}]}"#;
    let scene = Scene::start("image-gc", &[config_flag]);
    for name in ["used:1", "kept:1", "idle:1"] {
        scene.image(name, &labelled(name));
    }
    let mut framework = Framework::subscribe(&scene.cluster.master, "image-gc").await;
    framework.start(task("uses", "used:1", "sleep 1000")).await;
    assert!(image(&scene, &["pull", "kept:1", "idle:1"]).status.success());
    eventually("the unused one to go", || names(&scene).len() == 2).await;
    let left = names(&scene);
    assert!(left.iter().all(|name| !name.ends_with("idle:1")), "{left:?}");
}

#[tokio::test]
async fn a_pull_is_seen_and_ends_with_its_task() {
    require!(root, cgroup, busybox, overlay);
    // Takes calls and never answers.
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = listener.local_addr().expect("an address").port();
    let registry = format!("--docker_registry=http://127.0.0.1:{port}");
    let scene = Scene::start("image-slow", &[&registry]);
    let mut framework = Framework::subscribe(&scene.cluster.master, "image-slow").await;
    framework.launch(vec![task("slow", "slow:1", "true")]).await;
    let containers = || get(&scene.cluster.agent, "/containers").expect("an answer");
    eventually("the pull", || containers().contains("\"provisioning\":{\"layers\":0")).await;
    // Others come and go meanwhile.
    let end = framework.run(crate::framework::command("other", "true", 32.0), 60).await;
    assert_eq!(end["state"], "TASK_FINISHED", "{end}");
    framework.call("KILL", json!({ "task_id": { "value": "slow" } })).await;
    framework.until("the kill", 60, |f| f.end("slow").is_some()).await;
    assert_eq!(framework.state("slow"), Some("TASK_KILLED"), "{:?}", framework.end("slow"));
    scene.wait_clean().await;
}
