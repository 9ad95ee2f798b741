//! What can go wrong for a person at the command line, and what to do about it.

use std::path::PathBuf;

use thiserror::Error;

use crate::wire::client::ClientError;

/// Why a command failed; [`CliError::hint`] says what helps.
#[derive(Debug, Error)]
#[allow(missing_docs, reason = "the message says it")]
pub enum CliError {
    #[error("no answer from the {what} at {address}")]
    Unreachable { what: &'static str, address: String, source: ClientError },
    #[error("the {what} at {address} answered {path} with {status}: {body}")]
    Refused { what: &'static str, address: String, path: String, status: u16, body: String },
    #[error("the {what} at {address} answered {path} with something unexpected: {message}")]
    Unexpected { what: &'static str, address: String, path: String, message: String },
    #[error("the master refused the framework: {0}")]
    Framework(String),
    #[error("the connection to the master at {address} ended")]
    Disconnected { address: String },
    #[error("no task `{0}`")]
    NoTask(String),
    #[error("task `{task}` does not run: {state}")]
    NotRunning { task: String, state: String },
    #[error("no file `{file}` in the sandbox of task `{task}`")]
    NoFile { file: String, task: String },
    #[error("the agent of task `{0}` is not registered with the master")]
    NoAgent(String),
    #[error("`{option}` cannot be read: {message}")]
    Argument { option: &'static str, message: String },
    #[error("`{path}` is no work directory of an agent: there is no `meta` in it")]
    NoWorkDir { path: PathBuf },
    #[error("failed to read the work directory")]
    WorkDir(#[source] crate::checkpoint::RecoverError),
    #[error("only agents collect garbage, this command shows what they would do")]
    DryRunOnly,
    #[error("{message}")]
    Image { message: String },
    #[error("nothing to run")]
    NothingToRun,
    #[error("--tty needs a terminal, and standard input is none")]
    NoTerminal,
    #[error("{what} is not supported yet")]
    NotYet { what: &'static str },
    #[error("failed to {verb} {path}")]
    Io { verb: &'static str, path: PathBuf, source: std::io::Error },
    #[error("{program} ended while starting: {status}")]
    Ended { program: &'static str, status: String, log: PathBuf },
    #[error("{program} did not become ready within {seconds} s")]
    NotReady { program: &'static str, seconds: u64, log: PathBuf },
    #[error("failed to clean up: {0}")]
    Cleanup(String),
}

impl CliError {
    /// What the person can do, where there is something.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        Some(match self {
            CliError::Unreachable { what: "master", .. } => {
                "is it running? `bulkhead local` starts one; --master=HOST:PORT or \
                 BULKHEAD_MASTER names another"
                    .to_owned()
            }
            CliError::Unreachable { .. } => {
                "the master knows this agent; can this machine reach it?".to_owned()
            }
            CliError::Refused { status: 401 | 403, .. } => {
                "this cluster wants credentials; the command line does not send any yet".to_owned()
            }
            CliError::NotRunning { .. } => {
                "a command can be run only beside a task that runs; `bulkhead logs` shows what \
                 an ended one wrote"
                    .to_owned()
            }
            CliError::NoTerminal => {
                "without --tty the command reads what is piped in; with --no-stdin, nothing"
                    .to_owned()
            }
            CliError::NoTask(_) => "`bulkhead ps --all` lists the known tasks".to_owned(),
            CliError::NoWorkDir { .. } => {
                "name the directory that the agent was given as --work_dir".to_owned()
            }
            CliError::DryRunOnly => "add --dry-run".to_owned(),
            CliError::NothingToRun => {
                "name a command: `bulkhead run -- echo hello`, `--command='echo hello'`, or \
                 --task=FILE"
                    .to_owned()
            }
            CliError::Ended { log, .. } | CliError::NotReady { log, .. } => {
                format!("its log is {}", log.display())
            }
            CliError::Io { verb: "start", .. } => {
                "the programs are looked for beside `bulkhead` and in PATH; \
                 `make build` or `make install` makes them"
                    .to_owned()
            }
            _ => return None,
        })
    }
}
