//! Bad input gets a clear error, and the daemons stay alive.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::{Command, Output};
use std::time::Duration;

use bulkhead::wire::client::{Call, Client};
use serde_json::{Value, json};

use crate::cluster::{Cluster, Options, binary, get};
use crate::framework::{Framework, command, scalar};
use crate::require;
use crate::support::TempDir;

const JSON: &str = "application/json";
const PROTOBUF: &str = "application/x-protobuf";

async fn post(address: &str, path: &str, content_type: &str, body: &[u8]) -> (u16, String) {
    let client = Client::new(address);
    let call = Call::post(path, content_type, body.to_vec()).header("accept", content_type);
    let reply = client.call(call).await.expect("an answer");
    (reply.status.as_u16(), reply.text())
}

/// Sends raw bytes and returns what comes back within two seconds.
fn raw(address: &str, bytes: &[u8]) -> String {
    let mut stream = TcpStream::connect(address).expect("connect");
    stream.set_read_timeout(Some(Duration::from_secs(2))).expect("set a timeout");
    let _ = stream.write_all(bytes);
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    String::from_utf8_lossy(&answer).into_owned()
}

#[tokio::test]
async fn malformed_calls() {
    require!(root, cgroup);
    let mut cluster = Cluster::start("calls", Options::default());
    let master = cluster.master.clone();
    let agent = cluster.agent.clone();
    let doors = [
        (&master, "/api/v1/scheduler"),
        (&master, "/api/v1"),
        (&agent, "/api/v1"),
        (&agent, "/api/v1/executor"),
    ];
    for (address, path) in doors {
        let rows: &[(&str, &[u8])] = &[
            (JSON, b"{"),
            (JSON, b"[]"),
            (JSON, b"\xff\xfe"),
            (JSON, br#"{"type":7}"#),
            (JSON, br#"{"type":"NO_SUCH_CALL"}"#),
            (JSON, b"{}"),
            (PROTOBUF, b"\xff\xff\xff\xff\xff"),
            (PROTOBUF, b"\x0a\x7f"),
            (PROTOBUF, b""),
        ];
        for (content_type, body) in rows {
            let (status, text) = post(address, path, content_type, body).await;
            let what = String::from_utf8_lossy(body).into_owned();
            assert!((400..=501).contains(&status), "{path} {what}: {status} {text}");
            assert!(!text.is_empty(), "{path} {what}: {status} says nothing");
        }
        let (status, text) = post(address, path, "text/plain", b"{}").await;
        assert_eq!(status, 415, "{path}: {text}");
        let nested = "[".repeat(100_000);
        let (status, _) = post(address, path, JSON, nested.as_bytes()).await;
        assert!((400..500).contains(&status), "{path}: deeply nested JSON: {status}");
    }
    assert!(cluster.alive());
}

#[tokio::test]
async fn streams_offers_and_tasks() {
    require!(root, cgroup);
    let mut cluster = Cluster::start("offers", Options::default());
    let mut framework = Framework::subscribe(&cluster.master, "offers").await;

    // A stream id that is not ours, and none.
    let call = json!({ "type": "REVIVE", "framework_id": { "value": framework.id } }).to_string();
    for header in [Some("00000000-0000-0000-0000-000000000000"), Some("nonsense"), None] {
        let mut request = Call::post("/api/v1/scheduler", JSON, call.clone());
        if let Some(id) = header {
            request = request.header("mesos-stream-id", id);
        }
        let reply = framework.client.call(request).await.expect("an answer");
        assert_eq!(reply.status.as_u16(), 400, "{header:?}: {}", reply.text());
    }

    // Tasks that cannot be: the update says why, nothing is launched.
    let with = |name: &str, resources: Value| {
        let mut task = command(name, "true", 32.0);
        task["resources"] = resources;
        task
    };
    let rows = [
        with("negative", json!([scalar("cpus", -1.0), scalar("mem", 32.0)])),
        with("huge", json!([scalar("cpus", 1e18), scalar("mem", 32.0)])),
        with("much", json!([scalar("cpus", 1.0), scalar("mem", 1e9)])),
        with("nothing", json!([])),
        command("a/b", "true", 32.0),
        command("..", "true", 32.0),
    ];
    for task in rows {
        let end = framework.run(task.clone(), 30).await;
        let name = &task["name"];
        assert_eq!(end["state"], "TASK_ERROR", "{name}: {end}");
        assert!(end["message"].as_str().is_some_and(|m| !m.is_empty()), "{name}: {end}");
    }

    // The same id twice, in one call and while the first one runs.
    framework.start(command("twin", "sleep 100", 32.0)).await;
    framework.launch(vec![command("twin", "sleep 100", 32.0)]).await;
    framework
        .until("the refusal of the twin", 30, |f| {
            f.statuses["twin"].iter().any(|s| s["state"] == "TASK_ERROR")
        })
        .await;
    let statuses = &framework.statuses["twin"];
    let refusal = statuses.iter().find(|s| s["state"] == "TASK_ERROR").expect("just seen");
    assert!(refusal["message"].as_str().is_some_and(|m| m.contains("duplicate")), "{refusal}");

    // An offer used twice.
    let offer = framework.offer().await;
    framework.accept(&offer, vec![command("first", "true", 32.0)]).await;
    framework.accept(&offer, vec![command("second", "true", 32.0)]).await;
    framework
        .until("both ends", 30, |f| f.end("first").is_some() && f.end("second").is_some())
        .await;
    assert_eq!(framework.state("first"), Some("TASK_FINISHED"));
    let second = framework.end("second").expect("just seen");
    assert_eq!(second["reason"], "REASON_INVALID_OFFERS", "{second}");
    assert!(cluster.alive());
}

#[tokio::test]
async fn commands_and_users_that_do_not_exist() {
    require!(root, cgroup);
    let mut cluster = Cluster::start("users", Options::default());
    let mut framework = Framework::subscribe(&cluster.master, "users").await;

    let mut task = command("nofile", "", 32.0);
    task["command"] = json!({ "shell": false, "value": "/no/such/program", "arguments": ["x"] });
    let end = framework.run(task, 30).await;
    assert_eq!(end["state"], "TASK_FAILED", "{end}");
    assert!(end["message"].as_str().is_some_and(|m| m.contains("/no/such/program")), "{end}");

    let mut task = command("nouser", "true", 32.0);
    task["command"]["user"] = json!("no-such-user");
    let end = framework.run(task, 30).await;
    assert!(
        ["TASK_FAILED", "TASK_ERROR", "TASK_DROPPED"]
            .contains(&end["state"].as_str().unwrap_or("")),
        "{end}"
    );
    assert!(end["message"].as_str().is_some_and(|m| m.contains("no-such-user")), "{end}");

    let end = framework.run(command("code", "exit 7", 32.0), 30).await;
    assert_eq!(end["message"], "Command exited with status 7", "{end}");
    assert!(cluster.alive());
}

#[tokio::test]
async fn clients_that_stall_or_flood() {
    require!(root, cgroup);
    let mut cluster = Cluster::start("clients", Options::default());
    for address in [cluster.master.clone(), cluster.agent.clone()] {
        // Connections that say nothing, half a request, half a body.
        let mut open = Vec::new();
        for part in ["", "GET /sta", "POST /api/v1 HTTP/1.1\r\nContent-Length: 100\r\n\r\n{\"ty"] {
            for _ in 0..20 {
                let mut stream = TcpStream::connect(&address).expect("connect");
                let _ = stream.write_all(part.as_bytes());
                open.push(stream);
            }
        }
        assert!(get(&address, "/health").is_some(), "{address} answers beside stalled clients");

        let header =
            format!("GET /health HTTP/1.1\r\nHost: x\r\nX: {}\r\n\r\n", "a".repeat(1 << 20));
        let answer = raw(&address, header.as_bytes());
        assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 4"), "huge header: {answer}");

        let head = "POST /api/v1 HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n\
                    Content-Length: 99999999999\r\n\r\n{";
        let answer = raw(&address, head.as_bytes());
        assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 4"), "huge body: {answer}");

        for garbage in
            ["\x16\x03\x01\x02\x00\x01", "GET\r\n\r\n", "PUT / HTTP/9.9\r\n\r\n", "\0\0\0\0"]
        {
            let answer = raw(&address, garbage.as_bytes());
            assert!(!answer.starts_with("HTTP/1.1 2"), "garbage: {answer}");
        }
        // libprocess messages from a stranger.
        for (process, message) in [
            ("master", "mesos.internal.ReregisterSlaveMessage"),
            ("slave(1)", "mesos.internal.RunTaskMessage"),
            ("master", "no.such.Message"),
        ] {
            let body = "\x0a\x7fgarbage";
            let text = format!(
                "POST /{process}/{message} HTTP/1.1\r\nHost: x\r\nLibprocess-From: x(1)@127.0.0.1:1\r\n\
                 Content-Length: {}\r\n\r\n{body}",
                body.len()
            );
            raw(&address, text.as_bytes());
        }
        assert!(get(&address, "/health").is_some(), "{address} is well");
    }
    assert!(cluster.alive());
}

#[tokio::test]
async fn files_stay_inside_the_sandbox() {
    require!(root, cgroup);
    let mut cluster = Cluster::start("files", Options::default());
    let mut framework = Framework::subscribe(&cluster.master, "files").await;
    let line = "ln -s /etc/passwd link; ln -s / root; echo inside >file; sleep 100";
    framework.start(command("files", line, 32.0)).await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    let sandbox = format!("/frameworks/{}/executors/files/runs/latest", framework.id);
    let read = |path: String| get(&cluster.agent, &format!("/files/read?path={path}&offset=0"));
    assert!(read(format!("{sandbox}/file")).is_some_and(|t| t.contains("inside")));
    for escape in ["link", "root/etc/passwd", "../../../../../../../etc/passwd", "%2e%2e/%2e%2e/x"]
    {
        let answer = read(format!("{sandbox}/{escape}"));
        assert!(answer.as_deref().is_none_or(|t| !t.contains("root:")), "{escape}: {answer:?}");
    }
    assert_eq!(read("/etc/passwd".to_owned()), None);
    assert!(cluster.alive());
}

fn start(program: &str, flags: &[&str]) -> Output {
    Command::new("timeout")
        .arg("20")
        .arg(binary(program))
        .args(flags)
        .env("TMPDIR", "/tmp")
        .output()
        .expect("run the program")
}

#[test]
fn flags_name_the_nearest() {
    let dir = TempDir::new("flags");
    let work_dir = format!("--work_dir={}", dir.path().join("work").display());
    let work_dir = work_dir.as_str();
    let rows = [
        ("bulkhead-agent", vec!["--mastr=127.0.0.1:1"], "master"),
        (
            "bulkhead-agent",
            vec!["--master=127.0.0.1:1", work_dir, "--isolation=cgroups/cpuu"],
            "cgroups/cpu",
        ),
        (
            "bulkhead-agent",
            vec!["--master=127.0.0.1:1", work_dir, "--resources=cpus:"],
            "resources",
        ),
        (
            "bulkhead-agent",
            vec!["--master=127.0.0.1:1", work_dir, "--gc_delay=3parsecs"],
            "gc_delay",
        ),
        ("bulkhead-master", vec!["--work_dri=x"], "work_dir"),
    ];
    for (program, flags, expected) in rows {
        let output = start(program, &flags);
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success() && output.status.code() != Some(124), "{flags:?}: {text}");
        assert!(text.contains(expected), "{program} {flags:?}: {text}");
        assert!(!text.contains("panicked"), "{program} {flags:?}: {text}");
    }
}

/// What cannot work together, or not here, is said at start by name.
#[test]
fn contradictory_isolators_are_refused_at_start() {
    require!(root, cgroup);
    let dir = TempDir::new("isolation");
    let flag = |name: &str, value: &str| format!("--{name}={value}");
    let root = format!("bulkhead-test-refused-{}", std::process::id());
    let base = [
        flag("master", "127.0.0.1:1"),
        flag("ip", "127.0.0.1"),
        flag("port", "0"),
        flag("work_dir", &dir.path().join("work").display().to_string()),
        flag("runtime_dir", &dir.path().join("runtime").display().to_string()),
        flag("cgroups_root", &root),
    ];
    let profile = dir.path().join("profile");
    std::fs::create_dir(&profile).expect("mkdir");
    let seccomp = format!("--seccomp_config_dir={}", profile.display());
    let rows: [(&[&str], &str); 12] = [
        (&["--isolation=filesystem/posix,filesystem/linux"], "use exactly one filesystem isolator"),
        (&["--isolation=cgroups/cpu,cgroups/cpu"], "'cgroups/cpu' is twice"),
        (&["--isolation=docker/volume"], "'docker/volume' in --isolation is not supported yet"),
        (&["--launcher=posix", "--isolation=namespaces/pid"], "'linux' launcher must be used"),
        (&["--isolation=namespaces/pid"], "'filesystem/linux'"),
        (&["--isolation=volume/secret"], "'filesystem/linux'"),
        (&["--isolation=filesystem/linux,devices/cdi"], "'cgroups/devices'"),
        (&["--isolation=gpu/nvidia", "--resources=gpus:0"], "'cgroups/devices'"),
        (
            &[
                "--isolation=cgroups/devices,gpu/nvidia",
                "--nvidia_gpu_devices=0",
                "--resources=gpus:2",
            ],
            "as many 'gpus' as --nvidia_gpu_devices names",
        ),
        (
            &[
                r#"--effective_capabilities={"capabilities":["FLY"]}"#,
                "--isolation=linux/capabilities",
            ],
            "FLY",
        ),
        (&["--isolation=linux/seccomp", &seccomp, "--seccomp_profile_name=none"], "none"),
        (&["--isolation=disk/xfs", "--xfs_project_range=[9-5]"], "xfs_project_range"),
    ];
    for (more, expected) in rows {
        let flags: Vec<&str> =
            base.iter().map(String::as_str).chain(more.iter().copied()).collect();
        let output = start("bulkhead-agent", &flags);
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(1), "{more:?}: {text}");
        assert!(text.contains(expected) && !text.contains("panicked"), "{more:?}: {text}");
    }
    // What had been made by then is nothing but empty directories.
    let hierarchies = kernel::cgroup::Hierarchies::detect().expect("the mount table");
    for hierarchy in hierarchies.all() {
        let group = kernel::cgroup::Cgroup::new(hierarchy.version, hierarchy.mount.join(&root));
        if group.exists() {
            assert_eq!(group.children().expect("a list"), Vec::<String>::new());
            group.remove(Duration::from_secs(5)).expect("it is empty");
        }
    }
}
