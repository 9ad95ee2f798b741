//! The agent dies, as by `kill -9`: containers in images live on, and whatever was being
//! made or removed is whole or gone.

use std::process::Command;

use serde_json::json;

use super::scene::{Scene, config, eventually, task};
use crate::cluster::binary;
use crate::framework::Framework;
use crate::require;

/// What the points begin with that only containers with images pass.
const POINTS: [&str; 2] = ["provision.", "launch.provisioned"];
/// Passed by the second container of an agent's life.
const TAKEN: &str = "provision.taken";

#[tokio::test]
async fn containers_in_images_survive_the_agent() {
    require!(root, cgroup, busybox, overlay);
    let mut scene = Scene::start("image-death", &[]);
    scene.image("app:1", &config());
    let mut framework = Framework::subscribe(&scene.cluster.master, "image-death").await;
    let line = "touch /srv/app/mine 2>/dev/null; touch $MESOS_SANDBOX/begun; sleep 1000";
    framework.start(task("lives", "app:1", line)).await;
    eventually("the task", || scene.sandbox("lives").join("begun").exists()).await;
    scene.cluster.kill_agent();
    scene.cluster.start_agent();

    // Its image stays, whatever is pruned.
    let pruned = Command::new(binary("bulkhead"))
        .args(["image", "prune", "--agent", &scene.cluster.agent])
        .output()
        .expect("run bulkhead");
    assert!(pruned.status.success(), "{pruned:?}");
    let inside = Command::new(binary("bulkhead"))
        .args(["exec", "--no-stdin", "--master", &scene.cluster.master, "lives", "--"])
        .args(["sh", "-c", "cat /etc/group | wc -l; ls /show; id -u"])
        .output()
        .expect("run bulkhead");
    // Whoever runs beside it is whoever it is.
    assert_eq!(String::from_utf8_lossy(&inside.stdout), "3\n/show\n1001\n", "{inside:?}");
    framework.call("KILL", json!({ "task_id": { "value": "lives" } })).await;
    framework.until("the kill", 60, |f| f.end("lives").is_some()).await;
    assert_eq!(framework.state("lives"), Some("TASK_KILLED"));
    scene.wait_clean().await;
}

#[tokio::test]
async fn nothing_is_left_wherever_the_agent_dies() {
    require!(root, cgroup, busybox, overlay);
    let mut scene = Scene::start("image-points", &[]);
    scene.image("app:1", &config());
    let mut framework = Framework::subscribe(&scene.cluster.master, "image-points").await;
    for point in POINTS.into_iter().flat_map(kernel::failpoint::of) {
        scene.cluster.kill_agent();
        scene.cluster.failpoint = Some(point);
        scene.cluster.start_agent();
        if point == TAKEN {
            framework.run(task("first", "app:1", "exit 3"), 60).await;
            eventually("roots that are ready", || scene.ready().len() > 1).await;
        }
        framework.launch(vec![task(point, "app:1", "exit 3")]).await;
        scene.cluster.agent_ends();
        scene.cluster.failpoint = None;
        scene.cluster.start_agent();
        framework.until(point, 60, |f| f.end(point).is_some()).await;
        let end = framework.end(point).expect("an end");
        assert_eq!(end["message"], "Command exited with status 3", "{point}: {end}");
        scene.wait_clean().await;
    }
}
