//! Sessions and tasks with a terminal, as Mesos' command line uses them: sizes, keys,
//! jobs, and the death of the agent.

use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use bulkhead::wire::client::{Events, Reply};
use serde_json::{Value, json};
use tokio::time::timeout;

use crate::input::{JSON, Keyboard, record};
use crate::require;
use crate::sessions::{PATIENCE, Scene, next};

/// Who looks at a terminal and types.
struct Screen {
    output: Events,
    seen: String,
    keyboard: Keyboard,
}

impl Screen {
    /// Attaches to the input of `container`, whose output is there already.
    async fn new(scene: &Scene, container: &Value, output: Events) -> Screen {
        let keyboard = Keyboard::of(scene.client(), container).await;
        Screen { output, seen: String::new(), keyboard }
    }

    /// Takes the next piece of output; false at the end.
    async fn read(&mut self) -> bool {
        loop {
            let Some(record) = next(&mut self.output).await else { return false };
            if record["type"] == "CONTROL" {
                continue;
            }
            assert_eq!(record["data"]["type"], "STDOUT", "a terminal has one stream");
            let data = record["data"]["data"].as_str().expect("data");
            let data = BASE64.decode(data).expect("base64");
            self.seen.push_str(&String::from_utf8_lossy(&data));
            return true;
        }
    }

    /// Reads until `text` is there; takes everything up to it.
    async fn expect(&mut self, text: &str) -> String {
        while !self.seen.contains(text) {
            assert!(self.read().await, "no '{text}' in '{}'", self.seen);
        }
        let end = self.seen.find(text).expect("found") + text.len();
        self.seen.drain(..end).collect()
    }

    /// Reads to the end; what was not taken yet, and the answer to the input.
    async fn rest(mut self) -> (String, Reply) {
        while self.read().await {}
        (self.seen, self.keyboard.answer().await)
    }
}

fn tty(size: Value) -> Value {
    json!({ "type": "MESOS", "tty_info": size })
}

fn session(scene: &Scene, name: &str, line: &str, container: &Value) -> String {
    let mut call: Value = serde_json::from_str(&scene.launch(name, line)).expect("JSON");
    call["launch_nested_container_session"]["container"] = container.clone();
    call.to_string()
}

#[tokio::test]
async fn a_session_has_a_terminal() {
    require!(root, cgroup);
    let scene = Scene::with("tty-session", &[], "sleep 1000", None).await;
    let size = json!({ "window_size": { "rows": 33, "columns": 101 } });
    let line = "tty; stty size; echo to error >&2; echo go; read line; stty size; \
                trap 'echo caught' INT; sh -c 'echo wait; exec sleep 1000'; cat; exit 5";
    let output = scene.records(session(&scene, "s", line, &tty(size))).await;
    let mut screen = Screen::new(&scene, &scene.id("s"), output).await;
    let begun = screen.expect("go\r\n").await;
    assert!(begun.starts_with("/dev/"), "{begun}");
    assert!(begun.ends_with("\r\n33 101\r\nto error\r\ngo\r\n"), "{begun}");
    screen.keyboard.resize(44, 55).await;
    screen.keyboard.type_in("typed\n").await;
    assert_eq!(screen.expect("wait\r\n").await, "typed\r\n44 55\r\nwait\r\n");
    // ^C interrupts the sleep; the shell only waits for it.
    screen.keyboard.type_in("\x03").await;
    screen.expect("caught\r\n").await;
    // As in Mesos an empty piece is no end of a terminal: ^D is.
    screen.keyboard.type_in("").await;
    screen.keyboard.type_in("line\n").await;
    assert_eq!(screen.expect("line\r\nline\r\n").await, "line\r\nline\r\n");
    screen.keyboard.type_in("\x04").await;
    let (rest, answer) = screen.rest().await;
    assert_eq!((rest.as_str(), answer.status.as_u16()), ("", 200));
    assert_eq!(scene.ended("s").await, 5 << 8);

    // What ends at once is heard nevertheless.
    for _ in 0..5 {
        let call = session(&scene, "quick", "echo hi", &tty(json!({})));
        assert_eq!(heard(scene.records(call).await).await, "hi\r\n");
        assert_eq!(scene.ended("quick").await, 0);
        let remove = json!({ "type": "REMOVE_NESTED_CONTAINER",
            "remove_nested_container": { "container_id": scene.id("quick") } });
        assert_eq!(scene.post(&remove).await.status.as_u16(), 200);
    }
    let large = json!({ "window_size": { "rows": 70_000, "columns": 1 } });
    let call = session(&scene, "large", "true", &tty(large));
    let reply = scene.post(&serde_json::from_str(&call).expect("JSON")).await;
    assert_eq!(reply.status.as_u16(), 400, "{}", reply.text());
    assert!(reply.text().ends_with("rows must be at most 65535, not 70000"), "{}", reply.text());
}

#[tokio::test]
async fn jobs_are_controlled() {
    require!(root, cgroup, program_bash);
    let scene = Scene::with("tty-jobs", &[], "sleep 1000", None).await;
    let line = "exec bash --norc --noediting -i";
    let output = scene.records(session(&scene, "s", line, &tty(json!({})))).await;
    let mut screen = Screen::new(&scene, &scene.id("s"), output).await;
    // Without a terminal of its own bash says that there is no job control. Quotes keep
    // the echo of what is typed from looking like the output.
    screen.keyboard.type_in("PS1='>'; echo be''gin\n").await;
    let begun = screen.expect("begin\r\n").await;
    assert!(!begun.contains("job control"), "{begun}");
    screen.keyboard.type_in("sh -c 'echo st''arted; exec sleep 1000'\n").await;
    screen.expect("started\r\n").await;
    // ^Z stops it, and the shell goes on.
    screen.keyboard.type_in("\x1a").await;
    screen.expect("Stopped").await;
    screen.keyboard.type_in("bg; echo back''ground\n").await;
    let seen = screen.expect("background\r\n").await;
    assert!(seen.contains("[1]+ sh -c"), "{seen}");
    screen.keyboard.type_in("kill %1; exit 7\n").await;
    let (_, answer) = screen.rest().await;
    assert_eq!(answer.status.as_u16(), 200);
    assert_eq!(scene.ended("s").await, 7 << 8);
}

/// All output to its end.
async fn heard(mut output: Events) -> String {
    let mut all = Vec::new();
    while let Some(record) = next(&mut output).await {
        let data = record["data"]["data"].as_str().unwrap_or("");
        all.extend(BASE64.decode(data).expect("base64"));
    }
    String::from_utf8(all).expect("text")
}

#[tokio::test]
async fn a_task_with_a_terminal_outlives_the_agent() {
    require!(root, cgroup);
    let size = json!({ "window_size": { "rows": 12, "columns": 34 } });
    let line = "tty; stty size; while read line; do echo =$line; done; stty size; exit 3";
    let mut scene = Scene::with("tty-task", &[], line, Some(tty(size))).await;
    let stdout = || {
        let read = std::fs::read_to_string(scene.cluster.sandbox("t").join("stdout"));
        read.unwrap_or_default()
    };
    let by = Instant::now() + PATIENCE;
    while !stdout().ends_with("12 34\r\n") {
        assert!(Instant::now() < by, "it does not begin: {}", stdout());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let listen = json!({ "type": "ATTACH_CONTAINER_OUTPUT",
        "attach_container_output": { "container_id": scene.task } });
    let output = scene.records(listen.to_string()).await;
    let mut screen = Screen::new(&scene, &scene.task, output).await;
    screen.keyboard.type_in("one\n").await;
    screen.expect("=one\r\n").await;
    // A second one listens, and none may type beside the first.
    let mut second = scene.records(listen.to_string()).await;
    let (pieces, refused) = scene.input(JSON);
    let attach = json!({ "type": "CONTAINER_ID", "container_id": scene.task });
    pieces.send(record(JSON, &attach)).await.expect("the agent reads");
    let refused = timeout(PATIENCE, refused).await.expect("in time").expect("no panic");
    assert_eq!(refused.status.as_u16(), 409, "{}", refused.text());
    screen.keyboard.type_in("two\n").await;
    screen.expect("=two\r\n").await;
    while next(&mut second).await.expect("something is heard")["type"] != "DATA" {}
    // A check or a session beside it has no terminal, unless it asks for one.
    let plain = scene.records(scene.launch("plain", "tty")).await;
    assert_eq!(heard(plain).await, "not a tty\n");

    screen.keyboard.leave();
    scene.cluster.kill_agent();
    drop(screen);
    scene.cluster.start_agent();
    let output = scene.records(listen.to_string()).await;
    let mut screen = Screen::new(&scene, &scene.task, output).await;
    screen.keyboard.resize(5, 6).await;
    screen.keyboard.type_in("three\n").await;
    screen.expect("=three\r\n").await;
    screen.keyboard.type_in("\x04").await;
    let (rest, answer) = screen.rest().await;
    assert_eq!((rest.as_str(), answer.status.as_u16()), ("5 6\r\n", 200));
    let ended = |f: &crate::framework::Framework| f.end("t").is_some();
    scene.framework.until("the end", 60, ended).await;
    assert_eq!(scene.framework.state("t"), Some("TASK_FAILED"));
    // Who hears of the end finds all of the output.
    let stdout = std::fs::read_to_string(scene.cluster.sandbox("t").join("stdout"));
    let stdout = stdout.expect("stdout");
    let (path, rest) = stdout.split_once("\r\n").expect("a line");
    assert!(path.starts_with("/dev/"), "{stdout}");
    let expected = "12 34\r\none\r\n=one\r\ntwo\r\n=two\r\nthree\r\n=three\r\n5 6\r\n";
    assert_eq!(rest, expected);
    scene.cluster.wait_clean();
    let by = Instant::now() + PATIENCE;
    while open_terminals(scene.cluster.agent_pid()) > 0 {
        assert!(Instant::now() < by, "the agent keeps a terminal");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

fn open_terminals(pid: u32) -> usize {
    let open = std::fs::read_dir(format!("/proc/{pid}/fd")).expect("its descriptors");
    let open = open.filter_map(|fd| std::fs::read_link(fd.ok()?.path()).ok());
    open.filter(|to| to.ends_with("ptmx")).count()
}
