//! Roots and shims that are there before their containers.

use std::net::Shutdown;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use bulkhead::launch::Engine;
use isolators::plan::{Fixtures, LaunchPlan, LinuxNamespaceType as Kind};
use isolators::plan::{Overlay, Park, ReadyRoot, Top};
use kernel::layers::{Upper, mount_overlay};
use kernel::parked::Parked;
use kernel::root::furnish;

use crate::files::mount;
use crate::{Fixture, busybox_root, require, root_at, until};

const IN_DEV: &str = "fd full null ptmx pts random shm stderr stdin stdout tty urandom zero";
const COVERED_DEV: &str = "fd full null ptmx random stderr stdin stdout tty urandom zero";

/// The shim of a ready root.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Shim {
    None,
    Waits,
    /// It was there, and has ended.
    Dead,
}

struct Row {
    kinds: &'static [Kind],
    /// Something is mounted on `/dev`.
    covered: bool,
    shim: Shim,
    /// The container's shim is that of the root.
    taken: bool,
}

const OWN_PIDS: &[Kind] = &[Kind::Mount, Kind::Pid];
const OWN_NETWORK: &[Kind] = &[Kind::Mount, Kind::Pid, Kind::Network, Kind::Uts, Kind::Ipc];

/// Without a pid namespace the shim keeps a list of its children open beside what it
/// inherits; `/sys` shows the container's own network; what cannot be taken is made again.
#[tokio::test]
async fn a_root_that_is_ready_is_what_the_plan_says() {
    require!(root, busybox, overlay);
    let row = |kinds, covered, shim| {
        let taken = shim == Shim::Waits && kinds != [Kind::Mount];
        Row { kinds, covered, shim, taken }
    };
    for row in [
        row(OWN_PIDS, false, Shim::None),
        row(OWN_PIDS, false, Shim::Waits),
        row(OWN_PIDS, false, Shim::Dead),
        row(OWN_PIDS, true, Shim::None),
        row(OWN_PIDS, true, Shim::Waits),
        row(OWN_NETWORK, false, Shim::None),
        row(OWN_NETWORK, false, Shim::Waits),
        row(&[Kind::Mount], false, Shim::None),
        row(&[Kind::Mount], false, Shim::Waits),
    ] {
        check(&row).await;
    }
}

async fn check(row: &Row) {
    let fixture = Fixture::new("ready", Engine::Linux);
    let fixtures = isolators::filesystem::fixtures("filesystem/linux");
    let script = "echo x > /written; echo x > /dev/null; busybox sleep 1000 & \
                  echo $(ls /); echo $(ls /proc/self/fd); echo $(ls /dev); \
                  busybox stat -c %a /dev/null; busybox wc -l < /proc/self/mounts; \
                  busybox grep -c shared: /proc/self/mountinfo; ls /data; \
                  echo $(ls /sys/firmware; ls /proc/acpi 2> /dev/null); \
                  cat /proc/timer_list; echo x 2> /dev/null > /proc/sys/kernel/domainname; \
                  busybox cut -d' ' -f19 /proc/self/stat; busybox readlink /proc/self/ns/pid; ls /sys/class/net";
    let mut plan = fixture.plan_in(row.kinds, &["sh", "-c", script]);
    let ready = ready(&fixture, &mut plan, fixtures.clone());
    let shim = match row.shim {
        Shim::None => None,
        shim => Some(park(&fixture, &ready, shim).await),
    };
    let pids = shim.as_ref().map(|shim| shim.1.clone());
    *ready.shim.lock().expect("whole") = shim.map(|shim| shim.0);
    plan.ready = Some(ready.into());
    mounts(&fixture, &mut plan, &fixtures, row.covered);

    let (status, output) = fixture.run(&plan).await;
    kernel::mounts::unshare(&fixture.path("data")).expect("not shared");
    let guarded = |top: &Top| {
        let all = top.hidden.iter().chain(&top.protected);
        all.filter(|path| path.exists()).count()
    };
    let there: usize = fixtures.tops().iter().map(|top| top.mounts.len() + guarded(top)).sum();
    // The root and /data.
    let mounts = 2 + there + usize::from(row.covered);
    let in_dev = if row.covered { COVERED_DEV } else { IN_DEV };
    let lines: Vec<_> = output.lines().collect();
    let expected = [
        "bin data dev proc sys written",
        "0 1 2 3",
        in_dev,
        "666",
        &mounts.to_string(),
        "0",
        "file",
        "",
        "0",
    ];
    assert_eq!((status, &lines[..expected.len()]), (Some(0), &expected[..]), "{output}");
    let (own, net) = (lines[expected.len()], lines[expected.len() + 1..].join("\n"));
    assert_eq!(pids.is_some_and(|pids| pids == own), row.taken, "{output}");
    let all = if row.kinds == OWN_NETWORK { "lo".to_owned() } else { interfaces() };
    assert_eq!(net, all);
    assert!(fixture.path("upper/written").exists());
}

/// A ready root for the plan.
fn ready(fixture: &Fixture, plan: &mut LaunchPlan, fixtures: Fixtures) -> ReadyRoot {
    let (lower, top) = (fixture.path("lower"), fixture.path("top"));
    busybox_root(&lower);
    let (upper, work) = (fixture.path("upper"), fixture.path("work"));
    for dir in [&upper, &work, &top, &fixture.path("mnt")] {
        std::fs::create_dir(dir).expect("mkdir");
    }
    let lower = vec![top, lower];
    let own = Upper { upper: &upper, work: &work };
    let (at, known) = (fixture.path("mnt"), ["/bin/sh".into(), "/nothing".into()]);
    let fill = || mount_overlay(&at, &lower, Some(own));
    let namespace = furnish(&at, fill, &fixtures.steps(), &known).expect("a namespace");
    plan.spec.set_root(Some(root_at(&at)));
    plan.overlay = Some(Overlay { lower, upper, work });
    ReadyRoot { namespace, fixtures: fixtures.into(), shim: Default::default() }
}

/// A shim for it, and its pid namespace.
async fn park(fixture: &Fixture, ready: &ReadyRoot, state: Shim) -> (Parked, String) {
    let parked = fixture.launcher.park(ready.namespace.as_fd(), &ready.fixtures).expect("a shim");
    let link = format!("/proc/{}/ns/pid", parked.pid());
    let pids = std::fs::read_link(link).expect("a namespace").display().to_string();
    if state == Shim::Dead {
        parked.socket().shutdown(Shutdown::Both).expect("shut");
        until("the shim has ended", || !parked.is_alive()).await;
    }
    (parked, pids)
}

/// All that containers have, and a directory that is shared on the machine.
fn mounts(fixture: &Fixture, plan: &mut LaunchPlan, fixtures: &Fixtures, covered: bool) {
    let data = fixture.path("data");
    std::fs::create_dir(&data).expect("mkdir");
    kernel::mounts::share(&data).expect("a shared mount");
    std::fs::write(data.join("file"), "").expect("write");
    let tops = fixtures.tops();
    let mut all: Vec<_> = tops.iter().flat_map(|top| top.mounts.clone()).collect();
    all.push(mount(&data, "/data", "bind", &[]));
    if covered {
        all.push(mount(Path::new("tmpfs"), "/dev", "tmpfs", &["mode=755"]));
    }
    plan.spec.set_mounts(Some(all));
    let paths = |list: fn(&Top) -> &Vec<PathBuf>| {
        Some(tops.iter().flat_map(list).map(|path| path.display().to_string()).collect())
    };
    let mut linux = plan.spec.linux().clone().expect("namespaces");
    linux
        .set_devices(Some(tops.iter().flat_map(|top| top.devices.clone()).collect()))
        .set_masked_paths(paths(|top| &top.hidden))
        .set_readonly_paths(paths(|top| &top.protected));
    plan.spec.set_linux(Some(linux));
    plan.file_operations = tops.iter().flat_map(|top| top.links.clone()).collect();
}

/// The machine's network interfaces, one a line.
fn interfaces() -> String {
    let found = std::fs::read_dir("/sys/class/net").expect("interfaces");
    let mut names: Vec<_> =
        found.map(|entry| entry.expect("entry").file_name().into_string().expect("text")).collect();
    names.sort();
    names.join("\n")
}

/// Nobody is left of shims that nobody needed, or whose agent is gone.
#[tokio::test]
async fn a_shim_that_waits_ends_with_whoever_started_it() {
    require!(root, busybox, overlay);
    let fixture = Fixture::new("waits", Engine::Linux);
    let mut plan = fixture.plan(&["true"]);
    let fixtures = isolators::filesystem::fixtures("filesystem/linux");
    let ready = ready(&fixture, &mut plan, fixtures);
    let (dropped, _) = park(&fixture, &ready, Shim::Waits).await;
    let pid = dropped.pid();
    drop(dropped);
    assert!(!Path::new(&format!("/proc/{pid}")).exists(), "it is reaped");
    // As when the agent dies: its end of the socket closes.
    let _ended = park(&fixture, &ready, Shim::Dead).await;
}
