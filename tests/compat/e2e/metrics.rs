//! `/metrics` of the running daemons: Prometheus' format, the same figures as
//! `/metrics/snapshot`, containers where they are asked for.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::cluster::{Cluster, Options, get};
use crate::framework::{Framework, command};
use crate::require;

/// Samples by name and labels; panics at what is not in the format.
fn read(text: &str) -> BTreeMap<String, f64> {
    let mut family = String::new();
    let mut samples = BTreeMap::new();
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("# ") {
            let words: Vec<&str> = rest.splitn(3, ' ').collect();
            let [what, name, value] = words[..] else { panic!("odd comment: {line}") };
            match what {
                "HELP" => family = name.to_owned(),
                "TYPE" => assert!(name == family && ["counter", "gauge"].contains(&value)),
                _ => panic!("odd comment: {line}"),
            }
            continue;
        }
        let (series, value) = line.rsplit_once(' ').expect("a value");
        assert_eq!(series.split('{').next(), Some(family.as_str()), "{line}");
        let value: f64 = value.parse().expect("a number");
        assert!(samples.insert(series.to_owned(), value).is_none(), "twice: {line}");
    }
    samples
}

#[tokio::test]
async fn both_daemons_speak_to_prometheus() {
    require!(root, cgroup);
    let options = Options::default().agent(&["--metrics_per_container=executors"]);
    let cluster = Cluster::start("prometheus", options);
    let mut framework = Framework::subscribe(&cluster.master, "prometheus").await;
    let container = framework.start(command("runs", "sleep 1000", 32.0)).await;

    let master = read(&get(&cluster.master, "/metrics").expect("the master's"));
    assert_eq!(master["mesos_master_tasks_running"], 1.0);
    assert!(master["mesos_master_messages_launch_tasks_total"] >= 0.0);
    let agent = read(&get(&cluster.agent, "/metrics").expect("the agent's"));
    assert_eq!(agent["mesos_slave_tasks_running"], 1.0);
    let memory = agent.iter().find(|(name, _)| {
        name.starts_with("mesos_container_memory_bytes{")
            && name.contains(&format!("container_id=\"{container}\""))
            && name.contains("executor_id=\"runs\"")
    });
    assert!(memory.is_some_and(|(_, bytes)| *bytes > 0.0), "{agent:?}");

    let snapshot = get(&cluster.agent, "/metrics/snapshot").expect("the snapshot");
    let snapshot: Value = serde_json::from_str(&snapshot).expect("JSON");
    let prepared = "mesos_isolator_calls_total{call=\"prepare\",isolator=\"cgroups\"}";
    assert!(agent.get(prepared).is_some_and(|calls| *calls >= 1.0), "{agent:?}");
    let ours = ["mesos_container_", "mesos_isolator_"];
    let is_ours = |name: &&String| ours.iter().any(|prefix| name.starts_with(prefix));
    let mesos = agent.keys().filter(|name| !is_ours(name)).count();
    assert_eq!(Some(mesos), snapshot.as_object().map(serde_json::Map::len), "no figure is lost");
    framework.call("TEARDOWN", Value::Null).await;
}
