//! Namespaces: every combination, joining, host name.

use std::path::PathBuf;

use bulkhead::launch::Engine;
use isolators::plan::LinuxNamespaceType as Kind;

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
