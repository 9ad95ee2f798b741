//! Guests: commands in a running container, by the engine's `exec`. Checks and
//! debugging sessions are made of them.
//!
//! A session has input, so its connection is turned into one both ways; that of a
//! check only answers. A session's terminal is the engine's. A guest is not taken over by
//! the next agent. Its output goes to the descriptors that were given, or to the file
//! `checks` of the sandbox: only the container's own reader may write to `stdout` and
//! `stderr` (see `output`).

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use isolators::secret::Secrets;
use kernel::terminal::Window;
use mesos::{CommandInfo, ContainerId};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt, ReadHalf, WriteHalf};
use tokio::net::unix::pipe::Receiver;
use tokio::sync::watch;
use tracing::debug;

use super::door::{Door, Phase};
use super::engine::{Engine, EngineError, Screen};
use super::frames::Decoder;
use super::mapping::name_of;
use crate::containerizer::request::{command_environment, key};
use crate::containerizer::streams::append;
use crate::containerizer::table::Failure;
use crate::containerizer::terminal::{Lent, Terminal};
use crate::containerizer::{
    Class, ContainerizerError, LaunchRequest, Launched, Output, Termination,
};
use crate::wire::client::{Duplex, Streaming};

/// The engine is asked this often whether a command has ended.
const PAUSE: Duration = Duration::from_millis(200);
/// After that many questions it counts as killed.
const TRIES: u32 = 50;

/// Most bytes that are read at once.
const PIECE: usize = 64 << 10;

/// One command.
#[derive(Debug, Clone)]
struct Guest {
    id: ContainerId,
    pid: Option<u32>,
    end: watch::Receiver<Option<Termination>>,
}

/// All of them, by key.
pub(super) struct Guests {
    engine: Arc<Engine>,
    secrets: Secrets,
    table: Mutex<BTreeMap<String, Guest>>,
}

impl Guests {
    pub(super) fn new(engine: Arc<Engine>, secrets: Secrets) -> Guests {
        Guests { engine, secrets, table: Mutex::default() }
    }

    fn table(&self) -> MutexGuard<'_, BTreeMap<String, Guest>> {
        // Entries go in and out in one step: the map is whole after any panic.
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
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

    /// Starts a command in the container that its id names as parent.
    pub(super) async fn launch(
        &self,
        request: LaunchRequest,
        parent: Door,
    ) -> Result<Launched, ContainerizerError> {
        let begun = self.started(&request, &parent).await;
        begun
            .map(|pid| Launched { pid, details: None })
            .map_err(|failure| failure.of(&key(&request.id)))
    }

    async fn started(
        &self,
        request: &LaunchRequest,
        parent: &Door,
    ) -> Result<Option<u32>, Failure> {
        let refused = |message: String| Failure { step: "check", message };
        let Class::Debug(output) = &request.class else {
            let text = "nested containers are not supported in docker containers";
            return Err(refused(text.into()));
        };
        if parent.view.borrow().phase != Phase::Running {
            return Err(refused("its parent container does not run".into()));
        }
        let session = !matches!(output, Output::ParentsStderr);
        let mut body = body(&request.command, session, &self.secrets).map_err(refused)?;
        if let Output::Terminal(_) = output {
            body["Tty"] = true.into();
        }
        let streams = Streams::open(output, &parent.request).map_err(|error| Failure {
            step: "open",
            message: format!("failed to open its streams: {error}"),
        })?;
        let name = name_of(&parent.request.id.value);
        let begun = self.begin(&request.id, &name, &body, streams).await;
        begun.map_err(|error| Failure { step: "start", message: kernel::chain(&error) })
    }

    async fn begin(
        &self,
        id: &ContainerId,
        name: &str,
        body: &Value,
        streams: Streams,
    ) -> Result<Option<u32>, EngineError> {
        let command = self.engine.exec(name, body).await?;
        let Streams { input, sinks, screen } = streams;
        let tty = screen.is_some();
        let (source, inward) = match input {
            Some(input) => {
                let (answers, questions) =
                    tokio::io::split(self.engine.exec_attach(&command, tty).await?);
                (Source::Duplex(answers), Some(tokio::spawn(feed(input, questions))))
            }
            None => (Source::Answer(self.engine.exec_start(&command).await?), None),
        };
        let executed = self.engine.exec_inspect(&command).await?;
        if let Some(Lending { lent, terminal, sizes }) = screen {
            lent.put(terminal);
            let of = Screen::Command(command.clone());
            tokio::spawn(resize(Arc::clone(&self.engine), of, sizes));
        }
        let (over, end) = watch::channel(None);
        let guest = Guest { id: id.clone(), pid: executed.pid, end };
        self.table().insert(key(id), guest);
        let engine = Arc::clone(&self.engine);
        tokio::spawn(async move {
            pump(source, sinks, tty).await;
            if let Some(inward) = inward {
                inward.abort();
            }
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
    let environment: Vec<String> = command_environment(command, secrets)?
        .iter()
        .map(|(name, value)| format!("{name}={value}"))
        .collect();
    let mut body = json!({ "AttachStdout": true, "AttachStderr": true, "Cmd": words });
    if session {
        body["AttachStdin"] = true.into();
    }
    if !environment.is_empty() {
        body["Env"] = environment.into();
    }
    if let Some(user) = &command.user {
        body["User"] = user.as_str().into();
    }
    Ok(body)
}

/// Where a guest's input comes from and its output goes.
struct Streams {
    input: Option<Receiver>,
    sinks: [Arc<File>; 2],
    screen: Option<Lending>,
}

/// A terminal that the engine has, for who starts the session.
struct Lending {
    lent: Lent,
    terminal: Terminal,
    sizes: watch::Receiver<Window>,
}

impl Streams {
    fn open(output: &Output, parent: &LaunchRequest) -> std::io::Result<Streams> {
        match output {
            Output::ParentsStderr => {
                let file = Arc::new(File::from(append(&parent.sandbox.join("checks"), None)?));
                Ok(Streams { input: None, sinks: [Arc::clone(&file), file], screen: None })
            }
            Output::Pipes(pipes) => {
                let copy = |index: usize| pipes[index].try_clone();
                let sink = |index: usize| copy(index).map(|fd| Arc::new(File::from(fd)));
                let input = Some(Receiver::from_owned_fd(copy(0)?)?);
                Ok(Streams { input, sinks: [sink(1)?, sink(2)?], screen: None })
            }
            Output::Terminal(lent) => {
                let (terminal, far) = Terminal::elsewhere(lent.window)?;
                let sink = Arc::new(File::from(far.shown));
                let lent = lent.clone();
                Ok(Streams {
                    input: Some(far.typed),
                    sinks: [Arc::clone(&sink), sink],
                    screen: Some(Lending { lent, terminal, sizes: far.sizes }),
                })
            }
        }
    }
}

/// Where the frames of a command come from.
enum Source {
    Answer(Streaming),
    Duplex(ReadHalf<Duplex>),
}

impl Source {
    /// The next bytes; `None` when there are no more.
    async fn next(&mut self) -> Option<Bytes> {
        match self {
            Source::Answer(stream) => stream.next().await.ok()?,
            Source::Duplex(stream) => {
                let mut piece = BytesMut::with_capacity(PIECE);
                let count = stream.read_buf(&mut piece).await.ok()?;
                (count > 0).then(|| piece.freeze())
            }
        }
    }
}

/// Passes the input on until there is no more, and says so.
async fn feed(mut input: Receiver, mut command: WriteHalf<Duplex>) {
    if let Err(error) = tokio::io::copy(&mut input, &mut command).await {
        debug!(%error, "a command's input is not passed on any more");
    }
    let _ = command.shutdown().await;
}

/// Passes the output on until there is no more, or nobody who reads it. That to a
/// terminal is not in frames.
async fn pump(mut source: Source, sinks: [Arc<File>; 2], tty: bool) {
    let mut decoder = Decoder::default();
    while let Some(bytes) = source.next().await {
        if tty {
            write(&sinks[0], bytes).await;
            continue;
        }
        decoder.feed(&bytes);
        loop {
            match decoder.next() {
                Ok(Some((stream, frame))) => {
                    if !write(&sinks[stream.index()], frame).await {
                        break;
                    }
                }
                Ok(None) => break,
                Err(error) => return debug!(error, "a command's output cannot be read"),
            }
        }
    }
}

/// Passes the output of a container itself, `tty`: of its terminal, on until there is no
/// more.
pub(super) async fn copy(source: Streaming, sinks: [OwnedFd; 2], tty: bool) {
    pump(Source::Answer(source), sinks.map(|fd| Arc::new(File::from(fd))), tty).await;
}

/// False if nobody reads it any more.
async fn write(sink: &Arc<File>, bytes: impl AsRef<[u8]> + Send + 'static) -> bool {
    let sink = Arc::clone(sink);
    // A pipe's reader may take its time.
    let writing = tokio::task::spawn_blocking(move || (&*sink).write_all(bytes.as_ref()));
    let written = matches!(writing.await, Ok(Ok(())));
    if !written {
        debug!("nobody reads a command's output any more");
    }
    written
}

/// Tells the engine of the terminal's sizes, the first one included, as long as there
/// is somebody who says them.
pub(super) async fn resize(engine: Arc<Engine>, of: Screen, mut sizes: watch::Receiver<Window>) {
    sizes.mark_changed();
    while sizes.changed().await.is_ok() {
        let window = *sizes.borrow_and_update();
        if window != Window::default()
            && let Err(error) = engine.resize(&of, window).await
        {
            debug!(%error, "a terminal keeps its size");
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
