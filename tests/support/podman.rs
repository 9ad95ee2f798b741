//! Podman of one test, by its compatible socket: its own directories and settings.

#![allow(dead_code, reason = "every test program uses its own part")]

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::dockerd::{archive, ask};
use crate::support::TempDir;

/// Podman looks for names without a registry in many places.
pub const IMAGE: &str = "localhost/bulkhead-busybox";

/// A running Podman; dropping it removes its containers, ends it and removes all it had.
pub struct Podman {
    dir: TempDir,
    child: Child,
}

impl Podman {
    /// Starts it and gives it the image.
    ///
    /// # Panics
    /// When it does not start; the message carries its log.
    #[must_use]
    pub fn start(name: &str) -> Podman {
        let dir = TempDir::new(&format!("podman-{name}"));
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

    /// The socket.
    #[must_use]
    pub fn socket(&self) -> PathBuf {
        self.dir.path().join("podman.sock")
    }

    /// The flags for an agent that uses it, after `mesos`.
    #[must_use]
    pub fn flags(&self) -> Vec<String> {
        let socket = format!("--docker_socket={}", self.socket().display());
        vec!["--containerizers=mesos,docker".to_owned(), socket]
    }

    /// The task with its image instead of that of other engines.
    #[must_use]
    pub fn of(mut task: Value) -> Value {
        task["container"]["docker"]["image"] = IMAGE.into();
        task
    }

    /// Names of all its containers, ended ones too.
    ///
    /// # Panics
    /// When it does not say.
    #[must_use]
    pub fn containers(&self) -> Vec<String> {
        let (status, list) = self.api("GET", "/containers/json?all=1");
        assert_eq!(status, 200, "{list}\n{}", self.log());
        let name = |entry: &Value| entry["Names"][0].as_str().unwrap_or_default().to_owned();
        let names = list.as_array().into_iter().flatten().map(name);
        names.map(|name| name.trim_start_matches('/').to_owned()).collect()
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
            if Path::new(point).starts_with(self.dir.path()) {
                let _ = Command::new("umount").args(["-l", point]).status();
            }
        }
    }
}
