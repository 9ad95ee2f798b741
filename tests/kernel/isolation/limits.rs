//! cpu, memory and pid limits.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use bulkhead::containerizer::Containerizer;
use mesos::task_status::Reason;
use mesos::{Label, Labels, TaskInfo, TaskState};

use crate::{ALL, Place, end, have_probe, require, resources, top};

fn cpu_seconds(pid: u32) -> f64 {
    let stat = kernel::proctree::ProcessStat::read(pid).expect("a living process");
    (stat.user_ticks + stat.system_ticks) as f64 / kernel::proctree::ticks_per_second()
}

/// Half a cpu is half a cpu, whether a limit or `--cgroups_enable_cfs` says so.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn half_a_cpu_is_half_a_cpu() {
    require!(root, cgroup);
    let place = Place::new("cpu", ALL);
    let native = place.start();
    // The quota is under test, not who else is busy on this machine.
    for root in place.cgroup_roots() {
        for (knob, most) in [("cpu.shares", "262144"), ("cpu.weight", "10000")] {
            if root.join(knob).exists() {
                std::fs::write(root.join(knob), most).expect("a weight");
            }
        }
    }
    let mut request = place.shell("burn", "exec sh -c 'while :; do :; done'");
    request.requests = resources(0.5, 64.0);
    request.limits = BTreeMap::from([("cpus".to_owned(), 0.5)]);
    let pid = native.launch(request).await.expect("launch").pid.expect("a pid");
    tokio::time::sleep(Duration::from_millis(300)).await;
    let (start, before) = (Instant::now(), cpu_seconds(pid));
    tokio::time::sleep(Duration::from_secs(10)).await;
    let rate = (cpu_seconds(pid) - before) / start.elapsed().as_secs_f64();
    native.destroy(&top("burn"), None).await.expect("known");
    native.forget(&top("burn")).await;
    println!("half a cpu: {rate:.4}");
    assert!((0.475..=0.525).contains(&rate), "{rate} cpus");
}

#[tokio::test]
async fn weights_and_quotas_are_mesos_own() {
    require!(root, cgroup);
    let mut place = Place::new("knobs", ALL);
    place.config.isolators.cgroups_enable_cfs = true;
    let native = place.start();
    let mut request = place.shell("a", "sleep 1000");
    request.requests = resources(0.3, 96.0);
    native.launch(request).await.expect("launch");
    let knob = |name| place.knob("a", name).map(|text| text.trim().to_owned());
    if let Some(shares) = knob("cpu.shares") {
        assert_eq!(shares, "307");
        assert_eq!(knob("cpu.cfs_quota_us").as_deref(), Some("30000"));
        assert_eq!(knob("memory.limit_in_bytes").as_deref(), Some("100663296"));
        assert_eq!(knob("memory.soft_limit_in_bytes").as_deref(), Some("100663296"));
    } else {
        assert_eq!(knob("cpu.weight").as_deref(), Some("30"));
        assert_eq!(knob("cpu.max").as_deref(), Some("30000 100000"));
        assert_eq!(knob("memory.max").as_deref(), Some("100663296"));
        assert_eq!(knob("memory.low").as_deref(), Some("100663296"));
    }
    // More is given, and less where the task fits.
    let hard = if knob("memory.max").is_some() { "memory.max" } else { "memory.limit_in_bytes" };
    for (mem, wanted) in [(128.0, "134217728"), (64.0, "67108864")] {
        let limits = BTreeMap::new();
        native.update(&top("a"), resources(0.3, mem), limits).await.expect("update");
        assert_eq!(knob(hard).as_deref(), Some(wanted), "{mem}");
    }
    let statistics = native.statistics().await;
    let (_, figures) = statistics.first().expect("one container");
    assert_eq!(figures.cpus_limit, Some(0.3));
    assert_eq!(figures.mem_limit_bytes, Some(64 << 20));
    assert!(figures.cpus_nr_periods.is_some() && figures.mem_rss_bytes.is_some());
    native.destroy(&top("a"), None).await.expect("known");
    native.forget(&top("a")).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sixty_four_megabytes_are_not_more() {
    require!(root, cgroup);
    if !have_probe("limits::sixty_four_megabytes_are_not_more") {
        return;
    }
    let place = Place::new("mem", ALL);
    let native = place.start();
    for (id, direct) in [("direct", true), ("child", false)] {
        let program = crate::probe().display().to_string();
        let mut request = if direct {
            place.probe(id, &["memhog", "256"])
        } else {
            // Not the first process dies, but one of its children.
            place.shell(id, &format!("{program} memhog 256; sleep 1000"))
        };
        request.requests = resources(0.5, 64.0);
        native.launch(request).await.expect("launch");
        let end = end(&native, id).await;
        assert_eq!(end.state, Some(TaskState::TaskFailed), "{end:?}");
        assert_eq!(end.reasons, [Reason::ContainerLimitationMemory]);
        let message = end.message.expect("a message");
        assert!(message.starts_with("Memory limit exceeded: Requested: 64MB "), "{message}");
        assert!(message.contains("MEMORY STATISTICS"), "{message}");
        let mem = isolators::quantity::total(&end.limited_resources, "mem").expect("mem");
        assert!((63.0..=64.0).contains(&mem), "{mem}");
        assert!(!place.output(id).contains("touched 256"));
    }
}

#[tokio::test]
async fn as_much_as_was_asked_for_is_fine() {
    require!(root, cgroup);
    if !have_probe("limits::as_much_as_was_asked_for_is_fine") {
        return;
    }
    let place = Place::new("memfine", ALL);
    let native = place.start();
    let mut request = place.probe("a", &["memhog", "40"]);
    request.requests = resources(0.5, 64.0);
    native.launch(request).await.expect("launch");
    place.wait_output("a", "touched 40").await;
    let statistics = native.statistics().await;
    let rss = statistics[0].1.mem_rss_bytes.expect("rss");
    assert!((40 << 20..64 << 20).contains(&rss), "{rss}");
    native.destroy(&top("a"), None).await.expect("known");
    native.forget(&top("a")).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fork_bomb_stops_at_its_limit() {
    require!(root, cgroup);
    if !have_probe("limits::a_fork_bomb_stops_at_its_limit") {
        return;
    }
    let mut place = Place::new("pids", ALL);
    place.config.isolators.cgroups_pids_limit = Some(64);
    let native = place.start();
    let label = |value: &str| Label { key: "pids_limit".into(), value: Some(value.into()) };
    // The first process counts.
    for (id, asked, forked) in
        [("flag", None, 63), ("label", Some("20"), 19), ("above", Some("500"), 63)]
    {
        let mut request = place.probe(id, &["forkbomb"]);
        let labels = asked.map(|value| Labels { labels: vec![label(value)] });
        request.task = Some(TaskInfo { labels, ..TaskInfo::default() });
        native.launch(request).await.expect("launch");
        let output = place.wait_output(id, "forked").await;
        assert_eq!(output, format!("forked {forked}\n"), "{id}");
        native.destroy(&top(id), None).await.expect("known");
        native.forget(&top(id)).await;
        place.check_clean();
    }
    let mut request = place.probe("bad", &["forkbomb"]);
    let labels = Some(Labels { labels: vec![label("many")] });
    request.task = Some(TaskInfo { labels, ..TaskInfo::default() });
    let error = native.launch(request).await.expect_err("must fail").to_string();
    assert!(error.contains("'many' is not a positive number"), "{error}");
}

/// Without a pid namespace the cgroup must find them all, also orphans.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fork_bomb_dies_without_a_pid_namespace() {
    require!(root, cgroup);
    if !have_probe("limits::a_fork_bomb_dies_without_a_pid_namespace") {
        return;
    }
    let mut place = Place::new("bomb", "cgroups/cpu,cgroups/mem,cgroups/pids");
    place.config.isolators.cgroups_pids_limit = Some(200);
    let native = place.start();
    native.launch(place.probe("a", &["forkbomb"])).await.expect("launch");
    place.wait_output("a", "forked 199").await;
    native.launch(place.probe("b", &["orphan", "1000"])).await.expect("launch");
    assert_eq!(end(&native, "b").await.status, Some(0));
    native.destroy(&top("a"), None).await.expect("known");
    native.forget(&top("a")).await;
}
