//! Devices and secrets through master and agent: what is offered, what a task gets,
//! what is written down.

use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};

use crate::cluster::{Cluster, Options, get};
use crate::framework::{Framework, command};
use crate::require;
use crate::support::TempDir;

const KIND: &str = "bulkhead.test/log";
const HUSH: &str = "hush-27ab90";
const ISOLATION: &str = "--isolation=filesystem/linux,cgroups/cpu,cgroups/mem,cgroups/pids,\
                         cgroups/devices,devices/cdi,namespaces/pid,volume/secret";

/// Two devices of which one node each is the kernel's log.
fn specs(dir: &Path) {
    let node = dir.join("node");
    let made = Command::new("mknod").arg(&node).args(["c", "1", "11"]).status().expect("mknod");
    assert!(made.success());
    let device = |name: &str| {
        json!({ "name": name, "containerEdits": { "env": [format!("LOG={name}")],
                "deviceNodes": [{ "path": node, "permissions": "r" }] } })
    };
    let spec = json!({ "cdiVersion": "0.6.0", "kind": KIND,
                       "devices": [device("log0"), device("log1")] });
    std::fs::write(dir.join("log.json"), spec.to_string()).expect("write");
}

fn with(mut task: Value, devices: &[&str]) -> Value {
    let set = json!({ "name": KIND, "type": "SET", "set": { "item": devices } });
    task["resources"].as_array_mut().expect("a list").push(set);
    task
}

fn items(offer: &Value) -> Vec<&str> {
    let all = offer["resources"].as_array().into_iter().flatten();
    let sets = all.filter(|resource| resource["name"] == KIND);
    let mut names: Vec<&str> = sets
        .flat_map(|set| set["set"]["item"].as_array().into_iter().flatten())
        .filter_map(Value::as_str)
        .collect();
    names.sort_unstable();
    names
}

/// Files below `dir` that hold `text`.
fn holding(dir: &Path, text: &str) -> String {
    let output = Command::new("grep").args(["-rl", text]).arg(dir).output().expect("grep");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[tokio::test]
async fn devices_are_offered_and_given_by_name() {
    require!(root, cgroup);
    let dir = TempDir::new("specs");
    specs(dir.path());
    let flags = [ISOLATION, &format!("--cdi_spec_dirs={}", dir.path().display())];
    let mut cluster = Cluster::start("devices", Options::default().agent(&flags));
    let mut framework = Framework::subscribe(&cluster.master, "devices").await;
    let node = dir.path().join("node");
    let look = format!("exec 3<{} && test \"$LOG\" = log1", node.display());
    let hold = with(command("holds", &format!("{look} && sleep 1000"), 32.0), &["log1"]);
    let offer = framework.launch(vec![hold]).await;
    assert_eq!(items(&offer), ["log0", "log1"]);
    framework.until("the task", 60, |f| f.state("holds") == Some("TASK_RUNNING")).await;

    // The one that is taken is not offered, and cannot be had.
    let offer = framework.offer().await;
    assert_eq!(items(&offer), ["log0"]);
    let taken = with(command("taken", "true", 32.0), &["log1"]);
    let reply = framework.accept(&offer, vec![taken]).await;
    assert_eq!(reply.status.as_u16(), 202);
    framework.until("the refusal", 60, |f| f.end("taken").is_some()).await;
    let end = framework.end("taken").expect("an end");
    assert_eq!(end["state"], "TASK_ERROR", "{end}");
    let plain = command("plain", &format!("exec 3<{}", node.display()), 32.0);
    let end = framework.run(plain, 60).await;
    assert_eq!(end["state"], "TASK_FAILED", "a task without the device has opened it: {end}");

    // The next agent finds the same devices and leaves the task its own.
    cluster.kill_agent();
    cluster.start_agent();
    let free = with(command("free", &format!("exec 3<{}", node.display()), 32.0), &["log0"]);
    let end = framework.run(free, 60).await;
    assert_eq!(end["state"], "TASK_FINISHED", "{end}");
    assert_eq!(framework.state("holds"), Some("TASK_RUNNING"));
}

#[tokio::test]
async fn a_secret_reaches_its_task_and_no_disk() {
    require!(root, cgroup);
    let dir = TempDir::new("vault");
    std::fs::write(dir.path().join("db"), "password").expect("write");
    let flags = [ISOLATION, &format!("--secrets_dir={}", dir.path().display())];
    let mut cluster = Cluster::start("secrets", Options::default().agent(&flags));
    let mut framework = Framework::subscribe(&cluster.master, "secrets").await;
    // "hush-27ab90" in base64.
    let value = json!({ "type": "VALUE", "value": { "data": "aHVzaC0yN2FiOTA=" } });
    let named = json!({ "type": "REFERENCE", "reference": { "name": "db" } });
    let variable =
        |name: &str, secret: &Value| json!({ "name": name, "type": "SECRET", "secret": secret });
    let volume = |path: &str, secret: &Value| {
        json!({ "container_path": path, "mode": "RO",
                "source": { "type": "SECRET", "secret": secret } })
    };
    let line = format!(
        "test \"$A\" = {HUSH} && test \"$B\" = password && test \"$(cat a)\" = {HUSH} && \
         test \"$(cat b)\" = password || exit 3; while [ ! -e go ]; do sleep 0.05; done; cat a >copy"
    )
    // The command itself is no secret.
    .replace(HUSH, "\"hush-\"27ab90");
    let mut task = command("secret", &line, 32.0);
    task["command"]["environment"] =
        json!({ "variables": [variable("A", &value), variable("B", &named)] });
    task["container"] =
        json!({ "type": "MESOS", "volumes": [volume("a", &value), volume("b", &named)] });
    framework.start(task).await;
    let found = holding(cluster.dir.path(), HUSH);
    let found: Vec<&str> = found.lines().filter(|path| !path.contains("/secrets/")).collect();
    assert!(found.is_empty(), "the secret is in {found:?}");
    for daemon in [&cluster.master, &cluster.agent] {
        let state = get(daemon, "/state").expect("its state");
        assert!(state.contains("\"secret\"") && !state.contains("aHVzaC0yN2FiOTA"), "{state}");
    }

    cluster.kill_agent();
    cluster.start_agent();
    let sandbox = Command::new("find")
        .arg(cluster.dir.path())
        .args(["-path", "*/runs/*", "-name", "stdout", "-not", "-path", "*/latest/*"])
        .output()
        .expect("find");
    let stdout = String::from_utf8_lossy(&sandbox.stdout).trim().to_owned();
    let sandbox = Path::new(&stdout).parent().expect("a sandbox").to_owned();
    std::fs::write(sandbox.join("go"), "").expect("go");
    framework.until("the end", 60, |f| f.end("secret").is_some()).await;
    let end = framework.end("secret").expect("an end");
    assert_eq!(end["state"], "TASK_FINISHED", "{end}");
    assert_eq!(std::fs::read_to_string(sandbox.join("copy")).expect("the copy"), HUSH);

    let mut lost = command("lost", "true", 32.0);
    let nobody = json!({ "type": "REFERENCE", "reference": { "name": "nobody" } });
    lost["container"] = json!({ "type": "MESOS", "volumes": [volume("a", &nobody)] });
    let end = framework.run(lost, 60).await;
    assert_eq!(end["state"], "TASK_FAILED", "{end}");
    let message = end["message"].as_str().unwrap_or_default();
    assert!(message.contains("there is no secret 'nobody' in --secrets_dir"), "{message}");
}
