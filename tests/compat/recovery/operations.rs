//! The agent dies at every point at which reservations and volumes change. Every
//! operation ends once at its framework, and what was told is what is there.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::cluster::{Cluster, Options, get};
use crate::framework::Framework;
use crate::require;
use crate::volumes::{directory, offer_with, operation, reserved, state, subscribe, volume};

/// What their names begin with.
const POINTS: [&str; 5] = [
    "checkpoint.resources.",
    "checkpoint.operation_",
    "checkpoint.forget_operation.",
    "resources.",
    "send.operation.",
];
const PATIENCE: Duration = Duration::from_secs(60);

fn is_terminal(state: Option<&str>) -> bool {
    state.is_some_and(|state| state != "OPERATION_PENDING")
}

/// Starts the agent again, without the point, as soon as it is dead.
fn revive(cluster: &mut Cluster) {
    if cluster.agent_ended().is_some() {
        cluster.failpoint = None;
        cluster.start_agent();
    }
}

/// Starts the agent with the point. What the last one left to be done may lead there
/// at once.
fn start_at(cluster: &mut Cluster, point: &'static str) {
    cluster.failpoint = Some(point);
    cluster.spawn_agent();
    let by = Instant::now() + PATIENCE;
    while cluster.failpoint.is_some() && !cluster.registered() {
        assert!(Instant::now() < by, "no agent at {point}\n{}", cluster.logs());
        std::thread::sleep(Duration::from_millis(20));
        revive(cluster);
    }
}

/// Sends two operations and waits until both have ended, whoever dies meanwhile;
/// whether each was done.
async fn both(
    cluster: &mut Cluster,
    framework: &mut Framework,
    offer: &Value,
    two: [Value; 2],
) -> [bool; 2] {
    let ids = two.each_ref().map(|o| o["id"]["value"].as_str().expect("an id").to_owned());
    framework.operate(offer, two.to_vec()).await;
    let by = Instant::now() + PATIENCE;
    while !ids.iter().all(|id| is_terminal(framework.operation(id))) {
        assert!(Instant::now() < by, "{ids:?} at {:?}\n{}", cluster.failpoint, cluster.logs());
        revive(cluster);
        framework.next(tokio::time::Instant::now() + Duration::from_millis(20)).await;
    }
    ids.map(|id| {
        let all = &framework.operations[&id];
        let mut ends: Vec<&Value> = all.iter().map(|status| &status["state"]).collect();
        ends.dedup();
        assert_eq!(ends.len(), 1, "{id} ended differently: {all:?}");
        ends[0] == "OPERATION_FINISHED"
    })
}

#[tokio::test]
async fn deaths_while_reservations_and_volumes_change() {
    require!(root, cgroup);
    let mut cluster = Cluster::start("opdeath", Options::default());
    let mut framework = subscribe(&cluster.master, "opdeath").await;
    let (disk, v) = (reserved(), volume("v", "RW"));
    for (number, point) in POINTS.into_iter().flat_map(kernel::failpoint::of).enumerate() {
        cluster.kill_agent();
        start_at(&mut cluster, point);
        let name = |what: &str| format!("{what}-{number}");
        // Until the point was passed, and once more from where that led.
        let (mut is_reserved, mut is_created) = (false, false);
        for turn in 0..6 {
            let name = |what: &str| name(&format!("{what}-{turn}"));
            let offer = offer_with(&mut framework, is_created.then_some("v")).await;
            let reserve = operation("RESERVE", &name("r"), &disk);
            let create = operation("CREATE", &name("c"), &v);
            let unreserve = operation("UNRESERVE", &name("u"), &disk);
            let destroy = operation("DESTROY", &name("d"), &v);
            match (is_reserved, is_created) {
                (_, true) => {
                    let done = both(&mut cluster, &mut framework, &offer, [destroy, unreserve]);
                    let [destroyed, unreserved] = done.await;
                    (is_created, is_reserved) = (!destroyed, !unreserved);
                }
                (false, false) => {
                    let done = both(&mut cluster, &mut framework, &offer, [reserve, create]);
                    (is_reserved, is_created) = done.await.into();
                }
                (true, false) => {
                    let again = operation("CREATE", &name("e"), &v);
                    let done = both(&mut cluster, &mut framework, &offer, [create, again]);
                    is_created = done.await[0];
                }
            }
            // An acknowledgement may still be on its way to its point.
            tokio::time::sleep(Duration::from_millis(100)).await;
            revive(&mut cluster);
            assert_eq!(directory(&cluster, "v").is_dir(), is_created, "{point}");
            let told = state(&cluster);
            assert_eq!(told != json!({}), is_reserved, "{point}: {told}");
            if cluster.failpoint.is_none() && !is_reserved {
                break;
            }
        }
        assert!(cluster.failpoint.is_none(), "{point} was never passed\n{}", cluster.logs());
        assert!(!is_reserved && !is_created, "{point}\n{}", cluster.logs());
    }
    let trash = || std::fs::read_dir(cluster.dir.path().join("agent/trash"));
    let by = Instant::now() + PATIENCE;
    while trash().is_ok_and(|entries| entries.count() > 0) {
        assert!(Instant::now() < by, "deleted volumes stay in the trash");
        std::thread::sleep(Duration::from_millis(20));
    }
    let slaves = get(&cluster.master, "/slaves").expect("the master answers");
    assert!(slaves.contains("\"reserved_resources\":{}"), "{slaves}");
    cluster.wait_clean();
}

#[tokio::test]
async fn an_operation_not_acknowledged_is_told_again_after_the_agents_death() {
    require!(root, cgroup);
    let mut cluster = Cluster::start("optold", Options::default());
    let mut framework = subscribe(&cluster.master, "optold").await;
    framework.acknowledge = false;
    let offer = offer_with(&mut framework, None).await;
    framework.operate(&offer, vec![operation("RESERVE", "r", &reserved())]).await;
    let told = |f: &Framework| f.operations.get("r").map_or(0, Vec::len);
    framework.until("the end", 60, |f| told(f) == 1).await;
    let inspect = |cluster: &Cluster| {
        let work = bulkhead::checkpoint::WorkDir::new(cluster.dir.path().join("agent"));
        let found = bulkhead::checkpoint::inspect::inspect(&work).expect("readable");
        assert!(found.problems.is_empty());
        found.text().into_iter().filter(|line| line.contains("operation")).collect::<Vec<_>>()
    };
    let lines = inspect(&cluster);
    assert!(lines.len() == 1 && lines[0].contains("\"r\" RESERVE of framework"), "{lines:?}");
    assert!(lines[0].ends_with("OPERATION_FINISHED, not acknowledged"), "{lines:?}");
    cluster.kill_agent();
    framework.acknowledge = true;
    cluster.start_agent();
    framework.until("it once more", 60, |f| told(f) >= 2).await;
    let all = &framework.operations["r"];
    assert!(all.iter().all(|status| status["uuid"] == all[0]["uuid"]), "{all:?}");
    let by = Instant::now() + PATIENCE;
    while !inspect(&cluster).is_empty() {
        assert!(Instant::now() < by, "it is not forgotten: {:?}", inspect(&cluster));
        std::thread::sleep(Duration::from_millis(20));
    }
}
