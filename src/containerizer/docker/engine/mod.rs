//! The Engine API over its unix socket: one method per question, a deadline on
//! each, and a list of the questions that have not been answered yet.
//!
//! `containers`, `exec` and `images` have the questions, this file how they are asked.
//! Knows nothing of tasks. Each call has a connection of its own, so that one that
//! hangs holds up nobody else. Whether the engine answers at all is noted and
//! logged when it changes.

mod containers;
mod exec;
mod images;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde_json::Value;
use thiserror::Error;
use tracing::{info, warn};

pub(super) use self::containers::{Inspected, Listed};
pub(super) use self::exec::Screen;
pub(super) use self::images::{Image, image_name};
use crate::wire::client::{Call, Client, ClientError, Duplex, Reply, Streaming};

/// How long the engine may take for an answer it should know.
const QUICK: Duration = Duration::from_secs(15);
/// How long it may take to make, start or remove something.
const SLOW: Duration = Duration::from_secs(120);
/// Between two looks whether it lives while a long one waits.
const PING_PAUSE: Duration = Duration::from_secs(5);
/// How long a pull may say nothing.
const STALL: Duration = Duration::from_secs(300);

/// Why there is no answer, or none that helps.
#[derive(Debug, Error)]
#[allow(missing_docs)]
pub(super) enum EngineError {
    #[error("docker does not answer: failed to {operation} {object}")]
    Silent { operation: &'static str, object: String, source: ClientError },
    /// The engine's own words.
    #[error("docker refused to {operation} {object}: {message}")]
    Refused { operation: &'static str, object: String, status: u16, message: String },
    #[error("docker said something unknown when asked to {operation} {object}: {message}")]
    Unreadable { operation: &'static str, object: String, message: String },
}

impl EngineError {
    /// The engine knows no such thing.
    pub(super) fn is_missing(&self) -> bool {
        matches!(self, EngineError::Refused { status: 404, .. })
    }

    /// The engine has it in that state already, or not in one that fits.
    pub(super) fn is_conflict(&self) -> bool {
        matches!(self, EngineError::Refused { status: 304 | 409, .. })
    }

    /// Nothing was heard: asking again may help.
    pub(super) fn is_silence(&self) -> bool {
        matches!(self, EngineError::Silent { .. })
            // While it stops or starts, the engine answers like this.
            || matches!(self, EngineError::Refused { status: 503, .. })
    }
}

/// A question under way.
struct Pending {
    operation: &'static str,
    object: String,
    since: Instant,
}

/// The door to the engine.
pub(super) struct Engine {
    socket: PathBuf,
    pending: Mutex<BTreeMap<u64, Pending>>,
    next: AtomicU64,
    silent: AtomicBool,
    /// Calls that got no answer.
    pub(super) silences: AtomicU64,
}

/// Takes a question off the list when it is answered or given up.
struct Asked<'a>(&'a Engine, u64);

impl Drop for Asked<'_> {
    fn drop(&mut self) {
        self.0.pending().remove(&self.1);
    }
}

impl Engine {
    pub(super) fn new(socket: &Path) -> Engine {
        Engine {
            socket: socket.to_path_buf(),
            pending: Mutex::default(),
            next: AtomicU64::new(0),
            silent: AtomicBool::new(false),
            silences: AtomicU64::new(0),
        }
    }

    fn pending(&self) -> MutexGuard<'_, BTreeMap<u64, Pending>> {
        // Entries go in and out in one step: the map is whole after any panic.
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the last question was answered.
    pub(super) fn answers(&self) -> bool {
        !self.silent.load(Ordering::Relaxed)
    }

    /// The questions under way: what, about what, for how long.
    pub(super) fn under_way(&self) -> Vec<(&'static str, String, Duration)> {
        let entry = |p: &Pending| (p.operation, p.object.clone(), p.since.elapsed());
        self.pending().values().map(entry).collect()
    }

    fn ask(&self, operation: &'static str, object: &str) -> Asked<'_> {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let entry = Pending { operation, object: object.to_owned(), since: Instant::now() };
        self.pending().insert(number, entry);
        Asked(self, number)
    }

    fn heard(&self, error: Option<&ClientError>) {
        let was = self.silent.swap(error.is_some(), Ordering::Relaxed);
        match error {
            Some(error) => {
                self.silences.fetch_add(1, Ordering::Relaxed);
                if !was {
                    let socket = self.socket.display();
                    warn!(%socket, error = %kernel::chain(error), "docker does not answer");
                }
            }
            None if was => info!(socket = %self.socket.display(), "docker answers again"),
            None => {}
        }
    }

    /// One question, one answer. A status that is no success is an error.
    async fn call(
        &self,
        operation: &'static str,
        object: &str,
        limit: Duration,
        call: Call<'_>,
    ) -> Result<Reply, EngineError> {
        let asked = self.ask(operation, object);
        let client = Client::unix(&self.socket).timeout(limit);
        let reply = tokio::select! {
            reply = client.call(call) => reply,
            error = self.mute(), if limit > QUICK => Err(error),
        };
        drop(asked);
        self.heard(reply.as_ref().err());
        let reply = reply.map_err(|source| silent(operation, object, source))?;
        if reply.status.is_success() {
            return Ok(reply);
        }
        Err(refused(operation, object, reply.status.as_u16(), &reply.body))
    }

    /// Completes when the engine does not answer the simplest question: what takes it
    /// long is not waited for in vain.
    async fn mute(&self) -> ClientError {
        loop {
            tokio::time::sleep(PING_PAUSE).await;
            let client = Client::unix(&self.socket).timeout(QUICK);
            if let Err(error) = client.call(Call::get("/_ping")).await {
                return error;
            }
        }
    }

    /// One question whose answer comes in pieces; the head within `limit`.
    async fn stream(
        &self,
        operation: &'static str,
        object: &str,
        limit: Duration,
        call: Call<'_>,
    ) -> Result<Streaming, EngineError> {
        let asked = self.ask(operation, object);
        let streaming = Client::unix(&self.socket).timeout(limit).stream(call).await;
        drop(asked);
        self.heard(streaming.as_ref().err());
        let streaming = streaming.map_err(|source| silent(operation, object, source))?;
        if streaming.status.is_success() {
            return Ok(streaming);
        }
        let status = streaming.status.as_u16();
        let body = tokio::time::timeout(QUICK, streaming.rest()).await;
        let body = body.ok().and_then(Result::ok).unwrap_or_default();
        Err(refused(operation, object, status, &body))
    }

    /// One question whose answer is a connection that goes both ways.
    async fn both_ways(
        &self,
        operation: &'static str,
        object: &str,
        call: Call<'_>,
    ) -> Result<Duplex, EngineError> {
        let asked = self.ask(operation, object);
        let upgraded = Client::unix(&self.socket).timeout(QUICK).upgrade(call).await;
        drop(asked);
        self.heard(upgraded.as_ref().err());
        let upgraded = upgraded.map_err(|source| silent(operation, object, source))?;
        upgraded.map_err(|reply| refused(operation, object, reply.status.as_u16(), &reply.body))
    }

    async fn json(
        &self,
        operation: &'static str,
        object: &str,
        call: Call<'_>,
    ) -> Result<Value, EngineError> {
        let reply = self.call(operation, object, QUICK, call).await?;
        read(operation, object, &reply.body)
    }

    /// Whether it is Podman, which says so among its parts. It may be replaced at any time.
    pub(super) async fn is_podman(&self) -> Result<bool, EngineError> {
        let version = self.json("ask the version of", "itself", Call::get("/version")).await?;
        let parts = version["Components"].as_array();
        Ok(parts.into_iter().flatten().any(|part| part["Name"] == "Podman Engine"))
    }

    /// What the engine says of itself.
    pub(super) async fn info(&self) -> Result<Value, EngineError> {
        self.json("describe", "itself", Call::get("/info")).await
    }
}

fn silent(operation: &'static str, object: &str, source: ClientError) -> EngineError {
    EngineError::Silent { operation, object: object.to_owned(), source }
}

fn refused(operation: &'static str, object: &str, status: u16, body: &[u8]) -> EngineError {
    let said: Value = serde_json::from_slice(body).unwrap_or_default();
    let message = match said["message"].as_str() {
        Some(message) => message.trim().to_owned(),
        None => format!("status {status}"),
    };
    refused_with(operation, object, status, message)
}

fn refused_with(
    operation: &'static str,
    object: &str,
    status: u16,
    message: String,
) -> EngineError {
    EngineError::Refused { operation, object: object.to_owned(), status, message }
}

fn unreadable(operation: &'static str, object: &str, message: String) -> EngineError {
    EngineError::Unreadable { operation, object: object.to_owned(), message }
}

fn read(operation: &'static str, object: &str, body: &[u8]) -> Result<Value, EngineError> {
    serde_json::from_slice(body).map_err(|e| unreadable(operation, object, e.to_string()))
}

/// For a query: everything but letters, digits and `-._~`.
fn escaped(text: &str) -> String {
    escape(text, |byte| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte))
}

/// For the name of an image in a path, which may have slashes and colons.
fn escaped_path(text: &str) -> String {
    escape(text, |byte| byte.is_ascii_alphanumeric() || b"-._~/:@".contains(&byte))
}

fn escape(text: &str, plain: impl Fn(u8) -> bool) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        if plain(byte) {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_escaped() {
        assert_eq!(escaped(r#"{"a":["b=/c"]}"#), "%7B%22a%22%3A%5B%22b%3D%2Fc%22%5D%7D");
        assert_eq!(escaped_path("host:5000/a/b@sha256:00"), "host:5000/a/b@sha256:00");
        assert_eq!(escaped_path("a b?c"), "a%20b%3Fc");
    }

    #[tokio::test]
    async fn an_absent_engine_is_told_and_counted() {
        let engine = Engine::new(Path::new("/nonexistent/docker.sock"));
        let error = engine.inspect("mesos-a").await.expect_err("nobody is there");
        assert!(error.is_silence() && !error.is_missing());
        let text = kernel::chain(&error);
        assert!(text.contains("failed to inspect container mesos-a"), "{text}");
        assert!(text.contains("/nonexistent/docker.sock"), "{text}");
        assert_eq!((engine.answers(), engine.silences.load(Ordering::Relaxed)), (false, 1));
        assert!(engine.under_way().is_empty());
    }
}
