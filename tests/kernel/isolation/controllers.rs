//! cpuset, blkio, hugetlb, net_cls, net_prio, perf_event and all of them at once.

use std::process::Command;
use std::time::{Duration, Instant};

use bulkhead::containerizer::native::Native;
use bulkhead::containerizer::{Containerizer, KnownContainer, LaunchRequest};
use isolators::api::ContainerContext;
use isolators::cgroups::cpuset::Policy;
use isolators::cgroups::net_cls::Handles;
use isolators::cgroups::{hugetlb, net_prio, perf_event};
use isolators::config::{Config, Launcher};
use isolators::{registry, suite};
use kernel::cpus::CpuSet;

use crate::{Mounts, Place, have_controller, have_probe, labelled, require, resources, top};

/// The kernel moves a controller between hierarchies for one caller at a time.
static MOUNTS: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

/// The processors that the kernel lets a process use.
fn allowed(pid: u32) -> CpuSet {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("a process");
    let line = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:"));
    line.expect("a list").parse().expect("a list of processors")
}

fn sleeper(place: &Place, id: &str, cpus: f64) -> LaunchRequest {
    let mut request = place.shell(id, "exec sleep 1000");
    request.requests = resources(cpus, 32.0);
    request
}

async fn start(native: &Native, request: LaunchRequest) -> u32 {
    native.launch(request).await.expect("launch").pid.expect("a pid")
}

async fn stop(native: &Native, id: &str) {
    native.destroy(&top(id), None).await.expect("known");
    native.forget(&top(id)).await;
}

fn own_cpus() -> CpuSet {
    std::fs::read_to_string("/sys/devices/system/cpu/online").expect("sysfs").parse().expect("cpus")
}

#[tokio::test]
async fn whole_cpus_are_exclusive() {
    require!(root, cgroup);
    if !have_controller("controllers::whole_cpus_are_exclusive", "cpuset") {
        return;
    }
    let all = own_cpus();
    if all.0.len() < 2 {
        crate::support::skip("controllers::whole_cpus_are_exclusive", "two processors");
        return;
    }
    let mut place = Place::new("cpuset", "cgroups/cpuset");
    place.config.isolators.cgroups.cpuset_policy = Policy::Exclusive;
    let native = place.start();
    let shared = start(&native, sleeper(&place, "shared", 0.5)).await;
    assert_eq!(allowed(shared), all);
    let pinned = sleeper(&place, "pinned", 1.0);
    let pin = start(&native, pinned.clone()).await;
    let own = allowed(pin);
    assert_eq!(own.0.len(), 1, "{own}");
    let rest = CpuSet(all.0.difference(&own.0).copied().collect());
    assert_eq!(allowed(shared), rest);
    let late = start(&native, sleeper(&place, "late", 0.5)).await;
    assert_eq!(allowed(late), rest);
    let error = native.launch(sleeper(&place, "big", 999.0)).await.expect_err("too many");
    assert!(error.to_string().contains("999 exclusive processors were asked for"), "{error}");
    let _ = native.destroy(&top("big"), None).await;
    native.forget(&top("big")).await;

    // The next life of the agent reads back who has what.
    drop(native);
    let native = place.start();
    let known = [
        (sleeper(&place, "shared", 0.5), shared),
        (pinned, pin),
        (sleeper(&place, "late", 0.5), late),
    ];
    let known = known.map(|(request, pid)| KnownContainer { request, pid: Some(pid) });
    native.recover(known.to_vec()).await.expect("recover");
    assert_eq!((allowed(pin), allowed(shared)), (own, rest));
    // A resize to a fraction gives the processor back.
    let (id, wanted) = (top("pinned"), resources(0.5, 32.0));
    native.update(&id, wanted, Default::default()).await.expect("update");
    assert_eq!((allowed(pin), allowed(shared)), (all.clone(), all.clone()));
    let (id, wanted) = (top("pinned"), resources(1.0, 32.0));
    native.update(&id, wanted, Default::default()).await.expect("update");
    assert_eq!(allowed(pin).0.len(), 1);
    stop(&native, "pinned").await;
    assert_eq!((allowed(late), allowed(shared)), (all.clone(), all));
    stop(&native, "late").await;
    stop(&native, "shared").await;
}

/// A loop device on a file, gone with the test.
struct Loop(String);

impl Loop {
    fn new(place: &Place, megabytes: u64) -> Loop {
        let file = place.path("disk");
        std::fs::File::create(&file).and_then(|f| f.set_len(megabytes << 20)).expect("a file");
        let output = Command::new("losetup").arg("-f").output().expect("losetup");
        let device = String::from_utf8_lossy(&output.stdout).trim().to_owned();
        let done = Command::new("losetup").arg(&device).arg(&file).status().expect("losetup");
        assert!(done.success(), "losetup {device}");
        Loop(device)
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        let _ = Command::new("losetup").arg("-d").arg(&self.0).status();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reads_are_throttled_and_counted() {
    require!(root, cgroup, program_losetup);
    let io = if crate::support::have("cgroup2") { "io" } else { "blkio" };
    if !have_controller("controllers::reads_are_throttled_and_counted", io) {
        return;
    }
    let place = Place::new("blkio", "cgroups/blkio");
    let native = place.start();
    let device = Loop::new(&place, 3);
    let command =
        format!("dd if={} of=/dev/null bs=65536 2>/dev/null; echo done; sleep 1000", device.0);
    let mut request = place.shell("slow", &command);
    request.task = labelled("blkio_throttle", &format!("{} rbps=1048576", device.0));
    let begin = Instant::now();
    native.launch(request).await.expect("launch");
    place.wait_output("slow", "done").await;
    let slow = begin.elapsed();
    println!("3 MB at 1 MB/s: {slow:?}");
    assert!(slow > Duration::from_secs(2) && slow < Duration::from_secs(20), "{slow:?}");
    let knob = place.knob("slow", "blkio.throttle.read_bps_device");
    let knob = knob.or_else(|| place.knob("slow", "io.max")).expect("a knob");
    assert!(knob.contains("1048576"), "{knob}");

    let number = kernel::machine::device(device.0.as_ref()).expect("stat").expect("a device");
    let statistics = native.statistics().await;
    let blkio = statistics[0].1.blkio_statistics.as_ref().expect("blkio");
    let entry = blkio.throttling.iter().find(|entry| {
        let device = entry.device.as_ref().map(|d| (d.major_number, d.minor_number));
        device == Some((u64::from(number.major), u64::from(number.minor)))
    });
    let read = entry.expect("the loop device").io_service_bytes.iter().find(|v| v.op == Some(2));
    let read = read.and_then(|v| v.value).expect("bytes read");
    assert!((3 << 20..4 << 20).contains(&read), "{read}");
    stop(&native, "slow").await;

    let mut bad = place.shell("bad", "true");
    bad.task = labelled("blkio_throttle", "8:0 speed=1");
    let error = native.launch(bad).await.expect_err("must fail").to_string();
    assert!(error.contains("label 'blkio_throttle'") && error.contains("'speed'"), "{error}");
}

#[tokio::test]
async fn block_weights_are_written_or_refused() {
    require!(root, cgroup);
    let io = if crate::support::have("cgroup2") { "io" } else { "blkio" };
    if !have_controller("controllers::block_weights_are_written_or_refused", io) {
        return;
    }
    let mut place = Place::new("weight", "cgroups/blkio");
    place.config.isolators.cgroups.blkio_weight = Some(300);
    let native = place.start();
    let mut request = sleeper(&place, "a", 0.1);
    request.task = labelled("blkio_weight", "200");
    match native.launch(request).await {
        Ok(_) => {
            let files = ["blkio.bfq.weight", "blkio.weight", "io.weight", "io.bfq.weight"];
            let weights: Vec<String> =
                files.into_iter().filter_map(|file| place.knob("a", file)).collect();
            let expected = |w: &String| w.contains("200") || w.trim() == "1000";
            assert!(!weights.is_empty() && weights.iter().all(expected), "{weights:?}");
            stop(&native, "a").await;
        }
        Err(error) => assert!(error.to_string().contains("neither bfq's nor iocost's"), "{error}"),
    }
}

#[tokio::test]
async fn huge_pages_are_limited() {
    require!(root, cgroup);
    if !have_controller("controllers::huge_pages_are_limited", "hugetlb") {
        return;
    }
    let _mounts = MOUNTS.lock().await;
    let mut place = Place::new("hugetlb", "cgroups/hugetlb");
    let _hierarchies = Mounts::of(&mut place);
    place.config.isolators.cgroups.hugetlb_limits =
        hugetlb::parse_limits("2MB=64MB").expect("limits");
    let native = place.start();
    let mut request = sleeper(&place, "a", 0.1);
    request.task = labelled(hugetlb::LABEL, "2MB=8MB");
    start(&native, request).await;
    start(&native, sleeper(&place, "b", 0.1)).await;
    for (id, wanted) in [("a", 8u64 << 20), ("b", 64 << 20)] {
        let knob = place.knob(id, "hugetlb.2MB.limit_in_bytes");
        let knob = knob.or_else(|| place.knob(id, "hugetlb.2MB.max")).expect("a limit");
        assert_eq!(knob.trim(), wanted.to_string());
        stop(&native, id).await;
    }
    let mut bad = place.shell("bad", "true");
    bad.task = labelled(hugetlb::LABEL, "3MB=6MB");
    let error = native.launch(bad).await.expect_err("must fail").to_string();
    assert!(error.contains("no pages of that size"), "{error}");
}

/// The class id that the kernel has, and the one in the container's status.
async fn class_ids(place: &Place, native: &Native, id: &str) -> (String, Option<u32>) {
    let status = native.status(&top(id)).await.expect("status");
    let ours = status.cgroup_info.and_then(|info| info.net_cls).and_then(|n| n.classid);
    (place.knob(id, "net_cls.classid").unwrap_or_default().trim().to_owned(), ours)
}

#[tokio::test]
async fn packets_have_class_ids() {
    require!(root, cgroup1);
    if !have_controller("controllers::packets_have_class_ids", "net_cls") {
        return;
    }
    let _mounts = MOUNTS.lock().await;
    let mut place = Place::new("netcls", "cgroups/net_cls,cgroups/net_prio");
    let _hierarchies = Mounts::of(&mut place);
    place.config.isolators.cgroups.net_cls = Some(Handles { primary: 0x10, first: 2, last: 3 });
    place.config.isolators.cgroups.net_prio = net_prio::parse_map("lo=5").expect("a map");
    let native = place.start();
    let (a, b) = (sleeper(&place, "a", 0.1), sleeper(&place, "b", 0.1));
    let pids = (start(&native, a.clone()).await, start(&native, b.clone()).await);
    let id = |n: u32| (n.to_string(), Some(n));
    assert_eq!(class_ids(&place, &native, "a").await, id(0x10_0002));
    assert_eq!(class_ids(&place, &native, "b").await, id(0x10_0003));
    let map = place.knob("a", "net_prio.ifpriomap").expect("a map");
    assert!(map.lines().any(|line| line == "lo 5"), "{map}");
    let error = native.launch(sleeper(&place, "c", 0.1)).await.expect_err("no handle is left");
    assert!(error.to_string().contains("are in use"), "{error}");
    let _ = native.destroy(&top("c"), None).await;
    native.forget(&top("c")).await;

    drop(native);
    let native = place.start();
    let known = [(a, pids.0), (b, pids.1)];
    let known = known.map(|(request, pid)| KnownContainer { request, pid: Some(pid) });
    native.recover(known.to_vec()).await.expect("recover");
    assert_eq!(class_ids(&place, &native, "b").await, id(0x10_0003));
    stop(&native, "a").await;
    start(&native, sleeper(&place, "d", 0.1)).await;
    assert_eq!(class_ids(&place, &native, "d").await, id(0x10_0002), "the only free one");
    stop(&native, "b").await;
    stop(&native, "d").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn events_are_counted_where_the_work_is() {
    require!(root, cgroup);
    let test = "controllers::events_are_counted_where_the_work_is";
    if !have_controller(test, "perf_event") || !have_probe(test) {
        return;
    }
    let mut place = Place::new("perf", "cgroups/perf_event");
    let second = Duration::from_millis(500);
    let plan = perf_event::Plan::new("task-clock,page-faults,context-switches", second, second);
    place.config.isolators.cgroups.perf = Some(plan.expect("a plan"));
    let native = place.start();
    native.launch(place.probe("busy", &["burn"])).await.expect("launch");
    native.launch(sleeper(&place, "idle", 0.1)).await.expect("launch");
    let begin = Instant::now();
    let clock = loop {
        let mut clocks = [None, None];
        for (id, figures) in native.statistics().await.iter() {
            let perf = figures.perf.as_ref().expect("always there");
            let index = usize::from(id.value == "busy");
            clocks[index] = perf.task_clock.filter(|_| perf.duration > 0.0);
        }
        // The second whole sample: the first may have begun before the work.
        if let [Some(idle), Some(busy)] = clocks
            && begin.elapsed() > Duration::from_millis(1500)
        {
            break (idle, busy);
        }
        assert!(begin.elapsed() < crate::PATIENCE, "no sample: {clocks:?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    };
    println!("task clock of 500 ms: idle {} ms, busy {} ms", clock.0, clock.1);
    assert!(clock.0 < 20.0 && clock.1 > 50.0, "{clock:?}");
    stop(&native, "busy").await;
    stop(&native, "idle").await;
}

/// Whatever this machine has, together.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_controllers_together() {
    require!(root, cgroup);
    let _mounts = MOUNTS.lock().await;
    let mut place = Place::new("all", "cgroups/all");
    let _hierarchies = Mounts::of(&mut place);
    place.config.isolators.cgroups_pids_limit = Some(99);
    let native = place.start();
    start(&native, sleeper(&place, "a", 0.5)).await;
    assert_eq!(place.knob("a", "pids.max").as_deref().map(str::trim), Some("99"));
    let statistics = native.statistics().await;
    let figures = &statistics[0].1;
    assert!(figures.cpus_user_time_secs.is_some() && figures.mem_total_bytes.is_some());
    assert!(figures.blkio_statistics.is_some());
    let (id, wanted) = (top("a"), resources(1.0, 64.0));
    native.update(&id, wanted, Default::default()).await.expect("update");
    stop(&native, "a").await;
}

/// The suite's containers, and what their cgroups leave.
struct Fixture<'a>(&'a Place);

impl suite::Fixture for Fixture<'_> {
    fn context(&self, id: &str) -> ContainerContext {
        let directory = |kind: &str| {
            let path = self.0.path(&format!("{kind}-{id}"));
            std::fs::create_dir_all(&path).expect("a directory");
            path
        };
        ContainerContext {
            sandbox: directory("sandbox"),
            runtime: directory("runtime"),
            requests: resources(1.0, 64.0),
            ..suite::context(id)
        }
    }

    fn residue(&self) -> Vec<String> {
        let roots = self.0.cgroup_roots();
        let left = roots.iter().flat_map(|root| crate::dirs_in(root));
        left.map(|path| path.display().to_string()).collect()
    }
}

/// Every controller of this machine keeps the contract's promises.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_conformance_suite_passes() {
    require!(root, cgroup);
    let _mounts = MOUNTS.lock().await;
    let mut place = Place::new("suite", "cgroups/all");
    let _hierarchies = Mounts::of(&mut place);
    let hierarchies = kernel::cgroup::Hierarchies::detect().expect("the mount table");
    let mut config = Config::new(Launcher::Linux, hierarchies);
    config.cgroups_root.clone_from(&place.config.isolators.cgroups_root);
    config.cgroups_destroy_timeout = Duration::from_secs(20);
    config.cgroups = place.config.isolators.cgroups.clone();
    config.cgroups.net_cls = Some(Handles { primary: 1, first: 1, last: 99 });
    config.cgroups_pids_limit = Some(50);
    let second = Duration::from_secs(1);
    config.cgroups.perf = perf_event::Plan::new("task-clock", second, second).ok();
    let made = registry::create("cgroups/all", config.into()).expect("isolators");
    let cgroups = made.all.iter().find(|isolator| isolator.name() == "cgroups").expect("cgroups");
    let outcomes = suite::run(&**cgroups, &Fixture(&place), "cgroups").await;
    assert_eq!(suite::failures(&outcomes), Vec::<String>::new());
    assert!(outcomes.len() > 10, "{outcomes:?}");
}
