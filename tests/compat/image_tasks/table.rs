//! One image, both containerizers: command, environment, user and directory follow the
//! same rules.

use serde_json::{Value, json};

use super::scene::{Scene, config, in_image};
use crate::dockerd::{Dockerd, Network};
use crate::framework::{Framework, command};
use crate::require;

/// Name, what of the image's configuration is different, command; what is printed.
type Row = (&'static str, Value, Value, &'static str);

fn rows() -> Vec<Row> {
    let exec = |arguments: &[&str]| json!({ "shell": false, "arguments": arguments });
    let app = "1001:1002 1002 1003 /srv/app HOME=/home/app image";
    let app: &'static str = app.to_owned().leak();
    let line = |who: &str, rest: &str| -> &'static str { format!("{who} {rest}\n").leak() };
    let mut both = exec(&[]);
    both["environment"] = json!({ "variables": [{ "name": "BOTH", "value": "task" }] });
    vec![
        ("both", json!({}), exec(&[]), line(app, "image /show entry cmd")),
        ("argv", json!({}), exec(&["x", "y"]), line(app, "image /show entry x y")),
        ("environment", json!({}), both, line(app, "task /show entry cmd")),
        (
            "shell",
            json!({}),
            json!({ "shell": true, "value": "/show a" }),
            line(app, "image /show a"),
        ),
        (
            "cmd-only",
            json!({ "Entrypoint": null, "Cmd": ["/show", "c"] }),
            exec(&[]),
            line(app, "image /show c"),
        ),
        (
            "value-without-entrypoint",
            json!({ "Entrypoint": null, "Cmd": ["never"] }),
            json!({ "shell": false, "value": "/show", "arguments": [] }),
            line(app, "image /show "),
        ),
        (
            "numbers",
            json!({ "User": "4242:17" }),
            exec(&[]),
            line("4242:17 17 /srv/app HOME=/ image", "image /show entry cmd"),
        ),
        (
            "group-by-name",
            json!({ "User": "app:extra" }),
            exec(&[]),
            line("1001:1003 1003 /srv/app HOME=/home/app image", "image /show entry cmd"),
        ),
        (
            "nobody-asked-for",
            json!({ "User": "", "WorkingDir": "/made/for/it" }),
            exec(&[]),
            line("0:0 0 /made/for/it HOME=/root image", "image /show entry cmd"),
        ),
    ]
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
        let mut own = config();
        for (key, value) in other.as_object().expect("an object") {
            own[key] = value.clone();
        }
        let image = format!("{name}:1");
        let archive = scene.image(&image, &own);
        let mut kinds = vec![("native", in_image(&image))];
        if let Some(engine) = &engine {
            engine.load(&archive);
            kinds.push(("docker", json!({ "type": "DOCKER", "docker": { "image": image } })));
        }
        for (kind, container) in kinds {
            let id = format!("{name}-{kind}");
            let mut task = command(&id, "", 32.0);
            task["command"] = wanted.clone();
            task["container"] = container;
            let end = framework.run(task, 60).await;
            assert_eq!(end["state"], "TASK_FINISHED", "{id}: {end}");
            assert_eq!(scene.file(&id, "stdout"), printed, "{id}");
        }
    }
    if !docker {
        crate::support::skip("image_tasks::table", "docker");
    }
}
