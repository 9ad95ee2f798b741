//! The conformance suite over the socket, against real processes: the Rust and
//! the Python example, in both encodings, and with every call cut off once.

#![allow(clippy::unwrap_used, reason = "tests and their helpers")]

#[path = "../../../tests/support/cutter.rs"]
mod cutter;

use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use cutter::Cutter;

use isolator_plugin::check::{self, Options};
use isolator_plugin::{Manifest, Policy, RemoteIsolator};
use isolators::api::Isolator;
use isolators::suite;
use serde_json::json;

/// A directory of one test, and the plugin that it started.
struct World {
    dir: PathBuf,
    plugin: Option<Child>,
}

impl World {
    fn new(name: &str) -> World {
        let dir = std::env::temp_dir().join(format!("plugin-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        World { dir, plugin: None }
    }

    fn socket(&self) -> PathBuf {
        self.dir.join("plugin.sock")
    }

    /// Starts a program with the socket as its last argument.
    fn start(&mut self, command: &[&str]) {
        let mut child = Command::new(command[0]);
        child.args(&command[1..]).arg(self.socket()).stdin(Stdio::null());
        self.plugin = Some(child.spawn().unwrap());
        let until = Instant::now() + Duration::from_secs(20);
        while UnixStream::connect(self.socket()).is_err() {
            assert!(Instant::now() < until, "{command:?} does not listen");
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    fn manifest(&self, socket: PathBuf) -> Manifest {
        Manifest {
            name: "example/scratch".into(),
            socket,
            command: Vec::new(),
            deadline: Duration::from_secs(5),
            policy: Policy::Fail,
            protobuf: false,
            config: json!({"root": self.dir.join("root"), "limit_bytes": 1000}),
        }
    }

    fn scratch(&self) -> Vec<String> {
        let entries = std::fs::read_dir(self.dir.join("root")).into_iter().flatten().flatten();
        entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
    }
}

impl Drop for World {
    fn drop(&mut self) {
        if let Some(child) = &mut self.plugin {
            let _ = child.kill();
            let _ = child.wait();
        }
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

impl suite::Fixture for World {
    fn context(&self, id: &str) -> isolators::api::ContainerContext {
        let mut context = suite::context(id);
        (context.sandbox, context.runtime) = (self.dir.join("sandbox"), self.dir.join("runtime"));
        context
    }

    fn residue(&self) -> Vec<String> {
        self.scratch()
    }
}

/// The example beside this test's own program.
fn example(name: &str) -> String {
    let own = std::env::current_exe().unwrap();
    let path = own.parent().unwrap().parent().unwrap().join("examples").join(name);
    path.to_str().unwrap().to_owned()
}

fn python() -> String {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/scratch.py").to_str().unwrap().to_owned()
}

async fn passes(world: &World, protobuf: bool) {
    let mut manifest = world.manifest(world.socket());
    manifest.protobuf = protobuf;
    let plugin = RemoteIsolator::new(manifest);
    plugin.start(true);
    let outcomes = suite::run(&plugin, world, "suite").await;
    assert_eq!(suite::failures(&outcomes), Vec::<String>::new());
    let report = plugin.report();
    assert_eq!((report.failures, report.refusals, report.owed), (0, 0, 0), "{report:?}");
    plugin.stop();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_rust_example_conforms_in_json_and_protobuf() {
    let mut world = World::new("rust");
    world.start(&[&example("scratch")]);
    passes(&world, false).await;
    passes(&world, true).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_python_example_conforms() {
    let mut world = World::new("python");
    world.start(&["python3", &python()]);
    passes(&world, false).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn check_says_pass_of_both_examples_and_fail_of_none() {
    for command in [vec![example("scratch")], vec!["python3".into(), python()]] {
        let mut world = World::new("check");
        world.start(&command.iter().map(String::as_str).collect::<Vec<_>>());
        let options = Options {
            socket: world.socket(),
            config: world.manifest(world.socket()).config,
            scratch: world.dir.join("check"),
        };
        let mut told = 0;
        let outcomes = check::run(&options, &mut |_| told += 1).await;
        assert_eq!(suite::failures(&outcomes), Vec::<String>::new(), "{command:?}");
        assert!(told == outcomes.len() && told > 12, "{told}");
    }
}

#[tokio::test]
async fn check_of_nobody_fails() {
    let world = World::new("nobody");
    let socket = world.socket();
    let options = Options { socket, config: json!({}), scratch: world.dir.join("check") };
    let outcomes = check::run(&options, &mut |_| {}).await;
    assert_eq!(suite::failures(&outcomes).len(), 1, "{outcomes:?}");
}

/// A life in which one call is cut off; what must hold all the same.
async fn survives(world: &World, at: &'static str, after: bool) {
    let cutter = Cutter::start(&world.dir, &world.socket(), at, after);
    let plugin = RemoteIsolator::new(world.manifest(cutter.socket.clone()));
    plugin.start(true);
    let known = isolators::api::Known {
        context: Arc::new(suite::context(&format!("known{after}"))),
        pid: None,
    };
    let mut recovered = plugin.recover(&[known]).await.unwrap();
    assert!(plugin.settle(Duration::from_secs(20)).await, "{at}: {:?}", plugin.report());
    let context = Arc::new(suite::context(&format!("cut{after}")));
    let mut handle = plugin.attach(&context);
    let prepared = handle.prepare().await;
    assert_eq!(prepared.is_err(), at == "\"PREPARE\"", "{at}: {prepared:?}");
    let watch = handle.watch();
    handle.isolate(std::process::id()).await.unwrap();
    for mut probe in handle.probes() {
        let _ = probe.sample(&mut Vec::new(), &mut mesos::ResourceStatistics::default());
    }
    tokio::time::sleep(Duration::from_millis(50)).await;
    drop(watch);
    handle.cleanup().await.unwrap();
    handle.cleanup().await.unwrap();
    recovered.handles[0].cleanup().await.unwrap();
    // What could not be said at once is said at the next handshake.
    let until = Instant::now() + Duration::from_secs(20);
    loop {
        let report = plugin.report();
        if report.state == "ready" && report.owed == 0 && world.scratch().is_empty() {
            break;
        }
        assert!(Instant::now() < until, "{at}: {report:?}, {:?}", world.scratch());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(cutter.cuts(), 1, "{at}: nothing was cut");
    plugin.stop();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_call_may_be_cut_off_before_and_after_it_is_served() {
    for at in [
        "\"HELLO\"",
        "\"CONFIGURE\"",
        "\"RECOVER\"",
        "\"WATCH\"",
        "\"PREPARE\"",
        "\"USAGE\"",
        "\"CLEANUP\"",
    ] {
        for after in [false, true] {
            let mut world = World::new(&format!("cut-{}-{after}", at.trim_matches('"')));
            world.start(&[&example("scratch")]);
            survives(&world, at, after).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn limits_statistics_and_orphans_cross_the_socket() {
    for command in [vec![example("scratch")], vec!["python3".into(), python()]] {
        let mut world = World::new("crossing");
        world.start(&command.iter().map(String::as_str).collect::<Vec<_>>());
        std::fs::create_dir_all(world.dir.join("root/nobody")).unwrap();
        let plugin = RemoteIsolator::new(world.manifest(world.socket()));
        plugin.start(true);
        plugin.recover(&[]).await.unwrap();
        let mut handle = plugin.attach(&Arc::new(suite::context("big")));
        let part = handle.prepare().await.unwrap();
        let directory = PathBuf::from(&part.environment["SCRATCH"]);
        let watch = handle.watch().expect("it watches");
        std::fs::write(directory.join("file"), vec![0; 2000]).unwrap();
        let limit = tokio::time::timeout(Duration::from_secs(10), watch).await;
        let limit = limit.expect("in time").expect("a limitation");
        assert_eq!(limit.message, "Scratch of 2000 bytes exceeds 1000 bytes");
        assert_eq!(handle.ended().map(|hit| hit.message), Some(limit.message));
        let mut probe = handle.probes().pop().expect("it has figures");
        let until = Instant::now() + Duration::from_secs(10);
        loop {
            let mut statistics = mesos::ResourceStatistics::default();
            probe.sample(&mut Vec::new(), &mut statistics).unwrap();
            if statistics.disk_used_bytes == Some(2000) {
                break;
            }
            assert!(Instant::now() < until, "{:?}", plugin.report());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        handle.cleanup().await.unwrap();
        plugin.stop();
    }
}

/// As docs/plugins.md shows it.
#[test]
fn curl_is_enough() {
    let mut world = World::new("curl");
    world.start(&[&example("scratch")]);
    let socket = world.socket();
    let curl = |call: &str| {
        let output = Command::new("curl")
            .args(["-s", "--unix-socket", socket.to_str().unwrap(), "-d", call])
            .arg("http://plugin/api/v1")
            .output()
            .expect("curl");
        String::from_utf8(output.stdout).unwrap()
    };
    let hello = curl(r#"{"type":"HELLO","hello":{"protocol":1}}"#);
    assert!(hello.contains(r#""name":"example/scratch""#), "{hello}");
    let early = curl(r#"{"type":"CLEANUP","cleanup":{"container_id":{"value":"c"}}}"#);
    assert!(early.contains(r#""error":{"message":"the plugin"#), "{early}");
    let config = json!({"root": world.dir.join("root")}).to_string();
    let configure = json!({"type": "CONFIGURE", "configure": {"config": config}});
    assert_eq!(curl(&configure.to_string()), r#"{"type":"CONFIGURE"}"#);
    assert!(curl(r#"{"type":"RECOVER","recover":{}}"#).contains("RECOVER"));
    let prepare = r#"{"type":"PREPARE","prepare":{"container":{
        "container_id":{"value":"c"},"sandbox":"/s","runtime":"/r"}}}"#;
    assert!(curl(prepare).contains("SCRATCH"), "{}", curl(prepare));
    assert!(curl(prepare).contains("prepared already"));
    assert!(curl("{").starts_with("Failed to parse Call"));
    let cleanup = r#"{"type":"CLEANUP","cleanup":{"container_id":{"value":"c"}}}"#;
    assert_eq!((curl(cleanup), curl(cleanup)), {
        let done = r#"{"type":"CLEANUP"}"#.to_owned();
        (done.clone(), done)
    });
}
