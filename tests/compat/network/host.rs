//! A network namespace that plays the host, with a cluster in it.

use std::fmt::Write as _;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::cluster::{Cluster, Options, get};
use crate::framework::{Framework, command, scalar};
use crate::support::TempDir;

/// Where Debian has the plugins.
const PLUGINS: &str = "/usr/lib/cni";

/// The host. Whatever the test's thread starts from now on is on it.
pub struct Host {
    dir: TempDir,
    /// Where plugins are besides the test's own.
    pub plugins: String,
}

impl Host {
    /// Leaves the machine's network for a new one.
    pub fn new(name: &str) -> Host {
        let flags = nix::sched::CloneFlags::CLONE_NEWNET;
        nix::sched::unshare(flags).expect("a network namespace");
        let host = Host { dir: TempDir::new(name), plugins: PLUGINS.into() };
        std::fs::create_dir_all(host.path("conf")).expect("a directory");
        std::fs::create_dir_all(host.path("plugins")).expect("a directory");
        // No waiting until addresses are known to be nobody else's.
        std::fs::write("/proc/sys/net/ipv6/conf/default/accept_dad", "0").expect("write");
        ip("link set lo up");
        // As a machine on some network.
        ip("link add uplink type veth peer name beyond");
        ip("link set beyond up");
        ip("address add 198.51.100.1/24 dev uplink");
        ip("link set uplink up");
        host
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Configures a network.
    pub fn configure(&self, file: &str, conf: &Value) {
        std::fs::write(self.path("conf").join(file), conf.to_string()).expect("write");
    }

    /// A plugin that is a shell script.
    pub fn plugin(&self, name: &str, body: &str) {
        let text = format!(
            "#!/bin/sh\nconf=$(cat)\nif [ $CNI_COMMAND = VERSION ]; then\n  \
            echo '{{\"cniVersion\":\"1.1.0\",\"supportedVersions\":[\"0.3.1\",\"0.4.0\",\"1.0.0\",\"1.1.0\"]}}'\n  \
            exit\nfi\necho \"$CNI_COMMAND $CNI_CONTAINERID $CNI_IFNAME $conf\" >>{}\n{body}\n",
            self.path("calls").display()
        );
        self.program(name, &text);
    }

    /// A plugin that is any script.
    pub fn program(&self, name: &str, text: &str) {
        let path = self.path("plugins").join(name);
        // Written by a child: nobody here may have it open for writing when it is run.
        std::fs::write(self.path("text"), text).expect("write");
        let copied = Command::new("cp").arg(self.path("text")).arg(&path).status();
        assert!(copied.expect("cp").success());
        let mode = std::fs::Permissions::from_mode(0o755);
        std::fs::set_permissions(&path, mode).expect("executable");
    }

    /// What those plugins were told: command, container, interface and configuration.
    pub fn calls(&self) -> Vec<(String, String, String, Value)> {
        let text = std::fs::read_to_string(self.path("calls")).unwrap_or_default();
        let call = |line: &str| {
            let mut words = line.splitn(4, ' ').map(str::to_owned);
            let mut next = || words.next().unwrap_or_default();
            let (command, container, interface) = (next(), next(), next());
            (command, container, interface, serde_json::from_str(&next()).unwrap_or_default())
        };
        text.lines().map(call).collect()
    }

    /// Flags of an agent on this host.
    pub fn options(&self, more: &[&str]) -> Options {
        let plugins = format!("{}:{}", self.path("plugins").display(), self.plugins);
        let own = [
            format!("--network_cni_config_dir={}", self.path("conf").display()),
            format!("--network_cni_plugins_dir={plugins}"),
        ];
        let all: Vec<&str> = own.iter().map(String::as_str).chain(more.iter().copied()).collect();
        Options::default().agent(&all)
    }

    /// A cluster and a framework on this host.
    pub async fn cluster(&self, name: &str, more: &[&str]) -> (Cluster, Framework) {
        let cluster = Cluster::start(name, self.options(more));
        let framework = Framework::subscribe(&cluster.master, name).await;
        (cluster, framework)
    }

    /// Leases of `host-local` with their owners.
    pub fn leases(&self, network: &str) -> Vec<String> {
        let dir = self.path("leases").join(network);
        let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
        let names = entries.map(|entry| entry.file_name().to_string_lossy().into_owned());
        let mut leases: Vec<String> = names.filter(|name| name.contains(['.', ':'])).collect();
        leases.retain(|name| !name.starts_with("last_reserved_ip"));
        leases.sort();
        leases
    }

    /// Waits until nothing of any container is left: interfaces, leases, namespaces,
    /// records, processes, cgroups.
    pub async fn wait_clean(&self, cluster: &Cluster, framework: &mut Framework) {
        let by = Instant::now() + Duration::from_secs(60);
        loop {
            let mut left = cluster.leftovers();
            left.extend(links().into_iter().filter(|link| link.starts_with("veth")));
            let networks = std::fs::read_dir(self.path("leases")).into_iter().flatten().flatten();
            for network in networks {
                left.extend(self.leases(&network.file_name().to_string_lossy()));
            }
            let root = cluster.dir.path().join("run/isolators/network/cni");
            let kept = std::fs::read_dir(root).into_iter().flatten().flatten();
            left.extend(kept.map(|entry| entry.path().display().to_string()));
            if left.is_empty() {
                return;
            }
            assert!(Instant::now() < by, "left behind: {left:#?}\n{}", cluster.logs());
            // Updates that were not acknowledged keep a container in mind.
            framework.next((Instant::now() + Duration::from_millis(50)).into()).await;
        }
    }
}

/// Another machine, with addresses on the wire beyond the uplink: the name of its network
/// namespace, which goes with it.
pub struct Beyond(pub String);

impl Beyond {
    pub fn new() -> Beyond {
        let name = format!("beyond-{}", std::process::id());
        ip(&format!("netns add {name}"));
        let beyond = Beyond(name);
        let name = &beyond.0;
        ip(&format!("link set beyond netns {name}"));
        ip(&format!("-n {name} address add 198.51.100.2/24 dev beyond"));
        ip(&format!("-n {name} address add fd51::2/64 dev beyond nodad"));
        ip(&format!("-n {name} link set beyond up"));
        beyond
    }
}

impl Drop for Beyond {
    fn drop(&mut self) {
        let _ = Command::new("ip").args(["netns", "del", &self.0]).status();
    }
}

/// The page with the networks that people are told to configure.
const PAGE: &str = include_str!("../../../docs/operating/networking.md");

/// The only example on that page that has `mark` in it.
fn block(mark: &str) -> &'static str {
    let blocks = PAGE.split("```").skip(1).step_by(2).filter(|block| block.contains(mark));
    let blocks: Vec<&str> = blocks.collect();
    let [block] = blocks.as_slice() else { panic!("{mark}: {blocks:?}") };
    block.trim_start()
}

/// That example as a configuration.
pub fn example(mark: &str) -> Value {
    serde_json::from_str(block(mark)).unwrap_or_else(|error| panic!("{mark}: {error}"))
}

/// That example as a program.
pub fn program(mark: &str) -> String {
    block(mark).to_owned()
}

/// Whether a line of shell succeeds.
pub fn sh(line: &str) -> bool {
    Command::new("sh").args(["-c", line]).status().expect("sh").success()
}

/// Runs a line of shell that must succeed; what it printed.
pub fn text(line: &str) -> String {
    let output = Command::new("sh").args(["-c", line]).output().expect("sh");
    assert!(output.status.success(), "{line}: {output:?}");
    String::from_utf8(output.stdout).expect("text")
}

/// Runs a program that must succeed; what it printed.
pub fn run(line: &str) -> String {
    let words: Vec<&str> = line.split_whitespace().collect();
    let output = Command::new(words[0]).args(&words[1..]).output();
    let output = output.unwrap_or_else(|error| panic!("{line}: {error}"));
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{line}: {error}");
    String::from_utf8(output.stdout).expect("text")
}

pub fn ip(line: &str) -> String {
    run(&format!("ip {line}"))
}

/// Names of this host's interfaces.
pub fn links() -> Vec<String> {
    let text = ip("-o link");
    let name =
        |line: &str| line.split(": ").nth(1).map(|n| n.split('@').next().unwrap_or(n).to_owned());
    text.lines().filter_map(name).collect()
}

/// A bridge with addresses of both kinds from `host-local`.
pub fn bridge(host: &Host, name: &str, number: u8) -> Value {
    json!({
        "cniVersion": "1.0.0", "name": name, "type": "bridge", "bridge": format!("br{number}"),
        "isGateway": true, "ipMasq": false, "hairpinMode": true,
        "ipam": { "type": "host-local", "dataDir": host.path("leases").display().to_string(),
            "ranges": [[{ "subnet": format!("10.77.{number}.0/24") }],
                       [{ "subnet": format!("fd77:{number}::/64") }]],
            "routes": [{ "dst": "0.0.0.0/0" }, { "dst": "::/0" }] }
    })
}

/// A task on networks.
pub fn task(name: &str, line: &str, networks: &[&str]) -> Value {
    let mut task = command(name, line, 32.0);
    let infos: Vec<Value> = networks.iter().map(|name| json!({ "name": name })).collect();
    task["container"] = json!({ "type": "MESOS", "network_infos": infos });
    task
}

/// Addresses in the status of a task, network by network.
pub fn addresses(framework: &Framework, task: &str) -> Vec<Vec<String>> {
    let status = framework.statuses[task].last().expect("a status");
    let networks = status["container_status"]["network_infos"].as_array().cloned();
    let of = |network: &Value| {
        let all = network["ip_addresses"].as_array().cloned().unwrap_or_default();
        all.iter().filter_map(|a| a["ip_address"].as_str().map(str::to_owned)).collect()
    };
    networks.unwrap_or_default().iter().map(of).collect()
}

/// A task's output, once it has said `text`.
pub fn output(cluster: &Cluster, task: &str, text: &str) -> String {
    let by = Instant::now() + Duration::from_secs(60);
    loop {
        let found = find(&cluster.dir.path().join("agent/slaves"), task);
        let said = found.map(|dir| std::fs::read_to_string(dir.join("stdout")).unwrap_or_default());
        let said = said.unwrap_or_default();
        if said.contains(text) {
            return said;
        }
        let mut errors = String::new();
        if let Some(dir) = find(&cluster.dir.path().join("agent/slaves"), task) {
            let _ = write!(errors, "{:?}", std::fs::read_to_string(dir.join("stderr")));
        }
        assert!(
            Instant::now() < by,
            "{task} does not say {text:?} but {said:?}; {errors}\n{}",
            cluster.logs()
        );
        std::thread::sleep(Duration::from_millis(30));
    }
}

/// The sandbox of a task's latest run.
fn find(slaves: &Path, task: &str) -> Option<PathBuf> {
    let frameworks = std::fs::read_dir(slaves).ok()?.flatten().map(|e| e.path().join("frameworks"));
    let executors = frameworks.flat_map(std::fs::read_dir).flatten().flatten();
    let runs = executors.map(|e| e.path().join("executors").join(task).join("runs/latest"));
    runs.into_iter().find(|dir| dir.exists())
}

/// `/monitor/statistics` of one executor.
pub fn statistics(cluster: &Cluster, executor: &str) -> Value {
    let text = get(&cluster.agent, "/monitor/statistics").expect("statistics");
    let all: Value = serde_json::from_str(&text).expect("JSON");
    let entry = all.as_array().into_iter().flatten().find(|e| e["executor_id"] == executor);
    entry.map(|entry| entry["statistics"].clone()).unwrap_or_default()
}

/// Python that serves one connection: counts what it gets and prints `got N`.
pub fn sink(port: u16) -> String {
    format!(
        "exec python3 -c 'import socket\ns = socket.create_server((\"\", {port}), family=socket.AF_INET6, dualstack_ipv6=True)\n\
         print(\"ready\", flush=True)\nwhile True:\n  c, _ = s.accept()\n  n = 0\n  while d := c.recv(65536): n += len(d)\n  print(\"got\", n, flush=True)\n  c.close()'"
    )
}

/// Python that sends `bytes` to a server; its exit status tells.
pub fn source(address: &str, port: u16, bytes: usize) -> String {
    format!(
        "python3 -c 'import socket\ns = socket.create_connection((\"{address}\", {port}), 20)\ns.sendall(bytes({bytes}))\ns.shutdown(1)\ns.recv(1)'"
    )
}

/// Launches a group of tasks in one executor that is on `networks`.
pub async fn group(
    framework: &mut Framework,
    name: &str,
    networks: &[&str],
    tasks: &[(&str, &str)],
) {
    let offer = framework.offer().await;
    let infos: Vec<Value> = networks.iter().map(|name| json!({ "name": name })).collect();
    let executor = json!({
        "type": "DEFAULT", "executor_id": { "value": name },
        "framework_id": { "value": framework.id },
        "container": { "type": "MESOS", "network_infos": infos },
        "resources": [scalar("cpus", 0.1), scalar("mem", 32.0), scalar("disk", 32.0)],
    });
    let task = |(name, line): &(&str, &str)| {
        let mut task = command(name, line, 32.0);
        task["agent_id"] = offer["agent_id"].clone();
        task
    };
    let tasks: Vec<Value> = tasks.iter().map(task).collect();
    let operation = json!({ "type": "LAUNCH_GROUP",
        "launch_group": { "executor": executor, "task_group": { "tasks": tasks } } });
    let body = json!({ "offer_ids": [offer["id"]], "operations": [operation] });
    let reply = framework.call("ACCEPT", body).await;
    assert_eq!(reply.status.as_u16(), 202, "{}", reply.text());
}
