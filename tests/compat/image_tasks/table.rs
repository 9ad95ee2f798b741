//! One image, both containerizers: command, environment, user, directory, volumes and stop
//! signal follow the same rules, but for two rows in which Mesos' two have their own.

use serde_json::{Value, json};

use super::scene::{Scene, config, eventually, in_image};
use crate::dockerd::{Dockerd, Network};
use crate::framework::{Framework, command};
use crate::require;

/// Name, what of the image's configuration is different, command; what is printed, by each
/// of the two if it is not the same.
type Row = (&'static str, Value, Value, Printed);

enum Printed {
    Same(String),
    Differs { native: String, docker: String },
}

/// Who it is in the usual image, where, and with what of its environment.
const APP: &str = "1001:1002 1002 1003 /srv/app HOME=/home/app image";
/// Without `PATH`.
const NO_PATH: [&str; 2] = ["IMAGE=image", "BOTH=image"];

fn rows() -> Vec<Row> {
    let exec = |arguments: &[&str]| json!({ "shell": false, "arguments": arguments });
    let shell = |line: &str| json!({ "shell": true, "value": line });
    let value =
        |arguments: &[&str]| json!({ "shell": false, "value": "/show", "arguments": arguments });
    let line = |who: &str, rest: &str| Printed::Same(format!("{who} {rest}\n"));
    let differs = |native: &str, docker: &str| Printed::Differs {
        native: format!("{APP} {native}\n"),
        docker: format!("{APP} {docker}\n"),
    };
    let mut both = exec(&[]);
    both["environment"] = json!({ "variables": [{ "name": "BOTH", "value": "task" }] });
    let mut arguments = shell("/show a");
    arguments["arguments"] = json!(["b"]);
    let no_entry = |cmd: &[&str]| json!({ "Entrypoint": null, "Cmd": cmd });
    let only_entry = json!({ "Entrypoint": ["/show", "e"], "Cmd": null });
    let user = |user: &str| json!({ "User": user });
    let entry = "image /show entry cmd";
    let mut elsewhere = config()["Env"].clone();
    elsewhere.as_array_mut().expect("a list").push("HOME=/elsewhere".into());
    let who = "1001:1002 1002 1003 /srv/app HOME=/elsewhere image";
    let volumes = json!({ "User": "", "Volumes": { "/new/data": {}, "/etc": {} } });
    let fill = "busybox stat -c '%u:%g %a' /new/data && echo mine >/new/data/file && \
                cat /new/data/file && wc -l </etc/group && echo x:x:9: >>/etc/group && \
                wc -l </etc/group";
    vec![
        ("both", json!({}), exec(&[]), line(APP, entry)),
        ("argv", json!({}), exec(&["x", "y"]), line(APP, "image /show entry x y")),
        ("environment", json!({}), both, line(APP, "task /show entry cmd")),
        ("home", json!({ "Env": elsewhere }), exec(&[]), line(who, entry)),
        ("no-path", json!({ "Env": NO_PATH }), exec(&[]), line(APP, entry)),
        ("shell", json!({}), shell("/show a"), line(APP, "image /show a")),
        ("shell-arguments", json!({}), arguments, line(APP, "image /show a")),
        ("cmd-only", no_entry(&["/show", "c"]), exec(&[]), line(APP, "image /show c")),
        ("entry-only", only_entry.clone(), exec(&[]), line(APP, "image /show e")),
        ("entry-argv", only_entry, exec(&["x"]), line(APP, "image /show e x")),
        ("value", no_entry(&["never"]), value(&[]), line(APP, "image /show ")),
        ("uid", user("1001"), exec(&[]), line(APP, entry)),
        ("stranger", user("4242"), exec(&[]), line("4242:0 0 /srv/app HOME=/ image", entry)),
        ("numbers", user("4242:17"), exec(&[]), line("4242:17 17 /srv/app HOME=/ image", entry)),
        (
            "group-by-name",
            user("app:extra"),
            exec(&[]),
            line("1001:1003 1003 /srv/app HOME=/home/app image", entry),
        ),
        (
            "nobody-asked-for",
            json!({ "User": "", "WorkingDir": "/made/for/it" }),
            exec(&[]),
            line("0:0 0 /made/for/it HOME=/root image", entry),
        ),
        ("volumes", volumes, shell(fill), Printed::Same("0:0 755\nmine\n3\n4\n".into())),
        // compat: as Mesos' containerizers have them (docs/isolators/docker-runtime.md).
        (
            "value-and-entry",
            json!({}),
            value(&[]),
            differs("image /show ", "image /show entry /show"),
        ),
        (
            "cmd-argv",
            no_entry(&["/show", "c"]),
            exec(&["/show", "x"]),
            differs("image /show /show x", "image /show x"),
        ),
    ]
}

/// A task that says by which signal it was asked to end.
async fn asked(scene: &Scene, framework: &mut Framework, kind: &str, mut task: Value) {
    let id = format!("asked-{kind}");
    task["name"] = id.as_str().into();
    task["task_id"]["value"] = id.as_str().into();
    framework.start(task).await;
    eventually("it to be ready", || scene.file(&id, "stdout") == "ready\n").await;
    framework.call("KILL", json!({ "task_id": { "value": id } })).await;
    framework.until("the kill", 60, |f| f.end(&id).is_some()).await;
    assert_eq!(framework.state(&id), Some("TASK_KILLED"), "{:?}", framework.end(&id));
    assert_eq!(scene.file(&id, "stdout"), "ready\nUSR1\n", "{kind}");
}

#[tokio::test]
async fn an_image_behaves_the_same_in_both_containerizers() {
    require!(root, cgroup, busybox, overlay);
    let docker = crate::support::have("docker");
    let engine = docker.then(|| Dockerd::start("image-table", Network::Host));
    let flags = engine.as_ref().map(Dockerd::flags).unwrap_or_default();
    let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
    let scene = Scene::start("image-table", &flags);
    let mut framework = Framework::subscribe(&scene.cluster.master, "image-table").await;
    for (name, other, wanted, printed) in rows() {
        for (kind, container) in containers(&scene, engine.as_ref(), name, &other) {
            let id = format!("{name}-{kind}");
            let mut task = command(&id, "", 32.0);
            task["command"] = wanted.clone();
            task["container"] = container;
            let end = framework.run(task, 60).await;
            assert_eq!(end["state"], "TASK_FINISHED", "{id}: {end}");
            let printed = match (&printed, kind) {
                (Printed::Same(text), _) => text,
                (Printed::Differs { native, .. }, "native") => native,
                (Printed::Differs { docker, .. }, _) => docker,
            };
            assert_eq!(scene.file(&id, "stdout"), *printed, "{id}");
        }
    }
    let says = |name: &str| format!("trap 'echo {name}; exit' {name}; ");
    let line = format!("{}{}echo ready; while :; do sleep 0.1; done", says("USR1"), says("TERM"));
    let own = json!({ "StopSignal": "SIGUSR1" });
    for (kind, container) in containers(&scene, engine.as_ref(), "asked", &own) {
        let mut task = command("asked", &line, 32.0);
        task["container"] = container;
        task["kill_policy"] = json!({ "grace_period": { "nanoseconds": 300_000_000_000_u64 } });
        asked(&scene, &mut framework, kind, task).await;
    }
    if !docker {
        crate::support::skip("image_tasks::table", "docker");
    }
}

/// An image that is run like this, at hand for both; what asks for a container of it.
fn containers(
    scene: &Scene,
    engine: Option<&Dockerd>,
    name: &str,
    other: &Value,
) -> Vec<(&'static str, Value)> {
    let mut own = config();
    for (key, value) in other.as_object().expect("an object") {
        own[key] = value.clone();
    }
    let image = format!("{name}:1");
    let archive = scene.image(&image, &own);
    let mut kinds = vec![("native", in_image(&image))];
    if let Some(engine) = engine {
        engine.load(&archive);
        kinds.push(("docker", json!({ "type": "DOCKER", "docker": { "image": image } })));
    }
    kinds
}
