//! `network/ports`: what listens in a container is found, judged, or refused at
//! once, on whatever cgroups this machine has.

use std::net::{TcpListener, UdpSocket};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};

use bulkhead::containerizer::native::Native;
use bulkhead::containerizer::{Containerizer, LaunchRequest, Termination};
use isolators::network::ports::settings::Bind;
use kernel::bpf;
use kernel::cgroup::Hierarchies;
use mesos::resources::Ranges;
use mesos::task_status::Reason;
use mesos::{ContainerId, Resource, value};

use crate::recovery::{in_a_life, known};
use crate::{PATIENCE, Place, have_probe, require, resources, support, top};

const ISOLATION: &str = "cgroups/mem,namespaces/pid,filesystem/linux,network/ports";
/// Without it init is what the test starts, and stays it through `exec`.
const ON_THE_HOST: &str = "cgroups/mem,filesystem/linux,network/ports";

/// A port that nobody has, for TCP and UDP, and that the kernel gives to nobody.
fn free_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let start = 12_000 + (std::process::id() % 1500) as u16 * 10;
    loop {
        let port = start + NEXT.fetch_add(1, Ordering::Relaxed);
        let free =
            |ip: &str| TcpListener::bind((ip, port)).is_ok() && UdpSocket::bind((ip, port)).is_ok();
        if free("0.0.0.0") && (!have_v6() || free("::")) {
            return port;
        }
    }
}

fn have_v6() -> bool {
    TcpListener::bind("[::1]:0").is_ok()
}

fn place(name: &str, enforce: bool, bind: Bind) -> Place {
    let mut place = Place::new(name, ISOLATION);
    place.config.isolators.ports.watch_interval = Duration::from_millis(100);
    place.config.isolators.ports.enforce = enforce;
    place.config.isolators.ports.bind = bind;
    place
}

fn with_ports(ports: &[u16]) -> Vec<Resource> {
    let range =
        ports.iter().map(|port| u64::from(*port)).map(|p| value::Range { begin: p, end: p });
    let ports = Resource {
        name: "ports".into(),
        r#type: value::Type::Ranges as i32,
        ranges: Some(value::Ranges { range: range.collect() }),
        ..Resource::default()
    };
    resources(0.1, 64.0).into_iter().chain([ports]).collect()
}

/// A container with `ports` that listens on `addresses`.
fn listener(place: &Place, id: &str, ports: &[u16], arguments: &[&str]) -> LaunchRequest {
    let mut request = place.probe(id, &[&["listen"], arguments].concat());
    request.requests = with_ports(ports);
    request
}

async fn end(native: &Native, id: &ContainerId) -> Termination {
    let end = tokio::time::timeout(PATIENCE, native.wait(id)).await.expect("ends in time");
    end.expect("a known container")
}

fn is_violation(end: &Termination, container: &str, port: u16) {
    assert_eq!(end.reasons, [Reason::ContainerLimitation], "{end:?}");
    let wanted =
        format!("Container {container} is listening on unallocated port(s): [{port}-{port}]");
    assert_eq!(end.message.as_deref(), Some(wanted.as_str()));
    let limited: Vec<_> = end.limited_resources.iter().map(|r| r.name.as_str()).collect();
    assert_eq!(limited, ["ports"]);
}

/// The container's v2 cgroup, if there is a v2 hierarchy.
fn unified(place: &Place, id: &str) -> Option<PathBuf> {
    let found = Hierarchies::detect().expect("the mount table");
    let mount = found.unified()?.mount.clone();
    Some(mount.join(&place.config.isolators.cgroups_root).join(id))
}

/// Whether ports can be refused here; says so if they cannot.
fn can_refuse(test: &str) -> bool {
    let has = Hierarchies::detect().expect("the mount table").unified().is_some();
    if !has {
        support::skip(test, "a cgroup2 mount");
    }
    has
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn foreign_ports_end_the_container_and_own_ones_do_not() {
    require!(root, cgroup);
    if !have_probe("foreign_ports_end_the_container_and_own_ones_do_not") {
        return;
    }
    let place = place("ports", true, Bind::Any);
    let native = place.start();
    native.recover(Vec::new()).await.expect("recovery of nothing");
    let mut kinds = vec![("tcp4", "tcp", "127.0.0.1"), ("udp4", "udp", "0.0.0.0")];
    if have_v6() {
        kinds.extend([("tcp6", "tcp", "[::1]"), ("udp6", "udp", "[::]")]);
    }
    for (name, protocol, ip) in kinds {
        let (own, foreign) = (free_port(), free_port());
        let (good, bad) = (format!("good-{name}"), format!("bad-{name}"));
        let address = format!("{ip}:{own}");
        let request = listener(&place, &good, &[own], &[protocol, &address]);
        native.launch(request).await.expect("launch");
        place.wait_output(&good, "listening").await;
        let address = format!("{ip}:{foreign}");
        let request = listener(&place, &bad, &[own], &[protocol, &address]);
        native.launch(request).await.expect("launch");
        is_violation(&end(&native, &top(&bad)).await, &bad, foreign);
    }
    // Those with own ports were looked at as often, and still run.
    for (id, pid) in native.containers() {
        if id.value.starts_with("good") {
            let pid = pid.expect("it runs");
            assert!(kernel::proctree::ProcessStat::read(pid).is_some());
            native.destroy(&id, None).await.expect("destroyed");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nested_containers_have_the_ports_of_their_top_level_container() {
    require!(root, cgroup);
    if !have_probe("nested_containers_have_the_ports_of_their_top_level_container") {
        return;
    }
    let place = place("ports-nested", true, Bind::Any);
    let native = place.start();
    native.recover(Vec::new()).await.expect("recovery of nothing");
    let (own, foreign) = (free_port(), free_port());
    let mut outer = place.shell("outer", "exec sleep 1000");
    outer.requests = with_ports(&[own]);
    native.launch(outer).await.expect("launch");
    let nested = |id: &str, port: u16| {
        let mut request = place.probe(id, &["listen", "tcp", &format!("127.0.0.1:{port}")]);
        request.id = ContainerId { value: id.into(), parent: Some(Box::new(top("outer"))) };
        request.requests = Vec::new();
        request
    };
    native.launch(nested("good", own)).await.expect("launch");
    place.wait_output("good", "listening").await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert_eq!(native.containers().len(), 2, "both run");
    native.launch(nested("bad", foreign)).await.expect("launch");
    is_violation(&end(&native, &top("outer")).await, "outer.bad", foreign);
}

/// Waits until `told` is what listens in the container.
async fn listens(native: &Native, id: &str, told: &[(&str, &[u16])]) {
    let wanted =
        |ports: &[u16]| Ranges::new(ports.iter().map(|port| u64::from(*port)).map(|p| (p, p)));
    let wanted: Vec<(&str, Ranges)> =
        told.iter().map(|(name, ports)| (*name, wanted(ports))).collect();
    let start = Instant::now();
    loop {
        let all = native.listening();
        let found = all.iter().find(|(known, _)| known == id).map(|(_, found)| found);
        let found: Option<Vec<(&str, Ranges)>> =
            found.map(|found| found.iter().map(|(name, ports)| (name, ports.clone())).collect());
        if found.as_ref() == Some(&wanted) {
            return;
        }
        assert!(start.elapsed() < PATIENCE, "{id}: {found:?}, not {wanted:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_listens_is_told_by_protocol_and_version() {
    require!(root, cgroup);
    if !have_probe("what_listens_is_told_by_protocol_and_version") {
        return;
    }
    let place = place("ports-told", false, Bind::Any);
    let native = place.start();
    native.recover(Vec::new()).await.expect("recovery of nothing");
    let (tcp, foreign, nested) = (free_port(), free_port(), free_port());
    let addresses = [tcp, foreign].map(|port| format!("127.0.0.1:{port}"));
    let arguments = ["tcp", &addresses[0], &addresses[1]];
    native.launch(listener(&place, "outer", &[tcp], &arguments)).await.expect("launch");
    native.launch(place.shell("quiet", "exec sleep 1000")).await.expect("launch");
    // Whatever it may have.
    let ports = if tcp < foreign { [tcp, foreign] } else { [foreign, tcp] };
    listens(&native, "outer", &[("tcp", &ports)]).await;
    listens(&native, "quiet", &[]).await;
    // What is nested counts with it, for as long as it is there.
    let (name, ip) = if have_v6() { ("udp6", "[::1]") } else { ("udp", "127.0.0.1") };
    let mut inner = place.probe("inner", &["listen", "udp", &format!("{ip}:{nested}")]);
    inner.id = ContainerId { value: "inner".into(), parent: Some(Box::new(top("outer"))) };
    inner.requests = Vec::new();
    let id = inner.id.clone();
    native.launch(inner).await.expect("launch");
    listens(&native, "outer", &[("tcp", &ports), (name, &[nested])]).await;
    native.destroy(&id, None).await.expect("destroyed");
    listens(&native, "outer", &[("tcp", &ports)]).await;
    for id in ["outer", "quiet"] {
        native.destroy(&top(id), None).await.expect("destroyed");
    }
    assert_eq!(native.listening(), []);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_task_that_ends_may_listen_a_while_on_ports_that_are_taken_away() {
    require!(root, cgroup);
    if !have_probe("a_task_that_ends_may_listen_a_while_on_ports_that_are_taken_away") {
        return;
    }
    let place = place("ports-ending", true, Bind::Any);
    let native = place.start();
    native.recover(Vec::new()).await.expect("recovery of nothing");
    let (own, foreign) = (free_port(), free_port());
    let request = listener(&place, "ending", &[own], &["tcp", &format!("127.0.0.1:{own}")]);
    native.launch(request).await.expect("launch");
    listens(&native, "ending", &[("tcp", &[own])]).await;
    native.update(&top("ending"), with_ports(&[]), Default::default()).await.expect("update");
    // All are looked at in one go: with this one the other was judged as well, since.
    let request = listener(&place, "bad", &[], &["tcp", &format!("127.0.0.1:{foreign}")]);
    native.launch(request).await.expect("launch");
    is_violation(&end(&native, &top("bad")).await, "bad", foreign);
    assert_eq!(native.containers().len(), 1, "it still runs");
    native.destroy(&top("ending"), None).await.expect("destroyed");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_ports_in_scope_are_judged_and_only_if_enforced() {
    require!(root, cgroup);
    if !have_probe("only_ports_in_scope_are_judged_and_only_if_enforced") {
        return;
    }
    let (inside, outside) = (free_port(), free_port());
    let port = u64::from(inside);
    for enforce in [false, true] {
        let mut place = place("ports-scope", enforce, Bind::Any);
        place.config.isolators.ports.scope = Some(Ranges::new([(port, port)]));
        let native = place.start();
        native.recover(Vec::new()).await.expect("recovery of nothing");
        let address = format!("127.0.0.1:{outside}");
        let request = listener(&place, "out", &[], &["tcp", &address]);
        native.launch(request).await.expect("launch");
        place.wait_output("out", "listening").await;
        let address = format!("127.0.0.1:{inside}");
        let request = listener(&place, "in", &[], &["tcp", &address]);
        native.launch(request).await.expect("launch");
        if enforce {
            is_violation(&end(&native, &top("in")).await, "in", inside);
        } else {
            place.wait_output("in", "listening").await;
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
        let left = native.containers().into_iter().map(|(id, _)| id);
        let left: Vec<ContainerId> = left.collect();
        assert_eq!(left.len(), if enforce { 1 } else { 2 }, "{left:?}");
        for id in left {
            native.destroy(&id, None).await.expect("destroyed");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_network_of_its_own_is_looked_at_too() {
    require!(root, cgroup);
    if !have_probe("a_network_of_its_own_is_looked_at_too") {
        return;
    }
    let mut place = place("ports-netns", true, Bind::Any);
    place.config.isolation = ON_THE_HOST.into();
    let native = place.start();
    native.recover(Vec::new()).await.expect("recovery of nothing");
    let (own, foreign) = (free_port(), free_port());
    let probe = crate::probe().display().to_string();
    for (id, port) in [("good", own), ("bad", foreign)] {
        let line = format!("exec unshare --net {probe} listen tcp 0.0.0.0:{port}");
        let mut request = place.shell(id, &line);
        request.requests = with_ports(&[own]);
        native.launch(request).await.expect("launch");
    }
    is_violation(&end(&native, &top("bad")).await, "bad", foreign);
    place.wait_output("good", "listening").await;
    native.destroy(&top("good"), None).await.expect("destroyed");
}

/// The agent again, with its container adopted.
async fn again(place: &Place, request: &LaunchRequest, pid: Option<u32>) -> Native {
    let native = place.start();
    native.recover(vec![known(request, pid)]).await.expect("recover");
    // Answered by its task, which has adopted it by then.
    native.status(&request.id).await.expect("it runs");
    native
}

/// Starts a listener in the container, and says what came of it.
async fn attempt(native: &Native, place: &Place, id: &str, arguments: &[&str]) -> String {
    let mut request = place.probe(id, &[&["listen"], arguments].concat());
    request.id = ContainerId { value: id.into(), parent: Some(Box::new(top("outer"))) };
    request.requests = Vec::new();
    let nested = request.id.clone();
    native.launch(request).await.expect("launch");
    let start = Instant::now();
    loop {
        let output = place.output(id);
        if output.ends_with('\n') {
            native.destroy(&nested, None).await.expect("destroyed");
            return output.trim().to_owned();
        }
        assert!(start.elapsed() < PATIENCE, "{id} never said anything");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

const REFUSED: &str = "errno 1";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn foreign_ports_are_refused_by_the_kernel() {
    require!(root, cgroup);
    let name = "foreign_ports_are_refused_by_the_kernel";
    if !have_probe(name) || !can_refuse(name) {
        return;
    }
    let place = place("ports-bind", true, Bind::Ephemeral);
    let native = place.start();
    native.recover(Vec::new()).await.expect("recovery of nothing");
    let (own, foreign, later) = (free_port(), free_port(), free_port());
    let mut outer = place.shell("outer", "exec sleep 1000");
    outer.requests = with_ports(&[own]);
    native.launch(outer).await.expect("launch");
    // Somebody else's program on the same cgroup.
    let group = unified(&place, "outer").expect("a cgroup of v2");
    bpf::refuse_ports_as("stranger", &group, &[(1, 1)]).expect("a program");

    let ip4 = |port: u16| format!("127.0.0.1:{port}");
    for protocol in ["tcp", "udp"] {
        let id = |what: &str| format!("{protocol}-{what}");
        let said = attempt(&native, &place, &id("own"), &[protocol, &ip4(own)]).await;
        assert_eq!(said, format!("listening {own}"));
        let said = attempt(&native, &place, &id("foreign"), &[protocol, &ip4(foreign)]).await;
        assert_eq!(said, REFUSED);
        if have_v6() {
            let six = format!("[::1]:{foreign}");
            let said = attempt(&native, &place, &id("six"), &[protocol, &six]).await;
            assert_eq!(said, REFUSED);
        }
    }
    // Nobody listens there: a client takes a port that the kernel chooses.
    let said = attempt(&native, &place, "any", &["udp", "127.0.0.1:0"]).await;
    assert!(said.starts_with("listening "), "{said}");
    let said = attempt(&native, &place, "before", &["tcp", &ip4(later)]).await;
    assert_eq!(said, REFUSED);
    native
        .update(&top("outer"), with_ports(&[own, later]), Default::default())
        .await
        .expect("update");
    let said = attempt(&native, &place, "after", &["tcp", &ip4(later)]).await;
    assert_eq!(said, format!("listening {later}"));
    let both = ["bulkhead_bind", "stranger"];
    assert_eq!(bpf::bind_names(&group).expect("names"), [both, both].concat());
    native.destroy(&top("outer"), None).await.expect("destroyed");
    assert!(!group.exists(), "its cgroup goes with it");
}

#[test]
fn a_restart_of_the_agent_changes_no_ports() {
    require!(root, cgroup);
    let name = "a_restart_of_the_agent_changes_no_ports";
    if !have_probe(name) || !can_refuse(name) {
        return;
    }
    let mut place = place("ports-again", true, Bind::Allocated);
    let (own, foreign) = (free_port(), free_port());
    let mut outer = place.shell("outer", "exec sleep 1000");
    outer.requests = with_ports(&[own]);
    let group = unified(&place, "outer").expect("a cgroup of v2");
    let ip4 = |port: u16| format!("127.0.0.1:{port}");
    let pid = in_a_life(async {
        let native = place.start();
        native.recover(Vec::new()).await.expect("recovery of nothing");
        native.launch(outer.clone()).await.expect("launch").pid
    });
    let ours = ["bulkhead_bind"; 2];
    assert_eq!(bpf::bind_names(&group).expect("names"), ours, "it stays without an agent");
    in_a_life(async {
        let native = again(&place, &outer, pid).await;
        let said = attempt(&native, &place, "first", &["tcp", &ip4(foreign)]).await;
        assert_eq!(said, REFUSED);
        let said = attempt(&native, &place, "second", &["tcp", &ip4(own)]).await;
        assert_eq!(said, format!("listening {own}"));
        assert_eq!(bpf::bind_names(&group).expect("names"), ours, "one each, not two");
    });
    // Another agent refuses nothing; what it finds is judged at once.
    bpf::refuse_ports_as("stranger", &group, &[(1, 1)]).expect("a program");
    place.config.isolators.ports.bind = Bind::Any;
    in_a_life(async {
        let native = again(&place, &outer, pid).await;
        assert_eq!(bpf::bind_names(&group).expect("names"), ["stranger"; 2]);
        let mut request = place.probe("third", &["listen", "tcp", &ip4(foreign)]);
        request.id = ContainerId { value: "third".into(), parent: Some(Box::new(top("outer"))) };
        request.requests = Vec::new();
        let launched = native.launch(request).await;
        // It may be found, and ended, before its launch is told.
        let told = launched.as_ref().err().map(ToString::to_string).unwrap_or_default();
        assert!(!told.contains("its parent container does not run"), "{told}");
        is_violation(&end(&native, &top("outer")).await, "outer.third", foreign);
    });
}

#[test]
fn containers_that_are_older_than_the_isolator_are_judged_by_their_processes() {
    require!(root, cgroup);
    let name = "containers_that_are_older_than_the_isolator_are_judged_by_their_processes";
    if !have_probe(name) {
        return;
    }
    let mut place = place("ports-old", true, Bind::Any);
    let (own, foreign) = (free_port(), free_port());
    let good = listener(&place, "good", &[own], &["tcp", &format!("127.0.0.1:{own}")]);
    let bad = listener(&place, "bad", &[own], &["udp", &format!("127.0.0.1:{foreign}")]);
    place.config.isolation = "cgroups/mem,namespaces/pid,filesystem/linux".into();
    let pids = in_a_life(async {
        let native = place.start();
        native.recover(Vec::new()).await.expect("recovery of nothing");
        let mut pids = Vec::new();
        for request in [&good, &bad] {
            pids.push(native.launch(request.clone()).await.expect("launch").pid);
        }
        place.wait_output("good", "listening").await;
        place.wait_output("bad", "listening").await;
        pids
    });
    place.config.isolation = ISOLATION.into();
    in_a_life(async {
        let native = place.start();
        let all = vec![known(&good, pids[0]), known(&bad, pids[1])];
        native.recover(all).await.expect("recover");
        is_violation(&end(&native, &top("bad")).await, "bad", foreign);
        assert_eq!(native.containers().len(), 1, "the other one runs");
        native.destroy(&top("good"), None).await.expect("destroyed");
    });
}

#[test]
fn what_cannot_work_is_said_at_start() {
    require!(root, cgroup);
    let mut place = place("ports-start", false, Bind::Any);
    place.config.launcher = bulkhead::launch::Engine::Posix;
    place.config.isolation = "network/ports".into();
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let _inside = runtime.enter();
    let error = Native::new(place.config.clone()).err().expect("refused").to_string();
    assert!(error.contains("network/ports") && error.contains("--launcher=linux"), "{error}");
    if Hierarchies::detect().expect("the mount table").unified().is_none() {
        place.config.launcher = bulkhead::launch::Engine::Linux;
        place.config.isolators.ports.bind = Bind::Allocated;
        let error = Native::new(place.config.clone()).err().expect("refused").to_string();
        assert!(error.contains("--container_ports_bind") && error.contains("cgroup2"), "{error}");
    }
}
