//! The life of an oci container: its end, signals, release, failures, and what an
//! agent that comes back finds. The same records as for the linux engine.

use bulkhead::launch::{End, LaunchError, Recovered, recover};
use isolators::plan::LinuxNamespaceType as Kind;

use crate::{Fixture, end_of, namespace, require, until};

const BASE: [Kind; 2] = [Kind::Mount, Kind::Pid];

#[tokio::test]
async fn exit_statuses_and_signals_are_recorded() {
    require!(root);
    let fixture = Fixture::new("status");
    for kinds in [&BASE[..], &[Kind::Mount]] {
        for (script, status) in [
            ("exit 0", 0),
            ("exit 42", 42 << 8),
            ("kill -9 $$", libc::SIGKILL),
            ("kill -TERM $$", libc::SIGTERM),
        ] {
            let (got, output) =
                fixture.run("oci", &fixture.plan(kinds, &["sh", "-c", script])).await;
            assert_eq!(got, Some(status), "{script} in {kinds:?}: {output}");
        }
    }
}

#[tokio::test]
async fn signals_reach_the_command_and_nothing_survives_it() {
    require!(root);
    let fixture = Fixture::new("signals");
    for kinds in [&BASE[..], &[Kind::Mount]] {
        let script = "trap 'echo bye; exit 3' TERM; (setsid sleep 1000 & echo $!); echo ready; \
            while :; do sleep 0.05; done";
        let plan = fixture.plan(kinds, &["sh", "-c", script]);
        let running = fixture.launch("oci", &plan).await.expect("launch");
        until("ready", || fixture.output().contains("ready")).await;
        let orphans: Vec<u32> = kernel::proctree::tree(running.shim_pid())
            .into_iter()
            .map(|process| process.pid)
            .collect();
        assert!(orphans.len() >= 3, "shim, shell, orphan: {orphans:?}");
        assert!(running.signal(libc::SIGTERM).expect("signal"));
        assert_eq!(end_of(&running).await.status(), Some(3 << 8));
        assert!(fixture.output().ends_with("bye\n"));
        assert!(!running.signal(libc::SIGTERM).expect("signal"), "it is gone");
        for pid in orphans {
            let path = std::path::PathBuf::from(format!("/proc/{pid}"));
            until("nothing is left", || !path.exists()).await;
        }
    }
}

#[tokio::test]
async fn a_waiting_container_starts_when_released_and_ends_when_dropped() {
    require!(root);
    let fixture = Fixture::new("release");
    let mut plan = fixture.plan(&BASE, &["sh", "-c", "echo started"]);
    plan.wait_for = vec!["somebody"];
    let launching = fixture.engines["oci"].launch(&plan, &fixture.record()).await.expect("launch");
    assert!(launching.waits());
    let pid = launching.pid();
    assert!(std::path::Path::new(&format!("/proc/{pid}")).exists());
    assert_eq!(fixture.output(), "");
    let running = launching.release().await.expect("release");
    assert_eq!(running.pid(), pid);
    assert_eq!(end_of(&running).await.status(), Some(0));
    assert_eq!(fixture.output(), "started\n");

    std::fs::remove_file(fixture.record()).expect("remove");
    let launching = fixture.engines["oci"].launch(&plan, &fixture.record()).await.expect("launch");
    let path = format!("/proc/{}", launching.pid());
    drop(launching);
    until("it is killed", || !std::path::Path::new(&path).exists()).await;
    let made = crate::cgroups::known(&fixture);
    until("its cgroups are gone", || !made.iter().any(|path| path.exists())).await;
}

#[tokio::test]
async fn failures_say_why_and_leave_nothing() {
    require!(root);
    let fixture = Fixture::new("failures");
    let error = async |plan| match fixture.launch("oci", &plan).await {
        Err(error) => error,
        Ok(_) => panic!("it runs"),
    };
    for kinds in [&BASE[..], &[Kind::Mount]] {
        let missing = error(fixture.plan(kinds, &["/no/such/program"])).await;
        let LaunchError::Runtime(text) = &missing else { panic!("{}", kernel::chain(&missing)) };
        assert!(text.contains("no executable file: /no/such/program"), "{text}");
        let mut plan = fixture.plan(kinds, &["true"]);
        plan.spec.process_mut().as_mut().expect("set").set_cwd("/no/such/directory".into());
        let lost = error(plan).await;
        let LaunchError::Runtime(text) = &lost else { panic!("{}", kernel::chain(&lost)) };
        assert!(text.contains("ENOENT"), "{text}");
        match recover(&fixture.record()).await.expect("a record") {
            Recovered::Failed(LaunchError::Runtime(again)) => assert_eq!(&again, text),
            other => panic!("{other:?}"),
        }
    }
    let refused = error(fixture.plan(&[Kind::Pid], &["true"])).await;
    assert_eq!(
        refused.to_string(),
        "the oci engine does not support containers without a new mount namespace \
         (isolator filesystem/linux) yet"
    );
}

#[tokio::test]
async fn an_agent_that_comes_back_finds_it_running_then_ended() {
    require!(root);
    let fixture = Fixture::new("recover");
    for kinds in [&BASE[..], &[Kind::Mount]] {
        let running =
            fixture.launch("oci", &fixture.plan(kinds, &["sleep", "1000"])).await.expect("launch");
        let pid = running.pid();
        // The agent is gone; its record and the bundle are what is left.
        drop(running);
        let Recovered::Running(again) = recover(&fixture.record()).await.expect("a record") else {
            panic!("it runs");
        };
        assert_eq!(again.pid(), pid);
        assert!(again.signal(libc::SIGKILL).expect("signal"));
        let End::Exited(exited) = end_of(&again).await else { panic!("recorded") };
        assert_eq!(exited.status, libc::SIGKILL);
        match recover(&fixture.record()).await.expect("a record") {
            Recovered::Exited(again) => assert_eq!(again, exited),
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test]
async fn killing_the_shim_kills_the_container() {
    require!(root);
    let fixture = Fixture::new("shim");
    for kinds in [&BASE[..], &[Kind::Mount]] {
        let running =
            fixture.launch("oci", &fixture.plan(kinds, &["sleep", "1000"])).await.expect("launch");
        let path = format!("/proc/{}", running.pid());
        assert!(running.kill_shim().expect("kill"));
        assert_eq!(end_of(&running).await, End::Lost);
        until("it dies", || {
            std::fs::read_to_string(format!("{path}/stat"))
                .map_or(true, |stat| stat.contains(") Z"))
        })
        .await;
    }
}

#[tokio::test]
async fn what_libcontainer_cannot_do_is_refused_by_name() {
    require!(root);
    let fixture = Fixture::new("refused");
    let bind = |source: &str, options: &[&str]| {
        let mut mount = oci_spec::runtime::Mount::default();
        let options = options.iter().map(|option| (*option).to_owned()).collect();
        mount
            .set_destination("/mnt".into())
            .set_typ(Some("bind".to_owned()))
            .set_source(Some(source.into()))
            .set_options(Some(options));
        mount
    };
    let mut plans = [(); 4].map(|()| fixture.plan(&BASE, &["true"]));
    plans[0].spec.set_mounts(Some(vec![bind("/tmp", &["rbind", "rshared"])]));
    plans[1].spec.set_mounts(Some(vec![bind("/proc/1/root/dev/shm", &["rbind"])]));
    let linux = plans[2].spec.linux_mut().as_mut().expect("set");
    let ids = oci_spec::runtime::LinuxIdMappingBuilder::default();
    let ids = vec![ids.host_id(300_000_u32).size(65536_u32).build().expect("complete")];
    let spaces = [Kind::Mount, Kind::Pid, Kind::User].map(|kind| namespace(kind, None));
    linux.set_namespaces(Some(spaces.into()));
    linux.set_uid_mappings(Some(ids.clone())).set_gid_mappings(Some(ids));
    let linux = plans[3].spec.linux_mut().as_mut().expect("set");
    linux.set_sysctl(Some([("net.ipv4.conf.eth0/7.mtu".to_owned(), "9".to_owned())].into()));
    let wanted = [
        "volumes with bidirectional mount propagation",
        "mounts of another container (a shared /dev/shm)",
        "the user namespace (--userns_remap)",
        "kernel settings of 'net.ipv4.conf.eth0.*' with dots in names",
    ];
    for (plan, what) in plans.iter().zip(wanted) {
        let error = fixture.launch("oci", plan).await.expect_err(what).to_string();
        assert_eq!(error, format!("the oci engine does not support {what} yet"));
    }
}

#[tokio::test]
async fn a_second_container_joins_the_namespaces_of_the_first() {
    require!(root);
    let fixture = Fixture::new("join");
    let kinds = [Kind::Mount, Kind::Pid, Kind::Ipc, Kind::Uts, Kind::Network];
    let first =
        fixture.launch("oci", &fixture.plan(&kinds, &["sleep", "1000"])).await.expect("first");
    let mut plan = fixture.plan(&[Kind::Mount], &["sleep", "1000"]);
    let files = ["pid", "ipc", "uts", "net"];
    {
        let linux = plan.spec.linux_mut().as_mut().expect("set");
        let mut all = linux.namespaces().clone().expect("set");
        for (kind, file) in kinds[1..].iter().zip(files) {
            let path = format!("/proc/{}/ns/{file}", first.pid());
            all.push(namespace(*kind, Some(path.into())));
        }
        linux.set_namespaces(Some(all));
    }
    // Another record: the first one lives.
    let record = fixture.path("second");
    let launching = fixture.engines["oci"].launch(&plan, &record).await.expect("second");
    let second = launching.release().await.expect("release");
    for file in files {
        let link = |pid: u32| std::fs::read_link(format!("/proc/{pid}/ns/{file}")).expect("ns");
        assert_eq!(link(first.pid()), link(second.pid()), "{file}");
    }
    second.signal(libc::SIGTERM).expect("signal");
    assert_eq!(end_of(&second).await.status(), Some(libc::SIGTERM));
    first.signal(libc::SIGKILL).expect("signal");
    assert_eq!(end_of(&first).await.status(), Some(libc::SIGKILL));
}
