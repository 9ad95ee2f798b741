//! The conformance suite: what every isolator promises, checked from outside.
//!
//! Run over the built-in isolators, over plugins behind a socket and under
//! injected failures, by tests and by `bulkhead plugin check`. Knows the contract
//! only. A check is a short story about containers that nobody else has; after
//! each, the fixture says whether anything is left.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use mesos::{ContainerId, ContainerStatus, ResourceStatistics};

use crate::api::{self, ContainerContext, Isolation, Isolator, Known, Parent};
use crate::merge::{Base, merge};
use crate::quantity::scalar;

/// Longest time for one check.
const PATIENCE: Duration = Duration::from_secs(60);

/// A top-level container that asks for nothing.
#[must_use]
pub fn context(id: &str) -> ContainerContext {
    ContainerContext {
        id: ContainerId { value: id.to_owned(), parent: None },
        sandbox: "/nonexistent/sandbox".into(),
        runtime: "/nonexistent/runtime".into(),
        command_task: true,
        ..ContainerContext::default()
    }
}

/// Where the suite's containers live.
pub trait Fixture: Send + Sync {
    /// A container of that name, with directories that exist. May be asked twice
    /// for the same one.
    fn context(&self, id: &str) -> ContainerContext;

    /// What is left of containers that are cleaned up, for people.
    fn residue(&self) -> Vec<String> {
        Vec::new()
    }
}

/// How one check went.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    /// What must hold, in a few words.
    pub check: &'static str,
    /// What went wrong.
    pub result: Result<(), String>,
}

/// An isolator under test.
#[derive(Clone, Copy)]
struct Subject<'a> {
    isolator: &'a dyn Isolator,
    fixture: &'a dyn Fixture,
    run: &'a str,
}

type Verdict = Result<(), String>;

/// A live process in the place of a container's init.
struct Init(Child);

impl Init {
    fn start() -> Result<Init, String> {
        let mut command = Command::new("/bin/sleep");
        command.arg("300").stdin(Stdio::null()).stdout(Stdio::null());
        command.spawn().map(Init).map_err(|error| format!("failed to start a process: {error}"))
    }

    fn pid(&self) -> u32 {
        self.0.id()
    }
}

impl Drop for Init {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Subject<'_> {
    fn context(&self, name: &str) -> Arc<ContainerContext> {
        let mut context = self.fixture.context(&format!("{}-{name}", self.run));
        if context.requests.is_empty() {
            context.requests = vec![scalar("cpus", 0.1), scalar("mem", 32.0), scalar("disk", 64.0)];
        }
        Arc::new(context)
    }

    fn attach(&self, name: &str) -> Box<dyn Isolation> {
        self.isolator.attach(&self.context(name))
    }
}

fn said<T>(what: &str, result: Result<T, crate::api::IsolatorError>) -> Result<T, String> {
    result.map_err(|error| format!("{what}: {}", error.chain()))
}

/// Runs every check. `run` makes the names of its containers its own.
pub async fn run(isolator: &dyn Isolator, fixture: &dyn Fixture, run: &str) -> Vec<Outcome> {
    let subject = Subject { isolator, fixture, run };
    let mut all = Vec::new();
    // First, as the contract says: nothing else comes before `recover`.
    check(&mut all, subject, "recover of nothing succeeds", recover_nothing(subject)).await;
    check(&mut all, subject, "the name can stand in --isolation", name(subject)).await;
    check(&mut all, subject, "attach has no effect", attach(subject)).await;
    let what = "cleanup without prepare succeeds, and twice";
    check(&mut all, subject, what, cleanup_alone(subject)).await;
    check(&mut all, subject, "prepare gives a plan; cleanup, twice", prepare(subject)).await;
    check(&mut all, subject, "a whole life", life(subject)).await;
    check(&mut all, subject, "a prepare that is cut off is cleaned up", cut_off(subject)).await;
    let what = "a prepare without its directories is cleaned up";
    check(&mut all, subject, what, homeless(subject)).await;
    check(&mut all, subject, "containers do not know each other", crowd(subject)).await;
    check(&mut all, subject, "recover takes a container back", recover_known(subject)).await;
    check(&mut all, subject, "recover of an orphan, and its cleanup", recover_orphan(subject))
        .await;
    let what = "recover of a container that never was";
    check(&mut all, subject, what, recover_unheard(subject)).await;
    if isolator.about().nesting {
        check(&mut all, subject, "a nested container", nested(subject)).await;
    }
    all
}

async fn check(
    all: &mut Vec<Outcome>,
    subject: Subject<'_>,
    check: &'static str,
    story: impl Future<Output = Verdict>,
) {
    let before = subject.fixture.residue();
    let ended = tokio::time::timeout(PATIENCE, story).await;
    let mut result = ended.unwrap_or_else(|_| Err(format!("it took more than {PATIENCE:?}")));
    let left: Vec<String> =
        subject.fixture.residue().into_iter().filter(|left| !before.contains(left)).collect();
    if result.is_ok() && !left.is_empty() {
        result = Err(format!("it left behind: {}", left.join(", ")));
    }
    all.push(Outcome { check, result });
}

async fn name(subject: Subject<'_>) -> Verdict {
    let name = subject.isolator.name();
    let odd = |c: char| c == ',' || c.is_whitespace() || c.is_control();
    match name.is_empty() || name.contains(odd) {
        true => Err(format!("'{name}' cannot")),
        false => Ok(()),
    }
}

async fn attach(subject: Subject<'_>) -> Verdict {
    for index in 0..16 {
        drop(subject.attach(&format!("attach{index}")));
    }
    Ok(())
}

async fn cleanup_alone(subject: Subject<'_>) -> Verdict {
    let mut handle = subject.attach("alone");
    said("cleanup", handle.cleanup().await)?;
    said("second cleanup", handle.cleanup().await)
}

async fn prepare(subject: Subject<'_>) -> Verdict {
    let mut handle = subject.attach("prepare");
    let part = said("prepare", handle.prepare().await);
    let merged = part.and_then(|part| {
        let command = api::Command { executable: None, arguments: vec!["true".into()] };
        let base = Base { command, ..Base::default() };
        let merged = merge(base, vec![(subject.isolator.name(), part)]);
        merged.map(drop).map_err(|error| format!("its contribution alone: {error}"))
    });
    said("cleanup", handle.cleanup().await)?;
    said("second cleanup", handle.cleanup().await)?;
    merged
}

async fn life(subject: Subject<'_>) -> Verdict {
    let mut handle = subject.attach("life");
    let lived = live(&mut *handle).await;
    let _ = handle.ended();
    said("cleanup", handle.cleanup().await)?;
    lived
}

async fn live(handle: &mut dyn Isolation) -> Verdict {
    said("prepare", handle.prepare().await)?;
    let init = Init::start()?;
    let watch = handle.watch();
    said("isolate", handle.isolate(init.pid()).await)?;
    let mut probes = handle.probes();
    let mut statistics = ResourceStatistics::default();
    let mut buffer = Vec::new();
    for probe in &mut probes {
        let source = probe.source();
        said(source, probe.sample(&mut buffer, &mut statistics))?;
        probe.release();
        said(source, probe.sample(&mut buffer, &mut statistics))?;
    }
    let requests = [scalar("cpus", 0.2), scalar("mem", 64.0), scalar("disk", 64.0)];
    said("update", handle.update(&requests, &std::collections::BTreeMap::new()).await)?;
    said("status", handle.status(&mut ContainerStatus::default()))?;
    let hit = watch.and_then(|mut watch| watch.try_recv().ok());
    match hit {
        Some(limitation) => Err(format!("a limit that nobody hit: {}", limitation.message)),
        None => Ok(()),
    }
}

/// Cuts `prepare` off after every number of polls that it takes, up to some.
async fn cut_off(subject: Subject<'_>) -> Verdict {
    for polls in 0..24 {
        let mut handle = subject.attach(&format!("cut{polls}"));
        let finished = {
            let mut prepare = pin!(handle.prepare());
            let mut count = 0;
            poll_fn(|context| {
                if count == polls {
                    return Poll::Ready(false);
                }
                count += 1;
                prepare.as_mut().poll(context).map(|_| true)
            })
            .await
        };
        said("cleanup", handle.cleanup().await)?;
        said("second cleanup", handle.cleanup().await)?;
        if finished {
            break;
        }
    }
    Ok(())
}

async fn homeless(subject: Subject<'_>) -> Verdict {
    let mut context = subject.context("homeless").as_ref().clone();
    context.sandbox = "/nonexistent/sandbox".into();
    context.runtime = "/nonexistent/runtime".into();
    let mut handle = subject.isolator.attach(&Arc::new(context));
    // It may fail or not; both must be undone.
    let _ = handle.prepare().await;
    said("cleanup", handle.cleanup().await)?;
    said("second cleanup", handle.cleanup().await)
}

async fn crowd(subject: Subject<'_>) -> Verdict {
    let mut handles: Vec<_> =
        (0..8).map(|index| subject.attach(&format!("crowd{index}"))).collect();
    for handle in &mut handles {
        said("prepare", handle.prepare().await)?;
    }
    // Every other one goes first; the rest must not notice.
    for handle in handles.iter_mut().step_by(2) {
        said("cleanup", handle.cleanup().await)?;
    }
    for handle in handles.iter_mut().skip(1).step_by(2) {
        let requests = [scalar("cpus", 0.1), scalar("mem", 48.0), scalar("disk", 64.0)];
        said("update", handle.update(&requests, &std::collections::BTreeMap::new()).await)?;
        said("cleanup", handle.cleanup().await)?;
    }
    Ok(())
}

async fn recover_nothing(subject: Subject<'_>) -> Verdict {
    let recovered = said("recover", subject.isolator.recover(&[]).await)?;
    match recovered.handles.len() {
        0 => Ok(()),
        some => Err(format!("{some} handles for no container")),
    }
}

async fn recovered(
    subject: Subject<'_>,
    context: &Arc<ContainerContext>,
    pid: Option<u32>,
) -> Result<Box<dyn Isolation>, String> {
    let known = [Known { context: Arc::clone(context), pid }];
    let mut recovered = said("recover", subject.isolator.recover(&known).await)?;
    match (recovered.handles.len(), recovered.handles.pop()) {
        (1, Some(handle)) => Ok(handle),
        (count, _) => Err(format!("{count} handles for one container")),
    }
}

async fn recover_known(subject: Subject<'_>) -> Verdict {
    let context = subject.context("known");
    let mut before = subject.isolator.attach(&context);
    said("prepare", before.prepare().await)?;
    let init = Init::start()?;
    said("isolate", before.isolate(init.pid()).await)?;
    // The agent dies.
    drop(before);
    let mut after = recovered(subject, &context, Some(init.pid())).await?;
    let watch = after.watch();
    let requests = [scalar("cpus", 0.2), scalar("mem", 64.0), scalar("disk", 64.0)];
    said("update", after.update(&requests, &std::collections::BTreeMap::new()).await)?;
    drop((watch, init));
    let _ = after.ended();
    said("cleanup", after.cleanup().await)?;
    said("second cleanup", after.cleanup().await)
}

async fn recover_orphan(subject: Subject<'_>) -> Verdict {
    let context = subject.context("orphan");
    let mut before = subject.isolator.attach(&context);
    said("prepare", before.prepare().await)?;
    drop(before);
    let mut after = recovered(subject, &context, None).await?;
    said("cleanup", after.cleanup().await)?;
    said("second cleanup", after.cleanup().await)
}

async fn recover_unheard(subject: Subject<'_>) -> Verdict {
    let context = subject.context("unheard");
    let mut handle = recovered(subject, &context, None).await?;
    said("cleanup", handle.cleanup().await)
}

async fn nested(subject: Subject<'_>) -> Verdict {
    let parent = subject.context("parent");
    let mut outer = subject.isolator.attach(&parent);
    said("prepare of the parent", outer.prepare().await)?;
    let init = Init::start()?;
    said("isolate of the parent", outer.isolate(init.pid()).await)?;
    let mut context = subject.context("child").as_ref().clone();
    context.id.parent = Some(Box::new(parent.id.clone()));
    context.parent = Some(Parent {
        pid: init.pid(),
        sandbox: parent.sandbox.clone(),
        runtime: parent.runtime.clone(),
        host_pid_namespace: true,
    });
    let mut inner = subject.isolator.attach(&Arc::new(context));
    let prepared = said("prepare", inner.prepare().await);
    said("cleanup", inner.cleanup().await)?;
    drop(init);
    said("cleanup of the parent", outer.cleanup().await)?;
    prepared.map(drop)
}

/// The checks that failed, one line each; empty if all went well.
#[must_use]
pub fn failures(outcomes: &[Outcome]) -> Vec<String> {
    let failed = |outcome: &Outcome| {
        outcome.result.as_ref().err().map(|why| format!("{}: {why}", outcome.check))
    };
    outcomes.iter().filter_map(failed).collect()
}
