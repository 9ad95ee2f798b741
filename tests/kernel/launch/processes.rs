//! Processes: exit statuses, signals, zombies, descriptors, identity.

use bulkhead::launch::{End, Engine};
use isolators::plan::LinuxNamespaceType as Kind;
use oci_spec::runtime::{Capability, LinuxCapabilities, User};

use crate::{Fixture, end_of, nofile, require, until};

#[tokio::test]
async fn exit_statuses_and_signals_are_recorded() {
    let fixture = Fixture::new("status", Engine::Posix);
    for (script, status) in [
        ("exit 0", 0),
        ("exit 42", 42 << 8),
        ("kill -9 $$", libc::SIGKILL),
        ("kill -TERM $$", libc::SIGTERM),
    ] {
        let (got, _) = fixture.run(&fixture.plan(&["sh", "-c", script])).await;
        assert_eq!(got, Some(status), "{script}");
    }
}

#[tokio::test]
async fn a_record_has_times_and_usage() {
    let fixture = Fixture::new("usage", Engine::Posix);
    let before = std::time::SystemTime::now();
    let script = "i=0; while [ $i -lt 20000 ]; do i=$((i+1)); done";
    let running = fixture.launch(&fixture.plan(&["sh", "-c", script])).await.expect("launch");
    let End::Exited(exited) = end_of(&running).await else { panic!("recorded") };
    assert!(before <= exited.started && exited.started < exited.ended);
    assert!(exited.user_time + exited.system_time > std::time::Duration::ZERO);
    assert!(exited.max_rss > 100 << 10);
}

#[tokio::test]
async fn the_command_is_found_in_the_path_of_its_environment() {
    let fixture = Fixture::new("path", Engine::Posix);
    let script = fixture.path("hello");
    // No interpreter line: run by the shell, as execvp does.
    std::fs::write(&script, "echo hello $1\n").expect("write");
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(&script, mode).expect("chmod");
    let mut plan = fixture.plan(&["hello", "you"]);
    let path = format!("PATH=/no/such:{}:/bin:/usr/bin", fixture.path("").display());
    plan.spec.process_mut().as_mut().expect("set").set_env(Some(vec![path]));
    let (status, output) = fixture.run(&plan).await;
    assert_eq!((status, output.as_str()), (Some(0), "hello you\n"));
}

#[tokio::test]
async fn executable_and_first_argument_may_differ() {
    let fixture = Fixture::new("argv0", Engine::Posix);
    let mut plan = fixture.plan(&["other-name", "-c", "echo $0"]);
    plan.executable = Some("/bin/sh".to_owned());
    assert_eq!(fixture.run(&plan).await.1, "other-name\n");
}

#[tokio::test]
async fn environment_is_exactly_what_the_plan_says() {
    let fixture = Fixture::new("env", Engine::Posix);
    let mut plan = fixture.plan(&["/usr/bin/env"]);
    let env = vec!["A=1".to_owned(), "B=x y".to_owned()];
    plan.spec.process_mut().as_mut().expect("set").set_env(Some(env));
    assert_eq!(fixture.run(&plan).await.1, "A=1\nB=x y\n");
}

#[tokio::test]
async fn no_descriptor_and_no_signal_setting_leaks() {
    let fixture = Fixture::new("fds", Engine::Posix);
    // Inheritable on purpose; it must not arrive.
    let file = std::fs::File::open("/etc/passwd").expect("open");
    // SAFETY: plain fcntl on an open descriptor.
    unsafe { libc::fcntl(std::os::fd::AsRawFd::as_raw_fd(&file), libc::F_SETFD, 0) };
    let script = "ls /proc/$$/fd; exec grep -E 'Sig(Blk|Ign)' /proc/self/status";
    let (_, output) = fixture.run(&fixture.plan(&["sh", "-c", script])).await;
    let none = "0000000000000000";
    assert_eq!(output, format!("0\n1\n2\nSigBlk:\t{none}\nSigIgn:\t{none}\n"));
}

#[tokio::test]
async fn it_leads_its_own_session() {
    let fixture = Fixture::new("session", Engine::Posix);
    let script = "cut -d' ' -f1,5,6 /proc/$$/stat; umask";
    let running = fixture.launch(&fixture.plan(&["sh", "-c", script])).await.expect("launch");
    end_of(&running).await;
    let pid = running.pid();
    assert_eq!(fixture.output(), format!("{pid} {pid} {pid}\n0022\n"));
}

/// Whatever the launch asked of the scheduler.
#[tokio::test]
async fn shim_and_command_are_scheduled_as_ever() {
    for (engine, kinds) in [(Engine::Posix, &[][..]), (Engine::Linux, &[Kind::Pid])] {
        if engine == Engine::Linux {
            require!(root);
        }
        let fixture = Fixture::new("scheduled", engine);
        let plan = fixture.plan_in(kinds, &["sleep", "1000"]);
        let running = fixture.launch(&plan).await.expect("launch");
        for (who, pid) in [("the shim", running.shim_pid()), ("the command", running.pid())] {
            until(&format!("{who} is not in real time"), || scheduling(pid).0 == 0).await;
        }
        assert_ne!(scheduling(running.pid()).1, kernel::sched::SHORT_SLICE_NS);
        running.signal(libc::SIGKILL).expect("signal");
        end_of(&running).await;
    }
}

/// Policy of a process and its slice in nanoseconds.
fn scheduling(pid: u32) -> (u32, u64) {
    // struct sched_attr, as first published.
    let mut attr = [0u64; 6];
    // SAFETY: `attr` has 48 bytes and lives through the call.
    let done = unsafe { libc::syscall(libc::SYS_sched_getattr, pid, attr.as_mut_ptr(), 48, 0) };
    assert_eq!(done, 0, "{}", std::io::Error::last_os_error());
    ((attr[0] >> 32) as u32, attr[3])
}

#[tokio::test]
async fn orphans_die_with_the_first_process_without_a_pid_namespace() {
    let fixture = Fixture::new("orphans", Engine::Posix);
    let script = "for i in 1 2 3; do (setsid sleep 1000 & echo $!) ; done";
    let running = fixture.launch(&fixture.plan(&["sh", "-c", script])).await.expect("launch");
    assert_eq!(end_of(&running).await.status(), Some(0));
    for pid in fixture.output().lines() {
        assert!(!std::path::Path::new("/proc").join(pid).exists(), "{pid} lives");
    }
}

#[tokio::test]
async fn zombies_are_reaped() {
    require!(root);
    for kinds in [&[][..], &[Kind::Pid]] {
        let fixture = Fixture::new("zombies", Engine::Linux);
        // Orphans whose parent is gone and that end at once.
        let script = "for i in 1 2 3 4 5; do (true &) ; done; echo done; sleep 1000";
        let plan = fixture.plan_in(kinds, &["sh", "-c", script]);
        let running = fixture.launch(&plan).await.expect("launch");
        until("done", || fixture.output().contains("done")).await;
        let shim = running.shim_pid();
        let children = format!("/proc/{shim}/task/{shim}/children");
        until("only the first process is left", || {
            std::fs::read_to_string(&children).expect("children").split_whitespace().count() == 1
        })
        .await;
        running.signal(libc::SIGKILL).expect("signal");
        assert_eq!(end_of(&running).await.status(), Some(libc::SIGKILL));
    }
}

#[tokio::test]
async fn sigterm_reaches_a_trap_in_a_pid_namespace() {
    require!(root);
    let fixture = Fixture::new("term", Engine::Linux);
    let script = "trap 'echo bye; exit 3' TERM; echo ready; while :; do sleep 0.05; done";
    let plan = fixture.plan_in(&[Kind::Pid, Kind::Mount], &["sh", "-c", script]);
    let running = fixture.launch(&plan).await.expect("launch");
    until("ready", || fixture.output().contains("ready")).await;
    assert!(running.signal(libc::SIGTERM).expect("signal"));
    assert_eq!(end_of(&running).await.status(), Some(3 << 8));
    assert!(fixture.output().ends_with("bye\n"));
    assert!(!running.signal(libc::SIGTERM).expect("signal"), "it is gone");
    // And one without a trap dies of it, although it is alone in its namespace.
    let plan = fixture.plan_in(&[Kind::Pid], &["sleep", "1000"]);
    let running = fixture.launch(&plan).await.expect("launch");
    assert!(running.signal(libc::SIGTERM).expect("signal"));
    assert_eq!(end_of(&running).await.status(), Some(libc::SIGTERM));
}

#[tokio::test]
async fn identity_is_what_the_plan_says() {
    require!(root);
    let fixture = Fixture::new("identity", Engine::Posix);
    let mut user = User::default();
    user.set_uid(4242).set_gid(4343).set_umask(Some(0o77)).set_additional_gids(Some(vec![7, 8]));
    let limit = nofile(123, 456);
    let mut caps = LinuxCapabilities::default();
    let one = || Some(std::collections::HashSet::from([Capability::NetRaw]));
    caps.set_bounding(one()).set_permitted(one()).set_effective(one());
    caps.set_inheritable(one()).set_ambient(one());
    let script = "id -u; id -g; id -G; umask; ulimit -n; ulimit -Hn; \
        grep -E 'Cap|NoNewPrivs' /proc/$$/status; cat /proc/$$/oom_score_adj";
    let mut plan = fixture.plan(&["sh", "-c", script]);
    plan.oom_score_adj = Some(345);
    plan.spec
        .process_mut()
        .as_mut()
        .expect("set")
        .set_user(user)
        .set_rlimits(Some(vec![limit]))
        .set_capabilities(Some(caps))
        .set_no_new_privileges(Some(true));
    let (status, output) = fixture.run(&plan).await;
    let raw = "0000000000002000";
    let expected = format!(
        "4242\n4343\n4343 7 8\n0077\n123\n456\nCapInh:\t{raw}\nCapPrm:\t{raw}\nCapEff:\t{raw}\n\
         CapBnd:\t{raw}\nCapAmb:\t{raw}\nNoNewPrivs:\t1\n345\n"
    );
    assert_eq!((status, output), (Some(0), expected));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn sixteen_at_once_from_many_threads() {
    let fixture = std::sync::Arc::new(Fixture::new("many", Engine::Posix));
    let tasks: Vec<_> = (0..16)
        .map(|lane| {
            let fixture = std::sync::Arc::clone(&fixture);
            tokio::spawn(async move {
                for round in 0..10 {
                    let code = (lane * 10 + round) % 200;
                    let plan = fixture.plan(&["sh", "-c", &format!("exit {code}")]);
                    let record = fixture.path(&format!("record-{lane}-{round}"));
                    let launching = fixture.launcher.launch(&plan, &record).await.expect("launch");
                    let running = launching.release().await.expect("release");
                    assert_eq!(end_of(&running).await.status(), Some(code << 8));
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.expect("all well");
    }
}
