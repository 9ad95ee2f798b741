//! Guests: commands in a running container, by the engine's `exec`. Checks and
//! debugging sessions are made of them.
//!
//! A guest is not taken over by the next agent. Its output goes to the descriptors
//! that were given, or to the file `checks` of the sandbox: only the container's own
//! reader may write to `stdout` and `stderr` (see `output`).

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use isolators::secret::Secrets;
use mesos::{CommandInfo, ContainerId};
use serde_json::{Value, json};
use tokio::sync::watch;
use tracing::debug;

use super::container::Phase;
use super::engine::{Engine, EngineError};
use super::frames::Decoder;
use super::mapping::name_of;
use super::{Door, Shared};
use crate::containerizer::native::request::{self, key};
use crate::containerizer::native::start::append;
use crate::containerizer::{
    Class, ContainerizerError, LaunchRequest, Launched, Output, Termination,
};
use crate::wire::client::Streaming;

/// The engine is asked this often whether a command has ended.
const PAUSE: Duration = Duration::from_millis(200);
/// After that many questions it counts as killed.
const TRIES: u32 = 50;

/// One command.
#[derive(Debug, Clone)]
struct Guest {
    id: ContainerId,
    pid: Option<u32>,
    end: watch::Receiver<Option<Termination>>,
}

/// All of them, by key.
#[derive(Debug, Default)]
pub(super) struct Guests(Mutex<BTreeMap<String, Guest>>);

impl Guests {
    fn table(&self) -> MutexGuard<'_, BTreeMap<String, Guest>> {
        // Entries go in and out in one step: the map is whole after any panic.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn get(&self, id: &ContainerId) -> Option<Guest> {
        self.table().get(&key(id)).cloned()
    }

    pub(super) fn knows(&self, id: &ContainerId) -> bool {
        self.table().contains_key(&key(id))
    }

    pub(super) fn running(&self) -> Vec<(ContainerId, Option<u32>)> {
        let table = self.table();
        let open = table.values().filter(|guest| guest.end.borrow().is_none());
        open.map(|guest| (guest.id.clone(), guest.pid)).collect()
    }

    pub(super) async fn wait(&self, id: &ContainerId) -> Option<Termination> {
        let mut end = self.get(id)?.end;
        let end = end.wait_for(Option::is_some).await.ok()?;
        end.clone()
    }

    pub(super) fn forget(&self, id: &ContainerId) {
        let mut table = self.table();
        if table.get(&key(id)).is_some_and(|guest| guest.end.borrow().is_some()) {
            table.remove(&key(id));
        }
    }

    /// Those of a container that is forgotten.
    pub(super) fn forget_all(&self, parent: &str) {
        let prefix = format!("{parent}.");
        self.table().retain(|key, _| !key.starts_with(&prefix));
    }

    pub(super) fn signal(&self, id: &ContainerId, signal: i32) -> bool {
        let Some(guest) = self.get(id).filter(|guest| guest.end.borrow().is_none()) else {
            return false;
        };
        kernel::proctree::signal(guest.pid.as_slice(), signal);
        guest.pid.is_some()
    }
}

impl Shared {
    /// Starts a command in the container that its id names as parent.
    pub(super) async fn launch_guest(
        self: &Arc<Self>,
        request: LaunchRequest,
        parent: Door,
    ) -> Result<Launched, ContainerizerError> {
        let id = key(&request.id);
        let failed = |step, message: String| {
            Err(ContainerizerError::Launch { id: id.clone(), step, message })
        };
        let Class::Debug(output) = &request.class else {
            let text = "nested containers are not supported in docker containers";
            return failed("check", text.into());
        };
        if parent.view.borrow().phase != Phase::Running {
            return failed("check", "its parent container does not run".into());
        }
        let body = match body(
            &request.command,
            matches!(output, Output::Pipes(_)),
            &self.config.secrets,
        ) {
            Ok(body) => body,
            Err(message) => return failed("check", message),
        };
        let sinks = match sinks(output, &parent.request) {
            Ok(sinks) => sinks,
            Err(error) => return failed("open", format!("failed to open its output: {error}")),
        };
        let name = name_of(&parent.request.id.value);
        match self.begin(&request.id, &name, &body, sinks).await {
            Ok(pid) => Ok(Launched { pid }),
            Err(error) => failed("start", kernel::chain(&error)),
        }
    }

    async fn begin(
        self: &Arc<Self>,
        id: &ContainerId,
        name: &str,
        body: &Value,
        sinks: [Arc<File>; 2],
    ) -> Result<Option<u32>, EngineError> {
        let command = self.engine.exec(name, body).await?;
        let stream = self.engine.exec_start(&command).await?;
        let executed = self.engine.exec_inspect(&command).await?;
        let (over, end) = watch::channel(None);
        let guest = Guest { id: id.clone(), pid: executed.pid, end };
        self.guests.table().insert(key(id), guest);
        let engine = Arc::clone(&self.engine);
        tokio::spawn(async move {
            pump(stream, sinks).await;
            let status = status(&engine, &command).await;
            let end = Termination { status: Some(status), ..Termination::default() };
            let _ = over.send(Some(end));
        });
        Ok(executed.pid)
    }
}

/// What is executed. compat: of a check the arguments follow the value; of a session
/// the first of them is the program's name, as in Mesos' own containers.
fn body(command: &CommandInfo, session: bool, secrets: &Secrets) -> Result<Value, String> {
    let value = command.value.as_deref();
    let words: Vec<&str> = if command.shell.unwrap_or(true) {
        vec!["/bin/sh", "-c", value.ok_or("a shell command needs a 'value'")?]
    } else {
        let arguments = command.arguments.iter().skip(usize::from(session));
        value.into_iter().chain(arguments.map(String::as_str)).collect()
    };
    if words.is_empty() {
        return Err("a command needs a 'value'".into());
    }
    let environment: Vec<String> = request::command_environment(command, secrets)?
        .iter()
        .map(|(name, value)| format!("{name}={value}"))
        .collect();
    let mut body = json!({ "AttachStdout": true, "AttachStderr": true, "Cmd": words });
    if !environment.is_empty() {
        body["Env"] = environment.into();
    }
    if let Some(user) = &command.user {
        body["User"] = user.as_str().into();
    }
    Ok(body)
}

fn sinks(output: &Output, parent: &LaunchRequest) -> std::io::Result<[Arc<File>; 2]> {
    match output {
        Output::ParentsStderr => {
            let file = Arc::new(File::from(append(&parent.sandbox.join("checks"), None)?));
            Ok([Arc::clone(&file), file])
        }
        Output::Pipes(pipes) => {
            let copy = |index: usize| pipes[index].try_clone().map(|fd| Arc::new(File::from(fd)));
            // The engine's way for input needs a connection of another kind.
            Ok([copy(1)?, copy(2)?])
        }
        Output::Terminal(_) => {
            let text = "terminals are not supported in docker containers";
            Err(std::io::Error::new(std::io::ErrorKind::Unsupported, text))
        }
    }
}

/// Passes the output on until there is no more, or nobody who reads it.
async fn pump(mut stream: Streaming, sinks: [Arc<File>; 2]) {
    let mut decoder = Decoder::default();
    while let Ok(Some(bytes)) = stream.next().await {
        decoder.feed(&bytes);
        loop {
            match decoder.next() {
                Ok(Some((stream, frame))) => {
                    let sink = Arc::clone(&sinks[stream.index()]);
                    // A pipe's reader may take its time.
                    let writing = tokio::task::spawn_blocking(move || (&*sink).write_all(&frame));
                    if !matches!(writing.await, Ok(Ok(()))) {
                        debug!("nobody reads a command's output any more");
                        break;
                    }
                }
                Ok(None) => break,
                Err(error) => return debug!(error, "a command's output cannot be read"),
            }
        }
    }
}

/// How the command ended.
async fn status(engine: &Engine, command: &str) -> i32 {
    for _ in 0..TRIES {
        match engine.exec_inspect(command).await {
            Ok(executed) if !executed.running => return (executed.exit_code & 0xff) << 8,
            Err(error) if error.is_missing() => break,
            _ => tokio::time::sleep(PAUSE).await,
        }
    }
    libc::SIGKILL
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands() {
        let shell = CommandInfo {
            value: Some("exit 1".into()),
            user: Some("nobody".into()),
            ..CommandInfo::default()
        };
        let body = |command: &CommandInfo| body(command, false, &Secrets::default());
        let body_of = |command: &CommandInfo| body(command).expect("fine");
        assert_eq!(body_of(&shell)["Cmd"], json!(["/bin/sh", "-c", "exit 1"]));
        assert_eq!(body_of(&shell)["User"], "nobody");
        let exec = CommandInfo {
            shell: Some(false),
            value: Some("ls".into()),
            arguments: vec!["-l".into()],
            ..CommandInfo::default()
        };
        assert_eq!(body_of(&exec)["Cmd"], json!(["ls", "-l"]));
        let named = CommandInfo { arguments: vec!["ls".into(), "-l".into()], ..exec };
        let session = super::body(&named, true, &Secrets::default()).expect("fine");
        assert_eq!(session["Cmd"], json!(["ls", "-l"]));
        assert!(body(&CommandInfo { shell: Some(false), ..CommandInfo::default() }).is_err());
        assert!(body(&CommandInfo::default()).is_err());
    }
}
