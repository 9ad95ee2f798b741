//! The end of a container: noticed, read, and put into words.
//!
//! Two ways lead there. The engine answers `wait`; and the kernel tells of the first
//! process' death even when the engine does not answer, or has missed it. The exit
//! status is the engine's alone, so it is given time to say it.

use std::io;
use std::time::Duration;

use kernel::pidfd::Pidfd;
use mesos::{Resource, TaskState, task_status::Reason};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::time::Instant;
use tracing::{info, warn};

use super::engine::{Engine, Inspected};
use crate::containerizer::table::Failure;
use crate::containerizer::{LaunchRequest, Termination};

/// Between two questions.
const PAUSE: Duration = Duration::from_secs(1);
/// After the process' death the engine has this long to say its status.
const PATIENCE: Duration = Duration::from_secs(300);
/// The same if we killed it ourselves and know the status.
pub(super) const SHORT_PATIENCE: Duration = Duration::from_secs(10);
/// Statuses that `docker run` gives a command that died of a signal begin here.
const SIGNALS: i32 = 128;

/// The container's first process.
#[derive(Debug)]
pub(super) struct Process {
    fd: AsyncFd<Pidfd>,
    pub(super) pid: u32,
}

impl Process {
    /// Opens the process if it is that container's first one: an engine that died
    /// may have left us with a pid that is somebody else's by now.
    pub(super) fn open(pid: u32, name: &str) -> io::Result<Process> {
        let fd = Pidfd::open(pid)?;
        let environment = kernel::proctree::environment(pid)?;
        let ours = format!("MESOS_CONTAINER_NAME={name}");
        if !environment.split(|byte| *byte == 0).any(|entry| entry == ours.as_bytes()) {
            return Err(io::Error::new(io::ErrorKind::NotFound, "it is another's process"));
        }
        // A `Pidfd` keeps its one descriptor until it is dropped.
        #[allow(deprecated)]
        let fd = AsyncFd::with_interest(fd, Interest::READABLE)?;
        Ok(Process { fd, pid })
    }

    /// Completes when it has ended.
    pub(super) async fn ended(&self) {
        let _ = self.fd.readable().await;
    }

    /// Whether it has ended.
    pub(super) fn is_dead(&self) -> bool {
        self.fd.get_ref().ended().unwrap_or(false)
    }

    /// Sends a signal; with `SIGKILL` all of its pid namespace goes. `false`: too
    /// late.
    pub(super) fn signal(&self, signal: i32) -> bool {
        self.fd.get_ref().signal(signal).unwrap_or_else(|error| {
            warn!(pid = self.pid, %error, "failed to signal a container's first process");
            false
        })
    }
}

/// How a container ended, as far as anybody knows.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Exit {
    /// The engine says so.
    Known(Box<Inspected>),
    /// It is not there any more.
    Gone,
    /// Its process is dead, and the engine does not say how.
    Silent,
}

/// Why a container ends.
#[derive(Debug)]
pub(super) enum Cause {
    /// By itself.
    Exited(Exit),
    /// It was told to.
    Destroyed(Option<Termination>),
    /// It never ran.
    Failed(Failure),
}

/// Waits for the end.
pub(super) async fn watch(engine: &Engine, name: &str, process: Option<&Process>) -> Exit {
    let dead = async {
        match process {
            Some(process) => process.ended().await,
            None => std::future::pending().await,
        }
    };
    tokio::pin!(dead);
    loop {
        let died = tokio::select! {
            waited = engine.wait(name) => {
                if let Err(error) = waited {
                    info!(container = name, error = %kernel::chain(&error), "waiting again");
                }
                false
            }
            () = &mut dead => true,
        };
        if died {
            return settle(engine, name, PATIENCE).await;
        }
        match engine.inspect(name).await {
            Ok(inspected) if !inspected.runs() => return Exit::Known(Box::new(inspected)),
            Err(error) if error.is_missing() => return Exit::Gone,
            _ => tokio::time::sleep(PAUSE).await,
        }
    }
}

/// Asks how a container that is about to end has ended, for some time.
pub(super) async fn settle(engine: &Engine, name: &str, patience: Duration) -> Exit {
    let by = Instant::now() + patience;
    let mut pause = Duration::from_millis(20);
    while Instant::now() < by {
        match tokio::time::timeout_at(by, engine.inspect(name)).await {
            Ok(Ok(inspected)) if !inspected.runs() => return Exit::Known(Box::new(inspected)),
            Ok(Err(error)) if error.is_missing() => return Exit::Gone,
            Err(_) => break,
            _ => {}
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(PAUSE);
    }
    Exit::Silent
}

/// What is said about the end. Pure. `exit`: what became of the container, whatever
/// the cause.
pub(super) fn termination(
    cause: Cause,
    exit: Option<&Exit>,
    request: &LaunchRequest,
) -> Termination {
    let known = match exit {
        Some(Exit::Known(inspected)) => Some(inspected.as_ref()),
        _ => None,
    };
    // Mesos' words for a container whose status is lost: killed.
    let status = known.map_or(libc::SIGKILL, |known| wait_status(known.exit_code));
    let plain = Termination { status: Some(status), ..Termination::default() };
    match cause {
        Cause::Destroyed(None) => plain,
        Cause::Destroyed(Some(wanted)) => Termination { status: plain.status, ..wanted },
        Cause::Failed(failure) => failed(failure.message),
        Cause::Exited(_) => match known {
            None if exit == Some(&Exit::Gone) => Termination {
                message: Some("the container was removed by somebody else".into()),
                ..plain
            },
            None => Termination {
                message: Some("docker does not say how the container ended".into()),
                ..plain
            },
            Some(known) if known.status == "created" => {
                let why = match known.error.as_str() {
                    "" => "the agent ended before it was started",
                    error => error,
                };
                failed(format!("start: {why}"))
            }
            Some(known) if known.oom_killed && known.exit_code != 0 => {
                out_of_memory(plain, request)
            }
            Some(_) => plain,
        },
    }
}

fn failed(message: String) -> Termination {
    Termination {
        state: Some(TaskState::TaskFailed),
        reasons: vec![Reason::ContainerLaunchFailed],
        message: Some(message),
        ..Termination::default()
    }
}

fn out_of_memory(plain: Termination, request: &LaunchRequest) -> Termination {
    let limit = request.limits.get("mem").copied();
    let limit = limit.or_else(|| isolators::quantity::total(&request.requests, "mem"));
    let limit = limit.unwrap_or_default();
    let limited: Vec<Resource> = vec![isolators::quantity::scalar("mem", limit)];
    Termination {
        state: Some(TaskState::TaskFailed),
        reasons: vec![Reason::ContainerLimitationMemory],
        message: Some(format!("Memory limit exceeded: Requested: {limit}MB")),
        limited_resources: limited,
        ..plain
    }
}

/// The engine's exit code as a wait status. A death by signal cannot be told from
/// `exit 137`; compat: Mesos takes it for the latter.
fn wait_status(code: i32) -> i32 {
    (code & 0xff) << 8
}

/// Whether this is an end that somebody will want to look into.
pub(super) fn is_failure(inspected: &Inspected) -> bool {
    inspected.exit_code != 0 && inspected.exit_code != SIGNALS + libc::SIGTERM
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::containerizer::request::tests::request;

    #[test]
    fn terminations() {
        let request = request("c", mesos::CommandInfo::default());
        let exited = |exit_code, oom_killed| {
            let status = "exited".to_owned();
            Exit::Known(Box::new(Inspected { status, exit_code, oom_killed, ..Default::default() }))
        };
        let said = |exit: Exit| termination(Cause::Exited(exit.clone()), Some(&exit), &request);
        assert_eq!(said(exited(3, false)).status, Some(3 << 8));
        assert_eq!(said(exited(0, true)).reasons, []);
        let oom = said(exited(137, true));
        assert_eq!((oom.state, oom.status), (Some(TaskState::TaskFailed), Some(137 << 8)));
        assert_eq!(oom.reasons, [Reason::ContainerLimitationMemory]);
        assert_eq!(oom.message.as_deref(), Some("Memory limit exceeded: Requested: 32MB"));
        assert!(said(Exit::Gone).message.is_some_and(|m| m.contains("removed by somebody else")));
        assert!(said(Exit::Silent).message.is_some_and(|m| m.contains("does not say")));
        let created = Inspected { status: "created".into(), ..Inspected::default() };
        let never = said(Exit::Known(Box::new(created)));
        assert_eq!((never.status, never.reasons), (None, vec![Reason::ContainerLaunchFailed]));

        // Killed by order: no limitation, whatever the engine noticed.
        let exit = exited(137, true);
        let told = termination(Cause::Destroyed(None), Some(&exit), &request);
        assert_eq!((told.status, told.state, told.reasons), (Some(137 << 8), None, vec![]));
        let wanted = Termination { message: Some("by hand".into()), ..Termination::default() };
        let told = termination(Cause::Destroyed(Some(wanted)), Some(&Exit::Silent), &request);
        assert_eq!((told.status, told.message.as_deref()), (Some(9), Some("by hand")));
        let failure = Failure { step: "pull", message: "no such image".into() };
        let failed = termination(Cause::Failed(failure), None, &request);
        assert_eq!((failed.status, failed.message.as_deref()), (None, Some("no such image")));
    }

    #[tokio::test]
    async fn a_pid_is_believed_only_with_the_containers_name() {
        let error = Process::open(std::process::id(), "mesos-x").expect_err("it is ours");
        assert_eq!(error.to_string(), "it is another's process");
        let mut child = std::process::Command::new("sleep")
            .arg("1000")
            .env("MESOS_CONTAINER_NAME", "mesos-x")
            .spawn()
            .expect("start a process");
        // A program that has just been executed has no environment for a moment.
        let by = Instant::now() + Duration::from_secs(60);
        let process = loop {
            match Process::open(child.id(), "mesos-x") {
                Ok(process) => break process,
                Err(_) if Instant::now() < by => tokio::time::sleep(Duration::from_millis(1)).await,
                Err(error) => {
                    let _ = child.kill();
                    panic!("it says so: {error}");
                }
            }
        };
        assert!(!process.is_dead() && process.signal(libc::SIGKILL));
        process.ended().await;
        assert!(process.is_dead());
        child.wait().expect("it is dead");
    }
}
