//! Namespaces: every combination, joining, host name.

use std::path::PathBuf;

use bulkhead::launch::Engine;
use isolators::plan::LinuxNamespaceType as Kind;
use oci_spec::runtime::LinuxTimeOffset;

use crate::{Fixture, empty_linux, end_of, namespace, require};

const KINDS: [(Kind, &str); 6] = [
    (Kind::Mount, "mnt"),
    (Kind::Uts, "uts"),
    (Kind::Ipc, "ipc"),
    (Kind::Pid, "pid"),
    (Kind::Network, "net"),
    (Kind::Cgroup, "cgroup"),
];

fn link(pid: u32, file: &str) -> PathBuf {
    std::fs::read_link(format!("/proc/{pid}/ns/{file}")).expect("a namespace")
}

#[tokio::test]
async fn every_combination_is_exactly_what_was_asked_for() {
    require!(root);
    let fixture = Fixture::new("combinations", Engine::Linux);
    for bits in 0..1 << KINDS.len() {
        let asked = |i: usize| bits & 1 << i != 0;
        let kinds: Vec<Kind> = KINDS
            .iter()
            .enumerate()
            .filter(|(i, _)| asked(*i))
            .map(|(_, (kind, _))| *kind)
            .collect();
        let running =
            fixture.launch(&fixture.plan_in(&kinds, &["sleep", "1000"])).await.expect("launch");
        for (i, (kind, file)) in KINDS.iter().enumerate() {
            let differs = link(running.pid(), file) != link(std::process::id(), file);
            assert_eq!(differs, asked(i), "{kind:?} in {kinds:?}");
        }
        running.signal(libc::SIGKILL).expect("signal");
        assert_eq!(end_of(&running).await.status(), Some(libc::SIGKILL), "{kinds:?}");
    }
}

#[tokio::test]
async fn a_second_container_joins_the_namespaces_of_the_first() {
    require!(root);
    let fixture = Fixture::new("join", Engine::Linux);
    let kinds: Vec<Kind> =
        KINDS.iter().map(|(kind, _)| *kind).filter(|k| *k != Kind::Cgroup).collect();
    let first = fixture.launch(&fixture.plan_in(&kinds, &["sleep", "1000"])).await.expect("first");
    let mut plan = fixture.plan(&["sleep", "1000"]);
    let mut linux = empty_linux();
    let joined = KINDS.iter().filter(|(kind, _)| *kind != Kind::Cgroup).map(|(kind, file)| {
        namespace(*kind, Some(PathBuf::from(format!("/proc/{}/ns/{file}", first.pid()))))
    });
    linux.set_namespaces(Some(joined.collect()));
    plan.spec.set_linux(Some(linux));
    let second = fixture.launch(&plan).await.expect("second");
    for (_, file) in KINDS {
        assert_eq!(link(second.pid(), file), link(first.pid(), file), "{file}");
    }
    // The first one's init takes the second one's process along.
    first.kill_shim().expect("signal");
    assert_eq!(end_of(&first).await.status(), None);
    assert_eq!(end_of(&second).await.status(), Some(libc::SIGKILL));
}

#[tokio::test]
async fn clocks_are_moved_in_a_time_namespace() {
    require!(root);
    if !kernel::namespaces::Namespace::Time.supported() {
        return crate::support::skip("clocks_are_moved", "time namespaces");
    }
    let fixture = Fixture::new("time", Engine::Linux);
    let script = "cut -d. -f1 /proc/uptime; cat /proc/self/timens_offsets; \
        readlink /proc/self/ns/time /proc/self/ns/time_for_children";
    let host = || -> u64 {
        let text = std::fs::read_to_string("/proc/uptime").expect("readable");
        text.split('.').next().expect("seconds").parse().expect("a number")
    };
    for (kinds, forward) in
        [(&[Kind::Time][..], 0), (&[Kind::Time, Kind::Pid, Kind::Mount], 1_000_000)]
    {
        let mut plan = fixture.plan_in(kinds, &["sh", "-c", script]);
        if forward != 0 {
            let mut offset = LinuxTimeOffset::default();
            offset.set_secs(Some(forward)).set_nanosecs(Some(5));
            let linux = plan.spec.linux_mut().as_mut().expect("set");
            linux.set_time_offsets(Some([("boottime".to_owned(), offset)].into()));
        }
        let before = host();
        let (status, output) = fixture.run(&plan).await;
        let _ = std::fs::remove_file(fixture.path("stdout"));
        assert_eq!(status, Some(0), "{output}");
        let lines: Vec<&str> = output.lines().collect();
        let uptime: u64 = lines[0].parse().expect("a number");
        let after = host();
        let forward = u64::try_from(forward).expect("forward");
        assert!((before + forward..=after + forward + 1).contains(&uptime), "{output}");
        let words: Vec<&str> = lines[2].split_whitespace().collect();
        let part = if forward == 0 { "0" } else { "5" };
        assert_eq!(words, ["boottime", &forward.to_string(), part], "{output}");
        assert_eq!(lines[3], lines[4], "it is in it itself");
        assert_ne!(lines[3], link(std::process::id(), "time").to_string_lossy());
    }
}

#[tokio::test]
async fn kernel_settings_are_the_containers_own() {
    require!(root);
    let fixture = Fixture::new("sysctl", Engine::Linux);
    let host = std::fs::read_to_string("/proc/sys/kernel/msgmax").expect("readable");
    let script = "cat /proc/sys/kernel/msgmax /proc/sys/net/core/somaxconn";
    let mut plan = fixture.plan_in(&[Kind::Ipc, Kind::Network], &["sh", "-c", script]);
    let set = |plan: &mut isolators::plan::LaunchPlan, rows: &[(&str, &str)]| {
        let rows = rows.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        plan.spec.linux_mut().as_mut().expect("set").set_sysctl(Some(rows.collect()));
    };
    set(&mut plan, &[("kernel.msgmax", "12345"), ("net.core.somaxconn", "77")]);
    let (status, output) = fixture.run(&plan).await;
    assert_eq!((status, output.as_str()), (Some(0), "12345\n77\n"));
    assert_eq!(std::fs::read_to_string("/proc/sys/kernel/msgmax").expect("readable"), host);
    set(&mut plan, &[("net.no.such", "1")]);
    let error = fixture.launch(&plan).await.expect_err("no such setting");
    assert_eq!(error.to_string(), "failed to set sysctl net.no.such to '1'");
    assert_eq!(error.errno(), Some(libc::ENOENT));
}

#[tokio::test]
async fn the_host_name_is_set_in_an_uts_namespace() {
    require!(root);
    let fixture = Fixture::new("hostname", Engine::Linux);
    let mut plan = fixture.plan_in(&[Kind::Uts], &["uname", "-n"]);
    plan.spec.set_hostname(Some("inside".to_owned()));
    assert_eq!(fixture.run(&plan).await.1, "inside\n");
}

#[tokio::test]
async fn the_command_is_process_two_of_its_pid_namespace() {
    require!(root);
    let fixture = Fixture::new("pid", Engine::Linux);
    let mut plan =
        fixture.plan_in(&[Kind::Pid, Kind::Mount], &["sh", "-c", "echo $$; cat /proc/1/comm"]);
    let mut proc = oci_spec::runtime::Mount::default();
    proc.set_destination("/proc".into()).set_typ(Some("proc".to_owned())).set_source(None);
    plan.spec.set_mounts(Some(vec![proc]));
    assert_eq!(fixture.run(&plan).await.1, "2\nbulkhead-shim\n");
}
