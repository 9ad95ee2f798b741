//! `bulkhead logs`: a task's output, read from its sandbox through the agent.

use std::io::Write;
use std::process::ExitCode;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use async_trait::async_trait;
use clap::Args;
use serde_json::{Value, json};

use super::MasterArg;
use super::api::{Api, escape};
use super::error::CliError;
use super::follow::{Begin, Entry, Follow, Piece, Source};
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
    /// Begin with the last lines
    #[arg(long = "lines", short = 'n', value_name = "LINES")]
    lines: Option<u64>,
    /// Begin with the first file written to since then, e.g. 10m, 2h or 1days
    #[arg(long, value_name = "TIME", value_parser = since)]
    since: Option<Duration>,
    /// Print the standard error instead
    #[arg(long, conflicts_with = "file")]
    stderr: bool,
    /// Task whose output to print
    task: String,
    /// File in the sandbox; old ones (stdout.1) are part of it
    #[arg(default_value = "stdout")]
    file: String,
}

/// A time as people type it, or as flags have it.
fn since(text: &str) -> Result<Duration, String> {
    let units = [("s", "secs"), ("m", "mins"), ("h", "hrs"), ("d", "days"), ("w", "weeks")];
    let long = units.iter().find_map(|(short, long)| {
        let number = text.strip_suffix(short)?;
        number.ends_with(|c: char| c.is_ascii_digit()).then(|| format!("{number}{long}"))
    });
    crate::daemon::units::parse_duration(long.as_deref().unwrap_or(text))
        .map_err(|error| format!("{error}; for example 10m, 2h or 1days"))
}

/// Prints a file of a task's sandbox.
pub async fn logs(args: &LogsArgs, output: Output) -> Result<ExitCode, CliError> {
    let master = args.master.api()?;
    let mut task = task::find(&master, &args.task).await?;
    let agent = task::agent_of(&master, &task).await?;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let since = args.since.map(|since| now.saturating_sub(since).as_secs_f64());
    let file = if args.stderr { "stderr".to_owned() } else { args.file.clone() };
    let mut tail = Tail::new(&task.sandbox(), &file, Begin { lines: args.lines, since });
    loop {
        let ended = task.is_terminal();
        tail.copy(&agent, output).await?;
        if !args.follow || ended {
            return match tail.follow.found() {
                true => Ok(ExitCode::SUCCESS),
                false => Err(CliError::NoFile { file: file.clone(), task: args.task.clone() }),
            };
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
        task = task::find(&master, &args.task).await?;
    }
}

/// A log of a sandbox and how far it has been printed.
#[derive(Debug)]
pub struct Tail {
    sandbox: String,
    /// Directories within the sandbox, with a slash at the end, or nothing.
    below: String,
    name: String,
    follow: Follow,
}

impl Tail {
    /// A log that nothing has been printed of.
    pub fn new(sandbox: &str, file: &str, begin: Begin) -> Tail {
        let split = file.rfind('/').map_or(0, |at| at + 1);
        let (below, name) = file.split_at(split);
        Tail {
            sandbox: sandbox.to_owned(),
            below: below.to_owned(),
            name: file.to_owned(),
            follow: Follow::new(name, begin),
        }
    }

    /// Prints everything up to the end of the log as it is now. `stderr` goes to
    /// stderr, every other file to stdout.
    pub async fn copy(&mut self, agent: &Api, output: Output) -> Result<(), CliError> {
        let directory = format!("{}/{}", self.sandbox, self.below);
        let files = AgentFiles { agent, directory: directory.trim_end_matches('/') };
        let name = &self.name;
        let mut print = |data: &[u8]| {
            if output.is_json() {
                let data = String::from_utf8_lossy(data);
                output.result(&json!({ "file": name, "data": data }), "");
            } else if name == "stderr" {
                let _ = std::io::stderr().write_all(data);
            } else {
                let mut stdout = std::io::stdout();
                let _ = stdout.write_all(data).and_then(|()| stdout.flush());
            }
        };
        self.follow.advance(&files, &mut print).await?;
        if self.follow.take_lost() {
            output.progress(&format!("some of {name} was rotated away before it was read"));
        }
        Ok(())
    }
}

/// A directory below a sandbox, through its agent's `/files`.
struct AgentFiles<'a> {
    agent: &'a Api,
    directory: &'a str,
}

impl AgentFiles<'_> {
    fn path(&self, name: &str, offset: i128, length: u64) -> String {
        let path = escape(&format!("{}/{name}", self.directory));
        format!("/files/read?path={path}&offset={offset}&length={length}")
    }
}

#[async_trait]
impl Source for AgentFiles<'_> {
    async fn list(&self) -> Result<Vec<Entry>, CliError> {
        let path = format!("/files/browse?path={}", escape(self.directory));
        let listed = match self.agent.get(&path).await {
            Ok(Value::Array(listed)) => listed,
            Ok(_) => return Err(self.agent.unexpected(&path, "not a list")),
            // The sandbox of a task that has just been launched is yet to be made.
            Err(CliError::Refused { status: 404, .. }) => Vec::new(),
            Err(error) => return Err(error),
        };
        let entry = |file: &Value| {
            Some(Entry {
                name: file["path"].as_str()?.rsplit('/').next()?.to_owned(),
                size: file["size"].as_u64()?,
                modified: file["mtime"].as_f64()?,
            })
        };
        Ok(listed.iter().filter_map(entry).collect())
    }

    async fn read(&self, name: &str, offset: u64, length: u64) -> Result<Option<Piece>, CliError> {
        self.agent.read(&self.path(name, offset.into(), length)).await
    }

    async fn size(&self, name: &str) -> Result<u64, CliError> {
        let path = self.path(name, -1, 0);
        let answer = self.agent.get(&path).await?;
        answer["offset"].as_u64().ok_or_else(|| self.agent.unexpected(&path, "no `offset`"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_as_people_type_them() {
        for (text, seconds) in
            [("10m", 600), ("2h", 7200), ("1days", 86_400), ("90secs", 90), ("3d", 259_200)]
        {
            assert_eq!(since(text), Ok(Duration::from_secs(seconds)), "{text}");
        }
        for text in ["", "10", "m", "yesterday", "10x"] {
            assert!(since(text).is_err(), "{text}");
        }
    }
}
