//! Several agents as separate hosts on a routed network, one of which is cut off.

use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use kernel::cgroup::{Cgroup, Hierarchies};
use serde_json::{Value, json};

use super::host::{Host, addresses, ip, sink, source, task};
use crate::cluster::{Cluster, Options, binary, free_port, get};
use crate::framework::Framework;
use crate::require;

/// A host beyond the router that the test's thread is on.
struct Remote {
    name: String,
    address: String,
    dir: PathBuf,
    cgroups: String,
    agent: Option<Child>,
}

impl Remote {
    /// On a wire of its own, with a subnet for its containers.
    fn new(host: &Host, number: u8) -> Remote {
        let name = format!("bh{}-{number}", std::process::id());
        ip(&format!("netns add {name}"));
        ip(&format!("link add wire{number} type veth peer name wire netns {name}"));
        ip(&format!("address add 10.66.{number}.1/24 dev wire{number}"));
        ip(&format!("link set wire{number} up"));
        for line in [
            "link set lo up".to_owned(),
            format!("address add 10.66.{number}.2/24 dev wire"),
            "link set wire up".to_owned(),
            format!("route add default via 10.66.{number}.1"),
        ] {
            ip(&format!("-n {name} {line}"));
        }
        ip(&format!("route add 10.80.{number}.0/24 via 10.66.{number}.2"));
        let dir = host.path(&name);
        std::fs::create_dir_all(dir.join("conf")).expect("a directory");
        let conf = json!({
            "cniVersion": "1.0.0", "name": "web", "type": "bulkhead-bridge", "bridge": "web0",
            "isGateway": true,
            "ipam": { "type": "host-local", "dataDir": dir.join("leases").display().to_string(),
                "subnet": format!("10.80.{number}.0/24"), "routes": [{ "dst": "0.0.0.0/0" }] }
        });
        std::fs::write(dir.join("conf/web.conf"), conf.to_string()).expect("write");
        let (address, cgroups) = (format!("10.66.{number}.2"), format!("bulkhead-{name}"));
        Remote { name, address, dir, cgroups, agent: None }
    }

    fn start(&mut self, master: &str) {
        let log = std::fs::File::create(self.dir.join("log")).expect("a log");
        let dir = self.dir.display();
        let child = Command::new("nsenter")
            .arg(format!("--net=/run/netns/{}", self.name))
            .arg(binary("bulkhead-agent"))
            .args([
                format!("--master={master}"),
                format!("--ip={}", self.address),
                format!("--hostname={}", self.name),
                format!("--port={}", free_port()),
                format!("--work_dir={dir}/work"),
                format!("--runtime_dir={dir}/run"),
                format!("--fetcher_cache_dir={dir}/fetch"),
                format!("--cgroups_root={}", self.cgroups),
                format!("--network_cni_config_dir={dir}/conf"),
                "--network_cni_plugins_dir=/usr".to_owned(),
                "--launcher=linux".to_owned(),
                "--isolation=cgroups/cpu,cgroups/mem,cgroups/pids,namespaces/pid,filesystem/linux"
                    .to_owned(),
                "--resources=cpus:8;mem:1024;disk:1024".to_owned(),
                "--gc_disk_headroom=0".to_owned(),
            ])
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("copy a descriptor"))
            .stderr(log)
            .spawn();
        self.agent = Some(child.expect("the agent"));
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.dir.join("log")).unwrap_or_default()
    }
}

impl Drop for Remote {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("-- agent on {}\n{}", self.name, self.log());
        }
        if let Some(mut child) = self.agent.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
        for hierarchy in Hierarchies::detect().expect("cgroups").all() {
            let group = Cgroup::new(hierarchy.version, hierarchy.mount.join(&self.cgroups));
            let limit = Duration::from_secs(10);
            let _ = group.kill(limit).and_then(|()| group.remove(limit));
        }
        let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap_or_default();
        let dir = self.dir.display().to_string();
        for point in mounts.lines().rev().filter_map(|line| line.split(' ').nth(1)) {
            if point.starts_with(&dir) {
                let _ = Command::new("umount").args(["-l", point]).status();
            }
        }
        let _ = Command::new("ip").args(["netns", "del", &self.name]).status();
    }
}

/// Launches a task on the host of that name and waits until it runs.
async fn start_on(framework: &mut Framework, host: &str, task: Value) {
    let name = task["task_id"]["value"].as_str().expect("a name").to_owned();
    loop {
        let offer = framework.offer().await;
        if offer["hostname"] == host {
            assert_eq!(framework.accept(&offer, vec![task]).await.status.as_u16(), 202);
            break;
        }
        framework.decline(&offer).await;
    }
    framework
        .until(&format!("{name} to run"), 60, |f| {
            f.state(&name) == Some("TASK_RUNNING") || f.end(&name).is_some()
        })
        .await;
}

fn said(host: &Remote, task: &str, text: &str) {
    let by = Instant::now() + Duration::from_secs(60);
    let read = || {
        let line = format!(
            "cat {}/slaves/*/frameworks/*/executors/{task}/runs/latest/stdout",
            host.dir.join("work").display()
        );
        let output = Command::new("sh").args(["-c", &line]).output().expect("sh");
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    while !read().contains(text) {
        assert!(Instant::now() < by, "{task} does not say {text:?}: {:?}", read());
        std::thread::sleep(Duration::from_millis(30));
    }
}

#[tokio::test]
async fn hosts_talk_and_one_is_cut_off_for_a_while() {
    require!(root, cgroup, program_python3, program_nsenter);
    let host = Host::new("net-hosts");
    std::fs::write("/proc/sys/net/ipv4/ip_forward", "1").expect("write");
    ip("address add 10.66.0.1/32 dev lo");
    let options = Options::default().master(&[
        "--ip=0.0.0.0",
        "--advertise_ip=10.66.0.1",
        "--agent_ping_timeout=1secs",
        "--max_agent_ping_timeouts=2",
    ]);
    let cluster = Cluster::master_only("net-hosts", options);
    let master = cluster.master.replace("127.0.0.1", "10.66.0.1");
    let mut hosts = [Remote::new(&host, 1), Remote::new(&host, 2)];
    for host in &mut hosts {
        host.start(&master);
    }
    let mut framework = Framework::subscribe(&cluster.master, "net-hosts").await;
    let [one, two] = [hosts[0].name.clone(), hosts[1].name.clone()];
    start_on(&mut framework, &one, task("server", &sink(80), &["web"])).await;
    let told = addresses(&framework, "server").concat();
    assert_eq!(told, ["10.80.1.2"], "{:?}", framework.statuses["server"]);
    said(&hosts[0], "server", "ready");
    let client = format!("{} && echo sent && sleep 1000", source(&told[0], 80, 21));
    start_on(&mut framework, &two, task("client", &client, &["web"])).await;
    said(&hosts[0], "server", "got 21");
    said(&hosts[1], "client", "sent");

    // Cut off for longer than pings may be lost, and back.
    ip("link set wire1 down");
    framework
        .until("the partition to be seen", 60, |f| f.state("server") == Some("TASK_UNREACHABLE"))
        .await;
    assert_eq!(framework.state("client"), Some("TASK_RUNNING"));
    ip("link set wire1 up");
    // The route went with the wire.
    ip("route replace 10.80.1.0/24 via 10.66.1.2");
    framework.until("the task to be back", 60, |f| f.state("server") == Some("TASK_RUNNING")).await;
    let again = source(&told[0], 80, 22);
    start_on(&mut framework, &two, task("again", &format!("{again} && sleep 1000"), &["web"]))
        .await;
    said(&hosts[0], "server", "got 21\ngot 22");
    let slaves = get(&cluster.master, "/slaves").expect("/slaves");
    assert_eq!(slaves.matches("\"active\":true").count(), 2, "{slaves}");
    for name in ["server", "client", "again"] {
        framework.call("KILL", json!({ "task_id": { "value": name } })).await;
        framework.until("the end", 60, |f| f.end(name).is_some()).await;
    }
}
