//! Failing launches: each names its step, its object and the kernel's answer,
//! and leaves nothing behind.

use std::error::Error as _;
use std::path::PathBuf;

use bulkhead::launch::{Engine, LaunchError, Step};
use isolators::plan::{CgroupJoin, LaunchPlan, LinuxNamespaceType as Kind};
use oci_spec::runtime::{Hooks, Mount};

use crate::{Fixture, empty_linux, namespace, nofile, require, root_at};

async fn refused(fixture: &Fixture, plan: &LaunchPlan) -> (Option<Step>, Option<i32>, String) {
    let error = fixture.launch(plan).await.expect_err("must fail");
    let children = format!("/proc/self/task/{}/children", std::process::id());
    let children = std::fs::read_to_string(children).unwrap_or_default();
    for pid in children.split_whitespace() {
        let name = std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
        assert_ne!(name, "bulkhead-shim\n", "{error}");
    }
    let source = error.source().map(ToString::to_string).unwrap_or_default();
    (error.step(), error.errno(), format!("{error}: {source}"))
}

#[tokio::test]
async fn a_command_that_cannot_be_executed_says_why() {
    let fixture = Fixture::new("exec", Engine::Posix);
    let rows = [
        ("no-such-command", libc::ENOENT, "failed to execute 'no-such-command': No such file"),
        ("/no/such/file", libc::ENOENT, "failed to execute '/no/such/file': No such file"),
        ("/etc/passwd", libc::EACCES, "failed to execute '/etc/passwd': Permission denied"),
        ("/tmp", libc::EACCES, "failed to execute '/tmp': Permission denied"),
        ("/etc/passwd/x", libc::ENOENT, "failed to execute '/etc/passwd/x': No such file"),
    ];
    for (command, errno, message) in rows {
        let got = refused(&fixture, &fixture.plan(&[command])).await;
        assert_eq!((got.0, got.1), (Some(Step::Exec), Some(errno)), "{command}");
        assert!(got.2.starts_with(message), "{}", got.2);
    }
}

#[tokio::test]
async fn each_step_is_named() {
    require!(root);
    let fixture = Fixture::new("steps", Engine::Linux);

    let mut plan = fixture.plan(&["true"]);
    plan.spec.process_mut().as_mut().expect("set").set_cwd("/no/such/dir".into());
    let got = refused(&fixture, &plan).await;
    assert_eq!((got.0, got.1), (Some(Step::WorkingDirectory), Some(libc::ENOENT)), "{}", got.2);
    assert!(got.2.contains("'/no/such/dir'") || got.2.contains("/no/such/dir"), "{}", got.2);

    let mut plan = fixture.plan_in(&[Kind::Mount], &["true"]);
    let mut bind = Mount::default();
    bind.set_source(Some("/no/such/source".into()))
        .set_destination("/mnt".into())
        .set_typ(Some("bind".to_owned()));
    plan.spec.set_mounts(Some(vec![bind]));
    let got = refused(&fixture, &plan).await;
    assert_eq!((got.0, got.1), (Some(Step::Mount), Some(libc::ENOENT)), "{}", got.2);
    assert!(got.2.contains("/no/such/source"), "{}", got.2);

    let mut plan = fixture.plan_in(&[Kind::Mount], &["true"]);
    let mut strange = Mount::default();
    strange.set_destination("/mnt".into()).set_typ(Some("nosuchfs".to_owned()));
    plan.spec.set_mounts(Some(vec![strange]));
    let got = refused(&fixture, &plan).await;
    assert_eq!((got.0, got.1), (Some(Step::Mount), Some(libc::ENODEV)), "{}", got.2);

    let mut plan = fixture.plan_in(&[Kind::Mount], &["true"]);
    plan.spec.set_root(Some(root_at(&fixture.path("nowhere"))));
    let got = refused(&fixture, &plan).await;
    assert_eq!((got.0, got.1), (Some(Step::Mount), Some(libc::ENOENT)), "{}", got.2);

    let mut plan = fixture.plan(&["true"]);
    plan.cgroups = vec![CgroupJoin::V1(PathBuf::from("/sys/fs/cgroup/no/such"))];
    let got = refused(&fixture, &plan).await;
    assert_eq!((got.0, got.1), (Some(Step::Open), Some(libc::ENOENT)), "{}", got.2);

    let mut plan = fixture.plan(&["true"]);
    let mut linux = empty_linux();
    let path = Some(PathBuf::from("/proc/self/ns/uts"));
    linux.set_namespaces(Some(vec![namespace(Kind::Ipc, path)]));
    plan.spec.set_linux(Some(linux));
    let got = refused(&fixture, &plan).await;
    assert_eq!((got.0, got.1), (Some(Step::JoinNamespace), Some(libc::EINVAL)), "{}", got.2);

    let mut plan = fixture.plan(&["true"]);
    let limit = nofile(10, 5);
    plan.spec.process_mut().as_mut().expect("set").set_rlimits(Some(vec![limit]));
    let got = refused(&fixture, &plan).await;
    assert_eq!((got.0, got.1), (Some(Step::Rlimit), Some(libc::EINVAL)), "{}", got.2);
}

#[tokio::test]
async fn plans_that_make_no_sense_are_refused_before_anything_runs() {
    let fixture = Fixture::new("plans", Engine::Posix);
    let plan = fixture.plan_in(&[Kind::Mount], &["true"]);
    let error = fixture.launch(&plan).await.expect_err("refused");
    assert!(matches!(error, LaunchError::Unsupported { engine: "posix", .. }), "{error}");
    for args in [&[][..], &["a\0b"], &[""]] {
        let error = fixture.launch(&fixture.plan(args)).await.expect_err("refused");
        assert!(matches!(error, LaunchError::Plan(_)), "{error}");
    }
    let mut plan = fixture.plan(&["true"]);
    plan.spec.set_hooks(Some(Hooks::default()));
    let error = fixture.launch(&plan).await.expect_err("refused");
    assert_eq!(error.to_string(), "the posix engine does not support OCI hooks yet");
    assert!(!fixture.path("record").exists());
}

#[tokio::test]
async fn a_record_is_never_used_twice() {
    let fixture = Fixture::new("twice", Engine::Posix);
    std::fs::write(fixture.path("record"), "something").expect("write");
    let plan = fixture.plan(&["true"]);
    let error = fixture.launcher.launch(&plan, &fixture.path("record")).await.expect_err("exists");
    assert_eq!(error.errno(), Some(libc::EEXIST));
    assert_eq!(std::fs::read_to_string(fixture.path("record")).expect("read"), "something");
}
