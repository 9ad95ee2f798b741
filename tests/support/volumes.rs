//! Reservations and persistent volumes in calls of frameworks.

#![allow(dead_code, reason = "every test program uses its own part")]

use std::path::PathBuf;

use serde_json::{Value, json};

use crate::cluster::{Cluster, get};
use crate::framework::{Framework, scalar};

/// Role of all that is reserved here.
pub const ROLE: &str = "web";
/// Size of volumes in MB.
pub const SIZE: f64 = 64.0;

/// Subscribes a checkpointing framework of [`ROLE`].
pub async fn subscribe(master: &str, name: &str) -> Framework {
    let info = json!({
        "user": "root", "name": name, "roles": [ROLE], "checkpoint": true,
        "failover_timeout": 300.0,
        "capabilities": [{ "type": "MULTI_ROLE" }, { "type": "PARTITION_AWARE" },
                         { "type": "RESERVATION_REFINEMENT" }, { "type": "SHARED_RESOURCES" }],
    });
    let call = json!({ "type": "SUBSCRIBE", "subscribe": { "framework_info": info } });
    Framework::subscribe_with(master, call).await
}

/// Disk space reserved by an operation.
#[must_use]
pub fn reserved() -> Value {
    let mut disk = scalar("disk", SIZE);
    disk["reservations"] = json!([{ "type": "DYNAMIC", "role": ROLE }]);
    disk
}

/// A persistent volume at `data` in sandboxes.
#[must_use]
pub fn volume(id: &str, mode: &str) -> Value {
    let mut volume = reserved();
    volume["disk"] = json!({ "persistence": { "id": id },
                             "volume": { "container_path": "data", "mode": mode } });
    volume
}

/// RESERVE, CREATE, DESTROY or UNRESERVE of `what`, named `id`.
#[must_use]
pub fn operation(kind: &str, id: &str, what: &Value) -> Value {
    let list = if kind.ends_with("RESERVE") { "resources" } else { "volumes" };
    json!({ "type": kind, "id": { "value": id }, kind.to_lowercase(): { list: [what] } })
}

/// LAUNCH of one task on the agent of `offer`.
#[must_use]
pub fn launch(offer: &Value, mut task: Value) -> Value {
    task["agent_id"] = offer["agent_id"].clone();
    json!({ "type": "LAUNCH", "launch": { "task_infos": [task] } })
}

/// An offer that has this volume; `None`: one that has enough unreserved disk.
pub async fn offer_with(framework: &mut Framework, id: Option<&str>) -> Value {
    loop {
        let offer = framework.offer().await;
        let all = offer["resources"].as_array().cloned().unwrap_or_default();
        let fits = all.iter().any(|r| match id {
            Some(id) => r["disk"]["persistence"]["id"] == id,
            None => r["name"] == "disk" && r["reservations"].is_null(),
        });
        if fits {
            return offer;
        }
        framework.decline(&offer).await;
    }
}

/// Where the volume lies on the agent.
#[must_use]
pub fn directory(cluster: &Cluster, id: &str) -> PathBuf {
    cluster.dir.path().join("agent/volumes/roles").join(ROLE).join(id)
}

/// What the agent has reserved, by role, in `/state`.
#[must_use]
pub fn state(cluster: &Cluster) -> Value {
    let body = get(&cluster.agent, "/state").expect("the agent answers");
    let state: Value = serde_json::from_str(&body).expect("JSON");
    state["reserved_resources_full"].clone()
}
