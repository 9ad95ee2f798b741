//! The master against recordings of the real one: refused requests word by word,
//! refused launches, a whole scheduler session in JSON and in protobuf, the
//! libprocess conversations of agents, with a driver and with a framework over
//! HTTP, and the operator's event stream.
//!
//! In process, over loopback, with simulated agents that speak the real wire.

#[path = "../support/agents.rs"]
mod agents;
#[path = "../support/conversation.rs"]
mod conversation;
#[path = "../support/names.rs"]
mod names;
#[path = "../support/raw.rs"]
mod raw;
#[path = "../support/shape.rs"]
mod shape;
#[path = "../support/mod.rs"]
mod support;

mod master {
    //! One file per recording.
    pub mod conversation;
    pub mod drain;
    pub mod errors;
    pub mod operator;
    pub mod restart;
    pub mod session;
}

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bulkhead::daemon::flags::{Flags, master as table};
use bulkhead::daemon::logging::Logging;
use bulkhead::master::app::{App, Settings};
use bulkhead::wire::client::{Call, Client, Events};
use serde_json::{Value, json};

/// A master in this process; it ends with its runtime.
pub(crate) async fn start(more: &[&str]) -> SocketAddr {
    let mut arguments: Vec<String> =
        ["--ip=127.0.0.1", "--hostname=master1.example", "--port=0", "--registry=in_memory"]
            .map(str::to_owned)
            .to_vec();
    arguments.extend(more.iter().map(|a| (*a).to_owned()));
    let flags = Flags::parse(table::FLAGS, arguments, Vec::new()).expect("flags");
    let settings = Settings::new(&flags).expect("settings");
    let app = App::build(settings, Arc::new(flags), Logging::silent()).await.expect("a master");
    let address = app.address();
    tokio::spawn(async move { app.run(std::future::pending()).await });
    address
}

/// A subscribed scheduler that speaks JSON.
pub struct Scheduler {
    pub(crate) client: Client,
    pub(crate) stream: String,
    pub(crate) framework: String,
    events: Events,
}

impl Scheduler {
    pub(crate) async fn subscribe(master: SocketAddr, info: Value) -> Scheduler {
        let body = json!({"type": "SUBSCRIBE", "subscribe": {"framework_info": info}});
        let body = body.to_string();
        let call = Call::post("/api/v1/scheduler", "application/json", body)
            .header("accept", "application/json");
        let stream = Client::to(master).stream(call).await.expect("a stream");
        let id = stream.header("mesos-stream-id").expect("a stream id").to_owned();
        let events = stream.events(1 << 24);
        let client = Client::to(master);
        let mut us = Scheduler { client, stream: id, framework: String::new(), events };
        let first = us.next().await;
        assert_eq!(first["type"], "SUBSCRIBED");
        us.framework =
            first["subscribed"]["framework_id"]["value"].as_str().expect("an id").to_owned();
        assert_eq!(us.next().await["type"], "HEARTBEAT");
        us
    }

    /// The next event.
    pub(crate) async fn next(&mut self) -> Value {
        let next = tokio::time::timeout(Duration::from_secs(10), self.events.next());
        let event = next.await.expect("an event in time").expect("a record").expect("no end");
        serde_json::from_slice(&event).expect("JSON")
    }

    /// The next event of that type; others are left out.
    pub(crate) async fn next_of(&mut self, kind: &str) -> Value {
        loop {
            let event = self.next().await;
            if event["type"] == kind {
                return event;
            }
        }
    }

    pub(crate) async fn offer(&mut self) -> Value {
        self.next_of("OFFERS").await["offers"]["offers"][0].clone()
    }

    pub(crate) async fn call(&self, mut call: Value) -> u16 {
        call["framework_id"] = json!({"value": self.framework});
        let call = Call::post("/api/v1/scheduler", "application/json", call.to_string())
            .header("mesos-stream-id", &self.stream);
        self.client.call(call).await.expect("an answer").status.as_u16()
    }
}
