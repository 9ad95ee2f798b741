//! Output through the logger: caps hold while the task writes, and whoever is killed,
//! no byte is lost.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use bulkhead::containerizer::native::Config;
use bulkhead::containerizer::{Containerizer, KnownContainer, LaunchRequest};
use bulkhead::logs::settings::{Dialect, Settings};
use kernel::pidfd::Pidfd;
use mesos::{CommandInfo, Environment, environment::Variable};

use crate::{ALL, PATIENCE, Place, require, top};

/// A place whose containers' output goes through the logger.
fn place(name: &str, parameters: &[(&str, &str)], dialect: Dialect) -> Place {
    let mut place = Place::new(name, ALL);
    let mut settings = Settings::new(dialect);
    settings.socket = place.path("journal");
    for (name, value) in parameters {
        settings.parameter(name, value).expect("a parameter");
    }
    let own = std::env::current_exe().expect("own path");
    let built = own.parent().and_then(Path::parent).expect("target/PROFILE/deps/program");
    place.config = Config {
        logs: Some(settings),
        helper: Some(built.join("bulkhead-helper")),
        ..place.config.clone()
    };
    place
}

/// The logger's pid: its directory is what it was started with.
fn logger(place: &Place) -> Option<u32> {
    let runtime = place.config.runtime_dir.display().to_string();
    let pids = std::fs::read_dir("/proc").expect("procfs").flatten();
    pids.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok()).find(|pid| {
        let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let line = String::from_utf8_lossy(&line).into_owned();
        let words: Vec<&str> = line.split('\0').collect();
        words.len() > 2 && words[1] == "logger" && words[2] == runtime
    })
}

fn until(what: &str, done: impl Fn() -> bool) {
    let by = Instant::now() + PATIENCE;
    while !done() {
        assert!(Instant::now() < by, "{what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// `SIGKILL`, and it is gone.
fn kill(pid: u32) {
    let process = Pidfd::open(pid).expect("it runs");
    process.signal(libc::SIGKILL).expect("signal");
    until("a killed process ends", || process.ended().expect("poll"));
}

/// Files of a stream, the oldest first, with their sizes.
fn files(sandbox: &Path, name: &str) -> Vec<(PathBuf, u64)> {
    let entries = std::fs::read_dir(sandbox).into_iter().flatten().flatten();
    let mut all: Vec<(u32, PathBuf, u64)> = entries
        .filter_map(|entry| {
            let file = entry.file_name().into_string().ok()?;
            let number = match file.strip_prefix(name)? {
                "" => 0,
                rest => rest.strip_prefix('.')?.parse().ok()?,
            };
            Some((number, entry.path(), entry.metadata().ok()?.len()))
        })
        .collect();
    all.sort_by_key(|entry| std::cmp::Reverse(entry.0));
    all.into_iter().map(|(_, path, size)| (path, size)).collect()
}

fn content(sandbox: &Path, name: &str) -> Vec<u8> {
    files(sandbox, name).iter().flat_map(|(path, _)| std::fs::read(path).expect("read")).collect()
}

fn with_variable(mut request: LaunchRequest, name: &str, value: &str) -> LaunchRequest {
    let variable = Variable { name: name.into(), value: Some(value.into()), ..Variable::default() };
    let environment = request.command.environment.get_or_insert_with(Environment::default);
    environment.variables.push(variable);
    request
}

/// A runtime whose end is that of an agent.
fn lives() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("tokio")
}

async fn run(native: &impl Containerizer, request: LaunchRequest) -> Option<i32> {
    let id = request.id.clone();
    native.launch(request).await.expect("launch");
    native.wait(&id).await.expect("an end").status
}

#[tokio::test]
async fn a_task_that_writes_100_mb_leaves_what_is_allowed() {
    require!(root, cgroup);
    let options = ("logrotate_stdout_options", "rotate 3");
    let place = place("logcap", &[("max_stdout_size", "2MB"), options], Dialect::Logrotate);
    let native = place.start();
    let sandbox = place.path("sandbox-cap");
    // Nothing may be above the cap at any moment.
    let seen = std::thread::spawn({
        let sandbox = sandbox.clone();
        move || {
            let (by, mut most) = (Instant::now() + PATIENCE, 0);
            while !sandbox.join("done").exists() && Instant::now() < by {
                let largest = files(&sandbox, "stdout").iter().map(|(_, size)| *size).max();
                most = most.max(largest.unwrap_or(0));
            }
            most
        }
    });
    let line = "seq -f 'line %020.0f of a hundred megabytes' 2000000; touch done; echo last >&2";
    let status = run(&native, place.shell("cap", line)).await;
    assert_eq!(status, Some(0));
    assert!(seen.join().expect("a watcher") <= 2 << 20);
    let left = files(&sandbox, "stdout");
    assert_eq!(left.len(), 4, "{left:?}");
    assert!(left.iter().all(|(_, size)| *size <= 2 << 20), "{left:?}");
    // What is left is the end, without a gap.
    let text = content(&sandbox, "stdout");
    let numbers: Vec<u64> = String::from_utf8(text)
        .expect("text")
        .lines()
        .skip(1)
        .map(|line| line[5..25].parse().expect("a number"))
        .collect();
    assert!(numbers.windows(2).all(|pair| pair[1] == pair[0] + 1));
    assert_eq!(numbers.last(), Some(&2_000_000));
    assert_eq!(content(&sandbox, "stderr"), b"last\n");
}

/// A task that writes numbered lines for a while, and what must be left of them.
const LINES: &str = "i=0; while [ $i -lt 20000 ]; do echo line $i; i=$((i+1)); done";

fn all_lines() -> Vec<u8> {
    (0..20_000).flat_map(|i| format!("line {i}\n").into_bytes()).collect()
}

/// Compares without printing all of it.
fn same(found: &[u8], expected: &[u8]) {
    let pairs = found.iter().zip(expected);
    let at = pairs.take_while(|(a, b)| a == b).count();
    let around = |bytes: &[u8]| {
        let end = bytes.len().min(at + 40);
        String::from_utf8_lossy(&bytes[at.saturating_sub(40)..end]).into_owned()
    };
    let lengths = (found.len(), expected.len());
    assert!(
        found == expected,
        "at {at} of {lengths:?}: {:?}, {:?}",
        around(found),
        around(expected)
    );
}

fn small(name: &str) -> Place {
    let options = ("logrotate_stdout_options", "rotate 90");
    place(name, &[("max_stdout_size", "4KB"), options], Dialect::Logrotate)
}

#[tokio::test]
async fn a_logger_killed_again_and_again_loses_no_byte() {
    require!(root, cgroup);
    let place = small("logkill");
    let native = place.start();
    native.launch(place.shell("k", LINES)).await.expect("launch");
    // On a slow machine a logger would otherwise never live long enough to move a byte.
    const KILLS: u32 = 20;
    let mut kills = 0;
    let ended = async { native.wait(&top("k")).await.expect("an end") };
    tokio::pin!(ended);
    let end = loop {
        tokio::select! {
            end = &mut ended => break end,
            () = tokio::time::sleep(Duration::from_millis(50)) => {
                if let Some(pid) = logger(&place).filter(|_| kills < KILLS) {
                    kill(pid);
                    kills += 1;
                }
            }
        }
    };
    assert_eq!(end.status, Some(0));
    assert!(kills > 0);
    let found = content(&place.path("sandbox-k"), "stdout");
    same(&found, &all_lines());
}

#[test]
fn agent_and_logger_killed_while_a_task_writes_lose_no_byte() {
    require!(root, cgroup);
    let place = small("logagent");
    let wait_for_more = "; while [ ! -e go ]; do sleep 0.05; done; echo over";
    let request = place.shell("k", &format!("{LINES}{wait_for_more}"));
    let first = lives();
    let pid = first.block_on(async {
        let native = place.start();
        native.launch(request.clone()).await.expect("launch").pid.expect("a pid")
    });
    let sandbox = place.path("sandbox-k");
    until("some output", || files(&sandbox, "stdout").len() > 3);
    // An agent's death ends its tasks, descriptors and connections at one stroke.
    first.shutdown_background();
    kill(logger(&place).expect("a logger"));
    std::thread::sleep(Duration::from_millis(300));
    assert!(Path::new(&format!("/proc/{pid}")).exists(), "the task waits for a reader");

    lives().block_on(async {
        let native = place.start();
        let known = KnownContainer { request, pid: Some(pid) };
        native.recover(vec![known]).await.expect("recover");
        std::fs::write(sandbox.join("go"), "").expect("go");
        assert_eq!(native.wait(&top("k")).await.expect("an end").status, Some(0));
    });
    let expected = [&all_lines()[..], b"over\n"].concat();
    same(&content(&sandbox, "stdout"), &expected);
}

#[test]
fn the_logger_ends_with_the_last_agent_and_stream() {
    require!(root, cgroup);
    let place = small("logend");
    let life = lives();
    let request = place.shell("k", "while [ ! -e go ]; do sleep 0.05; done");
    let pid = life.block_on(async {
        let native = place.start();
        native
            .launch(place.shell("k", "while [ ! -e go ]; do sleep 0.05; done"))
            .await
            .expect("launch");
        logger(&place).expect("a logger")
    });
    life.shutdown_background();
    let process = Pidfd::open(pid).expect("it runs");
    std::thread::sleep(Duration::from_secs(2));
    assert!(!process.ended().expect("poll"), "a task still runs");
    std::fs::write(place.path("sandbox-k").join("go"), "").expect("go");
    until("the logger ends", || process.ended().expect("poll"));
    lives().block_on(async {
        let native = place.start();
        let known = KnownContainer { request, pid: None };
        native.recover(vec![known]).await.expect("recover");
        assert_eq!(native.wait(&top("k")).await.expect("an end").status, Some(0));
    });
}

#[tokio::test]
async fn tasks_choose_their_own_caps_and_bad_ones_are_named() {
    require!(root, cgroup);
    let place = place("logenv", &[], Dialect::Logrotate);
    let native = place.start();
    let wanted = place.shell("own", "seq 10000; seq 10000 >&2");
    let wanted = with_variable(wanted, "CONTAINER_LOGGER_MAX_STDOUT_SIZE", "8KB");
    let wanted = with_variable(wanted, "CONTAINER_LOGGER_LOGROTATE_STDOUT_OPTIONS", "rotate 1");
    assert_eq!(run(&native, wanted).await, Some(0));
    let sizes = |name| -> Vec<bool> {
        let all = files(&place.path("sandbox-own"), name);
        all.iter().map(|(_, size)| *size <= 8192).collect()
    };
    assert_eq!((sizes("stdout"), sizes("stderr")), (vec![true, true], vec![false]));
    for (name, value, words) in [
        ("CONTAINER_LOGGER_MAX_STDOUT_SIZE", "1KB", "expected at least 4096 bytes"),
        ("CONTAINER_LOGGER_MAX_SIZE", "1MB", "unknown setting 'max_size'"),
        ("CONTAINER_LOGGER_LOGROTATE_STDERR_OPTIONS", "postrotate", "'postrotate'"),
    ] {
        let bad = with_variable(place.shell("bad", "true"), name, value);
        let text = native.launch(bad).await.expect_err("refused").to_string();
        assert!(text.contains("Failed to load container logger settings"), "{text}");
        assert!(text.contains(name) && text.contains(words), "{text}");
    }
}

#[tokio::test]
async fn a_task_in_the_way_harms_nobody_but_itself() {
    require!(root, cgroup);
    let place = small("logway");
    let native = place.start();
    let secret = place.path("secret");
    std::fs::write(&secret, "kept").expect("write");
    // Each in the way of a rename, or a path to somebody else's file.
    let line = format!(
        "mkdir -p stdout.1/x; echo a; sleep 0.2; rm -f stdout; ln -s {0} stdout; seq 5000; \
         rm -f stdout; ln {0} stdout; seq 5000; rm -f stdout; mkfifo stdout; seq 5000",
        secret.display()
    );
    assert_eq!(run(&native, place.shell("way", &line)).await, Some(0));
    assert_eq!(std::fs::read(&secret).expect("read"), b"kept");
    let newest = place.path("sandbox-way").join("stdout");
    assert!(newest.metadata().is_ok_and(|m| m.is_file() && m.len() <= 4096));
}

#[tokio::test]
async fn logrotate_does_what_only_it_can() {
    require!(root, cgroup, logrotate);
    let options = ("logrotate_stdout_options", "rotate 5\ncompress");
    let place = place("logprog", &[("max_stdout_size", "64KB"), options], Dialect::Logrotate);
    let native = place.start();
    let mut request = place.shell("p", "seq 50000");
    request.user = Some("nobody".into());
    let (uid, gid) = (Some(65_534), Some(65_534));
    std::os::unix::fs::chown(&request.sandbox, uid, gid).expect("chown");
    assert_eq!(run(&native, request).await, Some(0));
    let sandbox = place.path("sandbox-p");
    let mut text = Vec::new();
    for number in (1..=5).rev() {
        let file = sandbox.join(format!("stdout.{number}.gz"));
        if file.exists() {
            let output = std::process::Command::new("zcat").arg(&file).output().expect("zcat");
            text.extend(output.stdout);
        }
    }
    assert!(!text.is_empty(), "nothing was compressed");
    text.extend(std::fs::read(sandbox.join("stdout")).expect("read"));
    let expected: String = (1..=50_000).map(|i| format!("{i}\n")).collect();
    same(&text, expected.as_bytes());
}

#[tokio::test]
async fn lines_reach_the_journal_with_who_spoke() {
    require!(root, cgroup);
    let place =
        place("logjournal", &[("destination_type", "journald+logrotate")], Dialect::Journald);
    let journal = std::os::unix::net::UnixDatagram::bind(place.path("journal")).expect("bind");
    journal.set_read_timeout(Some(PATIENCE)).expect("a limit");
    let native = place.start();
    let line = "echo one; printf 'two\\nthree'; echo bad >&2";
    let request =
        with_variable(place.shell("j", line), "CONTAINER_LOGGER_EXTRA_LABELS", r#"{"team": "a"}"#);
    assert_eq!(run(&native, request).await, Some(0));
    let mut entries = Vec::new();
    let mut buffer = [0; 4096];
    for _ in 0..4 {
        let length = journal.recv(&mut buffer).expect("an entry");
        entries.push(String::from_utf8(buffer[..length].to_vec()).expect("text"));
    }
    let of = |stream: &str| -> Vec<&str> {
        let stream = format!("STREAM={stream}\n");
        let found = entries.iter().filter(|entry| entry.contains(&stream));
        found.filter_map(|e| e.lines().find_map(|l| l.strip_prefix("MESSAGE="))).collect()
    };
    assert_eq!((of("STDOUT"), of("STDERR")), (vec!["one", "two", "three"], vec!["bad"]));
    assert!(entries.iter().all(|e| e.contains("CONTAINER_ID=j\n") && e.contains("TEAM=a\n")));
    assert_eq!(content(&place.path("sandbox-j"), "stdout"), b"one\ntwo\nthree");
}

#[tokio::test]
async fn a_nested_container_and_its_checks_are_logged_too() {
    require!(root, cgroup);
    let place = small("lognest");
    let native = place.start();
    native.launch(place.shell("parent", "sleep 1000")).await.expect("launch");
    let mut nested = place
        .request("n", CommandInfo { value: Some("seq 5000".into()), ..CommandInfo::default() });
    nested.id.parent = Some(Box::new(top("parent")));
    assert_eq!(run(&native, nested).await, Some(0));
    let sandbox = place.path("sandbox-n");
    let expected: String = (1..=5000).map(|i| format!("{i}\n")).collect();
    same(&content(&sandbox, "stdout"), expected.as_bytes());
    assert!(files(&sandbox, "stdout").len() > 3);
    native.destroy(&top("parent"), None).await;
}
