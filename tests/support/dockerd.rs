//! A docker engine of one test: its own directories, socket, cgroup, containerd and,
//! if wanted, network namespace. Dropping it removes its containers, ends it and
//! removes all of that.

#![allow(dead_code, reason = "every test program uses its own part")]

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use base64::Engine as _;
use bulkhead::wire::client::{Call, Client, Reply};
use kernel::cgroup::{Cgroup, Hierarchies};
use serde_json::Value;

use crate::support::TempDir;

/// The image that every engine here has: busybox.
pub const IMAGE: &str = "bulkhead-busybox";

/// Where the engine's containers find a network.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Network {
    /// Only the machine's own; the engine leaves it alone.
    Host,
    /// A namespace of its own, where it has a bridge.
    Own,
    /// That of the test's thread, which has left the machine's: it has a bridge there.
    Here,
}

/// A running engine.
#[derive(Debug)]
pub struct Dockerd {
    dir: TempDir,
    cgroup: String,
    network: Network,
    driver: &'static str,
    /// `daemon.json`
    settings: &'static str,
    child: Option<Child>,
}

/// How long the engine may take for an answer; some come after a whole image.
const ANSWER: Duration = Duration::from_secs(180);
/// How long the engine may take to be ready.
const READY: Duration = Duration::from_secs(60);

impl Dockerd {
    /// Starts it and gives it the image.
    ///
    /// # Panics
    /// When it does not start; the message carries its log.
    #[must_use]
    pub fn start(name: &str, network: Network) -> Dockerd {
        Dockerd::start_with(name, network, "vfs")
    }

    /// The same with another storage driver.
    ///
    /// # Panics
    /// When it does not start; the message carries its log.
    #[must_use]
    pub fn start_with(name: &str, network: Network, driver: &'static str) -> Dockerd {
        Dockerd::new(name, network, driver).ready()
    }

    /// Starts it on a disk of its own that has so many megabytes.
    ///
    /// # Panics
    /// When it does not start; the message carries its log.
    #[must_use]
    pub fn start_small(name: &str, megabytes: usize) -> Dockerd {
        let engine = Dockerd::new(name, Network::Host, "vfs");
        std::fs::create_dir(engine.data()).expect("make its directory");
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", &format!("size={megabytes}m"), "tmpfs"]);
        assert!(mount.arg(engine.data()).status().expect("run mount").success());
        engine.ready()
    }

    /// Starts it so that its containers live on when it ends, and the next one finds them.
    ///
    /// # Panics
    /// When it does not start; the message carries its log.
    #[must_use]
    pub fn start_restoring(name: &str) -> Dockerd {
        let mut engine = Dockerd::new(name, Network::Host, "vfs");
        engine.settings = r#"{"live-restore": true}"#;
        engine.ready()
    }

    fn new(name: &str, network: Network, driver: &'static str) -> Dockerd {
        let dir = TempDir::new(&format!("dockerd-{name}"));
        let cgroup = format!("bulkhead-dockerd-{name}-{}", std::process::id());
        Dockerd { dir, cgroup, network, driver, settings: "{}", child: None }
    }

    fn ready(mut self) -> Dockerd {
        self.run();
        self.import(IMAGE, "latest", "LABEL bulkhead=test");
        self
    }

    /// Starts it (again).
    ///
    /// # Panics
    /// When it does not start.
    pub fn run(&mut self) {
        let dir = self.dir.path();
        let log = std::fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(dir.join("log"))
            .expect("open the log");
        // Files of an engine that was killed: where nobody reaps its containerd, the
        // next one would wait for that.
        for stale in ["pid", "exec/containerd/containerd.pid"] {
            let _ = std::fs::remove_file(dir.join(stale));
        }
        std::fs::write(dir.join("daemon.json"), self.settings).expect("write its configuration");
        let mut command = match self.network {
            Network::Host | Network::Here => Command::new("dockerd"),
            Network::Own => {
                let mut command = Command::new("unshare");
                let line = "ip link set lo up && exec dockerd \"$@\"";
                command.args(["--net", "--", "sh", "-c", line, "dockerd"]);
                command
            }
        };
        if self.network == Network::Host {
            command.args(["--bridge=none", "--iptables=false", "--ip-forward=false"]);
        }
        let child = command
            .arg(format!("--config-file={}", dir.join("daemon.json").display()))
            .arg(format!("--data-root={}", dir.join("data").display()))
            .arg(format!("--exec-root={}", dir.join("exec").display()))
            .arg(format!("--pidfile={}", dir.join("pid").display()))
            .arg(format!("--host=unix://{}", self.socket().display()))
            .arg(format!("--cgroup-parent=/{}", self.cgroup))
            .arg(format!("--storage-driver={}", self.driver))
            .args(["--group=root", "--ip-masq=false"])
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("copy a descriptor"))
            .stderr(log)
            .spawn()
            .expect("start dockerd");
        self.child = Some(child);
        let by = Instant::now() + READY;
        while self.api("GET", "/_ping", None).0 != 200 {
            let ended = self.child.as_mut().is_none_or(|c| c.try_wait().is_ok_and(|s| s.is_some()));
            assert!(!ended && Instant::now() < by, "dockerd is not ready\n{}", self.log());
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Makes an image of busybox that the line of a Dockerfile sets apart from others.
    ///
    /// # Panics
    /// When the engine does not take it.
    pub fn import(&self, name: &str, tag: &str, line: &str) {
        self.import_files(name, tag, archive(self.dir.path()), &[line]);
    }

    /// Makes an image of an archive of files, with lines of a Dockerfile.
    ///
    /// # Panics
    /// When the engine does not take it.
    pub fn import_files(&self, name: &str, tag: &str, files: Vec<u8>, lines: &[&str]) {
        let lines = lines.iter().map(|line| format!("&changes={}", escaped(line)));
        let lines: String = lines.collect();
        let path = format!("/images/create?fromSrc=-&repo={name}&tag={tag}{lines}");
        let (status, answer) = ask(&self.socket(), "POST", &path, "application/x-tar", files);
        assert_eq!(status, 200, "{answer}");
    }

    /// Pushes an image to its registry; what the engine reports.
    #[must_use]
    pub fn push(&self, name: &str, tag: &str, user: &str, password: &str) -> String {
        let (socket, path) = (self.socket(), format!("/images/{name}/push?tag={tag}"));
        let auth = serde_json::json!({ "username": user, "password": password }).to_string();
        let auth = base64::engine::general_purpose::URL_SAFE.encode(auth);
        let call = Call::post(&path, "application/json", "").header("x-registry-auth", &auth);
        reply(&socket, call).map(|reply| reply.text()).unwrap_or_default()
    }

    /// Gives it the images of an archive of `docker save`.
    ///
    /// # Panics
    /// When it refuses.
    pub fn load(&self, archive: &Path) {
        let body = std::fs::read(archive).expect("read the archive");
        let path = "/images/load?quiet=1";
        let (status, answer) = ask(&self.socket(), "POST", path, "application/x-tar", body);
        assert_eq!(status, 200, "{answer}");
    }

    /// Runs the command `docker` against it.
    ///
    /// # Panics
    /// When it fails.
    pub fn docker(&self, arguments: &[&str]) {
        let mut command = Command::new("docker");
        command.env("DOCKER_HOST", format!("unix://{}", self.socket().display()));
        let output = command.args(arguments).stdin(Stdio::null()).output().expect("run docker");
        assert!(output.status.success(), "docker {arguments:?}: {output:?}\n{}", self.log());
    }

    /// The socket.
    #[must_use]
    pub fn socket(&self) -> PathBuf {
        self.dir.path().join("docker.sock")
    }

    /// The flags for an agent that uses it, after `mesos`.
    #[must_use]
    pub fn flags(&self) -> Vec<String> {
        vec![
            "--containerizers=mesos,docker".to_owned(),
            format!("--docker_socket={}", self.socket().display()),
        ]
    }

    /// One call of its API: status (0 without an answer) and answer.
    #[must_use]
    pub fn api(&self, method: &str, path: &str, body: Option<&Value>) -> (u16, Value) {
        let body = body.map(Value::to_string).unwrap_or_default();
        ask(&self.socket(), method, path, "application/json", body.into_bytes())
    }

    /// Where it keeps everything.
    #[must_use]
    pub fn data(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    /// Names and states of all its containers.
    ///
    /// # Panics
    /// When it does not say.
    #[must_use]
    pub fn containers(&self) -> Vec<(String, String)> {
        let (status, list) = self.api("GET", "/containers/json?all=1", None);
        assert_eq!(status, 200, "{list}\n{}", self.log());
        let text = |value: &Value| value.as_str().unwrap_or_default().trim_matches('/').to_owned();
        let list = list.as_array().into_iter().flatten();
        list.map(|entry| (text(&entry["Names"][0]), text(&entry["State"]))).collect()
    }

    /// Its pid.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.as_ref().map_or(0, Child::id)
    }

    /// Sends it a signal, `-STOP` for example.
    pub fn signal(&self, signal: &str) {
        let _ = Command::new("kill").args([signal, &self.pid().to_string()]).status();
    }

    /// `kill -9` of the engine; its containers go on without it.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// The end of its log.
    #[must_use]
    pub fn log(&self) -> String {
        let text = std::fs::read(self.dir.path().join("log")).unwrap_or_default();
        String::from_utf8_lossy(&text[text.len().saturating_sub(4000)..]).into_owned()
    }

    fn sweep(&self) {
        // Whatever lives in its cgroup, and the containerd that it started.
        let hierarchies = Hierarchies::detect().ok();
        for hierarchy in hierarchies.iter().flat_map(Hierarchies::all) {
            let group = Cgroup::new(hierarchy.version, hierarchy.mount.join(&self.cgroup));
            if group.exists() {
                let limit = Duration::from_secs(10);
                let _ = group.kill(limit).and_then(|()| group.remove(limit));
            }
        }
        // Their command lines name our directory: they are this engine's.
        let dir = self.dir.path().display().to_string();
        for entry in std::fs::read_dir("/proc").into_iter().flatten().flatten() {
            let line = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
            let line = String::from_utf8_lossy(&line).into_owned();
            if line.contains("containerd") && line.contains(&format!("{dir}/")) {
                let pid = entry.file_name().to_string_lossy().into_owned();
                let _ = Command::new("kill").args(["-9", &pid]).status();
            }
        }
        let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap_or_default();
        for point in mounts.lines().rev().filter_map(|line| line.split(' ').nth(1)) {
            if Path::new(point).starts_with(self.dir.path()) {
                let _ = Command::new("umount").args(["-l", point]).status();
            }
        }
    }
}

/// The files of the image, as an archive; made once in a directory.
///
/// # Panics
/// When it cannot be made.
#[must_use]
pub fn archive(dir: &Path) -> Vec<u8> {
    let path = dir.join("image.tar");
    if !path.exists() {
        let root = dir.join("image");
        let bin = root.join("bin");
        std::fs::create_dir_all(&bin).expect("make the image's directory");
        let busybox = std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default())
            .map(|dir| dir.join("busybox"))
            .find(|path| path.is_file())
            .expect("busybox");
        std::fs::copy(busybox, bin.join("busybox")).expect("copy busybox");
        for name in ["sh", "sleep", "cat", "echo", "env", "hostname", "httpd", "seq", "dd", "wget"]
        {
            std::os::unix::fs::symlink("busybox", bin.join(name)).expect("link a program");
        }
        std::fs::create_dir(root.join("tmp")).expect("make a directory");
        let mut tar = Command::new("tar");
        tar.arg("-cf").arg(&path).arg("-C").arg(&root).arg(".");
        assert!(tar.status().expect("run tar").success());
    }
    std::fs::read(&path).expect("read the archive")
}

/// For a query.
fn escaped(text: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
    let escape = |byte: u8| match plain(byte) {
        true => char::from(byte).to_string(),
        false => format!("%{byte:02X}"),
    };
    text.bytes().map(escape).collect()
}

/// One call of an engine's API: status (0 without an answer) and answer.
#[must_use]
pub fn ask(socket: &Path, method: &str, path: &str, kind: &str, body: Vec<u8>) -> (u16, Value) {
    let method: http::Method = method.parse().expect("a method");
    let Some(reply) = reply(socket, Call::post(path, kind, body).method(method)) else {
        return (0, Value::Null);
    };
    let answer = serde_json::from_slice(&reply.body);
    (reply.status.as_u16(), answer.unwrap_or_else(|_| Value::String(reply.text())))
}

fn reply(socket: &Path, call: Call<'_>) -> Option<Reply> {
    // A thread of its own: callers may be inside a runtime.
    std::thread::scope(|scope| {
        let asked = scope.spawn(|| {
            let runtime =
                tokio::runtime::Builder::new_current_thread().enable_all().build().ok()?;
            let client = Client::unix(socket).timeout(ANSWER);
            runtime.block_on(client.call(call)).ok()
        });
        asked.join().ok().flatten()
    })
}

impl Drop for Dockerd {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("-- dockerd\n{}", self.log());
        }
        self.signal("-CONT");
        if self.child.is_some() && self.api("GET", "/_ping", None).0 == 200 {
            for (name, _) in self.containers() {
                let path = format!("/containers/{name}?force=1&v=1");
                if self.api("DELETE", &path, None).0 == 0 {
                    break;
                }
            }
        }
        if let Some(mut child) = self.child.take() {
            let _ = Command::new("kill").args(["-TERM", &child.id().to_string()]).status();
            let by = Instant::now() + Duration::from_secs(20);
            while child.try_wait().is_ok_and(|s| s.is_none()) && Instant::now() < by {
                std::thread::sleep(Duration::from_millis(20));
            }
            let _ = child.kill();
            let _ = child.wait();
        }
        self.sweep();
    }
}
