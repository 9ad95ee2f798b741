//! Launch, ends and destroy; many at once; failures that leave nothing.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bulkhead::containerizer::{Containerizer, ContainerizerError, Termination};
use mesos::{CommandInfo, TaskState, command_info::Uri};

use crate::{ALL, Place, end, require, run, top};

#[tokio::test]
async fn ends_are_told_as_they_were() {
    require!(root, cgroup);
    let place = Place::new("ends", ALL);
    let native = place.start();
    for (id, script, status) in
        [("ok", "echo hi", 0), ("three", "exit 3", 3 << 8), ("term", "kill -TERM $$", 15)]
    {
        let (got, output) = run(&place, &native, place.shell(id, script)).await;
        assert_eq!(got, Some(status), "{id}");
        assert_eq!(output, if id == "ok" { "hi\n" } else { "" });
    }
    assert!(native.wait(&top("ok")).await.is_none(), "forgotten");
}

#[tokio::test]
async fn signals_reach_the_first_process_or_all() {
    require!(root, cgroup);
    let place = Place::new("signals", ALL);
    let native = place.start();
    let script = "trap 'echo got; exit 4' USR1; echo ready; while :; do sleep 0.02; done";
    let pid = native.launch(place.shell("a", script)).await.expect("launch").pid.expect("it runs");
    place.wait_output("a", "ready").await;
    assert_eq!(native.containers(), [(top("a"), Some(pid))]);
    let status = native.status(&top("a")).await.expect("a status");
    assert_eq!(status.executor_pid, Some(pid));
    assert!(native.kill(&top("a"), libc::SIGUSR1).await);
    assert_eq!(end(&native, "a").await.status, Some(4 << 8));
    assert!(!native.kill(&top("a"), libc::SIGUSR1).await);
    assert!(!native.kill_all(&top("nobody"), libc::SIGUSR1).await);
}

#[tokio::test]
async fn destroy_says_what_it_was_told() {
    require!(root, cgroup);
    let place = Place::new("told", ALL);
    let native = place.start();
    native.launch(place.shell("a", "trap '' TERM; sleep 1000")).await.expect("launch");
    let error = native.launch(place.shell("a", "true")).await.expect_err("twice");
    assert!(matches!(error, ContainerizerError::AlreadyLaunched(_)), "{error}");
    let told = Termination {
        state: Some(TaskState::TaskKilled),
        message: Some("by hand".into()),
        ..Termination::default()
    };
    let id = top("a");
    let (one, two) = tokio::join!(native.destroy(&id, Some(told)), native.destroy(&id, None));
    let end = one.clone().expect("known");
    assert_eq!((end.status, end.state), (Some(9), Some(TaskState::TaskKilled)));
    assert_eq!(end.message.as_deref(), Some("by hand"));
    assert_eq!(one, two, "all see the same end");
    native.forget(&top("a")).await;
    assert!(native.destroy(&top("a"), None).await.is_none());
}

#[tokio::test]
async fn failed_launches_say_why_and_leave_nothing() {
    require!(root, cgroup);
    let place = Place::new("failures", ALL);
    let native = place.start();
    let missing = CommandInfo {
        shell: Some(false),
        value: Some("/no/such/program".into()),
        ..CommandInfo::default()
    };
    let mut remote = place.shell("a", "true");
    remote.command.uris = vec![Uri { value: "docker://example/x".into(), ..Uri::default() }];
    let mut absent = place.shell("a", "true");
    absent.command.uris = vec![Uri { value: "/no/such/file".into(), ..Uri::default() }];
    let rows = [
        (place.request("a", missing), "/no/such/program"),
        (remote, "images are not fetched as URIs"),
        (absent, "'/no/such/file'"),
    ];
    for (request, wanted) in rows {
        let error = native.launch(request).await.expect_err("must fail");
        assert!(error.to_string().contains(wanted), "{error}");
        assert!(native.containers().is_empty());
        assert!(std::fs::read_dir(place.path("runtime/containers")).expect("dir").next().is_none());
        place.check_clean();
    }
    let source = place.path("tool");
    std::fs::write(&source, "#!/bin/sh\necho fetched\n").expect("write");
    let mut local = place.shell("b", "./tool");
    local.command.uris = vec![Uri {
        value: format!("file://{}", source.display()),
        executable: Some(true),
        ..Uri::default()
    }];
    assert_eq!(run(&place, &native, local).await, (Some(0), "fetched\n".into()));
}

/// Destroyed at every moment of its launch: it always comes to an end.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn destroyed_at_any_moment() {
    require!(root, cgroup);
    let place = Place::new("moment", ALL);
    let native = Arc::new(place.start());
    for step in 0..40 {
        let id = format!("c{step}");
        let (launcher, request) = (Arc::clone(&native), place.shell(&id, "sleep 1000"));
        let launch = tokio::spawn(async move { launcher.launch(request).await });
        tokio::time::sleep(Duration::from_micros(150 * step)).await;
        let of = top(&id);
        let destroyed = tokio::time::timeout(crate::PATIENCE, native.destroy(&of, None));
        destroyed.await.expect("always ends");
        let launched = tokio::time::timeout(crate::PATIENCE, launch).await.expect("always ends");
        // It came before the launch had begun: the container lives on.
        if launched.expect("no panic").is_ok() {
            native.destroy(&top(&id), None).await;
            native.forget(&top(&id)).await;
        }
        place.check_clean();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_hundred_at_once() {
    require!(root, cgroup);
    const COUNT: usize = 200;
    let place = Place::new("many", ALL);
    let native = Arc::new(place.start());
    let requests: Vec<_> =
        (0..COUNT).map(|n| place.shell(&format!("c{n}"), "sleep 1000")).collect();
    let start = Instant::now();
    let launches: Vec<_> = requests
        .into_iter()
        .map(|request| {
            let native = Arc::clone(&native);
            tokio::spawn(async move { native.launch(request).await })
        })
        .collect();
    for launch in launches {
        launch.await.expect("no panic").expect("launch");
    }
    let launched = start.elapsed();
    assert_eq!(native.containers().len(), COUNT);
    let sampled = Instant::now();
    let statistics = native.statistics().await;
    let sampled = sampled.elapsed();
    assert_eq!(statistics.len(), COUNT);
    assert!(
        statistics
            .iter()
            .all(|(_, s)| s.mem_total_bytes.is_some() && s.cpus_user_time_secs.is_some())
    );
    let start = Instant::now();
    let destroys: Vec<_> = (0..COUNT)
        .map(|n| {
            let native = Arc::clone(&native);
            tokio::spawn(async move { native.destroy(&top(&format!("c{n}")), None).await })
        })
        .collect();
    for destroy in destroys {
        assert_eq!(destroy.await.expect("no panic").expect("known").status, Some(9));
    }
    println!(
        "{COUNT}: launched in {launched:?}, sampled in {sampled:?}, destroyed in {:?}",
        start.elapsed()
    );
    for n in 0..COUNT {
        native.forget(&top(&format!("c{n}"))).await;
    }
    assert_eq!(native.destroy_errors(), 0);
    assert!(std::fs::read_dir(place.path("runtime/containers")).expect("dir").next().is_none());
}
