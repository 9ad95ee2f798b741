//! Destroying: kills what is left, cleans up in reverse, says how it ended.
//!
//! Always comes to an end, from whatever phase; every step is taken even if the
//! one before it failed, and all errors are reported together.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use isolators::api::Limitation;
use mesos::{TaskState, task_status::Reason};
use tracing::{error, info};

use super::container::{Cause, Command, Container, Phase};
use crate::containerizer::Termination;
use crate::launch::End;

/// Wait status of a process that died of `SIGKILL`: what Mesos assumes of a
/// container whose status is lost.
const KILLED: i32 = libc::SIGKILL;

impl Container {
    /// Ends a container that ran, and keeps how it ended until it is forgotten.
    pub(super) async fn bury(&mut self, cause: Cause) {
        let end = self.finish(cause).await;
        if let Err(error) = self.dir.write_end(&end) {
            error!(container = %self.key, error = %super::chain(&error), "the end is not recorded");
        }
        info!(container = %self.key, status = ?end.status, message = ?end.message, "container ended");
        self.view.send_modify(|view| view.end = Some(end));
    }

    /// Kills, cleans up, and says how it ended.
    pub(super) async fn finish(&mut self, cause: Cause) -> Termination {
        self.enter(Phase::Destroying);
        self.shared.sampler.remove(self.slot);
        let mut errors = Vec::new();
        self.destroy_children().await;
        let end = self.stop(&mut errors).await;
        self.drain_pipes().await;
        let late = self.handles.iter_mut().find_map(|handle| handle.isolation.ended());
        self.watches.clear();
        for handle in self.handles.iter_mut().rev() {
            if let Err(error) = handle.isolation.cleanup().await {
                errors.push(error.chain());
            }
        }
        self.running = None;
        self.shared.plugins.removed(&self.request).await;
        if !errors.is_empty() {
            self.shared.destroy_errors.fetch_add(1, Ordering::Relaxed);
            error!(container = %self.key, errors = %errors.join("; "), "destroy left something behind");
        }
        termination(cause, end, late)
    }

    async fn destroy_children(&self) {
        for door in self.shared.children(&self.request.id) {
            let _ = door.commands.send(Command::Destroy(None)).await;
            let mut view = door.view;
            let _ = view.wait_for(|view| view.end.is_some()).await;
        }
    }

    /// Ends every process of the container; how the first one ended.
    async fn stop(&mut self, errors: &mut Vec<String>) -> Option<End> {
        let running = self.running.as_ref()?;
        let patience = self.shared.config.cgroups_destroy_timeout;
        let tracker = self.tracker();
        if tracker.is_none() {
            kill_tree(running.pid()).await;
        }
        if let Err(error) = running.signal(libc::SIGKILL) {
            errors.push(format!("failed to kill process {}: {error}", running.pid()));
        }
        let end = match tokio::time::timeout(patience, running.wait()).await {
            Ok(Ok(end)) => Some(end),
            Ok(Err(error)) => {
                errors.push(format!("failed to read the exit record: {error}"));
                None
            }
            Err(_) => {
                let pid = running.pid();
                errors.push(format!("process {pid} does not die within {patience:?}"));
                let _ = running.kill_shim();
                None
            }
        };
        // With a pid namespace nothing is left by now; without one, orphans are.
        match tracker {
            None => kill_tree(running.pid()).await,
            Some(tracker) if tracker.all_processes().is_empty() => {}
            Some(tracker) => {
                let killed = tokio::task::spawn_blocking(move || tracker.kill(patience)).await;
                if let Ok(Err(error)) = killed {
                    errors.push(super::chain(&error));
                }
            }
        }
        end
    }
}

/// Kills a process, its descendants and its session. Called while the process
/// lives or has just ended: its pid cannot be another's yet.
async fn kill_tree(pid: u32) {
    let start = Instant::now();
    while start.elapsed() < Duration::from_millis(500) {
        let alive: Vec<u32> = kernel::proctree::tree(pid)
            .into_iter()
            .filter(|process| process.state != 'Z')
            .map(|process| process.pid)
            .collect();
        if alive.is_empty() {
            return;
        }
        kernel::proctree::signal(&alive, libc::SIGKILL);
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

/// What is said about the end. Pure. A limit that was hit explains an exit that
/// came first: the kernel kills before we hear of it.
fn termination(cause: Cause, end: Option<End>, late: Option<Limitation>) -> Termination {
    let ran = end.is_some() || !matches!(cause, Cause::Failed(_));
    let status = end.as_ref().map(|end| end.status().unwrap_or(KILLED));
    let mut said =
        Termination { status: status.or(ran.then_some(KILLED)), ..Termination::default() };
    let limitation = match cause {
        Cause::Limited(limitation) => Some(limitation),
        Cause::Exited(recorded) => {
            if let Some(status) = recorded.as_ref().and_then(End::status) {
                said.status = Some(status);
            } else {
                said.message = Some("the exit status of the container is lost".into());
            }
            late
        }
        Cause::Destroyed(None) => late,
        Cause::Destroyed(Some(wanted)) => return Termination { status: said.status, ..wanted },
        Cause::Failed(failure) => {
            said.state = Some(TaskState::TaskFailed);
            said.reasons = vec![Reason::ContainerLaunchFailed];
            said.message = Some(failure.message);
            None
        }
    };
    if let Some(limitation) = limitation {
        said.state = Some(TaskState::TaskFailed);
        said.reasons = vec![limitation.reason];
        said.message = Some(limitation.message);
        said.limited_resources = limitation.resources;
    }
    said
}

#[cfg(test)]
mod tests {
    use super::super::container::Failure;
    use super::*;

    fn limitation() -> Limitation {
        Limitation {
            resources: vec![isolators::quantity::scalar("mem", 64.0)],
            message: "Memory limit exceeded".into(),
            reason: Reason::ContainerLimitationMemory,
        }
    }

    #[test]
    fn terminations() {
        let lost = || Some(End::Lost);
        let plain = termination(Cause::Destroyed(None), lost(), None);
        assert_eq!((plain.status, plain.state), (Some(KILLED), None));

        let limited = termination(Cause::Limited(limitation()), lost(), None);
        assert_eq!(limited.reasons, [Reason::ContainerLimitationMemory]);
        assert_eq!((limited.state, limited.status), (Some(TaskState::TaskFailed), Some(KILLED)));

        // The process was gone before the event was heard.
        let late = termination(Cause::Exited(lost()), lost(), Some(limitation()));
        assert_eq!(late.message.as_deref(), Some("Memory limit exceeded"));
        assert_eq!(late.limited_resources.len(), 1);

        let wanted = Termination { message: Some("by hand".into()), ..Termination::default() };
        let told = termination(Cause::Destroyed(Some(wanted)), lost(), Some(limitation()));
        assert_eq!((told.message.as_deref(), told.status), (Some("by hand"), Some(KILLED)));

        let failure = Failure { step: "exec", message: "no such file".into() };
        let failed = termination(Cause::Failed(failure), None, None);
        assert_eq!((failed.status, failed.state), (None, Some(TaskState::TaskFailed)));
        assert_eq!(failed.reasons, [Reason::ContainerLaunchFailed]);
    }
}
