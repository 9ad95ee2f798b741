//! `bulkhead logs`: a task's output, read from its sandbox through the agent.

use std::io::Write;
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use serde_json::json;

use super::MasterArg;
use super::api::{Api, escape};
use super::error::CliError;
use super::output::Output;
use super::task;

/// Arguments of `bulkhead logs`.
#[derive(Debug, Args)]
pub struct LogsArgs {
    #[command(flatten)]
    master: MasterArg,
    /// Go on until the task ends
    #[arg(long, short)]
    follow: bool,
    /// Task whose output to print
    task: String,
    /// File in the sandbox
    #[arg(default_value = "stdout")]
    file: String,
}

/// Prints a file of a task's sandbox.
pub async fn logs(args: &LogsArgs, output: Output) -> Result<ExitCode, CliError> {
    let master = args.master.api()?;
    let mut task = task::find(&master, &args.task).await?;
    let agent = task::agent_of(&master, &task).await?;
    let mut tail = Tail::new(&task.sandbox(), &args.file);
    loop {
        let ended = task.is_terminal();
        tail.copy(&agent, output).await?;
        if !args.follow || ended {
            return Ok(ExitCode::SUCCESS);
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
        task = task::find(&master, &args.task).await?;
    }
}

/// How much one request reads.
const PIECE: usize = 65_536;

/// A file of a sandbox and how far it has been printed.
#[derive(Debug)]
pub struct Tail {
    path: String,
    name: String,
    offset: u64,
}

impl Tail {
    /// A file that nothing has been printed of.
    pub fn new(sandbox: &str, file: &str) -> Tail {
        Tail { path: format!("{sandbox}/{file}"), name: file.to_owned(), offset: 0 }
    }

    /// Prints everything up to the end of the file as it is now. `stderr` goes
    /// to stderr, every other file to stdout.
    pub async fn copy(&mut self, agent: &Api, output: Output) -> Result<(), CliError> {
        loop {
            let path = format!(
                "/files/read?path={}&offset={}&length={PIECE}",
                escape(&self.path),
                self.offset
            );
            let answer = agent.get(&path).await?;
            let Some(data) = answer["data"].as_str() else {
                return Err(agent.unexpected(&path, "no `data`"));
            };
            if data.is_empty() {
                return Ok(());
            }
            self.offset += data.len() as u64;
            if output.is_json() {
                output.result(&json!({ "file": self.name, "data": data }), "");
            } else if self.name == "stderr" {
                let _ = std::io::stderr().write_all(data.as_bytes());
            } else {
                let mut stdout = std::io::stdout();
                let _ = stdout.write_all(data.as_bytes()).and_then(|()| stdout.flush());
            }
        }
    }
}
