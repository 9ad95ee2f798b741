//! Waiting, release, and what a later agent finds.

use std::io::{BufRead, BufReader};
use std::os::unix::fs::FileExt;
use std::process::{Command, Stdio};
use std::time::Duration;

use bulkhead::launch::{End, Engine, LaunchError, Recovered, Step, recover};
use isolators::plan::LinuxNamespaceType as Kind;

use crate::{Fixture, end_of, require, until};

/// Whether `pid` is there and no zombie.
fn alive(pid: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit(") ").next().is_some_and(|rest| !rest.is_empty() && !rest.starts_with('Z'))
}

#[tokio::test]
async fn a_plan_with_wait_for_blocks_until_it_is_released() {
    let fixture = Fixture::new("wait", Engine::Posix);
    let mut plan = fixture.plan(&["sh", "-c", "echo $$"]);
    plan.wait_for = vec!["network/cni"];
    let launching = fixture.launcher.launch(&plan, &fixture.path("record")).await.expect("launch");
    assert!(launching.waits());
    let pid = launching.pid();
    assert_eq!(
        std::fs::read_to_string(format!("/proc/{pid}/comm")).expect("it exists"),
        "bulkhead-shim\n"
    );
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert_eq!(fixture.output(), "");
    let running = launching.release().await.expect("release");
    assert_eq!(end_of(&running).await.status(), Some(0));
    assert_eq!(fixture.output(), format!("{pid}\n"));
}

#[tokio::test]
async fn dropping_an_unreleased_launch_kills_it() {
    let fixture = Fixture::new("drop", Engine::Posix);
    let mut plan = fixture.plan(&["sh", "-c", "echo ran"]);
    plan.wait_for = vec!["x"];
    let launching = fixture.launcher.launch(&plan, &fixture.path("record")).await.expect("launch");
    let (pid, shim) = (launching.pid(), launching.shim_pid());
    drop(launching);
    until("both are gone", || !alive(pid) && !alive(shim)).await;
    assert_eq!(fixture.output(), "");
}

#[tokio::test]
async fn a_killed_shim_takes_the_container_along() {
    require!(root);
    for kinds in [&[][..], &[Kind::Pid]] {
        let fixture = Fixture::new("killed", Engine::Linux);
        let plan = fixture.plan_in(kinds, &["sleep", "1000"]);
        let running = fixture.launch(&plan).await.expect("launch");
        running.kill_shim().expect("kill");
        assert_eq!(end_of(&running).await, End::Lost);
        until("the first process is gone", || !alive(running.pid())).await;
        let found = recover(&fixture.path("record")).await.expect("recover");
        assert!(matches!(found, Recovered::Lost { pid: None }), "{found:?}");
    }
}

#[tokio::test]
async fn an_exit_is_found_later() {
    let fixture = Fixture::new("later", Engine::Posix);
    let running = fixture.launch(&fixture.plan(&["sh", "-c", "exit 9"])).await.expect("launch");
    let End::Exited(exited) = end_of(&running).await else { panic!("recorded") };
    let found = recover(&fixture.path("record")).await.expect("recover");
    assert!(matches!(found, Recovered::Exited(again) if again == exited));
}

#[tokio::test]
async fn a_failed_launch_is_found_later() {
    let fixture = Fixture::new("failed", Engine::Posix);
    fixture.launch(&fixture.plan(&["no-such-command"])).await.expect_err("fails");
    let Recovered::Failed(error) = recover(&fixture.path("record")).await.expect("recover") else {
        panic!("a failure")
    };
    assert_eq!((error.step(), error.errno()), (Some(Step::Exec), Some(libc::ENOENT)));
}

#[tokio::test]
async fn a_record_of_another_boot_is_lost() {
    let fixture = Fixture::new("boot", Engine::Posix);
    let running = fixture.launch(&fixture.plan(&["true"])).await.expect("launch");
    end_of(&running).await;
    let record = fixture.path("record");
    let file = std::fs::File::options().write(true).open(&record).expect("open");
    file.write_all_at(&[0xaa; 16], 8).expect("write");
    let found = recover(&record).await.expect("recover");
    assert!(matches!(found, Recovered::Lost { pid: None }), "{found:?}");
}

#[tokio::test]
async fn what_is_no_record_is_an_error() {
    let fixture = Fixture::new("no-record", Engine::Posix);
    assert!(recover(&fixture.path("none")).await.is_err());
    std::fs::write(fixture.path("other"), [b'x'; 4096]).expect("write");
    assert!(recover(&fixture.path("other")).await.is_err());
    // Made by an agent that died before it wrote it, and started the shim.
    std::fs::write(fixture.path("short"), "").expect("write");
    let found = recover(&fixture.path("short")).await.expect("recover");
    assert!(matches!(found, Recovered::Failed(LaunchError::Lost(None))), "{found:?}");
}

/// Not a test: the agent of the next one, in a process of its own.
#[tokio::test]
#[ignore = "started by containers_outlive_the_agent"]
async fn agent_that_is_killed() {
    let Some(dir) = std::env::var_os("LAUNCH_AGENT_DIR").map(std::path::PathBuf::from) else {
        return;
    };
    let fixture = Fixture::new("agent", Engine::Posix);
    for (name, script, wait) in [
        ("runs", "sleep 1000", false),
        ("ends", "while ! [ -e $0 ]; do sleep 0.01; done; exit 7", false),
        ("waits", "sleep 1000", true),
    ] {
        let flag = dir.join("flag");
        let mut plan = fixture.plan(&["sh", "-c", script, flag.to_str().expect("text")]);
        plan.wait_for = if wait { vec!["x"] } else { Vec::new() };
        let launching = fixture.launcher.launch(&plan, &dir.join(name)).await.expect("launch");
        println!("pid {}", launching.pid());
        if wait {
            std::mem::forget(launching);
        } else {
            std::mem::forget(launching.release().await.expect("release"));
        }
    }
    println!("ready");
    std::thread::sleep(Duration::from_secs(1000));
}

#[tokio::test]
async fn containers_outlive_the_agent() {
    let fixture = Fixture::new("outlive", Engine::Posix);
    let mut agent = Command::new(std::env::current_exe().expect("own path"))
        .args(["--exact", "recovery::agent_that_is_killed", "--ignored", "--nocapture"])
        .env("LAUNCH_AGENT_DIR", fixture.path(""))
        .stdout(Stdio::piped())
        .spawn()
        .expect("agent");
    let mut pids = Vec::new();
    for line in BufReader::new(agent.stdout.take().expect("piped")).lines() {
        let line = line.expect("a line");
        if let Some((_, pid)) = line.split_once("pid ") {
            pids.push(pid.parse::<u32>().expect("a pid"));
        }
        if line == "ready" {
            break;
        }
    }
    agent.kill().expect("kill -9");
    agent.wait().expect("reap");

    let found = recover(&fixture.path("runs")).await.expect("recover");
    let Recovered::Running(runs) = found else { panic!("it runs: {found:?}") };
    assert_eq!(runs.pid(), pids[0]);
    let found = recover(&fixture.path("ends")).await.expect("recover");
    let Recovered::Running(ends) = found else { panic!("it runs: {found:?}") };
    std::fs::write(fixture.path("flag"), "").expect("write");
    assert_eq!(end_of(&ends).await.status(), Some(7 << 8));
    assert!(runs.signal(libc::SIGTERM).expect("signal"));
    assert_eq!(end_of(&runs).await.status(), Some(libc::SIGTERM));

    let found = recover(&fixture.path("waits")).await.expect("recover");
    let Recovered::Failed(error) = found else { panic!("it never ran: {found:?}") };
    assert_eq!((error.step(), error.errno()), (Some(Step::Release), Some(libc::ECANCELED)));
}
