//! A small v1 framework for tests: subscribes, launches, acknowledges, records.

#![allow(dead_code, reason = "every test program uses its own part")]

use std::collections::BTreeMap;
use std::time::Duration;

use bulkhead::wire::client::{Call, Client, Events, Reply};
use serde_json::{Value, json};
use tokio::time::{Instant, timeout, timeout_at};

/// A subscribed framework. Status updates are acknowledged as they come.
#[derive(Debug)]
pub struct Framework {
    /// For further calls.
    pub client: Client,
    /// Its id.
    pub id: String,
    /// The stream's id.
    pub stream: String,
    /// Every status in the order of arrival, by task.
    pub statuses: BTreeMap<String, Vec<Value>>,
    /// Every status of operations with an id, in the order of arrival.
    pub operations: BTreeMap<String, Vec<Value>>,
    /// Whether updates are acknowledged.
    pub acknowledge: bool,
    offers: Vec<Value>,
    events: Events,
}

const PATH: &str = "/api/v1/scheduler";
const JSON: &str = "application/json";

/// States that nothing follows.
#[must_use]
pub fn is_terminal(state: &str) -> bool {
    [
        "TASK_FINISHED",
        "TASK_FAILED",
        "TASK_KILLED",
        "TASK_LOST",
        "TASK_ERROR",
        "TASK_DROPPED",
        "TASK_GONE",
        "TASK_GONE_BY_OPERATOR",
    ]
    .contains(&state)
}

/// A command task of 0.05 cpus.
#[must_use]
pub fn command(name: &str, line: &str, mem: f64) -> Value {
    json!({
        "name": name, "task_id": { "value": name },
        "command": { "shell": true, "value": line },
        "resources": [scalar("cpus", 0.05), scalar("mem", mem)],
    })
}

/// What an offer has of a scalar resource.
#[must_use]
pub fn offered(offer: &Value, name: &str) -> f64 {
    let all = offer["resources"].as_array().into_iter().flatten();
    all.filter(|r| r["name"] == name).filter_map(|r| r["scalar"]["value"].as_f64()).sum()
}

/// Whether an offer has the scalars and the ports of these tasks and of their executors.
fn covers(offer: &Value, tasks: &[Value]) -> bool {
    let list = |of: &Value| of["resources"].as_array().cloned().unwrap_or_default();
    let asked: Vec<Value> =
        tasks.iter().flat_map(|t| list(t).into_iter().chain(list(&t["executor"]))).collect();
    let sum = |name: &str| -> f64 {
        let own = asked.iter().filter(|r| r["name"] == name);
        own.filter_map(|r| r["scalar"]["value"].as_f64()).sum()
    };
    let ranges = |of: &[Value]| -> Vec<(u64, u64)> {
        let ports = of.iter().filter(|r| r["name"] == "ports");
        let all = ports.flat_map(|r| r["ranges"]["range"].as_array().cloned().unwrap_or_default());
        all.filter_map(|r| Some((r["begin"].as_u64()?, r["end"].as_u64()?))).collect()
    };
    let there = ranges(&list(offer));
    ["cpus", "mem", "disk"].iter().all(|name| sum(name) <= offered(offer, name))
        && ranges(&asked).iter().all(|(a, b)| there.iter().any(|(c, d)| c <= a && b <= d))
}

/// A scalar resource.
#[must_use]
pub fn scalar(name: &str, value: f64) -> Value {
    json!({ "name": name, "type": "SCALAR", "scalar": { "value": value } })
}

impl Framework {
    /// Subscribes a checkpointing framework of role `*`.
    ///
    /// # Panics
    /// When the master refuses.
    pub async fn subscribe(master: &str, name: &str) -> Self {
        let info = json!({
            "user": "root", "name": name, "roles": ["*"], "checkpoint": true,
            "failover_timeout": 300.0,
            "capabilities": [{ "type": "MULTI_ROLE" }, { "type": "PARTITION_AWARE" },
                             { "type": "RESERVATION_REFINEMENT" }],
        });
        Self::subscribe_with(
            master,
            json!({ "type": "SUBSCRIBE", "subscribe": { "framework_info": info } }),
        )
        .await
    }

    /// Subscribes with a whole call.
    ///
    /// # Panics
    /// When the master refuses.
    pub async fn subscribe_with(master: &str, call: Value) -> Self {
        let client = Client::new(master);
        let call = call.to_string();
        let streaming = client
            .stream(Call::post(PATH, JSON, call).header("accept", JSON))
            .await
            .expect("reach the master");
        assert_eq!(streaming.status.as_u16(), 200, "{:?}", streaming.rest().await);
        let stream = streaming.header("mesos-stream-id").expect("a stream id").to_owned();
        let mut events = streaming.events(64 << 20);
        let first = timeout(Duration::from_secs(60), events.next()).await.expect("in time");
        let first = first.expect("a stream").expect("a first event");
        let first: Value = serde_json::from_slice(&first).expect("JSON");
        assert_eq!(first["type"], "SUBSCRIBED", "{first}");
        let id = first["subscribed"]["framework_id"]["value"].as_str().expect("an id").to_owned();
        let (statuses, offers) = (BTreeMap::new(), Vec::new());
        let operations = BTreeMap::new();
        Self { client, id, stream, statuses, operations, acknowledge: true, offers, events }
    }

    /// Sends a call of this framework.
    ///
    /// # Panics
    /// When the master does not answer.
    pub async fn call(&self, kind: &str, body: Value) -> Reply {
        let mut call = json!({ "type": kind, "framework_id": { "value": self.id } });
        if !body.is_null() {
            call[kind.to_lowercase()] = body;
        }
        self.post(call.to_string()).await
    }

    /// Sends any body with this framework's stream id.
    ///
    /// # Panics
    /// When the master does not answer.
    pub async fn post(&self, body: String) -> Reply {
        let call = Call::post(PATH, JSON, body)
            .header("accept", JSON)
            .header("mesos-stream-id", &self.stream);
        self.client.call(call).await.expect("reach the master")
    }

    /// The next event, acknowledged and recorded; `None` when `by` has passed.
    ///
    /// # Panics
    /// When the stream ends.
    pub async fn next(&mut self, by: Instant) -> Option<Value> {
        let record = timeout_at(by, self.events.next()).await.ok()?;
        let record = record.expect("a stream").expect("the stream goes on");
        let event: Value = serde_json::from_slice(&record).expect("JSON");
        match event["type"].as_str().unwrap_or("") {
            "OFFERS" => {
                self.offers
                    .extend(event["offers"]["offers"].as_array().into_iter().flatten().cloned());
            }
            "RESCIND" => self.offers.retain(|o| o["id"] != event["rescind"]["offer_id"]),
            "UPDATE" => {
                let status = event["update"]["status"].clone();
                if self.acknowledge && !status["uuid"].is_null() {
                    let body = json!({ "agent_id": status["agent_id"],
                        "task_id": status["task_id"], "uuid": status["uuid"] });
                    self.call("ACKNOWLEDGE", body).await;
                }
                let task = status["task_id"]["value"].as_str().unwrap_or("").to_owned();
                self.statuses.entry(task).or_default().push(status);
            }
            "UPDATE_OPERATION_STATUS" => {
                let status = event["update_operation_status"]["status"].clone();
                if self.acknowledge && !status["uuid"].is_null() {
                    let body = json!({ "agent_id": status["agent_id"],
                        "operation_id": status["operation_id"],
                        "uuid": status["uuid"]["value"] });
                    self.call("ACKNOWLEDGE_OPERATION_STATUS", body).await;
                }
                let id = status["operation_id"]["value"].as_str().unwrap_or("").to_owned();
                self.operations.entry(id).or_default().push(status);
            }
            _ => {}
        }
        Some(event)
    }

    /// Handles events until `done` holds.
    ///
    /// # Panics
    /// When it does not within `seconds`.
    pub async fn until(&mut self, what: &str, seconds: u64, mut done: impl FnMut(&Self) -> bool) {
        let by = Instant::now() + Duration::from_secs(seconds);
        while !done(self) {
            // What is waited for need not come as an event.
            let soon = by.min(Instant::now() + Duration::from_millis(200));
            if self.next(soon).await.is_none() && Instant::now() >= by {
                let mut count = BTreeMap::new();
                for task in self.statuses.keys() {
                    *count.entry(self.state(task).unwrap_or("").to_owned()).or_insert(0) += 1;
                }
                panic!("waited {seconds} s for {what}; newest states: {count:?}");
            }
        }
    }

    /// Takes an offer; waits for one if there is none.
    ///
    /// # Panics
    /// When none comes within 30 seconds.
    pub async fn offer(&mut self) -> Value {
        // What is at hand may be rescinded already.
        while self.next(Instant::now() + Duration::from_millis(5)).await.is_some() {}
        self.until("an offer", 30, |f| !f.offers.is_empty()).await;
        self.offers.remove(0)
    }

    /// Whether an offer is at hand.
    #[must_use]
    pub fn has_offer(&self) -> bool {
        !self.offers.is_empty()
    }

    /// Gives an offer back.
    pub async fn decline(&self, offer: &Value) {
        let body = json!({ "offer_ids": [offer["id"]], "filters": { "refuse_seconds": 0.0 } });
        self.call("DECLINE", body).await;
    }

    /// Takes an offer that is at hand.
    pub fn take_offer(&mut self) -> Option<Value> {
        (!self.offers.is_empty()).then(|| self.offers.remove(0))
    }

    /// Launches tasks on one offer; they get its agent. What a task gave back may be
    /// offered apart from the rest: an offer that is too small is given back for a while.
    ///
    /// # Panics
    /// When the master refuses the call.
    pub async fn launch(&mut self, tasks: Vec<Value>) -> Value {
        let by = Instant::now() + Duration::from_secs(3);
        let mut offer = self.offer().await;
        while !covers(&offer, &tasks) && Instant::now() < by {
            self.decline(&offer).await;
            offer = self.offer().await;
        }
        let reply = self.accept(&offer, tasks).await;
        assert_eq!(reply.status.as_u16(), 202, "{}", reply.text());
        offer
    }

    /// Sends ACCEPT with LAUNCH for an offer.
    ///
    /// # Panics
    /// When the master does not answer.
    pub async fn accept(&self, offer: &Value, mut tasks: Vec<Value>) -> Reply {
        for task in &mut tasks {
            task["agent_id"] = offer["agent_id"].clone();
        }
        let launch = json!({ "type": "LAUNCH", "launch": { "task_infos": tasks } });
        let body = json!({ "offer_ids": [offer["id"]], "operations": [launch],
                           "filters": { "refuse_seconds": 0.1 } });
        self.call("ACCEPT", body).await
    }

    /// Sends ACCEPT with any operations for an offer.
    ///
    /// # Panics
    /// When the master refuses the call.
    pub async fn operate(&self, offer: &Value, operations: Vec<Value>) {
        let body = json!({ "offer_ids": [offer["id"]], "operations": operations,
                           "filters": { "refuse_seconds": 0.1 } });
        let reply = self.call("ACCEPT", body).await;
        assert_eq!(reply.status.as_u16(), 202, "{}", reply.text());
    }

    /// The newest state of an operation.
    #[must_use]
    pub fn operation(&self, id: &str) -> Option<&str> {
        self.operations.get(id)?.last()?["state"].as_str()
    }

    /// The newest state of a task.
    #[must_use]
    pub fn state(&self, task: &str) -> Option<&str> {
        self.statuses.get(task)?.last()?["state"].as_str()
    }

    /// The terminal status of a task.
    #[must_use]
    pub fn end(&self, task: &str) -> Option<&Value> {
        let statuses = self.statuses.get(task)?;
        statuses.iter().find(|s| is_terminal(s["state"].as_str().unwrap_or("")))
    }

    /// Launches one task and waits until it has ended.
    pub async fn run(&mut self, task: Value, seconds: u64) -> Value {
        let name = task["task_id"]["value"].as_str().unwrap_or("").to_owned();
        self.launch(vec![task]).await;
        self.until(&format!("the end of {name}"), seconds, |f| f.end(&name).is_some()).await;
        self.end(&name).cloned().unwrap_or_default()
    }

    /// Launches one task and waits until it runs; returns its container id.
    ///
    /// # Panics
    /// When it ends instead.
    pub async fn start(&mut self, task: Value) -> String {
        let name = task["task_id"]["value"].as_str().unwrap_or("").to_owned();
        self.launch(vec![task]).await;
        self.until(&format!("{name} to run"), 30, |f| {
            f.state(&name) == Some("TASK_RUNNING") || f.end(&name).is_some()
        })
        .await;
        assert!(self.end(&name).is_none(), "{:?}", self.statuses[&name]);
        let status = self.statuses[&name].last().expect("a status");
        status["container_status"]["container_id"]["value"].as_str().unwrap_or("").to_owned()
    }
}
