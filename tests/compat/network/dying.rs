//! The agent dies at a point of a task's life, as by `kill -9`, and the next one goes on.

use kernel::failpoint;
use serde_json::{Value, json};

use crate::cluster::Cluster;
use crate::framework::Framework;

/// Launches `task` with an agent that dies at `point`: when the task begins, or when it
/// ends. One that was to begin runs with the next agent, or has failed: then `begun` looks
/// at it. At last it has ended.
pub async fn dies_at(
    point: &'static str,
    task: Value,
    (cluster, framework): (&mut Cluster, &mut Framework),
    begun: impl AsyncFnOnce(&Framework),
) {
    cluster.kill_agent();
    cluster.failpoint = Some(point);
    cluster.start_agent();
    let name = task["task_id"]["value"].as_str().expect("a name").to_owned();
    let kill = json!({ "task_id": { "value": name } });
    let runs = |f: &Framework| f.state(&name) == Some("TASK_RUNNING");
    framework.launch(vec![task]).await;
    let leaves = failpoint::is_of_the_end(point);
    if leaves {
        framework.until("it runs", 60, runs).await;
        framework.call("KILL", kill.clone()).await;
    }
    framework.until(point, 60, |_| cluster.agent_ended().is_some()).await;
    cluster.kill_agent();
    cluster.failpoint = None;
    cluster.start_agent();
    if !leaves {
        framework.until("it runs", 60, |f| runs(f) || f.end(&name).is_some()).await;
        begun(framework).await;
        framework.call("KILL", kill).await;
    }
    framework.until("the end", 60, |f| f.end(&name).is_some()).await;
}
