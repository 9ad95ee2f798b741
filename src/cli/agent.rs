//! `bulkhead agent inspect` and `bulkhead agent gc --dry-run`: a work directory
//! explained, on the machine that has it. Nothing is changed, and an agent may run
//! on it meanwhile.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use clap::{Args, Subcommand};
use serde_json::Value;

use super::api::Api;
use super::error::CliError;
use super::output::Output;
use crate::checkpoint::{WorkDir, inspect, survey};
use crate::daemon::units::parse_duration;
use crate::gc::{self, Disk, Policy, Schedule};

/// Arguments of `bulkhead agent`.
#[derive(Debug, Args)]
pub struct AgentArgs {
    #[command(subcommand)]
    command: AgentCommand,
}

#[derive(Debug, Subcommand)]
enum AgentCommand {
    /// Explain a work directory, also one of Apache Mesos: what is in it, in which
    /// state, and what is damaged where
    Inspect(InspectArgs),
    /// Show what garbage collection would delete and why
    Gc(GcArgs),
}

/// Arguments of `bulkhead agent inspect`.
#[derive(Debug, Args)]
pub struct InspectArgs {
    /// The agent's --work_dir
    #[arg(long = "work_dir", alias = "work-dir", value_name = "DIR")]
    work_dir: PathBuf,
}

/// Arguments of `bulkhead agent gc`.
#[derive(Debug, Args)]
pub struct GcArgs {
    /// Show it and delete nothing: the only thing this command does
    #[arg(long = "dry-run", alias = "dry_run")]
    dry_run: bool,
    /// Look at this work directory; sandboxes of running tasks without checkpoints
    /// count as garbage then
    #[arg(
        long = "work_dir",
        alias = "work-dir",
        value_name = "DIR",
        required_unless_present = "agent",
        conflicts_with = "agent"
    )]
    work_dir: Option<PathBuf>,
    /// Ask this agent
    #[arg(long, value_name = "HOST:PORT")]
    agent: Option<String>,
    /// The agent's --gc_delay
    #[arg(
        long = "gc_delay",
        alias = "gc-delay",
        default_value = "1weeks",
        conflicts_with = "agent"
    )]
    gc_delay: String,
    /// The agent's --gc_disk_headroom
    #[arg(
        long = "gc_disk_headroom",
        alias = "gc-disk-headroom",
        default_value_t = 0.1,
        conflicts_with = "agent"
    )]
    gc_disk_headroom: f64,
}

/// Runs one of the commands.
pub async fn agent(args: &AgentArgs, output: Output) -> Result<ExitCode, CliError> {
    match &args.command {
        AgentCommand::Inspect(args) => inspected(args, output),
        AgentCommand::Gc(args) => {
            if !args.dry_run {
                return Err(CliError::DryRunOnly);
            }
            let plan = match (&args.agent, &args.work_dir) {
                (Some(agent), _) => Api::new("agent", agent).get("/slave(1)/gc").await?,
                (None, Some(dir)) => planned(args, dir.clone())?,
                (None, None) => return Err(CliError::DryRunOnly),
            };
            output.result(&plan, &gc::text(&plan).join("\n"));
            Ok(ExitCode::SUCCESS)
        }
    }
}

fn open(path: PathBuf) -> Result<WorkDir, CliError> {
    let work = WorkDir::new(&path);
    if work.meta().is_dir() { Ok(work) } else { Err(CliError::NoWorkDir { path }) }
}

/// Exit code 1 if something is damaged.
fn inspected(args: &InspectArgs, output: Output) -> Result<ExitCode, CliError> {
    let work = open(args.work_dir.clone())?;
    let found = inspect::inspect(&work).map_err(CliError::WorkDir)?;
    let unexpected =
        |e: serde_json::Error| CliError::Argument { option: "--json", message: e.to_string() };
    let object = serde_json::to_value(&found).map_err(unexpected)?;
    output.result(&object, &found.text().join("\n"));
    Ok(ExitCode::from(u8::from(!found.problems.is_empty())))
}

fn planned(args: &GcArgs, dir: PathBuf) -> Result<Value, CliError> {
    let delay: Duration = parse_duration(&args.gc_delay)
        .map_err(|e| CliError::Argument { option: "--gc_delay", message: e.to_string() })?;
    if !(0.0..=1.0).contains(&args.gc_disk_headroom) {
        return Err(CliError::Argument {
            option: "--gc_disk_headroom",
            message: format!("{} is not a number from 0.0 to 1.0", args.gc_disk_headroom),
        });
    }
    let work = open(dir)?;
    let space = kernel::machine::space(work.root()).map_err(|source| CliError::Io {
        verb: "measure the file system of",
        path: work.root().to_owned(),
        source,
    })?;
    let mut schedule = Schedule::default();
    for (garbage, item) in survey(&work).map_err(CliError::WorkDir)?.garbage {
        schedule.add(garbage, item);
    }
    let policy = Policy { delay, headroom: args.gc_disk_headroom };
    let disk = Disk { used: space.used(), total: space.total };
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |d| d.as_secs_f64());
    Ok(gc::json(&work, &policy, &disk, &schedule.plan(now, &policy, &disk)))
}
