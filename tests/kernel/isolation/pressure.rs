//! Memory: limits that shrink, pressure, and the knobs of v2 that Mesos lacks.

use std::collections::BTreeMap;
use std::time::Duration;

use bulkhead::containerizer::Containerizer;
use mesos::ResourceStatistics;

use crate::{Place, have_probe, require, resources, top};

const MEM: &str = "cgroups/cpu,cgroups/mem";

/// Hard limit in bytes.
fn limit(place: &Place, id: &str) -> String {
    let text = place.knob(id, "memory.max").or_else(|| place.knob(id, "memory.limit_in_bytes"));
    text.expect("a limit").trim().to_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_limit_shrinks_only_where_the_task_fits() {
    require!(root, cgroup);
    if !have_probe("pressure::a_limit_shrinks_only_where_the_task_fits") {
        return;
    }
    let place = Place::new("shrink", MEM);
    let native = place.start();
    let mut request = place.probe("a", &["memhog", "80"]);
    request.requests = resources(0.1, 128.0);
    native.launch(request).await.expect("launch");
    place.wait_output("a", "touched 80").await;
    // 128 MB; no room for 64, room for 112; and more again.
    for (mem, wanted) in [(64.0, 128u64), (112.0, 112), (64.0, 112), (256.0, 256)] {
        let (id, requests) = (top("a"), resources(0.1, mem));
        native.update(&id, requests, BTreeMap::new()).await.expect("update");
        assert_eq!(limit(&place, "a"), (wanted << 20).to_string(), "{mem}");
    }
    assert!(native.status(&top("a")).await.is_some(), "it was not killed");
    native.destroy(&top("a"), None).await.expect("known");
    native.forget(&top("a")).await;
}

async fn figures(native: &bulkhead::containerizer::native::Native) -> ResourceStatistics {
    let all = native.statistics().await;
    all.first().expect("one container").1.clone()
}

/// More file cache than the limit holds: the kernel reclaims, and says so.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pressure_is_counted() {
    require!(root, cgroup);
    let place = Place::new("pressure", MEM);
    let native = place.start();
    // On a disk: the VM's directories are memory, which nobody can take back.
    let disk = std::env::var("BULKHEAD_EXT4").unwrap_or_else(|_| ".".into());
    let cache = format!("{disk}/bulkhead-pressure-{}", std::process::id());
    let fill = format!(
        "dd if=/dev/zero of={cache} bs=1048576 count=192 2>/dev/null; \
         cat {cache} {cache} >/dev/null; rm {cache}; echo filled; sleep 1000"
    );
    native
        .launch(place.shell("a", "echo begun; while [ ! -e go ]; do sleep 0.02; done; . ./fill"))
        .await
        .expect("launch");
    place.wait_output("a", "begun").await;
    // The counters of v1 count from the first look.
    let before = figures(&native).await.mem_low_pressure_counter;
    let sandbox = place.path("sandbox-a");
    std::fs::write(sandbox.join("fill"), fill).expect("a script");
    std::fs::write(sandbox.join("go"), "").expect("go");
    place.wait_output("a", "filled").await;
    let v1 = place.knob("a", "memory.limit_in_bytes").is_some();
    let mut after = figures(&native).await;
    for _ in 0..100 {
        if after.mem_low_pressure_counter > before {
            break;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
        after = figures(&native).await;
    }
    println!("pressure: {before:?} to {:?}", after.mem_low_pressure_counter);
    if v1 {
        assert!(after.mem_low_pressure_counter > before, "{after:?}");
        assert!(after.mem_medium_pressure_counter.is_some());
    } else if place.knob("a", "memory.pressure").is_some() {
        assert!(after.mem_low_pressure_counter.is_some(), "{after:?}");
        assert!(after.mem_critical_pressure_counter.is_some());
    }
    native.destroy(&top("a"), None).await.expect("known");
    native.forget(&top("a")).await;
}

#[tokio::test]
async fn knobs_of_v2_are_set() {
    require!(root, cgroup);
    let mut place = Place::new("memknobs", MEM);
    place.config.isolators.cgroups.mem_high_ratio = Some(0.75);
    place.config.isolators.cgroups.mem_min_ratio = Some(0.5);
    place.config.isolators.cgroups.mem_oom_group = true;
    let native = place.start();
    let mut request = place.shell("a", "sleep 1000");
    request.requests = resources(0.1, 64.0);
    request.limits = BTreeMap::from([("mem".to_owned(), 128.0)]);
    native.launch(request).await.expect("launch");
    if place.knob("a", "memory.max").is_some() {
        let knob = |name| place.knob("a", name).expect(name).trim().to_owned();
        assert_eq!(knob("memory.low"), (64u64 << 20).to_string());
        assert_eq!(knob("memory.min"), (32u64 << 20).to_string());
        assert_eq!(knob("memory.high"), (96u64 << 20).to_string());
        assert_eq!(knob("memory.max"), (128u64 << 20).to_string());
        assert_eq!(knob("memory.oom.group"), "1");
    } else {
        assert_eq!(limit(&place, "a"), (128u64 << 20).to_string());
        assert!(place.knob("a", "memory.high").is_none());
    }
    native.destroy(&top("a"), None).await.expect("known");
    native.forget(&top("a")).await;
}
