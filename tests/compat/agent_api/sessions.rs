//! Sessions in a task's container: their output, heartbeats, input and listeners, and
//! clients that leave in odd ways.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use bulkhead::wire::client::{Call, Client, Events, Reply};
use mesos::recordio;
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use crate::cluster::{Cluster, Options};
use crate::framework::{Framework, command};
use crate::input::{self, JSON, PROTOBUF, RECORDIO, call, record};
use crate::require;

/// Longest wait for anything.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// A task that runs, and its container.
pub(crate) struct Scene {
    pub(crate) cluster: Cluster,
    pub(crate) framework: Framework,
    pub(crate) task: Value,
}

impl Scene {
    async fn new(name: &str) -> Scene {
        Scene::with(name, &["--http_heartbeat_interval=200ms"], "sleep 1000", None).await
    }

    /// With these flags of the agent; the task, called `t`, has this container.
    pub(crate) async fn with(
        name: &str,
        flags: &[&str],
        line: &str,
        container: Option<Value>,
    ) -> Scene {
        let cluster = Cluster::start(name, Options::default().agent(flags));
        let mut framework = Framework::subscribe(&cluster.master, name).await;
        let mut task = command("t", line, 32.0);
        if let Some(container) = container {
            task["container"] = container;
        }
        framework.start(task).await;
        let status = framework.statuses["t"].last().expect("a status");
        let task = status["container_status"]["container_id"].clone();
        Scene { cluster, framework, task }
    }

    pub(crate) fn id(&self, name: &str) -> Value {
        json!({ "value": name, "parent": self.task })
    }

    pub(crate) fn client(&self) -> Client {
        Client::new(&self.cluster.agent).timeout(PATIENCE)
    }

    pub(crate) fn launch(&self, name: &str, line: &str) -> String {
        json!({ "type": "LAUNCH_NESTED_CONTAINER_SESSION", "launch_nested_container_session": {
            "container_id": self.id(name), "command": { "shell": true, "value": line } } })
        .to_string()
    }

    /// Starts a session or attaches to one; the records that follow.
    pub(crate) async fn records(&self, call: String) -> Events {
        let call = Call::post("/api/v1", JSON, call)
            .header("accept", RECORDIO)
            .header("message-accept", JSON);
        let stream = self.client().stream(call).await.expect("an answer");
        assert_eq!(stream.status.as_u16(), 200, "{:?}", stream.rest().await);
        assert_eq!(stream.header("content-type"), Some(RECORDIO));
        assert_eq!(stream.header("message-content-type"), Some(JSON));
        stream.events(1 << 20)
    }

    pub(crate) async fn post(&self, call: &Value) -> Reply {
        let call = Call::post("/api/v1", JSON, call.to_string()).header("accept", JSON);
        self.client().call(call).await.expect("an answer")
    }

    /// Opens a stream of input; what is sent to it goes to the agent.
    pub(crate) fn input(
        &self,
        kind: &'static str,
    ) -> (mpsc::Sender<bytes::Bytes>, JoinHandle<Reply>) {
        input::open(self.client(), kind)
    }

    fn attach(&self, name: &str) -> Value {
        json!({ "type": "CONTAINER_ID", "container_id": self.id(name) })
    }

    pub(crate) async fn ended(&self, name: &str) -> Value {
        let wait = json!({ "type": "WAIT_NESTED_CONTAINER",
            "wait_nested_container": { "container_id": self.id(name) } });
        let reply = self.post(&wait).await;
        assert_eq!(reply.status.as_u16(), 200, "{}", reply.text());
        let answer: Value = serde_json::from_slice(&reply.body).expect("JSON");
        answer["wait_nested_container"]["exit_status"].clone()
    }
}

/// A piece of input; the data is base64.
fn data(base64: &str) -> Value {
    json!({ "type": "PROCESS_IO", "process_io": { "type": "DATA",
        "data": { "type": "STDIN", "data": base64 } } })
}

pub(crate) async fn next(events: &mut Events) -> Option<Value> {
    let record = timeout(PATIENCE, events.next()).await.expect("in time").expect("well framed");
    record.map(|record| serde_json::from_slice(&record).expect("JSON"))
}

/// All output to the end, sorted, and how many heartbeats there were.
async fn rest(mut events: Events) -> (Vec<(String, String)>, usize) {
    let (mut all, mut beats) = (Vec::new(), 0);
    while let Some(record) = next(&mut events).await {
        if record["type"] == "CONTROL" {
            assert_eq!(record["control"]["type"], "HEARTBEAT");
            let interval = &record["control"]["heartbeat"]["interval"]["nanoseconds"];
            assert_eq!(interval, 200_000_000);
            beats += 1;
            continue;
        }
        let text = |name: &str| record["data"][name].as_str().expect("a text").to_owned();
        all.push((text("type"), text("data")));
    }
    all.sort();
    (all, beats)
}

#[tokio::test]
async fn input_and_listeners_reach_a_session() {
    require!(root, cgroup);
    let scene = Scene::new("session-input").await;
    for kind in [JSON, PROTOBUF] {
        let name = if kind == JSON { "json" } else { "protobuf" };
        let line = "cat; echo end >&2; exit 5";
        let mut session = scene.records(scene.launch(name, line)).await;
        // Heartbeats come before there is any output.
        assert_eq!(next(&mut session).await.expect("a record")["type"], "CONTROL");
        let listen = json!({ "type": "ATTACH_CONTAINER_OUTPUT",
            "attach_container_output": { "container_id": scene.id(name) } });
        let listener = scene.records(listen.to_string()).await;
        let (pieces, answer) = scene.input(kind);
        let beat = json!({ "type": "PROCESS_IO", "process_io": { "type": "CONTROL",
            "control": { "type": "HEARTBEAT",
                "heartbeat": { "interval": { "nanoseconds": 1 } } } } });
        for piece in [scene.attach(name), beat, data("b25lCg==")] {
            pieces.send(record(kind, &piece)).await.expect("the agent reads");
        }
        loop {
            let got = next(&mut session).await.expect("a record");
            if got["type"] == "DATA" {
                assert_eq!(got["data"], json!({ "type": "STDOUT", "data": "b25lCg==" }));
                break;
            }
        }
        // A second writer is refused while there is one.
        let (second, refused) = scene.input(kind);
        second.send(record(kind, &scene.attach(name))).await.expect("the agent reads");
        let refused = timeout(PATIENCE, refused).await.expect("in time").expect("no panic");
        assert_eq!(refused.status.as_u16(), 409);
        assert_eq!(refused.text(), "Multiple input connections are not allowed");
        // Not only text, and then the end of the input.
        for piece in ["AP8=", ""] {
            pieces.send(record(kind, &data(piece))).await.expect("the agent reads");
        }
        drop(pieces);
        let answer = timeout(PATIENCE, answer).await.expect("in time").expect("no panic");
        assert_eq!((answer.status.as_u16(), answer.text().as_str()), (200, ""));
        let pair = |a: &str, b: &str| (a.to_owned(), b.to_owned());
        let (output, _) = rest(session).await;
        assert_eq!(output, [pair("STDERR", "ZW5kCg=="), pair("STDOUT", "AP8=")]);
        let (heard, beats) = rest(listener).await;
        let all = [pair("STDERR", "ZW5kCg=="), pair("STDOUT", "AP8="), pair("STDOUT", "b25lCg==")];
        assert_eq!(heard, all);
        assert!(beats < 1000, "{beats} heartbeats");
        assert_eq!(scene.ended(name).await, 5 << 8);
    }
}

#[tokio::test]
async fn what_cannot_be_attached_to_is_said() {
    require!(root, cgroup);
    let scene = Scene::new("session-errors").await;
    let output = |id: &Value| {
        json!({ "type": "ATTACH_CONTAINER_OUTPUT",
            "attach_container_output": { "container_id": id } })
    };
    let reply = scene.post(&output(&scene.task)).await;
    assert_eq!(reply.status.as_u16(), 500);
    assert!(reply.text().starts_with("I/O switchboard server was disabled"), "{}", reply.text());
    let reply = scene.post(&output(&json!({ "value": "none" }))).await;
    assert_eq!(reply.status.as_u16(), 404);
    assert_eq!(reply.text(), "Container none cannot be found");
    // One call is no stream, and other calls have none.
    let reply = scene.post(&call(&scene.attach("none"))).await;
    assert_eq!(reply.status.as_u16(), 415);
    let wanted = "Expecting 'Content-Type' to be application/recordio for \
                  ATTACH_CONTAINER_INPUT call";
    assert_eq!(reply.text(), wanted);
    let health = json!({ "type": "GET_HEALTH" }).to_string();
    let health = Call::post("/api/v1", JSON, health).header("accept", RECORDIO);
    let reply = scene.client().call(health).await.expect("an answer");
    assert_eq!(reply.status.as_u16(), 406);
    assert_eq!(reply.text(), "Streaming response is not supported for GET_HEALTH call");

    let mut session = scene.records(scene.launch("s", "cat")).await;
    let wrong = json!({ "type": "PROCESS_IO", "process_io": { "type": "DATA",
        "data": { "type": "STDOUT", "data": "" } } });
    let window = json!({ "type": "PROCESS_IO", "process_io": { "type": "CONTROL", "control": {
        "type": "TTY_INFO", "tty_info": { "window_size": { "rows": 1, "columns": 1 } } } } });
    let framed = |call: &Value| {
        let mut out = Vec::new();
        recordio::encode(call.to_string().as_bytes(), &mut out);
        bytes::Bytes::from(out)
    };
    let first = record(JSON, &scene.attach("s"));
    let rows: Vec<(Vec<bytes::Bytes>, u16, &str)> = vec![
        (vec![], 400, "Received EOF while reading request body"),
        (vec!["x".into()], 400, "Failed to read record: "),
        (vec!["9999999999\n".into()], 400, "Failed to read record: "),
        (vec![framed(&json!({ "type": "GET_HEALTH" }))], 415, "Streaming 'Content-Type' "),
        (vec![record(JSON, &scene.attach("none"))], 404, "Container "),
        (vec![record(JSON, &data(""))], 400, "Expecting 'attach_container_input.type' to be "),
        (vec![record(JSON, &json!({}))], 400, "Failed to validate agent::Call: "),
        (vec![first.clone(), record(JSON, &wrong)], 400, "Expecting 'process_io.data.type' "),
        (vec![first.clone(), record(JSON, &window)], 400, "Unable to set the window size"),
        (vec![first.clone(), first.clone()], 400, "Expecting 'attach_container_input.type' "),
    ];
    for (records, status, words) in rows {
        let (pieces, answer) = scene.input(JSON);
        for record in records {
            let _ = pieces.send(record).await;
        }
        drop(pieces);
        let answer = timeout(PATIENCE, answer).await.expect("in time").expect("no panic");
        assert_eq!(answer.status.as_u16(), status, "{words}: {}", answer.text());
        assert!(answer.text().starts_with(words), "{words}: {}", answer.text());
    }
    // None of that has hurt the session.
    let (pieces, answer) = scene.input(JSON);
    for piece in [first, record(JSON, &data("YQ==")), record(JSON, &data(""))] {
        pieces.send(piece).await.expect("the agent reads");
    }
    // Not dropped: the end of the session ends the request.
    let mut output = String::new();
    while let Some(got) = next(&mut session).await {
        output.push_str(got["data"]["data"].as_str().unwrap_or(""));
    }
    assert_eq!(output, "YQ==");
    let answer = timeout(PATIENCE, answer).await.expect("in time").expect("no panic");
    assert_eq!(answer.status.as_u16(), 200);
    assert_eq!(scene.ended("s").await, 0);
}

#[tokio::test]
async fn a_client_that_leaves_in_whatever_way_ends_its_session() {
    require!(root, cgroup);
    let scene = Scene::new("session-leaves").await;
    // What stands behind the request hides the end of the connection from a server
    // that only reads; and a silent command gives it nothing to write.
    for (name, behind, reset) in
        [("plain", "", false), ("rest", "GET / HTTP/1.1\r\n", false), ("reset", "", true)]
    {
        let body = scene.launch(name, "sleep 1000");
        let mut stream = TcpStream::connect(&scene.cluster.agent).expect("connect");
        stream.set_read_timeout(Some(PATIENCE)).expect("a socket");
        let head = format!(
            "POST /api/v1 HTTP/1.1\r\nHost: agent\r\nContent-Type: {JSON}\r\nAccept: {JSON}\r\n\
             Content-Length: {}\r\n\r\n{body}{behind}",
            body.len()
        );
        stream.write_all(head.as_bytes()).expect("the agent reads");
        let mut answer = [0; 15];
        stream.read_exact(&mut answer).expect("an answer");
        assert_eq!(&answer, b"HTTP/1.1 200 OK");
        if reset {
            // Unread bytes make the close a reset.
            std::thread::sleep(Duration::from_millis(500));
        }
        drop(stream);
        assert_eq!(scene.ended(name).await, 9, "{name}");
    }
}
