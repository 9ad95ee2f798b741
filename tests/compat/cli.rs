//! The `bulkhead` command against a real cluster.

#[path = "../support/cluster.rs"]
mod cluster;
#[path = "../support/mod.rs"]
mod support;

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::process::{Child, Command, Output, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use cluster::{Cluster, Options, binary, free_port};
use serde_json::Value;
use support::TempDir;

fn command(arguments: &[&str]) -> Command {
    let mut command = Command::new("timeout");
    command.arg("60").arg(binary("bulkhead")).args(arguments).stdin(Stdio::null());
    command
}

/// Runs `bulkhead ARGUMENTS --master=...`; code, stdout, stderr.
fn bulkhead(cluster: &Cluster, arguments: &[&str]) -> (i32, String, String) {
    let output =
        command(arguments).env("BULKHEAD_MASTER", &cluster.master).output().expect("run bulkhead");
    parts(&output)
}

fn parts(output: &Output) -> (i32, String, String) {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.code().unwrap_or(-1), text(&output.stdout), text(&output.stderr))
}

fn lines(text: &str) -> Vec<Value> {
    text.lines().map(|l| serde_json::from_str(l).expect("one object per line")).collect()
}

#[test]
fn run_shows_output_and_exits_with_the_result() {
    require!(root, cgroup);
    let cluster = Cluster::start("cli-run", Options::default());
    let (code, out, err) =
        bulkhead(&cluster, &["run", "--command", "echo to stdout; echo to stderr >&2; exit 7"]);
    assert_eq!((code, out.trim()), (7, "to stdout"), "{err}");
    assert!(err.contains("to stderr") && err.contains("TASK_FAILED"), "{err}");

    let (code, out, err) =
        bulkhead(&cluster, &["run", "--env", "A=b c", "--", "sh", "-c", "echo $A"]);
    assert_eq!((code, out.trim()), (0, "b c"), "{err}");

    let (code, out, _) = bulkhead(&cluster, &["run", "--json", "--name=j", "--", "echo", "x"]);
    let events = lines(&out);
    assert_eq!(code, 0);
    let states: Vec<&str> = events.iter().filter_map(|e| e["status"]["state"].as_str()).collect();
    assert_eq!(states.last(), Some(&"TASK_FINISHED"), "{states:?}");
    assert!(events.iter().any(|e| e["file"] == "stdout" && e["data"] == "x\n"), "{out}");

    let (code, out, err) = bulkhead(&cluster, &["run", "--timeout=3", "--cpus=1000", "--", "true"]);
    assert_eq!((code, out.as_str()), (3, ""), "{err}");
    assert!(err.contains("no offer with cpus:1000"), "{err}");

    let (code, out, err) = bulkhead(&cluster, &["run", "--kill-after=1", "--", "sleep", "100"]);
    assert_eq!((code, out.as_str()), (143, ""), "{err}");
    assert!(err.contains("TASK_KILLED"), "{err}");
}

/// A task in the background, ended by `bulkhead kill` or by the cluster's end.
fn background(cluster: &Cluster, line: &str) -> Child {
    command(&["run", "--name=bg", "--no-follow", "--command", line])
        .env("BULKHEAD_MASTER", &cluster.master)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("run bulkhead")
}

/// The id of the task that runs, which it does within `limit`.
fn running(cluster: &Cluster, limit: Duration) -> String {
    let by = Instant::now() + limit;
    loop {
        let (_, out, err) = bulkhead(cluster, &["ps", "--json"]);
        let running = lines(&out).into_iter().find(|t| t["state"] == "TASK_RUNNING");
        if let Some(task) = running {
            return task["id"].as_str().expect("an id").to_owned();
        }
        assert!(Instant::now() < by, "the task does not run: {out} {err}");
        std::thread::sleep(Duration::from_millis(200));
    }
}

#[test]
fn tasks_are_listed_read_measured_and_killed() {
    require!(root, cgroup);
    let cluster = Cluster::start("cli-ps", Options::default());
    let mut task = background(&cluster, "echo one; sleep 2; echo two; sleep 100");
    let id = running(&cluster, Duration::from_secs(30));
    let (_, out, _) = bulkhead(&cluster, &["ps"]);
    assert!(out.starts_with("TASK") && out.contains(&id) && out.contains("running"), "{out}");

    let (code, out, err) = bulkhead(&cluster, &["top", "--once", "--interval=1", "--json"]);
    let rows = lines(&out);
    assert_eq!((code, rows.len()), (0, 1), "{err}");
    assert_eq!(rows[0]["executor_id"], id.as_str());
    assert!(rows[0]["processes"].as_u64().is_some_and(|n| n >= 1), "{out}");
    assert!(rows[0]["mem_limit_bytes"].as_u64().is_some_and(|b| b >= 32 << 20), "{out}");

    std::thread::sleep(Duration::from_secs(2));
    let (code, out, err) = bulkhead(&cluster, &["logs", &id]);
    assert_eq!((code, out.as_str()), (0, "one\ntwo\n"), "{err}");

    let (code, out, err) = bulkhead(&cluster, &["kill", &id]);
    assert_eq!(code, 0, "{err}");
    assert!(out.starts_with(&id), "{out}");
    assert!(!task.wait().expect("the command ends with its task").success());

    let (code, _, err) = bulkhead(&cluster, &["logs", "no-such-task"]);
    assert_eq!(code, 2);
    assert!(err.contains("no task `no-such-task`") && err.contains("bulkhead ps --all"), "{err}");
    let (_, _, err) = bulkhead(&cluster, &["--json", "logs", "no-such-task"]);
    assert!(lines(&err)[0]["hint"].is_string(), "{err}");
}

/// `bulkhead exec` with something to read.
fn exec(cluster: &Cluster, arguments: &[&str], input: &[u8]) -> (i32, String, String) {
    let mut child = command(&[&["exec"], arguments].concat())
        .env("BULKHEAD_MASTER", &cluster.master)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("run bulkhead");
    let mut stdin = child.stdin.take().expect("a pipe");
    let input = input.to_owned();
    // A command may end before it has read everything.
    let writer = std::thread::spawn(move || stdin.write_all(&input).is_ok());
    let output = child.wait_with_output().expect("it ends");
    let _ = writer.join();
    parts(&output)
}

#[test]
fn exec_runs_beside_a_task() {
    require!(root, cgroup);
    let cluster = Cluster::start("cli-exec", Options::default());
    let mut task = background(&cluster, "echo secret > mine; sleep 1000");
    let id = running(&cluster, Duration::from_secs(60));
    // It sees what the task sees, reads what we read, and its result is ours.
    let line = "until test -s mine; do :; done; cat mine; cat; echo bad >&2; exit 7";
    let (code, out, err) = exec(&cluster, &[&id, "--", "sh", "-c", line], b"input\n");
    assert_eq!((code, out.as_str(), err.as_str()), (7, "secret\ninput\n", "bad\n"));
    // More than any pipe holds, there and back.
    let much = "0123456789abcdef".repeat(64 << 10);
    let (code, out, err) = exec(&cluster, &[&id, "--", "cat"], much.as_bytes());
    assert_eq!((code, out.len(), out == much, err.as_str()), (0, much.len(), true, ""));
    // A command that does not want its input ends all the same.
    let (code, out, err) = exec(&cluster, &[&id, "--", "head", "-c", "4"], much.as_bytes());
    assert_eq!((code, out.as_str(), err.as_str()), (0, "0123", ""));
    let (code, out, err) = exec(&cluster, &["-n", &id, "--", "cat"], b"not wanted");
    assert_eq!((code, out.as_str(), err.as_str()), (0, "", ""));
    let (code, out, _) =
        exec(&cluster, &["--json", &id, "--", "sh", "-c", "echo x; kill -9 $$"], b"");
    assert_eq!(code, 137);
    let last = lines(&out).pop().expect("a line");
    assert_eq!(last["exit_code"], 137, "{out}");

    let (code, _, err) = exec(&cluster, &[&id, "--", "no-such-program"], b"");
    assert_eq!(code, 2, "{err}");
    assert!(err.contains("no-such-program"), "{err}");
    let (code, _, err) = exec(&cluster, &["no-such-task", "--", "true"], b"");
    assert_eq!(code, 2);
    assert!(err.contains("no task `no-such-task`"), "{err}");
    let (code, _, err) = bulkhead(&cluster, &["kill", &id]);
    assert_eq!(code, 0, "{err}");
    let _ = task.wait();
    let (code, _, err) = exec(&cluster, &[&id, "--", "true"], b"");
    assert_eq!(code, 2);
    assert!(err.contains("does not run: TASK_"), "{err}");
}

/// `bulkhead exec --tty` at a terminal of the test: its other end, and the command.
fn at_a_terminal(cluster: &Cluster, arguments: &[&str]) -> (Terminal, Child) {
    let size = nix::pty::Winsize { ws_row: 21, ws_col: 43, ws_xpixel: 0, ws_ypixel: 0 };
    let pair = nix::pty::openpty(Some(&size), None).expect("a terminal");
    let end = || Stdio::from(pair.slave.try_clone().expect("a copy"));
    let child = Command::new(binary("bulkhead"))
        .args([&["exec", "--tty"], arguments].concat())
        .env("BULKHEAD_MASTER", &cluster.master)
        .env("TERM", "odd")
        .stdin(end())
        .stdout(end())
        .stderr(end())
        .spawn()
        .expect("run bulkhead");
    let (sender, pieces) = mpsc::channel();
    let mut master = File::from(pair.master.try_clone().expect("a copy"));
    std::thread::spawn(move || {
        let mut buffer = [0; 4096];
        while let Ok(length @ 1..) = master.read(&mut buffer) {
            let _ = sender.send(buffer[..length].to_vec());
        }
    });
    let terminal = Terminal { master: pair.master.into(), slave: pair.slave, pieces };
    (terminal, child)
}

struct Terminal {
    master: File,
    /// Kept, so that what becomes of its modes can be seen.
    slave: OwnedFd,
    pieces: mpsc::Receiver<Vec<u8>>,
}

impl Terminal {
    /// Reads until `text` is there; all that was read.
    fn expect(&self, text: &str) -> String {
        let mut seen = String::new();
        while !seen.contains(text) {
            let piece = self.pieces.recv_timeout(Duration::from_secs(60));
            let piece = piece.unwrap_or_else(|_| panic!("no '{text}' in '{seen}'"));
            seen.push_str(&String::from_utf8_lossy(&piece));
        }
        seen
    }

    /// Whether it echoes and edits lines.
    fn is_cooked(&self) -> bool {
        use nix::sys::termios::{LocalFlags, tcgetattr};
        let flags = tcgetattr(&self.slave).expect("modes").local_flags;
        flags.contains(LocalFlags::ICANON | LocalFlags::ECHO | LocalFlags::ISIG)
    }
}

#[test]
fn exec_passes_the_terminal_on_and_gives_it_back() {
    require!(root, cgroup);
    let cluster = Cluster::start("cli-tty", Options::default());
    let mut task = background(&cluster, "sleep 1000");
    let id = running(&cluster, Duration::from_secs(60));
    let line = "tty; stty size; echo $TERM; trap 'echo caught' INT; \
                sh -c 'echo wait; exec sleep 1000'; \
                trap 'stty size; exit 9' WINCH; echo siz''ed; while :; do sleep 0.1; done";
    let (mut terminal, mut exec) = at_a_terminal(&cluster, &[&id, "--", "sh", "-c", line]);
    let begun = terminal.expect("wait\r\n");
    assert!(
        begun.starts_with("/dev/") && begun.ends_with("\r\n21 43\r\nodd\r\nwait\r\n"),
        "{begun}"
    );
    assert!(!terminal.is_cooked(), "^C goes to the command");
    terminal.master.write_all(b"\x03").expect("type");
    terminal.expect("sized\r\n");
    let size = kernel::terminal::Window { rows: 50, columns: 60 };
    kernel::terminal::set_window(terminal.master.as_fd(), size).expect("resize");
    // As from the kernel, were it our controlling terminal.
    let exec_pid = exec.id().to_string();
    let signal = |name: &str| {
        let sent = Command::new("kill").args([name, &exec_pid]).status().expect("kill");
        assert!(sent.success());
    };
    signal("-WINCH");
    terminal.expect("50 60\r\n");
    assert_eq!(exec.wait().expect("it ends").code(), Some(9));
    assert!(terminal.is_cooked());

    // Whatever ends it, the terminal is usable again, and so is the container.
    let (terminal, mut exec) = at_a_terminal(&cluster, &[&id, "--", "sh", "-c", "echo on; cat"]);
    terminal.expect("on\r\n");
    assert!(!terminal.is_cooked());
    let sent = Command::new("kill").args(["-TERM", &exec.id().to_string()]).status();
    assert!(sent.expect("kill").success());
    assert_eq!(exec.wait().expect("it ends").code(), Some(143));
    assert!(terminal.is_cooked());

    let (code, _, err) = self::exec(&cluster, &["--tty", &id, "--", "true"], b"");
    assert_eq!(code, 2, "{err}");
    assert!(err.contains("--tty needs a terminal"), "{err}");
    let (code, out, err) = self::exec(&cluster, &["-t", "-n", &id, "--", "tty"], b"");
    assert!(code == 0 && out.starts_with("/dev/") && out.ends_with("\r\n"), "{out} {err}");
    let (code, _, err) = bulkhead(&cluster, &["kill", &id]);
    assert_eq!(code, 0, "{err}");
    let _ = task.wait();

    // A task's own.
    let (code, out, err) = bulkhead(&cluster, &["run", "--tty", "--command", "test -t 1; echo $?"]);
    assert_eq!((code, out.as_str()), (0, "0\r\n"), "{err}");
}

/// Numbers in bursts, so that a reader meets files in every state.
const BURSTS: &str = "i=0; while [ $i -lt 20 ]; do seq $((i * 1000)) $((i * 1000 + 999)); \
                      sleep 0.1; i=$((i + 1)); done; echo done >&2";

fn bursts() -> String {
    (0..20_000).map(|i| format!("{i}\n")).collect()
}

/// A test's failure does not print all of it.
fn same(found: &str, expected: &str) {
    let at = found.bytes().zip(expected.bytes()).take_while(|(a, b)| a == b).count();
    let around = |text: &str| text[at.saturating_sub(30)..text.len().min(at + 30)].to_owned();
    let lengths = (found.len(), expected.len());
    assert!(
        found == expected,
        "at {at} of {lengths:?}: {:?} {:?}",
        around(found),
        around(expected)
    );
}

#[test]
fn logs_are_followed_across_rotations() {
    require!(root, cgroup);
    let caps = ["--container_log_max_size=4KB", "--container_log_max_files=500"];
    let cluster = Cluster::start("cli-logs", Options::default().agent(&caps));
    // What `run` prints, and where it went.
    let (code, out, err) = bulkhead(&cluster, &["run", "--name=all", "--command", BURSTS]);
    assert_eq!(code, 0, "{err}");
    same(&out, &bursts());
    assert!(err.contains("done") && !err.contains("rotated away"), "{err}");

    let mut task = background(&cluster, BURSTS);
    let by = Instant::now() + Duration::from_secs(30);
    let id = loop {
        let (_, out, _) = bulkhead(&cluster, &["ps", "--json"]);
        if let Some(task) = lines(&out).first() {
            break task["id"].as_str().expect("an id").to_owned();
        }
        assert!(Instant::now() < by, "the task does not start");
        std::thread::sleep(Duration::from_millis(50));
    };
    let (code, out, err) = bulkhead(&cluster, &["logs", "--follow", &id]);
    assert_eq!(code, 0, "{err}");
    same(&out, &bursts());
    assert!(task.wait().expect("it ends").success());

    let logs = |more: &[&str]| {
        let (code, out, err) = bulkhead(&cluster, &[&["logs", &id], more].concat());
        assert_eq!(code, 0, "{more:?}: {err}");
        (out, err)
    };
    same(&logs(&[]).0, &bursts());
    let last: String = (17_000..20_000).map(|i| format!("{i}\n")).collect();
    same(&logs(&["-n", "3000"]).0, &last);
    same(&logs(&["--since=1h"]).0, &bursts());
    assert_eq!(logs(&["--stderr"]), (String::new(), "done\n".to_owned()));
    let (code, _, err) = bulkhead(&cluster, &["logs", &id, "nothing"]);
    assert!(code == 2 && err.contains("no file `nothing`"), "{err}");
    let (code, _, err) = bulkhead(&cluster, &["logs", &id, "--since=soon"]);
    assert!(code == 2 && err.contains("--since"), "{err}");

    let files = std::fs::read_dir(cluster.dir.path().join("run")).expect("a directory");
    let names: Vec<_> = files.flatten().map(|f| f.file_name()).collect();
    assert!(names.iter().any(|n| n == "logger"), "{names:?}");
}

#[test]
fn mesos_modules_json_chooses_the_logger_and_tasks_override_it() {
    require!(root, cgroup);
    let modules = r#"--modules={"libraries": [{"file": "liblogrotate_container_logger.so",
        "modules": [{"name": "org_apache_mesos_LogrotateContainerLogger", "parameters": [
            {"key": "max_stdout_size", "value": "8KB"},
            {"key": "logrotate_stdout_options", "value": "rotate 2"}]}]}]}"#;
    let logger = "--container_logger=org_apache_mesos_LogrotateContainerLogger";
    let cluster = Cluster::start("cli-modules", Options::default().agent(&[modules, logger]));
    let listed = |more: &[&str]| -> Vec<(String, u64)> {
        let line = ["run", "--name=s", "--command", "seq 20000"];
        let (code, out, err) = bulkhead(&cluster, &[&line[..], more].concat());
        assert_eq!(code, 0, "{err}");
        assert!(out.ends_with("20000\n"), "{err}");
        let id = err.split_whitespace().nth(1).expect("launching ID").to_owned();
        let (_, tasks, _) = bulkhead(&cluster, &["ps", "--all", "--json"]);
        let task = lines(&tasks).into_iter().find(|t| t["id"] == id.as_str()).expect("a task");
        let framework = task["framework_id"].as_str().expect("an id").to_owned();
        let path = format!("/frameworks/{framework}/executors/{id}/runs/latest");
        let browse = cluster::get(&cluster.agent, &format!("/files/browse?path={path}"));
        let files: Vec<Value> = serde_json::from_str(&browse.expect("files")).expect("JSON");
        let file = |f: &Value| {
            let name = f["path"].as_str()?.rsplit('/').next()?.to_owned();
            name.starts_with("stdout").then_some((name, f["size"].as_u64()?))
        };
        files.iter().filter_map(file).collect()
    };
    let sizes = listed(&[]);
    let names: Vec<&str> = sizes.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, ["stdout", "stdout.1", "stdout.2"]);
    assert!(sizes.iter().all(|(_, size)| *size <= 8192), "{sizes:?}");
    let sizes = listed(&[
        "--env=CONTAINER_LOGGER_MAX_STDOUT_SIZE=4KB",
        "--env=CONTAINER_LOGGER_LOGROTATE_STDOUT_OPTIONS=rotate 1",
    ]);
    assert_eq!(sizes.len(), 2);
    assert!(sizes.iter().all(|(_, size)| *size <= 4096), "{sizes:?}");
    let bad = ["--env=CONTAINER_LOGGER_MAX_STDOUT_SIZE=1KB", "--command=true"];
    let (code, _, err) = bulkhead(&cluster, &[&["run"], &bad[..]].concat());
    assert!(code != 0 && err.contains("CONTAINER_LOGGER_MAX_STDOUT_SIZE"), "{err}");
    assert!(err.contains("expected at least 4096 bytes"), "{err}");
}

#[test]
fn without_a_master_the_error_helps() {
    let address = format!("127.0.0.1:{}", free_port());
    let output = command(&["ps", "--master", &address]).output().expect("run bulkhead");
    let (code, _, err) = parts(&output);
    assert_eq!(code, 2);
    assert!(err.contains(&address) && err.contains("bulkhead local"), "{err}");
}

#[test]
fn local_cleans_up_after_itself() {
    require!(root, cgroup);
    let dir = TempDir::new("cli-local");
    let mut local = Command::new(binary("bulkhead"))
        .args(["local", "--json"])
        .env("TMPDIR", dir.path())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::inherit())
        .spawn()
        .expect("run bulkhead");
    let mut line = String::new();
    let stdout = local.stdout.take().expect("a pipe");
    BufReader::new(stdout).read_line(&mut line).expect("a line");
    let told: Value = serde_json::from_str(&line).expect("JSON");
    let master = told["master"].as_str().expect("an address").to_owned();
    let root = told["cgroups_root"].as_str().expect("a name").to_owned();
    let run = command(&["run", "--no-follow", "--command", "sleep 1000 & sleep 1000"])
        .env("BULKHEAD_MASTER", &master)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn();
    let mut run = run.expect("run bulkhead");
    std::thread::sleep(Duration::from_secs(3));
    let _ = Command::new("kill").args(["-INT", &local.id().to_string()]).status();
    let status = local.wait().expect("it ends");
    let _ = run.kill();
    let _ = run.wait();
    assert!(status.success(), "{status}");
    let find = Command::new("find")
        .args(["/sys/fs/cgroup", "-type", "d", "-name", &root])
        .output()
        .expect("run find");
    assert_eq!(String::from_utf8_lossy(&find.stdout), "", "cgroups");
    let files: Vec<_> = std::fs::read_dir(dir.path()).expect("read").flatten().collect();
    assert!(files.is_empty(), "{files:?}");
    for daemon in ["master_pid", "agent_pid"] {
        let pid = told[daemon].as_u64().expect("a pid");
        assert!(!std::path::Path::new(&format!("/proc/{pid}")).exists(), "{daemon}");
    }
}

#[test]
fn local_killed_leaves_no_process() {
    require!(root, cgroup);
    let dir = TempDir::new("cli-local-killed");
    let mut local = Command::new(binary("bulkhead"))
        .args(["local", "--json"])
        .arg(format!("--port={}", free_port()))
        .arg(format!("--agent-port={}", free_port()))
        .env("TMPDIR", dir.path())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("run bulkhead local");
    let mut line = String::new();
    let stdout = local.stdout.take().expect("a pipe");
    BufReader::new(stdout).read_line(&mut line).expect("a line");
    let told: Value = serde_json::from_str(&line).expect("JSON");
    let master = told["master"].as_str().expect("an address").to_owned();
    let mut run = command(&["run", "--no-follow", "--command", "exec sleep 31536000"])
        .env("BULKHEAD_MASTER", &master)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("run bulkhead");
    std::thread::sleep(Duration::from_secs(3));
    local.kill().expect("SIGKILL");
    local.wait().expect("it ends");
    let _ = run.kill();
    let _ = run.wait();
    let pids = ["master_pid", "agent_pid"].map(|daemon| told[daemon].as_u64().expect("a pid"));
    let by = Instant::now() + Duration::from_secs(20);
    let alive = |pid: &u64| {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        !stat.is_empty() && !stat.contains(") Z ")
    };
    while pids.iter().any(alive) {
        assert!(Instant::now() < by, "the daemons outlive their parent");
        std::thread::sleep(Duration::from_millis(50));
    }
    // The agent's cgroups are what would hold a task.
    let root = told["cgroups_root"].as_str().expect("a name");
    let hierarchies = kernel::cgroup::Hierarchies::detect().expect("hierarchies");
    for hierarchy in hierarchies.all() {
        let group = kernel::cgroup::Cgroup::new(hierarchy.version, hierarchy.mount.join(root));
        assert!(!group.exists() || group.all_processes().is_empty(), "{}", group.path().display());
        let _ =
            group.kill(Duration::from_secs(5)).and_then(|()| group.remove(Duration::from_secs(5)));
    }
}
