//! Destroying: kills what is left, cleans up in reverse, says how it ended.
//!
//! ```text
//! children -> kill -> all dead? --yes--> cleanup in reverse order -> end
//!     ^                 |
//!     +--- back-off ----+ no: the trouble is logged, counted and shown
//! ```
//!
//! Every step has a deadline. A container has ended when none of its processes is
//! left: until then it is DESTROYING, keeps its resources, and is killed again and
//! again, since a process that waits in the kernel or is frozen dies only when it
//! comes back. What isolators cannot clean up is reported and left to `sweep`; it
//! holds nobody up.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant, SystemTime};

use isolators::api::Limitation;
use kernel::failpoint;
use kernel::hung::Hung;
use mesos::{TaskState, task_status::Reason};
use tokio::sync::mpsc;
use tokio::time::timeout;
use tracing::{error, info, warn};

use super::container::{Cause, Command, Container, Phase};
use crate::containerizer::{Termination, Trouble};
use crate::launch::End;

/// Wait status of a process that died of `SIGKILL`: what Mesos assumes of a
/// container whose status is lost.
const KILLED: i32 = libc::SIGKILL;

/// Between the first two attempts to destroy, doubling.
const FIRST_PAUSE: Duration = Duration::from_millis(500);
/// Between two attempts at most.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);
/// Processes that are described in a trouble.
const DESCRIBED: usize = 10;

impl Container {
    /// Ends a container that ran, and keeps how it ended until it is forgotten. That
    /// it never ran is not kept: the next agent is to see it too, and launch it again.
    pub(super) async fn bury(&mut self, cause: Cause, commands: &mut mpsc::Receiver<Command>) {
        let ran = !matches!(cause, Cause::NeverRan);
        let end = self.finish(cause, commands).await;
        // One that was found without a trace has no directory.
        if ran && let Err(error) = self.dir.create().and_then(|()| self.dir.write_end(&end)) {
            error!(container = %self.key, error = %super::chain(&error), "the end is not recorded");
        }
        failpoint!("destroy.recorded");
        info!(container = %self.key, status = ?end.status, message = ?end.message, "container ended");
        self.view.send_modify(|view| view.end = Some(end));
    }

    /// Kills, cleans up, and says how it ended. Nobody is served any more: what
    /// is asked meanwhile is answered as if the container were gone.
    pub(super) async fn finish(
        &mut self,
        cause: Cause,
        commands: &mut mpsc::Receiver<Command>,
    ) -> Termination {
        self.enter(Phase::Destroying);
        commands.close();
        while commands.try_recv().is_ok() {}
        failpoint!("destroy.begin");
        if let Cause::Limited(limitation) = &cause {
            self.limited(limitation);
        }
        failpoint!("destroy.limited");
        self.shared.sampler.remove(self.slot);
        let mut errors = Vec::new();
        let end = self.kill(&mut errors).await;
        failpoint!("destroy.killed");
        self.drain_terminal().await;
        self.drain_pipes().await;
        let late = self.handles.iter_mut().find_map(|handle| handle.isolation.ended());
        if let Some(limitation) = &late {
            self.limited(limitation);
        }
        self.watches.clear();
        self.clean_up(&mut errors).await;
        self.unprovision(&mut errors).await;
        failpoint!("destroy.cleaned");
        self.running = None;
        if !errors.is_empty() {
            self.shared.destroy_errors.fetch_add(1, Ordering::Relaxed);
            error!(container = %self.key, errors = %errors.join("; "), "destroy left something behind");
        }
        termination(cause, end, late)
    }

    /// Keeps that a limit was hit: what would tell the next agent is destroyed now.
    fn limited(&self, limitation: &Limitation) {
        let mut said = Termination::default();
        say(&mut said, limitation.clone());
        if let Err(error) = self.dir.write_ending(&said) {
            error!(container = %self.key, error = %super::chain(&error), "the limit is not recorded");
        }
    }

    /// Isolators in reverse order, then hooks; each has its time.
    async fn clean_up(&mut self, errors: &mut Vec<String>) {
        // Longer than what the isolator itself waits for.
        let patience =
            self.shared.config.isolators.cgroups_destroy_timeout * 2 + Duration::from_secs(5);
        for handle in self.handles.iter_mut().rev() {
            match timeout(patience, handle.isolation.cleanup()).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => errors.push(error.chain()),
                Err(_) => errors
                    .push(format!("{}: failed to clean up within {patience:?}", handle.isolator)),
            }
            failpoint!("destroy.cleaned_one");
        }
        if timeout(patience, self.shared.plugins.hooks.removed(&self.request)).await.is_err() {
            errors.push(format!("hooks did not answer within {patience:?}"));
        }
    }

    /// Kills until no process is left; how the first one ended.
    async fn kill(&mut self, errors: &mut Vec<String>) -> Option<End> {
        let mut end = None;
        let mut pause = FIRST_PAUSE;
        let since = SystemTime::now();
        for attempts in 1.. {
            let mut reasons = self.destroy_children().await;
            let left = self.stop(&mut end, &mut reasons).await;
            let ended = end.is_some() || self.running.is_none();
            if ended && left.is_empty() && self.children_are_over() {
                // Signals that failed are not worth a word: everybody is gone.
                let lost = matches!(end, Some(End::Lost));
                errors.extend(reasons.into_iter().filter(|_| lost));
                break;
            }
            let trouble = Trouble::new(since, attempts, reasons, left);
            self.shared.destroy_errors.fetch_add(1, Ordering::Relaxed);
            warn!(container = %self.key, attempts, "cannot be destroyed yet: {trouble}");
            self.view.send_modify(|view| view.trouble = Some(Arc::new(trouble)));
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
        if self.view.borrow().trouble.is_some() {
            info!(container = %self.key, "nothing holds it up any more");
            self.view.send_modify(|view| view.trouble = None);
        }
        end
    }

    fn children_are_over(&self) -> bool {
        let children = self.shared.children(&self.request.id);
        children.iter().all(|door| door.view.borrow().end.is_some())
    }

    /// Nested containers first. One that takes too long is not waited for: it
    /// goes on by itself, and its processes are killed with ours.
    async fn destroy_children(&self) -> Vec<String> {
        let patience = self.shared.config.isolators.cgroups_destroy_timeout;
        let children = self.shared.children(&self.request.id);
        for door in &children {
            // Refused by one that is being destroyed already.
            let _ = door.commands.try_send(Command::Destroy(None));
        }
        let mut reasons = Vec::new();
        for door in children {
            let mut view = door.view;
            let over = timeout(patience, view.wait_for(|view| view.end.is_some())).await;
            if over.is_err() {
                reasons.push(format!("nested container {} is not gone yet", door.id.value));
            }
        }
        reasons
    }

    /// One attempt to end every process; which ones do not die. `end` becomes
    /// known with the end of the first process.
    async fn stop(&self, end: &mut Option<End>, reasons: &mut Vec<String>) -> Vec<Hung> {
        let patience = self.shared.config.isolators.cgroups_destroy_timeout;
        let tracker = self.tracker();
        let first = self.running.as_ref().map(crate::launch::Running::pid);
        if let (None, Some(first)) = (&tracker, first) {
            kill_tree(first).await;
        }
        if let Some(running) = self.running.as_ref().filter(|_| end.is_none()) {
            if let Err(error) = running.signal(libc::SIGKILL) {
                reasons.push(format!("failed to kill process {}: {error}", running.pid()));
            }
            match timeout(patience, running.wait()).await {
                Ok(Ok(known)) => *end = Some(known),
                Ok(Err(error)) => {
                    reasons.push(format!("failed to read the exit record: {error}"));
                    *end = Some(End::Lost);
                }
                Err(_) => {
                    reasons.push(format!("it did not end within {patience:?}"));
                    // The processes are gone: only the shim does not move.
                    let alone = tracker.as_ref().is_none_or(|t| t.all_processes().is_empty());
                    if alone {
                        let _ = running.kill_shim();
                        *end = timeout(patience, running.wait()).await.ok().and_then(Result::ok);
                    }
                }
            }
        }
        let shim = self.running.as_ref().filter(|_| end.is_none()).map(|r| r.shim_pid());
        // With a pid namespace nothing is left by now; without one, orphans are.
        let mut left = match (tracker, first) {
            (Some(tracker), _) => kill_cgroup(tracker, patience, reasons).await,
            (None, Some(first)) => kill_tree(first).await,
            (None, None) => Vec::new(),
        };
        left.extend(shim.filter(|shim| !left.contains(shim)));
        left.truncate(DESCRIBED);
        let looked = tokio::task::spawn_blocking(move || {
            left.into_iter().filter_map(Hung::read).filter(|hung| hung.state != 'Z').collect()
        });
        looked.await.unwrap_or_default()
    }
}

/// Kills what is in the cgroup; who does not die.
async fn kill_cgroup(
    tracker: kernel::cgroup::Cgroup,
    patience: Duration,
    reasons: &mut Vec<String>,
) -> Vec<u32> {
    if tracker.all_processes().is_empty() {
        return Vec::new();
    }
    let killed = tokio::task::spawn_blocking(move || {
        let result = tracker.kill(patience);
        (result, tracker.all_processes())
    });
    match killed.await {
        Ok((Ok(()), left)) => left,
        Ok((Err(error), left)) => {
            reasons.push(super::chain(&error));
            left
        }
        Err(_) => Vec::new(),
    }
}

/// Kills a process, its descendants and its session; who does not die. Called
/// while the process lives or has just ended: its pid cannot be another's yet.
async fn kill_tree(pid: u32) -> Vec<u32> {
    let start = Instant::now();
    loop {
        let alive: Vec<u32> = kernel::proctree::tree(pid)
            .into_iter()
            .filter(|process| process.state != 'Z')
            .map(|process| process.pid)
            .collect();
        if alive.is_empty() || start.elapsed() > Duration::from_millis(500) {
            return alive;
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
        Cause::Destroyed(None) | Cause::NeverRan => late,
        Cause::Destroyed(Some(wanted)) => {
            return Termination { status: wanted.status.or(said.status), ..wanted };
        }
        Cause::Failed(failure) => {
            said.state = Some(TaskState::TaskFailed);
            said.reasons = vec![Reason::ContainerLaunchFailed];
            said.message = Some(failure.message);
            None
        }
    };
    if let Some(limitation) = limitation {
        say(&mut said, limitation);
    }
    said
}

/// The container ended because of a limit.
fn say(said: &mut Termination, limitation: Limitation) {
    said.state = Some(TaskState::TaskFailed);
    said.reasons = vec![limitation.reason];
    said.message = Some(limitation.message);
    said.limited_resources = limitation.resources;
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::containerizer::table::Failure;

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
