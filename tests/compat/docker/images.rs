//! Images of the engine's store: what we pulled goes when there is no room, and
//! nothing else does.

use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use base64::Engine as _;
use serde_json::{Value, json};

use super::scene::{cluster, deaf, docker_task, eventually};
use crate::cluster::{binary, free_port, get};
use crate::dockerd::{Dockerd, IMAGE, Network};
use crate::framework::Framework;
use crate::require;
use crate::support::TempDir;

/// The password `secret`.
const HASH: &str = "$2b$04$zY3TFSnhZ/bGk7EPxlM5/.jN01EF4Ze6kGfi5gJdNkrSeTrwoZceS";

/// A registry on loopback, which engines take without TLS.
pub struct Registry {
    pub host: String,
    child: Child,
    _dir: TempDir,
}

impl Registry {
    pub fn start(auth: bool) -> Registry {
        let dir = TempDir::new("docker-registry");
        let host = format!("127.0.0.1:{}", free_port());
        let mut config = format!(
            "version: 0.1\nstorage:\n  filesystem:\n    rootdirectory: {}\nhttp:\n  addr: {host}\n",
            dir.path().join("data").display()
        );
        if auth {
            let users = dir.path().join("users");
            std::fs::write(&users, format!("me:{HASH}\n")).expect("write its users");
            let text = format!("auth:\n  htpasswd:\n    realm: r\n    path: {}\n", users.display());
            config.push_str(&text);
        }
        let path = dir.path().join("config.yml");
        std::fs::write(&path, config).expect("write its configuration");
        let mut command = Command::new("docker-registry");
        command.arg("serve").arg(&path).stdin(Stdio::null());
        let child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn();
        let child = child.expect("start docker-registry");
        let by = Instant::now() + Duration::from_secs(30);
        while std::net::TcpStream::connect(&host).is_err() {
            assert!(Instant::now() < by, "the registry does not listen");
            std::thread::sleep(Duration::from_millis(50));
        }
        Registry { host, child, _dir: dir }
    }

    /// Has the engine push an image of its own making and forget it again; its name.
    fn fill(&self, engine: &Dockerd, name: &str) -> String {
        let full = format!("{}/{name}:1", self.host);
        engine.import(&format!("{}/{name}", self.host), "1", &format!("LABEL name={name}"));
        let answer = engine.push(&format!("{}/{name}", self.host), "1", "me", "secret");
        assert!(!answer.contains("error"), "{answer}");
        let (status, answer) = engine.api("DELETE", &format!("/images/{full}"), None);
        assert_eq!(status, 200, "{answer}");
        full
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[tokio::test]
async fn credentials_that_were_fetched_open_a_registry() {
    require!(root, cgroup, busybox, docker, program_docker_registry);
    let engine = Dockerd::start("credentials", Network::Host);
    let registry = Registry::start(true);
    let image = registry.fill(&engine, "private");
    let cluster = cluster("docker-credentials", &engine, &[]);
    let mut framework = Framework::subscribe(&cluster.master, "docker-credentials").await;
    let end = framework.run(of_image("stranger", "exit 0", &image), 60).await;
    let message = end["message"].as_str().unwrap_or_default();
    assert!(message.contains(&format!("failed to pull image '{image}'")), "{end}");
    // As Marathon's users do: a file for the docker command, which looks in its home.
    let auth = base64::engine::general_purpose::STANDARD.encode("me:secret");
    let config = json!({ "auths": { &registry.host: { "auth": auth } } });
    let path = cluster.dir.path().join("credentials");
    std::fs::write(&path, config.to_string()).expect("write the credentials");
    let mut task = of_image("member", "exit 0", &image);
    task["command"]["uris"] = json!([{ "value": path, "output_file": ".docker/config.json" }]);
    let end = framework.run(task, 60).await;
    assert_eq!(end["state"], "TASK_FINISHED", "{end}");
    let metrics = get(&cluster.agent, "/metrics/snapshot").expect("metrics");
    assert!(metrics.contains("\"containerizer/docker/image_pull_ms\""), "{metrics}");
}

fn has(engine: &Dockerd, name: &str) -> bool {
    engine.api("GET", &format!("/images/{name}/json"), None).0 == 200
}

fn of_image(name: &str, line: &str, image: &str) -> Value {
    let mut task = docker_task(name, line);
    task["container"]["docker"]["image"] = image.into();
    task
}

#[tokio::test]
async fn images_that_we_pulled_go_when_there_is_no_room_and_no_others_do() {
    require!(root, cgroup, busybox, docker, program_docker_registry);
    let engine = Dockerd::start("images", Network::Host);
    let registry = Registry::start(false);
    let [runs, ended, kept, renamed] =
        ["runs", "ended", "kept", "renamed"].map(|name| registry.fill(&engine, name));
    engine.import("theirs", "1", "LABEL name=theirs");
    let unused = registry.fill(&engine, "unused");
    // Somebody else pulls one before us.
    let before = registry.fill(&engine, "before");
    let (name, tag) = before.rsplit_once(':').expect("a tag");
    let (status, _) =
        engine.api("POST", &format!("/images/create?fromImage={name}&tag={tag}"), None);
    assert_eq!((status, has(&engine, &before)), (200, true));

    // No disk has that much room.
    let policy = format!(
        r#"--image_gc_config={{"image_disk_headroom": 1.0, "image_disk_watch_interval":
        {{"nanoseconds": 1000000000}}, "excluded_images": [{{"type": "DOCKER",
        "docker": {{"name": "{kept}"}}}}]}}"#
    );
    let flags = ["--docker_keep_exited=0"];
    let mut cluster = cluster("docker-images", &engine, &flags);
    let mut framework = Framework::subscribe(&cluster.master, "docker-images").await;
    // Pulled ahead of a rollout, seen, and removed again: and only that.
    let image = |arguments: &[&str]| {
        let mut bulkhead = Command::new(binary("bulkhead"));
        bulkhead.arg("image").args(arguments).args(["--agent", &cluster.agent]);
        let output = bulkhead.output().expect("run bulkhead");
        assert!(output.status.success(), "{arguments:?}: {output:?}");
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    image(&["pull", "--containerizer=docker", &unused]);
    assert!(has(&engine, &unused));
    let listed = image(&["ls"]);
    for name in [unused.as_str(), "theirs:1", &before] {
        assert!(listed.contains(name), "{name} is not in {listed}");
    }
    image(&["prune"]);
    assert!(!has(&engine, &unused) && has(&engine, "theirs:1") && has(&engine, &before));
    framework.start(deaf(of_image("runs", "sleep 1000", &runs))).await;
    for (task, image) in
        [("ended", &ended), ("kept", &kept), ("renamed", &renamed), ("before", &before)]
    {
        let end = framework.run(of_image(task, "exit 0", image), 60).await;
        assert_eq!(end["state"], "TASK_FINISHED", "{end}");
    }
    let tag = format!("/images/{renamed}/tag?repo=mine&tag=1");
    assert_eq!(engine.api("POST", &tag, None).0, 201);
    eventually("the ended containers to go", || engine.containers().len() == 1).await;
    for name in [&runs, &ended, &kept, &renamed, &before] {
        assert!(has(&engine, name), "{name} went without a policy");
    }

    // The records outlive the agent: the next one knows what was pulled.
    cluster.kill_agent();
    cluster.agent_flags(&[&policy]);
    cluster.start_agent();
    eventually("the unused one to go", || !has(&engine, &ended)).await;
    framework.call("KILL", json!({ "task_id": { "value": "runs" } })).await;
    framework.until("the kill", 60, |f| f.end("runs").is_some()).await;
    eventually("the other one to go", || !has(&engine, &runs)).await;
    for name in [kept.as_str(), &renamed, &before, "theirs:1", "mine:1", IMAGE] {
        assert!(has(&engine, name), "{name} went");
    }
    // What went is pulled anew.
    let end = framework.run(of_image("again", "exit 0", &ended), 60).await;
    assert_eq!(end["state"], "TASK_FINISHED", "{end}");
}
