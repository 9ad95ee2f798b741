//! Terminals: whose devpts they are of, who has them, and for how long.

use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::PathBuf;
use std::time::Duration;

use bulkhead::launch::{End, Engine, LaunchError, Recovered, Running, Step, Terminal, recover};
use isolators::plan::{LaunchPlan, LinuxNamespaceType as Kind};
use oci_spec::runtime::{BoxBuilder, Mount};
use tokio::net::unix::pipe::{Receiver, Sender};
use tokio::time::timeout;

use crate::users::{BASE, open_to_all, remap};
use crate::{Fixture, busybox_root, end_of, namespace, require, until};

const PATIENCE: Duration = Duration::from_secs(60);

/// The master end.
struct Master {
    reader: Receiver,
    writer: Sender,
    seen: String,
    /// Until all is read.
    hold: Option<OwnedFd>,
}

impl Master {
    fn of(terminal: Terminal) -> Master {
        let copy = terminal.master.try_clone().expect("a copy");
        Master {
            reader: Receiver::from_owned_fd_unchecked(terminal.master).expect("a reader"),
            writer: Sender::from_owned_fd_unchecked(copy).expect("a writer"),
            seen: String::new(),
            hold: Some(terminal.hold),
        }
    }

    async fn write(&self, text: &str) {
        self.writer.writable().await.expect("writable");
        assert_eq!(self.writer.try_write(text.as_bytes()).expect("write"), text.len());
    }

    /// Reads one piece; false at the end.
    async fn read(&mut self) -> bool {
        let mut buffer = [0; 4096];
        loop {
            timeout(PATIENCE, self.reader.readable()).await.expect("in time").expect("readable");
            match self.reader.try_read(&mut buffer) {
                Ok(length) => {
                    self.seen.push_str(&String::from_utf8_lossy(&buffer[..length]));
                    return length > 0;
                }
                Err(error) if error.raw_os_error() == Some(libc::EIO) => {
                    self.hold = None;
                    return false;
                }
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
                Err(error) => panic!("read: {error}"),
            }
        }
    }

    /// Reads until `text` is there; takes everything up to it.
    async fn expect(&mut self, text: &str) -> String {
        while !self.seen.contains(text) {
            assert!(self.read().await, "no '{text}' in '{}'", self.seen);
        }
        let end = self.seen.find(text).expect("found") + text.len();
        self.seen.drain(..end).collect()
    }

    /// Everything to the end.
    async fn rest(&mut self) -> String {
        while self.read().await {}
        std::mem::take(&mut self.seen)
    }
}

fn with_terminal(mut plan: LaunchPlan) -> LaunchPlan {
    let mut process = plan.spec.process().clone().expect("a process");
    let size = BoxBuilder::default().height(11u64).width(222u64).build().expect("complete");
    process.set_terminal(Some(true)).set_console_size(Some(size));
    plan.spec.set_process(Some(process));
    plan
}

async fn start(fixture: &Fixture, plan: &LaunchPlan) -> (Running, Master) {
    let record = fixture.path("record");
    let _ = std::fs::remove_file(&record);
    let launching = fixture.launcher.launch(plan, &record).await.expect("launch");
    assert!(launching.waits(), "nothing is written before somebody reads");
    let master = Master::of(launching.terminal().expect("a terminal"));
    (launching.release().await.expect("release"), master)
}

fn mount(kind: &str, target: &str, options: &[&str]) -> Mount {
    let mut mount = Mount::default();
    mount
        .set_typ(Some(kind.to_owned()))
        .set_source(Some(PathBuf::from(kind)))
        .set_destination(PathBuf::from(target))
        .set_options(Some(options.iter().map(|o| (*o).to_owned()).collect()));
    mount
}

/// A root of its own with a `/dev` of its own.
fn in_a_root(fixture: &Fixture, line: &str) -> LaunchPlan {
    let mut plan = fixture.plan_in_root(&["sh", "-c", line]);
    let devpts = ["newinstance", "ptmxmode=0666", "mode=0620", "gid=5"];
    plan.spec.set_mounts(Some(vec![
        mount("proc", "/proc", &[]),
        mount("tmpfs", "/dev", &["mode=755"]),
        mount("devpts", "/dev/pts", &devpts),
    ]));
    let link = isolators::plan::FileOperation::Symlink {
        target: "pts/ptmx".into(),
        link: "/dev/ptmx".into(),
    };
    plan.file_operations.push(link);
    with_terminal(plan)
}

#[tokio::test]
async fn a_terminal_is_of_the_containers_own_devpts() {
    require!(root, busybox);
    let fixture = Fixture::new("own-terminal", Engine::Linux);
    // The seventh word is its terminal.
    let line = "busybox tty; busybox stty size; echo to error >&2; \
                read -r line < /proc/self/stat; set -- $line; echo $7; \
                stat -c '%t:%T %u %g %a' /dev/console /dev/pts/0; busybox tty < /dev/console; exit 3";
    let mut plan = in_a_root(&fixture, line);
    let mut process = plan.spec.process().clone().expect("a process");
    let mut user = process.user().clone();
    user.set_uid(65_534).set_gid(65_534);
    process.set_user(user);
    plan.spec.set_process(Some(process));
    let (running, mut master) = start(&fixture, &plan).await;
    let node = "88:0 65534 5 620\r\n";
    let expected =
        format!("/dev/pts/0\r\n11 222\r\nto error\r\n34816\r\n{node}{node}/dev/console\r\n");
    assert_eq!(master.rest().await, expected);
    assert_eq!(end_of(&running).await.status(), Some(3 << 8));
    assert_eq!(fixture.output(), "", "it has the terminal in the place of the streams");
}

#[tokio::test]
async fn without_a_devpts_it_is_the_hosts_and_goes_with_its_container() {
    require!(root);
    let kinds: [&[Kind]; 2] = [&[], &[Kind::Mount, Kind::Pid]];
    for (engine, kinds) in [Engine::Posix, Engine::Linux].into_iter().zip(kinds) {
        let fixture = Fixture::new("host-terminal", engine);
        let mut plan =
            fixture.plan_in(kinds, &["sh", "-c", "tty; stty size; read line; echo =$line"]);
        if engine == Engine::Posix {
            plan.spec.set_linux(None);
        }
        let (running, mut master) = start(&fixture, &with_terminal(plan)).await;
        let text = master.expect("11 222\r\n").await;
        let path = text.lines().next().expect("a line").to_owned();
        let node = std::fs::metadata(&path).expect("it is there");
        assert!(node.file_type().is_char_device() && node.uid() == 0, "{path}");
        master.write("typed\n").await;
        assert_eq!(master.rest().await, "typed\r\n=typed\r\n");
        assert_eq!(end_of(&running).await.status(), Some(0));
        drop(master);
        // Another may have its number by now, with another birth.
        let same = |again: std::fs::Metadata| {
            again.ctime() == node.ctime() && again.ctime_nsec() == node.ctime_nsec()
        };
        until("the terminal is gone", || !std::fs::metadata(&path).is_ok_and(same)).await;
    }
}

#[tokio::test]
async fn it_belongs_to_the_containers_user_whatever_the_host_calls_it() {
    require!(root);
    let fixture = Fixture::new("mapped-terminal", Engine::Linux);
    open_to_all(&fixture.path(""));
    let line = "stat -c %u $(tty); tty; read line";
    let mut plan = fixture.plan_in(&[Kind::Mount], &["sh", "-c", line]);
    remap(&mut plan);
    let (running, mut master) = start(&fixture, &with_terminal(plan)).await;
    let host = |text: &str| {
        let path = text.lines().find(|line| line.starts_with("/dev/")).expect("a path");
        std::fs::metadata(path).expect("it is there").uid()
    };
    let text = master.expect("/dev/pts/").await + &master.expect("\r\n").await;
    assert_eq!((text.lines().next(), host(&text)), (Some("0"), BASE), "{text}");

    // One that enters the namespaces of another.
    let joined = |kind: Kind, name: &str| {
        namespace(kind, Some(format!("/proc/{}/ns/{name}", running.pid()).into()))
    };
    let mut plan = fixture.plan_in(&[], &["sh", "-c", line]);
    let spaces = vec![joined(Kind::User, "user"), joined(Kind::Mount, "mnt")];
    plan.spec.linux_mut().as_mut().expect("set").set_namespaces(Some(spaces));
    let record = fixture.path("guest");
    let launching = fixture.launcher.launch(&with_terminal(plan), &record).await.expect("launch");
    let mut guests = Master::of(launching.terminal().expect("a terminal"));
    let guest = launching.release().await.expect("release");
    let text = guests.expect("/dev/pts/").await + &guests.expect("\r\n").await;
    assert_eq!((text.lines().next(), host(&text)), (Some("0"), BASE), "{text}");
    for (running, mut master) in [(guest, guests), (running, master)] {
        master.write("\n").await;
        master.rest().await;
        assert_eq!(end_of(&running).await.status(), Some(0));
    }
}

#[tokio::test]
async fn keys_are_signals_and_jobs_are_controlled() {
    require!(root);
    let fixture = Fixture::new("keys", Engine::Linux);
    let line = "trap 'echo caught' INT; sh -c 'echo ready; exec sleep 1000'; \
                trap 'stty size; exit 4' WINCH; echo sized; while :; do sleep 0.1; done";
    let plan = with_terminal(fixture.plan_in(&[Kind::Mount, Kind::Pid], &["sh", "-c", line]));
    let (running, mut master) = start(&fixture, &plan).await;
    master.expect("ready\r\n").await;
    // To the foreground processes, the sleep among them, or the shell would wait on.
    master.write("\x03").await;
    master.expect("caught\r\n").await;
    master.expect("sized\r\n").await;
    let size = kernel::terminal::Window { rows: 7, columns: 77 };
    let terminal = running.terminal().expect("again");
    kernel::terminal::set_window(terminal.master.as_fd(), size).expect("resize");
    master.expect("7 77\r\n").await;
    drop((terminal, master));
    assert_eq!(end_of(&running).await.status(), Some(4 << 8));
}

#[tokio::test]
async fn whoever_has_it_may_go_and_another_takes_it() {
    require!(root);
    let fixture = Fixture::new("kept-terminal", Engine::Linux);
    let line = "trap 'echo hung up; exit 1' HUP; echo one; while read line; do echo =$line; done";
    let plan = with_terminal(fixture.plan_in(&[Kind::Mount, Kind::Pid], &["sh", "-c", line]));
    let (running, mut master) = start(&fixture, &plan).await;
    master.expect("one\r\n").await;
    drop((master, running));
    let found = recover(&fixture.path("record")).await.expect("recover");
    let Recovered::Running(running) = found else { panic!("it runs: {found:?}") };
    let terminal = running.terminal().expect("a terminal");
    // With it comes where its output goes.
    let mut output = std::fs::File::from(terminal.output.try_clone().expect("a copy"));
    std::io::Write::write_all(&mut output, b"kept").expect("write");
    assert_eq!(fixture.output(), "kept");
    let mut master = Master::of(terminal);
    master.write("again\n").await;
    assert_eq!(master.expect("=again\r\n").await, "again\r\n=again\r\n");
    // An end of input.
    master.write("\x04").await;
    assert_eq!(master.rest().await, "");
    assert_eq!(end_of(&running).await.status(), Some(0));
}

#[tokio::test]
async fn the_last_words_are_kept_if_nobody_reads() {
    require!(root);
    let kinds: [&[Kind]; 2] = [&[], &[Kind::Mount, Kind::Pid]];
    for kinds in kinds {
        let fixture = Fixture::new("last-words", Engine::Linux);
        let line = "echo one; read line; seq 300; (sleep 1000; echo never) & exit 2";
        let plan = with_terminal(fixture.plan_in(kinds, &["sh", "-c", line]));
        let (running, mut master) = start(&fixture, &plan).await;
        master.expect("one\r\n").await;
        master.write("\n").await;
        drop(master);
        assert_eq!(end_of(&running).await.status(), Some(2 << 8));
        let expected: String = (1..=300).map(|n| format!("{n}\r\n")).collect();
        // What was read before is not repeated; the echo may have been.
        assert_eq!(fixture.output().trim_start_matches("\r\n"), expected, "{kinds:?}");
        assert!(running.terminal().is_err(), "it is over");
    }
}

#[tokio::test]
async fn what_a_container_puts_in_the_place_of_ptmx_is_not_opened() {
    require!(root, busybox);
    let fixture = Fixture::new("no-ptmx", Engine::Linux);
    let root = fixture.path("root");
    busybox_root(&root);
    std::fs::create_dir(root.join("dev")).expect("mkdir");
    // Opening it for reading and writing would not wait, and opening a disk might do
    // anything.
    for kind in ["p", "b 7 200", "c 1 3"] {
        let path = root.join("dev/ptmx");
        let _ = std::fs::remove_file(&path);
        let mut made = std::process::Command::new("mknod");
        let words = kind.split(' ');
        assert!(made.arg(&path).args(words).status().expect("mknod").success());
        let plan = with_terminal(fixture.plan_in_root(&["sh", "-c", "true"]));
        let record = fixture.path("record");
        let _ = std::fs::remove_file(&record);
        let error = fixture.launcher.launch(&plan, &record).await.expect_err("refused");
        assert_eq!((error.step(), error.errno()), (Some(Step::Terminal), Some(libc::ENODEV)));
        assert!(matches!(error, LaunchError::Step { .. }), "{error}");
    }
}

#[tokio::test]
async fn a_shim_that_is_killed_hangs_up() {
    require!(root);
    let fixture = Fixture::new("hung-up", Engine::Linux);
    let plan = fixture.plan_in(&[Kind::Mount, Kind::Pid], &["sh", "-c", "echo one; sleep 1000"]);
    let (running, mut master) = start(&fixture, &with_terminal(plan)).await;
    master.expect("one\r\n").await;
    running.kill_shim().expect("kill");
    assert_eq!(end_of(&running).await, End::Lost);
    assert_eq!(master.rest().await, "");
    assert!(running.terminal().is_err(), "nobody has it any more");
}
