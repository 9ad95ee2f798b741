//! What other programs fetch for us: ftp by `curl`, everything unknown by Hadoop's client.
//! They run with the agent's environment and die with us.

use std::io;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use kernel::beneath::Root;
use thiserror::Error;

use super::sink::Sink;
use super::{FetchFailure, Outcome, log};
use crate::fetch::message::{Job, Validators};

/// A program that did not do it.
#[derive(Debug, Error)]
pub(super) enum ProgramError {
    #[error("'{program}', which fetches {scheme} URIs, cannot be run: {hint}")]
    Start { program: String, scheme: String, hint: String, source: io::Error },
    #[error("'{program}' ended with {status}: {said}")]
    Failed { program: String, status: String, said: String },
}

/// ftp and ftps.
pub(super) fn curl(job: &Job, address: &str, sink: &mut Sink) -> Result<Outcome, FetchFailure> {
    log::info(&format!("Downloading resource from '{address}' with curl"));
    sink.begin(None)?;
    let mut command = Command::new("curl");
    command.args(["--fail", "--silent", "--show-error", "--location", "--globoff"]).args([
        "--proto",
        "=ftp,ftps",
        "--connect-timeout",
        "60",
    ]);
    if job.stall_secs > 0 {
        command.args(["--speed-limit", "1", "--speed-time", &job.stall_secs.to_string()]);
    }
    command.args(["--output", "-", "--", address]);
    let output = sink.file.try_clone().map_err(|source| FetchFailure::Write { source })?;
    run(job, address, command.stdout(output), "install curl")?;
    sink.look()?;
    Ok(Outcome::Complete(Validators::default()))
}

/// Any other scheme: `hadoop fs -copyToLocal`, as Mesos runs it.
pub(super) fn hadoop(job: &Job, address: &str, sink: &mut Sink) -> Result<Outcome, FetchFailure> {
    log::info(&format!("Downloading resource from '{address}' with the Hadoop client"));
    sink.begin(None)?;
    let program = match job.environment.get("HADOOP_HOME").filter(|home| !home.is_empty()) {
        Some(home) => Path::new(home).join("bin/hadoop"),
        None => "hadoop".into(),
    };
    // It wants a name, and one that does not exist.
    let name = format!(".fetch-{}", std::process::id());
    let copy = job.sandbox.join(&name);
    let mut command = Command::new(program);
    command.args(["fs", "-copyToLocal", address]).arg(&copy).stdout(Stdio::null());
    let hint = "set --hadoop_home to a Hadoop installation";
    let sandbox = |source| FetchFailure::Sandbox { path: name.clone(), source };
    let root = Root::open(&job.sandbox).map_err(sandbox)?;
    let copied = run(job, address, &mut command, hint).and_then(|()| {
        let mut file = root.open_file(Path::new(&name)).map_err(sandbox)?;
        sink.copy(&mut file)
    });
    root.remove(Path::new(&name)).map_err(sandbox)?;
    copied?;
    Ok(Outcome::Complete(Validators::default()))
}

fn run(job: &Job, address: &str, command: &mut Command, hint: &str) -> Result<(), FetchFailure> {
    let program = command.get_program().to_string_lossy().into_owned();
    let scheme = address.split("://").next().unwrap_or(address).to_owned();
    command.env_clear().envs(&job.environment).stdin(Stdio::null()).stderr(Stdio::piped());
    let output = command.spawn().and_then(std::process::Child::wait_with_output);
    let Output { status, stderr, .. } = output.map_err(|source| ProgramError::Start {
        program: program.clone(),
        scheme,
        hint: hint.to_owned(),
        source,
    })?;
    let said = String::from_utf8_lossy(&stderr);
    for line in said.lines() {
        log::info(&format!("{program}: {line}"));
    }
    if !status.success() {
        let last = said.lines().rfind(|line| !line.trim().is_empty()).unwrap_or("it says nothing");
        let (status, said) = (status.to_string(), last.trim().to_owned());
        return Err(ProgramError::Failed { program, status, said }.into());
    }
    Ok(())
}
