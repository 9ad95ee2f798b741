//! The same over Podman's compatible socket.

use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::cni::{page, read};
use super::host::{Host, addresses, bridge, output};
use super::scene::{docker_task, eventually, file};
use crate::cluster::{Cluster, Options, binary, get};
use crate::dockerd::{archive, ask};
use crate::framework::Framework;
use crate::require;
use crate::support::TempDir;

/// Podman looks for names without a registry in many places.
const IMAGE: &str = "localhost/bulkhead-busybox";

struct Podman {
    dir: TempDir,
    child: Child,
}

impl Podman {
    fn start() -> Podman {
        let dir = TempDir::new("podman");
        // Its default limits are more than a container of CI may ask for.
        let config = "[containers]\ndefault_ulimits = [\"nofile=1024:1024\", \"nproc=4096:4096\"]\n\
                      log_driver = \"k8s-file\"\n[engine]\ncgroup_manager = \"cgroupfs\"\n\
                      events_logger = \"file\"\n";
        std::fs::write(dir.path().join("containers.conf"), config).expect("write its settings");
        let log = std::fs::File::create(dir.path().join("log")).expect("create the log");
        let child = command(&dir)
            .args(["system", "service", "--time", "0"])
            .arg(format!("unix://{}", dir.path().join("podman.sock").display()))
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("copy a descriptor"))
            .stderr(log)
            .spawn()
            .expect("start podman");
        let podman = Podman { dir, child };
        let by = Instant::now() + Duration::from_secs(60);
        while podman.api("GET", "/_ping").0 != 200 {
            assert!(Instant::now() < by, "podman is not ready: {}", podman.log());
            std::thread::sleep(Duration::from_millis(50));
        }
        let path = format!("/images/create?fromSrc=-&repo={IMAGE}&tag=latest");
        let body = archive(podman.dir.path());
        let (status, answer) = ask(&podman.socket(), "POST", &path, "application/x-tar", body);
        assert_eq!(status, 200, "{answer}");
        podman
    }

    fn socket(&self) -> std::path::PathBuf {
        self.dir.path().join("podman.sock")
    }

    fn api(&self, method: &str, path: &str) -> (u16, Value) {
        ask(&self.socket(), method, path, "application/json", Vec::new())
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.dir.path().join("log")).unwrap_or_default()
    }
}

fn command(dir: &TempDir) -> Command {
    let path = |name: &str| dir.path().join(name);
    let mut command = Command::new("podman");
    command.env("CONTAINERS_CONF", path("containers.conf"));
    command.arg("--root").arg(path("root")).arg("--runroot").arg(path("run"));
    command.arg("--tmpdir").arg(path("tmp"));
    command.args(["--storage-driver", "vfs", "--network-backend", "cni"]);
    command
}

impl Drop for Podman {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("-- podman\n{}", self.log());
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = command(&self.dir).args(["rm", "--all", "--force", "--time", "0"]).output();
        let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap_or_default();
        for point in mounts.lines().rev().filter_map(|line| line.split(' ').nth(1)) {
            if std::path::Path::new(point).starts_with(self.dir.path()) {
                let _ = Command::new("umount").args(["-l", point]).status();
            }
        }
    }
}

fn task(name: &str, line: &str) -> Value {
    let mut task = docker_task(name, line);
    task["container"]["docker"]["image"] = IMAGE.into();
    task
}

#[tokio::test]
async fn podman_runs_tasks_too() {
    require!(root, cgroup, busybox, program_podman);
    let podman = Podman::start();
    let socket = format!("--docker_socket={}", podman.socket().display());
    let flags = ["--containerizers=mesos,docker", &socket, "--docker_keep_exited=0"];
    let mut cluster = Cluster::start("podman", Options::default().agent(&flags));
    let mut framework = Framework::subscribe(&cluster.master, "podman").await;
    let end = framework.run(task("says", "echo out; echo err >&2; env; exit 3"), 60).await;
    assert_eq!(end["message"], "Command exited with status 3", "{end}");
    assert_eq!(file(&cluster, "says", "stderr"), "err\n");
    let said = file(&cluster, "says", "stdout");
    assert!(said.starts_with("out\n") && said.contains("MESOS_CONTAINER_NAME=mesos-"), "{said}");

    framework.start(task("stays", "echo ready; trap '' TERM; while :; do sleep 1; done")).await;
    cluster.kill_agent();
    cluster.start_agent();
    let statistics = get(&cluster.agent, "/monitor/statistics").expect("statistics");
    assert!(statistics.contains("\"mem_limit_bytes\":33554432"), "{statistics}");
    let inside = Command::new(binary("bulkhead"))
        .args(["exec", "--no-stdin", "--master", &cluster.master, "stays", "--", "echo", "in"])
        .output()
        .expect("run bulkhead");
    assert_eq!(String::from_utf8_lossy(&inside.stdout), "in\n", "{inside:?}");
    framework.call("KILL", json!({ "task_id": { "value": "stays" } })).await;
    framework.until("the kill", 60, |f| f.end("stays").is_some()).await;
    assert_eq!(framework.state("stays"), Some("TASK_KILLED"), "{:?}", framework.end("stays"));
    eventually("the ended ones to go", || {
        podman.api("GET", "/containers/json?all=1").1.as_array().is_some_and(Vec::is_empty)
    })
    .await;
}

/// The holder of a network is a container of Podman's too.
#[tokio::test]
async fn podman_tasks_are_on_cni_networks_too() {
    require!(root, cgroup, busybox, program_podman, cni_plugins);
    let host = Host::new("podman-cni");
    let podman = Podman::start();
    host.configure("one.conf", &bridge(&host, "one", 3));
    let socket = format!("--docker_socket={}", podman.socket().display());
    let flags = ["--containerizers=mesos,docker", &socket, "--docker_keep_exited=0"];
    let mut cluster = Cluster::start("podman-cni", host.options(&flags));
    let mut framework = Framework::subscribe(&cluster.master, "podman-cni").await;
    let mut web = page("web", &["one"]);
    web["container"]["docker"]["image"] = IMAGE.into();
    web["container"]["hostname"] = "webserver".into();
    framework.start(web).await;
    let told = addresses(&framework, "web");
    assert_eq!(
        told.iter().map(Vec::len).collect::<Vec<_>>(),
        [2],
        "{:?}",
        framework.statuses["web"]
    );
    let said = output(&cluster, "web", "up\n");
    assert!(said.contains(&format!("{} webserver\n", told[0][0])), "{said}");
    for address in &told[0] {
        eventually("the page", || read(address) == "page\n").await;
    }
    cluster.kill_agent();
    cluster.start_agent();
    assert_eq!(read(&told[0][0]), "page\n", "under the next agent");
    framework.call("KILL", json!({ "task_id": { "value": "web" } })).await;
    framework.until("the kill", 60, |f| f.end("web").is_some()).await;
    assert_eq!(framework.state("web"), Some("TASK_KILLED"), "{:?}", framework.end("web"));
    eventually("both containers to go", || {
        podman.api("GET", "/containers/json?all=1").1.as_array().is_some_and(Vec::is_empty)
    })
    .await;
    host.wait_clean(&cluster, &mut framework).await;
}
