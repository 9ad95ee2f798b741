//! Listening to what a docker task says, and typing at its terminal.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use bulkhead::wire::client::{Call, Client, Events};
use serde_json::{Value, json};
use tokio::time::{Instant, timeout_at};

use super::scene::{cluster, container, deaf, docker_task, eventually, file};
use crate::cluster::{Cluster, Options};
use crate::dockerd::{Dockerd, Network};
use crate::framework::Framework;
use crate::input::{JSON, Keyboard, RECORDIO};
use crate::podman::Podman;
use crate::require;

const PATIENCE: Duration = Duration::from_secs(60);

/// A task's container, for the API.
fn id(cluster: &Cluster, task: &str) -> Value {
    let name = container(cluster, task);
    json!({ "value": name.strip_prefix("mesos-").expect("a prefix") })
}

/// What a task says from now on.
async fn listen(cluster: &Cluster, task: &str) -> Events {
    let call = json!({ "type": "ATTACH_CONTAINER_OUTPUT",
        "attach_container_output": { "container_id": id(cluster, task) } });
    let call = call.to_string();
    let call =
        Call::post("/api/v1", JSON, call).header("accept", RECORDIO).header("message-accept", JSON);
    let stream = Client::new(&cluster.agent).timeout(PATIENCE).stream(call).await;
    let stream = stream.expect("an answer");
    assert_eq!(stream.status.as_u16(), 200);
    stream.events(1 << 20)
}

/// Who looks at a task's terminal, and types.
struct Screen {
    output: Events,
    seen: String,
    keyboard: Keyboard,
}

impl Screen {
    async fn of(cluster: &Cluster, task: &str) -> Screen {
        let output = listen(cluster, task).await;
        let keyboard = Keyboard::of(Client::new(&cluster.agent), &id(cluster, task)).await;
        Screen { output, seen: String::new(), keyboard }
    }

    /// Reads until `text` is there or time is up.
    async fn shows(&mut self, text: &str, by: Instant) -> bool {
        while !self.seen.contains(text) {
            let Ok(record) = timeout_at(by, self.output.next()).await else { return false };
            let record = record.expect("it goes on").expect("it goes on");
            let record: Value = serde_json::from_slice(&record).expect("JSON");
            let data = record["data"]["data"].as_str().unwrap_or_default();
            let data = BASE64.decode(data).expect("base64");
            self.seen.push_str(&String::from_utf8_lossy(&data));
        }
        true
    }

    async fn expect(&mut self, text: &str) {
        let shown = self.shows(text, Instant::now() + PATIENCE).await;
        assert!(shown, "no {text:?} in {:?}", self.seen);
    }
}

#[tokio::test]
async fn what_a_docker_task_says_can_be_listened_to() {
    require!(root, cgroup, busybox, docker);
    let engine = Dockerd::start("attach", Network::Host);
    let cluster = cluster("docker-attach", &engine, &[]);
    let mut framework = Framework::subscribe(&cluster.master, "docker-attach").await;
    let talk = "while :; do echo out; echo err >&2; sleep 0.2; done";
    framework.start(deaf(docker_task("talks", talk))).await;
    let mut records = listen(&cluster, "talks").await;
    let (mut out, mut err) = (false, false);
    while !(out && err) {
        let record = tokio::time::timeout(PATIENCE, records.next()).await.expect("in time");
        let record = record.expect("it goes on").expect("it goes on");
        let record: Value = serde_json::from_slice(&record).expect("JSON");
        let text = record["data"]["data"].as_str().unwrap_or_default();
        let text = BASE64.decode(text).expect("base64");
        match record["data"]["type"].as_str() {
            Some("STDOUT") => out |= text.starts_with(b"out\n"),
            Some("STDERR") => err |= text.starts_with(b"err\n"),
            _ => {}
        }
    }
    // It ends with the task.
    framework.call("KILL", json!({ "task_id": { "value": "talks" } })).await;
    let ended = async { while let Ok(Some(_)) = records.next().await {} };
    tokio::time::timeout(PATIENCE, ended).await.expect("the stream ends");
    framework.until("the kill", 60, |f| f.end("talks").is_some()).await;
}

#[tokio::test]
async fn a_docker_task_has_a_terminal() {
    require!(root, cgroup, busybox, docker);
    let engine = Dockerd::start("terminal", Network::Host);
    has_a_terminal(cluster("docker-terminal", &engine, &[]), |task| task).await;
}

#[tokio::test]
async fn podman_gives_a_docker_task_a_terminal() {
    require!(root, cgroup, busybox, program_podman);
    let podman = Podman::start("terminal");
    let flags = podman.flags();
    let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
    let cluster = Cluster::start("podman-terminal", Options::default().agent(&flags));
    has_a_terminal(cluster, Podman::of).await;
}

async fn has_a_terminal(mut cluster: Cluster, of_engine: impl Fn(Value) -> Value) {
    let mut framework = Framework::subscribe(&cluster.master, "docker-terminal").await;
    let line = "busybox tty; until [ \"$(busybox stty size 2>&1)\" = '31 101' ]; do sleep 0.1; done; \
                busybox printf in; sleep 0.1; busybox printf ' pieces\\n'; \
                echo ready; while read line; do echo \"<$line> $(busybox stty size)\" >&2; \
                [ \"$line\" = quit ] && exit 5; done";
    let mut shell = docker_task("shell", line);
    shell["container"]["tty_info"] = json!({ "window_size": { "rows": 31, "columns": 101 } });
    framework.start(of_engine(shell)).await;
    eventually("it to be ready", || file(&cluster, "shell", "stdout").contains("ready")).await;
    assert_eq!(file(&cluster, "shell", "stdout"), "/dev/pts/0\r\nin pieces\r\nready\r\n");

    let mut screen = Screen::of(&cluster, "shell").await;
    screen.keyboard.type_in("hello\n").await;
    screen.expect("hello\r\n<hello> 31 101\r\n").await;
    screen.keyboard.resize(44, 55).await;
    // It is told to the engine apart from what is typed.
    let by = Instant::now() + PATIENCE;
    let soon = || Instant::now() + Duration::from_millis(500);
    screen.keyboard.type_in("again\n").await;
    while !screen.shows("<again> 44 55\r\n", soon()).await {
        assert!(Instant::now() < by, "{:?}", screen.seen);
        screen.keyboard.type_in("again\n").await;
    }

    // The next agent reaches it too, and nothing of its output is lost or repeated.
    screen.keyboard.leave();
    cluster.kill_agent();
    cluster.start_agent();
    let mut screen = Screen::of(&cluster, "shell").await;
    screen.keyboard.type_in("still\n").await;
    screen.expect("<still> 44 55\r\n").await;
    screen.keyboard.type_in("quit\n").await;
    framework.until("the end", 60, |f| f.end("shell").is_some()).await;
    let end = framework.end("shell").expect("it ended");
    assert_eq!(end["message"], "Command exited with status 5", "{end}");
    let answer = screen.keyboard.answer().await;
    assert_eq!(answer.status.as_u16(), 200, "{}", answer.text());
    let said = file(&cluster, "shell", "stdout");
    let count = |text: &str| said.matches(text).count();
    for text in ["ready\r\n", "<hello> 31 101\r\n", "<still> 44 55\r\n"] {
        assert_eq!(count(text), 1, "{text:?} in {said:?}");
    }
    assert!(said.ends_with("quit\r\n<quit> 44 55\r\n"), "{said:?}");
    assert_eq!(file(&cluster, "shell", "stderr"), "");
}
