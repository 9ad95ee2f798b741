//! What tasks in images see: command tasks, task groups, custom executors, guests, and
//! volumes of images.

use std::process::Command;

use serde_json::{Value, json};

use super::scene::{Scene, config, eventually, in_image, task};
use crate::cluster::{binary, get};
use crate::framework::{Framework, command, scalar};
use crate::require;

#[tokio::test]
async fn a_command_task_lives_in_its_image() {
    require!(root, cgroup, busybox, overlay);
    let scene = Scene::start("image-tasks", &[]);
    scene.image("app:1", &config());
    let mut framework = Framework::subscribe(&scene.cluster.master, "image-tasks").await;
    let line = "ls /; cat /etc/resolv.conf > resolv; touch $MESOS_SANDBOX/mine /srv/app/own \
                2>&1; echo $MESOS_SANDBOX; ls /proc/self/fd >/dev/null && echo > /dev/null && \
                cat /proc/1/comm; while [ ! -e $MESOS_SANDBOX/go ]; do sleep 0.1; done; exit 3";
    let mut hello = task("hello", "app:1", line);
    // Whoever the task names is the host's.
    hello["command"]["user"] = "root".into();
    // The host has no such file.
    hello["health_check"] = json!({ "type": "COMMAND", "interval_seconds": 0.2,
        "delay_seconds": 0.0, "grace_period_seconds": 60.0,
        "command": { "shell": true, "value": "test -x /show" } });
    framework.start(hello).await;
    let healthy = |f: &Framework| f.statuses["hello"].iter().any(|s| s["healthy"] == true);
    framework.until("health", 60, healthy).await;
    eventually("the output", || scene.file("hello", "stdout").contains("/mnt/mesos")).await;
    let stdout = scene.file("hello", "stdout");
    let names: Vec<&str> = stdout.lines().collect();
    for name in ["bin", "dev", "etc", "mnt", "proc", "show", "srv", "sys"] {
        assert!(names.contains(&name), "{name}: {stdout}");
    }
    assert!(!names.contains(&"root") && !names.contains(&"usr"), "{stdout}");
    assert!(names.contains(&"/mnt/mesos/sandbox"), "{stdout}");
    assert!(scene.sandbox("hello").join("mine").exists());
    // A command's own directory is the image's.
    assert!(!scene.sandbox("hello").join("resolv").exists());

    // What runs beside it sees what it sees.
    let inside = Command::new(binary("bulkhead"))
        .args(["exec", "--no-stdin", "--master", &scene.cluster.master, "hello", "--"])
        .args(["sh", "-c", "cat /srv/app/resolv; ls /srv/app; echo $IMAGE; exit 5"])
        .output()
        .expect("run bulkhead");
    let seen = String::from_utf8_lossy(&inside.stdout).into_owned();
    let resolv = std::fs::read_to_string("/etc/resolv.conf").unwrap_or_default();
    assert_eq!(seen, format!("{resolv}own\nresolv\nimage\n"), "{inside:?}");
    assert_eq!(inside.status.code(), Some(5), "{inside:?}");

    std::fs::write(scene.sandbox("hello").join("go"), "").expect("let it end");
    framework.until("the end", 60, |f| f.end("hello").is_some()).await;
    let end = framework.end("hello").expect("an end");
    assert_eq!(end["message"], "Command exited with status 3", "{end}");
    scene.wait_clean().await;

    // Another container of the image does not see what the first one wrote.
    let end = framework.run(task("again", "app:1", "ls /srv/app | wc -l; id -u"), 60).await;
    assert_eq!(end["state"], "TASK_FINISHED", "{end}");
    assert_eq!(scene.file("again", "stdout"), "0\n1001\n");
    let owner = std::os::unix::fs::MetadataExt::uid(
        &std::fs::metadata(scene.sandbox("again")).expect("a sandbox"),
    );
    assert_eq!(owner, 1001, "the sandbox is whose the task is");
    scene.wait_clean().await;
}

#[tokio::test]
async fn groups_executors_and_volumes_have_images() {
    require!(root, cgroup, busybox, overlay);
    let scene = Scene::start("image-groups", &[]);
    scene.image("app:1", &config());
    let mut framework = Framework::subscribe(&scene.cluster.master, "image-groups").await;
    let own = [scalar("cpus", 0.1), scalar("mem", 32.0), scalar("disk", 32.0)];
    let offer = framework.offer().await;
    let member = |name: &str, image: Option<&str>, command: Value| {
        let mut task = crate::framework::command(name, "", 32.0);
        task["command"] = command;
        task["agent_id"] = offer["agent_id"].clone();
        if let Some(image) = image {
            task["container"] = in_image(image);
        }
        task
    };
    let plain = json!({ "value": "test -d /usr && echo host" });
    let tasks =
        [member("inside", Some("app:1"), json!({ "shell": false })), member("host", None, plain)];
    let executor = json!({ "type": "DEFAULT", "executor_id": { "value": "group" },
        "framework_id": { "value": framework.id }, "resources": own });
    let group = json!({ "type": "LAUNCH_GROUP",
        "launch_group": { "executor": executor, "task_group": { "tasks": tasks } } });
    let body = json!({ "offer_ids": [offer["id"]], "operations": [group],
                       "filters": { "refuse_seconds": 0.0 } });
    let reply = framework.call("ACCEPT", body).await;
    assert_eq!(reply.status.as_u16(), 202, "{}", reply.text());
    let both = |f: &Framework| f.end("inside").is_some() && f.end("host").is_some();
    framework.until("the group", 60, both).await;
    for name in ["inside", "host"] {
        assert_eq!(framework.state(name), Some("TASK_FINISHED"), "{:?}", framework.end(name));
    }
    let nested = scene.sandbox("group").join("containers");
    let outputs: Vec<String> = std::fs::read_dir(nested)
        .expect("sandboxes")
        .flatten()
        .filter_map(|entry| std::fs::read_to_string(entry.path().join("stdout")).ok())
        .collect();
    let wanted = "1001:1002 1002 1003 /srv/app HOME=/home/app image image /show entry cmd\n";
    assert!(outputs.contains(&wanted.to_owned()), "{outputs:?}");
    assert!(outputs.contains(&"host\n".to_owned()), "{outputs:?}");

    // An executor of somebody else in an image: it has what it needs to speak.
    let mut custom = command("custom", "", 32.0);
    custom.as_object_mut().expect("an object").remove("command");
    custom["executor"] = json!({ "type": "CUSTOM", "executor_id": { "value": "custom" },
        "framework_id": { "value": framework.id }, "resources": own,
        "container": in_image("app:1"),
        "command": { "value": "/show $MESOS_EXECUTOR_ID; echo $MESOS_AGENT_ENDPOINT; sleep 1000" } });
    framework.launch(vec![custom]).await;
    let sandbox = || get(&scene.cluster.agent, "/state").is_some_and(|s| s.contains("custom"));
    eventually("the executor", sandbox).await;
    let agent = format!("{}\n", scene.cluster.agent);
    eventually("its output", || scene.file("custom", "stdout").ends_with(&agent)).await;
    assert!(scene.file("custom", "stdout").contains("/srv/app"));
    framework.call("KILL", json!({ "task_id": { "value": "custom" } })).await;
    framework.until("the kill", 60, |f| f.end("custom").is_some()).await;

    // An image as a volume, of a task on the host's files.
    let line = "cat image/etc/group | wc -l; touch image/x 2>/dev/null; echo $?";
    let mut volume = command("volume", line, 32.0);
    volume["container"] = json!({ "type": "MESOS", "volumes": [{
        "mode": "RO", "container_path": "image",
        "image": { "type": "DOCKER", "docker": { "name": "app:1" } } }] });
    let end = framework.run(volume, 60).await;
    assert_eq!(end["state"], "TASK_FINISHED", "{end}");
    assert_eq!(scene.file("volume", "stdout"), "3\n1\n");
}

/// A root that was made ahead is as any other, and never one of other layers.
#[tokio::test]
async fn the_next_container_of_an_image_has_a_root_that_was_made_ahead() {
    require!(root, cgroup, busybox, overlay);
    let mut scene = Scene::start("image-ahead", &[]);
    scene.image("app:1", &json!({}));
    let mut framework = Framework::subscribe(&scene.cluster.master, "image-ahead").await;
    let line = "ls / /etc /mnt/mesos; stat -c '%a %u' / /etc; echo x > /etc/mine; \
                echo y > /new; cat /etc/mine /new";
    let first = framework.run(task("first", "app:1", line), 60).await;
    assert_eq!(first["state"], "TASK_FINISHED", "{first}");
    eventually("roots that are ready", || scene.ready().len() > 1).await;
    let ready = scene.ready();
    let waits = format!("{line}; while [ ! -e $MESOS_SANDBOX/go ]; do sleep 0.1; done");
    let container = framework.start(task("second", "app:1", &waits)).await;
    let record = std::fs::read(scene.roots().join(container).join("roots.json")).expect("a record");
    let record: Value = serde_json::from_slice(&record).expect("JSON");
    let name = record["roots"][0]["name"].as_str().expect("a name").to_owned();
    assert!(ready.contains(&name), "{record} is none of {ready:?}");
    std::fs::write(scene.sandbox("second").join("go"), "").expect("let it end");
    framework.until("the end", 60, |f| f.end("second").is_some()).await;
    let shown = scene.file("first", "stdout");
    assert!(shown.contains("resolv.conf") && shown.ends_with("x\ny\n"), "{shown}");
    assert_eq!(scene.file("second", "stdout"), shown, "it sees what the first one saw");

    // The same image again: its layers are other directories by now.
    scene.wait_clean().await;
    eventually("roots that are ready", || scene.ready().len() > 1).await;
    let pruned = Command::new(binary("bulkhead"))
        .args(["image", "prune", "--agent", &scene.cluster.agent])
        .output()
        .expect("run bulkhead");
    assert!(pruned.status.success(), "{pruned:?}");
    assert!(String::from_utf8_lossy(&pruned.stdout).contains("app:1"), "{pruned:?}");
    let third = framework.run(task("third", "app:1", line), 60).await;
    assert_eq!(third["state"], "TASK_FINISHED", "{third}");
    assert_eq!(scene.file("third", "stdout"), shown);

    // Those of a dead agent are nobody's.
    let ready = scene.ready();
    scene.cluster.kill_agent();
    scene.cluster.start_agent();
    eventually("the others to go", || scene.ready().iter().all(|name| !ready.contains(name))).await;
    scene.wait_clean().await;
}

/// The layers of remapped containers are mapped before they are mounted, so nothing is
/// mounted ahead for them; all else is the same.
#[tokio::test]
async fn remapped_containers_have_roots_that_were_made_ahead() {
    require!(root, cgroup, busybox, overlay);
    let scene = Scene::start("image-remap", &["--userns_remap=[400000-531071]"]);
    scene.image("app:1", &json!({}));
    let mut framework = Framework::subscribe(&scene.cluster.master, "image-remap").await;
    let line = "cat /proc/self/uid_map; stat -c '%u %n' / /etc /etc/hosts /mnt /mnt/mesos; \
                echo x > /etc/mine && echo y > /mnt/yours && stat -c '%u' /etc/mine";
    for name in ["first", "second"] {
        let end = framework.run(task(name, "app:1", line), 60).await;
        assert_eq!(end["state"], "TASK_FINISHED", "{name}: {end}\n{}", scene.file(name, "stderr"));
        let stdout = scene.file(name, "stdout");
        let mut lines = stdout.lines();
        let mapped = lines.next().unwrap_or_default();
        assert!(mapped.split_whitespace().nth(1).is_some_and(|id| id != "0"), "{stdout}");
        let rest: Vec<&str> = lines.collect();
        let wanted = ["0 /", "0 /etc", "0 /etc/hosts", "0 /mnt", "0 /mnt/mesos", "0"];
        assert_eq!(rest, wanted, "{name}");
        eventually("roots that are ready", || scene.ready().len() > 1).await;
    }
    scene.wait_clean().await;
}

/// What is written to the root counts as what is written to the sandbox does.
#[tokio::test]
async fn what_is_written_to_the_root_counts() {
    require!(root, cgroup, busybox, overlay);
    let isolation = "--isolation=cgroups/cpu,cgroups/mem,filesystem/linux,docker/runtime,disk/du";
    let flags =
        [isolation, "--enforce_container_disk_quota", "--container_disk_watch_interval=100ms"];
    let scene = Scene::start("image-quota", &flags);
    scene.image("app:1", &json!({}));
    let mut framework = Framework::subscribe(&scene.cluster.master, "image-quota").await;
    let line = "busybox dd if=/dev/zero of=/tmp/big bs=1M count=20 2>/dev/null; sleep 1000";
    let mut greedy = task("greedy", "app:1", line);
    greedy["resources"].as_array_mut().expect("a list").push(scalar("disk", 5.0));
    let end = framework.run(greedy, 60).await;
    assert_eq!(end["reason"], "REASON_CONTAINER_LIMITATION_DISK", "{end}");
    scene.wait_clean().await;
}

#[tokio::test]
async fn what_cannot_be_run_says_why() {
    require!(root, cgroup, busybox, overlay);
    let scene = Scene::start("image-errors", &[]);
    scene.image("empty:1", &json!({}));
    let mut nobody = config();
    nobody["User"] = "ghost".into();
    scene.image("ghost:1", &nobody);
    let mut framework = Framework::subscribe(&scene.cluster.master, "image-errors").await;
    let mut silent = task("silent", "empty:1", "");
    silent["command"] = json!({ "shell": false });
    let mut appc = task("appc", "x", "true");
    appc["container"]["mesos"]["image"] = json!({ "type": "APPC", "appc": { "name": "coreos" } });
    for (task, words) in [
        (task("missing", "no/such:image", "true"), "failed to pull image 'no/such:image'"),
        (task("odd", "UPPER", "true"), "'UPPER'"),
        (task("ghost", "ghost:1", "true"), "user 'ghost' is not in the image's /etc/passwd"),
        (silent, "the image neither Entrypoint nor Cmd"),
        (appc, "only images of type DOCKER are supported"),
    ] {
        let end = framework.run(task, 60).await;
        assert_eq!(end["state"], "TASK_FAILED", "{end}");
        assert_eq!(end["reason"], "REASON_CONTAINER_LAUNCH_FAILED", "{end}");
        let message = end["message"].as_str().unwrap_or_default();
        assert!(message.contains(words), "{message}");
    }
    scene.wait_clean().await;
}

#[tokio::test]
async fn every_backend_runs_tasks() {
    require!(root, cgroup, busybox, overlay);
    for backend in ["copy", "bind"] {
        let flag = format!("--image_provisioner_backend={backend}");
        let scene = Scene::start(&format!("image-{backend}"), &[&flag]);
        let layer = crate::image::base(&scene.images.path().join("one"));
        for dir in ["proc", "sys/fs/cgroup", "dev", "mnt/mesos/sandbox"] {
            std::fs::create_dir_all(layer.join(dir)).expect("a directory");
        }
        for file in ["resolv.conf", "hosts", "hostname"] {
            std::fs::write(layer.join("etc").join(file), "").expect("write");
        }
        crate::image::save(scene.images.path(), "one:1", &[layer], &json!({}));
        let mut framework = Framework::subscribe(&scene.cluster.master, "image-backends").await;
        let line = "cat /etc/group | wc -l; echo x > /x; echo $?; echo in > file";
        let end = framework.run(task("one", "one:1", line), 60).await;
        assert_eq!(end["state"], "TASK_FINISHED", "{end}");
        let written = if backend == "bind" { "3\n1\n" } else { "3\n0\n" };
        assert_eq!(scene.file("one", "stdout"), written, "{backend}");
        assert_eq!(scene.file("one", "file"), "in\n");
        scene.wait_clean().await;
    }
}
