//! What is typed into containers: the stream of calls `ATTACH_CONTAINER_INPUT` of the
//! agent's API.

#![allow(dead_code, reason = "every test program uses its own part")]

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use bulkhead::wire::client::{Call, Client, Reply};
use mesos::recordio;
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::timeout;

pub const JSON: &str = "application/json";
pub const PROTOBUF: &str = "application/x-protobuf";
pub const RECORDIO: &str = "application/recordio";

/// Opens a stream of input; what is sent to it goes to the agent.
pub fn open(client: Client, kind: &'static str) -> (mpsc::Sender<bytes::Bytes>, JoinHandle<Reply>) {
    let (sender, pieces) = mpsc::channel(16);
    let answer = tokio::spawn(async move {
        let call = Call::post("/api/v1", RECORDIO, "")
            .header("message-content-type", kind)
            .header("accept", JSON);
        client.upload(call, pieces).await.expect("an answer")
    });
    (sender, answer)
}

pub fn call(attach: &Value) -> Value {
    json!({ "type": "ATTACH_CONTAINER_INPUT", "attach_container_input": attach })
}

/// One record of a stream of input.
pub fn record(kind: &str, attach: &Value) -> bytes::Bytes {
    let mut bytes = call(attach).to_string().into_bytes();
    if kind == PROTOBUF {
        bytes = mesos::v1::from_json("mesos.v1.agent.Call", &bytes).expect("a call");
    }
    let mut out = Vec::new();
    recordio::encode(&bytes, &mut out);
    out.into()
}

/// The keys of a terminal, and its size.
pub struct Keyboard {
    pieces: mpsc::Sender<bytes::Bytes>,
    answer: JoinHandle<Reply>,
}

impl Keyboard {
    /// Attaches to the input of `container`.
    pub async fn of(client: Client, container: &Value) -> Keyboard {
        let (pieces, answer) = open(client, JSON);
        let keyboard = Keyboard { pieces, answer };
        keyboard.send(json!({ "type": "CONTAINER_ID", "container_id": container })).await;
        keyboard
    }

    async fn send(&self, attach: Value) {
        self.pieces.send(record(JSON, &attach)).await.expect("the agent reads");
    }

    pub async fn type_in(&self, text: &str) {
        let data = json!({ "type": "STDIN", "data": BASE64.encode(text) });
        let io = json!({ "type": "DATA", "data": data });
        self.send(json!({ "type": "PROCESS_IO", "process_io": io })).await;
    }

    pub async fn resize(&self, rows: u32, columns: u32) {
        let size = json!({ "window_size": { "rows": rows, "columns": columns } });
        let control = json!({ "type": "TTY_INFO", "tty_info": size });
        let io = json!({ "type": "CONTROL", "control": control });
        self.send(json!({ "type": "PROCESS_IO", "process_io": io })).await;
    }

    /// Leaves without a word.
    pub fn leave(&self) {
        self.answer.abort();
    }

    /// What the agent says in the end.
    pub async fn answer(self) -> Reply {
        timeout(Duration::from_secs(60), self.answer).await.expect("in time").expect("no panic")
    }
}
