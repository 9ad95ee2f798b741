//! Plugins that crash, hang, dawdle and lie, as real processes beside real
//! containers: whoever misbehaves is named, and harms nobody else.

#![allow(clippy::unwrap_used, reason = "a plugin process of the tests")]

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use bulkhead::containerizer::native::Native;
use bulkhead::containerizer::{Containerizer, KnownContainer};
use isolator_plugin::wire::{Answer, Service, listen};
use isolator_plugin::{Manifest, Plugin, Policy, RemoteIsolator, Report};
use isolators::api::{
    About, ContainerContext, Contribution, Isolation, Isolator, IsolatorError, Known, Recovered,
};
use isolators::hook::{Additions, Hook, HookContext};
use mesos::bulkhead::plugin::call::hook::Type as HookType;
use mesos::bulkhead::plugin::{Call, Event, Limitation, Response, Supports, call, event, response};
use serde_json::json;

use crate::{PATIENCE, Place, end, require, top};

const ISOLATION: &str = "cgroups/cpu,cgroups/mem,namespaces/pid,filesystem/linux";
const DEADLINE: Duration = Duration::from_secs(3);

/// The plugin process: this test's program, started again by the agent's part.
#[test]
#[ignore = "a plugin, started by the tests of this file"]
fn plugin_process() {
    let Some(socket) = std::env::var_os("BULKHEAD_PLUGIN_SOCKET") else { return };
    let socket = PathBuf::from(socket);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let name: &'static str = socket.file_stem().unwrap().to_str().unwrap().to_owned().leak();
    let ended = runtime.block_on(async {
        if name == "liar" {
            return listen(&socket, Arc::new(Liar)).await;
        }
        let hooks = [
            HookType::Labels,
            HookType::Environment,
            HookType::PreLaunch,
            HookType::PostFetch,
            HookType::Remove,
        ];
        let directory = socket.with_extension("kept");
        let _ = std::fs::create_dir(&directory);
        let hook = Decorator { name, log: socket.with_extension("log") };
        Plugin::new(name, "1", move |_| Ok(Moody { name, directory: directory.clone() }))
            .all_calls()
            .hook(hook, &hooks)
            .run()
            .await
    });
    ended.unwrap();
}

/// Keeps a file per container, and behaves as the container's name says.
struct Moody {
    name: &'static str,
    directory: PathBuf,
}

#[derive(Debug)]
struct Kept {
    name: &'static str,
    id: String,
    file: PathBuf,
}

impl Moody {
    fn handle(&self, context: &ContainerContext) -> Kept {
        let id = context.id.to_string();
        Kept { name: self.name, file: self.directory.join(&id), id }
    }
}

#[async_trait]
impl Isolator for Moody {
    fn about(&self) -> About {
        About::top_level(self.name)
    }

    fn attach(&self, context: &Arc<ContainerContext>) -> Box<dyn Isolation> {
        Box::new(self.handle(context))
    }

    async fn recover(&self, known: &[Known]) -> Result<Recovered, IsolatorError> {
        let handles = known.iter().map(|known| Box::new(self.handle(&known.context)) as _);
        Ok(Recovered { handles: handles.collect(), leftovers: Vec::new() })
    }
}

#[async_trait]
impl Isolation for Kept {
    async fn prepare(&mut self) -> Result<Contribution, IsolatorError> {
        std::fs::write(&self.file, "").unwrap();
        if self.name == "moody" {
            match self.id.as_str() {
                "crash" => std::process::exit(3),
                "hang" => std::future::pending().await,
                "freeze" => std::thread::sleep(Duration::from_secs(1000)),
                "slow" => tokio::time::sleep(DEADLINE / 2).await,
                "refused" => return Err(IsolatorError::plain(self.name, "like", "its name")),
                _ => {}
            }
        }
        let variable = (self.name.to_uppercase(), "was here".to_owned());
        let needs_pid = true;
        Ok(Contribution {
            environment: BTreeMap::from([variable]),
            needs_pid,
            ..Contribution::default()
        })
    }

    async fn isolate(&mut self, pid: u32) -> Result<(), IsolatorError> {
        std::fs::write(&self.file, pid.to_string()).unwrap();
        Ok(())
    }

    async fn cleanup(&mut self) -> Result<(), IsolatorError> {
        let _ = std::fs::remove_file(&self.file);
        Ok(())
    }
}

/// Adds a label and a variable, and writes down what it sees.
struct Decorator {
    name: &'static str,
    log: PathBuf,
}

impl Decorator {
    fn note(&self, what: &str, context: &HookContext) {
        let mut text = std::fs::read_to_string(&self.log).unwrap_or_default();
        text.push_str(&format!("{what} {}\n", context.id.value));
        std::fs::write(&self.log, text).unwrap();
    }
}

#[async_trait]
impl Hook for Decorator {
    fn name(&self) -> &'static str {
        self.name
    }

    async fn labels(&self, context: &HookContext) -> Result<Additions, IsolatorError> {
        self.note("labels", context);
        Ok(Additions::from([("rack".into(), "r1".into())]))
    }

    async fn environment(&self, context: &HookContext) -> Result<Additions, IsolatorError> {
        let rack = context.labels.get("rack").cloned().unwrap_or_default();
        Ok(Additions::from([("RACK".into(), rack)]))
    }

    async fn pre_launch(&self, context: &HookContext) -> Result<(), IsolatorError> {
        match context.id.value.as_str() {
            "unwanted" => Err(IsolatorError::plain(self.name, "want", "this container")),
            _ => Ok(()),
        }
    }

    async fn post_fetch(&self, context: &HookContext) -> Result<(), IsolatorError> {
        std::fs::write(context.sandbox.join("fetched"), "by hook").unwrap();
        Ok(())
    }

    async fn removed(&self, context: &HookContext) -> Result<(), IsolatorError> {
        self.note("removed", context);
        Ok(())
    }
}

/// Speaks the protocol and never the truth.
struct Liar;

#[async_trait]
impl Service for Liar {
    async fn serve(&self, call: Call) -> Answer {
        let kind = call.r#type();
        if kind == call::Type::Watch {
            let (tell, events) = tokio::sync::mpsc::channel(1);
            let limitation = Limitation {
                container_id: top("victim"),
                message: "a lie".into(),
                ..Limitation::default()
            };
            tokio::spawn(async move {
                let kind = Some(event::Type::Limitation as i32);
                let lie = Event { r#type: kind, limitation: Some(limitation) };
                while tell.send(lie.clone()).await.is_ok() {
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
            });
            return Answer::Stream(events);
        }
        let mut response = Response { r#type: Some(kind as i32), ..Response::default() };
        match kind {
            call::Type::Hello => {
                let supports =
                    Supports { calls: vec![call::Type::Watch as i32], ..Supports::default() };
                response.hello = Some(response::Hello {
                    name: "liar".into(),
                    version: "0".into(),
                    protocol: 1,
                    supports: Some(supports),
                });
            }
            call::Type::Prepare => {
                let environment = BTreeMap::from([("LD_PRELOAD=/evil\0".into(), "x".into())]);
                response.prepare = Some(response::Prepare {
                    contribution: Some(mesos::bulkhead::plugin::Contribution {
                        environment,
                        ..Default::default()
                    }),
                });
            }
            _ => {}
        }
        Answer::Response(Box::new(response))
    }
}

/// A place with plugins: the sockets' names are theirs.
fn place(name: &str, plugins: &[(&str, Policy)]) -> Place {
    let mut place = Place::new(name, ISOLATION);
    set(&mut place, plugins);
    place
}

fn set(place: &mut Place, plugins: &[(&str, Policy)]) {
    let own = std::env::current_exe().unwrap().display().to_string();
    let arguments = ["--exact", "plugins::plugin_process", "--ignored", "--nocapture"];
    let command: Vec<String> = std::iter::once(own).chain(arguments.map(str::to_owned)).collect();
    place.config.isolation = ISOLATION.into();
    place.config.plugins.clear();
    for (plugin, policy) in plugins {
        place.config.isolation.push_str(&format!(",{plugin}"));
        place.config.plugins.push(RemoteIsolator::new(Manifest {
            name: (*plugin).to_owned(),
            socket: place.path(&format!("{plugin}.sock")),
            command: command.clone(),
            deadline: DEADLINE,
            policy: *policy,
            protobuf: false,
            config: json!({}),
        }));
    }
}

async fn started(place: &Place) -> Native {
    let native = place.start();
    native.recover(Vec::new()).await.expect("recovered");
    native
}

fn report(native: &Native, name: &str) -> Report {
    native.plugins().into_iter().find(|report| report.name == name).expect("a report")
}

async fn until(native: &Native, name: &str, what: &str, holds: impl Fn(&Report) -> bool) {
    let start = Instant::now();
    while !holds(&report(native, name)) {
        assert!(start.elapsed() < PATIENCE, "{name} never {what}: {:?}", report(native, name));
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

fn kept(place: &Place, plugin: &str) -> Vec<String> {
    let entries = std::fs::read_dir(place.path(&format!("{plugin}.kept"))).expect("a directory");
    entries.map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned()).collect()
}

fn runs(native: &Native, id: &str) -> bool {
    native.containers().iter().any(|(known, pid)| known.value == id && pid.is_some())
}

async fn destroy(native: &Native, id: &str) {
    native.destroy(&top(id), None).await.expect("known");
    native.forget(&top(id)).await;
}

/// Ends what this process started: the runtime would only do it when it ends.
fn stop(place: &Place) {
    place.config.plugins.iter().for_each(RemoteIsolator::stop);
}

async fn refused(native: &Native, place: &Place, id: &str) -> String {
    native.launch(place.shell(id, "true")).await.expect_err(id).to_string()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_crashing_plugin_fails_its_launch_only_and_is_restarted() {
    require!(root, cgroup);
    let place = place("crash", &[("moody", Policy::Fail), ("good", Policy::Fail)]);
    let native = started(&place).await;
    let calm = place.shell("calm", "echo $MOODY; echo $GOOD; sleep 1000");
    let pid = native.launch(calm).await.expect("launch").pid.expect("a pid");
    let output = place.wait_output("calm", "was here\nwas here").await;
    assert_eq!(output, "was here\nwas here\n");
    let told = std::fs::read_to_string(place.path("moody.kept/calm")).expect("kept");
    assert_eq!(told, pid.to_string(), "it saw the process before the command ran");

    let message = refused(&native, &place, "crash").await;
    assert!(message.contains("moody: failed to prepare container crash"), "{message}");
    assert!(runs(&native, "calm"), "a container that runs is left alone");
    let why = |report: &Report| report.reason.clone().unwrap_or_default();
    until(&native, "moody", "came back", |r| r.state == "ready" && r.restarts == 1).await;
    let moody = report(&native, "moody");
    assert!(moody.failures >= 1 && !why(&moody).is_empty(), "{moody:?}");
    let good = report(&native, "good");
    assert_eq!((good.failures, good.restarts, good.state), (0, 0, "ready"));
    // What could not be cleaned up at once is cleaned up now; what lives is kept.
    until(&native, "moody", "paid", |r| r.owed == 0).await;
    assert_eq!(kept(&place, "moody"), ["calm"]);

    let (status, output) = crate::run(&place, &native, place.shell("after", "echo $MOODY")).await;
    assert_eq!((status, output.as_str()), (Some(0), "was here\n"));
    destroy(&native, "calm").await;
    assert!(kept(&place, "moody").is_empty() && kept(&place, "good").is_empty());
    stop(&place);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hanging_plugin_meets_its_deadline_and_is_seen_waiting() {
    require!(root, cgroup);
    let place = place("hang", &[("moody", Policy::Fail), ("good", Policy::Fail)]);
    let native = started(&place).await;
    native.launch(place.shell("calm", "sleep 1000")).await.expect("launch");
    let other = async {
        tokio::time::sleep(DEADLINE / 4).await;
        let debug = native.debug();
        assert_eq!(debug["pending"][0]["operation"], "moody::prepare", "{debug}");
        assert_eq!(debug["pending"][0]["args"]["containerId"], "hang");
        // One container that waits holds up no other.
        let start = Instant::now();
        native.launch(place.shell("other", "sleep 1000")).await.expect("launch");
        assert!(start.elapsed() < DEADLINE / 2, "{:?}", start.elapsed());
    };
    let (message, ()) = tokio::join!(refused(&native, &place, "hang"), other);
    assert!(message.contains("no answer to PREPARE within 3s"), "{message}");
    // No longer; at most the question whether it is there at all.
    assert!(!native.debug()["pending"].to_string().contains("prepare"));
    assert_eq!(report(&native, "moody").restarts, 0, "it still answers others");

    // Now nobody gets an answer: it is ended and started again.
    let message = refused(&native, &place, "freeze").await;
    assert!(message.contains("no answer to PREPARE within 3s"), "{message}");
    until(&native, "moody", "was restarted", |r| r.restarts >= 1 && r.state == "ready").await;
    until(&native, "moody", "paid", |r| r.owed == 0).await;
    assert!(runs(&native, "calm") && runs(&native, "other"));
    let mut left = kept(&place, "moody");
    left.sort();
    assert_eq!(left, ["calm", "other"]);
    assert_eq!(report(&native, "good").failures, 0);
    destroy(&native, "calm").await;
    destroy(&native, "other").await;
    assert!(kept(&place, "moody").is_empty());
    stop(&place);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_plugin_delays_its_own_container_only() {
    require!(root, cgroup);
    let place = place("slow", &[("moody", Policy::Fail)]);
    let native = started(&place).await;
    let (slow, quick) = tokio::join!(
        async {
            let start = Instant::now();
            native.launch(place.shell("slow", "sleep 1000")).await.expect("launch");
            start.elapsed()
        },
        async {
            let start = Instant::now();
            native.launch(place.shell("quick", "sleep 1000")).await.expect("launch");
            start.elapsed()
        }
    );
    assert!(slow >= DEADLINE / 2 && quick < DEADLINE / 2, "{slow:?}, {quick:?}");
    let slowest = report(&native, "moody").slowest;
    assert!(slowest >= DEADLINE / 2, "the operator sees it: {slowest:?}");
    // An answer that is an error is a verdict, not a failure.
    let message = refused(&native, &place, "refused").await;
    assert!(message.contains("moody: failed to like its name"), "{message}");
    let seen = report(&native, "moody");
    assert_eq!((seen.refusals, seen.failures, seen.state), (1, 0, "ready"));
    destroy(&native, "slow").await;
    destroy(&native, "quick").await;
    stop(&place);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lying_plugin_is_not_believed() {
    require!(root, cgroup);
    let mut place = place("liar", &[("liar", Policy::Ignore), ("good", Policy::Fail)]);
    {
        let native = started(&place).await;
        let victim = place.shell("victim", "env; sleep 1000");
        native.launch(victim).await.expect("the policy is to ignore it");
        let output = place.wait_output("victim", "GOOD=was here").await;
        assert!(!output.contains("LD_PRELOAD"), "{output}");
        until(&native, "liar", "lied", |r| r.ignored_events > 5).await;
        assert!(runs(&native, "victim"), "its limitation is of a container that is not its own");
        let liar = report(&native, "liar");
        assert_eq!((liar.skipped, liar.state), (1, "ready"), "{liar:?}");
        let metrics: BTreeMap<_, _> = liar.figures().into_iter().collect();
        assert!(metrics["failures"] >= 1.0);
        assert!(native.debug()["plugins"][0]["reason"].as_str().unwrap().contains("LD_PRELOAD"));
        destroy(&native, "victim").await;
        stop(&place);
    }
    // The old process is dying: the new one must not be taken for it.
    while std::os::unix::net::UnixStream::connect(place.path("liar.sock")).is_ok() {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    set(&mut place, &[("liar", Policy::Fail)]);
    let native = started(&place).await;
    let message = refused(&native, &place, "victim").await;
    assert!(message.contains("liar: failed to prepare"), "{message}");
    assert!(message.contains("LD_PRELOAD"), "{message}");
    stop(&place);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_plugin_that_never_starts_is_met_by_its_policy() {
    require!(root, cgroup);
    for policy in [Policy::Fail, Policy::Ignore] {
        let mut place = place("never", &[]);
        place.config.isolation.push_str(",dead");
        place.config.plugins = vec![RemoteIsolator::new(Manifest {
            name: "dead".into(),
            socket: place.path("dead.sock"),
            command: vec!["/bin/false".into()],
            deadline: DEADLINE,
            policy,
            protobuf: false,
            config: json!({}),
        })];
        let native = place.start();
        let start = Instant::now();
        native.recover(Vec::new()).await.expect("recovered");
        assert!(start.elapsed() < Duration::from_secs(5), "a dead plugin holds up the agent");
        let launched = native.launch(place.shell("a", "true")).await;
        match policy {
            Policy::Fail => {
                let message = launched.expect_err("no plugin").to_string();
                assert!(message.contains("dead: failed to prepare container a"), "{message}");
                assert!(message.contains("ended before it listened"), "{message}");
            }
            Policy::Ignore => {
                launched.expect("without it");
                assert_eq!(end(&native, "a").await.status, Some(0));
            }
        }
        stop(&place);
    }
}

#[test]
fn containers_outlive_agent_and_plugin_and_both_take_them_back() {
    require!(root, cgroup);
    let mut place = place("outlive", &[("good", Policy::Fail)]);
    let kept_one = place.shell("stays", "sleep 1000");
    let orphan = place.shell("orphan", "sleep 1000");
    let life = || {
        let mut builder = tokio::runtime::Builder::new_multi_thread();
        builder.worker_threads(2).enable_all().build().expect("a runtime")
    };
    let runtime = life();
    let pid = runtime.block_on(async {
        let native = started(&place).await;
        native.launch(orphan).await.expect("launch");
        native.launch(kept_one.clone()).await.expect("launch").pid.expect("a pid")
    });
    // Both end: the agent's part with its runtime, the plugin with its agent.
    runtime.shutdown_timeout(Duration::from_secs(5));
    assert_eq!(kept(&place, "good").len(), 2);
    set(&mut place, &[("good", Policy::Fail)]);
    life().block_on(async {
        let native = place.start();
        let known = KnownContainer { request: kept_one, pid: Some(pid) };
        native.recover(vec![known]).await.expect("recovered");
        assert!(runs(&native, "stays"));
        let start = Instant::now();
        while kept(&place, "good") != ["stays"] {
            assert!(start.elapsed() < PATIENCE, "{:?}", kept(&place, "good"));
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        destroy(&native, "stays").await;
        assert!(kept(&place, "good").is_empty());
        stop(&place);
    });
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hooks_decorate_refuse_and_hear_of_the_end() {
    require!(root, cgroup);
    let mut place = place("hooks", &[("good", Policy::Fail)]);
    place.config.hooks = vec!["good".into()];
    let native = started(&place).await;
    let request = place.shell("wanted", "echo $RACK; cat fetched");
    let (status, output) = crate::run(&place, &native, request).await;
    assert_eq!((status, output.as_str()), (Some(0), "r1\nby hook"));
    let message = refused(&native, &place, "unwanted").await;
    assert!(message.contains("good: failed to want this container"), "{message}");
    let log = std::fs::read_to_string(place.path("good.log")).expect("a log");
    assert_eq!(log, "labels wanted\nremoved wanted\n");
    stop(&place);
}
