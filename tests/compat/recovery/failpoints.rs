//! The agent dies at every failpoint, as by `kill -9`, and is started again. Every
//! task must reach the end that it reaches undisturbed, once; nothing may be left.
//!
//! One cluster lives through all deaths. Each life is armed with one point and
//! given a fresh set of tasks, one after the other, until it is dead. Only a task
//! that the agent never stored, or that was on its way to its executor or was being
//! launched by it, may end otherwise.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::Instant;

use crate::cluster::{Cluster, Options};
use crate::framework::{Framework, command, is_terminal, offered, scalar};
use crate::{require, v0};

/// What points begin with that only a first registration passes, in its order.
const FIRST: [&str; 2] = ["effect.register", "checkpoint.agent."];
/// Those that only a framework passes of which the agent knows nothing.
const NEW_FRAMEWORK: [&str; 2] = ["checkpoint.framework.", "checkpoint.unscheduled."];
/// Those with tests of their own.
const ELSEWHERE: [&str; 11] = [
    // `operations`, and `drain`.
    "checkpoint.resources.",
    "checkpoint.operation_",
    "checkpoint.forget_",
    "checkpoint.drain",
    "resources.",
    "send.operation.",
    // Containers with images: tests/compat/image_tasks.
    "provision.",
    "launch.provisioned",
    // Networks and Docker: tests/compat/network, docker, tests/kernel/isolation.
    "cni.",
    "port_mapping.",
    "docker.",
];
/// Of a task that was on its way to its executor.
const RESTARTED: &str = "REASON_AGENT_RESTARTED";
/// Of a task whose executor was launching its container; Mesos' executor gives up.
const LOST_AGENT: &str = "Lost the agent while launching the container";
/// How long a life may take to reach its point.
const PATIENCE: Duration = Duration::from_secs(60);

/// A kind of task.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    /// Ends by itself.
    Exit,
    /// Ignores `SIGTERM` and is killed.
    Kill,
    /// In a nested container of the default executor.
    Group,
    /// Of a V0 executor.
    V0,
}

/// The kinds that pass `point`.
fn kinds(point: &str) -> &'static [Kind] {
    match point {
        "checkpoint.http_marker.before" | "checkpoint.http_marker.after" | "effect.update" => {
            &[Kind::Group]
        }
        "checkpoint.libprocess_pid.before" | "checkpoint.libprocess_pid.after" => &[Kind::V0],
        "checkpoint.kill.before" | "checkpoint.kill.after" | "effect.signal" | "effect.destroy" => {
            &[Kind::Kill]
        }
        "" => &[Kind::Exit, Kind::Kill, Kind::Group, Kind::V0],
        _ => &[Kind::Exit, Kind::Group, Kind::Kill],
    }
}

struct Run {
    cluster: Cluster,
    framework: Framework,
    /// Every task and the point that its life was armed with.
    tasks: BTreeMap<String, (Kind, &'static str)>,
}

impl Run {
    fn ended(&mut self) -> bool {
        self.cluster.agent_ended().is_some()
    }

    /// Handles events until `done` holds or the agent is dead: `true` if it is done.
    async fn until(&mut self, what: &str, done: impl Fn(&Framework) -> bool) -> bool {
        let by = Instant::now() + PATIENCE;
        while !done(&self.framework) {
            if self.ended() {
                return false;
            }
            let point = self.cluster.failpoint;
            assert!(Instant::now() < by, "{what}, {point:?}\n{}", self.cluster.logs());
            self.framework.next(Instant::now() + Duration::from_millis(20)).await;
        }
        true
    }

    async fn launch(&mut self, name: &str, kind: Kind) -> bool {
        let offer = loop {
            if !self.until("an offer", Framework::has_offer).await {
                return false;
            }
            // It may be rescinded already: its agent may have died just now.
            let soon = || Instant::now() + Duration::from_millis(5);
            while self.framework.next(soon()).await.is_some() {}
            let Some(offer) = self.framework.take_offer() else { continue };
            if offered(&offer, "cpus") > 1.0 {
                break offer;
            }
            // What a task has just given back: wait for the rest.
            self.framework.decline(&offer).await;
        };
        let task = |line: &str| {
            let mut task = command(name, line, 32.0);
            task["agent_id"] = offer["agent_id"].clone();
            task["kill_policy"] = json!({ "grace_period": { "nanoseconds": 100_000_000 } });
            task
        };
        let executor = |kind: &str| {
            json!({ "type": kind, "executor_id": { "value": format!("{name}-executor") },
                "framework_id": { "value": self.framework.id },
                "shutdown_grace_period": { "nanoseconds": 100_000_000 },
                "resources": [scalar("cpus", 0.1), scalar("mem", 32.0), scalar("disk", 32.0)] })
        };
        let operation = match kind {
            Kind::Exit => launch_one(task("exit 3")),
            Kind::Kill => {
                launch_one(task("trap '' TERM; touch armed; while :; do sleep 0.1; done"))
            }
            Kind::Group => json!({ "type": "LAUNCH_GROUP", "launch_group": {
                "executor": executor("DEFAULT"), "task_group": { "tasks": [task("exit 0")] } } }),
            Kind::V0 => {
                let mut custom = executor("CUSTOM");
                custom["command"] = json!({ "value": "sleep 1000" });
                let mut task = task("");
                task["executor"] = custom;
                task.as_object_mut().expect("an object").remove("command");
                let id = format!("{name}-executor");
                v0::start(&self.cluster.agent, &self.framework.id, &id).await;
                launch_one(task)
            }
        };
        self.tasks.insert(name.to_owned(), (kind, self.cluster.failpoint.unwrap_or("")));
        let body = json!({ "offer_ids": [offer["id"]], "operations": [operation],
                           "filters": { "refuse_seconds": 0.0 } });
        let reply = self.framework.call("ACCEPT", body).await;
        assert_eq!(reply.status.as_u16(), 202, "{}", reply.text());
        true
    }

    /// Where a command task runs.
    fn sandbox(&self, task: &str) -> PathBuf {
        let status = self.framework.statuses[task].last().expect("a status");
        let agent = status["agent_id"]["value"].as_str().expect("an agent");
        let framework = &self.framework.id;
        let run = format!("slaves/{agent}/frameworks/{framework}/executors/{task}/runs/latest");
        self.cluster.dir.path().join("agent").join(run)
    }

    async fn kill(&self, name: &str) {
        self.framework.call("KILL", json!({ "task_id": { "value": name } })).await;
    }

    /// One task of the kind from launch to end; `false` if the agent died first.
    async fn play(&mut self, name: &str, kind: Kind) -> bool {
        let over = |f: &Framework| f.end(name).is_some();
        if !self.launch(name, kind).await {
            return false;
        }
        if kind == Kind::Kill {
            let runs = |f: &Framework| f.state(name) == Some("TASK_RUNNING") || over(f);
            if !self.until("the task to run", runs).await {
                return false;
            }
            let armed = self.sandbox(name).join("armed");
            if !self.until("the task to be deaf", |f| armed.exists() || over(f)).await {
                return false;
            }
            self.kill(name).await;
        }
        self.until("the task to end", over).await
    }

    /// One life: ends with the agent's death at `point`, or with the last task if
    /// there is none.
    async fn live(&mut self, number: usize, point: Option<&'static str>) {
        self.cluster.failpoint = point;
        self.cluster.kill_agent();
        self.cluster.spawn_agent();
        for kind in kinds(point.unwrap_or("")) {
            let name = format!("{number}-{kind:?}");
            if !self.play(&name, *kind).await {
                break;
            }
        }
        if let Some(point) = point {
            let by = Instant::now() + PATIENCE;
            while !self.ended() {
                assert!(Instant::now() < by, "{point} is not reached\n{}", self.cluster.logs());
                self.framework.next(Instant::now() + Duration::from_millis(20)).await;
            }
            let status = self.cluster.agent_ended().expect("dead");
            use std::os::unix::process::ExitStatusExt;
            assert_eq!(status.signal(), Some(9), "{point}\n{}", self.cluster.logs());
        }
    }

    /// Waits for every end. A kill that reached nobody is sent again.
    async fn finish(&mut self) {
        let by = Instant::now() + Duration::from_secs(120);
        let mut next = Instant::now();
        loop {
            let open: Vec<String> =
                self.tasks.keys().filter(|t| self.framework.end(t).is_none()).cloned().collect();
            if open.is_empty() {
                return;
            }
            assert!(Instant::now() < by, "no end of {open:?}\n{}", self.cluster.logs());
            if Instant::now() > next {
                next = Instant::now() + Duration::from_secs(3);
                let killed = |t: &&String| self.tasks[*t].0 == Kind::Kill;
                for task in open.iter().filter(killed) {
                    if self.framework.statuses.contains_key(task) {
                        self.kill(task).await;
                    }
                }
            }
            self.framework.next(Instant::now() + Duration::from_millis(50)).await;
        }
    }
}

fn launch_one(task: Value) -> Value {
    json!({ "type": "LAUNCH", "launch": { "task_infos": [task] } })
}

/// The tasks that some life of the agent has stored.
fn stored_tasks(cluster: &Cluster) -> BTreeSet<String> {
    fn walk(dir: &Path, found: &mut BTreeSet<String>) {
        for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
            let path = entry.path();
            if path.file_name().is_some_and(|name| name == "task.info") {
                let task = dir.file_name().expect("a task's directory");
                found.insert(task.to_string_lossy().into_owned());
            } else if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                walk(&path, found);
            }
        }
    }
    let mut found = BTreeSet::new();
    walk(&cluster.dir.path().join("agent/meta"), &mut found);
    found
}

/// What must be the same with and without a death.
fn fate(status: &Value) -> (Value, Value, Value) {
    (status["state"].clone(), status["reason"].clone(), status["message"].clone())
}

#[tokio::test]
async fn whatever_point_the_agent_dies_at_the_end_is_the_same() {
    require!(root, cgroup);
    let options = Options::default().master(&["--allocation_interval=50ms"]).agent(&[
        "--registration_backoff_factor=10ms",
        "--executor_reregistration_timeout=10secs",
        "--executor_shutdown_grace_period=100ms",
    ]);
    let cluster = Cluster::master_only("failpoints", options);
    let framework = Framework::subscribe(&cluster.master, "failpoints").await;
    let mut run = Run { cluster, framework, tasks: BTreeMap::new() };
    let mut number = 1;
    for point in FIRST.into_iter().chain(NEW_FRAMEWORK).flat_map(kernel::failpoint::of) {
        run.live(number, Some(point)).await;
        number += 1;
    }
    // Undisturbed, and something that lives through all that follows.
    run.live(0, None).await;
    assert!(run.launch("stay", Kind::Kill).await, "the agent lives");
    run.until("it to run", |f| f.state("stay") == Some("TASK_RUNNING")).await;
    let apart = |point: &str| {
        let mut all = FIRST.iter().chain(&NEW_FRAMEWORK).chain(&ELSEWHERE);
        all.any(|beginning| point.starts_with(beginning))
    };
    for point in kernel::failpoint::ALL.iter().filter(|point| !apart(point)) {
        run.live(number, Some(point)).await;
        number += 1;
    }
    run.cluster.failpoint = None;
    run.cluster.start_agent();
    run.finish().await;

    let undisturbed: BTreeMap<Kind, _> = [Kind::Exit, Kind::Kill, Kind::Group, Kind::V0]
        .into_iter()
        .map(|kind| (kind, fate(run.framework.end(&format!("0-{kind:?}")).expect("ended"))))
        .collect();
    let mut wrong = Vec::new();
    let stored = stored_tasks(&run.cluster);
    for (task, (kind, point)) in &run.tasks {
        let statuses = &run.framework.statuses[task];
        let end = run.framework.end(task).expect("ended");
        let ends = statuses.iter().filter(|s| is_terminal(s["state"].as_str().unwrap_or("")));
        let others = ends.filter(|s| s["uuid"] != end["uuid"]).count();
        // What the agent did not store, and what it had no time to hand to an
        // executor, did not run: as in Mesos, the framework hears that.
        let delivered = matches!(kind, Kind::Exit | Kind::Kill);
        let lost = ["TASK_DROPPED", "TASK_LOST"].iter().any(|state| end["state"] == *state);
        let fine = match lost {
            true => !stored.contains(task) || (!delivered && end["reason"] == RESTARTED),
            false if *kind == Kind::Group && end["message"] == LOST_AGENT => true,
            false => fate(end) == undisturbed[kind],
        };
        if others > 0 || !fine {
            wrong.push(format!("{task} at {point}: {:?}, {others} more ends", fate(end)));
        }
    }
    assert!(wrong.is_empty(), "undisturbed: {undisturbed:?}\n{}", wrong.join("\n"));
    run.cluster.wait_clean();
}

#[tokio::test]
async fn a_second_death_while_a_launch_is_undone_changes_nothing() {
    require!(root, cgroup);
    let mut cluster = Cluster::start("twice", Options::default());
    let mut framework = Framework::subscribe(&cluster.master, "twice").await;
    for (number, point) in ["launch.prepared", "launch.waiting"].into_iter().enumerate() {
        cluster.kill_agent();
        cluster.failpoint = Some(point);
        cluster.start_agent();
        let name = format!("t{number}");
        let offer = framework.offer().await;
        framework.accept(&offer, vec![command(&name, "exit 3", 32.0)]).await;
        dies(&mut cluster, point);
        for point in ["destroy.cleaned", "destroy.recorded"] {
            cluster.failpoint = Some(point);
            cluster.spawn_agent();
            dies(&mut cluster, point);
        }
        cluster.failpoint = None;
        cluster.start_agent();
        framework.until("the end", 90, |f| f.end(&name).is_some()).await;
        let message = &framework.end(&name).expect("ended")["message"];
        assert_eq!(message, "Command exited with status 3", "{point}\n{}", cluster.logs());
    }
    cluster.wait_clean();
}

#[tokio::test]
async fn a_limit_that_was_hit_is_not_forgotten_while_the_container_is_cleaned_up() {
    require!(root, cgroup);
    let mut cluster = Cluster::start("limited", Options::default());
    let mut framework = Framework::subscribe(&cluster.master, "limited").await;
    // The shell of the first one ends well.
    for (number, line) in ["tail | wc -c", "tail"].into_iter().enumerate() {
        for point in ["destroy.limited", "destroy.killed", "destroy.cleaned", "destroy.status"] {
            cluster.kill_agent();
            cluster.failpoint = Some(point);
            cluster.start_agent();
            let name = format!("{point}-{number}");
            let offer = framework.offer().await;
            let hog = format!("head -c 64m /dev/zero | {line}");
            framework.accept(&offer, vec![command(&name, &hog, 16.0)]).await;
            dies(&mut cluster, point);
            cluster.failpoint = None;
            cluster.start_agent();
            framework.until("the end", 90, |f| f.end(&name).is_some()).await;
            let end = framework.end(&name).expect("ended");
            let reason = &end["reason"];
            assert_eq!(reason, "REASON_CONTAINER_LIMITATION_MEMORY", "{name}: {end}");
        }
    }
    cluster.wait_clean();
}

/// Waits for the agent's death.
fn dies(cluster: &mut Cluster, point: &str) {
    let by = std::time::Instant::now() + PATIENCE;
    while cluster.agent_ended().is_none() {
        assert!(std::time::Instant::now() < by, "{point}\n{}", cluster.logs());
        std::thread::sleep(Duration::from_millis(20));
    }
}
