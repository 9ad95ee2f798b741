//! Destroying: ends the container, reads its last words, says how it ended.
//!
//! Always comes to an end once the container's processes have, whether the engine
//! answers or not; the ended container stays with the engine until the sweep.

use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::sync::Arc;
use std::time::Duration;

use tracing::warn;

use super::container::Container;
use super::door::Phase;
use super::engine::Inspected;
use super::exit::{self, Cause, Exit, SHORT_PATIENCE};
use crate::containerizer::Termination;

/// The engine has this long to pass an order on before it is carried out without it.
const ORDER: Duration = Duration::from_secs(5);
/// How long the end is held back for the last words. They are read in any case.
const LAST_WORDS: Duration = Duration::from_secs(10);
/// The engine's description of a container that failed, in its sandbox.
const EVIDENCE: &str = "docker-inspect.json";

impl Container {
    /// Ends it and cleans up; how it ended.
    pub(super) async fn finish(&mut self, cause: Cause) -> Termination {
        self.enter(Phase::Destroying);
        self.shared.sampler.remove(self.slot);
        let exit = match &cause {
            Cause::Exited(exit) => Some(exit.clone()),
            Cause::Destroyed(_) => Some(self.stop().await),
            Cause::Failed(_) => {
                self.discard().await;
                None
            }
        };
        let _ = self.ended.send(true);
        self.last_words().await;
        self.view.send_modify(|view| view.terminal = None);
        if let Some(Exit::Known(inspected)) = &exit {
            if inspected.status == "created" {
                self.discard().await;
            } else if exit::is_failure(inspected) {
                self.keep_evidence(inspected);
            }
        }
        self.depart().await;
        self.shared.config.hooks.removed(&self.request).await;
        exit::termination(cause, exit.as_ref(), &self.request)
    }

    /// Ends every process of the container. Comes back when they are dead for
    /// certain, however long that takes.
    async fn stop(&mut self) -> Exit {
        let engine = Arc::clone(&self.shared.engine);
        loop {
            let grace = self.shared.config.stop_timeout;
            let order = async {
                if grace.is_zero() {
                    engine.kill(&self.name, "KILL").await
                } else {
                    engine.stop(&self.name, grace).await
                }
            };
            let obeyed = match tokio::time::timeout(grace + ORDER, order).await {
                Ok(Ok(())) => true,
                Ok(Err(error)) if error.is_conflict() || error.is_missing() => true,
                Ok(Err(error)) => {
                    let error = kernel::chain(&error);
                    warn!(container = %self.key, error, "docker does not stop it");
                    false
                }
                Err(_) => {
                    warn!(container = %self.key, "docker does not stop it in time");
                    false
                }
            };
            if let Some(process) = self.process.as_ref().filter(|_| !obeyed) {
                process.signal(libc::SIGKILL);
            }
            let exit = exit::settle(&engine, &self.name, SHORT_PATIENCE).await;
            let dead = self.process.as_ref().is_some_and(super::exit::Process::is_dead);
            if exit != Exit::Silent || dead {
                return exit;
            }
        }
    }

    /// Removes what never ran; if the engine does not answer, the sweep will.
    async fn discard(&self) {
        if !self.asked_for {
            return;
        }
        let removed = tokio::time::timeout(ORDER, self.shared.engine.remove(&self.name)).await;
        if !matches!(removed, Ok(Ok(()))) {
            warn!(container = %self.key, "it never ran and will be removed later");
            self.shared.condemn(&self.name);
            self.shared.nudge.notify_one();
        }
    }

    /// Waits until the output is read, but not for an engine that does not answer:
    /// then it is read when the engine does, before the container may be removed.
    async fn last_words(&mut self) {
        let Some(mut reader) = self.reader.take() else { return };
        if tokio::time::timeout(LAST_WORDS, &mut reader).await.is_ok() {
            return;
        }
        warn!(container = %self.key, "its output will be read when docker answers");
        let (shared, name) = (Arc::clone(&self.shared), self.name.clone());
        shared.hold(&name);
        tokio::spawn(async move {
            let _ = reader.await;
            shared.release(&name);
        });
    }

    /// The container will be removed one day; what it was stays in its sandbox.
    fn keep_evidence(&self, inspected: &Inspected) {
        let path = self.request.sandbox.join(EVIDENCE);
        let text = serde_json::to_vec_pretty(&inspected.raw).unwrap_or_default();
        let written = std::fs::OpenOptions::new()
            .create(true)
            .write(true)
            .truncate(true)
            .mode(0o600)
            .custom_flags(libc::O_NOFOLLOW)
            .open(&path)
            .and_then(|mut file| file.write_all(&text));
        if let Err(error) = written {
            warn!(container = %self.key, %error, "failed to write '{}'", path.display());
        }
    }
}
