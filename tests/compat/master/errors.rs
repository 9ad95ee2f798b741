//! `errors/errors.json`: the same status and the same words.

use bulkhead::wire::client::{Call, Client};
use bulkhead::wire::http::Method;
use serde_json::{Value, json};

use crate::agents::{Fleet, Play};
use crate::{Scheduler, require, start, support};

const MASTER: &str = "348ee1d6-2b1d-4a14-b423-5ac595023eb1";
const STREAM: &str = "f5a13015-dfd9-4153-8d17-a8252c917a41";
/// Requests answered otherwise on purpose: (from, to, why).
const ON_PURPOSE: [(u64, u64, &str); 8] = [
    (14, 14, "a charset parameter is accepted"),
    (50, 50, "DRAIN_AGENT is not supported yet"),
    (55, 61, "quota, reservations and maintenance by operators are not supported yet"),
    (87, 94, "reservations and maintenance by operators are not supported yet"),
    (97, 100, "quota is not supported yet"),
    (118, 124, "raw requests; tests/compat/wire.rs has them"),
    (163, 163, "the base64 reader names the offset, too"),
    (177, 177, "the real master dies of it"),
];

fn text<'a>(value: &'a Value, name: &str) -> &'a str {
    value[name].as_str().unwrap_or_default()
}

fn framework() -> Value {
    json!({"user": "root", "name": "err", "roles": ["web"], "checkpoint": true,
        "capabilities": [{"type": "MULTI_ROLE"}, {"type": "RESERVATION_REFINEMENT"}]})
}

struct Scene {
    client: Client,
    master: String,
    scheduler: Scheduler,
}

impl Scene {
    async fn new() -> (Scene, std::sync::Arc<Fleet>) {
        let address = start(&[]).await;
        let fleet = Fleet::start(address, 1, Play::Run, true).await;
        fleet.wait_for("SlaveRegisteredMessage").await;
        let scheduler = Scheduler::subscribe(address, framework()).await;
        let master = scheduler.framework.rsplit_once('-').expect("an id").0.to_owned();
        (Scene { client: Client::to(address), master, scheduler }, fleet)
    }

    /// Ids of the recording become ours.
    fn ours(&self, text: &str) -> String {
        text.replace(&format!("{MASTER}-0001"), &self.scheduler.framework)
            .replace(MASTER, &self.master)
            .replace(STREAM, &self.scheduler.stream)
    }
}

#[tokio::test]
async fn refused_requests() {
    require!(golden);
    let golden = support::golden().expect("required");
    let all = std::fs::read(golden.join("errors/errors.json")).expect("the recording");
    let all: Value = serde_json::from_slice(&all).expect("JSON");
    let (scene, _fleet) = Scene::new().await;
    let (mut wrong, mut checked) = (Vec::new(), 0);
    for case in all["requests"].as_array().expect("a list") {
        let n = case["n"].as_u64().expect("a number");
        let other = ON_PURPOSE.iter().any(|(from, to, _)| (*from..=*to).contains(&n));
        if case["to"] != "master" || other {
            continue;
        }
        let (method, path) = text(case, "request").split_once(' ').expect("a request line");
        let method: Method = method.parse().expect("a method");
        let body = scene.ours(text(case, "request_body"));
        let body: Vec<u8> = body.chars().map(|c| u8::try_from(c).unwrap_or(b'?')).collect();
        let headers: Vec<(String, String)> = case["request_headers"]
            .as_array()
            .expect("headers")
            .iter()
            .map(|h| (scene.ours(h[0].as_str().unwrap()), scene.ours(h[1].as_str().unwrap())))
            .collect();
        let content_type = headers.iter().find(|(n, _)| n == "Content-Type");
        let mut call = match content_type {
            Some((_, kind)) => Call::post(path, kind, body).method(method),
            None if body.is_empty() => Call::get(path).method(method),
            None => continue, // The client always says what it sends.
        };
        for (name, value) in headers.iter().filter(|(n, _)| n != "Content-Type") {
            call = call.header(name, value);
        }
        let mut stream = scene.client.stream(call).await.expect("an answer");
        let status = format!("HTTP/1.1 {}", stream.status);
        let wanted = scene.ours(text(case, "body"));
        let endless = text(case, "note").starts_with("subscribe:");
        let got = if endless {
            let chunk = stream.next().await.expect("a chunk").unwrap_or_default();
            String::from_utf8_lossy(&chunk).into_owned()
        } else {
            String::from_utf8_lossy(&stream.rest().await.expect("a body")).into_owned()
        };
        let right_status = status == text(case, "status");
        let refused = !text(case, "status").contains(" 200");
        let right_words = match (refused, wanted.contains("\"ERROR\"")) {
            (true, _) | (false, true) => got == wanted,
            _ => true,
        };
        checked += 1;
        if !right_status || !right_words {
            wrong
                .push(format!("{n}: wanted {} {wanted}, got {status} {got}", text(case, "status")));
        }
    }
    assert!(wrong.is_empty(), "{} of {checked} differ:\n{}", wrong.len(), wrong.join("\n"));
    assert!(checked > 60, "only {checked} requests were checked");
}

#[tokio::test]
async fn refused_launches() {
    require!(golden);
    let golden = support::golden().expect("required");
    let all = std::fs::read(golden.join("errors/errors.json")).expect("the recording");
    let all: Value = serde_json::from_slice(&all).expect("JSON");
    let (mut scene, _fleet) = Scene::new().await;
    let agent = format!("{}-S0", scene.master);
    let mut checked = 0;
    for case in all["scheduler_operations"].as_array().expect("a list") {
        let note = text(case, "note");
        let ours = |value: &Value| -> Value {
            let text = value.to_string().replace(&format!("{MASTER}-S0"), &agent);
            serde_json::from_str(&scene.ours(&text)).expect("JSON")
        };
        let own = |e: &&Value| e["update"]["status"]["source"] == "SOURCE_MASTER";
        let wanted: Vec<Value> =
            case["events"].as_array().expect("events").iter().filter(own).map(ours).collect();
        // What is left of the agent depends on what ran before; offers used
        // twice name an offer of the recording. The core's tests have them.
        let skip =
            ["offer used twice", "more than", "wrong role", "valid launch", "task id in use"];
        let silent = wanted.is_empty();
        if skip.iter().any(|s| note.starts_with(s)) || (silent && note != "operation type UNKNOWN")
        {
            continue;
        }
        let operation = ours(&case["operation"]);
        let task = operation["launch"]["task_infos"][0]["task_id"]["value"].clone();
        let offer = scene.scheduler.offer().await;
        let id =
            if note == "unknown offer" { json!("nope-O1") } else { offer["id"]["value"].clone() };
        let filters = json!({"refuse_seconds": 0.0});
        let status = scene
            .scheduler
            .call(json!({"type": "ACCEPT", "accept": {"offer_ids": [{"value": id}],
                "operations": [operation], "filters": filters}}))
            .await;
        assert_eq!(status, 202, "{note}");
        if note == "unknown offer" {
            let filters = json!({"refuse_seconds": 0.0});
            let back = json!({"type": "DECLINE", "decline": {"offer_ids": [offer["id"]],
                "filters": filters}});
            scene.scheduler.call(back).await;
        }
        if silent {
            continue;
        }
        let mut got = scene.scheduler.next_of("UPDATE").await;
        let mut wanted = wanted[0].clone();
        for update in [&mut got, &mut wanted] {
            update["update"]["status"].as_object_mut().expect("a status").remove("timestamp");
        }
        assert_eq!(got, wanted, "{note} (task {task})");
        checked += 1;
    }
    assert!(checked >= 18, "only {checked} operations were checked");
}
