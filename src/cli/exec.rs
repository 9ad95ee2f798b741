//! `bulkhead exec`: a command in the container of a running task.
//!
//! A nested session of the agent's API: the command sees what the task sees, what it
//! writes is ours, what we are given to read is its. It ends with this program. With
//! `--tty` it has a terminal, for which ours stands.

use std::io::{Read as _, Write as _};
use std::process::ExitCode;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::Bytes;
use clap::Args;
use mesos::recordio;
use serde_json::{Value, json};
use tokio::sync::mpsc;

use super::MasterArg;
use super::api::Api;
use super::error::CliError;
use super::output::Output;
use super::task;
use super::terminal::{self, Ending, Raw, Sizes};
use crate::wire::client::Events;
use crate::wire::http::media::READER_GONE;

/// Arguments of `bulkhead exec`.
#[derive(Debug, Args)]
pub struct ExecArgs {
    #[command(flatten)]
    master: MasterArg,
    /// User to run as [default: the task's]
    #[arg(long, short)]
    user: Option<String>,
    /// Give the command nothing to read
    #[arg(long, short)]
    no_stdin: bool,
    /// Give the command a terminal: this one
    #[arg(long, short)]
    tty: bool,
    /// Task in whose container to run it
    task: String,
    /// Command and arguments, run without a shell
    #[arg(required = true, last = true, value_name = "COMMAND")]
    argv: Vec<String>,
}

const PATH: &str = "/api/v1";
/// Most bytes of input in one record.
const PIECE: usize = 16 << 10;
/// Pieces of input that may wait for the connection.
const PIECES: usize = 16;

/// Runs the command; its exit code is ours.
pub async fn exec(args: &ExecArgs, output: Output) -> Result<ExitCode, CliError> {
    if args.tty && !args.no_stdin && !terminal::is_typed() {
        return Err(CliError::NoTerminal);
    }
    let master = args.master.api()?;
    let found = task::find(&master, &args.task).await?;
    let parent = found.container_id().filter(|_| !found.is_terminal()).cloned();
    let parent = parent.ok_or_else(|| CliError::NotRunning {
        task: args.task.clone(),
        state: found.text("state").to_owned(),
    })?;
    let agent = task::agent_of(&master, &found).await?;
    let container = json!({ "value": uuid::Uuid::new_v4().to_string(), "parent": parent });
    let mut session = json!({ "container_id": container, "command": command(args) });
    if args.tty {
        let tty_info = terminal::tty_info(terminal::size());
        session["container"] = json!({ "type": "MESOS", "tty_info": tty_info });
    }
    let call = json!({ "type": "LAUNCH_NESTED_CONTAINER_SESSION",
        "launch_nested_container_session": session });
    let (_, events) = agent.subscribe(PATH, &call).await?;
    let (sender, bytes) = mpsc::channel(PIECES);
    let sizes = args.tty.then(Sizes::new).transpose()?;
    let mut ending = args.tty.then(Ending::new).transpose()?;
    let raw = (args.tty && !args.no_stdin).then(Raw::begin).transpose()?;
    if args.no_stdin {
        drop(sender); // The end of the input.
    } else {
        tokio::task::spawn_blocking(move || read(&sender));
    }
    tokio::spawn(pass(
        agent.clone(),
        container.clone(),
        Input { bytes, open: true, sizes },
        output,
    ));
    let ended_early = tokio::select! {
        shown = show_all(&agent, events, output) => {
            shown?;
            None
        }
        code = async { match &mut ending {
            Some(ending) => ending.code().await,
            None => std::future::pending().await,
        } } => Some(code),
    };
    // Before anything is said, and before we are gone.
    drop(raw);
    match ended_early {
        Some(code) => Ok(ExitCode::from(code)),
        None => ended(&agent, &container, output).await,
    }
}

fn command(args: &ExecArgs) -> Value {
    let mut command = json!({ "shell": false, "value": args.argv[0], "arguments": args.argv });
    if let Some(user) = &args.user {
        command["user"] = json!(user);
    }
    // What kind of terminal it is only we know.
    if let Some(kind) = std::env::var("TERM").ok().filter(|_| args.tty) {
        command["environment"] = json!({ "variables": [{ "name": "TERM", "value": kind }] });
    }
    command
}

/// Prints what the command writes, to its end.
async fn show_all(agent: &Api, mut events: Events, output: Output) -> Result<(), CliError> {
    loop {
        let record = events.next().await.map_err(|e| agent.unreachable(e))?;
        let Some(record) = record else { return Ok(()) };
        let record: Value = serde_json::from_slice(&record)
            .map_err(|e| agent.unexpected(PATH, &format!("a record that is not JSON: {e}")))?;
        show(&record, output);
    }
}

/// Prints a piece of output; heartbeats are none.
fn show(record: &Value, output: Output) {
    let data = record["data"]["data"].as_str().and_then(|data| BASE64.decode(data).ok());
    let Some(data) = data.filter(|data| !data.is_empty()) else { return };
    let error = record["data"]["type"] == "STDERR";
    // A reader that has gone (`| head`) is no reason to complain.
    if output.is_json() {
        let file = if error { "stderr" } else { "stdout" };
        let text = String::from_utf8_lossy(&data);
        output.result(&json!({ "file": file, "data": text }), "");
    } else if error {
        let _ = std::io::stderr().write_all(&data);
    } else {
        let mut stdout = std::io::stdout();
        let _ = stdout.write_all(&data).and_then(|()| stdout.flush());
    }
}

/// Asks how it ended, and has the agent forget it.
async fn ended(agent: &Api, container: &Value, output: Output) -> Result<ExitCode, CliError> {
    let about = json!({ "container_id": container });
    let wait = json!({ "type": "WAIT_NESTED_CONTAINER", "wait_nested_container": about });
    let answer = agent.post(PATH, &wait, None).await?;
    let remove = json!({ "type": "REMOVE_NESTED_CONTAINER", "remove_nested_container": about });
    // Goes with its task otherwise.
    let _ = agent.post(PATH, &remove, None).await;
    let status = answer["wait_nested_container"]["exit_status"].as_i64();
    let code = status.map_or(1, exit_code);
    if output.is_json() {
        output.result(&json!({ "exit_code": code }), "");
    }
    Ok(ExitCode::from(code))
}

/// The exit code that says what a wait status says, for signals as shells do.
fn exit_code(status: i64) -> u8 {
    let signal = status & 0x7f;
    let code = if signal == 0 { (status >> 8) & 0xff } else { 128 + signal };
    u8::try_from(code).unwrap_or(1)
}

/// Reads our own input to its end, or until nobody wants it.
fn read(pieces: &mpsc::Sender<Vec<u8>>) {
    let mut stdin = std::io::stdin().lock();
    let mut buffer = vec![0; PIECE];
    loop {
        match stdin.read(&mut buffer) {
            Ok(n @ 1..) if pieces.blocking_send(buffer[..n].to_vec()).is_ok() => {}
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            _ => return,
        }
    }
}

/// What goes to the command.
struct Input {
    bytes: mpsc::Receiver<Vec<u8>>,
    /// Whether there may be more of them.
    open: bool,
    /// If it has a terminal.
    sizes: Option<Sizes>,
}

impl Input {
    /// The next call; `None` when there will be none.
    async fn next(&mut self) -> Option<Value> {
        let sizes = &mut self.sizes;
        let resized = async {
            match sizes {
                Some(sizes) => sizes.next().await,
                None => std::future::pending().await,
            }
        };
        let io = tokio::select! {
            biased;
            size = resized => {
                let tty_info = terminal::tty_info(Some(size));
                json!({ "type": "CONTROL",
                    "control": { "type": "TTY_INFO", "tty_info": tty_info } })
            }
            bytes = self.bytes.recv(), if self.open => {
                self.open = bytes.is_some();
                // An empty piece is the end of the input.
                let data = BASE64.encode(bytes.unwrap_or_default());
                json!({ "type": "DATA", "data": { "type": "STDIN", "data": data } })
            }
            else => return None,
        };
        Some(json!({ "type": "PROCESS_IO", "process_io": io }))
    }
}

/// Passes on what there is to read, to its end.
async fn pass(agent: Api, container: Value, mut input: Input, output: Output) {
    let (pieces, body) = mpsc::channel(PIECES);
    let reading = async move {
        let mut piece = json!({ "type": "CONTAINER_ID", "container_id": container });
        // Nobody takes them when the session is over.
        while pieces.send(record(&piece)).await.is_ok() {
            match input.next().await {
                Some(next) => piece = next,
                None => return,
            }
        }
    };
    let (answer, ()) = tokio::join!(agent.upload(PATH, body), reading);
    // What happens while the session ends is no news, and a command that does not read
    // on is not wrong, as in a shell's pipeline.
    if let Ok(reply) = answer
        && !reply.status.is_success()
        && reply.header(READER_GONE).is_none()
    {
        output.progress(&format!("bulkhead: the input is not passed on: {}", reply.text().trim()));
    }
}

/// One call of the stream.
fn record(attach: &Value) -> Bytes {
    let call = json!({ "type": "ATTACH_CONTAINER_INPUT", "attach_container_input": attach });
    let mut out = Vec::new();
    recordio::encode(call.to_string().as_bytes(), &mut out);
    out.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wait_statuses_are_exit_codes() {
        for (status, code) in [(0, 0), (3 << 8, 3), (9, 137), (15, 143), (0x80 | 11, 139)] {
            assert_eq!(exit_code(status), code, "{status}");
        }
    }
}
