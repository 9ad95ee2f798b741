//! The Engine API over its unix socket: one method per question, a deadline on
//! each, and a list of the questions that have not been answered yet.
//!
//! Knows nothing of tasks. Each call has a connection of its own, so that one that
//! hangs holds up nobody else. Whether the engine answers at all is noted and
//! logged when it changes.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde_json::Value;
use thiserror::Error;
use tracing::{info, warn};

use super::frames;
use crate::wire::client::{Call, Client, ClientError, Reply, Streaming};

/// How long the engine may take for an answer it should know.
const QUICK: Duration = Duration::from_secs(15);
/// How long it may take to make, start or remove something.
const SLOW: Duration = Duration::from_secs(120);
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

/// What the engine says of a container.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Inspected {
    pub(super) id: String,
    /// `created`, `running`, `paused`, `exited`, `dead`, ...
    pub(super) status: String,
    /// Init's pid on the host, while it runs.
    pub(super) pid: Option<u32>,
    /// As `docker run` would return it.
    pub(super) exit_code: i32,
    pub(super) oom_killed: bool,
    /// Why it did not start.
    pub(super) error: String,
    /// Nanoseconds since 1970; `None` if it has not ended.
    pub(super) finished: Option<u64>,
    /// The signal that asks it to stop.
    pub(super) stop_signal: Option<String>,
    /// Its addresses, by network.
    pub(super) addresses: Vec<String>,
    /// All of it.
    pub(super) raw: Value,
}

impl Inspected {
    /// Its processes live.
    pub(super) fn runs(&self) -> bool {
        ["running", "paused", "restarting"].contains(&self.status.as_str())
    }

    fn of(raw: Value) -> Inspected {
        let state = &raw["State"];
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let networks = raw["NetworkSettings"]["Networks"].as_object();
        let addresses = networks
            .into_iter()
            .flat_map(serde_json::Map::values)
            .flat_map(|network| [&network["IPAddress"], &network["GlobalIPv6Address"]])
            .map(text)
            .filter(|address| !address.is_empty())
            .collect();
        Inspected {
            id: text(&raw["Id"]),
            status: text(&state["Status"]),
            pid: state["Pid"].as_u64().and_then(|pid| u32::try_from(pid).ok()).filter(|p| *p > 0),
            exit_code: state["ExitCode"].as_i64().and_then(|c| i32::try_from(c).ok()).unwrap_or(-1),
            oom_killed: state["OOMKilled"].as_bool().unwrap_or(false),
            error: text(&state["Error"]),
            finished: frames::nanoseconds(state["FinishedAt"].as_str().unwrap_or_default()),
            stop_signal: raw["Config"]["StopSignal"].as_str().map(str::to_owned),
            addresses,
            raw,
        }
    }
}

/// A container in the engine's list.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Listed {
    pub(super) id: String,
    /// Without the slash.
    pub(super) name: String,
    /// As [`Inspected::status`].
    pub(super) status: String,
    pub(super) labels: BTreeMap<String, String>,
}

/// A process in a running container.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Executed {
    pub(super) running: bool,
    pub(super) exit_code: i32,
    pub(super) pid: Option<u32>,
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
        let reply = Client::unix(&self.socket).timeout(limit).call(call).await;
        drop(asked);
        self.heard(reply.as_ref().err());
        let reply = reply.map_err(|source| silent(operation, object, source))?;
        if reply.status.is_success() {
            return Ok(reply);
        }
        Err(refused(operation, object, reply.status.as_u16(), &reply.body))
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

    async fn json(
        &self,
        operation: &'static str,
        object: &str,
        call: Call<'_>,
    ) -> Result<Value, EngineError> {
        let reply = self.call(operation, object, QUICK, call).await?;
        read(operation, object, &reply.body)
    }

    /// What the engine says of itself.
    pub(super) async fn info(&self) -> Result<Value, EngineError> {
        self.json("describe", "itself", Call::get("/info")).await
    }

    pub(super) async fn inspect(&self, name: &str) -> Result<Inspected, EngineError> {
        let path = format!("/containers/{name}/json");
        self.json("inspect container", name, Call::get(&path)).await.map(Inspected::of)
    }

    /// Every container with the label `key=value`, ended ones too.
    pub(super) async fn list(&self, key: &str, value: &str) -> Result<Vec<Listed>, EngineError> {
        let filters = serde_json::json!({ "label": [format!("{key}={value}")] }).to_string();
        let path = format!("/containers/json?all=1&filters={}", escaped(&filters));
        let list = self.json("list containers labelled", value, Call::get(&path)).await?;
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let labels = |value: &Value| {
            let pairs = value.as_object().into_iter().flatten();
            pairs.map(|(key, value)| (key.clone(), text(value))).collect()
        };
        let entries = list.as_array().into_iter().flatten().map(|entry| Listed {
            id: text(&entry["Id"]),
            name: text(&entry["Names"][0]).trim_start_matches('/').to_owned(),
            status: text(&entry["State"]),
            labels: labels(&entry["Labels"]),
        });
        Ok(entries.collect())
    }

    /// Whether the image is there.
    pub(super) async fn has_image(&self, image: &str) -> Result<bool, EngineError> {
        let path = format!("/images/{}/json", escaped_path(image));
        match self.json("inspect image", image, Call::get(&path)).await {
            Ok(_) => Ok(true),
            Err(error) if error.is_missing() => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Pulls `image:tag` (or `image@digest`); `auth` is the registry's header.
    /// Fails when nothing is heard for a while, however long the whole takes.
    pub(super) async fn pull(
        &self,
        image: &str,
        tag: &str,
        auth: Option<&str>,
    ) -> Result<(), EngineError> {
        const OPERATION: &str = "pull image";
        let object = image_name(image, tag);
        let path = format!("/images/create?fromImage={}&tag={}", escaped(image), escaped(tag));
        let mut call = Call::post(&path, "application/json", "");
        if let Some(auth) = auth {
            call = call.header("x-registry-auth", auth);
        }
        let mut body = self.stream(OPERATION, &object, STALL, call).await?;
        let _asked = self.ask(OPERATION, &object);
        let mut line = Vec::new();
        loop {
            let next = tokio::time::timeout(STALL, body.next()).await;
            let next = next.map_err(|_| {
                let message = format!("no progress for {} s", STALL.as_secs());
                refused_with(OPERATION, &object, 0, message)
            })?;
            match next.map_err(|source| silent(OPERATION, &object, source))? {
                Some(bytes) => line.extend_from_slice(&bytes),
                None => return Ok(()),
            }
            while let Some(end) = line.iter().position(|byte| *byte == b'\n') {
                let report: Vec<u8> = line.drain(..=end).collect();
                let report: Value = serde_json::from_slice(&report).unwrap_or_default();
                if let Some(message) = report["error"].as_str() {
                    return Err(refused_with(OPERATION, &object, 0, message.to_owned()));
                }
            }
        }
    }

    /// Makes a container; the engine's warnings.
    pub(super) async fn create(
        &self,
        name: &str,
        body: &Value,
    ) -> Result<Vec<String>, EngineError> {
        const OPERATION: &str = "create container";
        let path = format!("/containers/create?name={name}");
        let call = Call::post(&path, "application/json", body.to_string());
        let reply = self.call(OPERATION, name, SLOW, call).await?;
        let answer: Value = read(OPERATION, name, &reply.body)?;
        let warnings = answer["Warnings"].as_array().into_iter().flatten();
        Ok(warnings.filter_map(|warning| warning.as_str().map(str::to_owned)).collect())
    }

    pub(super) async fn start(&self, name: &str) -> Result<(), EngineError> {
        let path = format!("/containers/{name}/start");
        let call = Call::post(&path, "application/json", "");
        self.call("start container", name, SLOW, call).await.map(|_| ())
    }

    /// Sends a signal, by name or number, to init.
    pub(super) async fn kill(&self, name: &str, signal: &str) -> Result<(), EngineError> {
        let path = format!("/containers/{name}/kill?signal={}", escaped(signal));
        let call = Call::post(&path, "application/json", "");
        self.call("send a signal to container", name, QUICK, call).await.map(|_| ())
    }

    /// Asks it to stop, and kills it after `grace`.
    pub(super) async fn stop(&self, name: &str, grace: Duration) -> Result<(), EngineError> {
        let path = format!("/containers/{name}/stop?t={}", grace.as_secs());
        let call = Call::post(&path, "application/json", "");
        self.call("stop container", name, grace + QUICK, call).await.map(|_| ())
    }

    /// Removes it, its processes and its anonymous volumes; gone already is fine.
    pub(super) async fn remove(&self, name: &str) -> Result<(), EngineError> {
        let path = format!("/containers/{name}?force=1&v=1");
        let call = Call::get(&path).method(http::Method::DELETE);
        match self.call("remove container", name, SLOW, call).await {
            Err(error) if !error.is_missing() => Err(error),
            _ => Ok(()),
        }
    }

    pub(super) async fn update(&self, name: &str, body: &Value) -> Result<(), EngineError> {
        let path = format!("/containers/{name}/update");
        let call = Call::post(&path, "application/json", body.to_string());
        self.call("update container", name, QUICK, call).await.map(|_| ())
    }

    /// Answers when the container does not run any more; no deadline, since it may
    /// run for years, so ask [`Engine::inspect`] what became of it.
    pub(super) async fn wait(&self, name: &str) -> Result<(), EngineError> {
        let path = format!("/containers/{name}/wait");
        let call = Call::post(&path, "application/json", "");
        // The head comes at once; old engines send it with the answer.
        let body = Client::unix(&self.socket).timeout(Duration::MAX).stream(call).await;
        let body = body.map_err(|source| silent("wait for container", name, source))?;
        let status = body.status.as_u16();
        let success = body.status.is_success();
        let rest = body.rest().await.map_err(|e| silent("wait for container", name, e))?;
        if success { Ok(()) } else { Err(refused("wait for container", name, status, &rest)) }
    }

    /// Output since a time (nanoseconds since 1970), stamped, in frames.
    pub(super) async fn logs(
        &self,
        name: &str,
        since: u64,
        follow: bool,
    ) -> Result<Streaming, EngineError> {
        let (seconds, nanos) = (since / 1_000_000_000, since % 1_000_000_000);
        let path = format!(
            "/containers/{name}/logs?stdout=1&stderr=1&timestamps=1&follow={}&since={seconds}.{nanos:09}",
            u8::from(follow)
        );
        self.stream("read the output of container", name, QUICK, Call::get(&path)).await
    }

    /// Prepares a process in a running container; its id.
    pub(super) async fn exec(&self, name: &str, body: &Value) -> Result<String, EngineError> {
        const OPERATION: &str = "prepare a command in container";
        let path = format!("/containers/{name}/exec");
        let call = Call::post(&path, "application/json", body.to_string());
        let reply = self.call(OPERATION, name, QUICK, call).await?;
        let answer: Value = read(OPERATION, name, &reply.body)?;
        let id = answer["Id"].as_str().map(str::to_owned);
        id.ok_or_else(|| unreadable(OPERATION, name, "there is no id".into()))
    }

    /// Starts it; its output in frames.
    pub(super) async fn exec_start(&self, id: &str) -> Result<Streaming, EngineError> {
        let path = format!("/exec/{id}/start");
        let body = r#"{"Detach":false,"Tty":false}"#;
        let call = Call::post(&path, "application/json", body);
        self.stream("start command", id, QUICK, call).await
    }

    pub(super) async fn exec_inspect(&self, id: &str) -> Result<Executed, EngineError> {
        let path = format!("/exec/{id}/json");
        let answer = self.json("inspect command", id, Call::get(&path)).await?;
        Ok(Executed {
            running: answer["Running"].as_bool().unwrap_or(false),
            exit_code: answer["ExitCode"].as_i64().and_then(|c| c.try_into().ok()).unwrap_or(-1),
            pid: answer["Pid"].as_u64().and_then(|p| p.try_into().ok()).filter(|pid| *pid > 0),
        })
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

/// `image:tag`, or `image@digest`.
pub(super) fn image_name(image: &str, tag: &str) -> String {
    let separator = if tag.contains(':') { '@' } else { ':' };
    format!("{image}{separator}{tag}")
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
    fn containers_are_read() {
        let raw = serde_json::json!({
            "Id": "8a3a", "Config": { "StopSignal": "SIGQUIT" },
            "State": { "Status": "running", "Pid": 14295, "ExitCode": 0, "OOMKilled": false,
                       "Error": "", "FinishedAt": "0001-01-01T00:00:00Z" },
            "NetworkSettings": { "Networks": {
                "bridge": { "IPAddress": "172.17.0.2", "GlobalIPv6Address": "" } } },
        });
        let read = Inspected::of(raw);
        assert!(read.runs());
        assert_eq!((read.pid, read.finished), (Some(14295), None));
        assert_eq!(read.stop_signal.as_deref(), Some("SIGQUIT"));
        assert_eq!(read.addresses, ["172.17.0.2"]);
        let ended = serde_json::json!({ "State": { "Status": "exited", "Pid": 0, "ExitCode": 137,
            "OOMKilled": true, "FinishedAt": "1970-01-01T00:00:02Z" } });
        let read = Inspected::of(ended);
        assert!(!read.runs() && read.oom_killed);
        assert_eq!((read.pid, read.exit_code), (None, 137));
        assert_eq!(read.finished, Some(2_000_000_000));
    }

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
