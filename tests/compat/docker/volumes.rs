//! Volumes that a driver makes with options.

use serde_json::json;

use super::scene::{cluster, docker_task, file};
use crate::dockerd::{Dockerd, Network};
use crate::framework::Framework;
use crate::require;

#[tokio::test]
async fn a_volume_is_made_with_its_drivers_options() {
    require!(root, cgroup, busybox, docker);
    let engine = Dockerd::start("volumes", Network::Host);
    let cluster = cluster("docker-volumes", &engine, &[]);
    let mut framework = Framework::subscribe(&cluster.master, "docker-volumes").await;
    let parameters = json!([{ "key": "type", "value": "tmpfs" },
        { "key": "device", "value": "tmpfs" }, { "key": "o", "value": "size=1m,uid=7" }]);
    let volume = |options: &serde_json::Value| {
        json!([{ "mode": "RW", "container_path": "/data", "source": { "type": "DOCKER_VOLUME",
            "docker_volume": { "name": "scratch", "driver": "local",
                               "driver_options": { "parameter": options } } } }])
    };
    let line = "busybox grep ' /data ' /proc/mounts; busybox stat -c %u /data";
    let mut task = docker_task("small", line);
    task["container"]["volumes"] = volume(&parameters);
    let end = framework.run(task, 60).await;
    assert_eq!(end["state"], "TASK_FINISHED", "{end}");
    let said = file(&cluster, "small", "stdout");
    assert!(said.contains("tmpfs") && said.contains("size=1024k"), "{said}");
    assert!(said.ends_with("\n7\n"), "{said}");
    let (status, known) = engine.api("GET", "/volumes/scratch", None);
    assert_eq!((status, &known["Options"]["o"]), (200, &json!("size=1m,uid=7")), "{known}");

    // A driver that does not know an option says so.
    let mut odd = docker_task("odd", "true");
    odd["container"]["volumes"] = volume(&json!([{ "key": "flavour", "value": "x" }]));
    odd["container"]["volumes"][0]["source"]["docker_volume"]["name"] = "other".into();
    let end = framework.run(odd, 60).await;
    assert_eq!(end["reason"], "REASON_CONTAINER_LAUNCH_FAILED", "{end}");
    let message = end["message"].as_str().unwrap_or_default();
    assert!(message.contains("flavour"), "{message}");
}
